//! A chunk as its reader has it.
//!
//! Owns: which piece it is, how bytes are taken from it. Does not own: how long it stays in memory or in its file. Invariant:
//! what a reader has of it stays readable, whatever becomes of the cache. A crash leaves nothing.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use strandline_protocol::rope::{FileRange, Part};
use uuid::Uuid;

/// A piece of one segment's object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ChunkId {
    pub(crate) segment: Uuid,
    pub(crate) number: u64,
}

/// A chunk whose hash was right.
#[derive(Debug, Clone)]
pub(crate) enum Chunk {
    Memory(Bytes),
    File { file: Arc<File>, len: u64 },
}

impl Chunk {
    pub(crate) fn len(&self) -> u64 {
        match self {
            Chunk::Memory(bytes) => bytes.len() as u64,
            Chunk::File { len, .. } => *len,
        }
    }

    /// `start..end` must lie in the chunk.
    pub(crate) fn part(&self, start: u64, end: u64) -> Part {
        match self {
            Chunk::Memory(bytes) => Part::Bytes(bytes.slice(start as usize..end as usize)),
            Chunk::File { file, .. } => {
                Part::File(FileRange { file: Arc::clone(file), position: start, len: end - start })
            }
        }
    }

    /// Copies `buf.len()` bytes from `start` on.
    pub(crate) fn copy_to(&self, start: u64, buf: &mut [u8]) -> io::Result<()> {
        match self {
            Chunk::Memory(bytes) => {
                let start = start as usize;
                let from = bytes.get(start..start + buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
                buf.copy_from_slice(from);
                Ok(())
            }
            Chunk::File { file, .. } => file.read_exact_at(buf, start),
        }
    }
}
