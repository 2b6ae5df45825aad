//! Foreign clients: Kafka's verifiable producer and consumer (Java) and kcat (librdkafka), what they tell made into history.
//!
//! They tell what they achieved, not when they began: their lines have no invocation. Their records are named by process and number
//! (`7.123`), so that every consumer of the run can read them.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use strandline_tests::history::op::{Action, Key, Micro, Seen, Sent, Slice, Stage};
use strandline_tests::history::payload::{NUMBER_BITS, value_of};
use strandline_tests::process::{self, Program, Running};
use strandline_tests::{place, tools, wait};

use crate::workload::Shared;

/// Records of one run of kcat's producer.
const KCAT_BATCH: u64 = 100;
/// How long one run of kcat's producer may take; its records expire before.
const KCAT: Duration = Duration::from_secs(150);
const KCAT_PAUSE: Duration = Duration::from_secs(2);
/// Records a second of the Java producer.
const JAVA_RATE: &str = "40";
/// Records of one poll as it is told: foreign consumers do not tell where theirs end.
const POLL_RECORDS: usize = 500;
/// How long kcat may take to read up to the end after everything is healed.
const CATCH_UP: Duration = Duration::from_secs(120);
/// Between two looks at what kcat has read.
const LOOK: Duration = Duration::from_millis(500);
const GROUP: &str = "chaos-foreign";

/// The clients that run by themselves. Dropped = killed.
#[derive(Debug)]
pub struct Foreign {
    producer: (u32, Running),
    member: (u32, Running),
    reader: (u32, Running),
}

impl Foreign {
    pub fn start(shared: &Shared, bootstrap: &str, topic: &str) -> Self {
        let target = ["--bootstrap-server", bootstrap, "--topic", topic];
        let process = shared.recorder.process();
        let settings = place::directory("verifiable").join("producer.properties");
        let mut file = std::fs::File::create(&settings).expect("a settings file");
        file.write_all(b"enable.idempotence=true\nretries=2147483647\ndelivery.timeout.ms=150000\n").expect("room");
        let (name, settings) = (process.to_string(), settings.display().to_string());
        let more = ["--acks", "-1", "--throughput", JAVA_RATE, "--value-prefix", &name, "--command-config", &settings];
        let producer = tools::java(tools::VERIFIABLE_PRODUCER, &[&target[..], &more[..]].concat());
        let more = ["--group-id", GROUP, "--reset-policy", "earliest", "--verbose"];
        let member = tools::java(tools::VERIFIABLE_CONSUMER, &[&target[..], &more[..]].concat());
        let reader = Program::new("kcat")
            .args(["-C", "-E", "-u", "-q", "-b", bootstrap, "-t", topic, "-o", "beginning"])
            .args(["-X", "check.crcs=true", "-X", "topic.metadata.refresh.interval.ms=5000", "-f", "%p %o %s\\n"]);
        Foreign {
            producer: (process, Running::start(&producer)),
            member: (shared.recorder.process(), Running::start(&member)),
            reader: (shared.recorder.process(), Running::start(&reader)),
        }
    }

    /// Waits until kcat, which goes on by itself after every fault, has read `count` records; Err = how many it has.
    pub fn await_reader(&self, count: usize) -> Result<(), String> {
        let end = wait::now() + CATCH_UP;
        loop {
            let read = self.reader.1.lines().len();
            if read >= count {
                return Ok(());
            }
            if wait::now() >= end {
                return Err(format!("kcat has read {read} of {count} records: {}", self.reader.1.complaints()));
            }
            wait::pause(LOOK);
        }
    }

    /// Ends them, and adds what they told.
    pub fn tell(self, shared: &Shared, topic: &str) {
        let Foreign { producer, member, reader } = self;
        tell_producer(shared, topic, producer.0, &producer.1.lines());
        tell_member(shared, topic, member.0, &member.1.lines());
        tell_reader(shared, topic, reader.0, &reader.1.lines());
    }
}

fn tell(shared: &Shared, process: u32, stage: Stage, action: Action) {
    shared.recorder.tell(wait::now(), process, stage, action);
}

fn tell_producer(shared: &Shared, topic: &str, process: u32, lines: &[String]) {
    let mut count = 0;
    for line in lines {
        let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let stage = match event["name"].as_str() {
            Some("producer_send_success") => Stage::Ok,
            // It gave up: the record may be written all the same.
            Some("producer_send_error") => Stage::Info,
            _ => continue,
        };
        let Some(value) = event["value"].as_str().and_then(|text| value_of(text.as_bytes())) else { continue };
        let partition = event["partition"].as_i64().and_then(|p| i32::try_from(p).ok());
        // Where a refused record was to go is not told; nobody can miss it.
        let Some(partition) = partition else { continue };
        let sent = Sent { value, offset: event["offset"].as_i64(), timestamp: None };
        count += usize::from(stage == Stage::Ok);
        tell(shared, process, stage, Action::Send(vec![Micro::Send(Key::new(topic, partition), vec![sent])]));
    }
    eprintln!("the Java producer has {count} records acknowledged");
}

/// Records in the order in which they were told, as polls.
fn tell_polls(shared: &Shared, topic: &str, process: u32, records: &[(i32, Seen)]) {
    for part in records.chunks(POLL_RECORDS) {
        let mut slices: Vec<Slice> = Vec::new();
        for (partition, seen) in part {
            let key = Key::new(topic, *partition);
            match slices.iter_mut().find(|slice| slice.key == key) {
                Some(slice) => slice.records.push(seen.clone()),
                None => slices.push(Slice::new(key, vec![seen.clone()])),
            }
        }
        tell(shared, process, Stage::Ok, Action::Poll(vec![Micro::Poll(slices)]));
    }
}

fn tell_member(shared: &Shared, topic: &str, process: u32, lines: &[String]) {
    let topics = vec![topic.to_owned()];
    tell(shared, process, Stage::Ok, Action::Subscribe { group: GROUP.to_owned(), topics });
    let (mut records, mut count, mut rebalances) = (Vec::new(), 0, 0);
    for line in lines {
        let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        match event["name"].as_str() {
            Some("record_data") => {
                let place = (event["partition"].as_i64(), event["offset"].as_i64());
                let value = event["value"].as_str().and_then(|text| value_of(text.as_bytes()));
                let ((Some(partition), Some(offset)), Some(value)) = (place, value) else { continue };
                records.push((i32::try_from(partition).expect("a partition"), Seen::new(offset, value)));
                count += 1;
            }
            Some("partitions_assigned" | "partitions_revoked") => {
                tell_polls(shared, topic, process, &records);
                records.clear();
                rebalances += 1;
                let rebalance = Action::Rebalance { group: GROUP.to_owned(), generation: rebalances, keys: Vec::new() };
                tell(shared, process, Stage::Ok, rebalance);
            }
            _ => {}
        }
    }
    tell_polls(shared, topic, process, &records);
    eprintln!("the Java consumer has read {count} records, in {rebalances} assignments and revocations");
}

/// librdkafka may hand records out again when a partition's leader changes, from the position of its queue: it is told as a new client
/// without a beginning, so that what it read again is held against the log, and the step back against nobody.
fn tell_reader(shared: &Shared, topic: &str, process: u32, lines: &[String]) {
    let assign = |process: u32, seek_to_beginning: bool| {
        let keys = (0..shared.partitions).map(|partition| Key::new(topic, partition)).collect();
        tell(shared, process, Stage::Ok, Action::Assign { keys, seek_to_beginning });
    };
    let record = |line: &String| {
        let mut fields = line.splitn(3, ' ');
        let (partition, offset) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some((partition, Seen::new(offset, value_of(fields.next()?.as_bytes())?)))
    };
    assign(process, true);
    let (mut process, mut records, mut next, mut count) = (process, Vec::new(), BTreeMap::new(), 0);
    for (partition, seen) in lines.iter().filter_map(record) {
        let expected = next.insert(partition, seen.offset + 1).unwrap_or(0);
        if seen.offset < expected {
            eprintln!("kcat reads partition {partition} from {} again, after {}", seen.offset, expected - 1);
            tell_polls(shared, topic, process, &records);
            records.clear();
            process = shared.recorder.process();
            assign(process, false);
        }
        records.push((partition, seen));
        count += 1;
    }
    tell_polls(shared, topic, process, &records);
    eprintln!("kcat has read {count} records");
}
/// Runs kcat's producer again and again, each time for one partition, until the workload stops.
pub fn produce_with_kcat(shared: &Shared, bootstrap: &str, topic: &str) {
    for partition in (0..shared.partitions).cycle() {
        if shared.stopping() {
            return;
        }
        let process = shared.recorder.process();
        let (text, number) = (|n: u64| format!("{process}.{n}\n"), |n: u64| u64::from(process) << NUMBER_BITS | n);
        let input: String = (0..KCAT_BATCH).map(text).collect();
        let sent = (0..KCAT_BATCH).map(|n| Sent { value: number(n), offset: None, timestamp: None }).collect();
        let action = Action::Send(vec![Micro::Send(Key::new(topic, partition), sent)]);
        let program = Program::new("kcat")
            .args(["-P", "-E", "-q", "-b", bootstrap, "-t", topic, "-p", &partition.to_string()])
            .args(["-X", "enable.idempotence=true", "-X", "message.timeout.ms=120000"]);
        tell(shared, process, Stage::Invoke, action.clone());
        let output = process::run(&program, input.as_bytes(), KCAT);
        // It ends well only when every record is acknowledged.
        tell(shared, process, if output.success { Stage::Ok } else { Stage::Info }, action);
        if !output.success {
            eprintln!("kcat's producer, process {process}: {}", output.stderr.trim());
        }
        wait::pause(KCAT_PAUSE);
    }
}
