//! Checks the batches of a segment while it is sent, and builds its indexes from the very bytes.
//!
//! Owns: batch structure, CRC and offset checks over a stream of pieces; offset and time index, epochs, timestamps.
//! Does not own: reading or sending the pieces (`upload`).

use strandline_protocol::ids::{LeaderEpoch, Offset};
use strandline_protocol::record_batch::{BatchHeader, HEADER_LEN};
use thiserror::Error;

use crate::sidecar::{INDEX_INTERVAL_BYTES, IndexEntry};

/// The CRC of a batch covers everything from here (the attributes) on.
const CRC_FROM: usize = 21;

/// Why a segment must not be copied. None of these goes away by trying again.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ScanError {
    #[error("at byte {position}: {reason}")]
    BadBatch { position: u64, reason: String },
    #[error("the batch at offset {offset} has a wrong CRC")]
    WrongCrc { offset: Offset },
    #[error("the batch at byte {position} begins at offset {found}, {expected} or more was expected")]
    OffsetWentBack { position: u64, found: Offset, expected: Offset },
    #[error("the segment does not reach from offset {from} to {to}")]
    WrongOffsets { from: Offset, to: Offset },
    #[error("the segment ends inside a batch")]
    EndsInsideBatch,
}

/// What a whole segment turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scanned {
    pub(crate) index: Vec<IndexEntry>,
    pub(crate) min_timestamp: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) epochs: Vec<(LeaderEpoch, Offset)>,
}

pub(crate) struct Scanner {
    from: Offset,
    to: Offset,
    position: u64,
    header: Vec<u8>,
    /// The batch whose body is passing by: its header, bytes to come, CRC so far.
    body: Option<(BatchHeader, u64, crc_fast::Digest)>,
    next_offset: Option<Offset>,
    index_from: u64,
    scanned: Scanned,
}

impl Scanner {
    /// The first batch must hold `from`, the last one end at or before `to`.
    pub(crate) fn new(from: Offset, to: Offset) -> Scanner {
        let scanned = Scanned { index: Vec::new(), min_timestamp: i64::MAX, max_timestamp: -1, epochs: Vec::new() };
        let header = Vec::with_capacity(HEADER_LEN);
        Scanner { from, to, position: 0, header, body: None, next_offset: None, index_from: 0, scanned }
    }

    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), ScanError> {
        while !bytes.is_empty() {
            let used = match self.body {
                None => self.feed_header(bytes)?,
                Some(_) => self.feed_body(bytes)?,
            };
            self.position += used as u64;
            bytes = &bytes[used..];
        }
        Ok(())
    }

    fn feed_header(&mut self, bytes: &[u8]) -> Result<usize, ScanError> {
        let used = bytes.len().min(HEADER_LEN - self.header.len());
        self.header.extend_from_slice(&bytes[..used]);
        if self.header.len() == HEADER_LEN {
            let position = self.position + used as u64 - HEADER_LEN as u64;
            self.begin_batch(position)?;
        }
        Ok(used)
    }

    fn begin_batch(&mut self, position: u64) -> Result<(), ScanError> {
        let header = BatchHeader::parse(&self.header)
            .map_err(|error| ScanError::BadBatch { position, reason: error.to_string() })?;
        let expected = self.next_offset.unwrap_or(0);
        if header.base_offset < expected {
            return Err(ScanError::OffsetWentBack { position, found: header.base_offset, expected });
        }
        let last = header.last_offset();
        if (self.next_offset.is_none() && last < self.from) || last > self.to {
            return Err(ScanError::WrongOffsets { from: self.from, to: self.to });
        }
        self.note_batch(&header, position);
        self.next_offset = Some(last + 1);
        let mut crc = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
        crc.update(&self.header[CRC_FROM..]);
        let rest = (header.size_in_bytes() as u64).saturating_sub(HEADER_LEN as u64);
        self.header.clear();
        self.body = Some((header, rest, crc));
        self.end_batch_if_complete()
    }

    fn note_batch(&mut self, header: &BatchHeader, position: u64) {
        let scanned = &mut self.scanned;
        if position >= self.index_from || scanned.index.is_empty() {
            let max_timestamp_before = scanned.max_timestamp;
            scanned.index.push(IndexEntry { offset: header.base_offset, position, max_timestamp_before });
            self.index_from = position + INDEX_INTERVAL_BYTES;
        }
        scanned.min_timestamp = scanned.min_timestamp.min(header.base_timestamp);
        scanned.max_timestamp = scanned.max_timestamp.max(header.max_timestamp);
        let epoch = header.partition_leader_epoch;
        if scanned.epochs.last().is_none_or(|(last, _)| *last != epoch) {
            scanned.epochs.push((epoch, header.base_offset));
        }
    }

    fn feed_body(&mut self, bytes: &[u8]) -> Result<usize, ScanError> {
        let Some((_, rest, crc)) = &mut self.body else { return Ok(0) };
        let used = usize::try_from(*rest).unwrap_or(usize::MAX).min(bytes.len());
        crc.update(&bytes[..used]);
        *rest -= used as u64;
        self.end_batch_if_complete()?;
        Ok(used)
    }

    fn end_batch_if_complete(&mut self) -> Result<(), ScanError> {
        let Some((header, 0, crc)) = &self.body else { return Ok(()) };
        if crc.finalize() != u64::from(header.crc) {
            return Err(ScanError::WrongCrc { offset: header.base_offset });
        }
        self.body = None;
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Scanned, ScanError> {
        if self.body.is_some() || !self.header.is_empty() {
            return Err(ScanError::EndsInsideBatch);
        }
        if self.scanned.index.is_empty() {
            return Err(ScanError::WrongOffsets { from: self.from, to: self.to });
        }
        Ok(self.scanned)
    }
}
