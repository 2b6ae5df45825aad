//! Reading the remote log: by offset, by timestamp, its tail, its map.
//!
//! Owns: the walk from an offset to record bytes, reading ahead, what a missing or damaged object means (rule 2).
//! Does not own: chunks in memory and on disk (`chunks`), who reads on (`streams`), the local log.
//!
//! Invariants: what is returned was checked by hash, begins with the batch that holds the offset, and comes with the
//! aborted transactions of the same source; a damaged or missing object is an error, never an empty answer and never an
//! older manifest's.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use strandline_protocol::compression::DecompressLimit;
use strandline_protocol::ids::{LeaderEpoch, Offset};
use strandline_protocol::record_batch::{BatchHeader, HEADER_LEN, records};
use strandline_protocol::remote_pointer::{PointerState, RemotePointer};
use strandline_protocol::rope::Rope;
use thiserror::Error;
use tokio::time::Instant;

use crate::chunks::{Chunk, ChunkError, ChunkId};
use crate::manifest::Entry;
use crate::objects::{Current, LoadError, Objects};
use crate::partition::RemotePartition;
use crate::remote_log::RemoteLog;
use crate::sidecar::{AbortedTxn, CHUNK_BYTES, Sidecar};
use crate::store::{Store, StoreError};
use crate::streams::ReadSpan;

/// Bytes that one batch may have when its records are looked at for a timestamp.
const DECOMPRESS_LIMIT: DecompressLimit = DecompressLimit(128 << 20);

/// Records of one segment, in the bytes that producers sent.
#[derive(Debug, Clone)]
pub struct RemoteRead {
    /// Begins with the batch that holds the offset; the last batch may be cut off, as in any answer to a fetch.
    pub parts: Rope,
    /// Base offset of the first batch.
    pub first_offset: Offset,
    /// Aborted transactions that overlap the bytes (a few more may be named).
    pub aborted: Vec<AbortedTxn>,
    pub log_start_offset: Offset,
    pub highest_copied_offset: Offset,
}

/// An answer to ListOffsets by timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampedOffset {
    pub timestamp: i64,
    pub offset: Offset,
    pub leader_epoch: LeaderEpoch,
}

/// What a replica or an adopting leader starts from.
#[derive(Debug, Clone)]
pub struct RemoteTail {
    pub last_offset: Offset,
    pub leader_epochs: Vec<(LeaderEpoch, Offset)>,
    pub producer_state: Bytes,
}

/// A remote segment on the tier map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TierEntry {
    pub base_offset: Offset,
    pub last_offset: Offset,
    pub size_bytes: u64,
    pub max_timestamp: i64,
    pub leader_epoch: LeaderEpoch,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tiers {
    pub pointer: RemotePointer,
    pub entries: Vec<TierEntry>,
    /// Live record bytes.
    pub bytes: u64,
    /// Objects that the manifest names, tombstoned ones included.
    pub objects: u64,
}

/// Why a read gave nothing.
#[derive(Debug, Clone, Error)]
pub enum RemoteReadError {
    #[error("the partition has no open remote log")]
    NotTiered,
    #[error("offset {offset} is below the log start {log_start}")]
    OffsetOutOfRange { offset: Offset, log_start: Offset },
    #[error("offset {offset} is not in the remote log, which ends at {highest_copied}")]
    AboveRemote { offset: Offset, highest_copied: Offset },
    #[error(transparent)]
    Store(StoreError),
    #[error("the remote log is damaged or incomplete: {reason}")]
    Damaged { reason: String },
    #[error("the store took longer than {0:?}")]
    TimedOut(Duration),
    #[error("the controller did not answer")]
    ControllerUnknown,
    #[error("too many chunks are asked for at once")]
    Busy,
}

impl RemoteReadError {
    /// The same read may succeed later.
    pub fn retryable(&self) -> bool {
        match self {
            RemoteReadError::Store(error) => error.retryable(),
            RemoteReadError::TimedOut(_) | RemoteReadError::ControllerUnknown | RemoteReadError::Busy => true,
            _ => false,
        }
    }
}

/// Why one attempt by one pointer gave nothing.
enum Failed {
    /// For good.
    Answer(RemoteReadError),
    /// An object is missing or damaged: the pointer may have moved on.
    Suspect(String),
}

impl From<LoadError> for Failed {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Store(StoreError::NotFound { key }) => Failed::Suspect(format!("{key} is missing")),
            LoadError::Store(error) => Failed::Answer(RemoteReadError::Store(error)),
            damaged @ LoadError::Damaged { .. } => Failed::Suspect(damaged.to_string()),
        }
    }
}

impl From<ChunkError> for Failed {
    fn from(error: ChunkError) -> Self {
        match error {
            ChunkError::Store(StoreError::NotFound { key }) => Failed::Suspect(format!("{key} is missing")),
            ChunkError::Store(error) => Failed::Answer(RemoteReadError::Store(error)),
            ChunkError::Busy => Failed::Answer(RemoteReadError::Busy),
            other => Failed::Suspect(other.to_string()),
        }
    }
}

impl RemotePartition {
    /// Reads at most `max_bytes` from the batch that holds `offset` on; with `min_one` at least that batch whole.
    pub async fn read(
        &self,
        offset: Offset,
        max_bytes: u64,
        min_one: bool,
        deadline: Duration,
    ) -> Result<RemoteRead, RemoteReadError> {
        let metrics = &self.objects.log.metrics;
        metrics.fetch_requests.add(1);
        let objects = &self.objects;
        let read = |current: Arc<Current>| async move { objects.read_at(&current, offset, max_bytes, min_one).await };
        let result = within(deadline, self.objects.by_pointer(Some(offset), read)).await;
        match &result {
            Ok(read) => metrics.fetch_bytes.add(read.parts.len()),
            Err(_) => metrics.fetch_errors.add(1),
        }
        result
    }

    /// The first record at or above log start with a timestamp of at least `timestamp`; `None` if the remote log has none.
    pub async fn offset_for_timestamp(
        &self,
        timestamp: i64,
        deadline: Duration,
    ) -> Result<Option<TimestampedOffset>, RemoteReadError> {
        let objects = &self.objects;
        let find = |current: Arc<Current>| async move { objects.find_timestamp(&current, timestamp).await };
        within(deadline, async {
            loop {
                let found = objects.by_pointer(None, &find).await?;
                // Retention may have passed the answer meanwhile: then it is not one.
                let log_start = self.pointer().map_or(0, |pointer| pointer.log_start_offset);
                if found.is_none_or(|found| found.offset >= log_start) {
                    return Ok(found);
                }
            }
        })
        .await
    }

    /// The last sidecar's epochs and producer state: where a new replica starts (rules 3 and 7).
    pub async fn tail(&self, deadline: Duration) -> Result<Option<RemoteTail>, RemoteReadError> {
        let objects = &self.objects;
        let find = |current: Arc<Current>| async move {
            let Some(entry) = objects.entry_from(&current, current.pointer.highest_copied_offset).await? else {
                return Ok(None);
            };
            let sidecar = objects.load_sidecar(&entry).await?;
            Ok(Some(RemoteTail {
                last_offset: entry.last_offset,
                leader_epochs: sidecar.leader_epochs.clone(),
                producer_state: sidecar.producer_state.clone(),
            }))
        };
        within(deadline, objects.by_pointer(None, &find)).await
    }

    /// All live remote segments, for the tier map.
    pub async fn tiers(&self, deadline: Duration) -> Result<Tiers, RemoteReadError> {
        let objects = &self.objects;
        let list = |current: Arc<Current>| async move { Ok(objects.list_entries(&current).await?) };
        within(deadline, self.objects.by_pointer(None, list)).await
    }
}

async fn within<T>(
    deadline: Duration,
    future: impl Future<Output = Result<T, RemoteReadError>>,
) -> Result<T, RemoteReadError> {
    tokio::time::timeout(deadline, future).await.unwrap_or(Err(RemoteReadError::TimedOut(deadline)))
}

impl Objects {
    /// Rule 2: by the applied image first; what is missing or damaged there is looked for again by a linearizable one.
    async fn by_pointer<T, F: Future<Output = Result<T, Failed>>>(
        &self,
        offset: Option<Offset>,
        attempt: impl Fn(Arc<Current>) -> F,
    ) -> Result<T, RemoteReadError> {
        let mut pointer = check_range(self.log.service.pointer(self.tp), offset)?;
        loop {
            let failed = match self.current(pointer).await {
                Ok(current) => match attempt(Arc::new(current)).await {
                    Ok(value) => return Ok(value),
                    Err(failed) => failed,
                },
                Err(error) => Failed::from(error),
            };
            let reason = match failed {
                Failed::Answer(error) => return Err(error),
                Failed::Suspect(reason) => reason,
            };
            let newest = self.log.service.linearizable_pointer(self.tp).await;
            let newest = newest.map_err(|_| RemoteReadError::ControllerUnknown)?;
            let newest = check_range(newest, offset)?;
            if pointer.version >= newest.complete_from || newest.version <= pointer.version {
                tracing::error!(partition = %self.tp, bucket = self.store.name(), reason, "the remote log is damaged");
                return Err(RemoteReadError::Damaged { reason });
            }
            pointer = newest;
        }
    }

    async fn read_at(
        &self,
        current: &Current,
        offset: Offset,
        max_bytes: u64,
        min_one: bool,
    ) -> Result<RemoteRead, Failed> {
        let mut wanted = offset;
        loop {
            let entry = self
                .entry_from(current, wanted)
                .await?
                .ok_or_else(|| Failed::Suspect(format!("no segment holds offset {wanted}")))?;
            let segment = Segment { objects: self, sidecar: self.load_sidecar(&entry).await?, entry };
            // A segment may end with offsets that no batch has: then the next one answers.
            if let Some((position, header)) = segment.find_offset(wanted).await? {
                return segment.read(current, position, &header, max_bytes, min_one).await;
            }
            wanted = segment.entry.last_offset + 1;
            if wanted > current.pointer.highest_copied_offset {
                let highest_copied = current.pointer.highest_copied_offset;
                return Err(Failed::Answer(RemoteReadError::AboveRemote { offset, highest_copied }));
            }
        }
    }

    async fn find_timestamp(&self, current: &Current, timestamp: i64) -> Result<Option<TimestampedOffset>, Failed> {
        let log_start = current.pointer.log_start_offset;
        let mut from = log_start;
        while let Some(entry) = self.entry_with_timestamp(current, from, timestamp).await? {
            let segment = Segment { objects: self, sidecar: self.load_sidecar(&entry).await?, entry };
            if let Some(found) = segment.find_timestamp(timestamp, log_start).await? {
                return Ok(Some(found));
            }
            from = segment.entry.last_offset + 1;
        }
        Ok(None)
    }

    async fn list_entries(&self, current: &Current) -> Result<Tiers, LoadError> {
        let mut tiers = Tiers { pointer: current.pointer, entries: Vec::new(), bytes: 0, objects: 0 };
        let Some(manifest) = &current.manifest else { return Ok(tiers) };
        let runs = manifest.entry_runs.len() + manifest.tombstone_runs.len();
        tiers.objects = 1 + (runs + manifest.tombstones.len() + 2 * manifest.entries.len()) as u64;
        tiers.objects += manifest.entry_runs.iter().map(|run| 2 * u64::from(run.count - run.buried)).sum::<u64>();
        let mut from = current.pointer.log_start_offset;
        while let Some(entry) = self.entry_from(current, from).await? {
            from = entry.last_offset + 1;
            tiers.bytes += entry.size_bytes;
            tiers.entries.push(TierEntry {
                base_offset: entry.base_offset(),
                last_offset: entry.last_offset,
                size_bytes: entry.size_bytes,
                max_timestamp: entry.max_timestamp,
                leader_epoch: entry.last_epoch(),
            });
        }
        Ok(tiers)
    }
}

fn check_range(pointer: Option<RemotePointer>, offset: Option<Offset>) -> Result<RemotePointer, RemoteReadError> {
    let pointer = pointer.filter(|pointer| pointer.state == PointerState::Open).ok_or(RemoteReadError::NotTiered)?;
    let Some(offset) = offset else { return Ok(pointer) };
    if offset < pointer.log_start_offset {
        return Err(RemoteReadError::OffsetOutOfRange { offset, log_start: pointer.log_start_offset });
    }
    if offset > pointer.highest_copied_offset {
        let highest_copied = pointer.highest_copied_offset;
        return Err(RemoteReadError::AboveRemote { offset, highest_copied });
    }
    Ok(pointer)
}

/// One remote segment being read.
struct Segment<'a> {
    objects: &'a Objects,
    entry: Entry,
    sidecar: Arc<Sidecar>,
}

impl Segment<'_> {
    /// The first batch that ends at or above `offset`, and where it is.
    async fn find_offset(&self, offset: Offset) -> Result<Option<(u64, BatchHeader)>, Failed> {
        let mut position = self.sidecar.position_for_offset(offset);
        while position < self.sidecar.size_bytes {
            let header = self.header(position).await?;
            if header.last_offset() >= offset {
                return Ok(Some((position, header)));
            }
            position += header.size_in_bytes() as u64;
        }
        Ok(None)
    }

    async fn find_timestamp(&self, timestamp: i64, log_start: Offset) -> Result<Option<TimestampedOffset>, Failed> {
        let mut position = self.sidecar.position_for_timestamp(timestamp);
        while position < self.sidecar.size_bytes {
            let header = self.header(position).await?;
            let size = header.size_in_bytes();
            if header.max_timestamp >= timestamp && header.last_offset() >= log_start {
                let batch = self.bytes(position, size).await?;
                let undecodable = |error: &dyn std::fmt::Display| {
                    Failed::Answer(RemoteReadError::Damaged {
                        reason: format!("batch {}: {error}", header.base_offset),
                    })
                };
                for record in records(&batch, DECOMPRESS_LIMIT).map_err(|error| undecodable(&error))? {
                    let record = record.map_err(|error| undecodable(&error))?;
                    if record.timestamp >= timestamp && record.offset >= log_start {
                        let leader_epoch = header.partition_leader_epoch;
                        return Ok(Some(TimestampedOffset {
                            timestamp: record.timestamp,
                            offset: record.offset,
                            leader_epoch,
                        }));
                    }
                }
            }
            position += size as u64;
        }
        Ok(None)
    }

    async fn read(
        &self,
        current: &Current,
        start: u64,
        header: &BatchHeader,
        max_bytes: u64,
        min_one: bool,
    ) -> Result<RemoteRead, Failed> {
        let first_batch = header.size_in_bytes() as u64;
        let least = if min_one { first_batch } else { 0 };
        let wanted = if first_batch > max_bytes { least } else { max_bytes };
        let end = self.sidecar.size_bytes.min(start + wanted);
        let (parts, end) = self.parts(start, start + least.max(first_batch.min(wanted)), end).await?;
        let bound = self.sidecar.offset_bound(end);
        let overlaps = |txn: &&AbortedTxn| txn.last_offset >= header.base_offset && txn.first_offset <= bound;
        let aborted = self.sidecar.aborted.iter().filter(overlaps).copied().collect();
        self.read_ahead(current, start, end);
        Ok(RemoteRead {
            parts,
            first_offset: header.base_offset,
            aborted,
            log_start_offset: current.pointer.log_start_offset,
            highest_copied_offset: current.pointer.highest_copied_offset,
        })
    }

    /// The bytes from `start` to `end`, or to a chunk border at or after `must`, if the chunk after it is not there yet.
    async fn parts(&self, start: u64, must: u64, end: u64) -> Result<(Rope, u64), Failed> {
        let mut rope = Rope::default();
        let mut position = start;
        while position < end {
            let number = position / CHUNK_BYTES;
            let chunk = if position < must || position == start {
                self.chunk(number).await?
            } else {
                match self.objects.log.chunks.ready(self.id(number)) {
                    Some(chunk) => chunk,
                    None => break,
                }
            };
            let from = position - number * CHUNK_BYTES;
            let to = (end - number * CHUNK_BYTES).min(chunk.len());
            if to <= from {
                return Err(Failed::Suspect(format!("chunk {number} of {} is too short", self.entry.key)));
            }
            rope.push(chunk.part(from, to));
            position += to - from;
        }
        Ok((rope, position))
    }

    fn read_ahead(&self, current: &Current, start: u64, end: u64) {
        let log = &self.objects.log;
        let span = ReadSpan {
            tp: self.objects.tp,
            segment: self.entry.key.uuid,
            base_offset: self.entry.base_offset(),
            last_offset: self.entry.last_offset,
            start,
            end,
            size_bytes: self.sidecar.size_bytes,
        };
        let noted = log.streams.lock().note(span, log.read_ahead_depth(), log.chunks.read_ahead_chunks);
        log.chunks.passed(&noted.passed, noted.awaited);
        let window = noted.window;
        let first = end.saturating_sub(1) / CHUNK_BYTES + 1;
        let chunks = self.sidecar.chunk_hashes.len() as u64;
        for number in first..chunks.min(first + window) {
            if !log.chunks.prefetch(self.id(number), self.fetch(number)) {
                return;
            }
        }
        let beyond = window.saturating_sub(chunks.saturating_sub(first));
        if beyond > 0 && self.entry.last_offset < current.pointer.highest_copied_offset {
            self.objects.read_ahead_of(current.pointer, self.entry.last_offset + 1, beyond);
        }
    }

    async fn header(&self, position: u64) -> Result<BatchHeader, Failed> {
        let bytes = self.bytes(position, HEADER_LEN).await?;
        BatchHeader::parse(&bytes).map_err(|error| {
            // The chunk's hash was right once: what is on this disk is not what it was.
            self.objects.log.chunks.discard(self.id(position / CHUNK_BYTES));
            Failed::Suspect(format!("{} at byte {position}: {error}", self.entry.key))
        })
    }

    async fn bytes(&self, position: u64, len: usize) -> Result<Vec<u8>, Failed> {
        let left = self.sidecar.size_bytes.saturating_sub(position);
        if len as u64 > left {
            return Err(Failed::Suspect(format!("{} ends inside a batch", self.entry.key)));
        }
        let mut buf = vec![0; len];
        let mut filled = 0;
        while filled < len {
            let at = position + filled as u64;
            let number = at / CHUNK_BYTES;
            let chunk = self.chunk(number).await?;
            let start = at - number * CHUNK_BYTES;
            let take = usize::try_from(chunk.len().saturating_sub(start)).unwrap_or(usize::MAX).min(len - filled);
            chunk.copy_to(start, &mut buf[filled..filled + take]).map_err(|error| {
                Failed::Answer(RemoteReadError::Damaged { reason: format!("a chunk file cannot be read: {error}") })
            })?;
            filled += take;
        }
        Ok(buf)
    }

    fn id(&self, number: u64) -> ChunkId {
        ChunkId { segment: self.entry.key.uuid, number }
    }

    async fn chunk(&self, number: u64) -> Result<Chunk, Failed> {
        Ok(self.objects.log.chunks.get(self.id(number), self.fetch(number)).await?)
    }

    fn fetch(&self, number: u64) -> impl Future<Output = Result<Bytes, ChunkError>> + Send + 'static {
        let (log, store) = (Arc::clone(&self.objects.log), Arc::clone(&self.objects.store));
        let name = self.objects.prefix.full(&self.entry.key.log());
        let (range, expected) = (self.sidecar.chunk_range(number), self.sidecar.chunk_hashes[number as usize]);
        async move { fetch_chunk(&log, &store, &name, number, range, expected).await }
    }
}

/// Gets a chunk and checks its hash; a wrong one is fetched once more.
async fn fetch_chunk(
    log: &RemoteLog,
    store: &Store,
    name: &str,
    number: u64,
    range: std::ops::Range<u64>,
    expected: u64,
) -> Result<Bytes, ChunkError> {
    for _ in 0..2 {
        let began = Instant::now();
        let (bytes, hash) = store.get_range_hashed(name, range.clone(), &log.buffers).await?;
        log.metrics.store_chunk_gets.add(1);
        log.metrics.store_chunk_bytes.add(bytes.len() as u64);
        log.note_chunk_latency(began.elapsed());
        if hash == expected {
            return Ok(bytes);
        }
        log.metrics.corrupt_objects.add(1);
        tracing::warn!(key = name, number, "the hash of a chunk is wrong");
    }
    Err(ChunkError::Corrupt { number })
}

impl Objects {
    /// Begins to fetch up to `chunks` chunks of the segments from `offset` on. One such walk per process and reader is short:
    /// it ends when the budget of read-ahead is used up.
    fn read_ahead_of(&self, pointer: RemotePointer, offset: Offset, chunks: u64) {
        let Ok(turn) = Arc::clone(&self.log.read_ahead_walks).try_acquire_owned() else { return };
        let objects = self.clone();
        tokio::spawn(async move {
            // Only ahead of need: whoever reads there meets the error itself.
            let walked = objects.walk_ahead(pointer, offset, chunks).await;
            tracing::trace!(ok = walked.is_ok(), "read ahead across segments");
            drop(turn);
        });
    }

    async fn walk_ahead(&self, pointer: RemotePointer, mut offset: Offset, mut chunks: u64) -> Result<(), LoadError> {
        let current = self.current(pointer).await?;
        while chunks > 0 && offset <= pointer.highest_copied_offset {
            let Some(entry) = self.entry_from(&current, offset).await? else { return Ok(()) };
            let segment = Segment { objects: self, sidecar: self.load_sidecar(&entry).await?, entry };
            for number in 0..(segment.sidecar.chunk_hashes.len() as u64).min(chunks) {
                if !self.log.chunks.prefetch(segment.id(number), segment.fetch(number)) {
                    return Ok(());
                }
                chunks -= 1;
            }
            offset = segment.entry.last_offset + 1;
        }
        Ok(())
    }
}
