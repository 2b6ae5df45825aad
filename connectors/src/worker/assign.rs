//! Who runs what: a pure function of the work, the workers and what they run now.
//!
//! Owns evenness and stickiness. Invariant: nothing is given to a worker while another one that is there still runs it; such work is taken
//! away first and given out in the next round.

use std::collections::{BTreeMap, BTreeSet};

use super::records::TaskId;

/// A connector, or a task of one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    Connector(String),
    Task(TaskId),
}

/// What the leader remembers between rounds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// Given out in the last round.
    given: BTreeSet<Unit>,
    /// Until when work of a worker that has gone waits for it to come back.
    wait_until_ms: Option<i64>,
}

/// One round's result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Round {
    /// By worker; every worker is in it.
    pub assignments: BTreeMap<String, BTreeSet<Unit>>,
    /// Some work changes hands: when its holders have let go, the next round gives it out.
    pub revoked: bool,
    /// Some work waits for its worker to come back, until this time.
    pub delayed_until_ms: Option<i64>,
}

/// `owned` is what every worker that is there says it runs. `delay_max_ms` is `scheduled.rebalance.max.delay.ms`.
pub fn assign(
    memory: &mut Memory,
    work: &BTreeSet<Unit>,
    owned: &BTreeMap<String, BTreeSet<Unit>>,
    delay_max_ms: i64,
    now_ms: i64,
) -> Round {
    let mut round =
        Round { assignments: owned.keys().map(|w| (w.clone(), BTreeSet::new())).collect(), ..Round::default() };
    // Keep what runs; of what two say they run, the first keeps it.
    let mut free = work.clone();
    for (worker, units) in owned {
        let kept: BTreeSet<Unit> = units.iter().filter(|unit| free.remove(*unit)).cloned().collect();
        round.revoked |= units.iter().any(|u| work.contains(u) && !kept.contains(u));
        round.assignments.insert(worker.clone(), kept);
    }
    for kind in [is_connector as fn(&Unit) -> bool, is_task] {
        round.revoked |= even_out(&mut round.assignments, work, kind);
    }
    // What was given out and is run by nobody that is there: its worker has gone.
    let lost: BTreeSet<Unit> = free.iter().filter(|u| memory.given.contains(*u)).cloned().collect();
    if lost.is_empty() || delay_max_ms <= 0 {
        memory.wait_until_ms = None;
    } else {
        let until = *memory.wait_until_ms.get_or_insert(now_ms + delay_max_ms);
        if now_ms < until {
            free.retain(|u| !lost.contains(u));
            round.delayed_until_ms = Some(until);
        } else {
            memory.wait_until_ms = None;
        }
    }
    for unit in free {
        give(&mut round.assignments, unit);
    }
    memory.given = round.assignments.values().flatten().cloned().collect();
    // Delayed work is still remembered as given, or the next round would take it for new.
    if round.delayed_until_ms.is_some() {
        memory.given.extend(lost);
    }
    round
}

fn is_connector(unit: &Unit) -> bool {
    matches!(unit, Unit::Connector(_))
}

fn is_task(unit: &Unit) -> bool {
    matches!(unit, Unit::Task(_))
}

/// Takes away what a worker has above an even share. True if it took something.
fn even_out(
    assignments: &mut BTreeMap<String, BTreeSet<Unit>>,
    work: &BTreeSet<Unit>,
    kind: fn(&Unit) -> bool,
) -> bool {
    let count = |units: &BTreeSet<Unit>| units.iter().filter(|u| kind(u)).count();
    let workers = assignments.len().max(1);
    let total = work.iter().filter(|u| kind(u)).count();
    let floor = total / workers;
    let counts: Vec<usize> = assignments.values().map(count).collect();
    let (most, least) = (counts.iter().max().copied().unwrap_or(0), counts.iter().min().copied().unwrap_or(0));
    // Nothing is moved for the sake of one more or less.
    if most <= least + 1 {
        return false;
    }
    // Those that run most keep one above the floor, as many as the remainder allows.
    let mut richest: Vec<String> = assignments.keys().cloned().collect();
    richest.sort_by_key(|worker| std::cmp::Reverse(count(&assignments[worker])));
    let keep_more: BTreeSet<&String> = richest.iter().take(total % workers).collect();
    let mut took = false;
    for (worker, units) in assignments.iter_mut() {
        let limit = floor + usize::from(keep_more.contains(worker));
        while count(units) > limit {
            let Some(last) = units.iter().rfind(|u| kind(u)).cloned() else { break };
            units.remove(&last);
            took = true;
        }
    }
    took
}

/// To who has the fewest of its kind.
fn give(assignments: &mut BTreeMap<String, BTreeSet<Unit>>, unit: Unit) {
    let kind: fn(&Unit) -> bool = if is_task(&unit) { is_task } else { is_connector };
    let fewest = assignments.iter_mut().min_by_key(|(_, units)| units.iter().filter(|u| kind(u)).count());
    if let Some((_, units)) = fewest {
        units.insert(unit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks(count: u32) -> BTreeSet<Unit> {
        (0..count).map(|task| Unit::Task(TaskId { connector: "c".to_owned(), task })).collect()
    }

    fn owned(pairs: &[(&str, &BTreeSet<Unit>)]) -> BTreeMap<String, BTreeSet<Unit>> {
        pairs.iter().map(|(w, units)| ((*w).to_owned(), (*units).clone())).collect()
    }

    fn sizes(round: &Round) -> Vec<usize> {
        round.assignments.values().map(BTreeSet::len).collect()
    }

    #[test]
    fn new_work_is_spread_evenly() {
        let none = BTreeSet::new();
        let round = assign(&mut Memory::default(), &tasks(7), &owned(&[("a", &none), ("b", &none)]), 1_000, 0);
        assert_eq!((sizes(&round), round.revoked, round.delayed_until_ms), (vec![4, 3], false, None));
    }

    #[test]
    fn a_new_worker_gets_its_share_in_two_rounds_and_nothing_else_moves() {
        let mut memory = Memory::default();
        let (all, none) = (tasks(4), BTreeSet::new());
        let first = assign(&mut memory, &all, &owned(&[("a", &all), ("b", &none)]), 1_000, 0);
        assert_eq!((sizes(&first), first.revoked), (vec![2, 0], true));
        let kept = &first.assignments["a"];
        let second = assign(&mut memory, &all, &owned(&[("a", kept), ("b", &none)]), 1_000, 0);
        assert_eq!((sizes(&second), second.revoked), (vec![2, 2], false));
        assert_eq!(second.assignments["a"], *kept);
    }

    #[test]
    fn work_of_a_worker_that_went_waits_for_it() {
        let mut memory = Memory::default();
        let (all, none) = (tasks(4), BTreeSet::new());
        let whole = assign(&mut memory, &all, &owned(&[("a", &none), ("b", &none)]), 1_000, 0);
        let (a, b) = (&whole.assignments["a"], &whole.assignments["b"]);
        let gone = assign(&mut memory, &all, &owned(&[("a", a)]), 1_000, 100);
        assert_eq!((sizes(&gone), gone.delayed_until_ms), (vec![2], Some(1_100)));
        let mut back = memory.clone();
        let returned = assign(&mut back, &all, &owned(&[("a", a), ("b", b)]), 1_000, 500);
        assert_eq!((sizes(&returned), returned.delayed_until_ms), (vec![2, 2], None));
        let over = assign(&mut memory, &all, &owned(&[("a", a)]), 1_000, 1_100);
        assert_eq!((sizes(&over), over.delayed_until_ms), (vec![4], None));
    }

    #[test]
    fn without_delay_work_moves_at_once() {
        let mut memory = Memory::default();
        let (all, none) = (tasks(4), BTreeSet::new());
        let whole = assign(&mut memory, &all, &owned(&[("a", &none), ("b", &none)]), 0, 0);
        let a = &whole.assignments["a"];
        assert_eq!(sizes(&assign(&mut memory, &all, &owned(&[("a", a)]), 0, 1)), [4]);
    }

    #[test]
    fn whatever_happens_work_has_one_owner_and_settles_evenly() {
        let mut seed = 7_u64;
        let mut draw = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        for _ in 0..500 {
            let mut memory = Memory::default();
            let mut runs: BTreeMap<String, BTreeSet<Unit>> = BTreeMap::new();
            let mut work = tasks(0);
            for _ in 0..12 {
                match draw(4) {
                    0 => drop(runs.insert(format!("w{}", draw(5)), BTreeSet::new())),
                    1 => drop(runs.pop_last()),
                    _ => work = tasks(u32::try_from(draw(9)).unwrap()),
                }
                let round = assign(&mut memory, &work, &runs, 0, 0);
                let mut seen = BTreeSet::new();
                for (worker, units) in &round.assignments {
                    for unit in units {
                        assert!(seen.insert(unit.clone()), "{unit:?} has two owners");
                        let holder = runs.iter().find(|(_, owned)| owned.contains(unit));
                        assert!(holder.is_none_or(|(w, _)| w == worker), "{unit:?} was taken from one who runs it");
                    }
                }
                runs = round.assignments;
            }
            for _ in 0..3 {
                runs = assign(&mut memory, &work, &runs, 0, 0).assignments;
            }
            let counts: Vec<usize> = runs.values().map(BTreeSet::len).collect();
            if let (Some(most), Some(least)) = (counts.iter().max(), counts.iter().min()) {
                assert!(most - least <= 1, "{counts:?}");
                assert_eq!(counts.iter().sum::<usize>(), work.len());
            }
        }
    }
}
