//! The Raft group that keeps the metadata log. openraft appears only below this module.

pub mod log_file;
pub mod log_store;
pub mod network;
pub mod runtime;
pub mod state_machine;
#[cfg(test)]
mod suite;
pub mod types;
