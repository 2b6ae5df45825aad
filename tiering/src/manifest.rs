//! The manifest: the immutable object that lists a partition's remote log (`docs/formats/manifest.md`).
//!
//! Owns: the types and the bytes of manifests and of their sealed index objects (runs).
//! Does not own: which manifest counts (the pointer), how the next one is made (`plan`).
//!
//! Invariants of a manifest that [`Manifest::check`] passes: entries are in offset order and tile without hole or overlap;
//! runs come before open entries; no live key is tombstoned.

use bytes::Bytes;
use strandline_protocol::ids::{LeaderEpoch, Offset, TopicId, TopicPartition};
use strandline_protocol::remote_pointer::ManifestRef;
use uuid::Uuid;

use crate::encoding::{DecodeError, Decoder, Encoder};
use crate::keys::{Key, SegmentKey};

/// Entries of a sealed run, and the most that stay open in a manifest.
pub const RUN_LEN: usize = 1024;

const MAGIC: [u8; 4] = *b"SLMF";
const RUN_MAGIC: [u8; 4] = *b"SLIX";
const FORMAT_VERSION: u16 = 1;

/// The segment has at least one aborted transaction in its sidecar.
pub const FLAG_HAS_ABORTED: u16 = 1;

/// How the bytes of an entry's object are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SegmentFormat {
    /// Whole record batches v2, byte for byte as in the local log.
    RecordBatches,
}

/// One committed remote segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: SegmentKey,
    /// Inclusive.
    pub last_offset: Offset,
    pub size_bytes: u64,
    pub sidecar_size_bytes: u64,
    pub min_timestamp: i64,
    pub max_timestamp: i64,
    /// CRC-64/NVME of the `.log` object.
    pub content_hash: u64,
    /// The hash in the frame of the `.meta` object.
    pub sidecar_hash: u64,
    /// The pointer version that added it.
    pub added: u64,
    pub flags: u16,
    pub format: SegmentFormat,
    /// Leader epochs in the segment with their start offsets; never empty.
    pub epochs: Vec<(LeaderEpoch, Offset)>,
}

impl Entry {
    pub fn base_offset(&self) -> Offset {
        self.key.base_offset
    }

    pub fn last_epoch(&self) -> LeaderEpoch {
        self.epochs.last().map_or(-1, |(epoch, _)| *epoch)
    }

    pub fn has_aborted(&self) -> bool {
        self.flags & FLAG_HAS_ABORTED != 0
    }
}

/// A key that is no longer named, until its deletion is confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tombstone {
    pub key: Key,
    /// Version that added the key.
    pub added: u64,
    /// First version that does not name it as live.
    pub removed: u64,
    /// Milliseconds, the writer's clock.
    pub time_ms: i64,
}

/// Names a sealed run of entries, or of tombstones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunRef {
    pub key: Key,
    pub hash: u64,
    pub size_bytes: u64,
    pub count: u32,
    /// Entries: first base offset. Tombstones: smallest removing version.
    pub first: i64,
    /// Entries: last offset. Tombstones: greatest removing version.
    pub last: i64,
    /// Entries: record bytes. Tombstones: 0.
    pub bytes: u64,
    /// Entries: greatest max timestamp. Tombstones: newest time.
    pub max_timestamp: i64,
    /// Version that sealed it.
    pub added: u64,
    /// So many of its first entries are tombstones by now.
    pub buried: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub tp: TopicPartition,
    pub version: u64,
    pub leader_epoch: LeaderEpoch,
    pub uuid: Uuid,
    pub predecessor: Option<Key>,
    /// The log start when this was written; the pointer's may be higher.
    pub log_start_offset: Offset,
    pub highest_copied_offset: Offset,
    pub highest_copied_epoch: LeaderEpoch,
    /// Entries added before this version are of an earlier life of the tier, and dead.
    pub live_from: u64,
    /// The leader-epoch history from log start to `highest_copied_offset`.
    pub leader_epochs: Vec<(LeaderEpoch, Offset)>,
    pub entry_runs: Vec<RunRef>,
    pub entries: Vec<Entry>,
    pub tombstone_runs: Vec<RunRef>,
    pub tombstones: Vec<Tombstone>,
}

impl Manifest {
    pub fn key(&self) -> Key {
        Key::Manifest { version: self.version, leader_epoch: self.leader_epoch, uuid: self.uuid }
    }

    /// About the memory that it takes, in bytes.
    pub fn weight(&self) -> u64 {
        let fixed = size_of::<Manifest>() + self.leader_epochs.len() * 16;
        let runs = (self.entry_runs.len() + self.tombstone_runs.len()) * size_of::<RunRef>();
        let entries = self.entries.len() * (size_of::<Entry>() + 32);
        (fixed + runs + entries + self.tombstones.len() * size_of::<Tombstone>()) as u64
    }

    pub fn encode(&self) -> (Bytes, u64) {
        let mut out = Encoder::new(MAGIC, FORMAT_VERSION);
        out.uuid(&self.tp.topic_id.0);
        out.i32(self.tp.partition);
        out.u64(self.version);
        out.i32(self.leader_epoch);
        out.uuid(&self.uuid);
        out.list(self.predecessor.as_slice(), put_key);
        out.i64(self.log_start_offset);
        out.i64(self.highest_copied_offset);
        out.i32(self.highest_copied_epoch);
        out.u64(self.live_from);
        out.list(&self.leader_epochs, put_epoch);
        out.list(&self.entry_runs, put_run_ref);
        out.list(&self.entries, put_entry);
        out.list(&self.tombstone_runs, put_run_ref);
        out.list(&self.tombstones, put_tombstone);
        out.finish()
    }

    /// Decodes and checks the object that `expected` names.
    pub fn decode(bytes: &[u8], tp: &TopicPartition, expected: &ManifestRef) -> Result<Manifest, DecodeError> {
        let manifest = Manifest::decode_any(bytes, Some(expected.hash))?;
        let named = (manifest.version, manifest.leader_epoch, manifest.uuid);
        if manifest.tp != *tp || named != (expected.version, expected.leader_epoch, expected.uuid) {
            return Err(DecodeError::Invalid("it is the manifest of something else"));
        }
        Ok(manifest)
    }

    /// Decodes without a pointer (tools, repair).
    pub fn decode_any(bytes: &[u8], hash: Option<u64>) -> Result<Manifest, DecodeError> {
        let mut input = Decoder::new(bytes, MAGIC, "manifest", FORMAT_VERSION, hash)?;
        let topic_id = TopicId(input.uuid()?);
        let manifest = Manifest {
            tp: TopicPartition { topic_id, partition: input.i32()? },
            version: input.u64()?,
            leader_epoch: input.i32()?,
            uuid: input.uuid()?,
            predecessor: input.list(KEY_LEN, take_key)?.pop(),
            log_start_offset: input.i64()?,
            highest_copied_offset: input.i64()?,
            highest_copied_epoch: input.i32()?,
            live_from: input.u64()?,
            leader_epochs: input.list(12, take_epoch)?,
            entry_runs: input.list(KEY_LEN, take_run_ref)?,
            entries: input.list(ENTRY_MIN_LEN, take_entry)?,
            tombstone_runs: input.list(KEY_LEN, take_run_ref)?,
            tombstones: input.list(KEY_LEN, take_tombstone)?,
        };
        input.end()?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The invariants of the module's first lines, for whatever comes from outside and before anything is written.
    pub fn check(&self) -> Result<(), DecodeError> {
        let mut next = None;
        for run in &self.entry_runs {
            check_tile(&mut next, run.first, run.last)?;
            if run.buried >= run.count {
                return Err(DecodeError::Invalid("an emptied run is listed"));
            }
        }
        check_tiling(&self.entries, &mut next)?;
        let last = self.entries.last().map(|entry| entry.last_offset).or(self.entry_runs.last().map(|run| run.last));
        if last.is_some_and(|last| last > self.highest_copied_offset) {
            return Err(DecodeError::Invalid("an entry ends above the highest copied offset"));
        }
        Ok(())
    }
}

fn check_tile(next: &mut Option<Offset>, first: Offset, last: Offset) -> Result<(), DecodeError> {
    if first < 0 || last < first || last == Offset::MAX {
        return Err(DecodeError::Invalid("an entry has impossible offsets"));
    }
    if next.is_some_and(|next| next > first) {
        return Err(DecodeError::Invalid("entries overlap"));
    }
    *next = Some(last + 1);
    Ok(())
}

/// Entries of one life tile; a trim past the end, or a new life, may leave a gap below the live ones, never an overlap.
fn check_tiling(entries: &[Entry], next: &mut Option<Offset>) -> Result<(), DecodeError> {
    for entry in entries {
        if entry.epochs.is_empty() {
            return Err(DecodeError::Invalid("an entry has no leader epoch"));
        }
        check_tile(next, entry.base_offset(), entry.last_offset)?;
    }
    Ok(())
}

/// The bytes of a run of entries.
pub fn encode_entry_run(entries: &[Entry]) -> (Bytes, u64) {
    let mut out = Encoder::new(RUN_MAGIC, FORMAT_VERSION);
    out.u8(0);
    out.list(entries, put_entry);
    out.finish()
}

/// The bytes of a run of tombstones.
pub fn encode_tombstone_run(tombstones: &[Tombstone]) -> (Bytes, u64) {
    let mut out = Encoder::new(RUN_MAGIC, FORMAT_VERSION);
    out.u8(1);
    out.list(tombstones, put_tombstone);
    out.finish()
}

pub fn decode_entry_run(bytes: &[u8], run: &RunRef) -> Result<Vec<Entry>, DecodeError> {
    let mut input = Decoder::new(bytes, RUN_MAGIC, "index object", FORMAT_VERSION, Some(run.hash))?;
    if input.u8()? != 0 {
        return Err(DecodeError::Invalid("it is not a run of entries"));
    }
    let entries = input.list(ENTRY_MIN_LEN, take_entry)?;
    input.end()?;
    check_tiling(&entries, &mut None)?;
    let spans = entries.first().map(Entry::base_offset) == Some(run.first)
        && entries.last().map(|entry| entry.last_offset) == Some(run.last);
    if !spans || entries.len() != run.count as usize {
        return Err(DecodeError::Invalid("a run does not hold what its reference says"));
    }
    Ok(entries)
}

pub fn decode_tombstone_run(bytes: &[u8], run: &RunRef) -> Result<Vec<Tombstone>, DecodeError> {
    let mut input = Decoder::new(bytes, RUN_MAGIC, "index object", FORMAT_VERSION, Some(run.hash))?;
    if input.u8()? != 1 {
        return Err(DecodeError::Invalid("it is not a run of tombstones"));
    }
    let tombstones = input.list(KEY_LEN, take_tombstone)?;
    input.end()?;
    Ok(tombstones)
}

/// Kind u8, number i64, leader epoch i32, uuid.
const KEY_LEN: usize = 1 + 8 + 4 + 16;
/// All fixed fields of an entry and one leader epoch.
const ENTRY_MIN_LEN: usize = KEY_LEN + 8 * 8 + 2 + 1 + 2 + 4 + 12;

fn put_key(out: &mut Encoder, key: &Key) {
    let (kind, number) = match key {
        Key::Segment(segment) => (0, segment.base_offset),
        Key::Index { first, .. } => (1, *first),
        Key::Manifest { version, .. } => (2, version.cast_signed()),
    };
    out.u8(kind);
    out.i64(number);
    out.i32(key.leader_epoch());
    out.uuid(&key.uuid());
}

fn take_key(input: &mut Decoder<'_>) -> Result<Key, DecodeError> {
    let (kind, number, leader_epoch, uuid) = (input.u8()?, input.i64()?, input.i32()?, input.uuid()?);
    match kind {
        0 => Ok(Key::Segment(SegmentKey { base_offset: number, leader_epoch, uuid })),
        1 => Ok(Key::Index { first: number, leader_epoch, uuid }),
        2 => Ok(Key::Manifest { version: number.cast_unsigned(), leader_epoch, uuid }),
        _ => Err(DecodeError::Invalid("a key is of an unknown kind")),
    }
}

fn put_epoch(out: &mut Encoder, (epoch, start): &(LeaderEpoch, Offset)) {
    out.i32(*epoch);
    out.i64(*start);
}

fn take_epoch(input: &mut Decoder<'_>) -> Result<(LeaderEpoch, Offset), DecodeError> {
    Ok((input.i32()?, input.i64()?))
}

fn put_entry(out: &mut Encoder, entry: &Entry) {
    put_key(out, &Key::Segment(entry.key));
    out.i64(entry.last_offset);
    out.u64(entry.size_bytes);
    out.u64(entry.sidecar_size_bytes);
    out.i64(entry.min_timestamp);
    out.i64(entry.max_timestamp);
    out.u64(entry.content_hash);
    out.u64(entry.sidecar_hash);
    out.u64(entry.added);
    out.u16(entry.flags);
    out.u8(match entry.format {
        SegmentFormat::RecordBatches => 0,
    });
    // Location: empty = below this partition's own prefix.
    out.u16(0);
    out.list(&entry.epochs, put_epoch);
}

fn take_entry(input: &mut Decoder<'_>) -> Result<Entry, DecodeError> {
    let Key::Segment(key) = take_key(input)? else {
        return Err(DecodeError::Invalid("an entry does not name a segment"));
    };
    let entry = Entry {
        key,
        last_offset: input.i64()?,
        size_bytes: input.u64()?,
        sidecar_size_bytes: input.u64()?,
        min_timestamp: input.i64()?,
        max_timestamp: input.i64()?,
        content_hash: input.u64()?,
        sidecar_hash: input.u64()?,
        added: input.u64()?,
        flags: input.u16()?,
        format: match input.u8()? {
            0 => SegmentFormat::RecordBatches,
            _ => return Err(DecodeError::Invalid("an entry's format is unknown to this version of the program")),
        },
        epochs: {
            if input.u16()? != 0 {
                return Err(DecodeError::Invalid("an entry's location is unknown to this version of the program"));
            }
            input.list(12, take_epoch)?
        },
    };
    Ok(entry)
}

fn put_tombstone(out: &mut Encoder, tombstone: &Tombstone) {
    put_key(out, &tombstone.key);
    out.u64(tombstone.added);
    out.u64(tombstone.removed);
    out.i64(tombstone.time_ms);
}

fn take_tombstone(input: &mut Decoder<'_>) -> Result<Tombstone, DecodeError> {
    Ok(Tombstone { key: take_key(input)?, added: input.u64()?, removed: input.u64()?, time_ms: input.i64()? })
}

fn put_run_ref(out: &mut Encoder, run: &RunRef) {
    put_key(out, &run.key);
    out.u64(run.hash);
    out.u64(run.size_bytes);
    out.u32(run.count);
    out.i64(run.first);
    out.i64(run.last);
    out.u64(run.bytes);
    out.i64(run.max_timestamp);
    out.u64(run.added);
    out.u32(run.buried);
}

fn take_run_ref(input: &mut Decoder<'_>) -> Result<RunRef, DecodeError> {
    Ok(RunRef {
        key: take_key(input)?,
        hash: input.u64()?,
        size_bytes: input.u64()?,
        count: input.u32()?,
        first: input.i64()?,
        last: input.i64()?,
        bytes: input.u64()?,
        max_timestamp: input.i64()?,
        added: input.u64()?,
        buried: input.u32()?,
    })
}
