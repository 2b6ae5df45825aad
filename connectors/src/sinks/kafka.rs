//! `kafka`: a mirror of topics in another cluster. Partition, key, value, headers and timestamp of a record stay what they are; its
//! offset is the other log's.
//!
//! Owns a producer for each target topic, with the batches that are not acknowledged. Delivery is at least once: the producer is idempotent,
//! so a batch that it sends again is appended once; but what is behind the last committed offset when a task ends without a last flush (a
//! crash, a lost seat, a target that was away for longer than `producer.delivery.timeout.ms`) is sent again by a new producer.
//! Invariants: records of a partition arrive in the order of its log; a flush names an end only after everything in front of it is
//! acknowledged by all in-sync replicas; after a failure nothing is sent before the partitions are opened anew.

mod keys;
mod topics;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::TimestampMillisecondType;
use async_trait::async_trait;
use strandline_client::{Cluster, ProduceError, Producer};
use strandline_protocol::error_code::ErrorCode;

use self::keys::{Config, KEYS};
use super::payload::{Payloads, Place, in_order};
use crate::config::{Key, Settings};
use crate::registry::{SinkKind, TaskContext};
use crate::rows::{Rows, column, headers_of};
use crate::sink::{Assigned, Offsets, Sink, SinkError, TopicPartition};

/// The kind.
pub struct KafkaKind;

impl SinkKind for KafkaKind {
    fn class(&self) -> &str {
        "kafka"
    }

    fn keys(&self) -> &[Key] {
        KEYS
    }

    fn create(&self, settings: &Settings, context: &TaskContext) -> Result<Box<dyn Sink>, SinkError> {
        let config = Config::parse(settings).map_err(|faults| SinkError::Fatal(faults.join("; ")))?;
        let client = format!("{}-{}", context.connector, context.task);
        let cluster = Arc::new(Cluster::new(&config.servers, &client, config.request_timeout));
        Ok(Box::new(KafkaSink {
            cluster,
            config,
            producers: BTreeMap::new(),
            widths: BTreeMap::new(),
            ends: Offsets::new(),
            careful: Offsets::new(),
        }))
    }
}

struct KafkaSink {
    cluster: Arc<Cluster>,
    config: Config,
    /// By target topic.
    producers: BTreeMap<String, Producer<Arc<Cluster>>>,
    /// By source topic: partitions that the target needs, as far as they are known here.
    widths: BTreeMap<Arc<str>, i32>,
    /// Given to a producer, not named by a flush yet.
    ends: Offsets,
    /// Up to here, records are sent one by one: one of them was refused, together with others.
    careful: Offsets,
}

/// Whether a broker refuses the very records, whoever sends them and however often.
fn is_about_records(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::MessageTooLarge
            | ErrorCode::RecordListTooLarge
            | ErrorCode::InvalidRecord
            | ErrorCode::InvalidTimestamp
            | ErrorCode::CorruptMessage
    )
}

/// Whether nothing but an operator of that cluster can help.
fn is_about_rights(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::TopicAuthorizationFailed
            | ErrorCode::ClusterAuthorizationFailed
            | ErrorCode::InvalidTopicException
            | ErrorCode::PolicyViolation
    )
}

fn refused(error: &ProduceError) -> bool {
    matches!(error, ProduceError::Refused { code, .. } if is_about_records(*code))
}

impl KafkaSink {
    /// Sees that the target of a topic is there, and that its producer is.
    async fn prepare(&mut self, partition: &TopicPartition) -> Result<(), SinkError> {
        let target = self.config.target(&partition.topic);
        let enough = |p: &Producer<Arc<Cluster>>| p.partition_count() > partition.partition;
        if self.producers.get(&target).is_some_and(enough) {
            return Ok(());
        }
        let width = self.widths.get(&partition.topic).copied().unwrap_or(0).max(partition.partition + 1);
        topics::ready(&self.cluster, &self.config, &target, width).await?;
        // A producer that knows fewer partitions has batches under way that must not be forgotten.
        if let Some(producer) = self.producers.get_mut(&target) {
            let flushed = producer.flush().await;
            flushed.map_err(|error| self.failed(&error))?;
        }
        let opened = Producer::open(Arc::clone(&self.cluster), &target, self.config.producer.clone()).await;
        match opened {
            Ok(producer) => {
                self.producers.insert(target, producer);
                Ok(())
            }
            Err(error) => Err(self.not_opened(&error)),
        }
    }

    fn not_opened(&self, error: &ProduceError) -> SinkError {
        let passing = match error {
            ProduceError::Call(error) => error.retryable(),
            ProduceError::Topic { code, .. } | ProduceError::NoProducerId(code) => code.retriable(),
            _ => false,
        };
        let text = format!("the target cluster at {}: {error}", self.config.servers);
        if passing { SinkError::Retriable(text) } else { SinkError::Fatal(text) }
    }

    /// A producer has failed: what it had not acknowledged is unknown, so everything behind the last commit is read and sent again.
    fn failed(&mut self, error: &ProduceError) -> SinkError {
        self.producers.clear();
        let ends = std::mem::take(&mut self.ends);
        if refused(error) {
            for (partition, end) in ends {
                let careful = self.careful.entry(partition).or_insert(end);
                *careful = end.max(*careful);
            }
        }
        let text =
            format!("the target cluster at {}: {error}; what is not committed is sent again", self.config.servers);
        match error {
            ProduceError::Refused { code, .. } | ProduceError::Topic { code, .. } if is_about_rights(*code) => {
                SinkError::Fatal(format!(
                    "see that the target cluster takes records from here, then restart the task: {text}"
                ))
            }
            _ => SinkError::Reopen(text),
        }
    }

    /// Sends rows; `alone` = each is acknowledged before the next one. Returns offsets that the broker refuses, with its reason.
    async fn send(&mut self, rows: &Rows, alone: bool) -> Result<(Vec<i64>, String), SinkError> {
        let columns: Vec<_> = rows
            .groups
            .iter()
            .map(|batch| (Payloads::new(batch, column::KEY), Payloads::new(batch, column::VALUE)))
            .collect();
        let target = self.config.target(&rows.partition.topic);
        let (mut bad, mut reason) = (Vec::new(), String::new());
        for Place { offset, group, row } in in_order(rows) {
            let batch = &rows.groups[group];
            let (keys, values) = &columns[group];
            let timestamp = batch.column(column::TIMESTAMP).as_primitive::<TimestampMillisecondType>().value(row);
            let (key, value, headers) = (keys.get(row), values.get(row), headers_of(batch, row));
            if !self.producers.contains_key(&target) {
                self.prepare(&rows.partition).await?;
            }
            let producer = self.producers.get_mut(&target).expect("it was prepared");
            let partition = rows.partition.partition;
            let mut sent = producer.send(partition, timestamp, key.as_deref(), value.as_deref(), &headers).await;
            if alone && sent.is_ok() {
                sent = producer.flush().await;
            }
            match sent {
                Ok(()) => {}
                Err(error) if alone && refused(&error) => {
                    // Its sequence is not a good one any more.
                    self.producers.remove(&target);
                    bad.push(offset);
                    reason = error.to_string();
                }
                Err(error) => {
                    self.ends.insert(rows.partition.clone(), rows.next_offset);
                    return Err(self.failed(&error));
                }
            }
        }
        Ok((bad, reason))
    }
}

#[async_trait]
impl Sink for KafkaSink {
    async fn open(&mut self, partitions: &[Assigned]) -> Result<Offsets, SinkError> {
        for Assigned { partition, .. } in partitions {
            let width = self.widths.entry(Arc::clone(&partition.topic)).or_default();
            *width = (*width).max(partition.partition + 1);
        }
        Ok(Offsets::new())
    }

    async fn write(&mut self, rows: Rows) -> Result<(), SinkError> {
        // Before anything is sent, so that a target that is not there can be waited for.
        self.prepare(&rows.partition).await?;
        let alone = self.careful.get(&rows.partition).is_some_and(|end| rows.first_offset < *end);
        if alone {
            // What others have under way must not be lost with a record that is refused.
            self.settle().await?;
        }
        let (bad, reason) = self.send(&rows, alone).await?;
        self.ends.insert(rows.partition.clone(), rows.next_offset);
        if !alone {
            self.careful.remove(&rows.partition);
        }
        if bad.is_empty() { Ok(()) } else { Err(SinkError::Rejected { offsets: bad, reason }) }
    }

    async fn flush(&mut self, _now_ms: i64, _force: bool) -> Result<Offsets, SinkError> {
        self.settle().await?;
        Ok(std::mem::take(&mut self.ends))
    }

    async fn close(&mut self, partitions: &[TopicPartition]) {
        self.ends.retain(|partition, _| !partitions.contains(partition));
    }
}

impl KafkaSink {
    /// Waits until everything that was sent is acknowledged.
    async fn settle(&mut self) -> Result<(), SinkError> {
        for target in self.producers.keys().cloned().collect::<Vec<_>>() {
            let Some(producer) = self.producers.get_mut(&target) else { continue };
            if let Err(error) = producer.flush().await {
                return Err(self.failed(&error));
            }
        }
        Ok(())
    }
}
