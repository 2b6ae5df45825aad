//! Three brokers become four and three again, while an idempotent Java producer writes and a consumer reads.

use std::collections::{BTreeMap, BTreeSet};

use strandline_protocol::messages::metadata_response::MetadataResponsePartition;
use strandline_tests::clients::Client;
use strandline_tests::load::{Pattern, produce, verify};
use strandline_tests::place;
use strandline_tests::process::{Program, Running};
use strandline_tests::wait;

use crate::load::Load;
use crate::nodes::{AGREED, COMMAND, Cluster, alone};

const LIVE: &str = "live";
/// Tiered, with most of its records on local disks and in the bucket.
const COLD: &str = "cold";
const PARTITIONS: i32 = 6;
/// Of the tiered topic, in each partition: about 8 MiB.
const RECORDS: i64 = 8_000;
const RATE: u32 = 400;
/// The bound on what a move may copy: local bytes that are not in the bucket, times this.
const MOST: f64 = 1.2;
const MOVED_IN: &str = "kafka_server_brokertopicmetrics_reassignmentbytesin_total";

#[test]
fn three_brokers_become_four_and_three_again() {
    let _turn = alone();
    let mut cluster = Cluster::start(3, &[("min.insync.replicas", "2")]);
    cluster.create_topic(LIVE, PARTITIONS, &[]);
    let pattern = Pattern::new(11);
    write_cold(&cluster, &pattern);
    let load = Load::start(&cluster.bootstrap(), LIVE, RATE);

    let node = cluster.add(4, "broker,controller", &[]);
    let controller = node.controller.to_string();
    node.up();
    cluster.command(&["add-controller", "4", &controller]);
    cluster.node(4).await_serving();
    let (tails, before) = (tails_now(&cluster), cluster.partitions(COLD));
    let moved = cluster.metric(MOVED_IN, COLD_LABEL);
    println!("{}", cluster.command(&["rebalance"]).trim());
    assert_moved("rebalance", &cluster, &tails, &before, &moved);
    let held: Vec<i64> = replicas(&cluster).into_values().collect();
    assert!(held.len() == 4 && held.iter().max().unwrap() - held.iter().min().unwrap() <= 1, "spread: {held:?}");
    let led = [LIVE, COLD].map(|topic| cluster.partitions(topic)).concat();
    assert!(led.iter().all(|p| p.replica_nodes.first() == Some(&p.leader_id)), "preferred replicas lead: {led:?}");
    load.await_progress();

    let (tails, before) = (tails_now(&cluster), cluster.partitions(COLD));
    let moved = cluster.metric(MOVED_IN, COLD_LABEL);
    interrupted_decommission(&cluster, 1);
    println!("{}", cluster.command(&["decommission", "1"]).trim());
    assert_moved("decommission", &cluster, &tails, &before, &moved);
    assert!(!replicas(&cluster).contains_key(&1), "node 1 is empty");
    load.await_progress();
    cluster.command(&["remove-controller", "1"]);
    cluster.node(1).stop();
    cluster.command(&["forget", "1"]);
    load.await_progress();

    let acknowledged = load.finish();
    read_live(&cluster, &acknowledged.keys().copied().collect());
    for partition in cluster.partitions(COLD) {
        let (at, index) = (cluster.address(partition.leader_id), partition.partition_index);
        verify(at, COLD, index, &pattern, 0, RECORDS).unwrap_or_else(|(reached, e)| panic!("at {reached}: {}", e.0));
    }
}

const COLD_LABEL: &str = "topic=\"cold\"";

fn write_cold(cluster: &Cluster, pattern: &Pattern) {
    // The records are of 2024.
    let configs = [("remote.storage.enable", "true"), ("segment.bytes", "1048576"), ("retention.ms", "-1")];
    cluster.create_topic(COLD, PARTITIONS, &configs);
    for partition in cluster.partitions(COLD) {
        let (at, index) = (cluster.address(partition.leader_id), partition.partition_index);
        produce(at, COLD, index, pattern, 0..RECORDS).unwrap_or_else(|(reached, e)| panic!("at {reached}: {}", e.0));
    }
    cluster.await_copied(COLD);
    cluster.await_in_sync(COLD);
    let all: u64 = cluster.partitions(COLD).iter().map(|p| cluster.local_bytes(COLD, p)).sum();
    let tail: u64 = tails_now(cluster).values().sum();
    // Else the bound on what a move copies would say nothing.
    assert!(all > 3 * tail, "the local logs are mostly in the bucket too: {all} bytes, {tail} of them are not");
}

/// Local bytes above the tier of each partition.
fn tails_now(cluster: &Cluster) -> BTreeMap<i32, u64> {
    cluster.partitions(COLD).iter().map(|p| (p.partition_index, cluster.local_tail(COLD, p))).collect()
}

/// What was copied of the tiered topic is what is not in the bucket.
fn assert_moved(
    what: &str,
    cluster: &Cluster,
    tails: &BTreeMap<i32, u64>,
    before: &[MetadataResponsePartition],
    counted: &BTreeMap<i32, f64>,
) {
    let added = |now: &MetadataResponsePartition| {
        let then = before.iter().find(|p| p.partition_index == now.partition_index).expect("the same partitions");
        now.replica_nodes.iter().filter(|id| !then.replica_nodes.contains(id)).count() as u64
    };
    let now = cluster.partitions(COLD);
    let moves: u64 = now.iter().map(added).sum();
    let allowed: u64 = now.iter().map(|p| added(p) * tails[&p.partition_index]).sum();
    let sum = |counts: &BTreeMap<i32, f64>| counts.values().sum::<f64>();
    let copied = sum(&cluster.metric(MOVED_IN, COLD_LABEL)) - sum(counted);
    assert!(moves > 0, "{what} has moved replicas");
    let ratio = copied / allowed as f64;
    println!("{what}: {moves} replicas of {COLD}, {copied} bytes copied, {allowed} above the tier: {ratio:.3} times");
    assert!(copied > 0.0 && ratio <= MOST, "{what} copies at most {MOST} times what is not in the bucket: {ratio:.3}");
}

/// Replicas by node.
fn replicas(cluster: &Cluster) -> BTreeMap<i32, i64> {
    let nodes = cluster.json(&["nodes"]);
    let row = |node: &serde_json::Value| {
        let id = i32::try_from(node["node"].as_i64().expect("an id")).expect("a node id");
        (id, node["replicas"].as_i64().expect("a count"))
    };
    nodes.as_array().expect("a list").iter().map(row).filter(|(_, count)| *count > 0).collect()
}

/// Begins to empty a node and is killed when some has moved, and some has not.
fn interrupted_decommission(cluster: &Cluster, node: i32) {
    let all = replicas(cluster)[&node];
    let (bootstrap, id) = (cluster.bootstrap(), node.to_string());
    let arguments = ["cluster", "-b", &bootstrap, "decommission", &id, "--at-once", "1"];
    let mut begun = Running::start(&Program::new(place::strandline()).args(arguments));
    wait::until("a part has moved", COMMAND, || {
        assert!(begun.is_running(), "it moved everything before it could be killed: {}", begun.complaints());
        let left = replicas(cluster).get(&node).copied().unwrap_or(0);
        (left < all).then_some(())
    });
    drop(begun);
    let left = replicas(cluster).get(&node).copied().unwrap_or(0);
    assert!(left > 0, "some is left for the second run");
}

/// Reads the whole topic afresh: every acknowledged number is there, none twice.
fn read_live(cluster: &Cluster, acknowledged: &BTreeSet<u64>) {
    let count = wait::until("the ends are known", AGREED, || {
        let end = |p: &MetadataResponsePartition| {
            let at = cluster.address(p.leader_id);
            strandline_tests::wire::Connection::open(at).ok()?.list_offset(LIVE, p.partition_index, -1).ok()
        };
        cluster.partitions(LIVE).iter().map(end).sum::<Option<i64>>()
    });
    let count = usize::try_from(count).expect("a count");
    let seen = Client::Kcat.read(&cluster.bootstrap(), LIVE, PARTITIONS, count);
    let mut numbers = BTreeSet::new();
    for one in &seen {
        let text = String::from_utf8(one.record.value.clone().unwrap_or_default()).expect("digits");
        assert!(numbers.insert(text.parse::<u64>().expect("a number")), "{text} is there twice");
    }
    assert_eq!(seen.len(), count, "kcat reads to the end");
    assert!(numbers.is_superset(acknowledged), "every acknowledged record is there");
    println!("{} records acknowledged, each of them once", acknowledged.len());
}
