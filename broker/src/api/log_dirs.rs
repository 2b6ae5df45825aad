//! DescribeLogDirs.

use std::sync::Arc;

use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::messages::describe_log_dirs_request::DescribeLogDirsRequest;
use strandline_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResponse, DescribeLogDirsResult, DescribeLogDirsTopic,
};

use super::Call;
use crate::broker::Broker;

pub(super) async fn handle(
    broker: Arc<Broker>,
    _call: Call,
    request: DescribeLogDirsRequest,
) -> DescribeLogDirsResponse {
    let wanted = |topic: &str, partition: i32| match &request.topics {
        None => true,
        Some(topics) => topics.iter().any(|t| t.topic == topic && t.partitions.contains(&partition)),
    };
    let mut results = Vec::new();
    for dir in broker.log_dirs() {
        let mut topics: Vec<DescribeLogDirsTopic> = Vec::new();
        let partitions = broker.partitions.in_dir(&dir.path);
        for partition in partitions.iter().filter(|p| wanted(&p.topic, p.tp.partition)) {
            let entry = DescribeLogDirsPartition {
                partition_index: partition.tp.partition,
                partition_size: partition.size_bytes() as i64,
                offset_lag: 0,
                is_future_key: false,
                ..Default::default()
            };
            match topics.iter_mut().find(|t| *t.name == *partition.topic) {
                Some(topic) => topic.partitions.push(entry),
                None => topics.push(DescribeLogDirsTopic {
                    name: partition.topic.to_string(),
                    partitions: vec![entry],
                    ..Default::default()
                }),
            }
        }
        let code = if dir.offline { ErrorCode::KafkaStorageError } else { ErrorCode::None };
        results.push(DescribeLogDirsResult {
            error_code: code.code(),
            log_dir: dir.path.display().to_string(),
            topics,
            total_bytes: dir.total_bytes,
            usable_bytes: dir.usable_bytes,
            ..Default::default()
        });
    }
    DescribeLogDirsResponse { results, ..Default::default() }
}
