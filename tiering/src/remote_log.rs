//! What all partitions of a process share: stores, caches, threads, limits, counters.
//!
//! Owns: the objects below, and every budget of the tier. Does not own: anything of one partition ([`RemotePartition`]).

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use strandline_protocol::ids::TopicPartition;
use thiserror::Error;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::buffers::Buffers;
use crate::chunks::ChunkCache;
use crate::faulty::FaultyStore;
use crate::io_pool::IoPool;
use crate::keys::PartitionPrefix;
use crate::lru::Lru;
use crate::manifest::{Entry, Manifest};
use crate::metrics::Metrics;
use crate::objects::Objects;
use crate::partition::RemotePartition;
use crate::service::PointerService;
use crate::sidecar::{CHUNK_BYTES, Sidecar};
use crate::store::{Store, StoreLimits, StoreOptions, StoreUrlError};
use crate::streams::Streams;

/// Walks of read-ahead across segments that may be under way at once; a reader in want of one reads without.
const READ_AHEAD_WALKS: usize = 4;

/// Settings of the whole tier. Sizes are bytes.
#[derive(Debug, Clone)]
pub struct RemoteLogConfig {
    pub cluster_id: String,
    pub chunk_cache_dir: PathBuf,
    /// Chunk files on local disk.
    pub chunk_cache_bytes: u64,
    /// Chunks in memory: on their way, or being read; it stays filled with the last of them. A quarter is for demand, the
    /// rest for read-ahead.
    pub chunk_memory_bytes: u64,
    /// Manifests, runs and sidecars in memory.
    pub metadata_cache_bytes: u64,
    /// What one sequential reader is to be given, per second: with the measured latency it says how far to read ahead.
    pub read_rate_bytes: u64,
    /// The most chunks that one reader may be ahead.
    pub read_ahead_chunks: u64,
    /// For reads of segments being copied and writes of chunk files. 0 blocks the callers: for tests that stop the clock.
    pub io_threads: usize,
    pub concurrent_uploads: usize,
    /// Entries that stay open in a manifest, 1 to 1,024; more are sealed into index objects of so many.
    pub manifest_run_len: usize,
    pub store_limits: StoreLimits,
    /// For the jitter of pauses; different on every process.
    pub seed: u64,
}

impl RemoteLogConfig {
    pub fn new(cluster_id: &str, chunk_cache_dir: PathBuf, seed: u64) -> RemoteLogConfig {
        RemoteLogConfig {
            cluster_id: cluster_id.to_owned(),
            chunk_cache_dir,
            chunk_cache_bytes: 1 << 30,
            chunk_memory_bytes: 256 << 20,
            metadata_cache_bytes: 64 << 20,
            read_rate_bytes: 1 << 30,
            read_ahead_chunks: 16,
            io_threads: 4,
            concurrent_uploads: 4,
            manifest_run_len: crate::manifest::RUN_LEN,
            store_limits: StoreLimits::default(),
            seed,
        }
    }
}

/// Why the tier cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("cannot use the chunk cache directory {dir}: {error}")]
    ChunkCache { dir: PathBuf, error: io::Error },
    #[error("cannot start the tier's I/O threads: {0}")]
    Threads(io::Error),
}

/// Chunks that readers asked for, read-ahead left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReaderLoad {
    /// Chunks that wait for memory.
    pub waiting: usize,
    /// Chunks that memory has room for now, of `budget`.
    pub free: usize,
    pub budget: usize,
}

/// Something read from the store that is small and immutable.
#[derive(Clone)]
pub(crate) enum Metadata {
    Manifest(Arc<Manifest>),
    Run(Arc<Vec<Entry>>),
    Sidecar(Arc<Sidecar>),
}

pub struct RemoteLog {
    pub(crate) config: RemoteLogConfig,
    pub(crate) service: Arc<dyn PointerService>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) io: Arc<IoPool>,
    pub(crate) chunks: Arc<ChunkCache>,
    pub(crate) buffers: Arc<Buffers>,
    pub(crate) metadata: Mutex<Lru<Uuid, Metadata>>,
    pub(crate) streams: Mutex<Streams>,
    pub(crate) uploads: Semaphore,
    /// Walks of read-ahead across segments under way.
    pub(crate) read_ahead_walks: Arc<Semaphore>,
    pub(crate) new_uuid: Box<dyn Fn() -> Uuid + Send + Sync>,
    stores: Mutex<HashMap<String, Arc<Store>>>,
    /// Moving average of a chunk's GET, microseconds.
    chunk_latency_us: AtomicU64,
}

impl fmt::Debug for RemoteLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteLog").field("config", &self.config).finish_non_exhaustive()
    }
}

impl RemoteLog {
    /// `new_uuid` must never return the same value twice, in any process of the cluster.
    pub fn start(
        config: RemoteLogConfig,
        service: Arc<dyn PointerService>,
        new_uuid: impl Fn() -> Uuid + Send + Sync + 'static,
    ) -> Result<Arc<RemoteLog>, StartError> {
        let metrics = Arc::new(Metrics::default());
        let io = Arc::new(IoPool::start(config.io_threads).map_err(StartError::Threads)?);
        let chunks = ChunkCache::open(
            &config.chunk_cache_dir,
            config.chunk_cache_bytes,
            config.chunk_memory_bytes,
            Arc::clone(&io),
            Arc::clone(&metrics),
        )
        .map_err(|error| StartError::ChunkCache { dir: config.chunk_cache_dir.clone(), error })?;
        Ok(Arc::new(RemoteLog {
            metadata: Mutex::new(Lru::new(config.metadata_cache_bytes)),
            streams: Mutex::new(Streams::default()),
            uploads: Semaphore::new(config.concurrent_uploads.max(1)),
            read_ahead_walks: Arc::new(Semaphore::new(READ_AHEAD_WALKS)),
            new_uuid: Box::new(new_uuid),
            stores: Mutex::new(HashMap::new()),
            chunk_latency_us: AtomicU64::new(0),
            chunks: Arc::new(chunks),
            buffers: Arc::default(),
            config,
            service,
            metrics,
            io,
        }))
    }

    /// The store of this URL; opened once per process.
    pub fn store(&self, url: &str, options: &StoreOptions) -> Result<Arc<Store>, StoreUrlError> {
        let mut stores = self.stores.lock();
        if let Some(store) = stores.get(url) {
            return Ok(Arc::clone(store));
        }
        let (limits, metrics) = (self.config.store_limits, Arc::clone(&self.metrics));
        let store = Arc::new(Store::open(url, options, limits, metrics, self.config.seed)?);
        stores.insert(url.to_owned(), Arc::clone(&store));
        Ok(store)
    }

    /// A simulated store in place of the one of this URL.
    pub fn simulated_store(&self, url: &str, store: Arc<FaultyStore>) -> Arc<Store> {
        let (limits, metrics) = (self.config.store_limits, Arc::clone(&self.metrics));
        Arc::new(Store::new(store, "", url, limits, metrics, self.config.seed))
    }

    /// The door for one partition. Cheap: it loads nothing and starts nothing.
    pub fn partition(self: &Arc<Self>, store: Arc<Store>, topic_name: &str, tp: TopicPartition) -> RemotePartition {
        let prefix = PartitionPrefix::new(&self.config.cluster_id, topic_name, &tp);
        RemotePartition::new(Objects { log: Arc::clone(self), store, tp, prefix })
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Bytes of chunk files on local disk.
    pub fn chunk_cache_bytes(&self) -> u64 {
        self.chunks.bytes()
    }

    /// How busy the fetching of chunks that readers asked for is.
    pub fn reader_load(&self) -> ReaderLoad {
        self.chunks.reader_load()
    }

    pub(crate) fn cached(&self, uuid: &Uuid) -> Option<Metadata> {
        self.metadata.lock().get(uuid).cloned()
    }

    pub(crate) fn cache(&self, uuid: Uuid, value: Metadata) {
        let weight = match &value {
            Metadata::Manifest(manifest) => manifest.weight(),
            Metadata::Run(entries) => (entries.len() * (size_of::<Entry>() + 32)) as u64,
            Metadata::Sidecar(sidecar) => sidecar.weight(),
        };
        drop(self.metadata.lock().insert(uuid, value, weight));
    }

    pub(crate) fn note_chunk_latency(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let old = self.chunk_latency_us.load(Ordering::Relaxed);
        let new = if old == 0 { us } else { (old * 7 + us) / 8 };
        self.chunk_latency_us.store(new, Ordering::Relaxed);
    }

    /// Little's law: chunks that must be under way to give one reader `read_rate_bytes`.
    pub(crate) fn read_ahead_depth(&self) -> u64 {
        let us = self.chunk_latency_us.load(Ordering::Relaxed);
        let bytes_under_way = u128::from(self.config.read_rate_bytes) * u128::from(us) / 1_000_000;
        let depth = u64::try_from(bytes_under_way.div_ceil(u128::from(CHUNK_BYTES))).unwrap_or(u64::MAX);
        depth.max(2).min(self.config.read_ahead_chunks)
    }
}
