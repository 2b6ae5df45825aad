//! [`Log`]: one partition on local disk.
//!
//! Owns: the list of segments, the offsets, and who may change them (one writer). Opening is in `recovery.rs`, appends in
//! `append.rs`, reads in `read.rs`, rolling, truncation and deletion in `shape.rs`, durability in `flush.rs`.
//! Does not own: when to flush, roll or free. Invariants, asserted by [`Log::offsets`]: log start <= local log start <= last
//! stable <= high watermark <= log end, and recovery point <= log end; segments tile [local log start, log end) in order.
//! A crash leaves: every record below the last finished flush, perhaps some after it, never a hole (`recovery.rs`).

use crate::batch_walk::{BatchWalk, SCAN_BLOCK_BYTES, WALK_BLOCK_BYTES, WalkError};
use crate::config::LogConfig;
use crate::error::{BadFile, CorruptLog, OpenError, ReadError};
use crate::file_cache::{FileCache, FileKind};
use crate::leader_epochs::{EpochEndOffset, EpochEntry, LeaderEpochs};
use crate::producer_state::ProducerEntry;
use crate::producers::{Producers, indexed_batch};
use crate::segment::{MemoryIndex, NO_TIMESTAMP, SegmentFiles};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use strandline_disk::{Disk, DiskFile};
use strandline_protocol::ids::TopicId;
use strandline_protocol::record_batch::BatchHeader;

/// The largest timestamp of a segment is not known yet.
const UNKNOWN_TIMESTAMP: i64 = i64::MIN;

/// What a log is opened with.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// The partition's directory, `<topic>-<partition>`; it may be missing.
    pub dir: PathBuf,
    pub topic_id: TopicId,
    /// Shared by all logs of a log directory.
    pub files: Arc<FileCache>,
    pub config: Arc<LogConfig>,
    /// As checkpointed; 0 if it never was.
    pub log_start_offset: i64,
    /// As checkpointed, exclusive: all below is on the medium. It must be checkpointed anew after a truncation, before the
    /// next append.
    pub recovery_point: i64,
    /// True if the log was closed by [`Log::close`] and not touched since.
    pub clean_shutdown: bool,
    pub now_ms: i64,
}

/// The offsets of a log, all exclusive ends or inclusive starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogOffsets {
    pub log_start: i64,
    pub local_log_start: i64,
    pub last_stable: i64,
    pub high_watermark: i64,
    pub log_end: i64,
    /// All below is on the medium.
    pub recovery_point: i64,
}

/// One segment, for the tier map and retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    pub base_offset: i64,
    /// Exclusive end.
    pub next_offset: i64,
    pub size_bytes: u64,
    /// -1 if no record has a timestamp.
    pub max_timestamp: i64,
    pub active: bool,
}

/// One segment as the log sees it.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) files: Arc<SegmentFiles>,
    /// Bytes of the `.log` file.
    pub(crate) size: u64,
    max_timestamp: AtomicI64,
    /// Largest timestamp of the first batch, for `segment.ms`; `None` until it was read.
    pub(crate) first_timestamp: Option<i64>,
    /// Time at which the segment was created or opened, for `segment.ms` of records without timestamps.
    pub(crate) created_ms: i64,
}

impl Segment {
    pub(crate) fn new(files: SegmentFiles, size: u64, created_ms: i64) -> Self {
        let max_timestamp = AtomicI64::new(UNKNOWN_TIMESTAMP);
        Self { files: Arc::new(files), size, max_timestamp, first_timestamp: None, created_ms }
    }

    pub(crate) fn base(&self) -> i64 {
        self.files.base_offset
    }

    /// The largest timestamp: from memory, or from the last time index entry and a walk over what comes after it. The file of a segment that
    /// was sealed just before a power loss, or that is still written to, lacks the last entry.
    pub(crate) fn max_timestamp(&self) -> io::Result<i64> {
        if let Some(max) = self.files.with_index(|index| index.max_timestamp) {
            return Ok(max);
        }
        let known = self.max_timestamp.load(Ordering::Relaxed);
        if known != UNKNOWN_TIMESTAMP || self.size == 0 {
            return Ok(known.max(NO_TIMESTAMP));
        }
        let file = self.files.open(FileKind::Log)?;
        let max = match self.files.last_time()? {
            Some((time, offset)) => {
                let (indexed, position) = self.files.lookup_offset(offset)?;
                let sound = indexed <= offset && indexed_batch(&*file, position, self.size, indexed);
                time.max(self.walk_max_timestamp(&*file, if sound { position } else { 0 }, 1)?)
            }
            None => self.walk_max_timestamp(&*file, 0, 0)?,
        };
        self.set_max_timestamp(max);
        Ok(max)
    }

    /// The largest timestamp of the batches from `position` on that have at least `records_min` records.
    fn walk_max_timestamp(&self, file: &dyn DiskFile, position: u64, records_min: i32) -> io::Result<i64> {
        let mut walk = BatchWalk::new(file, position, self.size, WALK_BLOCK_BYTES);
        let mut max = NO_TIMESTAMP;
        loop {
            match walk.next_batch() {
                Ok(Some((_, header))) if header.record_count < records_min => {}
                Ok(Some((_, header))) => max = max.max(header.max_timestamp),
                Ok(None) | Err(WalkError::Bad { .. }) => return Ok(max),
                Err(WalkError::Io(error)) => return Err(error),
            }
        }
    }

    /// What the time index knows; a segment without records in it is walked, so that it gets old too.
    pub(crate) fn set_max_timestamp(&self, max: i64) {
        self.max_timestamp.store(if max < 0 { UNKNOWN_TIMESTAMP } else { max }, Ordering::Relaxed);
    }

    pub(crate) fn forget_max_timestamp(&self) {
        self.set_max_timestamp(UNKNOWN_TIMESTAMP);
    }

    /// The largest timestamp of the first batch; `None` if there is no batch.
    pub(crate) fn first_timestamp(&mut self) -> io::Result<Option<i64>> {
        if self.first_timestamp.is_none() && self.size > 0 {
            let file = self.files.open(FileKind::Log)?;
            let mut walk = BatchWalk::new(&*file, 0, self.size, 61);
            if let Ok(Some((_, header))) = walk.next_batch() {
                self.first_timestamp = Some(header.max_timestamp);
            }
        }
        Ok(self.first_timestamp)
    }
}

/// Names that were created and whose directories are not synced yet.
#[derive(Debug, Default)]
pub(crate) struct Creations {
    /// Counts creations, so that a flush knows which ones it covers.
    pub(crate) count: u64,
    pub(crate) synced: u64,
    /// The partition's directory itself is new: its parent must be synced too.
    pub(crate) dir_is_new: bool,
}

/// One partition on local disk. See the module documentation.
#[derive(Debug)]
pub struct Log {
    pub(crate) id: u64,
    pub(crate) dir: Arc<Path>,
    pub(crate) topic_id: TopicId,
    pub(crate) cache: Arc<FileCache>,
    pub(crate) config: Arc<LogConfig>,
    /// Oldest first; the last one is active. Empty if nothing is on disk.
    pub(crate) segments: Vec<Segment>,
    pub(crate) log_start: i64,
    pub(crate) log_end: i64,
    pub(crate) high_watermark: i64,
    pub(crate) flushed_end: i64,
    /// The recovery point that a restart would be given.
    pub(crate) checkpointed: i64,
    /// True once the directory and `partition.metadata` exist.
    pub(crate) on_disk: bool,
    pub(crate) epochs: Mutex<Option<LeaderEpochs>>,
    pub(crate) epochs_dirty: bool,
    pub(crate) producers: Producers,
    /// Offsets of the `.snapshot` files.
    pub(crate) snapshots: BTreeSet<i64>,
    /// `.log` files with bytes that no finished flush covers, kept open so that no sync error is missed.
    pub(crate) dirty: BTreeMap<i64, Arc<dyn DiskFile>>,
    /// Index and snapshot files that were written and not synced.
    pub(crate) unsynced: BTreeSet<PathBuf>,
    pub(crate) creations: Creations,
    /// Raised by truncation: a flush that began before is void.
    pub(crate) generation: u64,
    pub(crate) failed: bool,
    pub(crate) headers: Vec<BatchHeader>,
}

impl Log {
    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        self.cache.disk()
    }

    /// The first offset that is in the log's own files, or would be.
    pub(crate) fn local_log_start(&self) -> i64 {
        let first = self.segments.first().map_or(self.log_end, Segment::base);
        self.log_start.max(first)
    }

    /// The offsets, in their order. Loads producer state on first use.
    pub fn offsets(&self) -> LogOffsets {
        let local_log_start = self.local_log_start();
        let last_stable = match self.producers.first_unstable_offset(self) {
            Ok(Some(first)) => first.min(self.high_watermark).max(local_log_start),
            Ok(None) => self.high_watermark,
            Err(error) => {
                tracing::error!(dir = %self.dir.display(), %error, "producer state cannot be read, nothing is stable");
                local_log_start
            }
        };
        let offsets = LogOffsets {
            log_start: self.log_start,
            local_log_start,
            last_stable,
            high_watermark: self.high_watermark,
            log_end: self.log_end,
            recovery_point: self.flushed_end,
        };
        assert!(offsets.log_start <= offsets.local_log_start, "{offsets:?}");
        assert!(offsets.local_log_start <= offsets.last_stable, "{offsets:?}");
        assert!(offsets.last_stable <= offsets.high_watermark, "{offsets:?}");
        assert!(offsets.high_watermark <= offsets.log_end, "{offsets:?}");
        assert!(offsets.recovery_point <= offsets.log_end, "{offsets:?}");
        offsets
    }

    /// Bytes of all local `.log` files.
    pub fn size_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.size).sum()
    }

    /// Bytes of the local segments whose base offset is at or after `offset`.
    pub fn bytes_from(&self, offset: i64) -> u64 {
        let from = self.segments.partition_point(|segment| segment.base() < offset);
        self.segments[from..].iter().map(|segment| segment.size).sum()
    }

    /// Local segments, the active one included.
    pub fn segment_count(&self) -> usize {
        self.segments.len()
    }

    pub fn config(&self) -> &Arc<LogConfig> {
        &self.config
    }

    /// The partition's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn topic_id(&self) -> TopicId {
        self.topic_id
    }

    /// Applies to what comes: existing segments stay as they are.
    pub fn set_config(&mut self, config: Arc<LogConfig>) {
        self.config = config;
    }

    /// True after [`Log::fail`] or a failed write.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// Takes no more appends, after an I/O error.
    pub fn fail(&mut self) {
        self.failed = true;
    }

    /// Exclusive end of segment number `at`.
    pub(crate) fn segment_end(&self, at: usize) -> i64 {
        self.segments.get(at + 1).map_or(self.log_end, Segment::base)
    }

    /// All local segments, oldest first. Reads the last time index entry of those whose largest timestamp is not known yet.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        (0..self.segments.len()).map(|at| self.segment_info(at)).collect()
    }

    pub(crate) fn segment_info(&self, at: usize) -> SegmentInfo {
        let segment = &self.segments[at];
        let max_timestamp = segment.max_timestamp().unwrap_or_else(|error| {
            // Retention never takes a segment whose age it does not know.
            tracing::error!(path = %segment.files.path(FileKind::TimeIndex).display(), %error, "no largest timestamp");
            i64::MAX
        });
        SegmentInfo {
            base_offset: segment.base(),
            next_offset: self.segment_end(at),
            size_bytes: segment.size,
            max_timestamp,
            active: at + 1 == self.segments.len(),
        }
    }

    /// Moves the high watermark up to `offset`, at most to the log end. True if it or the last stable offset moved.
    pub fn advance_high_watermark(&mut self, offset: i64) -> bool {
        let offset = offset.min(self.log_end);
        if offset <= self.high_watermark {
            return false;
        }
        self.high_watermark = offset;
        self.producers.on_high_watermark(offset);
        true
    }

    /// Runs `use_epochs` on the epochs, read from their file on first use.
    pub(crate) fn with_epochs<T>(&self, use_epochs: impl FnOnce(&mut LeaderEpochs) -> T) -> Result<T, OpenError> {
        let mut slot = self.epochs.lock();
        if slot.is_none() {
            let path = || self.dir.join(LeaderEpochs::FILE_NAME);
            let mut loaded = LeaderEpochs::load(&**self.disk(), &self.dir).map_err(|e| OpenError::io(path())(e))?;
            loaded.truncate_from_end_unwritten(self.log_end);
            loaded.truncate_from_start_unwritten(self.log_start);
            // Epochs are forgotten as the log start rises, and a power loss can take the log start back.
            let least = self.log_start.max(self.local_log_start());
            if let Some(first) = loaded.earliest().filter(|first| first.start_offset > least) {
                loaded.prepend_unwritten(self.epochs_of_batches(least, first.start_offset));
            }
            *slot = Some(loaded);
        }
        let Some(epochs) = slot.as_mut() else { unreachable!("it was just loaded") };
        Ok(use_epochs(epochs))
    }

    /// The epochs in which the batches of `from..until` were written, as far as they can be read.
    fn epochs_of_batches(&self, from: i64, until: i64) -> Vec<EpochEntry> {
        let mut begun: Vec<EpochEntry> = Vec::new();
        for segment in self.segments.iter().filter(|segment| segment.base() < until) {
            let file = match segment.files.open(FileKind::Log) {
                Ok(file) => file,
                Err(error) => {
                    tracing::warn!(dir = %self.dir.display(), %error, "older leader epochs are not known");
                    return begun;
                }
            };
            let mut walk = BatchWalk::new(&*file, 0, segment.size, WALK_BLOCK_BYTES);
            while let Ok(Some((_, header))) = walk.next_batch()
                && header.base_offset < until
            {
                let (epoch, start_offset) = (header.partition_leader_epoch, header.base_offset);
                if header.last_offset() >= from && begun.last().is_none_or(|last| last.epoch < epoch) {
                    begun.push(EpochEntry { epoch, start_offset });
                }
            }
        }
        begun
    }

    fn epochs_or<T>(&self, otherwise: T, use_epochs: impl FnOnce(&mut LeaderEpochs) -> T) -> T {
        self.with_epochs(use_epochs).unwrap_or_else(|error| {
            tracing::error!(dir = %self.dir.display(), %error, "leader epochs cannot be read");
            otherwise
        })
    }

    /// The epoch in which `offset` was written; `None` if it is not known.
    pub fn epoch_for_offset(&self, offset: i64) -> Option<i32> {
        self.epochs_or(None, |epochs| epochs.epoch_for_offset(offset))
    }

    /// The answer to OffsetForLeaderEpoch.
    pub fn end_offset_for_epoch(&self, epoch: i32) -> EpochEndOffset {
        let log_end = self.log_end;
        let undefined = EpochEndOffset { epoch: -1, end_offset: -1 };
        self.epochs_or(undefined, |epochs| epochs.end_offset_for(epoch, log_end))
    }

    /// The newest epoch.
    pub fn latest_epoch(&self) -> Option<i32> {
        self.epochs_or(None, |epochs| epochs.latest().map(|entry| entry.epoch))
    }

    /// Notes that `epoch` began at `start_offset`. Written by [`Log::persist`].
    pub fn assign_epoch(&mut self, epoch: i32, start_offset: i64) {
        let changed = self.epochs_or(false, |epochs| epochs.assign_unwritten(epoch, start_offset));
        self.epochs_dirty |= changed;
    }

    /// The epochs that began at or before `last_offset`, oldest first: (epoch, start offset).
    pub fn leader_epochs_until(&self, last_offset: i64) -> Vec<(i32, i64)> {
        self.epochs_or(Vec::new(), |epochs| {
            let until = epochs.entries().iter().take_while(|entry| entry.start_offset <= last_offset);
            until.map(|entry| (entry.epoch, entry.start_offset)).collect()
        })
    }

    /// All producers, in order of their ids.
    pub fn producers(&self) -> Result<Vec<(i64, ProducerEntry)>, ReadError> {
        let mut all = self
            .producers
            .with(self, |state| state.iter().map(|(id, entry)| (id, entry.clone())).collect::<Vec<_>>())?;
        all.sort_unstable_by_key(|(id, _)| *id);
        Ok(all)
    }

    /// Forgets producers that wrote nothing for `expiration_ms`. Returns how many; none if the state is not in memory.
    pub fn remove_expired_producers(&mut self, now_ms: i64, expiration_ms: i64) -> usize {
        self.producers.loaded_mut().map_or(0, |state| state.remove_expired(now_ms, expiration_ms))
    }

    /// Makes the active segment's indexes ready for appends: read from their files, the log's tail walked and checked.
    pub(crate) fn ensure_active_index(&mut self) -> Result<(), OpenError> {
        let (log_end, interval) = (self.log_end, self.config.index_interval_bytes);
        let Some(active) = self.segments.last_mut() else {
            return Ok(());
        };
        if active.files.index_in_memory() {
            return Ok(());
        }
        let path = active.files.path(FileKind::Log);
        let index = active.files.read_index(active.size).map_err(OpenError::io(&path))?;
        let (index, end) = walk_tail(active, index, interval, i64::MAX)?;
        if end != log_end && !(active.size == 0 && log_end >= end) {
            let reason = format!("its batches end at offset {end}, the log was closed at {log_end}");
            return Err(BadFile { path, reason }.into());
        }
        active.files.set_index(index);
        Ok(())
    }

    /// Releases what an idle log need not hold: indexes, producer state, open files. All comes back on first use.
    pub fn release(&mut self) {
        if let Err(error) = self.write_for_release() {
            tracing::warn!(dir = %self.dir.display(), %error, "an idle log keeps its state in memory");
            return;
        }
        let keep = self.snapshots.contains(&self.log_end);
        if keep || self.segments.is_empty() {
            self.producers.unload();
        }
        for segment in &self.segments {
            if segment.files.index_in_memory() {
                segment.set_max_timestamp(segment.max_timestamp().unwrap_or(UNKNOWN_TIMESTAMP));
                segment.files.unload_index();
            }
            segment.files.forget();
        }
        if self.on_disk && !self.epochs_dirty {
            *self.epochs.lock() = None;
        }
        self.headers = Vec::new();
    }
}

/// Brings indexes up to the end of the segment's bytes, from their last entry on, CRCs checked. Returns them with the
/// offset behind the last batch (the base offset if there is none). Stops before a batch that passes `below` (exclusive).
pub(crate) fn walk_tail(
    segment: &Segment,
    index: MemoryIndex,
    interval_bytes: i32,
    below: i64,
) -> Result<(MemoryIndex, i64), OpenError> {
    match walk_sound(segment, index, interval_bytes, below)? {
        (index, end, None) => Ok((index, end)),
        (_, _, Some(corrupt)) => Err(corrupt.into()),
    }
}

/// As [`walk_tail`], but a bad batch ends the walk and is returned beside what is sound.
pub(crate) fn walk_sound(
    segment: &Segment,
    mut index: MemoryIndex,
    interval_bytes: i32,
    below: i64,
) -> Result<(MemoryIndex, i64, Option<CorruptLog>), OpenError> {
    let path = segment.files.path(FileKind::Log);
    let (indexed, mut position) = index.truncate(below, segment.size);
    let mut end = segment.base();
    if segment.size == 0 {
        return Ok((index, end, None));
    }
    let file = segment.files.open(FileKind::Log).map_err(OpenError::io(&path))?;
    if !indexed_batch(&*file, position, segment.size, indexed) {
        // The index leads astray: it is built anew.
        (index, position) = (MemoryIndex::new(segment.base()), 0);
    }
    let mut walk = BatchWalk::new(&*file, position, segment.size, SCAN_BLOCK_BYTES);
    loop {
        let step = walk.next_batch().and_then(|step| {
            if let Some((position, header)) = &step {
                walk.verify_crc(*position, header)?;
            }
            Ok(step)
        });
        match step {
            Ok(None) => return Ok((index, end, None)),
            Ok(Some((_, header))) if header.next_offset() > below => return Ok((index, end, None)),
            Ok(Some((at, header))) => {
                if at == position && position > 0 {
                    index.count_indexed(&header);
                } else {
                    index.add_batch(&header, at, interval_bytes);
                }
                end = header.next_offset();
            }
            Err(WalkError::Io(error)) => return Err(OpenError::io(&path)(error)),
            Err(WalkError::Bad { position, reason }) => {
                let corrupt = CorruptLog { path, position, expected_offset: end, next_valid_offset: -1, reason };
                return Ok((index, end, Some(corrupt)));
            }
        }
    }
}
