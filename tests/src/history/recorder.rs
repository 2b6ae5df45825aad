//! Writes a history down while clients run.
//!
//! Invariant: a line's index is its place, and lines are in the order in which they were told. At most [`LINES_MAX`] lines are kept:
//! more is a harness that forgot to end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::op::{Action, Key, Op, Stage};

/// Lines of one history.
pub const LINES_MAX: usize = 20_000_000;

#[derive(Debug)]
struct Told {
    begin: Instant,
    lines: Vec<Op>,
    processes: u32,
}

/// Shared by the clients of a run.
#[derive(Debug, Clone)]
pub struct Recorder(Arc<Mutex<Told>>);

impl Recorder {
    /// An empty history that begins at `begin`.
    pub fn new(begin: Instant) -> Self {
        Recorder(Arc::new(Mutex::new(Told { begin, lines: Vec::new(), processes: 0 })))
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process number that no client had.
    pub fn process(&self) -> u32 {
        let mut told = self.told();
        told.processes += 1;
        told.processes
    }

    /// Adds a line.
    pub fn tell(&self, now: Instant, process: u32, stage: Stage, action: Action) {
        self.tell_with(now, process, stage, action, Vec::new());
    }

    /// Adds a line of an operation during which partitions were given or taken.
    pub fn tell_with(&self, now: Instant, process: u32, stage: Stage, action: Action, rebalance_log: Vec<Key>) {
        let mut told = self.told();
        assert!(told.lines.len() < LINES_MAX, "a history of {LINES_MAX} lines");
        let index = told.lines.len() as u64;
        let time = u64::try_from(now.saturating_duration_since(told.begin).as_millis()).expect("a run is shorter");
        told.lines.push(Op { index, time, process, stage, action, rebalance_log });
    }

    /// The lines so far.
    pub fn history(&self) -> Vec<Op> {
        self.told().lines.clone()
    }

    pub fn lines(&self) -> usize {
        self.told().lines.len()
    }
}
