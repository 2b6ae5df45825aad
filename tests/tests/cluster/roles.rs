//! Nodes that are only controller or only broker, and a voter that has forgotten what it voted for.

use strandline_tests::http::metric;
use strandline_tests::load::{Pattern, produce, verify};
use strandline_tests::wait;

use crate::nodes::{AGREED, Cluster, alone};

const RECORDS: i64 = 2_000;

/// Writes a new topic and reads it back.
fn use_it(cluster: &Cluster, topic: &str) {
    cluster.create_topic(topic, 2, &[("retention.ms", "-1")]);
    let pattern = Pattern::new(9);
    for partition in cluster.partitions(topic) {
        let (at, index) = (cluster.address(partition.leader_id), partition.partition_index);
        assert_eq!(partition.replica_nodes.len(), 2, "a replica on each broker");
        produce(at, topic, index, &pattern, 0..RECORDS).unwrap_or_else(|(at, e)| panic!("{at}: {}", e.0));
        verify(at, topic, index, &pattern, 0, RECORDS).unwrap_or_else(|(at, e)| panic!("{at}: {}", e.0));
    }
}

/// The active controller, as the controllers' own metrics tell it.
fn active(cluster: &Cluster) -> i32 {
    wait::until("one controller is active", AGREED, || {
        let told = cluster.metric("kafka_controller_kafkacontroller_activecontrollercount", "");
        told.into_iter().find(|(_, active)| *active > 0.0).map(|(id, _)| id)
    })
}

#[test]
fn three_controllers_and_two_brokers() {
    let _turn = alone();
    let roles = |id| (id, if id < 10 { "controller" } else { "broker" });
    let mut cluster = Cluster::start_with([1, 2, 3, 11, 12].into_iter().map(roles), &[], |_| Vec::new());
    use_it(&cluster, "first");
    let nodes = cluster.json(&["nodes"]);
    let told = |id: i64| nodes.as_array().expect("a list").iter().find(|n| n["node"] == id).expect("the node").clone();
    for id in [1, 2, 3] {
        let page = cluster.node(id).metrics();
        assert_eq!(
            metric(&page, "kafka_server_replicamanager_partitioncount", ""),
            Some(0.0),
            "node {id} hosts nothing"
        );
        assert!(["voter", "active"].contains(&told(i64::from(id))["controller"].as_str().unwrap_or_default()));
        assert_eq!(told(i64::from(id))["replicas"], 0);
        assert!(!strandline_tests::wire::is_serving(cluster.address(id)), "node {id} has no clients");
    }
    for id in [11, 12] {
        assert_eq!(told(id)["controller"], "observer");
    }

    // Without the active controller the others decide.
    let gone = active(&cluster);
    cluster.node(gone).kill();
    use_it(&cluster, "second");
    cluster.node(gone).up();
    cluster.node(gone).await_serving();

    // A broker that starts again is sent the metadata at its new port; one more finds its cluster by addresses alone.
    cluster.node(12).kill();
    cluster.node(12).up();
    cluster.node(12).await_serving();
    cluster.await_in_sync("first");
    let addresses: Vec<String> = [1, 2, 3].map(|id| cluster.node(id).controller.to_string()).into();
    let by_address = [
        ("controller.quorum.voters".to_owned(), String::new()),
        ("controller.quorum.bootstrap.servers".to_owned(), addresses.join(",")),
    ];
    let node = cluster.add(13, "broker", &by_address);
    node.up();
    node.await_serving();
    cluster.command(&["reassign", "first", "--replicas", "13,11"]);
    cluster.await_in_sync("first");
    cluster.command(&["decommission", "12"]);
    cluster.node(12).stop();
    cluster.command(&["forget", "12"]);
    let left = cluster.json(&["nodes"]);
    assert!(left.as_array().expect("a list").iter().all(|n| n["node"] != 12), "node 12 is forgotten: {left}");
}

#[test]
fn a_voter_that_has_forgotten_is_refused_and_comes_back_as_told() {
    let _turn = alone();
    let mut cluster = Cluster::start(3, &[]);
    cluster.create_topic("kept", 2, &[]);
    cluster.node(2).stop();
    std::fs::remove_dir_all(cluster.node(2).directory.join("logs")).expect("its disk is lost");
    cluster.node(2).up();
    let said = cluster.node(2).await_refusal();
    assert!(said.contains("it has forgotten what it voted for"), "{said}");
    assert!(said.contains("remove-controller 2"), "it says what to do: {said}");

    cluster.command(&["remove-controller", "2"]);
    cluster.node(2).up();
    cluster.node(2).await_serving();
    let controller = cluster.node(2).controller.to_string();
    cluster.command(&["add-controller", "2", &controller]);
    cluster.await_in_sync("kept");
    let status = cluster.json(&["nodes"]);
    assert!(status.as_array().expect("a list").iter().all(|n| n["controller"] != "observer"), "{status}");
}
