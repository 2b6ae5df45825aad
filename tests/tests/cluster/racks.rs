//! Consumers read from the replica in their rack (KIP-392), from its disk and from the tier.

use std::io::Write;

use strandline_protocol::messages::fetch_request::FetchRequest;
use strandline_tests::load::{Pattern, produce};
use strandline_tests::wire::{self, fetch_request};
use strandline_tests::{place, tools, wait};

use crate::nodes::{AGREED, Cluster, alone};

const RECORDS: i64 = 3_000;
const OUT: &str = "kafka_server_brokertopicmetrics_bytesout_total";

fn cluster() -> Cluster {
    let selector = "org.apache.kafka.common.replica.RackAwareReplicaSelector";
    let rack = |id| vec![("broker.rack".to_owned(), format!("rack-{id}"))];
    let nodes = (1..=3).map(|id| (id, "broker,controller"));
    Cluster::start_with(nodes, &[("replica.selector.class", selector)], rack)
}

fn fill(cluster: &Cluster, topic: &str, configs: &[(&str, &str)]) -> i32 {
    let configs: Vec<_> =
        configs.iter().copied().chain([("retention.ms", "-1"), ("segment.bytes", "1048576")]).collect();
    cluster.create_topic(topic, 1, &configs);
    let leader = cluster.partitions(topic)[0].leader_id;
    let at = cluster.address(leader);
    produce(at, topic, 0, &Pattern::new(3), 0..RECORDS).unwrap_or_else(|(at, e)| panic!("{at}: {}", e.0));
    leader
}

/// All records, by a Java consumer in a rack.
fn read_from(cluster: &Cluster, rack: &str, topic: &str) {
    let file = place::directory("racks").join("consumer.properties");
    let mut written = std::fs::File::create(&file).expect("a properties file");
    writeln!(written, "client.rack={rack}\ngroup.id={topic}-{rack}").expect("a properties file");
    let (bootstrap, count, file) = (cluster.bootstrap(), RECORDS.to_string(), file.display().to_string());
    let arguments = ["--bootstrap-server", &bootstrap, "--topic", topic, "--from-beginning", "--max-messages", &count];
    let more = ["--timeout-ms", "60000", "--command-config", &file, "--formatter-property", "print.offset=true"];
    let out = tools::run(
        tools::CONSOLE_CONSUMER,
        &[&arguments[..], &more, &["--formatter-property", "print.value=false"]].concat(),
    );
    let offsets: Vec<&str> = out.lines().filter(|line| line.starts_with("Offset:")).collect();
    assert_eq!(offsets.len() as i64, RECORDS, "a consumer in {rack} reads every record of {topic}");
}

#[test]
fn a_java_consumer_reads_in_its_rack() {
    let _turn = alone();
    let mut cluster = cluster();
    let leader = fill(&cluster, "near", &[]);
    let near = leader % 3 + 1;
    read_from(&cluster, &format!("rack-{near}"), "near");
    let served = cluster.metric(OUT, "\"near\"");
    let whole = cluster.local_bytes("near", &cluster.partitions("near")[0]) as f64;
    println!("leader {leader}, near {near}: {served:?} of {whole}");
    assert!(served[&near] >= whole, "the replica in the rack gives all of it: {served:?}");
    assert!(served.get(&leader).is_none_or(|bytes| *bytes == 0.0), "the leader gives nothing: {served:?}");
    read_from(&cluster, "rack-elsewhere", "near");
    assert!(
        cluster.metric(OUT, "\"near\"")[&leader] >= whole,
        "without a replica in its rack it reads from the leader"
    );

    let leader = fill(&cluster, "deep", &[("remote.storage.enable", "true"), ("local.retention.ms", "1")]);
    let near = leader % 3 + 1;
    // Freed on the follower too: what it gives comes from the tier.
    let directory = cluster.node(near).partition_directory("deep", 0);
    wait::until("the follower has freed its segments", AGREED, || {
        let first =
            strandline_tests::broker::segments(&directory).first()?.file_stem()?.to_str()?.parse::<i64>().ok()?;
        (first > 0).then_some(())
    });
    read_from(&cluster, &format!("rack-{near}"), "deep");
    let served = cluster.metric(OUT, "\"deep\"");
    println!("leader {leader}, near {near}: {served:?} from the tier");
    assert!(served.get(&near).is_some_and(|bytes| *bytes > 1e6), "the follower reads the tier: {served:?}");
    assert!(served.get(&leader).is_none_or(|bytes| *bytes == 0.0), "the leader gives nothing: {served:?}");
    // In a later epoch there is an earlier one to be wrong about.
    cluster.node(leader).stop();
    cluster.node(leader).up();
    cluster.node(leader).await_serving();
    cluster.await_in_sync("deep");
    let leader = cluster.partitions("deep")[0].leader_id;
    errors(&cluster, leader, leader % 3 + 1);
}

const NOT_LEADER: i16 = 6;
const OUT_OF_RANGE: i16 = 1;
const FENCED: i16 = 74;
const UNKNOWN_EPOCH: i16 = 75;

/// What a follower answers to who is wrong, or too old.
fn errors(cluster: &Cluster, leader: i32, follower: i32) {
    let mut connection = wire::Connection::open(cluster.address(follower)).unwrap_or_else(|e| panic!("{}", e.0));
    let mut ask = |version: i16, offset: i64, epoch: i32| {
        let mut request: FetchRequest = fetch_request("deep", 0, offset, 1 << 20, 0);
        request.topics[0].partitions[0].current_leader_epoch = epoch;
        let response = connection.call(version, &request).unwrap_or_else(|e| panic!("Fetch: {}", e.0));
        let data = &response.responses[0].partitions[0];
        (data.error_code, data.preferred_read_replica)
    };
    let epoch = cluster.partitions("deep")[0].leader_epoch;
    assert_eq!(ask(10, 0, -1).0, NOT_LEADER, "an old client cannot be sent elsewhere");
    assert_eq!(ask(12, 0, epoch), (0, -1));
    assert_eq!(ask(12, RECORDS + 1_000, epoch).0, OUT_OF_RANGE);
    assert_eq!(ask(12, 0, epoch - 1).0, FENCED);
    assert_eq!(ask(12, 0, epoch + 1).0, UNKNOWN_EPOCH);
    // The leader names the follower, with no records.
    let mut connection = wire::Connection::open(cluster.address(leader)).unwrap_or_else(|e| panic!("{}", e.0));
    let mut request = fetch_request("deep", 0, 0, 1 << 20, 10_000);
    request.rack_id = format!("rack-{follower}");
    let response = connection.call(12, &request).unwrap_or_else(|e| panic!("Fetch: {}", e.0));
    let data = &response.responses[0].partitions[0];
    assert_eq!((data.error_code, data.preferred_read_replica), (0, follower));
}
