//! Starting and stopping a node, in the order that keeps its promises.
//!
//! Start: lock the directories -> controller and its listener -> the cluster has an active controller -> register (a new
//! epoch: what an old process sent late is refused) -> open every partition of the image -> follow the image -> heartbeats
//! until unfenced -> open the client ports. Stop: hand leaderships over, close the ports, answer what was accepted, flush
//! and close every log, mark it clean.
//! The controller, its listener and the heartbeats have a thread of their own, so that a busy node is not taken for dead.
//! A crash at any point is a crash of the parts; see their modules.

mod following;
mod joining;
mod registration;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use strandline_controller::decide::Defaults;
use strandline_controller::request::{CreatedTopic, NewTopic, Refused, Request, Response};
use strandline_controller::{ControllerHandle, ControllerOptions};
use strandline_disk::{Disk, Workers};
use strandline_log::file_cache::FileCache;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::uuid_to_base64;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

use self::following::{Roles, follow_image};
use self::registration::{is_transient, register_first, start_heartbeats, until_registered, until_unfenced};
use crate::api::Api;
use crate::broker::Broker;
use crate::config::{Listener, NodeConfig};
use crate::environment::{Environment, block_in_place};
use crate::group::{GroupCoordinator, GroupSettings};
use crate::log_dir::{LockedDir, LogDirError, LogDirectory, Meta};
use crate::net::{BindError, Limits, ListenerTask, ReservedPort, bind, bind_in, reserve};
use crate::offsets_log::LocalOffsets;
use crate::partitions::Partitions;
use crate::peer::{ControllerListener, Peers};
use crate::replication::losses::Losses;
use crate::replication::{isr, losses};
use crate::shutdown::stopped;
use crate::tier::{Tier, TierError, TierTasks, TopicDeletion};
use crate::{admin_http, auto_topics, clock, housekeeping};

/// The topic of Kafka's controllers, in the log directory of a combined node.
const KAFKA_METADATA: &str = "__cluster_metadata";
/// Directory of the controller's log, below `metadata.log.dir`.
const CONTROLLER_DIR: &str = "strandline-controller";
/// Directory of chunk files, below the first of `log.dirs`, unless `tier.cache.dir` says otherwise.
const CACHE_DIR: &str = "strandline-tier-cache";
/// Connections to a controller listener, at most.
const CONTROLLER_CONNECTIONS_MAX: usize = 10_000;
/// Between heartbeats of a broker that is fenced or wants to stop.
const BEAT_SOON: Duration = Duration::from_millis(20);
/// Between looks whether the metadata log still works, while a node starts.
const LOST_LOOK: Duration = Duration::from_secs(1);
/// A stopping node waits so long for others to take over.
const HAND_OVER_MAX: Duration = Duration::from_secs(5);
const HAND_OVER_LOOK: Duration = Duration::from_millis(10);
/// A stopping node whose heartbeats are not answered for so long waits no more.
const UNHEARD_MAX: Duration = Duration::from_secs(1);
/// The broker epoch of a node that is no broker.
const NO_EPOCH: i64 = -1;
/// Tasks get this long to end after the ports are closed.
const STOP_TASKS: Duration = Duration::from_secs(3);

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    LogDir(#[from] LogDirError),
    #[error(transparent)]
    Controller(#[from] strandline_controller::StartError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Tier(#[from] TierError),
    #[error("{what}: {source}")]
    Io { what: &'static str, source: io::Error },
    #[error("the controller refused: {0}")]
    Refused(#[from] Refused),
    #[error("the metadata log has failed while the node started: {0}")]
    MetadataLost(String),
    #[error("the log directories belong to different clusters ({0} and {1}); use directories of one cluster")]
    MixedClusters(String, String),
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> NodeError {
    move |source| NodeError::Io { what, source }
}

/// A node that serves.
pub struct Node {
    pub broker: Arc<Broker>,
    /// Of the client listeners, in the order of `listeners`.
    pub addresses: Vec<SocketAddr>,
    pub admin: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    stopping: Arc<AtomicBool>,
    running: Running,
    controller_listeners: JoinSet<()>,
    control: Option<Control>,
}

/// What a broker runs besides its controller.
struct Running {
    listeners: JoinSet<()>,
    tasks: JoinSet<()>,
    housekeeping: Option<(std::sync::mpsc::Sender<()>, std::thread::JoinHandle<()>)>,
    /// Whether the broker is unfenced, and whether it may stop, as of the last heartbeat that was answered.
    heard: Option<watch::Receiver<(bool, bool)>>,
}

/// A runtime for the controller, its listener and the heartbeats, with a thread of its own; or the node's.
struct Control {
    runtime: tokio::runtime::Handle,
    end: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Control {
    fn start(workers: &Workers) -> Result<Control, NodeError> {
        if !workers.are_threads() {
            let runtime = tokio::runtime::Handle::current();
            return Ok(Control { runtime, end: watch::Sender::new(false), thread: None });
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(io_error("the controller's runtime"))?;
        let (handle, end) = (runtime.handle().clone(), watch::Sender::new(false));
        let mut ended = end.subscribe();
        let thread = std::thread::Builder::new()
            .name("controller".to_owned())
            .spawn(move || runtime.block_on(stopped(&mut ended)))
            .map_err(io_error("the controller's thread"))?;
        Ok(Control { runtime: handle, end, thread: Some(thread) })
    }

    fn stop(self) {
        self.end.send_replace(true);
        if self.thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the controller's thread panicked");
        }
    }
}

/// Starts a node on this machine. When this returns, clients are served.
pub async fn start(config: NodeConfig) -> Result<Node, NodeError> {
    start_in(config, Environment::default()).await
}

/// Starts a node in any environment.
pub async fn start_in(mut config: NodeConfig, environment: Environment) -> Result<Node, NodeError> {
    if !config.roles.broker {
        // It hosts nothing: its one directory is that of the metadata.
        config.log_dirs = vec![config.metadata_dir.clone()];
        config.remote_storage = false;
    }
    let locked = lock_dirs(&config, &environment.disk)?;
    // The ports are taken first, so that a busy one is told before anything is changed, and opened last.
    let listeners = reserve_all(&environment, &config.listeners)?;
    let addresses: Vec<SocketAddr> =
        listeners.iter().map(|(_, l)| l.local_addr()).collect::<io::Result<_>>().map_err(io_error("client port"))?;
    advertise_bound_ports(&mut config, &addresses);
    let admin = bind_admin(&config)?;
    let stop = watch::Sender::new(false);
    let control = Control::start(&environment.workers)?;
    let (controller, controller_listeners) = start_controller(&config, &environment, &control, &stop).await?;
    let lost = metadata_lost(controller.clone());
    let started = start_with(config, environment, locked, (controller, control), stop, (listeners, addresses, admin));
    let mut node = tokio::select! {
        started = started => started?,
        error = lost => return Err(error),
    };
    node.controller_listeners = controller_listeners;
    Ok(node)
}

/// What waits for this node's controller would wait for ever.
async fn metadata_lost(controller: ControllerHandle) -> NodeError {
    loop {
        tokio::time::sleep(LOST_LOOK).await;
        if let Some(reason) = controller.fatal() {
            return NodeError::MetadataLost(reason);
        }
    }
}

/// The ports of a node, reserved: for clients, with their addresses, and for operators.
type Ports = (Vec<(Arc<str>, ReservedPort)>, Vec<SocketAddr>, Option<TcpListener>);

/// The start from where the controller runs.
async fn start_with(
    config: NodeConfig,
    environment: Environment,
    locked: Vec<LockedDir>,
    (controller, control): (ControllerHandle, Control),
    stop: watch::Sender<bool>,
    (listeners, addresses, admin): Ports,
) -> Result<Node, NodeError> {
    let known = cluster_of(&locked)?.or_else(|| config.cluster_id.clone());
    let (epoch, cluster_id) = if config.roles.broker {
        let clean = locked.iter().all(LockedDir::was_closed);
        register_first(&config, &controller, known, clean).await?
    } else {
        (NO_EPOCH, joining::name_cluster(&controller, known).await?)
    };
    let (meta, dirs) = open_dirs(&config, locked, cluster_id, &environment.workers)?;
    let config = Arc::new(config);
    let tier = start_tier(&config, &meta, &dirs, &controller, &environment)?;
    let partitions = Partitions::new(Arc::clone(&config), dirs, tier.clone()).map_err(io_error("log.dirs"))?;
    let partitions = Arc::new(partitions);
    let groups = start_groups(&config, &controller, &partitions);
    let admin_address = admin.as_ref().map(TcpListener::local_addr).transpose().map_err(io_error("admin.listener"))?;
    let admin_url = admin_address.map(|a| format!("http://{a}")).unwrap_or_default();
    let broker =
        Broker::new(Arc::clone(&config), controller, partitions, tier, groups, epoch, admin_url, environment.network);
    let broker = Arc::new(broker);
    let mut running = Running { tasks: JoinSet::new(), listeners: JoinSet::new(), housekeeping: None, heard: None };
    let stopping = Arc::new(AtomicBool::new(false));
    if broker.config.roles.broker {
        start_broker(&broker, &mut running, &environment.workers, &stop).await?;
    } else {
        let updates = broker.controller.subscribe();
        let roles = roles(&broker, &stop);
        running.tasks.spawn(follow_image(roles, broker.image().index, updates, stop.subscribe()));
        running.tasks.spawn(losses::run(Arc::clone(&broker), stop.subscribe()));
    }
    if let Some(listener) = admin {
        running.tasks.spawn(admin_http::serve(listener, Arc::clone(&broker), stop.subscribe()));
    }
    if broker.config.roles.broker {
        running.heard = Some(start_heartbeats(&broker, &control, &meta, &stopping, &stop));
        until_unfenced(&broker, running.heard.clone()).await?;
        running.listeners = serve(&broker, listeners, &stop)?;
    }
    let admin = admin_address;
    let controller_listeners = JoinSet::new();
    Ok(Node { broker, addresses, admin, stop, stopping, running, controller_listeners, control: Some(control) })
}

fn roles(broker: &Arc<Broker>, stop: &watch::Sender<bool>) -> Roles {
    Roles { broker: Arc::clone(broker), tier_tasks: TierTasks::new(Arc::clone(broker)), stop: stop.subscribe() }
}

/// Opens what this node hosts, and starts the tasks of a broker.
async fn start_broker(
    broker: &Arc<Broker>,
    running: &mut Running,
    workers: &Workers,
    stop: &watch::Sender<bool>,
) -> Result<(), NodeError> {
    // An image that lags knows no topics: those on the disk may be the cluster's own, or deleted.
    until_registered(broker).await;
    import_topics(broker).await?;
    let updates = broker.controller.subscribe();
    let image = broker.image();
    block_in_place(|| broker.partitions.open_all(&image, workers, clock::now_ms()));
    losses::tell_at_start(broker).await;
    let roles = roles(broker, stop);
    let tier_tasks = Arc::clone(&roles.tier_tasks);
    roles.take(broker.partitions.take_roles(&image, clock::now_ms()));
    broker.set_applied(image.index);
    let tasks = &mut running.tasks;
    tasks.spawn(follow_image(roles, image.index, updates, stop.subscribe()));
    tasks.spawn(isr::run(Arc::clone(broker), stop.subscribe()));
    tasks.spawn(losses::run(Arc::clone(broker), stop.subscribe()));
    if broker.tier.is_some() {
        tasks.spawn(tier_tasks.run(stop.subscribe()));
    }
    tasks.spawn(TopicDeletion::new(Arc::clone(broker)).run(stop.subscribe()));
    tasks.spawn(Arc::clone(&broker.groups).run(stop.subscribe()));
    if workers.are_threads() {
        running.housekeeping = Some(start_housekeeping(broker)?);
    } else {
        running.tasks.spawn(housekeeping::run_as_task(Arc::clone(broker), stop.subscribe()));
    }
    Ok(())
}

fn lock_dirs(config: &NodeConfig, disk: &Arc<dyn Disk>) -> Result<Vec<LockedDir>, NodeError> {
    Ok(config.log_dirs.iter().map(|path| LockedDir::lock(Arc::clone(disk), path)).collect::<Result<_, _>>()?)
}

/// The cluster that the directories belong to; none if all are new.
fn cluster_of(locked: &[LockedDir]) -> Result<Option<String>, NodeError> {
    let mut cluster_id: Option<String> = None;
    for meta in locked.iter().filter_map(|dir| dir.meta.as_ref()) {
        match &cluster_id {
            Some(other) if *other != meta.cluster_id => {
                return Err(NodeError::MixedClusters(other.clone(), meta.cluster_id.clone()));
            }
            _ => cluster_id = Some(meta.cluster_id.clone()),
        }
    }
    Ok(cluster_id)
}

/// Opens the directories; new ones are given to the cluster.
fn open_dirs(
    config: &NodeConfig,
    locked: Vec<LockedDir>,
    cluster_id: String,
    workers: &Workers,
) -> Result<(Meta, Vec<Arc<LogDirectory>>), NodeError> {
    let files = FileCache::FILES_DEFAULT / locked.len().max(1);
    let mut dirs = Vec::with_capacity(locked.len());
    let losses = Arc::<Losses>::default();
    let mut meta = Meta { cluster_id, node_id: config.node_id, directory_id: String::new() };
    for dir in locked {
        meta.directory_id = uuid_to_base64(Uuid::new_v4());
        let mut opened = dir.open(&meta, files, workers)?;
        opened.losses = Arc::clone(&losses);
        dirs.push(Arc::new(opened));
    }
    Ok((meta, dirs))
}

fn reserve_all(environment: &Environment, listeners: &[Listener]) -> Result<Vec<(Arc<str>, ReservedPort)>, NodeError> {
    let bound = |l: &Listener| Ok((Arc::from(l.name.as_str()), reserve(&environment.network, &l.host, l.port)?));
    listeners.iter().map(bound).collect()
}

fn bind_admin(config: &NodeConfig) -> Result<Option<TcpListener>, NodeError> {
    let Some((host, port)) = &config.admin_listener else { return Ok(None) };
    match bind(host, *port) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if config.admin_any_port => {
            tracing::info!(%error, "metrics are served at a free port instead");
            Ok(Some(bind(host, 0)?))
        }
        Err(error) => Err(error.into()),
    }
}

/// An advertised port 0 means the port that was bound; an empty advertised host means the machine's loopback name.
fn advertise_bound_ports(config: &mut NodeConfig, addresses: &[SocketAddr]) {
    for advertised in &mut config.advertised {
        let bound = config.listeners.iter().zip(addresses).find(|(l, _)| l.name == advertised.name);
        if advertised.port == 0
            && let Some((_, address)) = bound
        {
            advertised.port = address.port();
        }
        if advertised.host.is_empty() || advertised.host == "0.0.0.0" {
            advertised.host = "localhost".to_owned();
        }
    }
}

async fn start_controller(
    config: &NodeConfig,
    environment: &Environment,
    control: &Control,
    stop: &watch::Sender<bool>,
) -> Result<(ControllerHandle, JoinSet<()>), NodeError> {
    let dir = config.metadata_dir.join(CONTROLLER_DIR);
    environment.disk.create_dir_all_durably(&dir).map_err(io_error("metadata.log.dir"))?;
    let options = ControllerOptions {
        node_id: u64::try_from(config.node_id).expect("node ids are not negative"),
        dir,
        disk: Arc::clone(&environment.disk),
        workers: environment.workers.clone(),
        transport: Arc::new(Peers::new(environment.network.clone())),
        clock: Arc::new(clock::now_ms),
        defaults: Defaults {
            min_insync_replicas: usize::try_from(config.log_defaults.min_insync_replicas).unwrap_or(1),
            unclean_leader_election: config.log_defaults.unclean_leader_election_enable,
            synced: config.log_defaults.flush_messages == 1,
        },
        session_timeout: config.broker_session_timeout,
        leader_balance: config.leader_balance,
    };
    let joined =
        |error: tokio::task::JoinError| NodeError::Io { what: "the controller", source: io::Error::other(error) };
    let controller = control.runtime.spawn(strandline_controller::start(options)).await.map_err(joined)??;
    let (listeners, bound) = serve_controllers(config, environment, &controller, control, stop)?;
    let (handle, formation) = (controller.clone(), joining::formation(config, bound));
    control.runtime.spawn(async move { handle.form(formation).await }).await.map_err(joined)??;
    Ok((controller, listeners))
}

/// Serves the controller listeners, on the controller's thread; where the first of them is. A node whose listener has no
/// port of its own is alone. A broker that is no controller has a port for what controllers send it: the one that it is
/// given, else any.
fn serve_controllers(
    config: &NodeConfig,
    environment: &Environment,
    controller: &ControllerHandle,
    control: &Control,
    stop: &watch::Sender<bool>,
) -> Result<(JoinSet<()>, Option<SocketAddr>), NodeError> {
    let _runtime = control.runtime.enter();
    let (mut tasks, mut first) = (JoinSet::new(), None);
    let mut wanted: Vec<Listener> = config.controller_listeners.iter().filter(|l| l.port != 0).cloned().collect();
    if !config.roles.controller && wanted.is_empty() {
        let host = config.listeners.iter().find(|l| l.name == config.inter_broker_listener).map(|l| l.host.clone());
        wanted.push(Listener { name: "CONTROLLER".to_owned(), host: host.unwrap_or_default(), port: 0 });
    }
    for listener in wanted {
        let bound = bind_in(&environment.network, &listener.host, listener.port)?;
        first = first.or(bound.local_addr().map_err(io_error("controller port"))?);
        let task = ListenerTask {
            name: Arc::from(listener.name.as_str()),
            listener: bound,
            handler: ControllerListener::new(controller.clone(), control.runtime.clone()),
            limits: limits(config),
            connections_max: CONTROLLER_CONNECTIONS_MAX,
        };
        tasks.spawn_on(task.run(stop.subscribe()), &control.runtime);
    }
    Ok((tasks, first))
}

fn start_tier(
    config: &NodeConfig,
    meta: &Meta,
    dirs: &[Arc<LogDirectory>],
    controller: &ControllerHandle,
    environment: &Environment,
) -> Result<Option<Arc<Tier>>, NodeError> {
    let Some(url) = config.tier_url.as_deref().filter(|_| config.remote_storage) else { return Ok(None) };
    let cache_dir = config.tier_cache_dir.clone().unwrap_or_else(|| dirs[0].path.join(CACHE_DIR));
    let tier = Tier::start(config, url, &meta.cluster_id, cache_dir, controller.clone(), environment)?;
    Ok(Some(Arc::new(tier)))
}

fn start_groups(
    config: &NodeConfig,
    controller: &ControllerHandle,
    partitions: &Arc<Partitions>,
) -> Arc<GroupCoordinator> {
    let log = LocalOffsets { controller: controller.clone(), partitions: Arc::clone(partitions) };
    GroupCoordinator::new(GroupSettings::from(config), Arc::new(log), Arc::new(clock::now_ms))
}

/// Topics that the directories hold and the controller does not know: written by Kafka, or by a node whose controller
/// is lost. Only a cluster without any topic takes them over. Their settings are not in the directories, so a default
/// could delete what was meant to be kept: they begin without a limit of retention, and a WARN says so.
async fn import_topics(broker: &Arc<Broker>) -> Result<(), NodeError> {
    if !broker.image().topics.is_empty() {
        return Ok(());
    }
    let mut found = broker.partitions.topics_on_disk();
    // Kafka's own metadata: read by nobody here, and left as it is.
    found.remove(KAFKA_METADATA);
    if found.is_empty() {
        return Ok(());
    }
    let new = |(name, (topic_id, partitions)): (String, (_, i32))| {
        let replicas = vec![broker.config.node_id];
        let configs = auto_topics::settings_of_imported(&broker.config, &name);
        let assignments = (0..partitions).map(|p| (p, replicas.clone())).collect();
        NewTopic { name, topic_id, partitions, replication_factor: 1, assignments, configs }
    };
    let topics: Vec<NewTopic> = found.into_iter().map(new).collect();
    let names: Vec<String> = topics.iter().map(|t| t.name.clone()).collect();
    let answer = loop {
        match broker.ask(Request::CreateTopics { topics: topics.clone(), validate_only: false }).await {
            Err(refused) if is_transient(refused.code) => tokio::time::sleep(BEAT_SOON).await,
            answer => break answer?,
        }
    };
    match answer {
        Response::CreateTopics(outcomes) => {
            for (name, outcome) in names.iter().zip(outcomes) {
                tell_imported(name, outcome);
            }
            Ok(())
        }
        _ => Err(Refused::new(ErrorCode::UnknownServerError, "unexpected answer").into()),
    }
}

fn tell_imported(name: &str, outcome: Result<CreatedTopic, Refused>) {
    match outcome {
        Ok(created) if name == auto_topics::CONSUMER_OFFSETS => {
            tracing::info!(topic = %name, id = %created.topic_id, partitions = created.partitions, "taken over from the log directory");
        }
        Ok(created) => tracing::warn!(
            topic = %name, id = %created.topic_id, partitions = created.partitions,
            "taken over from the log directory, which does not hold the topic's settings: it has retention.ms=-1, \
             retention.bytes=-1 and defaults otherwise, and keeps every record until you set them again, for example \
             kafka-configs --alter --entity-type topics --entity-name {name} --add-config retention.ms=604800000"
        ),
        Err(refused) => tracing::warn!(topic = %name, %refused, "its directories are left alone"),
    }
}

fn start_housekeeping(
    broker: &Arc<Broker>,
) -> Result<(std::sync::mpsc::Sender<()>, std::thread::JoinHandle<()>), NodeError> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let broker = Arc::clone(broker);
    let thread = std::thread::Builder::new()
        .name("housekeeping".to_owned())
        .spawn(move || housekeeping::run(&broker, &receiver))
        .map_err(io_error("housekeeping thread"))?;
    Ok((sender, thread))
}

fn limits(config: &NodeConfig) -> Arc<Limits> {
    let memory_kib = u32::try_from(config.queued_request_max_bytes >> 10).unwrap_or(u32::MAX);
    let memory_kib = memory_kib.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
    Arc::new(Limits {
        request_max_bytes: config.request_max_bytes,
        idle_max: config.connections_max_idle,
        request_memory_kib: Semaphore::new(memory_kib as usize),
        request_memory_kib_max: memory_kib,
    })
}

fn serve(
    broker: &Arc<Broker>,
    reserved: Vec<(Arc<str>, ReservedPort)>,
    stop: &watch::Sender<bool>,
) -> Result<JoinSet<()>, NodeError> {
    let config = &broker.config;
    let limits = limits(config);
    let api = Arc::new(Api::new(Arc::clone(broker)));
    let mut listeners = JoinSet::new();
    for (name, port) in reserved {
        let task = ListenerTask {
            name,
            listener: port.listen()?,
            handler: api.clone(),
            limits: Arc::clone(&limits),
            connections_max: config.connections_max,
        };
        listeners.spawn(task.run(stop.subscribe()));
    }
    Ok(listeners)
}

impl Node {
    /// Done when the node has lost every log directory, or its metadata log, and has to stop.
    pub async fn storage_lost(&self) {
        self.broker.partitions.losses().nothing_left().await;
    }

    /// Stops in order: leaderships are handed over, nothing that was acknowledged is lost, and the next start need not
    /// recover.
    pub async fn stop(mut self) {
        self.stopping.store(true, Ordering::Release);
        self.hand_over().await;
        self.stop.send_replace(true);
        while self.running.listeners.join_next().await.is_some() {}
        let ended = tokio::time::timeout(STOP_TASKS, async {
            // The task that follows the image ends with the controller.
            while self.running.tasks.len() > 1 && self.running.tasks.join_next().await.is_some() {}
        });
        if ended.await.is_err() {
            tracing::warn!("a task did not end in time; what it was doing goes on at the next start");
        }
        if let Some((sender, thread)) = self.running.housekeeping.take() {
            drop(sender);
            if block_in_place(|| thread.join()).is_err() {
                tracing::error!("the housekeeping thread panicked");
            }
        }
        block_in_place(|| self.broker.partitions.close());
        self.broker.controller.shutdown().await;
        self.running.tasks.shutdown().await;
        self.controller_listeners.shutdown().await;
        if let Some(control) = self.control.take() {
            block_in_place(|| control.stop());
        }
    }

    /// Waits until others lead what they can lead. A cluster without an active controller is not waited for.
    async fn hand_over(&self) {
        let me = self.broker.config.node_id;
        // A cluster that stops as a whole has nobody to hand anything to.
        let takers = || self.broker.image().brokers.values().any(|b| !b.fenced && !b.stopping && b.broker_id != me);
        let deadline = tokio::time::Instant::now() + HAND_OVER_MAX;
        let leads = || {
            let image = self.broker.image();
            image.partitions.values().any(|p| p.record.leader == me && p.record.isr.iter().any(|id| *id != me))
        };
        let said = || self.broker.image().brokers.get(&me).is_none_or(|b| b.stopping);
        let (mut heard, mut answered) = (self.running.heard.clone(), tokio::time::Instant::now());
        while takers() && (!said() || leads()) && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(HAND_OVER_LOOK).await;
            let news = heard.as_mut().is_some_and(|h| h.has_changed().unwrap_or(false));
            if news {
                heard.as_mut().map(watch::Receiver::mark_unchanged);
                answered = tokio::time::Instant::now();
            }
            if answered.elapsed() > UNHEARD_MAX {
                // Most of the others stop too: nobody is left to decide.
                tracing::info!("no active controller answers: leaderships are not handed over");
                return;
            }
        }
    }
}
