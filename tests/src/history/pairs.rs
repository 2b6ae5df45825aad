//! Operations made whole: each invocation with its completion.
//!
//! Invariant: in the order of the completions; what never completed comes last and counts as `info`.

use std::collections::HashMap;

use super::op::{Action, Key, Op, Stage};

/// An operation from its invocation to its completion.
#[derive(Debug, Clone, Copy)]
pub struct Operation<'a> {
    /// Index of the invocation's line; -1 = the history has none, it may have begun at any time.
    pub invoked: i64,
    /// Index of the completion's line; `i64::MAX` = it never completed.
    pub completed: i64,
    /// ms since the history began.
    pub invoked_ms: u64,
    pub completed_ms: u64,
    pub process: u32,
    /// `Ok`, `Fail` or `Info`.
    pub stage: Stage,
    pub action: &'a Action,
    pub rebalance_log: &'a [Key],
}

impl Operation<'_> {
    /// How it is named in a report.
    pub fn name(&self) -> i64 {
        if self.completed == i64::MAX { self.invoked } else { self.completed }
    }
}

/// The operations of a history.
pub fn operations(history: &[Op]) -> Vec<Operation<'_>> {
    let mut open: HashMap<u32, &Op> = HashMap::new();
    let mut whole = Vec::new();
    let mut lost = Vec::new();
    let place = |op: &Op| i64::try_from(op.index).expect("fewer lines than 2^63");
    let never = |op: &'_ Op| (place(op), op.time, op.process);
    for op in history {
        if op.stage == Stage::Invoke {
            lost.extend(open.insert(op.process, op));
            continue;
        }
        let invocation = open.remove(&op.process);
        whole.push(Operation {
            invoked: invocation.map_or(-1, place),
            completed: place(op),
            invoked_ms: invocation.map_or(0, |i| i.time),
            completed_ms: op.time,
            process: op.process,
            stage: op.stage,
            action: &op.action,
            rebalance_log: &op.rebalance_log,
        });
    }
    lost.extend(open.into_values());
    lost.sort_by_key(|op| op.index);
    whole.extend(lost.into_iter().map(|op| {
        let (invoked, invoked_ms, process) = never(op);
        Operation {
            invoked,
            completed: i64::MAX,
            invoked_ms,
            completed_ms: u64::MAX,
            process,
            stage: Stage::Info,
            action: &op.action,
            rebalance_log: &op.rebalance_log,
        }
    }));
    whole
}
