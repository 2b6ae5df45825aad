//! AlterPartitionReassignments, ListPartitionReassignments, ElectLeaders.
//!
//! Owns their translation. Does not own the rules: the controller decides which replicas and leaders there are.

use std::collections::BTreeMap;
use std::sync::Arc;

use strandline_controller::image::MetadataImage;
use strandline_controller::request::{ElectLeaders, ElectionKind, Reassignment, Refused, Request, Response};
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::messages::alter_partition_reassignments_request::AlterPartitionReassignmentsRequest;
use strandline_protocol::messages::alter_partition_reassignments_response::{
    AlterPartitionReassignmentsResponse, ReassignablePartitionResponse, ReassignableTopicResponse,
};
use strandline_protocol::messages::elect_leaders_request::ElectLeadersRequest;
use strandline_protocol::messages::elect_leaders_response::{
    ElectLeadersResponse, PartitionResult, ReplicaElectionResult,
};
use strandline_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsRequest;
use strandline_protocol::messages::list_partition_reassignments_response::{
    ListPartitionReassignmentsResponse, OngoingPartitionReassignment, OngoingTopicReassignment,
};

use super::{Call, told};
use crate::broker::Broker;

pub(super) async fn alter(
    broker: Arc<Broker>,
    _call: Call,
    request: AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    let image = broker.image();
    let mut moves = Vec::new();
    let mut checked = Vec::new();
    for topic in &request.topics {
        for partition in &topic.partitions {
            let wanted = Reassignment {
                topic: topic.name.clone(),
                partition: partition.partition_index,
                replicas: partition.replicas.clone(),
            };
            let check = check_factor(&image, &wanted, request.allow_replication_factor_change);
            if check.is_ok() {
                moves.push(wanted);
            }
            checked.push(check);
        }
    }
    let count = moves.len();
    let outcomes = match broker.ask(Request::Reassign { moves }).await {
        Ok(Response::Reassign(outcomes)) => outcomes,
        Ok(_) => vec![Err(Refused::new(ErrorCode::UnknownServerError, "unexpected answer")); count],
        Err(refused) => vec![Err(refused); count],
    };
    let (mut outcomes, mut checked) = (outcomes.into_iter(), checked.into_iter());
    let mut answer = |partition_index| {
        let check = checked.next().unwrap_or(Ok(()));
        let (error_code, error_message) = told(check.and_then(|()| outcomes.next().unwrap_or(Ok(()))));
        ReassignablePartitionResponse { partition_index, error_code, error_message, ..Default::default() }
    };
    let responses = request.topics.into_iter().map(|topic| ReassignableTopicResponse {
        name: topic.name,
        partitions: topic.partitions.iter().map(|p| answer(p.partition_index)).collect(),
        ..Default::default()
    });
    AlterPartitionReassignmentsResponse {
        responses: responses.collect(),
        error_message: None,
        allow_replication_factor_change: request.allow_replication_factor_change,
        ..Default::default()
    }
}

/// KIP-860: a move that may not change the number of replicas is refused if it would.
fn check_factor(image: &MetadataImage, wanted: &Reassignment, may_change: bool) -> Result<(), Refused> {
    let current = image.topic(&wanted.topic).and_then(|t| image.partition(t.id, wanted.partition));
    let (Some(current), Some(replicas), false) = (current, &wanted.replicas, may_change) else { return Ok(()) };
    let target = current.record.replicas.len() - current.record.removing.len();
    if replicas.len() == target {
        return Ok(());
    }
    let message = format!(
        "The replication factor is changed from {target} to {}, which the request does not allow.",
        replicas.len()
    );
    Err(Refused::new(ErrorCode::InvalidReplicationFactor, message))
}

pub(super) async fn list(
    broker: Arc<Broker>,
    _call: Call,
    request: ListPartitionReassignmentsRequest,
) -> ListPartitionReassignmentsResponse {
    let image = broker.image();
    let asked: Option<BTreeMap<&str, &[i32]>> = request
        .topics
        .as_ref()
        .map(|topics| topics.iter().map(|t| (t.name.as_str(), t.partition_indexes.as_slice())).collect());
    let mut topics: BTreeMap<String, Vec<OngoingPartitionReassignment>> = BTreeMap::new();
    for (tp, partition) in &image.partitions {
        let record = &partition.record;
        let Some(topic) = image.live_topic(tp.topic_id).filter(|_| record.is_reassigning()) else { continue };
        let wanted =
            |asked: &BTreeMap<&str, &[i32]>| asked.get(&*topic.name).is_some_and(|p| p.contains(&tp.partition));
        if asked.as_ref().is_some_and(|asked| !wanted(asked)) {
            continue;
        }
        topics.entry(topic.name.to_string()).or_default().push(OngoingPartitionReassignment {
            partition_index: tp.partition,
            replicas: record.replicas.clone(),
            adding_replicas: record.adding.clone(),
            removing_replicas: record.removing.clone(),
            ..Default::default()
        });
    }
    let topics = topics.into_iter().map(|(name, partitions)| OngoingTopicReassignment {
        name,
        partitions,
        ..Default::default()
    });
    ListPartitionReassignmentsResponse { topics: topics.collect(), error_message: None, ..Default::default() }
}

pub(super) async fn elect(broker: Arc<Broker>, _call: Call, request: ElectLeadersRequest) -> ElectLeadersResponse {
    let kind = match request.election_type {
        0 => ElectionKind::Preferred,
        1 => ElectionKind::Unclean,
        _ => {
            return ElectLeadersResponse { error_code: ErrorCode::InvalidRequest.code(), ..Default::default() };
        }
    };
    let partitions = request.topic_partitions.map(|topics| {
        let each = topics.into_iter().flat_map(|t| t.partitions.into_iter().map(move |p| (t.topic.clone(), p)));
        each.collect()
    });
    let rows = match broker.ask(Request::ElectLeaders(ElectLeaders { kind, partitions })).await {
        Ok(Response::ElectLeaders(rows)) => rows,
        Ok(_) => {
            return ElectLeadersResponse { error_code: ErrorCode::UnknownServerError.code(), ..Default::default() };
        }
        Err(refused) => return ElectLeadersResponse { error_code: refused.code.code(), ..Default::default() },
    };
    let mut results: BTreeMap<String, Vec<PartitionResult>> = BTreeMap::new();
    for (topic, partition_id, outcome) in rows {
        let (error_code, error_message) = told(outcome);
        let row = PartitionResult { partition_id, error_code, error_message, ..Default::default() };
        results.entry(topic).or_default().push(row);
    }
    let results = results.into_iter().map(|(topic, partition_result)| ReplicaElectionResult {
        topic,
        partition_result,
        ..Default::default()
    });
    ElectLeadersResponse { replica_election_results: results.collect(), ..Default::default() }
}
