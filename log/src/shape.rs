//! Changes of a log's shape: rolling, freeing, truncation, starting again elsewhere.
//!
//! Owns: which files come and go, and in which order. Does not own: when. Invariants: files go oldest first when freed and
//! newest first when truncated, with the directory synced in between, so that no crash leaves a hole.
//! A crash leaves: `.deleted` files, which the next start removes, or fewer files removed than asked for.

use crate::error::{LogError, OpenError, ReadError};
use crate::file_cache::FileKind;
use crate::leader_epochs::{EpochEntry, LeaderEpochs};
use crate::log::{Log, Segment, SegmentInfo, walk_tail};
use crate::partition_metadata;
use crate::producer_snapshot;
use crate::producer_state::ProducerState;
use crate::producers::Producers;
use crate::retention::{RetentionLimits, expired_before};
use crate::segment::SegmentFiles;
use crate::transaction_index;
use bytes::Bytes;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use strandline_disk::Disk;

/// A segment's `.log` file, readable while its segment may be freed; opened on first use through the shared cache.
#[derive(Debug, Clone)]
pub struct SegmentFile(Arc<SegmentFiles>);

impl SegmentFile {
    /// Reads into `buf` from byte `offset`; fewer bytes only at the end of the file.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.open(FileKind::Log)?.read_at(buf, offset)
    }

    /// The bytes of the offset index and of the time index, as they are on disk: exact length, for a sealed segment.
    pub fn read_indexes(&self) -> io::Result<(Bytes, Bytes)> {
        let read = |kind| -> io::Result<Bytes> {
            let file = self.0.open(kind)?;
            let mut bytes = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
            let read = file.read_at(&mut bytes, 0)?;
            bytes.truncate(read);
            Ok(bytes.into())
        };
        Ok((read(FileKind::OffsetIndex)?, read(FileKind::TimeIndex)?))
    }
}

/// A closed segment, for the tier.
#[derive(Debug, Clone)]
pub struct SealedSegment {
    pub base_offset: i64,
    /// The next segment's base offset less one.
    pub last_offset: i64,
    pub size_bytes: u64,
    /// -1 if no record has a timestamp.
    pub max_timestamp: i64,
    pub file: SegmentFile,
}

/// Segments that are gone from the log; their files remain until [`DeletedSegments::remove`].
#[derive(Debug, Default)]
#[must_use = "the files stay until they are removed"]
pub struct DeletedSegments {
    pub bytes: u64,
    pub count: usize,
    paths: Vec<PathBuf>,
}

impl DeletedSegments {
    /// Removes the files. What a crash leaves of them goes at the next start.
    pub fn remove(self, disk: &dyn Disk) -> io::Result<()> {
        for path in &self.paths {
            match disk.remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

impl Log {
    pub(crate) fn check_usable(&self) -> Result<(), LogError> {
        if self.failed { Err(LogError::Failed) } else { Ok(()) }
    }

    /// Creates the partition's directory and `partition.metadata`, if they are missing.
    pub(crate) fn create_directory(&mut self) -> io::Result<()> {
        if self.on_disk {
            return Ok(());
        }
        let disk = Arc::clone(self.disk());
        if !disk.exists(&self.dir)? {
            disk.create_dir_all(&self.dir)?;
            self.creations.dir_is_new = true;
        }
        self.creations.count += 1;
        partition_metadata::write(&*disk, &self.dir, self.topic_id)?;
        self.on_disk = true;
        Ok(())
    }

    /// Closes the active segment, if it has bytes, and begins the next at the log end. True if it did.
    pub fn roll(&mut self, now_ms: i64) -> Result<bool, LogError> {
        self.check_usable()?;
        if self.segments.last().is_none_or(|active| active.size == 0) {
            return Ok(false);
        }
        self.ensure_active_index()?;
        self.roll_to(self.log_end, now_ms)?;
        Ok(true)
    }

    /// [`Log::roll`], if `segment.ms` have passed since the first batch's timestamp.
    pub fn roll_if_due(&mut self, now_ms: i64) -> Result<bool, LogError> {
        let limit = self.segment_ms_limit();
        let Some(active) = self.segments.last_mut().filter(|active| active.size > 0) else {
            return Ok(false);
        };
        let since = active.first_timestamp()?.filter(|first| *first >= 0).unwrap_or(active.created_ms);
        if now_ms.saturating_sub(since) > limit { self.roll(now_ms) } else { Ok(false) }
    }

    /// Seals the active segment, with its indexes and a producer snapshot written, and creates the next.
    pub(crate) fn roll_to(&mut self, base_offset: i64, created_ms: i64) -> Result<(), LogError> {
        let result = self.try_roll_to(base_offset, created_ms);
        if result.is_err() {
            self.failed = true;
        }
        result
    }

    fn try_roll_to(&mut self, base_offset: i64, created_ms: i64) -> Result<(), LogError> {
        let at = self.segments.len() - 1;
        let files = Arc::clone(&self.segments[at].files);
        let max = files.with_index(|index| {
            index.add_time();
            index.max_timestamp
        });
        self.write_index_of(at, false)?;
        self.take_snapshot(base_offset)?;
        if let Some(max) = max {
            self.segments[at].set_max_timestamp(max);
            files.unload_index();
        }
        // Names become durable in order: a later segment never survives without the earlier ones.
        self.sync_names()?;
        self.create_active(base_offset, created_ms)?;
        Ok(())
    }

    /// Makes the names durable that are not yet.
    pub(crate) fn sync_names(&mut self) -> io::Result<()> {
        if self.creations.count > self.creations.synced {
            self.disk().sync_dir(&self.dir)?;
            if self.creations.dir_is_new
                && let Some(parent) = self.dir.parent()
            {
                self.disk().sync_dir(parent)?;
            }
            self.creations.synced = self.creations.count;
            self.creations.dir_is_new = false;
        }
        Ok(())
    }

    /// Writes the producer state at `offset`, which is the log end, without a sync. Others that stand at no segment's base go.
    pub(crate) fn take_snapshot(&mut self, offset: i64) -> Result<(), LogError> {
        assert!(offset == self.log_end, "the state is that of the log end");
        if !self.snapshots.contains(&offset) {
            let bytes = self.producers.with(self, producer_snapshot::encode)?;
            let path = self.snapshot_path(offset);
            let file = self.disk().create(&path)?;
            file.write_at(&mut [io::IoSlice::new(&bytes)], 0)?;
            self.unsynced.insert(path);
            self.snapshots.insert(offset);
        }
        let bases: std::collections::BTreeSet<i64> = self.segments.iter().map(Segment::base).collect();
        let stray = self.snapshots.iter().copied().filter(|at| *at < offset && !bases.contains(at)).collect::<Vec<_>>();
        self.remove_snapshots(stray)
    }

    pub(crate) fn remove_snapshots(&mut self, offsets: Vec<i64>) -> Result<(), LogError> {
        for offset in offsets {
            self.snapshots.remove(&offset);
            remove_if_exists(&**self.disk(), &self.snapshot_path(offset))?;
        }
        Ok(())
    }

    /// Closed segments that hold offsets from `from` on and end at or below `below`, oldest first, at most `limit`.
    pub fn sealed_segments(&self, from: i64, below: i64, limit: usize) -> Vec<SealedSegment> {
        let first = self.segments.partition_point(|segment| segment.base() <= from).saturating_sub(1);
        let closed = self.segments.len().saturating_sub(1);
        (first..closed)
            .map(|at| (at, self.segment_end(at)))
            .filter(|(_, end)| *end > from)
            .take_while(|(_, end)| *end <= below)
            .take(limit)
            .map(|(at, _)| {
                let SegmentInfo { base_offset, next_offset, size_bytes, max_timestamp, .. } = self.segment_info(at);
                let file = SegmentFile(Arc::clone(&self.segments[at].files));
                SealedSegment { base_offset, last_offset: next_offset - 1, size_bytes, max_timestamp, file }
            })
            .collect()
    }

    /// The bytes of a producer snapshot at `offset`, a segment's end; built from the log if there is no such file.
    pub fn producer_snapshot_at(&self, offset: i64) -> Result<Bytes, LogError> {
        if self.snapshots.contains(&offset) {
            let bytes = self.disk().read_file(&self.snapshot_path(offset), producer_snapshot::FILE_BYTES_MAX);
            if let Ok(bytes) = bytes
                && producer_snapshot::decode(&bytes, offset).is_ok()
            {
                return Ok(bytes.into());
            }
        }
        let state = self.load_producers(offset, |_, _| {})?;
        Ok(producer_snapshot::encode(&state).into())
    }

    /// Frees the closed segments that end at or below `offset`.
    pub fn delete_local_before(&mut self, offset: i64) -> Result<DeletedSegments, LogError> {
        self.check_usable()?;
        let closed = self.segments.len().saturating_sub(1);
        let count = (0..closed).take_while(|at| self.segment_end(*at) <= offset).count();
        let result = self.try_delete(count);
        if result.is_err() {
            self.failed = true;
        }
        result
    }

    /// Whether the producers' snapshot of `offset` is there and can be read: a power loss may have left a name without its bytes.
    fn has_sound_snapshot(&self, offset: i64) -> bool {
        let read = || self.disk().read_file(&self.snapshot_path(offset), producer_snapshot::FILE_BYTES_MAX);
        self.snapshots.contains(&offset) && read().is_ok_and(|bytes| producer_snapshot::decode(&bytes, offset).is_ok())
    }

    fn try_delete(&mut self, count: usize) -> Result<DeletedSegments, LogError> {
        let mut deleted = DeletedSegments { count, ..DeletedSegments::default() };
        let disk = Arc::clone(self.disk());
        if count > 0 {
            // What came before the new start is known from its snapshot alone.
            let base = self.segments[count].base();
            let path = self.snapshot_path(base);
            if !self.has_sound_snapshot(base) {
                let bytes = self.producer_snapshot_at(base)?;
                remove_if_exists(&*disk, &path)?;
                disk.create(&path)?.write_at(&mut [io::IoSlice::new(&bytes)], 0)?;
                self.snapshots.insert(base);
            }
            // Also one that an earlier process wrote: it may have ended before it was synced.
            self.unsynced.remove(&path);
            disk.open(&path)?.sync_all()?;
            disk.sync_dir(&self.dir)?;
            // Nor can recovery read the epochs of batches that are gone.
            self.write_epochs()?;
        }
        for number in 0..count {
            if number > 0 {
                // In this order on the medium too: a hole would be worse than a leftover.
                disk.sync_dir(&self.dir)?;
            }
            let segment = self.segments.remove(0);
            deleted.bytes += segment.size;
            segment.files.forget();
            self.dirty.remove(&segment.base());
            for kind in FileKind::ALL {
                let path = segment.files.path(kind);
                self.unsynced.remove(&path);
                let gone = with_suffix(&path, ".deleted");
                match disk.rename(&path, &gone) {
                    Ok(()) => deleted.paths.push(gone),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        if count > 0 {
            // The next call must not be durable before this one.
            disk.sync_dir(&self.dir)?;
        }
        let first = self.segments.first().map_or(self.log_end, Segment::base);
        let older: Vec<i64> = self.snapshots.range(..first).copied().collect();
        if count > 0 {
            self.remove_snapshots(older)?;
        }
        Ok(deleted)
    }

    /// Raises the log start, at most to the high watermark. The files go by [`Log::delete_local_before`].
    pub fn raise_log_start(&mut self, offset: i64) -> Result<(), LogError> {
        if offset > self.high_watermark {
            return Err(LogError::OffsetOutOfRange { offset, least: self.log_start, most: self.high_watermark });
        }
        if offset > self.log_start {
            self.epochs_dirty |= self.with_epochs(|epochs| epochs.truncate_from_start_unwritten(offset))?;
            self.log_start = offset;
        }
        Ok(())
    }

    /// Applies the limits of a log without a tier: raises the log start and frees whole segments, oldest first. An active
    /// segment that has expired with all before it is closed first and goes too, as in Kafka.
    pub fn delete_expired(&mut self, limits: RetentionLimits, now_ms: i64) -> Result<DeletedSegments, LogError> {
        self.check_usable()?;
        let expired = expired_before(&self.segments(), self.high_watermark, limits, true, now_ms);
        // What DeleteRecords has left behind goes by the same call.
        let start = self.log_start.max(expired.unwrap_or(0));
        if expired == Some(self.log_end) {
            self.roll(now_ms)?;
        }
        self.raise_log_start(start)?;
        if self.segments.first().is_none_or(|_| self.segment_end(0) > start) {
            return Ok(DeletedSegments::default());
        }
        self.delete_local_before(start)
    }

    /// Removes all batches that end past `end` (exclusive). Durable on return; the recovery point must be checkpointed before
    /// the next append. A batch that `end` cuts goes as a whole, and then the log ends where it began.
    pub fn truncate_to(&mut self, end: i64) -> Result<(), LogError> {
        self.check_usable()?;
        if end >= self.log_end {
            return Ok(());
        }
        let least = self.local_log_start();
        if end < least {
            return Err(LogError::OffsetOutOfRange { offset: end, least, most: self.log_end });
        }
        self.generation += 1;
        let result = self.try_truncate(end);
        if result.is_err() {
            self.failed = true;
        }
        result
    }

    fn try_truncate(&mut self, end: i64) -> Result<(), LogError> {
        let disk = Arc::clone(self.disk());
        while self.segments.len() > 1 && self.segments.last().is_some_and(|active| active.base() >= end) {
            let segment = self.segments.pop().expect("there are two at least");
            self.dirty.remove(&segment.base());
            segment.files.forget();
            for kind in FileKind::ALL {
                self.unsynced.remove(&segment.files.path(kind));
                remove_if_exists(&*disk, &segment.files.path(kind))?;
            }
            disk.sync_dir(&self.dir)?;
        }
        let newer: Vec<i64> = self.snapshots.range(end + 1..).copied().collect();
        self.remove_snapshots(newer)?;
        self.log_end = self.truncate_active(end)?;
        if self.log_end < self.log_start {
            // What is left ends inside a batch that the log start cuts.
            self.clear_below_log_start()?;
        }
        let log_end = self.log_end;
        self.flushed_end = self.flushed_end.min(log_end);
        self.checkpointed = self.checkpointed.min(log_end);
        self.high_watermark = self.high_watermark.min(log_end).max(self.log_start);
        if !self.segments.is_empty() {
            self.producers = Producers::default();
        }
        self.epochs_dirty |= self.with_epochs(|epochs| epochs.truncate_from_end_unwritten(log_end))?;
        let stale: Vec<i64> = self.snapshots.range(log_end + 1..).copied().collect();
        self.remove_snapshots(stale)?;
        disk.sync_dir(&self.dir)?;
        // The last segment was synced by its truncation.
        self.write_epochs()
    }

    /// Removes everything; the log is empty at its log start.
    pub(crate) fn clear_below_log_start(&mut self) -> Result<(), LogError> {
        let disk = Arc::clone(self.disk());
        for segment in self.segments.drain(..) {
            segment.files.forget();
            for kind in FileKind::ALL {
                remove_if_exists(&*disk, &segment.files.path(kind))?;
            }
            disk.sync_dir(&self.dir)?;
        }
        let old: Vec<i64> = self.snapshots.iter().copied().collect();
        self.remove_snapshots(old)?;
        self.dirty.clear();
        self.unsynced.clear();
        self.log_end = self.log_start;
        self.flushed_end = self.log_end;
        *self.epochs.get_mut() = None;
        self.producers = Producers::loaded(ProducerState::empty_at(self.log_end));
        Ok(())
    }

    /// Cuts the last segment. Returns the offset at which the log ends then.
    fn truncate_active(&mut self, end: i64) -> Result<i64, LogError> {
        let interval = self.config.index_interval_bytes;
        let Some(active) = self.segments.last_mut() else {
            return Ok(end);
        };
        let index = match active.files.with_index(|index| index.clone()) {
            Some(index) => index,
            None => active.files.read_index(active.size)?,
        };
        let (index, kept_end) = walk_tail(active, index, interval, end)?;
        let (kept_bytes, next_base) = end_of_batches(active, end)?;
        let file = active.files.open(FileKind::Log)?;
        if kept_bytes < active.size {
            file.truncate(kept_bytes)?;
        }
        file.sync_all()?;
        active.size = kept_bytes;
        active.forget_max_timestamp();
        if kept_bytes == 0 {
            active.first_timestamp = None;
        }
        active.files.set_index(index);
        transaction_index::truncate(&active.files, end)?;
        let files = Arc::clone(&active.files);
        self.dirty.remove(&files.base_offset);
        let at = self.segments.len() - 1;
        self.write_index_of(at, true)?;
        Ok(next_base.map_or(end, |base| base.min(end)).max(kept_end))
    }

    /// Drops all that is here and starts anew at `offset`, with a known history: a replica that continues from the tier. An
    /// empty producer state is that of no producer.
    /// The old directory is renamed to `set_aside` (a sibling), or removed. Durable on return; log
    /// start and recovery point must be checkpointed before the next append.
    pub fn restart_at(
        &mut self,
        offset: i64,
        log_start: i64,
        epochs: Vec<EpochEntry>,
        producer_state: &[u8],
        set_aside: Option<&Path>,
    ) -> Result<(), LogError> {
        if log_start > offset || log_start < 0 {
            return Err(LogError::OffsetOutOfRange { offset: log_start, least: 0, most: offset });
        }
        if !epochs.is_sorted_by(|a, b| a.epoch < b.epoch && a.start_offset < b.start_offset) {
            let error = io::Error::new(io::ErrorKind::InvalidData, "the epochs to start with do not rise");
            return Err(error.into());
        }
        let state = if producer_state.is_empty() {
            ProducerState::empty_at(offset)
        } else {
            producer_snapshot::decode(producer_state, offset).map_err(|reason| {
                io::Error::new(io::ErrorKind::InvalidData, format!("the producer state to start with: {reason}"))
            })?
        };
        self.generation += 1;
        self.failed = true;
        self.try_restart(offset, log_start, epochs, state, set_aside)?;
        self.failed = false;
        Ok(())
    }

    fn try_restart(
        &mut self,
        offset: i64,
        log_start: i64,
        epochs: Vec<EpochEntry>,
        state: ProducerState,
        set_aside: Option<&Path>,
    ) -> Result<(), LogError> {
        let disk = Arc::clone(self.disk());
        let dir = Arc::clone(&self.dir);
        for segment in self.segments.drain(..) {
            segment.files.forget();
        }
        self.dirty.clear();
        self.unsynced.clear();
        self.snapshots.clear();
        // Before anything can fail: whatever the disk does, what is in memory is an empty log, and its offsets agree.
        self.log_start = log_start;
        self.log_end = offset;
        self.high_watermark = offset;
        self.flushed_end = offset;
        self.checkpointed = self.checkpointed.min(offset);
        if disk.exists(&dir)? {
            let parent = dir.parent().unwrap_or(Path::new("/"));
            let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            // Kafka's name for a directory that is to be removed.
            let doomed = parent.join(format!("{name}.{}-delete", self.topic_id.0.simple()));
            let target = set_aside.unwrap_or(&doomed);
            if set_aside.is_none() && disk.exists(target)? {
                disk.remove_dir_all(target)?;
            }
            disk.rename(&dir, target)?;
            disk.sync_dir(parent)?;
            if set_aside.is_none() {
                disk.remove_dir_all(target)?;
            }
        }
        self.on_disk = false;
        self.create_directory()?;
        let mut new_epochs = LeaderEpochs::load(&*disk, &dir)?;
        new_epochs.replace(&*disk, epochs)?;
        *self.epochs.get_mut() = Some(new_epochs);
        self.epochs_dirty = false;
        self.producers = Producers::loaded(state);
        self.take_snapshot(offset)?;
        self.persist()?;
        // The segment comes last: until it is there the log is empty, and the caller starts over.
        self.create_active(offset, 0)?;
        if let Some(flush) = self.begin_flush() {
            flush.run()?;
            self.finish_flush(&flush);
        }
        Ok(())
    }
}

/// Bytes of the batches that end at or below `end` (exclusive), and the base offset of the first that does not.
fn end_of_batches(segment: &Segment, end: i64) -> Result<(u64, Option<i64>), LogError> {
    let file = segment.files.open(FileKind::Log)?;
    let (indexed, from) = segment.files.lookup_offset(end - 1)?;
    let sound = from < segment.size && crate::producers::indexed_batch(&*file, from, segment.size, indexed);
    let from = if sound { from } else { 0 };
    let mut walk = crate::batch_walk::BatchWalk::new(&*file, from, segment.size, crate::batch_walk::WALK_BLOCK_BYTES);
    loop {
        match walk.next_batch() {
            Ok(Some((position, header))) if header.next_offset() > end => {
                return Ok((position, Some(header.base_offset)));
            }
            Ok(Some(_)) => {}
            Ok(None) => return Ok((segment.size, None)),
            Err(crate::batch_walk::WalkError::Io(error)) => return Err(error.into()),
            Err(crate::batch_walk::WalkError::Bad { position, reason }) => {
                return Err(ReadError::Corrupt(format!("at byte {position}: {reason}")).into());
            }
        }
    }
}

pub(crate) fn remove_if_exists(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match disk.remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl From<OpenError> for io::Error {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Io { source, .. } => source,
            other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
        }
    }
}
