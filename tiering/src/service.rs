//! The door to the controller: how a pointer is read and moved.
//!
//! Owns: the trait. The broker implements it over its controller; the tier sees no controller and no socket.

use async_trait::async_trait;
use strandline_protocol::ids::{BrokerEpoch, BrokerId, LeaderEpoch, TopicPartition};
use strandline_protocol::remote_pointer::{Advance, AdvanceOutcome, RemotePointer};
use thiserror::Error;

/// Nobody answered. The proposal may have been applied, may be applied later, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the controller did not answer; what it did is not known")]
pub struct Unknown;

#[async_trait]
pub trait PointerService: Send + Sync {
    /// Proposes; the answer is what replay did, and the pointer that it left.
    async fn advance(&self, advance: Advance) -> Result<AdvanceOutcome, Unknown>;

    /// From the applied image.
    fn pointer(&self, tp: TopicPartition) -> Option<RemotePointer>;

    /// From an image that has everything that was committed when this was called.
    async fn linearizable_pointer(&self, tp: TopicPartition) -> Result<Option<RemotePointer>, Unknown>;
}

/// The right to move a partition's pointer, as this broker believes to have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leader {
    pub broker_id: BrokerId,
    pub broker_epoch: BrokerEpoch,
    pub leader_epoch: LeaderEpoch,
}
