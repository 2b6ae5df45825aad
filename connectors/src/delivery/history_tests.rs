//! A task over a made-up sink, group and log: seeds, and every short history.

use std::collections::BTreeSet;

use super::*;

/// A small generator of numbers from a seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

const PARTITIONS: i32 = 2;
const END: i64 = 12;

fn policy() -> Policy {
    Policy {
        retry_timeout_ms: 0,
        retry_delay_max_ms: 1_000,
        tolerate: true,
        dead_letters: true,
        flush_interval_ms: 700,
    }
}

fn partition(n: i32) -> TopicPartition {
    TopicPartition::new("t", n)
}

/// The world around a task.
struct World {
    core: Delivery,
    now: i64,
    /// The group's state: who holds the seat is known by the generation.
    generation: i32,
    held: bool,
    committed: Offsets,
    /// Written, not durable.
    open: BTreeMap<TopicPartition, Vec<i64>>,
    durable: BTreeMap<TopicPartition, BTreeSet<i64>>,
    letters: BTreeMap<TopicPartition, BTreeSet<i64>>,
    reads: BTreeMap<TopicPartition, i64>,
    ended: Option<Option<String>>,
}

impl World {
    fn new(policy: Policy) -> Self {
        World {
            core: Delivery::new(policy, Target::Running, 0),
            now: 0,
            generation: 0,
            held: false,
            committed: Offsets::new(),
            open: BTreeMap::new(),
            durable: BTreeMap::new(),
            letters: BTreeMap::new(),
            reads: BTreeMap::new(),
            ended: None,
        }
    }

    /// The next offset that the sink would want.
    fn sink_end(&self, p: &TopicPartition) -> i64 {
        let last = |set: Option<&BTreeSet<i64>>| set.and_then(|s| s.last().copied()).map_or(0, |o| o + 1);
        last(self.durable.get(p)).max(last(self.letters.get(p))).max(self.committed.get(p).copied().unwrap_or(0))
    }

    /// Carries one action out. `fault`: 0 = none, 1 = retriable, 2 = reopen, 3 = rejected, 4 = lost.
    fn step(&mut self, fault: u64) {
        let action = self.core.next(self.now);
        let failed = |kind: u64| match kind {
            1 => Some(SinkError::Retriable("down".to_owned())),
            2 => Some(SinkError::Reopen("elsewhere".to_owned())),
            _ => None,
        };
        if fault == 4 && self.held {
            self.held = false;
            self.core.on(Input::Lost, self.now);
            return;
        }
        let input = match action {
            Action::Join => {
                self.generation += 1;
                self.held = true;
                let assigned = (0..PARTITIONS)
                    .map(|n| Assigned {
                        partition: partition(n),
                        committed: self.committed.get(&partition(n)).copied(),
                    })
                    .collect();
                Input::Joined { generation: self.generation, assigned }
            }
            Action::Open(assigned) => {
                assert!(self.open.values().all(Vec::is_empty), "rows of before are forgotten");
                Input::Opened(match failed(fault) {
                    Some(error) => Err(error),
                    None => {
                        let starts: Offsets =
                            assigned.iter().map(|a| (a.partition.clone(), a.committed.unwrap_or(0))).collect();
                        self.reads = starts.clone();
                        Ok(starts)
                    }
                })
            }
            Action::Read { until_ms } => {
                let first = i32::try_from(fault % 2).unwrap();
                let left = [first, 1 - first].map(partition).into_iter().find(|p| self.reads[p] < END);
                let Some(p) = left else {
                    self.now = until_ms;
                    return;
                };
                let at = self.reads[&p];
                let next = (at + 3).min(END);
                self.reads.insert(p.clone(), next);
                Input::Read(Span { partition: p, first: at, next })
            }
            Action::Wait { until_ms } => {
                self.now = self.now.max(until_ms);
                return;
            }
            Action::Write(span) => {
                let error = failed(fault);
                if error.is_none() {
                    let rejected = span.first;
                    let rows = (span.first..span.next).filter(|o| fault != 3 || *o != rejected);
                    self.open.entry(span.partition.clone()).or_default().extend(rows);
                }
                Input::Written(match (error, fault) {
                    (Some(error), _) => Err(error),
                    (None, 3) => Err(SinkError::Rejected { offsets: vec![span.first], reason: "bad".to_owned() }),
                    _ => Ok(()),
                })
            }
            Action::DeadLetter(letter) => Input::DeadLettered(if fault == 1 {
                Err("no leader".to_owned())
            } else {
                self.letters.entry(letter.partition).or_default().extend(letter.offsets);
                Ok(())
            }),
            Action::Flush => Input::Flushed(match failed(fault) {
                Some(error) => Err(error),
                None => {
                    for (p, rows) in &mut self.open {
                        self.durable.entry(p.clone()).or_default().extend(rows.drain(..));
                    }
                    let ends = (0..PARTITIONS).map(partition).map(|p| (p.clone(), self.sink_end(&p)));
                    // Only of what it was given in this generation.
                    Ok(ends
                        .filter(|(p, _)| self.core.partitions.contains_key(p))
                        .map(|(p, e)| {
                            let written = self.core.partitions[&p].written;
                            (p, e.min(written))
                        })
                        .collect())
                }
            }),
            Action::Commit { generation, offsets } => {
                assert!(self.held && generation == self.generation, "a commit of a seat that is not held");
                for (p, end) in &offsets {
                    let missing: Vec<i64> = (0..*end)
                        .filter(|o| !self.durable.get(p).is_some_and(|d| d.contains(o)))
                        .filter(|o| !self.letters.get(p).is_some_and(|l| l.contains(o)))
                        .collect();
                    assert!(missing.is_empty(), "{p} is committed up to {end}, but {missing:?} are nowhere");
                }
                if fault == 1 {
                    Input::Committed(Err(CommitFault::Passing))
                } else {
                    self.committed.extend(offsets);
                    Input::Committed(Ok(()))
                }
            }
            Action::Close(_) => {
                self.open.clear();
                Input::Closed
            }
            Action::End(reason) => {
                self.ended = Some(reason);
                return;
            }
        };
        self.now += 1;
        self.core.on(input, self.now);
    }

    fn delivered(&self) -> bool {
        (0..PARTITIONS).map(partition).all(|p| self.committed.get(&p) == Some(&END))
    }
}

#[test]
fn whatever_goes_wrong_everything_is_delivered_in_the_end() {
    for seed in 0..3_000 {
        let mut draw = Draw(seed);
        let mut world = World::new(policy());
        for _ in 0..draw.below(120) {
            let fault = if draw.below(3) == 0 { draw.below(6) } else { draw.below(2) * 5 };
            if draw.below(20) == 0 {
                world.core.on(Input::RebalanceDue, world.now);
            }
            match draw.below(30) {
                0 => world.core.on(Input::Target(Target::Paused), world.now),
                1 | 2 => world.core.on(Input::Target(Target::Running), world.now),
                _ => {}
            }
            world.step(fault);
        }
        world.core.on(Input::Target(Target::Running), world.now);
        let mut steps = 0;
        while !world.delivered() {
            // Reads of both partitions in turn, no faults.
            world.step(if steps % 2 == 0 { 0 } else { 5 });
            steps += 1;
            assert!(steps < 2_000, "seed {seed} does not end: {:?}", world.core);
        }
        world.core.on(Input::Target(Target::Stopped), world.now);
        for _ in 0..10 {
            world.step(0);
        }
        assert_eq!(world.ended, Some(None), "seed {seed}");
    }
}

#[test]
fn every_short_history_keeps_the_promises() {
    // Six faults at each of seven steps after the first rows were read.
    for history in 0..6_u64.pow(7) {
        let mut world = World::new(policy());
        for _ in 0..4 {
            world.step(0);
        }
        let mut rest = history;
        for _ in 0..7 {
            world.step(rest % 6);
            rest /= 6;
        }
        assert_eq!(world.ended, None);
    }
}

fn running(policy: Policy) -> Delivery {
    let mut core = Delivery::new(policy, Target::Running, 0);
    assert_eq!(core.next(0), Action::Join);
    core.on(
        Input::Joined { generation: 1, assigned: vec![Assigned { partition: partition(0), committed: Some(4) }] },
        0,
    );
    core.on(Input::Opened(Ok(Offsets::from([(partition(0), 4)]))), 0);
    core.on(Input::Read(Span { partition: partition(0), first: 4, next: 8 }), 0);
    core
}

#[test]
fn a_call_is_tried_again_with_longer_pauses_until_its_time_is_over() {
    let mut core = running(Policy { retry_timeout_ms: 1_000, ..policy() });
    let mut now = 0;
    let mut pauses = Vec::new();
    loop {
        match core.next(now) {
            Action::Write(_) => core.on(Input::Written(Err(SinkError::Retriable("down".to_owned()))), now),
            Action::Wait { until_ms } => {
                pauses.push(until_ms - now);
                now = until_ms;
            }
            Action::Close(_) => core.on(Input::Closed, now),
            Action::End(Some(reason)) => {
                assert!(reason.starts_with("down; tried again for"), "{reason}");
                break;
            }
            Action::Flush => core.on(Input::Flushed(Ok(Offsets::new())), now),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(pauses, [300, 600, 1_000]);
}

#[test]
fn without_tolerance_a_rejected_record_ends_the_task_and_is_not_committed() {
    let mut core = running(Policy { tolerate: false, ..policy() });
    assert!(matches!(core.next(0), Action::Write(_)));
    core.on(Input::Written(Err(SinkError::Rejected { offsets: vec![5], reason: "no such column".to_owned() })), 0);
    assert!(matches!(core.next(0), Action::Close(_)));
    core.on(Input::Closed, 0);
    let Action::End(Some(reason)) = core.next(0) else { panic!("the task ends") };
    assert!(reason.starts_with("no such column (t-0 offset 5)"), "{reason}");
}

#[test]
fn a_sink_that_claims_what_it_was_not_given_is_not_believed() {
    let mut core = running(policy());
    assert!(matches!(core.next(700), Action::Flush));
    core.on(Input::Flushed(Ok(Offsets::from([(partition(0), 8)]))), 700);
    assert!(matches!(core.next(700), Action::Close(_)));
}

#[test]
fn a_paused_task_writes_nothing_but_keeps_its_seat() {
    let mut core = running(policy());
    core.on(Input::Target(Target::Paused), 0);
    assert_eq!(core.next(0), Action::Wait { until_ms: 700 });
    core.on(Input::Target(Target::Running), 10);
    assert!(matches!(core.next(10), Action::Write(_)));
}
