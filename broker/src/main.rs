//! `strandline`: a node, and the tools to use one.
//!
//! Parses the command line and hands over; see `cli` for the commands and `node` for what a node is.

mod admin_http;
mod api;
mod auto_topics;
mod broker;
mod cli;
mod clock;
mod config;
mod disk_guard;
mod fetch_session;
mod flush;
mod group;
mod housekeeping;
mod log_dir;
mod metrics;
mod net;
mod node;
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

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    cli::run(cli::Cli::parse())
}
