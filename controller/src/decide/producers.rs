//! Producer ids, given out in blocks.

use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::{BrokerEpoch, BrokerId};

use super::brokers::check_epoch;
use crate::image::MetadataImage;
use crate::record::MetadataRecord;
use crate::request::Refused;

/// Ids in a block, as in Kafka's `ProducerIdsBlock`.
pub const PRODUCER_ID_BLOCK: i32 = 1000;

/// First id and count of a new block.
pub(super) fn allocate(
    image: &MetadataImage,
    broker_id: BrokerId,
    broker_epoch: BrokerEpoch,
    out: &mut Vec<MetadataRecord>,
) -> Result<(i64, i32), Refused> {
    check_epoch(image, broker_id, broker_epoch)?;
    let first = image.next_producer_id;
    let Some(next) = first.checked_add(PRODUCER_ID_BLOCK.into()) else {
        return Err(Refused::new(ErrorCode::UnknownServerError, "Exhausted all producerIds"));
    };
    out.push(MetadataRecord::ProducerIds { next_producer_id: next });
    Ok((first, PRODUCER_ID_BLOCK))
}
