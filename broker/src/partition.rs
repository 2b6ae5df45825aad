//! One hosted partition: its local log, its leadership, who waits for it.
//!
//! Owns the lock around the log, the role of this node (`roles`), the rule when an append is safe (group commit, in-sync
//! set), and wake-ups. Does not own files (`strandline_log`), syncing (`flush`), remote objects (`tier`).
//! Invariants: the log's lock is taken before the role's, and neither is held across an await nor while records are read;
//! the high watermark never passes what is durable on the whole in-sync set; after a failed write or sync nothing is
//! acknowledged any more.
//! A crash leaves what the log's recovery finds.

mod outcome;
mod roles;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU8, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use strandline_log::config::LogConfig;
use strandline_log::error::{AppendError, LogError, ReadError, RefusedRecord};
use strandline_log::{Flush, FlushDue, Log, LogOffsets};
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::{BrokerId, TopicPartition};
use strandline_protocol::remote_pointer::{PointerState, RemotePointer};
use strandline_protocol::rope::Rope;
use strandline_tiering::RemotePartition;
use tokio::sync::Notify;

pub use outcome::{
    Aborted, Acks, AppendRefused, Appended, Durable, Isolation, Origin, PartitionRead, ProducerView, ReadFrom,
    ReadRefused, TimestampedOffset, WaitFailed,
};
use roles::Role;
pub use roles::{FetchPosition, LeaderAt, Replica, ReplicaFetch};

use crate::clock;
use crate::log_dir::LogDirectory;

/// Nothing is to be synced, as far as the flusher knows.
const FLUSH_IDLE: u8 = 0;
/// In the flusher's queue.
const FLUSH_QUEUED: u8 = 1;
/// A thread syncs.
const FLUSH_RUNNING: u8 = 2;
/// A thread syncs, and more was appended meanwhile.
const FLUSH_AGAIN: u8 = 3;

/// Waiters of long polls that are kept before those that are gone are looked for.
const WAITERS_SWEEP: usize = 32;

/// A partition that this node hosts.
pub struct Partition {
    /// This node.
    me: BrokerId,
    pub tp: TopicPartition,
    pub topic: Arc<str>,
    pub dir: Arc<LogDirectory>,
    log: Mutex<Log>,
    leader_epoch: AtomicI32,
    /// Mirror of the role, for those who only ask.
    leads: AtomicBool,
    role: Mutex<Role>,
    /// False while the partition takes over what the tier has (rule 3 of the remote log protocol).
    ready: AtomicBool,
    failed: AtomicBool,
    /// A read found bytes that were never written.
    damaged: AtomicBool,
    /// Mirrors of the log's, for those who wait: the high watermark, and the end of what is durable here.
    high_watermark: AtomicI64,
    durable_end: AtomicI64,
    /// One of [`FLUSH_IDLE`] and those below it.
    flush_state: AtomicU8,
    /// Compaction has cleaned all below (exclusive).
    clean_until: AtomicI64,
    /// Used since the last look of housekeeping.
    used: AtomicBool,
    progress: Notify,
    waiters: Mutex<Vec<std::sync::Weak<Notify>>>,
    /// Followers that wait for an append.
    append_waiters: Mutex<Vec<std::sync::Weak<Notify>>>,
    /// The applied pointer of the remote log.
    pointer: Mutex<RemotePointer>,
    /// Set for topics with `remote.storage.enable`.
    pub remote: Option<Arc<RemotePartition>>,
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Partition")
            .field("name", &self.name())
            .field("offsets", &self.offsets())
            .field("high_watermark", &self.high_watermark)
            .field("durable_end", &self.durable_end)
            .field("flush_state", &self.flush_state)
            .field("ready", &self.ready)
            .field("role", &*self.role.lock())
            .finish_non_exhaustive()
    }
}

impl Partition {
    pub fn new(
        me: BrokerId,
        tp: TopicPartition,
        topic: Arc<str>,
        dir: Arc<LogDirectory>,
        log: Log,
        pointer: RemotePointer,
        remote: Option<Arc<RemotePartition>>,
    ) -> Self {
        let LogOffsets { high_watermark, recovery_point, .. } = log.offsets();
        Partition {
            me,
            tp,
            topic,
            dir,
            log: Mutex::new(log),
            leader_epoch: AtomicI32::new(-1),
            leads: AtomicBool::new(false),
            role: Mutex::new(Role::Idle),
            ready: AtomicBool::new(true),
            failed: AtomicBool::new(false),
            damaged: AtomicBool::new(false),
            high_watermark: AtomicI64::new(high_watermark),
            durable_end: AtomicI64::new(recovery_point),
            flush_state: AtomicU8::new(FLUSH_IDLE),
            clean_until: AtomicI64::new(0),
            used: AtomicBool::new(false),
            progress: Notify::new(),
            waiters: Mutex::default(),
            append_waiters: Mutex::default(),
            pointer: Mutex::new(pointer),
            remote,
        }
    }

    /// `<topic>-<partition>`.
    pub fn name(&self) -> String {
        format!("{}-{}", self.topic, self.tp.partition)
    }

    pub fn leader_epoch(&self) -> i32 {
        self.leader_epoch.load(Ordering::Acquire)
    }

    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
        self.wake();
    }

    /// The log, for the owner's tasks (retention, tier, checkpoints). Short sections only.
    pub fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock()
    }

    pub fn config(&self) -> Arc<LogConfig> {
        Arc::clone(self.log.lock().config())
    }

    pub fn offsets(&self) -> LogOffsets {
        self.log.lock().offsets()
    }

    pub fn size_bytes(&self) -> u64 {
        self.log.lock().size_bytes()
    }

    /// KIP-320: what the client believes of the leader's epoch. -1 = it believes nothing.
    pub fn check_epoch(&self, current_leader_epoch: i32) -> Result<(), ErrorCode> {
        let own = self.leader_epoch();
        match current_leader_epoch {
            -1 => Ok(()),
            older if older < own => Err(ErrorCode::FencedLeaderEpoch),
            newer if newer > own => Err(ErrorCode::UnknownLeaderEpoch),
            _ => Ok(()),
        }
    }

    /// Appends record batches as leader. What is appended is acknowledged when [`Appended::durable`] is done.
    pub fn append(
        self: &Arc<Self>,
        records: &Bytes,
        origin: Origin,
        acks: Acks,
        now_ms: i64,
    ) -> Result<Appended, AppendRefused> {
        if !self.is_ready() || !self.leads() {
            return Err(AppendRefused::from(ErrorCode::NotLeaderOrFollower));
        }
        if self.dir.is_offline() || self.failed.load(Ordering::Acquire) {
            return Err(AppendRefused::from(ErrorCode::KafkaStorageError));
        }
        self.used.store(true, Ordering::Relaxed);
        let mut log = self.log.lock();
        // Under the log's lock a leadership does not end: nothing is appended in an epoch that is over.
        let epoch = self.check_append(&log, acks)?;
        let appended = match log.append_as_leader(records, epoch, origin.into(), now_ms) {
            Ok(appended) => appended,
            Err(error) => {
                drop(log);
                return Err(self.refused(error));
            }
        };
        let waits = log.config().flush_messages == 1;
        let end = appended.last_offset + 1;
        if !waits && !appended.duplicate {
            self.durable_end.fetch_max(end, Ordering::AcqRel);
            self.advance(&mut log);
        }
        let (flush_due, offsets) = (log.flush_due(), log.offsets());
        drop(log);
        wake_all(&self.append_waiters);
        self.ask_for_flush_when(flush_due);
        let durable = (!self.is_safe(end, acks)).then(|| Durable { partition: Arc::clone(self), end, epoch, acks });
        Ok(Appended {
            first_offset: appended.first_offset,
            log_append_time_ms: appended.log_append_time_ms,
            log_start_offset: offsets.log_start,
            durable,
            closed_segment: appended.rolled,
            records: if appended.duplicate { 0 } else { appended.record_count },
        })
    }

    fn refused(&self, error: AppendError) -> AppendRefused {
        if error.is_storage() {
            self.fail(&error.to_string());
        } else {
            tracing::debug!(partition = %self.name(), %error, "append refused");
        }
        AppendRefused {
            code: error.error_code(),
            records: self.record_errors(&error),
            message: Some(error.to_string()),
        }
    }

    /// The records at fault, in Kafka's words.
    fn record_errors(&self, error: &AppendError) -> Vec<(i32, String)> {
        match error {
            AppendError::NoKey { records } => {
                let name = self.name();
                let text = format!("Compacted topic cannot accept message without key in topic partition {name}");
                records.iter().map(|record| (record.index, text.clone())).collect()
            }
            AppendError::InvalidTimestamp { earliest, latest, records, .. } => {
                let text = |record: &RefusedRecord| {
                    format!(
                        "Timestamp {} of message with offset {} is out of range. The timestamp should be within \
                         [{earliest}, {latest}]",
                        record.timestamp, record.offset
                    )
                };
                records.iter().map(|record| (record.index, text(record))).collect()
            }
            _ => Vec::new(),
        }
    }

    fn ask_for_flush_when(self: &Arc<Self>, due: FlushDue) {
        match due {
            FlushDue::Now => self.ask_for_flush_from(|partition| self.dir.flusher.now(partition)),
            FlushDue::Within(time) => self.dir.flusher.at(clock::monotonic() + time, Arc::clone(self)),
            FlushDue::No => {}
        }
    }

    /// Sees to the sync that the topic's mode asks for after an append, or after a segment was closed.
    pub fn ask_for_due_flush(self: &Arc<Self>) {
        let due = self.log.lock().flush_due();
        self.ask_for_flush_when(due);
    }

    /// Sees to it that what is appended now will be synced: puts the partition into the queue, unless it is there.
    pub fn ask_for_flush_from(self: &Arc<Self>, enqueue: impl FnOnce(Arc<Self>)) {
        let asked = self.flush_state.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| match state {
            FLUSH_IDLE => Some(FLUSH_QUEUED),
            FLUSH_RUNNING => Some(FLUSH_AGAIN),
            _ => None,
        });
        if asked == Ok(FLUSH_IDLE) {
            enqueue(Arc::clone(self));
        }
    }

    /// The flusher's turn: one thread at a time, as the queue holds the partition once. Says what is to be synced.
    pub fn begin_flush_in_turn(&self) -> Option<Flush> {
        self.flush_state.store(FLUSH_RUNNING, Ordering::Release);
        let flush = self.log.lock().begin_due_flush();
        flush.filter(|_| !self.failed.load(Ordering::Acquire))
    }

    /// Ends the turn with the sync that it began with.
    pub fn finish_flush_in_turn(self: &Arc<Self>, flush: Option<Flush>) {
        if let Some(flush) = flush {
            self.finish_flush(&flush);
        }
        let done = self.flush_state.compare_exchange(FLUSH_RUNNING, FLUSH_IDLE, Ordering::AcqRel, Ordering::Acquire);
        if done.is_err() {
            self.flush_state.store(FLUSH_QUEUED, Ordering::Release);
            self.dir.flusher.now(Arc::clone(self));
        }
    }

    /// Syncs all that is appended, and lets the high watermark follow. Not while another thread does.
    pub fn flush(&self) {
        let flush = self.log.lock().begin_flush();
        if let Some(flush) = flush.filter(|_| !self.failed.load(Ordering::Acquire)) {
            self.finish_flush(&flush);
        }
    }

    fn finish_flush(&self, flush: &Flush) {
        if let Err(error) = flush.run() {
            self.fail(&format!("sync failed: {error}"));
            return;
        }
        let mut log = self.log.lock();
        log.finish_flush(flush);
        // Not the end of the flush: after a truncation meanwhile it counts for nothing.
        self.durable_end.fetch_max(log.offsets().recovery_point, Ordering::AcqRel);
        self.advance(&mut log);
        drop(log);
        // Also those who wait for this node alone.
        self.wake();
    }

    /// After a failed write or sync: nothing of this log is acknowledged any more, and its directory goes offline.
    pub(crate) fn fail(&self, reason: &str) {
        self.failed.store(true, Ordering::Release);
        self.log.lock().fail();
        self.dir.fail(&format!("{}: {reason}", self.name()));
        self.wake();
    }

    /// Compaction has cleaned all below (exclusive).
    pub fn clean_until(&self) -> i64 {
        self.clean_until.load(Ordering::Relaxed)
    }

    pub fn set_clean_until(&self, offset: i64) {
        self.clean_until.store(offset, Ordering::Relaxed);
    }

    /// Gives back memory and open files, unless the log was used since the last call.
    pub fn release_if_idle(&self) {
        if !self.used.swap(false, Ordering::Relaxed) {
            self.log.lock().release();
        }
    }

    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    fn wake(&self) {
        self.progress.notify_waiters();
        wake_all(&self.waiters);
    }

    /// Wakes `wake` once, at the next move of the high watermark or the last stable offset.
    pub fn wake_on_progress(&self, wake: &Arc<Notify>) {
        wait_in(&self.waiters, wake);
    }

    /// Wakes `wake` once, at the next append.
    pub fn wake_on_append(&self, wake: &Arc<Notify>) {
        wait_in(&self.append_waiters, wake);
    }

    /// Reads from the local log. [`ReadRefused::Remote`] if the offset is in the tier only.
    pub fn read(
        &self,
        offset: i64,
        max_bytes: u32,
        min_one: bool,
        isolation: Isolation,
        from: ReadFrom,
    ) -> Result<PartitionRead, ReadRefused> {
        if !self.may_read(from) {
            return Err(ReadRefused::Code(ErrorCode::NotLeaderOrFollower));
        }
        self.used.store(true, Ordering::Relaxed);
        let (plan, offsets, aborted) = {
            let log = self.log.lock();
            let offsets = log.offsets();
            let upper = isolation.upper(&offsets);
            let plan = if offset >= upper && offset <= offsets.log_end && offset >= offsets.log_start {
                None
            } else {
                Some(log.prepare_read(offset, upper).map_err(|error| self.read_refused(offset, error))?)
            };
            let aborted = match (&plan, isolation) {
                (Some(_), Isolation::TxnCommitted) => {
                    let aborted = log.aborted_in(offset, upper).map_err(|error| self.read_refused(offset, error))?;
                    Some(
                        aborted
                            .iter()
                            .map(|a| Aborted { producer_id: a.producer_id, first_offset: a.first_offset })
                            .collect(),
                    )
                }
                (None, Isolation::TxnCommitted) => Some(Vec::new()),
                _ => None,
            };
            (plan, offsets, aborted)
        };
        let records = match plan {
            Some(plan) if max_bytes > 0 || min_one => match plan.run(max_bytes, min_one) {
                Ok(read) => read.records,
                // The segment was freed after the plan was made: the tier has it.
                Err(_) if offset < self.offsets().local_log_start => return Err(ReadRefused::Remote { offset }),
                Err(error) => return Err(self.read_refused(offset, error)),
            },
            _ => Rope::default(),
        };
        Ok(PartitionRead::new(records, &offsets, aborted))
    }

    fn read_refused(&self, offset: i64, error: ReadError) -> ReadRefused {
        match error {
            ReadError::MovedToTieredStorage { .. } => ReadRefused::Remote { offset },
            error => {
                let code = error.error_code();
                if code == ErrorCode::KafkaStorageError {
                    tracing::error!(partition = %self.name(), offset, %error, "a local read failed");
                    self.read_failed(&error);
                }
                ReadRefused::Code(code)
            }
        }
    }

    /// The disk is broken, or what it holds: the first takes its directory out of service, the second this log.
    fn read_failed(&self, error: &ReadError) {
        let of_disk = matches!(error, ReadError::Io(io) if is_disk_failure(io));
        if of_disk {
            self.dir.fail(&format!("{}: {error}", self.name()));
        } else if error.is_damage() {
            self.found_damaged(error);
        }
    }

    /// Bytes of the log are not those that were written: somebody else is to lead, and this log to be dropped.
    pub fn found_damaged(&self, damage: &dyn std::error::Error) {
        if !self.damaged.swap(true, Ordering::AcqRel) {
            tracing::error!(partition = %self.name(), error = %damage, "the log is damaged: another replica is to lead");
            self.dir.losses.damaged(self.tp);
        }
    }

    /// Whether a read found the log damaged.
    pub fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Acquire)
    }

    /// Whether this node leads the partition.
    pub fn leads(&self) -> bool {
        self.leads.load(Ordering::Acquire)
    }

    /// The leader epoch in which `offset` was (or will be) written.
    pub fn epoch_of(&self, offset: i64) -> i32 {
        let log = self.log.lock();
        if offset >= log.offsets().log_end { self.leader_epoch() } else { log.epoch_for_offset(offset).unwrap_or(-1) }
    }

    /// KIP-101: the largest epoch at most `epoch`, and where it ends.
    pub fn end_offset_for_epoch(&self, epoch: i32) -> Option<(i32, i64)> {
        self.end_of_epoch(&self.log.lock(), epoch)
    }

    /// The first local record at or after `timestamp`, below `upper` (exclusive).
    pub fn local_offset_for_timestamp(
        &self,
        timestamp: i64,
        upper: i64,
    ) -> Result<Option<TimestampedOffset>, ReadRefused> {
        let found = self.log.lock().offset_for_timestamp(timestamp, upper);
        Ok(found.map_err(|e| self.read_refused(upper, e))?.map(TimestampedOffset::from))
    }

    /// The record with the greatest timestamp in the local log, below `upper` (exclusive).
    pub fn offset_of_max_timestamp(&self, upper: i64) -> Result<Option<TimestampedOffset>, ReadRefused> {
        let found = self.log.lock().offset_of_max_timestamp(upper);
        Ok(found.map_err(|e| self.read_refused(upper, e))?.map(TimestampedOffset::from))
    }

    /// Producers with their last sequence, for DescribeProducers.
    pub fn producers(&self) -> Vec<ProducerView> {
        let producers = self.log.lock().producers();
        match producers {
            Ok(producers) => producers.into_iter().map(ProducerView::from).collect(),
            Err(error) => {
                tracing::warn!(partition = %self.name(), %error, "the producer state cannot be read");
                Vec::new()
            }
        }
    }

    /// The pointer as applied here.
    pub fn pointer(&self) -> RemotePointer {
        *self.pointer.lock()
    }

    /// Takes over a newer pointer: its log start, and with it what may be freed. An older one changes nothing.
    pub fn apply_pointer(&self, new: RemotePointer) -> Result<(), LogError> {
        let mut pointer = self.pointer.lock();
        if new.version <= pointer.version && new.state == pointer.state {
            return Ok(());
        }
        *pointer = new;
        drop(pointer);
        if new.state == PointerState::Open && self.is_ready() {
            // A follower may not have all of what is gone yet; it goes on from there with what the leader tells it.
            let known = self.high_watermark.load(Ordering::Acquire);
            self.raise_log_start(new.log_start_offset.min(known))?;
        }
        Ok(())
    }

    /// Raises the log start of the local log; segments wholly below it are removed by retention.
    pub fn raise_log_start(&self, offset: i64) -> Result<(), LogError> {
        let mut log = self.log.lock();
        if offset > log.offsets().log_start {
            log.raise_log_start(offset)?;
        }
        Ok(())
    }

    /// First live remote offset and the last copied one; none if nothing is live in the tier.
    pub fn tiered_range(&self) -> Option<(i64, i64)> {
        let pointer = self.pointer();
        (pointer.state == PointerState::Open && pointer.has_live())
            .then_some((pointer.log_start_offset, pointer.highest_copied_offset))
    }

    /// The last copied offset, also if nothing of it is live any more; none if the partition is not tiered.
    pub fn highest_copied(&self) -> Option<i64> {
        let pointer = self.pointer();
        (pointer.state == PointerState::Open).then_some(pointer.highest_copied_offset)
    }
}

/// Errors that say that the device, or its file system, does not work any more; too many open files, for one, do not.
fn is_disk_failure(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    const FAILURES: [Errno; 5] = [Errno::IO, Errno::NXIO, Errno::NODEV, Errno::ROFS, Errno::UCLEAN];
    Errno::from_io_error(error).is_some_and(|errno| FAILURES.contains(&errno))
}

type Waiters = Mutex<Vec<std::sync::Weak<Notify>>>;

fn wait_in(waiters: &Waiters, wake: &Arc<Notify>) {
    let mut waiters = waiters.lock();
    if waiters.len() >= WAITERS_SWEEP && waiters.len().is_power_of_two() {
        waiters.retain(|w| w.strong_count() > 0);
    }
    waiters.push(Arc::downgrade(wake));
}

fn wake_all(waiters: &Waiters) {
    for waiter in std::mem::take(&mut *waiters.lock()) {
        if let Some(waiter) = waiter.upgrade() {
            waiter.notify_one();
        }
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        self.progress.notify_waiters();
    }
}
