//! Unmodified clients and tools of Kafka against a running broker, over local and over tiered topics.
//!
//! Each test runs twice: on a node without a tier, and on one whose topics give their local segments away at once, so that the client
//! reads the tier without knowing it. `STRANDLINE_TEST_TARGET=kafka` runs all of it against Apache Kafka: a test that fails there is wrong.

mod admin;
mod groups;
mod logs;
mod target;
mod verifiable;
mod zoo;
