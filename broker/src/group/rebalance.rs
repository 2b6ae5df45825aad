//! The two phases of a rebalance, and what ends them: joins until everyone is there, the leader's assignment until
//! everyone has it.
//!
//! Owns SyncGroup, the completion of the join phase and every deadline. Invariant: whoever is parked is answered at the
//! latest when the phase's deadline passes, which is the group's rebalance timeout after the phase began (for a join
//! during the initial delay, after that delay began).

use std::collections::BTreeMap;

use bytes::Bytes;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::messages::sync_group_response::SyncGroupResponse;

use super::outcomes::{Answer, Completion, Ticket};
use super::state::{Group, State, Step, Timer};

/// A SyncGroup, as a group sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncInput {
    pub ticket: Ticket,
    pub member_id: String,
    pub instance_id: Option<String>,
    pub generation: i32,
    /// Not checked if not given.
    pub protocol_type: Option<String>,
    /// Not checked if not given.
    pub protocol_name: Option<String>,
    /// From the leader: assignments by member id.
    pub assignments: Vec<(String, Bytes)>,
}

/// The answer to a SyncGroup that is refused.
pub fn sync_refused(code: ErrorCode) -> SyncGroupResponse {
    SyncGroupResponse { error_code: code.code(), ..Default::default() }
}

impl Group {
    /// Begins a rebalance if the state allows, else ends the join phase if it was waiting for this.
    pub(super) fn rebalance_or_complete_join(&mut self, step: &mut Step<'_>) {
        match self.state() {
            State::Stable | State::CompletingRebalance | State::Empty => self.prepare_rebalance(step),
            State::PreparingRebalance | State::Dead => self.maybe_complete_join(step),
        }
    }

    /// Begins the join phase. A group's first one waits for more members before it ends.
    pub(super) fn prepare_rebalance(&mut self, step: &mut Step<'_>) {
        if self.state() == State::CompletingRebalance {
            self.reset_assignments(ErrorCode::RebalanceInProgress, step);
        }
        self.pending_syncs.clear();
        self.deadlines.cancel(&Timer::Sync);
        let initial = self.state() == State::Empty;
        self.transition(State::PreparingRebalance, step.now_ms);
        if initial {
            let delay = step.settings.initial_rebalance_delay_ms;
            let remaining = (self.rebalance_timeout_ms() - delay).max(0);
            self.new_member_added = false;
            self.initial_delay = Some((delay, remaining));
            self.deadlines.set(Timer::Join, step.now_ms + delay);
        } else if self.all_joined() {
            self.complete_join(step);
        } else {
            self.initial_delay = None;
            self.deadlines.set(Timer::Join, step.now_ms + self.rebalance_timeout_ms());
        }
    }

    /// Ends the join phase if everyone is there and it is not the initial delay.
    pub(super) fn maybe_complete_join(&mut self, step: &mut Step<'_>) {
        if self.state() == State::PreparingRebalance && self.previous != State::Empty && self.all_joined() {
            self.complete_join(step);
        }
    }

    /// The initial delay is over: begins another if someone came meanwhile and there is time left.
    fn initial_delay_over(&mut self, (delay, remaining): (i64, i64), step: &mut Step<'_>) {
        if self.new_member_added && remaining > 0 {
            self.new_member_added = false;
            let next = step.settings.initial_rebalance_delay_ms.min(remaining);
            self.initial_delay = Some((next, (remaining - delay).max(0)));
            self.deadlines.set(Timer::Join, step.now_ms + next);
        } else {
            self.complete_join(step);
        }
    }

    /// Ends the join phase: members that did not come are out, except static ones, whose session decides.
    fn complete_join(&mut self, step: &mut Step<'_>) {
        self.deadlines.cancel(&Timer::Join);
        self.initial_delay = None;
        let absent: Vec<String> = self
            .members
            .iter()
            .filter(|(_, m)| m.awaiting_join.is_none() && m.instance_id.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for id in &absent {
            tracing::info!(group = %self.id(), member = %id, "member did not join in time and is removed");
            self.fail_member(id, step);
        }
        if !self.elect_leader() && !self.members.is_empty() {
            // Only absent static members are left: their sessions end, or they come back.
            self.deadlines.set(Timer::Join, step.now_ms + self.rebalance_timeout_ms());
            return;
        }
        self.generation = self.generation.checked_add(1).unwrap_or(0);
        self.protocol = self.select_protocol();
        self.compute_subscribed();
        self.pending_syncs.clear();
        if self.members.is_empty() {
            self.leader = None;
            self.transition(State::Empty, step.now_ms);
            let write = self.metadata_write(&BTreeMap::new(), Completion::Empty);
            step.out.writes.push(write);
            return;
        }
        self.transition(State::CompletingRebalance, step.now_ms);
        tracing::info!(group = %self.id(), generation = self.generation(), members = self.members.len(), "group has joined");
        self.answer_joins(step);
    }

    fn answer_joins(&mut self, step: &mut Step<'_>) {
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in &ids {
            let response = self.join_response(id, self.is_leader(id));
            if let Some(member) = self.members.get_mut(id) {
                member.is_new = false;
                if let Some(ticket) = member.awaiting_join.take() {
                    step.out.answer(ticket, Answer::Join(response));
                }
            }
            self.renew_session(id, step);
        }
        self.pending_syncs = ids.into_iter().collect();
        self.deadlines.set(Timer::Sync, step.now_ms + self.rebalance_timeout_ms());
    }

    /// Keeps the leader if it has joined, else takes the first member that has. False if nobody has.
    fn elect_leader(&mut self) -> bool {
        let has_joined = |id: &String| self.members.get(id).is_some_and(|m| m.awaiting_join.is_some());
        if self.leader.as_ref().is_some_and(has_joined) {
            return true;
        }
        let Some(id) = self.members.keys().find(|id| has_joined(id)).cloned() else { return false };
        self.leader = Some(id);
        true
    }

    /// SyncGroup.
    pub fn sync(&mut self, sync: SyncInput, step: &mut Step<'_>) {
        let ticket = sync.ticket;
        if let Err(code) = self.validate_sync(&sync) {
            return step.out.answer(ticket, Answer::Sync(sync_refused(code)));
        }
        self.pending_syncs.remove(&sync.member_id);
        if self.pending_syncs.is_empty() {
            self.deadlines.cancel(&Timer::Sync);
        }
        if self.state() == State::Stable {
            let assignment = self.members.get(&sync.member_id).map(|m| m.assignment.clone()).unwrap_or_default();
            return step.out.answer(ticket, Answer::Sync(self.sync_response(assignment)));
        }
        if let Some(member) = self.members.get_mut(&sync.member_id)
            && let Some(old) = member.awaiting_sync.replace(ticket)
        {
            // Of a connection that the client has given up.
            step.out.answer(old, Answer::Sync(sync_refused(ErrorCode::RebalanceInProgress)));
        }
        if self.is_leader(&sync.member_id) {
            let given: BTreeMap<String, Bytes> = sync.assignments.into_iter().collect();
            let assignment = |id: &String| given.get(id).cloned().unwrap_or_default();
            let assignments: BTreeMap<_, _> = self.members.keys().map(|id| (id.clone(), assignment(id))).collect();
            let completion = Completion::Assignment { generation: self.generation(), assignments: assignments.clone() };
            let write = self.metadata_write(&assignments, completion);
            step.out.writes.push(write);
        }
    }

    fn validate_sync(&self, sync: &SyncInput) -> Result<(), ErrorCode> {
        match self.state() {
            State::Dead => return Err(ErrorCode::CoordinatorNotAvailable),
            State::Empty => return Err(ErrorCode::UnknownMemberId),
            _ => {}
        }
        self.validate_member(&sync.member_id, sync.instance_id.as_deref())?;
        if sync.generation != self.generation() {
            return Err(ErrorCode::IllegalGeneration);
        }
        let differs = |given: &Option<String>, own: Option<&str>| given.is_some() && given.as_deref() != own;
        if differs(&sync.protocol_type, self.protocol_type()) || differs(&sync.protocol_name, self.protocol()) {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        if self.state() == State::PreparingRebalance { Err(ErrorCode::RebalanceInProgress) } else { Ok(()) }
    }

    fn sync_response(&self, assignment: Bytes) -> SyncGroupResponse {
        SyncGroupResponse {
            protocol_type: self.protocol_type().map(str::to_owned),
            protocol_name: self.protocol().map(str::to_owned),
            assignment,
            ..Default::default()
        }
    }

    /// The leader's assignment is durable and is handed out; or it is not, and the group tries again.
    pub(super) fn assignment_written(
        &mut self,
        generation: i32,
        mut assignments: BTreeMap<String, Bytes>,
        result: Result<(), ErrorCode>,
        step: &mut Step<'_>,
    ) {
        // Someone may have joined or left meanwhile; then a later generation decides.
        if self.state() != State::CompletingRebalance || self.generation() != generation {
            return;
        }
        if let Err(code) = result {
            self.reset_assignments(code, step);
            return self.prepare_rebalance(step);
        }
        self.transition(State::Stable, step.now_ms);
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let assignment = assignments.remove(&id).unwrap_or_default();
            let response = self.sync_response(assignment.clone());
            if let Some(member) = self.members.get_mut(&id) {
                member.assignment = assignment;
                if let Some(ticket) = member.awaiting_sync.take() {
                    step.out.answer(ticket, Answer::Sync(response));
                    // Its session may have ended while it was excused.
                    self.renew_session(&id, step);
                }
            }
        }
    }

    /// Nobody has an assignment any more; whoever waits for one is told `code`.
    fn reset_assignments(&mut self, code: ErrorCode, step: &mut Step<'_>) {
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            if let Some(member) = self.members.get_mut(&id) {
                member.assignment = Bytes::new();
                if let Some(ticket) = member.awaiting_sync.take() {
                    step.out.answer(ticket, Answer::Sync(sync_refused(code)));
                    self.renew_session(&id, step);
                }
            }
        }
    }

    /// A group that is larger than the limit, which was lowered: everyone joins anew and the last are turned away.
    pub fn shrink(&mut self, step: &mut Step<'_>) {
        if self.state() == State::Stable && self.members.len() > step.settings.max_size {
            self.prepare_rebalance(step);
        }
    }

    /// Does what is due at `step.now_ms`.
    pub fn on_deadlines(&mut self, step: &mut Step<'_>) {
        while let Some(timer) = self.deadlines.pop_due(step.now_ms) {
            match timer {
                Timer::Session(id) => self.session_over(&id, step),
                Timer::Sync => self.sync_phase_over(step),
                Timer::Join if self.state() == State::PreparingRebalance => match self.initial_delay {
                    Some(initial) => self.initial_delay_over(initial, step),
                    None => self.complete_join(step),
                },
                Timer::Join => {}
            }
        }
    }

    fn session_over(&mut self, id: &str, step: &mut Step<'_>) {
        if self.pending_joins.contains(id) {
            self.remove_member(id);
            return self.maybe_complete_join(step);
        }
        if self.members.get(id).is_none_or(|m| m.is_excused()) {
            return;
        }
        tracing::info!(group = %self.id(), member = %id, "member failed: its session timed out");
        self.fail_member(id, step);
        match self.state() {
            State::Stable | State::CompletingRebalance => self.prepare_rebalance(step),
            // Here the initial delay ends too if nobody is left to wait for.
            State::PreparingRebalance
                if self.all_joined() && (self.previous != State::Empty || self.members.is_empty()) =>
            {
                self.complete_join(step);
            }
            _ => {}
        }
    }

    /// Members that have not sent SyncGroup by now are out.
    fn sync_phase_over(&mut self, step: &mut Step<'_>) {
        let absent = std::mem::take(&mut self.pending_syncs);
        if absent.is_empty() || !matches!(self.state(), State::CompletingRebalance | State::Stable) {
            return;
        }
        for id in &absent {
            tracing::info!(group = %self.id(), member = %id, "member did not sync in time and is removed");
            self.fail_member(id, step);
        }
        self.prepare_rebalance(step);
    }
}
