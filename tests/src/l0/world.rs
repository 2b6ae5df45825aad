//! The world of one seed: nodes, controller, bucket, clients, and one queue of events in simulated time.
//!
//! Owns the queue, the clock, the streams of random numbers and the order in which things happen. After every event what it has
//! woken goes on (`pump`), then the oracle looks.
//! Nothing here reads a clock or runs on another thread: a run is a function of its seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use object_store::memory::InMemory;
use strandline_controller::decide::Defaults;
use strandline_controller::request::{Request, Response};
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::{BrokerId, TopicId, TopicPartition};
use strandline_protocol::messages::fetch_request::FetchPartition;
use strandline_protocol::messages::fetch_response::PartitionData;
use strandline_tiering::PartitionPrefix;
use uuid::Uuid;

use super::clients::{Attempt, Producer};
use super::controller::Controller;
use super::node::{CLUSTER, Node};
use super::oracle::{Held, Oracle, Violation};
use super::store::Call;
use super::swarm::{Misfortune, Swarm};
use super::trace::Trace;
use crate::random::Random;

/// The one topic.
pub const TOPIC: &str = "t";
/// Kafka's `replica.lag.time.max.ms`, here.
pub const LAG_MAX_MS: i64 = 1_500;
/// A broker that was not heard of for so long is fenced.
pub const SESSION_MS: i64 = 1_200;
/// Events of one run, at most: more means that something spins.
const EVENTS_MAX: u64 = 60_000;
/// Simulated time from the end of the misfortunes until everything has come right, at most.
const LIVENESS_MS: i64 = 60_000;
/// Where time begins.
const START_MS: i64 = 1_000_000;

/// The controller, and clients, as ends of a link.
pub const CONTROLLER: BrokerId = 0;
pub const CLIENT: BrokerId = -1;

/// A message on its way.
pub enum Message {
    Ask {
        from: BrokerId,
        life: u32,
        id: u64,
        request: Box<Request>,
    },
    Answer {
        to: BrokerId,
        life: u32,
        id: u64,
        response: Box<Response>,
    },
    Newest {
        from: BrokerId,
        life: u32,
        id: u64,
        tp: TopicPartition,
    },
    NewestAnswer {
        to: BrokerId,
        life: u32,
        id: u64,
        pointer: Option<strandline_protocol::remote_pointer::RemotePointer>,
    },
    Fetch {
        from: BrokerId,
        life: u32,
        leader: BrokerId,
        id: u64,
        broker_epoch: i64,
        wanted: Box<FetchPartition>,
    },
    FetchAnswer {
        to: BrokerId,
        life: u32,
        leader: BrokerId,
        id: u64,
        data: Option<Box<PartitionData>>,
    },
    Produce {
        to: BrokerId,
        attempt: Attempt,
    },
    ProduceAnswer {
        attempt: Attempt,
        outcome: Result<i64, ErrorCode>,
    },
}

/// What happens at a time.
pub enum Event {
    Start(BrokerId),
    Deliver(Message),
    ApplyMetadata(BrokerId, u32),
    Heartbeat(BrokerId, u32),
    CallTimeout(BrokerId, u32, u64),
    IsrTimer(BrokerId, u32),
    IsrRetry(BrokerId, u32),
    FetchTick(BrokerId, u32, BrokerId),
    FetchTimeout(BrokerId, u32, BrokerId, u64),
    SyncBegins(BrokerId, u32, Arc<strandline::partition::Partition>),
    SyncEnds(BrokerId, u32, u64),
    TierTick(BrokerId, u32),
    Housekeeping(BrokerId, u32),
    StoreEffect(u64),
    StoreAnswer(u64),
    Produce(usize),
    ProduceTimeout(usize, u64),
    Consume,
    Replace(BrokerId, u32),
    Sessions,
    Nemesis,
    Heal,
    Look,
}

struct Queued {
    at_ms: i64,
    number: u64,
    event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.at_ms, self.number) == (other.at_ms, other.number)
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_ms, self.number).cmp(&(other.at_ms, other.number))
    }
}

/// A call to the store that was not answered yet.
pub struct StoreCall {
    pub call: Call,
    pub fails: Option<&'static str>,
    pub done: Option<object_store::Result<super::store::Done>>,
}

/// One independent stream of random numbers for each part, so that a draw in one does not shift the others.
pub struct Streams {
    pub network: Random,
    pub store: Random,
    pub disk: Random,
    pub nemesis: Random,
    pub clients: Random,
    pub pace: Random,
    pub names: Random,
}

pub struct World {
    pub now_ms: i64,
    pub clock: Arc<AtomicI64>,
    queue: BinaryHeap<Reverse<Queued>>,
    queued: u64,
    pub numbers: u64,
    pub swarm: Swarm,
    pub streams: Streams,
    pub nodes: BTreeMap<BrokerId, Node>,
    pub controller: Controller,
    pub objects: Arc<InMemory>,
    pub store_calls: BTreeMap<u64, StoreCall>,
    pub producers: Vec<Producer>,
    pub consumed: i64,
    pub cuts: BTreeMap<(BrokerId, BrokerId), i64>,
    pub healed: bool,
    /// Nodes that have lost what was not synced, and are not in sync again.
    pub unclean: BTreeSet<BrokerId>,
    pub tp: TopicPartition,
    pub oracle: Oracle,
    pub trace: Trace,
    pub fired: BTreeMap<&'static str, u64>,
    pub runtime: tokio::runtime::Runtime,
    /// Nodes that the event under way has done something to.
    pub touched: Touched,
    /// What was committed and decided when all nodes were last looked at: the end of the one, the length of the other.
    pub looked: (i64, usize),
    runtime_ms: i64,
    pub cache: PathBuf,
    pub acknowledged: u64,
    pub events: u64,
}

impl World {
    pub fn new(seed: u64, print: bool, cache: PathBuf) -> World {
        let mut root = Random::new(seed ^ 0x5eed_0f10);
        let mut stream = || Random::new(root.word());
        let swarm = Swarm::draw(&mut stream());
        let streams = Streams {
            network: stream(),
            store: stream(),
            disk: stream(),
            nemesis: stream(),
            clients: stream(),
            pace: stream(),
            names: stream(),
        };
        let tp = TopicPartition { topic_id: TopicId(Uuid::from_u128(7)), partition: 0 };
        let prefix = PartitionPrefix::new(CLUSTER, TOPIC, &tp);
        let nodes = (1..=swarm.brokers).map(|id| (id, Node::new(id, &swarm))).collect();
        let producers = (0..swarm.producers).map(|n| Producer::new(1_000 + n as i64, swarm.batches)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without threads or sockets starts");
        World {
            now_ms: START_MS,
            clock: Arc::new(AtomicI64::new(START_MS)),
            queue: BinaryHeap::new(),
            queued: 0,
            numbers: 0,
            oracle: Oracle::new(tp, prefix, &swarm),
            controller: Controller::new(Defaults { synced: swarm.synced, ..Defaults::default() }),
            swarm,
            streams,
            nodes,
            objects: Arc::new(InMemory::new()),
            store_calls: BTreeMap::new(),
            producers,
            consumed: 0,
            cuts: BTreeMap::new(),
            healed: false,
            unclean: BTreeSet::new(),
            tp,
            trace: Trace::new(print),
            fired: BTreeMap::new(),
            runtime,
            touched: Touched::All,
            looked: (0, 0),
            runtime_ms: START_MS,
            cache,
            acknowledged: 0,
            events: 0,
        }
    }

    pub fn at(&mut self, delay_ms: i64, event: Event) {
        self.queued += 1;
        self.queue.push(Reverse(Queued { at_ms: self.now_ms + delay_ms.max(0), number: self.queued, event }));
    }

    pub fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// A pause around `mean` ms, from half of it to one and a half.
    pub fn around(&mut self, mean: u64) -> i64 {
        (mean / 2 + self.streams.pace.below(mean + 1)) as i64
    }

    /// Sends a message: it arrives at some time, or never.
    pub fn send(&mut self, from: BrokerId, to: BrokerId, message: Message) {
        let (lost, late, far) = {
            let random = &mut self.streams.network;
            (random.below(1_000), random.below(1_000), 1 + random.below(8) as i64)
        };
        let cut = self.cuts.get(&(from, to)).is_some_and(|until| *until > self.now_ms);
        if !self.healed && (cut || lost < self.swarm.lost_permille) {
            return;
        }
        let late = if !self.healed && late < self.swarm.late_permille {
            20 + self.streams.network.below(2_500) as i64
        } else {
            0
        };
        self.at(far + late, Event::Deliver(message));
    }

    /// The runtime of the product's timers follows the simulated clock.
    pub fn sync_timers(&mut self) {
        let behind = self.now_ms - self.runtime_ms;
        if behind > 0 && self.swarm.tiered {
            self.runtime_ms = self.now_ms;
            self.runtime.block_on(tokio::time::advance(Duration::from_millis(behind as u64)));
        }
    }

    pub fn fire(&mut self, what: &'static str) {
        *self.fired.entry(what).or_default() += 1;
    }

    pub fn up(&self) -> Vec<BrokerId> {
        self.nodes.values().filter(|n| n.up.is_some()).map(|n| n.id).collect()
    }

    /// Runs both phases.
    pub fn run(&mut self) -> Result<(), Violation> {
        self.trace.note(self.now_ms, format_args!("{:?}", self.swarm));
        for id in 1..=self.swarm.brokers {
            self.at(i64::from(id), Event::Start(id));
        }
        self.at(100, Event::Sessions);
        self.at(400, Event::Look);
        for producer in 0..self.producers.len() {
            let pause = self.around(600);
            self.at(pause, Event::Produce(producer));
        }
        self.at(700, Event::Consume);
        let first = 700 + self.streams.nemesis.below(self.swarm.nemesis_ms) as i64;
        self.at(first, Event::Nemesis);
        self.at(self.swarm.safety_ms, Event::Heal);
        let end_ms = START_MS + self.swarm.safety_ms + LIVENESS_MS;
        while let Some(Reverse(next)) = self.queue.pop() {
            self.events += 1;
            if next.at_ms > end_ms || self.events > EVENTS_MAX {
                return self.overdue();
            }
            self.now_ms = next.at_ms;
            self.clock.store(next.at_ms, Ordering::Relaxed);
            if self.swarm.tiered && self.nodes.values().any(|n| n.up.as_ref().is_some_and(|up| up.has_timers())) {
                self.sync_timers();
            }
            self.touched = touched(&next.event);
            self.happen(next.event)?;
            self.pump()?;
            if self.healed && self.is_settled() {
                return self.finish();
            }
        }
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Held {
        match event {
            Event::Start(id) => self.start(id),
            Event::Deliver(message) => return self.deliver(message),
            Event::ApplyMetadata(id, life) => return self.apply_metadata(id, life),
            Event::Heartbeat(id, life) => self.heartbeat(id, life),
            Event::CallTimeout(id, life, call) => self.call_timeout(id, life, call),
            Event::IsrTimer(id, life) => self.isr_timer(id, life),
            Event::IsrRetry(id, life) => self.isr_retry(id, life),
            Event::FetchTick(id, life, leader) => self.fetch_tick(id, life, leader),
            Event::FetchTimeout(id, life, leader, number) => self.fetch_timeout(id, life, leader, number),
            Event::SyncBegins(id, life, partition) => self.sync_begins(id, life, partition),
            Event::SyncEnds(id, life, number) => self.sync_ends(id, life, number),
            Event::TierTick(id, life) => self.tier_tick(id, life),
            Event::Housekeeping(id, life) => self.housekeeping(id, life),
            Event::StoreEffect(number) => return self.store_effect(number),
            Event::StoreAnswer(number) => self.store_answer(number),
            Event::Produce(producer) => self.produce(producer),
            Event::ProduceTimeout(producer, number) => self.produce_timeout(producer, number),
            Event::Consume => return self.consume(),
            Event::Replace(id, life) => self.replace(id, life),
            Event::Sessions => return self.sessions(),
            Event::Nemesis => self.nemesis(),
            Event::Heal => self.heal(),
            Event::Look => self.create_topic(),
        }
        Ok(())
    }

    fn deliver(&mut self, message: Message) -> Held {
        match message {
            Message::Ask { from, life, id, request } => return self.controller_asked(from, life, id, &request),
            Message::Answer { to, life, id, response } => self.controller_answered(to, life, id, *response),
            Message::Newest { from, life, id, tp } => {
                if self.controller.away_until_ms <= self.now_ms {
                    let pointer = self.controller.image.partitions.get(&tp).map(|p| p.pointer);
                    self.send(CONTROLLER, from, Message::NewestAnswer { to: from, life, id, pointer });
                }
            }
            Message::NewestAnswer { to, life, id, pointer } => self.newest_answered(to, life, id, pointer),
            Message::Fetch { from, life, leader, id, broker_epoch, wanted } => {
                self.fetched(from, life, leader, id, broker_epoch, &wanted);
            }
            Message::FetchAnswer { to, life, leader, id, data } => self.fetch_answered(to, life, leader, id, data),
            Message::Produce { to, attempt } => self.append(to, attempt),
            Message::ProduceAnswer { attempt, outcome } => self.produce_answered(&attempt, outcome),
        }
        Ok(())
    }

    /// The second phase begins: nothing goes wrong any more.
    fn heal(&mut self) {
        self.healed = true;
        self.cuts.clear();
        self.controller.away_until_ms = 0;
        let down: Vec<BrokerId> = self.nodes.values().filter(|n| n.up.is_none()).map(|n| n.id).collect();
        for id in down {
            self.at(1, Event::Start(id));
        }
        for node in self.nodes.values_mut() {
            (node.mute_until_ms, node.slow_until_ms) = (0, 0);
        }
        self.trace.note(self.now_ms, format_args!("heal"));
    }

    fn overdue(&self) -> Result<(), Violation> {
        let mut detail = String::new();
        self.unsettled(&mut |what| detail = what.to_string());
        Err(Violation { invariant: "41-45 after the faults everything comes right", detail })
    }

    /// What random bytes a name is made of.
    pub fn uuid(&mut self) -> Uuid {
        Uuid::from_u64_pair(self.streams.names.word(), self.streams.names.word())
    }

    pub fn allows(&self, kind: Misfortune) -> bool {
        self.swarm.allows(kind)
    }
}

/// Nodes that something was done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touched {
    One(BrokerId),
    All,
}

impl Touched {
    pub fn contains(self, id: BrokerId) -> bool {
        match self {
            Touched::One(one) => one == id,
            Touched::All => true,
        }
    }
}

/// Whom an event concerns. A task that it wakes elsewhere, or a change of what is committed, is seen without it.
fn touched(event: &Event) -> Touched {
    match event {
        Event::Start(id)
        | Event::ApplyMetadata(id, _)
        | Event::Heartbeat(id, _)
        | Event::CallTimeout(id, ..)
        | Event::IsrTimer(id, _)
        | Event::IsrRetry(id, _)
        | Event::FetchTick(id, ..)
        | Event::FetchTimeout(id, ..)
        | Event::SyncBegins(id, ..)
        | Event::SyncEnds(id, ..)
        | Event::TierTick(id, _)
        | Event::Housekeeping(id, _)
        | Event::Replace(id, _) => Touched::One(*id),
        Event::Deliver(message) => match message {
            Message::Answer { to, .. }
            | Message::NewestAnswer { to, .. }
            | Message::FetchAnswer { to, .. }
            | Message::Produce { to, .. } => Touched::One(*to),
            Message::Fetch { leader, .. } => Touched::One(*leader),
            Message::Ask { .. } | Message::Newest { .. } | Message::ProduceAnswer { .. } => Touched::One(CONTROLLER),
        },
        Event::StoreEffect(_) | Event::StoreAnswer(_) | Event::Produce(_) | Event::ProduceTimeout(..) => {
            Touched::One(CLIENT)
        }
        Event::Consume | Event::Sessions | Event::Nemesis | Event::Heal | Event::Look => Touched::All,
    }
}

/// Record bytes of an answer, for the trace.
pub fn bytes_in(data: &PartitionData) -> u64 {
    data.records.as_ref().map_or(0, |records| records.len())
}
