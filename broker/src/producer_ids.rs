//! Producer ids for InitProducerId, from blocks that the controller gives out.
//!
//! Invariant: an id is handed out once, by one broker; a crash wastes the rest of a block.

use std::sync::Arc;

use strandline_controller::request::{Refused, Request, Response};
use strandline_protocol::error_code::ErrorCode;
use tokio::sync::Mutex;

use crate::broker::Broker;

/// The block in use.
#[derive(Debug, Default)]
pub struct ProducerIds {
    /// Next id and how many are left.
    block: Mutex<(i64, i32)>,
}

impl ProducerIds {
    /// An id that nobody else has.
    pub async fn next(&self, broker: &Arc<Broker>) -> Result<i64, Refused> {
        let mut block = self.block.lock().await;
        if block.1 == 0 {
            let (broker_id, broker_epoch) = (broker.config.node_id, broker.epoch());
            *block = match broker.ask(Request::AllocateProducerIds { broker_id, broker_epoch }).await? {
                Response::AllocateProducerIds(allocated) => allocated?,
                _ => return Err(Refused::new(ErrorCode::UnknownServerError, "unexpected answer")),
            };
        }
        let id = block.0;
        *block = (id + 1, block.1 - 1);
        Ok(id)
    }
}
