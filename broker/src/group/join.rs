//! JoinGroup, Heartbeat and LeaveGroup: who enters a group, stays and goes.
//!
//! Owns the admission of members: new ones, known ones, static ones that come back. Does not own the phases that an
//! admission starts (`rebalance`).
//! Invariant: a JoinGroup is answered at once or parked in its member; a member has at most one parked.

use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::messages::join_group_response::{JoinGroupResponse, JoinGroupResponseMember};

use super::member::{Member, Protocol};
use super::outcomes::{Answer, Completion, ReplacedMember, Ticket};
use super::records::NAME_MAX_BYTES;
use super::state::{Group, State, Step, Timer};

/// A member whose first JoinGroup is parked for this long is taken for gone, in ms; a living client retries.
const NEW_MEMBER_JOIN_TIMEOUT_MS: i64 = 5 * 60 * 1000;
/// Ids of one group that may be given out without having joined.
const PENDING_JOINS_MAX: usize = 10_000;

/// A JoinGroup, as a group sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinInput {
    pub ticket: Ticket,
    /// Empty = none yet.
    pub member_id: String,
    /// The id to give out if one is needed; nobody else has it.
    pub new_member_id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    pub protocol_type: String,
    pub protocols: Vec<Protocol>,
    /// Whether a new dynamic member must come back with its id (KIP-394, from version 4 on).
    pub member_id_required: bool,
    /// Whether the answer may tell the leader to skip the assignment (KIP-814, from version 9 on).
    pub skip_assignment_supported: bool,
}

impl JoinInput {
    fn has_long_name(&self) -> bool {
        let own = [Some(&self.member_id), self.instance_id.as_ref(), Some(&self.protocol_type), Some(&self.client_id)];
        let protocols = self.protocols.iter().map(|p| &p.name);
        own.into_iter().flatten().chain(protocols).any(|name| name.len() > NAME_MAX_BYTES)
    }
}

/// The answer to a JoinGroup that is refused.
pub fn join_refused(member_id: &str, code: ErrorCode) -> JoinGroupResponse {
    JoinGroupResponse {
        error_code: code.code(),
        protocol_name: None,
        member_id: member_id.to_owned(),
        ..Default::default()
    }
}

impl Group {
    /// JoinGroup.
    pub fn join(&mut self, join: JoinInput, step: &mut Step<'_>) {
        let ticket = join.ticket;
        let mut refuse = |member_id: &str, code| step.out.answer(ticket, Answer::Join(join_refused(member_id, code)));
        if join.has_long_name() {
            return refuse(&join.member_id, ErrorCode::InvalidRequest);
        }
        if self.state() == State::Dead {
            return refuse(&join.member_id, ErrorCode::CoordinatorNotAvailable);
        }
        if !self.accepts(&join.member_id, step.settings.max_size) {
            refuse("", ErrorCode::GroupMaxSizeReached);
            self.remove_without_answer(&join.member_id, step);
            return;
        }
        if !self.supports(&join.protocol_type, &join.protocols) {
            return refuse(&join.member_id, ErrorCode::InconsistentGroupProtocol);
        }
        if join.member_id.is_empty() { self.join_new(join, step) } else { self.join_known(join, step) }
    }

    /// Whether there is room. While members join, those that already did count, so that a lowered limit turns away the
    /// last to come.
    fn accepts(&self, member_id: &str, max_size: usize) -> bool {
        let member = self.members.get(member_id);
        match self.state() {
            State::Empty | State::Dead => true,
            State::PreparingRebalance => {
                member.is_some_and(|m| m.awaiting_join.is_some()) || self.joined_count() < max_size
            }
            State::CompletingRebalance | State::Stable => member.is_some() || self.members.len() < max_size,
        }
    }

    /// A member that is turned away for want of room; the others need not wait for it.
    fn remove_without_answer(&mut self, member_id: &str, step: &mut Step<'_>) {
        self.remove_member(member_id);
        self.maybe_complete_join(step);
    }

    fn join_new(&mut self, join: JoinInput, step: &mut Step<'_>) {
        let id = join.new_member_id.clone();
        if let Some(instance) = &join.instance_id {
            match self.statics.get(instance).cloned() {
                Some(old_id) => self.replace_static_member(old_id, id, join, step),
                None => self.add_then_rebalance(id, join, step),
            }
        } else if join.member_id_required {
            if self.pending_joins.len() >= PENDING_JOINS_MAX {
                let refused = join_refused("", ErrorCode::GroupMaxSizeReached);
                return step.out.answer(join.ticket, Answer::Join(refused));
            }
            self.deadlines.set(Timer::Session(id.clone()), step.now_ms + i64::from(join.session_timeout_ms));
            self.pending_joins.insert(id.clone());
            step.out.answer(join.ticket, Answer::Join(join_refused(&id, ErrorCode::MemberIdRequired)));
        } else {
            self.add_then_rebalance(id, join, step);
        }
    }

    fn join_known(&mut self, join: JoinInput, step: &mut Step<'_>) {
        let id = join.member_id.clone();
        let refuse = |code| Answer::Join(join_refused(&join.member_id, code));
        if self.pending_joins.contains(&id) {
            // An id is given out to dynamic members only.
            if join.instance_id.is_some() {
                return step.out.answer(join.ticket, refuse(ErrorCode::UnknownMemberId));
            }
            return self.add_then_rebalance(id, join, step);
        }
        if let Err(code) = self.validate_member(&id, join.instance_id.as_deref()) {
            return step.out.answer(join.ticket, refuse(code));
        }
        let unchanged = self.members.get(&id).is_some_and(|m| m.protocols == join.protocols);
        match self.state() {
            // The answer of this generation was lost; it still holds. The leader of a stable group asks for a rebalance
            // by joining: what it assigns may depend on more than its own subscription.
            State::CompletingRebalance if unchanged => {
                let response = self.join_response(&id, self.is_leader(&id));
                step.out.answer(join.ticket, Answer::Join(response));
            }
            State::Stable if unchanged && !self.is_leader(&id) => {
                let response = self.join_response(&id, false);
                step.out.answer(join.ticket, Answer::Join(response));
            }
            State::PreparingRebalance | State::CompletingRebalance | State::Stable => {
                self.update_member(&id, join, step);
                self.rebalance_or_complete_join(step);
            }
            // Nobody can be a member of an empty group.
            State::Empty | State::Dead => step.out.answer(join.ticket, refuse(ErrorCode::UnknownMemberId)),
        }
    }

    /// The current generation, as its members are told; with everyone's metadata for the leader.
    pub(super) fn join_response(&self, member_id: &str, with_members: bool) -> JoinGroupResponse {
        let members = self.members.iter().filter(|_| with_members).map(|(id, member)| JoinGroupResponseMember {
            member_id: id.clone(),
            group_instance_id: member.instance_id.clone(),
            metadata: member.metadata(self.protocol()),
        });
        JoinGroupResponse {
            generation_id: self.generation(),
            protocol_type: self.protocol_type().map(str::to_owned),
            protocol_name: self.protocol().map(str::to_owned),
            leader: self.leader.clone().unwrap_or_default(),
            member_id: member_id.to_owned(),
            members: members.collect(),
            ..Default::default()
        }
    }

    fn add_then_rebalance(&mut self, id: String, join: JoinInput, step: &mut Step<'_>) {
        if self.state() == State::PreparingRebalance && self.previous == State::Empty {
            self.new_member_added = true;
        }
        let member = Member {
            instance_id: join.instance_id,
            client_id: join.client_id,
            client_host: join.client_host,
            rebalance_timeout_ms: join.rebalance_timeout_ms,
            session_timeout_ms: join.session_timeout_ms,
            protocols: join.protocols,
            assignment: bytes::Bytes::new(),
            awaiting_join: Some(join.ticket),
            awaiting_sync: None,
            is_new: true,
        };
        tracing::info!(group = %self.id(), member = %id, "member joins");
        // The client cannot send heartbeats before it is answered, and its connection says nothing while it is parked.
        self.deadlines.set(Timer::Session(id.clone()), step.now_ms + NEW_MEMBER_JOIN_TIMEOUT_MS);
        self.add_member(id, join.protocol_type, member);
        self.rebalance_or_complete_join(step);
    }

    /// Takes over what the member says now, and parks its JoinGroup. One that is already parked belongs to a connection
    /// that the client has given up.
    fn update_member(&mut self, id: &str, join: JoinInput, step: &mut Step<'_>) {
        let Some(member) = self.members.get_mut(id) else { return };
        member.protocols = join.protocols;
        member.rebalance_timeout_ms = join.rebalance_timeout_ms;
        member.session_timeout_ms = join.session_timeout_ms;
        if let Some(old) = member.awaiting_join.replace(join.ticket) {
            step.out.answer(old, Answer::Join(join_refused(id, ErrorCode::RebalanceInProgress)));
        }
    }

    /// A static member came back without its id. If the group is stable and the assignment still holds, the member gets
    /// it under its new id without a rebalance.
    fn replace_static_member(&mut self, old_id: String, id: String, join: JoinInput, step: &mut Step<'_>) {
        let Some(mut member) = self.members.remove(&old_id) else { return };
        tracing::info!(group = %self.id(), old = %old_id, new = %id, "static member comes back");
        if let Some(ticket) = member.awaiting_join.take() {
            step.out.answer(ticket, Answer::Join(join_refused(&old_id, ErrorCode::FencedInstanceId)));
        }
        if let Some(ticket) = member.awaiting_sync.take() {
            step.out.answer(ticket, Answer::Sync(super::rebalance::sync_refused(ErrorCode::FencedInstanceId)));
        }
        let mut replaced = ReplacedMember {
            instance_id: join.instance_id.clone().unwrap_or_default(),
            old_id: old_id.clone(),
            new_id: id.clone(),
            ticket: join.ticket,
            generation: self.generation(),
            old_leader: self.leader.clone().unwrap_or_default(),
            skip_assignment_supported: join.skip_assignment_supported,
            old_protocols: member.protocols.clone(),
            old_rebalance_timeout_ms: member.rebalance_timeout_ms,
            old_session_timeout_ms: member.session_timeout_ms,
        };
        self.rename(&old_id, &id, member, step);
        self.update_member(&id, join, step);
        self.renew_session(&id, step);
        match self.state() {
            State::Stable if self.select_protocol().as_deref() == self.protocol() => {
                let assignments = self.members.iter().map(|(id, m)| (id.clone(), m.assignment.clone())).collect();
                replaced.generation = self.generation();
                let write = self.metadata_write(&assignments, Completion::StaticMember(Box::new(replaced)));
                step.out.writes.push(write);
            }
            State::Stable => self.rebalance_or_complete_join(step),
            // The leader may be assigning to the old id.
            State::CompletingRebalance => self.prepare_rebalance(step),
            _ => self.maybe_complete_join(step),
        }
    }

    /// Puts the member in under its new id: leadership, static identity and the duty to sync go with it.
    fn rename(&mut self, old_id: &str, new_id: &str, member: Member, step: &Step<'_>) {
        self.deadlines.cancel(&Timer::Session(old_id.to_owned()));
        if self.pending_syncs.remove(old_id) {
            self.pending_syncs.insert(new_id.to_owned());
        }
        if self.is_leader(old_id) {
            self.leader = Some(new_id.to_owned());
        }
        if let Some(instance) = &member.instance_id {
            self.statics.insert(instance.clone(), new_id.to_owned());
        }
        self.members.insert(new_id.to_owned(), member);
        self.renew_session(new_id, step);
    }

    /// The replaced static member is durable and is answered; or it is not, and the old one is put back.
    pub(super) fn static_member_written(
        &mut self,
        replaced: ReplacedMember,
        result: Result<(), ErrorCode>,
        step: &mut Step<'_>,
    ) {
        let (new_id, ticket) = (replaced.new_id.as_str(), replaced.ticket);
        let parked = self.members.get(new_id).is_some_and(|m| m.awaiting_join == Some(ticket));
        // If the group has begun another rebalance, that one answers.
        if !parked || self.state() != State::Stable || self.generation() != replaced.generation {
            return;
        }
        if let Some(member) = self.members.get_mut(new_id) {
            member.awaiting_join = None;
        }
        self.renew_session(new_id, step);
        let mut response = self.join_response(new_id, false);
        match result {
            Err(code) => {
                response.error_code = code.code();
                response.member_id = String::new();
                response.leader = replaced.old_leader.clone();
                if let Some(mut member) = self.members.remove(new_id) {
                    member.protocols = replaced.old_protocols.clone();
                    member.rebalance_timeout_ms = replaced.old_rebalance_timeout_ms;
                    member.session_timeout_ms = replaced.old_session_timeout_ms;
                    self.rename(new_id, &replaced.old_id, member, step);
                }
            }
            Ok(()) if replaced.skip_assignment_supported => {
                let leads = self.is_leader(new_id);
                response = self.join_response(new_id, leads);
                response.skip_assignment = leads;
            }
            Ok(()) => response.leader = replaced.old_leader.clone(),
        }
        step.out.answer(ticket, Answer::Join(response));
    }

    /// Heartbeat.
    pub fn heartbeat(
        &mut self,
        member_id: &str,
        instance_id: Option<&str>,
        generation: i32,
        step: &mut Step<'_>,
    ) -> ErrorCode {
        if self.state() == State::Dead {
            return ErrorCode::CoordinatorNotAvailable;
        }
        if let Err(code) = self.validate_member(member_id, instance_id) {
            return code;
        }
        if generation != self.generation() {
            return ErrorCode::IllegalGeneration;
        }
        self.renew_session(member_id, step);
        if self.state() == State::PreparingRebalance { ErrorCode::RebalanceInProgress } else { ErrorCode::None }
    }

    /// LeaveGroup of (member id, instance id) pairs: an empty member id removes by instance id. Returns a code per pair.
    pub fn leave(
        &mut self,
        leaving: &[(String, Option<String>)],
        step: &mut Step<'_>,
    ) -> Result<Vec<ErrorCode>, ErrorCode> {
        if self.state() == State::Dead {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        let codes: Vec<ErrorCode> =
            leaving.iter().map(|(id, instance)| self.leave_one(id, instance.as_deref(), step)).collect();
        if codes.contains(&ErrorCode::None) {
            match self.state() {
                State::Stable | State::CompletingRebalance => self.rebalance_or_complete_join(step),
                State::PreparingRebalance => self.maybe_complete_join(step),
                State::Empty | State::Dead => {}
            }
        }
        Ok(codes)
    }

    fn leave_one(&mut self, member_id: &str, instance_id: Option<&str>, step: &mut Step<'_>) -> ErrorCode {
        let id = if member_id.is_empty() {
            match instance_id.and_then(|instance| self.statics.get(instance)) {
                Some(id) => id.clone(),
                None => return ErrorCode::UnknownMemberId,
            }
        } else if self.pending_joins.contains(member_id) {
            member_id.to_owned()
        } else if let Err(code) = self.validate_member(member_id, instance_id) {
            return code;
        } else {
            member_id.to_owned()
        };
        tracing::info!(group = %self.id(), member = %id, "member leaves");
        self.fail_member(&id, step);
        ErrorCode::None
    }

    /// Answers what the member has parked and removes it. A client that is still there joins again.
    pub(super) fn fail_member(&mut self, id: &str, step: &mut Step<'_>) {
        if let Some(member) = self.members.get_mut(id) {
            if let Some(ticket) = member.awaiting_join.take() {
                step.out.answer(ticket, Answer::Join(join_refused("", ErrorCode::UnknownMemberId)));
            }
            if let Some(ticket) = member.awaiting_sync.take() {
                step.out.answer(ticket, Answer::Sync(super::rebalance::sync_refused(ErrorCode::UnknownMemberId)));
            }
        }
        self.remove_member(id);
    }
}
