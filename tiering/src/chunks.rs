//! The chunk cache: 8 MiB pieces of segments, fetched once, kept as files, served like local segments.
//!
//! Owns: which chunks are there or on their way, the files in its directory, the byte budgets of demand and read-ahead.
//! Does not own: how a chunk is fetched and checked (`read` hands in the future).
//!
//! Invariants: one fetch per chunk at a time, by a task of its own that goes on when its readers leave; a chunk is handed
//! out only after its hash was checked, and a file that was closed is checked again before it is used; a file is never
//! written in place, so that who holds it open goes on reading what it was; bytes in memory are at most the two budgets, with
//! those that answers under way still hold: while less than half of a budget is free, a reader waits for the chunk's file
//! instead, which costs no memory however slowly it is sent. Only where no file can be written is memory all there is. A crash leaves files, which the next start removes: nothing here is durable
//! (`docs/formats/chunk-cache.md`).

use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use strandline_protocol::rope::{FileRange, Part};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use uuid::Uuid;

use crate::encoding::hash;
use crate::io_pool::IoPool;
use crate::lru::Lru;
use crate::metrics::Metrics;
use crate::remote_log::ReaderLoad;
use crate::sidecar::CHUNK_BYTES;
use crate::store::StoreError;

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

/// Why a chunk could not be had.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ChunkError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the hash of chunk {number} is wrong, also when read again")]
    Corrupt { number: u64 },
    #[error("the fetch of a chunk ended without an answer")]
    Abandoned,
    #[error("too many chunks are asked for at once")]
    Busy,
}

type Answer = Option<Result<Chunk, ChunkError>>;

enum Slot {
    Loading(watch::Receiver<Answer>),
    Memory(Bytes),
    File { file: Weak<File>, kept: Kept },
}

/// A chunk in its file.
#[derive(Debug, Clone, Copy)]
struct Kept {
    len: u64,
    hash: u64,
}

pub(crate) struct ChunkCache {
    dir: PathBuf,
    slots: Mutex<Lru<ChunkId, Slot>>,
    /// Files that stay open, so that a reader who goes on does not have them checked again.
    open: Mutex<Lru<ChunkId, Arc<File>>>,
    /// Names temporary files.
    writes: AtomicU64,
    demand: Arc<Semaphore>,
    demand_chunks: usize,
    /// Of [`DEMAND_QUEUE_LIMIT`].
    demand_queue: Arc<Semaphore>,
    read_ahead: Arc<Semaphore>,
    /// Chunks that read-ahead may have in memory, for fair shares.
    pub(crate) read_ahead_chunks: usize,
    io: Arc<IoPool>,
    metrics: Arc<Metrics>,
}

const CHUNK_EXTENSION: &str = "chunk";
const PART_EXTENSION: &str = "part";

/// Chunks that readers asked for and that wait for the budget of demand, or are on their way; one more is refused.
const DEMAND_QUEUE_LIMIT: usize = 1024;
/// How long one of them waits for the budget before its readers are told to ask again.
const DEMAND_WAIT: Duration = Duration::from_secs(60);

/// A chunk's bytes with their share of a budget, which is given back with the last copy.
struct Held {
    bytes: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A share of one budget.
struct Share {
    permit: OwnedSemaphorePermit,
    /// So many must be free for memory to be handed out.
    free_min: usize,
}

/// Chunk files that stay open.
const OPEN_FILES: u64 = 128;

impl ChunkCache {
    /// Empties `dir` of an earlier run's chunks.
    pub(crate) fn open(
        dir: &Path,
        disk_budget: u64,
        memory_budget: u64,
        io: Arc<IoPool>,
        metrics: Arc<Metrics>,
    ) -> io::Result<ChunkCache> {
        std::fs::create_dir_all(dir)?;
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|name| name == CHUNK_EXTENSION || name == PART_EXTENSION) {
                std::fs::remove_file(path)?;
            }
        }
        let chunks = usize::try_from(memory_budget / CHUNK_BYTES).unwrap_or(usize::MAX).clamp(4, 4096);
        let demand_chunks = chunks.div_ceil(4);
        Ok(ChunkCache {
            dir: dir.to_owned(),
            slots: Mutex::new(Lru::new(disk_budget)),
            open: Mutex::new(Lru::new(OPEN_FILES)),
            writes: AtomicU64::new(0),
            demand: Arc::new(Semaphore::new(demand_chunks)),
            demand_chunks,
            demand_queue: Arc::new(Semaphore::new(DEMAND_QUEUE_LIMIT)),
            read_ahead: Arc::new(Semaphore::new(chunks - demand_chunks)),
            read_ahead_chunks: chunks - demand_chunks,
            io,
            metrics,
        })
    }

    /// The chunk if it is there now; its place in the order of use moves.
    pub(crate) fn ready(&self, id: ChunkId) -> Option<Chunk> {
        let mut slots = self.slots.lock();
        match slots.get(&id)? {
            Slot::Loading(_) => None,
            Slot::Memory(bytes) => Some(Chunk::Memory(bytes.clone())),
            Slot::File { file, kept } => Some(Chunk::File { file: file.upgrade()?, len: kept.len }),
        }
    }

    /// The chunk, fetched if need be. Leaving does not stop the fetch.
    pub(crate) async fn get<F>(self: &Arc<Self>, id: ChunkId, fetch: F) -> Result<Chunk, ChunkError>
    where
        F: Future<Output = Result<Bytes, ChunkError>> + Send + 'static,
    {
        if let Some(chunk) = self.ready(id) {
            self.metrics.chunk_hits.add(1);
            return Ok(chunk);
        }
        self.metrics.chunk_misses.add(1);
        let mut answer = match self.begin(id) {
            Begun::Mine(reply, answer, kept) => {
                let Ok(place) = Arc::clone(&self.demand_queue).try_acquire_owned() else {
                    self.give_up(id, &reply, ChunkError::Busy);
                    return Err(ChunkError::Busy);
                };
                let (cache, permits) = (Arc::clone(self), Arc::clone(&self.demand));
                tokio::spawn(async move {
                    match tokio::time::timeout(DEMAND_WAIT, permits.acquire_owned()).await {
                        Ok(Ok(permit)) => {
                            let share = Share { permit, free_min: cache.demand_chunks.div_ceil(2) };
                            cache.load(id, fetch, reply, share, kept).await;
                        }
                        // The budget is never closed.
                        Ok(Err(_)) | Err(_) => cache.give_up(id, &reply, ChunkError::Busy),
                    }
                    drop(place);
                });
                answer
            }
            Begun::Others(answer) => answer,
        };
        let result = match answer.wait_for(Option::is_some).await {
            Ok(answer) => answer.clone(),
            Err(_) => None,
        };
        result.unwrap_or(Err(ChunkError::Abandoned))
    }

    /// Begins to fetch the chunk if it is not there and the budget of read-ahead has room. True if it is there, or will be.
    pub(crate) fn prefetch<F>(self: &Arc<Self>, id: ChunkId, fetch: F) -> bool
    where
        F: Future<Output = Result<Bytes, ChunkError>> + Send + 'static,
    {
        if self.slots.lock().contains(&id) {
            return true;
        }
        let Ok(permit) = Arc::clone(&self.read_ahead).try_acquire_owned() else { return false };
        if let Begun::Mine(reply, _answer, kept) = self.begin(id) {
            let cache = Arc::clone(self);
            let share = Share { permit, free_min: self.read_ahead_chunks.div_ceil(2) };
            tokio::spawn(async move { cache.load(id, fetch, reply, share, kept).await });
        }
        true
    }

    fn begin(&self, id: ChunkId) -> Begun {
        let mut slots = self.slots.lock();
        let mut closed = None;
        match slots.get(&id) {
            // A loader that ended without an answer (it panicked) leaves a closed channel: begin anew.
            Some(Slot::Loading(answer)) if answer.has_changed().is_ok() => return Begun::Others(answer.clone()),
            Some(Slot::Memory(bytes)) => {
                let chunk = Chunk::Memory(bytes.clone());
                return Begun::Others(watch::channel(Some(Ok(chunk))).1);
            }
            Some(Slot::File { file, kept }) => match file.upgrade() {
                Some(file) => {
                    let chunk = Chunk::File { file, len: kept.len };
                    return Begun::Others(watch::channel(Some(Ok(chunk))).1);
                }
                None => closed = Some(*kept),
            },
            Some(Slot::Loading(_)) | None => {}
        }
        if closed.is_some() {
            // Its file stays: it is looked at first.
            slots.remove(&id);
        }
        let (reply, answer) = watch::channel(None);
        // Weighs nothing until it is there, so that it cannot be evicted for its own sake.
        let left = slots.insert(id, Slot::Loading(answer.clone()), 0);
        drop(slots);
        self.forget(left);
        Begun::Mine(reply, answer, closed)
    }

    async fn load<F>(&self, id: ChunkId, fetch: F, reply: watch::Sender<Answer>, share: Share, closed: Option<Kept>)
    where
        F: Future<Output = Result<Bytes, ChunkError>>,
    {
        if let Some(kept) = closed
            && let Some(file) = self.reopen(id, kept).await
        {
            reply.send_replace(Some(Ok(Chunk::File { file, len: kept.len })));
            return;
        }
        let bytes = match fetch.await {
            Ok(bytes) => bytes,
            Err(error) => return self.give_up(id, &reply, error),
        };
        let Share { permit, free_min } = share;
        let plenty = permit.semaphore().available_permits() >= free_min;
        let bytes = Bytes::from_owner(Held { bytes, _permit: permit });
        let len = bytes.len() as u64;
        let in_memory = Chunk::Memory(bytes.clone());
        if plenty {
            let left = self.slots.lock().insert(id, Slot::Memory(bytes.clone()), len);
            self.forget(left);
            reply.send_replace(Some(Ok(in_memory)));
            drop(reply);
            self.keep_as_file(id, bytes).await;
            return;
        }
        // Who waits is given the file; later readers wait with them.
        let filed = self.keep_as_file(id, bytes).await;
        reply.send_replace(Some(Ok(filed.unwrap_or(in_memory))));
    }

    fn give_up(&self, id: ChunkId, reply: &watch::Sender<Answer>, error: ChunkError) {
        self.slots.lock().remove(&id);
        reply.send_replace(Some(Err(error)));
    }

    /// Writes the chunk's file and serves it from there on. `None` if it cannot be written.
    async fn keep_as_file(&self, id: ChunkId, bytes: Bytes) -> Option<Chunk> {
        let path = self.path(id);
        let part = path.with_extension(format!("{}.{PART_EXTENSION}", self.writes.fetch_add(1, Ordering::Relaxed)));
        let kept = Kept { len: bytes.len() as u64, hash: 0 };
        let written = self.io.run(move || Ok((hash(&bytes), write_file(&part, &path, &bytes)?))).await;
        let (kept, file) = match written {
            Ok(Ok((hash, file))) => (Kept { hash, ..kept }, Arc::new(file)),
            Ok(Err(error)) | Err(error) => {
                tracing::warn!(directory = %self.dir.display(), %error, "the chunk cache cannot write; check space and permissions of its directory");
                self.slots.lock().remove(&id);
                return None;
            }
        };
        let mut slots = self.slots.lock();
        let mut left = Vec::new();
        let slot = Slot::File { file: Arc::downgrade(&file), kept };
        let wanted = match slots.get(&id) {
            Some(there @ Slot::Memory(_)) => {
                *there = slot;
                true
            }
            // It weighs something from now on.
            Some(Slot::Loading(_)) => {
                left = slots.insert(id, slot, kept.len);
                true
            }
            Some(Slot::File { .. }) | None => false,
        };
        drop(slots);
        self.forget(left);
        if wanted {
            drop(self.open.lock().insert(id, Arc::clone(&file), 1));
        } else {
            let _ = std::fs::remove_file(self.path(id));
        }
        Some(Chunk::File { file, len: kept.len })
    }

    /// The file of a chunk that nobody had open, if its bytes are still what they were.
    async fn reopen(&self, id: ChunkId, kept: Kept) -> Option<Arc<File>> {
        let path = self.path(id);
        let checked = self.io.run(move || {
            let file = File::open(&path)?;
            let mut bytes = vec![0; kept.len as usize];
            file.read_exact_at(&mut bytes, 0)?;
            let whole = file.metadata()?.len() == kept.len && hash(&bytes) == kept.hash;
            if whole { Ok(file) } else { Err(io::Error::other("its bytes have changed")) }
        });
        match checked.await.and_then(|checked: io::Result<File>| checked) {
            Ok(file) => {
                let file = Arc::new(file);
                let slot = Slot::File { file: Arc::downgrade(&file), kept };
                let left = self.slots.lock().insert(id, slot, kept.len);
                self.forget(left);
                drop(self.open.lock().insert(id, Arc::clone(&file), 1));
                Some(file)
            }
            Err(error) => {
                self.metrics.chunk_files_lost.add(1);
                tracing::warn!(file = %self.path(id).display(), %error, "a file of the chunk cache is of no use, fetching it again");
                None
            }
        }
    }

    /// Forgets a chunk whose bytes make no sense, so that the next reader has it fetched anew.
    pub(crate) fn discard(&self, id: ChunkId) {
        let slot = self.slots.lock().remove(&id);
        self.open.lock().remove(&id);
        self.forget(slot.map(|slot| (id, slot)).into_iter().collect());
    }

    pub(crate) fn reader_load(&self) -> ReaderLoad {
        let free = self.demand.available_permits();
        // Of those in the queue, the ones with memory are on their way.
        let queued = DEMAND_QUEUE_LIMIT - self.demand_queue.available_permits();
        let waiting = if free > 0 { 0 } else { queued.saturating_sub(self.demand_chunks) };
        ReaderLoad { waiting, free, budget: self.demand_chunks }
    }

    /// As if [`OPEN_FILES`] others had been opened.
    #[cfg(test)]
    pub(crate) fn close_files(&self) {
        *self.open.lock() = Lru::new(OPEN_FILES);
    }

    /// Evicted chunks lose their files; readers that hold one open go on.
    fn forget(&self, left: Vec<(ChunkId, Slot)>) {
        for (id, slot) in left {
            if matches!(slot, Slot::File { .. }) {
                self.metrics.chunks_evicted.add(1);
                self.open.lock().remove(&id);
                let _ = std::fs::remove_file(self.path(id));
            }
        }
    }

    fn path(&self, id: ChunkId) -> PathBuf {
        self.dir.join(format!("{}-{}.{CHUNK_EXTENSION}", id.segment.simple(), id.number))
    }

    /// Bytes of all chunks that are there.
    pub(crate) fn bytes(&self) -> u64 {
        self.slots.lock().weight()
    }
}

enum Begun {
    /// With what its closed file should hold, if there is one.
    Mine(watch::Sender<Answer>, watch::Receiver<Answer>, Option<Kept>),
    Others(watch::Receiver<Answer>),
}

/// Another writer of the same chunk, or a reader of an earlier file of this name, is not disturbed.
fn write_file(part: &Path, path: &Path, bytes: &[u8]) -> io::Result<File> {
    let write = || {
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(part)?;
        file.write_all(bytes)?;
        std::fs::rename(part, path)?;
        Ok(file)
    };
    let written = write();
    if written.is_err() {
        // A full disk is not to be filled by halves of files.
        let _ = std::fs::remove_file(part);
    }
    written
}
