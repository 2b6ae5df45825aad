//! What an operator meets in passing: a closed pipe, a cluster that stops as a whole, a member that is down.

use std::time::Duration;

use strandline_tests::process::{self, Program};
use strandline_tests::{place, wait};

use crate::nodes::{AGREED, COMMAND, Cluster, alone};

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
