//! Fetch by followers: the same request as a consumer's, with a replica's id.
//!
//! Owns waiting for something to send, and the limits of one answer. Does not own what a partition answers (`replication::answer`) nor
//! sessions (`fetch_session`). Invariants: a fetch looks at every partition of its session, because it says of each what is durable
//! there; its answer names those with news.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::{BrokerId, TopicId};
use strandline_protocol::messages::fetch_request::FetchRequest;
use strandline_protocol::messages::fetch_response::{FetchResponse, FetchableTopicResponse, PartitionData};
use strandline_protocol::rope::Records;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Call, fetch};
use crate::broker::Broker;
use crate::clock;
use crate::fetch_session::{Place, Plan, Telling, Told, TopicKey, Wanted};
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
    let plan = match fetch::plan(&broker, &call, &request, Some(replica)) {
        Ok(plan) => plan,
        Err(code) => return FetchResponse { error_code: code.code(), ..Default::default() },
    };
    let deadline = Instant::now() + Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
    let asking = Replica { id: replica, broker_epoch: epoch };
    let mut answer = read_all(&broker, asking, request.max_bytes, &plan);
    if nothing_new(&answer) && request.max_wait_ms > 0 {
        let wake = Arc::new(Notify::new());
        loop {
            // Registered before the read, so that no append slips in between.
            for (_, wanted) in &plan.wanted {
                if let Ok(partition) = leading(&broker, wanted) {
                    partition.wake_on_append(&wake);
                    if broker.config.rack_aware_reads {
                        partition.wake_on_progress(&wake);
                    }
                }
            }
            answer = read_all(&broker, asking, request.max_bytes, &plan);
            if !nothing_new(&answer) || Instant::now() >= deadline {
                break;
            }
            let until = if answer.held_back { deadline.min(Instant::now() + THROTTLE_LOOK) } else { deadline };
            if tokio::time::timeout_at(until, wake.notified()).await.is_err() && until == deadline {
                break;
            }
        }
    }
    respond(&broker, plan, answer.partitions)
}

fn leading(broker: &Broker, wanted: &Wanted) -> Result<Arc<Partition>, ErrorCode> {
    match &wanted.topic {
        TopicKey::Id(id) => broker.partitions.leading(*id, wanted.partition),
        // No version in which a replica says its broker epoch names topics.
        TopicKey::Name(_) => Err(ErrorCode::UnknownTopicOrPartition),
    }
}

/// Only waiting can bring something of the partition: no records, no error, nothing to truncate.
fn quiet(p: &PartitionData) -> bool {
    p.error_code == 0 && p.diverging_epoch.end_offset < 0 && p.records.as_ref().is_none_or(Records::is_empty)
}

fn nothing_new(answer: &Answer) -> bool {
    !answer.high_watermark && answer.partitions.iter().all(quiet)
}

/// What one look gives.
struct Answer {
    /// In the order of the plan.
    partitions: Vec<PartitionData>,
    /// A follower that serves consumers hears of a new high watermark at once.
    high_watermark: bool,
    /// A throttle kept records back.
    held_back: bool,
}

fn read_all(broker: &Arc<Broker>, asking: Replica, max_bytes: i32, plan: &Plan) -> Answer {
    let (now_ms, replica) = (clock::now_ms(), asking.id);
    let mut left = i64::from(max_bytes);
    let (mut given, mut held_back, mut high_watermark) = (false, false, false);
    let mut partitions = Vec::with_capacity(plan.wanted.len());
    for (_, wanted) in &plan.wanted {
        let max_bytes = left.min(i64::from(wanted.max_bytes)).max(0) as u32;
        let mut rate = None;
        let data = match leading(broker, wanted) {
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
    Answer { partitions, high_watermark, held_back }
}

/// The answer, which in a session leaves out the partitions of which there is nothing new to say.
fn respond(broker: &Broker, plan: Plan, partitions: Vec<PartitionData>) -> FetchResponse {
    let telling = |(place, data): (Place, &PartitionData)| Telling {
        place,
        told: Told { high_watermark: data.high_watermark, log_start_offset: data.log_start_offset },
        with_records: data.records.as_ref().is_some_and(|records| !records.is_empty()),
    };
    let places = plan.wanted.iter().map(|(place, _)| *place);
    let tellings: Vec<Telling> = places.zip(&partitions).map(telling).collect();
    let news = broker.sessions.tell(plan.session_id, &tellings);
    let mut responses: Vec<FetchableTopicResponse> = Vec::new();
    let mut topics: HashMap<TopicId, usize> = HashMap::new();
    for (((_, wanted), data), is_news) in plan.wanted.into_iter().zip(partitions).zip(news) {
        if plan.incremental && quiet(&data) && !is_news {
            continue;
        }
        let TopicKey::Id(id) = wanted.topic else { continue };
        let topic = *topics.entry(id).or_insert_with(|| {
            responses.push(FetchableTopicResponse { topic_id: id.0, ..Default::default() });
            responses.len() - 1
        });
        responses[topic].partitions.push(data);
    }
    FetchResponse { session_id: plan.session_id, responses, ..Default::default() }
}

fn count(broker: &Broker, partition: &Partition, replica: BrokerId, data: &PartitionData) {
    let bytes = data.records.as_ref().map_or(0, Records::len);
    if bytes > 0 {
        broker.metrics.replicated_out(&partition.topic, bytes, is_added(broker, partition, replica));
    }
}
