//! DescribeCluster, DescribeTopicPartitions, DescribeLogDirs.

use strandline_protocol::messages::describe_cluster_request::DescribeClusterRequest;
use strandline_protocol::messages::describe_log_dirs_request::{DescribableLogDirTopic, DescribeLogDirsRequest};
use strandline_protocol::messages::describe_log_dirs_response::DescribeLogDirsResponse;
use strandline_protocol::messages::describe_topic_partitions_request::{
    Cursor, DescribeTopicPartitionsRequest, TopicRequest,
};

use crate::pair::{BEGIN_MS, batch_at};
use crate::table::Table;

pub fn cluster() -> DescribeClusterRequest {
    DescribeClusterRequest::default()
}

pub fn partitions(names: &[&str], limit: i32, cursor: Option<(&str, i32)>) -> DescribeTopicPartitionsRequest {
    DescribeTopicPartitionsRequest {
        topics: names.iter().map(|n| TopicRequest { name: (*n).to_owned() }).collect(),
        response_partition_limit: limit,
        cursor: cursor.map(|(name, partition)| Cursor { topic_name: name.to_owned(), partition_index: partition }),
    }
}

pub fn log_dirs(topics: Option<&[(&str, &[i32])]>) -> DescribeLogDirsRequest {
    let topic = |(name, partitions): &(&str, &[i32])| DescribableLogDirTopic {
        topic: (*name).to_owned(),
        partitions: partitions.to_vec(),
    };
    DescribeLogDirsRequest { topics: topics.map(|all| all.iter().map(topic).collect()) }
}

#[test]
fn describe_cluster() {
    let mut table = Table::new();
    table.all("plain", |_, _| cluster());
    table.all("operations", |_, _| DescribeClusterRequest {
        include_cluster_authorized_operations: true,
        ..Default::default()
    });
    for endpoint_type in [0, 1, 2, 3, -1] {
        table.some(&format!("the endpoint type {endpoint_type}"), 1..=2, |_, _| DescribeClusterRequest {
            endpoint_type,
            ..Default::default()
        });
    }
    table.some("with fenced brokers", 2..=2, |_, _| DescribeClusterRequest {
        include_fenced_brokers: true,
        ..Default::default()
    });
    table.finish();
}

#[test]
fn describe_topic_partitions() {
    let mut table = Table::new();
    for (name, count) in [("parts-a", 3), ("parts-b", 1), ("parts-c", 4)] {
        table.pair.topic(name, count, &[]);
    }
    let all: &[&str] = &["parts-a", "parts-b", "parts-c"];
    let backwards: &[&str] = &["parts-c", "parts-b", "parts-a"];
    let holed: &[&str] = &["parts-a", "parts-bb", "parts-c"];
    type Case<'a> = (&'a str, &'a [&'a str], i32, Option<(&'a str, i32)>);
    let cases: &[Case] = &[
        ("all", all, 2000, None),
        ("backwards", backwards, 2000, None),
        ("a topic twice", &["parts-a", "parts-a"], 2000, None),
        ("an unknown topic", holed, 2000, None),
        ("an invalid topic", &["a b", "parts-a"], 2000, None),
        ("an empty name", &["", "parts-a"], 2000, None),
        ("a limit of 1", all, 1, None),
        ("a limit of 3", all, 3, None),
        ("a limit of 4", all, 4, None),
        ("a limit of 5", all, 5, None),
        ("a limit of 3 before an unknown topic", holed, 3, None),
        ("a limit of 8", all, 8, None),
        ("a limit of 0", all, 0, None),
        ("a negative limit", all, -1, None),
        ("a cursor at the begin", all, 2000, Some(("parts-a", 0))),
        ("a cursor inside", all, 2000, Some(("parts-a", 2))),
        ("a cursor behind a topic", all, 2000, Some(("parts-a", 3))),
        ("a cursor far behind a topic", all, 2000, Some(("parts-a", 30))),
        ("a cursor in the last", all, 2000, Some(("parts-c", 1))),
        ("a cursor in a topic that is not", holed, 2000, Some(("parts-bb", 1))),
        ("a cursor between", all, 2000, Some(("parts-aa", 1))),
        ("a cursor behind all", all, 2000, Some(("parts-d", 0))),
        ("a cursor with a limit", all, 2, Some(("parts-a", 2))),
        ("a negative cursor", all, 2000, Some(("parts-a", -1))),
        ("a cursor without topics", &[], 1, Some(("parts-a", 1))),
    ];
    for (name, names, limit, cursor) in cases {
        table.all(name, |_, _| partitions(names, *limit, *cursor));
    }
    table.finish();
}

#[test]
fn describe_log_dirs() {
    let mut table = Table::new();
    table.pair.topic("dirs-a", 2, &[]);
    table.pair.produce("dirs-a", 0, &[batch_at(BEGIN_MS, 3)]);
    let neutral = |answer: &mut DescribeLogDirsResponse| {
        for dir in &mut answer.results {
            dir.log_dir.clear();
            (dir.total_bytes, dir.usable_bytes) = (dir.total_bytes.min(1), dir.usable_bytes.min(1));
            dir.topics.retain(|t| t.name.starts_with("dirs-"));
            dir.topics.sort_by(|a, b| a.name.cmp(&b.name));
            dir.topics.iter_mut().for_each(|t| t.partitions.sort_by_key(|p| p.partition_index));
        }
    };
    table.with("all", 1..=5, |_, _| log_dirs(None), neutral);
    table.with("none", 1..=5, |_, _| log_dirs(Some(&[])), neutral);
    table.with("one partition", 1..=5, |_, _| log_dirs(Some(&[("dirs-a", &[0])])), neutral);
    table.with("unknown ones", 1..=5, |_, _| log_dirs(Some(&[("dirs-a", &[7]), ("dirs-none", &[0])])), neutral);
    table.with("a topic without partitions", 1..=5, |_, _| log_dirs(Some(&[("dirs-a", &[])])), neutral);
    table.with("a topic twice", 1..=5, |_, _| log_dirs(Some(&[("dirs-a", &[0]), ("dirs-a", &[1])])), neutral);
    table.finish();
}
