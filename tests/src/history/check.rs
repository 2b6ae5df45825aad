//! The checker: a history in, a report out.

use super::op::{Key, Op};
use super::report::Report;
use super::rules::Rules;
use super::versions::Versions;
use super::{bounds, cycles, groups, order, staleness, values};

/// Judges a history.
pub fn check(history: &[Op], rules: &Rules) -> Report {
    let versions = Versions::new(history);
    let mut report = Report { figures: staleness::figures(&versions), ..Report::default() };
    let ends = bounds::Ends::new(&versions, rules);
    let log_start = |key: &Key| ends.log_start(key);
    let local_start = |key: &Key| ends.local_start(key);
    values::check(&versions, &log_start, rules, &mut report);
    order::check(&versions, &local_start, rules, &mut report);
    cycles::check(&versions, rules, &mut report);
    bounds::check(&versions, &ends, rules, &mut report);
    groups::check(&versions, &mut report);
    report
}
