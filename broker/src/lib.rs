//! The server: network, partitions, groups, the tier's tasks, the command line.
//!
//! Owns the composition of all layers below. The binary `strandline` is [`cli::run`]; a simulation starts whole nodes by
//! [`node::start_in`].

mod admin_http;
mod api;
mod auto_topics;
mod broker;
pub mod cli;
mod clock;
pub mod config;
mod disk_guard;
pub mod environment;
mod fetch_session;
mod flush;
mod group;
mod housekeeping;
mod log_dir;
mod metrics;
mod net;
pub mod node;
mod offsets_log;
mod partition;
mod partitions;
mod peer;
mod producer_ids;
mod reaper;
mod replication;
mod shutdown;
mod tier;
mod topic_configs;
