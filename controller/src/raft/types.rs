//! The types that openraft is instantiated with, and their bytes.
//!
//! Owns the layouts of entries, votes, log ids, memberships and snapshot metadata, in the file and on the wire
//! (`docs/formats/controller-log.md`). All are ours: none follows openraft's own serialisation.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;

use openraft::{BasicNode, CommittedLeaderId, EntryPayload, Membership, StoredMembership};
use strandline_protocol::remote_pointer::AdvanceOutcome;

use crate::encoding::{DecodeError, Get, Put};

/// A voter's id: its node id.
pub type NodeId = u64;

/// Bytes of one entry's records, at most. An entry is written, sent and applied whole.
pub const ENTRY_BYTES_MAX: usize = 32 << 20;

/// The records of one entry, as [`crate::record::encode_records`] wrote them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryData(pub Vec<u8>);

/// What applying an entry did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// Index of the entry.
    pub index: u64,
    /// One outcome for each advance in the entry, in order.
    pub advances: Vec<AdvanceOutcome>,
}

openraft::declare_raft_types!(
    /// openraft's parameters.
    pub TypeConfig:
        D = EntryData,
        R = Applied,
        NodeId = NodeId,
        Node = BasicNode,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = super::runtime::Runtime,
);

pub type Raft = openraft::Raft<TypeConfig>;
pub type Entry = openraft::Entry<TypeConfig>;
pub type LogId = openraft::LogId<NodeId>;
pub type Vote = openraft::Vote<NodeId>;
pub type SnapshotMeta = openraft::SnapshotMeta<NodeId, BasicNode>;
pub type Stored = StoredMembership<NodeId, BasicNode>;
pub type StorageError = openraft::StorageError<NodeId>;

pub(super) fn put_log_id(out: &mut Put, id: &LogId) {
    out.u64(id.leader_id.term).u64(id.leader_id.node_id).u64(id.index);
}

pub(super) fn get_log_id(get: &mut Get<'_>) -> Result<LogId, DecodeError> {
    let term = get.u64("term")?;
    let node = get.u64("leader")?;
    Ok(LogId::new(CommittedLeaderId::new(term, node), get.u64("index")?))
}

pub(super) fn put_option_log_id(out: &mut Put, id: Option<&LogId>) {
    match id {
        None => {
            out.u8(0);
        }
        Some(id) => put_log_id(out.u8(1), id),
    }
}

pub(super) fn get_option_log_id(get: &mut Get<'_>) -> Result<Option<LogId>, DecodeError> {
    Ok(match get.u8("log id")? {
        0 => None,
        _ => Some(get_log_id(get)?),
    })
}

pub(super) fn put_vote(out: &mut Put, vote: &Vote) {
    out.u64(vote.leader_id.term).u64(vote.leader_id.node_id).u8(vote.committed.into());
}

pub(super) fn get_vote(get: &mut Get<'_>) -> Result<Vote, DecodeError> {
    let (term, node) = (get.u64("term")?, get.u64("candidate")?);
    let committed = get.u8("committed")? != 0;
    let mut vote = Vote::new(term, node);
    vote.committed = committed;
    Ok(vote)
}

fn put_membership(out: &mut Put, membership: &Membership<NodeId, BasicNode>) {
    let configs = membership.get_joint_config();
    out.u32(configs.len() as u32);
    for config in configs {
        out.u32(config.len() as u32);
        for id in config {
            out.u64(*id);
        }
    }
    let nodes: Vec<_> = membership.nodes().collect();
    out.u32(nodes.len() as u32);
    for (id, node) in nodes {
        out.u64(*id).string(&node.addr);
    }
}

fn get_membership(get: &mut Get<'_>) -> Result<Membership<NodeId, BasicNode>, DecodeError> {
    let mut configs = Vec::new();
    for _ in 0..get.count("voter sets", 4)? {
        let mut config = BTreeSet::new();
        for _ in 0..get.count("voters", 8)? {
            config.insert(get.u64("voter")?);
        }
        configs.push(config);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..get.count("nodes", 12)? {
        nodes.insert(get.u64("node")?, BasicNode { addr: get.string("address")? });
    }
    Ok(Membership::new(configs, nodes))
}

const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

pub(super) fn put_entry(out: &mut Put, entry: &Entry) {
    put_log_id(out, &entry.log_id);
    match &entry.payload {
        EntryPayload::Blank => {
            out.u8(BLANK);
        }
        EntryPayload::Normal(data) => {
            assert!(data.0.len() <= ENTRY_BYTES_MAX, "an entry is bounded");
            out.u8(NORMAL).u32(data.0.len() as u32);
            out.bytes.extend_from_slice(&data.0);
        }
        EntryPayload::Membership(membership) => put_membership(out.u8(MEMBERSHIP), membership),
    }
}

pub(super) fn get_entry(get: &mut Get<'_>) -> Result<Entry, DecodeError> {
    let log_id = get_log_id(get)?;
    let payload = match get.u8("entry kind")? {
        BLANK => EntryPayload::Blank,
        NORMAL => {
            let len = get.u32("entry length")? as usize;
            EntryPayload::Normal(EntryData(get.take("entry", len)?.to_vec()))
        }
        MEMBERSHIP => EntryPayload::Membership(get_membership(get)?),
        other => return Err(DecodeError::Unknown { field: "entry kind", value: other.into() }),
    };
    Ok(Entry { log_id, payload })
}

pub(super) fn put_snapshot_meta(out: &mut Put, meta: &SnapshotMeta) {
    put_option_log_id(out, meta.last_log_id.as_ref());
    put_option_log_id(out, meta.last_membership.log_id().as_ref());
    put_membership(out, meta.last_membership.membership());
    out.string(&meta.snapshot_id);
}

pub(super) fn get_snapshot_meta(get: &mut Get<'_>) -> Result<SnapshotMeta, DecodeError> {
    let last_log_id = get_option_log_id(get)?;
    let membership_log_id = get_option_log_id(get)?;
    let last_membership = StoredMembership::new(membership_log_id, get_membership(get)?);
    Ok(SnapshotMeta { last_log_id, last_membership, snapshot_id: get.string("snapshot id")? })
}
