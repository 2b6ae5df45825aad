//! The errors of the local log, one enum per operation, and what the caller is to do with them.
//!
//! Owns: the mapping to Kafka's error codes. Does not own: logging.

use std::io;
use std::path::PathBuf;
use strandline_protocol::error_code::ErrorCode;
use thiserror::Error;

/// Where a log is damaged: a bad batch with valid ones after it. Nothing was changed on disk.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{}: bad batch at byte {position} (expected offset {expected_offset}): {reason}; valid data follows at offset {next_valid_offset}",
    path.display()
)]
pub struct CorruptLog {
    /// The segment file.
    pub path: PathBuf,
    /// First byte of the bad batch in the segment file.
    pub position: u64,
    /// The offset that should stand there: all below it is sound.
    pub expected_offset: i64,
    /// Base offset of the first valid batch after the damage.
    pub next_valid_offset: i64,
    pub reason: String,
}

/// A file that is not what its name says.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}: {reason}", path.display())]
pub struct BadFile {
    pub path: PathBuf,
    pub reason: String,
}

/// Why a log cannot be opened, or a lazily opened one cannot be used.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Corrupt(#[from] CorruptLog),
    #[error(transparent)]
    BadFile(#[from] BadFile),
}

impl OpenError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// A record for whose sake a batch was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusedRecord {
    /// In the append, from 0 on.
    pub index: i32,
    /// As the client wrote it.
    pub offset: i64,
    pub timestamp: i64,
}

/// Records that one refusal names, at most.
pub const REFUSED_RECORDS_MAX: usize = 1_000;

/// Why an append was refused. Nothing was appended.
#[derive(Debug, Error)]
pub enum AppendError {
    #[error("I/O error: {0}")]
    Io(#[from] io::Error),
    #[error("the log cannot be used: {0}")]
    Open(#[from] OpenError),
    #[error("the log takes no appends after an earlier write error")]
    Failed,
    #[error("the log is open for reading only, because it is damaged")]
    ReadOnly,
    #[error("malformed batch: {0}")]
    CorruptMessage(String),
    #[error("invalid record: {0}")]
    InvalidRecord(String),
    #[error("batch of {size} bytes exceeds max.message.bytes {max}")]
    MessageTooLarge { size: u64, max: u64 },
    #[error("{size} bytes in one append exceed segment.bytes {max}")]
    RecordListTooLarge { size: u64, max: u64 },
    #[error("timestamp {timestamp} is outside of [{earliest}, {latest}]")]
    InvalidTimestamp { timestamp: i64, earliest: i64, latest: i64, records: Vec<RefusedRecord> },
    #[error("a compacted topic takes no record without a key")]
    NoKey { records: Vec<RefusedRecord> },
    #[error("compression failed: {0}")]
    UnsupportedCompression(String),
    #[error("producer {producer_id}: sequence {sequence} does not follow {last_sequence} (epoch {epoch})")]
    OutOfOrderSequence { producer_id: i64, epoch: i16, sequence: i32, last_sequence: i32 },
    #[error("producer {producer_id}: epoch {epoch} is older than {current_epoch}")]
    InvalidProducerEpoch { producer_id: i64, epoch: i16, current_epoch: i16 },
    #[error("producer {producer_id}: a non-transactional batch while a transaction is open")]
    InvalidTxnState { producer_id: i64 },
    #[error("transaction coordinator epoch {epoch} is older than {current_epoch}")]
    TransactionCoordinatorFenced { epoch: i32, current_epoch: i32 },
    #[error("batch at offset {base_offset} does not continue the log, which ends at {log_end_offset}")]
    UnexpectedOffset { base_offset: i64, log_end_offset: i64 },
}

impl AppendError {
    /// The code that a produce response carries.
    pub fn error_code(&self) -> ErrorCode {
        match self {
            Self::Io(_) | Self::Open(_) | Self::Failed | Self::ReadOnly => ErrorCode::KafkaStorageError,
            Self::CorruptMessage(_) => ErrorCode::CorruptMessage,
            Self::InvalidRecord(_) | Self::NoKey { .. } => ErrorCode::InvalidRecord,
            Self::MessageTooLarge { .. } => ErrorCode::MessageTooLarge,
            Self::RecordListTooLarge { .. } => ErrorCode::RecordListTooLarge,
            Self::InvalidTimestamp { .. } => ErrorCode::InvalidTimestamp,
            Self::UnsupportedCompression(_) => ErrorCode::UnsupportedCompressionType,
            Self::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequenceNumber,
            Self::InvalidProducerEpoch { .. } => ErrorCode::InvalidProducerEpoch,
            Self::InvalidTxnState { .. } => ErrorCode::InvalidTxnState,
            Self::TransactionCoordinatorFenced { .. } => ErrorCode::TransactionCoordinatorFenced,
            Self::UnexpectedOffset { .. } => ErrorCode::UnknownServerError,
        }
    }

    /// True if the same append may succeed later or elsewhere.
    pub fn retryable(&self) -> bool {
        self.error_code().retriable()
    }

    /// True if the disk failed: the log directory must go offline.
    pub fn is_storage(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() != io::ErrorKind::StorageFull)
            || matches!(self, Self::Open(_) | Self::Failed)
    }
}

/// Why a read, a search or another use of the log was refused.
#[derive(Debug, Error)]
pub enum ReadError {
    #[error("offset {offset} is outside of [{log_start_offset}, {log_end_offset}]")]
    OffsetOutOfRange { offset: i64, log_start_offset: i64, log_end_offset: i64 },
    /// The offset is in the log but below the local log start: the caller reads from the tier (or answers 109 to a replica).
    #[error("offset {offset} is below the local log start {local_log_start_offset}")]
    MovedToTieredStorage { offset: i64, local_log_start_offset: i64 },
    #[error("I/O error: {0}")]
    Io(#[from] io::Error),
    #[error("the log cannot be used: {0}")]
    Open(#[from] OpenError),
    #[error("{0}")]
    Corrupt(String),
}

impl ReadError {
    /// The code that a fetch response carries.
    pub fn error_code(&self) -> ErrorCode {
        match self {
            Self::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
            Self::MovedToTieredStorage { .. } => ErrorCode::OffsetMovedToTieredStorage,
            Self::Io(_) | Self::Open(_) | Self::Corrupt(_) => ErrorCode::KafkaStorageError,
        }
    }

    /// True if the same read may succeed later or elsewhere.
    pub fn retryable(&self) -> bool {
        self.error_code().retriable()
    }

    /// True if what is on disk is not what was written: bad bytes, or a file that is shorter or gone.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Corrupt(_) => true,
            Self::Open(open) => !matches!(open, OpenError::Io { .. }),
            Self::Io(error) => matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof),
            Self::OffsetOutOfRange { .. } | Self::MovedToTieredStorage { .. } => false,
        }
    }
}

/// Why a change of the log's shape (roll, truncation, deletion, close) failed. The log takes no appends afterwards.
#[derive(Debug, Error)]
pub enum LogError {
    #[error("I/O error: {0}")]
    Io(#[from] io::Error),
    #[error("the log cannot be used: {0}")]
    Open(#[from] OpenError),
    #[error("offset {offset} is outside of [{least}, {most}]")]
    OffsetOutOfRange { offset: i64, least: i64, most: i64 },
    #[error("the log takes no changes after an earlier write error")]
    Failed,
}

impl LogError {
    /// The code for a response.
    pub fn error_code(&self) -> ErrorCode {
        match self {
            Self::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
            Self::Io(_) | Self::Open(_) | Self::Failed => ErrorCode::KafkaStorageError,
        }
    }
}

impl From<ReadError> for LogError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(error) => Self::Io(error),
            ReadError::Open(error) => Self::Open(error),
            other => Self::Io(io::Error::new(io::ErrorKind::InvalidData, other.to_string())),
        }
    }
}

impl From<LogError> for AppendError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Io(error) => Self::Io(error),
            LogError::Open(error) => Self::Open(error),
            LogError::Failed => Self::Failed,
            other @ LogError::OffsetOutOfRange { .. } => Self::Io(io::Error::other(other.to_string())),
        }
    }
}

impl From<LogError> for ReadError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Io(error) => Self::Io(error),
            LogError::Open(error) => Self::Open(error),
            other => Self::Corrupt(other.to_string()),
        }
    }
}
