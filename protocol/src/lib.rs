//! Kafka's wire protocol: messages, record batches, ids, error codes.
//!
//! Owns bytes and their meaning. Does no I/O, reads no clock, waits for nothing.

pub mod api;
pub mod codec;
pub mod compression;
pub mod error_code;
pub mod frame;
pub mod ids;
pub mod messages;
pub mod record_batch;
pub mod remote_pointer;
pub mod rope;
