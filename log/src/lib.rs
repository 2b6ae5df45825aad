//! One partition on local disk: Kafka's files, byte for byte.
//!
//! Owns segments, indexes, producer state, leader epochs and checkpoints of a log directory. Synchronous, with a single
//! writer per partition. Does not own: when to flush or free (the caller says), remote objects, who leads.
//!
//! Offsets, in their order: log start <= local log start <= last stable <= high watermark <= log end; the recovery point
//! (all below is on the medium) is at most the log end.

mod append;
mod batch_walk;
pub mod checkpoint;
pub mod compaction;
pub mod config;
pub mod error;
pub mod file_cache;
mod flush;
pub mod leader_epochs;
mod log;
pub mod partition_metadata;
pub mod producer_snapshot;
pub mod producer_state;
mod producers;
mod read;
mod recovery;
pub mod retention;
mod segment;
mod shape;
mod transaction_index;
mod validate;

pub use append::Appended;
pub use compaction::{Compacted, CompactionPlan};
pub use config::LogConfig;
pub use error::{AppendError, CorruptLog, LogError, OpenError, ReadError};
pub use file_cache::FileCache;
pub use flush::{Flush, FlushDue, Persist};
pub use leader_epochs::{EpochEndOffset, EpochEntry};
pub use log::{Log, LogOffsets, LogOptions, SegmentInfo};
pub use producer_state::{AppendOrigin, ProducerEntry};
pub use read::{LogRead, ReadPlan, TimestampedOffset};
pub use shape::{DeletedSegments, SealedSegment, SegmentFile};
pub use transaction_index::AbortedTxn;
