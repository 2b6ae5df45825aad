//! A follower's side: one task for each leader node, which fetches all partitions that this node follows from it.
//!
//! Owns the fetch positions' meaning: a fetch from offset *n* says that all below *n* is durable here. Does not own logs.
//! Order for each answer: truncate where the histories part -> append -> sync, if the topic's mode asks for it -> high
//! watermark and log start of the leader. Only then the next fetch goes out.
//! A crash leaves what the log's recovery keeps; the next fetch tells the leader how far that is.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use strandline_client::{CallError, Connection};
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::{BrokerId, TopicId, TopicPartition};
use strandline_protocol::messages::fetch_request::{FetchPartition, FetchRequest, ReplicaState};
use strandline_protocol::messages::fetch_response::FetchResponse;
use strandline_protocol::rope::Records;
use tokio::sync::{Notify, watch};

use super::following::{Following, Next, wanted};
use super::session::Session;
use crate::broker::Broker;
use crate::partition::Partition;
use crate::replication::throttle::Side;
use crate::shutdown::stopped;

/// Kafka's `replica.fetch.wait.max.ms`.
const WAIT_MAX: Duration = Duration::from_millis(500);
/// Kafka's `replica.fetch.response.max.bytes`.
const RESPONSE_BYTES_MAX: i32 = 10 << 20;
/// A fetch is answered within this time behind its wait, or the connection is given up.
const FETCH_DEADLINE: Duration = Duration::from_secs(10);
/// Pause after a failed fetch, and before a partition that was refused is asked for again.
const BACKOFF: Duration = Duration::from_millis(100);
/// After a new partition was given to the fetcher, before a fetch without it is given up.
const SETTLE: Duration = Duration::from_millis(5);

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
            let fetcher = Fetcher {
                broker: Arc::clone(broker),
                leader,
                followed: Arc::clone(&followed),
                connection: None,
                session: Session::default(),
            };
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
    session: Session,
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
            let request = self.request(&partitions);
            let fetched = tokio::select! {
                () = stopped(&mut stop) => return,
                fetched = self.fetch_unless_changed(&request, &partitions, &resting) => fetched,
            };
            // A new partition does not wait for the end of a fetch that does not ask for it.
            let Some(fetched) = fetched else {
                self.session.broken();
                continue;
            };
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
                    self.session.broken();
                    tokio::time::sleep(BACKOFF).await;
                }
            }
        }
    }

    /// Boots from the tier what begins there, waits for what is not durable yet, and leaves out what a throttle holds back.
    async fn ready_to_fetch(&self, all: Vec<Arc<Partition>>) -> (Vec<Arc<Partition>>, Vec<TopicPartition>) {
        let (mut ready, mut waiting) = (Vec::with_capacity(all.len()), Vec::new());
        for partition in all {
            let rate = self.rate(&partition);
            let held_back = rate.is_some_and(|rate| self.broker.throttles.holds_back(Side::Follower, rate));
            let following = self.following();
            let waits = !following.is_sound(&partition, &self.broker.image(), self.broker.config.node_id)
                || held_back
                || !following.has_begun(&partition).await
                || !following.is_durable(&partition).await;
            if waits { waiting.push(partition.tp) } else { ready.push(partition) }
        }
        (ready, waiting)
    }

    fn following(&self) -> Following<'_> {
        Following { leader: self.leader, partitions: &self.broker.partitions }
    }

    fn rate(&self, partition: &Partition) -> Option<u64> {
        self.broker.throttles.rate(&self.broker, partition, Side::Follower, self.broker.config.node_id)
    }

    /// Fetches; `None` = given up, with its connection, because there are partitions that it does not ask for.
    async fn fetch_unless_changed(
        &mut self,
        request: &FetchRequest,
        partitions: &[Arc<Partition>],
        resting: &HashMap<TopicPartition, tokio::time::Instant>,
    ) -> Option<Result<FetchResponse, CallError>> {
        let (followed, leader) = (Arc::clone(&self.followed), self.leader);
        let fetch = self.fetch(request);
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

    async fn fetch(&mut self, request: &FetchRequest) -> Result<FetchResponse, CallError> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let version = connection.version::<FetchRequest>(i16::MAX)?;
        let response = connection.call_version(version, request, WAIT_MAX + FETCH_DEADLINE).await?;
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

    fn request(&mut self, partitions: &[Arc<Partition>]) -> FetchRequest {
        let all: BTreeMap<TopicPartition, FetchPartition> =
            partitions.iter().filter_map(|partition| Some((partition.tp, wanted(partition)?))).collect();
        let mut request = FetchRequest {
            replica_id: -1,
            replica_state: ReplicaState {
                replica_id: self.broker.config.node_id,
                replica_epoch: self.broker.epoch(),
                ..Default::default()
            },
            max_wait_ms: i32::try_from(WAIT_MAX.as_millis()).unwrap_or(i32::MAX),
            min_bytes: 1,
            max_bytes: RESPONSE_BYTES_MAX,
            ..Default::default()
        };
        self.session.ask(all, &mut request);
        request
    }

    /// Takes an answer in. Returns the partitions that have to rest.
    async fn take(&mut self, response: FetchResponse, partitions: &[Arc<Partition>]) -> Vec<TopicPartition> {
        let error = ErrorCode::from_code(response.error_code).unwrap_or(ErrorCode::UnknownServerError);
        if !self.session.answered(error, response.session_id) {
            return Vec::new();
        }
        if error != ErrorCode::None {
            tracing::warn!(leader = self.leader, code = error.name(), "the leader refused a fetch");
            return partitions.iter().map(|p| p.tp).collect();
        }
        let by_tp: HashMap<TopicPartition, &Arc<Partition>> = partitions.iter().map(|p| (p.tp, p)).collect();
        let mut resting = Vec::new();
        let mut appended = Vec::new();
        for topic in response.responses {
            for data in topic.partitions {
                let tp = TopicPartition { topic_id: TopicId(topic.topic_id), partition: data.partition_index };
                let (Some(partition), Some(asked)) = (by_tp.get(&tp), self.session.wanted().get(&tp)) else { continue };
                self.count(partition, data.records.as_ref().map_or(0, Records::len));
                match self.following().take(partition, asked.current_leader_epoch, &data).await {
                    Next::Goes => {}
                    Next::Appended => appended.push(Arc::clone(partition)),
                    Next::Rests => resting.push(tp),
                }
            }
        }
        // Side by side: each partition's sync is asked for before any is waited for.
        for partition in &appended {
            partition.ask_for_due_flush();
        }
        for partition in appended {
            if partition.appended_is_durable().await.is_err() {
                resting.push(partition.tp);
            }
        }
        resting
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
}

/// Whether a reassignment adds this replica.
pub fn is_added(broker: &Broker, partition: &Partition, replica: BrokerId) -> bool {
    let image = broker.image();
    image.partitions.get(&partition.tp).is_some_and(|p| p.record.adding.contains(&replica))
}
