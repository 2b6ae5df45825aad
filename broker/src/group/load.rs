//! Loading a partition of `__consumer_offsets`: its records become groups.
//!
//! Owns the replay. Later records win; a tombstone forgets. Records of other kinds of groups are left alone, and one that
//! cannot be read is skipped with a warning: one bad record must not take every group of the partition away.

use std::collections::BTreeMap;

use bytes::Bytes;
use strandline_protocol::compression::DecompressLimit;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::messages::group_metadata_value::GroupMetadataValue;
use strandline_protocol::record_batch::{batches, records};

use super::offsets::OffsetsByTopic;
use super::records::{Entry, read};
use super::state::Group;

/// Bytes that one batch may be when decompressed.
const BATCH_MAX_BYTES: usize = 64 << 20;

#[derive(Debug, Default)]
struct Loaded {
    metadata: Option<GroupMetadataValue>,
    offsets: OffsetsByTopic,
}

/// The groups of the records read so far.
#[derive(Debug, Default)]
pub(super) struct Replay {
    groups: BTreeMap<String, Loaded>,
    /// Records read.
    pub records: u64,
    /// Records that could not be read.
    pub unreadable: u64,
}

impl Replay {
    /// Reads whole batches. Bytes that are no batch are an error: what lies behind them cannot be found.
    pub(super) fn batches(&mut self, bytes: &Bytes) -> Result<(), ErrorCode> {
        for batch in batches(bytes) {
            let (header, batch) = batch.map_err(|error| corrupt(&error))?;
            // Markers of transactions, and offsets that would need them.
            if header.is_control() || header.is_transactional() {
                continue;
            }
            for record in records(batch, DecompressLimit(BATCH_MAX_BYTES)).map_err(|error| corrupt(&error))? {
                let record = record.map_err(|error| corrupt(&error))?;
                self.records += 1;
                match read(record.key, record.value) {
                    Ok(entry) => self.apply(entry),
                    Err(error) => {
                        self.unreadable += 1;
                        tracing::warn!(offset = record.offset, %error, "skipped");
                    }
                }
            }
        }
        Ok(())
    }

    fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Offset { group, topic, partition, value: Some(committed) } => {
                let group = self.groups.entry(group).or_default();
                group.offsets.entry(topic).or_default().insert(partition, committed);
            }
            Entry::Offset { group, topic, partition, value: None } => {
                if let Some(partitions) = self.groups.get_mut(&group).and_then(|g| g.offsets.get_mut(&topic)) {
                    partitions.remove(&partition);
                }
            }
            Entry::Group { group, value } => self.groups.entry(group).or_default().metadata = value,
            Entry::Other(_) => {}
        }
    }

    /// The groups; sessions of their members begin at `now_ms`.
    pub(super) fn finish(self, now_ms: i64) -> BTreeMap<String, Group> {
        let mut groups = BTreeMap::new();
        for (id, loaded) in self.groups {
            let mut group = match loaded.metadata {
                Some(metadata) => Group::restore(&id, metadata, now_ms),
                None => Group::new(&id, now_ms),
            };
            for (topic, partitions) in loaded.offsets {
                for (partition, committed) in partitions {
                    group.offsets.insert(topic.clone(), partition, committed);
                }
            }
            if !group.is_vacant() {
                groups.insert(id, group);
            }
        }
        groups
    }
}

fn corrupt(error: &dyn std::fmt::Display) -> ErrorCode {
    tracing::error!(%error, "the offsets topic has bytes that are no batch");
    ErrorCode::CorruptMessage
}
