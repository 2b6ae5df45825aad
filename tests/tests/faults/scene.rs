//! A broker with a store behind it, a topic, and the checks that each test ends with.

use std::sync::Mutex;
use std::time::Duration;

use strandline_tests::broker::{self, Broker, Setup, Software};
use strandline_tests::load::{self, Pattern};
use strandline_tests::minio::Minio;
use strandline_tests::proxy::Proxy;
use strandline_tests::{place, wait, wire};

/// How long after the last append the local log may hold more than it should.
pub const FREED_WITHIN: Duration = Duration::from_secs(10);
/// Segments that may then be local: the active one and two closed ones.
const LOCAL_SEGMENTS: usize = 3;
/// How long a whole load may take to be written or read.
pub const LOAD: Duration = Duration::from_secs(1800);
pub const TOPIC: &str = "load";

/// A number of the environment.
pub fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text}")),
        Err(_) => default,
    }
}

/// Records of one load.
pub fn load_size() -> i64 {
    setting("STRANDLINE_FAULT_RECORDS", 150_000) as i64
}

/// Each test moves hundreds of megabytes through two cores and one disk: one at a time.
pub fn alone() -> Turn {
    static TURN: Mutex<()> = Mutex::new(());
    Turn { _lock: TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner) }
}

/// One test at a time. What a test that passed has written goes with its turn, once its servers have ended: at full size it is tens of GiB.
pub struct Turn {
    _lock: std::sync::MutexGuard<'static, ()>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            place::clear("");
        }
    }
}

/// MinIO, a proxy before it, and a broker whose bucket is reached through the proxy.
pub struct Scene {
    pub broker: Broker,
    pub proxy: Proxy,
    pub minio: Minio,
}

pub const BUCKET: &str = "tier-bucket";

impl Scene {
    pub fn on_minio() -> Self {
        let minio = Minio::start();
        minio.make_bucket(BUCKET);
        let proxy = Proxy::start(minio.address);
        let mut setup = Setup::default().set("tier.url", &format!("s3://{BUCKET}/prefix"));
        setup.environment = Minio::environment(proxy.address);
        Scene { broker: Broker::start(Software::Strandline, setup), proxy, minio }
    }
}

/// A tiered topic whose local log keeps nothing closed.
pub fn make_topic(broker: &Broker, partitions: i32, records: i64) {
    // About 64 segments a partition, of at least 1 MiB and at most 64 MiB.
    let bytes = (records * 1024 / i64::from(partitions) / 64).clamp(1 << 20, 64 << 20).to_string();
    let configs = [
        ("retention.ms", "-1"),
        ("segment.bytes", bytes.as_str()),
        ("remote.storage.enable", "true"),
        ("local.retention.ms", "1"),
    ];
    broker.connection().create_topic(TOPIC, partitions, &configs).expect("the topic is created");
}

/// The range of each partition when `records` are spread evenly.
pub fn share(partitions: i32, records: i64) -> i64 {
    records / i64::from(partitions)
}

/// Writes records `from..to` of each partition, two partitions at a time.
pub fn write(broker: &Broker, pattern: &Pattern, partitions: i32, range: std::ops::Range<i64>) {
    each_partition(partitions, |partition| {
        load::produce_with_retries(broker.address, TOPIC, partition, pattern, range.clone(), LOAD);
    });
}

/// Reads every partition from offset 0 to `end` and checks every byte.
pub fn read_all(broker: &Broker, pattern: &Pattern, partitions: i32, end: i64) {
    let begin = wait::now();
    each_partition(partitions, |partition| {
        load::verify_with_retries(broker.address, TOPIC, partition, pattern, end, LOAD);
        let latest = broker.connection().list_offset(TOPIC, partition, wire::LATEST);
        assert_eq!(latest, Ok(end), "nothing is behind the last record");
    });
    eprintln!("read {} records in {:.1} s", end * i64::from(partitions), begin.elapsed().as_secs_f64());
}

/// Two threads, for two cores.
fn each_partition(partitions: i32, work: impl Fn(i32) + Sync) {
    let next = std::sync::atomic::AtomicI32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2.min(partitions) {
            scope.spawn(|| {
                loop {
                    let partition = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if partition >= partitions {
                        return;
                    }
                    work(partition);
                }
            });
        }
    });
}

/// In time, every partition holds at most its active and two closed segments, and what was freed is the beginning.
pub fn await_freed(broker: &Broker, partitions: i32, within: Duration) {
    for partition in 0..partitions {
        let directory = broker.partition_directory(TOPIC, partition);
        let what = format!(
            "{TOPIC}-{partition} keeps at most {LOCAL_SEGMENTS} segments, and the tier alone has the beginning"
        );
        wait::until(&what, within, || {
            let local = broker.connection().list_offset(TOPIC, partition, wire::EARLIEST_LOCAL).ok()?;
            (local > 0 && broker::segments(&directory).len() <= LOCAL_SEGMENTS).then_some(())
        });
    }
}
