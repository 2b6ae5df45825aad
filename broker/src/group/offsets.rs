//! The offsets that a group has committed: who may commit, what is kept, when it goes.
//!
//! Owns the committed offsets and which of them are about to change. Does not own membership (`state`).
//! Invariant: an offset is visible once its record is durable, and deletions cover what is still being written.

use std::collections::{BTreeMap, BTreeSet};

use strandline_protocol::error_code::ErrorCode;
use uuid::Uuid;

use super::outcomes::{Completion, Ticket, Write};
use super::records;
use super::state::{Group, State, Step};

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetAndMetadata {
    /// The next offset that the group wants to read.
    pub offset: i64,
    /// Leader epoch of the last record that was read; -1 = unknown.
    pub leader_epoch: i32,
    /// The client's own note.
    pub metadata: String,
    /// When it was committed, in ms since the epoch.
    pub commit_ms: i64,
    /// When it expires, if the client said so (OffsetCommit up to version 4), in ms since the epoch.
    pub expire_ms: Option<i64>,
    /// Nil = unknown (records of older versions).
    pub topic_id: Uuid,
}

/// Offsets by topic name and partition.
pub type OffsetsByTopic = BTreeMap<String, BTreeMap<i32, OffsetAndMetadata>>;

/// The offsets of one group.
#[derive(Debug, Clone, Default)]
pub struct Offsets {
    committed: OffsetsByTopic,
    /// How many commits of the partition are being written.
    pending: BTreeMap<(String, i32), u32>,
}

impl Offsets {
    /// The durable offsets.
    pub fn committed(&self) -> &OffsetsByTopic {
        &self.committed
    }

    /// Whether nothing is committed or being committed.
    pub fn is_empty(&self) -> bool {
        self.committed.is_empty() && self.pending.is_empty()
    }

    /// Keeps a durable offset.
    pub fn insert(&mut self, topic: String, partition: i32, committed: OffsetAndMetadata) {
        self.committed.entry(topic).or_default().insert(partition, committed);
    }

    /// Forgets an offset.
    pub fn remove(&mut self, topic: &str, partition: i32) {
        if let Some(partitions) = self.committed.get_mut(topic) {
            partitions.remove(&partition);
            if partitions.is_empty() {
                self.committed.remove(topic);
            }
        }
    }

    fn begin(&mut self, topic: &str, partition: i32) {
        *self.pending.entry((topic.to_owned(), partition)).or_default() += 1;
    }

    fn end(&mut self, partition: &(String, i32)) {
        if let Some(count) = self.pending.get_mut(partition) {
            *count -= 1;
            if *count == 0 {
                self.pending.remove(partition);
            }
        }
    }

    fn is_pending(&self, topic: &str, partition: i32) -> bool {
        self.pending.contains_key(&(topic.to_owned(), partition))
    }

    fn is_known(&self, topic: &str, partition: i32) -> bool {
        self.committed.get(topic).is_some_and(|p| p.contains_key(&partition)) || self.is_pending(topic, partition)
    }

    /// Every partition with an offset, durable or being written, in order.
    fn known(&self) -> BTreeSet<(String, i32)> {
        let committed = self.committed.iter().flat_map(|(topic, p)| p.keys().map(move |p| (topic.clone(), *p)));
        committed.chain(self.pending.keys().cloned()).collect()
    }
}

/// One partition of an OffsetCommit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitPartition {
    pub topic: String,
    pub topic_id: Uuid,
    pub partition: i32,
    pub offset: i64,
    pub leader_epoch: i32,
    pub metadata: String,
}

/// An OffsetCommit, as a group sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitInput {
    pub ticket: Ticket,
    /// Empty = none.
    pub member_id: String,
    pub instance_id: Option<String>,
    /// Negative = not a member.
    pub generation: i32,
    /// The client's own retention, in ms.
    pub retention_ms: Option<i64>,
    pub partitions: Vec<CommitPartition>,
}

impl Group {
    fn validate_commit(&self, commit: &CommitInput) -> Result<(), ErrorCode> {
        if self.state() == State::Dead {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        if commit.generation < 0 && self.state() == State::Empty {
            return Ok(());
        }
        if commit.generation < 0 && commit.member_id.is_empty() && commit.instance_id.is_none() {
            // Someone outside of the group; it has members, who alone say how far it is.
            return Err(ErrorCode::UnknownMemberId);
        }
        self.validate_member(&commit.member_id, commit.instance_id.as_deref())?;
        if commit.generation != self.generation() {
            return Err(ErrorCode::IllegalGeneration);
        }
        if self.state() == State::CompletingRebalance {
            // The member knows the generation but not yet its assignment.
            return Err(ErrorCode::RebalanceInProgress);
        }
        Ok(())
    }

    /// OffsetCommit. Returns a code per partition; what is accepted is being written, and then the ticket is answered.
    pub fn commit(&mut self, commit: CommitInput, step: &mut Step<'_>) -> Result<Vec<ErrorCode>, ErrorCode> {
        self.validate_commit(&commit)?;
        if matches!(self.state(), State::Stable | State::PreparingRebalance) {
            self.renew_session(&commit.member_id, step);
        }
        let expire_ms = commit.retention_ms.map(|ms| step.now_ms.saturating_add(ms));
        let mut codes = Vec::with_capacity(commit.partitions.len());
        let (mut written, mut offsets) = (Vec::new(), Vec::new());
        for partition in commit.partitions {
            // Java counts UTF-16 units.
            if partition.metadata.encode_utf16().count() > step.settings.metadata_max_bytes {
                codes.push(ErrorCode::OffsetMetadataTooLarge);
                continue;
            }
            codes.push(ErrorCode::None);
            let committed = OffsetAndMetadata {
                offset: partition.offset,
                leader_epoch: partition.leader_epoch,
                metadata: partition.metadata,
                commit_ms: step.now_ms,
                expire_ms,
                topic_id: partition.topic_id,
            };
            written.push(records::offset(self.id(), &partition.topic, partition.partition, &committed));
            self.offsets.begin(&partition.topic, partition.partition);
            offsets.push(((partition.topic, partition.partition), committed));
        }
        if !written.is_empty() {
            let completion = Completion::Commit(offsets);
            step.out.writes.push(Write { records: written, completion, waiting: Some(commit.ticket) });
        }
        Ok(codes)
    }

    pub(super) fn commit_written(&mut self, offsets: Vec<((String, i32), OffsetAndMetadata)>, durable: bool) {
        for (partition, committed) in offsets {
            self.offsets.end(&partition);
            if durable {
                self.offsets.insert(partition.0, partition.1, committed);
            }
        }
    }

    /// OffsetDelete. Returns a code per partition; tombstones are being written, and then the ticket is answered.
    pub fn delete_offsets(
        &mut self,
        partitions: &[(String, i32)],
        ticket: Ticket,
        step: &mut Step<'_>,
    ) -> Result<Vec<ErrorCode>, ErrorCode> {
        match self.state() {
            State::Dead => return Err(ErrorCode::GroupIdNotFound),
            State::Empty => {}
            _ if !self.uses_consumer_protocol() => return Err(ErrorCode::NonEmptyGroup),
            _ => {}
        }
        let mut gone = Vec::new();
        let mut codes = Vec::with_capacity(partitions.len());
        for (topic, partition) in partitions {
            if self.is_subscribed(topic) {
                codes.push(ErrorCode::GroupSubscribedToTopic);
                continue;
            }
            codes.push(ErrorCode::None);
            if self.offsets.is_known(topic, *partition) {
                gone.push((topic.clone(), *partition));
            }
        }
        self.write_tombstones(gone, Some(ticket), step);
        Ok(codes)
    }

    /// Topics that do not exist any more: their offsets mean nothing.
    pub fn topics_deleted(&mut self, topics: &BTreeSet<String>, step: &mut Step<'_>) {
        let gone = self.offsets.known().into_iter().filter(|(topic, _)| topics.contains(topic)).collect();
        self.write_tombstones(gone, None, step);
    }

    fn write_tombstones(&self, gone: Vec<(String, i32)>, waiting: Option<Ticket>, step: &mut Step<'_>) {
        if self.state() == State::Dead || gone.is_empty() {
            return;
        }
        let records = gone.iter().map(|(topic, p)| records::offset_tombstone(self.id(), topic, *p)).collect();
        step.out.writes.push(Write { records, completion: Completion::DeleteOffsets(gone), waiting });
    }

    /// DeleteGroups. The ticket is answered once the tombstones are durable.
    pub fn delete(&mut self, waiting: Option<Ticket>, step: &mut Step<'_>) -> Result<(), ErrorCode> {
        match self.state() {
            State::Dead => return Err(ErrorCode::GroupIdNotFound),
            State::Empty => {}
            _ => return Err(ErrorCode::NonEmptyGroup),
        }
        let tombstones = self.offsets.known().into_iter();
        let mut records: Vec<_> =
            tombstones.map(|(topic, p)| records::offset_tombstone(self.id(), &topic, p)).collect();
        records.push(records::group_tombstone(self.id()));
        self.transition(State::Dead, step.now_ms);
        // Until the tombstones are durable there is something to come back to.
        self.recorded = true;
        step.out.writes.push(Write { records, completion: Completion::DeleteGroup, waiting });
        Ok(())
    }

    /// Since when an offset is of no use to anyone, in ms since the epoch; `None` = it is in use.
    fn unused_since(&self, topic: &str, committed: &OffsetAndMetadata) -> Option<i64> {
        if self.is_subscribed(topic) {
            return None;
        }
        match (self.state(), self.protocol_type()) {
            // Of a group that only stores offsets here.
            (_, None) => Some(committed.commit_ms),
            (State::Empty, Some(_)) => Some(self.since_ms().unwrap_or(committed.commit_ms)),
            (State::Stable, Some(_)) if self.knows_subscriptions() => Some(committed.commit_ms),
            _ => None,
        }
    }

    /// Forgets what the retention no longer covers, and the group itself once nothing is left of it.
    pub fn expire(&mut self, step: &mut Step<'_>) {
        if self.state() == State::Dead {
            return;
        }
        let (mut gone, mut left) = (Vec::new(), false);
        for (topic, partitions) in self.offsets.committed() {
            for (partition, committed) in partitions {
                let expired = self.unused_since(topic, committed).is_some_and(|since| match committed.expire_ms {
                    Some(at) => step.now_ms >= at,
                    None => step.now_ms.saturating_sub(since) >= step.settings.offsets_retention_ms,
                });
                if expired && !self.offsets.is_pending(topic, *partition) {
                    gone.push((topic.clone(), *partition));
                } else {
                    left = true;
                }
            }
        }
        if !left && self.offsets.pending.is_empty() && self.state() == State::Empty && !self.has_pending_joins() {
            // Cannot be refused: the group is empty.
            let _ = self.delete(None, step);
        } else {
            self.write_tombstones(gone, None, step);
        }
    }
}
