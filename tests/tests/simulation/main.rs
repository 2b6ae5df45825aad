//! Whole nodes in one process, from one seed (`docs/CHECKER.md`). Each seed has a process of its own, this binary's again.
//!
//! `STRANDLINE_SIM_SEED` = the first seed (then one is run), `STRANDLINE_SIM_SEEDS` = how many.

mod determinism;
mod power_loss;
mod random_faults;

strandline_tests::stand_in_for_the_system!();

use strandline_tests::simulation::run::Summary;
use strandline_tests::simulation::seeds::{Family, answer, ask_all};

/// What makes this binary answer for a seed.
const ONE: [&str; 3] = ["asked_seed", "--exact", "--nocapture"];

/// Runs the seed that another process of this binary asks for; nothing otherwise.
#[test]
fn asked_seed() {
    assert_ne!(answer(), Some(false), "the seed failed");
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Runs the seeds that the environment names, or `count` from 1 on; panics if one fails.
fn run_all(family: Family, count: u64) -> Vec<Summary> {
    let chosen = variable("STRANDLINE_SIM_SEED");
    let count = variable("STRANDLINE_SIM_SEEDS").unwrap_or(if chosen.is_some() { 1 } else { count });
    let (summaries, failures) = ask_all(family, chosen.unwrap_or(1), count, &ONE);
    for (seed, why) in &failures {
        eprintln!("{why}\nagain: STRANDLINE_SIM_SEED={seed} cargo test --workspace --test simulation\n");
    }
    let seeds: Vec<u64> = failures.iter().map(|(seed, _)| *seed).collect();
    assert!(seeds.is_empty(), "seeds {seeds:?} of {count} failed");
    summaries
}
