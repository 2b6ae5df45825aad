//! A correct log and its clients, in random order: every history it makes is one that may be.
//!
//! An operation takes effect at one moment between its invocation and its completion, or, when its outcome is unknown, at any
//! later moment or never.

use strandline_tests::history::op::{Action, Key, Micro, Op, Position, Query, Seen, Sent, Slice, Stage, Value};
use strandline_tests::random::Random;

use crate::story::Story;

const PARTITIONS: u64 = 3;
const PRODUCERS: u64 = 4;
const CONSUMERS: u64 = 3;
const MEMBERS: u64 = 2;
/// Records of one batch, at most.
const BATCH_MAX: u64 = 4;
/// Records of one poll, at most.
const POLL_MAX: usize = 7;
const GROUP: &str = "g";

#[derive(Debug, Clone)]
struct Entry {
    /// `None` = a transaction's marker, or a record of one that was aborted: no committed reader sees it.
    value: Option<Value>,
    epoch: i32,
    timestamp: i64,
}

#[derive(Debug, Default)]
struct Log {
    entries: Vec<Entry>,
    epoch: i32,
}

#[derive(Debug)]
enum Kind {
    Producer,
    Consumer,
    Member { at: usize },
}

#[derive(Debug)]
struct Client {
    process: u32,
    kind: Kind,
    /// An operation under way, and whether it has taken effect.
    open: Option<(Action, bool)>,
    /// Next offset of each partition.
    positions: Vec<i64>,
}

/// The whole world.
#[derive(Debug)]
pub struct Model {
    random: Random,
    story: Story,
    logs: Vec<Log>,
    clients: Vec<Client>,
    /// Operations of unknown outcome that may yet take effect.
    ghosts: Vec<Action>,
    processes: u32,
    next_value: Value,
    clock_ms: i64,
    generation: i32,
    owners: Vec<usize>,
    committed: Vec<i64>,
}

fn key(partition: usize) -> Key {
    Key::new("t", i32::try_from(partition).expect("few partitions"))
}

/// A history of about `steps` steps, with everything read at its end.
pub fn history(seed: u64, steps: u32) -> Vec<Op> {
    let partitions = usize::try_from(PARTITIONS).expect("few partitions");
    let mut model = Model {
        random: Random::new(seed),
        story: Story::default(),
        logs: (0..partitions).map(|_| Log::default()).collect(),
        clients: Vec::new(),
        ghosts: Vec::new(),
        processes: 0,
        next_value: 1,
        clock_ms: 1_000,
        generation: 0,
        owners: vec![0; partitions],
        committed: vec![-1; partitions],
    };
    model.start();
    for _ in 0..steps {
        model.step();
    }
    model.finish();
    model.story.0
}

impl Model {
    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.random.below(limit as u64)).expect("below a usize")
    }

    fn one_in(&mut self, many: u64) -> bool {
        self.random.below(many) == 0
    }

    fn new_process(&mut self) -> u32 {
        self.processes += 1;
        self.processes
    }

    fn start(&mut self) {
        let kinds = (0..PRODUCERS)
            .map(|_| Kind::Producer)
            .chain((0..CONSUMERS).map(|_| Kind::Consumer))
            .chain((0..MEMBERS).map(|at| Kind::Member { at: usize::try_from(at).expect("few members") }));
        for kind in kinds {
            let process = self.new_process();
            match kind {
                Kind::Consumer => self.assign(process),
                Kind::Member { .. } => {
                    self.story.subscribe(process);
                }
                Kind::Producer => {}
            }
            self.clients.push(Client { process, kind, open: None, positions: vec![0; self.logs.len()] });
        }
        self.rebalance();
    }

    fn assign(&mut self, process: u32) {
        let keys = (0..self.logs.len()).map(key).collect();
        self.story.whole(process, Stage::Ok, Action::Assign { keys, seek_to_beginning: true });
    }

    fn step(&mut self) {
        self.clock_ms += i64::try_from(self.random.below(3)).expect("small");
        match self.random.below(60) {
            0 => {
                let partition = self.below(self.logs.len());
                self.logs[partition].epoch += 1;
            }
            1 if !self.ghosts.is_empty() => {
                let ghost = self.below(self.ghosts.len());
                let action = self.ghosts.swap_remove(ghost);
                self.take_effect(&action);
            }
            2 => self.list(),
            3 => self.rebalance(),
            _ => {
                let client = self.below(self.clients.len());
                match self.clients[client].kind {
                    Kind::Producer => self.produce(client),
                    Kind::Consumer => self.consume(client),
                    Kind::Member { at } => self.member(client, at),
                }
            }
        }
    }

    /// One step of a producer: begins, takes effect, or ends.
    fn produce(&mut self, client: usize) {
        let process = self.clients[client].process;
        let Some((action, done)) = self.clients[client].open.take() else {
            let action = self.new_sends();
            self.story.line(process, Stage::Invoke, action.clone());
            self.clients[client].open = Some((action, false));
            return;
        };
        if !done && self.one_in(12) {
            self.story.line(process, Stage::Fail, action);
        } else if self.one_in(12) {
            self.story.line(process, Stage::Info, action.clone());
            self.clients[client].process = self.new_process();
            if !done {
                self.ghosts.push(action);
            }
        } else if done {
            self.story.line(process, Stage::Ok, action);
        } else {
            let written = self.take_effect(&action);
            self.clients[client].open = Some((written, true));
        }
    }

    fn new_sends(&mut self) -> Action {
        let transaction = self.one_in(4);
        let parts = if transaction { 2 } else { 1 };
        let mut sends = Vec::new();
        for _ in 0..parts {
            let partition = self.below(self.logs.len());
            let count = 1 + self.random.below(BATCH_MAX);
            let values = self.next_value..self.next_value + count;
            self.next_value += count;
            let sent = values.map(|value| Sent { value, offset: None, timestamp: Some(self.clock_ms) }).collect();
            sends.push(Micro::Send(key(partition), sent));
        }
        if transaction { Action::Txn(sends) } else { Action::Send(sends) }
    }

    /// Appends an operation's records, a transaction's with its markers; the operation with their offsets.
    fn take_effect(&mut self, action: &Action) -> Action {
        let mut action = action.clone();
        let transaction = matches!(action, Action::Txn(_));
        let (Action::Send(micros) | Action::Txn(micros)) = &mut action else { panic!("only sends take effect") };
        for micro in micros {
            let Micro::Send(key, sent) = micro else { panic!("only sends take effect") };
            let log = &mut self.logs[usize::try_from(key.partition).expect("a partition")];
            for one in sent {
                one.offset = Some(i64::try_from(log.entries.len()).expect("a short log"));
                let timestamp = one.timestamp.expect("a model's record has one");
                log.entries.push(Entry { value: Some(one.value), epoch: log.epoch, timestamp });
            }
            if transaction {
                log.entries.push(Entry { value: None, epoch: log.epoch, timestamp: self.clock_ms });
            }
        }
        action
    }

    fn read(&self, partition: usize, from: i64, limit: usize) -> (Slice, i64) {
        let log = &self.logs[partition];
        let end = i64::try_from(log.entries.len()).expect("a short log");
        let taken = (from..end).zip(&log.entries[usize::try_from(from).expect("an offset")..]).take(limit);
        let next = end.min(from + i64::try_from(limit).expect("few"));
        let seen = |(offset, entry): (i64, &Entry)| {
            let (leader_epoch, timestamp) = (Some(entry.epoch), Some(entry.timestamp));
            entry.value.map(|value| Seen { offset, value, leader_epoch, timestamp })
        };
        let slice = Slice {
            log_start: Some(0),
            high_watermark: Some(end),
            last_stable_offset: Some(end),
            committed: true,
            ..Slice::new(key(partition), taken.filter_map(seen).collect())
        };
        (slice, next)
    }

    fn consume(&mut self, client: usize) {
        let process = self.clients[client].process;
        if self.clients[client].open.take().is_none() {
            let action = Action::Poll(vec![Micro::Poll(Vec::new())]);
            self.story.line(process, Stage::Invoke, action.clone());
            self.clients[client].open = Some((action, false));
        } else if self.one_in(10) {
            self.story.line(process, Stage::Fail, Action::Poll(vec![Micro::Poll(Vec::new())]));
        } else {
            let mut slices = Vec::new();
            for partition in 0..self.logs.len() {
                let limit = self.below(POLL_MAX);
                let (slice, next) = self.read(partition, self.clients[client].positions[partition], limit);
                self.clients[client].positions[partition] = next;
                slices.push(slice);
            }
            self.story.line(process, Stage::Ok, Action::Poll(vec![Micro::Poll(slices)]));
        }
        if self.clients[client].open.is_none() && self.one_in(40) {
            self.story.whole(process, Stage::Info, Action::Crash);
            self.clients[client].process = self.new_process();
            self.clients[client].positions.fill(0);
            self.assign(self.clients[client].process);
        }
    }

    fn member(&mut self, client: usize, at: usize) {
        let process = self.clients[client].process;
        let owned: Vec<usize> = (0..self.logs.len()).filter(|p| self.owners[*p] == at).collect();
        if owned.is_empty() {
            return;
        }
        let partition = owned[self.below(owned.len())];
        if self.one_in(3) {
            let positions = vec![Position { key: key(partition), offset: self.clients[client].positions[partition] }];
            self.committed[partition] = positions[0].offset;
            let generation = self.generation;
            self.story.whole(process, Stage::Ok, Action::Commit { group: GROUP.into(), generation, positions });
            return;
        }
        let limit = 1 + self.below(POLL_MAX);
        let (slice, next) = self.read(partition, self.clients[client].positions[partition], limit);
        self.clients[client].positions[partition] = next;
        self.story.poll_slices(process, vec![slice]);
    }

    /// Partitions change hands; each owner goes on from what is committed.
    fn rebalance(&mut self) {
        self.generation += 1;
        for partition in 0..self.logs.len() {
            self.owners[partition] = self.below(usize::try_from(MEMBERS).expect("few members"));
        }
        for client in 0..self.clients.len() {
            let Kind::Member { at } = self.clients[client].kind else { continue };
            let owned: Vec<usize> = (0..self.logs.len()).filter(|p| self.owners[*p] == at).collect();
            let (process, generation) = (self.clients[client].process, self.generation);
            let keys = owned.iter().map(|p| key(*p)).collect();
            self.story.whole(process, Stage::Ok, Action::Rebalance { group: GROUP.into(), generation, keys });
            let positions = owned.iter().map(|p| Position { key: key(*p), offset: self.committed[*p] }).collect();
            self.story.whole(process, Stage::Ok, Action::Committed { group: GROUP.into(), positions });
            for partition in owned {
                self.clients[client].positions[partition] = self.committed[partition].max(0);
            }
        }
    }

    fn list(&mut self) {
        let (partition, process) = (self.below(self.logs.len()), self.new_process());
        let entries = &self.logs[partition].entries;
        let place = |n: usize| i64::try_from(n).expect("a short log");
        let (query, offset) = match self.random.below(4) {
            0 => (Query::Earliest, 0),
            1 => (Query::EarliestLocal, place(entries.len() / 2)),
            2 => (Query::Latest, place(entries.len())),
            _ => {
                let time = i64::try_from(self.random.below(self.clock_ms.unsigned_abs() + 2)).expect("small");
                let found = entries.iter().position(|entry| entry.value.is_some() && entry.timestamp >= time);
                (Query::Timestamp(time), found.map_or(-1, place))
            }
        };
        self.story.whole(process, Stage::Ok, Action::ListOffsets { key: key(partition), query, offset });
    }

    /// A new consumer reads every partition from its beginning to its end.
    fn finish(&mut self) {
        let process = self.new_process();
        self.assign(process);
        for partition in 0..self.logs.len() {
            let mut from = 0;
            while from < i64::try_from(self.logs[partition].entries.len()).expect("a short log") {
                let (slice, next) = self.read(partition, from, POLL_MAX);
                self.story.poll_slices(process, vec![slice]);
                from = next;
            }
        }
    }
}
