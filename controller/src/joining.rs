//! How a node comes to its cluster: as one of the first voters, as a follower of the metadata, or after a restart.
//!
//! Owns the questions that nodes ask each other before they are a cluster (IDENTIFY). Does not own changes of the quorum
//! (`membership`). Invariants: a node initializes a quorum only while nobody it asked belongs to one; a voter whose log is
//! empty, although it took part before, is refused: its votes are forgotten, and a second vote in a term could lose decisions.
//! Until that is known no message of Raft is taken.
//! A crash leaves a node that is a member or is not; it asks again at its next start.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::BasicNode;
use openraft::error::{InitializeError, RaftError};
use strandline_protocol::ids::BrokerId;

use crate::encoding::{DecodeError, Get, Put};
use crate::handle::{CALL_MAX, ControllerHandle};
use crate::raft::network::IDENTIFY;
use crate::raft::types::NodeId;
use crate::service::StartError;

/// A new leader applies its own log within this time.
const FIRST_APPLY_MAX: Duration = Duration::from_secs(60);
/// One node is asked who it is for at most this long.
const ASK_MAX: Duration = Duration::from_secs(1);
/// Between two rounds of questions.
const ASK_PAUSE: Duration = Duration::from_millis(50);
/// Rounds without an answer before it is said who is waited for.
const QUIET_ROUNDS: u32 = 20;

/// How a node comes to its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Formation {
    /// All voters of a new cluster are known by id and address (`controller.quorum.voters`), this node among them.
    Voters(BTreeMap<NodeId, String>),
    /// Only addresses are known (`controller.quorum.bootstrap.servers`); this node may be at one of them, under `own_address`
    /// or under another name.
    Bootstrap { own_address: String, bootstrap: Vec<String> },
    /// The node follows the metadata without a vote; these are addresses of controllers.
    Follower { own_address: String, controllers: Vec<String> },
}

/// What a node with an empty log is to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// There is no cluster yet.
    NoCluster,
    /// A voter, whose log comes from the others.
    Counted,
    /// No member with a vote.
    Stranger,
}

/// What one node answers about itself, and about who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) node_id: NodeId,
    /// It is a member of a cluster.
    pub(crate) formed: bool,
    /// That cluster has decided nothing yet: no controller was ever active.
    pub(crate) untouched: bool,
    /// Who asks is a voter of that cluster.
    pub(crate) counts_asker: bool,
    /// Who asks has been part of that cluster: it had a log.
    pub(crate) knows_asker: bool,
    /// All that is committed has this index at most; only if it was asked for, and of the active controller.
    pub(crate) read_index: Option<u64>,
    /// The active controller with its address.
    pub(crate) leader: Option<(NodeId, String)>,
}

impl Identity {
    fn encode(&self) -> Vec<u8> {
        let mut out = Put::default();
        let flags = [self.formed, self.counts_asker, self.knows_asker, self.untouched];
        out.u64(self.node_id).u8(flags.iter().rev().fold(0, |all, flag| all << 1 | u8::from(*flag)));
        out.u8(self.read_index.is_some().into()).u64(self.read_index.unwrap_or(0));
        let (id, address) = self.leader.as_ref().map_or((0, ""), |(id, address)| (*id, address.as_str()));
        out.u8(self.leader.is_some().into()).u64(id).string(address);
        out.bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut get = Get::new(bytes);
        let (node_id, flags) = (get.u64("node")?, get.u8("flags")?);
        let (has_index, index) = (get.u8("has read index")? != 0, get.u64("read index")?);
        let (has_leader, id, address) = (get.u8("has leader")? != 0, get.u64("leader")?, get.string("address")?);
        Ok(Identity {
            node_id,
            formed: flags & 1 != 0,
            counts_asker: flags & 2 != 0,
            knows_asker: flags & 4 != 0,
            untouched: flags & 8 != 0,
            read_index: has_index.then_some(index),
            leader: has_leader.then_some((id, address)),
        })
    }
}

/// The question, of `asker`.
pub(crate) fn identify(asker: NodeId, wants_read_index: bool) -> Vec<u8> {
    let mut out = Put::default();
    out.u8(IDENTIFY).u8(wants_read_index.into()).u64(asker);
    out.bytes
}

impl ControllerHandle {
    /// Answers [`identify`].
    pub(crate) async fn identity(&self, question: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let mut get = Get::new(question);
        let (wants_read_index, asker) = (get.u8("wants read index")? != 0, get.u64("asker")?);
        let read_index = match wants_read_index {
            true => self.raft.ensure_linearizable().await.ok().flatten().map(|id| id.index),
            false => None,
        };
        let leader = self.leader().and_then(|id| Some((id, self.address_of(id)?)));
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let mut voters = metrics.membership_config.membership().voter_ids();
        let formed = voters.next().is_some();
        // The first entry is the membership alone; an active controller adds its own.
        let untouched = metrics.last_log_index.is_none_or(|index| index == 0);
        let counts_asker = metrics.membership_config.membership().voter_ids().any(|id| id == asker);
        let heard = metrics.replication.as_ref().and_then(|r| r.get(&asker)).is_some_and(Option::is_some);
        let registered = BrokerId::try_from(asker).is_ok_and(|id| self.image().brokers.contains_key(&id));
        let knows_asker = heard || registered;
        let node_id = self.node_id;
        Ok(Identity { node_id, formed, untouched, counts_asker, knows_asker, read_index, leader }.encode())
    }

    async fn ask_who(&self, address: &str) -> Option<Identity> {
        // The active controller looks whether it still is one: its word about the asker then counts.
        let question = identify(self.node_id, true);
        let answer = self.transport.call(NodeId::MAX, address, question, ASK_MAX).await.ok()?;
        Identity::decode(&answer).ok()
    }

    /// Makes this node a member of a cluster, unless its log says that it is one; then waits until the cluster has an
    /// active controller and this node has what its own log holds.
    pub async fn form(&self, formation: Formation) -> Result<(), StartError> {
        let failed = |e: String| StartError::Raft(e);
        let is_new = !self.raft.is_initialized().await.map_err(|e| failed(e.to_string()))?;
        if is_new {
            match formation {
                Formation::Voters(voters) => self.begin(voters).await?,
                Formation::Bootstrap { own_address, bootstrap } => {
                    match self.discover_voters(&own_address, &bootstrap).await {
                        Some(voters) => self.initialize(voters).await?,
                        None => self.come_to(&own_address, &bootstrap).await?,
                    }
                }
                Formation::Follower { own_address, controllers } => self.come_to(&own_address, &controllers).await?,
            }
        } else {
            self.admits.store(true, Ordering::Release);
            if !self.is_voter() {
                self.follow_again(formation).await;
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

    /// Whether this node votes, as far as its own log says.
    pub fn is_voter(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        metrics.membership_config.membership().voter_ids().any(|id| id == self.node_id)
    }

    /// Initializes the quorum of a new cluster, or waits for one that is there already.
    async fn begin(&self, voters: BTreeMap<NodeId, String>) -> Result<(), StartError> {
        let others: Vec<String> =
            voters.iter().filter(|(id, _)| **id != self.node_id).map(|(_, address)| address.clone()).collect();
        let own_address = voters.get(&self.node_id).cloned().unwrap_or_default();
        // A cluster that is there has a majority; one of it is among these, so that its word is heard first.
        match self.hear(&others, voters.len() / 2).await? {
            Heard::NoCluster => self.initialize(voters).await,
            // A new cluster whose others were quicker: their log comes.
            Heard::Counted => Ok(()),
            Heard::Stranger => {
                self.follow(&own_address, &others).await;
                Ok(())
            }
        }
    }

    /// Comes to a cluster that is there, or is about to be.
    async fn come_to(&self, own_address: &str, controllers: &[String]) -> Result<(), StartError> {
        let others: Vec<String> = controllers.iter().filter(|a| *a != own_address).cloned().collect();
        if self.hear(&others, usize::MAX).await? != Heard::Counted {
            self.follow(own_address, &others).await;
        }
        Ok(())
    }

    /// Asks until it is known what this node, whose log is empty, is to the others; then lets Raft's messages in. That there is
    /// no cluster is believed of `least` others. Of one that has decided something, only its active controller is believed:
    /// others may not know yet that this node was part of it.
    async fn hear(&self, others: &[String], least: usize) -> Result<Heard, StartError> {
        let mut round = 0;
        loop {
            let answers = futures_util::future::join_all(others.iter().map(|address| self.ask_who(address))).await;
            let mut answers: Vec<Identity> = answers.into_iter().flatten().collect();
            let leader = answers.iter().find_map(|a| a.leader.clone());
            if let Some((id, address)) = leader.filter(|(id, _)| answers.iter().all(|a| a.node_id != *id)) {
                tracing::debug!(id, address, "the active controller is not among those that are asked");
                answers.extend(self.ask_who(&address).await);
            }
            let formed: Vec<&Identity> = answers.iter().filter(|a| a.formed).collect();
            let judge = formed.iter().find(|a| a.read_index.is_some());
            let heard = match judge {
                Some(judge) if judge.counts_asker && judge.knows_asker => {
                    return Err(StartError::Forgotten { node: self.node_id });
                }
                Some(judge) if judge.counts_asker => Some(Heard::Counted),
                Some(_) => Some(Heard::Stranger),
                None if formed.is_empty() && answers.len() >= least => Some(Heard::NoCluster),
                None if formed.iter().any(|a| a.counts_asker) && formed.iter().all(|a| a.untouched) => {
                    Some(Heard::Counted)
                }
                None => None,
            };
            if let Some(heard) = heard {
                self.admits.store(true, Ordering::Release);
                return Ok(heard);
            }
            self.tell_waiting(&mut round, others);
            tokio::time::sleep(ASK_PAUSE).await;
        }
    }

    fn tell_waiting(&self, round: &mut u32, others: &[String]) {
        *round += 1;
        if *round == QUIET_ROUNDS {
            tracing::info!(waiting_for = ?others, "the other controllers do not answer yet");
        }
    }

    async fn initialize(&self, voters: BTreeMap<NodeId, String>) -> Result<(), StartError> {
        self.admits.store(true, Ordering::Release);
        let nodes: BTreeMap<NodeId, BasicNode> =
            voters.into_iter().map(|(id, addr)| (id, BasicNode { addr })).collect();
        match self.raft.initialize(nodes).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(StartError::Raft(error.to_string())),
        }
    }

    /// The voters of a new cluster, from addresses alone: every one of `bootstrap` is asked who it is, until all have
    /// answered. None if one of them is a member of a cluster already, or this node is not among them.
    async fn discover_voters(&self, own_address: &str, bootstrap: &[String]) -> Option<BTreeMap<NodeId, String>> {
        let mut voters = BTreeMap::from([(self.node_id, own_address.to_owned())]);
        let mut left: Vec<String> = bootstrap.iter().filter(|a| *a != own_address).cloned().collect();
        let (mut round, mut found_self) = (0, false);
        while !left.is_empty() {
            let mut missing = Vec::new();
            for address in left {
                match self.ask_who(&address).await {
                    Some(found) if found.formed => return None,
                    Some(found) => {
                        found_self |= found.node_id == self.node_id;
                        voters.insert(found.node_id, address);
                    }
                    None => missing.push(address),
                }
            }
            left = missing;
            if !left.is_empty() {
                self.tell_waiting(&mut round, &left);
                tokio::time::sleep(ASK_PAUSE).await;
            }
        }
        // Who is not among those that were asked is no voter of the new cluster.
        let listed = bootstrap.iter().any(|a| a == own_address) || found_self;
        listed.then_some(voters)
    }

    /// A member without a vote has come back, perhaps at another address, perhaps when it is no member any more.
    async fn follow_again(&self, formation: Formation) {
        let (own_address, mut controllers) = match formation {
            Formation::Follower { own_address, controllers } => (own_address, controllers),
            Formation::Bootstrap { own_address, bootstrap } => (own_address, bootstrap),
            Formation::Voters(voters) => {
                (voters.get(&self.node_id).cloned().unwrap_or_default(), voters.into_values().collect())
            }
        };
        // The settings may be older than the cluster.
        let known = self.raft.metrics();
        let known =
            known.borrow().membership_config.membership().nodes().map(|(_, n)| n.addr.clone()).collect::<Vec<_>>();
        controllers.extend(known);
        self.follow(&own_address, &controllers).await;
    }

    /// Becomes a follower of the metadata without a vote, at its present address; a voter stays one. Asks until it is done.
    async fn follow(&self, own_address: &str, controllers: &[String]) {
        let mut round = 0;
        loop {
            for address in controllers.iter().filter(|a| *a != own_address) {
                let Some(Identity { leader: Some((id, leader)), .. }) = self.ask_who(address).await else { continue };
                match self.ask_to_follow(id, &leader, own_address, CALL_MAX).await {
                    Ok(()) => return,
                    Err(reason) => tracing::info!(reason, "the active controller does not take this node yet"),
                }
            }
            self.tell_waiting(&mut round, controllers);
            tokio::time::sleep(ASK_PAUSE).await;
        }
    }
}
