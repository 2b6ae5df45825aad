//! One run: a world, clients, a safety phase with faults, a liveness phase without, and the judgement.
//!
//! A run fails when a node does not start or panics, when the healed cluster does not converge in [`CONVERGE_MS`] of simulated time,
//! or when the checker finds what may not be.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Once};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use strandline_client::Cluster;
use strandline_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};

use super::clients::{self, Client, Reader, Shared};
use super::committers::{self, Committer};
use super::faults::{Fault, Faults};
use super::world::{NODES, Shape, World};
use super::{movers, system};
use crate::history::check::check;
use crate::history::op::{Op, Query, to_lines};
use crate::history::rules::Rules;
use crate::random::Random;

const TOPIC: &str = "t";
const PARTITIONS: i32 = 3;
/// Clients that commit offsets.
const COMMITTERS: usize = 2;
/// A new cluster serves within this time, ms.
const FORM_MS: u64 = 30_000;
/// The phase of faults, ms.
const SAFETY_MS: (u64, u64) = (6_000, 16_000);
/// One run of so many moves replicas.
const MOVES_ONE_IN: u64 = 3;
/// Between two faults, ms.
const FAULT_EVERY_MS: (u64, u64) = (100, 2_500);
/// A healed cluster has all replicas in sync, takes writes everywhere and has caught up with its uploads within this time, ms.
const CONVERGE_MS: u64 = 60_000;
/// A last reader reads everything within this time, ms.
const READ_MS: u64 = 60_000;
/// A leader that was cut off may answer from what it has for so long, ms.
const STALE_MS: u64 = 8_000;
/// As `fetch_stale_ms` of the rules: longer than the faults of a run.
const FETCH_STALE_MS: u64 = 20_000;

/// What a seed decides.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub shape: Shape,
    pub safety_ms: u64,
    /// Replicas are moved meanwhile.
    pub moves: bool,
    /// Struck in this order instead of drawn ones, this often.
    pub only: Option<(Fault, u64)>,
}

impl Plan {
    /// Random faults.
    pub fn of(seed: u64) -> Plan {
        let mut random = Random::new(seed ^ 0x5eed);
        let tiered = random.below(4) > 0;
        let safety_ms = SAFETY_MS.0 + random.below(SAFETY_MS.1 - SAFETY_MS.0);
        let moves = random.below(MOVES_ONE_IN) == 0;
        Plan { seed, shape: Shape { tiered }, safety_ms, moves, only: None }
    }

    /// The power of all nodes fails, again and again.
    pub fn power_loss(seed: u64) -> Plan {
        Plan { only: Some((Fault::PowerLossOfAll, 4_000)), safety_ms: 10_000, ..Plan::of(seed) }
    }
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub seed: u64,
    pub tiered: bool,
    pub simulated_ms: u64,
    pub faults: BTreeMap<String, u64>,
    pub acknowledged: u64,
    pub read: u64,
    /// Messages between hosts.
    pub messages: u64,
    /// Equal for two runs that did the same.
    pub trace: u64,
}

/// Why a run failed.
#[derive(Debug, Clone)]
pub struct Failure {
    pub seed: u64,
    pub why: Vec<String>,
    /// Faults struck, and when, ms.
    pub faults: Vec<(u64, Fault)>,
    /// JSON lines.
    pub history: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} failed:", self.seed)?;
        self.why.iter().try_for_each(|why| writeln!(f, "  {why}"))?;
        self.faults.iter().try_for_each(|(at, fault)| writeln!(f, "  {at} ms: {fault}"))
    }
}

/// Runs a seed with random faults, on a thread of its own. A process that did nothing else before repeats it step by step.
pub fn run_seed(seed: u64) -> Result<Summary, Box<Failure>> {
    run(Plan::of(seed))
}

/// Runs a plan.
pub fn run(plan: Plan) -> Result<Summary, Box<Failure>> {
    let seed = plan.seed;
    let thread = std::thread::Builder::new().name(format!("seed {seed}"));
    let thread = thread.spawn(move || Run::new(plan).go()).expect("a thread");
    let panicked = |_| Failure {
        seed,
        why: vec!["the simulation panicked".to_owned()],
        faults: Vec::new(),
        history: String::new(),
    };
    thread.join().unwrap_or_else(|cause| Err(Box::new(panicked(cause))))
}

thread_local! {
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// A panic in a task ends that task alone; here it ends the run.
fn watch_for_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.with_borrow_mut(|panics| panics.push(info.to_string()));
            before(info);
        }));
    });
}

struct Run {
    plan: Plan,
    world: World,
    faults: Faults,
    shared: Arc<Shared>,
    random: Random,
    scratch: PathBuf,
    /// Clients that are waited for when the run stops.
    writers: Vec<tokio::task::JoinHandle<()>>,
    mover: Option<tokio::task::JoinHandle<()>>,
}

impl Run {
    fn new(plan: Plan) -> Self {
        system::begin(plan.seed);
        watch_for_panics();
        let scratch = std::env::temp_dir().join(format!("strandline-simulation-{}-{}", std::process::id(), plan.seed));
        let mut random = Random::new(plan.seed);
        let world = World::new(random.word(), plan.shape, scratch.clone());
        let shared = {
            let _clock = world.clients.enter();
            Shared::new(TOPIC, PARTITIONS, world.bootstrap(), world.client_network())
        };
        Run {
            faults: Faults::new(random.word()),
            plan,
            world,
            shared,
            random,
            scratch,
            writers: Vec::new(),
            mover: None,
        }
    }

    fn go(mut self) -> Result<Summary, Box<Failure>> {
        let outcome = self.phases();
        let history = self.shared.recorder.history();
        let mut why: Vec<String> = outcome.err().into_iter().collect();
        why.extend(PANICS.take());
        let (stale_ms, fetch_stale_ms) = (STALE_MS, FETCH_STALE_MS);
        let rules = Rules { stale_ms, fetch_stale_ms, final_reads: why.is_empty(), ..Rules::default() };
        let report = check(&history, &rules);
        let failures = report.failures(&rules);
        if !failures.is_empty() {
            why.push(report.to_string());
        }
        let _ = std::fs::remove_dir_all(&self.scratch);
        if !why.is_empty() {
            let (seed, faults) = (self.plan.seed, self.faults.struck);
            return Err(Box::new(Failure { seed, why, faults, history: to_lines(&history) }));
        }
        Ok(self.summary(&history, report.figures.acknowledged, report.figures.read))
    }

    fn summary(&self, history: &[Op], acknowledged: u64, read: u64) -> Summary {
        let mut faults = BTreeMap::new();
        for (_, fault) in &self.faults.struck {
            *faults.entry(fault.kind().to_owned()).or_default() += 1;
        }
        let mut trace = self.world.net.lock().trace.clone();
        trace.add(to_lines(history).as_bytes());
        Summary {
            seed: self.plan.seed,
            tiered: self.plan.shape.tiered,
            simulated_ms: self.world.now_ms,
            faults,
            acknowledged,
            read,
            messages: trace.events,
            trace: trace.sum(),
        }
    }

    fn phases(&mut self) -> Result<(), String> {
        (1..=NODES).for_each(|id| self.world.start(id));
        let formed = self.world.tick_until(FORM_MS, |world| world.hosts.iter().all(|host| host.serves()));
        if !formed {
            return Err(format!("the cluster did not form: {:?}", self.states()));
        }
        self.create_topic()?;
        self.start_clients();
        self.safety()?;
        self.liveness()?;
        self.read_again()
    }

    fn states(&self) -> Vec<String> {
        let state =
            |host: &super::world::Host| format!("node {}: serves={} {:?}", host.id, host.serves(), host.ended());
        self.world.hosts.iter().map(state).collect()
    }

    fn create_topic(&mut self) -> Result<(), String> {
        let shared = Arc::clone(&self.shared);
        let tiered = self.plan.shape.tiered;
        let created = self.world.block_on(FORM_MS, async move {
            let cluster =
                Cluster::over(shared.network.clone(), &shared.bootstrap, "simulation", Duration::from_secs(10));
            loop {
                let answer = cluster.ask(&topic(tiered)).await;
                let code = answer.map(|response| response.topics[0].error_code);
                tracing::info!(?code, "a topic is made");
                // 36 = it exists.
                if code.is_ok_and(|code| [0, 36].contains(&code)) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        created.ok_or_else(|| "the topic was not made".to_owned())
    }

    fn start_clients(&mut self) {
        for partition in 0..PARTITIONS {
            let pause = Duration::from_millis(20 + self.random.below(80));
            let random = Random::new(self.random.word());
            let work = clients::produce(Arc::clone(&self.shared), partition, random, pause);
            self.writers.push(self.world.clients.spawn(work));
        }
        for _ in 0..2 {
            let random = Random::new(self.random.word());
            self.world.clients.spawn(clients::read(Arc::clone(&self.shared), random, 40));
        }
        let random = Random::new(self.random.word());
        self.world.clients.spawn(clients::ask(Arc::clone(&self.shared), random));
        if self.plan.moves {
            let random = Random::new(self.random.word());
            self.mover = Some(self.world.clients.spawn(movers::move_about(Arc::clone(&self.shared), random)));
        }
        for _ in 0..COMMITTERS {
            let random = Random::new(self.random.word());
            let work = committers::commit(Arc::clone(&self.shared), random);
            self.writers.push(self.world.clients.spawn(work));
        }
    }

    fn tick(&mut self) -> Result<(), String> {
        self.world.tick();
        self.faults.tick(&mut self.world)?;
        let panic = PANICS.with_borrow(|panics| panics.first().cloned());
        panic.map_or(Ok(()), |_| Err(format!("a task panicked at {} ms", self.world.now_ms)))
    }

    fn safety(&mut self) -> Result<(), String> {
        let end = self.world.now_ms + self.plan.safety_ms;
        let mut next = self.world.now_ms + 500;
        while self.world.now_ms < end {
            self.tick()?;
            if self.world.now_ms >= next {
                let pause = match self.plan.only {
                    None => {
                        self.faults.strike(&mut self.world);
                        FAULT_EVERY_MS.0 + self.random.below(FAULT_EVERY_MS.1 - FAULT_EVERY_MS.0)
                    }
                    Some((fault, every)) => {
                        self.faults.strike_with(&mut self.world, fault);
                        every / 2 + self.random.below(every)
                    }
                };
                next = self.world.now_ms + pause;
            }
        }
        Ok(())
    }

    /// Everything is well again: all serve, all replicas are in sync, writes are taken, uploads have caught up.
    fn liveness(&mut self) -> Result<(), String> {
        self.faults.heal(&mut self.world);
        if let Some(mover) = self.mover.take() {
            mover.abort();
            self.mover = Some(self.world.clients.spawn(movers::put_back(Arc::clone(&self.shared))));
        }
        let (before, ends) = (self.shared.progress(), self.shared.ends());
        let end = self.world.now_ms + CONVERGE_MS;
        loop {
            for _ in 0..50 {
                self.tick()?;
            }
            let missing = self.missing(&before, &ends);
            if missing.is_empty() {
                if let Some(mover) = self.mover.take() {
                    mover.abort();
                }
                return Ok(());
            }
            if self.world.now_ms >= end {
                return Err(format!("{CONVERGE_MS} ms after the healing: {missing:?}; {:#?}", self.positions()));
            }
        }
    }

    /// Where every replica of the topic is, for a failure's report.
    fn positions(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for host in &self.world.hosts {
            let look = host.with_node(|node| {
                let all = node.broker.partitions.all();
                let ours = all.iter().filter(|p| &*p.topic == TOPIC);
                ours.map(|p| format!("node {}: {p:?}", host.id)).collect::<Vec<_>>()
            });
            lines.extend(look.into_iter().flatten());
        }
        lines.sort();
        lines
    }

    /// What has not converged.
    fn missing(&self, before: &[u64], ends: &[i64]) -> Vec<String> {
        let mut missing: Vec<String> = Vec::new();
        missing
            .extend(self.world.hosts.iter().filter(|h| !h.serves()).map(|h| format!("node {} does not serve", h.id)));
        for (partition, (n, b)) in self.shared.progress().iter().zip(before).enumerate() {
            if n <= b {
                missing.push(format!("partition {partition} takes no writes"));
            }
        }
        for host in &self.world.hosts {
            let look = host.with_node(|node| {
                let image = node.broker.image();
                let mut found = Vec::new();
                for (tp, p) in &image.partitions {
                    let whole = p.record.isr.len() == usize::from(NODES) && !p.record.is_reassigning();
                    if !whole || p.record.leader < 0 {
                        found.push(format!(
                            "node {}: {tp:?} is led by {} with isr {:?} of {:?}",
                            host.id, p.record.leader, p.record.isr, p.record.replicas
                        ));
                    }
                    let ours = image.topics.get(&tp.topic_id).is_some_and(|topic| &*topic.name == TOPIC);
                    let end = usize::try_from(tp.partition).ok().and_then(|n| ends.get(n)).copied().unwrap_or(0);
                    if ours && self.plan.shape.tiered && p.pointer.highest_copied_offset + 1 < end {
                        let copied = p.pointer.highest_copied_offset;
                        found.push(format!("node {}: {tp:?} is copied up to {copied} of {end}", host.id));
                    }
                }
                found
            });
            missing.extend(look.into_iter().flatten());
        }
        missing
    }

    /// A new reader reads every partition from its beginning to its end.
    fn read_again(&mut self) -> Result<(), String> {
        self.shared.stop();
        // The last batches are acknowledged before anybody looks where the logs end.
        if !self.world.tick_until(READ_MS, |_| self.writers.iter().all(|writer| writer.is_finished())) {
            return Err("a producer or a committer does not end".to_owned());
        }
        let shared = Arc::clone(&self.shared);
        let acknowledged = self.shared.ends();
        let read = self.world.block_on(READ_MS, async move {
            let mut client = Client::new(&shared);
            let mut ends = Vec::new();
            for partition in 0..shared.partitions {
                loop {
                    match client.list(partition, Query::Latest).await {
                        Ok(end) => break ends.push(end),
                        Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                    }
                }
            }
            let short = acknowledged.iter().zip(&ends).any(|(acknowledged, end)| end < acknowledged);
            if short {
                return Err(format!("the logs end at {ends:?}, acknowledged was up to {acknowledged:?}"));
            }
            let mut reader = Reader::new(&shared);
            reader.read_up_to(&ends).await;
            Committer::new(&shared).ask_all(&shared.groups.all()).await;
            Ok(())
        });
        read.unwrap_or_else(|| Err(format!("a last reader did not reach the end within {READ_MS} ms")))
    }
}

fn topic(tiered: bool) -> CreateTopicsRequest {
    let mut configs = vec![("segment.ms", "1500"), ("file.delete.delay.ms", "1000")];
    if tiered {
        configs.extend([("remote.storage.enable", "true"), ("local.retention.ms", "1")]);
    }
    let config =
        |(name, value): (&str, &str)| CreatableTopicConfig { name: name.to_owned(), value: Some(value.to_owned()) };
    let topic = CreatableTopic {
        name: TOPIC.to_owned(),
        num_partitions: PARTITIONS,
        replication_factor: i16::from(NODES),
        configs: configs.into_iter().map(config).collect(),
        ..Default::default()
    };
    CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, validate_only: false }
}
