//! The files of one segment and its sparse indexes.
//!
//! Owns: file names, the `.index` (8-byte entries: relative offset, position) and `.timeindex` (12-byte entries: timestamp,
//! relative offset) formats, lookups in memory (active segment) or by positioned reads (sealed), and when an entry is added.
//! Does not own: batches (`batch_walk.rs`), the `.txnindex` (`transaction_index.rs`), when a segment rolls (`log.rs`).
//! Invariants: entries rise; an offset entry holds the *last* offset of the batch that starts at its position. Both indexes
//! are hints: a reader checks the batch it lands on. A crash leaves: index files that are short or, past the recovery point,
//! wrong; recovery rebuilds them from the log.
//! Source: `org.apache.kafka.storage.internals.log.{LogSegment,OffsetIndex,TimeIndex}`.

use crate::file_cache::{FileCache, FileKind};
use parking_lot::Mutex;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use strandline_disk::DiskFile;
use strandline_protocol::record_batch::BatchHeader;

/// Bytes of an offset index entry.
pub(crate) const OFFSET_ENTRY_LEN: u64 = 8;
/// Bytes of a time index entry.
pub(crate) const TIME_ENTRY_LEN: u64 = 12;
/// Largest index file that is read into memory, in bytes; a larger one is not an index of ours or Kafka's.
const INDEX_BYTES_MAX: u64 = i32::MAX as u64;
/// No timestamp.
pub(crate) const NO_TIMESTAMP: i64 = -1;

/// A file name of Kafka's: 20 digits and a suffix with its dot.
pub(crate) fn file_name(offset: i64, suffix: &str) -> String {
    format!("{offset:020}{suffix}")
}

/// The offset of a file name with `suffix`; `None` if it is not one.
pub(crate) fn offset_of(name: &str, suffix: &str) -> Option<i64> {
    let digits = name.strip_suffix(suffix)?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
}

impl FileKind {
    /// All kinds, the log first.
    pub(crate) const ALL: [FileKind; 4] =
        [FileKind::Log, FileKind::OffsetIndex, FileKind::TimeIndex, FileKind::TransactionIndex];

    /// Kafka's suffix, with its dot.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            FileKind::Log => ".log",
            FileKind::OffsetIndex => ".index",
            FileKind::TimeIndex => ".timeindex",
            FileKind::TransactionIndex => ".txnindex",
        }
    }
}

/// The indexes of an active segment.
#[derive(Debug, Clone)]
pub(crate) struct MemoryIndex {
    base_offset: i64,
    /// Relative last offset, position.
    offsets: Vec<(u32, u32)>,
    /// Timestamp, relative offset.
    times: Vec<(i64, u32)>,
    /// Entries that are in the files already.
    written: (usize, usize),
    /// Largest timestamp so far, -1 = none, and the last offset of the batch that has it.
    pub(crate) max_timestamp: i64,
    pub(crate) offset_of_max: i64,
    bytes_since_entry: u64,
}

impl MemoryIndex {
    pub(crate) fn new(base_offset: i64) -> Self {
        Self {
            base_offset,
            offsets: Vec::new(),
            times: Vec::new(),
            written: (0, 0),
            max_timestamp: NO_TIMESTAMP,
            offset_of_max: base_offset,
            bytes_since_entry: 0,
        }
    }

    /// Takes in a batch that was appended at `position`.
    pub(crate) fn add_batch(&mut self, header: &BatchHeader, position: u64, interval_bytes: i32) {
        self.note_timestamp(header);
        if self.bytes_since_entry > interval_bytes.max(0) as u64 {
            if let (Ok(relative), Ok(position)) =
                (u32::try_from(header.last_offset() - self.base_offset), u32::try_from(position))
                && self.offsets.last().is_none_or(|last| last.0 < relative)
            {
                self.offsets.push((relative, position));
            }
            self.add_time();
            self.bytes_since_entry = 0;
        }
        self.bytes_since_entry += header.size_in_bytes() as u64;
    }

    /// A batch that compaction emptied has no record to be found by its time.
    fn note_timestamp(&mut self, header: &BatchHeader) {
        if header.max_timestamp > self.max_timestamp && header.record_count > 0 {
            self.max_timestamp = header.max_timestamp;
            self.offset_of_max = header.last_offset();
        }
    }

    /// Adds the largest timestamp so far, if it is larger than the last entry's.
    pub(crate) fn add_time(&mut self) {
        let (last_time, last_offset) = self.times.last().copied().unwrap_or((NO_TIMESTAMP, 0));
        if self.max_timestamp > last_time
            && let Ok(relative) = u32::try_from(self.offset_of_max - self.base_offset)
            && relative >= last_offset
        {
            self.times.push((self.max_timestamp, relative));
        }
    }

    pub(crate) fn is_full(&self, offset_entries_max: u64, time_entries_max: u64) -> bool {
        self.offsets.len() as u64 >= offset_entries_max || self.times.len() as u64 + 1 >= time_entries_max
    }

    /// Keeps what lies before `end_offset` and `end_position` (both exclusive). `max_timestamp` is what the kept time
    /// entries say; the caller walks the log from the returned place (offset, position) to correct it.
    pub(crate) fn truncate(&mut self, end_offset: i64, end_position: u64) -> (i64, u64) {
        let base = self.base_offset;
        self.offsets.retain(|(relative, position)| {
            base + i64::from(*relative) < end_offset && u64::from(*position) < end_position
        });
        let kept = self.offsets.last().copied();
        // Time entries written with or before the last kept offset entry do not lie behind it.
        let (offset, position) = kept.map_or((base, 0), |(r, p)| (base + i64::from(r), u64::from(p)));
        self.times.retain(|(_, relative)| base + i64::from(*relative) <= offset && kept.is_some());
        let (max, relative) = self.times.last().copied().unwrap_or((NO_TIMESTAMP, 0));
        self.max_timestamp = max;
        self.offset_of_max = base + i64::from(relative);
        self.bytes_since_entry = 0;
        self.written = (self.written.0.min(self.offsets.len()), self.written.1.min(self.times.len()));
        (offset, position)
    }

    /// Counts a batch that has been indexed already, when the log is walked from the last entry.
    pub(crate) fn count_indexed(&mut self, header: &BatchHeader) {
        self.note_timestamp(header);
        self.bytes_since_entry += header.size_in_bytes() as u64;
    }
}

/// Where a segment's indexes are.
#[derive(Debug)]
enum IndexState {
    /// In memory; the files may lag behind.
    Memory(MemoryIndex),
    /// In the files only.
    Files,
}

/// One segment's files; shared with readers.
#[derive(Debug)]
pub(crate) struct SegmentFiles {
    log_id: u64,
    pub(crate) base_offset: i64,
    dir: Arc<Path>,
    cache: Arc<FileCache>,
    index: Mutex<IndexState>,
    /// False only if there is no `.txnindex`, so that reads need not look for one.
    pub(crate) has_aborts: AtomicBool,
}

fn bad_data(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// The number of leading entries for which `holds` is true, if it is true for a prefix of them.
fn partition_point(count: u64, mut holds: impl FnMut(u64) -> io::Result<bool>) -> io::Result<u64> {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle)? {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

fn offset_entry(file: &dyn DiskFile, number: u64) -> io::Result<(u32, u32)> {
    let mut bytes = [0; OFFSET_ENTRY_LEN as usize];
    if file.read_at(&mut bytes, number * OFFSET_ENTRY_LEN)? < bytes.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(parse_offset_entry(&bytes))
}

fn parse_offset_entry(b: &[u8; 8]) -> (u32, u32) {
    (u32::from_be_bytes([b[0], b[1], b[2], b[3]]), u32::from_be_bytes([b[4], b[5], b[6], b[7]]))
}

fn time_entry(file: &dyn DiskFile, number: u64) -> io::Result<(i64, u32)> {
    let mut bytes = [0; TIME_ENTRY_LEN as usize];
    if file.read_at(&mut bytes, number * TIME_ENTRY_LEN)? < bytes.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(parse_time_entry(&bytes))
}

fn parse_time_entry(b: &[u8; 12]) -> (i64, u32) {
    let time = i64::from_be_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
    (time, u32::from_be_bytes([b[8], b[9], b[10], b[11]]))
}

impl SegmentFiles {
    /// The files of the segment at `base_offset`; nothing is opened.
    pub(crate) fn new(log_id: u64, base_offset: i64, dir: Arc<Path>, cache: Arc<FileCache>) -> Self {
        Self {
            log_id,
            base_offset,
            dir,
            cache,
            index: Mutex::new(IndexState::Files),
            has_aborts: AtomicBool::new(false),
        }
    }

    pub(crate) fn path(&self, kind: FileKind) -> PathBuf {
        self.dir.join(file_name(self.base_offset, kind.suffix()))
    }

    /// The file, opened if need be.
    pub(crate) fn open(&self, kind: FileKind) -> io::Result<Arc<dyn DiskFile>> {
        self.cache.get((self.log_id, self.base_offset, kind), || self.path(kind))
    }

    /// The file, or `None` if there is none of that name.
    pub(crate) fn open_if_exists(&self, kind: FileKind) -> io::Result<Option<Arc<dyn DiskFile>>> {
        match self.open(kind) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn create(&self, kind: FileKind) -> io::Result<Arc<dyn DiskFile>> {
        self.cache.create((self.log_id, self.base_offset, kind), &self.path(kind))
    }

    /// Closes the files that nobody holds.
    pub(crate) fn forget(&self) {
        self.cache.forget_segment(self.log_id, self.base_offset);
    }

    /// Starts with empty indexes in memory.
    pub(crate) fn set_index(&self, index: MemoryIndex) {
        *self.index.lock() = IndexState::Memory(index);
    }

    pub(crate) fn index_in_memory(&self) -> bool {
        matches!(*self.index.lock(), IndexState::Memory(_))
    }

    /// Runs `change` on the indexes in memory; `None` if they are in the files only.
    pub(crate) fn with_index<T>(&self, change: impl FnOnce(&mut MemoryIndex) -> T) -> Option<T> {
        match &mut *self.index.lock() {
            IndexState::Memory(index) => Some(change(index)),
            IndexState::Files => None,
        }
    }

    /// Reads both index files; entries that do not rise, or lie at or past `log_size` bytes, end what is taken.
    pub(crate) fn read_index(&self, log_size: u64) -> io::Result<MemoryIndex> {
        let mut index = MemoryIndex::new(self.base_offset);
        for chunk in self.read_whole(FileKind::OffsetIndex)?.chunks_exact(OFFSET_ENTRY_LEN as usize) {
            let entry = parse_offset_entry(chunk.try_into().expect("chunks are exact"));
            let rises = index.offsets.last().is_none_or(|last| last.0 < entry.0 && last.1 < entry.1);
            if !rises || u64::from(entry.1) >= log_size || entry.1 == 0 {
                break;
            }
            index.offsets.push(entry);
        }
        for chunk in self.read_whole(FileKind::TimeIndex)?.chunks_exact(TIME_ENTRY_LEN as usize) {
            let entry = parse_time_entry(chunk.try_into().expect("chunks are exact"));
            if entry.0 < 0 || index.times.last().is_some_and(|last| last.0 >= entry.0 || last.1 > entry.1) {
                break;
            }
            index.times.push(entry);
        }
        index.written = (index.offsets.len(), index.times.len());
        Ok(index)
    }

    fn read_whole(&self, kind: FileKind) -> io::Result<Vec<u8>> {
        let Some(file) = self.open_if_exists(kind)? else {
            return Ok(Vec::new());
        };
        let len = file.len()?;
        if len > INDEX_BYTES_MAX {
            return Err(bad_data(format!("{} has {len} bytes", self.path(kind).display())));
        }
        let mut bytes = vec![0; len as usize];
        let read = file.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Brings the index files up to what is in memory, at exact length. Returns true if anything was written.
    pub(crate) fn write_index(&self, whole: bool) -> io::Result<bool> {
        let mut state = self.index.lock();
        let IndexState::Memory(index) = &mut *state else {
            return Ok(false);
        };
        let mut from = if whole { (0, 0) } else { index.written };
        let mut files = Vec::with_capacity(2);
        for (kind, from) in [(FileKind::OffsetIndex, &mut from.0), (FileKind::TimeIndex, &mut from.1)] {
            let file = match self.open_if_exists(kind)? {
                Some(file) => file,
                None => {
                    *from = 0;
                    files.push((self.create(kind)?, true));
                    continue;
                }
            };
            files.push((file, false));
        }
        let mut offsets = Vec::with_capacity((index.offsets.len() - from.0) * OFFSET_ENTRY_LEN as usize);
        for (offset, position) in &index.offsets[from.0..] {
            offsets.extend(offset.to_be_bytes());
            offsets.extend(position.to_be_bytes());
        }
        let mut times = Vec::with_capacity((index.times.len() - from.1) * TIME_ENTRY_LEN as usize);
        for (time, offset) in &index.times[from.1..] {
            times.extend(time.to_be_bytes());
            times.extend(offset.to_be_bytes());
        }
        let starts = [from.0 as u64 * OFFSET_ENTRY_LEN, from.1 as u64 * TIME_ENTRY_LEN];
        let mut changed = false;
        for ((file, created), (bytes, start)) in files.iter().zip([&offsets, &times].into_iter().zip(starts)) {
            changed |= *created;
            if file.len()? > start {
                file.truncate(start)?;
                changed = true;
            }
            if !bytes.is_empty() {
                file.write_at(&mut [IoSlice::new(bytes)], start)?;
                changed = true;
            }
        }
        index.written = (index.offsets.len(), index.times.len());
        Ok(changed)
    }

    /// Leaves the indexes to their files, which [`SegmentFiles::write_index`] has brought up to date.
    pub(crate) fn unload_index(&self) {
        *self.index.lock() = IndexState::Files;
    }

    /// Greatest indexed (last offset, position) at or below `target`; the segment's start if there is none.
    pub(crate) fn lookup_offset(&self, target: i64) -> io::Result<(i64, u64)> {
        let base = self.base_offset;
        self.lookup(|entry| base + i64::from(entry.0) <= target)
    }

    /// Greatest indexed (last offset, position) whose position is at most `limit`; the segment's start if there is none.
    pub(crate) fn lookup_position(&self, limit: u64) -> io::Result<(i64, u64)> {
        self.lookup(|entry| u64::from(entry.1) <= limit)
    }

    fn lookup(&self, holds: impl Fn(&(u32, u32)) -> bool) -> io::Result<(i64, u64)> {
        let start = (self.base_offset, 0);
        let resolve = |(offset, position): (u32, u32)| (self.base_offset + i64::from(offset), u64::from(position));
        let state = self.index.lock();
        if let IndexState::Memory(index) = &*state {
            let after = index.offsets.partition_point(holds);
            return Ok(after.checked_sub(1).map_or(start, |at| resolve(index.offsets[at])));
        }
        drop(state);
        let Some(file) = self.open_if_exists(FileKind::OffsetIndex)? else {
            return Ok(start);
        };
        let count = file.len()? / OFFSET_ENTRY_LEN;
        let after = partition_point(count, |number| Ok(holds(&offset_entry(&*file, number)?)))?;
        match after.checked_sub(1) {
            Some(at) => Ok(resolve(offset_entry(&*file, at)?)),
            None => Ok(start),
        }
    }

    /// Greatest indexed (timestamp, offset) whose timestamp is below `target`; (-1, base offset) if there is none.
    pub(crate) fn lookup_time_below(&self, target: i64) -> io::Result<(i64, i64)> {
        let start = (NO_TIMESTAMP, self.base_offset);
        let resolve = |(time, offset): (i64, u32)| (time, self.base_offset + i64::from(offset));
        let state = self.index.lock();
        if let IndexState::Memory(index) = &*state {
            let after = index.times.partition_point(|entry| entry.0 < target);
            return Ok(after.checked_sub(1).map_or(start, |at| resolve(index.times[at])));
        }
        drop(state);
        let Some(file) = self.open_if_exists(FileKind::TimeIndex)? else {
            return Ok(start);
        };
        let count = file.len()? / TIME_ENTRY_LEN;
        let after = partition_point(count, |number| Ok(time_entry(&*file, number)?.0 < target))?;
        match after.checked_sub(1) {
            Some(at) => Ok(resolve(time_entry(&*file, at)?)),
            None => Ok(start),
        }
    }

    /// The last (timestamp, offset) of the time index; `None` if it has no entry.
    pub(crate) fn last_time(&self) -> io::Result<Option<(i64, i64)>> {
        let last = self.lookup_time_below(i64::MAX)?;
        Ok((last.0 >= 0).then_some(last))
    }
}
