//! Checks of batches before they are appended, and the rewriting that a topic's configuration asks for.
//!
//! Owns: what a producer may send (Kafka's `LogValidator`), log append time, recompression. Does not own: sequences and
//! transactions (`producer_state.rs`), offsets (`append.rs`). Pure. Invariants: bytes are rewritten only for LogAppendTime
//! or another `compression.type`; otherwise nothing is decompressed unless the topic is compacted.

use crate::config::{CompressionType, LogConfig, MessageTimestampType};
use crate::error::{AppendError, REFUSED_RECORDS_MAX, RefusedRecord};
use crate::producer_state::AppendOrigin;
use bytes::Bytes;
use strandline_protocol::compression::{Compression, DecompressLimit};
use strandline_protocol::record_batch::{
    BatchError, BatchHeader, RecordBatchBuilder, TimestampType, batches, records, set_log_append_time,
};

/// Most bytes that one batch may decompress to where its records must be seen, in bytes.
pub(crate) const DECOMPRESSED_BYTES_MAX: DecompressLimit = DecompressLimit(256 << 20);

impl From<BatchError> for AppendError {
    fn from(error: BatchError) -> Self {
        match error {
            // Kafka's codes. What is cut is no batch to it; neither is sent again as it is.
            BatchError::Magic(0 | 1) | BatchError::Truncated { .. } | BatchError::Inconsistent(_) => {
                Self::InvalidRecord(error.to_string())
            }
            BatchError::Codec(_) => Self::UnsupportedCompression(error.to_string()),
            other => Self::CorruptMessage(other.to_string()),
        }
    }
}

/// Reads and checks all batches for a leader. Returns the bytes to append and fills `headers` with their headers.
pub(crate) fn for_leader(
    given: &Bytes,
    config: &LogConfig,
    origin: AppendOrigin,
    now_ms: i64,
    headers: &mut Vec<BatchHeader>,
) -> Result<Bytes, AppendError> {
    parse_all(given, headers)?;
    if origin == AppendOrigin::Client && headers.len() != 1 {
        return Err(AppendError::InvalidRecord(format!("{} batches where exactly one is allowed", headers.len())));
    }
    for header in headers.iter() {
        check_size(header.size_in_bytes(), config)?;
        check_header(header, origin)?;
        if origin == AppendOrigin::Client {
            check_timestamps(given, header, config, now_ms)?;
        }
    }
    if config.cleanup_policy.compact {
        refuse_null_keys(given)?;
    }
    let append_time = config.message_timestamp_type == MessageTimestampType::LogAppendTime;
    let other_codec = headers.iter().any(|header| target_codec(header, config) != header.compression());
    if !append_time && !other_codec {
        return Ok(given.clone());
    }
    let rewritten = rewrite(given, headers, config, append_time.then_some(now_ms))?;
    headers.clear();
    for batch in batches(&rewritten) {
        let (header, _) = batch?;
        check_size(header.size_in_bytes(), config)?;
        headers.push(header);
    }
    Ok(rewritten)
}

/// Reads and checks all batches for a follower: whole, CRC right, offsets rising.
pub(crate) fn for_follower(given: &Bytes, headers: &mut Vec<BatchHeader>) -> Result<(), AppendError> {
    parse_all(given, headers)?;
    if headers.windows(2).any(|pair| pair[1].base_offset <= pair[0].last_offset()) {
        return Err(AppendError::CorruptMessage("the offsets of the batches do not rise".to_owned()));
    }
    if headers.windows(2).any(|pair| pair[1].partition_leader_epoch < pair[0].partition_leader_epoch) {
        return Err(AppendError::CorruptMessage("the leader epochs of the batches fall".to_owned()));
    }
    Ok(())
}

fn parse_all(given: &Bytes, headers: &mut Vec<BatchHeader>) -> Result<(), AppendError> {
    headers.clear();
    for batch in batches(given) {
        let (header, bytes) = batch?;
        header.verify_crc(bytes)?;
        headers.push(header);
    }
    if headers.is_empty() {
        return Err(AppendError::InvalidRecord("no batch".to_owned()));
    }
    Ok(())
}

fn check_size(size: usize, config: &LogConfig) -> Result<(), AppendError> {
    let (size, max) = (size as u64, config.max_message_bytes.max(0) as u64);
    if size > max {
        return Err(AppendError::MessageTooLarge { size, max });
    }
    Ok(())
}

fn check_header(header: &BatchHeader, origin: AppendOrigin) -> Result<(), AppendError> {
    let invalid = |text: &str| Err(AppendError::InvalidRecord(text.to_owned()));
    if header.record_count <= 0 {
        return invalid("a batch without records");
    }
    if header.last_offset_delta != header.record_count - 1 {
        return invalid("the last offset delta is not the number of records less one");
    }
    if header.is_control() && origin == AppendOrigin::Client {
        return invalid("clients do not write control records");
    }
    if header.has_producer_id() && !header.is_control() && (header.producer_epoch < 0 || header.base_sequence < 0) {
        return invalid("a producer id without an epoch and a sequence");
    }
    if header.is_transactional() && !header.has_producer_id() {
        return invalid("a transactional batch without a producer id");
    }
    Ok(())
}

fn check_timestamps(given: &[u8], header: &BatchHeader, config: &LogConfig, now_ms: i64) -> Result<(), AppendError> {
    if config.message_timestamp_type == MessageTimestampType::LogAppendTime {
        return Ok(());
    }
    let earliest = now_ms.saturating_sub(config.message_timestamp_before_max_ms);
    let latest = now_ms.saturating_add(config.message_timestamp_after_max_ms);
    if header.timestamp_type() == TimestampType::LogAppendTime {
        let (timestamp, records) = (header.max_timestamp, Vec::new());
        return Err(AppendError::InvalidTimestamp { timestamp, earliest, latest, records });
    }
    let outside = |timestamp: i64| timestamp != -1 && !(earliest..=latest).contains(&timestamp);
    // The first record's and the largest timestamp are all that the header tells; records are looked at to name them.
    match [header.base_timestamp, header.max_timestamp].into_iter().find(|timestamp| outside(*timestamp)) {
        None => Ok(()),
        Some(timestamp) => {
            let records = refused_records(given, |_, timestamp| outside(timestamp))?;
            Err(AppendError::InvalidTimestamp { timestamp, earliest, latest, records })
        }
    }
}

fn refuse_null_keys(given: &Bytes) -> Result<(), AppendError> {
    let records = refused_records(given, |has_key, _| !has_key)?;
    if records.is_empty() { Ok(()) } else { Err(AppendError::NoKey { records }) }
}

/// Records of all batches but control ones that `refuses`, told whether there is a key and the timestamp.
fn refused_records(given: &[u8], refuses: impl Fn(bool, i64) -> bool) -> Result<Vec<RefusedRecord>, AppendError> {
    let mut refused = Vec::new();
    let mut index = 0;
    for batch in batches(given) {
        let (header, bytes) = batch?;
        if header.is_control() {
            continue;
        }
        for record in records(bytes, DECOMPRESSED_BYTES_MAX)? {
            let record = record?;
            if refuses(record.key.is_some(), record.timestamp) && refused.len() < REFUSED_RECORDS_MAX {
                refused.push(RefusedRecord { index, offset: record.offset, timestamp: record.timestamp });
            }
            index += 1;
        }
    }
    Ok(refused)
}

fn target_codec(header: &BatchHeader, config: &LogConfig) -> Compression {
    if header.is_control() {
        return header.compression();
    }
    match config.compression_type {
        CompressionType::Producer => header.compression(),
        CompressionType::Uncompressed => Compression::None,
        CompressionType::Gzip => Compression::Gzip,
        CompressionType::Snappy => Compression::Snappy,
        CompressionType::Lz4 => Compression::Lz4,
        CompressionType::Zstd => Compression::Zstd,
    }
}

fn rewrite(
    given: &Bytes,
    headers: &[BatchHeader],
    config: &LogConfig,
    append_time: Option<i64>,
) -> Result<Bytes, AppendError> {
    let mut out = Vec::with_capacity(given.len());
    for (header, batch) in headers.iter().zip(batches(given)) {
        let (_, bytes) = batch?;
        let start = out.len();
        let codec = target_codec(header, config);
        if codec == header.compression() {
            out.extend_from_slice(bytes);
        } else {
            out.extend_from_slice(&recompress(header, bytes, codec)?);
        }
        if let Some(now_ms) = append_time {
            set_log_append_time(&mut out[start..], now_ms)?;
        }
    }
    Ok(Bytes::from(out))
}

fn recompress(header: &BatchHeader, batch: &[u8], codec: Compression) -> Result<Bytes, AppendError> {
    let mut builder = RecordBatchBuilder::new(codec);
    builder.base_offset = header.base_offset;
    builder.leader_epoch = header.partition_leader_epoch;
    builder.producer_id = header.producer_id;
    builder.producer_epoch = header.producer_epoch;
    builder.base_sequence = header.base_sequence;
    builder.transactional = header.is_transactional();
    for (next, record) in (header.base_offset..).zip(records(batch, DECOMPRESSED_BYTES_MAX)?) {
        let record = record?;
        if record.offset != next {
            return Err(AppendError::InvalidRecord("the offsets of the records do not follow each other".to_owned()));
        }
        builder.append(record.timestamp, record.key.as_deref(), record.value.as_deref(), &record.headers);
    }
    if builder.count() != header.record_count {
        return Err(AppendError::InvalidRecord("fewer records than the header says".to_owned()));
    }
    Ok(builder.build())
}
