//! The sidecar: the `.meta` object beside each segment (`docs/formats/sidecar.md`).
//!
//! Owns: offset index, time index, chunk hashes, aborted transactions, producer state and leader epochs of one segment,
//! and their bytes.
//! Does not own: building them while the segment is sent (`upload`), reading record bytes (`read`).

use bytes::Bytes;
use strandline_protocol::ids::{LeaderEpoch, Offset, ProducerId};

use crate::encoding::{DecodeError, Decoder, Encoder};

/// Chunks are aligned to this many bytes in the object; the unit of upload, of reading, of hashing and of the chunk cache.
pub const CHUNK_BYTES: u64 = 8 * 1024 * 1024;

/// An index entry at most every so many bytes.
pub const INDEX_INTERVAL_BYTES: u64 = 64 * 1024;

const MAGIC: [u8; 4] = *b"SLSC";
const FORMAT_VERSION: u16 = 1;

/// An aborted transaction that overlaps the segment, wherever its marker lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AbortedTxn {
    pub producer_id: ProducerId,
    pub first_offset: Offset,
    /// Offset of the abort marker.
    pub last_offset: Offset,
    pub last_stable_offset: Offset,
}

/// A batch that an index points at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// Base offset of the batch.
    pub offset: Offset,
    /// Byte position of the batch in the object.
    pub position: u64,
    /// Greatest timestamp of all batches before this one in the segment (ms), -1 for the first.
    pub max_timestamp_before: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sidecar {
    pub base_offset: Offset,
    pub last_offset: Offset,
    pub size_bytes: u64,
    /// In order of offset, position and timestamp; the first one is at position 0.
    pub index: Vec<IndexEntry>,
    /// CRC-64/NVME of each chunk.
    pub chunk_hashes: Vec<u64>,
    pub aborted: Vec<AbortedTxn>,
    /// Producer state at `last_offset + 1`, in the bytes of Kafka's `.snapshot` file.
    pub producer_state: Bytes,
    /// From log start to `last_offset`.
    pub leader_epochs: Vec<(LeaderEpoch, Offset)>,
}

impl Sidecar {
    pub fn encode(&self) -> (Bytes, u64) {
        let mut out = Encoder::new(MAGIC, FORMAT_VERSION);
        out.i64(self.base_offset);
        out.i64(self.last_offset);
        out.u64(self.size_bytes);
        out.list(&self.index, |out, entry| {
            out.i64(entry.offset);
            out.u64(entry.position);
            out.i64(entry.max_timestamp_before);
        });
        out.list(&self.chunk_hashes, |out, hash| out.u64(*hash));
        out.list(&self.aborted, |out, txn| {
            out.i64(txn.producer_id);
            out.i64(txn.first_offset);
            out.i64(txn.last_offset);
            out.i64(txn.last_stable_offset);
        });
        out.bytes(&self.producer_state);
        out.list(&self.leader_epochs, |out, (epoch, start)| {
            out.i32(*epoch);
            out.i64(*start);
        });
        out.finish()
    }

    pub fn decode(bytes: &[u8], expected_hash: u64) -> Result<Sidecar, DecodeError> {
        let mut input = Decoder::new(bytes, MAGIC, "sidecar", FORMAT_VERSION, Some(expected_hash))?;
        let sidecar = Sidecar {
            base_offset: input.i64()?,
            last_offset: input.i64()?,
            size_bytes: input.u64()?,
            index: input.list(24, |input| {
                Ok(IndexEntry { offset: input.i64()?, position: input.u64()?, max_timestamp_before: input.i64()? })
            })?,
            chunk_hashes: input.list(8, Decoder::u64)?,
            aborted: input.list(32, |input| {
                Ok(AbortedTxn {
                    producer_id: input.i64()?,
                    first_offset: input.i64()?,
                    last_offset: input.i64()?,
                    last_stable_offset: input.i64()?,
                })
            })?,
            producer_state: Bytes::copy_from_slice(input.bytes()?),
            leader_epochs: input.list(12, |input| Ok((input.i32()?, input.i64()?)))?,
        };
        input.end()?;
        sidecar.check()?;
        Ok(sidecar)
    }

    fn check(&self) -> Result<(), DecodeError> {
        if self.index.first().is_none_or(|first| first.position != 0) {
            return Err(DecodeError::Invalid("the index does not begin with the first batch"));
        }
        let ascending = |pair: &[IndexEntry]| pair[0].offset < pair[1].offset && pair[0].position < pair[1].position;
        if !self.index.windows(2).all(ascending)
            || self.index.last().is_some_and(|last| last.position >= self.size_bytes)
        {
            return Err(DecodeError::Invalid("the index is out of order"));
        }
        if self.chunk_hashes.len() as u64 != self.size_bytes.div_ceil(CHUNK_BYTES) {
            return Err(DecodeError::Invalid("there is not one hash per chunk"));
        }
        Ok(())
    }

    /// Where to start looking for the batch that holds `offset`: a batch boundary at or before it.
    pub fn position_for_offset(&self, offset: Offset) -> u64 {
        let after = self.index.partition_point(|entry| entry.offset <= offset);
        self.index[after.saturating_sub(1)].position
    }

    /// Where to start looking for the first batch with a timestamp of at least `timestamp`.
    pub fn position_for_timestamp(&self, timestamp: i64) -> u64 {
        let after = self.index.partition_point(|entry| entry.max_timestamp_before < timestamp);
        self.index[after.saturating_sub(1)].position
    }

    /// A bound above every offset of the batches that begin below `position`.
    pub fn offset_bound(&self, position: u64) -> Offset {
        let after = self.index.partition_point(|entry| entry.position < position);
        self.index.get(after).map_or(self.last_offset, |entry| entry.offset - 1)
    }

    pub fn chunk_range(&self, chunk: u64) -> std::ops::Range<u64> {
        chunk * CHUNK_BYTES..self.size_bytes.min((chunk + 1) * CHUNK_BYTES)
    }

    /// About the memory that it takes, in bytes.
    pub fn weight(&self) -> u64 {
        let lists = self.index.len() * size_of::<IndexEntry>() + self.aborted.len() * size_of::<AbortedTxn>();
        (size_of::<Sidecar>() + lists + self.chunk_hashes.len() * 8 + self.leader_epochs.len() * 16) as u64
            + self.producer_state.len() as u64
    }
}
