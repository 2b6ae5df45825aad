//! Every interleaving of a few moves of two leaders, over the pure core: `plan` decides, replay judges.
//!
//! The shell is modelled as the module docs of `partition`, `housekeep` and `delete` describe it: objects first, then the
//! proposal; nothing is deleted before the answer to `complete_from`; an answer that does not come is asked for again.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use strandline_protocol::ids::Offset;
use strandline_protocol::remote_pointer::{
    Advance, AdvanceChange, AdvanceOutcome, Leadership, ManifestRef, NewManifest, PointerState, RemotePointer, judge,
};
use uuid::Uuid;

use super::harness::tp;
use crate::keys::{Key, SegmentKey};
use crate::manifest::{Entry, Manifest, SegmentFormat, decode_entry_run, decode_tombstone_run};
use crate::plan::{self, NextManifest, Verdict};

/// Events of one history, the first copy not counted.
const DEPTH: usize = 6;
/// Offsets of one segment.
const SEGMENT: i64 = 10;
/// Entries that stay open, so that a few copies reach sealed runs.
const RUN_LEN: usize = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Copy(usize),
    /// DeleteRecords into the second segment of what is live.
    Trim(usize),
    /// Retention drops the oldest segment.
    Expire(usize),
    Bury(usize),
    Delete(usize),
    Collect(usize),
    /// The controller hears the proposal of this leader, and the answer arrives.
    Answered(usize),
    /// It hears it, and the answer is lost.
    Unanswered(usize),
    Elect(usize),
}

#[derive(Debug, Clone)]
struct Proposal {
    advance: Advance,
    manifest: Option<Arc<Manifest>>,
    uuids: Vec<Uuid>,
    /// Delete what is ripe up to here once this is known to be done.
    deletes_upto: Option<u64>,
    unknown: bool,
}

#[derive(Debug, Clone, Default)]
struct Broker {
    leader_epoch: i32,
    known: RemotePointer,
    in_doubt: Option<Proposal>,
    lost: HashSet<Uuid>,
    confirmed_upto: u64,
}

#[derive(Debug, Clone)]
struct World {
    pointer: RemotePointer,
    leadership: Leadership,
    brokers: [Broker; 2],
    bucket: BTreeMap<Uuid, Arc<Stored>>,
    history: Vec<RemotePointer>,
    tombstoned: BTreeSet<Uuid>,
    next_uuid: u128,
    now_ms: i64,
}

#[derive(Debug)]
enum Stored {
    Segment,
    Manifest(Box<Manifest>),
    Run(bytes::Bytes),
}

impl World {
    fn new() -> World {
        let pointer = RemotePointer { version: 1, state: PointerState::Open, ..RemotePointer::default() };
        let broker = |leader_epoch| Broker { leader_epoch, known: pointer, ..Broker::default() };
        World {
            pointer,
            leadership: Leadership { leader: 0, leader_epoch: 5, broker_epoch: 1, deleting: false },
            brokers: [broker(5), broker(4)],
            bucket: BTreeMap::new(),
            history: vec![pointer],
            tombstoned: BTreeSet::new(),
            next_uuid: 1,
            now_ms: 0,
        }
    }

    fn manifest(&self, pointer: &RemotePointer) -> Option<&Manifest> {
        let named = pointer.manifest?;
        match self.bucket.get(&named.uuid).map(Arc::as_ref) {
            Some(Stored::Manifest(manifest)) => Some(manifest),
            _ => panic!("version {} names a manifest that is gone", pointer.version),
        }
    }

    fn entry_runs(&self, manifest: &Manifest) -> Vec<Arc<Vec<Entry>>> {
        let load = |run: &crate::manifest::RunRef| match self.bucket.get(&run.key.uuid()).map(Arc::as_ref) {
            Some(Stored::Run(bytes)) => Arc::new(decode_entry_run(bytes, run).unwrap()),
            _ => panic!("a run is gone"),
        };
        manifest.entry_runs.iter().map(load).collect()
    }

    fn tombstones(&self, manifest: &Manifest, upto: u64) -> Vec<(Uuid, u64)> {
        let mut all = Vec::new();
        for run in manifest.tombstone_runs.iter().filter(|run| run.last.cast_unsigned() <= upto) {
            let Some(Stored::Run(bytes)) = self.bucket.get(&run.key.uuid()).map(Arc::as_ref) else {
                panic!("a run of tombstones is gone")
            };
            all.extend(decode_tombstone_run(bytes, run).unwrap().iter().map(|t| (t.key.uuid(), t.removed)));
        }
        all.extend(manifest.tombstones.iter().map(|t| (t.key.uuid(), t.removed)));
        all
    }

    /// False if the event cannot happen now, or would change nothing.
    fn happen(&mut self, event: Event) -> bool {
        self.now_ms += 1;
        match event {
            Event::Elect(to) => self.elect(to),
            Event::Answered(of) => self.deliver(of, true),
            Event::Unanswered(of) => self.deliver(of, false),
            Event::Copy(by) | Event::Trim(by) | Event::Expire(by) | Event::Bury(by) | Event::Delete(by)
                if self.brokers[by].in_doubt.is_some() =>
            {
                // What is in doubt is asked for first.
                false
            }
            Event::Copy(by) => self.write(by, true),
            Event::Bury(by) => self.write(by, false),
            Event::Trim(by) => self.trim(by, SEGMENT / 2 + SEGMENT),
            Event::Expire(by) => self.trim(by, SEGMENT),
            Event::Delete(by) => self.delete(by),
            Event::Collect(by) => self.collect(by),
        }
    }

    fn elect(&mut self, to: usize) -> bool {
        if self.leadership.leader == to as i32 {
            return false;
        }
        (self.leadership.leader, self.leadership.leader_epoch) = (to as i32, self.leadership.leader_epoch + 1);
        let leader_epoch = self.leadership.leader_epoch;
        self.brokers[to] = Broker { leader_epoch, known: self.pointer, ..Broker::default() };
        true
    }

    fn propose(
        &mut self,
        by: usize,
        change: AdvanceChange,
        deletes_upto: Option<u64>,
        written: (Option<Manifest>, Vec<Uuid>),
    ) {
        let broker = &mut self.brokers[by];
        let advance = Advance {
            tp: tp(),
            leader_epoch: broker.leader_epoch,
            broker_id: by as i32,
            broker_epoch: 1,
            expected_version: broker.known.version,
            change,
        };
        let (manifest, uuids) = (written.0.map(Arc::new), written.1);
        broker.in_doubt = Some(Proposal { advance, manifest, uuids, deletes_upto, unknown: false });
    }

    fn write(&mut self, by: usize, copies: bool) -> bool {
        let pointer = self.brokers[by].known;
        let Some(named) = pointer.manifest else { return copies && self.write_next(by, pointer, None, copies) };
        // A deposed leader may know a manifest that is gone by now: its move ends there.
        let Some(Stored::Manifest(manifest)) = self.bucket.get(&named.uuid).map(Arc::as_ref) else { return false };
        let manifest = manifest.as_ref().clone();
        self.write_next(by, pointer, Some(manifest), copies)
    }

    fn write_next(&mut self, by: usize, pointer: RemotePointer, current: Option<Manifest>, copies: bool) -> bool {
        let readable = |world: &World, manifest: &Manifest| {
            manifest.entry_runs.iter().all(|run| world.bucket.contains_key(&run.key.uuid()))
        };
        if current.as_ref().is_some_and(|manifest| !readable(self, manifest)) {
            return false;
        }
        let runs = current.as_ref().map(|manifest| self.entry_runs(manifest)).unwrap_or_default();
        let oldest = runs.first().map(|entries| entries.as_slice());
        let confirmed_upto = self.brokers[by].confirmed_upto;
        let idle = current.as_ref().is_none_or(|m| !plan::wants_manifest(m, oldest, &pointer, confirmed_upto));
        if !copies && idle {
            return false;
        }
        let leader_epoch = self.brokers[by].leader_epoch;
        let mut uuid = self.next_uuid;
        let mut new_uuid = || {
            uuid += 1;
            Uuid::from_u128(uuid)
        };
        let copied =
            if copies { vec![entry(pointer.highest_copied_offset + 1, leader_epoch, new_uuid())] } else { Vec::new() };
        let mut written: Vec<Uuid> = copied.iter().map(|entry| entry.key.uuid).collect();
        let draft = plan::next_manifest(
            &NextManifest {
                tp: tp(),
                leader_epoch,
                now_ms: self.now_ms,
                pointer: &pointer,
                current: current.as_ref(),
                copied,
                leader_epochs: vec![(leader_epoch, 0)],
                dead_runs: runs.into_iter().take(1).collect(),
                confirmed_upto,
                opens_at: None,
                run_len: RUN_LEN,
            },
            new_uuid,
        );
        self.next_uuid = uuid;
        let manifest = draft.manifest;
        manifest.check().unwrap();
        for uuid in &written {
            self.bucket.insert(*uuid, Arc::new(Stored::Segment));
        }
        for run in draft.sealed {
            written.push(run.key.uuid());
            self.bucket.insert(run.key.uuid(), Arc::new(Stored::Run(run.bytes)));
        }
        written.push(manifest.uuid);
        self.bucket.insert(manifest.uuid, Arc::new(Stored::Manifest(Box::new(manifest.clone()))));
        let (_, hash) = manifest.encode();
        let named = ManifestRef { version: manifest.version, leader_epoch, uuid: manifest.uuid, hash };
        let new = NewManifest {
            manifest: named,
            highest_copied_offset: manifest.highest_copied_offset,
            highest_copied_epoch: manifest.highest_copied_epoch,
        };
        let live = Some(plan::live_summary(&manifest, &pointer));
        let change = AdvanceChange { manifest: Some(new), live, ..AdvanceChange::default() };
        self.propose(by, change, None, (Some(manifest), written));
        true
    }

    fn trim(&mut self, by: usize, offsets: i64) -> bool {
        let log_start = self.brokers[by].known.log_start_offset + offsets;
        let change = AdvanceChange { log_start_offset: Some(log_start), ..AdvanceChange::default() };
        self.propose(by, change, None, (None, Vec::new()));
        true
    }

    fn delete(&mut self, by: usize) -> bool {
        let (known, confirmed) = (self.brokers[by].known, self.brokers[by].confirmed_upto);
        let Some(named) = known.manifest else { return false };
        let Some(Stored::Manifest(manifest)) = self.bucket.get(&named.uuid).map(Arc::as_ref) else { return false };
        let Some(upto) = plan::ripe_upto(manifest, self.now_ms, 0).filter(|upto| *upto > confirmed) else {
            return false;
        };
        if upto <= known.complete_from {
            self.delete_upto(by, upto);
            return true;
        }
        let change = AdvanceChange { complete_from: Some(upto), ..AdvanceChange::default() };
        self.propose(by, change, Some(upto), (None, Vec::new()));
        true
    }

    /// Only ever after `complete_from` is known to have passed `upto`.
    fn delete_upto(&mut self, by: usize, upto: u64) {
        let known = self.brokers[by].known;
        let Some(Stored::Manifest(manifest)) =
            known.manifest.and_then(|named| self.bucket.get(&named.uuid)).map(Arc::as_ref)
        else {
            return;
        };
        for (uuid, removed) in self.tombstones(&manifest.clone(), upto) {
            if removed <= upto {
                self.bucket.remove(&uuid);
            }
        }
        self.brokers[by].confirmed_upto = upto;
    }

    fn collect(&mut self, by: usize) -> bool {
        let broker = &self.brokers[by];
        if broker.in_doubt.is_some() {
            return false;
        }
        let mut named = HashSet::new();
        if let Some(reference) = broker.known.manifest {
            let Some(Stored::Manifest(manifest)) = self.bucket.get(&reference.uuid).map(Arc::as_ref) else {
                return false;
            };
            if manifest
                .entry_runs
                .iter()
                .chain(&manifest.tombstone_runs)
                .any(|run| !self.bucket.contains_key(&run.key.uuid()))
            {
                return false;
            }
            named = self.named(manifest);
        }
        let epochs = self.epochs();
        let garbage = |uuid: &Uuid| {
            let key = Key::Index { first: 0, leader_epoch: epochs[uuid], uuid: *uuid };
            plan::is_garbage(&key, &named, broker.leader_epoch, &broker.lost)
        };
        let gone: Vec<Uuid> = self.bucket.keys().filter(|uuid| garbage(uuid)).copied().collect();
        gone.iter().for_each(|uuid| drop(self.bucket.remove(uuid)));
        !gone.is_empty()
    }

    fn named(&self, manifest: &Manifest) -> HashSet<Uuid> {
        let mut named = HashSet::from([manifest.uuid]);
        for (run, entries) in manifest.entry_runs.iter().zip(self.entry_runs(manifest)) {
            named.insert(run.key.uuid());
            named.extend(entries.iter().skip(run.buried as usize).map(|entry| entry.key.uuid));
        }
        named.extend(manifest.tombstone_runs.iter().map(|run| run.key.uuid()));
        named.extend(self.tombstones(manifest, u64::MAX).iter().map(|(uuid, _)| *uuid));
        named.extend(manifest.entries.iter().map(|entry| entry.key.uuid));
        named
    }

    /// The writer's epoch of everything, as the keys say it: here the uuid does.
    fn epochs(&self) -> BTreeMap<Uuid, i32> {
        let mut epochs = BTreeMap::new();
        for (uuid, stored) in &self.bucket {
            if let Stored::Manifest(manifest) = stored.as_ref() {
                epochs.insert(*uuid, manifest.leader_epoch);
                epochs.extend(manifest.entries.iter().map(|entry| (entry.key.uuid, entry.key.leader_epoch)));
                let runs = manifest.entry_runs.iter().chain(&manifest.tombstone_runs);
                epochs.extend(runs.map(|run| (run.key.uuid(), run.key.leader_epoch())));
                epochs.extend(manifest.tombstones.iter().map(|t| (t.key.uuid(), t.key.leader_epoch())));
            }
        }
        // What no manifest left in the bucket names: nothing is known of it, so it is not touched.
        for uuid in self.bucket.keys() {
            epochs.entry(*uuid).or_insert(i32::MAX);
        }
        epochs
    }

    fn deliver(&mut self, of: usize, heard: bool) -> bool {
        let Some(mut proposal) = self.brokers[of].in_doubt.clone() else { return false };
        let judged = judge(&self.pointer, Some(&self.leadership), &proposal.advance);
        if let Ok(next) = judged {
            self.pointer = next;
            self.history.push(next);
            if let Some(manifest) = &proposal.manifest {
                let back = manifest.entries.iter().find(|entry| self.tombstoned.contains(&entry.key.uuid));
                assert!(back.is_none(), "a tombstoned key is back");
                self.tombstoned.extend(manifest.tombstones.iter().map(|tombstone| tombstone.key.uuid()));
            }
        }
        if !heard {
            proposal.unknown = true;
            self.brokers[of].in_doubt = Some(proposal);
            return judged.is_ok();
        }
        let outcome = AdvanceOutcome { accepted: judged.map(drop), pointer: self.pointer };
        self.brokers[of].in_doubt = None;
        match plan::settle(&proposal.advance, &outcome) {
            Verdict::Done(pointer) => {
                self.brokers[of].known = pointer;
                if let Some(upto) = proposal.deletes_upto {
                    assert!(pointer.complete_from >= upto);
                    self.delete_upto(of, upto);
                }
            }
            Verdict::Lost(_, pointer) => {
                self.brokers[of].known = pointer;
                if !proposal.unknown {
                    self.brokers[of].lost.extend(proposal.uuids);
                }
            }
        }
        true
    }

    fn check(&self) {
        let current = self.history[self.history.len() - 1];
        assert_eq!(current, self.pointer);
        for pair in self.history.windows(2) {
            assert!(pair[1].version == pair[0].version + 1 && pair[1].complete_from >= pair[0].complete_from);
            assert!(pair[1].log_start_offset >= pair[0].log_start_offset);
            assert!(pair[1].highest_copied_offset >= pair[0].highest_copied_offset);
        }
        for pointer in self.history.iter().filter(|pointer| pointer.version >= current.complete_from) {
            let Some(manifest) = self.manifest(pointer) else {
                assert!(!pointer.has_live());
                continue;
            };
            let mut next: Option<Offset> = None;
            let runs = self.entry_runs(manifest);
            let sealed = manifest.entry_runs.iter().zip(&runs).flat_map(|(run, all)| all[run.buried as usize..].iter());
            for entry in sealed.chain(&manifest.entries) {
                if plan::is_dead(entry.last_offset, entry.added, pointer, manifest.live_from) {
                    continue;
                }
                assert!(self.bucket.contains_key(&entry.key.uuid), "version {} names what is gone", pointer.version);
                assert!(
                    next.map_or(entry.base_offset() <= pointer.log_start_offset, |next| next == entry.base_offset())
                );
                next = Some(entry.last_offset + 1);
            }
            let end = if pointer.has_live() { Some(pointer.highest_copied_offset + 1) } else { None };
            assert_eq!(next, end, "version {}: live entries end elsewhere", pointer.version);
            // What can be deleted later must be readable until then.
            self.tombstones(manifest, u64::MAX);
        }
    }
}

fn entry(base_offset: Offset, leader_epoch: i32, uuid: Uuid) -> Entry {
    Entry {
        key: SegmentKey { base_offset, leader_epoch, uuid },
        last_offset: base_offset + SEGMENT - 1,
        size_bytes: 1,
        sidecar_size_bytes: 1,
        min_timestamp: 0,
        max_timestamp: 0,
        content_hash: 0,
        sidecar_hash: 0,
        added: 0,
        flags: 0,
        format: SegmentFormat::RecordBatches,
        epochs: vec![(leader_epoch, base_offset)],
    }
}

fn events() -> Vec<Event> {
    let of_each = |by| {
        [
            Event::Answered(by),
            Event::Unanswered(by),
            Event::Copy(by),
            Event::Trim(by),
            Event::Expire(by),
            Event::Bury(by),
            Event::Delete(by),
            Event::Collect(by),
            Event::Elect(by),
        ]
    };
    [0, 1].into_iter().flat_map(of_each).collect()
}

/// Returns the number of states looked at.
fn search(world: &World, events: &[Event], path: &mut Vec<Event>, depth: usize) -> u64 {
    let mut states = 1;
    for event in events {
        let mut next = world.clone();
        path.push(*event);
        let happened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let happened = next.happen(*event);
            if happened {
                next.check();
            }
            happened
        }));
        match happened {
            Ok(true) if depth > 1 => states += search(&next, events, path, depth - 1),
            Ok(_) => {}
            Err(_) => panic!("after {path:?}"),
        }
        path.pop();
    }
    states
}

fn world_after(beginning: &[Event]) -> World {
    let mut world = World::new();
    for event in beginning {
        assert!(world.happen(*event), "{event:?}");
        world.check();
    }
    world
}

/// From the beginning, from a log of three segments, and from one with something to bury and something to delete.
#[test]
fn no_interleaving_breaks_an_invariant() {
    use Event::{Answered, Bury, Copy, Expire};
    let copied = [Copy(0), Answered(0), Copy(0), Answered(0), Copy(0), Answered(0)];
    let buried = [Expire(0), Answered(0), Bury(0), Answered(0), Expire(0), Answered(0)];
    let mut states = 0;
    for beginning in [&[][..], &copied[..], &[&copied[..], &buried[..]].concat()[..]] {
        states += search(&world_after(beginning), &events(), &mut Vec::new(), DEPTH);
    }
    assert!(states > 10_000, "{states}");
}
