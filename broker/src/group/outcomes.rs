//! What a group decides: answers to parked requests, and records to append.
//!
//! Invariant: a [`Write`] comes back to its group exactly once, as `Group::written`, in the order in which the group
//! decided it, unless the partition is unloaded first.

use std::collections::BTreeMap;

use bytes::Bytes;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::messages::join_group_response::JoinGroupResponse;
use strandline_protocol::messages::sync_group_response::SyncGroupResponse;

use super::member::Protocol;
use super::offsets::OffsetAndMetadata;
use super::records::LogRecord;

/// Names a parked request; the shell knows whom it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// The answer to a parked request.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Join(JoinGroupResponse),
    Sync(SyncGroupResponse),
    /// Of requests whose response needs no more than whether they were carried out.
    Done(ErrorCode),
}

/// What follows when the records are durable, or could not be appended.
#[derive(Debug, Clone, PartialEq)]
pub enum Completion {
    /// The leader's assignment of a generation.
    Assignment { generation: i32, assignments: BTreeMap<String, Bytes> },
    /// A group without members. Nothing follows: until the record is durable the previous generation is what a crash
    /// leaves behind, and its members time out.
    Empty,
    /// A static member came back under a new id and the assignment holds.
    StaticMember(Box<ReplacedMember>),
    /// Committed offsets.
    Commit(Vec<((String, i32), OffsetAndMetadata)>),
    /// Offsets that are deleted or expired.
    DeleteOffsets(Vec<(String, i32)>),
    /// The group is deleted, with all its offsets.
    DeleteGroup,
}

/// What is needed to answer a replaced static member, or to take the replacement back.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplacedMember {
    pub instance_id: String,
    pub old_id: String,
    pub new_id: String,
    pub ticket: Ticket,
    pub generation: i32,
    /// The leader as the client may be told: versions without `skip_assignment` are told the old one, so that the
    /// member does not take itself for the leader and assign anew.
    pub old_leader: String,
    pub skip_assignment_supported: bool,
    pub old_protocols: Vec<Protocol>,
    pub old_rebalance_timeout_ms: i32,
    pub old_session_timeout_ms: i32,
}

/// Records of one decision. They are appended together.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    pub records: Vec<LogRecord>,
    pub completion: Completion,
    /// Answered with [`Answer::Done`] afterwards.
    pub waiting: Option<Ticket>,
}

/// What the shell has to do, in this order within each list.
#[derive(Debug, Default)]
pub struct Outcomes {
    pub answers: Vec<(Ticket, Answer)>,
    pub writes: Vec<Write>,
}

impl Outcomes {
    /// Answers a parked request.
    pub fn answer(&mut self, ticket: Ticket, answer: Answer) {
        self.answers.push((ticket, answer));
    }
}

/// What clients are told when an append fails with `code`, as Kafka's coordinator translates it.
pub fn append_failure(code: ErrorCode) -> ErrorCode {
    match code {
        ErrorCode::UnknownTopicOrPartition
        | ErrorCode::NotEnoughReplicas
        | ErrorCode::NotEnoughReplicasAfterAppend
        | ErrorCode::RequestTimedOut => ErrorCode::CoordinatorNotAvailable,
        ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => ErrorCode::NotCoordinator,
        ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge | ErrorCode::InvalidFetchSize => {
            ErrorCode::UnknownServerError
        }
        other => other,
    }
}
