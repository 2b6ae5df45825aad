//! Two processes that run the same seed do the same: every message, every byte, every time.

use strandline_tests::simulation::seeds::{Family, ask};

use crate::ONE;

#[test]
fn a_seed_does_the_same_twice_and_another_does_not() {
    let run = |seed| ask(Family::Any, seed, &ONE).unwrap_or_else(|why| panic!("{why}"));
    let mut traces = std::collections::BTreeSet::new();
    for seed in 1..=10 {
        let (first, second) = (run(seed), run(seed));
        assert_eq!(first, second, "seed {seed} did something else the second time");
        assert!(first.messages > 1_000, "a run of {} messages", first.messages);
        traces.insert(first.trace);
    }
    assert_eq!(traces.len(), 10, "different seeds did the same");
}
