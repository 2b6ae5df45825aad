//! The command line: one file per command.
//!
//! Owns arguments, exit codes, what is printed. Errors go to standard error with what to do next; results to standard
//! output, as JSON where `--json` says so.

mod bootstrap;
mod cluster;
mod cluster_moves;
mod cluster_plan;
mod cluster_throttle;
mod connector;
mod connector_view;
mod consume;
mod demo;
mod dev;
mod dlq;
mod group;
mod logging;
mod nodes;
mod plugin_host;
mod produce;
mod server;
mod tier_check;
mod tier_map;
mod topic;
mod worker;

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
    /// A worker that runs connectors, from Kafka Connect's `connect-distributed.properties`.
    Connect(worker::Args),
    /// Connectors: makes, shows, changes, pauses, restarts and deletes them.
    Connector(connector::Args),
    /// The process of one plugin. Workers start it.
    #[command(hide = true)]
    PluginHost(plugin_host::Args),
}

/// A command's failure, as it is printed: what went wrong and what to do next.
type CommandResult = Result<ExitCode, Box<dyn std::error::Error>>;

/// Runs a command to its end. Who reads its output may stop reading: then there is nobody to tell anything, and the command
/// ends without a word.
pub fn run(cli: Cli) -> ExitCode {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !is_closed_output(info.payload()) {
            told(info);
        }
    }));
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| carry_out(cli))) {
        Ok(code) => code,
        Err(payload) if is_closed_output(&*payload) => ExitCode::SUCCESS,
        Err(payload) => std::panic::resume_unwind(payload),
    }
}

/// Whether a panic is `println!`'s, about a pipe that nobody reads.
fn is_closed_output(payload: &(dyn std::any::Any + Send)) -> bool {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.is_some_and(|text| text.starts_with("failed printing to stdout") && text.contains("Broken pipe"))
}

fn carry_out(cli: Cli) -> ExitCode {
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
        Command::Connect(args) => worker::run(args),
        Command::Connector(args) => connector::run(args),
        Command::PluginHost(args) => plugin_host::run(args),
    };
    let closed = |error: &(dyn std::error::Error + 'static)| {
        error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    };
    outcome.unwrap_or_else(|error| {
        if closed(&*error) {
            return ExitCode::SUCCESS;
        }
        eprintln!("strandline: {error}");
        ExitCode::FAILURE
    })
}

/// The runtime of a node: as many workers as cores.
fn node_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}
