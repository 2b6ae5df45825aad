//! Raft messages: their bytes, and the seam through which they leave.
//!
//! Owns the encoding of the three calls (append, vote, install snapshot). Does not own connections: the broker
//! implements [`RaftTransport`] on the controller listener. A message is bounded by the transport's frame limit.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use openraft::BasicNode;
use openraft::error::{
    InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, SnapshotMismatch, Unreachable,
};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::types::{
    NodeId, Raft, TypeConfig, get_entry, get_option_log_id, get_snapshot_meta, get_vote, put_entry, put_option_log_id,
    put_snapshot_meta, put_vote,
};
use crate::encoding::{DecodeError, Get, Put};

/// Carries a message to another controller and brings its answer.
#[async_trait]
pub trait RaftTransport: Send + Sync + 'static {
    /// `address` is the target's controller endpoint, `host:port`. An error means that the outcome is unknown; only
    /// `ConnectionRefused` says that the message was not sent.
    async fn call(&self, target: NodeId, address: &str, message: Vec<u8>, deadline: Duration) -> io::Result<Vec<u8>>;

    /// Looks whether anybody is at `address`, quickly.
    async fn probe(&self, address: &str) -> Probe;
}

/// What a look at an address found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    Alive,
    /// The machine answers that nobody listens there: the process is gone.
    Gone,
    /// No answer: nothing is known.
    Unknown,
}

const APPEND: u8 = 1;
const VOTE: u8 = 2;
const SNAPSHOT: u8 = 3;
/// A broker's request, see [`crate::wire`].
pub(crate) const REQUEST: u8 = 16;
/// Asks for a voter to be added or removed.
pub(crate) const MEMBERSHIP: u8 = 17;
/// Asks who this is.
pub(crate) const IDENTIFY: u8 = 18;
/// How far the members of the quorum are, asked of the leader.
pub(crate) const QUORUM: u8 = 19;

/// Answers a message that another controller sent; what comes back goes back to it.
pub(crate) async fn serve(raft: &Raft, message: &[u8]) -> Result<Vec<u8>, ServeError> {
    let mut get = Get::new(message);
    let mut out = Put::default();
    match get.u8("message kind")? {
        APPEND => {
            let response = raft.append_entries(get_append(&mut get)?).await.map_err(stopped)?;
            put_append_response(&mut out, &response);
        }
        VOTE => {
            let request = VoteRequest { vote: get_vote(&mut get)?, last_log_id: get_option_log_id(&mut get)? };
            let response = raft.vote(request).await.map_err(stopped)?;
            put_vote(&mut out, &response.vote);
            put_option_log_id(out.u8(response.vote_granted.into()), response.last_log_id.as_ref());
        }
        SNAPSHOT => match raft.install_snapshot(get_install(&mut get)?).await {
            Ok(response) => put_vote(out.u8(0), &response.vote),
            Err(RaftError::APIError(InstallSnapshotError::SnapshotMismatch(mismatch))) => {
                out.u8(1);
                for segment in [&mismatch.expect, &mismatch.got] {
                    out.string(&segment.id).u64(segment.offset);
                }
            }
            Err(RaftError::Fatal(fatal)) => return Err(ServeError::Stopped(fatal.to_string())),
        },
        other => return Err(DecodeError::Unknown { field: "message kind", value: other.into() }.into()),
    }
    Ok(out.bytes)
}

/// Why a message was not answered.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("malformed Raft message: {0}")]
    Malformed(#[from] DecodeError),
    #[error("this controller has stopped: {0}")]
    Stopped(String),
    #[error("this node does not know yet whether it is part of a cluster")]
    NotYet,
}

fn stopped(error: RaftError<NodeId>) -> ServeError {
    ServeError::Stopped(error.to_string())
}

fn get_append(get: &mut Get<'_>) -> Result<AppendEntriesRequest<TypeConfig>, DecodeError> {
    let vote = get_vote(get)?;
    let prev_log_id = get_option_log_id(get)?;
    let leader_commit = get_option_log_id(get)?;
    let count = get.count("entries", 25)?;
    let entries = (0..count).map(|_| get_entry(get)).collect::<Result<_, _>>()?;
    Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
}

fn put_append(out: &mut Put, request: &AppendEntriesRequest<TypeConfig>) {
    put_vote(out, &request.vote);
    put_option_log_id(out, request.prev_log_id.as_ref());
    put_option_log_id(out, request.leader_commit.as_ref());
    out.u32(request.entries.len() as u32);
    request.entries.iter().for_each(|entry| put_entry(out, entry));
}

fn put_append_response(out: &mut Put, response: &AppendEntriesResponse<NodeId>) {
    match response {
        AppendEntriesResponse::Success => {
            out.u8(0);
        }
        AppendEntriesResponse::PartialSuccess(id) => put_option_log_id(out.u8(1), id.as_ref()),
        AppendEntriesResponse::Conflict => {
            out.u8(2);
        }
        AppendEntriesResponse::HigherVote(vote) => put_vote(out.u8(3), vote),
    }
}

fn get_append_response(get: &mut Get<'_>) -> Result<AppendEntriesResponse<NodeId>, DecodeError> {
    Ok(match get.u8("append response")? {
        0 => AppendEntriesResponse::Success,
        1 => AppendEntriesResponse::PartialSuccess(get_option_log_id(get)?),
        2 => AppendEntriesResponse::Conflict,
        3 => AppendEntriesResponse::HigherVote(get_vote(get)?),
        other => return Err(DecodeError::Unknown { field: "append response", value: other.into() }),
    })
}

fn get_install(get: &mut Get<'_>) -> Result<InstallSnapshotRequest<TypeConfig>, DecodeError> {
    let vote = get_vote(get)?;
    let meta = get_snapshot_meta(get)?;
    let offset = get.u64("offset")?;
    let done = get.u8("done")? != 0;
    Ok(InstallSnapshotRequest { vote, meta, offset, done, data: get.take("data", get.remaining())?.to_vec() })
}

/// Who is not reachable is told once in this time, for each member.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// When it was last told that a member is not reachable.
type Told = Arc<Mutex<HashMap<NodeId, Instant>>>;

/// Makes one [`Peer`] per target.
pub(crate) struct Peers {
    transport: Arc<dyn RaftTransport>,
    told: Told,
}

impl Peers {
    pub(crate) fn new(transport: Arc<dyn RaftTransport>) -> Self {
        Peers { transport, told: Told::default() }
    }
}

impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, node: &BasicNode) -> Peer {
        Peer { transport: self.transport.clone(), target, address: node.addr.clone(), told: Arc::clone(&self.told) }
    }
}

/// Another controller.
pub(crate) struct Peer {
    transport: Arc<dyn RaftTransport>,
    target: NodeId,
    address: String,
    told: Told,
}

type CallError<E> = RPCError<NodeId, BasicNode, RaftError<NodeId, E>>;

impl Peer {
    async fn call<E: std::error::Error>(&self, message: Put, option: &RPCOption) -> Result<Vec<u8>, CallError<E>> {
        let answer = self.transport.call(self.target, &self.address, message.bytes, option.hard_ttl()).await;
        answer.map_err(|e| {
            self.tell_unreachable(&e);
            RPCError::Unreachable(Unreachable::new(&e))
        })
    }

    fn tell_unreachable(&self, error: &io::Error) {
        let (now, mut told) = (Instant::now(), self.told.lock());
        let recently = told.get(&self.target).is_some_and(|at| now.duration_since(*at) < TELL_EVERY);
        if !recently {
            told.insert(self.target, now);
            tracing::warn!(member = self.target, address = self.address, %error, "a member of the metadata quorum is not reachable");
        }
    }
}

fn garbled<E: std::error::Error>(error: &DecodeError) -> CallError<E> {
    RPCError::Network(NetworkError::new(error))
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, RPCError<NodeId, BasicNode, RaftError<NodeId>>> {
        let mut message = Put::default();
        put_append(message.u8(APPEND), &rpc);
        let answer = self.call(message, &option).await?;
        get_append_response(&mut Get::new(&answer)).map_err(|e| garbled(&e))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<NodeId>,
        option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, RPCError<NodeId, BasicNode, RaftError<NodeId>>> {
        let mut message = Put::default();
        put_vote(message.u8(VOTE), &rpc.vote);
        put_option_log_id(&mut message, rpc.last_log_id.as_ref());
        let answer = self.call(message, &option).await?;
        let mut get = Get::new(&answer);
        let mut read = || -> Result<_, DecodeError> {
            let vote = get_vote(&mut get)?;
            let vote_granted = get.u8("granted")? != 0;
            Ok(VoteResponse { vote, vote_granted, last_log_id: get_option_log_id(&mut get)? })
        };
        read().map_err(|e| garbled(&e))
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<NodeId>, RPCError<NodeId, BasicNode, RaftError<NodeId, InstallSnapshotError>>>
    {
        let mut message = Put::default();
        put_vote(message.u8(SNAPSHOT), &rpc.vote);
        put_snapshot_meta(&mut message, &rpc.meta);
        message.u64(rpc.offset).u8(rpc.done.into());
        message.bytes.extend_from_slice(&rpc.data);
        let answer = self.call(message, &option).await?;
        match get_install_answer(&mut Get::new(&answer)) {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(mismatch)) => {
                let error = RaftError::APIError(InstallSnapshotError::SnapshotMismatch(mismatch));
                Err(RPCError::RemoteError(RemoteError::new(self.target, error)))
            }
            Err(e) => Err(garbled(&e)),
        }
    }
}

fn get_install_answer(
    get: &mut Get<'_>,
) -> Result<Result<InstallSnapshotResponse<NodeId>, SnapshotMismatch>, DecodeError> {
    if get.u8("install answer")? == 0 {
        return Ok(Ok(InstallSnapshotResponse { vote: get_vote(get)? }));
    }
    let mut segment = || -> Result<_, DecodeError> {
        Ok(openraft::SnapshotSegmentId { id: get.string("snapshot id")?, offset: get.u64("offset")? })
    };
    Ok(Err(SnapshotMismatch { expect: segment()?, got: segment()? }))
}
