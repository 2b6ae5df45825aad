//! The server: what `strandline` runs, as a library, so that the layer above can drive its parts without a process.
//!
//! Owns nothing of its own; see `cli` for the commands and `node` for what a node is. Open to the layer above are the parts
//! that need neither a socket nor a runtime: partitions and their roles, replication's rules, the tier's rounds.

mod admin_http;
mod api;
mod auto_topics;
mod broker;
pub mod cli;
mod clock;
pub mod config;
mod disk_guard;
mod fetch_session;
pub mod flush;
mod group;
mod housekeeping;
pub mod log_dir;
mod metrics;
mod net;
mod node;
mod offsets_log;
pub mod partition;
pub mod partitions;
mod peer;
mod producer_ids;
pub mod reaper;
pub mod replication;
mod shutdown;
pub mod tier;
mod topic_configs;
