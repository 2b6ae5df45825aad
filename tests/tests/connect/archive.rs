//! A topic in a bucket: one connector, every record in exactly one file, whatever happens to workers and store.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use strandline_protocol::compression::Compression;
use strandline_protocol::record_batch::{Header, RecordBatchBuilder};
use strandline_tests::broker::{Broker, Setup, Software};
use strandline_tests::connect::Worker;
use strandline_tests::hdfs::Hdfs;
use strandline_tests::minio::{ACCESS_KEY, Minio, SECRET_KEY};
use strandline_tests::process::{Program, run_well};
use strandline_tests::random::Random;
use strandline_tests::{place, wait, wire};

use crate::scene::broker;

const BUCKET: &str = "archive";
/// How long everything that was produced may take to be archived, after the last trouble.
const ARCHIVED: Duration = Duration::from_secs(180);
const SCRIPT: Duration = Duration::from_secs(120);
/// A worker that wakes after this has lost its seats (its session is 6 s).
const FROZEN: Duration = Duration::from_secs(9);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
}

/// Appends `count` records from number `from` on to a partition: key `k<n>`, value `{"n":<n>}`, every third with a header.
fn produce(broker: &Broker, topic: &str, partition: i32, from: u64, count: u64) {
    let mut builder = RecordBatchBuilder::new(Compression::Zstd);
    for n in from..from + count {
        let header = Header { key: "source".into(), value: Some("test".into()) };
        let headers = if n % 3 == 0 { vec![header] } else { Vec::new() };
        let (key, value) = (format!("k{n}"), format!("{{\"n\":{n}}}"));
        builder.append(1_700_000_000_000 + n as i64, Some(key.as_bytes()), Some(value.as_bytes()), &headers);
    }
    let answer = broker.connection().produce(topic, partition, builder.build()).expect("the broker answers");
    assert_eq!(answer.error_code, 0, "{answer:?}");
}

/// `orders`, kept for ever: the records are from 2023.
fn kept_topic(broker: &Broker, partitions: i32) {
    broker.connection().create_topic("orders", partitions, &[("retention.ms", "-1")]).expect("the topic is made");
}

fn on_minio(minio: &Minio, topic: &str, more: &[(&str, &str)]) -> Value {
    let endpoint = format!("http://{}", minio.address);
    let mut config = json!({
        "connector.class": "object-store",
        "topics": topic,
        "tasks.max": "2",
        "store.url": format!("s3://{BUCKET}"),
        "aws.s3.endpoint": endpoint,
        "s3.region": "us-east-1",
        "aws.access.key.id": ACCESS_KEY,
        "aws.secret.access.key": SECRET_KEY,
        "flush.size": "100",
        "rotate.schedule.interval.ms": "1000",
    });
    more.iter().for_each(|(key, value)| config[*key] = json!(value));
    config
}

/// Waits until the connector's group has committed the ends of all partitions.
fn await_archived(broker: &Broker, worker: &Worker, name: &str, topic: &str, partitions: i32) {
    let ends = |partition| broker.connection().list_offset(topic, partition, wire::LATEST).expect("an end");
    let ends: BTreeMap<i64, i64> = (0..partitions).map(|p| (p.into(), ends(p))).collect();
    let mut last = String::new();
    wait::until(&format!("{name} has archived all of {topic}"), ARCHIVED, || {
        let (_, offsets) = worker.rest.get(&format!("/connectors/{name}/offsets"));
        let told: BTreeMap<i64, i64> = offsets["offsets"]
            .as_array()?
            .iter()
            .filter_map(|o| Some((o["partition"]["kafka_partition"].as_i64()?, o["offset"]["kafka_offset"].as_i64()?)))
            .collect();
        let behind: Vec<_> = ends.iter().filter(|(p, end)| **end > 0 && told.get(p) != Some(end)).collect();
        let state = worker.rest.get(&format!("/connectors/{name}/status")).1.to_string();
        if state != last {
            eprintln!("{name}: {} partitions behind; {state}", behind.len());
            last = state;
        }
        behind.is_empty().then_some(())
    });
}

/// Reads Parquet files with pyarrow and with DuckDB: a line of JSON for each row, in the order of (partition, offset).
fn read_parquet(directory: &std::path::Path) -> Vec<Value> {
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python/read_parquet.py");
    let arguments = [script.display().to_string(), directory.display().to_string()];
    let text = run_well(&Program::new(place::installed("python/bin/python")).args(arguments), b"", SCRIPT);
    let text = String::from_utf8(text).expect("JSON");
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn mirror(minio: &Minio, to: &std::path::Path) {
    minio.mc(&["mirror", &format!("store/{BUCKET}"), &to.display().to_string()]);
}

#[test]
fn one_apply_archives_a_topic_to_parquet_that_others_read() {
    archives_to_parquet(&broker());
}

/// A worker needs nothing of us but the protocol.
#[test]
fn the_same_from_a_cluster_of_apache_kafka() {
    archives_to_parquet(&Broker::start(Software::Kafka, Setup::default()));
}

fn archives_to_parquet(broker: &Broker) {
    kept_topic(broker, 3);
    (0..3).for_each(|partition| produce(broker, "orders", partition, 1_000 * partition as u64, 250));
    let minio = Minio::start();
    minio.make_bucket(BUCKET);
    let worker = Worker::start(&broker.bootstrap(), "g", &[]);
    let config = on_minio(&minio, "orders", &[]);
    let (status, made) = worker.rest.call("POST", "/connectors", Some(&json!({ "name": "archive", "config": config })));
    assert_eq!(status, 201, "{made}");
    assert!(!made.to_string().contains(SECRET_KEY), "a password is not told: {made}");
    await_archived(broker, &worker, "archive", "orders", 3);
    let local = place::directory("mirror");
    mirror(&minio, &local);
    let rows = read_parquet(&local.join("topics/orders"));
    assert_eq!(rows.len(), 750);
    for (at, row) in rows.iter().enumerate() {
        let (partition, offset) = (at / 250, at % 250);
        let n = 1_000 * partition + offset;
        assert_eq!(row["offset"], offset, "{row}");
        assert_eq!(row["key"], format!("k{n}"), "{row}");
        assert_eq!(row["value"], format!("{{\"n\":{n}}}"), "{row}");
        assert_eq!(row["timestamp"], 1_700_000_000_000_i64 + n as i64, "{row}");
        assert_eq!(row["headers"].as_array().map(Vec::len), Some(usize::from(n % 3 == 0)), "{row}");
    }
}

#[test]
fn the_same_with_hdfs_and_with_a_directory() {
    let broker = broker();
    kept_topic(&broker, 1);
    produce(&broker, "orders", 0, 0, 250);
    let hdfs = Hdfs::start();
    let directory = place::directory("archive");
    let worker = Worker::start(&broker.bootstrap(), "g", &[]);
    for (name, url) in [("on-hdfs", hdfs.url("archive")), ("in-a-directory", format!("file://{}", directory.display()))]
    {
        let config = json!({
            "connector.class": "object-store", "topics": "orders", "store.url": url, "flush.size": "100",
            "rotate.schedule.interval.ms": "1000",
        });
        let (status, made) = worker.rest.call("PUT", &format!("/connectors/{name}/config"), Some(&config));
        assert_eq!(status, 201, "{made}");
        await_archived(&broker, &worker, name, "orders", 1);
    }
    let rows = read_parquet(&directory.join("topics/orders"));
    assert_eq!(rows.len(), 250);
    let files = hdfs.list("/archive/topics/orders");
    let names: Vec<&String> = files.iter().filter(|f| f.ends_with(".parquet")).collect();
    assert!(names.len() >= 3 && names.iter().any(|f| f.ends_with("orders+0+0000000100.snappy.parquet")), "{files:?}");
}

/// Offset by offset, what the lines of JSON say; a second copy of an offset is an error.
fn read_json(directory: &std::path::Path) -> BTreeMap<(i64, i64), String> {
    let mut rows = BTreeMap::new();
    for file in strandline_tests::broker::files_below(directory) {
        for line in std::fs::read_to_string(&file).expect("a file of the archive").lines() {
            let row: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{}: {e}: {line}", file.display()));
            let at = (row["partition"].as_i64().expect("a partition"), row["offset"].as_i64().expect("an offset"));
            let before = rows.insert(at, row["value"].as_str().unwrap_or_default().to_owned());
            assert!(before.is_none(), "{at:?} is in two files, one of them {}", file.display());
        }
    }
    rows
}

/// What happens to the workers and their store, a round each.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    Kill,
    Freeze,
    Outage,
    Restart,
    /// A third worker comes, takes its share, and leaves.
    Rebalance,
}

const TROUBLES: [Trouble; 5] = [Trouble::Kill, Trouble::Freeze, Trouble::Outage, Trouble::Restart, Trouble::Rebalance];

impl Trouble {
    fn happen(self, broker: &Broker, workers: &mut [Worker; 2], minio: &mut Minio, random: &mut Random) {
        let victim = &mut workers[usize::try_from(random.below(2)).expect("one of two")];
        match self {
            Trouble::Kill => {
                victim.kill();
                wait::pause(Duration::from_millis(random.below(3_000)));
                victim.up();
            }
            Trouble::Freeze => {
                victim.server().freeze();
                wait::pause(FROZEN);
                victim.server().resume();
            }
            Trouble::Outage => {
                minio.down();
                wait::pause(Duration::from_millis(500 + random.below(4_000)));
                minio.up();
            }
            Trouble::Restart => {
                victim.stop();
                victim.up();
            }
            Trouble::Rebalance => {
                let mut third = Worker::start(&broker.bootstrap(), "g", &[]);
                wait::pause(Duration::from_millis(500 + random.below(2_000)));
                third.stop();
            }
        }
    }
}

/// Objects below a prefix that have more than one version: somebody has replaced them.
fn replaced(minio: &Minio, prefix: &str) -> Vec<String> {
    let text = minio.mc(&["ls", "--recursive", "--versions", "--json", &format!("store/{BUCKET}/{prefix}")]);
    let mut versions: BTreeMap<String, usize> = BTreeMap::new();
    for line in text.lines() {
        let entry: Value = serde_json::from_str(line).expect("a line of JSON");
        *versions.entry(entry["key"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    assert!(!versions.is_empty(), "there are files below {prefix}");
    versions.into_iter().filter(|(_, count)| *count > 1).map(|(key, _)| key).collect()
}

/// Kill, freeze and wake, store outage, restart, another member: in the end each connector's files hold each record once, and no file
/// was ever replaced (the bucket keeps versions).
#[test]
fn whatever_happens_every_record_is_archived_once() {
    let rounds = number("STRANDLINE_ARCHIVE_ROUNDS", 10);
    let partitions = i32::try_from(number("STRANDLINE_ARCHIVE_PARTITIONS", 16)).expect("fewer partitions");
    let mut random = Random::new(number("STRANDLINE_ARCHIVE_SEED", 1));
    let broker = broker();
    kept_topic(&broker, partitions);
    let mut minio = Minio::start();
    minio.make_bucket(BUCKET);
    minio.mc(&["version", "enable", &format!("store/{BUCKET}")]);
    let mut workers = [Worker::start(&broker.bootstrap(), "g", &[]), Worker::start(&broker.bootstrap(), "g", &[])];
    let json_fields = ("format.output.fields", "partition,offset,value");
    let by_size = on_minio(&minio, "orders", &[("flush.size", "30"), ("topics.dir", "parquet")]);
    let by_time = on_minio(
        &minio,
        "orders",
        &[
            ("format.class", "json"),
            json_fields,
            ("format.output.fields.value.encoding", "none"),
            ("topics.dir", "json"),
            ("rotate.interval.ms", "40"),
        ],
    );
    for (name, config) in [("by-size", by_size), ("by-time", by_time)] {
        let (status, made) = workers[0].rest.call("PUT", &format!("/connectors/{name}/config"), Some(&config));
        assert_eq!(status, 201, "{made}");
    }
    let mut next = vec![0_u64; usize::try_from(partitions).expect("a count")];
    for round in 0..rounds {
        for (partition, next) in (0..partitions).zip(&mut next) {
            let count = 1 + random.below(60);
            produce(&broker, "orders", partition, *next, count);
            *next += count;
        }
        let any = usize::try_from(random.below(TROUBLES.len() as u64)).expect("a few");
        let trouble = TROUBLES.get(usize::try_from(round).expect("a count")).copied().unwrap_or(TROUBLES[any]);
        eprintln!("round {} of {rounds}: {trouble:?}", round + 1);
        trouble.happen(&broker, &mut workers, &mut minio, &mut random);
        wait::pause(Duration::from_millis(random.below(2_000)));
    }
    for name in ["by-size", "by-time"] {
        await_archived(&broker, &workers[0], name, "orders", partitions);
    }
    for prefix in ["json/", "parquet/"] {
        assert_eq!(replaced(&minio, prefix), Vec::<String>::new(), "no file is ever replaced");
    }
    let local = place::directory("mirror");
    mirror(&minio, &local);
    let expected: BTreeMap<(i64, i64), String> = (0_i64..)
        .zip(&next)
        .flat_map(|(partition, count)| (0..*count).map(move |n| ((partition, n as i64), format!("{{\"n\":{n}}}"))))
        .collect();
    let told = read_json(&local.join("json/orders"));
    assert_eq!(told.len(), expected.len());
    assert!(told == expected, "the lines of JSON are the log");
    let rows = read_parquet(&local.join("parquet/orders"));
    let told: Vec<((i64, i64), String)> = rows
        .iter()
        .map(|row| {
            let number = |field: &str| row[field].as_i64().expect("a number");
            ((number("partition"), number("offset")), row["value"].as_str().unwrap_or_default().to_owned())
        })
        .collect();
    assert_eq!(told.len(), expected.len(), "no row of Parquet twice, none missing");
    assert!(told.into_iter().collect::<BTreeMap<_, _>>() == expected, "the rows of Parquet are the log");
}
