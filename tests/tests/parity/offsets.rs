//! ListOffsets, OffsetForLeaderEpoch, DeleteRecords.

use strandline_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic,
};
use strandline_protocol::messages::delete_records_response::DeleteRecordsResponse;
use strandline_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use strandline_protocol::messages::list_offsets_response::ListOffsetsResponse;
use strandline_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
};

use crate::pair::{BEGIN_MS, batch_at};
use crate::table::Table;

/// Asks for (partition, leader epoch or -1, timestamp) of one topic.
pub fn list(version: i16, topic: &str, asked: &[(i32, i32, i64)]) -> ListOffsetsRequest {
    let partition = |(index, epoch, timestamp): &(i32, i32, i64)| ListOffsetsPartition {
        partition_index: *index,
        current_leader_epoch: if version >= 4 { *epoch } else { -1 },
        timestamp: *timestamp,
    };
    let topics = vec![ListOffsetsTopic { name: topic.to_owned(), partitions: asked.iter().map(partition).collect() }];
    ListOffsetsRequest {
        replica_id: -1,
        topics,
        timeout_ms: if version >= 10 { 10_000 } else { 0 },
        ..Default::default()
    }
}

#[test]
fn list_offsets() {
    let mut table = Table::new();
    table.pair.topic("list-a", 2, &[]);
    table.pair.topic("list-tiered", 1, &[("remote.storage.enable", "true")]);
    // Batches whose timestamps do not rise.
    let batches = [batch_at(BEGIN_MS, 5), batch_at(BEGIN_MS + 100_000, 3), batch_at(BEGIN_MS + 50_000, 2)];
    table.pair.produce("list-a", 0, &batches);
    table.pair.produce("list-tiered", 0, &batches);
    for timestamp in [-1, -2, -3, -4, -5, -6, -7, i64::MIN, i64::MAX, 0, 1] {
        table.all(&format!("the timestamp {timestamp}"), |_, v| list(v, "list-a", &[(0, -1, timestamp)]));
        table.all(&format!("the timestamp {timestamp} of an empty partition"), |_, v| {
            list(v, "list-a", &[(1, -1, timestamp)])
        });
        if (-4..0).contains(&timestamp) {
            // What is copied when is not the same on both.
            table.all(&format!("the timestamp {timestamp} of a tiered topic"), |_, v| {
                list(v, "list-tiered", &[(0, -1, timestamp)])
            });
        }
    }
    for after in [-1, 0, 5, 10, 15, 40, 41, 50_000, 60_000, 100_000, 100_020, 100_021] {
        table.all(&format!("{after} ms after the first"), |_, v| list(v, "list-a", &[(0, -1, BEGIN_MS + after)]));
    }
    table.all("an unknown topic", |_, v| list(v, "list-none", &[(0, -1, -1)]));
    table.all("an invalid topic", |_, v| list(v, "a b", &[(0, -1, -1)]));
    table.all("an unknown partition", |_, v| list(v, "list-a", &[(9, -1, -1)]));
    table.all("a negative partition", |_, v| list(v, "list-a", &[(-1, -1, -1)]));
    table.all("a partition twice", |_, v| list(v, "list-a", &[(0, -1, -1), (0, -1, -2)]));
    let sorted = |answer: &mut ListOffsetsResponse| {
        answer.topics.iter_mut().for_each(|t| t.partitions.sort_by_key(|p| p.partition_index));
    };
    table.with("two partitions", 1..=11, |_, v| list(v, "list-a", &[(0, -1, -1), (1, -1, -1)]), sorted);
    table.some("the leader epoch", 4..=11, |_, v| list(v, "list-a", &[(0, 0, -1)]));
    table.some("a leader epoch that is to come", 4..=11, |_, v| list(v, "list-a", &[(0, 9, -1)]));
    table.some("a leader epoch that is to come and a time", 4..=11, |_, v| list(v, "list-a", &[(0, 9, BEGIN_MS)]));
    table.some("committed only", 2..=11, |_, v| ListOffsetsRequest {
        isolation_level: 1,
        ..list(v, "list-a", &[(0, -1, -1)])
    });
    table.some("committed only by time", 2..=11, |_, v| ListOffsetsRequest {
        isolation_level: 1,
        ..list(v, "list-a", &[(0, -1, BEGIN_MS)])
    });
    table.all("as a replica", |_, v| ListOffsetsRequest { replica_id: 7, ..list(v, "list-a", &[(0, -1, -1)]) });
    table.all("as a debugger", |_, v| ListOffsetsRequest { replica_id: -2, ..list(v, "list-a", &[(0, -1, -1)]) });
    table.all("no topics", |_, v| ListOffsetsRequest { topics: Vec::new(), ..list(v, "x", &[]) });
    table.all("no partitions", |_, v| list(v, "list-a", &[]));
    table.finish();
}

pub fn epochs(replica: i32, topic: &str, asked: &[(i32, i32, i32)]) -> OffsetForLeaderEpochRequest {
    let partition = |(partition, current, wanted): &(i32, i32, i32)| OffsetForLeaderPartition {
        partition: *partition,
        current_leader_epoch: *current,
        leader_epoch: *wanted,
    };
    let topics =
        vec![OffsetForLeaderTopic { topic: topic.to_owned(), partitions: asked.iter().map(partition).collect() }];
    OffsetForLeaderEpochRequest { replica_id: replica, topics }
}

#[test]
fn offset_for_leader_epoch() {
    let mut table = Table::new();
    table.pair.topic("epoch-a", 2, &[]);
    table.pair.produce("epoch-a", 0, &[batch_at(BEGIN_MS, 4)]);
    let ask = |v: i16, topic: &str, asked: &[(i32, i32, i32)]| epochs(if v >= 3 { -1 } else { -2 }, topic, asked);
    for epoch in [0, 1, 7, -1, -2, i32::MAX] {
        table.all(&format!("the epoch {epoch}"), |_, v| ask(v, "epoch-a", &[(0, -1, epoch)]));
        table.all(&format!("the epoch {epoch} of an empty partition"), |_, v| ask(v, "epoch-a", &[(1, -1, epoch)]));
    }
    table.all("the current epoch", |_, v| ask(v, "epoch-a", &[(0, 0, 0)]));
    table.all("a current epoch to come", |_, v| ask(v, "epoch-a", &[(0, 3, 0)]));
    table.all("an unknown topic", |_, v| ask(v, "epoch-none", &[(0, -1, 0)]));
    table.all("an unknown partition", |_, v| ask(v, "epoch-a", &[(9, -1, 0), (-1, -1, 0)]));
    table.all("no topics", |_, v| OffsetForLeaderEpochRequest { topics: Vec::new(), ..ask(v, "x", &[]) });
    table.finish();
}

pub fn cut(topic: &str, asked: &[(i32, i64)]) -> DeleteRecordsRequest {
    let partition = |(index, offset): &(i32, i64)| DeleteRecordsPartition { partition_index: *index, offset: *offset };
    let topics = vec![DeleteRecordsTopic { name: topic.to_owned(), partitions: asked.iter().map(partition).collect() }];
    DeleteRecordsRequest { topics, timeout_ms: 10_000 }
}

#[test]
fn delete_records() {
    let mut table = Table::new();
    table.pair.topic("cut-a", 2, &[]);
    table.pair.topic("cut-compacted", 1, &[("cleanup.policy", "compact")]);
    table.pair.produce("cut-a", 0, &[batch_at(BEGIN_MS, 5), batch_at(BEGIN_MS, 5)]);
    table.pair.produce("cut-compacted", 0, &[batch_at(BEGIN_MS, 5)]);
    let sorted = |answer: &mut DeleteRecordsResponse| {
        answer.topics.sort_by(|a, b| a.name.cmp(&b.name));
        answer.topics.iter_mut().for_each(|t| t.partitions.sort_by_key(|p| p.partition_index));
    };
    for (name, topic, asked) in [
        ("to 2", "cut-a", &[(0, 2)][..]),
        ("to 1, which is gone", "cut-a", &[(0, 1)]),
        ("to 7", "cut-a", &[(0, 7)]),
        ("behind the end", "cut-a", &[(0, 11)]),
        ("to -2", "cut-a", &[(0, -2)]),
        ("to the high watermark", "cut-a", &[(0, -1)]),
        ("to the high watermark of an empty one", "cut-a", &[(1, -1)]),
        ("behind an empty one", "cut-a", &[(1, 1)]),
        ("an unknown partition", "cut-a", &[(9, 0), (-1, 0)]),
        ("an unknown topic", "cut-none", &[(0, 0)]),
        ("a compacted topic", "cut-compacted", &[(0, 2)]),
        ("no partitions", "cut-a", &[]),
    ] {
        table.with(name, 0..=2, |_, _| cut(topic, asked), sorted);
    }
    table.with("no topics", 0..=2, |_, _| DeleteRecordsRequest { topics: Vec::new(), timeout_ms: 1000 }, sorted);
    table.all("the begin after that", |_, v| list(v, "cut-a", &[(0, -1, -2)]));
    table.all("the local begin after that", |_, v| list(v, "cut-a", &[(0, -1, -4)]));
    table.finish();
}
