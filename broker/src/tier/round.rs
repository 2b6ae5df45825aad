//! One round of a tiered partition on its leader: open, copy, free, expire, delete, collect.
//!
//! Owns the order within a round. Does not own when rounds begin (`tasks`), the moves (`strandline_tiering`) nor the local
//! rules (`strandline_log::retention`). Time comes in as an argument.
//! Order: the pointer first, then what it allows. Local segments are freed only by a pointer that is applied.
//! A crash leaves the round undone; the next one begins from the pointer.

use std::io;
use std::sync::Arc;

use strandline_log::config::{LogConfig, NO_LIMIT};
use strandline_log::retention::{RetentionLimits, expired_before, local_expired_before};
use strandline_log::{SealedSegment, SegmentFile};
use strandline_protocol::remote_pointer::{PointerState, RemotePointer};
use strandline_tiering::{Leader, MoveError, RemotePartition, Retention, SegmentSource, SegmentToCopy};

use crate::partition::Partition;
use crate::reaper::Reaper;

/// Segments named by one manifest, at most.
const SEGMENTS_PER_COPY: usize = 16;
/// Copies in one round, at most; more wait for the next.
const COPIES_PER_ROUND: usize = 64;

/// What a round works on, and by which right.
pub struct Round<'a> {
    pub partition: &'a Arc<Partition>,
    pub remote: &'a RemotePartition,
    /// As it was when the round began: what is proposed after the leadership has ended is refused.
    pub leader: Leader,
    /// Deleted objects are kept so long, in ms, beside `file.delete.delay.ms`.
    pub undelete_ms: i64,
    pub reaper: &'a Reaper,
    /// Wall-clock time, in ms since the epoch.
    pub now_ms: &'a (dyn Fn() -> i64 + Send + Sync),
}

impl Round<'_> {
    /// The whole round. Garbage is looked for if `collect` says so; returns whether it was.
    pub async fn run(&self, collect: bool) -> Result<bool, MoveError> {
        let (partition, config) = (self.partition, self.partition.config());
        if !config.remote_storage_enable {
            self.disabled(&config).await?;
            return Ok(false);
        }
        let mut pointer = partition.pointer();
        if pointer.state == PointerState::Unset {
            pointer = self.remote.open(&self.leader, partition.offsets().log_start, (self.now_ms)()).await?;
            self.apply(pointer);
        }
        if pointer.state != PointerState::Open {
            return Ok(false);
        }
        // Records may have been deleted while the remote log was being opened: then nothing but the log knows.
        let log_start = partition.offsets().log_start;
        if log_start > pointer.log_start_offset {
            let trimmed = self.remote.trim(&self.leader, log_start).await?;
            self.apply(trimmed);
        }
        let copied = if config.remote_log_copy_disable { Ok(()) } else { self.copy(&config).await };
        self.free_local(&config);
        self.expire(&config).await?;
        let collected = collect && self.collect().await?;
        copied.map(|()| collected)
    }

    /// `remote.storage.enable` was set to false: the remote log is closed, and its entries are dead.
    async fn disabled(&self, config: &LogConfig) -> Result<(), MoveError> {
        let (partition, remote, leader) = (self.partition, self.remote, self.leader);
        if partition.pointer().state == PointerState::Open {
            let pointer = remote.close(&leader, partition.offsets().local_log_start).await?;
            self.apply(pointer);
            let local_start = partition.offsets().local_log_start;
            if let Err(error) = partition.raise_log_start(local_start) {
                tracing::error!(partition = %partition.name(), %error, "the log start cannot be raised");
            }
        }
        let kept =
            remote.housekeep(&leader, Retention::default(), self.delete_delay_ms(config), (self.now_ms)()).await?;
        self.apply(kept.pointer);
        Ok(())
    }

    fn apply(&self, pointer: RemotePointer) {
        if let Err(error) = self.partition.apply_pointer(pointer) {
            tracing::error!(partition = %self.partition.name(), %error, "the log start cannot follow the remote pointer");
        }
    }

    fn delete_delay_ms(&self, config: &LogConfig) -> i64 {
        config.file_delete_delay_ms.max(self.undelete_ms)
    }

    /// Copies closed segments until there are none, freeing local ones as the pointer passes them.
    async fn copy(&self, config: &LogConfig) -> Result<(), MoveError> {
        let partition = self.partition;
        roll_expired_active(partition, config, (self.now_ms)());
        for _ in 0..COPIES_PER_ROUND {
            let segments = to_copy(partition);
            if segments.is_empty() {
                return Ok(());
            }
            let copied = self.remote.copy(&self.leader, &segments, (self.now_ms)()).await?;
            self.apply(copied.pointer);
            tracing::debug!(
                partition = %partition.name(), segments = copied.segments, bytes = copied.bytes,
                highest_copied = copied.pointer.highest_copied_offset, "copied to the tier"
            );
            self.free_local(config);
            if let Some(error) = copied.stopped {
                return Err(error);
            }
        }
        Ok(())
    }

    fn free_local(&self, config: &LogConfig) {
        free_local(self.partition, config, self.reaper, (self.now_ms)());
    }

    /// Total retention: remote entries first, then what is not copied, so that an absent store cannot fill the disk.
    async fn expire(&self, config: &LogConfig) -> Result<(), MoveError> {
        let (partition, remote, leader) = (self.partition, self.remote, self.leader);
        let now = (self.now_ms)();
        let above = partition.pointer().highest_copied_offset + 1;
        let local_bytes_above = partition.log().bytes_from(above);
        let retention = Retention {
            retention_ms: (config.retention_ms != NO_LIMIT).then_some(config.retention_ms),
            retention_bytes: u64::try_from(config.retention_bytes).ok(),
            local_bytes_above,
        };
        let kept = remote.housekeep(&leader, retention, self.delete_delay_ms(config), now).await?;
        self.apply(kept.pointer);
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
                self.apply(pointer);
            }
        }
        self.free_local(config);
        Ok(())
    }

    async fn collect(&self) -> Result<bool, MoveError> {
        if self.partition.pointer().manifest.is_none() {
            return Ok(false);
        }
        let collected = self.remote.collect(&self.leader).await?;
        if collected > 0 {
            tracing::info!(partition = %self.partition.name(), collected, "removed objects that nothing names");
        }
        Ok(true)
    }
}

/// Frees whole closed segments by local retention, up to what the applied pointer covers and the last stable offset;
/// and any wholly below the log start.
pub fn free_local(partition: &Arc<Partition>, config: &LogConfig, reaper: &Reaper, now_ms: i64) {
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
    let expired = local_expired_before(&log.segments(), copied, stable, limits, now_ms);
    let target = expired.unwrap_or(0).max(offsets.log_start);
    if target <= offsets.local_log_start && log.segments().first().is_none_or(|s| s.next_offset > target) {
        return;
    }
    let deleted = log.delete_local_before(target);
    drop(log);
    reaper.take(partition, deleted, config.file_delete_delay_ms, now_ms);
}

/// K14: an active segment that local retention would remove is closed, so that it can be copied and then removed.
fn roll_expired_active(partition: &Arc<Partition>, config: &LogConfig, now: i64) {
    let local_ms = config.effective_local_retention_ms();
    if local_ms < 0 {
        return;
    }
    let mut log = partition.log();
    let expired = log.segments().last().is_some_and(|s| {
        s.active
            && s.next_offset > s.base_offset
            && s.max_timestamp >= 0
            && now.saturating_sub(s.max_timestamp) > local_ms
    });
    if !expired {
        return;
    }
    let rolled = log.roll(now);
    drop(log);
    match rolled {
        Ok(_) => partition.ask_for_due_flush(),
        Err(error) => {
            tracing::warn!(partition = %partition.name(), %error, "the active segment cannot be closed");
        }
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
