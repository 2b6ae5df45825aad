//! A lean Kafka client: connections, routing to leaders, produce, fetch, groups.
//!
//! Owns connections to brokers and what the cluster's metadata says of them. Does not own records' meaning nor
//! threads; every call has a deadline. Works against any broker that speaks Kafka's protocol.
//! Invariants: a request goes out once; whether one that was not answered was carried out is unknown, and said so.

mod cluster;
mod connection;
mod fetcher;
pub mod group;
pub mod network;
mod producer;
mod reader;

pub use cluster::{Cluster, Leader};
pub use connection::{CallError, Connection};
pub use fetcher::{FetchOptions, FetchedPartition, Fetcher};
pub use producer::{ProduceError, Producer, ProducerOptions};
pub use reader::{Fetched, PartitionReader, ReadError};
