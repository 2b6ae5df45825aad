//! Records of a history as they are in a log: what a producer writes for a value, and what a fetch's answer says was read.

use strandline_protocol::compression::DecompressLimit;
use strandline_protocol::messages::fetch_response::PartitionData;
use strandline_protocol::record_batch::{batches, records};

use super::op::{Key, Seen, Slice, Value};

/// Numbers of one process's values.
pub const NUMBER_BITS: u32 = 32;
/// The largest decompressed batch, bytes.
const DECOMPRESSED_MAX: usize = 16 << 20;

/// The text of a record: its value, filled up so that segments roll.
pub fn text(value: Value, length: usize) -> Vec<u8> {
    let mut text = value.to_string().into_bytes();
    text.resize(length.max(text.len()), b'.');
    text
}

/// The value of a record's text: a number, or a foreign client's `process.number`; dots behind it are filling.
pub fn value_of(text: &[u8]) -> Option<Value> {
    let text = std::str::from_utf8(text).ok()?.trim_end_matches('.');
    match text.split_once('.') {
        None => text.parse().ok(),
        Some((process, number)) => Some(process.parse::<Value>().ok()? << NUMBER_BITS | number.parse::<Value>().ok()?),
    }
}

/// What one fetch from offset `from` answered for one partition, and where to go on.
pub fn slice_of(key: Key, from: i64, data: PartitionData) -> Result<(Slice, i64), String> {
    let bytes = data.records.and_then(|records| records.to_bytes()).unwrap_or_default();
    let (mut seen, mut next) = (Vec::new(), from);
    // The last batch may be cut off by the size limit: it comes again.
    for (header, batch) in batches(&bytes).map_while(Result::ok) {
        header.verify_crc(batch).map_err(|e| format!("{key} at {}: {e}", header.base_offset))?;
        let records = records(batch, DecompressLimit(DECOMPRESSED_MAX)).map_err(|e| e.to_string())?;
        for record in records.filter(|_| !header.is_control()) {
            let record = record.map_err(|e| format!("{key} at {}: {e}", header.base_offset))?;
            if record.offset < from {
                continue;
            }
            let value = record.value.as_deref().and_then(value_of);
            let value = value.ok_or_else(|| format!("{key} at {}: not a record of this run", record.offset))?;
            let (leader_epoch, timestamp) = (Some(header.partition_leader_epoch), Some(record.timestamp));
            seen.push(Seen { offset: record.offset, value, leader_epoch, timestamp });
        }
        next = next.max(header.next_offset());
    }
    let slice = Slice {
        log_start: Some(data.log_start_offset),
        high_watermark: Some(data.high_watermark),
        last_stable_offset: Some(data.last_stable_offset),
        ..Slice::new(key, seen)
    };
    Ok((slice, next))
}
