//! The records of a batch, decoded one after the other.
//!
//! Keys and values are slices of the batch's bytes, or of what they are decompressed to. Every length is bounded by the bytes that are there.

use bytes::Bytes;

use super::{BatchError, BatchHeader, HEADER_LEN, TimestampType};
use crate::compression::{Compression, DecompressLimit, decompress};

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub offset: i64,
    /// Of its batch, if that has log append time.
    pub timestamp: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<Header>,
}

/// A record's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub key: Bytes,
    pub value: Option<Bytes>,
}

/// The records of one whole batch.
pub fn records(batch: &[u8], limit: DecompressLimit) -> Result<RecordIter, BatchError> {
    let header = BatchHeader::parse(batch)?;
    let body = batch
        .get(HEADER_LEN..header.size_in_bytes())
        .ok_or(BatchError::Truncated { needed: header.size_in_bytes(), remaining: batch.len() })?;
    let bytes = match header.compression() {
        Compression::None => Bytes::copy_from_slice(body),
        codec => Bytes::from(decompress(codec, body, limit)?),
    };
    Ok(RecordIter { header, bytes, position: 0, left: header.record_count })
}

/// [`records`] without a copy where the batch is not compressed: keys and values are slices of `batch`.
pub fn records_in(batch: &Bytes, limit: DecompressLimit) -> Result<RecordIter, BatchError> {
    let header = BatchHeader::parse(batch)?;
    let end = header.size_in_bytes();
    if header.compression() != Compression::None {
        return records(batch, limit);
    }
    if batch.len() < end {
        return Err(BatchError::Truncated { needed: end, remaining: batch.len() });
    }
    Ok(RecordIter { header, bytes: batch.slice(HEADER_LEN..end), position: 0, left: header.record_count })
}

/// See [`records`]. Ends at the first error.
#[derive(Debug, Clone)]
pub struct RecordIter {
    header: BatchHeader,
    bytes: Bytes,
    position: usize,
    left: i32,
}

impl Iterator for RecordIter {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left <= 0 {
            return None;
        }
        self.left -= 1;
        let record = self.read();
        if record.is_err() {
            self.left = 0;
        } else if self.left == 0 && self.position != self.bytes.len() {
            return Some(Err(BatchError::Record("bytes are left over behind the last one")));
        }
        Some(record)
    }
}

impl RecordIter {
    /// The bytes of all records, of which keys and values are slices.
    pub fn body(&self) -> &Bytes {
        &self.bytes
    }

    fn read(&mut self) -> Result<Record, BatchError> {
        let length = self.varint()?;
        let end = usize::try_from(length)
            .ok()
            .and_then(|length| self.position.checked_add(length))
            .filter(|end| *end <= self.bytes.len())
            .ok_or(BatchError::Record("its length is beyond the batch"))?;
        self.take(1)?;
        let timestamp_delta = self.varint()?;
        let offset_delta = self.varint()?;
        let key = self.nullable()?;
        let value = self.nullable()?;
        let headers = self.headers(end)?;
        if self.position != end {
            return Err(BatchError::Record("its length does not fit its fields"));
        }
        let timestamp = match self.header.timestamp_type() {
            TimestampType::LogAppendTime => self.header.max_timestamp,
            TimestampType::CreateTime => self.header.base_timestamp.wrapping_add(timestamp_delta),
        };
        if offset_delta < 0 || offset_delta > i64::from(self.header.last_offset_delta) {
            return Err(BatchError::Record("its offset is not in the batch"));
        }
        Ok(Record { offset: self.header.base_offset + offset_delta, timestamp, key, value, headers })
    }

    fn headers(&mut self, end: usize) -> Result<Vec<Header>, BatchError> {
        let count = self.varint()?;
        let room = end.saturating_sub(self.position) as i64;
        if count < 0 || count > room {
            return Err(BatchError::Record("more headers than bytes"));
        }
        let mut headers = Vec::new();
        for _ in 0..count {
            let key = self.nullable()?.ok_or(BatchError::Record("a header without a key"))?;
            headers.push(Header { key, value: self.nullable()? });
        }
        Ok(headers)
    }

    fn take(&mut self, length: usize) -> Result<Bytes, BatchError> {
        let end = self.position.checked_add(length).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(BatchError::Record("a field is cut off"))?;
        let bytes = self.bytes.slice(self.position..end);
        self.position = end;
        Ok(bytes)
    }

    fn nullable(&mut self) -> Result<Option<Bytes>, BatchError> {
        match self.varint()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| BatchError::Record("a negative length"))?;
                self.take(length).map(Some)
            }
        }
    }

    /// A zigzag number of up to 10 bytes.
    fn varint(&mut self) -> Result<i64, BatchError> {
        let mut value: u64 = 0;
        for shift in (0..70).step_by(7) {
            let byte = *self.bytes.get(self.position).ok_or(BatchError::Record("a number is cut off"))?;
            self.position += 1;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(BatchError::Record("a number is too long"))
    }
}
