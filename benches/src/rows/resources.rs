//! R1, R3, R4: what a broker needs to start, and to do nothing.

use strandline_tests::broker::{Broker, Software};
use strandline_tests::wait;

use super::{LARGE, PAGE_CACHE, Size, end, local_broker, measured, topic};
use crate::blast::{self, Shape};
use crate::meter::{Meter, anonymous_bytes, files_and_maps};
use crate::report::Measured;

const TOPIC: &str = "resources";
const MIB: f64 = 1_048_576.0;

/// From the process's start, on an empty topic that exists, to the first acknowledged record. Kafka's format is not counted.
pub fn start(software: Software, _size: Size) -> Measured {
    let mut broker = local_broker(software);
    topic(&broker, TOPIC, 1, PAGE_CACHE);
    broker.stop();
    let batch = blast::batch(Shape { records_per_batch: 1, record_bytes: 100, ..LARGE }, 1);
    let begin = wait::now();
    broker.up();
    wait::until("the first produce", strandline_tests::broker::START, || {
        let answer = broker.connection().produce(TOPIC, 0, batch.clone()).ok()?;
        (answer.error_code == 0).then_some(())
    });
    let mut result = measured("none", "1 record of 100 B", "looked at every 20 ms");
    result.values.insert("start_ms", begin.elapsed().as_secs_f64() * 1e3);
    blast::check(broker.address, TOPIC, 1, 1);
    result
}

pub fn memory(software: Software, size: Size) -> Measured {
    let mut broker = local_broker(software);
    let idle = anonymous_bytes(broker.server().pid());
    topic(&broker, TOPIC, 16, PAGE_CACHE);
    let produced = blast::produce_by_many(broker.address, TOPIC, 16, 16, LARGE, size.bytes(4 << 30), end());
    blast::check(broker.address, TOPIC, 16, produced.records);
    let loaded = anonymous_bytes(broker.server().pid());
    let mut result = measured("none", "256 KiB", "16 connections produce, then each partition is read");
    result.values.extend([("idle_mib", idle / MIB), ("loaded_mib", loaded / MIB)]);
    result
}

/// The difference that the partitions make, after a restart.
pub fn idle_partitions(software: Software, size: Size) -> Measured {
    let mut broker = local_broker(software);
    let pid = broker.server().pid();
    let (bytes, (files, maps)) = (anonymous_bytes(pid), files_and_maps(pid));
    let partitions = if size.quick { 1_000 } else { 10_000 };
    // Topics of 1,000: one request stays within its deadline.
    for n in 0..partitions / 1_000 {
        topic(&broker, &format!("{TOPIC}-{n}"), 1_000, PAGE_CACHE);
    }
    let restart = wait::now();
    broker.stop();
    broker.up();
    let restart = restart.elapsed();
    await_answer(&broker, partitions / 1_000);
    let pid = broker.server().pid();
    let meter = Meter::start(pid);
    wait::pause(size.seconds(30));
    let cost = meter.stop();
    let (bytes_after, (files_after, maps_after)) = (anonymous_bytes(pid), files_and_maps(pid));
    let mut result = measured("none", "none", "partitions without a record");
    result.values.extend([
        ("mib", (bytes_after - bytes) / MIB),
        ("files", files_after - files),
        ("maps", maps_after - maps),
        ("broker_cores", cost.broker / cost.wall),
        ("restart_s", restart.as_secs_f64()),
        ("partitions", f64::from(partitions)),
    ]);
    result
}

fn await_answer(broker: &Broker, topics: i32) {
    let name = format!("{TOPIC}-{}", topics - 1);
    wait::until("the last partition answers", strandline_tests::broker::START, || {
        broker.connection().list_offset(&name, 999, strandline_tests::wire::LATEST).ok()
    });
}
