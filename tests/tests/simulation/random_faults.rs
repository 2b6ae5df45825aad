//! Anything may fail, then all is healed: nothing acknowledged is lost, and the cluster converges.

use std::collections::BTreeMap;

use strandline_tests::simulation::seeds::Family;

use crate::run_all;

/// Seeds of one run of the suite.
const SEEDS: u64 = 300;

#[test]
fn nothing_acknowledged_is_lost_and_the_cluster_converges() {
    let summaries = run_all(Family::Any, SEEDS);
    let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
    for (kind, count) in summaries.iter().flat_map(|summary| &summary.faults) {
        *faults.entry(kind).or_default() += count;
    }
    let acknowledged: u64 = summaries.iter().map(|summary| summary.acknowledged).sum();
    let simulated: u64 = summaries.iter().map(|summary| summary.simulated_ms / 1_000).sum();
    eprintln!("{} seeds, {simulated} s simulated, {acknowledged} records acknowledged, {faults:?}", summaries.len());
    // A run in which nobody could write says nothing.
    assert!(summaries.iter().all(|summary| summary.acknowledged > 0));
}
