//! Single values: where they are, who read them, whether they were allowed to be read.

use std::collections::HashSet;

use super::op::{Key, Micro, Stage, Value};
use super::report::{Kind, Report};
use super::rules::Rules;
use super::versions::{Partition, Versions, reads, sends};

/// inconsistent-offsets, duplicate, lost-write, unseen, G1a, precommitted-read.
pub fn check(versions: &Versions<'_>, log_starts: &dyn Fn(&Key) -> i64, rules: &Rules, report: &mut Report) {
    for (key, partition) in &versions.partitions {
        places(key, partition, report);
        let readable_from = if rules.retention { log_starts(key) } else { 0 };
        lost_writes(key, partition, versions, readable_from, report);
        unseen(key, partition, versions, readable_from, report);
    }
    for operation in &versions.operations {
        aborted_reads(versions, operation, report);
        own_reads(operation, report);
    }
}

fn places(key: &Key, partition: &Partition, report: &mut Report) {
    let mut told: HashSet<Value> = HashSet::new();
    for (offset, values) in partition.versions() {
        if values.len() > 1 {
            report.add(Kind::InconsistentOffsets, Some(key), || format!("offset {offset} holds {values:?}"));
        }
        for value in values {
            let (first, last) = partition.places(*value).expect("it is in the version order");
            if first != last && told.insert(*value) {
                report.add(Kind::Duplicate, Some(key), || {
                    let offsets: Vec<i64> =
                        partition.versions().filter(|(_, values)| values.contains(value)).map(|(o, _)| o).collect();
                    format!("value {value} is at offsets {offsets:?}")
                });
            }
        }
    }
}

/// Values in front of one that an ok operation read, which no ok operation read.
fn lost_writes(key: &Key, partition: &Partition, versions: &Versions<'_>, from: i64, report: &mut Report) {
    let Some(bound) = partition.read_ok.iter().filter_map(|v| partition.places(*v)).map(|(first, _)| first).max()
    else {
        return;
    };
    for (place, (offset, values)) in partition.versions().enumerate().take(bound + 1) {
        for value in values {
            let last_place = partition.places(*value).expect("it is in the version order").1;
            if last_place != place || offset < from || partition.read_ok.contains(value) {
                continue;
            }
            let Some((writer, _)) = partition.writers.get(value).filter(|(w, _)| versions.happened[*w]) else {
                continue;
            };
            let writer = versions.operations[*writer].name();
            report.add(Kind::LostWrite, Some(key), || {
                format!("value {value} of line {writer} is at offset {offset}, later ones were read, it never was")
            });
        }
    }
}

/// Acknowledged values that nobody read by the end.
fn unseen(key: &Key, partition: &Partition, versions: &Versions<'_>, from: i64, report: &mut Report) {
    let mut missing: Vec<_> = partition
        .writers
        .iter()
        .filter(|(value, (writer, sent))| {
            versions.operations[*writer].stage == Stage::Ok
                && !partition.read.contains(value)
                && sent.offset.is_none_or(|offset| offset >= from)
        })
        .collect();
    missing.sort_by_key(|(value, (writer, _))| (*writer, **value));
    for (value, (writer, sent)) in missing {
        let writer = versions.operations[*writer].name();
        report.add(Kind::Unseen, Some(key), || {
            format!("value {value}, acknowledged at offset {:?} by line {writer}, was never read", sent.offset)
        });
    }
}

fn aborted_reads(versions: &Versions<'_>, operation: &super::pairs::Operation<'_>, report: &mut Report) {
    if operation.stage != Stage::Ok {
        return;
    }
    for slice in reads(operation) {
        let writers = &versions.partition(&slice.key).writers;
        for seen in &slice.records {
            let Some((writer, _)) = writers.get(&seen.value) else { continue };
            let writer = &versions.operations[*writer];
            if writer.stage == Stage::Fail {
                report.add(Kind::G1a, Some(&slice.key), || {
                    let (value, offset) = (seen.value, seen.offset);
                    format!(
                        "line {} read {value} at {offset}, which line {} did not write",
                        operation.name(),
                        writer.name()
                    )
                });
            }
        }
    }
}

fn own_reads(operation: &super::pairs::Operation<'_>, report: &mut Report) {
    let has_both = operation.action.micros().iter().any(|m| matches!(m, Micro::Poll(_)))
        && operation.action.micros().iter().any(|m| matches!(m, Micro::Send(..)));
    if !has_both {
        return;
    }
    let own: HashSet<(&Key, Value)> =
        sends(operation).flat_map(|(key, sent)| sent.iter().map(move |s| (key, s.value))).collect();
    for slice in reads(operation) {
        for seen in slice.records.iter().filter(|seen| own.contains(&(&slice.key, seen.value))) {
            report.add(Kind::PrecommittedRead, Some(&slice.key), || {
                format!("line {} read its own {} at offset {}", operation.name(), seen.value, seen.offset)
            });
        }
    }
}
