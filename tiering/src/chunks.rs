//! The chunk cache: 8 MiB pieces of segments, fetched once, kept as files, served like local segments.
//!
//! Owns: which chunks are there or on their way, the files in its directory, the byte budgets of demand and read-ahead.
//! Does not own: how a chunk is fetched and checked (`read` hands in the future).
//!
//! Invariants: one fetch per chunk at a time, by a task of its own that goes on when its readers leave; a chunk is handed
//! out only after its hash was checked; bytes in memory are at most the two budgets. A crash leaves files, which the next
//! start removes: nothing here is durable (`docs/formats/chunk-cache.md`).

use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use strandline_protocol::rope::{FileRange, Part};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use uuid::Uuid;

use crate::io_pool::IoPool;
use crate::lru::Lru;
use crate::metrics::Metrics;
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
}

type Answer = Option<Result<Chunk, ChunkError>>;

enum Slot {
    Loading(watch::Receiver<Answer>),
    Memory(Bytes),
    File { file: Weak<File>, len: u64 },
}

pub(crate) struct ChunkCache {
    dir: PathBuf,
    slots: Mutex<Lru<ChunkId, Slot>>,
    demand: Arc<Semaphore>,
    read_ahead: Arc<Semaphore>,
    /// Chunks that read-ahead may have in memory, for fair shares.
    pub(crate) read_ahead_chunks: usize,
    io: Arc<IoPool>,
    metrics: Arc<Metrics>,
}

const CHUNK_EXTENSION: &str = "chunk";

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
            if path.extension().is_some_and(|extension| extension == CHUNK_EXTENSION) {
                std::fs::remove_file(path)?;
            }
        }
        let chunks = usize::try_from(memory_budget / CHUNK_BYTES).unwrap_or(usize::MAX).clamp(4, 4096);
        let demand_chunks = chunks.div_ceil(4);
        Ok(ChunkCache {
            dir: dir.to_owned(),
            slots: Mutex::new(Lru::new(disk_budget)),
            demand: Arc::new(Semaphore::new(demand_chunks)),
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
            Slot::File { file, len } => {
                if let Some(file) = file.upgrade() {
                    return Some(Chunk::File { file, len: *len });
                }
                match File::open(self.path(id)) {
                    Ok(opened) => {
                        let opened = Arc::new(opened);
                        *file = Arc::downgrade(&opened);
                        Some(Chunk::File { file: opened, len: *len })
                    }
                    Err(_) => {
                        // Someone removed the file: fetch it again.
                        slots.remove(&id);
                        None
                    }
                }
            }
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
            Begun::Mine(reply, answer) => {
                let (cache, permits) = (Arc::clone(self), Arc::clone(&self.demand));
                tokio::spawn(async move {
                    let permit = permits.acquire_owned().await.ok();
                    cache.load(id, fetch, reply, permit).await;
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
        if let Begun::Mine(reply, _answer) = self.begin(id) {
            let cache = Arc::clone(self);
            tokio::spawn(async move { cache.load(id, fetch, reply, Some(permit)).await });
        }
        true
    }

    fn begin(&self, id: ChunkId) -> Begun {
        let mut slots = self.slots.lock();
        match slots.get(&id) {
            // A loader that ended without an answer (it panicked) leaves a closed channel: begin anew.
            Some(Slot::Loading(answer)) if answer.has_changed().is_ok() => return Begun::Others(answer.clone()),
            Some(Slot::Memory(bytes)) => {
                let chunk = Chunk::Memory(bytes.clone());
                return Begun::Others(watch::channel(Some(Ok(chunk))).1);
            }
            Some(Slot::Loading(_) | Slot::File { .. }) | None => {}
        }
        let (reply, answer) = watch::channel(None);
        // Weighs nothing until it is there, so that it cannot be evicted for its own sake.
        let left = slots.insert(id, Slot::Loading(answer.clone()), 0);
        drop(slots);
        self.forget(left);
        Begun::Mine(reply, answer)
    }

    async fn load<F>(&self, id: ChunkId, fetch: F, reply: watch::Sender<Answer>, permit: Option<OwnedSemaphorePermit>)
    where
        F: Future<Output = Result<Bytes, ChunkError>>,
    {
        let bytes = match fetch.await {
            Ok(bytes) => bytes,
            Err(error) => {
                self.slots.lock().remove(&id);
                reply.send_replace(Some(Err(error)));
                return;
            }
        };
        let len = bytes.len() as u64;
        let left = self.slots.lock().insert(id, Slot::Memory(bytes.clone()), len);
        self.forget(left);
        reply.send_replace(Some(Ok(Chunk::Memory(bytes.clone()))));
        drop(reply);
        self.keep_as_file(id, bytes).await;
        drop(permit);
    }

    async fn keep_as_file(&self, id: ChunkId, bytes: Bytes) {
        let (path, len) = (self.path(id), bytes.len() as u64);
        let written = self.io.run(move || write_file(&path, &bytes)).await;
        let file = match written {
            Ok(Ok(file)) => Arc::new(file),
            Ok(Err(error)) | Err(error) => {
                tracing::warn!(directory = %self.dir.display(), %error, "the chunk cache cannot write; check space and permissions of its directory");
                self.slots.lock().remove(&id);
                return;
            }
        };
        let mut slots = self.slots.lock();
        if let Some(slot @ Slot::Memory(_)) = slots.get(&id) {
            *slot = Slot::File { file: Arc::downgrade(&file), len };
        } else {
            drop(slots);
            let _ = std::fs::remove_file(self.path(id));
        }
    }

    /// Evicted chunks lose their files; readers that hold one open go on.
    fn forget(&self, left: Vec<(ChunkId, Slot)>) {
        for (id, slot) in left {
            if matches!(slot, Slot::File { .. }) {
                self.metrics.chunks_evicted.add(1);
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
    Mine(watch::Sender<Answer>, watch::Receiver<Answer>),
    Others(watch::Receiver<Answer>),
}

fn write_file(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    file.write_all(bytes)?;
    Ok(file)
}
