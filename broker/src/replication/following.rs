//! A follower's side of replication, for one partition: what it asks for, and what it does with the answer.
//!
//! Owns the order: truncate where the histories part, or begin anew, or append. Does not own connections (`fetcher`) nor
//! syncs (`flush`). What is appended is to be synced, if the topic's mode asks for it, before the next fetch says so.
//! A crash leaves what the log's recovery keeps; the next fetch tells the leader how far that is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use strandline_controller::image::MetadataImage;
use strandline_log::AppendError;
use strandline_log::leader_epochs::EpochEntry;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::BrokerId;
use strandline_protocol::messages::fetch_request::FetchPartition;
use strandline_protocol::messages::fetch_response::PartitionData;
use strandline_protocol::record_batch::batches;

use crate::partition::{LeaderAt, Partition};
use crate::partitions::Partitions;

/// Kafka's `replica.fetch.max.bytes`, per partition.
const PARTITION_BYTES_MAX: i32 = 1 << 20;
/// Reading a sidecar, for a replica that boots from the tier.
const TAIL_DEADLINE: Duration = Duration::from_secs(60);

/// What becomes of a partition after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Asked again at once.
    Goes,
    /// Asked again when what was appended is durable.
    Appended,
    /// Asked again later.
    Rests,
}

/// What is asked of the leader: everything from the log end on. `None` while something below that is not durable: the leader takes
/// the offset for a promise.
pub fn wanted(partition: &Partition) -> Option<FetchPartition> {
    let position = partition.fetch_position()?;
    Some(FetchPartition {
        partition: partition.tp.partition,
        current_leader_epoch: position.leader_epoch,
        fetch_offset: position.offset,
        last_fetched_epoch: position.last_epoch,
        log_start_offset: position.log_start,
        partition_max_bytes: PARTITION_BYTES_MAX,
        ..Default::default()
    })
}

/// A node's partitions as they follow one leader.
pub struct Following<'a> {
    pub leader: BrokerId,
    pub partitions: &'a Partitions,
}

impl Following<'_> {
    /// Whether the log may be added to. A damaged one is dropped once the controller does not count it.
    pub fn is_sound(&self, partition: &Partition, image: &MetadataImage, me: BrokerId) -> bool {
        if !partition.is_damaged() {
            return true;
        }
        let counted = image
            .partitions
            .get(&partition.tp)
            .is_none_or(|p| p.record.isr.is_empty() || p.record.isr.contains(&me) || p.record.elr.contains(&me));
        if counted {
            return false;
        }
        tracing::warn!(partition = %partition.name(), "the damaged log is dropped, and fetched from the leader or the bucket");
        let dropped = partition.drop_damaged(self.at(partition.leader_epoch()));
        self.restarted(partition, dropped) == Next::Goes
    }

    /// Boots from the tier what begins there. False: not yet.
    pub async fn has_begun(&self, partition: &Partition) -> bool {
        !partition.begins_in_tier() || self.boot_from_tier(partition, partition.leader_epoch()).await == Next::Goes
    }

    /// Waits until what is here is durable in the topic's mode: what this node appended as a leader, or was sent by an earlier one,
    /// may not be yet. False: it cannot be.
    pub async fn is_durable(&self, partition: &Arc<Partition>) -> bool {
        if partition.fetch_position().is_some() {
            return true;
        }
        partition.ask_for_due_flush();
        partition.appended_is_durable().await.is_ok()
    }

    fn at(&self, epoch: i32) -> LeaderAt {
        LeaderAt { leader: self.leader, epoch }
    }

    /// Takes what the leader told of one partition, when asked in its leader epoch `epoch`. An answer of an epoch that is over changes
    /// nothing: where histories parted then, they may be one by now.
    pub async fn take(&self, partition: &Partition, epoch: i32, data: &PartitionData) -> Next {
        let at = self.at(epoch);
        let code = ErrorCode::from_code(data.error_code).unwrap_or(ErrorCode::UnknownServerError);
        match code {
            ErrorCode::None => {}
            ErrorCode::OffsetMovedToTieredStorage => return self.boot_from_tier(partition, epoch).await,
            ErrorCode::OffsetOutOfRange => return self.out_of_range(partition, epoch, data).await,
            other => {
                tracing::debug!(partition = %partition.name(), code = other.name(), "not fetched now");
                return Next::Rests;
            }
        }
        let diverging = &data.diverging_epoch;
        if diverging.epoch >= 0 || diverging.end_offset >= 0 {
            match partition.truncate_to_leader(at, diverging.epoch, diverging.end_offset) {
                Ok(true) => {}
                Ok(false) => return self.out_of_range(partition, epoch, data).await,
                Err(error) => {
                    tracing::error!(partition = %partition.name(), %error, "cannot be truncated");
                    return Next::Rests;
                }
            }
            self.partitions.write_checkpoints();
            return Next::Goes;
        }
        let records = data.records.as_ref().and_then(|r| r.to_bytes()).unwrap_or_default();
        let records = whole_batches(&records);
        let append = || partition.append_as_follower(at, &records, data.high_watermark, data.log_start_offset);
        let appended = match append() {
            // The leader's log start lies inside a batch, and this log was to begin there: it begins with the whole batch.
            Err(AppendError::UnexpectedOffset { base_offset, .. })
                if partition.may_begin_at(base_offset, data.log_start_offset) =>
            {
                let none = Bytes::new();
                if let Err(error) = partition.restart_from_leader(at, base_offset, base_offset, Vec::new(), &none) {
                    return self.restarted(partition, Err(error));
                }
                self.partitions.write_checkpoints();
                append()
            }
            other => other,
        };
        match appended {
            Ok(true) => Next::Appended,
            Ok(false) => Next::Goes,
            Err(error) => {
                tracing::error!(partition = %partition.name(), %error, "what the leader sent cannot be appended");
                Next::Rests
            }
        }
    }

    /// The leader's log begins above this one's end, or ends below it without a common epoch: begins anew there.
    async fn out_of_range(&self, partition: &Partition, epoch: i32, data: &PartitionData) -> Next {
        let start = data.log_start_offset;
        if start < 0 {
            return Next::Rests;
        }
        if partition.is_tiered() {
            return self.boot_from_tier(partition, epoch).await;
        }
        tracing::warn!(partition = %partition.name(), start, "the log begins anew at the leader's log start");
        let begun = partition.restart_from_leader(self.at(epoch), start, start, Vec::new(), &Bytes::new());
        self.restarted(partition, begun)
    }

    fn restarted(&self, partition: &Partition, begun: Result<(), strandline_log::LogError>) -> Next {
        match begun {
            Ok(()) => {
                self.partitions.write_checkpoints();
                Next::Goes
            }
            Err(error) => {
                tracing::error!(partition = %partition.name(), %error, "cannot begin anew");
                Next::Rests
            }
        }
    }

    /// Rule 7 of the remote log protocol: what is in the tier is not copied; the log begins behind it, with the epochs and
    /// the producers of the last sidecar.
    async fn boot_from_tier(&self, partition: &Partition, epoch: i32) -> Next {
        let Some(remote) = &partition.remote else {
            tracing::error!(partition = %partition.name(), "the leader's log begins in the tier, but this node has none: set tier.url");
            return Next::Rests;
        };
        let pointer = partition.pointer();
        let next = pointer.highest_copied_offset + 1;
        let tail = match remote.tail(TAIL_DEADLINE).await {
            Ok(tail) => tail,
            Err(error) => {
                tracing::warn!(partition = %partition.name(), %error, "cannot boot from the tier yet");
                return Next::Rests;
            }
        };
        let (epochs, producers) = match tail {
            Some(tail) if tail.last_offset + 1 == next => {
                let entry =
                    |(epoch, start_offset): &(i32, i64)| EpochEntry { epoch: *epoch, start_offset: *start_offset };
                (tail.leader_epochs.iter().map(entry).collect(), tail.producer_state)
            }
            _ => (Vec::new(), Bytes::new()),
        };
        tracing::info!(partition = %partition.name(), start = next, "boots from the tier: only what is not copied yet is fetched");
        let begun = partition.restart_from_leader(self.at(epoch), next, pointer.log_start_offset, epochs, &producers);
        self.restarted(partition, begun)
    }
}

/// The part of an answer that is whole batches; the last one may be cut off.
fn whole_batches(bytes: &Bytes) -> Bytes {
    let whole: usize = batches(bytes).map_while(Result::ok).map(|(_, batch)| batch.len()).sum();
    bytes.slice(..whole)
}
