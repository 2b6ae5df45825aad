//! Disks that fail and logs that are damaged: others lead, nothing acknowledged is lost, and what is damaged is fetched anew.

use std::collections::BTreeSet;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use strandline_protocol::record_batch::batches;
use strandline_tests::broker::segments;
use strandline_tests::load::{Pattern, produce, verify};
use strandline_tests::wire::{Connection, LATEST};
use strandline_tests::{http, place, wait};

use crate::nodes::{AGREED, Cluster, alone};

/// In each partition: more than one segment of 1 MiB.
const RECORDS: i64 = 2_500;
const DAMAGED: &str = "strandline_log_damaged_logs_total";
const OFFLINE: &str = "kafka_log_logmanager_offlinelogdirectorycount";
/// How long writing may take, over every change of leader.
const WRITTEN: Duration = Duration::from_secs(90);

/// Writes up to `end` of a partition, whoever leads it; what was not answered is looked up.
fn write(cluster: &Cluster, topic: &str, partition: i32, pattern: &Pattern, end: i64) {
    let leader = || {
        let leader = cluster.partitions(topic)[usize::try_from(partition).expect("an index")].leader_id;
        (leader > 0).then(|| cluster.address(leader))
    };
    wait::until(&format!("{topic}-{partition} is written up to {end}"), WRITTEN, || {
        let at = leader()?;
        let next = Connection::open(at).ok()?.try_list_offset(topic, partition, LATEST).ok()?.ok()?;
        if next >= end { Some(()) } else { produce(at, topic, partition, pattern, next..end).ok() }
    });
}

fn read(cluster: &Cluster, topic: &str, pattern: &Pattern) {
    for partition in cluster.partitions(topic) {
        let (at, index) = (cluster.address(partition.leader_id), partition.partition_index);
        verify(at, topic, index, pattern, 0, RECORDS)
            .unwrap_or_else(|(at, e)| panic!("{topic}-{index} at {at}: {}", e.0));
    }
}

/// Moves a directory away under a running node: its open files live on, and no new one can be made.
fn take_away(directory: &Path) {
    std::fs::rename(directory, directory.with_extension("gone")).expect("the directory is moved away");
}

#[test]
fn a_failed_directory_takes_its_replicas_away_and_not_the_node() {
    let _turn = alone();
    let disks = [place::directory("disk-a"), place::directory("disk-b")];
    let own = |id| match id {
        2 => vec![("log.dirs".to_owned(), format!("{},{}", disks[0].display(), disks[1].display()))],
        _ => Vec::new(),
    };
    let nodes = (1..=3).map(|id| (id, "broker,controller"));
    let mut cluster = Cluster::start_with(nodes, &[("min.insync.replicas", "2")], own);
    cluster.create_topic("spread", 6, &[("retention.ms", "-1"), ("segment.bytes", "1048576")]);
    let on_disk = |disk: &Path| -> BTreeSet<i32> {
        (0..6).filter(|partition| disk.join(format!("spread-{partition}")).is_dir()).collect()
    };
    let pattern = Pattern::new(21);
    (0..6).for_each(|partition| write(&cluster, "spread", partition, &pattern, RECORDS / 5));
    let (kept, lost) = (on_disk(&disks[0]), on_disk(&disks[1]));
    assert_eq!((kept.len(), lost.len()), (3, 3), "the directories share the replicas");
    take_away(&disks[1]);
    (0..6).for_each(|partition| write(&cluster, "spread", partition, &pattern, RECORDS));

    wait::until("node 2 is out of what was on the failed disk, and only of that", AGREED, || {
        let with =
            |p: &&strandline_protocol::messages::metadata_response::MetadataResponsePartition| p.isr_nodes.contains(&2);
        let all = cluster.partitions("spread");
        let in_sync: BTreeSet<i32> = all.iter().filter(with).map(|p| p.partition_index).collect();
        (in_sync == kept && all.iter().all(|p| p.leader_id > 0)).then_some(())
    });
    assert_eq!(cluster.metric(OFFLINE, "")[&2], 1.0);
    let offline = |p: &strandline_protocol::messages::metadata_response::MetadataResponsePartition| {
        p.offline_replicas == if lost.contains(&p.partition_index) { vec![2] } else { Vec::new() }
    };
    assert!(cluster.partitions("spread").iter().all(offline), "clients are told which replicas are offline");
    assert!(cluster.node(2).server().is_running(), "the node goes on with its other disk");
    assert!(cluster.partitions("spread").iter().all(|p| p.leader_id != 2 || kept.contains(&p.partition_index)));
    read(&cluster, "spread", &pattern);
}

#[test]
fn a_node_without_a_disk_stops() {
    let _turn = alone();
    let mut cluster = Cluster::start(3, &[("min.insync.replicas", "2")]);
    cluster.create_topic("only", 3, &[("retention.ms", "-1"), ("segment.bytes", "1048576")]);
    let pattern = Pattern::new(22);
    (0..3).for_each(|partition| write(&cluster, "only", partition, &pattern, RECORDS / 5));
    take_away(&cluster.node(3).directory.join("logs"));
    (0..3).for_each(|partition| write(&cluster, "only", partition, &pattern, RECORDS));
    let said = cluster.node(3).await_refusal();
    assert!(said.contains("the node has lost its storage"), "{said}");
    read(&cluster, "only", &pattern);
}

/// The first segment of a replica, and where each of its batches begins, with the batch's base offset.
fn batches_of(directory: &Path) -> (PathBuf, Vec<(u64, i64)>) {
    let file = segments(directory).swap_remove(0);
    let bytes = std::fs::read(&file).expect("a segment");
    let mut position = 0;
    let mut found = Vec::new();
    for (header, batch) in batches(&bytes).map_while(Result::ok) {
        found.push((position, header.base_offset));
        position += batch.len() as u64;
    }
    (file, found)
}

fn overwrite(file: &Path, position: u64, bytes: &[u8]) {
    let mut open = std::fs::File::options().write(true).open(file).expect("a segment");
    open.seek(SeekFrom::Start(position)).and_then(|_| open.write_all(bytes)).expect("the damage is done");
}

fn filled(cluster: &Cluster, topic: &str, tiered: &str, pattern: &Pattern) -> i32 {
    let configs = [("remote.storage.enable", tiered), ("retention.ms", "-1"), ("segment.bytes", "1048576")];
    cluster.create_topic(topic, 1, &configs);
    write(cluster, topic, 0, pattern, RECORDS);
    cluster.await_in_sync(topic);
    cluster.partitions(topic)[0].leader_id
}

/// The replica leads, and has everything.
fn leads_with_all(cluster: &Cluster, topic: &str, id: i32, pattern: &Pattern) {
    cluster.await_in_sync(topic);
    let replicas = [id, id % 3 + 1, (id + 1) % 3 + 1].map(|id| id.to_string()).join(",");
    cluster.command(&["reassign", topic, "--replicas", &replicas]);
    wait::until(&format!("node {id} leads {topic}"), AGREED, || {
        (cluster.partitions(topic)[0].leader_id == id).then_some(())
    });
    read(cluster, topic, pattern);
}

#[test]
fn a_damaged_follower_is_found_at_its_start_and_fetched_anew() {
    let _turn = alone();
    let mut cluster = Cluster::start(3, &[]);
    let pattern = Pattern::new(23);
    for (topic, tiered) in [("hurt", "false"), ("hurt-tiered", "true")] {
        let id = filled(&cluster, topic, tiered, &pattern) % 3 + 1;
        if tiered == "true" {
            cluster.await_copied(topic);
        }
        cluster.node(id).kill();
        let (file, batches) = batches_of(&cluster.node(id).partition_directory(topic, 0));
        let (position, _) = batches[batches.len() / 2];
        overwrite(&file, position + 100, b"damage");
        cluster.node(id).up();
        cluster.node(id).await_serving();
        assert_eq!(http::metric(&cluster.node(id).metrics(), DAMAGED, ""), Some(1.0), "{topic}");
        let log = cluster.node(id).server().log_text();
        assert!(log.lines().any(|line| line.contains("ERROR") && line.contains("the log is damaged")), "{log}");
        leads_with_all(&cluster, topic, id, &pattern);
    }
}

#[test]
fn a_damaged_leader_gives_the_leadership_away() {
    let _turn = alone();
    let mut cluster = Cluster::start(3, &[]);
    let pattern = Pattern::new(24);
    let id = filled(&cluster, "led", "false", &pattern);
    let (file, batches) = batches_of(&cluster.node(id).partition_directory("led", 0));
    let (position, offset) = batches[batches.len() / 2];
    // Its format number: the batch is none any more.
    overwrite(&file, position + 16, &[0x55]);
    wait::until("another leads, once somebody has read there", AGREED, || {
        let leader = cluster.partitions("led")[0].leader_id;
        if leader == id {
            let _ = cluster.node(id).connection().fetch("led", 0, offset, 1 << 20);
            return None;
        }
        Some(())
    });
    read(&cluster, "led", &pattern);
    assert_eq!(http::metric(&cluster.node(id).metrics(), DAMAGED, ""), Some(1.0));
    leads_with_all(&cluster, "led", id, &pattern);
}
