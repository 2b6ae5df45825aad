//! Produce: appended when the frame is complete, answered when what was appended is as safe as asked for.
//!
//! Flow: `start` (validates, appends each partition) -> `Partition::append` -> `Log::append_as_leader`; then, for
//! acks other than 0, waits until the high watermark covers it.

use std::sync::Arc;
use std::time::Duration;

use strandline_protocol::codec::Reader;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::frame::RequestHeader;
use strandline_protocol::ids::TopicId;
use strandline_protocol::messages::Message;
use strandline_protocol::messages::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use strandline_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, PartitionProduceResponse, ProduceResponse, TopicProduceResponse,
};
use strandline_protocol::record_batch::BatchHeader;
use strandline_protocol::rope::Records;

use super::{Call, respond};
use crate::broker::Broker;
use crate::clock;
use crate::net::Reply;
use crate::partition::{Acks, AppendRefused, Durable, Origin, Partition};

/// One partition's part: its answer, and what it still waits for.
struct Part {
    response: PartitionProduceResponse,
    durable: Option<Durable>,
}

pub(super) fn start(broker: Arc<Broker>, call: Call, header: RequestHeader, mut body: Reader) -> Reply {
    let request = match ProduceRequest::decode(&mut body, header.api_version) {
        Ok(request) => request,
        Err(error) => return Reply::Close(format!("malformed Produce v{}: {error}", header.api_version)),
    };
    drop(body);
    let acks = request.acks;
    let timeout = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let parts = append_all(&broker, &call, request);
    if acks == 0 {
        let failed = parts.iter().flat_map(|(_, parts)| parts).find(|p| p.response.error_code != 0);
        // There is no answer to carry the error: closing makes the client look again, as in Kafka.
        return match failed {
            None => Reply::None,
            Some(part) => Reply::Close(format!("produce with acks=0 failed with error {}", part.response.error_code)),
        };
    }
    Reply::Later(Box::pin(async move {
        let response = finish(parts, timeout).await;
        respond::<ProduceRequest>(&header, &response)
    }))
}

fn append_all(broker: &Arc<Broker>, call: &Call, request: ProduceRequest) -> Vec<(TopicProduceResponse, Vec<Part>)> {
    let refused = refuse_all(&request);
    let now_ms = clock::now_ms();
    let mut topics = Vec::with_capacity(request.topic_data.len());
    let acks = if request.acks == -1 { Acks::All } else { Acks::Leader };
    // A topic without data is not answered.
    for topic in request.topic_data.into_iter().filter(|t| !t.partition_data.is_empty()) {
        let known = resolve(broker, call.version, &topic);
        let parts = topic
            .partition_data
            .into_iter()
            .map(|data| {
                let index = data.index;
                let outcome = match (refused, &known) {
                    (Some(code), _) => Err(AppendRefused::from(code)),
                    (None, Err(code)) => Err(AppendRefused::from(*code)),
                    (None, Ok((id, _))) => append(broker, *id, data, acks, now_ms),
                };
                part(broker, index, outcome)
            })
            .collect();
        let (name, id) = match known {
            Ok((id, name)) => (name, id.0),
            Err(_) => (topic.name, topic.topic_id),
        };
        topics.push((TopicProduceResponse { name, topic_id: id, ..Default::default() }, parts));
    }
    topics
}

/// What is wrong with the request as a whole.
fn refuse_all(request: &ProduceRequest) -> Option<ErrorCode> {
    if !(-1..=1).contains(&request.acks) {
        return Some(ErrorCode::InvalidRequiredAcks);
    }
    // Transactions are not served yet: no transactional id is ever known here. The id alone does no harm.
    let data = request.topic_data.iter().flat_map(|t| &t.partition_data);
    data.into_iter().any(is_transactional).then_some(ErrorCode::TransactionalIdAuthorizationFailed)
}

fn is_transactional(data: &PartitionProduceData) -> bool {
    match &data.records {
        Some(Records::Bytes(bytes)) => BatchHeader::parse(bytes).is_ok_and(|header| header.is_transactional()),
        _ => false,
    }
}

/// The topic, by name up to version 12, by id from 13 on.
fn resolve(broker: &Broker, version: i16, topic: &TopicProduceData) -> Result<(TopicId, String), ErrorCode> {
    let image = broker.image();
    if version >= 13 {
        let id = TopicId(topic.topic_id);
        image.live_topic(id).map(|t| (id, t.name.to_string())).ok_or(ErrorCode::UnknownTopicId)
    } else {
        image.topic(&topic.name).map(|t| (t.id, topic.name.clone())).ok_or(ErrorCode::UnknownTopicOrPartition)
    }
}

fn append(
    broker: &Arc<Broker>,
    id: TopicId,
    data: PartitionProduceData,
    acks: Acks,
    now_ms: i64,
) -> Result<crate::partition::Appended, AppendRefused> {
    let partition: Arc<Partition> = broker.partitions.leading(id, data.index).map_err(AppendRefused::from)?;
    let records = match data.records {
        Some(Records::Bytes(bytes)) if !bytes.is_empty() => bytes,
        _ => return Err(AppendRefused::from(ErrorCode::InvalidRecord)),
    };
    broker.disk_guard.admit(&partition)?;
    let appended = partition.append(&records, Origin::Client, acks, now_ms)?;
    if appended.closed_segment && partition.remote.is_some() {
        broker.segment_closed.notify_one();
    }
    broker.metrics.produced(&partition.topic, records.len() as u64, appended.record_count());
    Ok(appended)
}

fn part(broker: &Broker, index: i32, outcome: Result<crate::partition::Appended, AppendRefused>) -> Part {
    match outcome {
        Ok(appended) => Part {
            response: PartitionProduceResponse {
                index,
                base_offset: appended.first_offset,
                log_append_time_ms: appended.log_append_time_ms,
                log_start_offset: appended.log_start_offset,
                ..Default::default()
            },
            durable: appended.durable,
        },
        Err(refused) => {
            broker.metrics.failed_produce();
            Part {
                response: PartitionProduceResponse {
                    index,
                    error_code: refused.code.code(),
                    base_offset: -1,
                    log_append_time_ms: -1,
                    log_start_offset: -1,
                    error_message: refused.message,
                    record_errors: refused.records.into_iter().map(record_error).collect(),
                    ..Default::default()
                },
                durable: None,
            }
        }
    }
}

fn record_error((batch_index, message): (i32, String)) -> BatchIndexAndErrorMessage {
    BatchIndexAndErrorMessage { batch_index, batch_index_error_message: Some(message), ..Default::default() }
}

/// A sync of this node's disk is waited for at least so long: the client's timeout is meant for other replicas, and in Kafka
/// one of 0 does not make an append fail that needs none.
const LOCAL_SYNC_MIN: Duration = Duration::from_secs(5);

/// Waits for every partition, together no longer than the client's timeout or [`LOCAL_SYNC_MIN`].
async fn finish(topics: Vec<(TopicProduceResponse, Vec<Part>)>, timeout: Duration) -> ProduceResponse {
    let deadline = tokio::time::Instant::now() + timeout.max(LOCAL_SYNC_MIN);
    let mut responses = Vec::with_capacity(topics.len());
    for (mut topic, parts) in topics {
        for mut part in parts {
            if let Some(durable) = part.durable.take() {
                let code = match tokio::time::timeout_at(deadline, durable.wait()).await {
                    Ok(Ok(())) => ErrorCode::None,
                    Ok(Err(failed)) => failed.code(),
                    Err(_) => ErrorCode::RequestTimedOut,
                };
                if code != ErrorCode::None {
                    part.response.error_code = code.code();
                    part.response.base_offset = -1;
                }
            }
            topic.partition_responses.push(part.response);
        }
        responses.push(topic);
    }
    ProduceResponse { responses, ..Default::default() }
}
