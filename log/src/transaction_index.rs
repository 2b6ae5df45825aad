//! The `.txnindex` of a segment: the aborted transactions whose markers are in it.
//!
//! Owns: the 34-byte entry (docs/formats/transaction-index.md), appending and reading. Does not own: when a transaction ends.
//! Invariants: entries are in the order of their markers (`last_offset`); the file exists only if it has an entry.
//! A crash leaves: a short or torn tail past the recovery point, which recovery cuts and rebuilds.
//! Source: `org.apache.kafka.storage.internals.log.{AbortedTxn,TransactionIndex}`.

use crate::file_cache::FileKind;
use crate::segment::SegmentFiles;
use std::io::{self, IoSlice};
use std::sync::atomic::Ordering;

/// Bytes of an entry.
pub(crate) const ENTRY_LEN: usize = 34;
/// The only version.
const VERSION: i16 = 0;
/// Largest `.txnindex` that is read, in bytes: almost two million aborted transactions in one segment.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// An aborted transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTxn {
    pub producer_id: i64,
    /// First offset of the transaction, inclusive.
    pub first_offset: i64,
    /// Offset of its marker, inclusive.
    pub last_offset: i64,
    /// The last stable offset just after the marker: no transaction that begins below it is open or aborted later.
    pub last_stable_offset: i64,
}

impl AbortedTxn {
    /// The bytes of an entry.
    pub fn encode(&self) -> [u8; ENTRY_LEN] {
        let mut bytes = [0; ENTRY_LEN];
        bytes[..2].copy_from_slice(&VERSION.to_be_bytes());
        let fields = [self.producer_id, self.first_offset, self.last_offset, self.last_stable_offset];
        for (field, chunk) in fields.iter().zip(bytes[2..].chunks_exact_mut(8)) {
            chunk.copy_from_slice(&field.to_be_bytes());
        }
        bytes
    }

    /// Reads an entry; `None` for an unknown version.
    pub fn decode(bytes: &[u8; ENTRY_LEN]) -> Option<Self> {
        let (version, rest) = bytes.split_first_chunk::<2>()?;
        if i16::from_be_bytes(*version) != VERSION {
            return None;
        }
        let mut fields = rest.chunks_exact(8).map(|c| i64::from_be_bytes(c.try_into().expect("chunks are exact")));
        Some(Self {
            producer_id: fields.next()?,
            first_offset: fields.next()?,
            last_offset: fields.next()?,
            last_stable_offset: fields.next()?,
        })
    }
}

/// All entries of a segment. A torn or unknown entry is an error.
pub(crate) fn read(segment: &SegmentFiles) -> io::Result<Vec<AbortedTxn>> {
    if !segment.has_aborts.load(Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let Some(file) = segment.open_if_exists(FileKind::TransactionIndex)? else {
        return Ok(Vec::new());
    };
    let len = file.len()?;
    let bad = |reason: &str| {
        let path = segment.path(FileKind::TransactionIndex);
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {reason}", path.display()))
    };
    if len > FILE_BYTES_MAX {
        return Err(bad("longer than its limit"));
    }
    let mut bytes = vec![0; len as usize];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    let entries = bytes.chunks_exact(ENTRY_LEN);
    if !entries.remainder().is_empty() {
        return Err(bad("ends inside of an entry"));
    }
    entries
        .map(|chunk| {
            AbortedTxn::decode(chunk.try_into().expect("chunks are exact")).ok_or_else(|| bad("unknown version"))
        })
        .collect()
}

/// Adds entries behind the last. Returns true if the file was created.
pub(crate) fn append(segment: &SegmentFiles, entries: &[AbortedTxn]) -> io::Result<bool> {
    let existing = segment.open_if_exists(FileKind::TransactionIndex)?;
    let created = existing.is_none();
    let file = match existing {
        Some(file) => file,
        None => segment.create(FileKind::TransactionIndex)?,
    };
    let bytes: Vec<u8> = entries.iter().flat_map(AbortedTxn::encode).collect();
    let end = file.len()?;
    segment.has_aborts.store(true, Ordering::Relaxed);
    file.write_at(&mut [IoSlice::new(&bytes)], end)?;
    Ok(created)
}

/// Keeps the entries whose marker is below `end_offset` (exclusive); a torn tail goes too.
pub(crate) fn truncate(segment: &SegmentFiles, end_offset: i64) -> io::Result<bool> {
    let Some(file) = segment.open_if_exists(FileKind::TransactionIndex)? else {
        return Ok(false);
    };
    let len = file.len()?;
    let mut kept = 0;
    while kept + ENTRY_LEN as u64 <= len {
        let mut bytes = [0; ENTRY_LEN];
        if file.read_at(&mut bytes, kept)? < ENTRY_LEN {
            break;
        }
        match AbortedTxn::decode(&bytes) {
            Some(entry) if entry.last_offset < end_offset && entry.last_offset >= segment.base_offset => {}
            _ => break,
        }
        kept += ENTRY_LEN as u64;
    }
    if kept == len {
        return Ok(false);
    }
    file.truncate(kept)?;
    Ok(true)
}
