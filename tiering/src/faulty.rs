//! A store that goes wrong in every way that a real one does, by a seed.
//!
//! For tests and simulations. Owns: which call goes wrong and how. Does not own: what is in the store (the inner one's),
//! deadlines (the caller's).
//! Each method is written out, so that a new one of the trait cannot pass by unharmed.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};
use parking_lot::Mutex;

/// How one call goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An error, and nothing happened.
    BeforeEffect,
    /// An error, and all of it happened.
    AfterEffect,
    /// No answer; it happens later, when nobody waits any more.
    Late,
    /// No answer ever, and nothing happens.
    Hangs,
    /// The store is busy (503).
    Busy,
    /// A body ends early, without an error.
    Truncated,
    /// One bit of a body is wrong.
    Flipped,
}

/// Every way.
pub const FAULTS: [Fault; 7] =
    [Fault::BeforeEffect, Fault::AfterEffect, Fault::Late, Fault::Hangs, Fault::Busy, Fault::Truncated, Fault::Flipped];

/// How much later a late call happens.
const LATE: Duration = Duration::from_secs(7);

struct Plan {
    random: u64,
    percent: u64,
    faults: Vec<Fault>,
}

/// A store whose calls go wrong. Clones share everything.
#[derive(Clone)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    plan: Arc<Mutex<Plan>>,
    /// How far away it is.
    pub distance: Arc<Mutex<Distance>>,
}

/// How far away the store is, for reads; and how many of them were under way at once.
#[derive(Debug, Default)]
pub struct Distance {
    /// Until the first byte of a read.
    pub first_byte: Duration,
    /// Of one request; 0 = without bound.
    pub bytes_per_second: u64,
    /// Reads under way, and the most there were at once.
    pub under_way: usize,
    pub most_under_way: usize,
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

fn failed(what: &'static str) -> Error {
    Error::Generic { store: "faulty", source: what.into() }
}

impl FaultyStore {
    /// Nothing goes wrong until it is told to.
    pub fn new(inner: Arc<dyn ObjectStore>, seed: u64) -> Arc<FaultyStore> {
        let plan = Plan { random: seed, percent: 0, faults: Vec::new() };
        Arc::new(FaultyStore { inner, plan: Arc::new(Mutex::new(plan)), distance: Arc::default() })
    }

    /// An empty store in memory.
    pub fn in_memory(seed: u64) -> Arc<FaultyStore> {
        FaultyStore::new(Arc::new(object_store::memory::InMemory::new()), seed)
    }

    /// Another way to the same objects, which goes wrong on its own.
    pub fn beside(&self, seed: u64) -> Arc<FaultyStore> {
        FaultyStore::new(Arc::clone(&self.inner), seed)
    }

    /// So many calls of a hundred go wrong, in any way.
    pub fn all(&self, percent: u64) {
        let mut plan = self.plan.lock();
        (plan.percent, plan.faults) = (percent, FAULTS.to_vec());
    }

    /// So many calls of a hundred go wrong, in this way.
    pub fn only(&self, fault: Fault, percent: u64) {
        let mut plan = self.plan.lock();
        (plan.percent, plan.faults) = (percent, vec![fault]);
    }

    fn draw(&self) -> Option<Fault> {
        let mut plan = self.plan.lock();
        let mut below = |n: u64| {
            plan.random = plan.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (plan.random ^ (plan.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            ((mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 33) % n
        };
        let (hit, which) = (below(100), below(FAULTS.len() as u64));
        (hit < plan.percent).then(|| plan.faults[which as usize % plan.faults.len()])
    }

    /// Somewhere in a body, another place for each call.
    fn somewhere(&self) -> u64 {
        self.plan.lock().random.wrapping_mul(0x94d0_49bb_1331_11eb) >> 32
    }

    async fn travel(&self, bytes: u64) {
        let time = {
            let mut distance = self.distance.lock();
            distance.under_way += 1;
            distance.most_under_way = distance.most_under_way.max(distance.under_way);
            let rate = distance.bytes_per_second;
            distance.first_byte
                + if rate == 0 { Duration::ZERO } else { Duration::from_secs_f64(bytes as f64 / rate as f64) }
        };
        if !time.is_zero() {
            tokio::time::sleep(time).await;
        }
        self.distance.lock().under_way -= 1;
    }

    /// An effect without a body that comes back.
    async fn act<T: Send + 'static>(&self, effect: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        match self.draw() {
            None | Some(Fault::Truncated | Fault::Flipped) => effect.await,
            Some(Fault::BeforeEffect) => Err(failed("lost before it happened")),
            Some(Fault::AfterEffect) => {
                effect.await?;
                Err(failed("lost after it happened"))
            }
            Some(Fault::Late) => {
                tokio::spawn(async move {
                    tokio::time::sleep(LATE).await;
                    effect.await.map(drop)
                });
                std::future::pending().await
            }
            Some(Fault::Hangs) => std::future::pending().await,
            Some(Fault::Busy) => Err(failed("503 Slow Down")),
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (inner, location) = (Arc::clone(&self.inner), location.clone());
        self.act(async move { inner.put_opts(&location, payload, options).await }).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let (inner, location) = (Arc::clone(&self.inner), location.clone());
        let upload = self.act(async move { inner.put_multipart_opts(&location, options).await }).await?;
        Ok(Box::new(FaultyUpload { inner: Arc::new(tokio::sync::Mutex::new(upload)), store: self.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let head = options.head;
        let fault = self.draw();
        match fault {
            Some(Fault::BeforeEffect | Fault::AfterEffect) => return Err(failed("lost")),
            Some(Fault::Busy) => return Err(failed("503 Slow Down")),
            Some(Fault::Hangs | Fault::Late) => std::future::pending().await,
            Some(Fault::Truncated | Fault::Flipped) | None => {}
        }
        let result = self.inner.get_opts(location, options).await?;
        self.travel(result.range.end - result.range.start).await;
        let Some(fault) = fault.filter(|_| !head) else { return Ok(result) };
        let (meta, range) = (result.meta.clone(), result.range.clone());
        let (attributes, extensions) = (result.attributes.clone(), result.extensions.clone());
        let body = spoil(fault, result.bytes().await?, self.somewhere());
        let payload = GetResultPayload::Stream(futures_util::stream::once(async { Ok(body) }).boxed());
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let (inner, location, ranges) = (Arc::clone(&self.inner), location.clone(), ranges.to_vec());
        self.act(async move { inner.get_ranges(&location, &ranges).await }).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .then(move |location| {
                let store = store.clone();
                async move {
                    let (location, inner) = (location?, Arc::clone(&store.inner));
                    let gone = location.clone();
                    store.act(async move { inner.delete(&gone).await }).await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        spoil_list(self.draw(), self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        spoil_list(self.draw(), self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let (inner, prefix) = (Arc::clone(&self.inner), prefix.cloned());
        self.act(async move { inner.list_with_delimiter(prefix.as_ref()).await }).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let (inner, from, to) = (Arc::clone(&self.inner), from.clone(), to.clone());
        self.act(async move { inner.copy_opts(&from, &to, options).await }).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let (inner, from, to) = (Arc::clone(&self.inner), from.clone(), to.clone());
        self.act(async move { inner.rename_opts(&from, &to, options).await }).await
    }
}

fn spoil(fault: Fault, body: Bytes, somewhere: u64) -> Bytes {
    let mut body = body.to_vec();
    let middle = body.len() / 2;
    let somewhere = usize::try_from(somewhere % (body.len() as u64).max(1)).unwrap_or(middle);
    match (fault, body.get_mut(somewhere)) {
        (Fault::Truncated, _) => body.truncate(middle),
        (Fault::Flipped, Some(byte)) => *byte ^= 0x10,
        _ => {}
    }
    Bytes::from(body)
}

/// A list either is told to the end, or fails on the way: no store ends one early without an error.
fn spoil_list(
    fault: Option<Fault>,
    list: BoxStream<'static, Result<ObjectMeta>>,
) -> BoxStream<'static, Result<ObjectMeta>> {
    match fault {
        None | Some(Fault::Flipped) => list,
        Some(Fault::Hangs | Fault::Late) => futures_util::stream::pending().boxed(),
        Some(_) => list.take(3).chain(futures_util::stream::once(async { Err(failed("the list broke off")) })).boxed(),
    }
}

#[derive(Debug)]
struct FaultyUpload {
    inner: Arc<tokio::sync::Mutex<Box<dyn MultipartUpload>>>,
    store: FaultyStore,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        // The number of a part is given when this is called, not when it is waited for.
        let part = self.inner.try_lock().expect("parts are begun one after the other").put_part(data);
        let store = self.store.clone();
        async move { store.act(part).await }.boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let inner = Arc::clone(&self.inner);
        self.store.act(async move { inner.lock().await.complete().await }).await
    }

    async fn abort(&mut self) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        self.store.act(async move { inner.lock().await.abort().await }).await
    }
}
