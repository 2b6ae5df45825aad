//! `strandline server`: a node from Kafka's `server.properties`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use super::logging::{self, LogFormat};
use super::{CommandResult, node_runtime};
use crate::config::{FILE_BYTES_MAX, NodeConfig, Properties};
use crate::node::{self, Node};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A `server.properties` file with Kafka's keys, and `tier.url` for the bucket.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Sets one key; wins over the file and over KAFKA_* variables. May be given again.
    #[arg(long = "override", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Id of a new cluster (22 characters of base64url); an existing directory keeps its own.
    #[arg(long, value_name = "ID")]
    cluster_id: Option<String>,
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// Ends when the process that started this one does.
    #[arg(long, hide = true)]
    end_with_parent: bool,
}

pub fn run(args: Args) -> CommandResult {
    if args.end_with_parent {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    }
    write_pid(&args.config)?;
    logging::start(args.log_format, "info,openraft=off,hdfs_native=warn");
    let mut properties = Properties::default();
    let text = read(&args.config)?;
    properties.add_text(&text, &args.config.display().to_string())?;
    properties.add_environment(std::env::vars());
    for pair in &args.overrides {
        properties.add_override(pair)?;
    }
    if let Some(id) = args.cluster_id {
        properties.set("cluster.id", id, "--cluster-id");
    }
    let config = NodeConfig::from_properties(&properties, |name| std::env::var(name).ok())?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    node_runtime()?.block_on(async {
        let tier = config.tier_url.clone();
        let node = node::start(config).await?;
        tracing::info!(
            listeners = ?node.addresses, metrics = ?node.admin, tier = tier.as_deref().unwrap_or("none"),
            "serving"
        );
        until_stopped(node).await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// `strandline.pid` beside the configuration: for those who start and stop nodes by script.
fn write_pid(config: &Path) -> std::io::Result<()> {
    let file = config.parent().unwrap_or(Path::new("")).join("strandline.pid");
    let mut out = std::fs::File::create(file)?;
    std::io::Write::write_all(&mut out, format!("{}\n", std::process::id()).as_bytes())
}

pub(super) fn read(path: &Path) -> Result<String, Box<dyn std::error::Error>> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    if std::fs::metadata(path).map_err(failed)?.len() > FILE_BYTES_MAX {
        return Err(
            format!("{} is larger than {FILE_BYTES_MAX} bytes: not a server.properties file", path.display()).into()
        );
    }
    Ok(std::fs::read_to_string(path).map_err(failed)?)
}

/// Serves until SIGTERM or SIGINT, then stops in order. A second signal ends the process at once.
async fn until_stopped(node: Node) -> std::io::Result<()> {
    let lost = until_told(&node).await?;
    stop(node, lost).await
}

/// Waits for SIGTERM, SIGINT, or the loss of all storage: true.
pub(super) async fn until_told(node: &Node) -> std::io::Result<bool> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => false,
        _ = interrupt.recv() => false,
        () = node.storage_lost() => true,
    })
}

/// Stops in order; a signal ends that at once. Err if the node has `lost` its storage.
pub(super) async fn stop(node: Node, lost: bool) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tracing::info!("stopping: connections are drained, logs are closed");
    tokio::select! {
        () = node.stop() => tracing::info!("stopped"),
        _ = terminate.recv() => tracing::warn!("stopped at once: the next start recovers the logs"),
        _ = interrupt.recv() => tracing::warn!("stopped at once: the next start recovers the logs"),
    }
    if lost {
        return Err(std::io::Error::other(
            "the node has lost its storage, see its log: repair the disk, then start it again",
        ));
    }
    Ok(())
}
