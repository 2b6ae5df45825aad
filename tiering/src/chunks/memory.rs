//! Chunks in memory: their share of a budget, and who has been given their bytes.
//!
//! Owns: permits, and the count of chunks that answers hold. Does not own: which chunk makes room (`residence`).
//!
//! Invariants: a chunk's permit comes back with the last copy of its bytes, never before; at most half of a budget is
//! lent to answers, as a client takes its answer as slowly as it likes. A crash leaves nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// One budget of memory, counted in chunks.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) chunks: usize,
    /// Chunks whose bytes an answer has.
    lent: AtomicUsize,
    waiting: AtomicUsize,
    /// Something that could not make room before may do so now.
    pub(crate) changed: Notify,
}

impl Pool {
    pub(crate) fn new(chunks: usize) -> Arc<Pool> {
        Arc::new(Pool {
            permits: Arc::new(Semaphore::new(chunks)),
            chunks,
            lent: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            changed: Notify::new(),
        })
    }

    /// Chunks that wait for memory.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// Counts one that waits, for as long as it is kept.
    pub(crate) fn wait(self: &Arc<Self>) -> Waiting {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        Waiting(Arc::clone(self))
    }
}

pub(crate) struct Waiting(Arc<Pool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A chunk's bytes with their share of a budget.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) bytes: Bytes,
    pool: Arc<Pool>,
    /// Answers that have them.
    lent: AtomicUsize,
    _permit: OwnedSemaphorePermit,
}

impl Held {
    pub(crate) fn new(bytes: Bytes, pool: Arc<Pool>, permit: OwnedSemaphorePermit) -> Arc<Held> {
        Arc::new(Held { bytes, pool, lent: AtomicUsize::new(0), _permit: permit })
    }

    pub(crate) fn is_lent(&self) -> bool {
        self.lent.load(Ordering::Acquire) > 0
    }

    /// The bytes for an answer; `None` if half of the budget is in answers already, and this chunk is not. One call at a
    /// time.
    pub(crate) fn lend(self: &Arc<Self>) -> Option<Bytes> {
        let half = self.pool.chunks / 2;
        (self.is_lent() || self.pool.lent.load(Ordering::Acquire) < half).then(|| self.lend_beyond())
    }

    /// Where there is nothing but memory.
    pub(crate) fn lend_beyond(self: &Arc<Self>) -> Bytes {
        if self.lent.fetch_add(1, Ordering::AcqRel) == 0 {
            self.pool.lent.fetch_add(1, Ordering::AcqRel);
        }
        Bytes::from_owner(Lent(Arc::clone(self)))
    }
}

/// What an answer has of a chunk.
struct Lent(Arc<Held>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.0.lent.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.pool.lent.fetch_sub(1, Ordering::AcqRel);
            if self.0.pool.waiting() > 0 {
                self.0.pool.changed.notify_one();
            }
        }
    }
}
