//! P6, L3, C1 to C4: three nodes, replication factor 3, acks=all.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use strandline_protocol::compression::Compression;
use strandline_protocol::messages::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use strandline_protocol::rope::Records;
use strandline_tests::broker::Software;
use strandline_tests::process::{Program, run_well};
use strandline_tests::wire::{Connection, PRODUCE};
use strandline_tests::{place, wait};

use super::{LARGE, LOAD_MAX, PAGE_CACHE, Size, end, measured};
use crate::blast::{self, Shape};
use crate::cluster::{Cluster, NODES};
use crate::meter::{Meter, await_quiet_disk, percentile};
use crate::report::Measured;

const TOPIC: &str = "cluster";
const RF3: [(&str, &str); 3] = [("retention.ms", "-1"), ("min.insync.replicas", "2"), PAGE_CACHE];
/// Nodes killed in one measurement.
const KILLS: usize = 3;
/// A producer runs so long before a node is killed: its first report is then over.
const BEFORE_KILL: Duration = Duration::from_secs(8);
const PER_SECOND: u64 = 1_000;

/// Saturated, one partition; processor time of all three nodes.
pub fn produce(software: Software, size: Size) -> Measured {
    let cluster = Cluster::start(software, &[]);
    let shape = Shape { acks: -1, ..LARGE };
    for (name, bytes) in [("warm-up", 512 << 20), (TOPIC, 2 << 30)] {
        cluster.create(name, 1, &RF3);
        let address = cluster.nodes[cluster.leader(name, 0)].address;
        let (before, machine) = (cluster.processor_seconds(), Meter::start(std::process::id()));
        let produced = blast::produce(address, name, 0, shape, size.bytes(bytes), end());
        let (cost, machine) = (cluster.processor_seconds() - before, machine.stop());
        if name == TOPIC {
            blast::check(address, name, 1, produced.records);
            let gb = produced.wire_bytes as f64 / 1e9;
            let mut result = measured("none", "256 KiB", "1 connection, 5 in flight, acks=all, 3 nodes");
            result.values.extend([
                ("cluster_cpu_s_per_gb", cost / gb),
                ("machine_cpu_s_per_gb", machine.machine / gb),
                ("mb_per_s", gb * 1e3 / machine.wall),
                ("p50_ms", percentile(&produced.latencies, 0.5)),
                ("p99_ms", percentile(&produced.latencies, 0.99)),
            ]);
            return result;
        }
        await_quiet_disk();
    }
    unreachable!("the second topic is the measured one")
}

/// End to end, open loop, at a rate that no node feels.
pub fn latency(software: Software, size: Size) -> Measured {
    let cluster = Cluster::start(software, &[]);
    cluster.create(TOPIC, 1, &RF3);
    let address = cluster.nodes[cluster.leader(TOPIC, 0)].address;
    let shape = Shape { record_bytes: 100, records_per_batch: 1, codec: Compression::None, in_flight: 1, acks: -1 };
    let rate = PER_SECOND as f64;
    blast::end_to_end(address, TOPIC, shape, rate, size.seconds(20));
    let (before, begin) = (cluster.processor_seconds(), wait::now());
    let latencies = blast::end_to_end(address, TOPIC, shape, rate, size.seconds(40));
    let cores = (cluster.processor_seconds() - before) / begin.elapsed().as_secs_f64();
    let mut result = measured("none", "1 record of 100 B", "1,000 a second, acks=all, 3 nodes, open loop");
    result.values.extend([
        ("p50_ms", percentile(&latencies, 0.5)),
        ("p99_ms", percentile(&latencies, 0.99)),
        ("p999_ms", percentile(&latencies, 0.999)),
        ("max_ms", percentile(&latencies, 1.0)),
        ("cluster_cores", cores),
    ]);
    result
}

/// What `kafka-producer-perf-test` prints after so many seconds.
fn performance_test(bootstrap: &str, seconds: u64, per_second: u64) -> String {
    let (records, rate) = ((seconds * per_second).to_string(), per_second.to_string());
    let words = ["--topic", TOPIC, "--num-records", &records, "--record-size", "100", "--throughput", &rate];
    let servers = format!("bootstrap.servers={bootstrap}");
    let program = Program::new("java")
        .args(["-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", &place::class_path("kafka")])
        .args(["org.apache.kafka.tools.ProducerPerformance"])
        .args(words)
        .args(["--producer-props", &servers]);
    let deadline = LOAD_MAX + Duration::from_secs(2 * seconds);
    String::from_utf8_lossy(&run_well(&program, b"", deadline)).into_owned()
}

/// The longest that a record took, ms, the first report (the start of its virtual machine) apart.
fn longest_latency(printed: &str) -> f64 {
    let reports = printed.lines().filter(|line| line.contains("ms max latency") && !line.contains("50th"));
    let longest = reports.skip(1).filter_map(|line| {
        let (before, _) = line.split_once(" ms max latency")?;
        before.rsplit(' ').next()?.parse::<f64>().ok()
    });
    let longest = longest.fold(f64::MIN, f64::max);
    assert!(longest > 0.0, "the producer reports its latency: {printed}");
    longest
}

fn failover(software: Software, settings: &[(&str, &str)], seconds: u64) -> Measured {
    let mut cluster = Cluster::start(software, settings);
    cluster.create(TOPIC, 1, &RF3);
    let mut outages = Vec::new();
    for _ in 0..KILLS {
        let (bootstrap, leader) = (cluster.bootstrap(), cluster.leader(TOPIC, 0));
        let outage = std::thread::scope(|scope| {
            let producer = scope.spawn(move || longest_latency(&performance_test(&bootstrap, seconds, PER_SECOND)));
            wait::pause(BEFORE_KILL);
            cluster.nodes[leader].kill();
            producer.join().expect("the producer ends well")
        });
        outages.push(outage);
        cluster.nodes[leader].up();
        cluster.nodes[leader].await_serving();
        cluster.await_in_sync(TOPIC);
    }
    outages.sort_by(f64::total_cmp);
    let mut result = measured("none", "client's default", "kafka-producer-perf-test, 1,000 records of 100 B a second");
    result
        .values
        .extend([("outage_median_ms", percentile(&outages, 0.5)), ("outage_max_ms", percentile(&outages, 1.0))]);
    result
}

/// Both with the session timeout that Kafka has by default, 9 s.
pub fn leader_killed(software: Software, _: Size) -> Measured {
    failover(software, &[], 25)
}

/// Both with a session timeout of 3 s.
pub fn leader_killed_tuned(software: Software, _: Size) -> Measured {
    failover(software, &[("broker.session.timeout.ms", "3000"), ("broker.heartbeat.interval.ms", "500")], 18)
}

pub fn controller_killed(software: Software, _: Size) -> Measured {
    let mut cluster = Cluster::start(software, &[]);
    cluster.create(TOPIC, 1, &RF3);
    let mut outages = Vec::new();
    for kill in 0..KILLS {
        let controller = cluster.controller();
        cluster.nodes[controller].kill();
        let begin = wait::now();
        let mut attempt = 0;
        wait::until("a topic is made", LOAD_MAX, || {
            attempt += 1;
            // Two replicas can be placed while a node is down; the name is new, so that an answer that was lost does no harm.
            let code = cluster.try_create_on(2, &format!("made-{kill}-{attempt}")).ok()?;
            (code == 0).then_some(())
        });
        outages.push(begin.elapsed().as_secs_f64() * 1e3);
        cluster.nodes[controller].up();
        cluster.nodes[controller].await_serving();
        cluster.await_in_sync(TOPIC);
    }
    outages.sort_by(f64::total_cmp);
    let mut result =
        measured("none", "none", "CreateTopics, one after the other, from the kill to the first that is made");
    result
        .values
        .extend([("outage_median_ms", percentile(&outages, 0.5)), ("outage_max_ms", percentile(&outages, 1.0))]);
    result
}

/// A thousand partitions, until each has acknowledged a record.
pub fn many_partitions(software: Software, size: Size) -> Measured {
    let partitions = if size.quick { 100 } else { 1_000 };
    let cluster = Cluster::start(software, &[]);
    cluster.create("warm-up", 10, &RF3);
    let record = blast::batch(Shape { records_per_batch: 1, record_bytes: 100, ..LARGE }, 1);
    let begin = wait::now();
    let code = cluster.try_create(TOPIC, partitions, &RF3).unwrap_or_else(|e| panic!("create: {}", e.0));
    assert_eq!(code, 0, "the topic is made");
    let made = begin.elapsed();
    let mut left: Vec<i32> = (0..partitions).collect();
    wait::until("every partition takes a record", LOAD_MAX, || {
        let topic = cluster.describe(TOPIC)?;
        let mut by_leader: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for partition in topic.partitions.iter().filter(|p| left.contains(&p.partition_index)) {
            by_leader.entry(partition.leader_id).or_default().push(partition.partition_index);
        }
        for (leader, led) in by_leader {
            let Some(node) = cluster.nodes.iter().find(|node| node.id == leader) else { continue };
            let data = |index| PartitionProduceData {
                index,
                records: Some(Records::Bytes(record.clone())),
                ..Default::default()
            };
            let topic = TopicProduceData {
                name: TOPIC.to_owned(),
                partition_data: led.into_iter().map(data).collect(),
                ..Default::default()
            };
            let request =
                ProduceRequest { acks: -1, timeout_ms: 30_000, topic_data: vec![topic], ..Default::default() };
            let answer = Connection::open(node.address).ok().and_then(|mut c| c.call(PRODUCE, &request).ok());
            for taken in answer.iter().flat_map(|a| &a.responses[0].partition_responses).filter(|p| p.error_code == 0) {
                left.retain(|partition| *partition != taken.index);
            }
        }
        left.is_empty().then_some(())
    });
    let mut result = measured("none", "1 record of 100 B", "CreateTopics, then a record to each partition, acks=all");
    result.values.extend([
        ("created_ms", made.as_secs_f64() * 1e3),
        ("producible_ms", begin.elapsed().as_secs_f64() * 1e3),
        ("partitions", f64::from(partitions)),
    ]);
    result
}

/// Threads that do nothing but count: both processors are busy with others' work.
const BUSY: usize = 4;
/// Records that are produced beside them.
const STARVED_PER_SECOND: u64 = 100;

/// In-sync sets that shrink, and leaders that move, although no node is ill.
pub fn starved(software: Software, size: Size) -> Measured {
    let cluster = Cluster::start(software, &[]);
    cluster.create(TOPIC, 3, &RF3);
    cluster.await_in_sync(TOPIC);
    let (bootstrap, done, seconds) = (cluster.bootstrap(), AtomicBool::new(false), size.seconds(300).as_secs());
    let (mut shrunk, mut moved, mut looks) = (0_u64, 0_u64, 0_u64);
    let mut leaders: Vec<i32> = Vec::new();
    let printed = std::thread::scope(|scope| {
        for _ in 0..BUSY {
            scope.spawn(|| {
                let mut count = 0_u64;
                while !done.load(Ordering::Relaxed) {
                    count = std::hint::black_box(count.wrapping_add(1));
                }
            });
        }
        let producer = scope.spawn(|| performance_test(&bootstrap, seconds, STARVED_PER_SECOND));
        while !producer.is_finished() {
            wait::pause(Duration::from_millis(250));
            let Some(topic) = cluster.describe(TOPIC) else { continue };
            looks += 1;
            shrunk += u64::from(topic.partitions.iter().any(|p| p.isr_nodes.len() < NODES));
            let now: Vec<i32> = topic.partitions.iter().map(|p| p.leader_id).collect();
            moved += u64::from(!leaders.is_empty() && now != leaders);
            leaders = now;
        }
        let printed = producer.join();
        done.store(true, Ordering::Relaxed);
        printed.expect("the producer ends well")
    });
    let of_all = printed.lines().find_map(|line| line.split_once(" ms 99th"));
    let p99 = of_all.and_then(|(before, _)| before.rsplit(' ').next()?.parse::<f64>().ok());
    let load = "kafka-producer-perf-test, 100 records of 100 B a second, beside 4 threads that only count";
    let mut result = measured("none", "client's default", load);
    result.values.extend([
        ("looks", looks as f64),
        ("looks_with_a_shrunk_isr", shrunk as f64),
        ("looks_after_leaders_moved", moved as f64),
        ("p99_ms", p99.unwrap_or_else(|| panic!("the producer reports its latencies: {printed}"))),
        ("max_ms", longest_latency(&printed)),
    ]);
    result
}
