//! Kafka's own tools for those who run a cluster: they need no option of ours.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;

use strandline_tests::{place, tools, wait};

use crate::nodes::{AGREED, Cluster, alone};

const TOPIC: &str = "tooled";

/// A file with this text, for a tool that takes a path.
fn file(name: &str, text: &str) -> PathBuf {
    let path = place::directory("tools").join(name);
    std::fs::File::create(&path).and_then(|mut f| f.write_all(text.as_bytes())).expect("a file");
    path
}

#[test]
fn kafkas_tools_move_elect_and_describe() {
    let _turn = alone();
    let mut cluster = Cluster::start(3, &[]);
    let bootstrap = cluster.bootstrap();
    let on = |more: &[&'static str]| [&["--bootstrap-server", bootstrap.as_str()], more].concat();
    tools::run(
        tools::TOPICS,
        &on(&[
            "--create",
            "--topic",
            TOPIC,
            "--replica-assignment",
            "1:2,2:3,3:1",
            "--config",
            "min.insync.replicas=1",
        ]),
    );
    cluster.await_in_sync(TOPIC);
    let described = tools::run(tools::TOPICS, &on(&["--describe", "--topic", TOPIC]));
    assert!(described.contains("Partition: 0\tLeader: 1\tReplicas: 1,2\tIsr: 1,2"), "{described}");

    let plan = r#"{"version":1,"partitions":[{"topic":"tooled","partition":0,"replicas":[3,2]},
        {"topic":"tooled","partition":1,"replicas":[1,3]}]}"#;
    let plan = file("moves.json", plan).display().to_string();
    let moves = |action: &[&str]| {
        let arguments = ["--bootstrap-server", &bootstrap, "--reassignment-json-file", &plan];
        tools::run(tools::REASSIGN, &[&arguments[..], action].concat())
    };
    let begun = moves(&["--execute", "--throttle", "50000000"]);
    assert!(begun.contains("Successfully started partition reassignments"), "{begun}");
    let done = wait::until("the moves are over", AGREED, || {
        let told = moves(&["--verify"]);
        (told.matches("is completed").count() == 2).then_some(told)
    });
    assert!(done.contains("Clearing broker-level throttles"), "{done}");
    let replicas: Vec<Vec<i32>> = cluster.partitions(TOPIC).into_iter().map(|p| p.replica_nodes).collect();
    assert_eq!(replicas, [vec![3, 2], vec![1, 3], vec![3, 1]]);
    let listed = tools::run(tools::REASSIGN, &on(&["--list"]));
    assert!(listed.contains("No partition reassignments found."), "{listed}");

    // Node 3 is preferred for partitions 0 and 2; after a restart others lead them.
    cluster.node(3).stop();
    cluster.node(3).up();
    cluster.node(3).await_serving();
    cluster.await_in_sync(TOPIC);
    let leaders = |cluster: &Cluster| cluster.partitions(TOPIC).iter().map(|p| p.leader_id).collect::<Vec<_>>();
    assert_eq!(leaders(&cluster), [2, 1, 1], "the others lead after a controlled shutdown");
    let elected = tools::run(
        tools::LEADER_ELECTION,
        &on(&["--election-type", "preferred", "--topic", TOPIC, "--partition", "0"]),
    );
    assert!(
        elected.contains("Successfully completed leader election (PREFERRED) for partitions tooled-0"),
        "{elected}"
    );
    assert_eq!(leaders(&cluster), [3, 1, 1]);
    tools::run(tools::LEADER_ELECTION, &on(&["--election-type", "preferred", "--all-topic-partitions"]));
    assert_eq!(leaders(&cluster), [3, 1, 3]);
    quorum(&bootstrap);
}

fn quorum(bootstrap: &str) {
    let status = tools::run(tools::METADATA_QUORUM, &["--bootstrap-server", bootstrap, "describe", "--status"]);
    let value = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("{name} in {status}"));
        line.split_once(':').expect("name: value").1.trim().to_owned()
    };
    assert!(["1", "2", "3"].contains(&value("LeaderId").as_str()), "{status}");
    assert!(value("LeaderEpoch").parse::<i64>().is_ok_and(|epoch| epoch >= 1), "{status}");
    let voters: BTreeSet<&str> = ["\"id\": 1", "\"id\": 2", "\"id\": 3"].into();
    assert!(voters.iter().all(|id| value("CurrentVoters").contains(id)), "{status}");
    let table = tools::run(
        tools::METADATA_QUORUM,
        &["--bootstrap-server", bootstrap, "describe", "--replication", "--human-readable"],
    );
    assert_eq!(table.lines().filter(|l| l.contains("Follower") || l.contains("Leader")).count(), 3, "{table}");
}
