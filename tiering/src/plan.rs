//! The pure core: what comes next for one partition's remote log.
//!
//! Owns: the next manifest (copy, bury, drop what is confirmed, seal), what an answer to an advance means, retention, which
//! tombstones are ripe, which listed keys nobody can name any more.
//! Does not own: time, the store, the controller; `partition` carries out what is decided here.
//!
//! Invariants: a key is tombstoned by the manifest that stops naming it as live; a tombstone leaves a manifest only after
//! its deletion is confirmed; nothing is ripe before the pointer's `complete_from` can pass it; an outcome that is not
//! known deletes nothing.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use strandline_protocol::ids::{LeaderEpoch, Offset, TopicPartition};
use strandline_protocol::remote_pointer::{
    Advance, AdvanceOutcome, LiveSummary, NO_TIMESTAMP, PointerState, Refusal, RemotePointer, UNKNOWN_EPOCH,
};
use uuid::Uuid;

use crate::keys::Key;
use crate::manifest::{Entry, Manifest, RunRef, Tombstone, encode_entry_run, encode_tombstone_run};

/// What the next manifest is to contain beside what the last one did.
#[derive(Debug, Clone)]
pub struct NextManifest<'a> {
    pub tp: TopicPartition,
    pub leader_epoch: LeaderEpoch,
    pub now_ms: i64,
    /// The pointer as it is now; the new manifest is of the version after it.
    pub pointer: &'a RemotePointer,
    /// The manifest that the pointer names.
    pub current: Option<&'a Manifest>,
    /// Segments just uploaded, in order, tiling from `highest_copied_offset + 1`.
    pub copied: Vec<Entry>,
    /// The leader-epoch history up to the last copied offset; empty = as before.
    pub leader_epochs: Vec<(LeaderEpoch, Offset)>,
    /// Entries of the oldest runs, in order, as far as they are to be buried: all runs, unless the pointer is open.
    pub dead_runs: Vec<Arc<Vec<Entry>>>,
    /// Tombstones removed at or before this version are confirmed as deleted.
    pub confirmed_upto: u64,
    /// The pointer is unset: this manifest begins a new life of the tier with this log start.
    pub opens_at: Option<Offset>,
    /// Entries, and tombstones, that may stay open; more are sealed into runs of so many. 1 to [`crate::manifest::RUN_LEN`].
    pub run_len: usize,
}

/// A sealed index object that must be in the store before the manifest that refers to it.
#[derive(Debug, Clone)]
pub struct SealedRun {
    pub key: Key,
    pub bytes: Bytes,
}

#[derive(Debug, Clone)]
pub struct Draft {
    pub manifest: Manifest,
    pub sealed: Vec<SealedRun>,
}

/// True if no reader of `pointer` can be served from this entry.
pub fn is_dead(last_offset: Offset, added: u64, pointer: &RemotePointer, live_from: u64) -> bool {
    pointer.state != PointerState::Open || last_offset < pointer.log_start_offset || added < live_from
}

/// Makes the next manifest. `new_uuid` names the manifest and what is sealed for it.
pub fn next_manifest(next: &NextManifest<'_>, mut new_uuid: impl FnMut() -> Uuid) -> Draft {
    let version = next.pointer.version + 1;
    let mut manifest = match next.current {
        Some(current) => current.clone(),
        None => empty_manifest(next),
    };
    manifest.version = version;
    manifest.leader_epoch = next.leader_epoch;
    manifest.uuid = new_uuid();
    manifest.log_start_offset = next.opens_at.unwrap_or(next.pointer.log_start_offset);
    if next.opens_at.is_some() {
        manifest.live_from = version;
    }
    manifest.predecessor = next.current.map(Manifest::key);
    let mut buried = Burial { version, time_ms: next.now_ms, tombstones: Vec::new() };
    if let Some(current) = next.current {
        buried.add(current.key(), current.version);
    }
    bury_dead(next, &mut manifest, &mut buried);
    let life_over = next.pointer.state != PointerState::Open;
    assert!(!life_over || manifest.entry_runs.is_empty(), "runs of an earlier life are not given to be buried");
    append_copied(next, &mut manifest);
    manifest.tombstones.retain(|tombstone| tombstone.removed > next.confirmed_upto);
    drop_confirmed_runs(next, &mut manifest, &mut buried);
    manifest.tombstones.append(&mut buried.tombstones);
    let sealed = seal(&mut manifest, next, &mut new_uuid);
    Draft { manifest, sealed }
}

fn empty_manifest(next: &NextManifest<'_>) -> Manifest {
    Manifest {
        tp: next.tp,
        version: 0,
        leader_epoch: next.leader_epoch,
        uuid: Uuid::nil(),
        predecessor: None,
        log_start_offset: next.pointer.log_start_offset,
        highest_copied_offset: next.pointer.highest_copied_offset,
        highest_copied_epoch: UNKNOWN_EPOCH,
        live_from: 0,
        leader_epochs: Vec::new(),
        entry_runs: Vec::new(),
        entries: Vec::new(),
        tombstone_runs: Vec::new(),
        tombstones: Vec::new(),
    }
}

/// Collects the tombstones of one new version.
struct Burial {
    version: u64,
    time_ms: i64,
    tombstones: Vec<Tombstone>,
}

impl Burial {
    fn add(&mut self, key: Key, added: u64) {
        self.tombstones.push(Tombstone { key, added, removed: self.version, time_ms: self.time_ms });
    }
}

/// Dead entries become tombstones: of the runs that were given, and of the open ones when no run precedes them.
///
/// While the pointer is open what is dead lies below the log start, so that burying may stop anywhere. What an earlier life
/// left lies at offsets that the next one uses again: none of it may stay listed.
fn bury_dead(next: &NextManifest<'_>, manifest: &mut Manifest, buried: &mut Burial) {
    let live_from = manifest.live_from;
    let dead = |entry: &Entry| is_dead(entry.last_offset, entry.added, next.pointer, live_from);
    for entries in &next.dead_runs {
        let Some(run) = manifest.entry_runs.first_mut() else { break };
        let upto = entries.iter().take_while(|entry| dead(entry)).count();
        for entry in entries.iter().take(upto).skip(run.buried as usize) {
            buried.add(Key::Segment(entry.key), entry.added);
        }
        run.buried = run.buried.max(upto as u32);
        if run.buried < run.count {
            break;
        }
        buried.add(run.key, run.added);
        manifest.entry_runs.remove(0);
    }
    if manifest.entry_runs.is_empty() {
        let upto = manifest.entries.iter().take_while(|entry| dead(entry)).count();
        for entry in manifest.entries.drain(..upto) {
            buried.add(Key::Segment(entry.key), entry.added);
        }
    }
}

fn append_copied(next: &NextManifest<'_>, manifest: &mut Manifest) {
    // A trim may have passed what the last manifest knew.
    let pointer_end = next.opens_at.map_or(next.pointer.highest_copied_offset, |log_start| log_start - 1);
    manifest.highest_copied_offset = pointer_end;
    manifest.highest_copied_epoch =
        if next.opens_at.is_some() { UNKNOWN_EPOCH } else { next.pointer.highest_copied_epoch };
    for entry in &next.copied {
        assert_eq!(
            entry.base_offset(),
            manifest.highest_copied_offset + 1,
            "a copied segment does not continue the remote log"
        );
        manifest.highest_copied_offset = entry.last_offset;
        manifest.highest_copied_epoch = entry.last_epoch();
        manifest.entries.push(Entry { added: manifest.version, ..entry.clone() });
    }
    if !next.leader_epochs.is_empty() {
        manifest.leader_epochs.clone_from(&next.leader_epochs);
    }
}

/// A sealed run of tombstones goes when all of it is confirmed; the run itself is then a tombstone.
fn drop_confirmed_runs(next: &NextManifest<'_>, manifest: &mut Manifest, buried: &mut Burial) {
    manifest.tombstone_runs.retain(|run| {
        let confirmed = run.last.cast_unsigned() <= next.confirmed_upto;
        if confirmed {
            buried.add(run.key, run.added);
        }
        !confirmed
    });
}

fn seal(manifest: &mut Manifest, next: &NextManifest<'_>, new_uuid: &mut impl FnMut() -> Uuid) -> Vec<SealedRun> {
    let (leader_epoch, run_len) = (next.leader_epoch, next.run_len);
    let mut sealed = Vec::new();
    while manifest.entries.len() > run_len {
        let entries: Vec<Entry> = manifest.entries.drain(..run_len).collect();
        let (first, last) = (entries[0].base_offset(), entries[run_len - 1].last_offset);
        let key = Key::Index { first, leader_epoch, uuid: new_uuid() };
        let (bytes, hash) = encode_entry_run(&entries);
        manifest.entry_runs.push(RunRef {
            key,
            hash,
            size_bytes: bytes.len() as u64,
            count: run_len as u32,
            first,
            last,
            bytes: entries.iter().map(|entry| entry.size_bytes).sum(),
            max_timestamp: entries.iter().map(|entry| entry.max_timestamp).max().unwrap_or(NO_TIMESTAMP),
            added: manifest.version,
            buried: 0,
        });
        sealed.push(SealedRun { key, bytes });
    }
    while manifest.tombstones.len() > run_len {
        let tombstones: Vec<Tombstone> = manifest.tombstones.drain(..run_len).collect();
        let (first, last) = (tombstones[0].removed, tombstones[run_len - 1].removed);
        let key = Key::Index { first: first.cast_signed(), leader_epoch, uuid: new_uuid() };
        let (bytes, hash) = encode_tombstone_run(&tombstones);
        manifest.tombstone_runs.push(RunRef {
            key,
            hash,
            size_bytes: bytes.len() as u64,
            count: run_len as u32,
            first: first.cast_signed(),
            last: last.cast_signed(),
            bytes: 0,
            max_timestamp: tombstones.iter().map(|tombstone| tombstone.time_ms).max().unwrap_or(NO_TIMESTAMP),
            added: manifest.version,
            buried: 0,
        });
        sealed.push(SealedRun { key, bytes });
    }
    sealed
}

/// What retention may see without a manifest. Entries in sealed runs count from their references, dead ones too, until buried.
pub fn live_summary(manifest: &Manifest, pointer: &RemotePointer) -> LiveSummary {
    let live = |entry: &&Entry| !is_dead(entry.last_offset, entry.added, pointer, manifest.live_from);
    let runs = manifest.entry_runs.iter().filter(|run| run.last >= pointer.log_start_offset);
    let open = manifest.entries.iter().filter(live);
    let bytes =
        runs.clone().map(|run| run.bytes).sum::<u64>() + open.clone().map(|entry| entry.size_bytes).sum::<u64>();
    let oldest = open.map(|entry| entry.max_timestamp).min().unwrap_or(NO_TIMESTAMP);
    // A run tells only its greatest timestamp: 0 makes retention look into it.
    let oldest_max_timestamp = if runs.count() > 0 { 0 } else { oldest };
    LiveSummary { remote_bytes: bytes, oldest_max_timestamp }
}

/// What an answer to an advance means for its proposer (rule 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The pointer holds what was proposed.
    Done(RemotePointer),
    /// Deposed or stale: forget what is in memory, delete nothing.
    Lost(Refusal, RemotePointer),
}

pub fn settle(advance: &Advance, outcome: &AdvanceOutcome) -> Verdict {
    let pointer = outcome.pointer;
    let Err(refusal) = outcome.accepted else { return Verdict::Done(pointer) };
    let change = &advance.change;
    let holds = match &change.manifest {
        Some(new) => pointer.manifest.is_some_and(|held| held.uuid == new.manifest.uuid),
        None => {
            pointer.version > advance.expected_version
                && change.log_start_offset.is_none_or(|offset| pointer.log_start_offset >= offset)
                && change.complete_from.is_none_or(|from| pointer.complete_from >= from)
                && (!change.close || pointer.state == PointerState::Closed)
        }
    };
    if holds { Verdict::Done(pointer) } else { Verdict::Lost(refusal, pointer) }
}

/// Total retention of a topic; `None` = without bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    pub retention_ms: Option<i64>,
    pub retention_bytes: Option<u64>,
    /// Bytes of the local log above `highest_copied_offset`; they count towards `retention_bytes`.
    pub local_bytes_above: u64,
}

impl Retention {
    /// True if the pointer alone does not rule out that something has expired.
    pub fn may_expire(&self, pointer: &RemotePointer, now_ms: i64) -> bool {
        let by_time = self.retention_ms.is_some_and(|ms| {
            pointer.oldest_max_timestamp != NO_TIMESTAMP && pointer.oldest_max_timestamp <= now_ms.saturating_sub(ms)
        });
        let total = pointer.remote_bytes.saturating_add(self.local_bytes_above);
        pointer.has_live() && (by_time || self.retention_bytes.is_some_and(|bound| total > bound))
    }
}

/// Walks live entries from the oldest on and stops at the first that stays.
#[derive(Debug)]
pub struct Expiry {
    retention: Retention,
    now_ms: i64,
    /// Live remote bytes and local ones above, less what has expired.
    total: u64,
    /// The log start to come, if anything has expired.
    pub new_log_start: Option<Offset>,
}

impl Expiry {
    /// `live_bytes`: of all live entries.
    pub fn new(retention: Retention, live_bytes: u64, now_ms: i64) -> Expiry {
        let total = live_bytes.saturating_add(retention.local_bytes_above);
        Expiry { retention, now_ms, total, new_log_start: None }
    }

    /// True if the entry has expired and the next one is to be looked at.
    pub fn next(&mut self, entry: &Entry) -> bool {
        let horizon = self.retention.retention_ms.map(|ms| self.now_ms.saturating_sub(ms));
        let by_time = entry.max_timestamp >= 0 && horizon.is_some_and(|horizon| entry.max_timestamp <= horizon);
        let breach = self.retention.retention_bytes.map_or(0, |bound| self.total.saturating_sub(bound));
        let by_size = breach > 0 && breach >= entry.size_bytes;
        if by_time || by_size {
            self.total = self.total.saturating_sub(entry.size_bytes);
            self.new_log_start = Some(entry.last_offset + 1);
        }
        by_time || by_size
    }
}

/// The greatest version such that every tombstone removed at or before it is older than `delay_ms`.
pub fn ripe_upto(manifest: &Manifest, now_ms: i64, delay_ms: i64) -> Option<u64> {
    let old = |time_ms: i64| time_ms <= now_ms.saturating_sub(delay_ms);
    let mut ripe = None;
    for run in &manifest.tombstone_runs {
        if !old(run.max_timestamp) {
            // Its first versions may be ripe, but a run goes as a whole.
            return ripe.filter(|upto| *upto < run.first.cast_unsigned());
        }
        ripe = Some(run.last.cast_unsigned());
    }
    for tombstone in &manifest.tombstones {
        if !old(tombstone.time_ms) {
            return ripe.map(|upto: u64| upto.min(tombstone.removed - 1));
        }
        ripe = Some(tombstone.removed);
    }
    ripe
}

/// True if the manifest is worth writing anew: dead entries to bury, or confirmed tombstones of more than superseded manifests.
/// `oldest_run`: the entries of the oldest run, if some of them may be dead.
pub fn wants_manifest(
    manifest: &Manifest,
    oldest_run: Option<&[Entry]>,
    pointer: &RemotePointer,
    confirmed_upto: u64,
) -> bool {
    let live_from = manifest.live_from;
    let dead_run = manifest.entry_runs.first().zip(oldest_run).is_some_and(|(run, entries)| {
        let next = entries.get(run.buried as usize);
        next.is_some_and(|entry| is_dead(entry.last_offset, entry.added, pointer, live_from))
    });
    let oldest = manifest.entries.first().filter(|_| manifest.entry_runs.is_empty());
    let dead_entry = oldest.is_some_and(|entry| is_dead(entry.last_offset, entry.added, pointer, live_from));
    let confirmed =
        |tombstone: &Tombstone| tombstone.removed <= confirmed_upto && !matches!(tombstone.key, Key::Manifest { .. });
    let confirmed_run = manifest.tombstone_runs.first().is_some_and(|run| run.last.cast_unsigned() <= confirmed_upto);
    dead_run || dead_entry || confirmed_run || manifest.tombstones.iter().any(confirmed)
}

/// True if this temporary file of an upload is of no use to anybody: its writer was deposed, or has lost.
pub fn is_leftover(key: &Key, leader_epoch: LeaderEpoch, lost: &HashSet<Uuid>) -> bool {
    key.leader_epoch() < leader_epoch || lost.contains(&key.uuid())
}

/// True if nobody can name this key any more: the current manifest does not, and its writer was deposed or has lost.
pub fn is_garbage(key: &Key, named: &HashSet<Uuid>, leader_epoch: LeaderEpoch, lost: &HashSet<Uuid>) -> bool {
    !named.contains(&key.uuid()) && is_leftover(key, leader_epoch, lost)
}
