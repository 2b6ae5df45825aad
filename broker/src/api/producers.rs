//! InitProducerId for idempotent producers, DescribeProducers.

use std::sync::Arc;

use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::validate_topic_name;
use strandline_protocol::messages::describe_producers_request::DescribeProducersRequest;
use strandline_protocol::messages::describe_producers_response::{
    DescribeProducersResponse, PartitionResponse, ProducerState, TopicResponse,
};
use strandline_protocol::messages::init_producer_id_request::InitProducerIdRequest;
use strandline_protocol::messages::init_producer_id_response::InitProducerIdResponse;

use super::Call;
use crate::broker::Broker;

pub(super) async fn init(broker: Arc<Broker>, _call: Call, request: InitProducerIdRequest) -> InitProducerIdResponse {
    let failed = |code: ErrorCode| InitProducerIdResponse {
        error_code: code.code(),
        producer_id: -1,
        producer_epoch: -1,
        ..Default::default()
    };
    // Both or none: together they name a producer that goes on.
    if (request.producer_id == -1) != (request.producer_epoch == -1) {
        return failed(ErrorCode::InvalidRequest);
    }
    match &request.transactional_id {
        Some(id) if id.is_empty() => return failed(ErrorCode::InvalidRequest),
        // Transactions are not served yet; no transactional id is ever known here.
        Some(_) => return failed(ErrorCode::TransactionalIdAuthorizationFailed),
        None => {}
    }
    match broker.producer_ids.next(&broker).await {
        Ok(producer_id) => InitProducerIdResponse { producer_id, producer_epoch: 0, ..Default::default() },
        Err(refused) => {
            tracing::warn!(%refused, "no producer id");
            failed(ErrorCode::CoordinatorLoadInProgress)
        }
    }
}

pub(super) async fn describe(
    broker: Arc<Broker>,
    _call: Call,
    request: DescribeProducersRequest,
) -> DescribeProducersResponse {
    let image = broker.image();
    let topics = request
        .topics
        .iter()
        .map(|topic| {
            let id = image.topic(&topic.name).map(|t| t.id);
            let (unknown, message) = match (validate_topic_name(&topic.name), id) {
                (Err(invalid), _) => (ErrorCode::InvalidTopicException, Some(invalid.to_string())),
                (Ok(()), None) => {
                    let message = "This server does not host this topic-partition.";
                    (ErrorCode::UnknownTopicOrPartition, Some(message.to_owned()))
                }
                (Ok(()), Some(_)) => (ErrorCode::UnknownTopicOrPartition, None),
            };
            let partitions = topic
                .partition_indexes
                .iter()
                .map(|index| {
                    let found = id.and_then(|id| broker.partitions.leading(id, *index).ok());
                    let Some(partition) = found else {
                        return PartitionResponse {
                            partition_index: *index,
                            error_code: unknown.code(),
                            error_message: message.clone(),
                            ..Default::default()
                        };
                    };
                    let active_producers = partition
                        .producers()
                        .into_iter()
                        .map(|p| ProducerState {
                            producer_id: p.producer_id,
                            producer_epoch: i32::from(p.producer_epoch),
                            last_sequence: p.last_sequence,
                            last_timestamp: p.last_timestamp,
                            coordinator_epoch: p.coordinator_epoch,
                            current_txn_start_offset: p.current_txn_first_offset.unwrap_or(-1),
                            ..Default::default()
                        })
                        .collect();
                    PartitionResponse { partition_index: *index, active_producers, ..Default::default() }
                })
                .collect();
            TopicResponse { name: topic.name.clone(), partitions, ..Default::default() }
        })
        .collect();
    DescribeProducersResponse { topics, ..Default::default() }
}
