//! Record batches, version 2 (`docs/formats/record-batch.md`).
//!
//! Owns the 61-byte header, the checks that need no decompression, iteration, records and building. Base offset and
//! leader epoch lie outside the CRC: a broker patches them without touching the rest.
//! Invariants: a length is checked against the bytes that are there; decompression is bounded by the caller.

mod records;

use bytes::{BufMut, Bytes};

use crate::compression::{Compression, DecompressError, compress};

pub use self::records::{Header, Record, RecordIter, records, records_in};

/// Bytes of a batch's header, in front of its records.
pub const HEADER_LEN: usize = 61;
/// Bytes in front of what `batch_length` counts.
pub const LENGTH_OVERHEAD: usize = 12;
/// Bytes from the start up to and including the leader epoch: what a broker patches.
pub const PREFIX_LEN: usize = 16;
/// The only version that is served.
pub const MAGIC: i8 = 2;

const CRC_START: usize = 21;
const MAGIC_OFFSET: usize = 16;
const ATTRIBUTES_OFFSET: usize = 21;
const MAX_TIMESTAMP_OFFSET: usize = 35;
const CRC_OFFSET: usize = 17;

const COMPRESSION_MASK: i16 = 0x07;
const LOG_APPEND_TIME: i16 = 0x08;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;
const DELETE_HORIZON: i16 = 0x40;

/// Why bytes are not a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The bytes end inside of a batch.
    #[error("a batch needs {needed} bytes, {remaining} remain")]
    Truncated { needed: usize, remaining: usize },
    #[error("record format version {0} is not served, only 2")]
    Magic(i8),
    #[error("a batch length of {0} is not possible")]
    Length(i32),
    #[error("codec {0} does not exist")]
    Codec(i16),
    #[error("the header contradicts itself: {0}")]
    Inconsistent(&'static str),
    #[error("the CRC is {actual:08x}, the header says {expected:08x}")]
    Crc { expected: u32, actual: u32 },
    #[error("a record is malformed: {0}")]
    Record(&'static str),
    #[error("{0}")]
    Decompress(String),
}

impl From<DecompressError> for BatchError {
    fn from(error: DecompressError) -> Self {
        BatchError::Decompress(error.to_string())
    }
}

/// Who sets the records' timestamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    CreateTime,
    LogAppendTime,
}

/// A batch's header. Offsets are inclusive; times are ms since the epoch, -1 = none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    pub base_offset: i64,
    /// Bytes behind this field.
    pub batch_length: i32,
    pub partition_leader_epoch: i32,
    pub magic: i8,
    pub crc: u32,
    pub attributes: i16,
    pub last_offset_delta: i32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    /// -1 = none.
    pub producer_id: i64,
    pub producer_epoch: i16,
    /// -1 = none.
    pub base_sequence: i32,
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads the header at the start of `bytes` and checks that it does not contradict itself. Whether the batch is
    /// there whole is [`batches`]'s to check.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let Some(head) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(truncated_or_old(bytes));
        };
        let i16_at = |at: usize| i16::from_be_bytes([head[at], head[at + 1]]);
        let i32_at = |at: usize| i32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let i64_at = |at: usize| (i64::from(i32_at(at)) << 32) | i64::from(i32_at(at + 4) as u32);
        let header = BatchHeader {
            base_offset: i64_at(0),
            batch_length: i32_at(8),
            partition_leader_epoch: i32_at(12),
            magic: head[MAGIC_OFFSET] as i8,
            crc: i32_at(CRC_OFFSET) as u32,
            attributes: i16_at(ATTRIBUTES_OFFSET),
            last_offset_delta: i32_at(23),
            base_timestamp: i64_at(27),
            max_timestamp: i64_at(MAX_TIMESTAMP_OFFSET),
            producer_id: i64_at(43),
            producer_epoch: i16_at(51),
            base_sequence: i32_at(53),
            record_count: i32_at(57),
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), BatchError> {
        if self.magic != MAGIC {
            return Err(BatchError::Magic(self.magic));
        }
        if self.batch_length < (HEADER_LEN - LENGTH_OVERHEAD) as i32 {
            return Err(BatchError::Length(self.batch_length));
        }
        if Compression::from_id(self.attributes & COMPRESSION_MASK).is_none() {
            return Err(BatchError::Codec(self.attributes & COMPRESSION_MASK));
        }
        if self.base_offset < 0 || self.base_offset.checked_add(self.last_offset_delta.into()).is_none() {
            return Err(BatchError::Inconsistent("the base offset is out of range"));
        }
        if self.last_offset_delta < 0 {
            return Err(BatchError::Inconsistent("the last offset is before the first"));
        }
        if self.record_count < 0 || i64::from(self.record_count) > i64::from(self.last_offset_delta) + 1 {
            return Err(BatchError::Inconsistent("more records than offsets"));
        }
        Ok(())
    }

    /// Offset of the last record (or where it was, after compaction).
    pub fn last_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    /// Offset behind the batch.
    pub fn next_offset(&self) -> i64 {
        self.last_offset() + 1
    }

    /// Bytes of the whole batch.
    pub fn size_in_bytes(&self) -> usize {
        LENGTH_OVERHEAD + usize::try_from(self.batch_length).unwrap_or(0)
    }

    pub fn compression(&self) -> Compression {
        Compression::from_id(self.attributes & COMPRESSION_MASK).unwrap_or(Compression::None)
    }

    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes & LOG_APPEND_TIME != 0 { TimestampType::LogAppendTime } else { TimestampType::CreateTime }
    }

    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// Whether `base_timestamp` is the time from which tombstones may go (compacted batches).
    pub fn has_delete_horizon(&self) -> bool {
        self.attributes & DELETE_HORIZON != 0
    }

    pub fn has_producer_id(&self) -> bool {
        self.producer_id >= 0
    }

    /// Sequence of the last record; sequences wrap to 0.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return -1;
        }
        let last = i64::from(self.base_sequence) + i64::from(self.last_offset_delta);
        (last % (i64::from(i32::MAX) + 1)) as i32
    }

    /// Checks the CRC of `batch`, which is the whole batch of this header.
    pub fn verify_crc(&self, batch: &[u8]) -> Result<(), BatchError> {
        let actual = crc32c(
            batch
                .get(CRC_START..self.size_in_bytes())
                .ok_or(BatchError::Truncated { needed: self.size_in_bytes(), remaining: batch.len() })?,
        );
        if actual == self.crc { Ok(()) } else { Err(BatchError::Crc { expected: self.crc, actual }) }
    }

    /// The first 16 bytes with another base offset and leader epoch: with the rest of the batch behind them, it is
    /// written without being copied.
    pub fn prefix_with(&self, base_offset: i64, leader_epoch: i32) -> [u8; PREFIX_LEN] {
        let mut prefix = [0; PREFIX_LEN];
        prefix[..8].copy_from_slice(&base_offset.to_be_bytes());
        prefix[8..12].copy_from_slice(&self.batch_length.to_be_bytes());
        prefix[12..].copy_from_slice(&leader_epoch.to_be_bytes());
        prefix
    }
}

/// Bytes too short for a header: an old format, if they are enough to tell.
fn truncated_or_old(bytes: &[u8]) -> BatchError {
    match bytes.get(MAGIC_OFFSET) {
        Some(magic) if *magic as i8 != MAGIC => BatchError::Magic(*magic as i8),
        _ => BatchError::Truncated { needed: HEADER_LEN, remaining: bytes.len() },
    }
}

/// Sets log append time on an owned batch: attribute, max timestamp, CRC.
pub fn set_log_append_time(batch: &mut [u8], now_ms: i64) -> Result<(), BatchError> {
    let header = BatchHeader::parse(batch)?;
    let size = header.size_in_bytes();
    if batch.len() < size {
        return Err(BatchError::Truncated { needed: size, remaining: batch.len() });
    }
    let attributes = header.attributes | LOG_APPEND_TIME;
    batch[ATTRIBUTES_OFFSET..ATTRIBUTES_OFFSET + 2].copy_from_slice(&attributes.to_be_bytes());
    batch[MAX_TIMESTAMP_OFFSET..MAX_TIMESTAMP_OFFSET + 8].copy_from_slice(&now_ms.to_be_bytes());
    let crc = crc32c(&batch[CRC_START..size]);
    batch[CRC_OFFSET..CRC_OFFSET + 4].copy_from_slice(&crc.to_be_bytes());
    Ok(())
}

fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// Batches one after the other. Ends at the first error: nothing behind it can be found.
pub fn batches(bytes: &[u8]) -> Batches<'_> {
    Batches { rest: bytes }
}

/// See [`batches`].
#[derive(Debug, Clone)]
pub struct Batches<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<(BatchHeader, &'a [u8]), BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let parsed = BatchHeader::parse(self.rest).and_then(|header| {
            let needed = header.size_in_bytes();
            if needed > self.rest.len() {
                return Err(BatchError::Truncated { needed, remaining: self.rest.len() });
            }
            Ok(header)
        });
        Some(match parsed {
            Ok(header) => {
                let (batch, rest) = self.rest.split_at(header.size_in_bytes());
                self.rest = rest;
                Ok((header, batch))
            }
            Err(error) => {
                self.rest = &[];
                Err(error)
            }
        })
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
    match bytes {
        None => put_varint(out, -1),
        Some(bytes) => {
            put_varint(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
    }
}

/// Builds one batch.
#[derive(Debug, Clone)]
pub struct RecordBatchBuilder {
    pub base_offset: i64,
    pub leader_epoch: i32,
    pub compression: Compression,
    /// -1 = none.
    pub producer_id: i64,
    pub producer_epoch: i16,
    /// -1 = none.
    pub base_sequence: i32,
    pub transactional: bool,
    pub control: bool,
    base_timestamp: i64,
    max_timestamp: i64,
    count: i32,
    last_offset_delta: i32,
    body: Vec<u8>,
    scratch: Vec<u8>,
}

impl RecordBatchBuilder {
    /// A batch without producer that begins at offset 0.
    pub fn new(compression: Compression) -> Self {
        RecordBatchBuilder {
            base_offset: 0,
            leader_epoch: -1,
            compression,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            transactional: false,
            control: false,
            base_timestamp: -1,
            max_timestamp: -1,
            count: 0,
            last_offset_delta: -1,
            body: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Adds a record behind the last.
    pub fn append(&mut self, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header]) {
        self.append_at(self.last_offset_delta + 1, timestamp, key, value, headers);
    }

    /// Adds a record at `base_offset + offset_delta`, which is behind the last (compaction leaves gaps).
    pub fn append_at(
        &mut self,
        offset_delta: i32,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header],
    ) {
        assert!(offset_delta > self.last_offset_delta, "offsets rise within a batch");
        if self.count == 0 {
            self.base_timestamp = timestamp;
        }
        let mut record = std::mem::take(&mut self.scratch);
        record.clear();
        record.push(0);
        put_varint(&mut record, timestamp.wrapping_sub(self.base_timestamp));
        put_varint(&mut record, offset_delta.into());
        put_nullable(&mut record, key);
        put_nullable(&mut record, value);
        put_varint(&mut record, headers.len() as i64);
        for header in headers {
            put_nullable(&mut record, Some(&header.key));
            put_nullable(&mut record, header.value.as_deref());
        }
        put_varint(&mut self.body, record.len() as i64);
        self.body.extend_from_slice(&record);
        self.scratch = record;
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self.last_offset_delta = offset_delta;
        self.count += 1;
    }

    /// Records so far.
    pub fn count(&self) -> i32 {
        self.count
    }

    /// Uncompressed bytes so far, with the header.
    pub fn size_estimate(&self) -> usize {
        HEADER_LEN + self.body.len()
    }

    /// Raises the last offset above the last record's, as compaction does to keep a batch's range.
    pub fn extend_to(&mut self, offset_delta: i32) {
        self.last_offset_delta = self.last_offset_delta.max(offset_delta);
    }

    /// The batch. Panics if it has no record and no range.
    pub fn build(self) -> Bytes {
        assert!(self.last_offset_delta >= 0, "a batch has at least one offset");
        let body = match self.compression {
            Compression::None => self.body,
            codec => compress(codec, &self.body).expect("compression into memory does not fail"),
        };
        let mut attributes = self.compression.id();
        if self.transactional {
            attributes |= TRANSACTIONAL;
        }
        if self.control {
            attributes |= CONTROL;
        }
        let mut out = Vec::with_capacity(HEADER_LEN + body.len());
        out.put_i64(self.base_offset);
        out.put_i32(i32::try_from(HEADER_LEN - LENGTH_OVERHEAD + body.len()).expect("a batch is under 2 GiB"));
        out.put_i32(self.leader_epoch);
        out.put_i8(MAGIC);
        out.put_u32(0);
        out.put_i16(attributes);
        out.put_i32(self.last_offset_delta);
        out.put_i64(self.base_timestamp);
        out.put_i64(self.max_timestamp);
        out.put_i64(self.producer_id);
        out.put_i16(self.producer_epoch);
        out.put_i32(self.base_sequence);
        out.put_i32(self.count);
        out.extend(body);
        let crc = crc32c(&out[CRC_START..]);
        out[CRC_OFFSET..CRC_OFFSET + 4].copy_from_slice(&crc.to_be_bytes());
        Bytes::from(out)
    }
}

/// What a control record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlRecord {
    Abort {
        coordinator_epoch: i32,
    },
    Commit {
        coordinator_epoch: i32,
    },
    /// A kind that only other software writes.
    Other(i16),
}

impl ControlRecord {
    /// Reads the key (version, type) and value (version, coordinator epoch) of a control record.
    pub fn parse(record: &Record) -> Result<Self, BatchError> {
        let key = record.key.as_deref().ok_or(BatchError::Record("a control record without a key"))?;
        let kind = match key {
            [_, _, high, low, ..] => i16::from_be_bytes([*high, *low]),
            _ => return Err(BatchError::Record("a control record with a short key")),
        };
        if kind != 0 && kind != 1 {
            return Ok(ControlRecord::Other(kind));
        }
        let epoch = record.value.as_deref().and_then(|value| value.get(2..6)?.try_into().ok().map(i32::from_be_bytes));
        let coordinator_epoch = epoch.ok_or(BatchError::Record("a control record with a short value"))?;
        Ok(if kind == 0 {
            ControlRecord::Abort { coordinator_epoch }
        } else {
            ControlRecord::Commit { coordinator_epoch }
        })
    }

    /// Key and value of the record.
    pub fn encode(self) -> (Vec<u8>, Vec<u8>) {
        let (kind, epoch) = match self {
            ControlRecord::Abort { coordinator_epoch } => (0i16, coordinator_epoch),
            ControlRecord::Commit { coordinator_epoch } => (1, coordinator_epoch),
            ControlRecord::Other(kind) => (kind, 0),
        };
        let mut key = vec![0, 0];
        key.extend(kind.to_be_bytes());
        let mut value = vec![0, 0];
        value.extend(epoch.to_be_bytes());
        (key, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compression::DecompressLimit;

    fn sample(compression: Compression) -> Bytes {
        let mut b = RecordBatchBuilder::new(compression);
        b.base_offset = 100;
        b.producer_id = 7;
        b.producer_epoch = 1;
        b.base_sequence = i32::MAX - 1;
        b.append(1000, Some(b"k"), Some(b"v"), &[Header { key: Bytes::from_static(b"h"), value: None }]);
        b.append(900, None, Some(&[5; 3000]), &[]);
        b.append(2000, Some(b""), None, &[]);
        b.build()
    }

    #[test]
    fn what_is_built_reads_back_in_every_codec() {
        for codec in Compression::ALL {
            let batch = sample(codec);
            let header = BatchHeader::parse(&batch).unwrap();
            assert_eq!((header.base_offset, header.last_offset(), header.max_timestamp), (100, 102, 2000));
            assert_eq!(header.last_sequence(), 0, "sequences wrap");
            header.verify_crc(&batch).unwrap();
            let all: Vec<_> = records(&batch, DecompressLimit(1 << 20)).unwrap().map(Result::unwrap).collect();
            assert_eq!(all.iter().map(|r| r.timestamp).collect::<Vec<_>>(), [1000, 900, 2000]);
            assert_eq!(all[0].headers[0].key, "h");
            assert_eq!((all[1].key.clone(), all[2].value.clone()), (None, None));
            assert_eq!(all[2].key.as_deref(), Some(&b""[..]));
        }
    }

    #[test]
    fn a_patched_prefix_keeps_the_crc() {
        let batch = sample(Compression::None);
        let header = BatchHeader::parse(&batch).unwrap();
        let mut patched = header.prefix_with(5000, 9).to_vec();
        patched.extend_from_slice(&batch[PREFIX_LEN..]);
        let again = BatchHeader::parse(&patched).unwrap();
        assert_eq!((again.base_offset, again.partition_leader_epoch), (5000, 9));
        again.verify_crc(&patched).unwrap();
        set_log_append_time(&mut patched, 77).unwrap();
        let again = BatchHeader::parse(&patched).unwrap();
        again.verify_crc(&patched).unwrap();
        let first = records(&patched, DecompressLimit(1 << 20)).unwrap().next().unwrap().unwrap();
        assert_eq!(first.timestamp, 77);
    }

    #[test]
    fn every_flipped_bit_behind_the_prefix_is_seen() {
        let batch = sample(Compression::Lz4);
        for at in MAGIC_OFFSET..batch.len() {
            let mut bad = batch.to_vec();
            bad[at] ^= 1;
            let seen = BatchHeader::parse(&bad).and_then(|h| h.verify_crc(&bad)).is_err();
            assert!(seen, "byte {at}");
        }
    }

    #[test]
    fn mutated_batches_never_panic() {
        let mut seed: u64 = 42;
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize
        };
        let good: Vec<Bytes> = Compression::ALL.into_iter().map(sample).collect();
        for _ in 0..20_000 {
            let mut bad = good[random() % good.len()].to_vec();
            for _ in 0..=random() % 4 {
                let at = random() % bad.len();
                bad[at] = random() as u8;
            }
            bad.truncate(bad.len() - random() % 8);
            for (_, batch) in batches(&bad).map_while(Result::ok) {
                if let Ok(records) = records(batch, DecompressLimit(1 << 16)) {
                    assert!(records.count() <= 1 << 16);
                }
            }
        }
    }
}
