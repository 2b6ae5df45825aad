//! The power of all nodes at once, again and again, on disks that lose what was not synced.

use strandline_tests::simulation::seeds::Family;

use crate::run_all;

/// The acceptance asks for so many.
const SEEDS: u64 = 200;

#[test]
fn power_loss_of_all_nodes_loses_nothing_acknowledged() {
    let summaries = run_all(Family::PowerLoss, SEEDS);
    for summary in &summaries {
        let losses = summary.faults.get("power loss of all").copied().unwrap_or(0);
        assert!(losses > 0, "seed {}: the power never failed", summary.seed);
        assert!(summary.acknowledged > 0, "seed {}: nothing was written", summary.seed);
    }
    let losses: u64 = summaries.iter().flat_map(|summary| summary.faults.get("power loss of all")).sum();
    eprintln!("{} seeds, the power of all nodes failed {losses} times", summaries.len());
}
