//! A worker's topics: made if they are not there, read to their end, followed, written.
//!
//! Owns the image, one task that follows the config and the status topic, and one writer for each of the two. A write returns when the
//! broker has acknowledged it; [`StateTopics::read_to_end`] makes it visible here. A crash loses nothing that was acknowledged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use strandline_client::{Cluster, FetchOptions, FetchedPartition, Fetcher, PartitionReader, Producer, ProducerOptions};
use strandline_protocol::compression::DecompressLimit;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use strandline_protocol::record_batch::records;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::config::{StorageTopic, WorkerConfig};
use super::image::Image;
use super::records::Record;
use crate::rows::DECOMPRESSED_BYTES_MAX;
use crate::task::Clock;

/// Writes that wait for their turn.
const WRITES_MAX: usize = 256;
/// A write is tried so often, with a producer of its own each time.
const WRITE_TRIES: usize = 3;
/// Pause after a failed read of the topics, and between looks at topics just made.
const PAUSE: Duration = Duration::from_millis(200);

/// Why the state is not read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TopicsError(pub String);

struct Write {
    records: Vec<Record>,
    done: oneshot::Sender<Result<(), TopicsError>>,
}

/// The three topics.
pub struct StateTopics {
    cluster: Arc<Cluster>,
    config: String,
    image: Arc<Mutex<Image>>,
    changed: watch::Receiver<u64>,
    /// The next offset of each partition that is followed.
    read: watch::Receiver<BTreeMap<(String, i32), i64>>,
    config_writer: mpsc::Sender<Write>,
    status_writer: mpsc::Sender<Write>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for StateTopics {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

fn failed(what: &str, error: impl std::fmt::Display) -> TopicsError {
    TopicsError(format!("{what}: {error}"))
}

impl StateTopics {
    /// Makes what is missing, reads all there is, and follows it from then on.
    /// `follower` is for reads that wait for news: a broker answers one connection in order.
    pub async fn open(
        config: &WorkerConfig,
        follower: Arc<Cluster>,
        cluster: Arc<Cluster>,
        clock: Clock,
    ) -> Result<StateTopics, TopicsError> {
        let mut counts = BTreeMap::new();
        for topic in [&config.config_topic, &config.status_topic, &config.offset_topic] {
            counts.insert(topic.name.clone(), ensure(&cluster, topic).await?);
        }
        if counts[&config.config_topic.name] != 1 {
            return Err(TopicsError(format!(
                "{} has {} partitions; config.storage.topic must have one, or settings would be read out of order: make another",
                config.config_topic.name, counts[&config.config_topic.name]
            )));
        }
        let mut starts = Vec::new();
        for topic in [&config.config_topic.name, &config.status_topic.name] {
            for partition in 0..counts[topic] {
                let start = offset_for(&cluster, topic, partition, -2).await?;
                starts.push(((topic.clone(), partition), start));
            }
        }
        let (changes, changed) = watch::channel(0);
        let (positions, read) = watch::channel(starts.iter().cloned().collect());
        let image = Arc::new(Mutex::new(Image::default()));
        let follower = Follower {
            fetcher: Fetcher::new(follower, FetchOptions::default()),
            cluster: Arc::clone(&cluster),
            image: Arc::clone(&image),
            changes,
            positions,
        };
        let (config_writer, config_inbox) = mpsc::channel(WRITES_MAX);
        let (status_writer, status_inbox) = mpsc::channel(WRITES_MAX);
        let status = config.status_topic.name.clone();
        let tasks = vec![
            tokio::spawn(follower.follow(starts)),
            tokio::spawn(write_all(
                Arc::clone(&cluster),
                config.config_topic.name.clone(),
                config_inbox,
                clock.clone(),
            )),
            tokio::spawn(write_all(Arc::clone(&cluster), status, status_inbox, clock)),
        ];
        let topics = StateTopics {
            cluster,
            config: config.config_topic.name.clone(),
            image,
            changed,
            read,
            config_writer,
            status_writer,
            tasks,
        };
        topics.read_to_end(&config.config_topic.name).await?;
        topics.read_to_end(&config.status_topic.name).await?;
        Ok(topics)
    }

    /// A look at the image, which does not change meanwhile.
    pub fn with<T>(&self, look: impl FnOnce(&Image) -> T) -> T {
        look(&self.image.lock())
    }

    /// Says when the image has changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }

    /// Waits until everything that is in the topic now is in the image.
    pub async fn read_to_end(&self, topic: &str) -> Result<(), TopicsError> {
        let partitions: Vec<i32> = self.read.borrow().keys().filter(|(t, _)| t == topic).map(|(_, p)| *p).collect();
        let mut ends = Vec::new();
        for partition in partitions {
            ends.push(((topic.to_owned(), partition), offset_for(&self.cluster, topic, partition, -1).await?));
        }
        let mut read = self.read.clone();
        let there = read.wait_for(|read| ends.iter().all(|(name, end)| read.get(name).is_some_and(|at| at >= end)));
        match tokio::time::timeout(self.cluster.deadline(), there).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(TopicsError("the worker stops".to_owned())),
            Err(_) => Err(TopicsError(format!("{topic} was not read to its end within {:?}", self.cluster.deadline()))),
        }
    }

    pub async fn read_config_to_end(&self) -> Result<(), TopicsError> {
        self.read_to_end(&self.config).await
    }

    /// Writes to the config topic, in order, and waits until the image has it.
    pub async fn write_config(&self, records: Vec<Record>) -> Result<(), TopicsError> {
        write(&self.config_writer, records).await?;
        self.read_config_to_end().await
    }

    pub async fn write_status(&self, records: Vec<Record>) -> Result<(), TopicsError> {
        write(&self.status_writer, records).await
    }
}

async fn write(writer: &mpsc::Sender<Write>, records: Vec<Record>) -> Result<(), TopicsError> {
    let (done, outcome) = oneshot::channel();
    let gone = || TopicsError("the worker stops".to_owned());
    writer.send(Write { records, done }).await.map_err(|_| gone())?;
    outcome.await.map_err(|_| gone())?
}

async fn offset_for(cluster: &Cluster, topic: &str, partition: i32, timestamp: i64) -> Result<i64, TopicsError> {
    let found = async {
        let mut reader = PartitionReader::open(cluster, topic, partition, 0).await?;
        reader.offset_for(timestamp).await
    };
    found.await.map_err(|e| failed(topic, e))
}

/// Makes a compacted topic if it is not there. Returns how many partitions it has.
async fn ensure(cluster: &Cluster, topic: &StorageTopic) -> Result<i32, TopicsError> {
    let end = Instant::now() + cluster.deadline();
    let mut asked = false;
    loop {
        let problem = match cluster.leaders(&topic.name, false).await.map_err(|e| failed(&topic.name, e))? {
            Ok(leaders) if !leaders.is_empty() => return Ok(i32::try_from(leaders.len()).unwrap_or(i32::MAX)),
            Ok(_) => "it has no partitions".to_owned(),
            Err(ErrorCode::UnknownTopicOrPartition) if !asked => {
                asked = true;
                create(cluster, topic).await?;
                continue;
            }
            Err(code) => format!("{code:?}"),
        };
        if Instant::now() >= end {
            return Err(failed(&topic.name, problem));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn create(cluster: &Cluster, topic: &StorageTopic) -> Result<(), TopicsError> {
    let compact = CreatableTopicConfig {
        name: "cleanup.policy".to_owned(),
        value: Some("compact".to_owned()),
        ..Default::default()
    };
    let request = CreateTopicsRequest {
        topics: vec![CreatableTopic {
            name: topic.name.clone(),
            num_partitions: topic.partitions,
            replication_factor: topic.replication_factor,
            configs: vec![compact],
            ..Default::default()
        }],
        timeout_ms: i32::try_from(cluster.deadline().as_millis()).unwrap_or(i32::MAX),
        ..Default::default()
    };
    let response = cluster.ask(&request).await.map_err(|e| failed(&topic.name, e))?;
    for made in response.topics {
        match ErrorCode::from_code(made.error_code) {
            Some(ErrorCode::None | ErrorCode::TopicAlreadyExists) => {}
            Some(ErrorCode::InvalidReplicationFactor) => {
                return Err(TopicsError(format!(
                    "{} cannot have {} replicas: the cluster has fewer brokers; set config.storage.replication.factor, \
                     offset.storage.replication.factor and status.storage.replication.factor to their number, or to -1",
                    topic.name, topic.replication_factor
                )));
            }
            code => return Err(failed(&topic.name, made.error_message.unwrap_or_else(|| format!("{code:?}")))),
        }
    }
    Ok(())
}

struct Follower {
    fetcher: Fetcher,
    cluster: Arc<Cluster>,
    image: Arc<Mutex<Image>>,
    changes: watch::Sender<u64>,
    positions: watch::Sender<BTreeMap<(String, i32), i64>>,
}

impl Follower {
    async fn follow(mut self, starts: Vec<((String, i32), i64)>) {
        self.fetcher.assign(starts);
        loop {
            match self.fetcher.poll(Duration::from_secs(1), |_| true).await {
                Ok(news) => {
                    for one in news {
                        self.take(one).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the worker's topics are read again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn take(&mut self, news: FetchedPartition) {
        let name = (news.topic.clone(), news.partition);
        if news.out_of_range {
            // Only somebody who deletes records of a compacted topic brings this about.
            tracing::error!(
                topic = name.0,
                from = news.from,
                "the worker's state is gone at the position it had read; read from the start"
            );
            match offset_for(&self.cluster, &name.0, name.1, -2).await {
                Ok(start) => self.fetcher.seek(&name, start),
                Err(error) => {
                    tracing::warn!(%error, "the start of a worker's topic is not known yet");
                    self.fetcher.seek(&name, news.from);
                    tokio::time::sleep(PAUSE).await;
                }
            }
            return;
        }
        let next = news.next;
        let changes = {
            let mut image = self.image.lock();
            for (header, batch) in &news.batches {
                if !header.is_control() {
                    apply(&mut image, batch, news.from);
                }
            }
            image.changes()
        };
        self.changes.send_replace(changes);
        self.positions.send_modify(|read| {
            read.insert(name, next);
        });
    }
}

fn apply(image: &mut Image, batch: &[u8], from: i64) {
    let all = match records(batch, DecompressLimit(DECOMPRESSED_BYTES_MAX)) {
        Ok(all) => all,
        Err(error) => {
            return tracing::error!(%error, "a batch of the worker's state cannot be read, and is passed over");
        }
    };
    for record in all {
        match record {
            Ok(record) if record.offset >= from => {
                let decoded = Record::decode(record.key.as_deref().unwrap_or_default(), record.value.as_deref());
                if let Some(decoded) = decoded {
                    image.apply(decoded);
                }
            }
            Ok(_) => {}
            Err(error) => {
                return tracing::error!(%error, "a record of the worker's state cannot be read, and is passed over");
            }
        }
    }
}

/// Kafka's hash of keys, so that all writers put a key into the same partition: compaction depends on it.
fn murmur2(key: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let length = u32::try_from(key.len()).unwrap_or(u32::MAX);
    let mut h = 0x9747_b28c ^ length;
    let mut words = key.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes(word.try_into().expect("four bytes"));
        k = k.wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (n, byte) in rest.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * n);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

fn partition_of(key: &str, count: i32) -> i32 {
    let positive = i32::try_from(murmur2(key.as_bytes()) & 0x7fff_ffff).unwrap_or(0);
    positive % count.max(1)
}

async fn write_all(cluster: Arc<Cluster>, topic: String, mut inbox: mpsc::Receiver<Write>, clock: Clock) {
    let mut producer: Option<Producer<&Cluster>> = None;
    while let Some(write) = inbox.recv().await {
        let mut outcome = Ok(());
        for _ in 0..WRITE_TRIES {
            let tried = async {
                let open = match &mut producer {
                    Some(open) => open,
                    none => none.insert(Producer::open(&*cluster, &topic, ProducerOptions::default()).await?),
                };
                let count = open.partition_count();
                for record in &write.records {
                    let (key, value) = record.encode();
                    let partition = partition_of(&key, count);
                    open.send(partition, clock(), Some(key.as_bytes()), value.as_deref(), &[]).await?;
                }
                open.flush().await
            };
            outcome = tried.await.map_err(|e| failed(&topic, e));
            match &outcome {
                Ok(()) => break,
                Err(error) => tracing::warn!(%error, "the worker's state is written again"),
            }
            producer = None;
            tokio::time::sleep(PAUSE).await;
        }
        // Who asked may have stopped waiting.
        let _ = write.done.send(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_where_kafka_puts_them() {
        // Computed by Kafka's own Utils.murmur2.
        for (key, hash) in [("21", -973_932_308), ("foobar", -790_332_482), ("a-little-bit-long-string", -985_981_536)]
        {
            assert_eq!(murmur2(key.as_bytes()), i32::cast_unsigned(hash), "{key}");
        }
    }
}
