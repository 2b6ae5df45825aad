//! A mirror in another cluster: records arrive as they are, in Strandline and in Apache Kafka.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};
use strandline_connectors::conformance::{self, Seen, Subject};
use strandline_connectors::registry::SinkKind;
use strandline_connectors::sink::{Sink, SinkError};
use strandline_connectors::sinks::kafka::KafkaKind;
use strandline_protocol::compression::{Compression, DecompressLimit};
use strandline_protocol::record_batch::{Header, RecordBatchBuilder, batches, records_in};
use strandline_tests::broker::{Broker, Setup, Software};
use strandline_tests::connect::Worker;
use strandline_tests::{place, wait};

use crate::scene::{ARRIVE, broker, topic};

const BYTES: &str = "org.apache.kafka.connect.converters.ByteArrayConverter";

type Headers = Vec<(Bytes, Option<Bytes>)>;

/// All that a mirror has to keep.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Record {
    timestamp: i64,
    key: Option<Bytes>,
    value: Option<Bytes>,
    headers: Headers,
}

/// Everything in a partition.
fn read(broker: &Broker, topic: &str, partition: i32) -> Vec<Record> {
    let mut connection = broker.connection();
    let Ok(end) = connection.list_offset(topic, partition, -1) else { return Vec::new() };
    let (mut next, mut found) = (0, Vec::new());
    while next < end {
        let data = connection.fetch(topic, partition, next, 32 << 20).expect("the broker answers");
        let bytes = data.records.and_then(|r| r.to_bytes()).unwrap_or_default();
        assert!(!bytes.is_empty(), "{topic}-{partition} from {next} on: {}", data.error_code);
        for batch in batches(&bytes) {
            let (header, part) = batch.expect("a whole batch");
            for record in records_in(&bytes.slice_ref(part), DecompressLimit(64 << 20)).expect("records") {
                let record = record.expect("a record");
                let headers = record.headers.into_iter().map(|h| (h.key, h.value)).collect();
                found.push(Record { timestamp: record.timestamp, key: record.key, value: record.value, headers });
            }
            next = header.next_offset();
        }
    }
    found
}

/// Appends records of every kind; returns nothing: they are read back.
fn produce(broker: &Broker, topic: &str, partitions: i32, count: i64) {
    let now = wait::wall_clock_ms();
    for partition in 0..partitions {
        let mut builder = RecordBatchBuilder::new(Compression::Zstd);
        for n in 0..count {
            let header = |key: &'static str, value: Option<&'static [u8]>| Header {
                key: Bytes::from_static(key.as_bytes()),
                value: value.map(Bytes::from_static),
            };
            let headers = match n % 3 {
                0 => vec![header("h", Some(b"\x00\xff")), header("h", None)],
                1 => vec![header("\u{e4}", Some(b""))],
                _ => Vec::new(),
            };
            let value = format!("record {partition} {n} of {now}");
            let value = (n % 7 != 5).then_some(value.as_bytes());
            let key = (n % 4 != 2).then(|| n.to_be_bytes());
            builder.append(now - 1_000 * n, key.as_ref().map(<[u8; 8]>::as_slice), value, &headers);
        }
        let answer = broker.connection().produce(topic, partition, builder.build()).expect("the broker answers");
        assert_eq!(answer.error_code, 0, "{answer:?}");
    }
}

fn config(target: &Broker) -> Value {
    json!({
        "connector.class": "kafka", "tasks.max": "1", "topics": "orders", "key.converter": BYTES, "value.converter": BYTES,
        "target.bootstrap.servers": target.bootstrap(), "topic.name.format": "copy.${topic}",
        "topic.creation.default.replication.factor": "1", "producer.delivery.timeout.ms": "2000",
        "producer.compression.type": "lz4",
    })
}

fn committed(worker: &Worker) -> i64 {
    let (_, offsets) = worker.rest.get("/connectors/mirror/offsets");
    let all = offsets["offsets"].as_array().cloned().unwrap_or_default();
    all.iter().filter_map(|o| o["offset"]["kafka_offset"].as_i64()).sum()
}

fn mirror_to(software: Software) {
    let (source, mut target) = (broker(), Broker::start(software, Setup::default()));
    topic(&source, "orders", 3);
    produce(&source, "orders", 3, 200);
    let mut worker = Worker::start(&source.bootstrap(), "g", &[]);
    let (status, made) = worker.rest.call("PUT", "/connectors/mirror/config", Some(&config(&target)));
    assert_eq!(status, 201, "{made}");
    wait::until("everything is committed", ARRIVE, || (committed(&worker) == 600).then_some(()));
    worker.stop();
    produce(&source, "orders", 3, 100);
    worker.up();
    wait::until("the rest is committed", ARRIVE, || (committed(&worker) == 900).then_some(()));
    for partition in 0..3 {
        let (here, there) = (read(&source, "orders", partition), read(&target, "copy.orders", partition));
        assert_eq!(here.len(), 300);
        assert!(
            here == there,
            "partition {partition}: nothing went wrong, so the copy is exact and nothing is there twice"
        );
    }
    if software == Software::Strandline {
        target.kill();
        produce(&source, "orders", 3, 50);
        // Longer than producer.delivery.timeout.ms: a new producer has to send them.
        wait::pause(std::time::Duration::from_secs(3));
        target.up();
        wait::until("what came meanwhile is committed", ARRIVE, || (committed(&worker) == 1_050).then_some(()));
        for partition in 0..3 {
            let set = |records: Vec<Record>| records.into_iter().collect::<BTreeSet<_>>();
            let (here, there) = (read(&source, "orders", partition), read(&target, "copy.orders", partition));
            assert!(set(here) == set(there), "partition {partition}: no record is missing");
        }
    }
}

#[test]
fn records_arrive_as_they_are_in_another_cluster() {
    mirror_to(Software::Strandline);
}

#[test]
fn records_arrive_as_they_are_in_apache_kafka() {
    mirror_to(Software::Kafka);
}

#[test]
fn a_record_that_the_target_refuses_is_put_aside_alone() {
    let (source, target) = (broker(), broker());
    topic(&source, "orders", 1);
    target.connection().create_topic("copy.orders", 1, &[("max.message.bytes", "5000")]).expect("the topic is made");
    let mut builder = RecordBatchBuilder::new(Compression::None);
    for n in 0..30_u32 {
        let size = if n == 17 { 20_000 } else { 10 };
        // Random enough that compression does not make it fit.
        let value: Vec<u8> =
            (0..size).map(|i: u32| (i.wrapping_mul(2_654_435_761).wrapping_add(n) >> 13) as u8).collect();
        builder.append(wait::wall_clock_ms(), Some(&n.to_be_bytes()), Some(&value), &[]);
    }
    let answer = source.connection().produce("orders", 0, builder.build()).expect("the broker answers");
    assert_eq!(answer.error_code, 0, "{answer:?}");
    let worker = Worker::start(&source.bootstrap(), "g", &[]);
    let mut config = config(&target);
    config["producer.compression.type"] = json!("none");
    for (key, value) in [
        ("errors.tolerance", "all"),
        ("errors.deadletterqueue.topic.name", "bad-orders"),
        ("errors.deadletterqueue.topic.replication.factor", "1"),
    ] {
        config[key] = json!(value);
    }
    worker.rest.call("PUT", "/connectors/mirror/config", Some(&config));
    wait::until("everything is committed", ARRIVE, || (committed(&worker) == 30).then_some(()));
    let letters = read(&source, "bad-orders", 0);
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].key.as_deref(), Some(&17_u32.to_be_bytes()[..]));
    let keys: Vec<_> = read(&target, "copy.orders", 0).into_iter().filter_map(|r| r.key).collect();
    let expected: Vec<_> = (0..30_u32).filter(|n| *n != 17).map(|n| Bytes::copy_from_slice(&n.to_be_bytes())).collect();
    assert_eq!(keys, expected, "the others, once, in their order");
}

struct Copies {
    broker: Arc<Broker>,
    topic: String,
    directory: std::path::PathBuf,
}

#[async_trait]
impl Subject for Copies {
    fn sink(&self) -> Result<Box<dyn Sink>, SinkError> {
        let kind: Arc<dyn SinkKind> = Arc::new(KafkaKind);
        let settings = [("target.bootstrap.servers", &*self.broker.bootstrap()), ("topic.name.format", &*self.topic)];
        conformance::sink_of(&kind, &conformance::settings(&settings), &self.directory)
    }

    async fn seen(&self) -> Result<Vec<Seen>, String> {
        let of = |partition: i32| {
            let one = move |record: Record| {
                let value = record.value?;
                // The large record is told by its begin.
                let text = String::from_utf8_lossy(&value[..value.len().min(64)]).into_owned();
                let (partition, offset) = conformance::tagged(&text)?;
                Some(Seen { partition, offset, length: i64::try_from(value.len()).ok() })
            };
            read(&self.broker, &self.topic, partition).into_iter().filter_map(one)
        };
        Ok((0..3).flat_map(of).collect())
    }

    fn sees_all(&self) -> bool {
        false
    }
}

#[test]
fn the_kafka_sink_conforms() {
    let broker = Arc::new(broker());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut number = 0;
    let fresh = || -> Box<dyn Subject> {
        number += 1;
        let topic = format!("copy-{number}");
        let configs = [("max.message.bytes", "16777216"), ("retention.ms", "-1")];
        broker.connection().create_topic(&topic, 3, &configs).expect("the topic is made");
        Box::new(Copies { broker: Arc::clone(&broker), topic, directory: place::directory("mirror") })
    };
    let faults = runtime.block_on(conformance::check(fresh));
    assert_eq!(faults, Vec::<String>::new());
}
