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
use crate::partition::{Partition, Replica};
use crate::replication::answer::{answer, failed, is_registered};
use crate::replication::fetcher::is_added;
use crate::replication::throttle::Side;

/// The first version in which a replica says its broker epoch.
const EPOCH_SINCE: i16 = 15;
/// Between looks at what a throttle holds back.
const THROTTLE_LOOK: Duration = Duration::from_millis(100);

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
    let mut answer = read_all(&broker, replica, &request);
    if nothing_new(&answer) && request.max_wait_ms > 0 {
        let wake = Arc::new(Notify::new());
        loop {
            // Registered before the read, so that no append slips in between.
            for (topic, p) in wanted(&request) {
                if let Ok(partition) = broker.partitions.leading(topic, p.partition) {
                    partition.wake_on_append(&wake);
                    if broker.config.rack_aware_reads {
                        partition.wake_on_progress(&wake);
                    }
                }
            }
            answer = read_all(&broker, replica, &request);
            if !nothing_new(&answer) || Instant::now() >= deadline {
                break;
            }
            let until = if answer.held_back { deadline.min(Instant::now() + THROTTLE_LOOK) } else { deadline };
            if tokio::time::timeout_at(until, wake.notified()).await.is_err() && until == deadline {
                break;
            }
        }
    }
    FetchResponse { responses: answer.responses, ..Default::default() }
}

fn wanted(request: &FetchRequest) -> impl Iterator<Item = (TopicId, &FetchPartition)> {
    request.topics.iter().flat_map(|topic| topic.partitions.iter().map(|p| (TopicId(topic.topic_id), p)))
}

/// Only waiting can bring something: no records, no errors, nothing to truncate.
fn nothing_new(answer: &Answer) -> bool {
    let quiet = |p: &PartitionData| {
        p.error_code == 0 && p.diverging_epoch.end_offset < 0 && p.records.as_ref().is_none_or(Records::is_empty)
    };
    !answer.high_watermark && answer.responses.iter().flat_map(|t| &t.partitions).all(quiet)
}

/// What one look gives.
struct Answer {
    responses: Vec<FetchableTopicResponse>,
    /// A follower that serves consumers hears of a new high watermark at once.
    high_watermark: bool,
    /// A throttle kept records back.
    held_back: bool,
}

fn read_all(broker: &Arc<Broker>, replica: BrokerId, request: &FetchRequest) -> Answer {
    let now_ms = clock::now_ms();
    let asking = Replica { id: replica, broker_epoch: request.replica_state.replica_epoch };
    let mut left = i64::from(request.max_bytes);
    let (mut given, mut held_back, mut high_watermark) = (false, false, false);
    let topic_data = |topic: &strandline_protocol::messages::fetch_request::FetchTopic| {
        let id = TopicId(topic.topic_id);
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for wanted in &topic.partitions {
            let max_bytes = left.min(i64::from(wanted.partition_max_bytes)).max(0) as u32;
            let mut rate = None;
            let data = match broker.partitions.leading(id, wanted.partition) {
                Ok(partition) => {
                    rate = broker.throttles.rate(broker, &partition, Side::Leader, replica);
                    let spent = rate.is_some_and(|rate| broker.throttles.holds_back(Side::Leader, rate));
                    held_back |= spent;
                    let (max_bytes, min_one) = if spent { (0, false) } else { (max_bytes, !given) };
                    let (data, wants_change) = answer(&partition, asking, wanted, max_bytes, min_one, now_ms);
                    if wants_change {
                        broker.isr_queue.look_at(&partition);
                    }
                    count(broker, &partition, replica, &data);
                    high_watermark |= broker.config.rack_aware_reads
                        && data.error_code == 0
                        && partition.tell_high_watermark(replica, data.high_watermark);
                    data
                }
                Err(code) => failed(wanted.partition, code, -1),
            };
            let bytes = data.records.as_ref().map_or(0, Records::len);
            if rate.is_some() {
                broker.throttles.passed(Side::Leader, bytes);
            }
            left -= i64::try_from(bytes).unwrap_or(i64::MAX);
            given |= bytes > 0;
            partitions.push(data);
        }
        FetchableTopicResponse { topic_id: topic.topic_id, partitions, ..Default::default() }
    };
    let responses = request.topics.iter().map(topic_data).collect();
    Answer { responses, high_watermark, held_back }
}

fn count(broker: &Broker, partition: &Partition, replica: BrokerId, data: &PartitionData) {
    let bytes = data.records.as_ref().map_or(0, Records::len);
    if bytes > 0 {
        broker.metrics.replicated_out(&partition.topic, bytes, is_added(broker, partition, replica));
    }
}
