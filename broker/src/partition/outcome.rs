//! What a partition answers: plain values, and the code that each refusal has for a client.

use std::sync::Arc;

use strandline_log::LogOffsets;
use strandline_log::producer_state::{AppendOrigin, ProducerEntry};
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::rope::Rope;

use super::Partition;

/// Who appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A producer.
    Client,
    /// The group coordinator.
    Coordinator,
}

impl From<Origin> for AppendOrigin {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::Client => AppendOrigin::Client,
            Origin::Coordinator => AppendOrigin::Coordinator,
        }
    }
}

/// What an append is to be acknowledged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// The leader alone.
    Leader,
    /// Everyone in sync, and at least `min.insync.replicas`.
    All,
}

/// Which replicas a reader takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFrom {
    Leader,
    /// A consumer that can be sent to a follower (KIP-392).
    AnyReplica,
}

/// How far a reader may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Everything: followers.
    LogEnd,
    HighWatermark,
    /// Up to the last stable offset.
    TxnCommitted,
}

impl Isolation {
    /// Exclusive.
    pub fn upper(self, offsets: &LogOffsets) -> i64 {
        match self {
            Isolation::LogEnd => offsets.log_end,
            Isolation::HighWatermark => offsets.high_watermark,
            Isolation::TxnCommitted => offsets.last_stable,
        }
    }
}

/// An append that was taken.
pub struct Appended {
    pub first_offset: i64,
    /// -1 = the producer's timestamps hold.
    pub log_append_time_ms: i64,
    pub log_start_offset: i64,
    /// To be awaited before it is acknowledged; none if it is safe already.
    pub durable: Option<Durable>,
    /// A segment was closed to make room: the tier may have something to copy.
    pub closed_segment: bool,
    pub(super) records: u64,
}

impl Appended {
    /// Records added; 0 for a repeated batch.
    pub fn record_count(&self) -> u64 {
        self.records
    }
}

/// Why an append that was taken is never acknowledged. Its outcome is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WaitFailed {
    #[error("the log directory failed before the append was safe")]
    Storage,
    #[error("the leadership ended before the append was safe")]
    Deposed,
    #[error("fewer replicas are in sync than min.insync.replicas")]
    TooFewInSync,
}

impl WaitFailed {
    pub fn code(self) -> ErrorCode {
        match self {
            WaitFailed::Storage => ErrorCode::KafkaStorageError,
            WaitFailed::Deposed => ErrorCode::NotLeaderOrFollower,
            WaitFailed::TooFewInSync => ErrorCode::NotEnoughReplicasAfterAppend,
        }
    }
}

/// An append on its way to safety.
pub struct Durable {
    pub(super) partition: Arc<Partition>,
    /// Exclusive.
    pub(super) end: i64,
    pub(super) epoch: i32,
    pub(super) acks: Acks,
}

impl Durable {
    /// Done when the append is as safe as was asked for.
    pub async fn wait(self) -> Result<(), WaitFailed> {
        loop {
            let moved = self.partition.progress.notified();
            let mut moved = std::pin::pin!(moved);
            moved.as_mut().enable();
            if self.partition.has_failed() {
                return Err(WaitFailed::Storage);
            }
            // In this order: a new epoch may have truncated what the watermarks still cover.
            let safe = self.partition.is_safe(self.end, self.acks);
            if self.partition.leader_epoch() != self.epoch || !self.partition.leads() {
                return Err(WaitFailed::Deposed);
            }
            if safe {
                let enough = self.acks == Acks::Leader || self.partition.enough_in_sync();
                return if enough { Ok(()) } else { Err(WaitFailed::TooFewInSync) };
            }
            moved.await;
        }
    }
}

/// Nothing was appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendRefused {
    pub code: ErrorCode,
    /// For the client, beside the code.
    pub message: Option<String>,
    /// The records at fault by their number in the append, and what is wrong with each.
    pub records: Vec<(i32, String)>,
}

impl From<ErrorCode> for AppendRefused {
    fn from(code: ErrorCode) -> Self {
        AppendRefused { code, message: None, records: Vec::new() }
    }
}

/// Records, and the offsets that go with them.
#[derive(Debug, Clone)]
pub struct PartitionRead {
    pub records: Rope,
    pub high_watermark: i64,
    pub last_stable_offset: i64,
    pub log_start_offset: i64,
    /// For readers of committed records only.
    pub aborted: Option<Vec<Aborted>>,
}

impl PartitionRead {
    pub fn new(records: Rope, offsets: &LogOffsets, aborted: Option<Vec<Aborted>>) -> Self {
        PartitionRead {
            records,
            high_watermark: offsets.high_watermark,
            last_stable_offset: offsets.last_stable,
            log_start_offset: offsets.log_start,
            aborted,
        }
    }

    /// What the tier gave. Everything up to `highest_copied` was decided before it was copied, also where this node has not heard of it
    /// yet: a follower that has just started knows the high watermark of its last checkpoint.
    pub fn from_tier(
        records: Rope,
        offsets: &LogOffsets,
        highest_copied: Option<i64>,
        aborted: Option<Vec<Aborted>>,
    ) -> Self {
        let decided = highest_copied.map_or(0, |copied| copied + 1);
        let mut read = PartitionRead::new(records, offsets, aborted);
        read.high_watermark = read.high_watermark.max(decided);
        read.last_stable_offset = read.last_stable_offset.max(decided);
        read
    }
}

/// An aborted transaction: its records from `first_offset` on are to be skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aborted {
    pub producer_id: i64,
    pub first_offset: i64,
}

/// Why a read gave nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadRefused {
    Code(ErrorCode),
    /// The offset is in the tier only.
    Remote {
        offset: i64,
    },
}

impl ReadRefused {
    /// The code for a client. A remote offset that nobody could read now is asked for again.
    pub fn code(self) -> ErrorCode {
        match self {
            ReadRefused::Code(code) => code,
            ReadRefused::Remote { .. } => ErrorCode::OffsetNotAvailable,
        }
    }
}

/// An answer to a search by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimestampedOffset {
    pub offset: i64,
    pub timestamp: i64,
    pub leader_epoch: i32,
}

impl From<strandline_log::TimestampedOffset> for TimestampedOffset {
    fn from(found: strandline_log::TimestampedOffset) -> Self {
        TimestampedOffset { offset: found.offset, timestamp: found.timestamp, leader_epoch: found.leader_epoch }
    }
}

impl From<strandline_tiering::TimestampedOffset> for TimestampedOffset {
    fn from(found: strandline_tiering::TimestampedOffset) -> Self {
        TimestampedOffset { offset: found.offset, timestamp: found.timestamp, leader_epoch: found.leader_epoch }
    }
}

/// One producer of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerView {
    pub producer_id: i64,
    pub producer_epoch: i16,
    /// -1 = none.
    pub last_sequence: i32,
    pub last_timestamp: i64,
    pub coordinator_epoch: i32,
    pub current_txn_first_offset: Option<i64>,
}

impl From<(i64, ProducerEntry)> for ProducerView {
    fn from((producer_id, entry): (i64, ProducerEntry)) -> Self {
        ProducerView {
            producer_id,
            producer_epoch: entry.producer_epoch,
            last_sequence: entry.batches.back().map_or(-1, |b| b.last_sequence),
            last_timestamp: entry.last_timestamp,
            coordinator_epoch: entry.coordinator_epoch,
            current_txn_first_offset: entry.current_txn_first_offset,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_from_the_tier_never_ends_in_front_of_what_is_copied() {
        let offsets = LogOffsets {
            log_start: 0,
            local_log_start: 31,
            last_stable: 31,
            high_watermark: 31,
            log_end: 224,
            recovery_point: 224,
        };
        let ends = |copied| {
            let read = PartitionRead::from_tier(Rope::default(), &offsets, copied, None);
            (read.high_watermark, read.last_stable_offset)
        };
        assert_eq!(ends(Some(192)), (193, 193), "a follower that knows the high watermark of its last checkpoint");
        assert_eq!(ends(Some(20)), (31, 31));
        assert_eq!(ends(Some(-1)), (31, 31), "nothing is copied");
        assert_eq!(ends(None), (31, 31));
    }
}
