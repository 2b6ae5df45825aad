//! The cluster's metadata: decide -> record -> commit -> replay.
//!
//! Owns the metadata log (an openraft group, below `raft`), the image it replays into and every decision about it. Does
//! not own sockets, topics' data, or what the settings mean. Every topic, setting, registration, leader epoch and
//! remote-log pointer is a [`record::MetadataRecord`] in that log, and nothing else is.

pub mod decide;
pub mod encoding;
pub mod image;
pub mod raft;
pub mod record;
#[cfg(test)]
mod record_tests;
pub mod request;
pub mod service;
#[cfg(test)]
mod service_tests;

pub use raft::network::{RaftTransport, ServeError};
pub use raft::state_machine::ImageUpdate;
pub use raft::types::NodeId;
pub use service::{ControllerError, ControllerHandle, ControllerOptions, StartError, start};
