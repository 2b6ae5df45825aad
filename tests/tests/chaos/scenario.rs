//! A run: a cluster, its clients, a schedule of faults, everything read again at the end, and the verdict.
//!
//! The schedule is a function of the seed and of who leads when a fault is due. A run is red when the checker finds an anomaly, when
//! a fault did not fire (it proves nothing then), when a partition takes no writes after its faults are healed, or when the last
//! reader does not reach the end.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use strandline_tests::broker::Software;
use strandline_tests::history::check::check;
use strandline_tests::history::op::{Op, Query, write_lines};
use strandline_tests::history::report::Report;
use strandline_tests::history::rules::Rules;
use strandline_tests::random::Random;
use strandline_tests::{place, wait};

use crate::cluster::{Cluster, Disks, NODES, Promise};
use crate::faults::{self, Fault, Means};
use crate::foreign::{self, Foreign};
use crate::link::Router;
use crate::workload::Shared;
use crate::{consumer, member, producer};

pub const TOPIC: &str = "chaos";
pub const PARTITIONS: i32 = 4;
const READERS: u64 = 2;
const MEMBERS: u64 = 2;
/// Rounds of polls after which a reader crashes and begins anew, at least.
const READER_LIFE: u64 = 150;
/// How long a healed cluster may take until every partition takes writes.
const RECOVERY: Duration = Duration::from_secs(120);
/// How long a leader that is cut off may answer without knowing that it was replaced, ms: the longest fault and a session timeout.
const STALE_MS: u64 = 20_000;
/// How long the last reader may take.
const LAST_READ: Duration = Duration::from_secs(300);
/// Quiet time between two faults, ms: up to so much.
const QUIET_MS: u64 = 3_000;
/// How long all replicas may take to be in sync again at the end.
const IN_SYNC: Duration = Duration::from_secs(180);

/// A run's settings.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub software: Software,
    pub promise: Promise,
    pub disks: Disks,
    /// With remote storage, and consumers that read across the seam.
    pub tiered: bool,
    /// Java clients and kcat take part.
    pub foreign: bool,
    pub seed: u64,
    /// How many faults are drawn.
    pub faults: u32,
}

/// What a run left.
#[derive(Debug)]
pub struct Outcome {
    pub history: Vec<Op>,
    /// Faults that fired, in order.
    pub faults: Vec<Fault>,
    /// Why the run proves nothing, or failed without the checker.
    pub troubles: Vec<String>,
    pub seconds: u64,
}

impl Scenario {
    /// What may not be seen. Kafka promises less of the ends that fetch answers tell, and of groups' positions.
    pub fn rules(&self) -> Rules {
        let strict = self.software == Software::Strandline;
        Rules { fetch_ends: strict, group_positions: strict, stale_ms: STALE_MS, ..Rules::default() }
    }

    fn topic_settings(&self) -> Vec<(&'static str, &'static str)> {
        let minimum = if self.promise == Promise::Durable { "2" } else { "1" };
        let mut settings = vec![("min.insync.replicas", minimum), ("segment.bytes", "1048576")];
        if self.tiered {
            settings.extend([("remote.storage.enable", "true"), ("local.retention.ms", "1000")]);
        }
        settings
    }

    fn acks(&self) -> i16 {
        if self.promise == Promise::Durable { -1 } else { 1 }
    }

    /// Runs it with the faults that the seed draws.
    pub fn run(&self) -> Outcome {
        let mut random = Random::new(self.seed);
        self.run_with(|cluster, shared, outcome| {
            for n in 0..self.faults {
                wait::pause(Duration::from_millis(random.below(QUIET_MS)));
                let partition = i32::try_from(random.below(PARTITIONS.unsigned_abs().into())).expect("a partition");
                let mut router = Router::new(&cluster.bootstrap(), TOPIC, random.word());
                let leader = router.leader_node(partition).unwrap_or(NODES);
                let means = Means { store: cluster.store.is_some(), disks: self.disks == Disks::Amnesia };
                let fault = faults::next(&mut random, leader, means);
                eprintln!("fault {} of {}: {fault}", n + 1, self.faults);
                strike(fault, cluster, &mut random, outcome);
                // A quarter of the faults meet a cluster that has not recovered from the one before.
                if random.below(4) > 0 {
                    await_progress(shared, outcome);
                }
            }
        })
    }

    /// Runs it with faults of the caller's choice.
    pub fn run_with(&self, faults: impl FnOnce(&mut Cluster, &Shared, &mut Outcome)) -> Outcome {
        let begin = wait::now();
        let mut cluster = Cluster::start(self.software, self.promise, self.tiered, self.disks);
        cluster.create_topic(TOPIC, PARTITIONS, &self.topic_settings());
        let shared = Shared::new(PARTITIONS);
        let mut outcome = Outcome { history: Vec::new(), faults: Vec::new(), troubles: Vec::new(), seconds: 0 };
        let (bootstrap, text) = (cluster.bootstrap(), cluster.bootstrap_text());
        let foreign = self.foreign.then(|| Foreign::start(&shared, &text, TOPIC));
        std::thread::scope(|clients| {
            // On a panic too: the clients would go on for ever.
            let _stop = StopAtEnd(&shared);
            self.start_clients(clients, &shared, &bootstrap);
            if self.foreign {
                clients.spawn(|| foreign::produce_with_kcat(&shared, &text, TOPIC));
            }
            await_progress(&shared, &mut outcome);
            faults(&mut cluster, &shared, &mut outcome);
            await_progress(&shared, &mut outcome);
        });
        cluster.await_in_sync(TOPIC, IN_SYNC);
        let ends = read_again(&shared, &cluster, self.seed, &mut outcome);
        if let Some(foreign) = foreign {
            // No transactions and no retention: as many records as offsets.
            let count = usize::try_from(ends.iter().sum::<i64>()).expect("a count");
            outcome.troubles.extend(foreign.await_reader(count).err());
            foreign.tell(&shared, TOPIC);
        }
        outcome.history = shared.recorder.history();
        outcome.seconds = begin.elapsed().as_secs();
        outcome
    }

    fn start_clients<'s, 'e: 's>(
        &self,
        clients: &'s std::thread::Scope<'s, 'e>,
        shared: &'e Shared,
        bootstrap: &'e [std::net::SocketAddr],
    ) {
        let router = move |seed: u64| Router::new(bootstrap, TOPIC, seed);
        let (seed, acks) = (self.seed, self.acks());
        for partition in 0..PARTITIONS {
            let seed = seed ^ (1 << 8) ^ u64::from(partition.unsigned_abs());
            clients.spawn(move || producer::run(shared, router(seed), partition, acks, seed));
        }
        for reader in 0..READERS {
            let seed = seed ^ (2 << 8) ^ reader;
            clients.spawn(move || consumer::run(shared, || router(seed), READER_LIFE, seed));
        }
        for one in 0..MEMBERS {
            let seed = seed ^ (3 << 8) ^ one;
            clients.spawn(move || member::run(shared, router(seed), seed));
        }
        clients.spawn(move || consumer::ask(shared, router(seed ^ (4 << 8)), seed));
    }
}

struct StopAtEnd<'a>(&'a Shared);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Makes a fault and notes whether it fired.
pub fn strike(fault: Fault, cluster: &mut Cluster, random: &mut Random, outcome: &mut Outcome) {
    match fault.strike(cluster, random) {
        Ok(()) => outcome.faults.push(fault),
        Err(why) => outcome.troubles.push(format!("{fault} did not fire: {why}")),
    }
}

/// Waits until every partition has acknowledged a batch from now on.
pub fn await_progress(shared: &Shared, outcome: &mut Outcome) {
    let before = shared.progress();
    let end = wait::now() + RECOVERY;
    loop {
        let stuck: Vec<usize> =
            before.iter().zip(shared.progress()).enumerate().filter(|(_, (b, n))| n <= *b).map(|(p, _)| p).collect();
        if stuck.is_empty() {
            return;
        }
        if wait::now() >= end {
            outcome.troubles.push(format!("partitions {stuck:?} took no write for {RECOVERY:?} after the fault"));
            return;
        }
        wait::pause(Duration::from_millis(50));
    }
}

/// A new reader reads every partition from its beginning to its end; the ends.
fn read_again(shared: &Shared, cluster: &Cluster, seed: u64, outcome: &mut Outcome) -> Vec<i64> {
    let mut router = Router::new(&cluster.bootstrap(), TOPIC, seed);
    let mut ends = Vec::new();
    for (partition, acknowledged) in (0..).zip(shared.ends()) {
        let told = wait::until("the end of the log is told", RECOVERY, || {
            consumer::list(&mut router, partition, Query::Latest).ok()
        });
        if told < acknowledged {
            outcome
                .troubles
                .push(format!("partition {partition} ends at {told}, acknowledged was up to {acknowledged}"));
        }
        ends.push(told);
    }
    let mut reader = consumer::Reader::new(shared, router);
    if let Err(why) = reader.read_up_to(&ends, LAST_READ) {
        outcome.troubles.push(format!("the last reader did not reach the end: {why}"));
    }
    ends
}

/// Judges a run, writes its history and a line of the ledger, and panics when it is red.
pub fn judge(scenario: &Scenario, outcome: &Outcome) -> Report {
    let rules = scenario.rules();
    let report = check(&outcome.history, &rules);
    eprint!("{report}");
    let failures = report.failures(&rules);
    let verdict = match (failures.is_empty(), outcome.troubles.is_empty()) {
        (true, true) => "clean",
        (true, false) => "void",
        (false, _) => "anomalies",
    };
    enter(scenario, outcome, &report, verdict);
    let path = write_history(&outcome.history);
    eprintln!("history: {}", path.display());
    assert!(failures.is_empty(), "seed {}: {failures:?}; the history is {}", scenario.seed, path.display());
    assert!(outcome.troubles.is_empty(), "seed {}: {:?}", scenario.seed, outcome.troubles);
    report
}

/// Keeps a history in `tests/.cache/chaos`; the file of the run before is replaced.
pub fn write_history(history: &[Op]) -> PathBuf {
    let directory = place::cache().join("chaos");
    std::fs::create_dir_all(&directory).expect("tests/.cache is writable");
    let path = directory.join("history.jsonl");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path).expect("a history file"));
    write_lines(history, &mut file).and_then(|()| file.flush()).expect("room for a history");
    path
}

/// Adds a line to `tests/ledger/chaos.jsonl`.
fn enter(scenario: &Scenario, outcome: &Outcome, report: &Report, verdict: &str) {
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    for fault in &outcome.faults {
        *kinds.entry(fault.kind()).or_default() += 1;
    }
    let line = serde_json::json!({
        "commit": commit(),
        "time": wait::wall_clock_ms(),
        "software": format!("{:?}", scenario.software),
        "tiered": scenario.tiered,
        "disks": format!("{:?}", scenario.disks),
        "seed": scenario.seed,
        "faults": outcome.faults.len(),
        "kinds": kinds,
        "acknowledged": report.figures.acknowledged,
        "read": report.figures.read,
        "seconds": outcome.seconds,
        "outcome": verdict,
        "anomalies": report.failures(&scenario.rules()).iter().map(|kind| kind.name()).collect::<Vec<_>>(),
        "troubles": outcome.troubles,
    });
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("ledger");
    std::fs::create_dir_all(&directory).expect("the tree is writable");
    let file = std::fs::File::options().create(true).append(true).open(directory.join("chaos.jsonl"));
    writeln!(file.expect("the ledger"), "{line}").expect("room for a line");
}

fn commit() -> String {
    let program = strandline_tests::process::Program::new("git").args(["-C", env!("CARGO_MANIFEST_DIR"), "describe"]);
    let program = program.args(["--always", "--dirty", "--abbrev=12"]);
    let output = strandline_tests::process::run(&program, b"", Duration::from_secs(20));
    output.text().trim().to_owned()
}
