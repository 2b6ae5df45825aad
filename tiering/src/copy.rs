//! The move *copy*: closed segments into the store, then into the manifest, then under the pointer.
//!
//! Owns: which of the given segments are copied and in what order. Does not own: which segments are closed and below the
//! last stable offset (the caller's), freeing local ones (the caller's, after the pointer is applied).
//! A crash or an unknown outcome leaves unreferenced objects, or the segments copied; never a hole.

use strandline_protocol::ids::Offset;
use strandline_protocol::remote_pointer::{AdvanceChange, RemotePointer};

use crate::keys::SegmentKey;
use crate::manifest::Entry;
use crate::partition::{MoveError, RemotePartition};
use crate::plan;
use crate::service::Leader;
use crate::source::SegmentToCopy;
use crate::upload::Uploader;

/// What a copy did.
#[derive(Debug, Clone)]
pub struct Copied {
    pub segments: usize,
    pub bytes: u64,
    pub pointer: RemotePointer,
    /// Why it stopped before the last segment, if it did.
    pub stopped: Option<MoveError>,
}

impl RemotePartition {
    /// Copies `segments`, oldest first, each beginning where the one before ends. Those that are in the remote log already are
    /// skipped, one that is in it in part is copied from there on. One manifest and one advance cover all of them.
    pub async fn copy(&self, leader: &Leader, segments: &[SegmentToCopy], now_ms: i64) -> Result<Copied, MoveError> {
        let mut moves = self.moves.lock().await;
        let pointer = self.open_pointer(&mut moves, leader).await?;
        let mut done = Copied { segments: 0, bytes: 0, pointer, stopped: None };
        if segments.iter().all(|segment| segment.last_offset <= pointer.highest_copied_offset) {
            return Ok(done);
        }
        let current = self.objects.current(pointer).await?;
        let dead_runs = self.dead_runs(&current).await?;
        let mut entries: Vec<Entry> = Vec::new();
        let mut leader_epochs = Vec::new();
        let mut next_offset = pointer.highest_copied_offset + 1;
        for segment in segments.iter().filter(|segment| segment.last_offset > pointer.highest_copied_offset) {
            let uuid = moves.attempt((self.objects.log.new_uuid)());
            match self.copy_one(leader, segment, next_offset, uuid).await {
                Ok(entry) => {
                    next_offset = entry.last_offset + 1;
                    leader_epochs.clone_from(&segment.leader_epochs);
                    entries.push(entry);
                }
                Err(error) => {
                    self.objects.log.metrics.copy_errors.add(1);
                    done.stopped = Some(error);
                    break;
                }
            }
        }
        if entries.is_empty() {
            return match done.stopped.take() {
                Some(error) => Err(error),
                None => Ok(done),
            };
        }
        done.segments = entries.len();
        done.bytes = entries.iter().map(|entry| entry.size_bytes).sum();
        let mut next = self.next(leader, &current, now_ms, &moves);
        (next.copied, next.leader_epochs, next.dead_runs) = (entries, leader_epochs, dead_runs);
        let draft = plan::next_manifest(&next, || (self.objects.log.new_uuid)());
        done.pointer = self.commit(&mut moves, leader, &pointer, draft, AdvanceChange::default()).await?;
        Ok(done)
    }

    async fn copy_one(
        &self,
        leader: &Leader,
        segment: &SegmentToCopy,
        next_offset: Offset,
        uuid: uuid::Uuid,
    ) -> Result<Entry, MoveError> {
        if segment.base_offset > next_offset || segment.last_offset < next_offset {
            return Err(MoveError::NotContiguous { expected: next_offset, found: segment.base_offset });
        }
        // Never closed while the process runs, so this only waits.
        let slot = self.objects.log.uploads.acquire().await;
        self.objects.log.metrics.copy_requests.add(1);
        let key = SegmentKey { base_offset: next_offset, leader_epoch: leader.leader_epoch, uuid };
        let uploader = Uploader {
            store: &self.objects.store,
            io: &self.objects.log.io,
            metrics: &self.objects.log.metrics,
            prefix: &self.objects.prefix,
        };
        let entry = uploader.upload(segment, key).await?;
        drop(slot);
        Ok(entry)
    }
}
