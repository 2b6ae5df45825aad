//! What an operator meets in passing: a closed pipe, a cluster that stops as a whole, a member that is down.

use std::time::Duration;

use strandline_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic,
};
use strandline_tests::broker::{segments, strandline_command};
use strandline_tests::load::{Pattern, produce};
use strandline_tests::process::{self, Program};
use strandline_tests::wire::Connection;
use strandline_tests::{place, wait};

use crate::nodes::{AGREED, COMMAND, Cluster, alone};

const DELETE_RECORDS: i16 = 2;

/// An election of the active controller included, on a busy machine.
const REPLACED_WITHIN: Duration = Duration::from_secs(3);

/// Less than a node waits for others to take over.
const STOPS_WITHIN: Duration = Duration::from_secs(4);

#[test]
fn a_command_ends_quietly_when_nobody_reads_it() {
    let _turn = alone();
    let cluster = Cluster::start(1, &[]);
    let script = format!(
        "{} cluster -b {} nodes | true; echo ${{PIPESTATUS[0]}}",
        place::strandline().display(),
        cluster.bootstrap()
    );
    let output = process::run(&Program::new("bash").args(["-c", &script]), b"", COMMAND);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "0");
    assert_eq!(output.stderr.trim(), "", "it complains about nothing");
}

#[test]
fn a_member_that_is_down_is_told_once_a_minute() {
    let _turn = alone();
    let mut cluster = Cluster::start(3, &[]);
    cluster.create_topic("told", 1, &[]);
    cluster.node(3).kill();
    let told = "a member of the metadata quorum is not reachable";
    let lines = |cluster: &mut Cluster, id: i32, text: &str| {
        cluster.node(id).server().log_text().lines().filter(|line| line.contains(text)).count()
    };
    wait::until("the active controller tells", AGREED, || {
        (lines(&mut cluster, 1, told) + lines(&mut cluster, 2, told) > 0).then_some(())
    });
    wait::pause(Duration::from_secs(2));
    for id in [1, 2] {
        // Once at the start of the cluster and once now, of each of the two others.
        assert!(lines(&mut cluster, id, told) <= 4, "node {id} repeats itself");
        assert_eq!(lines(&mut cluster, id, "ERROR openraft"), 0, "node {id}");
    }
}

#[test]
fn a_cluster_stops_as_a_whole_without_waiting() {
    let _turn = alone();
    let mut cluster = Cluster::start(3, &[]);
    cluster.create_topic("led", 6, &[]);
    let begin = wait::now();
    std::thread::scope(|scope| {
        for node in &mut cluster.nodes {
            scope.spawn(|| node.stop());
        }
    });
    println!("stopped in {:?}", begin.elapsed());
    assert!(begin.elapsed() < STOPS_WITHIN, "{:?}", begin.elapsed());
}

/// What a node's checkpoints say of a deleted topic is not true of a new one of its name, also if the node was down for both and
/// finds no directory. A broker that is down takes part in the placement: it counts as one to come back.
#[test]
fn a_topic_made_anew_takes_nothing_of_the_old_ones_checkpoints() {
    let _turn = alone();
    let mut cluster = Cluster::start(3, &[]);
    let pattern = Pattern::new(31);
    // The pattern's records are of long ago: retention would take them.
    cluster.create_topic("anew", 1, &[("retention.ms", "-1")]);
    let leader = |cluster: &Cluster| cluster.address(cluster.partitions("anew")[0].leader_id);
    produce(leader(&cluster), "anew", 0, &pattern, 0..200).expect("the old topic is written");
    let partitions = vec![DeleteRecordsPartition { partition_index: 0, offset: 150 }];
    let topics = vec![DeleteRecordsTopic { name: "anew".to_owned(), partitions }];
    let cut = DeleteRecordsRequest { topics, timeout_ms: 10_000 };
    let answer = Connection::open(leader(&cluster)).expect("a connection").call(DELETE_RECORDS, &cut);
    assert_eq!(answer.map(|a| a.topics[0].partitions[0].error_code).map_err(|e| e.0), Ok(0));
    let directory = cluster.node(3).partition_directory("anew", 0);
    let checkpoint = directory.with_file_name("log-start-offset-checkpoint");
    cluster.await_in_sync("anew");
    wait::pause(Duration::from_secs(1));
    // An orderly stop leaves checkpoints; a broker that was killed takes part in placements, one that was stopped does not.
    cluster.node(3).stop();
    let kept = std::fs::read_to_string(&checkpoint).expect("checkpoints");
    assert!(kept.contains("anew 0 150"), "{kept}");
    cluster.node(3).up();
    cluster.node(3).await_serving();
    cluster.node(3).kill();
    std::fs::remove_dir_all(&directory).expect("as if it had been deleted just before the crash");

    let bootstrap = cluster.bootstrap();
    strandline_command(&["topic", "-b", &bootstrap, "delete", "anew"], COMMAND);
    strandline_command(
        &["topic", "-b", &bootstrap, "create", "anew", "--replication-factor", "3", "--config", "retention.ms=-1"],
        COMMAND,
    );
    assert!(cluster.partitions("anew")[0].replica_nodes.contains(&3), "there are only three");
    produce(leader(&cluster), "anew", 0, &pattern, 0..100).expect("the new topic is written");
    cluster.node(3).up();
    cluster.node(3).await_serving();
    cluster.await_in_sync("anew");
    let first = segments(&directory).swap_remove(0);
    assert_eq!(first.file_stem().and_then(|s| s.to_str()), Some("00000000000000000000"), "{}", first.display());
}

const SESSIONS: &str = "kafka_server_fetchsessioncache_numincrementalfetchsessions";
const IN_SESSIONS: &str = "kafka_server_fetchsessioncache_numincrementalfetchpartitionscached";

/// Every follower has one session with each leader, which holds what it follows from there, and opens another when it comes back.
#[test]
fn followers_fetch_in_sessions() {
    let _turn = alone();
    let mut cluster = Cluster::start(3, &[]);
    let pattern = Pattern::new(37);
    cluster.create_topic("sessions", 30, &[("retention.ms", "-1")]);
    let await_sessions = |cluster: &Cluster| {
        wait::until("two followers have sessions with each node", AGREED, || {
            let led = |id: i32| cluster.partitions("sessions").iter().filter(|p| p.leader_id == id).count();
            let (sessions, partitions) = (cluster.metric(SESSIONS, ""), cluster.metric(IN_SESSIONS, ""));
            (1..=3).all(|id| sessions[&id] == 2.0 && partitions[&id] == 2.0 * led(id) as f64).then_some(())
        });
    };
    cluster.await_in_sync("sessions");
    await_sessions(&cluster);
    let write = |cluster: &Cluster, range: std::ops::Range<i64>| {
        for (partition, told) in (0..).zip(cluster.partitions("sessions")) {
            let written = produce(cluster.address(told.leader_id), "sessions", partition, &pattern, range.clone());
            written.expect("the in-sync set takes it");
        }
    };
    write(&cluster, 0..20);
    cluster.node(3).kill();
    cluster.node(3).up();
    cluster.node(3).await_serving();
    cluster.await_in_sync("sessions");
    cluster.command(&["elect"]);
    await_sessions(&cluster);
    write(&cluster, 20..40);
}

/// A killed process is found by its broken connections: nobody waits for its session to end, which takes 6 s here.
#[test]
fn a_killed_broker_is_replaced_at_once() {
    let _turn = alone();
    let mut cluster = Cluster::start(3, &[]);
    cluster.create_topic("moved", 1, &[]);
    for _ in 0..4 {
        // A broker that has just come may yet be opening its listener; until then a refused connection proves nothing.
        wait::pause(Duration::from_secs(4));
        let leader = cluster.partitions("moved")[0].leader_id;
        cluster.node(leader).kill();
        let begin = wait::now();
        wait::until("another leads", AGREED, || {
            let now = cluster.metadata_of(cluster.any(), "moved")?.topics.first()?.partitions.first()?.leader_id;
            (now > 0 && now != leader).then_some(())
        });
        println!("node {leader} was replaced after {:?}", begin.elapsed());
        assert!(begin.elapsed() < REPLACED_WITHIN, "node {leader}: {:?}", begin.elapsed());
        cluster.node(leader).up();
        cluster.node(leader).await_serving();
        cluster.await_in_sync("moved");
    }
}
