//! A member of a classic consumer group: joins, stays by heartbeats, commits, leaves.
//!
//! Owns one member's seat ([`membership`] decides, this carries) and a connection of its own to the coordinator: brokers answer a
//! connection in order, and a JoinGroup may be parked for a whole rebalance. Protocol type and metadata are the caller's bytes.
//! Does not own what is assigned nor what is read. Invariants: a commit carries generation and member id, and a refusal is the caller's to
//! see; heartbeats stop when the owner has not called [`Member::alive`] for `max_poll_interval`, so that the group can go on without a
//! task that hangs. A crash leaves a seat that the coordinator frees after the session timeout.

pub mod consumer;
pub mod membership;
pub mod offsets;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::messages::heartbeat_request::HeartbeatRequest;
use strandline_protocol::messages::join_group_request::{JoinGroupRequest, JoinGroupRequestProtocol};
use strandline_protocol::messages::leave_group_request::{LeaveGroupRequest, MemberIdentity};
use strandline_protocol::messages::sync_group_request::{SyncGroupRequest, SyncGroupRequestAssignment};
use tokio::sync::Notify;
use tokio::time::Instant;

use self::membership::{Answer, Membership, Standing, Step, Timing};
use self::offsets::{Committer, GroupOffsets};
use crate::cluster::Cluster;
use crate::connection::{CallError, Connection, check};

/// Beyond 8 a leader may be told to skip the assignment, which only static members need.
const JOIN_VERSION_MAX: i16 = 8;
/// How long a member that stops waits for its leave to be answered.
const LEAVE_MAX: Duration = Duration::from_secs(3);

/// How to be a member.
#[derive(Debug, Clone)]
pub struct GroupOptions {
    pub group: String,
    pub protocol_type: String,
    pub session_timeout: Duration,
    /// How long the group waits for its members to join again.
    pub rebalance_timeout: Duration,
    pub heartbeat_interval: Duration,
    /// Heartbeats end this long after the last [`Member::alive`].
    pub max_poll_interval: Duration,
}

/// Why a group does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("group {group}: {}: {}", code.name(), code.message())]
    Refused { group: String, code: ErrorCode },
    #[error("group {group} was not joined within {waited:?}: do all its members still run?")]
    TimedOut { group: String, waited: Duration },
    #[error("group {group}: this member's assignment is not its own any more")]
    Lost { group: String },
}

/// What JoinGroup gave.
#[derive(Debug, Clone)]
pub struct Seat {
    pub generation: i32,
    pub member_id: String,
    /// All members and their metadata, if this is the leader: it has to assign.
    pub members: Option<Vec<(String, Bytes)>>,
}

struct Shared {
    cluster: Arc<Cluster>,
    options: GroupOptions,
    membership: Mutex<Membership>,
    connection: tokio::sync::Mutex<Option<Arc<Connection>>>,
    begun: Instant,
    alive_ms: AtomicI64,
    changed: Notify,
}

/// One member. Dropped = it beats no more.
pub struct Member {
    shared: Arc<Shared>,
    heart: tokio::task::JoinHandle<()>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.heart.abort();
    }
}

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn ms_i32(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

impl Shared {
    fn now_ms(&self) -> i64 {
        ms(self.begun.elapsed())
    }

    fn refused(&self, code: ErrorCode) -> GroupError {
        GroupError::Refused { group: self.options.group.clone(), code }
    }

    fn on(&self, answer: Answer) -> Result<(), GroupError> {
        let outcome = self.membership.lock().on(answer, self.now_ms());
        self.changed.notify_waiters();
        outcome.map_err(|code| self.refused(code))
    }

    /// The member's own connection to the coordinator.
    async fn connection(&self) -> Result<Arc<Connection>, CallError> {
        let node = self.membership.lock().coordinator().unwrap_or(-1);
        let mut slot = self.connection.lock().await;
        if let Some(open) = slot.as_ref().filter(|c| !c.has_failed()) {
            return Ok(Arc::clone(open));
        }
        let opened = Arc::new(self.cluster.open_own(node).await?);
        *slot = Some(Arc::clone(&opened));
        Ok(opened)
    }

    async fn unreachable(&self, error: CallError) -> Result<(), GroupError> {
        *self.connection.lock().await = None;
        if !error.retryable() {
            return Err(error.into());
        }
        tracing::debug!(group = self.options.group, %error, "the coordinator does not answer");
        self.on(Answer::Unreachable)
    }

    async fn find_coordinator(&self) -> Result<(), GroupError> {
        *self.connection.lock().await = None;
        match offsets::coordinator(&self.cluster, &self.options.group).await {
            Ok(found) => self.on(Answer::Coordinator(found)),
            Err(error) => self.unreachable(error).await,
        }
    }

    async fn heartbeat(&self) -> Result<(), GroupError> {
        let (member_id, generation_id) = {
            let m = self.membership.lock();
            (m.member_id().to_owned(), m.joined_generation())
        };
        let request =
            HeartbeatRequest { group_id: self.options.group.clone(), generation_id, member_id, ..Default::default() };
        let answer = async {
            let connection = self.connection().await?;
            connection.call(&request, self.options.session_timeout).await
        };
        match answer.await {
            // An answer about a generation that is over says nothing about the next.
            Ok(_) if self.membership.lock().joined_generation() != generation_id => Ok(()),
            Ok(response) => self.on(Answer::Heartbeat(check(response.error_code))),
            Err(error) => self.unreachable(error).await,
        }
    }
}

/// Keeps the seat while there is one.
async fn beat(shared: Arc<Shared>) {
    loop {
        let now = shared.now_ms();
        let hangs = now - shared.alive_ms.load(Ordering::Relaxed) > ms(shared.options.max_poll_interval);
        let step = shared.membership.lock().next(now);
        let standing = shared.membership.lock().standing(now);
        let outcome = match step {
            _ if hangs || standing == Standing::Lost => {
                tokio::time::sleep(shared.options.heartbeat_interval).await;
                Ok(())
            }
            Step::Heartbeat => shared.heartbeat().await,
            Step::FindCoordinator => shared.find_coordinator().await,
            Step::Wait(until) => {
                tokio::time::sleep(Duration::from_millis(u64::try_from(until - now).unwrap_or(1))).await;
                Ok(())
            }
            Step::Join | Step::Sync => {
                tokio::time::sleep(shared.options.heartbeat_interval).await;
                Ok(())
            }
        };
        if let Err(error) = outcome {
            tracing::warn!(group = shared.options.group, %error, "a heartbeat was refused");
            tokio::time::sleep(shared.options.heartbeat_interval).await;
        }
    }
}

impl Member {
    /// Nobody yet; [`Member::join`] takes a seat. Needs a tokio runtime.
    pub fn new(cluster: Arc<Cluster>, options: GroupOptions) -> Member {
        let timing = Timing {
            session_timeout_ms: ms(options.session_timeout),
            heartbeat_interval_ms: ms(options.heartbeat_interval),
        };
        let shared = Arc::new(Shared {
            cluster,
            options,
            membership: Mutex::new(Membership::new(timing)),
            connection: tokio::sync::Mutex::new(None),
            begun: Instant::now(),
            alive_ms: AtomicI64::new(0),
            changed: Notify::new(),
        });
        let heart = tokio::spawn(beat(Arc::clone(&shared)));
        Member { shared, heart }
    }

    /// Says that the owner does not hang.
    pub fn alive(&self) {
        self.shared.alive_ms.store(self.shared.now_ms(), Ordering::Relaxed);
    }

    pub fn standing(&self) -> Standing {
        self.shared.membership.lock().standing(self.shared.now_ms())
    }

    /// None = what would be committed may be somebody else's.
    pub fn generation(&self) -> Option<i32> {
        self.shared.membership.lock().generation(self.shared.now_ms())
    }

    pub fn member_id(&self) -> String {
        self.shared.membership.lock().member_id().to_owned()
    }

    /// Waits until the standing is another than `Stable`, at most `limit`.
    pub async fn unsettled(&self, limit: Duration) -> Standing {
        let end = Instant::now() + limit;
        loop {
            let changed = self.shared.changed.notified();
            let standing = self.standing();
            if standing != Standing::Stable || Instant::now() >= end {
                return standing;
            }
            // A session also ends by silence.
            let look = (Instant::now() + self.shared.options.heartbeat_interval).min(end);
            let _ = tokio::time::timeout_at(look, changed).await;
        }
    }

    /// Enters the next generation; waits until the others have too. `protocols` in order of preference. The leader, and only it,
    /// gets the members; all must call [`Member::sync`] next.
    pub async fn join(&self, protocols: &[(String, Bytes)]) -> Result<Seat, GroupError> {
        let shared = &self.shared;
        let limit = shared.options.rebalance_timeout + shared.options.session_timeout + shared.cluster.deadline();
        let end = Instant::now() + limit;
        shared.membership.lock().rejoin();
        loop {
            if Instant::now() >= end {
                return Err(GroupError::TimedOut { group: shared.options.group.clone(), waited: limit });
            }
            self.alive();
            let now = shared.now_ms();
            let step = shared.membership.lock().next(now);
            match step {
                Step::FindCoordinator => shared.find_coordinator().await?,
                Step::Wait(until) => {
                    tokio::time::sleep(Duration::from_millis(u64::try_from(until - now).unwrap_or(1))).await;
                }
                Step::Join => {
                    if let Some(seat) = self.join_once(protocols).await? {
                        return Ok(seat);
                    }
                }
                // The heart has no part in this: a seat is taken here alone.
                Step::Sync | Step::Heartbeat => shared.membership.lock().rejoin(),
            }
        }
    }

    async fn join_once(&self, protocols: &[(String, Bytes)]) -> Result<Option<Seat>, GroupError> {
        let shared = &self.shared;
        let options = &shared.options;
        let protocol = |(name, metadata): &(String, Bytes)| JoinGroupRequestProtocol {
            name: name.clone(),
            metadata: metadata.clone(),
            ..Default::default()
        };
        let request = JoinGroupRequest {
            group_id: options.group.clone(),
            session_timeout_ms: ms_i32(options.session_timeout),
            rebalance_timeout_ms: ms_i32(options.rebalance_timeout),
            member_id: self.member_id(),
            protocol_type: options.protocol_type.clone(),
            protocols: protocols.iter().map(protocol).collect(),
            ..Default::default()
        };
        let answer = async {
            let connection = shared.connection().await?;
            let version = connection.version::<JoinGroupRequest>(JOIN_VERSION_MAX)?;
            let deadline = options.rebalance_timeout + shared.cluster.deadline();
            connection.call_version(version, &request, deadline).await
        };
        let response = match answer.await {
            Ok(response) => response,
            Err(error) => {
                shared.unreachable(error).await?;
                return Ok(None);
            }
        };
        let outcome = check(response.error_code).map(|()| response.generation_id);
        shared.on(Answer::Join(outcome, response.member_id.clone()))?;
        if outcome.is_err() {
            return Ok(None);
        }
        let leads = response.leader == response.member_id;
        Ok(Some(Seat {
            generation: response.generation_id,
            member_id: response.member_id,
            members: leads.then(|| response.members.into_iter().map(|m| (m.member_id, m.metadata)).collect()),
        }))
    }

    /// Hands the leader's assignments in (nobody else's: empty) and gets this member's. None = the round is over, join again.
    pub async fn sync(&self, seat: &Seat, assignments: Vec<(String, Bytes)>) -> Result<Option<Bytes>, GroupError> {
        let shared = &self.shared;
        let options = &shared.options;
        let assignments = assignments
            .into_iter()
            .map(|(member_id, assignment)| SyncGroupRequestAssignment { member_id, assignment, ..Default::default() })
            .collect();
        let request = SyncGroupRequest {
            group_id: options.group.clone(),
            generation_id: seat.generation,
            member_id: seat.member_id.clone(),
            assignments,
            ..Default::default()
        };
        let answer = async {
            let connection = shared.connection().await?;
            // From 5 on protocol type and name go along, which only check what JoinGroup said.
            let version = connection.version::<SyncGroupRequest>(4)?;
            connection.call_version(version, &request, options.rebalance_timeout + shared.cluster.deadline()).await
        };
        match answer.await {
            Ok(response) => {
                let outcome = check(response.error_code);
                shared.on(Answer::Sync(outcome))?;
                self.alive();
                Ok(outcome.is_ok().then_some(response.assignment))
            }
            Err(error) => {
                shared.unreachable(error).await?;
                Ok(None)
            }
        }
    }

    /// Commits under `generation`, the one in which the offsets were read. A refusal is an error, and counts for the standing.
    pub async fn commit(&self, generation: i32, offsets: &GroupOffsets) -> Result<(), GroupError> {
        let shared = &self.shared;
        if self.generation() != Some(generation) {
            return Err(GroupError::Lost { group: shared.options.group.clone() });
        }
        let committer = Committer { group: shared.options.group.clone(), generation, member_id: self.member_id() };
        let outcome = async {
            let connection = shared.connection().await?;
            offsets::commit(&shared.cluster, &connection, &committer, offsets).await
        };
        match outcome.await {
            Ok(()) => shared.on(Answer::Commit(Ok(()))),
            Err(GroupError::Refused { group, code }) => {
                shared.on(Answer::Commit(Err(code)))?;
                Err(GroupError::Refused { group, code })
            }
            Err(GroupError::Call(error)) => {
                let told = GroupError::Lost { group: shared.options.group.clone() };
                let retryable = error.retryable();
                shared.unreachable(error).await?;
                debug_assert!(retryable, "others are returned above");
                // Not known whether it was taken: to be committed again.
                Err(match self.generation() {
                    Some(_) => shared.refused(ErrorCode::NetworkException),
                    None => told,
                })
            }
            Err(error) => Err(error),
        }
    }

    /// All that the group has committed.
    pub async fn committed(&self) -> Result<GroupOffsets, GroupError> {
        let connection = self.shared.connection().await?;
        offsets::fetch(&self.shared.cluster, &connection, &self.shared.options.group).await
    }

    /// Gives the seat back, so that the others need not wait for the session to end.
    pub async fn leave(self) {
        let member_id = self.member_id();
        if member_id.is_empty() {
            return;
        }
        let request = LeaveGroupRequest {
            group_id: self.shared.options.group.clone(),
            members: vec![MemberIdentity { member_id, ..Default::default() }],
            ..Default::default()
        };
        // A JoinGroup that is parked would keep the answer from coming.
        *self.shared.connection.lock().await = None;
        let left = async {
            let connection = self.shared.connection().await?;
            let version = connection.version::<LeaveGroupRequest>(i16::MAX)?;
            connection.call_version(version, &request, LEAVE_MAX).await
        };
        match tokio::time::timeout(LEAVE_MAX, left).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the group was not told that a member leaves"),
            Err(_) => tracing::debug!("the group was not told in time that a member leaves"),
        }
    }
}
