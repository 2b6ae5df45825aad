//! Compaction of a local log: of each key the last record stays.
//!
//! Owns: which records stay, rewriting closed segments outside of the writer's lock, putting them in place. Does not own: when.
//! Invariants: offsets never change; nothing at or above the high watermark, the last stable offset, the checkpointed recovery
//! point or the active segment's base is touched; every segment keeps its last batch (perhaps without records), or goes as a whole, the
//! first one excepted; the last batch of every producer stays. Markers of transactions stay. The map of keys is bounded in bytes.
//! A crash leaves: `.log.cleaned`, which is thrown away, or `.log.swap`, which was complete and takes its place at the start.
//! Source: `org.apache.kafka.storage.internals.log.Cleaner`, KIP-534 (delete horizon).

use crate::batch_walk::{BatchWalk, SCAN_BLOCK_BYTES, WalkError, read_exact};
use crate::error::{LogError, ReadError};
use crate::file_cache::FileKind;
use crate::log::{Log, Segment};
use crate::segment::{MemoryIndex, SegmentFiles};
use crate::shape::{remove_if_exists, with_suffix};
use crate::transaction_index::AbortedTxn;
use crate::validate::DECOMPRESSED_BYTES_MAX;
use crc_fast::{CrcAlgorithm, checksum};
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, IoSlice};
use std::sync::Arc;
use strandline_disk::{Disk, DiskFile};
use strandline_protocol::compression::{Compression, compress};
use strandline_protocol::record_batch::{BatchError, BatchHeader, HEADER_LEN, LENGTH_OVERHEAD, Record, records};

/// Bytes of the key map per key: two hashes, an offset, and the table's own room.
pub const MAP_BYTES_PER_KEY: usize = 48;
/// Bytes gathered before they are written.
const WRITE_BYTES: usize = 1 << 20;

const CODEC_MASK: i16 = 0x07;
const DELETE_HORIZON: i16 = 0x40;

#[derive(Debug, Clone)]
struct Source {
    files: Arc<SegmentFiles>,
    size: u64,
    next_offset: i64,
}

/// What a compaction is to do; runs without the log's lock.
#[derive(Debug)]
pub struct CompactionPlan {
    disk: Arc<dyn Disk>,
    generation: u64,
    sources: Vec<Source>,
    first_dirty: i64,
    aborted: Vec<AbortedTxn>,
    /// Last offsets of the newest batch of each producer.
    newest_of_producers: HashSet<i64>,
    delete_retention_ms: i64,
    index_interval_bytes: i32,
    now_ms: i64,
}

#[derive(Debug)]
struct Rewritten {
    source: Source,
    size: u64,
    index: MemoryIndex,
    /// Nothing but one batch without records: the segment itself may go.
    is_empty: bool,
}

/// What a compaction did, to be put in place by [`Log::compact`].
#[derive(Debug)]
pub struct Compacted {
    generation: u64,
    rewritten: Vec<Rewritten>,
    /// Exclusive: all below is clean; the next `cleaner-offset-checkpoint`.
    pub clean_until: i64,
    pub bytes_before: u64,
    pub bytes_after: u64,
}

/// Where each key was last, bounded in keys.
struct KeyMap {
    offsets: HashMap<(u64, u64), i64>,
    keys_max: usize,
}

impl KeyMap {
    fn hash(key: &[u8]) -> (u64, u64) {
        let with_seed = |seed: u8| {
            let mut hasher = DefaultHasher::new();
            hasher.write_u8(seed);
            hasher.write(key);
            hasher.finish()
        };
        (with_seed(0), with_seed(1))
    }

    fn last(&self, key: &[u8]) -> Option<i64> {
        self.offsets.get(&Self::hash(key)).copied()
    }
}

fn corrupt(error: BatchError) -> ReadError {
    ReadError::Corrupt(error.to_string())
}

fn read_batch(file: &dyn DiskFile, position: u64, header: &BatchHeader) -> Result<Vec<u8>, ReadError> {
    let batch = read_exact(file, position, header.size_in_bytes())?;
    header.verify_crc(&batch).map_err(corrupt)?;
    Ok(batch)
}

fn walk_error(error: WalkError) -> ReadError {
    match error {
        WalkError::Io(error) => ReadError::Io(error),
        WalkError::Bad { position, reason } => ReadError::Corrupt(format!("at byte {position}: {reason}")),
    }
}

impl Log {
    /// The first offset that may not be compacted yet.
    fn first_uncleanable(&self, now_ms: i64) -> Result<i64, ReadError> {
        let offsets = self.offsets();
        let active = self.segments.last().map_or(self.log_end, Segment::base);
        let mut bound = offsets.last_stable.min(self.checkpointed).min(active);
        if self.config.min_compaction_lag_ms > 0 {
            for segment in &self.segments {
                if now_ms.saturating_sub(segment.max_timestamp()?) < self.config.min_compaction_lag_ms {
                    bound = bound.min(segment.base());
                    break;
                }
            }
        }
        Ok(bound)
    }

    /// Bytes from `first_dirty` on that may be compacted, as a part of all that may; 0 if there are none.
    pub fn log_dirty_ratio(&self, first_dirty: i64, now_ms: i64) -> Result<f64, ReadError> {
        let bound = self.first_uncleanable(now_ms)?;
        let (mut clean, mut dirty) = (0u64, 0u64);
        for (at, segment) in self.segments.iter().enumerate() {
            if self.segment_end(at) <= first_dirty {
                clean += segment.size;
            } else if self.segment_end(at) <= bound {
                dirty += segment.size;
            }
        }
        Ok(if dirty == 0 { 0.0 } else { dirty as f64 / (clean + dirty) as f64 })
    }

    /// What a compaction would do now; `None` if nothing from `first_dirty` (the cleaner checkpoint) on may be compacted.
    pub fn compaction_plan(&self, first_dirty: i64, now_ms: i64) -> Result<Option<CompactionPlan>, ReadError> {
        if self.failed {
            return Ok(None);
        }
        let first_dirty = first_dirty.max(self.local_log_start());
        let bound = self.first_uncleanable(now_ms)?;
        let sources: Vec<Source> = (0..self.segments.len())
            .map(|at| Source {
                files: Arc::clone(&self.segments[at].files),
                size: self.segments[at].size,
                next_offset: self.segment_end(at),
            })
            .take_while(|source| source.next_offset <= bound)
            .collect();
        let Some(last) = sources.last().filter(|last| last.next_offset > first_dirty) else {
            return Ok(None);
        };
        let start = sources.first().map_or(0, |first| first.files.base_offset);
        let aborted = self.aborted_in(start, last.next_offset)?;
        let newest_of_producers = self.producers.with(self, |state| {
            state.iter().filter_map(|(_, entry)| entry.batches.back()).map(|batch| batch.last_offset).collect()
        })?;
        Ok(Some(CompactionPlan {
            disk: Arc::clone(self.disk()),
            generation: self.generation,
            sources,
            first_dirty,
            aborted,
            newest_of_producers,
            delete_retention_ms: self.config.delete_retention_ms,
            index_interval_bytes: self.config.index_interval_bytes,
            now_ms,
        }))
    }

    /// Puts rewritten segments in the place of the old ones, durably. What was freed or truncated since is left out.
    pub fn compact(&mut self, compacted: Compacted) -> Result<(), LogError> {
        self.check_usable()?;
        let current = compacted.generation == self.generation;
        for rewritten in compacted.rewritten {
            let base = rewritten.source.files.base_offset;
            let at = self.segments.partition_point(|segment| segment.base() < base);
            let fits = current
                && at + 1 < self.segments.len()
                && self.segments[at].base() == base
                && self.segments[at].size == rewritten.source.size;
            let result = match fits {
                // The first segment stays: it says where the log begins.
                true if rewritten.is_empty && at > 0 => self.drop_empty(at, rewritten),
                true => self.swap(at, rewritten),
                false => rewritten.discard(&**self.disk()),
            };
            if result.is_err() {
                self.failed = true;
            }
            result?;
        }
        Ok(())
    }

    /// Removes a segment in which nothing is left; its offsets become a gap at the end of the one before.
    fn drop_empty(&mut self, at: usize, rewritten: Rewritten) -> Result<(), LogError> {
        let disk = Arc::clone(self.disk());
        rewritten.discard(&*disk)?;
        let segment = self.segments.remove(at);
        segment.files.forget();
        self.dirty.remove(&segment.base());
        for kind in FileKind::ALL {
            self.unsynced.remove(&segment.files.path(kind));
            remove_if_exists(&*disk, &segment.files.path(kind))?;
        }
        self.remove_snapshots(vec![segment.base()])?;
        Ok(disk.sync_dir(&self.dir)?)
    }

    fn swap(&mut self, at: usize, rewritten: Rewritten) -> Result<(), LogError> {
        let disk = Arc::clone(self.disk());
        let files = Arc::clone(&self.segments[at].files);
        let log = files.path(FileKind::Log);
        files.forget();
        let swap = with_suffix(&log, ".swap");
        disk.rename(&with_suffix(&log, ".cleaned"), &swap)?;
        // The old indexes must be gone for good before the new log has its name: they would lead astray.
        for kind in [FileKind::OffsetIndex, FileKind::TimeIndex] {
            self.unsynced.remove(&files.path(kind));
            remove_if_exists(&*disk, &files.path(kind))?;
        }
        disk.sync_dir(&self.dir)?;
        files.set_index(rewritten.index);
        let max_timestamp = self.segments[at].max_timestamp()?;
        files.write_index(true)?;
        for kind in [FileKind::OffsetIndex, FileKind::TimeIndex] {
            files.open(kind)?.sync_all()?;
        }
        files.unload_index();
        disk.rename(&swap, &log)?;
        disk.sync_dir(&self.dir)?;
        self.dirty.remove(&files.base_offset);
        let segment = &mut self.segments[at];
        segment.size = rewritten.size;
        segment.first_timestamp = None;
        segment.set_max_timestamp(max_timestamp);
        Ok(())
    }
}

impl Rewritten {
    fn discard(self, disk: &dyn Disk) -> Result<(), LogError> {
        Ok(remove_if_exists(disk, &with_suffix(&self.source.files.path(FileKind::Log), ".cleaned"))?)
    }
}

impl CompactionPlan {
    /// Rewrites. `map_bytes` bounds the map of keys; if it is full, the rest is left to the next run.
    pub fn run(&self, map_bytes: usize) -> Result<Compacted, ReadError> {
        let keys_max = (map_bytes / MAP_BYTES_PER_KEY).max(1);
        let (map, clean_until) = self.build_map(keys_max)?;
        let mut compacted = Compacted {
            generation: self.generation,
            rewritten: Vec::new(),
            clean_until,
            bytes_before: 0,
            bytes_after: 0,
        };
        for source in self.sources.iter().filter(|source| source.files.base_offset < clean_until) {
            compacted.bytes_before += source.size;
            match self.rewrite(source, &map)? {
                Some(rewritten) => {
                    compacted.bytes_after += rewritten.size;
                    compacted.rewritten.push(rewritten);
                }
                None => compacted.bytes_after += source.size,
            }
        }
        Ok(compacted)
    }

    /// True if the batch belongs to a transaction that was aborted.
    fn is_aborted(&self, header: &BatchHeader) -> bool {
        header.is_transactional()
            && !header.is_control()
            && self.aborted.iter().any(|txn| {
                txn.producer_id == header.producer_id
                    && (txn.first_offset..=txn.last_offset).contains(&header.base_offset)
            })
    }

    /// The last offset of each key from the first dirty offset on, and where the map ends (exclusive).
    fn build_map(&self, keys_max: usize) -> Result<(KeyMap, i64), ReadError> {
        let mut map = KeyMap { offsets: HashMap::new(), keys_max };
        let mut end = self.first_dirty;
        for source in self.sources.iter().filter(|source| source.next_offset > self.first_dirty) {
            let file = source.files.open(FileKind::Log)?;
            let mut walk = BatchWalk::new(&*file, 0, source.size, SCAN_BLOCK_BYTES);
            while let Some((position, header)) = walk.next_batch().map_err(walk_error)? {
                if header.next_offset() <= self.first_dirty || header.is_control() || self.is_aborted(&header) {
                    continue;
                }
                let full = map.offsets.len() + header.record_count as usize > map.keys_max;
                // One batch fits always, or nothing would ever be compacted.
                if full && !map.offsets.is_empty() {
                    return Ok((map, header.base_offset.max(self.first_dirty)));
                }
                let batch = read_batch(&*file, position, &header)?;
                for record in records(&batch, DECOMPRESSED_BYTES_MAX).map_err(corrupt)? {
                    let record = record.map_err(corrupt)?;
                    if let Some(key) = &record.key {
                        map.offsets.insert(KeyMap::hash(key), record.offset);
                    }
                }
                end = header.next_offset();
            }
            end = end.max(source.next_offset);
        }
        Ok((map, end))
    }

    /// Writes a segment's `.cleaned` file, synced. `None` if nothing would change.
    fn rewrite(&self, source: &Source, map: &KeyMap) -> Result<Option<Rewritten>, ReadError> {
        let file = source.files.open(FileKind::Log)?;
        let path = with_suffix(&source.files.path(FileKind::Log), ".cleaned");
        let target = self.disk.create(&path)?;
        let mut index = MemoryIndex::new(source.files.base_offset);
        let mut out = Vec::with_capacity(WRITE_BYTES);
        let (mut written, mut changed, mut is_empty) = (0u64, false, true);
        let mut walk = BatchWalk::new(&*file, 0, source.size, SCAN_BLOCK_BYTES);
        while let Some((position, header)) = walk.next_batch().map_err(walk_error)? {
            let batch = read_batch(&*file, position, &header)?;
            let is_last = position + header.size_in_bytes() as u64 == source.size;
            let Some(kept) = self.clean_batch(&header, &batch, map, is_last)? else {
                changed = true;
                continue;
            };
            changed |= kept != batch;
            let header = BatchHeader::parse(&kept).map_err(corrupt)?;
            is_empty &= header.record_count == 0 && !self.newest_of_producers.contains(&header.last_offset());
            index.add_batch(&header, written + out.len() as u64, self.index_interval_bytes);
            out.extend_from_slice(&kept);
            if out.len() >= WRITE_BYTES {
                target.write_at(&mut [IoSlice::new(&out)], written)?;
                written += out.len() as u64;
                out.clear();
            }
        }
        target.write_at(&mut [IoSlice::new(&out)], written)?;
        written += out.len() as u64;
        if !changed && !is_empty {
            remove_if_exists(&*self.disk, &path)?;
            return Ok(None);
        }
        target.sync_all()?;
        index.add_time();
        Ok(Some(Rewritten { source: source.clone(), size: written, index, is_empty }))
    }

    /// The batch as it is to stay; `None` if it goes.
    fn clean_batch(
        &self,
        header: &BatchHeader,
        batch: &[u8],
        map: &KeyMap,
        is_last: bool,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        if header.is_control() {
            return Ok(Some(batch.to_vec()));
        }
        let mut kept = Vec::new();
        let mut tombstones = false;
        if !self.is_aborted(header) && header.record_count > 0 {
            for record in records(batch, DECOMPRESSED_BYTES_MAX).map_err(corrupt)? {
                let record = record.map_err(corrupt)?;
                if self.stays(header, &record, map) {
                    tombstones |= record.value.is_none();
                    kept.push(record);
                }
            }
        }
        if kept.is_empty() {
            let must_stay = is_last || self.newest_of_producers.contains(&header.last_offset());
            return Ok(must_stay.then(|| encode(header, batch, &[], None)).transpose()?);
        }
        let horizon =
            (tombstones && !header.has_delete_horizon()).then(|| self.now_ms.saturating_add(self.delete_retention_ms));
        if kept.len() as i32 == header.record_count && horizon.is_none() {
            return Ok(Some(batch.to_vec()));
        }
        Ok(Some(encode(header, batch, &kept, horizon)?))
    }

    fn stays(&self, header: &BatchHeader, record: &Record, map: &KeyMap) -> bool {
        let Some(key) = &record.key else {
            return false;
        };
        if map.last(key).is_some_and(|last| last > record.offset) {
            return false;
        }
        record.value.is_some() || !header.has_delete_horizon() || self.now_ms < header.base_timestamp
    }
}

fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    while zigzag >= 0x80 {
        out.push((zigzag as u8 & 0x7f) | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    put_varint(out, bytes.map_or(-1, |bytes| bytes.len() as i64));
    out.extend_from_slice(bytes.unwrap_or_default());
}

/// The batch of `header` with only the records `kept`: offsets, producer and range as they were. With a `horizon` its base
/// timestamp becomes the time from which tombstones may go.
fn encode(header: &BatchHeader, batch: &[u8], kept: &[Record], horizon: Option<i64>) -> Result<Vec<u8>, io::Error> {
    let base_timestamp = horizon.unwrap_or(header.base_timestamp);
    let mut body = Vec::new();
    let mut fields = Vec::new();
    let mut max_timestamp = -1;
    for record in kept {
        fields.clear();
        fields.push(0);
        put_varint(&mut fields, record.timestamp.wrapping_sub(base_timestamp));
        put_varint(&mut fields, record.offset - header.base_offset);
        put_nullable(&mut fields, record.key.as_deref());
        put_nullable(&mut fields, record.value.as_deref());
        put_varint(&mut fields, record.headers.len() as i64);
        for field in &record.headers {
            put_nullable(&mut fields, Some(&field.key));
            put_nullable(&mut fields, field.value.as_deref());
        }
        put_varint(&mut body, fields.len() as i64);
        body.extend_from_slice(&fields);
        max_timestamp = max_timestamp.max(record.timestamp);
    }
    let mut attributes = header.attributes;
    if kept.is_empty() {
        attributes &= !CODEC_MASK;
        max_timestamp = header.max_timestamp;
    } else if header.compression() != Compression::None {
        body = compress(header.compression(), &body)?;
    }
    if horizon.is_some() {
        attributes |= DELETE_HORIZON;
    }
    let length = i32::try_from(HEADER_LEN - LENGTH_OVERHEAD + body.len()).map_err(io::Error::other)?;
    let mut out = batch[..HEADER_LEN].to_vec();
    out[8..12].copy_from_slice(&length.to_be_bytes());
    out[21..23].copy_from_slice(&attributes.to_be_bytes());
    out[27..35].copy_from_slice(&base_timestamp.to_be_bytes());
    out[35..43].copy_from_slice(&max_timestamp.to_be_bytes());
    out[57..61].copy_from_slice(&(kept.len() as i32).to_be_bytes());
    out.extend_from_slice(&body);
    let crc = checksum(CrcAlgorithm::Crc32Iscsi, &out[21..]) as u32;
    out[17..21].copy_from_slice(&crc.to_be_bytes());
    Ok(out)
}
