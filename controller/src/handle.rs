//! The way to the active controller, from any node.
//!
//! Owns routing: a request goes to this node's own queue if it leads, else to the node that does. Does not own decisions
//! (`decide`) nor connections (the transport is the broker's).
//! Invariants: a request whose outcome is unknown is sent again only if doing it twice does no harm.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use openraft::BasicNode;
use parking_lot::Mutex;
use strandline_protocol::ids::{BrokerEpoch, BrokerId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::image::MetadataImage;
use crate::joining::{Identity, identify};
use crate::raft::network::{IDENTIFY, MEMBERSHIP, Probe, QUORUM, REQUEST, RaftTransport, ServeError, serve};
use crate::raft::state_machine::{ImageUpdate, Updates};
use crate::raft::types::{NodeId, Raft};
use crate::request::{Request, Response};
use crate::service::{ControllerError, Pending};
use crate::wire;

/// A request finds a leader within this time, or is given up.
const ROUTE_MAX: Duration = Duration::from_secs(10);
/// One try at another node takes at most this long.
pub(crate) const CALL_MAX: Duration = Duration::from_secs(5);
/// Between two tries.
const ROUTE_PAUSE: Duration = Duration::from_millis(20);
/// Between the looks at a suspected broker that seems to be there; what they do not find is left to the failure detector.
const LOOK_PAUSES: [Duration; 4] =
    [Duration::from_millis(5), Duration::from_millis(20), Duration::from_millis(50), Duration::from_millis(150)];

/// A broker that was unfenced has opened its listener after so long; until then that nobody listens proves nothing.
pub(crate) const OPENS_WITHIN: Duration = Duration::from_secs(3);

/// Between two looks for a broker that may be opening its listener.
const OPENING_PAUSE: Duration = Duration::from_millis(50);
/// Updates that the broker has not yet taken, at most.
const UPDATES_MAX: usize = 1024;
/// The way to the controller. Clones are cheap.
#[derive(Clone)]
pub struct ControllerHandle {
    pub(crate) node_id: NodeId,
    queue: mpsc::Sender<Pending>,
    image: Arc<ArcSwap<MetadataImage>>,
    updates: Updates,
    pub(crate) raft: Raft,
    pub(crate) transport: Arc<dyn RaftTransport>,
    /// Raft's messages are taken: it is known that this node has not forgotten a vote.
    pub(crate) admits: Arc<AtomicBool>,
    /// When each broker was last heard of, on the active controller.
    pub(crate) beats: Arc<Mutex<HashMap<BrokerId, (BrokerEpoch, Instant)>>>,
    /// Since when this node knows each broker as unfenced; kept by the detector, on every controller.
    pub(crate) unfenced: Arc<Mutex<HashMap<BrokerId, (BrokerEpoch, Instant)>>>,
}

/// One member of the quorum, as the leader knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaView {
    pub node_id: NodeId,
    pub address: String,
    pub voter: bool,
    /// Index of the last entry it is known to have; none if only the leader knows.
    pub matched: Option<u64>,
}

/// The quorum, as this node knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuorumView {
    pub leader: Option<NodeId>,
    pub term: u64,
    pub last_index: u64,
    pub applied_index: u64,
    pub replicas: Vec<ReplicaView>,
}

impl ControllerHandle {
    pub(crate) fn new(
        node_id: NodeId,
        queue: mpsc::Sender<Pending>,
        image: Arc<ArcSwap<MetadataImage>>,
        updates: Updates,
        raft: Raft,
        transport: Arc<dyn RaftTransport>,
    ) -> Self {
        ControllerHandle {
            node_id,
            queue,
            image,
            updates,
            raft,
            transport,
            admits: Arc::default(),
            beats: Arc::default(),
            unfenced: Arc::default(),
        }
    }

    /// Every change of the image from now on (perhaps some before it, too), in log order; to be drained, since application
    /// waits for it. There is one reader: a second call gives a receiver that hears nothing.
    pub fn subscribe(&self) -> mpsc::Receiver<ImageUpdate> {
        let (updates, reader) = mpsc::channel(UPDATES_MAX);
        self.updates.get_or_init(|| updates);
        reader
    }

    /// Has the request decided, committed and applied, wherever the active controller is. `Stopped` and `Unreachable`
    /// leave the outcome unknown.
    pub async fn request(&self, request: Request) -> Result<Response, ControllerError> {
        let deadline = Instant::now() + ROUTE_MAX;
        let mut encoded = None;
        loop {
            let leader = self.raft.metrics().borrow().current_leader;
            let outcome = match leader {
                Some(leader) if leader == self.node_id => self.decide_here(request.clone()).await,
                Some(leader) => {
                    let message = encoded.get_or_insert_with(|| request_message(&request));
                    self.ask_node(leader, message.clone()).await
                }
                None => Err(ControllerError::NotController { leader: None }),
            };
            let again = match &outcome {
                Err(ControllerError::NotController { .. }) => true,
                Err(ControllerError::Unreachable(_)) => harmless_twice(&request),
                _ => false,
            };
            if !again || Instant::now() >= deadline {
                return outcome;
            }
            tokio::time::sleep(ROUTE_PAUSE).await;
        }
    }

    async fn decide_here(&self, request: Request) -> Result<Response, ControllerError> {
        if let Request::Heartbeat(beat) = &request {
            self.beats.lock().insert(beat.broker_id, (beat.broker_epoch, Instant::now()));
        }
        let (answer, wait) = oneshot::channel();
        let gone = || ControllerError::Stopped("its queue is closed".to_owned());
        self.queue.send(Pending { request, answer }).await.map_err(|_| gone())?;
        wait.await.unwrap_or_else(|_| Err(gone()))
    }

    async fn ask_node(&self, node: NodeId, message: Vec<u8>) -> Result<Response, ControllerError> {
        let unreachable = |reason: String| ControllerError::Unreachable(reason);
        let Some(address) = self.address_of(node) else {
            return Err(ControllerError::NotController { leader: None });
        };
        let answer = self.transport.call(node, &address, message, CALL_MAX).await.map_err(|e| match e.kind() {
            // Nobody was there to take it: it is not under way, and goes to whoever is active next.
            std::io::ErrorKind::ConnectionRefused => ControllerError::NotController { leader: None },
            _ => unreachable(format!("node {node} at {address}: {e}")),
        })?;
        wire::decode_answer(&answer).unwrap_or_else(|e| Err(unreachable(format!("node {node} at {address}: {e}"))))
    }

    pub(crate) fn address_of(&self, node: NodeId) -> Option<String> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        metrics.membership_config.membership().get_node(&node).map(|n| n.addr.clone())
    }

    /// The image as applied on this node.
    pub fn image(&self) -> Arc<MetadataImage> {
        self.image.load_full()
    }

    /// The image, no older than the moment of the call.
    pub async fn linearizable_image(&self) -> Result<Arc<MetadataImage>, ControllerError> {
        if self.is_leader() {
            self.raft.ensure_linearizable().await.map_err(|e| ControllerError::Stopped(e.to_string()))?;
            return Ok(self.image());
        }
        // A request that changes nothing: its answer names no index, but what was committed before it is applied at the
        // leader, and here once this node has caught up with the leader's index.
        let index = self.leader_index().await?;
        let wait = self.raft.wait(Some(ROUTE_MAX)).applied_index_at_least(Some(index), "caught up").await;
        wait.map_err(|e| ControllerError::Unreachable(e.to_string()))?;
        Ok(self.image())
    }

    /// Index that everything committed before now has at most.
    async fn leader_index(&self) -> Result<u64, ControllerError> {
        let deadline = Instant::now() + ROUTE_MAX;
        loop {
            let leader = self.raft.metrics().borrow().current_leader;
            let address = leader.and_then(|leader| Some((leader, self.address_of(leader)?)));
            if let Some((leader, address)) = address {
                let answer = self.transport.call(leader, &address, identify(self.node_id, true), CALL_MAX).await;
                let index =
                    answer.ok().and_then(|bytes| Identity::decode(&bytes).ok()).and_then(|found| found.read_index);
                if let Some(index) = index {
                    return Ok(index);
                }
            }
            if Instant::now() >= deadline {
                return Err(ControllerError::Unreachable("no active controller".to_owned()));
            }
            tokio::time::sleep(ROUTE_PAUSE).await;
        }
    }

    /// Why the Raft member has stopped by itself; none while it runs, or was shut down.
    pub fn fatal(&self) -> Option<String> {
        let metrics = self.raft.metrics();
        let state = metrics.borrow().running_state.clone();
        // Who ends in order says so before it lets go of its metrics.
        if state.is_ok() && metrics.has_changed().is_err() {
            return Some("it panicked".to_owned());
        }
        state.err().filter(|fatal| !matches!(fatal, openraft::error::Fatal::Stopped)).map(|fatal| fatal.to_string())
    }

    /// Whether this node believes to be the active controller.
    pub fn is_leader(&self) -> bool {
        self.raft.metrics().borrow().current_leader == Some(self.node_id)
    }

    /// Id of the active controller, as far as this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.raft.metrics().borrow().current_leader
    }

    /// Answers a message of another node.
    pub async fn serve(&self, message: &[u8]) -> Result<Vec<u8>, ServeError> {
        match message.split_first() {
            Some((&REQUEST, rest)) => {
                let request = wire::decode_request(rest)?;
                let answer = if self.is_leader() {
                    self.decide_here(request).await
                } else {
                    // Forwarded once only: the sender looks for the leader itself.
                    Err(ControllerError::NotController { leader: self.leader() })
                };
                Ok(wire::encode_answer(&answer))
            }
            Some((&MEMBERSHIP, rest)) => Ok(self.serve_membership(rest).await?),
            Some((&QUORUM, _)) => Ok(wire::encode_quorum(&self.quorum())),
            Some((&IDENTIFY, rest)) => Ok(self.identity(rest).await?),
            _ if !self.admits.load(Ordering::Acquire) => Err(ServeError::NotYet),
            _ => serve(&self.raft, message).await,
        }
    }

    /// The broker that sends this message as a heartbeat, if it is one.
    pub fn heartbeat_of(&self, message: &[u8]) -> Option<(BrokerId, BrokerEpoch)> {
        let (&kind, rest) = message.split_first()?;
        match (kind == REQUEST).then(|| wire::decode_request(rest).ok())? {
            Some(Request::Heartbeat(beat)) => Some((beat.broker_id, beat.broker_epoch)),
            _ => None,
        }
    }

    /// The broker's connection broke: it is looked for, and fenced at once if nobody is there. Does nothing unless this is
    /// the active controller.
    pub async fn suspect(&self, broker_id: BrokerId, broker_epoch: BrokerEpoch) {
        let image = self.image();
        let Some(broker) = image.brokers.get(&broker_id).filter(|b| b.broker_epoch == broker_epoch && !b.fenced) else {
            return;
        };
        let Some(endpoint) = broker.endpoints.first().filter(|_| self.is_leader()) else { return };
        let address = format!("{}:{}", endpoint.host, endpoint.port);
        // It has listened, and shuts down in order.
        let mut stopping = broker.stopping;
        let mut pauses = LOOK_PAUSES.iter();
        loop {
            let pause = match self.transport.probe(&address).await {
                // It opens its listener only after it has been unfenced: perhaps it is about to.
                Probe::Gone if !stopping && !self.listens_by_now(broker_id, broker_epoch) => OPENING_PAUSE,
                Probe::Gone => {
                    let fenced = self.decide_here(Request::Fence { broker_id, broker_epoch }).await;
                    tracing::warn!(broker_id, broker_epoch, outcome = ?fenced, "a broker is gone: nobody listens at {address}");
                    return;
                }
                // A process that is killed loses its connections one after the other, and its listener perhaps last.
                Probe::Alive | Probe::Unknown => match pauses.next() {
                    Some(pause) => *pause,
                    None => return,
                },
            };
            tokio::time::sleep(pause).await;
            let image = self.image();
            let broker = image.brokers.get(&broker_id).filter(|b| b.broker_epoch == broker_epoch && !b.fenced);
            let Some(broker) = broker.filter(|_| self.is_leader()) else { return };
            stopping = broker.stopping;
        }
    }

    /// Whether the broker has had [`OPENS_WITHIN`] since it was unfenced, as far as this node knows.
    fn listens_by_now(&self, broker_id: BrokerId, broker_epoch: BrokerEpoch) -> bool {
        let unfenced = self.unfenced.lock();
        let since = unfenced.get(&broker_id).filter(|(epoch, _)| *epoch == broker_epoch).map(|(_, at)| *at);
        since.is_some_and(|since| since.elapsed() >= OPENS_WITHIN)
    }

    /// The quorum as this node knows it; only the leader knows how far the others are.
    pub fn quorum(&self) -> QuorumView {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let voters: Vec<NodeId> = membership.voter_ids().collect();
        let replication = metrics.replication.as_ref();
        let last_index = metrics.last_log_index.unwrap_or(0);
        let matched = |id: &NodeId| match id {
            id if *id == self.node_id => Some(last_index),
            id => replication.and_then(|r| r.get(id)).and_then(|log| log.as_ref()).map(|log| log.index),
        };
        let replica = |(id, node): (&NodeId, &BasicNode)| ReplicaView {
            node_id: *id,
            address: node.addr.clone(),
            voter: voters.contains(id),
            matched: matched(id),
        };
        QuorumView {
            leader: metrics.current_leader,
            term: metrics.current_term,
            last_index,
            applied_index: metrics.last_applied.map_or(0, |id| id.index),
            replicas: membership.nodes().map(replica).collect(),
        }
    }

    /// The quorum as its leader knows it; as this node knows it, if the leader does not answer.
    pub async fn quorum_of_leader(&self) -> QuorumView {
        let here = self.quorum();
        let leader = here.leader.filter(|leader| *leader != self.node_id);
        let Some((leader, address)) = leader.and_then(|l| Some((l, self.address_of(l)?))) else { return here };
        let answer = self.transport.call(leader, &address, vec![QUORUM], CALL_MAX).await;
        answer.ok().and_then(|bytes| wire::decode_quorum(&bytes).ok()).unwrap_or(here)
    }

    /// Stops the Raft member. Requests under way have an unknown outcome.
    pub async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "the controller did not stop cleanly");
        }
    }
}

fn request_message(request: &Request) -> Vec<u8> {
    let mut message = vec![REQUEST];
    message.extend(wire::encode_request(request));
    message
}

/// Whether carrying a request out a second time leaves things as the first time did.
fn harmless_twice(request: &Request) -> bool {
    match request {
        // Guarded by an epoch, a version or an id, or wasteful at worst.
        Request::RegisterBroker(_)
        | Request::Unfence { .. }
        | Request::FinishTopicDeletion { .. }
        | Request::ConfirmTopicRemoved { .. }
        | Request::Heartbeat(_)
        | Request::Fence { .. }
        | Request::AlterIsr { .. }
        | Request::AllocateProducerIds { .. }
        | Request::NameCluster { .. }
        | Request::ReplicasLost { .. }
        | Request::Advance { .. } => true,
        // The second answer would be another one ("exists already").
        Request::CreateTopics { .. }
        | Request::DeleteTopics { .. }
        | Request::CreatePartitions { .. }
        | Request::AlterConfigs { .. }
        | Request::UnregisterBroker { .. }
        | Request::Reassign { .. }
        | Request::ElectLeaders(_) => false,
    }
}
