//! Groups as they are now, for DescribeGroups and metrics.

use bytes::Bytes;

use super::offsets::OffsetsByTopic;
use super::state::{Group, State};

/// A group as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupSnapshot {
    pub group_id: String,
    pub state: State,
    pub generation: i32,
    /// Empty for a group that only stores offsets here.
    pub protocol_type: String,
    /// The assignment protocol; empty if there is none.
    pub protocol: String,
    pub members: Vec<MemberSnapshot>,
    /// The durable offsets.
    pub offsets: OffsetsByTopic,
}

/// A member as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberSnapshot {
    pub member_id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub metadata: Bytes,
    pub assignment: Bytes,
}

impl GroupSnapshot {
    pub(super) fn of(group: &Group) -> Self {
        let members = group.members().iter().map(|(id, m)| MemberSnapshot {
            member_id: id.clone(),
            instance_id: m.instance_id.clone(),
            client_id: m.client_id.clone(),
            client_host: m.client_host.clone(),
            metadata: m.metadata(group.protocol()),
            assignment: m.assignment.clone(),
        });
        GroupSnapshot {
            group_id: group.id().to_owned(),
            state: group.state(),
            generation: group.generation(),
            protocol_type: group.protocol_type().unwrap_or_default().to_owned(),
            protocol: group.protocol().unwrap_or_default().to_owned(),
            members: members.collect(),
            offsets: group.offsets().committed().clone(),
        }
    }
}
