//! T1, T2, T4, T6: reading what is only in the tier. Strandline's is MinIO on this machine, without anything between; Kafka's is
//! its own tier over a local directory, which has no store between and bounds what Kafka's tier can do. Behind T1 the same objects
//! are read raw, for the same line. With a distant store Kafka has no plugin of its own, so that T2, T4 and T6 are measured for
//! Strandline alone, beside the limit loops through the same proxy.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use strandline_tests::broker::{Broker, Software};
use strandline_tests::http;
use strandline_tests::minio::Minio;
use strandline_tests::place;
use strandline_tests::process::{Program, run_well};
use strandline_tests::proxy::Proxy;
use strandline_tests::wait;
use strandline_tests::wire::{self, EARLIEST_LOCAL};

use super::{LARGE, LOAD_MAX, PAGE_CACHE, Size, end, measured, setup};
use crate::blast;
use crate::limits::get_objects;
use crate::meter::{Meter, await_quiet_disk, drop_page_cache};
use crate::report::Measured;

pub(super) const TOPIC: &str = "tier";
const BUCKET: &str = "bench-bucket";
const COPIED: Duration = Duration::from_secs(300);

const CHUNK_BYTES: &str = "strandline_tier_store_chunk_bytes_total";
const CALLS: &str = "strandline_tier_store_calls_total";

/// What is between the broker and its store.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Direct,
    Proxy,
}

/// A broker whose topic is in the tier up to `tiered` (exclusive), and what is behind it.
pub(super) struct Tiered {
    pub(super) broker: Broker,
    proxy: Option<Proxy>,
    minio: Option<Minio>,
    pub(super) tiered: i64,
}

impl Tiered {
    fn make(software: Software, way: Way, bytes: u64) -> Self {
        Self::with(software, way, |address| blast::produce(address, TOPIC, 0, LARGE, bytes, end()).records)
    }

    /// Strandline's, with what `fill` puts into the topic.
    pub(super) fn filled(fill: impl FnOnce(SocketAddr, &str), records: u64) -> Self {
        Self::with(Software::Strandline, Way::Direct, |address| {
            fill(address, TOPIC);
            records
        })
    }

    /// `load` fills the topic at this address and says how many records it has then.
    fn with(software: Software, way: Way, load: impl FnOnce(SocketAddr) -> u64) -> Self {
        let mut setup = setup()
            .set("log.retention.check.interval.ms", "500")
            .set("log.initial.task.delay.ms", "500")
            .set("remote.log.manager.task.interval.ms", "500");
        let (mut proxy, mut minio) = (None, None);
        if software == Software::Strandline {
            let store = Minio::start();
            store.make_bucket(BUCKET);
            let before = (way == Way::Proxy).then(|| Proxy::start(store.address));
            setup = setup.set("tier.url", &format!("s3://{BUCKET}/prefix"));
            setup.environment = Minio::environment(before.as_ref().map_or(store.address, |proxy| proxy.address));
            (proxy, minio) = (before, Some(store));
        }
        let broker = Broker::start(software, setup);
        let configs = [
            ("retention.ms", "-1"),
            ("segment.bytes", "67108864"),
            ("remote.storage.enable", "true"),
            ("local.retention.ms", "1"),
            PAGE_CACHE,
        ];
        broker.connection().create_topic(TOPIC, 1, &configs).expect("the topic is created");
        let records = load(broker.address);
        // Two segments may be left.
        let wanted = records as i64 - 2 * (64 << 20) / 1024;
        let tiered = wait::until("the topic is in the tier", COPIED, || {
            let local = broker.connection().list_offset(TOPIC, 0, EARLIEST_LOCAL).ok()?;
            (local >= wanted.max(1)).then_some(local)
        });
        blast::check(broker.address, TOPIC, 1, records);
        await_quiet_disk();
        Tiered { broker, proxy, minio, tiered }
    }

    /// Forgets what reading has cached: the broker starts anew, and so does the page cache.
    pub(super) fn forget(&mut self) {
        self.broker.stop();
        drop_page_cache();
        self.broker.up();
        if self.broker.software == Software::Kafka {
            // It refuses remote reads until it has read its metadata topic again; the wait is not the replay's.
            wait::until("Kafka reads its tier", COPIED, || {
                let data = self.broker.connection().fetch(TOPIC, 0, 0, 1).ok()?;
                (data.error_code == 0 && data.records.is_some_and(|r| !r.is_empty())).then_some(())
            });
        }
    }

    /// A counter of Strandline's metrics page.
    fn count(&self, name: &str) -> f64 {
        http::metric(&self.broker.metrics(), name, "").unwrap_or_else(|| panic!("{name} is a metric"))
    }

    /// Key in the bucket and bytes of every segment's object.
    fn segments(store: &Minio) -> Vec<(String, u64)> {
        let text = store.mc(&["ls", "--recursive", "--json", &format!("store/{BUCKET}")]);
        let object = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).expect("mc prints JSON");
            (line["key"].as_str().expect("a key").to_owned(), line["size"].as_u64().expect("a size"))
        };
        let mut all: Vec<_> = text.lines().map(object).filter(|(key, _)| key.ends_with(".log")).collect();
        all.sort();
        all
    }
}

/// Reads what is in the tier; gives the records' bytes on the wire.
type Reader = fn(&Tiered) -> u64;

fn our_reader(scene: &Tiered) -> u64 {
    blast::fetch(scene.broker.address, TOPIC, 0, 0..scene.tiered, 1 << 20, false).bytes
}

/// Bytes of the first `tiered` records in their batches.
fn tiered_bytes(scene: &Tiered) -> u64 {
    let batches = scene.tiered as u64 / u64::try_from(LARGE.records_per_batch).expect("a count");
    batches * blast::batch(LARGE, 1).len() as u64
}

fn kcat(scene: &Tiered) -> u64 {
    let (bootstrap, count) = (scene.broker.bootstrap(), scene.tiered.to_string());
    let program = Program::new("kcat")
        .args(["-C", "-q", "-b", &bootstrap, "-t", TOPIC, "-p", "0", "-o", "beginning", "-c", &count])
        .args(["-f", "%o\n"]);
    let printed = String::from_utf8(run_well(&program, b"", LOAD_MAX)).expect("numbers");
    let last = (scene.tiered - 1).to_string();
    assert_eq!(printed.lines().count() as i64, scene.tiered, "kcat prints every record");
    assert_eq!(printed.lines().next_back(), Some(last.as_str()), "kcat reads up to the last record");
    tiered_bytes(scene)
}

fn java(scene: &Tiered) -> u64 {
    let (bootstrap, count) = (scene.broker.bootstrap(), scene.tiered.to_string());
    let words = ["--bootstrap-server", &bootstrap, "--topic", TOPIC, "--messages", &count, "--timeout", "60000"];
    let program = Program::new("java")
        .args(["-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", &place::class_path("kafka")])
        .args(["org.apache.kafka.tools.ConsumerPerformance"])
        .args(words);
    run_well(&program, b"", LOAD_MAX);
    tiered_bytes(scene)
}

fn replayed(mut scene: Tiered, mut result: Measured, read: Reader) -> Measured {
    scene.forget();
    let store_pid = scene.minio.as_ref().and_then(Minio::server).map(strandline_tests::process::Server::pid);
    let store = store_pid.map(Meter::start);
    let passed = |scene: &Tiered| {
        let weather = scene.proxy.as_ref().map(|p| &p.weather);
        weather.map(|w| (w.answered_bytes.load(Ordering::Relaxed), w.requests.load(Ordering::Relaxed)))
    };
    let before = passed(&scene);
    let meter = Meter::start(scene.broker.server().pid());
    let bytes = read(&scene);
    let cost = meter.stop();
    let gb = bytes as f64 / 1e9;
    result.values.extend([
        ("broker_cpu_s_per_gb", cost.broker / gb),
        ("machine_cpu_s_per_gb", cost.machine / gb),
        ("mb_per_s", gb * 1e3 / cost.wall),
        ("bytes", bytes as f64),
    ]);
    if let Some(store) = store {
        result.values.insert("store_cpu_s_per_gb", store.stop().broker / gb);
    }
    if let (Some(before), Some(after)) = (before, passed(&scene)) {
        result.values.insert("bytes_fetched_per_byte_served", (after.0 - before.0) as f64 / bytes as f64);
        result.values.insert("store_requests", (after.1 - before.1) as f64);
    } else if let Some(store) = scene.minio.as_ref() {
        result.values.insert("bytes_fetched_per_byte_served", scene.count(CHUNK_BYTES) / bytes as f64);
        result.values.insert("store_requests", scene.count(CALLS));
        let of_raw = result.values["mb_per_s"] / raw(store, &mut result);
        result.values.insert("mb_per_s_of_raw", of_raw);
    }
    result
}

/// The same objects, read by nothing but GETs of 8 MiB, 4 at once, as cold as the replay found them; MB/s.
fn raw(store: &Minio, result: &mut Measured) -> f64 {
    store.mc(&["anonymous", "set", "public", &format!("store/{BUCKET}")]);
    let objects = Tiered::segments(store);
    drop_page_cache();
    let raw = get_objects(store.address, BUCKET, &objects);
    result.values.insert("raw_mb_per_s", raw["mb_per_s"]);
    raw["mb_per_s"]
}

pub fn replay(software: Software, size: Size) -> Measured {
    let scene = Tiered::make(software, Way::Direct, size.bytes(4 << 30));
    let store = if software == Software::Kafka { "LocalTieredStorage" } else { "MinIO on loopback" };
    replayed(scene, measured("none", "256 KiB", &format!("1 reader, fetches of at most 1 MiB; {store}")), our_reader)
}

const DISTANT: &str = "50 ms, 90 MB/s a connection";
/// What a client of the distant rows reads, bytes.
const DISTANT_BYTES: u64 = (4 << 30) + (256 << 20);

fn distant(software: Software, size: Size, reader: &str, read: Reader) -> Measured {
    let result = measured("none", "256 KiB", &format!("{reader}; {DISTANT}"));
    if software == Software::Kafka {
        return result;
    }
    let scene = Tiered::make(software, Way::Proxy, size.bytes(DISTANT_BYTES));
    scene.proxy.as_ref().expect("before MinIO").distant();
    replayed(scene, result, read)
}

pub fn distant_replay(software: Software, size: Size) -> Measured {
    distant(software, size, "1 reader, fetches of at most 1 MiB", our_reader)
}

pub fn distant_kcat(software: Software, size: Size) -> Measured {
    distant(software, size, "kcat -C -o beginning", kcat)
}

pub fn distant_java(software: Software, size: Size) -> Measured {
    distant(software, size, "kafka-consumer-perf-test", java)
}

pub fn first_record(software: Software, size: Size) -> Measured {
    let mut result = measured("none", "256 KiB", "the first fetch after a start; 50 ms, 90 MB/s a connection");
    if software == Software::Kafka {
        return result;
    }
    let mut scene = Tiered::make(software, Way::Proxy, size.bytes(2 << 30));
    scene.proxy.as_ref().expect("before MinIO").distant();
    scene.forget();
    let requests = |scene: &Tiered| scene.proxy.as_ref().map_or(0, |p| p.weather.requests.load(Ordering::Relaxed));
    let (before, mut connection) = (requests(&scene), scene.broker.connection());
    let begin = wait::now();
    let at = scene.tiered / 2;
    let first = wait::until("the first record", Duration::from_secs(30), || {
        let data = connection.fetch(TOPIC, 0, at, 1 << 20).ok()?;
        let bytes = data.records.and_then(|r| r.to_bytes()).unwrap_or_default();
        (data.error_code == 0 && !bytes.is_empty()).then(|| begin.elapsed())
    });
    result.values.insert("first_record_ms", first.as_secs_f64() * 1e3);
    result.values.insert("store_requests", (requests(&scene) - before) as f64);
    let again = wait::now();
    let data = connection.fetch(TOPIC, 0, at, 1 << 20).unwrap_or_else(|e| panic!("fetch: {}", e.0));
    assert_eq!(data.error_code, 0, "the second fetch of the same offset");
    result.values.insert("second_fetch_ms", again.elapsed().as_secs_f64() * 1e3);
    result
}

/// Single reads at scattered offsets: each may cost a chunk. (A sequential replay's amplification is in T1 and T2.)
pub fn amplification(software: Software, size: Size) -> Measured {
    let mut result = measured("none", "256 KiB", "100 reads of 1 MiB at scattered offsets");
    if software == Software::Kafka {
        return result;
    }
    let mut scene = Tiered::make(software, Way::Proxy, size.bytes(4 << 30));
    scene.forget();
    let proxy = scene.proxy.as_ref().expect("before MinIO");
    let before = proxy.weather.answered_bytes.load(Ordering::Relaxed);
    let mut served = 0;
    let mut random = strandline_tests::random::Random::new(71);
    for _ in 0..100 {
        let at = random.below(scene.tiered as u64) as i64;
        let mut connection = scene.broker.connection();
        served += wait::until("a scattered read", Duration::from_secs(30), || {
            let data = connection.fetch(TOPIC, 0, at, 1 << 20).ok()?;
            let bytes = data.records.map_or(0, |r| r.len());
            (data.error_code == 0 && bytes > 0).then_some(bytes)
        });
    }
    let fetched = proxy.weather.answered_bytes.load(Ordering::Relaxed) - before;
    result.values.insert("bytes_fetched_per_byte_served", fetched as f64 / served as f64);
    assert_eq!(scene.broker.connection().list_offset(TOPIC, 0, wire::EARLIEST), Ok(0), "the log still begins at 0");
    result
}
