//! A follower's side: one task for each leader node, which fetches all partitions that this node follows from it.
//!
//! Owns the fetch positions' meaning: a fetch from offset *n* says that all below *n* is durable here. Does not own logs.
//! Order for each answer: truncate where the histories part -> append -> sync, if the topic's mode asks for it -> high
//! watermark and log start of the leader. Only then the next fetch goes out.
//! A crash leaves what the log's recovery keeps; the next fetch tells the leader how far that is.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use strandline_client::{CallError, Connection};
use strandline_log::leader_epochs::EpochEntry;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::{BrokerId, TopicId, TopicPartition};
use strandline_protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic, ReplicaState};
use strandline_protocol::messages::fetch_response::{FetchResponse, PartitionData};
use strandline_protocol::record_batch::batches;
use tokio::sync::{Notify, watch};

use crate::broker::Broker;
use crate::partition::Partition;
use crate::replication::throttle::Side;
use crate::shutdown::stopped;

/// Kafka's `replica.fetch.wait.max.ms`.
const WAIT_MAX: Duration = Duration::from_millis(500);
/// Kafka's `replica.fetch.response.max.bytes`.
const RESPONSE_BYTES_MAX: i32 = 10 << 20;
/// Kafka's `replica.fetch.max.bytes`, per partition.
const PARTITION_BYTES_MAX: i32 = 1 << 20;
/// A fetch is answered within this time behind its wait, or the connection is given up.
const FETCH_DEADLINE: Duration = Duration::from_secs(10);
/// Pause after a failed fetch, and before a partition that was refused is asked for again.
const BACKOFF: Duration = Duration::from_millis(100);
/// After a new partition was given to the fetcher, before a fetch without it is given up.
const SETTLE: Duration = Duration::from_millis(5);
/// Reading a sidecar, for a replica that boots from the tier.
const TAIL_DEADLINE: Duration = Duration::from_secs(60);

/// Partitions that this node follows, by leader.
#[derive(Default)]
pub struct Fetchers {
    by_leader: Mutex<HashMap<BrokerId, Arc<Followed>>>,
}

#[derive(Default)]
struct Followed {
    partitions: Mutex<BTreeMap<TopicPartition, Arc<Partition>>>,
    changed: Notify,
}

impl Fetchers {
    /// Follows the partition from `leader` on; -1 = from nobody.
    pub fn assign(
        self: &Arc<Self>,
        broker: &Arc<Broker>,
        partition: &Arc<Partition>,
        leader: BrokerId,
        stop: &watch::Receiver<bool>,
    ) {
        let mut by_leader = self.by_leader.lock();
        for (id, followed) in by_leader.iter() {
            if *id != leader {
                followed.partitions.lock().remove(&partition.tp);
            }
        }
        if leader < 0 {
            return;
        }
        let followed = by_leader.entry(leader).or_insert_with(|| {
            let followed = Arc::new(Followed::default());
            let fetcher =
                Fetcher { broker: Arc::clone(broker), leader, followed: Arc::clone(&followed), connection: None };
            tokio::spawn(fetcher.run(stop.clone()));
            followed
        });
        followed.partitions.lock().insert(partition.tp, Arc::clone(partition));
        followed.changed.notify_one();
    }
}

struct Fetcher {
    broker: Arc<Broker>,
    leader: BrokerId,
    followed: Arc<Followed>,
    connection: Option<Connection>,
}

/// What becomes of a partition after an answer.
enum Next {
    Goes,
    /// Asked again later.
    Rests,
}

impl Fetcher {
    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut resting: HashMap<TopicPartition, tokio::time::Instant> = HashMap::new();
        loop {
            let now = tokio::time::Instant::now();
            resting.retain(|_, until| *until > now);
            let partitions: Vec<Arc<Partition>> = self
                .followed
                .partitions
                .lock()
                .values()
                .filter(|p| !resting.contains_key(&p.tp) && p.follows(self.leader))
                .cloned()
                .collect();
            if partitions.is_empty() {
                let pause = if resting.is_empty() { Duration::from_secs(1) } else { BACKOFF };
                tokio::select! {
                    () = stopped(&mut stop) => return,
                    () = self.followed.changed.notified() => {}
                    () = tokio::time::sleep(pause) => {}
                }
                continue;
            }
            let (partitions, waiting) = self.ready_to_fetch(partitions).await;
            resting.extend(waiting.into_iter().map(|tp| (tp, tokio::time::Instant::now() + BACKOFF)));
            if partitions.is_empty() {
                continue;
            }
            let fetched = tokio::select! {
                () = stopped(&mut stop) => return,
                fetched = self.fetch_unless_changed(&partitions, &resting) => fetched,
            };
            // A new partition does not wait for the end of a fetch that does not ask for it.
            let Some(fetched) = fetched else { continue };
            match fetched {
                Ok(response) => {
                    let until = tokio::time::Instant::now() + BACKOFF;
                    for tp in self.take(response, &partitions).await {
                        resting.insert(tp, until);
                    }
                }
                Err(error) => {
                    tracing::debug!(leader = self.leader, %error, "a fetch from the leader failed");
                    self.connection = None;
                    tokio::time::sleep(BACKOFF).await;
                }
            }
        }
    }

    /// Boots from the tier what begins there, and leaves out what a throttle holds back.
    async fn ready_to_fetch(&self, all: Vec<Arc<Partition>>) -> (Vec<Arc<Partition>>, Vec<TopicPartition>) {
        let (mut ready, mut waiting) = (Vec::with_capacity(all.len()), Vec::new());
        for partition in all {
            let rate = self.rate(&partition);
            let held_back = rate.is_some_and(|rate| self.broker.throttles.holds_back(Side::Follower, rate));
            let waits = !self.is_sound(&partition)
                || held_back
                || (partition.begins_in_tier() && matches!(self.boot_from_tier(&partition).await, Next::Rests));
            if waits { waiting.push(partition.tp) } else { ready.push(partition) }
        }
        (ready, waiting)
    }

    /// A damaged log is dropped once the controller does not count it; until then nothing is added to it.
    fn is_sound(&self, partition: &Arc<Partition>) -> bool {
        if !partition.is_damaged() {
            return true;
        }
        let (image, me) = (self.broker.image(), self.broker.config.node_id);
        let counted = image
            .partitions
            .get(&partition.tp)
            .is_none_or(|p| p.record.isr.is_empty() || p.record.isr.contains(&me) || p.record.elr.contains(&me));
        if counted {
            return false;
        }
        tracing::warn!(partition = %partition.name(), "the damaged log is dropped, and fetched from the leader or the bucket");
        let dropped = partition.drop_damaged(self.leader);
        matches!(self.restarted(partition, dropped), Next::Goes)
    }

    fn rate(&self, partition: &Partition) -> Option<u64> {
        self.broker.throttles.rate(&self.broker, partition, Side::Follower, self.broker.config.node_id)
    }

    /// Fetches; `None` = given up, with its connection, because there are partitions that it does not ask for.
    async fn fetch_unless_changed(
        &mut self,
        partitions: &[Arc<Partition>],
        resting: &HashMap<TopicPartition, tokio::time::Instant>,
    ) -> Option<Result<FetchResponse, CallError>> {
        let (followed, leader) = (Arc::clone(&self.followed), self.leader);
        let fetch = self.fetch(partitions);
        tokio::pin!(fetch);
        loop {
            tokio::select! {
                fetched = &mut fetch => return Some(fetched),
                () = followed.changed.notified() => {}
            }
            // A new topic's partitions come one by one.
            tokio::time::sleep(SETTLE).await;
            let asked: HashSet<TopicPartition> = partitions.iter().map(|p| p.tp).collect();
            let is_new =
                |p: &Arc<Partition>| p.follows(leader) && !asked.contains(&p.tp) && !resting.contains_key(&p.tp);
            if followed.partitions.lock().values().any(is_new) {
                return None;
            }
        }
    }

    async fn fetch(&mut self, partitions: &[Arc<Partition>]) -> Result<FetchResponse, CallError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let request = self.request(partitions);
        let version = connection.version::<FetchRequest>(i16::MAX)?;
        let response = connection.call_version(version, &request, WAIT_MAX + FETCH_DEADLINE).await?;
        self.connection = Some(connection);
        Ok(response)
    }

    async fn connect(&self) -> Result<Connection, CallError> {
        let image = self.broker.image();
        let endpoint =
            image.brokers.get(&self.leader).and_then(|b| b.endpoint(&self.broker.config.inter_broker_listener));
        let endpoint = endpoint.ok_or_else(|| CallError::NoBroker(format!("node {}", self.leader)))?;
        let address = format!("{}:{}", endpoint.host, endpoint.port);
        Connection::open(&self.broker.network, &address, "strandline-replica").await
    }

    fn request(&self, partitions: &[Arc<Partition>]) -> FetchRequest {
        let mut topics: Vec<FetchTopic> = Vec::new();
        for partition in partitions {
            let position = partition.fetch_position();
            let wanted = FetchPartition {
                partition: partition.tp.partition,
                current_leader_epoch: partition.leader_epoch(),
                fetch_offset: position.offset,
                last_fetched_epoch: position.last_epoch,
                log_start_offset: position.log_start,
                partition_max_bytes: PARTITION_BYTES_MAX,
                ..Default::default()
            };
            match topics.last_mut().filter(|t| t.topic_id == partition.tp.topic_id.0) {
                Some(topic) => topic.partitions.push(wanted),
                None => topics.push(FetchTopic {
                    topic_id: partition.tp.topic_id.0,
                    partitions: vec![wanted],
                    ..Default::default()
                }),
            }
        }
        FetchRequest {
            replica_id: -1,
            replica_state: ReplicaState {
                replica_id: self.broker.config.node_id,
                replica_epoch: self.broker.epoch(),
                ..Default::default()
            },
            max_wait_ms: i32::try_from(WAIT_MAX.as_millis()).unwrap_or(i32::MAX),
            min_bytes: 1,
            max_bytes: RESPONSE_BYTES_MAX,
            session_epoch: -1,
            topics,
            ..Default::default()
        }
    }

    /// Takes an answer in. Returns the partitions that have to rest.
    async fn take(&self, response: FetchResponse, partitions: &[Arc<Partition>]) -> Vec<TopicPartition> {
        let by_tp: HashMap<TopicPartition, &Arc<Partition>> = partitions.iter().map(|p| (p.tp, p)).collect();
        let mut resting = Vec::new();
        if response.error_code != 0 {
            tracing::warn!(leader = self.leader, code = response.error_code, "the leader refused a fetch");
            return partitions.iter().map(|p| p.tp).collect();
        }
        let mut appended = Vec::new();
        for topic in response.responses {
            for data in topic.partitions {
                let tp = TopicPartition { topic_id: TopicId(topic.topic_id), partition: data.partition_index };
                let Some(partition) = by_tp.get(&tp) else { continue };
                match self.take_one(partition, &data, &mut appended).await {
                    Next::Goes => {}
                    Next::Rests => resting.push(tp),
                }
            }
        }
        // Side by side: each partition's sync is asked for before any is waited for.
        for partition in &appended {
            partition.sync_appended();
        }
        for partition in appended {
            if partition.appended_is_durable().await.is_err() {
                resting.push(partition.tp);
            }
        }
        resting
    }

    async fn take_one(
        &self,
        partition: &Arc<Partition>,
        data: &PartitionData,
        appended: &mut Vec<Arc<Partition>>,
    ) -> Next {
        let code = ErrorCode::from_code(data.error_code).unwrap_or(ErrorCode::UnknownServerError);
        match code {
            ErrorCode::None => {}
            ErrorCode::OffsetMovedToTieredStorage => return self.boot_from_tier(partition).await,
            ErrorCode::OffsetOutOfRange => return self.out_of_range(partition, data).await,
            other => {
                tracing::debug!(partition = %partition.name(), code = other.name(), "not fetched now");
                return Next::Rests;
            }
        }
        let diverging = &data.diverging_epoch;
        if diverging.epoch >= 0 || diverging.end_offset >= 0 {
            if let Err(error) = partition.truncate_to_leader(self.leader, diverging.epoch, diverging.end_offset) {
                tracing::error!(partition = %partition.name(), %error, "cannot be truncated");
                return Next::Rests;
            }
            self.broker.partitions.write_checkpoints();
            return Next::Goes;
        }
        let records = data.records.as_ref().and_then(|r| r.to_bytes()).unwrap_or_default();
        let records = whole_batches(&records);
        self.count(partition, records.len() as u64);
        match partition.append_as_follower(self.leader, &records, data.high_watermark, data.log_start_offset) {
            Ok(true) => appended.push(Arc::clone(partition)),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(partition = %partition.name(), %error, "what the leader sent cannot be appended");
                return Next::Rests;
            }
        }
        Next::Goes
    }

    fn count(&self, partition: &Partition, bytes: u64) {
        if bytes > 0 {
            let moving = is_added(&self.broker, partition, self.broker.config.node_id);
            self.broker.metrics.replicated_in(&partition.topic, bytes, moving);
            if self.rate(partition).is_some() {
                self.broker.throttles.passed(Side::Follower, bytes);
            }
        }
    }

    /// The leader's log begins above this one's end, or ends below it without a common epoch: begins anew there.
    async fn out_of_range(&self, partition: &Arc<Partition>, data: &PartitionData) -> Next {
        let start = data.log_start_offset;
        if start < 0 {
            return Next::Rests;
        }
        if partition.is_tiered() {
            return self.boot_from_tier(partition).await;
        }
        tracing::warn!(partition = %partition.name(), start, "the log begins anew at the leader's log start");
        let begun = partition.restart_from_leader(self.leader, start, start, Vec::new(), &Bytes::new());
        self.restarted(partition, begun)
    }

    fn restarted(&self, partition: &Arc<Partition>, begun: Result<(), strandline_log::LogError>) -> Next {
        match begun {
            Ok(()) => {
                self.broker.partitions.write_checkpoints();
                Next::Goes
            }
            Err(error) => {
                tracing::error!(partition = %partition.name(), %error, "cannot begin anew");
                Next::Rests
            }
        }
    }

    /// Rule 7 of the remote log protocol: what is in the tier is not copied; the log begins behind it, with the epochs and
    /// the producers of the last sidecar.
    async fn boot_from_tier(&self, partition: &Arc<Partition>) -> Next {
        let Some(remote) = &partition.remote else {
            tracing::error!(partition = %partition.name(), "the leader's log begins in the tier, but this node has none: set tier.url");
            return Next::Rests;
        };
        let pointer = partition.pointer();
        let next = pointer.highest_copied_offset + 1;
        let tail = match remote.tail(TAIL_DEADLINE).await {
            Ok(tail) => tail,
            Err(error) => {
                tracing::warn!(partition = %partition.name(), %error, "cannot boot from the tier yet");
                return Next::Rests;
            }
        };
        let (epochs, producers) = match tail {
            Some(tail) if tail.last_offset + 1 == next => {
                let entry =
                    |(epoch, start_offset): &(i32, i64)| EpochEntry { epoch: *epoch, start_offset: *start_offset };
                (tail.leader_epochs.iter().map(entry).collect(), tail.producer_state)
            }
            _ => (Vec::new(), Bytes::new()),
        };
        tracing::info!(partition = %partition.name(), start = next, "boots from the tier: only what is not copied yet is fetched");
        let begun = partition.restart_from_leader(self.leader, next, pointer.log_start_offset, epochs, &producers);
        self.restarted(partition, begun)
    }
}

/// Whether a reassignment adds this replica.
pub fn is_added(broker: &Broker, partition: &Partition, replica: BrokerId) -> bool {
    let image = broker.image();
    image.partitions.get(&partition.tp).is_some_and(|p| p.record.adding.contains(&replica))
}

/// The part of an answer that is whole batches; the last one may be cut off.
fn whole_batches(bytes: &Bytes) -> Bytes {
    let whole: usize = batches(bytes).map_while(Result::ok).map(|(_, batch)| batch.len()).sum();
    bytes.slice(..whole)
}
