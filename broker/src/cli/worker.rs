//! `strandline connect`: a worker from Kafka Connect's `connect-distributed.properties`; and the one inside `strandline dev`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use strandline_connectors::config::Settings;
use strandline_connectors::metrics::WorkerMetrics;
use strandline_connectors::plugin::{Launcher, discover};
use strandline_connectors::rest::loggers::Loggers;
use strandline_connectors::sinks;
use strandline_connectors::worker::config::{WorkerConfig, warnings};
use strandline_connectors::worker::{self, WorkerHandle, WorkerParts};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::logging::{self, LogFormat, SetLevels};
use super::{CommandResult, node_runtime, server};
use crate::clock;
use crate::config::Properties;

/// Kafka Connect's port.
const PORT: u16 = 8083;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A `connect-distributed.properties` file with Kafka Connect's keys.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Sets one key; wins over the file. May be given again.
    #[arg(long = "override", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

pub fn run(args: Args) -> CommandResult {
    let set_levels = logging::start_changeable(args.log_format, "info,hdfs_native=warn");
    let mut properties = Properties::default();
    properties.add_text(&server::read(&args.config)?, &args.config.display().to_string())?;
    for pair in &args.overrides {
        properties.add_override(pair)?;
    }
    let settings: Settings = properties.settings.into_iter().map(|(key, setting)| (key, setting.value)).collect();
    for warning in warnings(&settings) {
        tracing::warn!("{warning}");
    }
    let config = WorkerConfig::from_settings(&settings)?;
    node_runtime()?.block_on(async {
        let listener = worker::listen(&config.listen, false).await?;
        let handle = worker::start(parts(config, set_levels, Arc::default()), listener).await?;
        tracing::info!(rest = %handle.address, worker = handle.worker.identity.worker_id, "serving");
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: tasks commit what is durable, work is given back");
        tokio::select! {
            () = handle.stop() => tracing::info!("stopped"),
            _ = terminate.recv() => tracing::warn!("stopped at once: others take the work over after the session timeout"),
            _ = interrupt.recv() => tracing::warn!("stopped at once: others take the work over after the session timeout"),
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn parts(config: WorkerConfig, set_levels: SetLevels, metrics: Arc<WorkerMetrics>) -> WorkerParts {
    let mut registry = sinks::built_in();
    let launcher = Launcher { isolation: config.plugin_isolation, ..Launcher::this() };
    for warning in discover::add_all(&mut registry, &config.plugin_path, &launcher) {
        tracing::warn!("{warning}");
    }
    WorkerParts {
        config,
        registry,
        clock: Arc::new(clock::now_ms),
        loggers: Arc::new(Loggers::new("INFO", set_levels)),
        metrics,
    }
}

/// The port of a development worker; None = the usual one is in use, and nobody asked for another.
pub async fn dev_listener(
    port: Option<u16>,
    any_port: bool,
) -> Result<Option<TcpListener>, Box<dyn std::error::Error>> {
    let address = SocketAddr::from(([127, 0, 0, 1], port.unwrap_or(PORT))).to_string();
    match worker::listen(&address, any_port).await {
        Ok(listener) => Ok(Some(listener)),
        Err(_) if port.is_none() => Ok(None),
        Err(error) => Err(format!("{error}, or choose another --connect-port").into()),
    }
}

/// A worker beside a development node. It starts by itself: who connects to its port meanwhile waits.
pub struct DevWorker(tokio::task::JoinHandle<Option<WorkerHandle>>);

impl DevWorker {
    pub fn start(
        listener: TcpListener,
        bootstrap: &str,
        data_dir: &Path,
        plugin_path: &str,
        metrics: Arc<WorkerMetrics>,
    ) -> Result<DevWorker, Box<dyn std::error::Error>> {
        let spool = std::path::absolute(data_dir)?.join("connect");
        let settings: Settings = [
            ("bootstrap.servers", bootstrap),
            ("group.id", "connect-dev"),
            ("config.storage.topic", "connect-configs"),
            ("offset.storage.topic", "connect-offsets"),
            ("status.storage.topic", "connect-status"),
            ("config.storage.replication.factor", "1"),
            ("offset.storage.replication.factor", "1"),
            ("status.storage.replication.factor", "1"),
            ("offset.storage.partitions", "1"),
            ("status.storage.partitions", "1"),
            ("offset.flush.interval.ms", "5000"),
            ("scheduled.rebalance.max.delay.ms", "0"),
        ]
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .chain([("spool.dir".to_owned(), spool.display().to_string())])
        .chain([("plugin.path".to_owned(), plugin_path.to_owned())])
        .collect();
        let config = WorkerConfig::from_settings(&settings)?;
        let parts = parts(config, Box::new(|_| {}), metrics);
        Ok(DevWorker(tokio::spawn(async {
            match worker::start(parts, listener).await {
                Ok(handle) => Some(handle),
                Err(error) => {
                    tracing::error!(%error, "connectors are not run");
                    None
                }
            }
        })))
    }

    /// Stops it in order; one that has not started yet is left behind.
    pub async fn stop(self) {
        if self.0.is_finished() {
            if let Ok(Some(handle)) = self.0.await {
                handle.stop().await;
            }
        } else {
            self.0.abort();
        }
    }
}
