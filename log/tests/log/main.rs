//! The log through its public door, on a disk in memory.

mod behaviour;
mod compaction;
mod crashes;
mod damage;
mod harness;
