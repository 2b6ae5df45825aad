//! One segment into the store: `.log` in 8 MiB parts, then `.meta`.
//!
//! Owns: reading the source on the tier's threads, checking it on the way, multipart, what both objects must measure.
//! Does not own: which segments, the manifest. A crash or an error leaves unreferenced objects under a fresh uuid.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use object_store::MultipartUpload;
use strandline_protocol::ids::Offset;
use strandline_protocol::record_batch::{BatchHeader, HEADER_LEN};
use thiserror::Error;
use tokio::task::JoinSet;

use crate::encoding::hash;
use crate::io_pool::IoPool;
use crate::keys::{PartitionPrefix, SegmentKey};
use crate::manifest::{Entry, FLAG_HAS_ABORTED, SegmentFormat};
use crate::metrics::Metrics;
use crate::scan::{ScanError, Scanned, Scanner};
use crate::sidecar::{CHUNK_BYTES, Sidecar};
use crate::source::{SegmentSource, SegmentToCopy};
use crate::store::{Store, StoreError};

/// Parts of one upload under way at once.
pub const PARTS_IN_FLIGHT: usize = 3;

/// Why a segment did not reach the store. What did reach it is unreferenced.
#[derive(Debug, Clone, Error)]
pub enum UploadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the local segment cannot be read: {0}")]
    Source(Arc<io::Error>),
    #[error("the local segment is damaged and is not copied: {0}")]
    Damaged(#[from] ScanError),
}

impl UploadError {
    pub fn retryable(&self) -> bool {
        match self {
            UploadError::Store(error) => error.retryable(),
            UploadError::Source(_) => true,
            UploadError::Damaged(_) => false,
        }
    }
}

impl From<io::Error> for UploadError {
    fn from(error: io::Error) -> Self {
        UploadError::Source(Arc::new(error))
    }
}

pub(crate) struct Uploader<'a> {
    pub(crate) store: &'a Arc<Store>,
    pub(crate) io: &'a IoPool,
    pub(crate) metrics: &'a Metrics,
    pub(crate) prefix: &'a PartitionPrefix,
}

impl Uploader<'_> {
    /// Sends the part of `segment` from the batch that holds `key.base_offset` on.
    pub(crate) async fn upload(&self, segment: &SegmentToCopy, key: SegmentKey) -> Result<Entry, UploadError> {
        let from = key.base_offset;
        let start = if from > segment.base_offset { self.find_start(segment, from).await? } else { 0 };
        let size_bytes = segment.size_bytes.saturating_sub(start);
        let pieces = Pieces::new(from, segment.last_offset);
        let name = self.prefix.full(&key.log());
        let pieces = if size_bytes <= CHUNK_BYTES {
            let (bytes, pieces) = self.read(segment, start, size_bytes, pieces).await?;
            self.store.put(&name, bytes).await?;
            pieces
        } else {
            let mut upload = self.store.begin_multipart(&name).await?;
            let pieces = match self.send_parts(segment, start, size_bytes, &name, pieces, &mut upload).await {
                Ok(pieces) => pieces,
                Err(error) => {
                    // Best effort: what stays is collected like any other unreferenced key.
                    let aborted = self.store.once("abort upload", &name, 0, upload.abort()).await;
                    tracing::debug!(key = %name, aborted = aborted.is_ok(), "an upload failed half way");
                    return Err(error);
                }
            };
            self.store.check_len(&name, size_bytes).await?;
            pieces
        };
        let entry = self.send_sidecar(segment, key, size_bytes, pieces).await?;
        self.metrics.copy_bytes.add(size_bytes);
        Ok(entry)
    }

    async fn send_parts(
        &self,
        segment: &SegmentToCopy,
        start: u64,
        size_bytes: u64,
        name: &str,
        mut pieces: Pieces,
        upload: &mut Box<dyn MultipartUpload>,
    ) -> Result<Pieces, UploadError> {
        // Tasks of their own, so that parts are sent while the next one is read; they end with this call.
        let mut in_flight = JoinSet::new();
        let mut sent = 0;
        while sent < size_bytes {
            let len = CHUNK_BYTES.min(size_bytes - sent);
            let bytes;
            (bytes, pieces) = self.read(segment, start + sent, len, pieces).await?;
            let part = upload.put_part(bytes.into());
            let (store, name) = (Arc::clone(self.store), name.to_owned());
            let deadline_bytes = len * PARTS_IN_FLIGHT as u64;
            in_flight.spawn(async move { store.once("upload a part", &name, deadline_bytes, part).await });
            sent += len;
            while in_flight.len() >= PARTS_IN_FLIGHT || (sent == size_bytes && !in_flight.is_empty()) {
                match in_flight.join_next().await {
                    Some(Ok(done)) => done?,
                    Some(Err(panicked)) => return Err(io::Error::other(panicked).into()),
                    None => break,
                }
            }
        }
        self.store.once("complete upload", name, size_bytes, upload.complete()).await?;
        Ok(pieces)
    }

    async fn send_sidecar(
        &self,
        segment: &SegmentToCopy,
        key: SegmentKey,
        size_bytes: u64,
        pieces: Pieces,
    ) -> Result<Entry, UploadError> {
        let (scanned, chunk_hashes, content_hash) = pieces.finish()?;
        let sidecar = Sidecar {
            base_offset: key.base_offset,
            last_offset: segment.last_offset,
            size_bytes,
            index: scanned.index,
            chunk_hashes,
            aborted: segment.aborted.clone(),
            producer_state: segment.producer_state.clone(),
            leader_epochs: segment.leader_epochs.clone(),
        };
        let (bytes, sidecar_hash) = sidecar.encode();
        let sidecar_size_bytes = bytes.len() as u64;
        self.store.put(&self.prefix.full(&key.sidecar()), bytes).await?;
        Ok(Entry {
            key,
            last_offset: segment.last_offset,
            size_bytes,
            sidecar_size_bytes,
            min_timestamp: scanned.min_timestamp,
            max_timestamp: scanned.max_timestamp,
            content_hash,
            sidecar_hash,
            added: 0,
            flags: if segment.aborted.is_empty() { 0 } else { FLAG_HAS_ABORTED },
            format: SegmentFormat::RecordBatches,
            epochs: scanned.epochs,
        })
    }

    /// Reads the next piece and looks at it, both on the tier's threads.
    async fn read(
        &self,
        segment: &SegmentToCopy,
        offset: u64,
        len: u64,
        mut pieces: Pieces,
    ) -> Result<(Bytes, Pieces), UploadError> {
        let source = Arc::clone(&segment.source);
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let read = move || {
            let bytes = read_exact(&*source, offset, len)?;
            pieces.add(&bytes)?;
            Ok::<_, UploadError>((bytes, pieces))
        };
        self.io.run(read).await?
    }

    /// The position of the first batch that ends at or above `from`: where another replica's segment was cut.
    async fn find_start(&self, segment: &SegmentToCopy, from: Offset) -> Result<u64, UploadError> {
        let (source, size) = (Arc::clone(&segment.source), segment.size_bytes);
        let search = move || -> Result<Option<u64>, UploadError> {
            let mut position = 0;
            while position + HEADER_LEN as u64 <= size {
                let header = read_exact(&*source, position, HEADER_LEN)?;
                let header = BatchHeader::parse(&header)
                    .map_err(|error| ScanError::BadBatch { position, reason: error.to_string() })?;
                if header.last_offset() >= from {
                    return Ok(Some(position));
                }
                position += header.size_in_bytes() as u64;
            }
            Ok(None)
        };
        let to = segment.last_offset;
        self.io.run(search).await??.ok_or(UploadError::Damaged(ScanError::WrongOffsets { from, to }))
    }
}

fn read_exact(source: &dyn SegmentSource, offset: u64, len: usize) -> io::Result<Bytes> {
    let mut buf = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match source.read_at(&mut buf[filled..], offset + filled as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => filled += n,
        }
    }
    Ok(Bytes::from(buf))
}

/// What is learnt from the pieces as they pass.
struct Pieces {
    scanner: Scanner,
    chunk_hashes: Vec<u64>,
    content_hash: u64,
}

impl Pieces {
    fn new(from: Offset, to: Offset) -> Pieces {
        Pieces { scanner: Scanner::new(from, to), chunk_hashes: Vec::new(), content_hash: 0 }
    }

    /// Pieces are chunks of the object: all but the last have [`CHUNK_BYTES`].
    fn add(&mut self, bytes: &[u8]) -> Result<(), UploadError> {
        self.scanner.feed(bytes)?;
        let chunk = hash(bytes);
        self.content_hash = if self.chunk_hashes.is_empty() {
            chunk
        } else {
            let algorithm = crc_fast::CrcAlgorithm::Crc64Nvme;
            crc_fast::checksum_combine(algorithm, self.content_hash, chunk, bytes.len() as u64)
        };
        self.chunk_hashes.push(chunk);
        Ok(())
    }

    fn finish(self) -> Result<(Scanned, Vec<u64>, u64), UploadError> {
        Ok((self.scanner.finish()?, self.chunk_hashes, self.content_hash))
    }
}
