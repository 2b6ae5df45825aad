//! Histories written by hand: each call is one operation, or one half of it.

use strandline_tests::history::op::{Action, Key, Micro, Op, Position, Query, Seen, Sent, Slice, Stage};

/// ms from one line to the next.
const STEP_MS: u64 = 10;

/// The partition of most stories.
pub fn k() -> Key {
    Key::new("t", 0)
}

/// Records sent, as (value, offset).
pub fn sent(records: &[(u64, i64)]) -> Vec<Sent> {
    let known = |offset: i64| (offset >= 0).then_some(offset);
    records.iter().map(|(value, offset)| Sent { value: *value, offset: known(*offset), timestamp: None }).collect()
}

/// Records read, as (offset, value).
pub fn slice(records: &[(i64, u64)]) -> Slice {
    Slice::new(k(), records.iter().map(|(offset, value)| Seen::new(*offset, *value)).collect())
}

/// A history that grows.
#[derive(Debug, Default)]
pub struct Story(pub Vec<Op>);

impl Story {
    pub fn line(&mut self, process: u32, stage: Stage, action: Action) -> &mut Self {
        let index = self.0.len() as u64;
        self.0.push(Op { index, time: index * STEP_MS, process, stage, action, rebalance_log: Vec::new() });
        self
    }

    /// Invoked and completed, nothing in between.
    pub fn whole(&mut self, process: u32, stage: Stage, action: Action) -> &mut Self {
        self.line(process, Stage::Invoke, action.clone()).line(process, stage, action)
    }

    /// An acknowledged send of (value, offset); offset -1 = not told.
    pub fn send(&mut self, process: u32, records: &[(u64, i64)]) -> &mut Self {
        self.whole(process, Stage::Ok, Action::Send(vec![Micro::Send(k(), sent(records))]))
    }

    /// A send of another outcome.
    pub fn send_as(&mut self, process: u32, stage: Stage, records: &[(u64, i64)]) -> &mut Self {
        self.whole(process, stage, Action::Send(vec![Micro::Send(k(), sent(records))]))
    }

    /// A poll that returned (offset, value).
    pub fn poll(&mut self, process: u32, records: &[(i64, u64)]) -> &mut Self {
        self.poll_slices(process, vec![slice(records)])
    }

    pub fn poll_slices(&mut self, process: u32, slices: Vec<Slice>) -> &mut Self {
        self.whole(process, Stage::Ok, Action::Poll(vec![Micro::Poll(slices)]))
    }

    /// A poll during which its partition was given or taken.
    pub fn poll_in_rebalance(&mut self, process: u32, records: &[(i64, u64)]) -> &mut Self {
        self.poll(process, records);
        self.0.last_mut().expect("just told").rebalance_log = vec![k()];
        self
    }

    pub fn txn(&mut self, process: u32, stage: Stage, micros: Vec<Micro>) -> &mut Self {
        self.whole(process, stage, Action::Txn(micros))
    }

    pub fn assign(&mut self, process: u32, seek_to_beginning: bool) -> &mut Self {
        self.whole(process, Stage::Ok, Action::Assign { keys: vec![k()], seek_to_beginning })
    }

    pub fn subscribe(&mut self, process: u32) -> &mut Self {
        self.whole(process, Stage::Ok, Action::Subscribe { group: "g".into(), topics: vec!["t".into()] })
    }

    pub fn rebalance(&mut self, process: u32, generation: i32) -> &mut Self {
        self.whole(process, Stage::Ok, Action::Rebalance { group: "g".into(), generation, keys: vec![k()] })
    }

    pub fn commit(&mut self, process: u32, generation: i32, offset: i64) -> &mut Self {
        let positions = vec![Position { key: k(), offset }];
        self.whole(process, Stage::Ok, Action::Commit { group: "g".into(), generation, positions })
    }

    pub fn committed(&mut self, process: u32, offset: i64) -> &mut Self {
        let positions = vec![Position { key: k(), offset }];
        self.whole(process, Stage::Ok, Action::Committed { group: "g".into(), positions })
    }

    pub fn list(&mut self, process: u32, query: Query, offset: i64) -> &mut Self {
        self.whole(process, Stage::Ok, Action::ListOffsets { key: k(), query, offset })
    }
}
