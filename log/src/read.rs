//! Reads: planned under the writer's lock, in memory; run outside of it.
//!
//! Owns: [`ReadPlan`], searches by time, aborted transactions of a range. Does not own: who may read how far (`upper` says).
//! Invariants: no byte of a batch that ends past `upper` is returned; an index is only a hint, the batch found decides; an
//! offset that no segment holds any more (a gap) continues at the next batch. Truncation meanwhile gives an error or bytes
//! that the caller must discard, deletion gives `MovedToTieredStorage`.

use crate::batch_walk::{BatchWalk, SCAN_BLOCK_BYTES, WALK_BLOCK_BYTES, WalkError, read_exact};
use crate::error::ReadError;
use crate::file_cache::FileKind;
use crate::log::Log;
use crate::producers::indexed_batch;
use crate::segment::SegmentFiles;
use crate::transaction_index::{self, AbortedTxn};
use crate::validate::DECOMPRESSED_BYTES_MAX;
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use strandline_disk::DiskFile;
use strandline_protocol::record_batch::{BatchHeader, HEADER_LEN, records};
use strandline_protocol::rope::{FileRange, Rope};

/// Segments with bytes that one plan may visit: the one that should hold the offset, and the next, if it ends in a gap.
const SEGMENTS_MAX: usize = 2;

/// A record found by its timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampedOffset {
    pub offset: i64,
    pub timestamp: i64,
    pub leader_epoch: i32,
}

/// What a read found.
#[derive(Debug, Clone)]
pub struct LogRead {
    /// Whole batches; the first may begin before the offset asked for.
    pub records: Rope,
    /// Base offset of the first batch, or the offset asked for if there is none.
    pub first_offset: i64,
    /// Where to read on: behind the last batch, and behind the gap that follows it if it is known.
    pub next_offset: i64,
}

#[derive(Debug, Clone)]
struct PlannedSegment {
    files: Arc<SegmentFiles>,
    /// Bytes that were in the segment when the read was planned.
    size: u64,
    /// Exclusive end.
    next_offset: i64,
}

/// A read that can run without the log.
#[derive(Debug, Clone)]
pub struct ReadPlan {
    offset: i64,
    /// Exclusive.
    upper: i64,
    log_end: i64,
    segments: Vec<PlannedSegment>,
}

impl Log {
    /// Plans a read of batches from `offset` up to `upper` (exclusive: high watermark, last stable offset or log end).
    pub fn prepare_read(&self, offset: i64, upper: i64) -> Result<ReadPlan, ReadError> {
        if offset < self.log_start || offset > self.log_end {
            return Err(ReadError::OffsetOutOfRange {
                offset,
                log_start_offset: self.log_start,
                log_end_offset: self.log_end,
            });
        }
        let local_log_start_offset = self.local_log_start();
        if offset < local_log_start_offset {
            return Err(ReadError::MovedToTieredStorage { offset, local_log_start_offset });
        }
        let mut plan = ReadPlan { offset, upper: upper.min(self.log_end), log_end: self.log_end, segments: Vec::new() };
        if offset < plan.upper {
            plan.segments.reserve_exact(SEGMENTS_MAX);
            let first = self.segments.partition_point(|segment| segment.base() <= offset).saturating_sub(1);
            let with_bytes = (first..self.segments.len()).filter(|at| self.segments[*at].size > 0);
            plan.segments.extend(with_bytes.take(SEGMENTS_MAX).map(|at| PlannedSegment {
                files: Arc::clone(&self.segments[at].files),
                size: self.segments[at].size,
                next_offset: self.segment_end(at),
            }));
        }
        Ok(plan)
    }

    /// Aborted transactions that overlap [`first`, `upper`), for read_committed readers.
    pub fn aborted_in(&self, first: i64, upper: i64) -> Result<Vec<AbortedTxn>, ReadError> {
        let mut found = Vec::new();
        let from = self.segments.partition_point(|segment| segment.base() <= first).saturating_sub(1);
        for segment in &self.segments[from..] {
            let mut complete = false;
            for txn in transaction_index::read(&segment.files)? {
                if txn.last_offset >= first && txn.first_offset < upper {
                    found.push(txn);
                }
                // From here on every aborted transaction begins at or after the range's end.
                complete |= txn.last_stable_offset >= upper;
            }
            if complete {
                break;
            }
        }
        Ok(found)
    }

    /// Aborted transactions that overlap [`first`, `last`], both inclusive, for a segment's copy.
    pub fn aborted_overlapping(&self, first: i64, last: i64) -> Result<Vec<AbortedTxn>, ReadError> {
        self.aborted_in(first, last.saturating_add(1))
    }

    /// The first local record below `upper` whose timestamp is at least `timestamp`.
    pub fn offset_for_timestamp(&self, timestamp: i64, upper: i64) -> Result<Option<TimestampedOffset>, ReadError> {
        for (at, segment) in self.segments.iter().enumerate() {
            if segment.base() >= upper {
                break;
            }
            if self.segment_end(at) <= self.local_log_start() || segment.max_timestamp()? < timestamp {
                continue;
            }
            // Up to this offset nothing has a timestamp as large: the search begins there.
            let (_, from) = segment.files.lookup_time_below(timestamp)?;
            let from = from.max(self.local_log_start());
            let file = segment.files.open(FileKind::Log)?;
            let start = start_position(&segment.files, &*file, from, segment.size)?;
            let mut walk = BatchWalk::new(&*file, start, segment.size, WALK_BLOCK_BYTES);
            while let Some((position, header)) = walk.next_batch().map_err(read_error)? {
                if header.base_offset >= upper {
                    return Ok(None);
                }
                if header.last_offset() < from || header.max_timestamp < timestamp {
                    continue;
                }
                let wanted = |found: &TimestampedOffset| {
                    found.timestamp >= timestamp && found.offset >= self.local_log_start() && found.offset < upper
                };
                if let Some(found) = find_record(&*file, position, &header, wanted)? {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    /// The first local record below `upper` that has the largest timestamp.
    pub fn offset_of_max_timestamp(&self, upper: i64) -> Result<Option<TimestampedOffset>, ReadError> {
        let mut best: Option<TimestampedOffset> = None;
        for (at, segment) in self.segments.iter().enumerate() {
            if segment.base() >= upper {
                break;
            }
            let known = best.map_or(-1, |found| found.timestamp);
            if segment.size == 0 || self.segment_end(at) <= self.local_log_start() || segment.max_timestamp()? <= known
            {
                continue;
            }
            if let Some(found) = self.max_in_segment(at, upper, known)? {
                best = Some(found);
            }
        }
        Ok(best)
    }

    /// The first record of a segment, below `upper`, with the largest timestamp above `known`.
    fn max_in_segment(&self, at: usize, upper: i64, known: i64) -> Result<Option<TimestampedOffset>, ReadError> {
        let segment = &self.segments[at];
        let file = segment.files.open(FileKind::Log)?;
        let start_offset = self.local_log_start();
        // Without a bound inside of the segment its largest timestamp is known, and where it may first be.
        let whole = self.segment_end(at) <= upper && segment.base() >= start_offset;
        let (_, from) = if whole {
            segment.files.lookup_time_below(segment.max_timestamp()?)?
        } else {
            (0, segment.base().max(start_offset))
        };
        let start = start_position(&segment.files, &*file, from, segment.size)?;
        let mut walk = BatchWalk::new(&*file, start, segment.size, SCAN_BLOCK_BYTES);
        let mut best: Option<TimestampedOffset> = None;
        while let Some((position, header)) = walk.next_batch().map_err(read_error)? {
            if header.base_offset >= upper {
                break;
            }
            let known = best.map_or(known, |found| found.timestamp);
            if header.max_timestamp <= known {
                continue;
            }
            let inside = header.base_offset >= start_offset && header.next_offset() <= upper;
            let mut largest = known;
            if inside {
                largest = header.max_timestamp;
            } else {
                find_record(&*file, position, &header, |record| {
                    if record.offset >= start_offset && record.offset < upper {
                        largest = largest.max(record.timestamp);
                    }
                    false
                })?;
            }
            if largest > known {
                let wanted = |record: &TimestampedOffset| record.timestamp == largest && record.offset >= start_offset;
                best = find_record(&*file, position, &header, wanted)?.or(best);
            }
        }
        Ok(best)
    }
}

/// The first record of a batch that is `wanted`.
fn find_record(
    file: &dyn DiskFile,
    position: u64,
    header: &BatchHeader,
    mut wanted: impl FnMut(&TimestampedOffset) -> bool,
) -> Result<Option<TimestampedOffset>, ReadError> {
    let batch = read_exact(file, position, header.size_in_bytes())?;
    let corrupt = |error: strandline_protocol::record_batch::BatchError| ReadError::Corrupt(error.to_string());
    header.verify_crc(&batch).map_err(corrupt)?;
    for record in records(&batch, DECOMPRESSED_BYTES_MAX).map_err(corrupt)? {
        let record = record.map_err(corrupt)?;
        let leader_epoch = header.partition_leader_epoch;
        let found = TimestampedOffset { offset: record.offset, timestamp: record.timestamp, leader_epoch };
        if wanted(&found) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn read_error(error: WalkError) -> ReadError {
    match error {
        WalkError::Io(error) => ReadError::Io(error),
        WalkError::Bad { position, reason } => ReadError::Corrupt(format!("at byte {position}: {reason}")),
    }
}

/// Where to begin a walk to the batch that holds `offset`.
fn start_position(files: &SegmentFiles, file: &dyn DiskFile, offset: i64, limit: u64) -> Result<u64, ReadError> {
    let (indexed, position) = files.lookup_offset(offset)?;
    let sound = position < limit && indexed <= offset && indexed_batch(file, position, limit, indexed);
    Ok(if sound { position } else { 0 })
}

impl ReadPlan {
    /// Reads at most `max_bytes`, whole batches only; with `min_one` the first batch comes even if it is larger.
    pub fn run(&self, max_bytes: u32, min_one: bool) -> Result<LogRead, ReadError> {
        for segment in &self.segments {
            match self.read_segment(segment, u64::from(max_bytes), min_one) {
                Ok(Some(read)) => return Ok(read),
                Ok(None) => {}
                // Freed since: its name is gone, and what it held is in the tier.
                Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                    let local_log_start_offset = segment.next_offset;
                    return Err(ReadError::MovedToTieredStorage { offset: self.offset, local_log_start_offset });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.nothing(self.offset))
    }

    fn nothing(&self, at: i64) -> LogRead {
        LogRead { records: Rope::default(), first_offset: at, next_offset: at }
    }

    /// `None` if the segment has no batch that ends behind the offset.
    fn read_segment(&self, segment: &PlannedSegment, max: u64, min_one: bool) -> Result<Option<LogRead>, ReadError> {
        let file = segment.files.open(FileKind::Log)?;
        // Compaction may have put a shorter file in its place.
        let size = if segment.next_offset < self.log_end { segment.size.min(file.len()?) } else { segment.size };
        let Some((start, first)) = self.find_start(segment, &*file, size)? else {
            return Ok(None);
        };
        if first.next_offset() > self.upper {
            return Ok(Some(self.nothing(self.offset)));
        }
        let first_end = start + first.size_in_bytes() as u64;
        if first_end - start > max {
            if !min_one {
                return Ok(Some(self.nothing(self.offset)));
            }
            let records = take(&file, start, first_end)?;
            return Ok(Some(LogRead { records, first_offset: first.base_offset, next_offset: first.next_offset() }));
        }
        let limit = size.min(start + max);
        let (end, next_offset) = if limit == size && self.upper >= segment.next_offset {
            (size, segment.next_offset)
        } else {
            self.find_end(segment, &*file, (first_end, first.next_offset()), limit)?
        };
        let records = take(&file, start, end)?;
        Ok(Some(LogRead { records, first_offset: first.base_offset, next_offset }))
    }

    fn find_start(
        &self,
        segment: &PlannedSegment,
        file: &dyn DiskFile,
        size: u64,
    ) -> Result<Option<(u64, BatchHeader)>, ReadError> {
        let (indexed, from) = segment.files.lookup_offset(self.offset)?;
        let mut from = if from < size && indexed <= self.offset { from } else { 0 };
        loop {
            let mut walk = BatchWalk::new(file, from, size, WALK_BLOCK_BYTES);
            let mut is_first = true;
            let found = loop {
                match walk.next_batch() {
                    Ok(Some((_, header))) if is_first && from > 0 && header.last_offset() != indexed => break None,
                    Ok(Some((position, header))) if header.last_offset() >= self.offset => {
                        return Ok(Some((position, header)));
                    }
                    Ok(Some(_)) => is_first = false,
                    Ok(None) => return Ok(None),
                    Err(error) => break Some(error),
                }
            };
            match found {
                // The index did not lead to the batch that it names: walk the whole segment.
                _ if from > 0 && is_first => from = 0,
                Some(error) => return Err(read_error(error)),
                None => return Ok(None),
            }
        }
    }

    /// The end of the last whole batch that fits into `limit` (bytes) and `upper`: position and offset, both exclusive.
    fn find_end(
        &self,
        segment: &PlannedSegment,
        file: &dyn DiskFile,
        first_end: (u64, i64),
        limit: u64,
    ) -> Result<(u64, i64), ReadError> {
        let by_position = segment.files.lookup_position(limit)?;
        let by_offset = segment.files.lookup_offset(self.upper - 1)?;
        let nearest = if by_position.1 < by_offset.1 { by_position } else { by_offset };
        let mut end = first_end;
        if nearest.1 > first_end.0 {
            let mut at_entry = BatchWalk::new(file, nearest.1, segment.size, HEADER_LEN);
            // What lies before the batch of that entry is whole and below both limits.
            if let Ok(Some((_, header))) = at_entry.next_batch()
                && header.last_offset() == nearest.0
            {
                end = (nearest.1, header.base_offset);
            }
        }
        let mut walk = BatchWalk::new(file, end.0, limit, WALK_BLOCK_BYTES);
        loop {
            match walk.next_batch() {
                Ok(Some((position, header))) if header.next_offset() <= self.upper => {
                    end = (position + header.size_in_bytes() as u64, header.next_offset());
                }
                // A batch that the byte limit cuts off is bad to the walk, and simply not taken.
                Ok(_) | Err(WalkError::Bad { .. }) => return Ok(end),
                Err(WalkError::Io(error)) => return Err(error.into()),
            }
        }
    }
}

/// A file range if there is a real file, else its bytes.
fn take(file: &Arc<dyn DiskFile>, start: u64, end: u64) -> Result<Rope, ReadError> {
    let mut rope = Rope::default();
    match file.as_file() {
        Some(real) => rope.push_file(FileRange { file: Arc::clone(real), position: start, len: end - start }),
        None => rope.push_bytes(Bytes::from(read_exact(&**file, start, (end - start) as usize)?)),
    }
    Ok(rope)
}
