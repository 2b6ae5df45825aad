//! The pointer service over this node's controller.
//!
//! Proposals of all partitions meet in the controller's queue, which decides those that wait together in one Raft entry.

use async_trait::async_trait;
use strandline_controller::ControllerHandle;
use strandline_controller::request::{Request, Response};
use strandline_protocol::ids::TopicPartition;
use strandline_protocol::remote_pointer::{Advance, AdvanceOutcome, RemotePointer};
use strandline_tiering::{PointerService, Unknown};

pub(super) struct Pointers {
    pub(super) controller: ControllerHandle,
}

#[async_trait]
impl PointerService for Pointers {
    async fn advance(&self, advance: Advance) -> Result<AdvanceOutcome, Unknown> {
        match self.controller.request(Request::Advance { advances: vec![advance] }).await {
            Ok(Response::Advance(outcomes)) => outcomes.into_iter().next().ok_or(Unknown),
            Ok(_) => Err(Unknown),
            Err(error) => {
                tracing::debug!(%error, "an advance was not answered");
                Err(Unknown)
            }
        }
    }

    fn pointer(&self, tp: TopicPartition) -> Option<RemotePointer> {
        self.controller.image().partitions.get(&tp).map(|p| p.pointer)
    }

    async fn linearizable_pointer(&self, tp: TopicPartition) -> Result<Option<RemotePointer>, Unknown> {
        let image = self.controller.linearizable_image().await.map_err(|_| Unknown)?;
        Ok(image.partitions.get(&tp).map(|p| p.pointer))
    }
}
