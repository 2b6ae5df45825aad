//! Cheap clients: batches made once and sent again and again, answers read and hardly looked at, so that the broker is what is
//! measured. Beside them the check that ends each run.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use strandline_protocol::compression::Compression;
use strandline_protocol::messages::fetch_request::FetchRequest;
use strandline_protocol::messages::produce_request::ProduceRequest;
use strandline_protocol::record_batch::{RecordBatchBuilder, batches};
use strandline_tests::random::Random;
use strandline_tests::wait;
use strandline_tests::wire::{Connection, FETCH, PRODUCE, fetch_request, produce_request};

/// How much of each kind of load.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub record_bytes: usize,
    pub records_per_batch: usize,
    pub codec: Compression,
    /// Requests ahead of their answers on each connection.
    pub in_flight: usize,
    pub acks: i16,
}

/// What producers did.
#[derive(Debug, Default)]
pub struct Produced {
    pub requests: u64,
    pub records: u64,
    /// Of batches as sent.
    pub wire_bytes: u64,
    /// Of each request, ms, sorted.
    pub latencies: Vec<f64>,
}

/// Records of half-random bytes: they compress about 2:1.
pub fn batch(shape: Shape, seed: u64) -> Bytes {
    let mut random = Random::new(seed);
    let mut builder = RecordBatchBuilder::new(shape.codec);
    let mut value = vec![0; shape.record_bytes];
    for _ in 0..shape.records_per_batch {
        random.fill(&mut value);
        builder.append(wait::wall_clock_ms(), None, Some(&value), &[]);
    }
    builder.build()
}

/// Produces on one connection to one partition until `bytes` are sent or `end` has passed.
pub fn produce(address: SocketAddr, topic: &str, partition: i32, shape: Shape, bytes: u64, end: Instant) -> Produced {
    let batches: Vec<Bytes> = (0..8).map(|n| batch(shape, n + partition as u64 * 8)).collect();
    let mut connection = Connection::open(address).expect("the broker takes connections");
    let mut done = Produced::default();
    let mut open: VecDeque<Instant> = VecDeque::new();
    let mut sent = 0_u64;
    loop {
        let over = done.wire_bytes >= bytes || wait::now() >= end;
        while !over && open.len() < shape.in_flight && done.wire_bytes < bytes {
            let batch = &batches[sent as usize % batches.len()];
            sent += 1;
            done.wire_bytes += batch.len() as u64;
            open.push_back(wait::now());
            let request = produce_request(topic, partition, batch.clone(), shape.acks);
            connection.send(PRODUCE, &request).unwrap_or_else(|e| panic!("produce: {}", e.0));
        }
        let Some(begin) = open.pop_front() else { break };
        let response = connection.receive::<ProduceRequest>(PRODUCE).unwrap_or_else(|e| panic!("produce: {}", e.0));
        assert_eq!(response.responses[0].partition_responses[0].error_code, 0, "the broker takes the batch");
        done.latencies.push(begin.elapsed().as_secs_f64() * 1e3);
        done.requests += 1;
        done.records += shape.records_per_batch as u64;
    }
    done.latencies.sort_by(f64::total_cmp);
    done
}

/// [`produce`] on `connections` at once, partition after partition; sums.
pub fn produce_by_many(
    address: SocketAddr,
    topic: &str,
    partitions: i32,
    connections: i32,
    shape: Shape,
    bytes: u64,
    end: Instant,
) -> Produced {
    let each = bytes / connections as u64;
    let parts: Vec<Produced> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|n| scope.spawn(move || produce(address, topic, n % partitions, shape, each, end)))
            .collect();
        threads.into_iter().map(|t| t.join().expect("a producer ends well")).collect()
    });
    let mut all = Produced::default();
    for mut part in parts {
        all.requests += part.requests;
        all.records += part.records;
        all.wire_bytes += part.wire_bytes;
        all.latencies.append(&mut part.latencies);
    }
    all.latencies.sort_by(f64::total_cmp);
    all
}

/// What a reader got.
#[derive(Debug, Default, Clone, Copy)]
pub struct Fetched {
    pub records: u64,
    pub bytes: u64,
}

/// Reads a partition from `from` to `to` with one fetch ahead. `check` = every batch's CRC and every offset.
pub fn fetch(
    address: SocketAddr,
    topic: &str,
    partition: i32,
    range: std::ops::Range<i64>,
    max_bytes: i32,
    check: bool,
) -> Fetched {
    let mut connection = Connection::open(address).expect("the broker takes connections");
    let mut done = Fetched::default();
    let mut next = range.start;
    let ask = |connection: &mut Connection, at: i64| {
        let request = fetch_request(topic, partition, at, max_bytes, 500);
        connection.send(FETCH, &request).unwrap_or_else(|e| panic!("fetch: {}", e.0));
    };
    ask(&mut connection, next);
    while next < range.end {
        let mut response = connection.receive::<FetchRequest>(FETCH).unwrap_or_else(|e| panic!("fetch: {}", e.0));
        let data = response.responses.swap_remove(0).partitions.swap_remove(0);
        assert_eq!(data.error_code, 0, "fetch of {topic}-{partition} at {next}");
        let bytes = data.records.and_then(|r| r.to_bytes()).unwrap_or_default();
        let begin = next;
        for (header, batch) in batches(&bytes).map_while(Result::ok) {
            if check {
                header.verify_crc(batch).expect("the batch is whole");
                assert!(header.base_offset == next || next == begin && header.base_offset < next, "no gap at {next}");
            }
            next = header.next_offset();
            done.bytes += batch.len() as u64;
        }
        if next < range.end {
            ask(&mut connection, next);
        }
    }
    done.records = (next - range.start) as u64;
    done
}

/// The check that ends a run: `records` in all, offsets without a gap, every CRC right.
pub fn check(address: SocketAddr, topic: &str, partitions: i32, records: u64) {
    let mut found = 0;
    for partition in 0..partitions {
        let mut connection = Connection::open(address).expect("the broker takes connections");
        let end = connection.list_offset(topic, partition, strandline_tests::wire::LATEST).expect("an offset");
        found += fetch(address, topic, partition, 0..end, 8 << 20, true).records;
    }
    assert_eq!(found, records, "{topic}: the records that were acknowledged are there");
}

/// A producer at a fixed rate, its schedule kept whatever the answers do, and a reader beside it: how long each record took
/// from when it was due to when it was read, ms, sorted.
pub fn end_to_end(
    address: SocketAddr,
    topic: &str,
    shape: Shape,
    batches_per_second: f64,
    duration: Duration,
) -> Vec<f64> {
    let count = (batches_per_second * duration.as_secs_f64()) as i64;
    let batch = batch(shape, 1);
    let each = shape.records_per_batch as i64;
    let start = wait::now() + Duration::from_millis(200);
    let due = |n: i64| start + Duration::from_secs_f64(n as f64 / batches_per_second);
    let from = Connection::open(address)
        .expect("a connection")
        .list_offset(topic, 0, strandline_tests::wire::LATEST)
        .expect("an offset");
    std::thread::scope(|scope| {
        let mut writer = Connection::open(address).expect("the broker takes connections");
        let mut answers = writer.split();
        scope.spawn(move || {
            for n in 0..count {
                wait::pause(due(n).saturating_duration_since(wait::now()));
                let request = produce_request(topic, 0, batch.clone(), shape.acks);
                writer.send(PRODUCE, &request).unwrap_or_else(|e| panic!("produce: {}", e.0));
            }
        });
        scope.spawn(move || {
            for _ in 0..count {
                let response =
                    answers.receive::<ProduceRequest>(PRODUCE).unwrap_or_else(|e| panic!("produce: {}", e.0));
                assert_eq!(response.responses[0].partition_responses[0].error_code, 0, "the broker takes the batch");
            }
        });
        let reader = scope.spawn(move || {
            let mut connection = Connection::open(address).expect("the broker takes connections");
            let (mut next, mut latencies) = (from, Vec::new());
            while next < from + count * each {
                let data = connection.fetch(topic, 0, next, 1 << 20).unwrap_or_else(|e| panic!("fetch: {}", e.0));
                let now = wait::now();
                let bytes = data.records.and_then(|r| r.to_bytes()).unwrap_or_default();
                for (header, _) in batches(&bytes).map_while(Result::ok) {
                    let number = (header.base_offset - from) / each;
                    latencies.push(now.saturating_duration_since(due(number)).as_secs_f64() * 1e3);
                    next = header.next_offset();
                }
            }
            latencies.sort_by(f64::total_cmp);
            latencies
        });
        reader.join().expect("the reader ends well")
    })
}
