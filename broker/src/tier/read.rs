//! Reads that cross into the tier: fetch, search by time, a higher log start.
//!
//! Flow of a remote fetch: `Partition::read` says *remote* -> `Broker::tier_read` -> `RemotePartition::read` -> parts of
//! chunk files. Data, aborted transactions and epochs of one answer come from one source.

use std::sync::Arc;
use std::time::Duration;

use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::remote_pointer::PointerState;
use strandline_protocol::rope::Rope;
use strandline_tiering::{MoveError, RemoteReadError};

use crate::broker::Broker;
use crate::clock;
use crate::environment::block_in_place;
use crate::partition::{Aborted, Isolation, Partition, PartitionRead, ReadRefused, TimestampedOffset};

/// A search by time may read several sidecars and a chunk (Kafka: `remote.list.offsets.request.timeout.ms`).
const LIST_OFFSETS_DEADLINE: Duration = Duration::from_secs(30);

impl Broker {
    /// Reads what `Partition::read` said is in the tier. What takes longer than `remote.fetch.max.wait.ms` gives no
    /// records now; the chunks go on arriving, and the client asks again.
    pub async fn tier_read(
        &self,
        partition: &Arc<Partition>,
        offset: i64,
        max_bytes: u32,
        min_one: bool,
        isolation: Isolation,
    ) -> Result<PartitionRead, ReadRefused> {
        let Some(remote) = &partition.remote else {
            tracing::error!(partition = %partition.name(), offset, "the offset is in the tier, but the node has none: set tier.url");
            return Err(ReadRefused::Code(ErrorCode::KafkaStorageError));
        };
        let deadline = self.config.remote_fetch_max_wait;
        let began = clock::monotonic();
        let read = remote.read(offset, u64::from(max_bytes), min_one, deadline).await;
        self.metrics.remote_read(began.elapsed());
        let committed = isolation == Isolation::TxnCommitted;
        match read {
            Ok(read) => {
                let aborted = committed.then(|| {
                    let named = |a: &strandline_tiering::AbortedTxn| Aborted {
                        producer_id: a.producer_id,
                        first_offset: a.first_offset,
                    };
                    read.aborted.iter().map(named).collect()
                });
                Ok(PartitionRead::from_tier(read.parts, &partition.offsets(), partition.highest_copied(), aborted))
            }
            Err(RemoteReadError::TimedOut(_)) => {
                let (copied, aborted) = (partition.highest_copied(), committed.then(Vec::new));
                Ok(PartitionRead::from_tier(Rope::default(), &partition.offsets(), copied, aborted))
            }
            Err(RemoteReadError::OffsetOutOfRange { .. }) => Err(ReadRefused::Code(ErrorCode::OffsetOutOfRange)),
            Err(error) => {
                tracing::warn!(partition = %partition.name(), offset, %error, "a remote read failed");
                Err(ReadRefused::Code(remote_code(&error)))
            }
        }
    }

    /// The first record at or after `timestamp` in either tier.
    pub async fn offset_for_timestamp(
        &self,
        partition: &Arc<Partition>,
        timestamp: i64,
    ) -> Result<Option<TimestampedOffset>, ErrorCode> {
        loop {
            let offsets = partition.offsets();
            if let Some(remote) = partition.remote.as_ref().filter(|_| offsets.log_start < offsets.local_log_start)
                && partition.tiered_range().is_some()
            {
                let found = remote.offset_for_timestamp(timestamp, LIST_OFFSETS_DEADLINE).await;
                let found = found.map_err(|error| {
                    tracing::warn!(partition = %partition.name(), timestamp, %error, "a remote search failed");
                    remote_code(&error)
                })?;
                if let Some(found) = found {
                    return Ok(Some(found.into()));
                }
            }
            let found = partition.local_offset_for_timestamp(timestamp, offsets.high_watermark);
            let found = found.map_err(ReadRefused::code)?;
            // Segments freed meanwhile were not looked at in either tier: once more.
            if partition.offsets().local_log_start == offsets.local_log_start || found.is_none_or(|f| f.offset < 0) {
                return Ok(found);
            }
        }
    }

    /// Moves the log start, durably. Of a tiered partition it is the pointer's.
    pub async fn raise_log_start(&self, partition: &Arc<Partition>, offset: i64) -> Result<(), ErrorCode> {
        let failed = |error: &dyn std::fmt::Display| {
            tracing::warn!(partition = %partition.name(), offset, %error, "the log start was not raised");
        };
        if let (PointerState::Open, Some(remote)) = (partition.pointer().state, &partition.remote) {
            let pointer = remote.trim(&self.leader(partition), offset).await.map_err(|error| {
                failed(&error);
                move_code(&error)
            })?;
            return partition.apply_pointer(pointer).map_err(|error| error.error_code());
        }
        partition.raise_log_start(offset).map_err(|error| {
            failed(&error);
            error.error_code()
        })?;
        block_in_place(|| self.partitions.write_checkpoints());
        Ok(())
    }

    /// The right to move the partition's pointer.
    pub fn leader(&self, partition: &Partition) -> strandline_tiering::Leader {
        strandline_tiering::Leader {
            broker_id: self.config.node_id,
            broker_epoch: self.epoch(),
            leader_epoch: partition.leader_epoch(),
        }
    }
}

fn remote_code(error: &RemoteReadError) -> ErrorCode {
    match error {
        RemoteReadError::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        RemoteReadError::NotTiered | RemoteReadError::AboveRemote { .. } => ErrorCode::OffsetNotAvailable,
        error if error.retryable() => ErrorCode::OffsetNotAvailable,
        _ => ErrorCode::KafkaStorageError,
    }
}

fn move_code(error: &MoveError) -> ErrorCode {
    match error {
        MoveError::OutcomeUnknown => ErrorCode::RequestTimedOut,
        MoveError::Refused(_) => ErrorCode::NotLeaderOrFollower,
        _ => ErrorCode::KafkaStorageError,
    }
}
