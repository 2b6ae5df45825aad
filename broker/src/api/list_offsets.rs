//! ListOffsets over both tiers, and OffsetForLeaderEpoch.

use std::collections::BTreeSet;
use std::sync::Arc;

use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsRequest};
use strandline_protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsResponse, ListOffsetsTopicResponse,
};
use strandline_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderEpochRequest;
use strandline_protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderEpochResponse, OffsetForLeaderTopicResult,
};

use super::Call;
use crate::broker::Broker;
use crate::partition::{Partition, TimestampedOffset};

/// Kafka's special timestamps (KIP-405, KIP-734, KIP-1005, KIP-1023).
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;
const EARLIEST_PENDING_UPLOAD: i64 = -6;

const NOT_FOUND: TimestampedOffset = TimestampedOffset { offset: -1, timestamp: -1, leader_epoch: -1 };

pub(super) async fn handle(broker: Arc<Broker>, call: Call, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let mut topics = Vec::new();
    // A topic of which nothing is asked is not answered.
    for topic in request.topics.iter().filter(|t| !t.partitions.is_empty()) {
        let id = broker.image().topic(&topic.name).map(|t| t.id);
        let mut partitions = Vec::new();
        let (mut seen, mut repeated) = (BTreeSet::new(), BTreeSet::new());
        repeated.extend(topic.partitions.iter().map(|p| p.partition_index).filter(|p| !seen.insert(*p)));
        let mut answered = BTreeSet::new();
        for asked in topic.partitions.iter().filter(|p| answered.insert(p.partition_index)) {
            let outcome = match id.ok_or(ErrorCode::UnknownTopicOrPartition) {
                _ if repeated.contains(&asked.partition_index) => Err(ErrorCode::InvalidRequest),
                Err(code) => Err(code),
                Ok(id) => match broker.partitions.leading(id, asked.partition_index) {
                    Err(code) => Err(code),
                    Ok(partition) => find(&broker, &call, &partition, asked, request.isolation_level).await,
                },
            };
            let (found, code) = match outcome {
                Ok(found) => (found, ErrorCode::None),
                Err(code) => (NOT_FOUND, code),
            };
            partitions.push(ListOffsetsPartitionResponse {
                partition_index: asked.partition_index,
                error_code: code.code(),
                timestamp: found.timestamp,
                offset: found.offset,
                // Older answers have no place for it.
                leader_epoch: if call.version >= 4 { found.leader_epoch } else { -1 },
                ..Default::default()
            });
        }
        topics.push(ListOffsetsTopicResponse { name: topic.name.clone(), partitions, ..Default::default() });
    }
    ListOffsetsResponse { topics, ..Default::default() }
}

/// First version that knows each special timestamp.
fn known_in_version(timestamp: i64, version: i16) -> bool {
    match timestamp {
        MAX_TIMESTAMP => version >= 7,
        EARLIEST_LOCAL => version >= 8,
        LATEST_TIERED => version >= 9,
        EARLIEST_PENDING_UPLOAD => version >= 11,
        other => other >= EARLIEST,
    }
}

async fn find(
    broker: &Arc<Broker>,
    call: &Call,
    partition: &Arc<Partition>,
    asked: &ListOffsetsPartition,
    isolation_level: i8,
) -> Result<TimestampedOffset, ErrorCode> {
    if !known_in_version(asked.timestamp, call.version) {
        return Err(ErrorCode::UnsupportedVersion);
    }
    partition.check_epoch(asked.current_leader_epoch)?;
    let offsets = partition.offsets();
    let at = |offset: i64| TimestampedOffset { offset, timestamp: -1, leader_epoch: partition.epoch_of(offset) };
    // What a consumer of this isolation level may see ends here.
    let end = if isolation_level == 1 { offsets.last_stable } else { offsets.high_watermark };
    // A new leader does not know yet how much of its log was acknowledged: an end that it told could go back (KIP-207).
    let end_is_known = partition.end_is_known();
    let not_yet = if call.version >= 5 { ErrorCode::OffsetNotAvailable } else { ErrorCode::LeaderNotAvailable };
    match asked.timestamp {
        LATEST | MAX_TIMESTAMP if !end_is_known => Err(not_yet),
        LATEST => Ok(TimestampedOffset { leader_epoch: partition.leader_epoch(), ..at(end) }),
        EARLIEST => Ok(at(offsets.log_start)),
        EARLIEST_LOCAL => Ok(at(offsets.local_log_start)),
        LATEST_TIERED => Ok(match partition.tiered_range() {
            Some((_, highest)) => at(highest),
            None => NOT_FOUND,
        }),
        EARLIEST_PENDING_UPLOAD => Ok(match partition.highest_copied() {
            Some(highest) => at(highest + 1),
            None => NOT_FOUND,
        }),
        MAX_TIMESTAMP => {
            let found = partition.offset_of_max_timestamp(end).map_err(|e| e.code())?;
            Ok(found.unwrap_or(NOT_FOUND))
        }
        timestamp => {
            let found = broker.offset_for_timestamp(partition, timestamp).await?;
            match found.filter(|f| f.offset < end) {
                Some(found) => Ok(found),
                None if !end_is_known => Err(not_yet),
                None => Ok(NOT_FOUND),
            }
        }
    }
}

pub(super) async fn for_leader_epoch(
    broker: Arc<Broker>,
    _call: Call,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let image = broker.image();
    let topics = request
        .topics
        .iter()
        .map(|topic| {
            let id = image.topic(&topic.topic).map(|t| t.id).ok_or(ErrorCode::UnknownTopicOrPartition);
            let partitions = topic
                .partitions
                .iter()
                .map(|asked| {
                    let found = id
                        .and_then(|id| broker.partitions.leading(id, asked.partition))
                        .and_then(|p| p.check_epoch(asked.current_leader_epoch).map(|()| p))
                        .map(|p| p.end_offset_for_epoch(asked.leader_epoch));
                    let (code, (leader_epoch, end_offset)) = match found {
                        Ok(found) => (ErrorCode::None, found.unwrap_or((-1, -1))),
                        Err(code) => (code, (-1, -1)),
                    };
                    EpochEndOffset {
                        error_code: code.code(),
                        partition: asked.partition,
                        leader_epoch,
                        end_offset,
                        ..Default::default()
                    }
                })
                .collect();
            OffsetForLeaderTopicResult { topic: topic.topic.clone(), partitions, ..Default::default() }
        })
        .collect();
    OffsetForLeaderEpochResponse { topics, ..Default::default() }
}
