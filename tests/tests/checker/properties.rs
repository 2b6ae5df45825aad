//! What holds for every history of the model.

use proptest::prelude::*;
use strandline_tests::history::check::check;
use strandline_tests::history::op::{from_lines, to_lines};
use strandline_tests::history::rules::Rules;
use strandline_tests::random::Random;

use crate::{model, mutants};

/// Histories of each property.
const CASES: u32 = 300;
/// Steps of one history, at most.
const STEPS_MAX: u32 = 600;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn a_correct_log_is_never_flagged(seed in any::<u64>(), steps in 0..STEPS_MAX) {
        let report = check(&model::history(seed, steps), &Rules::default());
        prop_assert!(report.failures(&Rules::default()).is_empty(), "{report}");
    }

    #[test]
    fn the_order_of_the_lines_on_disk_is_all_that_counts(seed in any::<u64>()) {
        let history = model::history(seed, 100);
        prop_assert_eq!(from_lines(&to_lines(&history)), Ok(history));
    }
}

#[test]
fn every_mutant_is_flagged() {
    for (name, operator, kinds) in mutants::ALL {
        let mut made = 0;
        for seed in 0..u64::from(CASES) {
            let mut history = model::history(seed, STEPS_MAX);
            if !operator(&mut history, &mut Random::new(seed)) {
                continue;
            }
            made += 1;
            let report = check(&history, &Rules::default());
            let failures = report.failures(&Rules::default());
            assert!(
                kinds.iter().any(|kind| failures.contains(kind)),
                "seed {seed}: {name}, and it is not found:\n{report}"
            );
        }
        assert!(made >= CASES / 4, "{name}: only {made} histories had a place for it");
    }
}

#[test]
fn one_history_has_one_report() {
    let history = model::history(7, STEPS_MAX);
    let (first, second) = (check(&history, &Rules::default()), check(&history, &Rules::default()));
    assert_eq!(first.to_string(), second.to_string());
}
