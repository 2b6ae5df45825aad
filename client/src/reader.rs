//! Reads one partition from an offset on: whole batches, in order, nothing twice.
//!
//! Owns the position. Asks again after a passing error, for as long as the cluster's deadline; a position that is gone is an error, never a jump.

use std::time::Duration;

use bytes::Bytes;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use strandline_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use strandline_protocol::record_batch::{BatchHeader, batches};
use tokio::time::Instant;

use crate::cluster::{Cluster, Leader};
use crate::connection::{CallError, check};

/// Fetch by topic name; later versions name topics by id.
const FETCH_VERSION_MAX: i16 = 12;
/// Pause after a passing error.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Why a read gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("{topic}-{partition} at offset {offset}: {code:?}")]
    Refused { topic: String, partition: i32, offset: i64, code: ErrorCode },
    #[error("{topic} has no partition {partition}")]
    NoPartition { topic: String, partition: i32 },
    #[error("{topic}-{partition}: what came at offset {offset} is not a record batch: {reason}")]
    Malformed { topic: String, partition: i32, offset: i64, reason: String },
}

impl ReadError {
    /// Whether another try, perhaps at another broker, may succeed.
    pub fn retryable(&self) -> bool {
        match self {
            ReadError::Call(error) => error.retryable(),
            ReadError::Refused { code, .. } => code.retriable(),
            ReadError::NoPartition { .. } | ReadError::Malformed { .. } => false,
        }
    }
}

/// What one fetch gave.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Whole batches; the first may begin below the position.
    pub batches: Vec<(BatchHeader, Bytes)>,
    pub high_watermark: i64,
    pub log_start_offset: i64,
}

/// A position in a partition.
pub struct PartitionReader<'a> {
    cluster: &'a Cluster,
    topic: String,
    partition: i32,
    leader: Leader,
    /// The next offset to be read.
    pub position: i64,
    pub max_bytes: i32,
}

impl<'a> PartitionReader<'a> {
    /// Begins at `position`.
    pub async fn open(
        cluster: &'a Cluster,
        topic: &str,
        partition: i32,
        position: i64,
    ) -> Result<PartitionReader<'a>, ReadError> {
        let deadline = Instant::now() + cluster.deadline();
        let leader = loop {
            match find_leader(cluster, topic, partition).await {
                Ok(leader) => break leader,
                Err(error) if error.retryable() && Instant::now() < deadline => tokio::time::sleep(RETRY_PAUSE).await,
                Err(error) => return Err(error),
            }
        };
        Ok(PartitionReader { cluster, topic: topic.to_owned(), partition, leader, position, max_bytes: 8 << 20 })
    }

    /// Kafka's ListOffsets: `timestamp` in ms, or -1 latest, -2 earliest, -4 earliest local and so on.
    pub async fn offset_for(&mut self, timestamp: i64) -> Result<i64, ReadError> {
        let deadline = Instant::now() + self.cluster.deadline();
        loop {
            match self.offset_once(timestamp).await {
                Ok(offset) => return Ok(offset),
                Err(error) => self.find_again(error, deadline).await?,
            }
        }
    }

    /// After `error`: looks for the leader again, if another try may succeed before `deadline`.
    async fn find_again(&mut self, error: ReadError, deadline: Instant) -> Result<(), ReadError> {
        if !error.retryable() || Instant::now() >= deadline {
            return Err(error);
        }
        tokio::time::sleep(RETRY_PAUSE).await;
        // While there is no leader, or no broker to ask, the old one is tried.
        if let Ok(leader) = find_leader(self.cluster, &self.topic, self.partition).await {
            self.leader = leader;
        }
        Ok(())
    }

    async fn offset_once(&self, timestamp: i64) -> Result<i64, ReadError> {
        let request = ListOffsetsRequest {
            replica_id: -1,
            topics: vec![ListOffsetsTopic {
                name: self.topic.clone(),
                partitions: vec![ListOffsetsPartition {
                    partition_index: self.partition,
                    current_leader_epoch: -1,
                    timestamp,
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        let connection = self.cluster.node(self.leader.node_id).await?;
        let response = connection.call(&request, self.cluster.deadline()).await?;
        let found = response.topics.first().and_then(|t| t.partitions.first());
        match found {
            Some(p) => check(p.error_code).map(|()| p.offset).map_err(|code| self.refused(code)),
            None => Err(self.refused(ErrorCode::UnknownServerError)),
        }
    }

    fn refused(&self, code: ErrorCode) -> ReadError {
        ReadError::Refused { topic: self.topic.clone(), partition: self.partition, offset: self.position, code }
    }

    /// The next batches; waits up to `max_wait` for the first byte. Moves the position behind what it returns.
    pub async fn fetch(&mut self, max_wait: Duration) -> Result<Fetched, ReadError> {
        let deadline = Instant::now() + self.cluster.deadline();
        loop {
            match self.fetch_once(max_wait).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => self.find_again(error, deadline).await?,
            }
        }
    }

    async fn fetch_once(&mut self, max_wait: Duration) -> Result<Fetched, ReadError> {
        let request = FetchRequest {
            replica_id: -1,
            max_wait_ms: i32::try_from(max_wait.as_millis()).unwrap_or(i32::MAX),
            min_bytes: 1,
            max_bytes: self.max_bytes,
            session_epoch: -1,
            topics: vec![FetchTopic {
                topic: self.topic.clone(),
                partitions: vec![FetchPartition {
                    partition: self.partition,
                    current_leader_epoch: -1,
                    fetch_offset: self.position,
                    last_fetched_epoch: -1,
                    log_start_offset: -1,
                    partition_max_bytes: self.max_bytes,
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        let connection = self.cluster.node(self.leader.node_id).await?;
        let version = connection.version::<FetchRequest>(FETCH_VERSION_MAX)?;
        let response = connection.call_version(version, &request, self.cluster.deadline() + max_wait).await?;
        check(response.error_code).map_err(|code| self.refused(code))?;
        let Some(p) = response.responses.into_iter().next().and_then(|t| t.partitions.into_iter().next()) else {
            return Err(self.refused(ErrorCode::UnknownServerError));
        };
        check(p.error_code).map_err(|code| self.refused(code))?;
        let bytes = p.records.and_then(|r| r.to_bytes()).unwrap_or_default();
        let whole = self.whole_batches(&bytes)?;
        if let Some((header, _)) = whole.last() {
            self.position = header.next_offset();
        }
        Ok(Fetched { batches: whole, high_watermark: p.high_watermark, log_start_offset: p.log_start_offset })
    }

    /// The last batch may be cut off: it comes again. A damaged one is an error.
    fn whole_batches(&self, bytes: &Bytes) -> Result<Vec<(BatchHeader, Bytes)>, ReadError> {
        let mut whole = Vec::new();
        for next in batches(bytes) {
            match next {
                Ok((header, batch)) if header.last_offset() >= self.position => {
                    header.verify_crc(batch).map_err(|e| self.malformed(&e))?;
                    whole.push((header, bytes.slice_ref(batch)));
                }
                Ok(_) => {}
                Err(strandline_protocol::record_batch::BatchError::Truncated { .. }) => break,
                Err(error) => return Err(self.malformed(&error)),
            }
        }
        Ok(whole)
    }

    fn malformed(&self, error: &dyn std::fmt::Display) -> ReadError {
        ReadError::Malformed {
            topic: self.topic.clone(),
            partition: self.partition,
            offset: self.position,
            reason: error.to_string(),
        }
    }
}

async fn find_leader(cluster: &Cluster, topic: &str, partition: i32) -> Result<Leader, ReadError> {
    let refused = |code| ReadError::Refused { topic: topic.to_owned(), partition, offset: -1, code };
    let mut leaders = cluster.leaders(topic, false).await?.map_err(refused)?;
    leaders.remove(&partition).ok_or_else(|| ReadError::NoPartition { topic: topic.to_owned(), partition })
}
