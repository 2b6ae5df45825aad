//! Records that a sink will never take: to a topic, with Kafka Connect's headers on what went wrong.
//!
//! Owns that topic's making and the raw rows of letters that are not sent yet. A letter counts as sent when the broker has acknowledged it.
//! A crash after that and before the next commit sends it again.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMillisecondType};
use bytes::Bytes;
use strandline_client::{Cluster, Producer, ProducerOptions};
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::messages::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use strandline_protocol::record_batch::Header;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::delivery::Letter;
use crate::registry::TaskContext;
use crate::rows::{column, headers_of};
use crate::sink::TopicPartition;

/// Where letters go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterSettings {
    pub topic: String,
    pub replication_factor: i64,
    /// `errors.deadletterqueue.context.headers.enable`.
    pub context_headers: bool,
    /// `errors.log.enable`.
    pub log: bool,
}

/// One record on its way.
struct Posted {
    offset: i64,
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<Header>,
}

type Post = (Vec<Posted>, oneshot::Sender<Result<(), String>>);

pub struct DeadLetters {
    settings: LetterSettings,
    connector: String,
    task: u32,
    kept: HashMap<TopicPartition, Vec<RecordBatch>>,
    post: mpsc::Sender<Post>,
    postman: JoinHandle<()>,
}

impl Drop for DeadLetters {
    fn drop(&mut self) {
        self.postman.abort();
    }
}

/// Keeps one producer for all letters; an error costs it.
async fn post_all(cluster: Arc<Cluster>, topic: String, mut inbox: mpsc::Receiver<Post>) {
    let mut producer: Option<Producer<&Cluster>> = None;
    while let Some((records, done)) = inbox.recv().await {
        let tried = async {
            let open = match &mut producer {
                Some(open) => open,
                none => none.insert(Producer::open(&*cluster, &topic, ProducerOptions::default()).await?),
            };
            let count = i64::from(open.partition_count().max(1));
            for r in records {
                let partition = i32::try_from(r.offset.rem_euclid(count)).unwrap_or(0);
                open.send(partition, r.timestamp, r.key.as_deref(), r.value.as_deref(), &r.headers).await?;
            }
            open.flush().await
        };
        let outcome = tried.await;
        if outcome.is_err() {
            producer = None;
        }
        // The task may be gone.
        let _ = done.send(outcome.map_err(|e| e.to_string()));
    }
}

impl DeadLetters {
    /// Makes the topic if it is not there.
    pub async fn open(settings: LetterSettings, context: &TaskContext, cluster: Arc<Cluster>) -> Result<Self, String> {
        make_topic(&settings, &cluster).await?;
        let (post, inbox) = mpsc::channel(1);
        Ok(DeadLetters {
            connector: context.connector.clone(),
            task: context.task,
            kept: HashMap::new(),
            post,
            postman: tokio::spawn(post_all(cluster, settings.topic.clone(), inbox)),
            settings,
        })
    }

    /// Rows that letters are about which are to be sent.
    pub fn keep(&mut self, partition: &TopicPartition, raw: RecordBatch) {
        self.kept.entry(partition.clone()).or_default().push(raw);
    }

    /// There are no letters any more that are to be sent.
    pub fn forget(&mut self) {
        self.kept.clear();
    }

    /// Sends a letter's records; returns when they are acknowledged.
    pub async fn send(&mut self, letter: &Letter) -> Result<(), String> {
        let first = letter.offsets.first().copied().unwrap_or(-1);
        let kept = self.kept.entry(letter.partition.clone()).or_default();
        let Some(at) = kept.iter().position(|raw| holds(raw, first)) else {
            return Err(format!("the records of {} are not in memory any more", letter.partition));
        };
        let raw = kept[at].clone();
        if self.settings.log {
            let (partition, offsets) = (&letter.partition, &letter.offsets);
            tracing::error!(connector = self.connector, task = self.task, %partition, ?offsets, reason = letter.reason, "put aside");
        }
        let offsets = raw.column(column::OFFSET).as_primitive::<Int64Type>();
        let timestamps = raw.column(column::TIMESTAMP).as_primitive::<TimestampMillisecondType>();
        let posted = (0..raw.num_rows()).filter(|row| letter.offsets.contains(&offsets.value(*row))).map(|row| {
            let mut headers = headers_of(&raw, row);
            if self.settings.context_headers {
                headers.extend(self.context(letter, offsets.value(row)));
            }
            Posted {
                offset: offsets.value(row),
                timestamp: timestamps.value(row),
                key: bytes_of(&raw, column::KEY, row),
                value: bytes_of(&raw, column::VALUE, row),
                headers,
            }
        });
        let (done, outcome) = oneshot::channel();
        let gone = || "the task ends".to_owned();
        self.post.send((posted.collect(), done)).await.map_err(|_| gone())?;
        outcome.await.map_err(|_| gone())?
    }

    fn context(&self, letter: &Letter, offset: i64) -> Vec<Header> {
        let texts = [
            ("topic", letter.partition.topic.to_string()),
            ("partition", letter.partition.partition.to_string()),
            ("offset", offset.to_string()),
            ("connector.name", self.connector.clone()),
            ("task.id", self.task.to_string()),
            ("stage", letter.stage.name().to_owned()),
            ("class.name", "org.apache.kafka.connect.sink.SinkTask".to_owned()),
            ("exception.class.name", "org.apache.kafka.connect.errors.DataException".to_owned()),
            ("exception.message", letter.reason.clone()),
            ("exception.stacktrace", letter.reason.clone()),
        ];
        texts
            .map(|(name, text)| Header {
                key: format!("__connect.errors.{name}").into_bytes().into(),
                value: Some(Bytes::from(text.into_bytes())),
            })
            .to_vec()
    }
}

fn holds(raw: &RecordBatch, offset: i64) -> bool {
    raw.column(column::OFFSET).as_primitive::<Int64Type>().values().binary_search(&offset).is_ok()
}

fn bytes_of(raw: &RecordBatch, index: usize, row: usize) -> Option<Vec<u8>> {
    let values = raw.column(index).as_binary_view();
    (!values.is_null(row)).then(|| values.value(row).to_vec())
}

async fn make_topic(settings: &LetterSettings, cluster: &Cluster) -> Result<(), String> {
    let request = CreateTopicsRequest {
        topics: vec![CreatableTopic {
            name: settings.topic.clone(),
            num_partitions: 1,
            replication_factor: i16::try_from(settings.replication_factor).unwrap_or(i16::MAX),
            ..Default::default()
        }],
        timeout_ms: i32::try_from(cluster.deadline().as_millis()).unwrap_or(i32::MAX),
        ..Default::default()
    };
    let found = cluster.leaders(&settings.topic, false).await.map_err(|e| e.to_string())?;
    if found.is_ok() {
        return Ok(());
    }
    let response = cluster.ask(&request).await.map_err(|e| e.to_string())?;
    for topic in response.topics {
        match ErrorCode::from_code(topic.error_code) {
            Some(ErrorCode::None | ErrorCode::TopicAlreadyExists) => {}
            code => {
                return Err(format!(
                    "the dead letter queue {} cannot be made ({}); make it yourself, or set \
                     errors.deadletterqueue.topic.replication.factor to at most the number of brokers",
                    settings.topic,
                    topic.error_message.unwrap_or_else(|| format!("{code:?}"))
                ));
            }
        }
    }
    Ok(())
}
