//! The command line: one file per command.
//!
//! Owns arguments, exit codes, what is printed. Errors go to standard error with what to do next; results to standard
//! output, as JSON where `--json` says so.

mod cluster;
mod cluster_moves;
mod cluster_plan;
mod cluster_throttle;
mod connect;
mod consume;
mod demo;
mod dev;
mod group;
mod logging;
mod nodes;
mod produce;
mod server;
mod tier_check;
mod tier_map;
mod topic;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A Kafka-compatible broker that keeps hot segments on local disk and the rest in a bucket.
#[derive(Debug, Parser)]
#[command(name = "strandline", version, about, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One node in one process, or a small cluster, without any configuration.
    Dev(dev::Args),
    /// A node, from a `server.properties` file.
    Server(server::Args),
    /// Shows the main job on real data.
    Demo(demo::Args),
    /// Makes, lists, describes, changes and deletes topics; draws their tiers.
    Topic(topic::Args),
    /// Writes lines of standard input to a topic.
    Produce(produce::Args),
    /// Prints a topic's records, wherever they are stored.
    Consume(consume::Args),
    /// Consumer groups: members, offsets, lag.
    Group(group::Args),
    /// The cluster: its nodes, moves of replicas, its controllers.
    Cluster(cluster::Args),
    /// The bucket.
    Tier(tier_check::Args),
}

/// A command's failure, as it is printed: what went wrong and what to do next.
type CommandResult = Result<ExitCode, Box<dyn std::error::Error>>;

/// Runs a command to its end.
pub fn run(cli: Cli) -> ExitCode {
    let outcome = match cli.command {
        Command::Dev(args) => dev::run(args),
        Command::Server(args) => server::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Topic(args) => topic::run(args),
        Command::Produce(args) => produce::run(args),
        Command::Consume(args) => consume::run(args),
        Command::Group(args) => group::run(args),
        Command::Cluster(args) => cluster::run(args),
        Command::Tier(args) => tier_check::run(args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("strandline: {error}");
        ExitCode::FAILURE
    })
}

/// The runtime of a node: as many workers as cores.
fn node_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}
