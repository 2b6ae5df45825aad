//! The partitions that this node hosts, kept equal to the image.
//!
//! Owns opening and closing logs, which log directory a new partition goes to, and the removal of a deleted topic's
//! directories. Does not own what a partition does (`partition`), nor when a topic is deleted (the controller).
//! Invariants: only the task of image updates changes the set; readers see a consistent snapshot; a directory is removed
//! only if the image says that its topic id is being deleted: unknown is not deleted.
//! A crash leaves directories named `*-delete`, removed at the next start.

mod checkpoints;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use strandline_controller::ImageUpdate;
use strandline_controller::image::{MetadataImage, PartitionImage, TopicImage};
use strandline_controller::record::{MetadataRecord, ResourceType};
use strandline_disk::Workers;
use strandline_log::checkpoint::TopicPartitionKey;
use strandline_log::partition_metadata::read as read_topic_id;
use strandline_log::{Log, LogOptions, OpenError};
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::{TopicId, TopicPartition};
use strandline_protocol::remote_pointer::PointerState;

use crate::config::NodeConfig;
use crate::log_dir::LogDirectory;
use crate::partition::{Partition, ReadFrom};
use crate::replication::losses::Losses;
use crate::tier::Tier;
use crate::topic_configs;

/// Suffix of a directory whose topic is deleted, as in Kafka.
const DELETE_SUFFIX: &str = "-delete";
/// Suffix of a directory that holds another topic of the same name and unknown id, as in Kafka.
const STRAY_SUFFIX: &str = "-stray";
/// Threads that open logs at start.
const OPENERS: usize = 4;

/// One place of the set.
#[derive(Clone)]
enum Hosted {
    Open(Arc<Partition>),
    /// The log cannot be opened; said at start, and to every client as KAFKA_STORAGE_ERROR.
    Broken,
}

type Set = imbl::HashMap<TopicPartition, Hosted>;

/// What opening needs, for all partitions.
pub struct Partitions {
    config: Arc<NodeConfig>,
    dirs: Vec<Arc<LogDirectory>>,
    tier: Option<Arc<Tier>>,
    set: ArcSwap<Set>,
    /// What the image gives to this node was opened once.
    opened: AtomicBool,
    /// The image that the set follows.
    known: ArcSwap<MetadataImage>,
    /// Partition directories found at start: name to index of the log directory.
    found: Mutex<HashMap<String, usize>>,
    /// Directories to be removed at their time.
    doomed: Mutex<Vec<Doomed>>,
    /// Logs that were damaged and begin anew, until the controller is told.
    rebuilt: Mutex<Vec<TopicPartition>>,
    /// Held while checkpoints are made and written.
    checkpointing: Mutex<()>,
}

/// A renamed directory of a deleted topic.
struct Doomed {
    topic_id: TopicId,
    path: PathBuf,
    dir: Arc<LogDirectory>,
    at_ms: i64,
}

impl Partitions {
    /// Lists the directories and removes what an earlier deletion left.
    pub fn new(config: Arc<NodeConfig>, dirs: Vec<Arc<LogDirectory>>, tier: Option<Arc<Tier>>) -> io::Result<Self> {
        let mut found = HashMap::new();
        for (index, dir) in dirs.iter().enumerate() {
            for entry in dir.disk.read_dir(&dir.path)? {
                if entry.is_dir && entry.name.ends_with(DELETE_SUFFIX) {
                    dir.disk.remove_dir_all(&dir.path.join(&entry.name))?;
                } else if entry.is_dir && parse_name(&entry.name).is_some() {
                    found.insert(entry.name, index);
                }
            }
        }
        let (set, found) = (ArcSwap::from_pointee(Set::new()), Mutex::new(found));
        let (known, doomed, rebuilt) = (ArcSwap::default(), Mutex::default(), Mutex::default());
        let (opened, checkpointing) = (AtomicBool::new(false), Mutex::default());
        Ok(Partitions { config, dirs, tier, set, opened, known, found, doomed, rebuilt, checkpointing })
    }

    pub fn dirs(&self) -> &[Arc<LogDirectory>] {
        &self.dirs
    }

    /// What this node has lost.
    pub fn losses(&self) -> &Arc<Losses> {
        &self.dirs[0].losses
    }

    /// Replicas that cannot be served: their directory is offline, or their log does not open.
    pub fn offline(&self) -> Vec<TopicPartition> {
        let lost = |hosted: &Hosted| match hosted {
            Hosted::Open(p) => p.dir.is_offline(),
            Hosted::Broken => true,
        };
        self.set.load().iter().filter(|(_, hosted)| lost(hosted)).map(|(tp, _)| *tp).collect()
    }

    /// Logs that were damaged and begin anew, since the last call.
    pub fn take_rebuilt(&self) -> Vec<TopicPartition> {
        std::mem::take(&mut *self.rebuilt.lock())
    }

    /// Partition directories found at start by topic: its id, and how many partitions it has. For topics that Kafka, or
    /// a lost controller, left behind.
    pub fn topics_on_disk(&self) -> BTreeMap<String, (TopicId, i32)> {
        let mut topics = BTreeMap::new();
        for (name, index) in self.found.lock().iter() {
            let Some((topic, partition)) = parse_name(name) else { continue };
            let dir = &self.dirs[*index];
            match read_topic_id(&*dir.disk, &dir.path.join(name)) {
                Ok(Some(id)) => {
                    let entry = topics.entry(topic.to_owned()).or_insert((id, 0));
                    entry.1 = entry.1.max(partition + 1);
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(directory = name, %error, "not a partition directory that can be read"),
            }
        }
        topics
    }

    /// The partition, if this node leads it and can serve it.
    pub fn leading(&self, id: TopicId, partition: i32) -> Result<Arc<Partition>, ErrorCode> {
        match self.set.load().get(&TopicPartition { topic_id: id, partition }) {
            Some(Hosted::Open(p)) if p.dir.is_offline() => Err(ErrorCode::KafkaStorageError),
            Some(Hosted::Open(p)) if !p.leads() => Err(ErrorCode::NotLeaderOrFollower),
            Some(Hosted::Open(p)) => Ok(Arc::clone(p)),
            Some(Hosted::Broken) => Err(ErrorCode::KafkaStorageError),
            None => Err(self.not_hosted(id, partition)),
        }
    }

    /// The partition, if this node leads it or, for a reader of any replica, follows its leader, and can serve it.
    pub fn readable(&self, id: TopicId, partition: i32, from: ReadFrom) -> Result<Arc<Partition>, ErrorCode> {
        match self.set.load().get(&TopicPartition { topic_id: id, partition }) {
            Some(Hosted::Open(p)) if from == ReadFrom::AnyReplica && !p.dir.is_offline() => Ok(Arc::clone(p)),
            _ => self.leading(id, partition),
        }
    }

    /// A partition that is elsewhere is not unknown: its client asks for its leader again.
    fn not_hosted(&self, id: TopicId, partition: i32) -> ErrorCode {
        let known = self.known.load();
        let elsewhere = known.live_topic(id).is_some() && known.partition(id, partition).is_some();
        if elsewhere { ErrorCode::NotLeaderOrFollower } else { ErrorCode::UnknownTopicOrPartition }
    }

    /// All that are open, in no order.
    pub fn all(&self) -> Vec<Arc<Partition>> {
        let open = |hosted: &Hosted| match hosted {
            Hosted::Open(p) => Some(Arc::clone(p)),
            Hosted::Broken => None,
        };
        self.set.load().values().filter_map(open).collect()
    }

    pub fn count(&self) -> usize {
        self.set.load().len()
    }

    /// Those whose files are in this log directory, by topic and number.
    pub fn in_dir(&self, path: &Path) -> Vec<Arc<Partition>> {
        let mut all = self.all();
        all.retain(|p| p.dir.path == path);
        all.sort_by(|a, b| (&a.topic, a.tp.partition).cmp(&(&b.topic, b.tp.partition)));
        all
    }

    /// Opens everything that the image gives to this node, with several threads if there are threads.
    pub fn open_all(&self, image: &MetadataImage, workers: &Workers, now_ms: i64) {
        self.known.store(Arc::new(image.clone()));
        let wanted: Vec<_> = image.partitions.iter().filter(|(tp, p)| self.is_mine(image, **tp, p)).collect();
        let next = std::sync::atomic::AtomicUsize::new(0);
        let opened = Mutex::new(Vec::with_capacity(wanted.len()));
        let work = || {
            while let Some((tp, p)) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                let hosted = self.open(image, **tp, p, now_ms);
                opened.lock().push((**tp, hosted));
            }
        };
        if workers.are_threads() {
            std::thread::scope(|scope| {
                for _ in 0..OPENERS.min(wanted.len()) {
                    scope.spawn(work);
                }
            });
        } else {
            work();
        }
        let mut set = Set::clone(&self.set.load());
        set.extend(opened.into_inner());
        self.set.store(Arc::new(set));
        self.opened.store(true, Ordering::Release);
    }

    fn is_mine(&self, image: &MetadataImage, tp: TopicPartition, partition: &PartitionImage) -> bool {
        image.live_topic(tp.topic_id).is_some() && partition.record.replicas.contains(&self.config.node_id)
    }

    /// Gives every open partition the role that the image says.
    pub fn take_roles(&self, image: &MetadataImage, now_ms: i64) -> Vec<RoleChange> {
        let mut changes = Vec::new();
        for partition in self.all() {
            if let Some(p) = image.partitions.get(&partition.tp) {
                changes.push(role_change(&partition, p, now_ms));
            }
        }
        changes
    }

    /// Follows one step of the image. Returns what changed for partitions here.
    pub fn apply(&self, update: &ImageUpdate, now_ms: i64) -> Vec<RoleChange> {
        let image = &*update.image;
        let mut set = Set::clone(&self.set.load());
        let mut changes = Vec::new();
        let mut changed = affected(update, &set);
        changed.sort_unstable();
        changed.dedup();
        for tp in changed {
            let wanted = image.partitions.get(&tp).filter(|p| self.is_mine(image, tp, p));
            match (wanted, set.get(&tp)) {
                (Some(p), Some(Hosted::Open(open))) => {
                    self.follow(image, open, p);
                    changes.push(role_change(open, p, now_ms));
                }
                (Some(p), None) => {
                    let hosted = self.open(image, tp, p, now_ms);
                    if let Hosted::Open(partition) = &hosted {
                        changes.push(role_change(partition, p, now_ms));
                    }
                    set.insert(tp, hosted);
                }
                (None, Some(_)) => {
                    if let Some(hosted) = set.remove(&tp) {
                        if let Hosted::Open(partition) = &hosted {
                            partition.set_ready(false);
                            changes.push(RoleChange { partition: Arc::clone(partition), began: false, leader: -1 });
                        }
                        self.close_removed(image, tp, &hosted, now_ms);
                    }
                }
                (Some(_), Some(Hosted::Broken)) | (None, None) => {}
            }
        }
        self.set.store(Arc::new(set));
        self.known.store(Arc::clone(&update.image));
        changes
    }

    fn follow(&self, image: &MetadataImage, open: &Arc<Partition>, p: &PartitionImage) {
        let config = topic_configs::of_topic(&self.config, image, &open.topic);
        let mut log = open.log();
        if **log.config() != config {
            log.set_config(Arc::new(config));
        }
        drop(log);
        if let Err(error) = open.apply_pointer(p.pointer) {
            tracing::error!(partition = %open.name(), %error, "the log start cannot follow the remote pointer");
        }
    }

    fn open(&self, image: &MetadataImage, tp: TopicPartition, p: &PartitionImage, now_ms: i64) -> Hosted {
        let Some(topic) = image.topics.get(&tp.topic_id) else {
            return Hosted::Broken;
        };
        let opened = self.try_open(image, topic, tp, p, now_ms).or_else(|error| {
            let damage = error.downcast_ref::<OpenError>().is_some_and(|e| !matches!(e, OpenError::Io { .. }));
            if !damage {
                return Err(error);
            }
            self.losses().count_damaged();
            self.begin_anew(image, topic, tp, p, error, now_ms)
        });
        match opened {
            Ok(partition) => Hosted::Open(Arc::new(partition)),
            Err(error) => {
                tracing::error!(
                    partition = format!("{}-{}", topic.name, tp.partition), %error,
                    "the partition cannot be opened and is not served; nothing of it was changed"
                );
                Hosted::Broken
            }
        }
    }

    /// A damaged log is dropped if others have what it had: they are in sync, and this replica is not counted.
    fn begin_anew(
        &self,
        image: &MetadataImage,
        topic: &TopicImage,
        tp: TopicPartition,
        p: &PartitionImage,
        damage: Box<dyn std::error::Error>,
        now_ms: i64,
    ) -> Result<Partition, Box<dyn std::error::Error>> {
        if p.record.isr.is_empty() || p.record.isr.contains(&self.config.node_id) {
            return Err(damage);
        }
        let name = format!("{}-{}", topic.name, tp.partition);
        let dir = self.place(&name, image, tp.topic_id)?;
        tracing::error!(partition = name, error = %damage, in_sync = ?p.record.isr, "the log is damaged: it is dropped, and fetched from the leader or the bucket");
        let aside = dir.path.join(format!("{name}.{}{DELETE_SUFFIX}", uuid::Uuid::new_v4().simple()));
        dir.disk.rename(&dir.path.join(&name), &aside)?;
        dir.disk.sync_dir(&dir.path)?;
        dir.forget_checkpoints(&name);
        self.rebuilt.lock().push(tp);
        let opened = self.try_open(image, topic, tp, p, now_ms)?;
        dir.disk.remove_dir_all(&aside)?;
        Ok(opened)
    }

    fn try_open(
        &self,
        image: &MetadataImage,
        topic: &TopicImage,
        tp: TopicPartition,
        p: &PartitionImage,
        now_ms: i64,
    ) -> Result<Partition, Box<dyn std::error::Error>> {
        let name = format!("{}-{}", topic.name, tp.partition);
        let dir = self.place(&name, image, tp.topic_id)?;
        let config = Arc::new(topic_configs::of_topic(&self.config, image, &topic.name));
        let key = TopicPartitionKey { topic: topic.name.to_string(), partition: tp.partition };
        let tiered = p.pointer.state == PointerState::Open;
        let at_start = dir.at_start(&key);
        let mut log = Log::open(LogOptions {
            dir: dir.path.join(&name),
            topic_id: tp.topic_id,
            files: Arc::clone(&dir.files),
            config,
            log_start_offset: if tiered { p.pointer.log_start_offset } else { at_start.offsets.log_start },
            recovery_point: at_start.offsets.recovery_point,
            clean_shutdown: dir.was_clean,
            now_ms,
        })?;
        // What is neither here nor in the tier is gone, by retention or as its leader's log start said: the start follows.
        let local_start = log.offsets().local_log_start;
        if log.offsets().log_start < local_start && (!tiered || local_start > p.pointer.highest_copied_offset + 1) {
            log.advance_high_watermark(local_start);
            log.raise_log_start(local_start)?;
        }
        // All that recovery found is on this node's disk, and this node alone decides (replication factor 1): what is
        // not synced yet will be before anything new is acknowledged.
        if let Some(flush) = log.begin_flush() {
            flush.run()?;
            log.finish_flush(&flush);
        }
        let end = log.offsets().log_end;
        // Alone, a node decides by itself; otherwise what lies above may be truncated.
        let alone = p.record.replicas.len() == 1;
        let known = if alone { end } else { at_start.offsets.high_watermark.min(end) };
        log.advance_high_watermark(known);
        let remote = self.tier.as_ref().map(|tier| tier.partition(&topic.name, tp));
        let me = self.config.node_id;
        dir.opened(&key, end)?;
        let partition = Partition::new(me, tp, Arc::clone(&topic.name), dir, log, p.pointer, remote);
        partition.set_clean_until(at_start.clean_until);
        Ok(partition)
    }

    /// The log directory that has, or will have, the partition. An earlier topic's remains go aside, and so do its checkpoints.
    fn place(&self, name: &str, image: &MetadataImage, id: TopicId) -> io::Result<Arc<LogDirectory>> {
        let known = self.found.lock().get(name).copied();
        if let Some(index) = known {
            let dir = &self.dirs[index];
            let path = dir.path.join(name);
            let found_id = if dir.disk.exists(&path)? { read_topic_id(&*dir.disk, &path)? } else { None };
            match found_id {
                Some(other) if other != id => {
                    let deleted = image.topics.get(&other).is_some_and(|t| t.deleting_since_ms.is_some());
                    let suffix = if deleted { DELETE_SUFFIX } else { STRAY_SUFFIX };
                    let aside = dir.path.join(format!("{name}.{}{suffix}", other.0.simple()));
                    tracing::warn!(from = %path.display(), to = %aside.display(), "the directory holds another topic of this name");
                    dir.disk.rename(&path, &aside)?;
                    dir.disk.sync_dir(&dir.path)?;
                    dir.forget_checkpoints(name);
                }
                _ => return Ok(Arc::clone(dir)),
            }
        }
        let counts = self.counts();
        let alive = (0..self.dirs.len()).filter(|i| !self.dirs[*i].is_offline());
        let index = alive.min_by_key(|i| counts.get(i).copied().unwrap_or(0)).unwrap_or(0);
        self.found.lock().insert(name.to_owned(), index);
        self.dirs[index].forget_checkpoints(name);
        Ok(Arc::clone(&self.dirs[index]))
    }

    fn counts(&self) -> HashMap<usize, usize> {
        let mut counts = HashMap::new();
        if self.dirs.len() > 1 {
            for index in self.found.lock().values() {
                *counts.entry(*index).or_default() += 1;
            }
        }
        counts
    }

    /// Takes the directory of a deleted topic, or of a replica that was moved away, out of the way; it is removed after
    /// `file.delete.delay.ms`. Only what the image says is gone: a topic that it does not know is left alone.
    fn close_removed(&self, image: &MetadataImage, tp: TopicPartition, hosted: &Hosted, now_ms: i64) {
        let moved = image.partitions.get(&tp).is_some_and(|p| !p.record.replicas.contains(&self.config.node_id));
        let gone = image.topics.get(&tp.topic_id).filter(|t| t.deleting_since_ms.is_some() || moved);
        let (Some(topic), Hosted::Open(partition)) = (gone, hosted) else { return };
        let name = format!("{}-{}", topic.name, tp.partition);
        self.found.lock().remove(&name);
        let delay_ms = partition.config().file_delete_delay_ms;
        let dir = &partition.dir;
        let (from, to) =
            (dir.path.join(&name), dir.path.join(format!("{name}.{}{DELETE_SUFFIX}", tp.topic_id.0.simple())));
        let moved = match dir.disk.exists(&from) {
            Ok(false) => return,
            Ok(true) => dir.disk.rename(&from, &to).and_then(|()| dir.disk.sync_dir(&dir.path)),
            Err(error) => Err(error),
        };
        match moved {
            Ok(()) => self.doomed.lock().push(Doomed {
                topic_id: tp.topic_id,
                path: to,
                dir: Arc::clone(dir),
                at_ms: now_ms.saturating_add(delay_ms),
            }),
            Err(error) => tracing::error!(directory = %from.display(), %error, "a deleted partition stays on disk"),
        }
    }

    /// Removes what is due. Blocks; for the housekeeping thread.
    pub fn remove_doomed(&self, now_ms: i64) {
        let mut doomed = self.doomed.lock();
        let due: Vec<Doomed> = doomed.extract_if(.., |d| d.at_ms <= now_ms).collect();
        drop(doomed);
        for d in due {
            if let Err(error) = d.dir.disk.remove_dir_all(&d.path) {
                tracing::warn!(directory = %d.path.display(), %error, "cannot be removed; the next start tries again");
            }
        }
    }

    /// Whether directories of the topic still wait to be removed.
    pub fn has_files_of(&self, id: TopicId) -> bool {
        self.doomed.lock().iter().any(|d| d.topic_id == id) || self.set.load().keys().any(|tp| tp.topic_id == id)
    }

    /// Closes every log and says so. Nothing may append any more.
    pub fn close(&self) {
        let mut failed: Vec<PathBuf> = Vec::new();
        // From here on this thread alone syncs.
        self.dirs.iter().for_each(|dir| dir.flusher.stop());
        for partition in self.all() {
            partition.flush();
            if let Err(error) = partition.log().close() {
                tracing::warn!(partition = %partition.name(), %error, "not closed in order; the next start recovers it");
                failed.push(partition.dir.path.clone());
            }
        }
        self.write_checkpoints();
        // A log that was not opened was not recovered: a start that believes the mark would take it as it lies there.
        let open: HashSet<String> = self.all().iter().map(|p| p.name()).collect();
        let recovered = self.opened.load(Ordering::Acquire) && self.found.lock().keys().all(|name| open.contains(name));
        for dir in &self.dirs {
            if dir.is_offline() || failed.contains(&dir.path) || !(recovered || dir.was_clean) {
                continue;
            }
            if let Err(error) = dir.mark_clean() {
                tracing::warn!(dir = %dir.path.display(), %error, "no clean-shutdown mark; the next start recovers");
            }
        }
    }
}

/// What an image made of a partition here.
pub struct RoleChange {
    pub partition: Arc<Partition>,
    /// A leadership began.
    pub began: bool,
    /// Who is to be followed; -1 = nobody.
    pub leader: i32,
}

fn role_change(partition: &Arc<Partition>, p: &PartitionImage, now_ms: i64) -> RoleChange {
    let began = partition.take_role(&p.record, now_ms);
    let leader = if partition.leads() { -1 } else { p.record.leader };
    RoleChange { partition: Arc::clone(partition), began, leader }
}

/// Partitions that a step may have changed.
fn affected(update: &ImageUpdate, set: &Set) -> Vec<TopicPartition> {
    let image = &*update.image;
    if update.records.is_empty() {
        return image.partitions.keys().chain(set.keys()).copied().collect();
    }
    let mut changed = Vec::new();
    let of_topic = |id: TopicId, changed: &mut Vec<TopicPartition>| {
        let count = image.topics.get(&id).map_or(0, |t| t.partition_count);
        changed.extend((0..count).map(|partition| TopicPartition { topic_id: id, partition }));
    };
    for record in update.records.iter() {
        match record {
            MetadataRecord::Partition(p) => {
                changed.push(TopicPartition { topic_id: p.topic_id, partition: p.partition });
            }
            MetadataRecord::Advance(advance) => changed.push(advance.tp),
            MetadataRecord::Pointer { topic_id, partition, .. } => {
                changed.push(TopicPartition { topic_id: *topic_id, partition: *partition });
            }
            MetadataRecord::TopicDeleting { topic_id, .. } => of_topic(*topic_id, &mut changed),
            MetadataRecord::TopicDeleted { topic_id } => {
                changed.extend(set.keys().filter(|tp| tp.topic_id == *topic_id));
            }
            MetadataRecord::Config { resource: ResourceType::Topic, name, .. } => {
                if let Some(topic) = image.topic(name) {
                    of_topic(topic.id, &mut changed);
                }
            }
            _ => {}
        }
    }
    changed
}

/// Topic and number of a partition's directory.
fn parse_name(name: &str) -> Option<(&str, i32)> {
    let (topic, number) = name.rsplit_once('-')?;
    let number = number.parse().ok().filter(|n| *n >= 0)?;
    strandline_protocol::ids::validate_topic_name(topic).ok()?;
    Some((topic, number))
}
