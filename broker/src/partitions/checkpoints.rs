//! The checkpoint files of the log directories, for all partitions of a directory at once.
//!
//! Owns: which offsets stand in them, and that what they promise is on the medium before. Does not own: the files (`log_dir`).
//! Invariants: one call at a time collects and writes, so that the checkpoint after a truncation is not replaced by one from before
//! it, and none is written while another call still syncs what it promises. A crash leaves the files before or those after.

use std::collections::BTreeMap;
use std::sync::Arc;

use strandline_log::checkpoint::TopicPartitionKey;

use super::Partitions;
use crate::log_dir::CheckpointedOffsets;
use crate::partition::Partition;

impl Partitions {
    /// Writes the checkpoints of every directory that changed.
    pub fn write_checkpoints(&self) {
        let _one_at_a_time = self.checkpointing.lock();
        let mut by_dir: Vec<BTreeMap<TopicPartitionKey, CheckpointedOffsets>> = vec![BTreeMap::new(); self.dirs.len()];
        let all = self.all();
        for partition in &all {
            let Some(index) = self.dirs.iter().position(|d| Arc::ptr_eq(d, &partition.dir)) else { continue };
            if let Some(offsets) = checkpointed(partition) {
                let key = TopicPartitionKey { topic: partition.topic.to_string(), partition: partition.tp.partition };
                by_dir[index].insert(key, offsets);
            }
        }
        for (dir, offsets) in self.dirs.iter().zip(&by_dir) {
            if let Err(error) = dir.write_checkpoints(offsets) {
                tracing::warn!(dir = %dir.path.display(), %error, "checkpoints cannot be written; recovery will read more");
                continue;
            }
            for partition in all.iter().filter(|p| Arc::ptr_eq(&p.dir, dir)) {
                let key = TopicPartitionKey { topic: partition.topic.to_string(), partition: partition.tp.partition };
                if let Some(written) = offsets.get(&key) {
                    partition.log().note_checkpoint(written.recovery_point);
                }
            }
        }
    }

    /// Writes how far compaction has come, in every directory that has compacted logs.
    pub fn write_cleaner_checkpoints(&self) {
        for dir in &self.dirs {
            let key = |p: &Partition| TopicPartitionKey { topic: p.topic.to_string(), partition: p.tp.partition };
            let compacted = self.in_dir(&dir.path).into_iter().filter(|p| p.clean_until() > 0);
            let offsets = compacted.map(|p| (key(&p), p.clean_until())).collect();
            if let Err(error) = dir.write_cleaner_checkpoint(&offsets) {
                tracing::warn!(dir = %dir.path.display(), %error, "the checkpoint of compaction cannot be written; more is compacted again");
            }
        }
    }
}

/// The offsets to be checkpointed; none if the log cannot make them durable, or nothing was ever written.
fn checkpointed(partition: &Partition) -> Option<CheckpointedOffsets> {
    let mut log = partition.log();
    let offsets = log.offsets();
    if offsets.log_end == 0 && offsets.log_start == 0 {
        return None;
    }
    let begun = log.begin_persist();
    // Appends do not wait for these syncs.
    drop(log);
    if let Err(error) = begun.and_then(|persist| Ok(persist.run()?)) {
        tracing::warn!(partition = %partition.name(), %error, "not in the checkpoint");
        partition.fail(&error.to_string());
        return None;
    }
    Some(CheckpointedOffsets {
        recovery_point: offsets.recovery_point,
        log_start: offsets.log_start,
        high_watermark: offsets.high_watermark,
    })
}
