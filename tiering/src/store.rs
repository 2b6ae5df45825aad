//! The object store: deadlines, bounded tries, clear errors.
//!
//! Owns: every call to `object_store`. Does not own: keys, what objects mean.
//! A put overwrites: keys carry a uuid of this attempt, so that trying again writes the same bytes and no conditional put
//! is needed. Every call ends: a try by its deadline, the call by the number of tries. An error says nothing about
//! whether the effect happened.

mod leftovers;
mod probe;
mod url;

use std::future::Future;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, GetResultPayload, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions,
    PutOptions, PutPayload,
};
use thiserror::Error;

pub use probe::{CLOCK_SKEW_MAX_MS, LATENCY_GETS, ProbeLatency, ProbeReport, ProbeStep};
pub use url::{StoreOptions, StoreUrlError};

use crate::buffers::Buffers;
use crate::encoding::hash;
use crate::metrics::Metrics;

/// Time and tries that one call to the store may take.
#[derive(Debug, Clone, Copy)]
pub struct StoreLimits {
    /// Per try of a small call, and the base of a large one.
    pub deadline: Duration,
    /// Added to the deadline of a try that moves bytes, for each MiB.
    pub deadline_per_mib: Duration,
    pub tries: u32,
    /// The first pause; each later one is twice as long, half of it at random.
    pub backoff: Duration,
    pub backoff_max: Duration,
}

impl Default for StoreLimits {
    fn default() -> Self {
        StoreLimits {
            deadline: Duration::from_secs(10),
            deadline_per_mib: Duration::from_secs(2),
            tries: 5,
            backoff: Duration::from_millis(50),
            backoff_max: Duration::from_secs(5),
        }
    }
}

/// A LIST has the deadline of a call that moves so many bytes: it may be long. Each of its pages has the deadline of a small call: a
/// store that has stopped answering is not waited for as if it were telling a million keys.
const LIST_BYTES: u64 = 64 << 20;

/// Deletions of one pass under way at once.
const DELETES_IN_FLIGHT: usize = 16;

/// Why a call to the store failed after all its tries.
#[derive(Debug, Clone, Error)]
pub enum StoreError {
    #[error("{key} is not in the bucket")]
    NotFound { key: String },
    #[error("the store denies {call} of {key}: check the credentials and the bucket's policy ({reason})")]
    Denied { call: &'static str, key: String, reason: String },
    #[error("{call} of {key} was not answered within {deadline:?}")]
    TimedOut { call: &'static str, key: String, deadline: Duration },
    #[error("{call} of {key} failed: {reason}")]
    Failed { call: &'static str, key: String, reason: String },
    #[error("{key} has {found} bytes in the store, {expected} were expected")]
    WrongLength { key: String, found: u64, expected: u64 },
}

impl StoreError {
    /// The same call may succeed later.
    pub fn retryable(&self) -> bool {
        matches!(self, StoreError::TimedOut { .. } | StoreError::Failed { .. } | StoreError::WrongLength { .. })
    }

    fn of(call: &'static str, key: &str, error: object_store::Error) -> StoreError {
        let key = key.to_owned();
        match error {
            object_store::Error::NotFound { .. } => StoreError::NotFound { key },
            object_store::Error::PermissionDenied { source, .. }
            | object_store::Error::Unauthenticated { source, .. } => {
                StoreError::Denied { call, key, reason: source.to_string() }
            }
            other => StoreError::Failed { call, key, reason: other.to_string() },
        }
    }
}

/// One object as a LIST tells it; the key is relative to the store's prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub key: String,
    pub size_bytes: u64,
}

fn silent(deadline: Duration) -> object_store::Error {
    object_store::Error::Generic {
        store: "list",
        source: format!("the next page did not come within {deadline:?}").into(),
    }
}

fn not_whole(came: usize, wanted: u64) -> object_store::Error {
    object_store::Error::Generic { store: "ranged get", source: format!("{came} of {wanted} bytes came").into() }
}

/// A bucket and a prefix in it.
#[derive(Debug)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    prefix: Path,
    /// Of a `file://` store, whose LIST hides the temporary files of uploads.
    directory: Option<PathBuf>,
    /// For messages: the URL without secrets.
    name: String,
    limits: StoreLimits,
    metrics: Arc<Metrics>,
    random: AtomicU64,
}

impl Store {
    /// `seed` feeds the jitter of the pauses between tries.
    pub fn new(
        inner: Arc<dyn ObjectStore>,
        prefix: &str,
        name: &str,
        limits: StoreLimits,
        metrics: Arc<Metrics>,
        seed: u64,
    ) -> Store {
        let (prefix, name) = (Path::from(prefix), name.to_owned());
        Store { inner, prefix, directory: None, name, limits, metrics, random: AtomicU64::new(seed) }
    }

    /// The URL that the operator gave.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn path(&self, key: &str) -> Path {
        if self.prefix.as_ref().is_empty() { Path::from(key) } else { Path::from(format!("{}/{key}", self.prefix)) }
    }

    fn deadline(&self, bytes: u64) -> Duration {
        let mib = u32::try_from(bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX);
        self.limits.deadline.saturating_add(self.limits.deadline_per_mib.saturating_mul(mib))
    }

    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<(), StoreError> {
        let path = self.path(key);
        let len = bytes.len() as u64;
        self.tries("put", key, len, || async {
            let payload = PutPayload::from_bytes(bytes.clone());
            self.inner.put_opts(&path, payload, PutOptions::default()).await.map(drop)
        })
        .await?;
        self.check_len(key, len).await
    }

    /// Puts `bytes` under a key that must be free; false = something is there already, perhaps from a try whose answer was lost.
    /// Never replaces anything (S3: `If-None-Match`; HDFS and directories: a rename or a link that does not overwrite).
    pub async fn create(&self, key: &str, bytes: Bytes) -> Result<bool, StoreError> {
        let path = self.path(key);
        let len = bytes.len() as u64;
        let created = self
            .tries("create", key, len, || async {
                let payload = PutPayload::from_bytes(bytes.clone());
                let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
                match self.inner.put_opts(&path, payload, options).await {
                    Ok(_) => Ok(true),
                    Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                        Ok(false)
                    }
                    Err(error) => Err(error),
                }
            })
            .await?;
        if created {
            self.check_len(key, len).await?;
        }
        Ok(created)
    }

    /// HEAD, and compare: what a put left, however it was answered.
    pub async fn check_len(&self, key: &str, expected: u64) -> Result<(), StoreError> {
        let path = self.path(key);
        let found = self.tries("head", key, 0, || async { self.inner.head(&path).await }).await?.size;
        if found != expected {
            return Err(StoreError::WrongLength { key: key.to_owned(), found, expected });
        }
        Ok(())
    }

    /// Exactly this range, or an error.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let path = self.path(key);
        let len = range.end - range.start;
        let bytes = self
            .tries("get", key, len, || async {
                let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
                let bytes = self.inner.get_opts(&path, options).await?.bytes().await?;
                if bytes.len() as u64 == len {
                    return Ok(bytes);
                }
                Err(not_whole(bytes.len(), len))
            })
            .await?;
        Ok(bytes)
    }

    /// [`Store::get_range`] into one of `buffers`, with the hash of what came.
    pub(crate) async fn get_range_hashed(
        &self,
        key: &str,
        range: Range<u64>,
        buffers: &Arc<Buffers>,
    ) -> Result<(Bytes, u64), StoreError> {
        let path = self.path(key);
        let len = range.end - range.start;
        self.tries("get", key, len, || async {
            let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
            let result = self.inner.get_opts(&path, options).await?;
            if !matches!(result.payload, GetResultPayload::Stream(_)) {
                // A local file comes in one piece.
                let bytes = result.bytes().await?;
                let hash = hash(&bytes);
                return if bytes.len() as u64 == len { Ok((bytes, hash)) } else { Err(not_whole(bytes.len(), len)) };
            }
            let mut filling = buffers.take(usize::try_from(len).unwrap_or(usize::MAX));
            let mut pieces = result.into_stream();
            while let Some(piece) = pieces.next().await.transpose()? {
                if !filling.push(&piece) {
                    return Err(object_store::Error::Generic { store: "ranged get", source: "too much came".into() });
                }
            }
            filling.finish().map_err(|came| not_whole(came, len))
        })
        .await
    }

    /// The whole object, if it has at most `limit` bytes.
    pub async fn get(&self, key: &str, limit: u64) -> Result<Bytes, StoreError> {
        let path = self.path(key);
        let bytes = self
            .tries("get", key, 1 << 20, || async {
                let result = self.inner.get_opts(&path, GetOptions::default()).await?;
                let size = result.meta.size;
                if size > limit {
                    return Ok(Err(size));
                }
                let bytes = result.bytes().await?;
                if bytes.len() as u64 == size {
                    return Ok(Ok(bytes));
                }
                let source = format!("{} of {size} bytes came", bytes.len()).into();
                Err(object_store::Error::Generic { store: "get", source })
            })
            .await?;
        bytes.map_err(|found| StoreError::WrongLength { key: key.to_owned(), found, expected: limit })
    }

    /// Deleted, or not there: both are success.
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.metrics.delete_requests.add(1);
        let path = self.path(key);
        match self.tries("delete", key, 0, || async { self.inner.delete(&path).await }).await {
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => {
                self.metrics.delete_errors.add(1);
                Err(error)
            }
        }
    }

    /// Deletes all of these, several at a time. After an error some may be left; a second time is as good as the first.
    pub async fn delete_each(&self, keys: Vec<String>) -> Result<(), StoreError> {
        let deletes = futures_util::stream::iter(keys).map(|key| async move { self.delete(&key).await });
        let mut results = deletes.buffer_unordered(DELETES_IN_FLIGHT);
        while let Some(result) = results.next().await {
            result?;
        }
        Ok(())
    }

    /// At most `limit` objects below `folder` whose key `matches`. Never asked by a reader or a writer of the log.
    pub async fn list_matching(
        &self,
        folder: &str,
        limit: usize,
        matches: impl Fn(&str) -> bool,
    ) -> Result<Vec<Listed>, StoreError> {
        let path = self.path(folder);
        let skip = if self.prefix.as_ref().is_empty() { 0 } else { self.prefix.as_ref().len() + 1 };
        self.tries("list", folder, LIST_BYTES, || async {
            let mut objects = self.inner.list(Some(&path));
            let mut found = Vec::new();
            while found.len() < limit {
                let next = tokio::time::timeout(self.limits.deadline, objects.next()).await;
                match next.map_err(|_| silent(self.limits.deadline))? {
                    Some(Ok(meta)) => {
                        let key = meta.location.as_ref().get(skip..).unwrap_or_default();
                        if matches(key) {
                            found.push(Listed { key: key.to_owned(), size_bytes: meta.size });
                        }
                    }
                    Some(Err(object_store::Error::NotFound { .. })) | None => break,
                    Some(Err(error)) => return Err(error),
                }
            }
            Ok(found)
        })
        .await
    }

    /// Begins a multipart upload. The client's own tries cover its parts; a lost upload is begun again under a new key.
    pub(crate) async fn begin_multipart(&self, key: &str) -> Result<Box<dyn MultipartUpload>, StoreError> {
        let path = self.path(key);
        let options = PutMultipartOptions::default;
        self.tries("begin upload", key, 0, || async { self.inner.put_multipart_opts(&path, options()).await }).await
    }

    /// One try with the deadline for `bytes`.
    pub(crate) async fn once<T>(
        &self,
        call: &'static str,
        key: &str,
        bytes: u64,
        future: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, StoreError> {
        let deadline = self.deadline(bytes);
        self.metrics.store_calls.add(1);
        match tokio::time::timeout(deadline, future).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(StoreError::of(call, key, error)),
            Err(_) => {
                self.metrics.store_timeouts.add(1);
                Err(StoreError::TimedOut { call, key: key.to_owned(), deadline })
            }
        }
    }

    async fn tries<T, F: Future<Output = object_store::Result<T>>>(
        &self,
        call: &'static str,
        key: &str,
        bytes: u64,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, StoreError> {
        let mut tried = 1;
        loop {
            match self.once(call, key, bytes, attempt()).await {
                Err(error) if error.retryable() && tried < self.limits.tries => {
                    tracing::debug!(bucket = %self.name, %error, tried, "a call to the store failed, trying again");
                    self.metrics.store_retries.add(1);
                    tokio::time::sleep(self.pause(tried)).await;
                    tried += 1;
                }
                result => return result,
            }
        }
    }

    /// Between half and all of `backoff * 2^(tried - 1)`, at most `backoff_max`.
    fn pause(&self, tried: u32) -> Duration {
        let full = self.limits.backoff.saturating_mul(1 << (tried - 1).min(16)).min(self.limits.backoff_max);
        let step = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let mixed = (step ^ (step >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let share = f64::from((mixed >> 40) as u32) / f64::from(1 << 24);
        full.mul_f64(0.5 + share / 2.0)
    }
}
