//! `__consumer_offsets` as the group coordinator sees it, over the partitions of this node.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use strandline_controller::ControllerHandle;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::record_batch::batches;
use strandline_protocol::rope::{Part, Rope};

use crate::auto_topics::CONSUMER_OFFSETS;
use crate::clock;
use crate::environment::block_in_place;
use crate::group::OffsetsLog;
use crate::partition::{Acks, Isolation, Origin, Partition, ReadFrom};
use crate::partitions::Partitions;

/// Bytes read at once while a coordinator loads.
const READ_BYTES: u32 = 1 << 20;

/// The log of committed offsets on this node.
pub struct LocalOffsets {
    pub controller: ControllerHandle,
    pub partitions: Arc<Partitions>,
}

impl LocalOffsets {
    fn leading(&self, partition: i32) -> Result<Arc<Partition>, ErrorCode> {
        let image = self.controller.image();
        let topic = image.topic(CONSUMER_OFFSETS).ok_or(ErrorCode::CoordinatorNotAvailable)?;
        self.partitions.leading(topic.id, partition).map_err(|code| match code {
            ErrorCode::UnknownTopicOrPartition => ErrorCode::NotCoordinator,
            other => other,
        })
    }
}

#[async_trait]
impl OffsetsLog for LocalOffsets {
    fn partition_count(&self) -> Option<i32> {
        self.controller.image().topic(CONSUMER_OFFSETS).map(|t| t.partition_count)
    }

    async fn append(&self, partition: i32, batch: Bytes) -> Result<(), ErrorCode> {
        let partition = self.leading(partition)?;
        let appended = partition
            .append(&batch, Origin::Coordinator, Acks::All, clock::now_ms())
            .map_err(|refused| refused.code)?;
        match appended.durable {
            Some(durable) => durable.wait().await.map_err(|failed| failed.code()),
            None => Ok(()),
        }
    }

    async fn read(&self, partition: i32, offset: i64) -> Result<(Bytes, i64), ErrorCode> {
        let partition = self.leading(partition)?;
        let offset = offset.max(partition.offsets().log_start);
        let read =
            block_in_place(|| partition.read(offset, READ_BYTES, true, Isolation::HighWatermark, ReadFrom::Leader));
        let bytes = bytes_of(&read.map_err(|refused| refused.code())?.records).map_err(|error| {
            tracing::error!(partition = %partition.name(), %error, "committed offsets cannot be read");
            ErrorCode::KafkaStorageError
        })?;
        let mut whole = 0;
        let mut next = offset;
        // The last batch may be cut off; the next read begins with it.
        for (header, batch) in batches(&bytes).map_while(Result::ok) {
            whole += batch.len();
            next = header.next_offset();
        }
        Ok((bytes.slice(..whole), next))
    }

    fn ends(&self, partition: i32) -> Result<(i64, i64), ErrorCode> {
        let offsets = self.leading(partition)?.offsets();
        Ok((offsets.high_watermark, offsets.log_end))
    }

    fn leads(&self, partition: i32) -> bool {
        self.leading(partition).is_ok()
    }
}

fn bytes_of(rope: &Rope) -> std::io::Result<Bytes> {
    use std::os::unix::fs::FileExt;
    let mut all = BytesMut::with_capacity(usize::try_from(rope.len()).unwrap_or(0));
    for part in rope.parts() {
        match part {
            Part::Bytes(bytes) => all.extend_from_slice(bytes),
            Part::File(range) => {
                let start = all.len();
                all.resize(start + usize::try_from(range.len).unwrap_or(0), 0);
                range.file.read_exact_at(&mut all[start..], range.position)?;
            }
        }
    }
    Ok(all.freeze())
}
