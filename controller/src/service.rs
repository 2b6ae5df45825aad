//! The controller of one node: its Raft member and the loop that turns requests into entries.
//!
//! Owns starting, forming a cluster of one, and the queue of requests. Decisions are `decide`'s. Requests that wait
//! together are decided together, each against the image that those before it leave, and become one Raft entry.
//! A request is answered after its entry is applied; a crash before that leaves either outcome, as a lost answer does.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use openraft::{Config, SnapshotPolicy};
use strandline_disk::{Disk, Workers};
use tokio::sync::{mpsc, oneshot};

use crate::balancer::{self, LeaderBalance};
use crate::decide::{Decision, Defaults, decide};
use crate::detector;
use crate::handle::ControllerHandle;
use crate::image::MetadataImage;
use crate::raft::log_file::OpenLogError;
use crate::raft::log_store::LogStore;
use crate::raft::network::{Peers, RaftTransport};
use crate::raft::state_machine::{OpenSnapshotError, StateMachine, Updates};
use crate::raft::types::{Applied, EntryData, NodeId, Raft};
use crate::record::{RECORDS_PER_ENTRY_MAX, encode_records};
use crate::request::{Request, Response};

/// Requests waiting to be decided, at most.
const QUEUE_MAX: usize = 1024;
/// Requests decided together, at most.
const BATCH_MAX: usize = 256;
/// Between an active controller's heartbeats to the others, ms.
const HEARTBEAT_MS: u64 = 60;
/// A controller's patience, ms: the others keep to a silent one for the longest, then wait between the two before they stand for
/// election, so that a killed one is replaced within 0.65 to 0.8 s.
const ELECTION_MS: Range<u64> = 250..400;
/// Entries between snapshots.
const SNAPSHOT_EVERY_ENTRIES: u64 = 10_000;
/// Entries kept behind a snapshot for followers that lag.
const ENTRIES_KEPT: u64 = 1_000;

/// Reads wall-clock time, in ms since the epoch.
pub type WallClock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// What a controller is started with.
pub struct ControllerOptions {
    pub node_id: NodeId,
    /// Existing directory that holds `log` and `snapshot`.
    pub dir: PathBuf,
    pub disk: Arc<dyn Disk>,
    /// Who writes the log.
    pub workers: Workers,
    pub transport: Arc<dyn RaftTransport>,
    pub clock: WallClock,
    pub defaults: Defaults,
    /// A broker that was not heard of for so long is fenced.
    pub session_timeout: Duration,
    /// None = leaderships are given back only when somebody asks for it.
    pub leader_balance: Option<LeaderBalance>,
}

/// Why a controller does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Log(#[from] OpenLogError),
    #[error(transparent)]
    Snapshot(#[from] OpenSnapshotError),
    #[error("Raft does not start: {0}")]
    Raft(String),
    #[error(
        "node {node} votes on the metadata log of this cluster, but its metadata directory is empty: it has forgotten what it \
         voted for, and could help to elect a controller that lacks decisions. Restore the directory; or take the node out \
         (`strandline cluster remove-controller {node}`), start it again, and make it a voter again \
         (`strandline cluster add-controller {node} HOST:PORT`); or give it another node.id"
    )]
    Forgotten { node: NodeId },
}

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControllerError {
    /// Ask `leader` instead, if it is known. Nothing was written by this request.
    #[error("this node is not the active controller (that is {leader:?})")]
    NotController { leader: Option<NodeId> },
    /// The request was not decided.
    #[error("the request's records do not fit one entry; ask for less at once")]
    TooLarge,
    /// The outcome is unknown.
    #[error("the controller has stopped: {0}")]
    Stopped(String),
    /// The outcome is unknown.
    #[error("the active controller cannot be reached: {0}")]
    Unreachable(String),
}

impl ControllerError {
    /// Whether the same request may be sent again, perhaps elsewhere.
    pub fn retryable(&self) -> bool {
        matches!(self, ControllerError::NotController { .. } | ControllerError::Unreachable(_))
    }
}

pub(crate) struct Pending {
    pub(crate) request: Request,
    pub(crate) answer: oneshot::Sender<Result<Response, ControllerError>>,
}

/// Starts this node's controller. It is a member of nothing until its log says so, or [`ControllerHandle::form`] is called;
/// its messages must be served from now on ([`ControllerHandle::serve`]).
pub async fn start(options: ControllerOptions) -> Result<ControllerHandle, StartError> {
    let log = LogStore::open(options.disk.clone(), &options.dir, &options.workers)?;
    let reader = Updates::default();
    let machine = StateMachine::open(options.disk.clone(), &options.dir, Arc::clone(&reader))?;
    let image = machine.published();
    let config = Config {
        cluster_name: "strandline".to_owned(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MS.start,
        election_timeout_max: ELECTION_MS.end,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY_ENTRIES),
        max_in_snapshot_log_to_keep: ENTRIES_KEPT,
        ..Config::default()
    };
    let config = Arc::new(config.validate().map_err(|e| StartError::Raft(e.to_string()))?);
    let transport = Arc::clone(&options.transport);
    let peers = Peers::new(options.transport);
    let raft =
        Raft::new(options.node_id, config, peers, log, machine).await.map_err(|e| StartError::Raft(e.to_string()))?;
    let (queue, pending) = mpsc::channel(QUEUE_MAX);
    tokio::spawn(run(raft.clone(), image.clone(), pending, options.clock, options.defaults));
    let handle = ControllerHandle::new(options.node_id, queue, image, reader, raft, transport);
    tokio::spawn(detector::run(handle.clone(), options.session_timeout));
    if let Some(balance) = options.leader_balance {
        tokio::spawn(balancer::run(handle.clone(), balance));
    }
    Ok(handle)
}

/// Carries requests until the last handle is gone.
async fn run(
    raft: Raft,
    image: Arc<ArcSwap<MetadataImage>>,
    mut pending: mpsc::Receiver<Pending>,
    clock: WallClock,
    defaults: Defaults,
) {
    let mut batch = Vec::new();
    while pending.recv_many(&mut batch, BATCH_MAX).await > 0 {
        carry_out(&raft, &image.load_full(), &defaults, std::mem::take(&mut batch), clock()).await;
    }
}

async fn carry_out(raft: &Raft, image: &MetadataImage, defaults: &Defaults, batch: Vec<Pending>, now_ms: i64) {
    // Who reads an old image must not decide.
    if let Err(error) = raft.ensure_linearizable().await {
        let error = refusal(error.forward_to_leader().map(|f| f.leader_id), &error);
        batch.into_iter().for_each(|p| drop(p.answer.send(Err(error.clone()))));
        return;
    }
    let mut speculative = image.clone();
    let mut records = Vec::new();
    let mut decided: Vec<(Pending, Response, usize)> = Vec::new();
    for pending in batch {
        let Decision { records: more, response } = decide(&speculative, defaults, &pending.request, now_ms);
        if records.len() + more.len() > RECORDS_PER_ENTRY_MAX {
            drop(pending.answer.send(Err(ControllerError::TooLarge)));
            continue;
        }
        let mut advances = 0;
        for record in &more {
            advances += usize::from(speculative.replay(record, image.index + 1).is_some());
        }
        records.extend(more);
        decided.push((pending, response, advances));
    }
    let applied = if records.is_empty() {
        Ok(Applied::default())
    } else {
        let data = EntryData(encode_records(&records));
        raft.client_write(data).await.map(|written| written.data)
    };
    match applied {
        Ok(applied) => answer_all(decided, applied),
        Err(error) => {
            let error = refusal(error.forward_to_leader().map(|f| f.leader_id), &error);
            decided.into_iter().for_each(|(p, ..)| drop(p.answer.send(Err(error.clone()))));
        }
    }
}

/// Hands out answers; those that only replay can know are filled in here.
fn answer_all(decided: Vec<(Pending, Response, usize)>, applied: Applied) {
    let mut outcomes = applied.advances.into_iter();
    for (pending, response, advances) in decided {
        let response = match response {
            Response::RegisterBroker(Ok(-1)) => {
                Response::RegisterBroker(Ok(i64::try_from(applied.index).expect("a Raft index fits 63 bits")))
            }
            Response::Advance(_) => Response::Advance(outcomes.by_ref().take(advances).collect()),
            other => other,
        };
        drop(pending.answer.send(Ok(response)));
    }
}

fn refusal(forward: Option<Option<NodeId>>, error: &dyn std::error::Error) -> ControllerError {
    match forward {
        Some(leader) => ControllerError::NotController { leader },
        None => ControllerError::Stopped(error.to_string()),
    }
}
