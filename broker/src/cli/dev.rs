//! `strandline dev`: one node in one process, no configuration, a directory as its bucket.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use strandline_connectors::metrics::WorkerMetrics;

use super::logging::{self, LogFormat};
use super::server::{stop, until_told};
use super::{CommandResult, node_runtime, worker};
use crate::admin_http;
use crate::config::{NodeConfig, Properties};
use crate::node::{self, Node, NodeError};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where everything is kept; made if it is not there, reopened if it is.
    #[arg(long, value_name = "DIR", default_value = "strandline-data")]
    data_dir: PathBuf,
    /// Port of the Kafka protocol on this machine's loopback address.
    #[arg(long, default_value_t = 9092)]
    port: u16,
    /// Takes a free port if the port is in use.
    #[arg(long)]
    any_port: bool,
    /// Port of Kafka Connect's REST API; without this, 8083 if it is free. 0 = a free one.
    #[arg(long)]
    connect_port: Option<u16>,
    /// Runs no connectors.
    #[arg(long, conflicts_with = "connect_port")]
    no_connect: bool,
    /// Directories with plugins for connectors, separated by commas (docs/PLUGINS.md).
    #[arg(long, value_name = "DIRS", default_value = "", hide_default_value = true)]
    plugin_path: String,
    /// Nodes of the cluster; more than one run as processes of their own, at the ports from --port on.
    #[arg(long, default_value_t = 1)]
    nodes: u16,
    /// Sets one `server.properties` key. May be given again.
    #[arg(long = "override", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

pub fn run(args: Args) -> CommandResult {
    logging::start(LogFormat::Text, "warn,strandline=warn,openraft=off");
    if args.nodes != 1 {
        return super::nodes::run(&args.data_dir, args.port, args.nodes, &args.overrides);
    }
    node_runtime()?.block_on(async {
        let node = start(&args.data_dir, args.port, args.any_port, &args.overrides).await?;
        let listener =
            if args.no_connect { None } else { worker::dev_listener(args.connect_port, args.any_port).await? };
        let connect = listener.as_ref().and_then(|l| l.local_addr().ok());
        print_banner(&node, &args.data_dir, connect);
        let bootstrap = node.addresses.first().map_or_else(String::new, ToString::to_string);
        let start = |l| {
            let metrics = std::sync::Arc::default();
            node.broker.metrics.add_page(Box::new({
                let metrics = std::sync::Arc::clone(&metrics);
                move || WorkerMetrics::page(&metrics)
            }));
            worker::DevWorker::start(l, &bootstrap, &args.data_dir, &args.plugin_path, metrics)
        };
        let worker = listener.map(start).transpose()?;
        let lost = until_told(&node).await?;
        if let Some(worker) = worker {
            worker.stop().await;
        }
        stop(node, lost).await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Starts a development node. With `any_port` a taken port is replaced by a free one.
pub(super) async fn start(
    data_dir: &Path,
    port: u16,
    any_port: bool,
    overrides: &[String],
) -> Result<Node, Box<dyn std::error::Error>> {
    let data_dir = std::path::absolute(data_dir)?;
    let mut config = config(&data_dir, port, overrides)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if any_port && port != 0 && std::net::TcpListener::bind(("127.0.0.1", port)).is_err() {
        config = self::config(&data_dir, 0, overrides)?;
    }
    match node::start(config).await {
        Err(NodeError::Bind(error)) => Err(error.to_string().into()),
        other => Ok(other?),
    }
}

fn config(data_dir: &Path, port: u16, overrides: &[String]) -> Result<NodeConfig, Box<dyn std::error::Error>> {
    let mut properties = Properties::default();
    let bucket = format!("file://{}", data_dir.join("bucket").display());
    let logs = data_dir.join("logs").display().to_string();
    for (key, value) in [
        ("listeners", format!("PLAINTEXT://127.0.0.1:{port}")),
        ("advertised.listeners", format!("PLAINTEXT://127.0.0.1:{port}")),
        ("log.dirs", logs),
        ("tier.url", bucket),
        ("remote.log.storage.system.enable", "true".to_owned()),
        ("log.retention.check.interval.ms", "1000".to_owned()),
        ("remote.log.manager.task.interval.ms", "1000".to_owned()),
        ("log.initial.task.delay.ms", "0".to_owned()),
        ("group.initial.rebalance.delay.ms", "0".to_owned()),
    ] {
        properties.set(key, value, "strandline dev");
    }
    for pair in overrides {
        properties.add_override(pair)?;
    }
    let mut config = NodeConfig::from_properties(&properties, |name| std::env::var(name).ok())?;
    config.admin_any_port = true;
    Ok(config)
}

fn print_banner(node: &Node, data_dir: &Path, connect: Option<std::net::SocketAddr>) {
    let address = node.addresses.first().map_or_else(String::new, ToString::to_string);
    let metrics = node.admin.map_or_else(|| "none".to_owned(), admin_http::url);
    let bucket = node.broker.tier.as_ref().map_or("none", |tier| tier.store.name());
    println!("strandline {} is serving Kafka clients at {address}", env!("CARGO_PKG_VERSION"));
    println!("  data     {}", data_dir.display());
    println!("  bucket   {bucket}");
    println!("  metrics  {metrics}");
    match connect {
        Some(connect) => println!("  connect  http://{connect}"),
        None => {
            println!("  connect  none: port 8083 is in use, or --no-connect was given; --connect-port takes another")
        }
    }
    println!("  try      echo hello | kcat -b {address} -P -t greetings && kcat -b {address} -C -t greetings -e");
}
