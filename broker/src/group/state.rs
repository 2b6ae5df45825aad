//! The state of one group: members, generation, and which requests fit it.
//!
//! Owns the fields and the steps that touch no other member; `join` and `rebalance` own the protocol's phases, `offsets`
//! the offsets. States are Kafka's:
//!
//! ```text
//! Empty -> PreparingRebalance -> CompletingRebalance -> Stable     (a member joins; all joined; leader's assignment)
//! Stable, CompletingRebalance -> PreparingRebalance                (a member joins, leaves, fails or changes)
//! PreparingRebalance -> Empty                                      (nobody is left)
//! Empty -> Dead                                                    (deleted, or nothing is kept)
//! ```

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use strandline_protocol::codec::Reader;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::messages::Message;
use strandline_protocol::messages::consumer_protocol_subscription::ConsumerProtocolSubscription;
use strandline_protocol::messages::group_metadata_value::{GroupMetadataValue, MemberMetadata};

use super::deadlines::Deadlines;
use super::member::{Member, Protocol};
use super::offsets::Offsets;
use super::outcomes::{Answer, Completion, Outcomes, Write};
use super::records;
use super::settings::GroupSettings;

/// The protocol type of consumers: the coordinator can read their subscriptions.
const CONSUMER: &str = "consumer";

/// Kafka's group states, by Kafka's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
    Dead,
}

impl State {
    /// As Kafka's tools show it.
    pub fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::PreparingRebalance => "PreparingRebalance",
            State::CompletingRebalance => "CompletingRebalance",
            State::Stable => "Stable",
            State::Dead => "Dead",
        }
    }
}

/// What ends at a time of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A member's, or a pending member's.
    Session(String),
    /// The join phase.
    Join,
    /// The wait for everyone's SyncGroup.
    Sync,
}

/// What every input comes with: the settings, the time, and where outcomes go.
pub struct Step<'a> {
    pub settings: &'a GroupSettings,
    /// ms since the epoch.
    pub now_ms: i64,
    pub out: &'a mut Outcomes,
}

/// One group.
#[derive(Debug, Clone)]
pub struct Group {
    id: String,
    state: State,
    pub(super) previous: State,
    /// When the state was entered, in ms since the epoch; old records do not say.
    since_ms: Option<i64>,
    pub(super) generation: i32,
    protocol_type: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) leader: Option<String>,
    pub(super) members: BTreeMap<String, Member>,
    /// Instance id -> member id.
    pub(super) statics: BTreeMap<String, String>,
    /// Ids that were given out and have not joined yet.
    pub(super) pending_joins: BTreeSet<String>,
    /// Members that have not sent SyncGroup in this generation.
    pub(super) pending_syncs: BTreeSet<String>,
    /// Topics that some member subscribes to; `None` = unknown.
    subscribed: Option<BTreeSet<String>>,
    /// Someone joined during the initial delay.
    pub(super) new_member_added: bool,
    /// Of the initial join phase: the current delay and how much more it may be extended by, in ms.
    pub(super) initial_delay: Option<(i64, i64)>,
    pub(super) deadlines: Deadlines<Timer>,
    pub(super) offsets: Offsets,
    /// Whether the log may have a record of the group itself.
    pub(super) recorded: bool,
}

impl Group {
    /// A group that nobody has joined.
    pub fn new(id: &str, now_ms: i64) -> Self {
        Group {
            id: id.to_owned(),
            state: State::Empty,
            previous: State::Dead,
            since_ms: Some(now_ms),
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            statics: BTreeMap::new(),
            pending_joins: BTreeSet::new(),
            pending_syncs: BTreeSet::new(),
            subscribed: None,
            new_member_added: false,
            initial_delay: None,
            deadlines: Deadlines::default(),
            offsets: Offsets::default(),
            recorded: false,
        }
    }

    /// The group of a record, with every session beginning at `now_ms`.
    pub fn restore(id: &str, value: GroupMetadataValue, now_ms: i64) -> Self {
        let mut group = Group::new(id, now_ms);
        group.recorded = true;
        group.generation = value.generation;
        group.protocol_type = Some(value.protocol_type).filter(|t| !t.is_empty());
        group.protocol = value.protocol;
        group.since_ms = Some(value.current_state_timestamp).filter(|at| *at != -1);
        for member in value.members {
            let protocol = group.protocol.clone().unwrap_or_default();
            let rebalance_timeout_ms =
                if member.rebalance_timeout < 0 { member.session_timeout } else { member.rebalance_timeout };
            if let Some(instance) = &member.group_instance_id {
                group.statics.insert(instance.clone(), member.member_id.clone());
            }
            let restored = Member {
                instance_id: member.group_instance_id,
                client_id: member.client_id,
                client_host: member.client_host,
                rebalance_timeout_ms,
                session_timeout_ms: member.session_timeout,
                protocols: vec![Protocol { name: protocol, metadata: member.subscription }],
                assignment: member.assignment,
                awaiting_join: None,
                awaiting_sync: None,
                is_new: false,
            };
            group.deadlines.set(Timer::Session(member.member_id.clone()), now_ms + i64::from(member.session_timeout));
            group.members.insert(member.member_id, restored);
        }
        group.leader = value.leader.filter(|leader| group.members.contains_key(leader));
        group.state = if group.members.is_empty() { State::Empty } else { State::Stable };
        if group.leader.is_none() {
            group.leader = group.members.keys().next().cloned();
        }
        group.compute_subscribed();
        group
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn generation(&self) -> i32 {
        self.generation
    }

    /// `None` for a group that only stores offsets here.
    pub fn protocol_type(&self) -> Option<&str> {
        self.protocol_type.as_deref()
    }

    /// The assignment protocol of the current generation.
    pub fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    pub fn members(&self) -> &BTreeMap<String, Member> {
        &self.members
    }

    pub fn offsets(&self) -> &Offsets {
        &self.offsets
    }

    pub(super) fn since_ms(&self) -> Option<i64> {
        self.since_ms
    }

    /// The earliest time at which [`Group::on_deadlines`] has something to do, in ms since the epoch.
    pub fn next_deadline(&self) -> Option<i64> {
        self.deadlines.next()
    }

    /// Whether nothing of the group is kept or waited for: it can be forgotten without a record.
    pub fn is_vacant(&self) -> bool {
        let idle = matches!(self.state, State::Empty | State::Dead);
        idle && !self.recorded && self.pending_joins.is_empty() && self.offsets.is_empty()
    }

    pub(super) fn has_pending_joins(&self) -> bool {
        !self.pending_joins.is_empty()
    }

    pub(super) fn uses_consumer_protocol(&self) -> bool {
        self.protocol_type() == Some(CONSUMER)
    }

    pub(super) fn knows_subscriptions(&self) -> bool {
        self.uses_consumer_protocol() && self.subscribed.is_some()
    }

    /// Whether a member reads the topic; consumers whose subscriptions are unreadable may read any.
    pub(super) fn is_subscribed(&self, topic: &str) -> bool {
        self.subscribed.as_ref().map_or(self.uses_consumer_protocol(), |topics| topics.contains(topic))
    }

    pub(super) fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    /// Enters `state`.
    pub(super) fn transition(&mut self, state: State, now_ms: i64) {
        tracing::debug!(group = %self.id, from = self.state.name(), to = state.name(), generation = self.generation);
        self.previous = self.state;
        self.state = state;
        self.since_ms = Some(now_ms);
    }

    /// Whether `member_id` may speak for itself, and for `instance_id`.
    pub(super) fn validate_member(&self, member_id: &str, instance_id: Option<&str>) -> Result<(), ErrorCode> {
        if let Some(instance) = instance_id {
            match self.statics.get(instance) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(current) if current != member_id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(ErrorCode::UnknownMemberId) }
    }

    /// Begins the session of a member anew.
    pub(super) fn renew_session(&mut self, member_id: &str, step: &Step<'_>) {
        if let Some(member) = self.members.get(member_id) {
            let at = step.now_ms + i64::from(member.session_timeout_ms);
            self.deadlines.set(Timer::Session(member_id.to_owned()), at);
        }
    }

    /// Adds a member; the first one is the leader and says of what type the group is.
    pub(super) fn add_member(&mut self, id: String, protocol_type: String, member: Member) {
        if self.members.is_empty() {
            self.protocol_type = Some(protocol_type);
        }
        if let Some(instance) = &member.instance_id {
            self.statics.insert(instance.clone(), id.clone());
        }
        self.leader.get_or_insert_with(|| id.clone());
        self.pending_joins.remove(&id);
        self.members.insert(id, member);
    }

    /// Forgets a member or pending member. Its parked requests must have been answered.
    pub(super) fn remove_member(&mut self, id: &str) {
        self.deadlines.cancel(&Timer::Session(id.to_owned()));
        self.pending_joins.remove(id);
        self.pending_syncs.remove(id);
        if let Some(instance) = self.members.remove(id).and_then(|member| member.instance_id)
            && self.statics.get(&instance).is_some_and(|current| current == id)
        {
            self.statics.remove(&instance);
        }
        if self.is_leader(id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    /// How long members may take to join, in ms: as long as the slowest of them may. At least 1, so that a phase that
    /// begins now does not end now.
    pub(super) fn rebalance_timeout_ms(&self) -> i64 {
        self.members.values().map(|m| i64::from(m.rebalance_timeout_ms)).max().unwrap_or(1).max(1)
    }

    pub(super) fn joined_count(&self) -> usize {
        self.members.values().filter(|m| m.awaiting_join.is_some()).count()
    }

    pub(super) fn all_joined(&self) -> bool {
        self.pending_joins.is_empty() && self.joined_count() == self.members.len()
    }

    /// Whether a member with these protocols can be in the group.
    pub(super) fn supports(&self, protocol_type: &str, protocols: &[Protocol]) -> bool {
        if self.state == State::Empty {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        let by_all = |name: &str| self.members.values().all(|m| m.protocols.iter().any(|p| p.name == name));
        self.protocol_type() == Some(protocol_type) && protocols.iter().any(|p| by_all(&p.name))
    }

    /// The protocol that every member offers and most prefer; of equals the first by name.
    pub(super) fn select_protocol(&self) -> Option<String> {
        let first = self.members.values().next()?;
        let mut candidates: Vec<&str> = first.protocols.iter().map(|p| p.name.as_str()).collect();
        candidates.retain(|name| self.members.values().all(|m| m.protocols.iter().any(|p| p.name == *name)));
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for vote in self.members.values().filter_map(|m| m.vote(&candidates)) {
            *votes.entry(vote).or_default() += 1;
        }
        let most = votes.values().max().copied()?;
        votes.into_iter().find(|(_, count)| *count == most).map(|(name, _)| name.to_owned())
    }

    /// Reads which topics the members subscribe to. Version 0 is the prefix of every version.
    pub(super) fn compute_subscribed(&mut self) {
        self.subscribed = None;
        if !self.uses_consumer_protocol() {
            return;
        }
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            let metadata = member.metadata(self.protocol.as_deref());
            if metadata.len() < 2 {
                return;
            }
            match ConsumerProtocolSubscription::decode(&mut Reader::new(metadata.slice(2..)), 0) {
                Ok(subscription) => topics.extend(subscription.topics),
                Err(error) => {
                    tracing::warn!(group = %self.id, %error, "subscription is unreadable; offsets do not expire");
                    return;
                }
            }
        }
        self.subscribed = Some(topics);
    }

    /// The write of the group itself with these assignments.
    pub(super) fn metadata_write(&mut self, assignments: &BTreeMap<String, Bytes>, completion: Completion) -> Write {
        self.recorded = true;
        let members = self.members.iter().map(|(id, member)| MemberMetadata {
            member_id: id.clone(),
            group_instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout: member.rebalance_timeout_ms,
            session_timeout: member.session_timeout_ms,
            subscription: member.metadata(self.protocol.as_deref()),
            assignment: assignments.get(id).cloned().unwrap_or_default(),
        });
        let value = GroupMetadataValue {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            current_state_timestamp: self.since_ms.unwrap_or(-1),
            members: members.collect(),
        };
        Write { records: vec![records::group(&self.id, &value)], completion, waiting: None }
    }

    /// A write is durable, or `result` says why it was not appended.
    pub fn written(&mut self, write: Write, result: Result<(), ErrorCode>, step: &mut Step<'_>) {
        match write.completion {
            Completion::Assignment { generation, assignments } => {
                self.assignment_written(generation, assignments, result, step);
            }
            Completion::Empty => {}
            Completion::StaticMember(replaced) => self.static_member_written(*replaced, result, step),
            Completion::Commit(offsets) => self.commit_written(offsets, result.is_ok()),
            Completion::DeleteOffsets(partitions) if result.is_ok() => {
                for (topic, partition) in &partitions {
                    self.offsets.remove(topic, *partition);
                }
            }
            Completion::DeleteOffsets(_) => {}
            Completion::DeleteGroup if result.is_err() => self.transition(State::Empty, step.now_ms),
            Completion::DeleteGroup => {
                self.offsets = Offsets::default();
                self.pending_joins.clear();
                self.recorded = false;
            }
        }
        if let Some(ticket) = write.waiting {
            step.out.answer(ticket, Answer::Done(result.err().unwrap_or(ErrorCode::None)));
        }
    }
}
