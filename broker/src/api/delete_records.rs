//! DeleteRecords: a higher log start. Of a tiered partition it is the pointer's, and answered when that has moved.

use std::sync::Arc;
use std::time::Duration;

use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::TopicId;
use strandline_protocol::messages::delete_records_request::DeleteRecordsRequest;
use strandline_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsResponse, DeleteRecordsTopicResult,
};

use super::Call;
use crate::broker::Broker;

/// Asks for everything below the high watermark.
const HIGH_WATERMARK: i64 = -1;

pub(super) async fn handle(broker: Arc<Broker>, _call: Call, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let deadline = tokio::time::Instant::now() + timeout;
    let mut topics = Vec::new();
    // A topic of which nothing is asked is not answered.
    for topic in request.topics.iter().filter(|t| !t.partitions.is_empty()) {
        let id = broker.image().topic(&topic.name).map(|t| t.id);
        let mut partitions = Vec::new();
        for asked in &topic.partitions {
            let work = delete(&broker, id, asked.partition_index, asked.offset);
            let outcome = tokio::time::timeout_at(deadline, work).await.unwrap_or(Err(ErrorCode::RequestTimedOut));
            partitions.push(DeleteRecordsPartitionResult {
                partition_index: asked.partition_index,
                low_watermark: outcome.unwrap_or(-1),
                error_code: outcome.err().unwrap_or(ErrorCode::None).code(),
                ..Default::default()
            });
        }
        topics.push(DeleteRecordsTopicResult { name: topic.name.clone(), partitions, ..Default::default() });
    }
    DeleteRecordsResponse { topics, ..Default::default() }
}

/// The new log start.
async fn delete(broker: &Arc<Broker>, id: Option<TopicId>, index: i32, offset: i64) -> Result<i64, ErrorCode> {
    let id = id.ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let partition = broker.partitions.leading(id, index)?;
    let config = partition.config();
    if config.cleanup_policy.compact && !config.cleanup_policy.delete {
        return Err(ErrorCode::PolicyViolation);
    }
    let offsets = partition.offsets();
    let target = if offset == HIGH_WATERMARK { offsets.high_watermark } else { offset };
    if target < 0 || target > offsets.high_watermark {
        return Err(ErrorCode::OffsetOutOfRange);
    }
    if target > offsets.log_start {
        broker.raise_log_start(&partition, target).await?;
    }
    Ok(partition.offsets().log_start)
}
