//! Manifests, runs and sidecars of one partition, from memory or from the store.
//!
//! Owns: loading, checking by hash, the walk from a pointer to the entry that holds an offset.
//! Does not own: the cache and its budget (`remote_log`), which pointer counts. What is read here is immutable.

use std::sync::Arc;

use strandline_protocol::ids::{Offset, TopicPartition};
use strandline_protocol::remote_pointer::{ManifestRef, RemotePointer};
use thiserror::Error;

use crate::encoding::DecodeError;
use crate::keys::{Key, PartitionPrefix};
use crate::manifest::{Entry, Manifest, RunRef, Tombstone, decode_entry_run, decode_tombstone_run};
use crate::plan;
use crate::remote_log::{Metadata, RemoteLog};
use crate::sidecar::Sidecar;
use crate::store::{Store, StoreError};

/// Manifests, runs and sidecars larger than this are refused (bytes).
pub const METADATA_OBJECT_LIMIT: u64 = 256 << 20;

/// Why an object of metadata cannot be had.
#[derive(Debug, Clone, Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{key} is damaged in the store: {reason}")]
    Damaged { key: String, reason: DecodeError },
}

/// A pointer with the manifest that it names.
pub(crate) struct Current {
    pub(crate) pointer: RemotePointer,
    pub(crate) manifest: Option<Arc<Manifest>>,
}

/// One partition's folder in its store, with the caches of the process.
#[derive(Clone)]
pub(crate) struct Objects {
    pub(crate) log: Arc<RemoteLog>,
    pub(crate) store: Arc<Store>,
    pub(crate) tp: TopicPartition,
    pub(crate) prefix: PartitionPrefix,
}

impl Objects {
    pub(crate) async fn current(&self, pointer: RemotePointer) -> Result<Current, LoadError> {
        let manifest = match &pointer.manifest {
            Some(named) => Some(self.load_manifest(named).await?),
            None => None,
        };
        Ok(Current { pointer, manifest })
    }

    async fn load_manifest(&self, named: &ManifestRef) -> Result<Arc<Manifest>, LoadError> {
        if let Some(Metadata::Manifest(manifest)) = self.log.cached(&named.uuid) {
            return Ok(manifest);
        }
        let key = Key::Manifest { version: named.version, leader_epoch: named.leader_epoch, uuid: named.uuid };
        let manifest = self.load(&key, |bytes| Manifest::decode(bytes, &self.tp, named)).await?;
        self.log.metrics.manifests_loaded.add(1);
        let manifest = Arc::new(manifest);
        self.log.cache(named.uuid, Metadata::Manifest(Arc::clone(&manifest)));
        Ok(manifest)
    }

    pub(crate) async fn load_run(&self, run: &RunRef) -> Result<Arc<Vec<Entry>>, LoadError> {
        if let Some(Metadata::Run(entries)) = self.log.cached(&run.key.uuid()) {
            return Ok(entries);
        }
        let entries = Arc::new(self.load(&run.key, |bytes| decode_entry_run(bytes, run)).await?);
        self.log.cache(run.key.uuid(), Metadata::Run(Arc::clone(&entries)));
        Ok(entries)
    }

    pub(crate) async fn load_tombstones(&self, run: &RunRef) -> Result<Vec<Tombstone>, LoadError> {
        self.load(&run.key, |bytes| decode_tombstone_run(bytes, run)).await
    }

    pub(crate) async fn load_sidecar(&self, entry: &Entry) -> Result<Arc<Sidecar>, LoadError> {
        if let Some(Metadata::Sidecar(sidecar)) = self.log.cached(&entry.key.uuid) {
            return Ok(sidecar);
        }
        let name = self.prefix.full(&entry.key.sidecar());
        let sidecar = self.load_object(&name, |bytes| Sidecar::decode(bytes, entry.sidecar_hash)).await?;
        let sidecar = Arc::new(sidecar);
        self.log.cache(entry.key.uuid, Metadata::Sidecar(Arc::clone(&sidecar)));
        Ok(sidecar)
    }

    async fn load<T>(&self, key: &Key, decode: impl Fn(&[u8]) -> Result<T, DecodeError>) -> Result<T, LoadError> {
        let objects = key.objects();
        let name = objects.first().map(|object| self.prefix.full(object)).unwrap_or_default();
        self.load_object(&name, decode).await
    }

    /// What does not decode is fetched once more: a byte may have turned on the way.
    async fn load_object<T>(
        &self,
        name: &str,
        decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
    ) -> Result<T, LoadError> {
        let bytes = self.store.get(name, METADATA_OBJECT_LIMIT).await?;
        let reason = match decode(&bytes) {
            Ok(value) => return Ok(value),
            Err(reason) => reason,
        };
        self.log.metrics.corrupt_objects.add(1);
        tracing::warn!(key = name, %reason, "an object of the remote log is damaged, reading it again");
        let again = self.store.get(name, METADATA_OBJECT_LIMIT).await?;
        decode(&again).map_err(|reason| LoadError::Damaged { key: name.to_owned(), reason })
    }

    /// The live entry that holds `offset`, or the first one above it.
    pub(crate) async fn entry_from(&self, current: &Current, offset: Offset) -> Result<Option<Entry>, LoadError> {
        let Some(manifest) = &current.manifest else { return Ok(None) };
        let live = |entry: &Entry| !plan::is_dead(entry.last_offset, entry.added, &current.pointer, manifest.live_from);
        let first_run = manifest.entry_runs.partition_point(|run| run.last < offset);
        for run in &manifest.entry_runs[first_run..] {
            let entries = self.load_run(run).await?;
            let at = entries.partition_point(|entry| entry.last_offset < offset);
            if let Some(entry) = entries[at..].iter().find(|entry| live(entry)) {
                return Ok(Some(entry.clone()));
            }
        }
        let at = manifest.entries.partition_point(|entry| entry.last_offset < offset);
        Ok(manifest.entries[at..].iter().find(|entry| live(entry)).cloned())
    }

    /// The first live entry from `offset` on with a timestamp of at least `timestamp`.
    pub(crate) async fn entry_with_timestamp(
        &self,
        current: &Current,
        offset: Offset,
        timestamp: i64,
    ) -> Result<Option<Entry>, LoadError> {
        let Some(manifest) = &current.manifest else { return Ok(None) };
        let wanted = |entry: &Entry| {
            entry.last_offset >= offset
                && entry.max_timestamp >= timestamp
                && !plan::is_dead(entry.last_offset, entry.added, &current.pointer, manifest.live_from)
        };
        for run in manifest.entry_runs.iter().filter(|run| run.last >= offset && run.max_timestamp >= timestamp) {
            if let Some(entry) = self.load_run(run).await?.iter().find(|entry| wanted(entry)) {
                return Ok(Some(entry.clone()));
            }
        }
        Ok(manifest.entries.iter().find(|entry| wanted(entry)).cloned())
    }
}
