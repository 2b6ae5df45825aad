//! P1 to P5: what it costs to take records in.

use strandline_protocol::compression::Compression;
use strandline_tests::broker::{Broker, Software};
use strandline_tests::place;
use strandline_tests::process::{Program, run_well};

use super::{LARGE, LOAD_MAX, PAGE_CACHE, Size, end, local_broker, measured, topic};
use crate::blast::{self, Produced, Shape};
use crate::meter::{Cost, Meter, await_quiet_disk, percentile};
use crate::report::Measured;

const TOPIC: &str = "produce";
/// Before counting, bytes: what the just-in-time compiler and the page cache need.
const WARM_UP: u64 = 2 << 30;
/// What row P5 may write, bytes: a broker that is fast enough ends before its time.
const DURABLE_MAX: u64 = 8 << 30;

fn warm(broker: &Broker, size: Size, shape: Shape) {
    topic(broker, "warm-up", 1, PAGE_CACHE);
    blast::produce(broker.address, "warm-up", 0, shape, size.bytes(WARM_UP), end());
    await_quiet_disk();
}

fn costs(mut result: Measured, produced: &Produced, cost: Cost) -> Measured {
    let gb = produced.wire_bytes as f64 / 1e9;
    result.values.extend([
        ("broker_cpu_s_per_gb", cost.broker / gb),
        ("machine_cpu_s_per_gb", cost.machine / gb),
        ("mb_per_s", gb * 1e3 / cost.wall),
        ("requests_per_broker_cpu_s", produced.requests as f64 / cost.broker.max(0.01)),
        ("p50_ms", percentile(&produced.latencies, 0.5)),
        ("p99_ms", percentile(&produced.latencies, 0.99)),
        ("steal_s", cost.steal),
    ]);
    result
}

/// `rdkafka_performance`: the cheapest of the known clients.
pub fn librdkafka(software: Software, size: Size) -> Measured {
    let mut broker = local_broker(software);
    warm(&broker, size, LARGE);
    topic(&broker, TOPIC, 1, PAGE_CACHE);
    let count = size.bytes(4 << 30) / 1024;
    let (bootstrap, messages) = (broker.bootstrap(), count.to_string());
    let program = Program::new(place::installed("bin/rdkafka_performance"))
        .args([
            "-P", "-q", "-t", TOPIC, "-p", "0", "-s", "1024", "-a", "1", "-z", "none", "-b", &bootstrap, "-c",
            &messages,
        ])
        .args(["-X", "linger.ms=5", "-X", "batch.size=1000000", "-X", "queue.buffering.max.messages=500000"]);
    let meter = Meter::start(broker.server().pid());
    run_well(&program, b"", LOAD_MAX);
    let cost = meter.stop();
    blast::check(broker.address, TOPIC, 1, count);
    let gb = count as f64 * 1024.0 / 1e9;
    let mut result = measured("none", "up to 1 MB", "rdkafka_performance -P -s 1024 -a 1");
    result.values.extend([
        ("broker_cpu_s_per_gb", cost.broker / gb),
        ("machine_cpu_s_per_gb", cost.machine / gb),
        ("mb_per_s", gb * 1e3 / cost.wall),
        ("steal_s", cost.steal),
    ]);
    result
}

fn blasted(software: Software, size: Size, shape: Shape, bytes: u64, result: Measured) -> Measured {
    let mut broker = local_broker(software);
    warm(&broker, size, shape);
    topic(&broker, TOPIC, 1, PAGE_CACHE);
    let meter = Meter::start(broker.server().pid());
    let produced = blast::produce(broker.address, TOPIC, 0, shape, size.bytes(bytes), end());
    let cost = meter.stop();
    blast::check(broker.address, TOPIC, 1, produced.records);
    costs(result, &produced, cost)
}

/// Batches made once: the broker and the loopback are all that costs.
pub fn saturated(software: Software, size: Size) -> Measured {
    blasted(software, size, LARGE, 4 << 30, measured("none", "256 KiB", "1 connection, 5 in flight, acks=1"))
}

/// Compressed batches, costs per byte on the wire.
pub fn compressed(software: Software, size: Size) -> Measured {
    let shape = Shape { codec: Compression::Lz4, records_per_batch: 500, ..LARGE };
    blasted(
        software,
        size,
        shape,
        2 << 30,
        measured("lz4", "500 KiB before compression", "1 connection, 5 in flight, acks=1"),
    )
}

/// Requests are what costs.
pub fn small(software: Software, size: Size) -> Measured {
    const CONNECTIONS: i32 = 64;
    let mut broker = local_broker(software);
    let shape = Shape { record_bytes: 100, records_per_batch: 1, codec: Compression::None, in_flight: 5, acks: 1 };
    topic(&broker, "warm-up", 16, PAGE_CACHE);
    blast::produce_by_many(broker.address, "warm-up", 16, CONNECTIONS, shape, size.bytes(80 << 20), end());
    topic(&broker, TOPIC, 16, PAGE_CACHE);
    let meter = Meter::start(broker.server().pid());
    let produced = blast::produce_by_many(broker.address, TOPIC, 16, CONNECTIONS, shape, size.bytes(160 << 20), end());
    let cost = meter.stop();
    blast::check(broker.address, TOPIC, 16, produced.records);
    let mut result =
        costs(measured("none", "1 record of 100 B", "64 connections, 5 in flight, acks=1"), &produced, cost);
    result.values.insert("requests_per_s", produced.requests as f64 / cost.wall);
    result
}

/// An answer means that the bytes are on the disk.
pub fn durable(software: Software, size: Size) -> Measured {
    const PARTITIONS: i32 = 16;
    let mut broker = local_broker(software);
    topic(&broker, TOPIC, PARTITIONS, ("flush.messages", "1"));
    let shape = Shape { record_bytes: 1024, records_per_batch: 16, codec: Compression::None, in_flight: 5, acks: 1 };
    let end = strandline_tests::wait::now() + size.seconds(30);
    let meter = Meter::start(broker.server().pid());
    let produced = blast::produce_by_many(broker.address, TOPIC, PARTITIONS, PARTITIONS, shape, DURABLE_MAX, end);
    let cost = meter.stop();
    blast::check(broker.address, TOPIC, PARTITIONS, produced.records);
    let mut result = measured("none", "16 KiB", "16 connections, 5 in flight, acks=1");
    result.durability = "flush.messages=1".to_owned();
    costs(result, &produced, cost)
}
