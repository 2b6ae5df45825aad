//! Starting and stopping a node, in the order that keeps its promises.
//!
//! Start: lock the directories -> controller and its listener -> the cluster has an active controller -> register (a new
//! epoch: what an old process sent late is refused) -> open every partition of the image -> follow the image -> heartbeats
//! until unfenced -> open the client ports. Stop: hand leaderships over, close the ports, answer what was accepted, flush
//! and close every log, mark it clean.
//! The controller, its listener and the heartbeats have a thread of their own, so that a busy node is not taken for dead.
//! A crash at any point is a crash of the parts; see their modules.

mod following;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use strandline_controller::decide::Defaults;
use strandline_controller::record::Endpoint;
use strandline_controller::request::{CreatedTopic, Heartbeat, NewTopic, Refused, RegisterBroker, Request, Response};
use strandline_controller::{ControllerHandle, ControllerOptions, Formation};
use strandline_disk::{Disk, RealDisk};
use strandline_log::file_cache::FileCache;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::uuid_to_base64;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

use self::following::{Roles, follow_image};
use crate::api::Api;
use crate::broker::Broker;
use crate::config::{Listener, NodeConfig};
use crate::group::{GroupCoordinator, GroupSettings};
use crate::log_dir::{LockedDir, LogDirError, LogDirectory, Meta};
use crate::net::{BindError, Limits, ListenerTask, ReservedPort, bind, reserve};
use crate::offsets_log::LocalOffsets;
use crate::partitions::Partitions;
use crate::peer::{ControllerListener, Peers};
use crate::replication::isr;
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
/// A stopping node waits so long for others to take over.
const HAND_OVER_MAX: Duration = Duration::from_secs(5);
const HAND_OVER_LOOK: Duration = Duration::from_millis(10);
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
    #[error("the log directories belong to different clusters ({0} and {1}); use directories of one cluster")]
    MixedClusters(String, String),
    #[error("process.roles={0} is not served by this version: a node is broker and controller in one")]
    Roles(&'static str),
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
    listeners: JoinSet<()>,
    controller_listeners: JoinSet<()>,
    tasks: JoinSet<()>,
    housekeeping: Option<(std::sync::mpsc::Sender<()>, std::thread::JoinHandle<()>)>,
    control: Option<ControlThread>,
}

/// A thread with a runtime for the controller, its listener and the heartbeats.
struct ControlThread {
    runtime: tokio::runtime::Handle,
    end: watch::Sender<bool>,
    thread: std::thread::JoinHandle<()>,
}

impl ControlThread {
    fn start() -> Result<ControlThread, NodeError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(io_error("the controller's runtime"))?;
        let (handle, end) = (runtime.handle().clone(), watch::Sender::new(false));
        let mut ended = end.subscribe();
        let thread = std::thread::Builder::new()
            .name("controller".to_owned())
            .spawn(move || runtime.block_on(stopped(&mut ended)))
            .map_err(io_error("the controller's thread"))?;
        Ok(ControlThread { runtime: handle, end, thread })
    }

    fn stop(self) {
        self.end.send_replace(true);
        if self.thread.join().is_err() {
            tracing::error!("the controller's thread panicked");
        }
    }
}

/// Starts a node. When this returns, clients are served.
pub async fn start(mut config: NodeConfig) -> Result<Node, NodeError> {
    check_roles(&config)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let locked = lock_dirs(&config, &disk)?;
    // The ports are taken first, so that a busy one is told before anything is changed, and opened last.
    let listeners = reserve_all(&config.listeners)?;
    let addresses: Vec<SocketAddr> =
        listeners.iter().map(|(_, l)| l.local_addr()).collect::<io::Result<_>>().map_err(io_error("client port"))?;
    advertise_bound_ports(&mut config, &addresses);
    let admin = bind_admin(&config)?;
    let stop = watch::Sender::new(false);
    let control = ControlThread::start()?;
    let (controller, controller_listeners) = start_controller(&config, disk, &control, &stop).await?;
    let known = cluster_of(&locked)?.or_else(|| config.cluster_id.clone());
    let clean = locked.iter().all(LockedDir::was_closed);
    let (epoch, cluster_id) = register_first(&config, &controller, known, clean).await?;
    let (meta, dirs) = open_dirs(&config, locked, cluster_id)?;
    let config = Arc::new(config);
    let tier = start_tier(&config, &meta, &dirs, &controller)?;
    let partitions = Partitions::new(Arc::clone(&config), dirs, tier.clone()).map_err(io_error("log.dirs"))?;
    let partitions = Arc::new(partitions);
    let groups = start_groups(&config, &controller, &partitions);
    let admin_address = admin.as_ref().map(TcpListener::local_addr).transpose().map_err(io_error("admin.listener"))?;
    let admin_url = admin_address.map(|a| format!("http://{a}")).unwrap_or_default();
    let broker = Broker::new(Arc::clone(&config), controller, partitions, tier, groups, epoch, admin_url);
    let broker = Arc::new(broker);
    broker.until_image_has_it().await;
    import_topics(&broker).await?;
    let updates = broker.controller.subscribe();
    let image = broker.image();
    tokio::task::block_in_place(|| broker.partitions.open_all(&image, clock::now_ms()));
    let mut tasks = JoinSet::new();
    let tier_tasks = TierTasks::new(Arc::clone(&broker));
    let roles = Roles { broker: Arc::clone(&broker), tier_tasks: Arc::clone(&tier_tasks), stop: stop.subscribe() };
    roles.take(broker.partitions.take_roles(&image, clock::now_ms()));
    broker.set_applied(image.index);
    tasks.spawn(follow_image(roles, image.index, updates, stop.subscribe()));
    tasks.spawn(isr::run(Arc::clone(&broker), stop.subscribe()));
    if broker.tier.is_some() {
        tasks.spawn(tier_tasks.run(stop.subscribe()));
    }
    tasks.spawn(TopicDeletion::new(Arc::clone(&broker)).run(stop.subscribe()));
    tasks.spawn(Arc::clone(&broker.groups).run(stop.subscribe()));
    let housekeeping = start_housekeeping(&broker)?;
    if let Some(listener) = admin {
        tasks.spawn(admin_http::serve(listener, Arc::clone(&broker), stop.subscribe()));
    }
    let stopping = Arc::new(AtomicBool::new(false));
    let unfenced = start_heartbeats(&broker, &control, &meta, &stopping, &stop);
    until_unfenced(&broker, unfenced).await?;
    let listeners = serve(&broker, listeners, &stop)?;
    Ok(Node {
        broker,
        addresses,
        admin: admin_address,
        stop,
        stopping,
        listeners,
        controller_listeners,
        tasks,
        housekeeping: Some(housekeeping),
        control: Some(control),
    })
}

fn check_roles(config: &NodeConfig) -> Result<(), NodeError> {
    match (config.roles.broker, config.roles.controller) {
        (true, true) => Ok(()),
        (true, false) => Err(NodeError::Roles("broker")),
        _ => Err(NodeError::Roles("controller")),
    }
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
) -> Result<(Meta, Vec<Arc<LogDirectory>>), NodeError> {
    let files = FileCache::FILES_DEFAULT / locked.len().max(1);
    let mut dirs = Vec::with_capacity(locked.len());
    let mut meta = Meta { cluster_id, node_id: config.node_id, directory_id: String::new() };
    for dir in locked {
        meta.directory_id = uuid_to_base64(Uuid::new_v4());
        dirs.push(Arc::new(dir.open(&meta, files)?));
    }
    Ok((meta, dirs))
}

fn reserve_all(listeners: &[Listener]) -> Result<Vec<(Arc<str>, ReservedPort)>, NodeError> {
    let bound = |l: &Listener| Ok((Arc::from(l.name.as_str()), reserve(&l.host, l.port)?));
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
    disk: Arc<dyn Disk>,
    control: &ControlThread,
    stop: &watch::Sender<bool>,
) -> Result<(ControllerHandle, JoinSet<()>), NodeError> {
    let dir = config.metadata_dir.join(CONTROLLER_DIR);
    disk.create_dir_all(&dir).map_err(io_error("metadata.log.dir"))?;
    let options = ControllerOptions {
        node_id: u64::try_from(config.node_id).expect("node ids are not negative"),
        dir,
        disk,
        transport: Arc::new(Peers::default()),
        clock: Arc::new(clock::now_ms),
        defaults: Defaults {
            min_insync_replicas: usize::try_from(config.log_defaults.min_insync_replicas).unwrap_or(1),
            unclean_leader_election: config.log_defaults.unclean_leader_election_enable,
            synced: config.log_defaults.flush_messages == 1,
        },
        session_timeout: config.broker_session_timeout,
    };
    let joined =
        |error: tokio::task::JoinError| NodeError::Io { what: "the controller", source: io::Error::other(error) };
    let controller = control.runtime.spawn(strandline_controller::start(options)).await.map_err(joined)??;
    let listeners = serve_controllers(config, &controller, control, stop)?;
    let (handle, formation) = (controller.clone(), formation(config));
    control.runtime.spawn(async move { handle.form(formation).await }).await.map_err(joined)??;
    Ok((controller, listeners))
}

/// How this node comes to its cluster: by ids, or by addresses, or alone.
fn formation(config: &NodeConfig) -> Formation {
    if config.bootstrap_controllers.len() > 1 && config.voters.len() == 1 {
        let own = config.controller_listeners.first().map_or(0, |l| l.port);
        let own_address = config.bootstrap_controllers.iter().find(|a| is_own(a, config, own));
        let own_address = own_address.cloned().unwrap_or_default();
        return Formation::Bootstrap { own_address, bootstrap: config.bootstrap_controllers.clone() };
    }
    Formation::Voters(config.voters.clone())
}

/// Whether a controller's address is this node's: its port and, where it says one, a host of this node.
fn is_own(address: &str, config: &NodeConfig, port: u16) -> bool {
    let Some((host, p)) = address.rsplit_once(':') else { return false };
    let hosts =
        config.controller_listeners.iter().chain(&config.listeners).chain(&config.advertised).map(|l| l.host.as_str());
    p.parse() == Ok(port) && hosts.into_iter().any(|h| h == host)
}

/// Serves the controller listeners, on the controller's thread. A node whose listener has no port of its own is alone.
fn serve_controllers(
    config: &NodeConfig,
    controller: &ControllerHandle,
    control: &ControlThread,
    stop: &watch::Sender<bool>,
) -> Result<JoinSet<()>, NodeError> {
    let _runtime = control.runtime.enter();
    let mut tasks = JoinSet::new();
    for listener in config.controller_listeners.iter().filter(|l| l.port != 0) {
        let bound = bind(&listener.host, listener.port)?;
        let task = ListenerTask {
            name: Arc::from(listener.name.as_str()),
            listener: bound,
            handler: ControllerListener::new(controller.clone(), control.runtime.clone()),
            limits: limits(config),
            connections_max: CONTROLLER_CONNECTIONS_MAX,
        };
        tasks.spawn_on(task.run(stop.subscribe()), &control.runtime);
    }
    Ok(tasks)
}

/// Registers, and learns the cluster's id. A node whose directories are new takes the id that the cluster has; the first
/// one of all gives it.
async fn register_first(
    config: &NodeConfig,
    controller: &ControllerHandle,
    known: Option<String>,
    clean: bool,
) -> Result<(i64, String), NodeError> {
    let of_image = || controller.image().cluster_id.as_ref().map(ToString::to_string);
    let mut proposed = known.clone().or_else(of_image).unwrap_or_else(|| uuid_to_base64(Uuid::new_v4()));
    loop {
        match register(config, controller, &proposed, clean).await {
            Ok(epoch) => return Ok((epoch, proposed)),
            Err(NodeError::Refused(refused)) if refused.code == ErrorCode::InconsistentClusterId && known.is_none() => {
                // Another new node was first.
                tokio::time::sleep(BEAT_SOON).await;
                proposed = of_image().unwrap_or(proposed);
            }
            Err(NodeError::Refused(refused)) if refused.code == ErrorCode::UnknownServerError => {
                tracing::info!(%refused, "not registered yet");
                tokio::time::sleep(BEAT_SOON).await;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn register(config: &NodeConfig, controller: &ControllerHandle, id: &str, clean: bool) -> Result<i64, NodeError> {
    let endpoints =
        config.advertised.iter().map(|l| Endpoint { listener: l.name.clone(), host: l.host.clone(), port: l.port });
    let request = Request::RegisterBroker(RegisterBroker {
        broker_id: config.node_id,
        cluster_id: id.to_owned(),
        incarnation: Uuid::new_v4(),
        endpoints: endpoints.collect(),
        rack: config.rack.clone(),
        clean,
    });
    match controller.request(request).await {
        Ok(Response::RegisterBroker(outcome)) => Ok(outcome?),
        Ok(_) => Err(Refused::new(ErrorCode::UnknownServerError, "unexpected answer").into()),
        Err(error) => Err(Refused::new(ErrorCode::UnknownServerError, error.to_string()).into()),
    }
}

fn start_tier(
    config: &NodeConfig,
    meta: &Meta,
    dirs: &[Arc<LogDirectory>],
    controller: &ControllerHandle,
) -> Result<Option<Arc<Tier>>, NodeError> {
    let Some(url) = config.tier_url.as_deref().filter(|_| config.remote_storage) else { return Ok(None) };
    let cache_dir = config.tier_cache_dir.clone().unwrap_or_else(|| dirs[0].path.join(CACHE_DIR));
    let tier = Tier::start(config, url, &meta.cluster_id, cache_dir, controller.clone())?;
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
    match broker.ask(Request::CreateTopics { topics, validate_only: false }).await? {
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

/// Sends signs of life until the node has stopped. The receiver hears whether the broker is unfenced, and whether it may
/// stop.
fn start_heartbeats(
    broker: &Arc<Broker>,
    control: &ControlThread,
    meta: &Meta,
    stopping: &Arc<AtomicBool>,
    stop: &watch::Sender<bool>,
) -> watch::Receiver<(bool, bool)> {
    let (state, heard) = watch::channel((false, false));
    let (broker, stopping, meta, mut stop) = (Arc::clone(broker), Arc::clone(stopping), meta.clone(), stop.subscribe());
    control.runtime.spawn(async move {
        loop {
            let beat = Heartbeat {
                broker_id: broker.config.node_id,
                broker_epoch: broker.epoch(),
                applied_index: broker.applied(),
                ready: true,
                want_shutdown: stopping.load(Ordering::Acquire),
            };
            let mut pause = broker.config.broker_heartbeat_interval;
            match broker.controller.request(Request::Heartbeat(beat)).await {
                Ok(Response::Heartbeat(Ok(answer))) => {
                    state.send_replace((!answer.fenced, answer.may_stop));
                    if answer.fenced || beat.want_shutdown {
                        pause = BEAT_SOON;
                    }
                }
                Ok(Response::Heartbeat(Err(refused))) => {
                    tracing::warn!(%refused, "the controller does not know this registration: registering again");
                    match register(&broker.config, &broker.controller, &meta.cluster_id, true).await {
                        Ok(epoch) => broker.set_epoch(epoch),
                        Err(error) => tracing::warn!(%error, "not registered"),
                    }
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "a heartbeat was not answered"),
            }
            tokio::select! {
                () = stopped(&mut stop) => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    });
    heard
}

/// Waits until the controller counts this broker in, and what it leads is led here.
async fn until_unfenced(broker: &Arc<Broker>, mut heard: watch::Receiver<(bool, bool)>) -> Result<(), NodeError> {
    let unfenced = heard.wait_for(|(unfenced, _)| *unfenced).await.map(drop);
    unfenced.map_err(|_| Refused::new(ErrorCode::UnknownServerError, "the heartbeats have ended"))?;
    broker.catch_up().await;
    Ok(())
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
    /// Stops in order: leaderships are handed over, nothing that was acknowledged is lost, and the next start need not
    /// recover.
    pub async fn stop(mut self) {
        self.stopping.store(true, Ordering::Release);
        self.hand_over().await;
        self.stop.send_replace(true);
        while self.listeners.join_next().await.is_some() {}
        let ended = tokio::time::timeout(STOP_TASKS, async {
            // The task that follows the image ends with the controller.
            while self.tasks.len() > 1 && self.tasks.join_next().await.is_some() {}
        });
        if ended.await.is_err() {
            tracing::warn!("a task did not end in time; what it was doing goes on at the next start");
        }
        if let Some((sender, thread)) = self.housekeeping.take() {
            drop(sender);
            if tokio::task::block_in_place(|| thread.join()).is_err() {
                tracing::error!("the housekeeping thread panicked");
            }
        }
        tokio::task::block_in_place(|| self.broker.partitions.close());
        self.broker.controller.shutdown().await;
        self.tasks.shutdown().await;
        self.controller_listeners.shutdown().await;
        if let Some(control) = self.control.take() {
            tokio::task::block_in_place(|| control.stop());
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
        while takers() && (!said() || leads()) && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(HAND_OVER_LOOK).await;
        }
    }
}
