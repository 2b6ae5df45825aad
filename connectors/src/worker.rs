//! A worker: runs connectors' tasks, shares them with the other workers of its group, and answers the REST API.
//!
//! Owns the parts' beginning and end. `config` is what it is told, `records` and `image` what its group knows, `topics` where that is kept,
//! `group` who runs what (`assign` decides), `runner` what runs here. Does not know how a sink works. A worker keeps nothing on its own
//! disk but tasks' spool files: a crash loses nothing, and its work is taken over by others.

pub mod assign;
pub mod config;
pub mod group;
pub mod image;
pub mod records;
pub mod runner;
pub mod topics;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use strandline_client::Cluster;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use self::config::WorkerConfig;
use self::group::{Group, Identity, View};
use self::runner::Runner;
use self::topics::{StateTopics, TopicsError};
use crate::metrics::WorkerMetrics;
use crate::registry::Registry;
use crate::rest;
use crate::rest::loggers::Loggers;
use crate::task::Clock;

/// Commands of the group that wait for the runner.
const COMMANDS_MAX: usize = 4;
/// How long the cluster may take to be there when a worker starts.
const START_MAX: Duration = Duration::from_secs(60);
const START_PAUSE: Duration = Duration::from_millis(500);
/// How long open REST calls may take when the worker stops.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// What a worker is made of.
pub struct WorkerParts {
    pub config: WorkerConfig,
    pub registry: Registry,
    pub clock: Clock,
    pub loggers: Arc<Loggers>,
    pub metrics: Arc<WorkerMetrics>,
}

/// Why a worker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the REST API cannot listen at {address}: {source}; set listeners to a free port")]
    Bind { address: String, source: std::io::Error },
    #[error("admin.listener: {0} is in use, or is no address of this machine; choose another, or none")]
    Admin(String),
    #[error("the worker's topics: {0}")]
    Topics(#[from] TopicsError),
    #[error("the cluster at {0} cannot be reached: see that bootstrap.servers is right and the brokers run")]
    Cluster(String),
}

/// What the REST API sees of a worker.
pub struct Worker {
    pub identity: Identity,
    pub config: WorkerConfig,
    pub registry: Registry,
    pub topics: Arc<StateTopics>,
    pub view: watch::Receiver<View>,
    pub cluster: Arc<Cluster>,
    pub cluster_id: String,
    pub clock: Clock,
    pub loggers: Arc<Loggers>,
}

/// A running worker.
pub struct WorkerHandle {
    pub worker: Arc<Worker>,
    pub address: SocketAddr,
    stop: watch::Sender<bool>,
    stop_rest: watch::Sender<bool>,
    group: JoinHandle<()>,
    runner: JoinHandle<()>,
    rest: JoinHandle<()>,
    admin: Option<JoinHandle<()>>,
    loggers: JoinHandle<()>,
}

/// Takes the port of the REST API; with `any_port` another one if that is in use. Who connects now waits until the worker has started.
pub async fn listen(address: &str, any_port: bool) -> Result<TcpListener, StartError> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(_) if any_port => {
            let host = address.rsplit_once(':').map_or("127.0.0.1", |(host, _)| host);
            let any = format!("{host}:0");
            TcpListener::bind(&any).await.map_err(|source| StartError::Bind { address: any, source })
        }
        Err(source) => Err(StartError::Bind { address: address.to_owned(), source }),
    }
}

fn identity(config: &WorkerConfig, address: SocketAddr) -> Identity {
    let host = config.advertised_host.clone().unwrap_or_else(|| match address.ip() {
        ip if ip.is_unspecified() => host_name(),
        ip => ip.to_string(),
    });
    let port = config.advertised_port.unwrap_or(address.port());
    Identity { worker_id: format!("{host}:{port}"), url: format!("http://{host}:{port}") }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "127.0.0.1".to_owned() } else { name.to_owned() }
}

/// Returns when `stop` is true, or nobody is left who could make it so.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Waits until the cluster answers, and returns its id.
async fn reach(cluster: &Cluster, bootstrap: &str) -> Result<String, StartError> {
    let end = tokio::time::Instant::now() + START_MAX;
    loop {
        match cluster.metadata(Some(&[]), false).await {
            Ok(metadata) => return Ok(metadata.cluster_id.unwrap_or_default()),
            Err(error) if error.retryable() && tokio::time::Instant::now() < end => {
                tracing::warn!(%error, "waiting for the cluster");
                tokio::time::sleep(START_PAUSE).await;
            }
            Err(error) => return Err(StartError::Cluster(format!("{bootstrap} ({error})"))),
        }
    }
}

/// Starts a worker; it serves when this returns.
pub async fn start(parts: WorkerParts, listener: TcpListener) -> Result<WorkerHandle, StartError> {
    let unbound = |source| StartError::Bind { address: parts.config.listen.clone(), source };
    let address = listener.local_addr().map_err(unbound)?;
    let WorkerParts { config, registry, clock, loggers, metrics } = parts;
    let admin = match &config.admin_listen {
        Some(address) => Some(listen(address, false).await.map_err(|_| StartError::Admin(address.clone()))?),
        None => None,
    };
    let identity = identity(&config, address);
    let cluster = Arc::new(Cluster::new(&config.bootstrap, &config.client_id, config.request_timeout));
    let cluster_id = reach(&cluster, &config.bootstrap).await?;
    // Reads that wait for news have connections of their own.
    let follower = Arc::new(Cluster::new(&config.bootstrap, &config.client_id, config.request_timeout));
    let topics = Arc::new(StateTopics::open(&config, follower, Arc::clone(&cluster), Arc::clone(&clock)).await?);
    let (stop, stopped) = watch::channel(false);
    let (stop_rest, rest_stopped) = watch::channel(false);
    let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
    let (view_in, view) = watch::channel(View::default());
    let (runner, reports) = Runner::new(
        identity.clone(),
        config.clone(),
        registry.clone(),
        Arc::clone(&topics),
        Arc::clone(&clock),
        Arc::clone(&metrics),
    );
    let group = Group {
        identity: identity.clone(),
        config: config.clone(),
        topics: Arc::clone(&topics),
        clock: Arc::clone(&clock),
        runner: commands,
        view: view_in,
    };
    let worker = Arc::new(Worker { identity, config, registry, topics, view, cluster, cluster_id, clock, loggers });
    metrics.belong_to(&worker);
    Ok(WorkerHandle {
        admin: admin.map(|listener| tokio::spawn(rest::metrics::serve(listener, metrics, rest_stopped.clone()))),
        address,
        group: tokio::spawn(group.run(stopped.clone())),
        runner: tokio::spawn(runner.run(inbox, reports, stopped)),
        rest: tokio::spawn(rest::serve(listener, Arc::clone(&worker), rest_stopped)),
        loggers: tokio::spawn(rest::loggers::follow(Arc::clone(&worker))),
        worker,
        stop,
        stop_rest,
    })
}

impl WorkerHandle {
    /// Stops tasks, gives the seat back, ends the REST API, in this order.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        // Both have limits of their own.
        let _ = self.runner.await;
        let _ = self.group.await;
        self.stop_rest.send_replace(true);
        if tokio::time::timeout(DRAIN_MAX, self.rest).await.is_err() {
            tracing::warn!("REST calls were cut off");
        }
        if let Some(admin) = self.admin {
            admin.abort();
        }
        self.loggers.abort();
    }
}
