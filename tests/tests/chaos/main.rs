//! Three nodes in namespaces of their own, clients that write and read all the while, and random faults (`docs/CHECKER.md`).
//!
//! Needs root. `STRANDLINE_CHAOS_FAULTS` = how many faults (the long form is 100), `STRANDLINE_CHAOS_SEED` = which ones,
//! `STRANDLINE_CHAOS_TIERED` = `false` for a cluster without a tier. `STRANDLINE_TEST_TARGET=kafka` runs Apache Kafka instead.

mod cluster;
mod consumer;
mod faults;
mod foreign;
mod link;
mod member;
mod producer;
mod runs;
mod scenario;
mod store;
mod workload;
