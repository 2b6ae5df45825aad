//! Who is a member of the metadata log's quorum, with a vote or without.
//!
//! Owns changes of it, asked of the active controller from any node. Does not own how a new node finds its cluster
//! (`joining`). One change is under way at a time (Raft's rule); a crash leaves the old or the new membership.

use std::time::Duration;

use openraft::error::{ClientWriteError, RaftError};
use openraft::{BasicNode, ChangeMembers};
use strandline_protocol::ids::BrokerId;

use crate::encoding::{DecodeError, Get, Put};
use crate::handle::ControllerHandle;
use crate::raft::network::MEMBERSHIP;
use crate::raft::types::NodeId;
use crate::service::ControllerError;

/// A voter to be added catches up within this time.
const CATCH_UP_MAX: Duration = Duration::from_secs(60);

const ADD_FOLLOWER: u8 = 0;
const ADD_VOTER: u8 = 1;
const REMOVE: u8 = 2;

fn message(change: u8, node: NodeId, address: &str) -> Vec<u8> {
    let mut out = Put::default();
    out.u8(MEMBERSHIP).u8(change).u64(node).string(address);
    out.bytes
}

/// The outcome of a change that another node carried out.
fn decode_outcome(answer: &[u8]) -> Result<Result<(), String>, DecodeError> {
    let mut get = Get::new(answer);
    Ok(match get.u8("outcome")? {
        0 => Ok(()),
        _ => Err(get.string("reason")?),
    })
}

impl ControllerHandle {
    /// Adds a voter, or a node that only follows, wherever the active controller is.
    pub async fn add_member(&self, node: NodeId, address: &str, voter: bool) -> Result<(), ControllerError> {
        self.change_membership(message(if voter { ADD_VOTER } else { ADD_FOLLOWER }, node, address)).await
    }

    /// Takes a node's vote; a node that is still a registered broker goes on following the metadata. One without a vote
    /// is no member any more.
    pub async fn remove_member(&self, node: NodeId) -> Result<(), ControllerError> {
        self.change_membership(message(REMOVE, node, "")).await
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
        let outcome = decode_outcome(&answer).map_err(|e| ControllerError::Unreachable(e.to_string()))?;
        outcome.map_err(ControllerError::Stopped)
    }

    /// Asks a given node, which should be the active controller, to let this one follow.
    pub(crate) async fn ask_to_follow(
        &self,
        leader: NodeId,
        at: &str,
        own_address: &str,
        deadline: Duration,
    ) -> Result<(), String> {
        let message = message(ADD_FOLLOWER, self.node_id, own_address);
        let answer = self.transport.call(leader, at, message, deadline).await.map_err(|e| e.to_string())?;
        decode_outcome(&answer).map_err(|e| e.to_string())?
    }

    /// Answers a change that another node asks for.
    pub(crate) async fn serve_membership(&self, message: &[u8]) -> Result<Vec<u8>, DecodeError> {
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
        let (known, votes) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            let membership = metrics.membership_config.membership();
            (membership.get_node(&node).map(|n| n.addr.clone()), membership.voter_ids().any(|id| id == node))
        };
        match kind {
            REMOVE => self.remove(node, votes).await,
            // A voter is where its cluster was told that it is.
            ADD_FOLLOWER if votes => Ok(()),
            ADD_FOLLOWER => self.add_follower(node, known, address).await,
            _ => {
                self.add_follower(node, known, address).await?;
                // A voter first learns all there is, so that the quorum is not held up by it.
                let added = self.raft.add_learner(node, BasicNode::default(), true).await;
                added.map_err(|e| e.to_string())?;
                self.apply(ChangeMembers::AddVoterIds([node].into()), false).await
            }
        }
    }

    async fn add_follower(&self, node: NodeId, known: Option<String>, address: String) -> Result<(), String> {
        if known.as_ref() == Some(&address) {
            return Ok(());
        }
        self.apply(ChangeMembers::SetNodes([(node, BasicNode { addr: address })].into()), true).await
    }

    async fn remove(&self, node: NodeId, votes: bool) -> Result<(), String> {
        let runs = BrokerId::try_from(node).is_ok_and(|id| self.image().brokers.get(&id).is_some_and(|b| !b.fenced));
        if votes {
            self.apply(ChangeMembers::RemoveVoters([node].into()), runs).await?;
        }
        if votes && runs {
            return Ok(());
        }
        self.apply(ChangeMembers::RemoveNodes([node].into()), false).await
    }

    /// `retain`: a voter that loses its vote goes on following.
    async fn apply(&self, change: ChangeMembers<NodeId, BasicNode>, retain: bool) -> Result<(), String> {
        match self.raft.change_membership(change, retain).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}
