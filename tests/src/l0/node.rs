//! One broker: the product's partitions on a simulated disk, with everything around them that waits for something.
//!
//! Owns starting on what the disk holds, and ending, in order or not. Does not own what happens in between (`world`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use parking_lot::Mutex;
use strandline::config::{NodeConfig, Properties};
use strandline::flush::Flusher;
use strandline::log_dir::{LockedDir, LogDirError, LogDirectory, Meta};
use strandline::partition::Partition;
use strandline::partition::WaitFailed;
use strandline::partitions::Partitions;
use strandline::reaper::Reaper;
use strandline::replication::following::Next;
use strandline::replication::isr::IsrAsk;
use strandline::tier::Tier;
use strandline_controller::image::MetadataImage;
use strandline_disk::{Disk, FaultyDisk, Workers};
use strandline_log::Flush;
use strandline_protocol::ids::{BrokerId, TopicPartition};
use strandline_protocol::remote_pointer::{Advance, AdvanceOutcome, RemotePointer};
use strandline_tiering::{MoveError, PointerService, RemoteLog, RemoteLogConfig, Store, StoreLimits, Unknown};
use uuid::Uuid;

use super::answer::Slot;
use super::clients::Attempt;
use super::store::SimStore;
use super::swarm::Swarm;
use super::task::Task;

pub const CLUSTER: &str = "l0-cluster";
const DATA: &str = "/data";
/// Open files of a node.
const FILES: usize = 64;

/// A question of the tier to the controller.
pub enum Asked {
    Advance(Box<Advance>, Slot<Result<AdvanceOutcome, Unknown>>),
    Newest(TopicPartition, Slot<Result<Option<RemotePointer>, Unknown>>),
}

/// The tier's way to the controller, and the image as this node has applied it.
#[derive(Default)]
pub struct Door {
    pub image: Mutex<Arc<MetadataImage>>,
    pub asked: Mutex<Vec<Asked>>,
}

impl Door {
    pub fn image(&self) -> Arc<MetadataImage> {
        Arc::clone(&self.image.lock())
    }
}

#[async_trait]
impl PointerService for Door {
    async fn advance(&self, advance: Advance) -> Result<AdvanceOutcome, Unknown> {
        let slot = Slot::default();
        self.asked.lock().push(Asked::Advance(Box::new(advance), slot.clone()));
        slot.await
    }

    fn pointer(&self, tp: TopicPartition) -> Option<RemotePointer> {
        self.image.lock().partitions.get(&tp).map(|p| p.pointer)
    }

    async fn linearizable_pointer(&self, tp: TopicPartition) -> Result<Option<RemotePointer>, Unknown> {
        let slot = Slot::default();
        self.asked.lock().push(Asked::Newest(tp, slot.clone()));
        slot.await
    }
}

/// A question to the controller that is not answered yet.
pub enum Pending {
    Register,
    Beat,
    Isr(IsrAsk),
    Advance(Slot<Result<AdvanceOutcome, Unknown>>),
    Newest(Slot<Result<Option<RemotePointer>, Unknown>>),
}

/// What a fetcher does.
pub enum Fetcher {
    Idle,
    /// It waits for the answer of this number, having asked in this leader epoch.
    Asked {
        number: u64,
        epoch: i32,
    },
    /// It takes an answer in.
    Taking(Task<Next>),
}

/// A produce request that waits to be safe.
pub struct Wait {
    pub task: Task<Result<(), WaitFailed>>,
    pub attempt: Attempt,
    pub first_offset: i64,
}

/// A node that runs.
pub struct Running {
    pub partitions: Arc<Partitions>,
    pub dir: Arc<LogDirectory>,
    pub reaper: Arc<Reaper>,
    pub door: Arc<Door>,
    pub store: SimStore,
    pub incarnation: Uuid,
    /// Its logs were closed in order, or it has said already that they were not.
    pub clean: bool,
    /// -1 until it is registered.
    pub broker_epoch: i64,
    /// Its logs are open and its roles are taken.
    pub open: bool,
    pub wants_shutdown: bool,
    /// Entries of the metadata log that it has applied.
    pub applied: usize,
    /// It has applied what there is, and nothing is scheduled that would apply more.
    pub up_to_date: bool,
    pub calls: BTreeMap<u64, Pending>,
    pub fetchers: BTreeMap<BrokerId, Fetcher>,
    pub isr_look: bool,
    /// A question about in-sync sets is under way, or rests before it is asked again.
    pub isr_busy: bool,
    pub isr_rests: Option<IsrAsk>,
    pub waits: Vec<Wait>,
    pub round: Option<Task<Result<bool, MoveError>>>,
    pub moves: Vec<Task<()>>,
    pub takeovers: Vec<Task<()>>,
    pub syncs: BTreeMap<u64, (Arc<Partition>, Option<Flush>)>,
    pub collected_ms: i64,
    /// Its directory is offline and an operator is on the way.
    pub doomed: bool,
}

impl Running {
    /// Whether something that it waits for has come.
    pub fn is_woken(&self) -> bool {
        self.moves_on() || self.waits.iter().any(|wait| wait.task.is_woken())
    }

    /// Whether a task that may use timers can go on.
    pub fn moves_on(&self) -> bool {
        self.takeovers.iter().chain(&self.moves).any(Task::is_woken)
            || self.round.as_ref().is_some_and(Task::is_woken)
            || self.fetchers.values().any(|f| matches!(f, Fetcher::Taking(task) if task.is_woken()))
    }

    /// Whether there is a task that may wait for a timer.
    pub fn has_timers(&self) -> bool {
        !self.takeovers.is_empty()
            || !self.moves.is_empty()
            || self.round.is_some()
            || self.fetchers.values().any(|f| matches!(f, Fetcher::Taking(_)))
    }

    /// Its directory is offline, or its log could not be opened: an operator is wanted.
    pub fn is_broken(&self) -> bool {
        self.dir.is_offline() || (self.open && self.partitions.count() > self.partitions.all().len())
    }
}

/// A node, running or not, and its disk.
pub struct Node {
    pub id: BrokerId,
    pub disk: FaultyDisk,
    /// Counts starts: what was meant for an earlier life is ignored.
    pub life: u32,
    pub up: Option<Box<Running>>,
    /// Metadata entries that are on its disk.
    pub metadata: usize,
    pub config: Arc<NodeConfig>,
    /// No heartbeat leaves before this time.
    pub mute_until_ms: i64,
    /// Metadata is applied slowly before this time.
    pub slow_until_ms: i64,
}

/// No threads. Syncs are taken in hand one by one (`replicas`), so that nobody asks how long one takes.
pub fn workers() -> Workers {
    Workers::Tasks(Arc::new(|| std::time::Duration::ZERO))
}

fn base_config() -> &'static NodeConfig {
    static BASE: OnceLock<NodeConfig> = OnceLock::new();
    BASE.get_or_init(|| {
        let mut properties = Properties::default();
        for (key, value) in [("node.id", "1"), ("log.dirs", DATA), ("listeners", "PLAINTEXT://127.0.0.1:9092")] {
            properties.set(key, value.to_owned(), "the simulation");
        }
        NodeConfig::from_properties(&properties, |_| None).expect("the simulation's settings are valid")
    })
}

fn config_of(id: BrokerId, swarm: &Swarm) -> NodeConfig {
    let mut config = base_config().clone();
    config.node_id = id;
    config.log_dirs = vec![PathBuf::from(DATA)];
    let log = &mut config.log_defaults;
    log.segment_bytes = swarm.segment_bytes;
    log.index_interval_bytes = 150;
    log.local_retention_bytes = swarm.local_retention_bytes;
    log.retention_bytes = swarm.retention_bytes;
    log.file_delete_delay_ms = 500;
    log.flush_messages = if swarm.synced { 1 } else { i64::MAX };
    config
}

impl Node {
    pub fn new(id: BrokerId, swarm: &Swarm) -> Node {
        Node {
            id,
            disk: FaultyDisk::new(),
            life: 0,
            up: None,
            metadata: 0,
            config: Arc::new(config_of(id, swarm)),
            mute_until_ms: 0,
            slow_until_ms: 0,
        }
    }

    /// Starts on what the disk holds; fails only if the disk does. logs are opened later, once it is registered ([`Running::open`]).
    pub fn start(&mut self, incarnation: Uuid, cache: &Path) -> Result<(), LogDirError> {
        self.life += 1;
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let meta = Meta { cluster_id: CLUSTER.to_owned(), node_id: self.id, directory_id: String::new() };
        let locked = LockedDir::lock(disk, Path::new(DATA))?;
        let clean = locked.was_closed();
        let dir = Arc::new(locked.open_with(&meta, FILES, || Ok(Flusher::by_hand()))?);
        let door = Arc::new(Door::default());
        let store = SimStore::default();
        let tier = Arc::new(tier(&door, &store, incarnation, cache));
        let partitions = Partitions::new(Arc::clone(&self.config), vec![Arc::clone(&dir)], Some(tier));
        let partitions = partitions.map_err(|source| LogDirError::Io { path: PathBuf::from(DATA), source })?;
        self.up = Some(Box::new(Running {
            partitions: Arc::new(partitions),
            dir,
            reaper: Arc::default(),
            door,
            store,
            incarnation,
            clean,
            broker_epoch: -1,
            open: false,
            wants_shutdown: false,
            applied: self.metadata,
            up_to_date: true,
            calls: BTreeMap::new(),
            fetchers: BTreeMap::new(),
            isr_look: false,
            isr_busy: false,
            isr_rests: None,
            waits: Vec::new(),
            round: None,
            moves: Vec::new(),
            takeovers: Vec::new(),
            syncs: BTreeMap::new(),
            collected_ms: 0,
            doomed: false,
        }));
        Ok(())
    }

    /// The power goes: memory is lost, and of what was not synced any part.
    pub fn crash(&mut self, seed: u64) {
        if let Some(running) = self.up.take() {
            self.metadata = running.applied;
        }
        self.disk = self.disk.crash(seed);
        self.life += 1;
    }

    /// Closes its logs and ends.
    pub fn stop(&mut self) {
        if let Some(running) = self.up.take() {
            self.metadata = running.applied;
            running.partitions.close();
        }
        self.life += 1;
    }

    pub fn partition(&self) -> Option<Arc<Partition>> {
        self.up.as_ref().filter(|up| up.open).and_then(|up| up.partitions.all().into_iter().next())
    }
}

fn tier(door: &Arc<Door>, store: &SimStore, incarnation: Uuid, cache: &Path) -> Tier {
    let limits = StoreLimits {
        deadline: std::time::Duration::from_millis(300),
        deadline_per_mib: std::time::Duration::from_millis(100),
        tries: 3,
        backoff: std::time::Duration::from_millis(5),
        backoff_max: std::time::Duration::from_millis(20),
    };
    let (high, _) = incarnation.as_u64_pair();
    let mut config = RemoteLogConfig::new(CLUSTER, cache.to_owned(), high);
    (config.store_limits, config.io_threads) = (limits, 0);
    let service: Arc<dyn PointerService> = door.clone();
    let next = std::sync::atomic::AtomicU64::new(1);
    let uuids = move || Uuid::from_u64_pair(high, next.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    let log = RemoteLog::start(config, service, uuids).expect("the tier of the simulation starts");
    let store = Store::new(Arc::new(store.clone()), "", "simulated:", limits, Arc::clone(log.metrics()), high);
    Tier { log, store: Arc::new(store) }
}
