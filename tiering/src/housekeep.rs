//! The moves *retention*, *bury* and *delete*: what has expired goes, in the order that no crash can turn into a loss.
//!
//! Owns: that order: log start first, then tombstones, then `complete_from`, then the objects, then the tombstones' end.
//! Does not own: local retention, expiry of what is not copied (the caller trims).
//! A crash leaves the next step to do, for this leader or the next.

use std::sync::Arc;

use strandline_protocol::ids::Offset;
use strandline_protocol::remote_pointer::{AdvanceChange, PointerState, RemotePointer};

use crate::keys::Key;
use crate::manifest::{Entry, Manifest};
use crate::objects::Current;
use crate::partition::{MoveError, Moves, RemotePartition};
use crate::plan::{self, Expiry, Retention};
use crate::service::Leader;

/// What one pass did.
#[derive(Debug, Clone)]
pub struct Housekept {
    pub pointer: RemotePointer,
    /// The log start that retention moved to.
    pub expired_to: Option<Offset>,
    /// Keys deleted (a segment counts as one).
    pub deleted: usize,
}

impl RemotePartition {
    /// One pass. `delete_delay_ms` = max(`file.delete.delay.ms`, `tier.undelete.ms`). An idle partition with nothing to expire
    /// and nothing to delete costs no call to the store.
    pub async fn housekeep(
        &self,
        leader: &Leader,
        retention: Retention,
        delete_delay_ms: i64,
        now_ms: i64,
    ) -> Result<Housekept, MoveError> {
        let mut moves = self.moves.lock().await;
        let mut pointer = self.settled_pointer(&mut moves, leader).await?;
        let mut done = Housekept { pointer, expired_to: None, deleted: 0 };
        if pointer.state == PointerState::Unset || pointer.manifest.is_none() {
            return Ok(done);
        }
        if pointer.state == PointerState::Open && retention.may_expire(&pointer, now_ms) {
            let current = self.objects.current(pointer).await?;
            done.expired_to = self.expired_to(&current, retention, now_ms).await?;
            if let Some(log_start) = done.expired_to {
                pointer = self.expire(&mut moves, leader, &current, log_start).await?;
            }
        }
        pointer = self.bury(&mut moves, leader, pointer, now_ms).await?;
        (pointer, done.deleted) = self.delete_ripe(&mut moves, leader, pointer, delete_delay_ms, now_ms).await?;
        done.pointer = pointer;
        Ok(done)
    }

    async fn expired_to(
        &self,
        current: &Current,
        retention: Retention,
        now_ms: i64,
    ) -> Result<Option<Offset>, MoveError> {
        let Some(manifest) = &current.manifest else { return Ok(None) };
        let dead = |entry: &Entry| plan::is_dead(entry.last_offset, entry.added, &current.pointer, manifest.live_from);
        let mut live_bytes: u64 =
            manifest.entries.iter().filter(|entry| !dead(entry)).map(|entry| entry.size_bytes).sum();
        for run in manifest.entry_runs.iter().filter(|run| run.last >= current.pointer.log_start_offset) {
            live_bytes += match run.first < current.pointer.log_start_offset {
                true => self
                    .objects
                    .load_run(run)
                    .await?
                    .iter()
                    .filter(|entry| !dead(entry))
                    .map(|entry| entry.size_bytes)
                    .sum(),
                false => run.bytes,
            };
        }
        let mut expiry = Expiry::new(retention, live_bytes, now_ms);
        for run in &manifest.entry_runs {
            for entry in self.objects.load_run(run).await?.iter().filter(|entry| !dead(entry)) {
                if !expiry.next(entry) {
                    return Ok(expiry.new_log_start);
                }
            }
        }
        for entry in manifest.entries.iter().filter(|entry| !dead(entry)) {
            if !expiry.next(entry) {
                break;
            }
        }
        Ok(expiry.new_log_start)
    }

    async fn expire(
        &self,
        moves: &mut Moves,
        leader: &Leader,
        current: &Current,
        log_start: Offset,
    ) -> Result<RemotePointer, MoveError> {
        let after = RemotePointer { log_start_offset: log_start, ..current.pointer };
        let live = current.manifest.as_ref().map(|manifest| plan::live_summary(manifest, &after));
        let change = AdvanceChange { log_start_offset: Some(log_start), live, ..AdvanceChange::default() };
        self.propose(moves, leader, &current.pointer, change, None).await
    }

    async fn bury(
        &self,
        moves: &mut Moves,
        leader: &Leader,
        pointer: RemotePointer,
        now_ms: i64,
    ) -> Result<RemotePointer, MoveError> {
        let current = self.objects.current(pointer).await?;
        let Some(manifest) = &current.manifest else { return Ok(pointer) };
        // What lay below the log start when the manifest was written is buried, as far as runs were looked into then.
        let moved = pointer.state != PointerState::Open || pointer.log_start_offset > manifest.log_start_offset;
        let left_over = manifest.entry_runs.first().is_some_and(|run| {
            run.last < pointer.log_start_offset || (run.buried == 0 && run.first < pointer.log_start_offset)
        });
        let dead_runs = if moved || left_over { self.dead_runs(&current).await? } else { Vec::new() };
        let oldest_run = dead_runs.first().map(|entries| entries.as_slice());
        if !plan::wants_manifest(manifest, oldest_run, &pointer, moves.confirmed_upto) {
            return Ok(pointer);
        }
        let mut next = self.next(leader, &current, now_ms, moves);
        next.dead_runs = dead_runs;
        let draft = plan::next_manifest(&next, || (self.objects.log.new_uuid)());
        self.commit(moves, leader, &pointer, draft, AdvanceChange::default()).await
    }

    /// The entries of the oldest run, if some of them are dead and not buried; of all runs, if the pointer is not open.
    pub(crate) async fn dead_runs(&self, current: &Current) -> Result<Vec<Arc<Vec<Entry>>>, MoveError> {
        let Some(manifest) = &current.manifest else { return Ok(Vec::new()) };
        let log_start = current.pointer.log_start_offset;
        let dead = match current.pointer.state {
            PointerState::Open => usize::from(manifest.entry_runs.first().is_some_and(|run| run.first < log_start)),
            PointerState::Closed | PointerState::Unset => manifest.entry_runs.len(),
        };
        let mut runs = Vec::with_capacity(dead);
        for run in &manifest.entry_runs[..dead] {
            runs.push(self.objects.load_run(run).await?);
        }
        Ok(runs)
    }

    async fn delete_ripe(
        &self,
        moves: &mut Moves,
        leader: &Leader,
        mut pointer: RemotePointer,
        delete_delay_ms: i64,
        now_ms: i64,
    ) -> Result<(RemotePointer, usize), MoveError> {
        let current = self.objects.current(pointer).await?;
        let Some(manifest) = current.manifest else { return Ok((pointer, 0)) };
        let Some(upto) =
            plan::ripe_upto(&manifest, now_ms, delete_delay_ms).filter(|upto| *upto > moves.confirmed_upto)
        else {
            return Ok((pointer, 0));
        };
        if upto > pointer.complete_from {
            let change = AdvanceChange { complete_from: Some(upto), ..AdvanceChange::default() };
            pointer = self.propose(moves, leader, &pointer, change, None).await?;
        }
        let deleted = self.delete_tombstones(&manifest, moves.confirmed_upto, upto).await?;
        moves.confirmed_upto = upto;
        Ok((pointer, deleted))
    }

    /// Deletes what was removed after version `from` and up to `upto`. An error leaves them all to be deleted again.
    async fn delete_tombstones(&self, manifest: &Manifest, from: u64, upto: u64) -> Result<usize, MoveError> {
        let mut deleted = 0;
        let ripe = |removed: u64| removed > from && removed <= upto;
        for run in manifest.tombstone_runs.iter().filter(|run| ripe(run.last.cast_unsigned())) {
            let tombstones = self.objects.load_tombstones(run).await?;
            deleted += self.delete_keys(tombstones.iter().map(|tombstone| &tombstone.key)).await?;
        }
        let open = manifest.tombstones.iter().filter(|tombstone| ripe(tombstone.removed));
        deleted += self.delete_keys(open.map(|tombstone| &tombstone.key)).await?;
        Ok(deleted)
    }

    /// Returns the number of keys.
    async fn delete_keys(&self, keys: impl Iterator<Item = &Key>) -> Result<usize, MoveError> {
        let keys: Vec<&Key> = keys.collect();
        let objects = keys.iter().flat_map(|key| key.objects()).map(|object| self.objects.prefix.full(&object));
        self.objects.store.delete_each(objects.collect()).await?;
        Ok(keys.len())
    }
}
