//! Sinks for topics: the contract, the runtime that delivers to it, the worker that people talk to, and the sinks that come with it.
//!
//! Sees Kafka's protocol and a client, never a broker's inside: a worker runs against any Kafka-compatible cluster. The one way
//! into a sink is [`sink::Sink`]; what is delivered is what a sink says is durable, never what the runtime believes.

pub mod config;
pub mod conformance;
pub mod connector;
pub mod convert;
pub mod delivery;
pub mod metrics;
pub mod plugin;
pub mod providers;
pub mod registry;
pub mod rest;
pub mod rows;
pub mod secrets;
pub mod sink;
pub mod sinks;
pub mod task;
pub mod transform;
pub mod url_policy;
pub mod worker;
