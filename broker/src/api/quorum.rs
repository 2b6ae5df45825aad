//! DescribeQuorum, AddRaftVoter, RemoveRaftVoter, UnregisterBroker.
//!
//! Owns their translation. The metadata log is told as Kafka's partition 0 of `__cluster_metadata`: offsets are indexes
//! of its entries, the leader epoch is the term.

use std::sync::Arc;

use strandline_controller::request::{Refused, Request, Response};
use strandline_controller::{ControllerError, NodeId, QuorumView, ReplicaView};
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::messages::add_raft_voter_request::AddRaftVoterRequest;
use strandline_protocol::messages::add_raft_voter_response::AddRaftVoterResponse;
use strandline_protocol::messages::describe_quorum_request::{DescribeQuorumRequest, PartitionData as AskedPartition};
use strandline_protocol::messages::describe_quorum_response::{
    DescribeQuorumResponse, Listener, Node, PartitionData, ReplicaState, TopicData,
};
use strandline_protocol::messages::remove_raft_voter_request::RemoveRaftVoterRequest;
use strandline_protocol::messages::remove_raft_voter_response::RemoveRaftVoterResponse;
use strandline_protocol::messages::unregister_broker_request::UnregisterBrokerRequest;
use strandline_protocol::messages::unregister_broker_response::UnregisterBrokerResponse;

use super::{Call, told};
use crate::broker::Broker;
use crate::clock;

/// Kafka's name for the metadata log.
const METADATA_TOPIC: &str = "__cluster_metadata";

pub(super) async fn describe(
    broker: Arc<Broker>,
    call: Call,
    request: DescribeQuorumRequest,
) -> DescribeQuorumResponse {
    let quorum = broker.controller.quorum_of_leader().await;
    let partition = |topic: &str, asked: &AskedPartition| {
        if topic == METADATA_TOPIC && asked.partition_index == 0 {
            return metadata_partition(&quorum, call.version);
        }
        let code = ErrorCode::UnknownTopicOrPartition;
        PartitionData {
            partition_index: asked.partition_index,
            error_code: code.code(),
            error_message: Some(code.message().to_owned()),
            ..Default::default()
        }
    };
    let topics = request.topics.iter().map(|topic| TopicData {
        topic_name: topic.topic_name.clone(),
        partitions: topic.partitions.iter().map(|p| partition(&topic.topic_name, p)).collect(),
        ..Default::default()
    });
    let listener = broker.config.controller_listeners.first().map_or("CONTROLLER", |l| l.name.as_str());
    let nodes = if call.version >= 2 { nodes(&quorum, listener) } else { Vec::new() };
    DescribeQuorumResponse { topics: topics.collect(), nodes, error_message: None, ..Default::default() }
}

fn metadata_partition(quorum: &QuorumView, version: i16) -> PartitionData {
    let now = clock::now_ms();
    let offset = |index: u64| i64::try_from(index).unwrap_or(i64::MAX);
    let state = |replica: &ReplicaView| {
        // When a follower last fetched is not kept; one that has everything has it now.
        let current = replica.matched.is_some_and(|index| index >= quorum.last_index);
        let since = if current && version >= 1 { now } else { -1 };
        ReplicaState {
            replica_id: node_id(replica.node_id),
            log_end_offset: replica.matched.map_or(-1, |index| offset(index.saturating_add(1))),
            last_fetch_timestamp: since,
            last_caught_up_timestamp: since,
            ..Default::default()
        }
    };
    let states = |voters: bool| quorum.replicas.iter().filter(|r| r.voter == voters).map(state).collect();
    let error = if quorum.leader.is_none() { ErrorCode::LeaderNotAvailable } else { ErrorCode::None };
    PartitionData {
        partition_index: 0,
        error_code: error.code(),
        error_message: None,
        leader_id: quorum.leader.map_or(-1, node_id),
        leader_epoch: i32::try_from(quorum.term).unwrap_or(i32::MAX),
        high_watermark: offset(quorum.applied_index.saturating_add(1)),
        current_voters: states(true),
        observers: states(false),
        ..Default::default()
    }
}

fn nodes(quorum: &QuorumView, listener: &str) -> Vec<Node> {
    let node = |replica: &ReplicaView| {
        let (host, port) = replica.address.rsplit_once(':').unwrap_or((&replica.address, ""));
        let endpoint = Listener {
            name: listener.to_owned(),
            host: host.to_owned(),
            port: port.parse().unwrap_or(0),
            ..Default::default()
        };
        Node { node_id: node_id(replica.node_id), listeners: vec![endpoint], ..Default::default() }
    };
    quorum.replicas.iter().map(node).collect()
}

fn node_id(id: NodeId) -> i32 {
    i32::try_from(id).unwrap_or(i32::MAX)
}

pub(super) async fn add_voter(broker: Arc<Broker>, _call: Call, request: AddRaftVoterRequest) -> AddRaftVoterResponse {
    let outcome = try_add_voter(&broker, &request).await;
    let (error_code, error_message) = told(outcome);
    AddRaftVoterResponse { error_code, error_message, ..Default::default() }
}

async fn try_add_voter(broker: &Broker, request: &AddRaftVoterRequest) -> Result<(), Refused> {
    check_cluster(broker, request.cluster_id.as_deref())?;
    let id = voter_key(request.voter_id)?;
    let Some(endpoint) = request.listeners.first() else {
        return Err(Refused::new(ErrorCode::InvalidRequest, "The voter has no listener."));
    };
    if broker.controller.quorum().replicas.iter().any(|r| r.voter && r.node_id == id) {
        let message = format!("Node {id} is a voter already.");
        return Err(Refused::new(ErrorCode::DuplicateVoter, message));
    }
    let address = format!("{}:{}", endpoint.host, endpoint.port);
    broker.controller.add_member(id, &address, true).await.map_err(|error| not_changed(&error))
}

pub(super) async fn remove_voter(
    broker: Arc<Broker>,
    _call: Call,
    request: RemoveRaftVoterRequest,
) -> RemoveRaftVoterResponse {
    let outcome = try_remove_voter(&broker, &request).await;
    let (error_code, error_message) = told(outcome);
    RemoveRaftVoterResponse { error_code, error_message, ..Default::default() }
}

async fn try_remove_voter(broker: &Broker, request: &RemoveRaftVoterRequest) -> Result<(), Refused> {
    check_cluster(broker, request.cluster_id.as_deref())?;
    let id = voter_key(request.voter_id)?;
    let voters: Vec<NodeId> =
        broker.controller.quorum().replicas.iter().filter(|r| r.voter).map(|r| r.node_id).collect();
    if !voters.contains(&id) {
        let message = format!("Node {id} is not a voter.");
        return Err(Refused::new(ErrorCode::VoterNotFound, message));
    }
    if voters.len() == 1 {
        let message = format!("Node {id} is the only voter: add another one first.");
        return Err(Refused::new(ErrorCode::InvalidRequest, message));
    }
    broker.controller.remove_member(id).await.map_err(|error| not_changed(&error))
}

fn check_cluster(broker: &Broker, asked: Option<&str>) -> Result<(), Refused> {
    let image = broker.image();
    match (asked, image.cluster_id.as_deref()) {
        (Some(asked), Some(here)) if asked != here => {
            let message = format!("This is cluster {here}, not {asked}.");
            Err(Refused::new(ErrorCode::InconsistentClusterId, message))
        }
        _ => Ok(()),
    }
}

fn voter_key(id: i32) -> Result<NodeId, Refused> {
    NodeId::try_from(id).map_err(|_| Refused::new(ErrorCode::InvalidVoterKey, format!("{id} is not a node id.")))
}

fn not_changed(error: &ControllerError) -> Refused {
    let code = match error {
        ControllerError::NotController { .. } => ErrorCode::NotController,
        _ => ErrorCode::RequestTimedOut,
    };
    Refused::new(code, error.to_string())
}

pub(super) async fn unregister(
    broker: Arc<Broker>,
    _call: Call,
    request: UnregisterBrokerRequest,
) -> UnregisterBrokerResponse {
    let outcome = match broker.ask(Request::UnregisterBroker { broker_id: request.broker_id }).await {
        Ok(Response::UnregisterBroker(outcome)) => outcome,
        Ok(_) => Err(Refused::new(ErrorCode::UnknownServerError, "unexpected answer")),
        Err(refused) => Err(refused),
    };
    if outcome.is_ok() {
        forget_follower(&broker, request.broker_id).await;
    }
    let (error_code, error_message) = told(outcome);
    UnregisterBrokerResponse { error_code, error_message, ..Default::default() }
}

/// A broker that is gone for good need not be sent the metadata any more. A voter stays one: its vote is taken by itself.
async fn forget_follower(broker: &Broker, broker_id: i32) {
    let Ok(id) = NodeId::try_from(broker_id) else { return };
    let follows = broker.controller.quorum_of_leader().await.replicas.iter().any(|r| r.node_id == id && !r.voter);
    if follows && let Err(error) = broker.controller.remove_member(id).await {
        tracing::warn!(broker_id, %error, "the metadata is still sent to a broker that is not registered any more");
    }
}
