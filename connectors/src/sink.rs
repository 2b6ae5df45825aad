//! The contract between the runtime and every sink, built in or a plugin.
//!
//! The runtime owns the position in each partition, retries and dead letters. A sink owns what it was given until it says that it is durable.
//! Invariants: for one partition, calls come one after the other and rows in offset order; the runtime commits an offset to the group only
//! after [`Sink::flush`] returned it; after [`SinkError::Reopen`] nothing is written before the partitions are opened again. A crash of the
//! runtime leaves at most rows behind the last returned offset that are written and not committed: they come again.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::rows::Rows;

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    pub topic: Arc<str>,
    pub partition: i32,
}

impl TopicPartition {
    pub fn new(topic: &str, partition: i32) -> Self {
        TopicPartition { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// A partition that a task is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    pub partition: TopicPartition,
    /// The next offset to be read, as the group has committed it; None = nothing was committed.
    pub committed: Option<i64>,
}

/// Next offsets (exclusive ends) by partition.
pub type Offsets = BTreeMap<TopicPartition, i64>;

/// What went wrong, by what is to be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// The same call may succeed later. Nothing of it has taken effect that must not take effect twice.
    #[error("{0}")]
    Retriable(String),
    /// The sink is not where the caller believes it is, for example because another task was there: open the partitions again, and
    /// read from where that says.
    #[error("{0}")]
    Reopen(String),
    /// These rows can never be delivered; all others of the call were taken. For the dead letter queue, or the end of the task. Of
    /// [`Sink::write`] alone, whose rows are of one partition: from any other call it ends the task.
    #[error("{reason}")]
    Rejected { offsets: Vec<i64>, reason: String },
    /// The task ends; the text says what the operator should do.
    #[error("{0}")]
    Fatal(String),
}

impl SinkError {
    pub fn retryable(&self) -> bool {
        matches!(self, SinkError::Retriable(_))
    }
}

/// A destination, for one task.
#[async_trait]
pub trait Sink: Send {
    /// Takes partitions; may be called for others while some are open. Returns where reading begins, for those partitions of which the sink
    /// knows better than the group; the others begin at their committed offset or, without one, where `auto.offset.reset` says.
    async fn open(&mut self, partitions: &[Assigned]) -> Result<Offsets, SinkError>;

    /// Takes the next rows of one partition. They may stay in memory.
    async fn write(&mut self, rows: Rows) -> Result<(), SinkError>;

    /// Makes durable what is due: all of it if `force`, otherwise what the sink's own rules say at `now_ms` (of the wall clock). Returns
    /// the ends of all that is durable.
    async fn flush(&mut self, now_ms: i64, force: bool) -> Result<Offsets, SinkError>;

    /// Gives partitions back, after a last flush. What is not durable is forgotten.
    async fn close(&mut self, partitions: &[TopicPartition]);

    /// Bytes in memory and spool, open files: for metrics.
    fn held(&self) -> Held {
        Held::default()
    }
}

/// What a sink holds on to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    pub memory_bytes: u64,
    pub spool_bytes: u64,
    pub open_files: u64,
}
