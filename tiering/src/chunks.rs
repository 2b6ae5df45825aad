//! The chunk cache: 8 MiB pieces of segments, fetched once, served from memory while they are read, kept as files when
//! they are worth it.
//!
//! Owns: which chunks are there or on their way, the byte budgets of demand and read-ahead, the limit of the files.
//! Does not own: how a chunk is fetched and checked (`read` hands in the future), who has read what (`streams`), which chunk
//! makes room (`residence`: it is asked when memory is wanted, and what it says is done here).
//!
//! Invariants: one fetch per chunk at a time, by a task of its own that goes on when its readers leave; a chunk is handed
//! out only after its hash was checked, and a file that was closed is checked again before it is used; a file is never
//! written in place, so that who holds it open goes on reading what it was; bytes in memory are at most the two budgets,
//! what answers under way hold included (`memory`), and a few buffers that wait to be used again (`buffers`); half of a
//! budget is lent to answers at most, and the reader who finds no more to be had waits for the chunk's file, which costs no
//! memory however slowly it is sent. Only where no file can be written is memory all there is. A chunk that a reader has before
//! it is not dropped for want of memory but written to its file; if that fails, it is fetched again. A crash leaves files,
//! which the next start removes: nothing here is durable (`docs/formats/chunk-cache.md`).

mod chunk;
mod file;
mod memory;
mod residence;

use std::collections::HashMap;
use std::fs::File;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::io_pool::IoPool;
use crate::lru::Lru;
use crate::metrics::Metrics;
use crate::remote_log::ReaderLoad;
use crate::sidecar::CHUNK_BYTES;
use crate::store::StoreError;
pub(crate) use chunk::{Chunk, ChunkId};
use file::Kept;
use memory::{Held, Pool};
use residence::{Budget, Residence, Room, Step};

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
    /// With what comes of writing it to its file, once that has begun.
    Memory(Arc<Held>, Option<watch::Receiver<Answer>>),
}

/// A chunk in its file, which may be closed.
struct Filed {
    file: Weak<File>,
    kept: Kept,
}

struct State {
    /// Chunks on their way, at most [`DEMAND_QUEUE_LIMIT`] and the budgets, and in memory, at most the budgets.
    slots: HashMap<ChunkId, Slot>,
    files: Lru<ChunkId, Filed>,
    residence: Residence,
}

pub(crate) struct ChunkCache {
    dir: PathBuf,
    state: Mutex<State>,
    /// Files that stay open, so that a reader who goes on does not have them checked again.
    open: Mutex<Lru<ChunkId, Arc<File>>>,
    /// Names temporary files.
    writes: AtomicU64,
    demand: Arc<Pool>,
    /// Of [`DEMAND_QUEUE_LIMIT`].
    demand_queue: Arc<Semaphore>,
    read_ahead: Arc<Pool>,
    /// Chunks that read-ahead may have in memory, for fair shares.
    pub(crate) read_ahead_chunks: usize,
    io: Arc<IoPool>,
    metrics: Arc<Metrics>,
}

/// Chunks that readers asked for and that wait for the budget of demand, or are on their way; one more is refused.
const DEMAND_QUEUE_LIMIT: usize = 1024;
/// How long one of them waits for the budget before its readers are told to ask again.
const DEMAND_WAIT: Duration = Duration::from_secs(60);
/// Chunk files that stay open.
const OPEN_FILES: u64 = 128;

/// A chunk to be written to its file, and whom to tell.
struct Write {
    id: ChunkId,
    held: Arc<Held>,
    reply: watch::Sender<Answer>,
}

enum Begun {
    Here(Chunk),
    /// It is in memory, of which no more is lent: its file is waited for.
    Filing(watch::Receiver<Answer>, Option<Write>),
    Others(watch::Receiver<Answer>),
    /// With what its closed file should hold, if there is one.
    Mine(watch::Sender<Answer>, watch::Receiver<Answer>, Option<Kept>),
}

/// What becomes of a chunk that came.
enum Next {
    Lend(Bytes),
    Write,
    /// Nobody waits for it.
    Nothing,
}

impl ChunkCache {
    /// Empties `dir` of an earlier run's chunks.
    pub(crate) fn open(
        dir: &Path,
        disk_budget: u64,
        memory_budget: u64,
        io: Arc<IoPool>,
        metrics: Arc<Metrics>,
    ) -> io::Result<ChunkCache> {
        file::clear(dir)?;
        let chunks = usize::try_from(memory_budget / CHUNK_BYTES).unwrap_or(usize::MAX).clamp(4, 4096);
        let demand_chunks = chunks.div_ceil(4);
        Ok(ChunkCache {
            dir: dir.to_owned(),
            state: Mutex::new(State {
                slots: HashMap::new(),
                files: Lru::new(disk_budget),
                residence: Residence::new(disk_budget / CHUNK_BYTES),
            }),
            open: Mutex::new(Lru::new(OPEN_FILES)),
            writes: AtomicU64::new(0),
            demand: Pool::new(demand_chunks),
            demand_queue: Arc::new(Semaphore::new(DEMAND_QUEUE_LIMIT)),
            read_ahead: Pool::new(chunks - demand_chunks),
            read_ahead_chunks: chunks - demand_chunks,
            io,
            metrics,
        })
    }

    /// The chunk if it can be had now; its place in the order of use moves.
    pub(crate) fn ready(&self, id: ChunkId) -> Option<Chunk> {
        let State { slots, files, residence } = &mut *self.state.lock();
        match slots.get(&id) {
            Some(Slot::Memory(held, _)) => {
                residence.used(id);
                held.lend().map(Chunk::Memory)
            }
            _ => opened(files, id),
        }
    }

    /// The chunk, fetched if need be. Leaving does not stop the fetch.
    pub(crate) async fn get<F>(self: &Arc<Self>, id: ChunkId, fetch: F) -> Result<Chunk, ChunkError>
    where
        F: Future<Output = Result<Bytes, ChunkError>> + Send + 'static,
    {
        let begun = self.begin(id);
        match &begun {
            Begun::Here(_) | Begun::Filing(..) => self.metrics.chunk_hits.add(1),
            Begun::Others(_) | Begun::Mine(..) => self.metrics.chunk_misses.add(1),
        }
        let mut answer = match begun {
            Begun::Here(chunk) => return Ok(chunk),
            Begun::Others(answer) => answer,
            Begun::Filing(answer, write) => {
                self.spawn_writes(write);
                answer
            }
            Begun::Mine(reply, answer, kept) => {
                let Ok(place) = Arc::clone(&self.demand_queue).try_acquire_owned() else {
                    self.give_up(id, &reply, ChunkError::Busy);
                    return Err(ChunkError::Busy);
                };
                let cache = Arc::clone(self);
                tokio::spawn(async move {
                    match tokio::time::timeout(DEMAND_WAIT, cache.demand_permit()).await {
                        Ok(Some(permit)) => cache.load(id, fetch, reply, Budget::Demand, permit, kept).await,
                        // The budget is never closed.
                        Ok(None) | Err(_) => cache.give_up(id, &reply, ChunkError::Busy),
                    }
                    drop(place);
                });
                answer
            }
        };
        let result = match answer.wait_for(Option::is_some).await {
            Ok(answer) => answer.clone(),
            Err(_) => None,
        };
        result.unwrap_or(Err(ChunkError::Abandoned))
    }

    /// Begins to fetch the chunk if it is not there and the budget of read-ahead has room, or can be given some at once.
    /// True if it is there, or will be.
    pub(crate) fn prefetch<F>(self: &Arc<Self>, id: ChunkId, fetch: F) -> bool
    where
        F: Future<Output = Result<Bytes, ChunkError>> + Send + 'static,
    {
        {
            let state = self.state.lock();
            if state.slots.contains_key(&id) || state.files.contains(&id) {
                return true;
            }
        }
        let permits = &self.read_ahead.permits;
        let permit = Arc::clone(permits).try_acquire_owned().or_else(|_| {
            self.make_room(Budget::ReadAhead, 1);
            Arc::clone(permits).try_acquire_owned()
        });
        let Ok(permit) = permit else { return false };
        match self.begin(id) {
            Begun::Mine(reply, _answer, kept) => {
                let cache = Arc::clone(self);
                tokio::spawn(async move { cache.load(id, fetch, reply, Budget::ReadAhead, permit, kept).await });
            }
            // Another was faster. What was begun is to be done.
            Begun::Filing(_, write) => self.spawn_writes(write),
            Begun::Here(_) | Begun::Others(_) => {}
        }
        true
    }

    /// A reader has these behind it; `awaited` if others have them before them.
    pub(crate) fn passed(self: &Arc<Self>, ids: &[ChunkId], awaited: bool) {
        if ids.is_empty() {
            return;
        }
        {
            let mut state = self.state.lock();
            for id in ids {
                state.residence.passed(*id, awaited);
            }
        }
        self.make_room(Budget::Demand, self.demand.waiting());
        self.make_room(Budget::ReadAhead, 0);
    }

    fn begin(&self, id: ChunkId) -> Begun {
        let State { slots, files, residence } = &mut *self.state.lock();
        match slots.get_mut(&id) {
            // A loader that ended without an answer (it panicked) leaves a closed channel: begin anew.
            Some(Slot::Loading(answer)) if answer.has_changed().is_ok() => return Begun::Others(answer.clone()),
            Some(Slot::Loading(_)) | None => {}
            Some(Slot::Memory(held, filing)) => {
                residence.used(id);
                if let Some(bytes) = held.lend() {
                    return Begun::Here(Chunk::Memory(bytes));
                }
                let (answer, write) = begin_write(id, held, filing, residence);
                return Begun::Filing(answer, write);
            }
        }
        if let Some(chunk) = opened(files, id) {
            return Begun::Here(chunk);
        }
        // Its file stays: it is looked at first.
        let closed = files.get(&id).map(|filed| filed.kept);
        let (reply, answer) = watch::channel(None);
        slots.insert(id, Slot::Loading(answer.clone()));
        Begun::Mine(reply, answer, closed)
    }

    async fn demand_permit(self: &Arc<Self>) -> Option<OwnedSemaphorePermit> {
        let pool = &self.demand;
        let waiting = pool.wait();
        let mut acquired = std::pin::pin!(Arc::clone(&pool.permits).acquire_owned());
        let permit = loop {
            self.make_room(Budget::Demand, pool.waiting());
            tokio::select! {
                biased;
                permit = &mut acquired => break permit,
                () = pool.changed.notified() => {}
            }
        };
        drop(waiting);
        permit.ok()
    }

    async fn load<F>(
        self: &Arc<Self>,
        id: ChunkId,
        fetch: F,
        reply: watch::Sender<Answer>,
        budget: Budget,
        permit: OwnedSemaphorePermit,
        closed: Option<Kept>,
    ) where
        F: Future<Output = Result<Bytes, ChunkError>>,
    {
        if let Some(kept) = closed
            && let Some(file) = self.reopen(id, kept).await
        {
            self.state.lock().slots.remove(&id);
            reply.send_replace(Some(Ok(Chunk::File { file, len: kept.len })));
            return;
        }
        let bytes = match fetch.await {
            Ok(bytes) => bytes,
            Err(error) => return self.give_up(id, &reply, error),
        };
        let pool = self.pool(budget);
        let held = Held::new(bytes, Arc::clone(pool), permit);
        let next = {
            let State { slots, residence, .. } = &mut *self.state.lock();
            // Its receiver goes with it: the others are those of readers who wait.
            drop(slots.remove(&id));
            residence.came(id, budget);
            let lent =
                if reply.receiver_count() > 0 { held.lend().map_or(Next::Write, Next::Lend) } else { Next::Nothing };
            let filing = matches!(lent, Next::Write).then(|| {
                residence.leaving(id);
                reply.subscribe()
            });
            slots.insert(id, Slot::Memory(Arc::clone(&held), filing));
            lent
        };
        match next {
            Next::Nothing => drop(held),
            Next::Lend(bytes) => {
                drop(held);
                reply.send_replace(Some(Ok(Chunk::Memory(bytes))));
            }
            // Who waits is given the file; later readers wait with them.
            Next::Write => self.write(Write { id, held, reply }).await,
        }
        if pool.waiting() > 0 {
            self.make_room(budget, pool.waiting());
        }
    }

    fn give_up(&self, id: ChunkId, reply: &watch::Sender<Answer>, error: ChunkError) {
        self.state.lock().slots.remove(&id);
        reply.send_replace(Some(Err(error)));
    }

    /// Does what `residence` says, so that `asked` chunks fit. What is dropped is free when this returns.
    fn make_room(self: &Arc<Self>, budget: Budget, asked: usize) {
        let pool = self.pool(budget);
        let (mut dropped, mut writes) = (Vec::new(), Vec::new());
        {
            let State { slots, residence, .. } = &mut *self.state.lock();
            let room = Room { budget, chunks: pool.chunks, free: pool.permits.available_permits(), asked };
            let held = |id: &ChunkId| matches!(slots.get(id), Some(Slot::Memory(held, _)) if held.is_lent());
            for step in residence.room(room, held) {
                match step {
                    Step::Drop(id) => dropped.extend(slots.remove(&id)),
                    Step::Write(id) => {
                        if let Some(Slot::Memory(held, filing)) = slots.get_mut(&id) {
                            writes.extend(begin_write(id, held, filing, residence).1);
                        }
                    }
                }
            }
        }
        self.metrics.chunks_released.add(dropped.len() as u64);
        drop(dropped);
        self.spawn_writes(writes);
    }

    fn spawn_writes(self: &Arc<Self>, writes: impl IntoIterator<Item = Write>) {
        for write in writes {
            let cache = Arc::clone(self);
            tokio::spawn(async move { cache.write(write).await });
        }
    }

    /// Writes the chunk's file and serves it from there on; if it cannot be written, who waits is given the memory.
    async fn write(&self, write: Write) {
        let Write { id, held, reply } = write;
        let (path, number, job) = (self.path(id), self.writes.fetch_add(1, Ordering::Relaxed), Arc::clone(&held));
        let written = self.io.run(move || file::write(&path, number, &job.bytes)).await.and_then(|written| written);
        let answer = match written {
            Ok((file, kept)) => {
                self.metrics.chunk_files_written.add(1);
                let file = Arc::new(file);
                self.filed(id, &held, &file, kept);
                Some(Chunk::File { file, len: kept.len })
            }
            Err(error) => {
                tracing::warn!(directory = %self.dir.display(), %error, "the chunk cache cannot write; check space and permissions of its directory");
                let gone = self.state.lock().leave(id, &held);
                drop(gone);
                (reply.receiver_count() > 0).then(|| Chunk::Memory(held.lend_beyond()))
            }
        };
        drop(held);
        reply.send_replace(answer.map(Ok));
    }

    /// The file takes the place of the memory.
    fn filed(&self, id: ChunkId, held: &Arc<Held>, file: &Arc<File>, kept: Kept) {
        let mut state = self.state.lock();
        let gone = state.leave(id, held);
        let wanted = gone.is_some();
        let left = if wanted {
            state.files.insert(id, Filed { file: Arc::downgrade(file), kept }, kept.len)
        } else {
            Vec::new()
        };
        let another = state.files.contains(&id);
        drop(state);
        drop(gone);
        self.forget(left.into_iter().map(|(left, _)| left).filter(|left| *left != id));
        if wanted {
            drop(self.open.lock().insert(id, Arc::clone(file), 1));
        } else if !another {
            let _ = std::fs::remove_file(self.path(id));
        }
    }

    /// The file of a chunk that nobody had open, if its bytes are still what they were.
    async fn reopen(&self, id: ChunkId, kept: Kept) -> Option<Arc<File>> {
        let path = self.path(id);
        let checked = self.io.run(move || file::reopen(&path, kept)).await.and_then(|checked| checked);
        match checked {
            Ok(file) => {
                let file = Arc::new(file);
                if let Some(filed) = self.state.lock().files.get(&id) {
                    filed.file = Arc::downgrade(&file);
                    drop(self.open.lock().insert(id, Arc::clone(&file), 1));
                }
                Some(file)
            }
            Err(error) => {
                let lost = self.state.lock().files.remove(&id);
                // Otherwise it was evicted a moment ago.
                if lost.is_some() {
                    let path = self.path(id);
                    let _ = std::fs::remove_file(&path);
                    self.metrics.chunk_files_lost.add(1);
                    tracing::warn!(file = %path.display(), %error, "a file of the chunk cache is of no use, fetching it again");
                }
                None
            }
        }
    }

    /// Forgets a chunk whose bytes make no sense, so that the next reader has it fetched anew.
    pub(crate) fn discard(&self, id: ChunkId) {
        let (gone, filed) = {
            let State { slots, files, residence } = &mut *self.state.lock();
            let in_memory = matches!(slots.get(&id), Some(Slot::Memory(..)));
            let gone = if in_memory { slots.remove(&id) } else { None };
            if in_memory {
                residence.left(id);
            }
            (gone, files.remove(&id))
        };
        drop(gone);
        self.forget(filed.map(|_| id));
    }

    pub(crate) fn reader_load(&self) -> ReaderLoad {
        let free = {
            let State { slots, residence, .. } = &*self.state.lock();
            let lent = |id: &&ChunkId| matches!(slots.get(*id), Some(Slot::Memory(held, _)) if held.is_lent());
            // What is kept in memory only because there is room counts as free.
            self.demand.permits.available_permits() + residence.of(Budget::Demand).filter(|id| !lent(id)).count()
        };
        // Of those in the queue, the ones with memory are on their way.
        let queued = DEMAND_QUEUE_LIMIT - self.demand_queue.available_permits();
        let waiting = if free > 0 { 0 } else { queued.saturating_sub(self.demand.chunks) };
        ReaderLoad { waiting, free, budget: self.demand.chunks }
    }

    /// As if [`OPEN_FILES`] others had been opened.
    #[cfg(test)]
    pub(crate) fn close_files(&self) {
        *self.open.lock() = Lru::new(OPEN_FILES);
    }

    /// As if memory were wanted for as many others.
    #[cfg(test)]
    pub(crate) async fn write_all(&self) {
        let writes: Vec<Write> = {
            let State { slots, residence, .. } = &mut *self.state.lock();
            let each = slots.iter_mut().filter_map(|(id, slot)| match slot {
                Slot::Memory(held, filing) => begin_write(*id, held, filing, residence).1,
                Slot::Loading(_) => None,
            });
            each.collect()
        };
        for write in writes {
            self.write(write).await;
        }
    }

    /// Evicted chunks lose their files; readers that hold one open go on.
    fn forget(&self, left: impl IntoIterator<Item = ChunkId>) {
        for id in left {
            self.metrics.chunks_evicted.add(1);
            self.open.lock().remove(&id);
            let _ = std::fs::remove_file(self.path(id));
        }
    }

    fn pool(&self, budget: Budget) -> &Arc<Pool> {
        match budget {
            Budget::Demand => &self.demand,
            Budget::ReadAhead => &self.read_ahead,
        }
    }

    fn path(&self, id: ChunkId) -> PathBuf {
        file::path(&self.dir, id)
    }

    /// Bytes of all chunk files.
    pub(crate) fn bytes(&self) -> u64 {
        self.state.lock().files.weight()
    }
}

impl State {
    /// Takes the chunk out of memory if it is this one. What is returned is to be dropped outside of the lock.
    fn leave(&mut self, id: ChunkId, held: &Arc<Held>) -> Option<Slot> {
        let ours = matches!(self.slots.get(&id), Some(Slot::Memory(there, _)) if Arc::ptr_eq(there, held));
        if !ours {
            return None;
        }
        self.residence.left(id);
        self.slots.remove(&id)
    }
}

/// What its readers wait for; the chunk is to be written if this is the first to say so.
fn begin_write(
    id: ChunkId,
    held: &Arc<Held>,
    filing: &mut Option<watch::Receiver<Answer>>,
    residence: &mut Residence,
) -> (watch::Receiver<Answer>, Option<Write>) {
    if let Some(answer) = filing {
        return (answer.clone(), None);
    }
    let (reply, answer) = watch::channel(None);
    *filing = Some(answer.clone());
    residence.leaving(id);
    (answer, Some(Write { id, held: Arc::clone(held), reply }))
}

/// From its file, if somebody has that open.
fn opened(files: &mut Lru<ChunkId, Filed>, id: ChunkId) -> Option<Chunk> {
    let filed = files.get(&id)?;
    Some(Chunk::File { file: filed.file.upgrade()?, len: filed.kept.len })
}
