//! What the tests of the log share: batches, and logs on a disk in memory.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use strandline_disk::{Disk, FaultyDisk};
use strandline_log::{AppendOrigin, FileCache, Log, LogConfig, LogOptions, OpenError};
use strandline_protocol::compression::{Compression, DecompressLimit};
use strandline_protocol::ids::TopicId;
use strandline_protocol::record_batch::{BatchHeader, ControlRecord, RecordBatchBuilder, batches, records};

/// The partition's directory.
pub const DIR: &str = "/data/t-0";
/// The time of all appends.
pub const NOW: i64 = 1_000_000;

pub fn topic_id() -> TopicId {
    "AAAAAAAAAAAAAAAAAAAAAQ".parse().unwrap()
}

/// A disk with an empty log directory.
pub fn new_disk() -> FaultyDisk {
    let disk = FaultyDisk::new();
    disk.create_dir_all(Path::new("/data")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

/// A configuration with segments of `segment_bytes`, which may be smaller than a topic may ask for.
pub fn config(segment_bytes: i64) -> LogConfig {
    LogConfig { segment_bytes, index_interval_bytes: 64, ..LogConfig::default() }
}

/// `count` records of `value_bytes` bytes each; the first has the timestamp `timestamp`, the others each one more.
pub fn batch(count: usize, value_bytes: usize, timestamp: i64) -> Bytes {
    builder(count, value_bytes, timestamp).build()
}

pub fn builder(count: usize, value_bytes: usize, timestamp: i64) -> RecordBatchBuilder {
    let mut builder = RecordBatchBuilder::new(Compression::None);
    for number in 0..count {
        builder.append(timestamp + number as i64, Some(b"key"), Some(&vec![0xA5; value_bytes]), &[]);
    }
    builder
}

/// A batch of an idempotent producer.
pub fn produced(id: i64, epoch: i16, sequence: i32, count: usize, transactional: bool) -> Bytes {
    let mut builder = builder(count, 20, NOW);
    (builder.producer_id, builder.producer_epoch, builder.base_sequence) = (id, epoch, sequence);
    builder.transactional = transactional;
    builder.build()
}

/// An end-of-transaction marker.
pub fn marker(id: i64, epoch: i16, abort: bool) -> Bytes {
    let coordinator_epoch = 0;
    let record =
        if abort { ControlRecord::Abort { coordinator_epoch } } else { ControlRecord::Commit { coordinator_epoch } };
    let (key, value) = record.encode();
    let mut builder = RecordBatchBuilder::new(Compression::None);
    (builder.producer_id, builder.producer_epoch) = (id, epoch);
    (builder.transactional, builder.control) = (true, true);
    builder.append(NOW, Some(&key), Some(&value), &[]);
    builder.build()
}

/// How a log is opened.
#[derive(Clone, Copy, Default)]
pub struct Opening {
    pub log_start: i64,
    pub recovery_point: i64,
    pub clean: bool,
}

pub fn open(disk: &FaultyDisk, config: LogConfig, opening: Opening) -> Result<Log, OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    open_on(disk, Path::new(DIR), config, opening)
}

pub fn open_on(disk: Arc<dyn Disk>, dir: &Path, config: LogConfig, opening: Opening) -> Result<Log, OpenError> {
    Log::open(LogOptions {
        dir: dir.to_path_buf(),
        topic_id: topic_id(),
        files: Arc::new(FileCache::new(disk, 64)),
        config: Arc::new(config),
        log_start_offset: opening.log_start,
        recovery_point: opening.recovery_point,
        clean_shutdown: opening.clean,
        now_ms: NOW,
    })
}

pub fn append(log: &mut Log, records: &Bytes) -> i64 {
    log.append_as_leader(records, 0, AppendOrigin::Client, NOW).unwrap().first_offset
}

pub fn flush(log: &mut Log) {
    if let Some(flush) = log.begin_flush() {
        flush.run().unwrap();
        log.finish_flush(&flush);
    }
}

/// All batches from `offset` on, read in pieces of at most `max_bytes`, as (header, bytes).
pub fn read_all(log: &Log, mut offset: i64, max_bytes: u32) -> Vec<(BatchHeader, Bytes)> {
    let end = log.offsets().log_end;
    let mut all = Vec::new();
    while offset < end {
        let read = log.prepare_read(offset, end).unwrap().run(max_bytes, true).unwrap();
        let bytes = read.records.to_bytes().unwrap();
        assert!(!bytes.is_empty(), "nothing at {offset} of {end}");
        let mut position = 0;
        for found in batches(&bytes) {
            let (header, batch) = found.unwrap();
            header.verify_crc(batch).unwrap();
            position += batch.len();
            if header.last_offset() >= offset {
                all.push((header, Bytes::copy_from_slice(batch)));
            }
        }
        assert_eq!(position, bytes.len(), "whole batches only");
        // The hint may lead over a gap, never back.
        assert!(read.next_offset >= all.last().unwrap().0.next_offset() && read.next_offset <= end, "from {offset}");
        offset = read.next_offset;
    }
    all
}

/// First and last offset of each batch.
pub fn ranges(batches: &[(BatchHeader, Bytes)]) -> Vec<(i64, i64)> {
    batches.iter().map(|(header, _)| (header.base_offset, header.last_offset())).collect()
}

/// One record: a key and a value as numbers; -1 is a tombstone.
pub fn keyed(key: i64, value: i64, timestamp: i64) -> Bytes {
    let mut builder = RecordBatchBuilder::new(Compression::None);
    let bytes = value.to_be_bytes();
    builder.append(timestamp, Some(&key.to_be_bytes()), (value >= 0).then_some(&bytes[..]), &[]);
    builder.build()
}

/// All records of [`keyed`] batches in order; markers are left out.
pub fn all_records(log: &Log) -> Vec<(i64, i64)> {
    let number = |bytes: &Bytes| i64::from_be_bytes(bytes[..].try_into().unwrap());
    let mut all = Vec::new();
    for (header, bytes) in read_all(log, log.offsets().local_log_start, 1 << 20) {
        if header.is_control() {
            continue;
        }
        for record in records(&bytes, DecompressLimit(1 << 20)).unwrap() {
            let record = record.unwrap();
            all.push((number(record.key.as_ref().unwrap()), record.value.as_ref().map_or(-1, number)));
        }
    }
    all
}

/// What a reader of [`keyed`] batches ends up with.
pub fn last_values(log: &Log) -> BTreeMap<i64, i64> {
    let mut values = BTreeMap::new();
    for (key, value) in all_records(log) {
        if value >= 0 {
            values.insert(key, value);
        } else {
            values.remove(&key);
        }
    }
    values
}
