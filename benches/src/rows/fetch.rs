//! F1 to F3: what it costs to hand records out.

use std::sync::atomic::{AtomicBool, Ordering};

use strandline_protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use strandline_tests::broker::{Broker, Software};
use strandline_tests::wait;
use strandline_tests::wire::{self, Connection, FETCH};

use super::{LARGE, PAGE_CACHE, Size, end, local_broker, measured, topic};
use crate::blast::{self, Shape};
use crate::meter::{Meter, await_quiet_disk, drop_page_cache, percentile};
use crate::report::Measured;

const TOPIC: &str = "fetch";

fn loaded(software: Software, bytes: u64) -> (Broker, i64) {
    let broker = local_broker(software);
    topic(&broker, TOPIC, 1, PAGE_CACHE);
    let produced = blast::produce(broker.address, TOPIC, 0, LARGE, bytes, end());
    blast::check(broker.address, TOPIC, 1, produced.records);
    await_quiet_disk();
    (broker, produced.records as i64)
}

/// Read several times over, so that the data set fits the page cache with room to spare.
pub fn hot(software: Software, size: Size) -> Measured {
    const ROUNDS: u32 = 4;
    let (mut broker, records) = loaded(software, size.bytes(2 << 30));
    let read = |broker: &Broker| blast::fetch(broker.address, TOPIC, 0, 0..records, 1 << 20, false);
    read(&broker);
    let meter = Meter::start(broker.server().pid());
    let bytes: u64 = (0..ROUNDS).map(|_| read(&broker).bytes).sum();
    let cost = meter.stop();
    let gb = bytes as f64 / 1e9;
    let mut result = measured("none", "256 KiB", "1 connection, 1 fetch of at most 1 MiB ahead");
    result.values.extend([
        ("broker_cpu_s_per_gb", cost.broker / gb),
        ("machine_cpu_s_per_gb", cost.machine / gb),
        ("mb_per_s", gb * 1e3 / cost.wall),
        ("steal_s", cost.steal),
    ]);
    result
}

/// From a forgotten page cache, while a paced producer measures what that does to it.
pub fn cold(software: Software, size: Size) -> Measured {
    let (mut broker, records) = loaded(software, size.bytes(4 << 30));
    topic(&broker, "beside", 1, PAGE_CACHE);
    let paced = Shape { record_bytes: 1024, records_per_batch: 1, in_flight: 1, ..LARGE };
    let address = broker.address;
    let quiet = paced_produce(address, paced, &AtomicBool::new(false), size.seconds(12));
    drop_page_cache();
    let done = AtomicBool::new(false);
    let meter = Meter::start(broker.server().pid());
    let (fetched, busy, cost) = std::thread::scope(|scope| {
        let producer = scope.spawn(|| paced_produce(address, paced, &done, size.seconds(120)));
        let fetched = blast::fetch(address, TOPIC, 0, 0..records, 1 << 20, false);
        let cost = meter.stop();
        done.store(true, Ordering::Relaxed);
        (fetched, producer.join().expect("the producer ends well"), cost)
    });
    let gb = fetched.bytes as f64 / 1e9;
    let mut result = measured("none", "256 KiB", "1 reader; 1 producer of 500 records a second");
    result.values.extend([
        ("broker_cpu_s_per_gb", cost.broker / gb),
        ("mb_per_s", gb * 1e3 / cost.wall),
        ("produce_p99_quiet_ms", percentile(&quiet, 0.99)),
        ("produce_p99_busy_ms", percentile(&busy, 0.99)),
    ]);
    result
}

/// One request at a time, 500 a second; latencies, ms, sorted.
fn paced_produce(
    address: std::net::SocketAddr,
    shape: Shape,
    done: &AtomicBool,
    longest: std::time::Duration,
) -> Vec<f64> {
    let batch = blast::batch(shape, 3);
    let mut connection = Connection::open(address).expect("the broker takes connections");
    let (start, mut latencies) = (wait::now(), Vec::new());
    while latencies.len() < 20 || !done.load(Ordering::Relaxed) && start.elapsed() < longest {
        let due = start + std::time::Duration::from_millis(2 * latencies.len() as u64);
        wait::pause(due.saturating_duration_since(wait::now()));
        let answer = connection.produce("beside", 0, batch.clone()).unwrap_or_else(|e| panic!("produce: {}", e.0));
        assert_eq!(answer.error_code, 0, "the broker takes the batch");
        latencies.push(due.elapsed().as_secs_f64() * 1e3);
    }
    latencies.sort_by(f64::total_cmp);
    latencies
}

/// Fetch sessions with nothing to read: each waits 500 ms, is answered empty, and asks again.
pub fn parked(software: Software, size: Size) -> Measured {
    const PARTITIONS: i32 = 1_000;
    let sessions = if size.quick { 100 } else { 1_000 };
    let mut broker = local_broker(software);
    topic(&broker, TOPIC, PARTITIONS, PAGE_CACHE);
    let mut open: Vec<(Connection, FetchRequest)> = (0..sessions).map(|_| open_session(&broker, PARTITIONS)).collect();
    let (meter, begin) = (Meter::start(broker.server().pid()), wait::now());
    let mut answers = 0_u64;
    while begin.elapsed() < size.seconds(20) {
        for (connection, request) in &mut open {
            connection.send(FETCH, request).unwrap_or_else(|e| panic!("fetch: {}", e.0));
        }
        for (connection, request) in &mut open {
            let response = connection.receive::<FetchRequest>(FETCH).unwrap_or_else(|e| panic!("fetch: {}", e.0));
            assert_eq!(response.error_code, 0, "the session is kept");
            request.session_epoch += 1;
            answers += 1;
        }
    }
    let cost = meter.stop();
    let mut result = measured("none", "empty", "sessions of 1,000 partitions, max.wait 500 ms");
    result.values.extend([
        ("broker_cores", cost.broker / cost.wall),
        ("broker_cpu_us_per_answer", cost.broker * 1e6 / answers as f64),
        ("sessions", f64::from(sessions)),
    ]);
    result
}

fn open_session(broker: &Broker, partitions: i32) -> (Connection, FetchRequest) {
    // Opened at once, one after the other; it waits from its second fetch on.
    let mut request = wire::fetch_request(TOPIC, 0, 0, 1 << 20, 0);
    let all = (0..partitions).map(|partition| FetchPartition {
        partition,
        current_leader_epoch: -1,
        last_fetched_epoch: -1,
        log_start_offset: -1,
        partition_max_bytes: 1 << 20,
        ..Default::default()
    });
    request.topics = vec![FetchTopic { topic: TOPIC.to_owned(), partitions: all.collect(), ..Default::default() }];
    request.session_epoch = 0;
    let mut connection = broker.connection();
    let response = connection.call(FETCH, &request).unwrap_or_else(|e| panic!("fetch: {}", e.0));
    assert_eq!(response.error_code, 0, "a session is opened");
    request.session_id = response.session_id;
    request.session_epoch = 1;
    request.max_wait_ms = 500;
    request.topics.clear();
    (connection, request)
}
