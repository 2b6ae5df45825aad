//! The server: network, partitions, groups, the tier's tasks, the command line.
//!
//! Owns the composition of all layers below. The binary `strandline` is [`cli::run`]; a simulation starts whole nodes by
//! [`node::start_in`], or drives the parts that need neither a socket nor a runtime: partitions and their roles, replication's
//! rules, the tier's rounds.

mod admin_http;
mod api;
mod auto_topics;
mod broker;
pub mod cli;
mod clock;
pub mod config;
mod disk_guard;
pub mod environment;
pub mod fetch_session;
pub mod flush;
mod group;
mod housekeeping;
pub mod log_dir;
mod metrics;
mod net;
pub mod node;
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
