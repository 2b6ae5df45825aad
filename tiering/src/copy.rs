//! The move *copy*: closed segments into the store, then into the manifest, then under the pointer.
//!
//! Owns: which of the given segments are copied and in what order. Does not own: which segments are closed and below the
//! last stable offset (the caller's), freeing local ones (the caller's, after the pointer is applied).
//! A crash or an unknown outcome leaves unreferenced objects, or the segments copied; never a hole.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt;
use strandline_protocol::ids::Offset;
use strandline_protocol::remote_pointer::{AdvanceChange, RemotePointer};

use crate::keys::SegmentKey;
use crate::manifest::Entry;
use crate::partition::{MoveError, Moves, RemotePartition};
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
        let fresh = segments.iter().filter(|segment| segment.last_offset > pointer.highest_copied_offset).collect();
        let (entries, stopped) = self.upload_all(&mut moves, leader, fresh, pointer.highest_copied_offset + 1).await;
        done.stopped = stopped;
        moves.give_up_others(|uuid| entries.iter().any(|entry| entry.key.uuid == *uuid));
        if entries.is_empty() {
            return match done.stopped.take() {
                Some(error) => Err(error),
                None => Ok(done),
            };
        }
        done.segments = entries.len();
        done.bytes = entries.iter().map(|entry| entry.size_bytes).sum();
        let leader_epochs = segments
            .iter()
            .find(|segment| Some(segment.last_offset) == entries.last().map(|entry| entry.last_offset))
            .map_or_else(Vec::new, |segment| segment.leader_epochs.clone());
        let mut next = self.next(leader, &current, now_ms, &moves);
        (next.copied, next.leader_epochs, next.dead_runs) = (entries, leader_epochs, dead_runs);
        let draft = plan::next_manifest(&next, || (self.objects.log.new_uuid)());
        done.pointer = self.commit(&mut moves, leader, &pointer, draft, AdvanceChange::default()).await?;
        Ok(done)
    }

    /// Uploads side by side, at most as many as the uploads' budget has, so that a store with slow answers keeps up. Returns the
    /// entries in their order up to the first failure; what was uploaded after it is never named.
    async fn upload_all(
        &self,
        moves: &mut Moves,
        leader: &Leader,
        segments: Vec<&SegmentToCopy>,
        first_offset: Offset,
    ) -> (Vec<Entry>, Option<MoveError>) {
        let failed = AtomicBool::new(false);
        let begins = std::iter::once(first_offset).chain(segments.iter().map(|segment| segment.last_offset + 1));
        // Known to be attempts before anything is sent: this call may be dropped half way.
        let planned: Vec<_> = (0..segments.len())
            .zip(begins)
            .map(|(at, begin)| (at, begin, moves.attempt((self.objects.log.new_uuid)())))
            .collect();
        let uploads = futures_util::stream::iter(planned).map(|(at, begin, uuid)| {
            let (failed, segment) = (&failed, segments[at]);
            async move {
                if failed.load(Ordering::Relaxed) {
                    return Ok(None);
                }
                let copied = self.copy_one(leader, segment, begin, uuid).await;
                failed.fetch_or(copied.is_err(), Ordering::Relaxed);
                copied.map(Some)
            }
        });
        let mut uploads = uploads.buffered(self.objects.log.config.concurrent_uploads.max(1));
        let (mut entries, mut stopped) = (Vec::new(), None);
        // To the end in any case: an upload that is dropped is not aborted.
        while let Some(copied) = uploads.next().await {
            match copied {
                Ok(Some(entry)) if stopped.is_none() => entries.push(entry),
                Ok(_) => {}
                Err(error) => {
                    self.objects.log.metrics.copy_errors.add(1);
                    stopped = stopped.or(Some(error));
                }
            }
        }
        (entries, stopped)
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
