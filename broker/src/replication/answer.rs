//! A leader's side of replication: what it tells a follower that fetches.
//!
//! Owns the check that a replica is the one registered (no client can move an in-sync set), and the answer for one
//! partition: records up to the log end, where histories part, where the log begins. Does not own waiting (`api`).

use strandline_controller::image::MetadataImage;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::BrokerId;
use strandline_protocol::messages::fetch_response::{EpochEndOffset, PartitionData};
use strandline_protocol::rope::{Records, Rope};

use crate::fetch_session::Wanted;
use crate::partition::{FetchPosition, Partition, Replica, ReplicaFetch};

/// Whether `replica` is registered with this broker epoch.
pub fn is_registered(image: &MetadataImage, replica: BrokerId, broker_epoch: i64) -> bool {
    image.brokers.get(&replica).is_some_and(|b| b.broker_epoch == broker_epoch)
}

/// Answers one partition of a follower's fetch. `true`: the in-sync set may have to change.
pub fn answer(
    partition: &Partition,
    replica: Replica,
    wanted: &Wanted,
    max_bytes: u32,
    min_one: bool,
    now_ms: i64,
) -> (PartitionData, bool) {
    let index = wanted.partition;
    if let Err(code) = partition.check_epoch(wanted.current_leader_epoch) {
        return (failed(index, code, -1), false);
    }
    let position = FetchPosition {
        leader_epoch: wanted.current_leader_epoch,
        offset: wanted.fetch_offset,
        last_epoch: wanted.last_fetched_epoch,
        log_start: wanted.log_start_offset,
    };
    match partition.replica_fetch(replica, position, max_bytes, min_one, now_ms) {
        Ok((ReplicaFetch::Records(read), wants_change)) => {
            let data = PartitionData {
                partition_index: index,
                high_watermark: read.high_watermark,
                last_stable_offset: read.last_stable_offset,
                log_start_offset: read.log_start_offset,
                preferred_read_replica: -1,
                records: Some(Records::Parts(read.records)),
                ..Default::default()
            };
            (data, wants_change)
        }
        Ok((ReplicaFetch::Diverging { epoch, end_offset }, _)) => {
            let data = PartitionData {
                // An end of 0 says "nothing in common" where the leader knows no epoch at all.
                diverging_epoch: EpochEndOffset { epoch, end_offset: end_offset.max(0), ..Default::default() },
                ..failed(index, ErrorCode::None, partition.offsets().log_start)
            };
            (data, false)
        }
        Err(refused) => (failed(index, refused.code(), partition.offsets().log_start), false),
    }
}

/// A refusal. `log_start_offset` is -1 where the partition is not served here.
pub fn failed(partition_index: i32, code: ErrorCode, log_start_offset: i64) -> PartitionData {
    PartitionData {
        partition_index,
        error_code: code.code(),
        high_watermark: -1,
        last_stable_offset: -1,
        log_start_offset,
        preferred_read_replica: -1,
        records: Some(Records::Parts(Rope::default())),
        ..Default::default()
    }
}
