//! One partition on local disk: Kafka's files, byte for byte.
//!
//! Owns segments, indexes, producer state, leader epochs and checkpoints of a log directory. Synchronous, with a single
//! writer per partition. Does not own: when to flush or free (the caller says), remote objects, who leads.

pub mod checkpoint;
pub mod config;
pub mod error;
pub mod file_cache;
pub mod leader_epochs;
pub mod producer_state;
