//! The ends of logs, leader epochs, and ListOffsets' answers: what a client is told about a log beside its records.
//!
//! An observation is held against those that were complete before it was asked for, [`Rules::stale_ms`] before where the answerer
//! may be a leader that does not know that it was replaced; concurrent ones may come in any order.

use std::collections::BTreeMap;

use super::op::{Action, Key, Query, Stage};
use super::report::{Kind, Report};
use super::rules::Rules;
use super::versions::{Versions, reads, sends};

/// Which end of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Start,
    LocalStart,
    HighWatermark,
    LastStable,
}

#[derive(Debug, Clone, Copy)]
struct Told {
    invoked: i64,
    invoked_ms: u64,
    completed: i64,
    completed_ms: u64,
    offset: i64,
    /// By a fetch's answer.
    fetched: bool,
}

impl Told {
    /// Whether this must be known to who told `later`.
    fn known_to(&self, later: &Told, rules: &Rules) -> bool {
        let stale_ms = if later.fetched { rules.stale_ms.max(rules.fetch_stale_ms) } else { rules.stale_ms };
        known((self.completed, self.completed_ms), (later.invoked, later.invoked_ms), stale_ms)
    }
}

/// Whether what was complete at a line and time must be known to whoever answers what was asked at a line and time.
fn known(completed: (i64, u64), asked: (i64, u64), stale_ms: u64) -> bool {
    completed.0 < asked.0 && (stale_ms == 0 || completed.1 + stale_ms <= asked.1)
}

/// What a history was told of the logs' ends.
#[derive(Debug, Default)]
pub struct Ends(BTreeMap<(Key, End), Vec<Told>>);

impl Ends {
    pub fn new(versions: &Versions<'_>, rules: &Rules) -> Self {
        let mut ends = Ends::default();
        for operation in versions.operations.iter().filter(|o| o.stage == Stage::Ok) {
            let mut tell = |key: &Key, end, offset: i64| {
                let (invoked, completed) = (operation.invoked, operation.completed);
                let (invoked_ms, completed_ms) = (operation.invoked_ms, operation.completed_ms);
                let fetched = !matches!(operation.action, Action::ListOffsets { .. });
                let told = Told { invoked, invoked_ms, completed, completed_ms, offset, fetched };
                ends.0.entry((key.clone(), end)).or_default().push(told);
            };
            for slice in reads(operation).filter(|_| rules.fetch_ends) {
                let all = [
                    (End::Start, slice.log_start),
                    (End::HighWatermark, slice.high_watermark),
                    (End::LastStable, slice.last_stable_offset),
                ];
                // A broker that has no answer says -1.
                for (end, offset) in all.into_iter().filter_map(|(end, o)| o.filter(|o| *o >= 0).map(|o| (end, o))) {
                    tell(&slice.key, end, offset);
                }
            }
            if let Action::ListOffsets { key, query, offset } = operation.action {
                match query {
                    Query::Earliest => tell(key, End::Start, *offset),
                    Query::EarliestLocal => tell(key, End::LocalStart, *offset),
                    Query::Latest => tell(key, End::HighWatermark, *offset),
                    Query::Timestamp(_) => {}
                }
            }
        }
        ends
    }

    fn greatest(&self, key: &Key, end: End) -> i64 {
        self.0.get(&(key.clone(), end)).into_iter().flatten().map(|told| told.offset).max().unwrap_or(0)
    }

    /// The greatest log start that was told; 0 if none.
    pub fn log_start(&self, key: &Key) -> i64 {
        self.greatest(key, End::Start)
    }

    /// The greatest local log start that was told; 0 if none.
    pub fn local_start(&self, key: &Key) -> i64 {
        self.greatest(key, End::LocalStart)
    }
}

/// start-regression, hw-regression, lso-regression, lso-leak, hw-leak, epoch-divergence, listoffsets-lie.
pub fn check(versions: &Versions<'_>, ends: &Ends, rules: &Rules, report: &mut Report) {
    for ((key, end), told) in &ends.0 {
        let kind = match end {
            End::Start => Kind::StartRegression,
            End::HighWatermark => Kind::HwRegression,
            End::LastStable => Kind::LsoRegression,
            // It goes back when a replica with more on its disk takes over.
            End::LocalStart => continue,
        };
        regressions(kind, key, told, rules, report);
    }
    leaks(versions, rules, report);
    epochs(versions, report);
    answers(versions, ends, rules, report);
}

/// `told` is in the order of the completions.
fn regressions(kind: Kind, key: &Key, told: &[Told], rules: &Rules, report: &mut Report) {
    let mut greatest = Vec::with_capacity(told.len());
    for one in told {
        let before = greatest.last().copied().unwrap_or(*one);
        greatest.push(if before.offset > one.offset { before } else { *one });
    }
    for one in told {
        let earlier = told.partition_point(|other| other.known_to(one, rules));
        let Some(before) = earlier.checked_sub(1).map(|n| greatest[n]) else { continue };
        if before.offset > one.offset {
            report.add(kind, Some(key), || {
                format!("line {} told {}, line {} later {}", before.completed, before.offset, one.completed, one.offset)
            });
        }
    }
}

fn leaks(versions: &Versions<'_>, rules: &Rules, report: &mut Report) {
    for operation in &versions.operations {
        for slice in reads(operation) {
            let Some(last) = slice.records.iter().map(|seen| seen.offset).max() else { continue };
            let mut judge = |kind: Kind, end: Option<i64>| {
                if let Some(end) = end.filter(|end| *end >= 0 && last >= *end) {
                    report.add(kind, Some(&slice.key), || {
                        format!("line {} read offset {last}, its own answer ends at {end}", operation.name())
                    });
                }
            };
            judge(Kind::LsoLeak, slice.last_stable_offset.filter(|_| slice.committed));
            judge(Kind::HwLeak, slice.high_watermark.filter(|_| rules.fetch_ends));
        }
    }
}

fn epochs(versions: &Versions<'_>, report: &mut Report) {
    let mut known: BTreeMap<&Key, BTreeMap<i64, i32>> = BTreeMap::new();
    for operation in &versions.operations {
        for slice in reads(operation) {
            let epochs = known.entry(&slice.key).or_default();
            for seen in &slice.records {
                let Some(epoch) = seen.leader_epoch.filter(|epoch| *epoch >= 0) else { continue };
                let first = *epochs.entry(seen.offset).or_insert(epoch);
                if first != epoch {
                    report.add(Kind::EpochDivergence, Some(&slice.key), || {
                        let (line, offset) = (operation.name(), seen.offset);
                        format!("offset {offset} was written by leader {first}; line {line} was told by leader {epoch}")
                    });
                }
            }
        }
    }
    for (key, epochs) in known {
        let falls = epochs.iter().zip(epochs.iter().skip(1)).filter(|(before, after)| after.1 < before.1);
        for ((_, before), (offset, after)) in falls {
            report.add(Kind::EpochDivergence, Some(key), || {
                format!("leader epoch {before} is followed by {after} at offset {offset}")
            });
        }
    }
}

/// Records by offset: the timestamp, and the line and time at which it was known to be there.
type Dated = BTreeMap<i64, (Option<i64>, (i64, u64))>;

fn dated<'a>(versions: &Versions<'a>) -> BTreeMap<&'a Key, Dated> {
    let mut records: BTreeMap<&Key, Dated> = BTreeMap::new();
    for operation in versions.operations.iter().filter(|o| o.stage == Stage::Ok) {
        let written = sends(operation).flat_map(|(key, sent)| sent.iter().map(move |s| (key, s.offset, s.timestamp)));
        let read = reads(operation)
            .flat_map(|slice| slice.records.iter().map(move |seen| (&slice.key, Some(seen.offset), seen.timestamp)));
        for (key, offset, timestamp) in written.chain(read) {
            let Some(offset) = offset else { continue };
            let record = records
                .entry(key)
                .or_default()
                .entry(offset)
                .or_insert((timestamp, (operation.completed, operation.completed_ms)));
            record.0 = record.0.or(timestamp);
        }
    }
    records
}

fn answers(versions: &Versions<'_>, ends: &Ends, rules: &Rules, report: &mut Report) {
    let asked = |o: &&super::pairs::Operation<'_>| {
        o.stage == Stage::Ok
            && matches!(o.action, Action::ListOffsets { query: Query::Timestamp(_) | Query::Latest, .. })
    };
    if !versions.operations.iter().any(|o| asked(&o)) {
        return;
    }
    let records = dated(versions);
    for operation in versions.operations.iter().filter(asked) {
        let Action::ListOffsets { key, query, offset: answer } = operation.action else { continue };
        let Some(records) = records.get(key) else { continue };
        let asked = (operation.invoked, operation.invoked_ms);
        let missed = match query {
            // Every record that was there must lie in front of the end.
            Query::Latest => records.range(*answer..).find(|(_, record)| known(record.1, asked, rules.stale_ms)),
            Query::Timestamp(time) => {
                let end = if *answer < 0 { i64::MAX } else { *answer };
                let fits = |record: &(Option<i64>, (i64, u64))| {
                    known(record.1, asked, rules.stale_ms) && record.0.is_some_and(|t| t >= *time)
                };
                records.range(ends.log_start(key).min(end)..end).find(|(_, record)| fits(record))
            }
            Query::Earliest | Query::EarliestLocal => None,
        };
        if let Some((offset, (timestamp, _))) = missed {
            report.add(Kind::ListOffsetsLie, Some(key), || {
                let line = operation.name();
                format!("line {line} asked for {query:?} and was told {answer}, but {offset} holds {timestamp:?}")
            });
        }
        let early = |time: i64| records.get(answer).and_then(|record| record.0).filter(|t| *t < time);
        if let Query::Timestamp(time) = query
            && let Some(timestamp) = early(*time)
        {
            report.add(Kind::ListOffsetsLie, Some(key), || {
                format!("line {} asked for {time} and was told {answer}, which is of {timestamp}", operation.name())
            });
        }
    }
}
