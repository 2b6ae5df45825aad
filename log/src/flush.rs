//! Durability: what a sync has to cover, run outside of the writer's lock.
//!
//! Owns: [`Flush`], the recovery point, what `flush.messages` and `flush.ms` ask for ([`FlushDue`]), and the durability of what is
//! rebuildable (indexes, snapshots, epochs: [`Persist`]). Does not own: threads. Invariants: the recovery point moves only after the
//! files, and the directories that name them, were synced; a sync is never tried again after an error (the caller fails the
//! log). A crash leaves: all below the recovery point.

use crate::error::LogError;
use crate::file_cache::FileKind;
use crate::log::Log;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use strandline_disk::{Disk, DiskFile};

/// One sync of a log, to be run without its lock.
#[derive(Debug)]
pub struct Flush {
    end_offset: i64,
    generation: u64,
    creations: u64,
    files: Vec<(i64, Arc<dyn DiskFile>)>,
    dirs: Vec<PathBuf>,
    disk: Arc<dyn Disk>,
}

impl Flush {
    /// Syncs. After an error the data may be gone: the log must take no more appends, see [`Log::fail`].
    pub fn run(&self) -> io::Result<()> {
        for (_, file) in &self.files {
            file.sync_data()?;
        }
        for dir in &self.dirs {
            self.disk.sync_dir(dir)?;
        }
        Ok(())
    }

    /// All below is on the medium once [`Flush::run`] has succeeded.
    pub fn end_offset(&self) -> i64 {
        self.end_offset
    }
}

/// When a log is to be synced next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushDue {
    Now,
    Within(Duration),
    No,
}

/// Files that recovery would have to rebuild, to be synced without the log's lock.
#[derive(Debug)]
pub struct Persist {
    paths: BTreeSet<PathBuf>,
    dir: PathBuf,
    disk: Arc<dyn Disk>,
}

impl Persist {
    /// Syncs. After an error the log must take no more appends, see [`Log::fail`].
    pub fn run(&self) -> io::Result<()> {
        for path in &self.paths {
            match self.disk.open(path) {
                Ok(file) => file.sync_all()?,
                // Removed with its segment since.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        if self.paths.is_empty() { Ok(()) } else { self.disk.sync_dir(&self.dir) }
    }
}

impl Log {
    /// What `flush.messages` and `flush.ms` ask for. Closed segments are always to be synced, as in Kafka (`UnifiedLog.roll`): a
    /// start then looks through the active one and those closed since the last checkpoint, no older one needs an open file, and the
    /// next roll does not wait for the names of this one.
    pub fn flush_due(&self) -> FlushDue {
        let unflushed = self.unflushed_records();
        if unflushed >= self.config.flush_messages || self.has_unflushed_closed() {
            return FlushDue::Now;
        }
        match u64::try_from(self.config.flush_ms) {
            Ok(ms) if self.config.flush_ms != i64::MAX && unflushed > 0 => FlushDue::Within(Duration::from_millis(ms)),
            _ => FlushDue::No,
        }
    }

    fn has_unflushed_closed(&self) -> bool {
        let first = self.dirty.first_key_value().map(|(base, _)| *base);
        first.zip(self.segments.last()).is_some_and(|(first, active)| first < active.base())
    }

    /// What is to be synced when a sync was due: all, or the closed segments if the log's configuration leaves the rest to the
    /// operating system.
    pub fn begin_due_flush(&mut self) -> Option<Flush> {
        let mut flush = self.begin_flush()?;
        if self.config.flush_messages != i64::MAX || self.config.flush_ms != i64::MAX {
            return Some(flush);
        }
        if let Some(active) = self.segments.last() {
            flush.end_offset = active.base();
            flush.files.retain(|(base, _)| *base < active.base());
        }
        Some(flush)
    }

    /// What must be synced so that all that is in the log now is on the medium. `None` if it is.
    pub fn begin_flush(&mut self) -> Option<Flush> {
        let new_names = self.creations.count > self.creations.synced;
        if self.flushed_end >= self.log_end && self.dirty.is_empty() && !new_names {
            return None;
        }
        let mut dirs = Vec::new();
        if new_names {
            dirs.push(self.dir.to_path_buf());
            if self.creations.dir_is_new {
                dirs.extend(self.dir.parent().map(Path::to_path_buf));
            }
        }
        Some(Flush {
            end_offset: self.log_end,
            generation: self.generation,
            creations: self.creations.count,
            files: self.dirty.iter().map(|(base, file)| (*base, Arc::clone(file))).collect(),
            dirs,
            disk: Arc::clone(self.disk()),
        })
    }

    /// Notes that `flush` has succeeded. One that began before a truncation counts for nothing.
    pub fn finish_flush(&mut self, flush: &Flush) {
        if flush.generation != self.generation {
            return;
        }
        if !flush.dirs.is_empty() {
            self.creations.synced = self.creations.synced.max(flush.creations);
            self.creations.dir_is_new = false;
        }
        for (base, _) in &flush.files {
            let at = self.segments.partition_point(|segment| segment.base() < *base);
            let exists = self.segments.get(at).is_some_and(|segment| segment.base() == *base);
            // A segment that has grown since is still dirty.
            if !exists || self.segment_end(at) <= flush.end_offset {
                self.dirty.remove(base);
            }
        }
        self.flushed_end = self.flushed_end.max(flush.end_offset);
    }

    /// Offsets that are not on the medium yet.
    pub fn unflushed_records(&self) -> i64 {
        self.log_end - self.flushed_end
    }

    /// Notes that `recovery_point` stands in the checkpoint file: compaction may go so far. Past it a gap between segments
    /// would be taken for bytes that were never written.
    pub fn note_checkpoint(&mut self, recovery_point: i64) {
        self.checkpointed = self.checkpointed.max(recovery_point.min(self.flushed_end));
    }

    /// Makes durable what recovery would have to rebuild otherwise. Called before the recovery point is checkpointed.
    pub fn persist(&mut self) -> Result<(), LogError> {
        self.begin_persist()?.run().inspect_err(|_| self.failed = true)?;
        Ok(())
    }

    /// Writes the indexes and epochs that changed, and says what is to be synced with snapshots and the like.
    pub fn begin_persist(&mut self) -> Result<Persist, LogError> {
        let mut persist =
            Persist { paths: BTreeSet::new(), dir: self.dir.to_path_buf(), disk: Arc::clone(self.disk()) };
        if self.on_disk {
            let written = self.write_indexes().map_err(LogError::from).and_then(|()| self.write_epochs());
            written.inspect_err(|_| self.failed = true)?;
            persist.paths = std::mem::take(&mut self.unsynced);
        }
        Ok(persist)
    }

    /// Writes the epochs if they changed.
    pub(crate) fn write_epochs(&mut self) -> Result<(), LogError> {
        if self.epochs_dirty {
            let disk = Arc::clone(self.disk());
            self.with_epochs(|epochs| epochs.flush(&*disk))??;
            self.epochs_dirty = false;
        }
        Ok(())
    }

    /// Brings the files of all indexes in memory up to date, without a sync.
    pub(crate) fn write_indexes(&mut self) -> io::Result<()> {
        for at in 0..self.segments.len() {
            self.write_index_of(at, false)?;
        }
        Ok(())
    }

    pub(crate) fn write_index_of(&mut self, at: usize, whole: bool) -> io::Result<()> {
        let files = Arc::clone(&self.segments[at].files);
        if files.write_index(whole)? {
            self.unsynced.insert(files.path(FileKind::OffsetIndex));
            self.unsynced.insert(files.path(FileKind::TimeIndex));
        }
        Ok(())
    }

    /// Writes what [`Log::release`] drops from memory, without a sync.
    pub(crate) fn write_for_release(&mut self) -> Result<(), LogError> {
        if !self.on_disk || self.failed {
            return Ok(());
        }
        self.write_indexes()?;
        if self.producers.loaded_mut().is_some_and(|state| !state.has_unstable()) {
            self.take_snapshot(self.log_end)?;
        }
        Ok(())
    }

    /// Flushes and writes all, so that the next start may be told of a clean shutdown. The log takes no appends afterwards.
    pub fn close(&mut self) -> Result<(), LogError> {
        if self.failed {
            return Err(LogError::Failed);
        }
        if self.on_disk {
            self.ensure_active_index()?;
            if let Some(flush) = self.begin_flush() {
                flush.run().inspect_err(|_| self.failed = true)?;
                self.finish_flush(&flush);
            }
            self.take_snapshot(self.log_end)?;
            self.persist()?;
        }
        self.failed = true;
        for segment in &self.segments {
            segment.files.forget();
        }
        self.dirty.clear();
        Ok(())
    }
}
