//! Every message in every version: against the crate `kafka-protocol`, against Kafka's own codec, and malformed.

mod cases;
mod java;
mod kafka_protocol_crate;
mod malformed;
mod random;
mod samples;
