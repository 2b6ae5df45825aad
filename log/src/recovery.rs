//! Opening a log, and what is done after a crash.
//!
//! Owns: leftovers of unfinished changes, the check of what lies past the recovery point, the verdict on a bad batch. Does not
//! own: the recovery point (the caller checkpoints it). Invariants: below the recovery point nothing is ever removed; valid
//! batches after a bad one are removed only if the bad one was never written (a piece of a sector that is all zeros, or the
//! file ends there), and then they are set aside first. A crash leaves: nothing new; recovery begins again, with one result.
//!
//! A bad batch with nothing valid after it is a torn write, and is cut off. With valid batches after it: power loss before a
//! sync may have kept later sectors and lost earlier ones, which then read as zeros; those batches were never acknowledged.
//! Anything else is corruption of what may have been acknowledged: the log is not opened.

use crate::batch_walk::{BatchWalk, SCAN_BLOCK_BYTES, WalkError, copy_tail, crc_of};
use crate::error::{BadFile, CorruptLog, OpenError};
use crate::file_cache::FileKind;
use crate::log::{Creations, Log, LogOptions, Segment, walk_sound, walk_tail};
use crate::partition_metadata;
use crate::producer_snapshot;
use crate::producer_state::ProducerState;
use crate::producers::{Producers, indexed_batch, replay_batch};
use crate::segment::{MemoryIndex, SegmentFiles, offset_of};
use crate::shape::{remove_if_exists, with_suffix};
use crate::transaction_index;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use strandline_disk::DiskFile;
use strandline_protocol::record_batch::{BatchHeader, HEADER_LEN, LENGTH_OVERHEAD, MAGIC};

/// Tells the files of different logs apart in a shared cache.
static NEXT_LOG_ID: AtomicU64 = AtomicU64::new(1);

/// Bytes of a sector: what a disk writes as a whole.
const SECTOR_BYTES: u64 = 512;
/// A smaller piece of a sector than this, in bytes, is no proof: records end in zeros too.
const ZERO_PIECE_BYTES_MIN: u64 = 8;
/// Most bytes whose CRC is computed in the search for a valid batch after a bad one.
const SEARCH_BYTES_MAX: u64 = 8 << 30;

/// What stands in a partition's directory.
#[derive(Debug, Default)]
struct Listing {
    exists: bool,
    logs: BTreeSet<i64>,
    offset_indexes: BTreeSet<i64>,
    time_indexes: BTreeSet<i64>,
    transaction_indexes: BTreeSet<i64>,
    snapshots: BTreeSet<i64>,
}

/// A scan of what lies past the recovery point.
struct Scan {
    first: usize,
    expected: i64,
    last_epoch: i32,
    producers: ProducerState,
}

/// The batch at which a scan stopped.
struct BadBatch {
    position: u64,
    reason: String,
}

impl Log {
    /// Opens the log of a directory, or an empty one if there is none. After a clean shutdown only the directory is read;
    /// else all past the recovery point is checked and what was never completely written is cut off.
    pub fn open(options: LogOptions) -> Result<Log, OpenError> {
        let dir: Arc<Path> = options.dir.into();
        let mut log = Log {
            id: NEXT_LOG_ID.fetch_add(1, Ordering::Relaxed),
            dir,
            topic_id: options.topic_id,
            cache: options.files,
            config: options.config,
            segments: Vec::new(),
            log_start: options.log_start_offset.max(0),
            log_end: options.log_start_offset.max(0),
            high_watermark: 0,
            flushed_end: 0,
            checkpointed: 0,
            on_disk: false,
            epochs: Mutex::new(None),
            epochs_dirty: false,
            producers: Producers::default(),
            snapshots: BTreeSet::new(),
            dirty: BTreeMap::new(),
            unsynced: BTreeSet::new(),
            creations: Creations::default(),
            generation: 0,
            failed: false,
            headers: Vec::new(),
        };
        let listing = log.list()?;
        if listing.exists {
            if !options.clean_shutdown {
                // The names here may be known to the system's memory alone: an earlier process made them, and ended before their
                // directory was synced. What is appended to such a file is not safe before its name is.
                log.creations = Creations { count: 1, synced: 0, dir_is_new: true };
                log.sync_names().map_err(OpenError::io(&*log.dir))?;
            }
            log.check_owner()?;
            // Past the recovery point indexes are built anew in any case.
            let trusted = if options.clean_shutdown { i64::MAX } else { options.recovery_point };
            log.open_segments(listing, trusted, options.now_ms)?;
            if options.clean_shutdown {
                log.open_clean(options.recovery_point)?;
            } else {
                log.recover(options.recovery_point)?;
            }
        }
        log.settle(options.recovery_point.max(0))?;
        Ok(log)
    }

    /// Reads the directory and finishes or removes what a crash left unfinished.
    fn list(&self) -> Result<Listing, OpenError> {
        let disk = self.disk();
        let io_error = |error| OpenError::io(&*self.dir)(error);
        let names = match disk.read_dir(&self.dir) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Listing::default()),
            Err(error) => return Err(io_error(error)),
        };
        let mut listing = Listing { exists: true, ..Listing::default() };
        let mut indexes_of_swapped = Vec::new();
        for entry in names.into_iter().filter(|entry| !entry.is_dir) {
            let name = entry.name.as_str();
            let path = self.dir.join(name);
            if [".deleted", ".cleaned", ".tmp"].iter().any(|suffix| name.ends_with(suffix)) {
                remove_if_exists(&**disk, &path).map_err(io_error)?;
            } else if let Some(base) = offset_of(name, ".log.swap") {
                // A compacted segment that was complete: it takes its place now.
                disk.rename(&path, &self.dir.join(&name[..name.len() - ".swap".len()])).map_err(io_error)?;
                listing.logs.insert(base);
                indexes_of_swapped.push(base);
            } else if name.ends_with(".swap") {
                remove_if_exists(&**disk, &path).map_err(io_error)?;
            } else {
                let sets = [
                    (".log", &mut listing.logs),
                    (".index", &mut listing.offset_indexes),
                    (".timeindex", &mut listing.time_indexes),
                    (".txnindex", &mut listing.transaction_indexes),
                    (".snapshot", &mut listing.snapshots),
                ];
                for (suffix, set) in sets {
                    set.extend(offset_of(name, suffix));
                }
            }
        }
        if !indexes_of_swapped.is_empty() {
            disk.sync_dir(&self.dir).map_err(io_error)?;
        }
        for base in indexes_of_swapped {
            listing.offset_indexes.remove(&base);
            listing.time_indexes.remove(&base);
        }
        Ok(listing)
    }

    /// Checks whose directory it is; one that does not say is taken.
    fn check_owner(&mut self) -> Result<(), OpenError> {
        let path = self.dir.join(partition_metadata::FILE_NAME);
        match partition_metadata::read(&**self.disk(), &self.dir)? {
            Some(found) if found != self.topic_id => {
                let reason = format!("it belongs to topic id {found}, not {}", self.topic_id);
                return Err(BadFile { path, reason }.into());
            }
            Some(_) => {}
            None => {
                partition_metadata::write(&**self.disk(), &self.dir, self.topic_id).map_err(OpenError::io(&path))?
            }
        }
        self.on_disk = true;
        Ok(())
    }

    fn open_segments(&mut self, listing: Listing, trusted: i64, now_ms: i64) -> Result<(), OpenError> {
        let orphans = [
            (FileKind::OffsetIndex, &listing.offset_indexes),
            (FileKind::TimeIndex, &listing.time_indexes),
            (FileKind::TransactionIndex, &listing.transaction_indexes),
        ];
        for (kind, bases) in orphans {
            for base in bases.difference(&listing.logs) {
                let path = self.dir.join(crate::segment::file_name(*base, kind.suffix()));
                remove_if_exists(&**self.disk(), &path).map_err(OpenError::io(&path))?;
            }
        }
        for base in &listing.logs {
            let files = SegmentFiles::new(self.id, *base, Arc::clone(&self.dir), Arc::clone(&self.cache));
            files.has_aborts.store(listing.transaction_indexes.contains(base), Ordering::Relaxed);
            let path = files.path(FileKind::Log);
            if listing.logs.range(base + 1..).next().is_none_or(|next| *next > trusted) {
                // A sync may have failed: then memory shows what never reached the medium.
                files.open(FileKind::Log).and_then(|file| file.drop_cache()).map_err(OpenError::io(&path))?;
            }
            let size = self.disk().len(&path).map_err(OpenError::io(&path))?;
            self.segments.push(Segment::new(files, size, now_ms));
        }
        self.snapshots = listing.snapshots;
        let closed = self.segments.len().saturating_sub(1);
        for at in 0..closed {
            let base = self.segments[at].base();
            let missing = !listing.offset_indexes.contains(&base) || !listing.time_indexes.contains(&base);
            if missing && self.segment_end(at) <= trusted {
                self.rebuild_index(at)?;
            }
        }
        Ok(())
    }

    /// Builds the indexes of a sealed segment anew.
    fn rebuild_index(&mut self, at: usize) -> Result<(), OpenError> {
        let segment = &self.segments[at];
        let fresh = MemoryIndex::new(segment.base());
        let (mut index, _, damage) = walk_sound(segment, fresh, self.config.index_interval_bytes, i64::MAX)?;
        if let Some(corrupt) = damage {
            // A damaged batch is the business of whoever reads it; the index stops before it.
            tracing::error!(%corrupt, "a segment is damaged below the recovery point");
        }
        index.add_time();
        self.seal_index(at, index)
    }

    fn seal_index(&mut self, at: usize, index: MemoryIndex) -> Result<(), OpenError> {
        let files = Arc::clone(&self.segments[at].files);
        self.segments[at].set_max_timestamp(index.max_timestamp);
        files.set_index(index);
        self.write_index_of(at, true).map_err(OpenError::io(files.path(FileKind::OffsetIndex)))?;
        files.unload_index();
        Ok(())
    }

    /// Trusts the shutdown: only names and lengths are looked at, unless the snapshot of the end is missing.
    fn open_clean(&mut self, recovery_point: i64) -> Result<(), OpenError> {
        let Some(active) = self.segments.last() else {
            return Ok(());
        };
        let newer: Vec<i64> = self.snapshots.range(recovery_point + 1..).copied().collect();
        if recovery_point >= active.base() && self.snapshots.contains(&recovery_point) && newer.is_empty() {
            self.log_end = recovery_point;
            let path = self.snapshot_path(recovery_point);
            let len = self.disk().len(&path).map_err(OpenError::io(&path))?;
            if len == producer_snapshot::HEADER_LEN as u64 {
                self.producers = Producers::nothing_unstable();
            }
            return Ok(());
        }
        let path = active.files.path(FileKind::Log);
        let index = active.files.read_index(active.size).map_err(OpenError::io(&path))?;
        let (index, end) = walk_tail(active, index, self.config.index_interval_bytes, i64::MAX)?;
        active.files.set_index(index);
        self.log_end = end;
        Ok(())
    }

    /// Checks everything past the recovery point. Of what was freed, the snapshot and the epochs are all that is left.
    fn recover(&mut self, recovery_point: i64) -> Result<(), OpenError> {
        if self.segments.is_empty() {
            return Ok(());
        }
        let recovery_point = recovery_point.max(self.segments[0].base());
        let stale: Vec<i64> = self.snapshots.range(recovery_point + 1..).copied().collect();
        self.remove_snapshots(stale).map_err(io::Error::other).map_err(OpenError::io(&*self.dir))?;
        let first = self.segments.partition_point(|segment| segment.base() <= recovery_point).saturating_sub(1);
        let (mut index, mut position, start) = self.scan_start(first, recovery_point)?;
        // Until it is known, no walk may be bounded by it.
        self.log_end = i64::MAX;
        let producers = self.load_producers(start, |_, _| {})?;
        let (dir, last_epoch) = (
            Arc::clone(&self.dir),
            self.with_epochs(|epochs| {
                epochs.truncate_from_end_unwritten(start);
                epochs.latest().map_or(-1, |entry| entry.epoch)
            })?,
        );
        let mut scan = Scan { first, expected: start, last_epoch, producers };
        for at in first..self.segments.len() {
            let files = Arc::clone(&self.segments[at].files);
            if at > first {
                (index, position) = (MemoryIndex::new(files.base_offset), 0);
            }
            transaction_index::truncate(&files, scan.expected.max(files.base_offset)).map_err(OpenError::io(&*dir))?;
            let bad = self.scan_segment(at, &mut index, position, &mut scan)?;
            let end = self.segments[at].size;
            let is_last = at + 1 == self.segments.len();
            let hole = !is_last && bad.is_none() && {
                let next = self.segments[at + 1].base();
                next != scan.expected && next > recovery_point
            };
            if bad.is_some() || hole {
                let bad = bad.unwrap_or(BadBatch { position: end, reason: "the segment ends too early".to_owned() });
                self.cut(at, &scan, bad, recovery_point)?;
            }
            let is_last = at + 1 == self.segments.len();
            if is_last {
                files.set_index(index);
                self.write_index_of(at, true).map_err(OpenError::io(&*dir))?;
                break;
            }
            index.add_time();
            self.seal_index(at, index.clone())?;
        }
        self.finish_scan(scan)
    }

    /// Where the scan begins: indexes, position and offset of the last indexed batch below the recovery point.
    fn scan_start(&self, at: usize, recovery_point: i64) -> Result<(MemoryIndex, u64, i64), OpenError> {
        let segment = &self.segments[at];
        let path = segment.files.path(FileKind::Log);
        let mut index = segment.files.read_index(segment.size).map_err(OpenError::io(&path))?;
        let (indexed, position) = index.truncate(recovery_point, segment.size);
        if position > 0 {
            let file = segment.files.open(FileKind::Log).map_err(OpenError::io(&path))?;
            let mut walk = BatchWalk::new(&*file, position, segment.size, HEADER_LEN);
            if indexed_batch(&*file, position, segment.size, indexed)
                && let Ok(Some((_, header))) = walk.next_batch()
            {
                return Ok((index, position, header.base_offset));
            }
        }
        Ok((MemoryIndex::new(segment.base()), 0, segment.base()))
    }

    /// Takes in batch after batch. Returns the first bad one, if there is one.
    fn scan_segment(
        &mut self,
        at: usize,
        index: &mut MemoryIndex,
        start: u64,
        scan: &mut Scan,
    ) -> Result<Option<BadBatch>, OpenError> {
        let segment = &self.segments[at];
        let path = segment.files.path(FileKind::Log);
        let next_base = self.segments.get(at + 1).map_or(i64::MAX, Segment::base);
        let file = segment.files.open(FileKind::Log).map_err(OpenError::io(&path))?;
        let interval = self.config.index_interval_bytes;
        scan.expected = scan.expected.max(segment.base());
        let mut walk = BatchWalk::new(&*file, start, segment.size, SCAN_BLOCK_BYTES);
        let mut aborted = Vec::new();
        let mut begun = Vec::new();
        let bad = loop {
            let step = walk.next_batch().and_then(|step| {
                let Some((position, header)) = step else {
                    return Ok(None);
                };
                check_place(&header, segment.base(), next_base, scan)
                    .map_err(|reason| WalkError::Bad { position, reason: reason.to_owned() })?;
                walk.verify_crc(position, &header)?;
                aborted.extend(replay_batch(&mut scan.producers, &*file, position, &header)?);
                Ok(Some((position, header)))
            });
            match step {
                Ok(None) => break None,
                Ok(Some((position, header))) => {
                    if position == start && start > 0 {
                        index.count_indexed(&header);
                    } else {
                        index.add_batch(&header, position, interval);
                    }
                    begun.push((header.partition_leader_epoch, header.base_offset));
                    begun.dedup_by_key(|entry| entry.0);
                    scan.expected = header.next_offset();
                    scan.last_epoch = header.partition_leader_epoch;
                }
                Err(WalkError::Io(error)) => return Err(OpenError::io(&path)(error)),
                Err(WalkError::Bad { position, reason }) => break Some(BadBatch { position, reason }),
            }
        };
        self.with_epochs(|epochs| {
            for (epoch, start_offset) in begun {
                epochs.assign_unwritten(epoch, start_offset);
            }
        })?;
        if !aborted.is_empty() {
            transaction_index::append(&segment.files, &aborted).map_err(OpenError::io(&path))?;
            self.unsynced.insert(segment.files.path(FileKind::TransactionIndex));
        }
        self.dirty.insert(self.segments[at].base(), file);
        Ok(bad)
    }

    /// Judges the bad batch at which the scan of segment `at` stopped, and cuts the log there or refuses to open it.
    fn cut(&mut self, at: usize, scan: &Scan, bad: BadBatch, recovery_point: i64) -> Result<(), OpenError> {
        let path = self.segments[at].files.path(FileKind::Log);
        let next_valid = self.find_valid_after(at, &bad, scan.expected).map_err(OpenError::io(&path))?;
        let never_written = match next_valid {
            None => true,
            Some((segment, position, _)) => {
                self.was_never_written(at, &bad, (segment == at).then_some(position)).map_err(OpenError::io(&path))?
            }
        };
        if scan.expected < recovery_point || !never_written {
            let next_valid_offset = next_valid.map_or(-1, |(_, _, offset)| offset);
            let (position, reason) = (bad.position, bad.reason);
            return Err(CorruptLog { path, position, expected_offset: scan.expected, next_valid_offset, reason }.into());
        }
        if next_valid.is_some() {
            let (offset, position) = (scan.expected, bad.position);
            tracing::error!(path = %path.display(), offset, position, reason = bad.reason,
                "a batch was never written although later ones were (power loss before a sync); the tail is set aside");
        } else {
            tracing::warn!(path = %path.display(), offset = scan.expected, reason = bad.reason, "a torn tail is cut off");
        }
        self.cut_files(at, scan.expected, bad.position, next_valid.is_some()).map_err(OpenError::io(&path))
    }

    fn cut_files(&mut self, at: usize, offset: i64, position: u64, set_aside: bool) -> io::Result<()> {
        let disk = Arc::clone(self.disk());
        let suffix = format!(".{offset}.torn");
        while self.segments.len() > at + 1 {
            let segment = self.segments.pop().expect("there is one behind");
            segment.files.forget();
            let log = segment.files.path(FileKind::Log);
            if set_aside {
                disk.rename(&log, &with_suffix(&log, &suffix))?;
            } else {
                remove_if_exists(&*disk, &log)?;
            }
            for kind in &FileKind::ALL[1..] {
                remove_if_exists(&*disk, &segment.files.path(*kind))?;
            }
            disk.sync_dir(&self.dir)?;
        }
        let segment = &mut self.segments[at];
        let file = segment.files.open(FileKind::Log)?;
        if position < segment.size {
            if set_aside {
                let copy = disk.create(&with_suffix(&segment.files.path(FileKind::Log), &suffix))?;
                copy_tail(&*file, &*copy, position, segment.size)?;
                copy.sync_all()?;
                disk.sync_dir(&self.dir)?;
            }
            file.truncate(position)?;
            segment.size = position;
        }
        file.sync_all()
    }

    /// The first valid batch behind a bad one: segment, position, base offset.
    fn find_valid_after(&self, at: usize, bad: &BadBatch, expected: i64) -> io::Result<Option<(usize, u64, i64)>> {
        let mut budget = SEARCH_BYTES_MAX;
        for number in at..self.segments.len() {
            let segment = &self.segments[number];
            let from = if number == at { bad.position + 1 } else { 0 };
            let range = (expected.max(segment.base()), segment.base().saturating_add(i64::from(i32::MAX)));
            let file = segment.files.open(FileKind::Log)?;
            if let Some((position, offset)) = find_valid(&*file, from, segment.size, range, &mut budget)? {
                return Ok(Some((number, position, offset)));
            }
        }
        Ok(None)
    }

    /// True if the bad batch's bytes never reached the medium. `next_valid` is where valid data follows in the same file.
    fn was_never_written(&self, at: usize, bad: &BadBatch, next_valid: Option<u64>) -> io::Result<bool> {
        let segment = &self.segments[at];
        let file = segment.files.open(FileKind::Log)?;
        let mut head = [0; HEADER_LEN];
        let read = file.read_at(&mut head, bad.position)?;
        let size = BatchHeader::parse(&head[..read]).map_or(0, |header| header.size_in_bytes() as u64);
        let Some(next_valid) = next_valid else {
            // What follows is in a later segment: the file ends inside of this batch, or has lost sectors of it.
            let cut_off = read < HEADER_LEN || bad.position + size > segment.size;
            return Ok(cut_off || has_zero_piece(&*file, bad.position, segment.size)?);
        };
        let end = if size > 0 { next_valid.min(bad.position + size) } else { next_valid };
        has_zero_piece(&*file, bad.position, end)
    }

    fn finish_scan(&mut self, scan: Scan) -> Result<(), OpenError> {
        assert!(scan.first < self.segments.len(), "the scanned segments are still there");
        let base = self.segments.last().map_or(0, Segment::base);
        self.log_end = scan.expected.max(base);
        let log_end = self.log_end;
        let mut producers = scan.producers;
        if producers.map_end_offset() < log_end {
            producers.set_map_end_offset(log_end);
        }
        self.producers = Producers::loaded(producers);
        self.with_epochs(|epochs| epochs.truncate_from_end_unwritten(log_end))?;
        self.epochs_dirty = true;
        // The names may not be on the medium either.
        self.creations.count += 1;
        Ok(())
    }

    /// Puts the offsets into their order.
    fn settle(&mut self, recovery_point: i64) -> Result<(), OpenError> {
        if self.segments.is_empty() {
            self.log_end = self.log_start;
            self.producers = Producers::loaded(ProducerState::empty_at(self.log_end));
        } else if self.log_start > self.log_end {
            // All that is here lies below the log start.
            tracing::warn!(dir = %self.dir.display(), log_start = self.log_start, "the log starts past its end");
            self.clear_below_log_start().map_err(io::Error::other).map_err(OpenError::io(&*self.dir))?;
        }
        // A truncation that a crash cut short leaves what was taken of the part that is gone.
        let beyond: Vec<i64> = self.snapshots.range(self.log_end + 1..).copied().collect();
        if !beyond.is_empty() {
            self.remove_snapshots(beyond).map_err(io::Error::other).map_err(OpenError::io(&*self.dir))?;
            self.disk().sync_dir(&self.dir).map_err(OpenError::io(&*self.dir))?;
        }
        if !self.config.remote_storage_enable {
            self.log_start = self.local_log_start();
        }
        self.high_watermark = self.local_log_start();
        self.flushed_end = recovery_point.min(self.log_end);
        self.checkpointed = self.flushed_end;
        if self.segments.is_empty() {
            self.flushed_end = self.log_end;
        }
        Ok(())
    }
}

fn check_place(header: &BatchHeader, base: i64, next_base: i64, scan: &Scan) -> Result<(), &'static str> {
    if header.base_offset < scan.expected {
        return Err("its offset goes back");
    }
    if header.next_offset() > next_base || header.last_offset() - base > i64::from(i32::MAX) {
        return Err("its offset is beyond the segment");
    }
    if header.partition_leader_epoch < scan.last_epoch {
        return Err("its leader epoch goes back");
    }
    Ok(())
}

/// The first position from `from` on with a whole batch, CRC and all, whose offsets are in `range` (inclusive).
fn find_valid(
    file: &dyn DiskFile,
    from: u64,
    size: u64,
    range: (i64, i64),
    budget: &mut u64,
) -> io::Result<Option<(u64, i64)>> {
    let mut block = vec![0; SCAN_BLOCK_BYTES];
    let mut start = from;
    while start + HEADER_LEN as u64 <= size {
        let read = file.read_at(&mut block, start)?;
        if read < HEADER_LEN {
            break;
        }
        for at in 0..=read - HEADER_LEN {
            if block[at + LENGTH_OVERHEAD + 4] != MAGIC as u8 {
                continue;
            }
            let Ok(header) = BatchHeader::parse(&block[at..read]) else { continue };
            let position = start + at as u64;
            let len = header.size_in_bytes() as u64;
            if header.base_offset < range.0 || header.last_offset() > range.1 || position + len > size {
                continue;
            }
            if *budget < len {
                // Too much looks like a batch to be nothing.
                return Ok(Some((position, header.base_offset)));
            }
            *budget -= len;
            if crc_of(file, position + 21, position + len)? == header.crc {
                return Ok(Some((position, header.base_offset)));
            }
        }
        start += (read - HEADER_LEN + 1) as u64;
    }
    Ok(None)
}

/// True if some sector's piece of [`from`, `to`) is all zeros.
fn has_zero_piece(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<bool> {
    let mut buffer = [0; SECTOR_BYTES as usize];
    let mut position = from;
    while position < to {
        let end = ((position / SECTOR_BYTES + 1) * SECTOR_BYTES).min(to);
        let piece = &mut buffer[..(end - position) as usize];
        let read = file.read_at(piece, position)?;
        if read as u64 >= ZERO_PIECE_BYTES_MIN && piece[..read].iter().all(|byte| *byte == 0) {
            return Ok(true);
        }
        position = end;
    }
    Ok(false)
}
