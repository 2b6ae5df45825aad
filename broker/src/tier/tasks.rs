//! What a leader does for its tiered partitions, round after round: take over, open, copy, free, expire, delete, collect.
//!
//! Owns the schedule and the order within a round. Does not own the moves (`strandline_tiering`) nor the local rules
//! (`strandline_log::retention`).
//! Order of a round: the pointer first, then what it allows. Local segments are freed only by a pointer that is applied.
//! A crash leaves the round undone; the next one begins from the pointer.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use strandline_log::config::{LogConfig, NO_LIMIT};
use strandline_log::leader_epochs::EpochEntry;
use strandline_log::retention::{RetentionLimits, expired_before, local_expired_before};
use strandline_log::{LogError, SealedSegment, SegmentFile};
use strandline_protocol::ids::TopicPartition;
use strandline_protocol::remote_pointer::{PointerState, UNKNOWN_EPOCH};
use strandline_tiering::{MoveError, RemotePartition, Retention, SegmentSource, SegmentToCopy, UploadError};
use tokio::sync::{Semaphore, watch};

use crate::broker::Broker;
use crate::clock;
use crate::environment::block_in_place;
use crate::partition::Partition;
use crate::shutdown::stopped;

/// Segments named by one manifest, at most.
const SEGMENTS_PER_COPY: usize = 16;
/// Copies in one round, at most; more wait for the next.
const COPIES_PER_ROUND: usize = 64;
/// Garbage is looked for this often, and once after a start.
const COLLECT_EVERY_MS: i64 = 3_600_000;
/// The least time between two looks at all partitions.
const TICK_MIN: Duration = Duration::from_millis(250);
/// A failing bucket is named in the log this often.
const WARN_EVERY_MS: i64 = 30_000;
/// Reading a sidecar to take over from.
const TAIL_DEADLINE: Duration = Duration::from_secs(60);
/// Pause after a failed take-over.
const ADOPT_PAUSE: Duration = Duration::from_secs(1);

/// The tier's tasks on one node.
pub struct TierTasks {
    broker: Arc<Broker>,
    permits: Arc<Semaphore>,
    busy: Mutex<HashSet<TopicPartition>>,
    collected_ms: Mutex<HashMap<TopicPartition, i64>>,
    warned_ms: AtomicI64,
}

impl TierTasks {
    pub fn new(broker: Arc<Broker>) -> Arc<TierTasks> {
        let permits = Arc::new(Semaphore::new(broker.config.tier_copiers));
        Arc::new(TierTasks {
            broker,
            permits,
            busy: Mutex::default(),
            collected_ms: Mutex::default(),
            warned_ms: AtomicI64::new(i64::MIN),
        })
    }

    /// Runs until `stop` becomes true: a look at all tiered partitions per interval, and soon after a segment was closed.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let interval = self.broker.config.tier_task_interval.max(TICK_MIN);
        loop {
            let partitions = self.broker.partitions.all();
            for partition in partitions {
                self.begin_round(partition);
            }
            tokio::select! {
                () = stopped(&mut stop) => return,
                () = tokio::time::sleep(TICK_MIN) => {}
            }
            tokio::select! {
                () = stopped(&mut stop) => return,
                () = tokio::time::sleep(interval - TICK_MIN.min(interval)) => {}
                () = self.broker.segment_closed.notified() => {}
            }
        }
    }

    fn begin_round(self: &Arc<Self>, partition: Arc<Partition>) {
        let Some(remote) = partition.remote.clone() else { return };
        if !partition.leads() {
            if partition.pointer().state == PointerState::Open && !partition.dir.is_offline() {
                self.free_local(&partition, &partition.config());
            }
            return;
        }
        let tiered = partition.config().remote_storage_enable || partition.pointer().state != PointerState::Unset;
        if !tiered || !partition.is_ready() || partition.dir.is_offline() || !self.busy.lock().insert(partition.tp) {
            return;
        }
        let tasks = Arc::clone(self);
        tokio::spawn(async move {
            // Never closed while the process runs, so this only waits.
            let permit = Arc::clone(&tasks.permits).acquire_owned().await;
            if let Err(error) = tasks.round(&partition, &remote).await {
                if let MoveError::Upload(UploadError::Damaged(damage)) = &error {
                    partition.found_damaged(damage);
                }
                tasks.warn(&partition, &error);
            }
            tasks.busy.lock().remove(&partition.tp);
            drop(permit);
        });
    }

    fn warn(&self, partition: &Partition, error: &MoveError) {
        let now = clock::now_ms();
        let bucket = self.broker.tier.as_ref().map_or("", |tier| tier.store.name());
        let before = self.warned_ms.load(Ordering::Relaxed);
        if now.saturating_sub(before) >= WARN_EVERY_MS {
            self.warned_ms.store(now, Ordering::Relaxed);
            tracing::warn!(
                bucket, partition = %partition.name(), %error,
                "the tier cannot be moved forward; produce goes on, local segments stay until it can (try: strandline tier check {bucket})"
            );
        } else {
            tracing::debug!(bucket, partition = %partition.name(), %error, "the tier cannot be moved forward");
        }
    }

    async fn round(&self, partition: &Arc<Partition>, remote: &RemotePartition) -> Result<(), MoveError> {
        let config = partition.config();
        let leader = self.broker.leader(partition);
        if !config.remote_storage_enable {
            return self.round_disabled(partition, remote, &config).await;
        }
        let mut pointer = partition.pointer();
        if pointer.state == PointerState::Unset {
            pointer = remote.open(&leader, partition.offsets().log_start, clock::now_ms()).await?;
            self.apply(partition, pointer);
        }
        if pointer.state != PointerState::Open {
            return Ok(());
        }
        let copied = if config.remote_log_copy_disable { Ok(()) } else { self.copy(partition, remote, &config).await };
        self.free_local(partition, &config);
        self.expire(partition, remote, &config).await?;
        self.collect(partition, remote).await?;
        copied
    }

    /// `remote.storage.enable` was set to false: the remote log is closed, and its entries are dead.
    async fn round_disabled(
        &self,
        partition: &Arc<Partition>,
        remote: &RemotePartition,
        config: &LogConfig,
    ) -> Result<(), MoveError> {
        let leader = self.broker.leader(partition);
        if partition.pointer().state == PointerState::Open {
            let pointer = remote.close(&leader, partition.offsets().local_log_start).await?;
            self.apply(partition, pointer);
            let local_start = partition.offsets().local_log_start;
            if let Err(error) = partition.raise_log_start(local_start) {
                tracing::error!(partition = %partition.name(), %error, "the log start cannot be raised");
            }
        }
        let now = clock::now_ms();
        let kept = remote.housekeep(&leader, Retention::default(), self.delete_delay_ms(config), now).await?;
        self.apply(partition, kept.pointer);
        Ok(())
    }

    fn apply(&self, partition: &Partition, pointer: strandline_protocol::remote_pointer::RemotePointer) {
        if let Err(error) = partition.apply_pointer(pointer) {
            tracing::error!(partition = %partition.name(), %error, "the log start cannot follow the remote pointer");
        }
    }

    fn delete_delay_ms(&self, config: &LogConfig) -> i64 {
        let undelete = i64::try_from(self.broker.config.tier_undelete.as_millis()).unwrap_or(i64::MAX);
        config.file_delete_delay_ms.max(undelete)
    }

    /// Copies closed segments until there are none, freeing local ones as the pointer passes them.
    async fn copy(
        &self,
        partition: &Arc<Partition>,
        remote: &RemotePartition,
        config: &LogConfig,
    ) -> Result<(), MoveError> {
        roll_expired_active(partition, config);
        for _ in 0..COPIES_PER_ROUND {
            let segments = to_copy(partition);
            if segments.is_empty() {
                return Ok(());
            }
            let copied = remote.copy(&self.broker.leader(partition), &segments, clock::now_ms()).await?;
            self.apply(partition, copied.pointer);
            tracing::debug!(
                partition = %partition.name(), segments = copied.segments, bytes = copied.bytes,
                highest_copied = copied.pointer.highest_copied_offset, "copied to the tier"
            );
            self.free_local(partition, config);
            if let Some(error) = copied.stopped {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Frees whole closed segments by local retention, up to what the applied pointer covers and the last stable offset;
    /// and any wholly below the log start.
    fn free_local(&self, partition: &Arc<Partition>, config: &LogConfig) {
        if !partition.may_free() {
            return;
        }
        let pointer = partition.pointer();
        let mut log = partition.log();
        let offsets = log.offsets();
        let (retention_ms, retention_bytes) = if config.remote_log_copy_disable {
            (config.retention_ms, config.retention_bytes)
        } else {
            (config.effective_local_retention_ms(), config.effective_local_retention_bytes())
        };
        let limits = RetentionLimits { retention_ms, retention_bytes };
        let (copied, stable) = (pointer.highest_copied_offset, offsets.last_stable);
        let expired = local_expired_before(&log.segments(), copied, stable, limits, clock::now_ms());
        let target = expired.unwrap_or(0).max(offsets.log_start);
        if target <= offsets.local_log_start && log.segments().first().is_none_or(|s| s.next_offset > target) {
            return;
        }
        let deleted = log.delete_local_before(target);
        drop(log);
        self.broker.reaper.take(partition, deleted, config.file_delete_delay_ms);
    }

    /// Total retention: remote entries first, then what is not copied, so that an absent store cannot fill the disk.
    async fn expire(
        &self,
        partition: &Arc<Partition>,
        remote: &RemotePartition,
        config: &LogConfig,
    ) -> Result<(), MoveError> {
        let leader = self.broker.leader(partition);
        let now = clock::now_ms();
        let above = partition.pointer().highest_copied_offset + 1;
        let local_bytes_above = partition.log().bytes_from(above);
        let retention = Retention {
            retention_ms: (config.retention_ms != NO_LIMIT).then_some(config.retention_ms),
            retention_bytes: u64::try_from(config.retention_bytes).ok(),
            local_bytes_above,
        };
        let kept = remote.housekeep(&leader, retention, self.delete_delay_ms(config), now).await?;
        self.apply(partition, kept.pointer);
        if !kept.pointer.has_live() {
            let expired = {
                let log = partition.log();
                let high_watermark = log.offsets().high_watermark;
                let limits =
                    RetentionLimits { retention_ms: config.retention_ms, retention_bytes: config.retention_bytes };
                let segments: Vec<_> = log.segments().into_iter().filter(|s| s.next_offset > above).collect();
                expired_before(&segments, high_watermark, limits, false, now)
            };
            if let Some(expired) = expired.filter(|offset| *offset > kept.pointer.log_start_offset) {
                tracing::info!(partition = %partition.name(), log_start = expired, "expired before it was copied");
                let pointer = remote.trim(&leader, expired).await?;
                self.apply(partition, pointer);
            }
        }
        self.free_local(partition, config);
        Ok(())
    }

    async fn collect(&self, partition: &Arc<Partition>, remote: &RemotePartition) -> Result<(), MoveError> {
        let now = clock::now_ms();
        let due = self.collected_ms.lock().get(&partition.tp).is_none_or(|at| now - at >= COLLECT_EVERY_MS);
        if due && partition.pointer().manifest.is_some() {
            let collected = remote.collect(&self.broker.leader(partition)).await?;
            if collected > 0 {
                tracing::info!(partition = %partition.name(), collected, "removed objects that nothing names");
            }
            self.collected_ms.lock().insert(partition.tp, now);
        }
        Ok(())
    }

    /// Rule 3, before the first append in a new leadership: does the local log agree with the remote one? If not, the
    /// partition is taken out of service until it has taken over the remote log.
    pub fn lead(self: &Arc<Self>, partition: &Arc<Partition>) {
        let pointer = partition.pointer();
        if pointer.state != PointerState::Open {
            return;
        }
        if agrees(partition) {
            // What was copied was decided: it is below the high watermark, whatever this node knew of it.
            partition.log().advance_high_watermark(pointer.highest_copied_offset + 1);
            return;
        }
        partition.set_ready(false);
        let (tasks, partition) = (Arc::clone(self), Arc::clone(partition));
        tokio::spawn(async move {
            while let Err(error) = tasks.adopt(&partition).await {
                tracing::warn!(partition = %partition.name(), %error, "the remote log cannot be taken over yet");
                tokio::time::sleep(ADOPT_PAUSE).await;
            }
            partition.set_ready(true);
        });
    }

    async fn adopt(&self, partition: &Arc<Partition>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let pointer = partition.pointer();
        let remote = partition.remote.as_ref().ok_or("the topic is tiered, but tier.url is not set")?;
        let tail = if pointer.has_live() { remote.tail(TAIL_DEADLINE).await? } else { None };
        let (epochs, producer_state) = match &tail {
            Some(tail) => {
                let entry =
                    |(epoch, start_offset): &(i32, i64)| EpochEntry { epoch: *epoch, start_offset: *start_offset };
                (tail.leader_epochs.iter().map(entry).collect(), tail.producer_state.clone())
            }
            None if pointer.highest_copied_epoch != UNKNOWN_EPOCH => {
                let entry = EpochEntry { epoch: pointer.highest_copied_epoch, start_offset: pointer.log_start_offset };
                (vec![entry], Bytes::new())
            }
            None => (Vec::new(), Bytes::new()),
        };
        let next = pointer.highest_copied_offset + 1;
        let name = partition.name();
        let aside = partition.dir.path.join(format!("{name}.{}-stray", uuid::Uuid::new_v4().simple()));
        let offsets = partition.offsets();
        tracing::warn!(
            partition = %name, local_end = offsets.log_end, remote_end = next, set_aside = %aside.display(),
            "the local log disagrees with the remote one, which wins: the log restarts behind it"
        );
        block_in_place(|| {
            partition.log().restart_at(next, pointer.log_start_offset, epochs, &producer_state, Some(&aside))?;
            // Before anything is appended behind the new start: recovery must not look below it.
            self.broker.partitions.write_checkpoints();
            partition.adopted();
            Ok::<_, LogError>(())
        })?;
        Ok(())
    }
}

/// True if the local log's history holds the last copied offset in the epoch that the pointer says, or a log that starts
/// above it can simply go on.
fn agrees(partition: &Partition) -> bool {
    let pointer = partition.pointer();
    let log = partition.log();
    let offsets = log.offsets();
    if offsets.log_end <= pointer.highest_copied_offset {
        return false;
    }
    if !pointer.has_live() || pointer.highest_copied_epoch == UNKNOWN_EPOCH {
        return true;
    }
    match log.epoch_for_offset(pointer.highest_copied_offset) {
        Some(epoch) => epoch == pointer.highest_copied_epoch,
        // The history begins with the first local offset. A log that begins exactly behind what is copied was freed up to
        // there by this very pointer, which only follows a log that agrees.
        None => {
            let begins_behind = offsets.local_log_start == pointer.highest_copied_offset + 1;
            let first_epoch = log.epoch_for_offset(offsets.local_log_start);
            begins_behind && first_epoch.is_none_or(|epoch| epoch >= pointer.highest_copied_epoch)
        }
    }
}

/// K14: an active segment that local retention would remove is closed, so that it can be copied and then removed.
fn roll_expired_active(partition: &Partition, config: &LogConfig) {
    let local_ms = config.effective_local_retention_ms();
    if local_ms < 0 {
        return;
    }
    let now = clock::now_ms();
    let mut log = partition.log();
    let expired = log.segments().last().is_some_and(|s| {
        s.active
            && s.next_offset > s.base_offset
            && s.max_timestamp >= 0
            && now.saturating_sub(s.max_timestamp) > local_ms
    });
    if expired && let Err(error) = log.roll(now) {
        tracing::warn!(partition = %partition.name(), %error, "the active segment cannot be closed");
    }
}

/// Closed segments above what is copied, whole below the last stable offset.
fn to_copy(partition: &Partition) -> Vec<SegmentToCopy> {
    let from = partition.pointer().highest_copied_offset + 1;
    let log = partition.log();
    let below = log.offsets().last_stable;
    let mut segments = Vec::new();
    for sealed in log.sealed_segments(from, below, SEGMENTS_PER_COPY) {
        match segment_to_copy(&log, &sealed) {
            Ok(segment) => segments.push(segment),
            Err(error) => {
                tracing::warn!(partition = %partition.name(), base = sealed.base_offset, %error, "the segment cannot be copied");
                break;
            }
        }
    }
    segments
}

fn segment_to_copy(
    log: &strandline_log::Log,
    sealed: &SealedSegment,
) -> Result<SegmentToCopy, Box<dyn std::error::Error>> {
    let aborted = log.aborted_overlapping(sealed.base_offset, sealed.last_offset)?;
    Ok(SegmentToCopy {
        base_offset: sealed.base_offset,
        last_offset: sealed.last_offset,
        size_bytes: sealed.size_bytes,
        source: Arc::new(LocalSegment(sealed.file.clone())),
        producer_state: log.producer_snapshot_at(sealed.last_offset + 1)?,
        leader_epochs: log.leader_epochs_until(sealed.last_offset),
        aborted: aborted
            .iter()
            .map(|a| strandline_tiering::AbortedTxn {
                producer_id: a.producer_id,
                first_offset: a.first_offset,
                last_offset: a.last_offset,
                last_stable_offset: a.last_stable_offset,
            })
            .collect(),
    })
}

/// A closed segment as the tier reads it.
#[derive(Debug)]
struct LocalSegment(SegmentFile);

impl SegmentSource for LocalSegment {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
}
