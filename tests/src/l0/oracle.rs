//! What must hold, whatever happens: the committed log as the run has shown it, and the invariants over it.
//!
//! Owns the model: every batch that was ever below the high watermark of a leader, in order. An invariant is a function of its
//! own, named with its number in the list that `docs/TESTING.md` repeats. Does not own when it is asked (`world`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use object_store::memory::InMemory;
use strandline::partition::Partition;
use strandline_controller::record::PartitionRecord;
use strandline_log::{Log, LogOffsets};
use strandline_protocol::ids::{BrokerId, TopicPartition};
use strandline_protocol::record_batch::{BatchHeader, batches};
use strandline_protocol::remote_pointer::{PointerState, RemotePointer};
use strandline_tiering::{Key, Manifest, PartitionPrefix};

use super::clients::Attempt;
use super::store::object;
use super::swarm::Swarm;

/// Bytes of one look into a log.
const LOOK_BYTES: u32 = 1 << 20;

/// A broken invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub invariant: &'static str,
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.detail)
    }
}

pub type Held = Result<(), Violation>;

macro_rules! broken {
    ($name:expr, $($detail:tt)*) => { Err(Violation { invariant: $name, detail: format!($($detail)*) }) };
}

/// A committed batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Committed {
    base: i64,
    last: i64,
    epoch: i32,
    crc: u32,
    producer: i64,
    sequence: i32,
}

impl Committed {
    fn of(header: &BatchHeader) -> Committed {
        Committed {
            base: header.base_offset,
            last: header.last_offset(),
            epoch: header.partition_leader_epoch,
            crc: header.crc,
            producer: header.producer_id,
            sequence: header.base_sequence,
        }
    }
}

/// What was seen of one replica in its present life.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// Compared with the committed log up to here (exclusive).
    checked: i64,
    high_watermark: i64,
    log_start: i64,
}

/// The model.
pub struct Oracle {
    tp: TopicPartition,
    prefix: PartitionPrefix,
    committed: Vec<Committed>,
    /// Exclusive.
    end: i64,
    /// The greatest log start that was decided.
    start: i64,
    seen: BTreeMap<BrokerId, Seen>,
    /// An unclean election happened: what was not tiered may be gone.
    pub lossy: bool,
    synced: bool,
    acknowledged: BTreeSet<(i64, i32)>,
    pointer: RemotePointer,
    /// Keys that each version names as live, as long as that version may be read.
    live: BTreeMap<u64, BTreeSet<String>>,
    compared: BTreeSet<String>,
    /// What a node that lost power as a member must still have (exclusive end).
    owed: BTreeMap<BrokerId, i64>,
    /// Leaders by epoch, as they acted.
    leaders: BTreeMap<i32, BrokerId>,
}

impl Oracle {
    pub fn new(tp: TopicPartition, prefix: PartitionPrefix, swarm: &Swarm) -> Oracle {
        Oracle {
            tp,
            prefix,
            committed: Vec::new(),
            end: 0,
            start: 0,
            seen: BTreeMap::new(),
            lossy: false,
            synced: swarm.synced,
            acknowledged: BTreeSet::new(),
            pointer: RemotePointer::default(),
            live: BTreeMap::new(),
            compared: BTreeSet::new(),
            owed: BTreeMap::new(),
            leaders: BTreeMap::new(),
        }
    }

    pub fn committed_end(&self) -> i64 {
        self.end
    }

    /// A replica begins a new life: what was seen of its log counts for nothing.
    pub fn forget(&mut self, node: BrokerId) {
        self.seen.remove(&node);
    }

    /// A node that is in sync, or eligible, loses power: what is committed must be on its disk.
    pub fn lost_power(&mut self, node: BrokerId) {
        if self.synced {
            self.owed.insert(node, self.end);
        }
    }

    /// It is no replica any more.
    pub fn moved_away(&mut self, node: BrokerId) {
        self.owed.remove(&node);
    }

    /// A leadership began.
    pub fn leads(&mut self, node: BrokerId, partition: &Partition) -> Held {
        let epoch = partition.leader_epoch();
        one_leader_per_epoch(&mut self.leaders, epoch, node)?;
        let offsets = partition.offsets();
        let newest = self.leaders.keys().next_back().is_none_or(|newest| epoch >= *newest);
        // Who hears late of an epoch that is over commits nothing in it.
        if self.lossy || !newest {
            return Ok(());
        }
        // A log that its disk has failed is not served, whatever is left of it.
        if partition.is_ready() && !partition.dir.is_offline() {
            leader_completeness(node, &offsets, self.end)?;
            let log = partition.log();
            self.compare(node, &log, offsets.local_log_start, self.end.min(offsets.log_end))?;
        }
        Ok(())
    }

    /// Looks at a replica after something happened to it. `member`: it is in the in-sync set, or eligible, by the controller's record.
    pub fn look(&mut self, node: BrokerId, partition: &Partition, member: bool) -> Held {
        let offsets = partition.offsets();
        let log = partition.log();
        if partition.leads() && partition.is_ready() && offsets.high_watermark > self.end {
            self.extend(node, &log, offsets.high_watermark)?;
        }
        let before = self.seen.get(&node).copied();
        if let Some(owed) = self.owed.remove(&node).filter(|_| !self.lossy) {
            synced_survives(node, &offsets, owed)?;
        }
        let seen = before.unwrap_or(Seen { checked: offsets.local_log_start, ..Seen::default() });
        if !self.lossy && partition.is_ready() {
            // Outside of the in-sync set a log may begin anew, at the batch that holds its leader's log start.
            if member {
                high_watermark_never_falls(node, seen.high_watermark, offsets.high_watermark)?;
            }
            high_watermark_is_committed(node, offsets.high_watermark, self.end)?;
            if member && self.synced {
                member_has_everything(node, &offsets, self.end)?;
            }
        }
        // A follower may begin anew at the batch that holds its leader's log start.
        if partition.leads() {
            log_start_never_falls(node, seen.log_start, offsets.log_start)?;
        }
        local_only_behind_pointer(node, &offsets, &partition.pointer())?;
        let upto = offsets.high_watermark.min(self.end);
        // A log that was cut, or began anew, is looked at again.
        let from = seen.checked.min(offsets.log_end).max(offsets.local_log_start);
        if upto > from && !self.lossy {
            self.compare(node, &log, from, upto)?;
        }
        let checked = if self.lossy { 0 } else { upto.max(offsets.local_log_start) };
        let now = Seen { checked, high_watermark: offsets.high_watermark, log_start: offsets.log_start };
        self.seen.insert(node, now);
        Ok(())
    }

    fn extend(&mut self, node: BrokerId, log: &Log, upto: i64) -> Held {
        for header in headers(log, self.end, upto)? {
            let batch = Committed::of(&header);
            if batch.last >= upto {
                break;
            }
            if !self.lossy {
                log_has_no_hole(node, self.end, &header)?;
                self.appended_once(&batch, log.offsets().log_start)?;
            }
            self.committed.push(batch);
            self.end = batch.last + 1;
        }
        Ok(())
    }

    /// 24: each sequence is appended exactly once, in order. As in Kafka a replica that began at `log_start` knows nothing of producers
    /// whose records were all deleted below: such a record may come again, and then stands in the log once.
    fn appended_once(&self, batch: &Committed, log_start: i64) -> Held {
        let earlier = self.committed.iter().rev().find(|c| c.producer == batch.producer);
        let Some(earlier) = earlier.filter(|earlier| earlier.last >= log_start) else { return Ok(()) };
        let records = (earlier.last - earlier.base + 1) as i32;
        if batch.sequence != earlier.sequence + records {
            return broken!("24 each sequence once, in order", "{batch:?} follows {earlier:?}");
        }
        Ok(())
    }

    /// 10, 11: what lies below the high watermark is the same everywhere, and stays what it was.
    fn compare(&self, node: BrokerId, log: &Log, from: i64, upto: i64) -> Held {
        if upto <= from {
            return Ok(());
        }
        let at = self.committed.partition_point(|c| c.last < from);
        let expected = self.committed[at..].iter().take_while(|c| c.base < upto);
        let found = headers(log, from, upto)?;
        let mut found = found.iter().map(Committed::of).filter(|c| c.base < upto);
        for expected in expected {
            let found = found.next();
            if found != Some(*expected) {
                return broken!(
                    "10 log matching",
                    "node {node}, asked for {from}..{upto}: {found:?}, committed is {expected:?}"
                );
            }
        }
        Ok(())
    }

    /// 7, 9: what is acknowledged is committed, where the answer says.
    pub fn acknowledge(&mut self, node: BrokerId, attempt: &Attempt, first_offset: i64) -> Held {
        let at = self.committed.partition_point(|c| c.last < first_offset);
        let found = self.committed.get(at).copied();
        let right = found.is_some_and(|c| c.base == first_offset && c.crc == attempt.batch.crc);
        if !right && !self.lossy {
            return broken!(
                "7 no acknowledgement before it is safe",
                "node {node} acknowledges {:?} at {first_offset}; there {found:?} is committed, up to {}",
                (attempt.producer_id, attempt.batch.sequence),
                self.end
            );
        }
        self.acknowledged.insert((attempt.producer_id, attempt.batch.sequence));
        Ok(())
    }

    /// 11: what a reader was given is what is committed. Returns where it goes on; none if it was given nothing.
    pub fn consumed(&self, node: BrokerId, from: i64, bytes: &[u8]) -> Result<Option<i64>, Violation> {
        let mut next = None;
        for (header, batch) in batches(bytes).map_while(Result::ok) {
            let found = Committed::of(&header);
            let at = self.committed.partition_point(|c| c.last < found.base);
            let right = header.verify_crc(batch).is_ok() && self.committed.get(at) == Some(&found);
            if !right && !self.lossy {
                return broken!("11 consistent read", "node {node} at {from} gives {found:?}");
            }
            next = Some(found.last + 1);
        }
        Ok(next)
    }

    /// The controller's record has changed.
    pub fn elected(&mut self, before: &PartitionRecord, after: &PartitionRecord) -> Held {
        if after.leader >= 0 && after.leader != before.leader {
            let clean = before.isr.contains(&after.leader) || before.elr.contains(&after.leader);
            self.lossy |= !clean;
        }
        epochs_never_fall(before, after)?;
        leader_is_in_sync(after)
    }

    /// The controller's pointer has moved.
    pub fn pointed(&mut self, pointer: RemotePointer, objects: &InMemory) -> Held {
        if pointer == self.pointer {
            return Ok(());
        }
        pointer_never_goes_back(&self.pointer, &pointer)?;
        self.pointer = pointer;
        self.start = self.start.max(pointer.log_start_offset);
        let named = self.live_keys(&pointer, objects)?;
        self.live.insert(pointer.version, named);
        self.live.retain(|version, _| *version >= pointer.complete_from);
        Ok(())
    }

    /// Keys that the version names as live; its entries tile, exist, and hold what is committed.
    fn live_keys(&mut self, pointer: &RemotePointer, objects: &InMemory) -> Result<BTreeSet<String>, Violation> {
        const NAME: &str = "30 committed segments tile and hold what was committed";
        let mut keys = BTreeSet::new();
        let Some(named) = &pointer.manifest else {
            if pointer.has_live() {
                return Err(Violation { invariant: NAME, detail: format!("nothing is named by {pointer:?}") });
            }
            return Ok(keys);
        };
        let key = Key::Manifest { version: named.version, leader_epoch: named.leader_epoch, uuid: named.uuid };
        let missing = |key: &str| Violation { invariant: NAME, detail: format!("{key} is named and not there") };
        let name = self.prefix.full(&key.objects()[0]);
        let bytes = object(objects, &name).ok_or_else(|| missing(&name))?;
        let manifest = Manifest::decode(&bytes, &self.tp, named)
            .map_err(|error| Violation { invariant: NAME, detail: format!("{name}: {error}") })?;
        keys.insert(name);
        let mut next = None;
        for entry in &manifest.entries {
            let dead = entry.last_offset < pointer.log_start_offset || entry.added < manifest.live_from;
            if dead || pointer.state != PointerState::Open {
                continue;
            }
            tiles(pointer, next, entry.base_offset())?;
            next = Some(entry.last_offset + 1);
            for object_key in Key::Segment(entry.key).objects() {
                keys.insert(self.prefix.full(&object_key));
            }
            let log = self.prefix.full(&entry.key.log());
            if self.compared.insert(log.clone()) {
                let bytes = object(objects, &log).ok_or_else(|| missing(&log))?;
                self.same_as_committed(&log, &bytes, entry.base_offset(), entry.last_offset)?;
            }
        }
        if pointer.has_live() && next != Some(pointer.highest_copied_offset + 1) {
            return Err(Violation { invariant: NAME, detail: format!("the entries end at {next:?}: {pointer:?}") });
        }
        Ok(keys)
    }

    fn same_as_committed(&self, key: &str, bytes: &[u8], base: i64, last: i64) -> Held {
        if self.lossy {
            return Ok(());
        }
        let at = self.committed.partition_point(|c| c.last < base);
        let expected: Vec<&Committed> = self.committed[at..].iter().take_while(|c| c.base <= last).collect();
        let found: Vec<Committed> = batches(bytes).map_while(Result::ok).map(|(h, _)| Committed::of(&h)).collect();
        if found.len() != expected.len() || found.iter().zip(&expected).any(|(f, e)| f != *e) {
            return broken!(
                "31 remote and local are the same",
                "{key} ({base}..={last}) holds {found:?}, not {expected:?}"
            );
        }
        Ok(())
    }

    /// 29, 34: nothing is deleted that a version which may be read names.
    pub fn deleted(&self, key: &str) -> Held {
        let named = self.live.iter().find(|(_, keys)| keys.contains(key));
        match named {
            Some((version, _)) => broken!("34 nothing named is deleted", "{key} is named by version {version}"),
            None => Ok(()),
        }
    }

    /// At the end: every acknowledged batch is in the committed log, and every replica has it all, here or in the tier.
    pub fn finish(&self, record: &PartitionRecord, replicas: &[(BrokerId, LogOffsets)]) -> Held {
        for key in &self.acknowledged {
            if !self.lossy && !self.committed.iter().any(|c| (c.producer, c.sequence) == *key) {
                return broken!("9 acknowledged records are never lost", "{key:?} is not in the log");
            }
        }
        for (node, offsets) in replicas {
            let behind = offsets.log_end < self.end || offsets.high_watermark < self.end;
            if record.replicas.contains(node) && behind && !self.lossy {
                return broken!("42 replicas catch up", "node {node} has {offsets:?}, committed is {}", self.end);
            }
        }
        Ok(())
    }
}

/// The batches of a log that hold offsets of `from..upto`.
fn headers(log: &Log, from: i64, upto: i64) -> Result<Vec<BatchHeader>, Violation> {
    const NAME: &str = "29 what lies below the high watermark can be read";
    let failed = |detail: String| Violation { invariant: NAME, detail };
    let mut found: Vec<BatchHeader> = Vec::new();
    let mut next = from;
    while next < upto {
        let plan = log.prepare_read(next, log.offsets().log_end).map_err(|e| failed(format!("{from}..{upto}: {e}")))?;
        let read = plan.run(LOOK_BYTES, true).map_err(|e| failed(format!("{from}..{upto}: {e}")))?;
        let bytes = read.records.to_bytes().unwrap_or_default();
        let before = next;
        for (header, _) in batches(&bytes).map_while(Result::ok) {
            next = header.next_offset();
            found.push(header);
        }
        if next == before {
            return Err(failed(format!("nothing comes at {next}, of {from}..{upto}")));
        }
    }
    Ok(found)
}

/// 1: segments and batches follow each other without a hole.
fn log_has_no_hole(node: BrokerId, end: i64, header: &BatchHeader) -> Held {
    if header.base_offset != end {
        return broken!("1 offsets follow each other", "node {node}: after {end} comes {header:?}");
    }
    Ok(())
}

/// 9: who is elected has every committed record.
fn leader_completeness(node: BrokerId, offsets: &LogOffsets, end: i64) -> Held {
    if offsets.log_end < end {
        return broken!("9 leader completeness", "node {node} leads with {offsets:?}, committed is {end}");
    }
    Ok(())
}

/// 9, second half: every member of the in-sync set, and who is eligible, has it too.
fn member_has_everything(node: BrokerId, offsets: &LogOffsets, end: i64) -> Held {
    if offsets.log_end < end {
        return broken!(
            "9 in-sync and eligible replicas have everything",
            "node {node}: {offsets:?}, committed is {end}"
        );
    }
    Ok(())
}

/// 6, 7: a loss of power takes nothing that a member had acknowledged.
fn synced_survives(node: BrokerId, offsets: &LogOffsets, owed: i64) -> Held {
    if offsets.log_end < owed {
        return broken!(
            "6 what was synced and acknowledged survives",
            "node {node}: {offsets:?}, {owed} was committed"
        );
    }
    Ok(())
}

/// 12: one leader acts in an epoch.
fn one_leader_per_epoch(leaders: &mut BTreeMap<i32, BrokerId>, epoch: i32, node: BrokerId) -> Held {
    match leaders.insert(epoch, node) {
        Some(other) if other != node => broken!("12 one leader per epoch", "{node} and {other} lead in epoch {epoch}"),
        _ => Ok(()),
    }
}

/// 4: within a life the high watermark only rises.
fn high_watermark_never_falls(node: BrokerId, before: i64, now: i64) -> Held {
    if now < before {
        return broken!("4 the high watermark never falls", "node {node}: {before} -> {now}");
    }
    Ok(())
}

/// 12: nobody believes more to be committed than any leader has seen.
fn high_watermark_is_committed(node: BrokerId, high_watermark: i64, end: i64) -> Held {
    if high_watermark > end {
        return broken!(
            "12 the high watermark is what a leader committed",
            "node {node}: {high_watermark}, committed is {end}"
        );
    }
    Ok(())
}

/// 4: within a life the log start only rises.
fn log_start_never_falls(node: BrokerId, before: i64, now: i64) -> Held {
    if now < before {
        return broken!("4 the log start never falls", "node {node}: {before} -> {now}");
    }
    Ok(())
}

/// 29: a local segment goes only after the pointer that covers it.
fn local_only_behind_pointer(node: BrokerId, offsets: &LogOffsets, pointer: &RemotePointer) -> Held {
    let covered = (pointer.highest_copied_offset + 1).max(offsets.log_start);
    if pointer.state == PointerState::Open && offsets.local_log_start > covered {
        return broken!("29 tiered and local cover the log", "node {node}: {offsets:?} {pointer:?}");
    }
    Ok(())
}

/// 4, 30: version, log start and what is complete never go back.
fn pointer_never_goes_back(before: &RemotePointer, after: &RemotePointer) -> Held {
    let back = after.version < before.version
        || after.log_start_offset < before.log_start_offset
        || after.complete_from < before.complete_from
        || after.highest_copied_offset < before.highest_copied_offset
        || after.log_start_offset > after.highest_copied_offset + 1;
    if back {
        return broken!("30 the pointer never goes back", "{before:?} -> {after:?}");
    }
    Ok(())
}

/// 30: live entries tile.
fn tiles(pointer: &RemotePointer, next: Option<i64>, base: i64) -> Held {
    let right = match next {
        Some(next) => base == next,
        None => base <= pointer.log_start_offset,
    };
    if !right {
        return broken!("30 committed segments tile", "an entry begins at {base}, {next:?} comes next: {pointer:?}");
    }
    Ok(())
}

/// 2: epochs of a partition's record only rise.
fn epochs_never_fall(before: &PartitionRecord, after: &PartitionRecord) -> Held {
    if after.leader_epoch < before.leader_epoch || after.partition_epoch < before.partition_epoch {
        return broken!("2 epochs never fall", "{before:?} -> {after:?}");
    }
    if after.leader != before.leader && after.leader_epoch == before.leader_epoch {
        return broken!("12 one leader per epoch", "{before:?} -> {after:?}");
    }
    Ok(())
}

/// 12: a leader is in the in-sync set, which is part of the replicas.
fn leader_is_in_sync(record: &PartitionRecord) -> Held {
    let outside = record.isr.iter().chain(&record.elr).any(|id| !record.replicas.contains(id));
    if outside || (record.leader >= 0 && !record.isr.contains(&record.leader)) {
        return broken!("12 the leader is in sync", "{record:?}");
    }
    Ok(())
}
