//! A lean Kafka client: connections, routing to leaders, produce, fetch.
//!
//! Owns connections to brokers and what the cluster's metadata says of them. Does not own groups of records' meaning nor
//! threads; every call has a deadline. Works against any broker that speaks Kafka's protocol.
//! Invariants: a request goes out once; whether one that was not answered was carried out is unknown, and said so.

mod cluster;
mod connection;
pub mod network;
mod producer;
mod reader;

pub use cluster::{Cluster, Leader};
pub use connection::{CallError, Connection};
pub use producer::{ProduceError, Producer, ProducerOptions};
pub use reader::{Fetched, PartitionReader, ReadError};
