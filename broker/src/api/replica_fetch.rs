//! Fetch by followers: the same request as a consumer's, with a replica's id.
//!
//! Owns waiting for something to send, and the limits of one answer. Does not own what a partition answers (`replication::answer`).

use std::sync::Arc;
use std::time::Duration;

use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::{BrokerId, TopicId};
use strandline_protocol::messages::fetch_request::{FetchPartition, FetchRequest};
use strandline_protocol::messages::fetch_response::{FetchResponse, FetchableTopicResponse, PartitionData};
use strandline_protocol::rope::Records;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Call;
use crate::broker::Broker;
use crate::clock;
use crate::replication::answer::{answer, failed, is_registered};

/// The first version in which a replica says its broker epoch.
const EPOCH_SINCE: i16 = 15;

/// The replica that asks; none for consumers.
pub(super) fn replica(request: &FetchRequest) -> Option<BrokerId> {
    [request.replica_id, request.replica_state.replica_id].into_iter().find(|id| *id >= 0)
}

pub(super) async fn handle(broker: Arc<Broker>, call: Call, replica: BrokerId, request: FetchRequest) -> FetchResponse {
    let epoch = request.replica_state.replica_epoch;
    if call.version < EPOCH_SINCE || !is_registered(&broker.image(), replica, epoch) {
        tracing::debug!(peer = %call.context.peer, replica, epoch, "a fetch of a replica that is not registered so");
        let error_code = ErrorCode::StaleBrokerEpoch.code();
        return FetchResponse { error_code, ..Default::default() };
    }
    let deadline = Instant::now() + Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let mut responses = read_all(&broker, replica, &request);
    if nothing_new(&responses) && request.max_wait_ms > 0 {
        let wake = Arc::new(Notify::new());
        loop {
            // Registered before the read, so that no append slips in between.
            for (topic, p) in wanted(&request) {
                if let Ok(partition) = broker.partitions.leading(topic, p.partition) {
                    partition.wake_on_append(&wake);
                }
            }
            responses = read_all(&broker, replica, &request);
            if !nothing_new(&responses) || tokio::time::timeout_at(deadline, wake.notified()).await.is_err() {
                break;
            }
        }
    }
    FetchResponse { responses, ..Default::default() }
}

fn wanted(request: &FetchRequest) -> impl Iterator<Item = (TopicId, &FetchPartition)> {
    request.topics.iter().flat_map(|topic| topic.partitions.iter().map(|p| (TopicId(topic.topic_id), p)))
}

/// Only waiting can bring something: no records, no errors, nothing to truncate.
fn nothing_new(responses: &[FetchableTopicResponse]) -> bool {
    let quiet = |p: &PartitionData| {
        p.error_code == 0 && p.diverging_epoch.end_offset < 0 && p.records.as_ref().is_none_or(Records::is_empty)
    };
    responses.iter().flat_map(|t| &t.partitions).all(quiet)
}

fn read_all(broker: &Arc<Broker>, replica: BrokerId, request: &FetchRequest) -> Vec<FetchableTopicResponse> {
    let now_ms = clock::now_ms();
    let mut left = i64::from(request.max_bytes);
    let mut given = false;
    let topic_data = |topic: &strandline_protocol::messages::fetch_request::FetchTopic| {
        let id = TopicId(topic.topic_id);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for wanted in &topic.partitions {
            let max_bytes = left.min(i64::from(wanted.partition_max_bytes)).max(0) as u32;
            let data = match broker.partitions.leading(id, wanted.partition) {
                Ok(partition) => {
                    let (data, wants_change) = answer(&partition, replica, wanted, max_bytes, !given, now_ms);
                    if wants_change {
                        broker.isr_queue.look_at(&partition);
                    }
                    data
                }
                Err(code) => failed(wanted.partition, code, -1),
            };
            let bytes = data.records.as_ref().map_or(0, Records::len);
            left -= i64::try_from(bytes).unwrap_or(i64::MAX);
            given |= bytes > 0;
            partitions.push(data);
        }
        FetchableTopicResponse { topic_id: topic.topic_id, partitions, ..Default::default() }
    };
    request.topics.iter().map(topic_data).collect()
}
