//! Moves that are held to a rate: as slow as they were told to be, and without a trace afterwards, also when the command that
//! began them was killed.

use std::time::Duration;

use strandline_protocol::messages::describe_configs_request::{DescribeConfigsRequest, DescribeConfigsResource};
use strandline_tests::load::{Pattern, produce};
use strandline_tests::process::{Program, Running};
use strandline_tests::{place, wait};

use crate::nodes::{AGREED, Cluster, alone};

const TOPIC: &str = "slowly";
const RECORDS: i64 = 6_000;
/// Bytes a second: the move would take tens of seconds.
const RATE: u64 = 200_000;
const MOVED_IN: &str = "kafka_server_brokertopicmetrics_reassignmentbytesin_total";
const DESCRIBE_CONFIGS: i16 = 4;
/// How long the rate is looked at.
const LOOK: Duration = Duration::from_secs(5);

#[test]
fn a_throttled_move_is_slow_and_leaves_no_throttle() {
    let _turn = alone();
    let cluster = Cluster::start(3, &[]);
    cluster.create_with(TOPIC, 1, 1, &[("retention.ms", "-1")]);
    let from = cluster.partitions(TOPIC)[0].leader_id;
    let to = (from % 3 + 1).to_string();
    let pattern = Pattern::new(5);
    produce(cluster.address(from), TOPIC, 0, &pattern, 0..RECORDS).unwrap_or_else(|(at, e)| panic!("{at}: {}", e.0));
    assert_eq!(throttles(&cluster), 0);

    let (bootstrap, rate) = (cluster.bootstrap(), RATE.to_string());
    let reassign = ["cluster", "-b", &bootstrap, "reassign", TOPIC, "--replicas", &to];
    let begun = Running::start(&Program::new(place::strandline()).args(reassign).args(["--throttle", rate.as_str()]));
    let moved = || cluster.metric(MOVED_IN, TOPIC).values().sum::<f64>();
    wait::until("bytes move", AGREED, || (moved() > 0.0).then_some(()));
    let (since, before) = (wait::now(), moved());
    wait::pause(LOOK);
    let (bytes, seconds) = (moved() - before, since.elapsed().as_secs_f64());
    println!("{bytes} bytes in {seconds:.1} s at {RATE} bytes a second");
    let most = RATE as f64 * (seconds + 1.0) + f64::from(1 << 20);
    assert!(bytes > 0.0 && bytes <= most, "the move is held to its rate: {bytes} bytes in {seconds:.1} s");
    drop(begun);
    assert_eq!(throttles(&cluster), 4, "a killed command leaves its throttle");

    cluster.command(&["reassign", TOPIC, "--replicas", &to, "--throttle", "1000000000"]);
    assert_eq!(cluster.partitions(TOPIC)[0].replica_nodes, [to.parse::<i32>().expect("an id")]);
    assert_eq!(throttles(&cluster), 0, "the run that sees the end takes the throttle away");
}

/// Settings of throttles: of all brokers, and of the topic.
fn throttles(cluster: &Cluster) -> usize {
    let resource = |resource_type, name: &str| DescribeConfigsResource {
        resource_type,
        resource_name: name.to_owned(),
        configuration_keys: None,
        ..Default::default()
    };
    let request = DescribeConfigsRequest { resources: vec![resource(4, ""), resource(2, TOPIC)], ..Default::default() };
    let answer = cluster.nodes[0].connection().call(DESCRIBE_CONFIGS, &request);
    let results = answer.unwrap_or_else(|e| panic!("DescribeConfigs: {}", e.0)).results;
    let set = results.iter().flat_map(|r| &r.configs).filter(|c| c.name.contains("replication.throttled"));
    set.filter(|c| c.value.as_deref().is_some_and(|value| !value.is_empty())).count()
}
