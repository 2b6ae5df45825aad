//! Order of reads and of sends, inside an operation and from one operation of a process to its next.
//!
//! A step is judged in the version order: +1 is the next known record, more is a skip, less is a step back. A skip or step back
//! of a record below the local log start is a `tier-gap` as well: the record in question is the tier's to serve.

use std::collections::{BTreeMap, HashMap};

use super::op::{Action, Key, Seen, Stage};
use super::pairs::Operation;
use super::report::{Kind, Report};
use super::rules::Rules;
use super::versions::{Versions, reads, sends};

/// Offset and place in the version order of the last record that was read.
type Stand = (i64, i64);

/// In front of the first record.
const BEGINNING: Stand = (-1, -1);

/// Where a process stands.
#[derive(Debug, Default)]
struct Process {
    subscribed: bool,
    /// Of each partition: offset and place of the last record of its last ok read.
    read: BTreeMap<Key, Stand>,
    /// Of each partition: place and value of its last send.
    sent: BTreeMap<Key, (usize, u64)>,
}

/// int-poll-skip, int-nonmonotonic-poll, int-send-skip, int-nonmonotonic-send, poll-skip, nonmonotonic-poll, nonmonotonic-send,
/// tier-gap. `local_starts` = the greatest local log start that was told, 0 if none.
pub fn check(versions: &Versions<'_>, local_starts: &dyn Fn(&Key) -> i64, rules: &Rules, report: &mut Report) {
    let mut processes: HashMap<u32, Process> = HashMap::new();
    let mut checker = Steps { versions, local_starts, report };
    for operation in &versions.operations {
        let process = processes.entry(operation.process).or_default();
        checker.inside_reads(operation);
        checker.inside_sends(operation);
        checker.sends_between(operation, process);
        checker.reads_between(operation, process);
        reposition(operation, process, rules);
    }
}

/// What an assignment leaves of a process's positions.
fn reposition(operation: &Operation<'_>, process: &mut Process, rules: &Rules) {
    match operation.action {
        Action::Assign { keys, seek_to_beginning } if operation.stage != Stage::Fail => {
            process.subscribed = false;
            process.read.retain(|key, _| !seek_to_beginning && keys.contains(key));
            // Where nothing is deleted, a reader from the beginning must be given the first record.
            if *seek_to_beginning && !rules.retention {
                process.read.extend(keys.iter().map(|key| (key.clone(), BEGINNING)));
            }
        }
        Action::Subscribe { topics, .. } if operation.stage != Stage::Fail => {
            process.subscribed = true;
            process.read.retain(|key, _| topics.iter().any(|topic| **topic == *key.topic));
        }
        Action::Rebalance { keys, .. } => process.read.retain(|key, _| keys.contains(key)),
        Action::Crash => process.read.clear(),
        _ => {}
    }
}

struct Steps<'a, 'h> {
    versions: &'a Versions<'h>,
    local_starts: &'a dyn Fn(&Key) -> i64,
    report: &'a mut Report,
}

/// The kinds for a skip and for a step back.
type Pair = (Kind, Kind);

impl Steps<'_, '_> {
    /// Judges the step from a place in the version order to the next read.
    fn step(&mut self, key: &Key, from: Stand, to: Stand, kinds: Pair, operation: &Operation<'_>) {
        if to.1 == from.1 + 1 {
            return;
        }
        let skip = to.1 > from.1;
        let detail = || {
            let what = if skip { format!("{} records between", to.1 - from.1 - 1) } else { "a step back".to_owned() };
            format!("line {} read offset {} after offset {}: {what}", operation.name(), to.0, from.0)
        };
        self.report.add(if skip { kinds.0 } else { kinds.1 }, Some(key), detail);
        let by_assignment = kinds.0 != Kind::SubscribedPollSkip;
        let wrong = if skip { from.0 + 1 } else { to.0 };
        if by_assignment && wrong < (self.local_starts)(key) {
            self.report.add(Kind::TierGap, Some(key), detail);
        }
    }

    fn inside_reads(&mut self, operation: &Operation<'_>) {
        let mut last: BTreeMap<&Key, Stand> = BTreeMap::new();
        for slice in reads(operation).filter(|slice| !operation.rebalance_log.contains(&slice.key)) {
            let partition = self.versions.partition(&slice.key);
            for seen in &slice.records {
                let here = (seen.offset, partition.place_of_read(seen) as i64);
                if let Some(before) = last.insert(&slice.key, here) {
                    self.step(&slice.key, before, here, (Kind::IntPollSkip, Kind::IntNonmonotonicPoll), operation);
                }
            }
        }
    }

    fn inside_sends(&mut self, operation: &Operation<'_>) {
        if operation.stage == Stage::Fail {
            return;
        }
        let mut last: BTreeMap<&Key, usize> = BTreeMap::new();
        for (key, sent) in sends(operation) {
            for one in sent {
                let Some(here) = self.versions.partition(key).place_of_send(one) else { continue };
                let Some(before) = last.insert(key, here) else { continue };
                let kind = if here > before + 1 { Kind::IntSendSkip } else { Kind::IntNonmonotonicSend };
                if here != before + 1 {
                    self.report.add(kind, Some(key), || {
                        format!("line {} wrote {} at place {here} after place {before}", operation.name(), one.value)
                    });
                }
            }
        }
    }

    fn sends_between(&mut self, operation: &Operation<'_>, process: &mut Process) {
        if operation.stage == Stage::Fail {
            return;
        }
        let before = process.sent.clone();
        for (key, sent) in sends(operation) {
            let partition = self.versions.partition(key);
            let mut known = sent.iter().filter_map(|one| partition.place_of_send(one).map(|place| (place, one.value)));
            let Some(first) = known.next() else { continue };
            if let Some((place, value)) = before.get(key).filter(|(place, _)| first.0 <= *place) {
                self.report.add(Kind::NonmonotonicSend, Some(key), || {
                    let (line, (at, later)) = (operation.name(), first);
                    format!("line {line} wrote {later} at place {at}, though {value}, sent before, is at place {place}")
                });
            }
            process.sent.insert(key.clone(), known.next_back().unwrap_or(first));
        }
    }

    fn reads_between(&mut self, operation: &Operation<'_>, process: &mut Process) {
        if operation.stage != Stage::Ok {
            return;
        }
        let kinds = if process.subscribed {
            (Kind::SubscribedPollSkip, Kind::SubscribedNonmonotonicPoll)
        } else {
            (Kind::PollSkip, Kind::NonmonotonicPoll)
        };
        // A partition that was given or taken meanwhile begins anew.
        process.read.retain(|key, _| !operation.rebalance_log.contains(key));
        let before = process.read.clone();
        let mut judged: BTreeMap<&Key, ()> = BTreeMap::new();
        for slice in reads(operation) {
            let (Some(first), Some(last)) = (slice.records.first(), slice.records.last()) else { continue };
            let partition = self.versions.partition(&slice.key);
            let here = |seen: &Seen| (seen.offset, partition.place_of_read(seen) as i64);
            if judged.insert(&slice.key, ()).is_none()
                && let Some(from) = before.get(&slice.key)
            {
                self.step(&slice.key, *from, here(first), kinds, operation);
            }
            process.read.insert(slice.key.clone(), here(last));
        }
    }
}
