//! The bucket: a map in memory whose calls take effect, and are answered, when the simulation says so.
//!
//! Owns the objects and the calls under way. A call has two moments, its effect and its answer; either may never come, and an
//! effect may come when its caller is long dead. Effects are linearizable.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use parking_lot::Mutex;

use super::answer::Slot;

/// What a call does.
#[derive(Debug, Clone)]
pub enum Op {
    Put { path: Path, payload: PutPayload },
    Get { path: Path, options: GetOptions },
    Delete { path: Path },
    List { prefix: Option<Path> },
}

impl Op {
    pub fn name(&self) -> &'static str {
        match self {
            Op::Put { .. } => "put",
            Op::Get { options, .. } if options.head => "head",
            Op::Get { .. } => "get",
            Op::Delete { .. } => "delete",
            Op::List { .. } => "list",
        }
    }

    /// Whether it changes nothing.
    pub fn reads(&self) -> bool {
        matches!(self, Op::Get { .. } | Op::List { .. })
    }

    /// The key of a put or a deletion.
    pub fn changed(&self) -> Option<&Path> {
        match self {
            Op::Put { path, .. } | Op::Delete { path } => Some(path),
            _ => None,
        }
    }
}

/// What it came to.
pub enum Done {
    Put(PutResult),
    Got(Box<GetResult>),
    Deleted,
    Listed(Vec<ObjectMeta>),
}

/// A call that the simulation has to decide about.
pub struct Call {
    pub op: Op,
    pub slot: Slot<Result<Done>>,
}

/// The bucket as one node sees it: its calls. The objects are the world's.
#[derive(Clone, Default)]
pub struct SimStore {
    calls: Arc<Mutex<Vec<Call>>>,
}

impl fmt::Debug for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimStore")
    }
}

impl fmt::Display for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated store")
    }
}

/// An error of the store that says nothing of the effect.
pub fn failure(what: &'static str) -> Error {
    Error::Generic { store: "simulated", source: what.into() }
}

fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("a map in memory answers at once")
}

impl SimStore {
    /// Calls that were made since the last look.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut *self.calls.lock())
    }

    async fn call(&self, op: Op) -> Result<Done> {
        let slot = Slot::default();
        self.calls.lock().push(Call { op, slot: slot.clone() });
        slot.await
    }
}

/// Carries a call out on the objects.
pub fn carry_out(objects: &InMemory, op: &Op) -> Result<Done> {
    match op.clone() {
        Op::Put { path, payload } => now(objects.put_opts(&path, payload, PutOptions::default())).map(Done::Put),
        Op::Get { path, options } => now(objects.get_opts(&path, options)).map(|got| Done::Got(Box::new(got))),
        Op::Delete { path } => now(objects.delete(&path)).map(|()| Done::Deleted),
        Op::List { prefix } => {
            let listed: Vec<Result<ObjectMeta>> = now(objects.list(prefix.as_ref()).collect());
            listed.into_iter().collect::<Result<_>>().map(Done::Listed)
        }
    }
}

/// The bytes of an object, for the oracle.
pub fn object(objects: &InMemory, key: &str) -> Option<Bytes> {
    let got = now(objects.get_opts(&Path::from(key), GetOptions::default())).ok()?;
    now(got.bytes()).ok()
}

fn unexpected() -> Error {
    failure("another answer than was asked for")
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for SimStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, _: PutOptions) -> Result<PutResult> {
        match self.call(Op::Put { path: location.clone(), payload }).await? {
            Done::Put(result) => Ok(result),
            _ => Err(unexpected()),
        }
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(failure("segments here are far smaller than a part"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match self.call(Op::Get { path: location.clone(), options }).await? {
            Done::Got(result) => Ok(*result),
            _ => Err(unexpected()),
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let whole = self.get_opts(location, GetOptions::default()).await?.bytes().await?;
        Ok(ranges.iter().map(|range| whole.slice(range.start as usize..range.end as usize)).collect())
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .then(move |location| {
                let store = store.clone();
                async move {
                    let path = location?;
                    store.call(Op::Delete { path: path.clone() }).await?;
                    Ok(path)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            match store.call(Op::List { prefix }).await {
                Ok(Done::Listed(objects)) => objects.into_iter().map(Ok).collect(),
                Ok(_) => vec![Err(unexpected())],
                Err(error) => vec![Err(error)],
            }
        };
        listed.map(futures_util::stream::iter).flatten_stream().boxed()
    }

    fn list_with_offset(&self, prefix: Option<&Path>, _: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.list(prefix)
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(failure("nothing here lists folders"))
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(failure("nothing here copies objects"))
    }

    async fn rename_opts(&self, _: &Path, _: &Path, _: RenameOptions) -> Result<()> {
        Err(failure("nothing here renames objects"))
    }
}
