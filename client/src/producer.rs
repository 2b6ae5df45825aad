//! Produce: batches per partition, several under way, idempotent.
//!
//! Owns batches being filled and requests under way (at most [`ProducerOptions::in_flight`] per partition). A batch that
//! is refused for a passing reason, or not answered, is sent again with its sequence, so that it is appended once.

use std::collections::{HashMap, VecDeque};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use strandline_protocol::compression::Compression;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::messages::init_producer_id_request::InitProducerIdRequest;
use strandline_protocol::messages::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use strandline_protocol::record_batch::{Header, RecordBatchBuilder};
use strandline_protocol::rope::Records;
use tokio::sync::oneshot;

use crate::cluster::{Cluster, Leader};
use crate::connection::{CallError, Connection, check};

/// Produce by topic name; later versions name topics by id.
const PRODUCE_VERSION_MAX: i16 = 12;
/// Pause before a batch is sent again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// How to produce. Sizes are bytes.
#[derive(Debug, Clone)]
pub struct ProducerOptions {
    pub compression: Compression,
    /// A batch is sent when it has this many.
    pub batch_bytes: usize,
    /// Unanswered batches of a partition; at most 5, or order is lost.
    pub in_flight: usize,
    /// A batch is tried again for so long.
    pub delivery_timeout: Duration,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        ProducerOptions {
            compression: Compression::None,
            batch_bytes: 128 << 10,
            in_flight: 5,
            delivery_timeout: Duration::from_secs(120),
        }
    }
}

/// Why records were not delivered.
#[derive(Debug, thiserror::Error)]
pub enum ProduceError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("{topic}-{partition}: the broker refused the records: {code:?}{message}")]
    Refused { topic: String, partition: i32, code: ErrorCode, message: String },
    #[error("{topic}: {code:?}")]
    Topic { topic: String, code: ErrorCode },
    #[error("{topic} has no partition {partition}")]
    NoPartition { topic: String, partition: i32 },
    #[error("no producer id: {0:?}")]
    NoProducerId(ErrorCode),
}

struct Sent {
    batch: Bytes,
    connection: Arc<Connection>,
    version: i16,
    answer: oneshot::Receiver<Bytes>,
}

#[derive(Default)]
struct Lane {
    filling: Option<RecordBatchBuilder>,
    in_flight: VecDeque<Sent>,
    next_sequence: i32,
}

/// Produces to one topic of a cluster that it borrows or shares.
pub struct Producer<C> {
    cluster: C,
    topic: String,
    options: ProducerOptions,
    leaders: std::collections::BTreeMap<i32, Leader>,
    producer_id: i64,
    producer_epoch: i16,
    lanes: HashMap<i32, Lane>,
    /// Records acknowledged, and their record bytes as sent.
    pub acknowledged: u64,
    pub acknowledged_bytes: u64,
}

impl<C: Deref<Target = Cluster>> Producer<C> {
    /// Finds the topic (or has it made, if the broker does) and takes a producer id.
    pub async fn open(cluster: C, topic: &str, options: ProducerOptions) -> Result<Producer<C>, ProduceError> {
        let failed = |code| ProduceError::Topic { topic: topic.to_owned(), code };
        let leaders = cluster.leaders(topic, true).await?.map_err(failed)?;
        let request =
            InitProducerIdRequest { transactional_id: None, producer_id: -1, producer_epoch: -1, ..Default::default() };
        let deadline = tokio::time::Instant::now() + cluster.deadline();
        let response = loop {
            let response = cluster.ask(&request).await?;
            match check(response.error_code) {
                Ok(()) => break response,
                // A broker that has just started loads first.
                Err(code) if code.retriable() && tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(code) => return Err(ProduceError::NoProducerId(code)),
            }
        };
        Ok(Producer {
            cluster,
            topic: topic.to_owned(),
            options,
            leaders,
            producer_id: response.producer_id,
            producer_epoch: response.producer_epoch,
            lanes: HashMap::new(),
            acknowledged: 0,
            acknowledged_bytes: 0,
        })
    }

    pub fn partition_count(&self) -> i32 {
        i32::try_from(self.leaders.len()).unwrap_or(i32::MAX)
    }

    /// Adds a record; sends its batch when that is full, and waits when too many are unanswered.
    pub async fn send(
        &mut self,
        partition: i32,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header],
    ) -> Result<(), ProduceError> {
        if !self.leaders.contains_key(&partition) {
            return Err(ProduceError::NoPartition { topic: self.topic.clone(), partition });
        }
        let (compression, limit) = (self.options.compression, self.options.batch_bytes);
        let lane = self.lanes.entry(partition).or_default();
        let filling = lane.filling.get_or_insert_with(|| RecordBatchBuilder::new(compression));
        filling.append(timestamp, key, value, headers);
        if filling.size_estimate() >= limit {
            self.dispatch(partition).await?;
        }
        Ok(())
    }

    /// Sends what is left and waits until all is acknowledged.
    pub async fn flush(&mut self) -> Result<(), ProduceError> {
        let partitions: Vec<i32> = self.lanes.keys().copied().collect();
        for partition in &partitions {
            self.dispatch(*partition).await?;
        }
        for partition in partitions {
            while self.lanes.get(&partition).is_some_and(|lane| !lane.in_flight.is_empty()) {
                self.settle_oldest(partition).await?;
            }
        }
        Ok(())
    }

    async fn dispatch(&mut self, partition: i32) -> Result<(), ProduceError> {
        while self.lanes.get(&partition).is_some_and(|lane| lane.in_flight.len() >= self.options.in_flight) {
            self.settle_oldest(partition).await?;
        }
        let Some(lane) = self.lanes.get_mut(&partition) else { return Ok(()) };
        let Some(mut filled) = lane.filling.take() else { return Ok(()) };
        filled.producer_id = self.producer_id;
        filled.producer_epoch = self.producer_epoch;
        filled.base_sequence = lane.next_sequence;
        let count = filled.count();
        // Sequences wrap to 0 behind i32::MAX.
        lane.next_sequence =
            lane.next_sequence.checked_add(count).unwrap_or_else(|| count - (i32::MAX - lane.next_sequence) - 1);
        let batch = filled.build();
        match self.transmit(partition, batch.clone()).await {
            Ok(sent) => self.lanes.entry(partition).or_default().in_flight.push_back(sent),
            Err(error) if error.retryable() => {
                self.settle_all(partition).await?;
                self.deliver(partition, batch).await?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn transmit(&self, partition: i32, batch: Bytes) -> Result<Sent, CallError> {
        let node = self.leaders.get(&partition).map_or(-1, |l| l.node_id);
        let connection = self.cluster.node(node).await?;
        let version = connection.version::<ProduceRequest>(PRODUCE_VERSION_MAX)?;
        let request = ProduceRequest {
            transactional_id: None,
            acks: -1,
            timeout_ms: i32::try_from(self.cluster.deadline().as_millis()).unwrap_or(i32::MAX),
            topic_data: vec![TopicProduceData {
                name: self.topic.clone(),
                partition_data: vec![PartitionProduceData {
                    index: partition,
                    records: Some(Records::Bytes(batch.clone())),
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        let answer = connection.send(version, &request).await?;
        Ok(Sent { batch, connection, version, answer })
    }

    async fn settle_all(&mut self, partition: i32) -> Result<(), ProduceError> {
        while self.lanes.get(&partition).is_some_and(|lane| !lane.in_flight.is_empty()) {
            self.settle_oldest(partition).await?;
        }
        Ok(())
    }

    /// Waits for the oldest batch under way; delivers it again if it has to be, before anything behind it.
    async fn settle_oldest(&mut self, partition: i32) -> Result<(), ProduceError> {
        let Some(sent) = self.lanes.get_mut(&partition).and_then(|lane| lane.in_flight.pop_front()) else {
            return Ok(());
        };
        let batch = sent.batch.clone();
        match self.outcome(partition, sent).await {
            Ok(()) => {
                self.note(&batch);
                Ok(())
            }
            Err(error) if passing(&error) => self.deliver(partition, batch).await,
            Err(error) => Err(error),
        }
    }

    fn note(&mut self, batch: &Bytes) {
        self.acknowledged_bytes += batch.len() as u64;
        if let Ok(header) = strandline_protocol::record_batch::BatchHeader::parse(batch) {
            self.acknowledged += u64::try_from(header.record_count).unwrap_or(0);
        }
    }

    async fn outcome(&self, partition: i32, sent: Sent) -> Result<(), ProduceError> {
        let deadline = self.cluster.deadline();
        let frame = tokio::time::timeout(deadline, sent.answer).await;
        let frame = frame.map_err(|_| sent.connection.lost())?.map_err(|_| sent.connection.lost())?;
        let response = sent.connection.decode::<ProduceRequest>(sent.version, frame)?;
        let answered = response.responses.first().and_then(|t| t.partition_responses.first());
        let code = answered.map_or(Err(ErrorCode::UnknownServerError), |p| check(p.error_code));
        code.map_err(|code| ProduceError::Refused {
            topic: self.topic.clone(),
            partition,
            code,
            message: answered.and_then(|p| p.error_message.clone()).map_or_else(String::new, |m| format!(" ({m})")),
        })
    }

    /// Sends a batch until it is acknowledged, refused for good, or its time is over.
    async fn deliver(&mut self, partition: i32, batch: Bytes) -> Result<(), ProduceError> {
        let deadline = tokio::time::Instant::now() + self.options.delivery_timeout;
        loop {
            tokio::time::sleep(RETRY_PAUSE).await;
            if let Ok(Ok(leaders)) = self.cluster.leaders(&self.topic, false).await {
                self.leaders = leaders;
            }
            let outcome = match self.transmit(partition, batch.clone()).await {
                Ok(sent) => self.outcome(partition, sent).await,
                Err(error) => Err(error.into()),
            };
            match outcome {
                Ok(()) => {
                    self.note(&batch);
                    return Ok(());
                }
                // The broker has it already.
                Err(ProduceError::Refused { code: ErrorCode::DuplicateSequenceNumber, .. }) => {
                    self.note(&batch);
                    return Ok(());
                }
                Err(error) if passing(&error) && tokio::time::Instant::now() < deadline => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether the same batch may be taken later.
fn passing(error: &ProduceError) -> bool {
    match error {
        ProduceError::Call(error) => error.retryable(),
        // With several batches under way one that overtook a lost one is out of order until that one is sent again.
        ProduceError::Refused { code, .. } => code.retriable() || *code == ErrorCode::OutOfOrderSequenceNumber,
        _ => false,
    }
}
