//! The log through its public door, on a disk in memory.

#![allow(clippy::unwrap_used, reason = "helpers of tests unwrap as tests do")]

mod behaviour;
mod compaction;
mod crashes;
mod damage;
mod harness;
mod producers;
