//! The door to one partition's remote log.
//!
//! Owns: the identity of the partition, the one advance that may be in flight, what this leader knows about its own
//! attempts.
//! Does not own: the pointer (controller), leadership (each move brings its [`Leader`]), the local log.
//! The moves are in `copy`, `housekeep` and `delete`, reading is in `read`.
//!
//! Invariants: one advance in flight per partition; a proposal whose outcome is unknown is sent again, the same, before
//! anything else is proposed; what is in memory of another leader epoch is forgotten. A crash leaves unreferenced objects.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use strandline_protocol::ids::{LeaderEpoch, Offset, TopicPartition};
use strandline_protocol::remote_pointer::{
    Advance, AdvanceChange, ManifestRef, NewManifest, PointerState, Refusal, RemotePointer,
};
use thiserror::Error;
use uuid::Uuid;

use crate::encoding::DecodeError;
use crate::keys::Key;
use crate::manifest::{Manifest, RUN_LEN};
use crate::objects::{Current, LoadError, Objects};
use crate::plan::{self, Draft, NextManifest, Verdict};
use crate::remote_log::Metadata;
use crate::service::Leader;
use crate::store::StoreError;
use crate::upload::UploadError;

/// A move sends a proposal so many times; then it says "unknown", and the next move goes on.
const ADVANCE_TRIES: u32 = 5;
const ADVANCE_DEADLINE: Duration = Duration::from_secs(10);
const ADVANCE_PAUSE: Duration = Duration::from_millis(100);

/// Own attempts known to have failed that are remembered for collect; others wait for the next leader epoch.
const LOST_LIMIT: usize = 4096;

/// Why a move of the leader's did not happen, or is not known to have happened. None of these deletes anything.
#[derive(Debug, Clone, Error)]
pub enum MoveError {
    #[error("the partition has no remote pointer")]
    NoPointer,
    #[error("the remote pointer is {0:?}")]
    NotOpen(PointerState),
    #[error("the controller refused: {0}")]
    Refused(Refusal),
    #[error("it is not known whether the controller moved the pointer; the next move asks again")]
    OutcomeUnknown,
    #[error("segments to copy do not continue the remote log: offset {expected} comes next, {found} was given")]
    NotContiguous { expected: Offset, found: Offset },
    #[error(transparent)]
    Upload(#[from] UploadError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{key} is damaged in the store: {reason}")]
    Damaged { key: String, reason: DecodeError },
}

impl MoveError {
    /// The same move may succeed later, by the same leader.
    pub fn retryable(&self) -> bool {
        match self {
            MoveError::OutcomeUnknown => true,
            MoveError::Upload(error) => error.retryable(),
            MoveError::Store(error) => error.retryable(),
            MoveError::Refused(refusal) => matches!(refusal, Refusal::StaleVersion { .. }),
            MoveError::NoPointer
            | MoveError::NotOpen(_)
            | MoveError::NotContiguous { .. }
            | MoveError::Damaged { .. } => false,
        }
    }
}

impl From<LoadError> for MoveError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Store(error) => MoveError::Store(error),
            LoadError::Damaged { key, reason } => MoveError::Damaged { key, reason },
        }
    }
}

pub struct RemotePartition {
    pub(crate) objects: Objects,
    pub(crate) moves: tokio::sync::Mutex<Moves>,
}

impl std::fmt::Debug for RemotePartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemotePartition").field("tp", &self.objects.tp).finish_non_exhaustive()
    }
}

/// What this broker knows as leader of one epoch; nothing of it is needed by the next.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    leader_epoch: Option<LeaderEpoch>,
    in_doubt: Option<Proposal>,
    /// The pointer that the last answer showed; the image may be behind it.
    known: Option<RemotePointer>,
    /// Uuids of attempts of the move under way, until a proposal names them. What is here when a move begins was left by one
    /// that failed or was dropped.
    pending: Vec<Uuid>,
    /// Uuids of own attempts that can never be named.
    pub(crate) lost: HashSet<Uuid>,
    /// Tombstones removed at or before this version are confirmed as deleted.
    pub(crate) confirmed_upto: u64,
}

#[derive(Debug)]
struct Proposal {
    advance: Advance,
    manifest: Option<Arc<Manifest>>,
    /// Objects that only this proposal names.
    uuids: Vec<Uuid>,
    /// An earlier sending was not answered.
    unknown: bool,
}

impl Moves {
    /// A uuid for something that is about to be put into the store.
    pub(crate) fn attempt(&mut self, uuid: Uuid) -> Uuid {
        self.pending.push(uuid);
        uuid
    }

    /// Of the attempts of the move under way, those that no proposal will name are lost.
    pub(crate) fn give_up_others(&mut self, named: impl Fn(&Uuid) -> bool) {
        let given_up: Vec<Uuid> = self.pending.extract_if(.., |uuid| !named(uuid)).collect();
        self.remember_lost(given_up);
    }

    pub(crate) fn remember_lost(&mut self, uuids: impl IntoIterator<Item = Uuid>) {
        let room = LOST_LIMIT.saturating_sub(self.lost.len());
        self.lost.extend(uuids.into_iter().take(room));
    }
}

impl RemotePartition {
    pub(crate) fn new(objects: Objects) -> RemotePartition {
        RemotePartition { objects, moves: tokio::sync::Mutex::new(Moves::default()) }
    }

    pub fn topic_partition(&self) -> TopicPartition {
        self.objects.tp
    }

    /// The pointer of the applied image.
    pub fn pointer(&self) -> Option<RemotePointer> {
        self.objects.log.service.pointer(self.objects.tp)
    }

    /// The first advance: an unset pointer takes the leader's log start. `Ok` also if it is open already.
    pub async fn open(
        &self,
        leader: &Leader,
        log_start_offset: Offset,
        now_ms: i64,
    ) -> Result<RemotePointer, MoveError> {
        let mut moves = self.moves.lock().await;
        let pointer = self.settled_pointer(&mut moves, leader).await?;
        match pointer.state {
            PointerState::Open => return Ok(pointer),
            PointerState::Closed => return Err(MoveError::NotOpen(PointerState::Closed)),
            PointerState::Unset => {}
        }
        // Entries of an earlier life end below this, or are buried by the manifest that opens the new one.
        let log_start = log_start_offset.max(pointer.log_start_offset);
        let change = AdvanceChange { log_start_offset: Some(log_start), ..AdvanceChange::default() };
        if pointer.manifest.is_none() {
            return self.propose(&mut moves, leader, &pointer, change, None).await;
        }
        let current = self.objects.current(pointer).await?;
        let mut next = self.next(leader, &current, now_ms, &moves);
        next.dead_runs = self.dead_runs(&current).await?;
        next.opens_at = Some(log_start);
        let draft = plan::next_manifest(&next, || (self.objects.log.new_uuid)());
        self.commit(&mut moves, leader, &pointer, draft, change).await
    }

    /// DeleteRecords, retention of what is not copied: a higher log start, at most the high watermark. Needs no store.
    pub async fn trim(&self, leader: &Leader, new_log_start: Offset) -> Result<RemotePointer, MoveError> {
        let mut moves = self.moves.lock().await;
        let pointer = self.open_pointer(&mut moves, leader).await?;
        if new_log_start <= pointer.log_start_offset {
            return Ok(pointer);
        }
        let change = AdvanceChange { log_start_offset: Some(new_log_start), ..AdvanceChange::default() };
        self.propose(&mut moves, leader, &pointer, change, None).await
    }

    /// Tiering is switched off (`remote.log.delete.on.disable=true`): the remote log ends with the leader's local log start.
    pub async fn close(&self, leader: &Leader, local_log_start: Offset) -> Result<RemotePointer, MoveError> {
        let mut moves = self.moves.lock().await;
        let pointer = self.settled_pointer(&mut moves, leader).await?;
        if pointer.state != PointerState::Open {
            return Ok(pointer);
        }
        let log_start_offset = Some(local_log_start.max(pointer.log_start_offset));
        let change = AdvanceChange { log_start_offset, close: true, ..AdvanceChange::default() };
        self.propose(&mut moves, leader, &pointer, change, None).await
    }

    pub(crate) async fn open_pointer(&self, moves: &mut Moves, leader: &Leader) -> Result<RemotePointer, MoveError> {
        let pointer = self.settled_pointer(moves, leader).await?;
        if pointer.state == PointerState::Open { Ok(pointer) } else { Err(MoveError::NotOpen(pointer.state)) }
    }

    /// The newest pointer known, with nothing of our own in doubt.
    pub(crate) async fn settled_pointer(&self, moves: &mut Moves, leader: &Leader) -> Result<RemotePointer, MoveError> {
        if moves.leader_epoch != Some(leader.leader_epoch) {
            *moves = Moves { leader_epoch: Some(leader.leader_epoch), ..Moves::default() };
        }
        let abandoned = std::mem::take(&mut moves.pending);
        moves.remember_lost(abandoned);
        if moves.in_doubt.is_some() {
            match self.resolve(moves).await {
                // Refused: what is known now was learnt from the answer.
                Ok(_) | Err(MoveError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let image = self.objects.log.service.pointer(self.objects.tp).ok_or(MoveError::NoPointer)?;
        Ok(moves.known.filter(|known| known.version > image.version).unwrap_or(image))
    }

    pub(crate) fn next<'a>(
        &self,
        leader: &Leader,
        current: &'a Current,
        now_ms: i64,
        moves: &Moves,
    ) -> NextManifest<'a> {
        NextManifest {
            tp: self.objects.tp,
            leader_epoch: leader.leader_epoch,
            now_ms,
            pointer: &current.pointer,
            current: current.manifest.as_deref(),
            copied: Vec::new(),
            leader_epochs: Vec::new(),
            dead_runs: Vec::new(),
            confirmed_upto: moves.confirmed_upto,
            opens_at: None,
            run_len: self.objects.log.config.manifest_run_len.clamp(1, RUN_LEN),
        }
    }

    /// Puts what was sealed, then the manifest, then moves the pointer to it.
    pub(crate) async fn commit(
        &self,
        moves: &mut Moves,
        leader: &Leader,
        pointer: &RemotePointer,
        draft: Draft,
        change: AdvanceChange,
    ) -> Result<RemotePointer, MoveError> {
        let manifest = Arc::new(draft.manifest);
        let (bytes, hash) = manifest.encode();
        for run in &draft.sealed {
            moves.attempt(run.key.uuid());
            self.put(&run.key, run.bytes.clone()).await?;
        }
        moves.attempt(manifest.uuid);
        self.put(&manifest.key(), bytes).await?;
        let new = NewManifest {
            manifest: ManifestRef {
                version: manifest.version,
                leader_epoch: manifest.leader_epoch,
                uuid: manifest.uuid,
                hash,
            },
            highest_copied_offset: manifest.highest_copied_offset,
            highest_copied_epoch: manifest.highest_copied_epoch,
        };
        let after =
            RemotePointer { state: PointerState::Open, log_start_offset: manifest.log_start_offset, ..*pointer };
        let live = Some(plan::live_summary(&manifest, &after));
        let change = AdvanceChange { manifest: Some(new), live, ..change };
        self.propose(moves, leader, pointer, change, Some(manifest)).await
    }

    async fn put(&self, key: &Key, bytes: bytes::Bytes) -> Result<(), StoreError> {
        for object in key.objects() {
            self.objects.store.put(&self.objects.prefix.full(&object), bytes.clone()).await?;
        }
        Ok(())
    }

    pub(crate) async fn propose(
        &self,
        moves: &mut Moves,
        leader: &Leader,
        pointer: &RemotePointer,
        change: AdvanceChange,
        manifest: Option<Arc<Manifest>>,
    ) -> Result<RemotePointer, MoveError> {
        let advance = Advance {
            tp: self.objects.tp,
            leader_epoch: leader.leader_epoch,
            broker_id: leader.broker_id,
            broker_epoch: leader.broker_epoch,
            expected_version: pointer.version,
            change,
        };
        let uuids = std::mem::take(&mut moves.pending);
        moves.in_doubt = Some(Proposal { advance, manifest, uuids, unknown: false });
        self.resolve(moves).await
    }

    /// Sends the proposal in doubt until it is answered, at most [`ADVANCE_TRIES`] times.
    async fn resolve(&self, moves: &mut Moves) -> Result<RemotePointer, MoveError> {
        for _ in 0..ADVANCE_TRIES {
            let Some(proposal) = &mut moves.in_doubt else { break };
            // Until it is answered, also if whoever waits for it goes away meanwhile.
            let unknown_before = std::mem::replace(&mut proposal.unknown, true);
            let answer =
                tokio::time::timeout(ADVANCE_DEADLINE, self.objects.log.service.advance(proposal.advance)).await;
            if let Ok(Ok(outcome)) = answer {
                proposal.unknown = unknown_before;
                let verdict = plan::settle(&proposal.advance, &outcome);
                return self.conclude(moves, verdict);
            }
            self.objects.log.metrics.advances_unknown.add(1);
            tokio::time::sleep(ADVANCE_PAUSE).await;
        }
        Err(MoveError::OutcomeUnknown)
    }

    fn conclude(&self, moves: &mut Moves, verdict: Verdict) -> Result<RemotePointer, MoveError> {
        let proposal = moves.in_doubt.take();
        match verdict {
            Verdict::Done(pointer) => {
                if let Some(manifest) = proposal.and_then(|proposal| proposal.manifest) {
                    self.objects.log.cache(manifest.uuid, Metadata::Manifest(manifest));
                }
                moves.known = Some(pointer);
                Ok(pointer)
            }
            Verdict::Lost(refusal, pointer) => {
                self.objects.log.metrics.advances_refused.add(1);
                // Only a proposal that was sent once and refused is known never to be applied.
                if let Some(proposal) = proposal.filter(|proposal| !proposal.unknown) {
                    moves.remember_lost(proposal.uuids);
                }
                moves.known = Some(pointer);
                Err(MoveError::Refused(refusal))
            }
        }
    }
}
