//! L1 and L2: from when a record is due to when a consumer has it, at a rate that does not wait for answers.

use strandline_protocol::compression::Compression;
use strandline_tests::broker::Software;

use super::{PAGE_CACHE, Size, end, local_broker, measured, topic};
use crate::blast::{self, Shape};
use crate::meter::{Meter, await_quiet_disk, percentile};
use crate::report::Measured;

const TOPIC: &str = "latency";

fn at_rate(software: Software, size: Size, shape: Shape, batches_per_second: f64, mut result: Measured) -> Measured {
    let mut broker = local_broker(software);
    topic(&broker, "warm-up", 1, PAGE_CACHE);
    blast::produce(broker.address, "warm-up", 0, Shape { in_flight: 1, ..shape }, size.bytes(64 << 20), end());
    topic(&broker, TOPIC, 1, PAGE_CACHE);
    // The first seconds of a virtual machine are not its latency.
    blast::end_to_end(broker.address, TOPIC, shape, batches_per_second, size.seconds(30));
    await_quiet_disk();
    let meter = Meter::start(broker.server().pid());
    let latencies = blast::end_to_end(broker.address, TOPIC, shape, batches_per_second, size.seconds(60));
    let cost = meter.stop();
    let wanted = (batches_per_second * size.seconds(60).as_secs_f64()) as usize;
    assert!(latencies.len() >= wanted, "every batch was read: {} of {wanted}", latencies.len());
    result.values.extend([
        ("p50_ms", percentile(&latencies, 0.5)),
        ("p99_ms", percentile(&latencies, 0.99)),
        ("p999_ms", percentile(&latencies, 0.999)),
        ("max_ms", percentile(&latencies, 1.0)),
        ("broker_cores", cost.broker / cost.wall),
        ("batches_per_s", batches_per_second),
    ]);
    result
}

pub fn slow(software: Software, size: Size) -> Measured {
    let shape = Shape { record_bytes: 100, records_per_batch: 1, codec: Compression::None, in_flight: 1, acks: 1 };
    at_rate(software, size, shape, 1_000.0, measured("none", "1 record of 100 B", "1,000 a second, acks=1, open loop"))
}

pub fn half(software: Software, size: Size) -> Measured {
    let shape = Shape { record_bytes: 1024, records_per_batch: 16, codec: Compression::None, in_flight: 1, acks: 1 };
    let result = measured("none", "16 records of 1 KiB", "a fixed rate, acks=1, open loop");
    at_rate(software, size, shape, size.l2_rate / 16.0, result)
}
