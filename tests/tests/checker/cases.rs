//! The table of anomalies: what must be flagged, and what is nearly the same and must pass.

use strandline_tests::history::check::check;
use strandline_tests::history::op::{Action, Key, Micro, Query, Sent, Slice, Stage};
use strandline_tests::history::report::Kind;
use strandline_tests::history::rules::Rules;

use crate::story::{Story, k, sent, slice};

/// An anomaly's name, a history that has it, and a near miss.
type Case = (Kind, fn(&mut Story), fn(&mut Story));

fn ends(records: &[(i64, u64)], log_start: i64, high_watermark: i64) -> Slice {
    Slice { log_start: Some(log_start), high_watermark: Some(high_watermark), ..slice(records) }
}

fn committed(records: &[(i64, u64)], last_stable_offset: i64) -> Slice {
    Slice { last_stable_offset: Some(last_stable_offset), committed: true, ..slice(records) }
}

fn led(records: &[(i64, u64, i32)]) -> Slice {
    let mut all = slice(&records.iter().map(|(offset, value, _)| (*offset, *value)).collect::<Vec<_>>());
    for (seen, (_, _, epoch)) in all.records.iter_mut().zip(records) {
        seen.leader_epoch = Some(*epoch);
    }
    all
}

fn dated(s: &mut Story, records: &[(u64, i64, i64)]) {
    let one = |(value, offset, timestamp): &(u64, i64, i64)| Sent {
        value: *value,
        offset: Some(*offset),
        timestamp: Some(*timestamp),
    };
    s.whole(1, Stage::Ok, Action::Send(vec![Micro::Send(k(), records.iter().map(one).collect())]));
    s.poll(9, &records.iter().map(|(value, offset, _)| (*offset, *value)).collect::<Vec<_>>());
}

fn at(partition: i32, records: &[(u64, i64)]) -> Micro {
    Micro::Send(Key::new("t", partition), sent(records))
}

fn from(partition: i32, records: &[(i64, u64)]) -> Micro {
    Micro::Poll(vec![Slice { key: Key::new("t", partition), ..slice(records) }])
}

const VALUES: &[Case] = &[
    (
        Kind::InconsistentOffsets,
        |s| {
            s.send(1, &[(10, 0)]).send(2, &[(20, -1)]).poll(3, &[(0, 20)]).poll(4, &[(1, 10)]);
        },
        |s| {
            s.send(1, &[(10, 0)]).send(2, &[(20, -1)]).poll(3, &[(0, 10), (1, 20)]);
        },
    ),
    (
        // An unacknowledged send that landed where another was acknowledged.
        Kind::InconsistentOffsets,
        |s| {
            s.send(1, &[(10, 0)]).send_as(2, Stage::Info, &[(20, 0)]).poll(3, &[(0, 20)]);
        },
        |s| {
            s.send(1, &[(10, 0)]).send_as(2, Stage::Info, &[(20, 0)]).poll(3, &[(0, 10)]);
        },
    ),
    (
        Kind::Duplicate,
        |s| {
            s.send(1, &[(10, 0)]).poll(2, &[(0, 10), (1, 10)]);
        },
        |s| {
            s.send(1, &[(10, 0)]).poll(2, &[(0, 10)]).poll(3, &[(0, 10)]);
        },
    ),
    (
        Kind::LostWrite,
        |s| {
            s.send(1, &[(10, 0)]).send(1, &[(20, 1)]).poll(2, &[(1, 20)]);
        },
        |s| {
            s.send(1, &[(10, 0)]).send_as(3, Stage::Info, &[(15, 1)]).send(1, &[(20, 2)]).poll(2, &[(0, 10), (2, 20)]);
        },
    ),
    (
        // An indefinite batch of which one record was read surely happened.
        Kind::LostWrite,
        |s| {
            s.send_as(1, Stage::Info, &[(10, 0), (11, 1)]).poll(2, &[(1, 11)]);
        },
        |s| {
            s.send_as(1, Stage::Info, &[(10, 0), (11, 1)]).poll(2, &[(0, 10)]);
        },
    ),
    (
        Kind::Unseen,
        |s| {
            s.send(1, &[(10, 0)]).send(1, &[(20, 1)]).poll(2, &[(0, 10)]);
        },
        |s| {
            s.send(1, &[(10, 0)]).send_as(1, Stage::Info, &[(20, -1)]).poll(2, &[(0, 10)]);
        },
    ),
    (
        Kind::G1a,
        |s| {
            s.send_as(1, Stage::Fail, &[(10, -1)]).poll(2, &[(0, 10)]);
        },
        |s| {
            s.send_as(1, Stage::Info, &[(10, -1)]).poll(2, &[(0, 10)]);
        },
    ),
    (
        Kind::PrecommittedRead,
        |s| {
            s.txn(1, Stage::Ok, vec![at(0, &[(10, 0)]), from(0, &[(0, 10)])]);
        },
        |s| {
            s.txn(1, Stage::Ok, vec![at(0, &[(10, 0)]), from(0, &[])]).poll(1, &[(0, 10)]);
        },
    ),
];

const ORDER: &[Case] = &[
    (
        Kind::IntPollSkip,
        |s| {
            s.send(1, &[(10, 0), (11, 1), (12, 2)]).poll(2, &[(0, 10), (2, 12)]).poll(3, &[(1, 11)]);
        },
        // Offset 1 is a marker: nobody ever sees a record there.
        |s| {
            s.send(1, &[(10, 0), (12, 2)]).poll(2, &[(0, 10), (2, 12)]);
        },
    ),
    (
        Kind::IntPollSkip,
        |s| {
            s.send(1, &[(10, 0), (11, 1), (12, 2)]).poll(2, &[(0, 10), (2, 12)]).poll(3, &[(1, 11)]);
        },
        |s| {
            s.send(1, &[(10, 0), (11, 1), (12, 2)]).poll_in_rebalance(2, &[(0, 10), (2, 12)]).poll(3, &[(1, 11)]);
        },
    ),
    (
        Kind::IntNonmonotonicPoll,
        |s| {
            s.send(1, &[(10, 0), (11, 1)]).poll(2, &[(0, 10), (1, 11), (1, 11)]);
        },
        |s| {
            s.send(1, &[(10, 0), (11, 1)]).poll(2, &[(0, 10), (1, 11)]);
        },
    ),
    (
        Kind::IntSendSkip,
        |s| {
            s.send(1, &[(10, 0), (11, 2)]).send(2, &[(20, 1)]).poll(3, &[(0, 10), (1, 20), (2, 11)]);
        },
        |s| {
            s.send(1, &[(10, 0), (11, 1)]).send(2, &[(20, 2)]).poll(3, &[(0, 10), (1, 11), (2, 20)]);
        },
    ),
    (
        Kind::IntNonmonotonicSend,
        |s| {
            s.send(1, &[(10, 1), (11, 0)]).poll(2, &[(0, 11), (1, 10)]);
        },
        |s| {
            s.send(1, &[(11, 0), (10, 1)]).poll(2, &[(0, 11), (1, 10)]);
        },
    ),
    (
        Kind::PollSkip,
        |s| {
            s.send(1, &[(10, 0), (11, 1), (12, 2)]).poll(2, &[(0, 10)]).poll(2, &[(2, 12)]).poll(3, &[(1, 11)]);
        },
        |s| {
            s.send(1, &[(10, 0), (11, 1), (12, 2)]).poll(2, &[(0, 10)]).poll(3, &[(1, 11), (2, 12)]);
        },
    ),
    (
        // A reader from the beginning that is not given the beginning.
        Kind::PollSkip,
        |s| {
            s.send(1, &[(10, 0), (11, 1)]).poll(3, &[(0, 10)]).assign(2, true).poll(2, &[(1, 11)]);
        },
        |s| {
            s.send(1, &[(10, 0), (11, 1)]).poll(3, &[(0, 10)]).assign(2, false).poll(2, &[(1, 11)]);
        },
    ),
    (
        Kind::NonmonotonicPoll,
        |s| {
            s.send(1, &[(10, 0), (11, 1)]).poll(2, &[(0, 10), (1, 11)]).poll(2, &[(1, 11)]);
        },
        |s| {
            s.send(1, &[(10, 0), (11, 1)]).poll(2, &[(0, 10), (1, 11)]).assign(2, true).poll(2, &[(0, 10)]);
        },
    ),
    (
        Kind::NonmonotonicPoll,
        |s| {
            s.send(1, &[(10, 0), (11, 1)]).poll(2, &[(0, 10), (1, 11)]).assign(2, false).poll(2, &[(1, 11)]);
        },
        |s| {
            s.send(1, &[(10, 0), (11, 1)]).poll(2, &[(0, 10), (1, 11)]);
            s.whole(2, Stage::Info, Action::Crash).poll(2, &[(0, 10)]);
        },
    ),
    (
        Kind::SubscribedPollSkip,
        |s| {
            s.send(1, &[(10, 0), (11, 1), (12, 2)])
                .subscribe(2)
                .poll(2, &[(0, 10)])
                .poll(2, &[(2, 12)])
                .poll(3, &[(1, 11)]);
        },
        |s| {
            s.send(1, &[(10, 0), (11, 1), (12, 2)]).subscribe(2).poll(2, &[(0, 10)]).poll(2, &[(1, 11), (2, 12)]);
        },
    ),
    (
        Kind::SubscribedNonmonotonicPoll,
        |s| {
            s.send(1, &[(10, 0)]).subscribe(2).poll(2, &[(0, 10)]).poll(2, &[(0, 10)]);
        },
        |s| {
            s.send(1, &[(10, 0)]).subscribe(2).poll(2, &[(0, 10)]).poll_in_rebalance(2, &[(0, 10)]);
        },
    ),
    (
        Kind::NonmonotonicSend,
        |s| {
            s.send(1, &[(10, 1)]).send(1, &[(20, 0)]).poll(2, &[(0, 20), (1, 10)]);
        },
        |s| {
            s.send(1, &[(10, 1)]).send(3, &[(20, 0)]).poll(2, &[(0, 20), (1, 10)]);
        },
    ),
    (
        // The process's indefinite send is where a read found it.
        Kind::NonmonotonicSend,
        |s| {
            s.send_as(1, Stage::Info, &[(10, -1)]).send(1, &[(20, 0)]).poll(2, &[(0, 20), (1, 10)]);
        },
        |s| {
            s.send_as(1, Stage::Info, &[(10, -1)]).send(1, &[(20, 1)]).poll(2, &[(0, 10), (1, 20)]);
        },
    ),
    (
        Kind::TierGap,
        |s| {
            s.send(1, &[(10, 0), (11, 1), (12, 2), (13, 3)]).list(8, Query::EarliestLocal, 2);
            s.poll(3, &[(0, 10), (1, 11), (2, 12), (3, 13)]).poll(2, &[(0, 10)]).poll(2, &[(2, 12)]);
        },
        |s| {
            s.send(1, &[(10, 0), (11, 1), (12, 2), (13, 3)]).list(8, Query::EarliestLocal, 2);
            s.poll(3, &[(0, 10), (1, 11), (2, 12), (3, 13)]).poll(2, &[(0, 10), (1, 11)]).poll(2, &[(2, 12)]);
        },
    ),
];

const CYCLES: &[Case] = &[
    (
        Kind::G0,
        |s| {
            s.txn(1, Stage::Ok, vec![at(0, &[(10, 0)]), at(1, &[(11, 1)])]);
            s.txn(2, Stage::Ok, vec![at(0, &[(20, 1)]), at(1, &[(21, 0)])]);
            s.txn(3, Stage::Ok, vec![from(0, &[(0, 10), (1, 20)]), from(1, &[(0, 21), (1, 11)])]);
        },
        |s| {
            s.txn(1, Stage::Ok, vec![at(0, &[(10, 0)]), at(1, &[(11, 0)])]);
            s.txn(2, Stage::Ok, vec![at(0, &[(20, 1)]), at(1, &[(21, 1)])]);
            s.txn(3, Stage::Ok, vec![from(0, &[(0, 10), (1, 20)]), from(1, &[(0, 11), (1, 21)])]);
        },
    ),
    (
        Kind::G0Process,
        |s| {
            s.txn(1, Stage::Ok, vec![at(0, &[(10, 1)])]).txn(1, Stage::Ok, vec![at(1, &[(11, 0)])]);
            s.txn(2, Stage::Ok, vec![at(0, &[(20, 0)]), at(1, &[(21, 1)])]);
            s.poll_slices(3, vec![slice(&[(0, 20), (1, 10)])]);
            s.poll_slices(3, vec![Slice { key: Key::new("t", 1), ..slice(&[(0, 11), (1, 21)]) }]);
        },
        |s| {
            s.txn(1, Stage::Ok, vec![at(0, &[(10, 0)])]).txn(1, Stage::Ok, vec![at(1, &[(11, 0)])]);
            s.txn(2, Stage::Ok, vec![at(0, &[(20, 1)]), at(1, &[(21, 1)])]);
            s.poll_slices(3, vec![slice(&[(0, 10), (1, 20)])]);
            s.poll_slices(3, vec![Slice { key: Key::new("t", 1), ..slice(&[(0, 11), (1, 21)]) }]);
        },
    ),
    (
        Kind::G0Realtime,
        |s| {
            s.send(1, &[(10, 1)]).send(2, &[(20, 0)]).poll(3, &[(0, 20), (1, 10)]);
        },
        |s| {
            let one = |value, offset| Action::Send(vec![at(0, &[(value, offset)])]);
            // They overlap: either may be first.
            s.line(1, Stage::Invoke, one(10, 1)).line(2, Stage::Invoke, one(20, 0));
            s.line(1, Stage::Ok, one(10, 1)).line(2, Stage::Ok, one(20, 0)).poll(3, &[(0, 20), (1, 10)]);
        },
    ),
    (
        Kind::G1c,
        |s| {
            s.txn(1, Stage::Ok, vec![at(0, &[(10, 0)]), from(1, &[(0, 20)])]);
            s.txn(2, Stage::Ok, vec![at(1, &[(20, 0)]), from(0, &[(0, 10)])]);
        },
        |s| {
            s.txn(1, Stage::Ok, vec![at(0, &[(10, 0)]), from(1, &[])]);
            s.txn(2, Stage::Ok, vec![at(1, &[(20, 0)]), from(0, &[(0, 10)])]).poll(3, &[(0, 10)]);
            s.poll_slices(3, vec![Slice { key: Key::new("t", 1), ..slice(&[(0, 20)]) }]);
        },
    ),
    (
        // A process reads what a later operation of its own makes another write.
        Kind::G1cProcess,
        |s| {
            s.poll_slices(1, vec![Slice { key: Key::new("t", 1), ..slice(&[(0, 20)]) }]);
            s.txn(1, Stage::Ok, vec![at(0, &[(10, 0)])]);
            s.txn(2, Stage::Ok, vec![from(0, &[(0, 10)]), at(1, &[(20, 0)])]);
        },
        |s| {
            s.txn(1, Stage::Ok, vec![at(0, &[(10, 0)])]);
            s.txn(2, Stage::Ok, vec![from(0, &[(0, 10)]), at(1, &[(20, 0)])]);
            s.poll_slices(1, vec![Slice { key: Key::new("t", 1), ..slice(&[(0, 20)]) }]);
        },
    ),
    (
        // A read that ended before its record's send began.
        Kind::G1cRealtime,
        |s| {
            s.poll(2, &[(0, 10)]).send(1, &[(10, 0)]);
        },
        |s| {
            let one = || Action::Send(vec![at(0, &[(10, 0)])]);
            s.line(1, Stage::Invoke, one()).poll(2, &[(0, 10)]).line(1, Stage::Ok, one());
        },
    ),
];

const ENDS: &[Case] = &[
    (
        Kind::LsoLeak,
        |s| {
            s.send(1, &[(10, 0), (11, 1)]).poll_slices(2, vec![committed(&[(0, 10), (1, 11)], 1)]);
        },
        |s| {
            let uncommitted = Slice { committed: false, ..committed(&[(0, 10), (1, 11)], 1) };
            s.send(1, &[(10, 0), (11, 1)])
                .poll_slices(2, vec![uncommitted])
                .poll_slices(3, vec![committed(&[(0, 10)], 1)]);
        },
    ),
    (
        Kind::HwLeak,
        |s| {
            s.send(1, &[(10, 0), (11, 1)]).poll_slices(2, vec![ends(&[(0, 10), (1, 11)], 0, 1)]);
        },
        |s| {
            s.send(1, &[(10, 0), (11, 1)]).poll_slices(2, vec![ends(&[(0, 10), (1, 11)], 0, 2)]);
        },
    ),
    (
        Kind::StartRegression,
        |s| {
            s.list(1, Query::Earliest, 5).poll_slices(2, vec![ends(&[], 4, 9)]);
        },
        |s| {
            s.list(1, Query::Earliest, 5).poll_slices(2, vec![ends(&[], 5, 9)]);
        },
    ),
    (
        Kind::HwRegression,
        |s| {
            s.poll_slices(1, vec![ends(&[], 0, 9)]).poll_slices(2, vec![ends(&[], 0, 8)]);
        },
        |s| {
            let told = |end| Action::Poll(vec![Micro::Poll(vec![ends(&[], 0, end)])]);
            // The second was asked for before the first had answered.
            s.line(1, Stage::Invoke, told(9)).line(2, Stage::Invoke, told(8));
            s.line(1, Stage::Ok, told(9)).line(2, Stage::Ok, told(8));
        },
    ),
    (
        Kind::LsoRegression,
        |s| {
            s.poll_slices(1, vec![committed(&[], 9)]).poll_slices(1, vec![committed(&[], 8)]);
        },
        |s| {
            s.poll_slices(1, vec![committed(&[], 9)]).poll_slices(1, vec![committed(&[], -1)]);
        },
    ),
    (
        Kind::EpochDivergence,
        |s| {
            s.send(1, &[(10, 0)]).poll_slices(2, vec![led(&[(0, 10, 1)])]).poll_slices(3, vec![led(&[(0, 10, 2)])]);
        },
        |s| {
            s.send(1, &[(10, 0)]).poll_slices(2, vec![led(&[(0, 10, 1)])]).poll_slices(3, vec![led(&[(0, 10, 1)])]);
        },
    ),
    (
        Kind::EpochDivergence,
        |s| {
            s.send(1, &[(10, 0), (11, 1)]).poll_slices(2, vec![led(&[(0, 10, 2), (1, 11, 1)])]);
        },
        |s| {
            s.send(1, &[(10, 0), (11, 1)]).poll_slices(2, vec![led(&[(0, 10, 1), (1, 11, 2)])]);
        },
    ),
    (
        Kind::ListOffsetsLie,
        |s| {
            dated(s, &[(10, 0, 100), (11, 1, 200), (12, 2, 300)]);
            s.list(2, Query::Timestamp(150), 2);
        },
        |s| {
            dated(s, &[(10, 0, 100), (11, 1, 200), (12, 2, 300)]);
            s.list(2, Query::Timestamp(150), 1).list(2, Query::Timestamp(300), 2).list(2, Query::Timestamp(301), -1);
        },
    ),
    (
        Kind::ListOffsetsLie,
        |s| {
            dated(s, &[(10, 0, 100), (11, 1, 200)]);
            s.list(2, Query::Timestamp(200), -1);
        },
        |s| {
            let asked = Action::ListOffsets { key: k(), query: Query::Timestamp(200), offset: -1 };
            // The question was asked before the record was acknowledged.
            s.line(2, Stage::Invoke, asked.clone());
            dated(s, &[(10, 0, 100), (11, 1, 200)]);
            s.line(2, Stage::Ok, asked);
        },
    ),
    (
        Kind::ListOffsetsLie,
        |s| {
            dated(s, &[(10, 0, 100), (11, 1, 200)]);
            s.list(2, Query::Timestamp(150), 0);
        },
        |s| {
            dated(s, &[(10, 0, 100), (11, 1, 200)]);
            s.list(2, Query::Timestamp(50), 0);
        },
    ),
    (
        Kind::ListOffsetsLie,
        |s| {
            s.send(1, &[(10, 0), (11, 1)]).list(2, Query::Latest, 1).poll(3, &[(0, 10), (1, 11)]);
        },
        |s| {
            s.send(1, &[(10, 0), (11, 1)]).list(2, Query::Latest, 2).poll(3, &[(0, 10), (1, 11)]);
        },
    ),
    (
        Kind::CommitRegression,
        |s| {
            s.commit(1, 1, 5).committed(2, 4);
        },
        |s| {
            s.commit(1, 1, 5).committed(2, 5).commit(2, 2, 3).committed(2, 3);
        },
    ),
    (
        Kind::CommitRegression,
        |s| {
            s.commit(1, 1, 5).commit(1, 1, 4);
        },
        |s| {
            s.commit(1, 1, 5).commit(2, 2, 4);
        },
    ),
    (
        Kind::DoubleOwner,
        |s| {
            s.rebalance(1, 1).rebalance(2, 1);
        },
        |s| {
            s.rebalance(1, 1).rebalance(2, 2);
        },
    ),
];

fn all() -> impl Iterator<Item = &'static Case> {
    VALUES.iter().chain(ORDER).chain(CYCLES).chain(ENDS)
}

fn told(write: fn(&mut Story)) -> Story {
    let mut story = Story::default();
    write(&mut story);
    story
}

#[test]
fn every_bad_history_is_flagged() {
    for (n, (kind, bad, _)) in all().enumerate() {
        let report = check(&told(*bad).0, &Rules::default());
        assert!(report.counts.contains_key(kind), "case {n}: {kind} is not found:\n{report}");
        assert!(report.anomalies.iter().any(|a| a.kind == *kind && !a.detail.is_empty()), "case {n}: {kind} is shown");
        let fails = Rules::default().fails(*kind);
        assert_eq!(report.failures(&Rules::default()).contains(kind), fails, "case {n}: {kind} fails the run");
    }
}

#[test]
fn every_near_miss_passes() {
    for (n, (kind, _, near)) in all().enumerate() {
        let report = check(&told(*near).0, &Rules::default());
        assert!(!report.counts.contains_key(kind), "case {n}: {kind} is found in its near miss:\n{report}");
        let failures = report.failures(&Rules::default());
        assert!(failures.is_empty(), "case {n}: the near miss of {kind} has {failures:?}:\n{report}");
    }
}

#[test]
fn every_kind_has_a_case() {
    for kind in Kind::ALL {
        assert!(all().any(|(of, _, _)| of == kind), "{kind} has no case");
    }
}

#[test]
fn rules_say_what_fails() {
    let mut story = Story::default();
    story.send(1, &[(10, 0)]).send(1, &[(20, 2)]).poll(2, &[(0, 10), (1, 10)]);
    let report = check(&story.0, &Rules::default());
    assert_eq!(report.failures(&Rules::default()), [Kind::Duplicate, Kind::Unseen]);
    let at_least_once = Rules { idempotent: false, final_reads: false, ..Rules::default() };
    assert_eq!(report.failures(&at_least_once), []);
}

#[test]
fn what_retention_deleted_need_not_be_read() {
    let mut story = Story::default();
    story.send(1, &[(10, 0), (11, 1), (12, 2)]).list(2, Query::Earliest, 2).assign(3, true).poll(3, &[(2, 12)]);
    let rules = Rules { retention: true, ..Rules::default() };
    assert_eq!(check(&story.0, &rules).failures(&rules), []);
    let kept = Rules::default();
    assert_eq!(check(&story.0, &kept).failures(&kept), [Kind::LostWrite, Kind::Unseen, Kind::PollSkip]);
}

#[test]
fn a_replaced_leader_may_be_stale_for_a_while() {
    let mut story = Story::default();
    story.send(1, &[(10, 0), (11, 1)]).poll(3, &[(0, 10), (1, 11)]).list(2, Query::Latest, 2).list(4, Query::Latest, 1);
    let failures = |stale_ms| {
        let rules = Rules { stale_ms, ..Rules::default() };
        check(&story.0, &rules).failures(&rules)
    };
    // The last question came 50 ms after the acknowledgement, and 10 ms after the better answer.
    assert_eq!(failures(0), [Kind::HwRegression, Kind::ListOffsetsLie]);
    assert_eq!(failures(11), [Kind::ListOffsetsLie]);
    assert_eq!(failures(51), []);
}

#[test]
fn a_report_is_bounded() {
    let mut story = Story::default();
    let records: Vec<(u64, i64)> = (0..1_000).map(|n| (n, i64::try_from(n).expect("small"))).collect();
    story.send(1, &records);
    let report = check(&story.0, &Rules::default());
    assert_eq!(report.counts[&Kind::Unseen], 1_000);
    assert_eq!(report.anomalies.len(), strandline_tests::history::report::SHOWN_MAX);
}

#[test]
fn figures_tell_how_stale_a_poll_was() {
    let mut story = Story::default();
    // Value 11 was acknowledged at 30 ms; the poll that began at 100 ms did not see it.
    story.send(1, &[(10, 0)]).send(1, &[(11, 1)]).poll(2, &[(0, 10)]).poll(2, &[(1, 11)]);
    story.subscribe(3).poll(3, &[(0, 10)]).poll(3, &[(0, 10), (1, 11)]);
    let figures = check(&story.0, &Rules::default()).figures;
    assert_eq!((figures.acknowledged, figures.read, figures.consumed_again), (2, 2, 1));
    assert_eq!(figures.realtime_lag_ms, 70);
    assert_eq!(figures.unseen_over_time.last().map(|(_, count)| *count), Some(0));
}
