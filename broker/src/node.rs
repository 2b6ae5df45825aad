//! Starting and stopping a node, in the order that keeps its promises.
//!
//! Start: lock the directories -> controller (replays the metadata) -> register (a new epoch: what an old process sent
//! late is refused) -> open every partition of the image -> follow the image -> unfence -> take over from the tier ->
//! open the client ports. Stop: close the ports, answer what was accepted, flush and close every log, mark it clean.
//! A crash at any point is a crash of the parts; see their modules.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use strandline_controller::record::Endpoint;
use strandline_controller::request::{CreatedTopic, NewTopic, Refused, RegisterBroker, Request, Response};
use strandline_controller::{ControllerHandle, ControllerOptions, ImageUpdate, NodeId, RaftTransport};
use strandline_disk::{Disk, RealDisk};
use strandline_log::file_cache::FileCache;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::uuid_to_base64;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::api::Api;
use crate::broker::Broker;
use crate::config::{Listener, NodeConfig};
use crate::group::{GroupCoordinator, GroupSettings};
use crate::log_dir::{LockedDir, LogDirError, LogDirectory, Meta};
use crate::net::{BindError, Limits, ListenerTask, bind};
use crate::offsets_log::LocalOffsets;
use crate::partitions::Partitions;
use crate::shutdown::stopped;
use crate::tier::{Tier, TierError, TierTasks, TopicDeletion};
use crate::{admin_http, auto_topics, clock, housekeeping};

/// The topic of Kafka's controllers, in the log directory of a combined node.
const KAFKA_METADATA: &str = "__cluster_metadata";
/// Directory of the controller's log, below `metadata.log.dir`.
const CONTROLLER_DIR: &str = "strandline-controller";
/// Directory of chunk files, below the first of `log.dirs`, unless `tier.cache.dir` says otherwise.
const CACHE_DIR: &str = "strandline-tier-cache";
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
    listeners: JoinSet<()>,
    tasks: JoinSet<()>,
    housekeeping: Option<(std::sync::mpsc::Sender<()>, std::thread::JoinHandle<()>)>,
}

/// There is one voter, so nobody is ever called.
struct NoPeers;

#[async_trait]
impl RaftTransport for NoPeers {
    async fn call(&self, _: NodeId, _: &str, _: Vec<u8>, _: Duration) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotConnected.into())
    }
}

/// Starts a node. When this returns, clients are served.
pub async fn start(mut config: NodeConfig) -> Result<Node, NodeError> {
    check_roles(&config)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let (meta, dirs) = open_dirs(&config, &disk)?;
    // The ports are bound first, so that a taken one is told before anything is changed, and served last.
    let listeners = bind_all(&config.listeners)?;
    let addresses: Vec<SocketAddr> =
        listeners.iter().map(|(_, l)| l.local_addr()).collect::<io::Result<_>>().map_err(io_error("client port"))?;
    advertise_bound_ports(&mut config, &addresses);
    let admin = bind_admin(&config)?;
    let (controller, updates) = start_controller(&config, disk).await?;
    let epoch = register(&config, &controller, &meta).await?;
    let config = Arc::new(config);
    let tier = start_tier(&config, &meta, &dirs, &controller)?;
    let partitions = Partitions::new(Arc::clone(&config), dirs, tier.clone()).map_err(io_error("log.dirs"))?;
    let partitions = Arc::new(partitions);
    let groups = start_groups(&config, &controller, &partitions);
    let admin_address = admin.as_ref().map(TcpListener::local_addr).transpose().map_err(io_error("admin.listener"))?;
    let admin_url = admin_address.map(|a| format!("http://{a}")).unwrap_or_default();
    let broker = Broker::new(Arc::clone(&config), controller, partitions, tier, groups, epoch, admin_url);
    let broker = Arc::new(broker);
    import_topics(&broker).await?;
    let image = broker.image();
    tokio::task::block_in_place(|| broker.partitions.open_all(&image));
    broker.set_applied(image.index);

    let stop = watch::Sender::new(false);
    let mut tasks = JoinSet::new();
    let tier_tasks = TierTasks::new(Arc::clone(&broker));
    for partition in broker.partitions.all() {
        tier_tasks.lead(&partition);
    }
    tasks.spawn(follow_image(Arc::clone(&broker), image.index, updates, stop.subscribe()));
    load_groups(&broker);
    if broker.tier.is_some() {
        tasks.spawn(tier_tasks.run(stop.subscribe()));
    }
    tasks.spawn(TopicDeletion::new(Arc::clone(&broker)).run(stop.subscribe()));
    tasks.spawn(Arc::clone(&broker.groups).run(stop.subscribe()));
    let housekeeping = start_housekeeping(&broker)?;
    if let Some(listener) = admin {
        tasks.spawn(admin_http::serve(listener, Arc::clone(&broker), stop.subscribe()));
    }
    unfence(&broker).await?;
    let listeners = serve(&broker, listeners, &stop);
    Ok(Node { broker, addresses, admin: admin_address, stop, listeners, tasks, housekeeping: Some(housekeeping) })
}

fn check_roles(config: &NodeConfig) -> Result<(), NodeError> {
    match (config.roles.broker, config.roles.controller) {
        (true, true) => Ok(()),
        (true, false) => Err(NodeError::Roles("broker")),
        _ => Err(NodeError::Roles("controller")),
    }
}

/// Locks every directory, then agrees on the cluster id: the one they hold, or a new one.
fn open_dirs(config: &NodeConfig, disk: &Arc<dyn Disk>) -> Result<(Meta, Vec<Arc<LogDirectory>>), NodeError> {
    let locked: Vec<LockedDir> =
        config.log_dirs.iter().map(|path| LockedDir::lock(Arc::clone(disk), path)).collect::<Result<_, _>>()?;
    let mut cluster_id: Option<String> = None;
    for meta in locked.iter().filter_map(|dir| dir.meta.as_ref()) {
        match &cluster_id {
            Some(other) if *other != meta.cluster_id => {
                return Err(NodeError::MixedClusters(other.clone(), meta.cluster_id.clone()));
            }
            _ => cluster_id = Some(meta.cluster_id.clone()),
        }
    }
    let cluster_id = cluster_id.or_else(|| config.cluster_id.clone()).unwrap_or_else(|| uuid_to_base64(Uuid::new_v4()));
    let files = FileCache::FILES_DEFAULT / locked.len().max(1);
    let mut dirs = Vec::with_capacity(locked.len());
    let mut meta = Meta { cluster_id, node_id: config.node_id, directory_id: String::new() };
    for dir in locked {
        meta.directory_id = uuid_to_base64(Uuid::new_v4());
        dirs.push(Arc::new(dir.open(&meta, files)?));
    }
    Ok((meta, dirs))
}

fn bind_all(listeners: &[Listener]) -> Result<Vec<(Arc<str>, TcpListener)>, NodeError> {
    let bound = |l: &Listener| Ok((Arc::from(l.name.as_str()), bind(&l.host, l.port)?));
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
) -> Result<(ControllerHandle, mpsc::Receiver<ImageUpdate>), NodeError> {
    let dir = config.metadata_dir.join(CONTROLLER_DIR);
    disk.create_dir_all(&dir).map_err(io_error("metadata.log.dir"))?;
    let options = ControllerOptions {
        node_id: u64::try_from(config.node_id).expect("node ids are not negative"),
        dir,
        disk,
        voters: config.voters.clone(),
        transport: Arc::new(NoPeers),
        clock: Arc::new(clock::now_ms),
    };
    Ok(strandline_controller::start(options).await?)
}

async fn register(config: &NodeConfig, controller: &ControllerHandle, meta: &Meta) -> Result<i64, NodeError> {
    let endpoints =
        config.advertised.iter().map(|l| Endpoint { listener: l.name.clone(), host: l.host.clone(), port: l.port });
    let request = Request::RegisterBroker(RegisterBroker {
        broker_id: config.node_id,
        cluster_id: meta.cluster_id.clone(),
        incarnation: Uuid::new_v4(),
        endpoints: endpoints.collect(),
        rack: config.rack.clone(),
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

fn load_groups(broker: &Arc<Broker>) {
    let image = broker.image();
    let Some(topic) = image.topic(auto_topics::CONSUMER_OFFSETS) else { return };
    for partition in 0..topic.partition_count {
        if broker.partitions.leading(topic.id, partition).is_ok() {
            load_group_partition(broker, partition);
        }
    }
}

/// Reads one partition of committed offsets in the background; until then its groups answer "loading".
fn load_group_partition(broker: &Arc<Broker>, partition: i32) {
    let groups = Arc::clone(&broker.groups);
    tokio::spawn(async move {
        if let Err(code) = groups.load(partition).await {
            tracing::error!(
                partition,
                code = code.name(),
                "committed offsets cannot be loaded: the groups of this partition are not served"
            );
        }
    });
}

/// Keeps the partitions equal to the image until told to stop; they were opened as of `opened_at`. Takes every update, so that the controller never waits.
async fn follow_image(
    broker: Arc<Broker>,
    opened_at: u64,
    mut updates: mpsc::Receiver<ImageUpdate>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let update = tokio::select! {
            () = stopped(&mut stop) => break,
            update = updates.recv() => update,
        };
        let Some(update) = update else { return };
        if update.image.index <= opened_at {
            continue;
        }
        let new = tokio::task::block_in_place(|| broker.partitions.apply(&update));
        for partition in new.iter().filter(|p| *p.topic == *auto_topics::CONSUMER_OFFSETS) {
            load_group_partition(&broker, partition.tp.partition);
        }
        let gone = update.records.iter().filter_map(|record| match record {
            strandline_controller::record::MetadataRecord::TopicDeleting { topic_id, .. } => {
                update.image.topics.get(topic_id).map(|t| t.name.to_string())
            }
            _ => None,
        });
        let gone: BTreeSet<String> = gone.collect();
        if gone.contains(auto_topics::CONSUMER_OFFSETS) {
            (0..broker.config.offsets.partitions).for_each(|partition| broker.groups.unload(partition));
        }
        if !gone.is_empty() {
            broker.groups.topics_deleted(&gone);
        }
        broker.set_applied(update.image.index);
    }
    // The controller may still apply entries while it stops.
    while updates.recv().await.is_some() {}
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

async fn unfence(broker: &Arc<Broker>) -> Result<(), NodeError> {
    let request = Request::Unfence { broker_id: broker.config.node_id, broker_epoch: broker.epoch() };
    match broker.ask(request).await? {
        Response::Unfence(outcome) => Ok(outcome?),
        _ => Err(Refused::new(ErrorCode::UnknownServerError, "unexpected answer").into()),
    }
}

fn serve(broker: &Arc<Broker>, bound: Vec<(Arc<str>, TcpListener)>, stop: &watch::Sender<bool>) -> JoinSet<()> {
    let config = &broker.config;
    let memory_kib = u32::try_from(config.queued_request_max_bytes >> 10).unwrap_or(u32::MAX);
    let memory_kib = memory_kib.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
    let limits = Arc::new(Limits {
        request_max_bytes: config.request_max_bytes,
        idle_max: config.connections_max_idle,
        request_memory_kib: Semaphore::new(memory_kib as usize),
        request_memory_kib_max: memory_kib,
    });
    let api = Arc::new(Api::new(Arc::clone(broker)));
    let mut listeners = JoinSet::new();
    for (name, listener) in bound {
        let task = ListenerTask {
            name,
            listener,
            api: Arc::clone(&api),
            limits: Arc::clone(&limits),
            connections_max: config.connections_max,
        };
        listeners.spawn(task.run(stop.subscribe()));
    }
    listeners
}

impl Node {
    /// Stops in order: nothing that was acknowledged is lost, and the next start need not recover.
    pub async fn stop(mut self) {
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
    }
}
