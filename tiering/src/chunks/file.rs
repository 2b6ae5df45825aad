//! The files of the chunk cache.
//!
//! Owns: their names, how one is written and looked at again, the removal of an earlier run's. Does not own: which there
//! are. Invariant: a file appears under its name when it is whole, and is never written in place. A crash leaves files,
//! which the next start removes (`docs/formats/chunk-cache.md`).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::ChunkId;
use crate::encoding::hash;

const CHUNK_EXTENSION: &str = "chunk";
const PART_EXTENSION: &str = "part";

/// What a chunk's file holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept {
    /// Bytes.
    pub(crate) len: u64,
    pub(crate) hash: u64,
}

pub(crate) fn path(dir: &Path, id: ChunkId) -> PathBuf {
    dir.join(format!("{}-{}.{CHUNK_EXTENSION}", id.segment.simple(), id.number))
}

/// Makes the directory if need be, and removes an earlier run's files.
pub(crate) fn clear(dir: &Path) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|name| name == CHUNK_EXTENSION || name == PART_EXTENSION) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Another writer of the same chunk, or a reader of an earlier file of this name, is not disturbed. `number` must be this
/// call's alone.
pub(crate) fn write(path: &Path, number: u64, bytes: &[u8]) -> io::Result<(File, Kept)> {
    let part = path.with_extension(format!("{number}.{PART_EXTENSION}"));
    let write = || {
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&part)?;
        file.write_all(bytes)?;
        std::fs::rename(&part, path)?;
        Ok((file, Kept { len: bytes.len() as u64, hash: hash(bytes) }))
    };
    let written = write();
    if written.is_err() {
        // A full disk is not to be filled by halves of files.
        let _ = std::fs::remove_file(&part);
    }
    written
}

/// Opens a file that was closed, if its bytes are still what they were.
pub(crate) fn reopen(path: &Path, kept: Kept) -> io::Result<File> {
    let file = File::open(path)?;
    let mut bytes = vec![0; kept.len as usize];
    file.read_exact_at(&mut bytes, 0)?;
    let whole = file.metadata()?.len() == kept.len && hash(&bytes) == kept.hash;
    if whole { Ok(file) } else { Err(io::Error::other("its bytes have changed")) }
}
