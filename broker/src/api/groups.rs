//! Consumer groups: FindCoordinator, the group protocol, committed offsets, and their administration.
//!
//! Owns the mapping of requests of every version to the coordinator, and of topic ids to names. Decides nothing about
//! groups (`group`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use strandline_controller::image::MetadataImage;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::TopicId;
use strandline_protocol::messages::delete_groups_request::DeleteGroupsRequest;
use strandline_protocol::messages::delete_groups_response::{DeletableGroupResult, DeleteGroupsResponse};
use strandline_protocol::messages::describe_groups_request::DescribeGroupsRequest;
use strandline_protocol::messages::describe_groups_response::{
    DescribeGroupsResponse, DescribedGroup, DescribedGroupMember,
};
use strandline_protocol::messages::find_coordinator_request::FindCoordinatorRequest;
use strandline_protocol::messages::find_coordinator_response::{Coordinator, FindCoordinatorResponse};
use strandline_protocol::messages::heartbeat_request::HeartbeatRequest;
use strandline_protocol::messages::heartbeat_response::HeartbeatResponse;
use strandline_protocol::messages::join_group_request::JoinGroupRequest;
use strandline_protocol::messages::join_group_response::JoinGroupResponse;
use strandline_protocol::messages::leave_group_request::LeaveGroupRequest;
use strandline_protocol::messages::leave_group_response::{LeaveGroupResponse, MemberResponse};
use strandline_protocol::messages::list_groups_request::ListGroupsRequest;
use strandline_protocol::messages::list_groups_response::{ListGroupsResponse, ListedGroup};
use strandline_protocol::messages::offset_commit_request::OffsetCommitRequest;
use strandline_protocol::messages::offset_commit_response::{
    OffsetCommitResponse, OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use strandline_protocol::messages::offset_delete_request::OffsetDeleteRequest;
use strandline_protocol::messages::offset_delete_response::{
    OffsetDeleteResponse, OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use strandline_protocol::messages::offset_fetch_request::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use strandline_protocol::messages::offset_fetch_response::{
    OffsetFetchResponse, OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use strandline_protocol::messages::sync_group_request::SyncGroupRequest;
use strandline_protocol::messages::sync_group_response::SyncGroupResponse;
use uuid::Uuid;

use super::{Call, GROUP_OPERATIONS, MALFORMED, operations};
use crate::auto_topics::CONSUMER_OFFSETS;
use crate::broker::Broker;
use crate::group::{Commit, CommitPartition, GroupSnapshot, JoinGroup, OffsetsByTopic, Protocol, SyncGroup};

/// Kafka's `CoordinatorType`s. Transactions have no coordinator here.
const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
/// First version of OffsetCommit and OffsetFetch with topic ids instead of names.
const TOPIC_IDS_SINCE: i16 = 10;
/// `group_type` of the groups that are served.
const CLASSIC: &str = "classic";

pub(super) async fn find_coordinator(
    broker: Arc<Broker>,
    call: Call,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let made = match request.key_type {
        GROUP => broker.auto_topics.create(&broker, CONSUMER_OFFSETS).await.map_err(|refused| {
            tracing::warn!(%refused, "no {CONSUMER_OFFSETS}");
            ErrorCode::CoordinatorNotAvailable
        }),
        TRANSACTION => Err(ErrorCode::CoordinatorNotAvailable),
        _ => Err(ErrorCode::InvalidRequest),
    };
    let image = broker.image();
    let find = |key: &str| {
        let found =
            made.and_then(|()| coordinator_node(&broker, &image, key).ok_or(ErrorCode::CoordinatorNotAvailable));
        let (code, (node_id, host, port)) = match found {
            Ok(node) => (ErrorCode::None, node),
            Err(code) => (code, (-1, String::new(), -1)),
        };
        let error_message = match code {
            ErrorCode::None if call.version >= 4 => String::new(),
            ErrorCode::None => ErrorCode::None.name().to_owned(),
            ErrorCode::InvalidRequest => MALFORMED.to_owned(),
            code => code.message(),
        };
        Coordinator {
            key: key.to_owned(),
            node_id,
            host,
            port,
            error_code: code.code(),
            error_message: Some(error_message),
        }
    };
    if call.version >= 4 {
        let coordinators = request.coordinator_keys.iter().map(|key| find(key)).collect();
        return FindCoordinatorResponse { coordinators, ..Default::default() };
    }
    let found = find(&request.key);
    FindCoordinatorResponse {
        error_code: found.error_code,
        error_message: found.error_message,
        node_id: found.node_id,
        host: found.host,
        port: found.port,
        ..Default::default()
    }
}

/// The broker that leads the group's partition, with the endpoint of the client listener.
fn coordinator_node(broker: &Broker, image: &MetadataImage, group_id: &str) -> Option<(i32, String, i32)> {
    let topic = image.topic(CONSUMER_OFFSETS)?;
    let partition = crate::group::partition_for(group_id, topic.partition_count);
    // A partition that this node serves is its own even if the image is behind.
    let leader = image.partition(topic.id, partition).map(|p| p.record.leader).filter(|leader| *leader >= 0)?;
    let node = image.brokers.get(&leader).filter(|b| leader == broker.config.node_id || !b.fenced)?;
    let endpoint = node.endpoints.first()?;
    Some((leader, endpoint.host.clone(), i32::from(endpoint.port)))
}

pub(super) async fn join(broker: Arc<Broker>, call: Call, request: JoinGroupRequest) -> JoinGroupResponse {
    // Version 0 has one timeout for both.
    let rebalance_timeout_ms =
        if call.version == 0 { request.session_timeout_ms } else { request.rebalance_timeout_ms };
    let protocols = request.protocols.into_iter().map(|p| Protocol { name: p.name, metadata: p.metadata });
    let join = JoinGroup {
        group_id: request.group_id,
        member_id: request.member_id,
        instance_id: request.group_instance_id,
        client_id: call.client_id.unwrap_or_default(),
        client_host: format!("/{}", call.context.peer.ip()),
        rebalance_timeout_ms,
        session_timeout_ms: request.session_timeout_ms,
        protocol_type: request.protocol_type,
        protocols: protocols.collect(),
        member_id_required: call.version >= 4,
        skip_assignment_supported: call.version >= 9,
    };
    let mut response = broker.groups.join(join).await;
    if call.version < 7 {
        // Not nullable there.
        response.protocol_name.get_or_insert_default();
    }
    response
}

pub(super) async fn sync(broker: Arc<Broker>, call: Call, request: SyncGroupRequest) -> SyncGroupResponse {
    if call.version >= 5 && (request.protocol_type.is_none() || request.protocol_name.is_none()) {
        let error_code = ErrorCode::InconsistentGroupProtocol.code();
        return SyncGroupResponse { error_code, ..Default::default() };
    }
    let sync = SyncGroup {
        group_id: request.group_id,
        member_id: request.member_id,
        instance_id: request.group_instance_id,
        generation: request.generation_id,
        protocol_type: request.protocol_type,
        protocol_name: request.protocol_name,
        assignments: request.assignments.into_iter().map(|a| (a.member_id, a.assignment)).collect(),
    };
    broker.groups.sync(sync).await
}

pub(super) async fn heartbeat(broker: Arc<Broker>, _call: Call, request: HeartbeatRequest) -> HeartbeatResponse {
    let instance_id = request.group_instance_id.as_deref();
    let code = broker.groups.heartbeat(&request.group_id, &request.member_id, instance_id, request.generation_id);
    HeartbeatResponse { error_code: code.code(), ..Default::default() }
}

pub(super) async fn leave(broker: Arc<Broker>, call: Call, request: LeaveGroupRequest) -> LeaveGroupResponse {
    let batched = call.version >= 3;
    let leaving: Vec<(String, Option<String>)> = if batched {
        request.members.into_iter().map(|m| (m.member_id, m.group_instance_id)).collect()
    } else {
        vec![(request.member_id, None)]
    };
    match broker.groups.leave(&request.group_id, &leaving).await {
        Err(code) => LeaveGroupResponse { error_code: code.code(), ..Default::default() },
        Ok(codes) if batched => {
            let members = leaving.into_iter().zip(codes).map(|((member_id, group_instance_id), code)| MemberResponse {
                member_id,
                group_instance_id,
                error_code: code.code(),
            });
            LeaveGroupResponse { members: members.collect(), ..Default::default() }
        }
        Ok(codes) => {
            let code = codes.first().copied().unwrap_or(ErrorCode::None);
            LeaveGroupResponse { error_code: code.code(), ..Default::default() }
        }
    }
}

/// A topic of a request: by name, or by id from version 10 on. The id is nil for a name that does not exist.
fn resolve(image: &MetadataImage, version: i16, name: &str, id: Uuid) -> Result<(String, Uuid), ErrorCode> {
    if version >= TOPIC_IDS_SINCE {
        let topic = image.live_topic(TopicId(id)).ok_or(ErrorCode::UnknownTopicId)?;
        return Ok((topic.name.to_string(), id));
    }
    Ok((name.to_owned(), image.topic(name).map_or(Uuid::nil(), |topic| topic.id.0)))
}

pub(super) async fn commit(broker: Arc<Broker>, call: Call, request: OffsetCommitRequest) -> OffsetCommitResponse {
    let image = broker.image();
    let mut partitions = Vec::new();
    // Per topic and partition: its place among `partitions`, or why it is not among them.
    let mut places: Vec<Vec<Result<usize, ErrorCode>>> = Vec::new();
    for topic in &request.topics {
        let resolved = resolve(&image, call.version, &topic.name, topic.topic_id);
        let count = match &resolved {
            Ok((name, _)) => image.topic(name).map_or(0, |t| t.partition_count),
            Err(_) => 0,
        };
        let place = topic.partitions.iter().map(|p| {
            let (name, id) = resolved.clone()?;
            if !(0..count).contains(&p.partition_index) {
                return Err(ErrorCode::UnknownTopicOrPartition);
            }
            partitions.push(CommitPartition {
                topic: name,
                topic_id: id,
                partition: p.partition_index,
                offset: p.committed_offset,
                leader_epoch: p.committed_leader_epoch,
                metadata: p.committed_metadata.clone().unwrap_or_default(),
            });
            Ok(partitions.len() - 1)
        });
        places.push(place.collect());
    }
    let committed = if partitions.is_empty() {
        Ok(Vec::new())
    } else {
        let no_group = if call.version >= 9 { ErrorCode::GroupIdNotFound } else { ErrorCode::IllegalGeneration };
        let commit = Commit {
            group_id: request.group_id,
            member_id: request.member_id,
            instance_id: request.group_instance_id,
            generation: request.generation_id_or_member_epoch,
            retention_ms: Some(request.retention_time_ms).filter(|ms| *ms >= 0),
            partitions,
            no_group,
        };
        broker.groups.commit(commit).await
    };
    let code = |place: Result<usize, ErrorCode>| match (&committed, place) {
        (Ok(codes), Ok(at)) => codes.get(at).copied().unwrap_or(ErrorCode::UnknownServerError),
        (Err(code), Ok(_)) => *code,
        (_, Err(code)) => code,
    };
    let topics = request.topics.into_iter().zip(places).map(|(topic, places)| OffsetCommitResponseTopic {
        name: topic.name,
        topic_id: topic.topic_id,
        partitions: topic
            .partitions
            .iter()
            .zip(places)
            .map(|(p, place)| OffsetCommitResponsePartition {
                partition_index: p.partition_index,
                error_code: code(place).code(),
            })
            .collect(),
    });
    OffsetCommitResponse { topics: topics.collect(), ..Default::default() }
}

/// OffsetFetch. `require_stable` asks not to be given offsets that an open transaction may still replace; without
/// transactional commits every durable offset is stable.
pub(super) async fn fetch(broker: Arc<Broker>, call: Call, request: OffsetFetchRequest) -> OffsetFetchResponse {
    let image = broker.image();
    if call.version >= 8 {
        let groups = request.groups.iter().map(|group| fetch_group(&broker, &image, call.version, group)).collect();
        return OffsetFetchResponse { groups, ..Default::default() };
    }
    let topics = request.topics.map(|topics| {
        let convert = |t: strandline_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic| {
            OffsetFetchRequestTopics { name: t.name, partition_indexes: t.partition_indexes, ..Default::default() }
        };
        topics.into_iter().map(convert).collect()
    });
    let single = OffsetFetchRequestGroup { group_id: request.group_id, topics, ..Default::default() };
    let group = fetch_group(&broker, &image, call.version, &single);
    let topics = group.topics.into_iter().map(|topic| OffsetFetchResponseTopic {
        name: topic.name,
        partitions: topic
            .partitions
            .into_iter()
            .map(|p| OffsetFetchResponsePartition {
                partition_index: p.partition_index,
                committed_offset: p.committed_offset,
                committed_leader_epoch: p.committed_leader_epoch,
                metadata: p.metadata,
                error_code: p.error_code,
            })
            .collect(),
    });
    OffsetFetchResponse { topics: topics.collect(), error_code: group.error_code, ..Default::default() }
}

fn no_offset(partition_index: i32, code: ErrorCode) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions {
        partition_index,
        committed_offset: -1,
        committed_leader_epoch: -1,
        metadata: Some(String::new()),
        error_code: code.code(),
    }
}

fn fetch_group(
    broker: &Broker,
    image: &MetadataImage,
    version: i16,
    group: &OffsetFetchRequestGroup,
) -> OffsetFetchResponseGroup {
    let group_id = group.group_id.clone();
    let read = |offsets: &OffsetsByTopic| match &group.topics {
        Some(topics) => topics.iter().map(|topic| fetch_topic(image, version, topic, offsets)).collect(),
        None => fetch_all(image, version, offsets),
    };
    match broker.groups.fetch(&group_id, read) {
        Ok(topics) => OffsetFetchResponseGroup { group_id, topics, ..Default::default() },
        // Version 1 has no place for an error of the group.
        Err(code) if version < 2 => {
            let topics = group.topics.iter().flatten().map(|topic| OffsetFetchResponseTopics {
                name: topic.name.clone(),
                partitions: topic.partition_indexes.iter().map(|p| no_offset(*p, code)).collect(),
                ..Default::default()
            });
            OffsetFetchResponseGroup { group_id, topics: topics.collect(), ..Default::default() }
        }
        Err(code) => OffsetFetchResponseGroup { group_id, error_code: code.code(), ..Default::default() },
    }
}

fn fetch_topic(
    image: &MetadataImage,
    version: i16,
    topic: &OffsetFetchRequestTopics,
    offsets: &OffsetsByTopic,
) -> OffsetFetchResponseTopics {
    let resolved = resolve(image, version, &topic.name, topic.topic_id);
    let fetch_one = |partition: i32| {
        let (name, id) = match &resolved {
            Ok(resolved) => resolved,
            Err(code) => return no_offset(partition, *code),
        };
        let committed = offsets.get(name).and_then(|partitions| partitions.get(&partition));
        // An offset of an earlier topic of this name means nothing in this one.
        let same = |a: Uuid, b: Uuid| a.is_nil() || b.is_nil() || a == b;
        match committed.filter(|committed| same(committed.topic_id, *id)) {
            None => no_offset(partition, ErrorCode::None),
            Some(committed) => found(partition, committed),
        }
    };
    OffsetFetchResponseTopics {
        name: topic.name.clone(),
        topic_id: topic.topic_id,
        partitions: topic.partition_indexes.iter().map(|p| fetch_one(*p)).collect(),
    }
}

fn found(partition_index: i32, committed: &crate::group::OffsetAndMetadata) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions {
        partition_index,
        committed_offset: committed.offset,
        committed_leader_epoch: committed.leader_epoch,
        metadata: Some(committed.metadata.clone()),
        error_code: ErrorCode::None.code(),
    }
}

/// Everything that the group has committed; by id, of the topics that exist.
fn fetch_all(image: &MetadataImage, version: i16, offsets: &OffsetsByTopic) -> Vec<OffsetFetchResponseTopics> {
    let mut all = Vec::new();
    for (name, partitions) in offsets {
        let id = image.topic(name).map_or(Uuid::nil(), |topic| topic.id.0);
        if version >= TOPIC_IDS_SINCE && id.is_nil() {
            continue;
        }
        all.push(OffsetFetchResponseTopics {
            name: name.clone(),
            topic_id: id,
            partitions: partitions.iter().map(|(partition, committed)| found(*partition, committed)).collect(),
        });
    }
    all
}

pub(super) async fn offset_delete(
    broker: Arc<Broker>,
    _call: Call,
    request: OffsetDeleteRequest,
) -> OffsetDeleteResponse {
    if request.group_id.is_empty() {
        return OffsetDeleteResponse { error_code: ErrorCode::InvalidGroupId.code(), ..Default::default() };
    }
    let image = broker.image();
    let exists = |name: &str, partition: i32| {
        image.topic(name).is_some_and(|topic| (0..topic.partition_count).contains(&partition))
    };
    let asked = request.topics.iter().flat_map(|t| t.partitions.iter().map(|p| (t.name.clone(), p.partition_index)));
    let wanted: Vec<(String, i32)> = asked.filter(|(name, partition)| exists(name, *partition)).collect();
    let codes = match broker.groups.delete_offsets(&request.group_id, &wanted).await {
        Ok(codes) => wanted.into_iter().zip(codes).collect::<BTreeMap<_, _>>(),
        Err(code) => return OffsetDeleteResponse { error_code: code.code(), ..Default::default() },
    };
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|p| {
            let code = codes.get(&(topic.name.clone(), p.partition_index));
            let code = code.copied().unwrap_or(ErrorCode::UnknownTopicOrPartition);
            OffsetDeleteResponsePartition { partition_index: p.partition_index, error_code: code.code() }
        });
        OffsetDeleteResponseTopic { name: topic.name.clone(), partitions: partitions.collect() }
    });
    OffsetDeleteResponse { topics: topics.collect(), ..Default::default() }
}

pub(super) async fn list(broker: Arc<Broker>, _call: Call, request: ListGroupsRequest) -> ListGroupsResponse {
    // Filters are compared without regard to case; none lets everything through.
    let passes =
        |filter: &[String], value: &str| filter.is_empty() || filter.iter().any(|f| f.eq_ignore_ascii_case(value));
    match broker.groups.list() {
        Err(code) => ListGroupsResponse { error_code: code.code(), ..Default::default() },
        Ok(groups) => {
            let groups = groups
                .into_iter()
                .filter(|(_, state, _)| passes(&request.states_filter, state.name()))
                .filter(|_| passes(&request.types_filter, CLASSIC))
                .map(|(group_id, state, protocol_type)| ListedGroup {
                    group_id,
                    protocol_type,
                    group_state: state.name().to_owned(),
                    group_type: CLASSIC.to_owned(),
                });
            ListGroupsResponse { groups: groups.collect(), ..Default::default() }
        }
    }
}

pub(super) async fn describe(
    broker: Arc<Broker>,
    call: Call,
    request: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let asked = request.include_authorized_operations;
    let groups = request.groups.into_iter().map(|group_id| match broker.groups.describe(&group_id) {
        Err(code) => DescribedGroup { error_code: code.code(), group_id, ..Default::default() },
        Ok(Some(group)) => {
            DescribedGroup { authorized_operations: operations(asked, GROUP_OPERATIONS), ..described(group) }
        }
        // Up to version 5 a group that does not exist is a dead one.
        Ok(None) => {
            let (code, message) = if call.version >= 6 {
                (ErrorCode::GroupIdNotFound, Some(format!("Group {group_id} not found.")))
            } else {
                (ErrorCode::None, None)
            };
            DescribedGroup {
                error_code: code.code(),
                error_message: message,
                group_id,
                group_state: crate::group::State::Dead.name().to_owned(),
                authorized_operations: operations(asked && code == ErrorCode::None, GROUP_OPERATIONS),
                ..Default::default()
            }
        }
    });
    DescribeGroupsResponse { groups: groups.collect(), ..Default::default() }
}

/// Metadata is shown of a stable group only: in between, the protocol that it belongs to may change.
fn described(group: GroupSnapshot) -> DescribedGroup {
    let stable = group.state == crate::group::State::Stable;
    let members = group.members.into_iter().map(|m| DescribedGroupMember {
        member_id: m.member_id,
        group_instance_id: m.instance_id,
        client_id: m.client_id,
        client_host: m.client_host,
        member_metadata: if stable { m.metadata } else { bytes::Bytes::new() },
        member_assignment: m.assignment,
    });
    DescribedGroup {
        group_id: group.group_id,
        group_state: group.state.name().to_owned(),
        protocol_type: group.protocol_type,
        protocol_data: if stable { group.protocol } else { String::new() },
        members: members.collect(),
        ..Default::default()
    }
}

pub(super) async fn delete(broker: Arc<Broker>, _call: Call, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    let mut results = Vec::with_capacity(request.groups_names.len());
    let mut seen = BTreeSet::new();
    // A group that is named twice is answered once.
    for group_id in request.groups_names.into_iter().filter(|id| seen.insert(id.clone())) {
        let code = broker.groups.delete(&group_id).await.err().unwrap_or(ErrorCode::None);
        results.push(DeletableGroupResult { group_id, error_code: code.code() });
    }
    DeleteGroupsResponse { results, ..Default::default() }
}
