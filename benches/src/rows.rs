//! The rows: each starts its own broker, loads it, measures, checks, and is bounded in time.

pub mod cluster;
pub mod connect;
pub mod fetch;
pub mod latency;
pub mod produce;
pub mod resources;
pub mod tier;

use std::time::{Duration, Instant};

use strandline_protocol::compression::Compression;
use strandline_tests::broker::{Broker, Setup, Software};
use strandline_tests::wait;

use crate::blast::Shape;
use crate::report::Measured;

/// The longest that the load of one measurement may run.
const LOAD_MAX: Duration = Duration::from_secs(120);

/// How large a measurement is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub quick: bool,
    /// Messages per second of row L2: half of what Kafka takes.
    pub l2_rate: f64,
}

impl Size {
    /// Bytes of a load, 8 times fewer when quick.
    pub fn bytes(self, full: u64) -> u64 {
        if self.quick { full / 8 } else { full }
    }

    pub fn seconds(self, full: u64) -> Duration {
        Duration::from_secs(if self.quick { (full / 6).max(3) } else { full })
    }
}

/// A row of the comparison.
pub struct Row {
    pub name: &'static str,
    pub what: &'static str,
    pub run: fn(Software, Size) -> Measured,
}

/// In the order in which they run.
pub const ROWS: &[Row] = &[
    Row { name: "P1", what: "produce, 1 KiB records, uncompressed, acks=1, librdkafka", run: produce::librdkafka },
    Row { name: "P2", what: "produce MB/s saturated, cheap client, 256 KiB batches", run: produce::saturated },
    Row { name: "P3", what: "produce, lz4", run: produce::compressed },
    Row { name: "P4", what: "produce, one record of 100 B a request, 64 connections", run: produce::small },
    Row { name: "P5", what: "produce, on disk before the answer, 16 partitions", run: produce::durable },
    Row { name: "F1", what: "fetch from the page cache", run: fetch::hot },
    Row { name: "F2", what: "fetch from the disk, and a producer beside it", run: fetch::cold },
    Row { name: "F3", what: "parked fetches of 1,000 partitions each", run: fetch::parked },
    Row { name: "L1", what: "end to end, 1,000 messages of 100 B a second", run: latency::slow },
    Row { name: "L2", what: "end to end at half of Kafka's rate", run: latency::half },
    Row { name: "T1", what: "replay from the tier", run: tier::replay },
    Row { name: "T2", what: "replay from a tier 50 ms and 90 MB/s a connection away", run: tier::distant_replay },
    Row { name: "T2-kcat", what: "the same, read by kcat with its default settings", run: tier::distant_kcat },
    Row {
        name: "T2-java",
        what: "the same, read by the Java client with its default settings",
        run: tier::distant_java,
    },
    Row { name: "T4", what: "first record from a cold offset of that tier", run: tier::first_record },
    Row { name: "T6", what: "bytes fetched from the tier for each byte served", run: tier::amplification },
    Row { name: "R1", what: "process start to first acknowledged produce", run: resources::start },
    Row { name: "R3", what: "memory, idle and loaded", run: resources::memory },
    Row { name: "R4", what: "10,000 idle partitions", run: resources::idle_partitions },
    Row { name: "P6", what: "produce, 3 nodes, replication factor 3, acks=all", run: cluster::produce },
    Row { name: "L3", what: "end to end, 3 nodes, acks=all, 1,000 messages a second", run: cluster::latency },
    Row { name: "C1", what: "the leader is killed: outage of a producer", run: cluster::leader_killed },
    Row { name: "C1-tuned", what: "the same, session timeout 3 s on both sides", run: cluster::leader_killed_tuned },
    Row {
        name: "C2",
        what: "the active controller is killed: until a topic can be made",
        run: cluster::controller_killed,
    },
    Row { name: "C3", what: "1,000 new partitions: until each takes a record", run: cluster::many_partitions },
    Row { name: "C4", what: "both processors busy with other work: no in-sync set shrinks", run: cluster::starved },
    Row { name: "K1", what: "a topic into a file, both by FileStreamSink", run: connect::file_lines },
    Row {
        name: "K1-json",
        what: "the same, JSON lines by object-store against FileStreamSink",
        run: connect::json_lines,
    },
    Row {
        name: "K2",
        what: "typed columns into Parquet, object-store against Apache Iceberg's sink",
        run: connect::parquet,
    },
    Row { name: "K3", what: "a topic into Parquet, hot and out of the tier", run: connect::hot_and_tiered },
];

/// Settings that both take, as production has them: no test's short intervals.
pub fn setup() -> Setup {
    let mut setup = Setup::default()
        .set("log.retention.check.interval.ms", "300000")
        .set("log.initial.task.delay.ms", "30000")
        .set("remote.log.manager.task.interval.ms", "30000");
    // Kafka's own start script has these; a machine with one core would otherwise get the serial collector unseen.
    setup.java_flags =
        ["-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35"]
            .into_iter()
            .chain(["-XX:+ExplicitGCInvokesConcurrent"])
            .map(str::to_owned)
            .collect();
    setup
}

/// A broker without a tier.
pub fn local_broker(software: Software) -> Broker {
    Broker::start(software, setup().set("remote.log.storage.system.enable", "false").set("tier.url", ""))
}

/// Kafka's own default: the page cache and replication keep what is acknowledged. Both run with it unless the row says otherwise.
pub const PAGE_CACHE: (&str, &str) = ("flush.messages", "9223372036854775807");

/// A topic with 1 GiB segments and the given flush setting.
pub fn topic(broker: &Broker, name: &str, partitions: i32, flush: (&str, &str)) {
    let configs = [("retention.ms", "-1"), flush];
    broker.connection().create_topic(name, partitions, &configs).expect("the topic is created");
}

/// When a load must have ended.
pub fn end() -> Instant {
    wait::now() + LOAD_MAX
}

/// Batches of 256 KiB of 1 KiB records.
pub const LARGE: Shape =
    Shape { record_bytes: 1024, records_per_batch: 250, codec: Compression::None, in_flight: 5, acks: 1 };

/// A result's head for the mode in which most rows run.
pub fn measured(codec: &str, batch: &str, load: &str) -> Measured {
    Measured {
        durability: "flush.messages=9223372036854775807".to_owned(),
        codec: codec.to_owned(),
        batch: batch.to_owned(),
        load: load.to_owned(),
        ..Default::default()
    }
}
