//! Committed offsets of a group: read, written under a generation, altered and deleted when the group has no members.
//!
//! Owns the requests. An outcome that is unknown is an error; asking again is the caller's.

use std::collections::BTreeMap;

use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::messages::delete_groups_request::DeleteGroupsRequest;
use strandline_protocol::messages::find_coordinator_request::FindCoordinatorRequest;
use strandline_protocol::messages::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use strandline_protocol::messages::offset_delete_request::{
    OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use strandline_protocol::messages::offset_fetch_request::{OffsetFetchRequest, OffsetFetchRequestGroup};

use super::GroupError;
use crate::cluster::Cluster;
use crate::connection::{CallError, Connection, check};

/// OffsetFetch and OffsetCommit by topic name; later versions name topics by id.
const BY_NAME_VERSION_MAX: i16 = 9;
/// Pause while a coordinator is elected or loads.
const RETRY_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Next offsets by topic and partition.
pub type GroupOffsets = BTreeMap<(String, i32), i64>;

/// Who commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committer {
    pub group: String,
    /// -1 = nobody: only a group without members takes it.
    pub generation: i32,
    pub member_id: String,
}

impl Committer {
    pub fn nobody(group: &str) -> Self {
        Committer { group: group.to_owned(), generation: -1, member_id: String::new() }
    }
}

/// The node that coordinates a group.
pub async fn coordinator(cluster: &Cluster, group: &str) -> Result<Result<i32, ErrorCode>, CallError> {
    cluster.metadata(Some(&[]), false).await?;
    let connection = cluster.any().await?;
    let version = connection.version::<FindCoordinatorRequest>(i16::MAX)?;
    let request = match version {
        ..4 => FindCoordinatorRequest { key: group.to_owned(), ..Default::default() },
        _ => FindCoordinatorRequest { coordinator_keys: vec![group.to_owned()], ..Default::default() },
    };
    let response = connection.call_version(version, &request, cluster.deadline()).await?;
    Ok(match response.coordinators.first() {
        Some(found) => check(found.error_code).map(|()| found.node_id),
        None => check(response.error_code).map(|()| response.node_id),
    })
}

/// The connection to a group's coordinator; waits, within the cluster's deadline, while there is none.
pub async fn coordinator_connection(cluster: &Cluster, group: &str) -> Result<std::sync::Arc<Connection>, GroupError> {
    let deadline = tokio::time::Instant::now() + cluster.deadline();
    loop {
        let code = match coordinator(cluster, group).await? {
            Ok(node) => return Ok(cluster.node(node).await?),
            Err(code) => code,
        };
        if !code.retriable() || tokio::time::Instant::now() >= deadline {
            return Err(GroupError::Refused { group: group.to_owned(), code });
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// All that a group has committed.
pub async fn fetch(cluster: &Cluster, connection: &Connection, group: &str) -> Result<GroupOffsets, GroupError> {
    let deadline = tokio::time::Instant::now() + cluster.deadline();
    loop {
        match fetch_once(cluster, connection, group).await {
            Err(GroupError::Refused { code: ErrorCode::CoordinatorLoadInProgress, .. })
                if tokio::time::Instant::now() < deadline =>
            {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

async fn fetch_once(cluster: &Cluster, connection: &Connection, group: &str) -> Result<GroupOffsets, GroupError> {
    let refused = |code| GroupError::Refused { group: group.to_owned(), code };
    let version = connection.version::<OffsetFetchRequest>(BY_NAME_VERSION_MAX)?;
    let wanted =
        OffsetFetchRequestGroup { group_id: group.to_owned(), topics: None, member_epoch: -1, ..Default::default() };
    let request = match version {
        ..8 => OffsetFetchRequest { group_id: group.to_owned(), topics: None, ..Default::default() },
        _ => OffsetFetchRequest { groups: vec![wanted], ..Default::default() },
    };
    let response = connection.call_version(version, &request, cluster.deadline()).await?;
    check(response.error_code).map_err(refused)?;
    let mut offsets = GroupOffsets::new();
    for topic in response.topics {
        for p in topic.partitions {
            check(p.error_code).map_err(refused)?;
            offsets.insert((topic.name.clone(), p.partition_index), p.committed_offset);
        }
    }
    for group in response.groups {
        check(group.error_code).map_err(refused)?;
        for topic in group.topics {
            for p in topic.partitions {
                check(p.error_code).map_err(refused)?;
                offsets.insert((topic.name.clone(), p.partition_index), p.committed_offset);
            }
        }
    }
    offsets.retain(|_, offset| *offset >= 0);
    Ok(offsets)
}

/// Commits. The first partition that is refused is the error; the others may have been taken.
pub async fn commit(
    cluster: &Cluster,
    connection: &Connection,
    committer: &Committer,
    offsets: &GroupOffsets,
) -> Result<(), GroupError> {
    let mut topics: Vec<OffsetCommitRequestTopic> = Vec::new();
    for ((name, partition_index), committed_offset) in offsets {
        if topics.last().is_none_or(|t| t.name != *name) {
            topics.push(OffsetCommitRequestTopic { name: name.clone(), ..Default::default() });
        }
        let partition = OffsetCommitRequestPartition {
            partition_index: *partition_index,
            committed_offset: *committed_offset,
            committed_leader_epoch: -1,
            committed_metadata: Some(String::new()),
            ..Default::default()
        };
        topics.last_mut().expect("pushed above").partitions.push(partition);
    }
    let request = OffsetCommitRequest {
        group_id: committer.group.clone(),
        generation_id_or_member_epoch: committer.generation,
        member_id: committer.member_id.clone(),
        topics,
        ..Default::default()
    };
    let version = connection.version::<OffsetCommitRequest>(BY_NAME_VERSION_MAX)?;
    let response = connection.call_version(version, &request, cluster.deadline()).await?;
    for p in response.topics.iter().flat_map(|t| &t.partitions) {
        let group = committer.group.clone();
        check(p.error_code).map_err(|code| GroupError::Refused { group, code })?;
    }
    Ok(())
}

/// Deletes a group with all its offsets. A group that is not there is no error.
pub async fn delete_group(cluster: &Cluster, connection: &Connection, group: &str) -> Result<(), GroupError> {
    let request = DeleteGroupsRequest { groups_names: vec![group.to_owned()], ..Default::default() };
    let response = connection.call(&request, cluster.deadline()).await?;
    for result in response.results {
        match check(result.error_code) {
            Ok(()) | Err(ErrorCode::GroupIdNotFound) => {}
            Err(code) => return Err(GroupError::Refused { group: group.to_owned(), code }),
        }
    }
    Ok(())
}

/// Deletes the offsets of some partitions of a group without members.
pub async fn delete(
    cluster: &Cluster,
    connection: &Connection,
    group: &str,
    partitions: &[(String, i32)],
) -> Result<(), GroupError> {
    let mut topics: BTreeMap<&str, Vec<OffsetDeleteRequestPartition>> = BTreeMap::new();
    for (topic, partition_index) in partitions {
        let partition = OffsetDeleteRequestPartition { partition_index: *partition_index, ..Default::default() };
        topics.entry(topic).or_default().push(partition);
    }
    let topics = topics
        .into_iter()
        .map(|(name, partitions)| OffsetDeleteRequestTopic { name: name.to_owned(), partitions, ..Default::default() })
        .collect();
    let request = OffsetDeleteRequest { group_id: group.to_owned(), topics, ..Default::default() };
    let response = connection.call(&request, cluster.deadline()).await?;
    let refused = |code| GroupError::Refused { group: group.to_owned(), code };
    match check(response.error_code) {
        Ok(()) | Err(ErrorCode::GroupIdNotFound) => {}
        Err(code) => return Err(refused(code)),
    }
    for p in response.topics.iter().flat_map(|t| &t.partitions) {
        check(p.error_code).map_err(refused)?;
    }
    Ok(())
}
