//! Figures that are told and not judged: how stale polls were, what members consumed again, how long values went unread.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::op::{Action, Key, Stage};
use super::report::Figures;
use super::versions::{Partition, Versions, reads};

/// Points of the series of unread values.
const POINTS: u64 = 50;

/// Values with their partitions.
type Places<'a> = HashSet<(&'a Key, u64)>;

/// The figures of a history.
pub fn figures(versions: &Versions<'_>) -> Figures {
    let stage_of = |writer: &usize| versions.operations[*writer].stage;
    let writers = || versions.partitions.values().flat_map(|p| p.writers.values().map(|(writer, _)| writer));
    let number = |n: usize| u64::try_from(n).expect("a count fits");
    Figures {
        operations: number(versions.operations.len()),
        acknowledged: number(writers().filter(|w| stage_of(w) == Stage::Ok).count()),
        indefinite: number(writers().filter(|w| stage_of(w) == Stage::Info).count()),
        read: number(versions.partitions.values().map(|p| p.read.len()).sum()),
        realtime_lag_ms: realtime_lag(versions),
        consumed_again: consumed_again(versions),
        unseen_over_time: unseen_over_time(versions),
    }
}

/// For each place of the version order: when, at the latest, something behind it was acknowledged first; ms.
fn acknowledged_behind(versions: &Versions<'_>, partition: &Partition) -> Vec<u64> {
    let mut earliest = u64::MAX;
    let mut behind: Vec<u64> = Vec::new();
    let values: Vec<_> = partition.versions().map(|(_, values)| values).collect();
    for value in values.iter().rev().filter_map(|values| values.first()) {
        behind.push(earliest);
        let writer = partition.writers.get(value).map(|(writer, _)| &versions.operations[*writer]);
        earliest = earliest.min(writer.filter(|o| o.stage == Stage::Ok).map_or(u64::MAX, |o| o.completed_ms));
    }
    behind.reverse();
    behind
}

/// The longest time by which a poll that returned something was behind what had been acknowledged when it began.
fn realtime_lag(versions: &Versions<'_>) -> u64 {
    let behind: BTreeMap<&Key, Vec<u64>> =
        versions.partitions.iter().map(|(key, partition)| (key, acknowledged_behind(versions, partition))).collect();
    let mut greatest = 0;
    for operation in versions.operations.iter().filter(|o| o.stage == Stage::Ok) {
        for slice in reads(operation) {
            let Some(last) = slice.records.last() else { continue };
            let acknowledged = behind[&slice.key][versions.partition(&slice.key).place_of_read(last)];
            greatest = greatest.max(operation.invoked_ms.saturating_sub(acknowledged));
        }
    }
    greatest
}

fn consumed_again(versions: &Versions<'_>) -> u64 {
    let mut subscribed: HashMap<u32, HashSet<(&Key, u64)>> = HashMap::new();
    let mut again = 0;
    for operation in versions.operations.iter().filter(|o| o.stage == Stage::Ok) {
        if let Action::Subscribe { .. } = operation.action {
            subscribed.entry(operation.process).or_default();
        }
        let Some(consumed) = subscribed.get_mut(&operation.process) else { continue };
        for slice in reads(operation) {
            again += slice.records.iter().filter(|seen| !consumed.insert((&slice.key, seen.value))).count() as u64;
        }
    }
    again
}

fn unseen_over_time(versions: &Versions<'_>) -> Vec<(u64, u64)> {
    let known = |o: &&super::pairs::Operation<'_>| o.completed != i64::MAX;
    let end = versions.operations.iter().filter(known).map(|o| o.completed_ms).max().unwrap_or(0);
    let (mut unread, mut read): (Places<'_>, Places<'_>) = Default::default();
    let (mut series, mut next) = (Vec::new(), 0);
    let step = (end / POINTS).max(1);
    for operation in versions.operations.iter().filter(known) {
        while operation.completed_ms >= next + step {
            next += step;
            series.push((next, unread.len() as u64));
        }
        if operation.stage != Stage::Ok {
            continue;
        }
        for (key, sent) in super::versions::sends(operation) {
            unread.extend(sent.iter().map(|one| (key, one.value)).filter(|place| !read.contains(place)));
        }
        for slice in reads(operation) {
            for seen in &slice.records {
                unread.remove(&(&slice.key, seen.value));
                read.insert((&slice.key, seen.value));
            }
        }
    }
    series.push((end, unread.len() as u64));
    series
}
