//! The runs: random faults on a cluster that must lose nothing, and clusters that lose something, which must be found out.

use std::time::Duration;

use strandline_tests::amnesia::Amnesia;
use strandline_tests::broker::Software;
use strandline_tests::history::check::check;
use strandline_tests::history::op::{Action, Micro, Op, Stage};
use strandline_tests::history::report::Kind;
use strandline_tests::random::Random;
use strandline_tests::wait;

use crate::cluster::{Disks, NODES, Promise};
use crate::faults::Fault;
use crate::link::Router;
use crate::scenario::{Scenario, TOPIC, await_progress, judge, strike};

/// Faults of a short run.
const FAULTS: u32 = 6;
/// How long a careless cluster's old leader goes on alone.
const ALONE: Duration = Duration::from_secs(14);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
}

/// `STRANDLINE_CHAOS_DISKS`, `real` or `amnesia`; unset = those that can fail, if this machine can mount them.
fn disks() -> Disks {
    match std::env::var("STRANDLINE_CHAOS_DISKS").as_deref() {
        Ok("real") => Disks::Real,
        Ok("amnesia") => Disks::Amnesia,
        Ok(other) => panic!("STRANDLINE_CHAOS_DISKS is real or amnesia, not {other}"),
        Err(_) if Amnesia::possible() && Software::under_test() == Software::Strandline => Disks::Amnesia,
        Err(_) => Disks::Real,
    }
}

fn scenario() -> Scenario {
    let tiered = std::env::var("STRANDLINE_CHAOS_TIERED").map_or(true, |text| text != "false");
    Scenario {
        software: Software::under_test(),
        promise: Promise::Durable,
        disks: disks(),
        tiered,
        foreign: true,
        seed: number("STRANDLINE_CHAOS_SEED", 1),
        faults: u32::try_from(number("STRANDLINE_CHAOS_FAULTS", FAULTS.into())).expect("fewer faults"),
    }
}

#[test]
fn every_acknowledged_record_is_read_once_and_in_order() {
    let scenario = scenario();
    let outcome = scenario.run();
    let report = judge(&scenario, &outcome);
    assert_eq!(outcome.faults.len(), usize::try_from(scenario.faults).expect("few"), "every fault fired");
    assert!(report.figures.acknowledged > 100, "a run that writes next to nothing proves nothing: {report}");
    // The same history with one acknowledged record taken away must not pass.
    let broken = without_one(outcome.history);
    let failures = check(&broken, &scenario.rules()).failures(&scenario.rules());
    assert!(failures.contains(&Kind::Unseen), "a record is gone, and the checker found {failures:?}");
}

/// Times that all power fails in a short run.
const BLACKOUTS: u32 = 3;
/// Between two of them, ms: at most.
const LIT_MS: u64 = 6_000;

/// The disks of all nodes forget at once what was not synced, again and again: with `flush.messages=1` (the default) nothing that was
/// acknowledged is lost. One time in four a single node loses its power before.
#[test]
fn nothing_acknowledged_is_lost_when_all_power_fails() {
    if !Amnesia::possible() {
        eprintln!("skipped: this machine has no /dev/fuse");
        return;
    }
    let blackouts = u32::try_from(number("STRANDLINE_CHAOS_BLACKOUTS", BLACKOUTS.into())).expect("fewer blackouts");
    let scenario = Scenario { disks: Disks::Amnesia, foreign: false, faults: blackouts, ..scenario() };
    let outcome = scenario.run_with(|cluster, shared, outcome| {
        let mut random = Random::new(scenario.seed);
        for n in 0..blackouts {
            wait::pause(Duration::from_millis(random.below(LIT_MS)));
            eprintln!("blackout {} of {blackouts}", n + 1);
            if random.below(4) == 0 {
                let node = u8::try_from(1 + random.below(NODES.into())).expect("a node");
                strike(Fault::PowerLoss(node), cluster, &mut random, outcome);
            }
            strike(Fault::Blackout, cluster, &mut random, outcome);
            await_progress(shared, outcome);
        }
    });
    let report = judge(&scenario, &outcome);
    assert!(report.figures.acknowledged > 100, "a run that writes next to nothing proves nothing: {report}");
}

/// The history as it would be had a broker lost the middle one of the acknowledged values.
fn without_one(mut history: Vec<Op>) -> Vec<Op> {
    let mut acknowledged = Vec::new();
    for micro in history.iter().filter(|op| op.stage == Stage::Ok).flat_map(|op| op.action.micros()) {
        if let Micro::Send(key, sent) = micro {
            acknowledged.extend(sent.iter().map(|one| (key.clone(), one.value)));
        }
    }
    let (key, value) = acknowledged.swap_remove(acknowledged.len() / 2);
    for op in &mut history {
        let Action::Poll(micros) = &mut op.action else { continue };
        for micro in micros {
            let Micro::Poll(slices) = micro else { continue };
            slices.iter_mut().filter(|s| s.key == key).for_each(|s| s.records.retain(|seen| seen.value != value));
        }
    }
    history
}

/// A leader that is cut off from its followers acknowledges alone what the next leader never had.
#[test]
fn a_cluster_that_loses_records_is_found_out() {
    let scenario =
        Scenario { promise: Promise::Careless, disks: Disks::Real, tiered: false, foreign: false, ..scenario() };
    let outcome = scenario.run_with(|cluster, shared, outcome| {
        let leader = Router::new(&cluster.bootstrap(), TOPIC, 1).leader_node(0).expect("partition 0 is led");
        let others: Vec<u8> = cluster.network.nodes().filter(|node| *node != leader).collect();
        let cuts = others.iter().flat_map(|other| [(leader, *other), (*other, leader)]);
        let cuts: Vec<(u8, u8)> = cuts.collect();
        cuts.iter().for_each(|(from, to)| cluster.network.cut(*from, *to));
        wait::pause(ALONE);
        let swallowed: u64 = cuts.iter().map(|(from, to)| cluster.network.mend(*from, *to)).sum();
        assert!(swallowed > 0, "the leader was cut off");
        await_progress(shared, outcome);
        strike(Fault::Kill(leader), cluster, &mut Random::new(scenario.seed), outcome);
    });
    let report = check(&outcome.history, &scenario.rules());
    eprintln!("{report}");
    let failures = report.failures(&scenario.rules());
    let lost = [Kind::Unseen, Kind::LostWrite, Kind::InconsistentOffsets];
    assert!(lost.iter().any(|kind| failures.contains(kind)), "records were lost, and the checker found {failures:?}");
}
