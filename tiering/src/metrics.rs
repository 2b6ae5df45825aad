//! Counters that the broker reads for its metrics page.
//!
//! Owns: the numbers. Does not own: their names in Prometheus, copy lag (the broker's, which knows the local log).

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Of one process, all partitions together. Bytes are bytes of the store's objects.
#[derive(Debug, Default)]
pub struct Metrics {
    pub copy_bytes: Counter,
    pub copy_requests: Counter,
    pub copy_errors: Counter,
    /// Reads that a caller asked for, and the record bytes handed out.
    pub fetch_requests: Counter,
    pub fetch_bytes: Counter,
    pub fetch_errors: Counter,
    pub delete_requests: Counter,
    pub delete_errors: Counter,
    /// Chunk bytes that came from the store (against `fetch_bytes`: read amplification).
    pub store_chunk_bytes: Counter,
    pub store_chunk_gets: Counter,
    /// Calls to the store, tries included, and how they went wrong.
    pub store_calls: Counter,
    pub store_retries: Counter,
    pub store_timeouts: Counter,
    pub chunk_hits: Counter,
    pub chunk_misses: Counter,
    /// Chunk files that left the cache.
    pub chunks_evicted: Counter,
    /// Chunks that were read and dropped from memory without a file.
    pub chunks_released: Counter,
    pub chunk_files_written: Counter,
    /// Chunk files that were gone or damaged when they were opened again.
    pub chunk_files_lost: Counter,
    /// Objects whose hash was wrong when first read.
    pub corrupt_objects: Counter,
    pub manifests_loaded: Counter,
    pub advances_refused: Counter,
    pub advances_unknown: Counter,
}
