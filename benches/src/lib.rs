//! The comparison with Apache Kafka, and the loops that bound what any broker could do on the machine.
//!
//! Owns the rows (what is measured, how, by which load) and their report. Starts servers through the suites' harness. A row
//! measures one broker at a time, ends with a check that the records are there and whole, and is bounded in time. A crash leaves
//! nothing but a directory under `tests/.cache/run`; a result is one line, written last.

pub mod blast;
pub mod cluster;
pub mod limits;
pub mod meter;
pub mod report;
pub mod rows;
