//! The tier map of a topic: where each range of offsets lies, for `/tiers/<topic>` and those who draw it.

use std::time::Duration;

use serde_json::{Value, json};
use strandline_tiering::TierEntry;

use crate::broker::Broker;
use crate::partition::Partition;

/// Reading the manifest, if it is not in memory.
const DEADLINE: Duration = Duration::from_secs(10);

/// The map, as JSON; none if there is no such topic. What the store does not tell is left out, with the reason.
pub async fn of_topic(broker: &Broker, name: &str) -> Option<Value> {
    let image = broker.image();
    let topic = image.topic(name)?;
    let mut partitions = Vec::new();
    for number in 0..topic.partition_count {
        partitions.push(match broker.partitions.leading(topic.id, number) {
            Ok(partition) => of_partition(&partition).await,
            Err(code) => json!({ "partition": number, "error": code.name() }),
        });
    }
    Some(json!({ "topic": name, "topic_id": topic.id.to_string(), "partitions": partitions }))
}

async fn of_partition(partition: &Partition) -> Value {
    let mut error = None;
    let mut remote: Vec<TierEntry> = Vec::new();
    if let Some(log) = partition.remote.as_ref().filter(|_| partition.tiered_range().is_some()) {
        match log.tiers(DEADLINE).await {
            Ok(tiers) => remote = tiers.entries,
            Err(failed) => error = Some(failed.to_string()),
        }
    }
    let (offsets, local) = {
        let log = partition.log();
        (log.offsets(), log.segments())
    };
    let tiered = partition.config().remote_storage_enable;
    let mut segments: Vec<Value> = remote
        .iter()
        .map(|e| {
            let state = if e.last_offset >= offsets.local_log_start { "both" } else { "remote" };
            json!({ "base_offset": e.base_offset, "last_offset": e.last_offset, "bytes": e.size_bytes,
                    "max_timestamp": e.max_timestamp, "leader_epoch": e.leader_epoch, "state": state })
        })
        .collect();
    let copied = partition.highest_copied().map_or(-1, |h| h);
    for s in local.iter().filter(|s| s.next_offset - 1 > copied && s.next_offset > s.base_offset) {
        let state = if tiered && !s.active { "uploading" } else { "local" };
        segments.push(json!({ "base_offset": s.base_offset.max(copied + 1), "last_offset": s.next_offset - 1,
            "bytes": s.size_bytes, "max_timestamp": s.max_timestamp, "active": s.active, "state": state }));
    }
    json!({
        "partition": partition.tp.partition,
        "log_start_offset": offsets.log_start,
        "local_log_start_offset": offsets.local_log_start,
        "high_watermark": offsets.high_watermark,
        "log_end_offset": offsets.log_end,
        "highest_copied_offset": partition.highest_copied(),
        "remote_bytes": remote.iter().map(|e| e.size_bytes).sum::<u64>(),
        "remote_segments": remote.len(),
        "local_bytes": local.iter().map(|s| s.size_bytes).sum::<u64>(),
        "local_segments": local.len(),
        "segments": segments,
        "error": error,
    })
}
