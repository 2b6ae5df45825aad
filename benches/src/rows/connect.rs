//! K1 to K3: what a connector worker needs to carry a topic of 1 KiB records away, with one task. The broker is the same on both sides of
//! a pair (Strandline; Apache Kafka in K2, whose Iceberg sink commits in transactions); measured is the worker's process, from the
//! moment its connector is posted to the last record that is committed.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use strandline_protocol::compression::Compression;
use strandline_protocol::messages::offset_fetch_request::{OffsetFetchRequest, OffsetFetchRequestTopic};
use strandline_protocol::record_batch::RecordBatchBuilder;
use strandline_tests::broker::{Broker, Software};
use strandline_tests::connect::Rest;
use strandline_tests::process::{Program, Server};
use strandline_tests::random::Random;
use strandline_tests::wire::Connection;
use strandline_tests::{place, wait};

use super::tier::Tiered;
use super::{PAGE_CACHE, Size, local_broker, measured, topic};
use crate::meter::{Cost, Meter, await_quiet_disk};
use crate::report::Measured;

const TOPIC: &str = "carried";
/// Records of a batch; a file of the archive holds a multiple.
const BATCH: u64 = 250;
/// Records of a file of the archive.
const FILE_RECORDS: u64 = 50_000;
const RECORD_BYTES: usize = 1024;
const START: Duration = Duration::from_secs(120);
const CARRIED: Duration = Duration::from_secs(600);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);
const OFFSET_FETCH: i16 = 5;

/// A line of JSON of exactly [`RECORD_BYTES`] whose text no other record has.
fn line(random: &mut Random, n: u64) -> String {
    const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .";
    let mut text = format!(
        r#"{{"id":{n},"customer":"customer-{:06}","amount":{}.25,"open":{},"note":""#,
        n % 999_983,
        n % 10_000,
        n.is_multiple_of(3)
    );
    let pad = RECORD_BYTES - text.len() - 2;
    let mut noise = vec![0; pad];
    random.fill(&mut noise);
    text.extend(noise.iter().map(|byte| char::from(LETTERS[usize::from(byte & 63)])));
    text.push_str("\"}");
    text
}

/// The same in Kafka Connect's envelope: its schema, and a payload of its types.
fn typed_line(random: &mut Random, n: u64) -> String {
    const SCHEMA: &str = r#"{"schema":{"type":"struct","optional":false,"fields":[{"field":"id","type":"int64"},{"field":"customer","type":"string"},{"field":"amount","type":"double"},{"field":"open","type":"boolean"},{"field":"note","type":"string"}]},"payload":"#;
    let mut payload = line(random, n);
    let note = payload.len() - SCHEMA.len() - 1 - 2;
    payload.truncate(note);
    format!("{SCHEMA}{payload}\"}}}}")
}

type Line = fn(&mut Random, u64) -> String;

fn batch(random: &mut Random, first: u64, line: Line) -> Bytes {
    let mut builder = RecordBatchBuilder::new(Compression::None);
    for n in first..first + BATCH {
        builder.append(wait::wall_clock_ms(), None, Some(line(random, n).as_bytes()), &[]);
    }
    builder.build()
}

/// Fills partition 0 of a topic with so many records.
fn fill(address: SocketAddr, topic: &str, records: u64, line: Line) {
    let mut connection = Connection::open(address).expect("the broker takes connections");
    let mut random = Random::new(records);
    for first in (0..records).step_by(BATCH as usize) {
        let answer = connection
            .produce(topic, 0, batch(&mut random, first, line))
            .unwrap_or_else(|e| panic!("produce: {}", e.0));
        assert_eq!(answer.error_code, 0, "the broker takes the batch");
    }
}

/// Records of a measurement: whole files of the archive.
fn records(size: Size) -> u64 {
    let wanted = size.bytes(2 << 30) / RECORD_BYTES as u64;
    wanted.div_ceil(FILE_RECORDS) * FILE_RECORDS
}

/// A worker with nothing to do yet.
struct Worker {
    server: Server,
    rest: Rest,
    directory: PathBuf,
}

impl Worker {
    /// `plugins`: jars beside Kafka's own.
    fn start(software: Software, bootstrap: &str, plugins: &str) -> Self {
        let directory = place::directory("bench-worker");
        let at = SocketAddr::from(([127, 0, 0, 1], place::free_port()));
        let file = directory.join("worker.properties");
        let mut out = std::fs::File::create(&file).expect("a properties file");
        for (key, value) in [
            ("bootstrap.servers", bootstrap),
            ("group.id", "bench"),
            ("config.storage.topic", "bench-configs"),
            ("offset.storage.topic", "bench-offsets"),
            ("status.storage.topic", "bench-status"),
            ("config.storage.replication.factor", "1"),
            ("offset.storage.replication.factor", "1"),
            ("status.storage.replication.factor", "1"),
            ("offset.flush.interval.ms", "1000"),
            ("listeners", &format!("http://{at}")),
            ("key.converter", "org.apache.kafka.connect.storage.StringConverter"),
            ("value.converter", "org.apache.kafka.connect.storage.StringConverter"),
        ] {
            writeln!(out, "{key}={value}").expect("a properties file");
        }
        let file = file.display().to_string();
        let program = match software {
            Software::Strandline => {
                writeln!(out, "spool.dir={}", directory.join("spool").display()).expect("a properties file");
                Program::new(place::strandline()).args(["connect", "--config", &file])
            }
            // The heap of connect-distributed.sh, the collector of kafka-run-class.sh.
            Software::Kafka => Program::new("java")
                .args(["-Xms256m", "-Xmx2g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"])
                .args(["-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent"])
                .args([
                    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
                    "-cp",
                    &format!("{}{plugins}", place::class_path("kafka")),
                ])
                .args(["org.apache.kafka.connect.cli.ConnectDistributed", &file]),
        };
        let mut server = Server::start("worker", &program, &directory.join("log"));
        let rest = Rest(at);
        server.await_ready(START, || rest.is_ready());
        Worker { server, rest, directory }
    }

    /// Posts the connector and waits until `done`. The worker's cost.
    fn carry(&self, topic: &str, config: Value, mut done: impl FnMut(&str) -> bool) -> Cost {
        let name = format!("carry-{topic}");
        let meter = Meter::start(self.server.pid());
        let (status, answer) = self.rest.call("POST", "/connectors", Some(&json!({ "name": name, "config": config })));
        assert_eq!(status, 201, "{answer}");
        wait::until("everything is carried away", CARRIED, || {
            if done(&format!("connect-{name}")) {
                return Some(());
            }
            wait::pause(PAUSE);
            let (_, status) = self.rest.get(&format!("/connectors/{name}/status"));
            assert!(!status.to_string().contains("FAILED"), "{status}");
            None
        });
        let cost = meter.stop();
        self.rest.call("DELETE", &format!("/connectors/{name}"), None);
        cost
    }

    /// [`Worker::carry`] until the offset of `records` is committed.
    fn carry_all(&self, broker: &Broker, topic: &str, config: Value, records: u64) -> Cost {
        let mut connection = broker.connection();
        self.carry(topic, config, |group| committed(&mut connection, group, topic) >= records as i64)
    }
}

fn committed(connection: &mut Connection, group: &str, topic: &str) -> i64 {
    let topics = vec![OffsetFetchRequestTopic { name: topic.to_owned(), partition_indexes: vec![0] }];
    let request = OffsetFetchRequest { group_id: group.to_owned(), topics: Some(topics), ..Default::default() };
    let answer = connection.call(OFFSET_FETCH, &request).unwrap_or_else(|e| panic!("OffsetFetch: {}", e.0));
    answer.topics.first().and_then(|t| t.partitions.first()).map_or(-1, |p| p.committed_offset)
}

fn costs(result: &mut Measured, cost: Cost, bytes: f64) {
    let gb = bytes / 1e9;
    result.values.extend([
        ("worker_cpu_s_per_gb", cost.broker / gb),
        ("machine_cpu_s_per_gb", cost.machine / gb),
        ("mb_per_s", gb * 1e3 / cost.wall),
        ("mb_per_s_per_core", gb * 1e3 / cost.broker),
        ("steal_s", cost.steal),
    ]);
}

fn file_sink(file: &Path) -> Value {
    json!({ "connector.class": "FileStreamSink", "tasks.max": "1", "topics": TOPIC, "file": file.display().to_string() })
}

fn archive(topic: &str, directory: &Path, format: &str) -> Value {
    json!({
        "connector.class": "object-store", "tasks.max": "1", "topics": topic,
        "store.url": format!("file://{}", directory.display()), "format.class": format,
        "format.output.fields": "value", "flush.size": FILE_RECORDS.to_string(), "file.max.bytes": "134217728",
    })
}

/// Bytes of all files below a directory whose names end in `end`.
fn bytes_below(directory: &Path, end: &str) -> u64 {
    let entries = std::fs::read_dir(directory).expect("a directory").flatten();
    let sizes = entries.map(|entry| match entry.path() {
        path if path.is_dir() => bytes_below(&path, end),
        path if path.to_string_lossy().ends_with(end) => entry.metadata().map_or(0, |m| m.len()),
        _ => 0,
    });
    sizes.sum()
}

/// Lines into files: Kafka's FileStreamSink against one of ours.
fn lines(software: Software, size: Size, ours: &str, config: fn(&Path) -> Value, end: &str) -> Measured {
    let broker = local_broker(Software::Strandline);
    topic(&broker, TOPIC, 1, PAGE_CACHE);
    let records = records(size);
    fill(broker.address, TOPIC, records, line);
    await_quiet_disk();
    let worker = Worker::start(software, &broker.bootstrap(), "");
    let out = worker.directory.join("out");
    std::fs::create_dir(&out).expect("a directory");
    let (kind, config, end) = match software {
        Software::Kafka => ("FileStreamSink", file_sink(&out.join("lines")), "lines"),
        Software::Strandline => (ours, config(&out), end),
    };
    let cost = worker.carry_all(&broker, TOPIC, config, records);
    let bytes = (records * RECORD_BYTES as u64) as f64;
    // The archive keeps its plans beside the topics.
    let topics = out.join("topics").join(TOPIC);
    let written = bytes_below(if topics.is_dir() { &topics } else { &out }, end);
    assert_eq!(written, records * (RECORD_BYTES as u64 + 1), "every record is a line");
    let mut result = measured("none", "256 KiB", &format!("1 task, records of 1 KiB of JSON, {kind}"));
    costs(&mut result, cost, bytes);
    result
}

pub fn file_lines(software: Software, size: Size) -> Measured {
    lines(software, size, "FileStreamSink", |out| file_sink(&out.join("lines")), "lines")
}

pub fn json_lines(software: Software, size: Size) -> Measured {
    let config = |out: &Path| {
        let mut config = archive(TOPIC, out, "json");
        config["value.converter"] = json!("org.apache.kafka.connect.json.JsonConverter");
        config["value.converter.schemas.enable"] = json!("false");
        config
    };
    lines(software, size, "object-store, JSON lines, JsonConverter", config, ".json")
}

/// Records in the newest snapshot of an Iceberg table below `directory`.
fn iceberg_records(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory.join("db/carried/metadata")).into_iter().flatten().flatten();
    let version = |path: &Path| path.file_name()?.to_str()?.strip_prefix('v')?.split('.').next()?.parse::<u64>().ok();
    let newest = entries.filter_map(|e| Some((version(&e.path())?, e.path()))).max();
    let Some(text) = newest.and_then(|(_, path)| std::fs::read_to_string(path).ok()) else { return 0 };
    let table: Value = serde_json::from_str(&text).unwrap_or_default();
    let current = table["snapshots"].as_array().into_iter().flatten();
    let current = current.filter(|s| s["snapshot-id"] == table["current-snapshot-id"]);
    let total = current.filter_map(|s| s["summary"]["total-records"].as_str()?.parse().ok()).next();
    total.unwrap_or(0)
}

/// Typed columns into Parquet: Apache Iceberg's sink against object-store.
pub fn parquet(software: Software, size: Size) -> Measured {
    let broker = local_broker(Software::Kafka);
    topic(&broker, TOPIC, 1, PAGE_CACHE);
    let records = records(size);
    fill(broker.address, TOPIC, records, typed_line);
    await_quiet_disk();
    let plugins = format!(":{}", place::class_path("iceberg-connect"));
    let worker = Worker::start(software, &broker.bootstrap(), &plugins);
    let out = worker.directory.join("out");
    std::fs::create_dir(&out).expect("a directory");
    let with_json = |mut config: Value| {
        config["value.converter"] = json!("org.apache.kafka.connect.json.JsonConverter");
        config["value.converter.schemas.enable"] = json!("true");
        config
    };
    let (kind, cost) = match software {
        Software::Kafka => {
            let config = json!({
                "connector.class": "org.apache.iceberg.connect.IcebergSinkConnector", "tasks.max": "1", "topics": TOPIC,
                "iceberg.tables": "db.carried", "iceberg.tables.auto-create-enabled": "true", "iceberg.catalog.type": "hadoop",
                "iceberg.catalog.warehouse": format!("file://{}", out.display()),
                "iceberg.control.commit.interval-ms": "5000",
            });
            (
                "IcebergSinkConnector 1.10.1",
                worker.carry(TOPIC, with_json(config), |_| iceberg_records(&out) >= records),
            )
        }
        Software::Strandline => {
            let mut config = archive(TOPIC, &out, "parquet");
            config["file.compression.type"] = json!("zstd");
            ("object-store, Parquet", worker.carry_all(&broker, TOPIC, with_json(config), records))
        }
    };
    let load = format!(
        "1 task, records of 1 KiB in JsonConverter's envelope, five columns, zstd, {kind}; broker Apache Kafka"
    );
    let mut result = measured("none", "256 KiB", &load);
    costs(&mut result, cost, (records * RECORD_BYTES as u64) as f64);
    result.values.insert("written_bytes", bytes_below(&out, ".parquet") as f64);
    result
}

/// Parquet from a topic that is on the local disk and, in the same run, from one that is only in MinIO. Strandline alone.
pub fn hot_and_tiered(software: Software, size: Size) -> Measured {
    let mut result = measured("none", "256 KiB", "1 task, records of 1 KiB of JSON as text, object-store, Parquet");
    if software == Software::Kafka {
        return result;
    }
    let records = records(size);
    let mut scene = Tiered::filled(|address, topic| fill(address, topic, records, line), records);
    topic(&scene.broker, TOPIC, 1, PAGE_CACHE);
    fill(scene.broker.address, TOPIC, records, line);
    scene.forget();
    // What is hot is in the page cache, as it is behind a producer.
    crate::blast::fetch(scene.broker.address, TOPIC, 0, 0..records as i64, 1 << 20, false);
    let tiered = scene.tiered as u64 / FILE_RECORDS * FILE_RECORDS;
    let worker = Worker::start(software, &scene.broker.bootstrap(), "");
    let rate = |topic: &str, records: u64| {
        let out = worker.directory.join(topic);
        std::fs::create_dir(&out).expect("a directory");
        let cost = worker.carry_all(&scene.broker, topic, archive(topic, &out, "parquet"), records);
        (records as f64 * RECORD_BYTES as f64 / 1e6 / cost.wall, cost)
    };
    let (hot, cost) = rate(TOPIC, tiered);
    let (cold, cold_cost) = rate(super::tier::TOPIC, tiered);
    costs(&mut result, cost, tiered as f64 * RECORD_BYTES as f64);
    let gb = tiered as f64 * RECORD_BYTES as f64 / 1e9;
    result.values.extend([
        ("hot_mb_per_s", hot),
        ("tiered_mb_per_s", cold),
        ("tiered_to_hot", cold / hot),
        ("tiered_worker_cpu_s_per_gb", cold_cost.broker / gb),
    ]);
    result
}
