//! openraft's state machine: the metadata image, its updates and its snapshots.
//!
//! Owns the applied image, the file `snapshot` (`docs/formats/controller-log.md`) and the channel of updates. Updates
//! leave in log order; a slow reader holds application back, it loses nothing.
//! A crash leaves the last complete snapshot: a new one replaces it by rename.

use std::io::{self, Cursor};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError};
use strandline_disk::Disk;
use tokio::sync::mpsc;

use super::log_file::crc32c;
use super::types::{
    Applied, Entry, LogId, NodeId, SnapshotMeta, StorageError, Stored, TypeConfig, get_snapshot_meta, put_snapshot_meta,
};
use crate::encoding::{DecodeError, Get, Put};
use crate::image::MetadataImage;
use crate::record::{MetadataRecord, decode_records, encode_records};

const MAGIC: &[u8; 8] = b"SLSNAP\0\x01";
/// A snapshot is read whole; larger ones are refused. Bytes.
const SNAPSHOT_BYTES_MAX: u64 = 4 << 30;
/// Records per chunk of a snapshot.
const CHUNK_RECORDS: usize = 10_000;

/// One step of the image, in log order.
#[derive(Debug, Clone)]
pub struct ImageUpdate {
    /// The image after the step.
    pub image: Arc<MetadataImage>,
    /// What was replayed; empty if the image was replaced by a snapshot, so that everything may differ.
    pub records: Arc<Vec<MetadataRecord>>,
}

/// Where updates go, once somebody reads them. What is replayed before is in the image that the reader begins with.
pub type Updates = Arc<std::sync::OnceLock<mpsc::Sender<ImageUpdate>>>;

/// Why a snapshot cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenSnapshotError {
    #[error("{path}: {source}")]
    Io { path: String, source: io::Error },
    #[error("{path} is corrupt ({detail}); restore it from another controller or a backup")]
    Corrupt { path: String, detail: String },
}

/// The state machine.
pub struct StateMachine {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// What readers see; replaced after each group of entries.
    published: Arc<ArcSwap<MetadataImage>>,
    updates: Updates,
    last_applied: Option<LogId>,
    membership: Stored,
}

impl StateMachine {
    /// Opens the state that the last snapshot in `dir` holds; nothing if there is none.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, updates: Updates) -> Result<Self, OpenSnapshotError> {
        let path = dir.join("snapshot");
        let mut machine = StateMachine {
            disk,
            path,
            published: Arc::new(ArcSwap::from_pointee(MetadataImage::default())),
            updates,
            last_applied: None,
            membership: Stored::default(),
        };
        if let Some((meta, data)) = machine.read_file()? {
            let image = decode_image(&data, &meta).map_err(|e| machine.corrupt(e.to_string()))?;
            machine.last_applied = meta.last_log_id;
            machine.membership = meta.last_membership;
            machine.published.store(Arc::new(image));
        }
        Ok(machine)
    }

    /// The image as of the last applied entry; always current.
    pub fn published(&self) -> Arc<ArcSwap<MetadataImage>> {
        self.published.clone()
    }

    fn corrupt(&self, detail: String) -> OpenSnapshotError {
        OpenSnapshotError::Corrupt { path: self.path.display().to_string(), detail }
    }

    fn read_file(&self) -> Result<Option<(SnapshotMeta, Vec<u8>)>, OpenSnapshotError> {
        let failed = |source| OpenSnapshotError::Io { path: self.path.display().to_string(), source };
        if !self.disk.exists(&self.path).map_err(failed)? {
            return Ok(None);
        }
        let bytes = self.disk.read_file(&self.path, SNAPSHOT_BYTES_MAX).map_err(failed)?;
        let Some(rest) = bytes.strip_prefix(MAGIC) else {
            return Err(self.corrupt("not a snapshot of this version".to_owned()));
        };
        let mut get = Get::new(rest);
        let mut open = || -> Result<(SnapshotMeta, Vec<u8>), DecodeError> {
            let crc = get.u32("crc")?;
            let body = get.take("body", get.remaining())?;
            if crc32c(body) != crc {
                return Err(DecodeError::Malformed { field: "crc", detail: "does not match".to_owned() });
            }
            let mut get = Get::new(body);
            let meta = get_snapshot_meta(&mut get)?;
            Ok((meta, get.take("data", get.remaining())?.to_vec()))
        };
        open().map(Some).map_err(|e| self.corrupt(e.to_string()))
    }

    async fn publish(&self, image: MetadataImage, records: Vec<MetadataRecord>) {
        let image = Arc::new(image);
        self.published.store(image.clone());
        if let Some(updates) = self.updates.get() {
            // A reader that is gone is a broker that shuts down.
            drop(updates.send(ImageUpdate { image, records: Arc::new(records) }).await);
        }
    }
}

/// Applies one entry's records to `image`.
fn replay_entry(image: &mut MetadataImage, records: &[MetadataRecord], index: u64) -> Applied {
    let advances = records.iter().filter_map(|record| image.replay(record, index)).collect();
    image.index = index;
    Applied { index, advances }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Stored), StorageError> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut image = MetadataImage::clone(&self.published.load());
        let mut all = Vec::new();
        let mut replies = Vec::new();
        for entry in entries {
            let index = entry.log_id.index;
            let mut applied = Applied { index, ..Applied::default() };
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(data) => {
                    let records = decode_records(&data.0).map_err(|e| StorageIOError::apply(entry.log_id, &e))?;
                    applied = replay_entry(&mut image, &records, index);
                    all.extend(records);
                }
                EntryPayload::Membership(membership) => {
                    self.membership = Stored::new(Some(entry.log_id), membership);
                }
            }
            image.index = index;
            self.last_applied = Some(entry.log_id);
            replies.push(applied);
        }
        self.publish(image, all).await;
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            disk: self.disk.clone(),
            path: self.path.clone(),
            image: self.published.load_full(),
            last_applied: self.last_applied,
            membership: self.membership.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let data = snapshot.into_inner();
        let image = decode_image(&data, meta).map_err(|e| StorageIOError::read_snapshot(Some(meta.signature()), &e))?;
        write_file(&*self.disk, &self.path, meta, &data).map_err(|e| snapshot_error(meta, &e))?;
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.publish(image, Vec::new()).await;
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        let found = self.read_file().map_err(|e| StorageIOError::<NodeId>::read_snapshot(None, &e))?;
        Ok(found.map(|(meta, data)| Snapshot { meta, snapshot: Box::new(Cursor::new(data)) }))
    }
}

/// Writes a snapshot of one image.
pub struct SnapshotBuilder {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    image: Arc<MetadataImage>,
    last_applied: Option<LogId>,
    membership: Stored,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let snapshot_id =
            self.last_applied.map_or("empty".to_owned(), |id| format!("{}-{}", id.leader_id.term, id.index));
        let meta =
            SnapshotMeta { last_log_id: self.last_applied, last_membership: self.membership.clone(), snapshot_id };
        let data = encode_image(&self.image);
        write_file(&*self.disk, &self.path, &meta, &data).map_err(|e| snapshot_error(&meta, &e))?;
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(data)) })
    }
}

fn snapshot_error(meta: &SnapshotMeta, error: &io::Error) -> StorageError {
    StorageIOError::write_snapshot(Some(meta.signature()), error).into()
}

fn write_file(disk: &dyn Disk, path: &Path, meta: &SnapshotMeta, data: &[u8]) -> io::Result<()> {
    let mut body = Put::default();
    put_snapshot_meta(&mut body, meta);
    body.bytes.extend_from_slice(data);
    let mut bytes = MAGIC.to_vec();
    bytes.extend(crc32c(&body.bytes).to_be_bytes());
    bytes.extend(body.bytes);
    disk.replace_file(path, &bytes)
}

/// Count of chunks, then each chunk's length and records.
fn encode_image(image: &MetadataImage) -> Vec<u8> {
    let records = image.to_records();
    let mut out = Put::default();
    out.u32(records.len().div_ceil(CHUNK_RECORDS) as u32);
    for chunk in records.chunks(CHUNK_RECORDS) {
        let bytes = encode_records(chunk);
        out.u32(bytes.len() as u32);
        out.bytes.extend(bytes);
    }
    out.bytes
}

fn decode_image(data: &[u8], meta: &SnapshotMeta) -> Result<MetadataImage, DecodeError> {
    let mut get = Get::new(data);
    let mut records = Vec::new();
    for _ in 0..get.count("chunks", 4)? {
        let len = get.u32("chunk length")? as usize;
        records.extend(decode_records(get.take("chunk", len)?)?);
    }
    Ok(MetadataImage::from_records(&records, meta.last_log_id.map_or(0, |id| id.index)))
}
