//! The group coordinator: requests in, groups stepped, answers out.
//!
//! Owns which partitions of `__consumer_offsets` are served, and the one queue of deadlines. Does not own the groups'
//! decisions (`state`, `join`, `rebalance`, `offsets`), nor the order of writes (`partition`).
//! Invariants: no lock is held across an await; a partition's lock is taken before the queue of deadlines', never after.
//! A crash leaves behind what was appended; nothing else is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::messages::join_group_response::JoinGroupResponse;
use strandline_protocol::messages::sync_group_response::SyncGroupResponse;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use super::deadlines::Deadlines;
use super::join::{JoinInput, join_refused};
use super::load::Replay;
use super::member::Protocol;
use super::offsets::{CommitInput, CommitPartition, OffsetsByTopic};
use super::outcomes::Answer;
use super::partition::{Parked, Partition};
use super::rebalance::{SyncInput, sync_refused};
use super::records::NAME_MAX_BYTES;
use super::settings::GroupSettings;
use super::snapshot::GroupSnapshot;
use super::state::{Group, State};

/// Longest wait of the deadline task, in ms: the clock may be set forward.
const DEADLINE_WAIT_MAX_MS: i64 = 1000;
/// How often loading tries to read before it gives up.
const LOAD_ATTEMPTS: u32 = 10;
/// Between two attempts.
const LOAD_RETRY: Duration = Duration::from_millis(500);
/// Between two looks at whether a new leader's log is safe to its end.
const SETTLE_LOOK: Duration = Duration::from_millis(20);
/// Characters of the client id that go into a member id.
const CLIENT_ID_MAX_CHARS: usize = 255;

/// Where the groups' records are kept: the partitions of `__consumer_offsets`.
#[async_trait]
pub trait OffsetsLog: Send + Sync {
    /// Partitions of the topic; `None` = it does not exist yet.
    fn partition_count(&self) -> Option<i32>;

    /// Appends one batch, whose base offset is 0 and is to be set. Returns when it is durable.
    async fn append(&self, partition: i32, batch: Bytes) -> Result<(), ErrorCode>;

    /// Whole batches from the one with `offset` on, and the offset behind them, which is `offset` at the end. An offset
    /// below the start of the log means the start.
    async fn read(&self, partition: i32, offset: i64) -> Result<(Bytes, i64), ErrorCode>;

    /// The high watermark and the end of the log.
    fn ends(&self, partition: i32) -> Result<(i64, i64), ErrorCode>;

    /// Whether this node leads the partition.
    fn leads(&self, partition: i32) -> bool;
}

/// A JoinGroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinGroup {
    pub group_id: String,
    /// Empty = none yet.
    pub member_id: String,
    pub instance_id: Option<String>,
    pub client_id: String,
    pub client_host: String,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    pub protocol_type: String,
    pub protocols: Vec<Protocol>,
    /// Whether a new dynamic member must come back with its id (version 4 on).
    pub member_id_required: bool,
    /// Whether the answer may say `skip_assignment` (version 9 on).
    pub skip_assignment_supported: bool,
}

/// A SyncGroup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncGroup {
    pub group_id: String,
    pub member_id: String,
    pub instance_id: Option<String>,
    pub generation: i32,
    pub protocol_type: Option<String>,
    pub protocol_name: Option<String>,
    pub assignments: Vec<(String, Bytes)>,
}

/// An OffsetCommit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    pub group_id: String,
    pub member_id: String,
    pub instance_id: Option<String>,
    /// Negative = from outside of the group.
    pub generation: i32,
    /// The client's own retention, in ms.
    pub retention_ms: Option<i64>,
    pub partitions: Vec<CommitPartition>,
    /// What a generation of a group that does not exist is answered with.
    pub no_group: ErrorCode,
}

type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Coordinates the groups whose partition this node leads.
pub struct GroupCoordinator {
    settings: GroupSettings,
    log: Arc<dyn OffsetsLog>,
    /// ms since the epoch.
    clock: Clock,
    partitions: Mutex<BTreeMap<i32, Arc<Partition>>>,
    deadlines: Mutex<Deadlines<(i32, String)>>,
    /// The earliest deadline moved forward.
    earlier: Notify,
}

impl GroupCoordinator {
    /// A coordinator that serves no partition yet. `clock` tells ms since the epoch.
    pub fn new(settings: GroupSettings, log: Arc<dyn OffsetsLog>, clock: Clock) -> Arc<Self> {
        Arc::new(GroupCoordinator {
            settings,
            log,
            clock,
            partitions: Mutex::default(),
            deadlines: Mutex::default(),
            earlier: Notify::new(),
        })
    }

    pub(super) fn settings(&self) -> &GroupSettings {
        &self.settings
    }

    pub(super) fn log(&self) -> &dyn OffsetsLog {
        &*self.log
    }

    pub(super) fn now_ms(&self) -> i64 {
        (self.clock)()
    }

    /// The partition of `__consumer_offsets` that has the group; `None` if the topic does not exist yet.
    pub fn partition_for(&self, group_id: &str) -> Option<i32> {
        self.log.partition_count().map(|count| partition_for(group_id, count))
    }

    fn serving(&self, group_id: &str) -> Result<Arc<Partition>, ErrorCode> {
        if group_id.len() > NAME_MAX_BYTES {
            return Err(ErrorCode::InvalidGroupId);
        }
        let number = self.partition_for(group_id).ok_or(ErrorCode::NotCoordinator)?;
        if !self.log.leads(number) {
            return Err(ErrorCode::NotCoordinator);
        }
        // A partition that is led but not known is about to be loaded.
        let known = self.partitions.lock().get(&number).cloned();
        known.ok_or(ErrorCode::CoordinatorLoadInProgress)
    }

    /// Reads a partition that this node has begun to lead, and serves it. Until then its groups are answered
    /// COORDINATOR_LOAD_IN_PROGRESS. An error means that it is not served; loading may be tried again.
    pub async fn load(self: &Arc<Self>, number: i32) -> Result<(), ErrorCode> {
        let partition = Partition::loading(number);
        let old = self.partitions.lock().insert(number, partition.clone());
        self.forget_deadlines(number);
        if let Some(old) = old {
            // An append of the old leadership may still reach the log.
            old.close();
            old.until_idle().await;
        }
        let replay = match self.replay(number).await {
            Ok(replay) => replay,
            Err(code) => {
                partition.close();
                return Err(code);
            }
        };
        let (records, unreadable) = (replay.records, replay.unreadable);
        if !partition.activate(replay.finish(self.now_ms())) {
            return Err(ErrorCode::NotCoordinator);
        }
        let groups = partition.group_ids();
        tracing::info!(partition = number, records, unreadable, groups = groups.len(), "groups are loaded");
        for group in groups {
            // A lowered limit applies to groups that are there already.
            let _ = self.step(&partition, &group, false, false, |group, _, step| group.shrink(step));
        }
        Ok(())
    }

    /// Waits until all that the leaders before have acknowledged can be read. A new leader has it in its log, but knows
    /// it to be safe only when the in-sync replicas have fetched from it; what it read before would be an old state.
    async fn until_safe(&self, number: i32) -> Result<(), ErrorCode> {
        let (_, end) = self.log.ends(number)?;
        while self.log.ends(number)?.0 < end {
            tokio::time::sleep(SETTLE_LOOK).await;
        }
        Ok(())
    }

    async fn replay(&self, number: i32) -> Result<Replay, ErrorCode> {
        self.until_safe(number).await?;
        let mut replay = Replay::default();
        let (mut offset, mut failures) = (0, 0);
        loop {
            match self.log.read(number, offset).await {
                Ok((_, next)) if next <= offset => return Ok(replay),
                Ok((batches, next)) => {
                    replay.batches(&batches)?;
                    offset = next;
                    failures = 0;
                }
                Err(code) => {
                    failures += 1;
                    if failures >= LOAD_ATTEMPTS || !self.log.leads(number) {
                        tracing::error!(partition = number, offset, %code, "groups cannot be loaded");
                        return Err(code);
                    }
                    tokio::time::sleep(LOAD_RETRY).await;
                }
            }
        }
    }

    /// Serves the partition no longer: another node leads it. Whoever waits is answered NOT_COORDINATOR.
    pub fn unload(&self, number: i32) {
        // The closed partition stays, so that a later load can wait for its last append.
        if let Some(partition) = self.partitions.lock().get(&number).cloned() {
            partition.close();
        }
        self.forget_deadlines(number);
    }

    fn forget_deadlines(&self, number: i32) {
        self.deadlines.lock().retain(|(partition, _)| *partition != number);
    }

    pub(super) fn set_deadline(&self, partition: i32, group: &str, at_ms: Option<i64>) {
        let key = (partition, group.to_owned());
        let mut deadlines = self.deadlines.lock();
        let before = deadlines.next();
        match at_ms {
            Some(at) => deadlines.set(key, at),
            None => deadlines.cancel(&key),
        }
        if deadlines.next().is_some_and(|next| before.is_none_or(|before| next < before)) {
            self.earlier.notify_one();
        }
    }

    /// Carries out every deadline until `stop` says true; then serves nothing any more, so that nobody is left waiting.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut next_check = self.now_ms().saturating_add(self.settings.offsets_check_interval_ms);
        while !*stop.borrow_and_update() {
            self.tick();
            let now = self.now_ms();
            if now >= next_check {
                self.expire_offsets();
                next_check = now.saturating_add(self.settings.offsets_check_interval_ms);
            }
            let next = self.deadlines.lock().next().map_or(next_check, |at| at.min(next_check));
            let wait = next.saturating_sub(now).clamp(1, DEADLINE_WAIT_MAX_MS);
            tokio::select! {
                () = self.earlier.notified() => {}
                () = tokio::time::sleep(Duration::from_millis(wait.unsigned_abs())) => {}
                changed = stop.changed() => if changed.is_err() { break },
            }
        }
        let numbers: Vec<i32> = self.partitions.lock().keys().copied().collect();
        numbers.into_iter().for_each(|number| self.unload(number));
    }

    /// Carries out the deadlines that are due.
    pub fn tick(self: &Arc<Self>) {
        let now = self.now_ms();
        let mut due = Vec::new();
        {
            let mut deadlines = self.deadlines.lock();
            while let Some(key) = deadlines.pop_due(now) {
                due.push(key);
            }
        }
        for (number, group) in due {
            if let Some(partition) = self.partition(number) {
                let _ = self.step(&partition, &group, false, false, |group, _, step| group.on_deadlines(step));
            }
        }
    }

    fn partition(&self, number: i32) -> Option<Arc<Partition>> {
        self.partitions.lock().get(&number).cloned()
    }

    /// The partitions that are led, in order.
    fn led(&self) -> Vec<Arc<Partition>> {
        let all: Vec<_> = self.partitions.lock().values().cloned().collect();
        all.into_iter().filter(|p| self.log.leads(p.number())).collect()
    }

    /// Forgets offsets and groups that the retention no longer covers.
    pub fn expire_offsets(self: &Arc<Self>) {
        self.for_every_group(|group, step| group.expire(step));
    }

    /// Forgets the offsets of topics that were deleted.
    pub fn topics_deleted(self: &Arc<Self>, topics: &BTreeSet<String>) {
        self.for_every_group(|group, step| group.topics_deleted(topics, step));
    }

    fn for_every_group(self: &Arc<Self>, mut act: impl FnMut(&mut Group, &mut super::state::Step<'_>)) {
        for partition in self.led() {
            for group in partition.group_ids() {
                let _ = self.step(&partition, &group, false, false, |group, _, step| act(group, step));
            }
        }
    }

    /// JoinGroup. Waits for the group.
    pub async fn join(self: &Arc<Self>, join: JoinGroup) -> JoinGroupResponse {
        let refused = |code| join_refused(&join.member_id, code);
        let timeout = i64::from(join.session_timeout_ms);
        if join.group_id.is_empty() {
            return refused(ErrorCode::InvalidGroupId);
        }
        if timeout < self.settings.min_session_timeout_ms || timeout > self.settings.max_session_timeout_ms {
            return refused(ErrorCode::InvalidSessionTimeout);
        }
        let partition = match self.serving(&join.group_id) {
            Ok(partition) => partition,
            Err(code) => return refused(code),
        };
        let prefix = join.instance_id.as_ref().unwrap_or(&join.client_id);
        let prefix: String = prefix.chars().take(CLIENT_ID_MAX_CHARS).collect();
        let new_member_id = format!("{prefix}-{}", Uuid::new_v4());
        let member_id = join.member_id.clone();
        let create = join.member_id.is_empty();
        let stepped = self.step(&partition, &join.group_id.clone(), create, true, move |group, ticket, step| {
            let input = JoinInput {
                ticket,
                member_id: join.member_id,
                new_member_id,
                instance_id: join.instance_id,
                client_id: join.client_id,
                client_host: join.client_host,
                rebalance_timeout_ms: join.rebalance_timeout_ms,
                session_timeout_ms: join.session_timeout_ms,
                protocol_type: join.protocol_type,
                protocols: join.protocols,
                member_id_required: join.member_id_required,
                skip_assignment_supported: join.skip_assignment_supported,
            };
            group.join(input, step);
        });
        let code = match stepped {
            Ok(stepped) => match answer(stepped.parked).await {
                Some(Answer::Join(response)) => return response,
                Some(_) => ErrorCode::NotCoordinator,
                None => ErrorCode::UnknownMemberId,
            },
            Err(code) => code,
        };
        join_refused(&member_id, code)
    }

    /// SyncGroup. Waits for the leader's assignment.
    pub async fn sync(self: &Arc<Self>, sync: SyncGroup) -> SyncGroupResponse {
        if sync.group_id.is_empty() {
            return sync_refused(ErrorCode::InvalidGroupId);
        }
        let partition = match self.serving(&sync.group_id) {
            Ok(partition) => partition,
            Err(code) => return sync_refused(code),
        };
        let stepped = self.step(&partition, &sync.group_id.clone(), false, true, move |group, ticket, step| {
            let input = SyncInput {
                ticket,
                member_id: sync.member_id,
                instance_id: sync.instance_id,
                generation: sync.generation,
                protocol_type: sync.protocol_type,
                protocol_name: sync.protocol_name,
                assignments: sync.assignments,
            };
            group.sync(input, step);
        });
        match stepped {
            Ok(stepped) => match answer(stepped.parked).await {
                Some(Answer::Sync(response)) => response,
                Some(_) => sync_refused(ErrorCode::NotCoordinator),
                None => sync_refused(ErrorCode::UnknownMemberId),
            },
            Err(code) => sync_refused(code),
        }
    }

    /// Heartbeat.
    pub fn heartbeat(
        self: &Arc<Self>,
        group_id: &str,
        member_id: &str,
        instance_id: Option<&str>,
        generation: i32,
    ) -> ErrorCode {
        if group_id.is_empty() {
            return ErrorCode::InvalidGroupId;
        }
        let beaten = self.serving(group_id).and_then(|partition| {
            self.step(&partition, group_id, false, false, |group, _, step| {
                group.heartbeat(member_id, instance_id, generation, step)
            })
        });
        match beaten {
            Ok(stepped) => stepped.result.unwrap_or(ErrorCode::UnknownMemberId),
            Err(code) => code,
        }
    }

    /// LeaveGroup of (member id, instance id) pairs. A code per pair, or one for all.
    pub async fn leave(
        self: &Arc<Self>,
        group_id: &str,
        leaving: &[(String, Option<String>)],
    ) -> Result<Vec<ErrorCode>, ErrorCode> {
        if group_id.is_empty() {
            return Err(ErrorCode::InvalidGroupId);
        }
        let partition = self.serving(group_id)?;
        let stepped = self.step(&partition, group_id, false, true, |group, ticket, step| {
            let left = group.leave(leaving, step);
            // If the group is empty now, that is durable before anyone is told.
            if let Some(last) = step.out.writes.last_mut() {
                last.waiting.get_or_insert(ticket);
            }
            left
        })?;
        let Some(left) = stepped.result else { return Ok(vec![ErrorCode::UnknownMemberId; leaving.len()]) };
        let codes = left?;
        done(stepped.parked).await?;
        Ok(codes)
    }

    /// OffsetCommit. A code per partition in their order, or one for all. Returns when the offsets are durable.
    pub async fn commit(self: &Arc<Self>, commit: Commit) -> Result<Vec<ErrorCode>, ErrorCode> {
        let partition = self.serving(&commit.group_id)?;
        let create = commit.generation < 0;
        let no_group = commit.no_group;
        let stepped = self.step(&partition, &commit.group_id.clone(), create, true, move |group, ticket, step| {
            let input = CommitInput {
                ticket,
                member_id: commit.member_id,
                instance_id: commit.instance_id,
                generation: commit.generation,
                retention_ms: commit.retention_ms,
                partitions: commit.partitions,
            };
            group.commit(input, step)
        })?;
        let codes = stepped.result.ok_or(no_group)??;
        let appended = done(stepped.parked).await.err();
        Ok(codes
            .into_iter()
            .map(|code| if code == ErrorCode::None { appended.unwrap_or(code) } else { code })
            .collect())
    }

    /// Reads the durable offsets of a group; those of a group that does not exist are empty.
    pub fn fetch<R>(&self, group_id: &str, read: impl FnOnce(&OffsetsByTopic) -> R) -> Result<R, ErrorCode> {
        let partition = self.serving(group_id)?;
        let mut read = Some(read);
        let mut take = |offsets: &OffsetsByTopic| read.take().map(|read| read(offsets));
        let found = partition.look(group_id, |group| match group.state() {
            State::Dead => take(&OffsetsByTopic::new()),
            _ => take(group.offsets().committed()),
        })?;
        let read = found.flatten().or_else(|| take(&OffsetsByTopic::new()));
        read.ok_or(ErrorCode::UnknownServerError)
    }

    /// OffsetDelete of (topic, partition) pairs. A code per pair, or one for all. Returns when they are durably gone.
    pub async fn delete_offsets(
        self: &Arc<Self>,
        group_id: &str,
        partitions: &[(String, i32)],
    ) -> Result<Vec<ErrorCode>, ErrorCode> {
        let partition = self.serving(group_id)?;
        let stepped = self.step(&partition, group_id, false, true, |group, ticket, step| {
            group.delete_offsets(partitions, ticket, step)
        })?;
        let codes = stepped.result.ok_or(ErrorCode::GroupIdNotFound)??;
        done(stepped.parked).await?;
        Ok(codes)
    }

    /// DeleteGroups, of one group. Returns when it is durably gone.
    pub async fn delete(self: &Arc<Self>, group_id: &str) -> Result<(), ErrorCode> {
        let partition = self.serving(group_id)?;
        let stepped =
            self.step(&partition, group_id, false, true, |group, ticket, step| group.delete(Some(ticket), step))?;
        stepped.result.ok_or(ErrorCode::GroupIdNotFound)??;
        done(stepped.parked).await
    }

    /// The groups of every partition that is served: id, state and protocol type, in order. An error if a partition is
    /// still being loaded, since its groups would be missing.
    pub fn list(&self) -> Result<Vec<(String, State, String)>, ErrorCode> {
        let mut all = Vec::new();
        for partition in self.led() {
            match partition.check() {
                Err(ErrorCode::NotCoordinator) => continue,
                checked => checked?,
            }
            let listed = |g: &Group| (g.id().to_owned(), g.state(), g.protocol_type().unwrap_or_default().to_owned());
            all.extend(partition.look_at_all(listed).into_iter().filter(|(_, state, _)| *state != State::Dead));
        }
        all.sort();
        Ok(all)
    }

    /// A group as it is now; `None` if it does not exist.
    pub fn describe(&self, group_id: &str) -> Result<Option<GroupSnapshot>, ErrorCode> {
        let found = self.serving(group_id)?.look(group_id, GroupSnapshot::of)?;
        Ok(found.filter(|group| group.state != State::Dead))
    }

    /// Every group that is served, for metrics.
    pub fn snapshot(&self) -> Vec<GroupSnapshot> {
        self.led().iter().flat_map(|partition| partition.look_at_all(GroupSnapshot::of)).collect()
    }
}

/// Waits for the answer of a parked request; `None` if there was nothing to wait for.
async fn answer(parked: Option<Parked>) -> Option<Answer> {
    // The sender goes away only with the partition.
    Some(parked?.await.unwrap_or(Answer::Done(ErrorCode::NotCoordinator)))
}

async fn done(parked: Option<Parked>) -> Result<(), ErrorCode> {
    match answer(parked).await {
        None | Some(Answer::Done(ErrorCode::None)) => Ok(()),
        Some(Answer::Done(code)) => Err(code),
        Some(_) => Err(ErrorCode::UnknownServerError),
    }
}

/// The partition that has the group: Java's hash of the id, which counts UTF-16 units, without its sign.
pub fn partition_for(group_id: &str, partition_count: i32) -> i32 {
    let hash = group_id.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    let positive = if hash == i32::MIN { 0 } else { hash.abs() };
    positive % partition_count.max(1)
}
