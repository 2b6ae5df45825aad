//! The way to the active controller, from any node.
//!
//! Owns routing: a request goes to this node's own queue if it leads, else to the node that does. Does not own decisions
//! (`decide`) nor connections (the transport is the broker's).
//! Invariants: a request whose outcome is unknown is sent again only if doing it twice does no harm.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use openraft::error::{ClientWriteError, InitializeError, RaftError};
use openraft::{BasicNode, ChangeMembers};
use parking_lot::Mutex;
use strandline_protocol::ids::{BrokerEpoch, BrokerId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::encoding::{DecodeError, Get, Put};
use crate::image::MetadataImage;
use crate::raft::network::{IDENTIFY, MEMBERSHIP, Probe, QUORUM, REQUEST, RaftTransport, ServeError, serve};
use crate::raft::state_machine::{ImageUpdate, Updates};
use crate::raft::types::{NodeId, Raft};
use crate::request::{Request, Response};
use crate::service::{ControllerError, Pending, StartError};
use crate::wire;

/// A request finds a leader within this time, or is given up.
const ROUTE_MAX: Duration = Duration::from_secs(10);
/// One try at another node takes at most this long.
const CALL_MAX: Duration = Duration::from_secs(5);
/// Between two tries.
const ROUTE_PAUSE: Duration = Duration::from_millis(20);
/// Looks at a suspected broker; more are the failure detector's.
const PROBES: u32 = 2;
/// Updates that the broker has not yet taken, at most.
const UPDATES_MAX: usize = 1024;
/// A new leader applies its own log within this time.
const FIRST_APPLY_MAX: Duration = Duration::from_secs(60);
/// A voter to be added catches up within this time.
const CATCH_UP_MAX: Duration = Duration::from_secs(60);

/// The way to the controller. Clones are cheap.
#[derive(Clone)]
pub struct ControllerHandle {
    node_id: NodeId,
    queue: mpsc::Sender<Pending>,
    image: Arc<ArcSwap<MetadataImage>>,
    updates: Updates,
    raft: Raft,
    transport: Arc<dyn RaftTransport>,
    /// When each broker was last heard of, on the active controller.
    pub(crate) beats: Arc<Mutex<HashMap<BrokerId, (BrokerEpoch, Instant)>>>,
}

/// How a node comes to its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Formation {
    /// All voters of a new cluster are known by id and address (`controller.quorum.voters`).
    Voters(BTreeMap<NodeId, String>),
    /// Only addresses are known (`controller.quorum.bootstrap.servers`).
    Bootstrap { own_address: String, bootstrap: Vec<String> },
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
        ControllerHandle { node_id, queue, image, updates, raft, transport, beats: Arc::default() }
    }

    /// Every change of the image from now on (perhaps some before it, too), in log order; to be drained, since application
    /// waits for it. There is one reader: a second call gives a receiver that hears nothing.
    pub fn subscribe(&self) -> mpsc::Receiver<ImageUpdate> {
        let (updates, reader) = mpsc::channel(UPDATES_MAX);
        self.updates.get_or_init(|| updates);
        reader
    }

    /// Makes this node a member of a cluster, unless its log says that it is one; then waits until the cluster has an
    /// active controller and this node has what its own log holds.
    pub async fn form(&self, formation: Formation) -> Result<(), StartError> {
        let failed = |e: String| StartError::Raft(e);
        let is_new = !self.raft.is_initialized().await.map_err(|e| failed(e.to_string()))?;
        let voters = match formation {
            Formation::Voters(voters) => Some(voters),
            Formation::Bootstrap { own_address, bootstrap } if is_new => {
                discover_voters(&*self.transport, self.node_id, &own_address, &bootstrap).await
            }
            Formation::Bootstrap { .. } => None,
        };
        if let Some(voters) = voters.filter(|voters| is_new && voters.contains_key(&self.node_id)) {
            let nodes: BTreeMap<NodeId, BasicNode> =
                voters.into_iter().map(|(id, addr)| (id, BasicNode { addr })).collect();
            match self.raft.initialize(nodes).await {
                Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
                Err(error) => return Err(failed(error.to_string())),
            }
        }
        let alone = self.raft.with_raft_state(|state| state.membership_state.effective().voter_ids().count() == 1);
        if alone.await.map_err(|e| failed(e.to_string()))? && self.is_voter() {
            self.raft.trigger().elect().await.map_err(|e| failed(e.to_string()))?;
        }
        let wait = self.raft.wait(None);
        wait.metrics(|m| m.current_leader.is_some(), "active controller").await.map_err(|e| failed(e.to_string()))?;
        if self.is_leader() {
            // Alone, or elected: all that its log holds is committed, and applied before anything is decided.
            let last = self.raft.metrics().borrow().last_log_index;
            let wait = self.raft.wait(Some(FIRST_APPLY_MAX)).applied_index_at_least(last, "log replayed").await;
            wait.map_err(|e| failed(e.to_string()))?;
        }
        Ok(())
    }

    fn is_voter(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        metrics.membership_config.membership().voter_ids().any(|id| id == self.node_id)
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
        let answer = self.transport.call(node, &address, message, CALL_MAX).await;
        let answer = answer.map_err(|e| unreachable(format!("node {node} at {address}: {e}")))?;
        wire::decode_answer(&answer).unwrap_or_else(|e| Err(unreachable(format!("node {node} at {address}: {e}"))))
    }

    fn address_of(&self, node: NodeId) -> Option<String> {
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
                let answer = self.transport.call(leader, &address, vec![IDENTIFY, 1], CALL_MAX).await;
                let index =
                    answer.ok().and_then(|bytes| decode_identity(&bytes).ok()).and_then(|found| found.read_index);
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
            Some((&IDENTIFY, rest)) => Ok(self.identity(rest.first() == Some(&1)).await),
            _ => serve(&self.raft, message).await,
        }
    }

    async fn identity(&self, wants_read_index: bool) -> Vec<u8> {
        let read_index = match wants_read_index {
            true => self.raft.ensure_linearizable().await.ok().flatten().map(|id| id.index),
            false => None,
        };
        let mut out = Put::default();
        let formed = self.raft.metrics().borrow().membership_config.membership().voter_ids().next().is_some();
        out.u64(self.node_id).u8(formed.into()).u8(read_index.is_some().into()).u64(read_index.unwrap_or(0));
        out.bytes
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
        for _ in 0..PROBES {
            match self.transport.probe(&address).await {
                Probe::Gone => {
                    let fenced = self.decide_here(Request::Fence { broker_id, broker_epoch }).await;
                    tracing::warn!(broker_id, broker_epoch, outcome = ?fenced, "a broker is gone: nobody listens at {address}");
                    return;
                }
                Probe::Alive => return,
                Probe::Unknown => {}
            }
        }
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

    /// Adds a voter, or a node that only follows, wherever the active controller is.
    pub async fn add_member(&self, node: NodeId, address: &str, voter: bool) -> Result<(), ControllerError> {
        let mut out = Put::default();
        out.u8(MEMBERSHIP).u8(if voter { ADD_VOTER } else { ADD_LEARNER }).u64(node).string(address);
        self.change_membership(out.bytes).await
    }

    /// Takes a member out of the quorum.
    pub async fn remove_member(&self, node: NodeId) -> Result<(), ControllerError> {
        let mut out = Put::default();
        out.u8(MEMBERSHIP).u8(REMOVE).u64(node).string("");
        self.change_membership(out.bytes).await
    }

    async fn change_membership(&self, message: Vec<u8>) -> Result<(), ControllerError> {
        let Some(leader) = self.leader() else { return Err(ControllerError::NotController { leader: None }) };
        let answer = if leader == self.node_id {
            self.serve_membership(&message[1..]).await.map_err(|e| ControllerError::Stopped(e.to_string()))?
        } else {
            let address = self.address_of(leader).ok_or(ControllerError::NotController { leader: None })?;
            let answer = self.transport.call(leader, &address, message, CATCH_UP_MAX).await;
            answer.map_err(|e| ControllerError::Unreachable(e.to_string()))?
        };
        let mut get = Get::new(&answer);
        let failed = |e: DecodeError| ControllerError::Unreachable(e.to_string());
        match get.u8("outcome").map_err(failed)? {
            0 => Ok(()),
            _ => Err(ControllerError::Stopped(get.string("reason").map_err(failed)?)),
        }
    }

    async fn serve_membership(&self, message: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let mut get = Get::new(message);
        let (kind, node, address) = (get.u8("change")?, get.u64("node")?, get.string("address")?);
        let change = tokio::time::timeout(CATCH_UP_MAX, self.change(kind, node, address)).await;
        let outcome = change.unwrap_or_else(|_| Err(format!("node {node} has not caught up within {CATCH_UP_MAX:?}")));
        let mut out = Put::default();
        match outcome {
            Ok(()) => out.u8(0),
            Err(reason) => out.u8(1).string(&reason),
        };
        Ok(out.bytes)
    }

    async fn change(&self, kind: u8, node: NodeId, address: String) -> Result<(), String> {
        let raft = &self.raft;
        if kind != REMOVE {
            // A voter first learns all there is, so that the quorum is not held up by it.
            let added = raft.add_learner(node, BasicNode { addr: address }, kind == ADD_VOTER).await;
            added.map_err(|e| e.to_string())?;
        }
        let change = match kind {
            ADD_LEARNER => return Ok(()),
            ADD_VOTER => ChangeMembers::AddVoterIds([node].into()),
            _ => ChangeMembers::RemoveVoters([node].into()),
        };
        let changed = raft.change_membership(change, false).await;
        match changed {
            Ok(_) => {}
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => {
                return Err(error.to_string());
            }
            Err(error) => return Err(error.to_string()),
        }
        if kind == REMOVE {
            let removed = raft.change_membership(ChangeMembers::RemoveNodes([node].into()), false).await;
            removed.map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// Stops the Raft member. Requests under way have an unknown outcome.
    pub async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "the controller did not stop cleanly");
        }
    }
}

const ADD_LEARNER: u8 = 0;
const ADD_VOTER: u8 = 1;
const REMOVE: u8 = 2;

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

/// Who answered.
pub(crate) struct Identity {
    pub(crate) node_id: NodeId,
    /// It is a member of a cluster.
    pub(crate) formed: bool,
    pub(crate) read_index: Option<u64>,
}

pub(crate) fn decode_identity(bytes: &[u8]) -> Result<Identity, DecodeError> {
    let mut get = Get::new(bytes);
    let (node_id, formed) = (get.u64("node")?, get.u8("formed")? != 0);
    let (has, index) = (get.u8("has read index")? != 0, get.u64("read index")?);
    Ok(Identity { node_id, formed, read_index: has.then_some(index) })
}

/// The voters of a new cluster, from addresses alone: every one of `bootstrap` is asked who it is, until all have
/// answered. None if one of them is a member of a cluster already.
async fn discover_voters(
    transport: &dyn RaftTransport,
    node_id: NodeId,
    own_address: &str,
    bootstrap: &[String],
) -> Option<BTreeMap<NodeId, String>> {
    let mut voters = BTreeMap::from([(node_id, own_address.to_owned())]);
    let mut left: Vec<&String> = bootstrap.iter().filter(|a| *a != own_address).collect();
    while !left.is_empty() {
        let mut missing = Vec::new();
        for address in left {
            let answer = transport.call(NodeId::MAX, address, vec![IDENTIFY, 0], CALL_MAX).await;
            match answer.ok().and_then(|bytes| decode_identity(&bytes).ok()) {
                Some(found) if found.formed => return None,
                Some(found) => {
                    voters.insert(found.node_id, address.clone());
                }
                None => missing.push(address),
            }
        }
        left = missing;
        if !left.is_empty() {
            tracing::info!(waiting_for = ?left, "the other controllers do not answer yet");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    Some(voters)
}
