//! One of `log.dirs`: its lock, its identity, its checkpoints, its flusher, whether it still works.
//!
//! Owns `.lock`, `meta.properties`, `.kafka_cleanshutdown` and the offset checkpoints (docs/formats/log-dir-checkpoints.md).
//! Does not own what lies in partition directories.
//! Invariants: one process at a time; a directory of another cluster or node is refused, never changed; a clean-shutdown
//! mark is believed once, and gone before the first append.
//! A crash leaves older checkpoints: recovery then reads more, and nothing is lost.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use strandline_disk::{DirLock, Disk, Workers};
use strandline_log::checkpoint::{
    CLEANER_CHECKPOINT, HIGH_WATERMARK_CHECKPOINT, LOG_START_CHECKPOINT, OffsetCheckpoint, RECOVERY_POINT_CHECKPOINT,
    TopicPartitionKey, read_offsets, write_offsets,
};
use strandline_log::file_cache::FileCache;

use crate::config::Properties;
use crate::flush::Flusher;
use crate::replication::losses::Losses;

const LOCK: &str = ".lock";
const META: &str = "meta.properties";
const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";
const META_BYTES_MAX: u64 = 64 << 10;

/// Why a log directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogDirError {
    #[error("the data directory {} is in use by another process; stop that one, or use another directory", .path.display())]
    InUse { path: PathBuf },
    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} belongs to {what} {found}, this is {expected}; use another directory, or the matching configuration", .path.display())]
    Foreign { path: PathBuf, what: &'static str, found: String, expected: String },
    #[error("{}: {detail}", .path.display())]
    BadMeta { path: PathBuf, detail: String },
}

impl LogDirError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> LogDirError {
        let path = path.to_owned();
        move |source| LogDirError::Io { path, source }
    }
}

/// What `meta.properties` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    pub cluster_id: String,
    pub node_id: i32,
    pub directory_id: String,
}

/// A directory that is locked by this process, not yet in use.
pub struct LockedDir {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    lock: Box<dyn DirLock>,
    pub meta: Option<Meta>,
}

impl LockedDir {
    /// Creates the directory if need be, takes its lock, and reads who it belongs to.
    pub fn lock(disk: Arc<dyn Disk>, path: &Path) -> Result<LockedDir, LogDirError> {
        disk.create_dir_all_durably(path).map_err(LogDirError::io(path))?;
        let lock = disk.lock(&path.join(LOCK)).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => LogDirError::InUse { path: path.to_owned() },
            _ => LogDirError::Io { path: path.to_owned(), source: error },
        })?;
        let meta = read_meta(&*disk, &path.join(META))?;
        Ok(LockedDir { path: path.to_owned(), disk, lock, meta })
    }

    /// Whether the last process closed its logs in order, or there was none.
    pub fn was_closed(&self) -> bool {
        self.meta.is_none() || self.disk.exists(&self.path.join(CLEAN_SHUTDOWN)).unwrap_or(false)
    }

    /// Checks that the directory belongs to `meta`, or gives it to it; then reads its checkpoints.
    pub fn open(self, wanted: &Meta, files: usize, workers: &Workers) -> Result<LogDirectory, LogDirError> {
        let name = self.path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let path = self.path.clone();
        let start = || Flusher::start(&format!("flush-{name}"), workers).map_err(LogDirError::io(&path));
        self.open_with(wanted, files, start)
    }

    /// [`LockedDir::open`], with the flusher that `flusher` makes once the directory is known to be ours.
    pub fn open_with(
        self,
        wanted: &Meta,
        files: usize,
        flusher: impl FnOnce() -> Result<Flusher, LogDirError>,
    ) -> Result<LogDirectory, LogDirError> {
        let path = self.path;
        match &self.meta {
            None => write_meta(&*self.disk, &path.join(META), wanted).map_err(LogDirError::io(&path))?,
            Some(found) => {
                let foreign = |what, found: String, expected: String| {
                    Err(LogDirError::Foreign { path: path.clone(), what, found, expected })
                };
                if found.cluster_id != wanted.cluster_id {
                    return foreign("cluster", found.cluster_id.clone(), wanted.cluster_id.clone());
                }
                if found.node_id != wanted.node_id {
                    return foreign("node", found.node_id.to_string(), wanted.node_id.to_string());
                }
            }
        }
        let io = || LogDirError::io(&path);
        let clean_file = path.join(CLEAN_SHUTDOWN);
        let was_clean = self.disk.exists(&clean_file).map_err(io())?;
        if was_clean {
            self.disk.remove_file(&clean_file).map_err(io())?;
            self.disk.sync_dir(&path).map_err(io())?;
        }
        let read = |name: &str| read_offsets(&*self.disk, &path.join(name)).map_err(LogDirError::io(&path.join(name)));
        let mut start: BTreeMap<TopicPartitionKey, AtStart> = BTreeMap::new();
        let mut note = |name: &str, field: fn(&mut AtStart) -> &mut i64| {
            read(name)
                .map(|offsets| offsets.into_iter().for_each(|(key, at)| *field(start.entry(key).or_default()) = at))
        };
        note(RECOVERY_POINT_CHECKPOINT, |start| &mut start.offsets.recovery_point)?;
        note(LOG_START_CHECKPOINT, |start| &mut start.offsets.log_start)?;
        note(HIGH_WATERMARK_CHECKPOINT, |start| &mut start.offsets.high_watermark)?;
        note(CLEANER_CHECKPOINT, |start| &mut start.clean_until)?;
        let flusher = flusher()?;
        Ok(LogDirectory {
            files: Arc::new(FileCache::new(Arc::clone(&self.disk), files)),
            disk: self.disk,
            flusher,
            was_clean,
            losses: Arc::default(),
            offline: Mutex::new(None),
            written: Mutex::new(start.iter().map(|(key, start)| (key.clone(), start.offsets)).collect()),
            start: Mutex::new(start),
            _lock: self.lock,
            path,
        })
    }
}

/// What the last process left of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AtStart {
    pub offsets: CheckpointedOffsets,
    /// How far compaction has cleaned.
    pub clean_until: i64,
}

/// Offsets of one partition that go into the checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CheckpointedOffsets {
    pub recovery_point: i64,
    pub log_start: i64,
    pub high_watermark: i64,
}

/// A log directory in use.
pub struct LogDirectory {
    pub path: PathBuf,
    pub disk: Arc<dyn Disk>,
    pub files: Arc<FileCache>,
    pub flusher: Flusher,
    /// The last process closed its logs in order.
    pub was_clean: bool,
    /// Hears of failures and damage.
    pub losses: Arc<Losses>,
    offline: Mutex<Option<String>>,
    /// What the last process left of partitions that were not opened since. It stays in the checkpoints until they are.
    start: Mutex<BTreeMap<TopicPartitionKey, AtStart>>,
    /// What the checkpoint files hold.
    written: Mutex<BTreeMap<TopicPartitionKey, CheckpointedOffsets>>,
    _lock: Box<dyn DirLock>,
}

impl LogDirectory {
    pub fn is_offline(&self) -> bool {
        self.offline.lock().is_some()
    }

    /// Takes the directory out of service after an I/O error. Said once, loudly.
    pub fn fail(&self, reason: &str) {
        let mut offline = self.offline.lock();
        if offline.is_none() {
            tracing::error!(
                dir = %self.path.display(), reason,
                "the log directory is offline: its partitions are not served until the disk is repaired and the node restarted"
            );
            *offline = Some(reason.to_owned());
            drop(offline);
            self.losses.directory_failed();
        }
    }

    /// Bytes that may still be written, and bytes in all; -1 = unknown.
    pub fn space(&self) -> (i64, i64) {
        let usable = self.disk.available_space(&self.path).ok().and_then(|bytes| i64::try_from(bytes).ok());
        (usable.unwrap_or(-1), total_bytes(&self.path).unwrap_or(-1))
    }

    /// Replaces the checkpoints if anything changed. `opened` are the partitions that are open; their recovery points must be those
    /// of synced offsets.
    pub fn write_checkpoints(&self, opened: &BTreeMap<TopicPartitionKey, CheckpointedOffsets>) -> io::Result<()> {
        let mut all: BTreeMap<_, _> =
            self.start.lock().iter().map(|(key, start)| (key.clone(), start.offsets)).collect();
        all.extend(opened.iter().map(|(key, offsets)| (key.clone(), *offsets)));
        let mut written = self.written.lock();
        if *written == all || self.is_offline() {
            return Ok(());
        }
        self.replace_checkpoints(&all)?;
        *written = all;
        Ok(())
    }

    fn replace_checkpoints(&self, all: &BTreeMap<TopicPartitionKey, CheckpointedOffsets>) -> io::Result<()> {
        let write = |name: &str, of: fn(&CheckpointedOffsets) -> i64| {
            let offsets: OffsetCheckpoint = all.iter().map(|(key, offsets)| (key.clone(), of(offsets))).collect();
            write_offsets(&*self.disk, &self.path.join(name), &offsets)
        };
        write(RECOVERY_POINT_CHECKPOINT, |o| o.recovery_point)?;
        write(LOG_START_CHECKPOINT, |o| o.log_start)?;
        write(HIGH_WATERMARK_CHECKPOINT, |o| o.high_watermark)
    }

    /// Says that what the last process left of the partition in directory `name` is not true any more: its log begins anew.
    pub fn forget_checkpoints(&self, name: &str) {
        self.start.lock().retain(|key, _| format!("{}-{}", key.topic, key.partition) != name);
    }

    /// What the last process left of a partition; zeros if nothing, or if it was opened since, or its log has begun anew.
    pub fn at_start(&self, key: &TopicPartitionKey) -> AtStart {
        self.start.lock().get(key).copied().unwrap_or_default()
    }

    /// Says that a partition is open and ends at `log_end`: from now on its own offsets count. Checkpoints that promise more are of a
    /// log that was cut, or of an earlier one of this name, and are lowered before anything is appended: the next recovery would
    /// trust what comes to stand there.
    pub fn opened(&self, key: &TopicPartitionKey, log_end: i64) -> io::Result<()> {
        self.start.lock().remove(key);
        let mut written = self.written.lock();
        let Some(promised) = written.get(key).filter(|promised| promised.recovery_point > log_end) else {
            return Ok(());
        };
        let kept = CheckpointedOffsets {
            recovery_point: log_end,
            log_start: promised.log_start.min(log_end),
            high_watermark: promised.high_watermark.min(log_end),
        };
        let mut all = written.clone();
        all.insert(key.clone(), kept);
        self.replace_checkpoints(&all)?;
        *written = all;
        Ok(())
    }

    /// Replaces the checkpoint of compaction.
    pub fn write_cleaner_checkpoint(&self, offsets: &OffsetCheckpoint) -> io::Result<()> {
        write_offsets(&*self.disk, &self.path.join(CLEANER_CHECKPOINT), offsets)
    }

    /// Says that all logs of the directory were closed in order. The last thing before the process ends.
    pub fn mark_clean(&self) -> io::Result<()> {
        self.disk.replace_file(&self.path.join(CLEAN_SHUTDOWN), b"{\"version\":0,\"brokerEpoch\":-1}")
    }
}

fn total_bytes(path: &Path) -> Option<i64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    i64::try_from(stat.f_blocks.saturating_mul(stat.f_frsize)).ok()
}

fn read_meta(disk: &dyn Disk, path: &Path) -> Result<Option<Meta>, LogDirError> {
    if !disk.exists(path).map_err(LogDirError::io(path))? {
        return Ok(None);
    }
    let bad = |detail: &str| LogDirError::BadMeta { path: path.to_owned(), detail: detail.to_owned() };
    let bytes = disk.read_file(path, META_BYTES_MAX).map_err(LogDirError::io(path))?;
    let text = String::from_utf8(bytes).map_err(|_| bad("not UTF-8"))?;
    let mut properties = Properties::default();
    properties.add_text(&text, META).map_err(|e| bad(&e.to_string()))?;
    let required = |key: &str| properties.get(key).map(str::to_owned).ok_or_else(|| bad(&format!("{key} is missing")));
    let node_id = properties.get("node.id").or_else(|| properties.get("broker.id"));
    Ok(Some(Meta {
        cluster_id: required("cluster.id")?,
        node_id: node_id.and_then(|id| id.parse().ok()).ok_or_else(|| bad("node.id is missing or not a number"))?,
        directory_id: properties.get("directory.id").unwrap_or_default().to_owned(),
    }))
}

fn write_meta(disk: &dyn Disk, path: &Path, meta: &Meta) -> io::Result<()> {
    let text = format!(
        "version=1\ncluster.id={}\nnode.id={}\ndirectory.id={}\n",
        meta.cluster_id, meta.node_id, meta.directory_id
    );
    disk.replace_file(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use strandline_disk::RealDisk;

    const THREADS: Workers = Workers::Threads;

    fn meta(node_id: i32) -> Meta {
        Meta { cluster_id: "c".to_owned(), node_id, directory_id: "d".to_owned() }
    }

    #[test]
    fn a_directory_is_used_by_one_process_of_one_node() {
        let dir = tempfile::tempdir().unwrap();
        let lock = || LockedDir::lock(Arc::new(RealDisk), dir.path());
        let first = lock().unwrap().open(&meta(1), 16, &THREADS).unwrap();
        assert!(matches!(lock(), Err(LogDirError::InUse { .. })));
        first.flusher.stop();
        drop(first);
        let locked = lock().unwrap();
        assert_eq!(locked.meta, Some(meta(1)));
        assert!(matches!(locked.open(&meta(2), 16, &THREADS), Err(LogDirError::Foreign { what: "node", .. })));
    }

    #[test]
    fn a_new_directory_survives_a_loss_of_power() {
        for seed in 0..32 {
            let disk = strandline_disk::FaultyDisk::new();
            drop(LockedDir::lock(Arc::new(disk.clone()), Path::new("/var/data")).unwrap());
            assert!(disk.crash(seed).exists(Path::new("/var/data")).unwrap());
        }
    }

    #[test]
    fn checkpoints_come_back_and_a_clean_mark_is_believed_once() {
        let dir = tempfile::tempdir().unwrap();
        let open = || LockedDir::lock(Arc::new(RealDisk), dir.path()).unwrap().open(&meta(1), 16, &THREADS).unwrap();
        let key = TopicPartitionKey { topic: "t".to_owned(), partition: 3 };
        let offsets = CheckpointedOffsets { recovery_point: 7, log_start: 2, high_watermark: 6 };
        let first = open();
        assert!(!first.was_clean);
        first.write_checkpoints(&BTreeMap::from([(key.clone(), offsets)])).unwrap();
        first.mark_clean().unwrap();
        first.flusher.stop();
        drop(first);
        let second = open();
        assert!(second.was_clean);
        assert_eq!(second.at_start(&key).offsets, offsets);
        // One that is not opened keeps what it had.
        second.write_checkpoints(&BTreeMap::new()).unwrap();
        second.flusher.stop();
        drop(second);
        let third = open();
        assert!(!third.was_clean);
        assert_eq!(third.at_start(&key).offsets, offsets);
        // One that is, and has nothing any more, leaves nothing.
        third.opened(&key, 5).unwrap();
        assert_eq!(third.at_start(&key), AtStart::default());
        third.flusher.stop();
        drop(third);
        let fourth = open();
        let kept = CheckpointedOffsets { recovery_point: 5, log_start: 2, high_watermark: 5 };
        assert_eq!(fourth.at_start(&key).offsets, kept, "its log was cut at 5");
        fourth.opened(&key, 5).unwrap();
        fourth.write_checkpoints(&BTreeMap::new()).unwrap();
        fourth.flusher.stop();
        drop(fourth);
        let fifth = open();
        assert_eq!(fifth.at_start(&key), AtStart::default());
        fifth.flusher.stop();
    }
}
