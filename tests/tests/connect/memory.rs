//! Many open partitions whose records change their schema from one to the next: neither much memory nor small files.

use std::time::Duration;

use serde_json::json;
use strandline_protocol::compression::Compression;
use strandline_protocol::record_batch::RecordBatchBuilder;
use strandline_tests::broker::{Broker, files_below};
use strandline_tests::connect::Worker;
use strandline_tests::{place, wait, wire};

use crate::scene::broker;

const PARTITIONS: i32 = 1_000;
const SCHEMAS: u64 = 3;
/// Records of a chunk; each has a file for each schema.
const CHUNK: u64 = 150;
/// Produced to every partition in turn, so that all are open when the second round begins.
const ROUND: u64 = 100;
const ROUNDS: u64 = 3;
/// What the worker may take in all, bytes.
const MEMORY_MAX: u64 = 256 << 20;
const ARCHIVED: Duration = Duration::from_secs(240);

/// A record of about 1 KiB with one of three schemas, by its number.
fn record(n: u64) -> String {
    let (name, kind, value) = match n % SCHEMAS {
        0 => ("count", "int64", n.to_string()),
        1 => ("share", "double", format!("{n}.5")),
        _ => ("label", "string", format!("\"label-{n}\"")),
    };
    let fields = format!(
        r#"[{{"field":"n","type":"int64"}},{{"field":"note","type":"string"}},{{"field":"{name}","type":"{kind}"}}]"#
    );
    let note = "x".repeat(700);
    format!(
        r#"{{"schema":{{"type":"struct","optional":false,"fields":{fields}}},"payload":{{"n":{n},"note":"{note}","{name}":{value}}}}}"#
    )
}

fn produce(broker: &Broker, topic: &str, partition: i32, from: u64) {
    let mut builder = RecordBatchBuilder::new(Compression::None);
    for n in from..from + ROUND {
        builder.append(wait::wall_clock_ms(), None, Some(record(n).as_bytes()), &[]);
    }
    let answer = broker.connection().produce(topic, partition, builder.build()).expect("the broker answers");
    assert_eq!(answer.error_code, 0, "{answer:?}");
}

/// The most memory that a process has had, bytes.
fn peak_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a running process");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("the kernel tells");
    line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).expect("KiB") << 10
}

#[test]
fn a_thousand_partitions_with_alternating_schemas_stay_within_the_budget() {
    let broker = broker();
    broker.connection().create_topic("mixed", PARTITIONS, &[]).expect("the topic is made");
    let out = place::directory("mixed");
    let mut worker = Worker::start(&broker.bootstrap(), "g", &[]);
    let config = json!({
        "connector.class": "object-store", "topics": "mixed", "tasks.max": "1", "store.url": format!("file://{}", out.display()),
        "flush.size": CHUNK.to_string(), "rotate.schedule.interval.ms": "-1", "consumer.override.auto.offset.reset": "earliest",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter", "value.converter.schemas.enable": "true",
    });
    let (status, made) = worker.rest.call("PUT", "/connectors/mixed/config", Some(&config));
    assert_eq!(status, 201, "{made}");
    for round in 0..ROUNDS {
        (0..PARTITIONS).for_each(|partition| produce(&broker, "mixed", partition, round * ROUND));
    }
    let end = (ROUND * ROUNDS) as i64;
    wait::until("everything is archived", ARCHIVED, || {
        let (_, offsets) = worker.rest.get("/connectors/mixed/offsets");
        let done = offsets["offsets"].as_array()?.iter().filter(|o| o["offset"]["kafka_offset"] == end).count();
        (done == PARTITIONS as usize).then_some(())
    });
    assert_eq!(broker.connection().list_offset("mixed", 0, wire::LATEST), Ok(end));
    let peak = peak_bytes(worker.server().pid());
    println!("the worker had at most {} MiB", peak >> 20);
    assert!(peak < MEMORY_MAX, "{} MiB", peak >> 20);
    let files = files_below(&out.join("topics/mixed")).len() as u64;
    assert_eq!(
        files,
        PARTITIONS as u64 * SCHEMAS * ROUND * ROUNDS / CHUNK,
        "a file for each schema of a chunk, none smaller"
    );
}
