//! The cluster's metadata: decide -> record -> commit -> replay.
//!
//! Owns the metadata log (an openraft group, below `raft`), the image it replays into and every decision about it. Does
//! not own sockets, topics' data, or what the settings mean. Every topic, setting, registration, leader epoch and
//! remote-log pointer is a [`record::MetadataRecord`] in that log, and nothing else is.

mod balancer;
#[cfg(test)]
mod cluster_tests;
pub mod decide;
mod detector;
pub mod encoding;
mod handle;
pub mod image;
mod joining;
mod membership;
pub mod raft;
pub mod record;
#[cfg(test)]
mod record_tests;
pub mod request;
pub mod service;
#[cfg(test)]
mod service_tests;
mod wire;

pub use balancer::LeaderBalance;
pub use handle::{ControllerHandle, QuorumView, ReplicaView};
pub use joining::Formation;
pub use raft::network::{Probe, RaftTransport, ServeError};
pub use raft::state_machine::ImageUpdate;
pub use raft::types::NodeId;
pub use service::{ControllerError, ControllerOptions, StartError, start};
