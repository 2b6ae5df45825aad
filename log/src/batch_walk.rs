//! A walk over the batch headers of a segment file.
//!
//! Owns: reading headers by blocks, and CRCs over ranges of a file. Does not own: what a bad batch means.
//! Invariants: every step goes forward by at least a header; nothing is allocated by a length that a file claims.

use crc_fast::{CrcAlgorithm, Digest};
use std::io;
use strandline_disk::DiskFile;
use strandline_protocol::record_batch::{BatchError, BatchHeader, HEADER_LEN};

/// Bytes read at once when headers are walked from an index entry.
pub(crate) const WALK_BLOCK_BYTES: usize = 16 << 10;
/// Bytes read at once when a whole segment is walked or checked.
pub(crate) const SCAN_BLOCK_BYTES: usize = 256 << 10;
/// First byte that the CRC covers.
const CRC_START: u64 = 21;

/// A batch that cannot be read.
#[derive(Debug)]
pub(crate) enum WalkError {
    Io(io::Error),
    /// What stands at `position` is no whole batch.
    Bad {
        position: u64,
        reason: String,
    },
}

impl From<io::Error> for WalkError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Batch headers from a position up to a limit.
pub(crate) struct BatchWalk<'a> {
    file: &'a dyn DiskFile,
    position: u64,
    limit: u64,
    block: Vec<u8>,
    block_start: u64,
    block_bytes: usize,
}

impl<'a> BatchWalk<'a> {
    /// Walks from the batch at `position` up to byte `limit` (exclusive).
    pub(crate) fn new(file: &'a dyn DiskFile, position: u64, limit: u64, block_bytes: usize) -> Self {
        Self { file, position, limit, block: Vec::new(), block_start: 0, block_bytes }
    }

    /// The header at the current position and that position; `None` at the limit.
    pub(crate) fn next_batch(&mut self) -> Result<Option<(u64, BatchHeader)>, WalkError> {
        let remaining = self.limit.saturating_sub(self.position);
        if remaining == 0 {
            return Ok(None);
        }
        let position = self.position;
        let bad = |reason: String| WalkError::Bad { position, reason };
        if remaining < HEADER_LEN as u64 {
            return Err(bad(format!("{remaining} bytes are less than a header")));
        }
        let header = BatchHeader::parse(self.bytes(HEADER_LEN)?).map_err(|e| bad(e.to_string()))?;
        let size = header.size_in_bytes() as u64;
        if size > remaining {
            return Err(
                bad(BatchError::Truncated { needed: size as usize, remaining: remaining as usize }.to_string()),
            );
        }
        self.position += size;
        Ok(Some((position, header)))
    }

    /// `len` bytes at the current position, fewer at the end of the file.
    fn bytes(&mut self, len: usize) -> io::Result<&[u8]> {
        let inside = self.position >= self.block_start
            && self.position + len as u64 <= self.block_start + self.block.len() as u64;
        if !inside {
            let wanted = (self.block_bytes.max(len) as u64).min(self.limit - self.position) as usize;
            self.block.resize(wanted, 0);
            let read = self.file.read_at(&mut self.block, self.position)?;
            self.block.truncate(read);
            self.block_start = self.position;
        }
        let start = (self.position - self.block_start) as usize;
        let end = (start + len).min(self.block.len());
        Ok(&self.block[start..end])
    }

    /// Checks the CRC of the batch that was returned last.
    pub(crate) fn verify_crc(&self, position: u64, header: &BatchHeader) -> Result<(), WalkError> {
        let end = position + header.size_in_bytes() as u64;
        let (from, to) = (position + CRC_START, end);
        let block_end = self.block_start + self.block.len() as u64;
        let actual = if from >= self.block_start && to <= block_end {
            let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
            digest.update(&self.block[(from - self.block_start) as usize..(to - self.block_start) as usize]);
            digest.finalize() as u32
        } else {
            crc_of(self.file, from, to)?
        };
        if actual == header.crc {
            return Ok(());
        }
        Err(WalkError::Bad { position, reason: BatchError::Crc { expected: header.crc, actual }.to_string() })
    }
}

/// CRC-32C of the bytes from `from` to `to` (exclusive) of a file.
pub(crate) fn crc_of(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<u32> {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    let mut buffer = vec![0; (to.saturating_sub(from)).min(SCAN_BLOCK_BYTES as u64) as usize];
    let mut position = from;
    while position < to {
        let wanted = (to - position).min(buffer.len() as u64) as usize;
        let read = file.read_at(&mut buffer[..wanted], position)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        digest.update(&buffer[..read]);
        position += read as u64;
    }
    Ok(digest.finalize() as u32)
}

/// Reads `len` bytes at `position`; an error if the file ends before.
pub(crate) fn read_exact(file: &dyn DiskFile, position: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let read = file.read_at(&mut bytes, position)?;
    if read < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

/// Copies the bytes of `from` from `start` to `end` to the beginning of `to`.
pub(crate) fn copy_tail(from: &dyn DiskFile, to: &dyn DiskFile, start: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; SCAN_BLOCK_BYTES];
    let mut position = start;
    while position < end {
        let wanted = (end - position).min(buffer.len() as u64) as usize;
        let read = from.read_at(&mut buffer[..wanted], position)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_at(&mut [io::IoSlice::new(&buffer[..read])], position - start)?;
        position += read as u64;
    }
    Ok(())
}
