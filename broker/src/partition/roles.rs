//! Leader, follower or neither: how a partition comes to a role, and what each role does with the log.
//!
//! Owns the role. Does not own its choice (the image), nor in-sync arithmetic (`replication::leadership`).
//! A change of role happens under the log's lock, so that an append, a follower's fetch or a truncation is wholly before
//! or wholly after it.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use parking_lot::MutexGuard;
use strandline_controller::record::PartitionRecord;
use strandline_controller::request::IsrChange;
use strandline_log::leader_epochs::EpochEntry;
use strandline_log::{AppendError, Log, LogError};
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::BrokerId;
use strandline_protocol::remote_pointer::PointerState;

use super::{Acks, AppendRefused, Isolation, Partition, PartitionRead, ReadFrom, ReadRefused};
use crate::replication::leadership::Leadership;

/// What this node is for the partition.
#[derive(Debug)]
pub(super) enum Role {
    /// Nobody leads, or nothing is known yet.
    Idle,
    Leader(Box<Leadership>),
    Follower {
        leader: BrokerId,
        /// A fetch in this epoch has succeeded: what the leader agrees with may be freed.
        fetched: bool,
    },
}

/// A follower in one of its registrations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replica {
    pub id: BrokerId,
    pub broker_epoch: i64,
}

/// A leader in one of its epochs, as the follower that asked it knew it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderAt {
    pub leader: BrokerId,
    pub epoch: i32,
}

/// Where a follower goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchPosition {
    /// The leader epoch that this node knows.
    pub leader_epoch: i32,
    pub offset: i64,
    /// The epoch of the last record here; -1 = none.
    pub last_epoch: i32,
    pub log_start: i64,
}

/// What a leader gives a follower.
pub enum ReplicaFetch {
    Records(PartitionRead),
    /// The histories part: the largest epoch that the leader knows at or below the follower's, and where it ends.
    Diverging {
        epoch: i32,
        end_offset: i64,
    },
}

impl Partition {
    /// Takes the role that the record gives this node. Returns true if a leadership began.
    pub fn take_role(&self, record: &PartitionRecord, now_ms: i64) -> bool {
        let mut log = self.log.lock();
        let mut role = self.role.lock();
        let known = self.leader_epoch();
        if record.leader_epoch < known {
            return false;
        }
        let began = match &mut *role {
            Role::Leader(leadership) if record.leader_epoch == known && record.leader == self.me => {
                leadership.update(record, now_ms);
                false
            }
            _ if record.leader == self.me => {
                // Nothing is appended before the look at the remote log (`tier::takeover`), which everyone who begins takes.
                self.ready.store(!self.is_tiered(), Ordering::Release);
                let leadership = Leadership::begin(self.me, record.clone(), log.offsets().log_end, now_ms);
                *role = Role::Leader(Box::new(leadership));
                true
            }
            Role::Follower { leader, .. } if record.leader_epoch == known && *leader == record.leader => false,
            _ if record.leader >= 0 => {
                // A take-over that is under way ends without having been one.
                self.ready.store(true, Ordering::Release);
                *role = Role::Follower { leader: record.leader, fetched: false };
                false
            }
            _ => {
                self.ready.store(true, Ordering::Release);
                *role = Role::Idle;
                false
            }
        };
        self.leader_epoch.store(record.leader_epoch, Ordering::Release);
        self.leads.store(matches!(*role, Role::Leader(_)), Ordering::Release);
        drop(role);
        self.advance(&mut log);
        drop(log);
        self.wake();
        super::wake_all(&self.append_waiters);
        began
    }

    /// Whether this node follows the partition from `leader`.
    pub fn follows(&self, leader: BrokerId) -> bool {
        matches!(*self.role.lock(), Role::Follower { leader: of, .. } if of == leader) && !self.dir.is_offline()
    }

    /// Whether consumers may read here: from the leader, and, if they can be sent elsewhere, from who follows it.
    pub(super) fn may_read(&self, from: ReadFrom) -> bool {
        // Until its first fetch a follower knows the high watermark of its last checkpoint, however old that is.
        let follows = || matches!(*self.role.lock(), Role::Follower { fetched: true, .. });
        self.is_ready() && (self.leads() || (from == ReadFrom::AnyReplica && follows()))
    }

    /// Local segments may be freed up to the remote pointer: rule 4.
    pub fn may_free(&self) -> bool {
        match &*self.role.lock() {
            Role::Leader(_) => self.is_ready(),
            Role::Follower { fetched, .. } => *fetched,
            Role::Idle => false,
        }
    }

    pub fn is_tiered(&self) -> bool {
        self.pointer().state == PointerState::Open
    }

    // The leader's side.

    /// The epoch to append in; refused if it is over, or too few are in sync for `acks`.
    pub(super) fn check_append(&self, log: &Log, acks: Acks) -> Result<i32, AppendRefused> {
        match &*self.role.lock() {
            Role::Leader(leadership) => {
                let needed = min_insync(log, leadership);
                if acks == Acks::All && leadership.in_sync() < needed {
                    let message =
                        format!("{} replicas are in sync, min.insync.replicas is {needed}", leadership.in_sync());
                    let code = ErrorCode::NotEnoughReplicas;
                    return Err(AppendRefused { message: Some(message), ..AppendRefused::from(code) });
                }
                Ok(leadership.epoch())
            }
            _ => Err(AppendRefused::from(ErrorCode::NotLeaderOrFollower)),
        }
    }

    /// Whether the leader may still say that everyone who has to be has acknowledged.
    pub(super) fn enough_in_sync(&self) -> bool {
        let log = self.log.lock();
        match &*self.role.lock() {
            Role::Leader(leadership) => leadership.in_sync() >= min_insync(&log, leadership),
            _ => false,
        }
    }

    /// Whether the high watermark has reached where this leadership began: all that was acknowledged before is below it.
    pub fn end_is_known(&self) -> bool {
        match &*self.role.lock() {
            Role::Leader(leadership) => self.high_watermark.load(Ordering::Acquire) >= leadership.begin_end(),
            _ => false,
        }
    }

    /// Whether everything below `end` is as safe as `acks` asks for.
    pub(super) fn is_safe(&self, end: i64, acks: Acks) -> bool {
        let reached = match acks {
            Acks::Leader => &self.durable_end,
            Acks::All => &self.high_watermark,
        };
        reached.load(Ordering::Acquire) >= end
    }

    /// Lets the high watermark rise to what the in-sync set holds.
    pub(super) fn advance(&self, log: &mut Log) {
        let durable = self.durable_end.load(Ordering::Acquire);
        let high_watermark = match &*self.role.lock() {
            Role::Leader(leadership) => leadership.high_watermark(durable, min_insync(log, leadership)),
            _ => None,
        };
        if let Some(offset) = high_watermark {
            self.advance_to(log, offset);
        }
    }

    fn advance_to(&self, log: &mut Log, offset: i64) {
        log.advance_high_watermark(offset);
        // The log raises it by itself too, when segments above it are freed because the tier has them.
        let reached = log.offsets().high_watermark;
        if self.high_watermark.swap(reached, Ordering::AcqRel) != reached {
            self.wake();
        }
    }

    /// A follower fetches: notes how far it is, and reads for it. The in-sync set may have to change then (`true`).
    pub fn replica_fetch(
        &self,
        replica: Replica,
        position: FetchPosition,
        max_bytes: u32,
        min_one: bool,
        now_ms: i64,
    ) -> Result<(ReplicaFetch, bool), ReadRefused> {
        if !self.is_ready() {
            return Err(ReadRefused::Code(ErrorCode::NotLeaderOrFollower));
        }
        let mut log = self.log.lock();
        let offsets = log.offsets();
        let FetchPosition { offset, last_epoch, .. } = position;
        if last_epoch >= 0 && !matches!(*self.role.lock(), Role::Leader(_)) {
            return Err(ReadRefused::Code(ErrorCode::NotLeaderOrFollower));
        }
        if last_epoch >= 0 {
            // Kafka's answer where the leader's history begins later, or there is none, as after an unclean election of an empty
            // replica: the follower begins anew.
            let end = self.end_of_epoch(&log, last_epoch);
            let (epoch, end_offset) = end.ok_or(ReadRefused::Code(ErrorCode::OffsetOutOfRange))?;
            let parted = epoch != last_epoch || end_offset < offset;
            if parted {
                return Ok((ReplicaFetch::Diverging { epoch, end_offset }, false));
            }
        }
        let mut wants_change = false;
        match &mut *self.role.lock() {
            Role::Leader(leadership) => {
                if !leadership.note_registration(replica.id, replica.broker_epoch) {
                    return Err(ReadRefused::Code(ErrorCode::NotLeaderOrFollower));
                }
                if !leadership.note_fetch(replica.id, offset, offsets.log_end, now_ms) {
                    return Err(ReadRefused::Code(ErrorCode::UnknownTopicOrPartition));
                }
                wants_change |= !leadership.record().isr.contains(&replica.id);
            }
            _ => return Err(ReadRefused::Code(ErrorCode::NotLeaderOrFollower)),
        }
        self.advance(&mut log);
        let offsets = log.offsets();
        if offset == offsets.log_end {
            drop(log);
            return Ok((ReplicaFetch::Records(PartitionRead::new(Default::default(), &offsets, None)), wants_change));
        }
        let plan = log.prepare_read(offset, Isolation::LogEnd.upper(&offsets));
        drop(log);
        let moved = |error| match self.read_refused(offset, error) {
            ReadRefused::Remote { .. } => ReadRefused::Code(ErrorCode::OffsetMovedToTieredStorage),
            other => other,
        };
        let read = plan.and_then(|plan| plan.run(max_bytes, min_one)).map_err(moved)?;
        Ok((ReplicaFetch::Records(PartitionRead::new(read.records, &offsets, None)), wants_change))
    }

    /// The in-sync set to ask the controller for, if it is to change; remembered as asked.
    pub fn change_isr(&self, now_ms: i64, lag_max_ms: i64) -> Option<IsrChange> {
        let log = self.log.lock();
        let offsets = log.offsets();
        let Role::Leader(leadership) = &mut *self.role.lock() else { return None };
        let isr = leadership.change_isr(offsets.high_watermark, offsets.log_end, now_ms, lag_max_ms)?;
        let record = leadership.record();
        Some(IsrChange {
            tp: self.tp,
            leader_epoch: record.leader_epoch,
            partition_epoch: record.partition_epoch,
            broker_epochs: leadership.broker_epochs(&isr),
            isr,
        })
    }

    /// The controller has changed the in-sync set. A new leader epoch, as at the end of a reassignment, comes with the image alone:
    /// whoever begins a leadership has to look at the remote log first.
    pub fn isr_changed(&self, record: &PartitionRecord, now_ms: i64) {
        if record.leader_epoch == self.leader_epoch() {
            self.take_role(record, now_ms);
        }
    }

    /// Nobody answered: the in-sync set may change yet.
    pub fn isr_unanswered(&self) {
        if let Role::Leader(leadership) = &mut *self.role.lock() {
            leadership.ask_unanswered();
        }
    }

    pub fn isr_refused(&self, now_ms: i64) {
        if let Role::Leader(leadership) = &mut *self.role.lock() {
            leadership.ask_failed(now_ms);
        }
    }

    /// A follower is told this high watermark. True if it did not know it.
    pub fn tell_high_watermark(&self, replica: BrokerId, offset: i64) -> bool {
        match &mut *self.role.lock() {
            Role::Leader(leadership) => leadership.tell_high_watermark(replica, offset),
            _ => false,
        }
    }

    /// Followers in sync, as the leader knows them: id, end (exclusive), when they last had everything, in ms.
    pub fn followers_in_sync(&self) -> Vec<(BrokerId, i64, i64)> {
        match &*self.role.lock() {
            Role::Leader(leadership) => leadership.followers_in_sync(),
            _ => Vec::new(),
        }
    }

    pub fn has_followers(&self) -> bool {
        matches!(&*self.role.lock(), Role::Leader(leadership) if leadership.has_followers())
    }

    // The follower's side.

    /// An empty replica whose tier holds records that it lacks: what is in the tier is not copied, however much of it the
    /// leader still has on its disk.
    pub fn begins_in_tier(&self) -> bool {
        let Some(copied) = self.highest_copied().filter(|_| self.remote.is_some()) else { return false };
        let log = self.log.lock();
        log.size_bytes() == 0 && log.offsets().log_end <= copied
    }

    /// Where to go on; `None` while something of this log is not durable in the topic's mode, as a fetch offset says that all below is.
    pub fn fetch_position(&self) -> Option<FetchPosition> {
        let log = self.log.lock();
        let offsets = log.offsets();
        if log.config().flush_messages == 1 && self.durable_end.load(Ordering::Acquire) < offsets.log_end {
            return None;
        }
        Some(FetchPosition {
            leader_epoch: self.leader_epoch(),
            offset: offsets.log_end,
            last_epoch: log.latest_epoch().unwrap_or(-1),
            log_start: offsets.log_start,
        })
    }

    /// Under the lock of the log, which every change of role takes.
    fn follows_still(&self, at: LeaderAt) -> bool {
        let follows = matches!(*self.role.lock(), Role::Follower { leader, .. } if leader == at.leader);
        follows && self.leader_epoch() == at.epoch
    }

    /// Appends what the leader sent, and takes over its high watermark and log start. True if something was appended.
    pub fn append_as_follower(
        &self,
        at: LeaderAt,
        records: &Bytes,
        high_watermark: i64,
        log_start: i64,
    ) -> Result<bool, AppendError> {
        let mut log = self.log.lock();
        {
            let Role::Follower { leader: of, fetched } = &mut *self.role.lock() else { return Ok(false) };
            if (*of, self.leader_epoch()) != (at.leader, at.epoch) {
                return Ok(false);
            }
            *fetched = true;
        }
        let appended = !records.is_empty();
        if appended {
            if let Err(error) = log.append_as_follower(records) {
                if error.is_storage() {
                    drop(log);
                    self.fail(&error.to_string());
                }
                return Err(error);
            }
            if log.config().flush_messages != 1 {
                self.durable_end.store(log.offsets().log_end, Ordering::Release);
            }
        }
        let known = high_watermark.min(self.durable_end.load(Ordering::Acquire));
        self.advance_to(&mut log, known);
        let start = if self.is_tiered() { self.pointer().log_start_offset } else { log_start };
        let start = start.min(log.offsets().high_watermark);
        if start > log.offsets().log_start
            && let Err(error) = log.raise_log_start(start)
        {
            tracing::warn!(partition = %self.name(), %error, "the log start does not follow the leader's");
        }
        Ok(appended)
    }

    /// Whether nothing of this log counts where the leader's begins at `leader_start`, inside a batch that begins at `base` below the end
    /// here: it can begin anew with that batch.
    pub fn may_begin_at(&self, base: i64, leader_start: i64) -> bool {
        let log = self.log.lock();
        let offsets = log.offsets();
        let is_empty = log.size_bytes() == 0 && offsets.local_log_start == offsets.log_end;
        base < offsets.log_end && (is_empty || offsets.log_end <= leader_start)
    }

    /// Done when all that is appended is durable in the topic's mode.
    pub async fn appended_is_durable(&self) -> Result<(), ()> {
        let end = self.offsets().log_end;
        loop {
            let moved = self.progress.notified();
            let mut moved = std::pin::pin!(moved);
            moved.as_mut().enable();
            if self.has_failed() {
                return Err(());
            }
            // A truncation meanwhile makes the end smaller.
            if self.durable_end.load(Ordering::Acquire) >= end.min(self.offsets().log_end) {
                return Ok(());
            }
            moved.await;
        }
    }

    /// Cuts the log where its history and the leader's part (KIP-320): `epoch` is the largest that the leader knows at or
    /// below ours, and ends there at `end_offset`; -1 = the leader knows none. False: they part below what is here, so that this log
    /// has to begin anew.
    pub fn truncate_to_leader(&self, at: LeaderAt, epoch: i32, end_offset: i64) -> Result<bool, LogError> {
        let mut log = self.log.lock();
        if !self.follows_still(at) {
            return Ok(true);
        }
        let offsets = log.offsets();
        let own = log.end_offset_for_epoch(epoch);
        let target = if epoch < 0 {
            // Nothing in common: as in Kafka without epochs, what is above the high watermark goes.
            offsets.high_watermark
        } else if own.epoch == epoch {
            end_offset.min(own.end_offset)
        } else if own.end_offset >= 0 {
            // The leader's epoch is not ours: ours ends earlier.
            own.end_offset.min(end_offset)
        } else {
            end_offset
        };
        if target < offsets.local_log_start {
            return Ok(false);
        }
        let target = target.min(offsets.log_end);
        if target < offsets.high_watermark {
            tracing::warn!(partition = %self.name(), to = target, high_watermark = offsets.high_watermark, "truncates below its high watermark");
        }
        tracing::info!(partition = %self.name(), from = offsets.log_end, to = target, "truncates to the leader's history");
        let truncated = log.truncate_to(target);
        if truncated.is_ok() {
            self.after_restart(&mut log);
        }
        self.reshaped(log, truncated).map(|()| true)
    }

    /// Begins the log anew at `offset`, with the history up to it.
    pub fn restart_from_leader(
        &self,
        at: LeaderAt,
        offset: i64,
        log_start: i64,
        epochs: Vec<EpochEntry>,
        producer_state: &Bytes,
    ) -> Result<(), LogError> {
        let mut log = self.log.lock();
        if !self.follows_still(at) {
            return Ok(());
        }
        let aside = self.dir.path.join(format!("{}.{}-stray", self.name(), uuid::Uuid::new_v4().simple()));
        let has_data = log.size_bytes() > 0;
        let begun = log.restart_at(offset, log_start, epochs, producer_state, has_data.then_some(aside.as_path()));
        if begun.is_ok() {
            self.after_restart(&mut log);
        }
        self.reshaped(log, begun)
    }

    /// A log that the disk has left half reshaped takes its directory offline: what it says of itself is not on the medium.
    fn reshaped(&self, log: MutexGuard<'_, Log>, outcome: Result<(), LogError>) -> Result<(), LogError> {
        let failed = log.has_failed();
        drop(log);
        if let (true, Err(error)) = (failed, &outcome) {
            self.fail(&error.to_string());
        }
        outcome
    }

    /// Drops a damaged log, to be fetched again; its bytes are gone. The controller must not count this replica any more.
    pub fn drop_damaged(&self, at: LeaderAt) -> Result<(), LogError> {
        let mut log = self.log.lock();
        if !self.follows_still(at) {
            return Ok(());
        }
        // An earlier try may have moved the files away; the log takes nothing then.
        log.restart_at(0, 0, Vec::new(), &Bytes::new(), None)?;
        self.after_restart(&mut log);
        self.damaged.store(false, Ordering::Release);
        drop(log);
        self.dir.losses.rebuilt(self.tp);
        Ok(())
    }

    /// Whether this node leads in this epoch. Under the lock of the log it stays so.
    pub fn leads_in(&self, epoch: i32) -> bool {
        self.leads() && self.leader_epoch() == epoch
    }

    /// The log begins anew behind the remote one, and serves if the leadership of `epoch` lasts.
    pub fn adopted(&self, epoch: i32) {
        let mut log = self.log.lock();
        self.after_restart(&mut log);
        self.advance(&mut log);
        if self.leads_in(epoch) {
            if let Role::Leader(leadership) = &mut *self.role.lock() {
                leadership.restarted(log.offsets().log_end);
            }
            self.set_ready(true);
        }
    }

    /// Mirrors follow a log whose end went back.
    pub(super) fn after_restart(&self, log: &mut Log) {
        let offsets = log.offsets();
        self.durable_end.store(offsets.recovery_point.min(offsets.log_end), Ordering::Release);
        self.high_watermark.store(offsets.high_watermark, Ordering::Release);
    }

    /// KIP-101's answer, under the lock.
    pub(super) fn end_of_epoch(&self, log: &Log, epoch: i32) -> Option<(i32, i64)> {
        let own = self.leader_epoch();
        // An epoch is noted in the log with its first record; until then it begins at the end.
        let latest = log.latest_epoch().unwrap_or(-1);
        if epoch == own && latest < own {
            return Some((own, log.offsets().log_end));
        }
        if epoch < own && epoch >= latest && latest >= 0 {
            return Some((latest, log.offsets().log_end));
        }
        let end = log.end_offset_for_epoch(epoch);
        (end.end_offset >= 0).then_some((end.epoch, end.end_offset))
    }
}

/// `min.insync.replicas`, but never more than there are replicas.
fn min_insync(log: &Log, leadership: &Leadership) -> usize {
    let wanted = usize::try_from(log.config().min_insync_replicas).unwrap_or(1);
    wanted.min(leadership.record().replicas.len()).max(1)
}
