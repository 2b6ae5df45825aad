//! Clients that commit offsets to groups and ask for them: an acknowledged position is never lost and never goes back.
//!
//! Owns the groups of a run and what their one client believes. Commits as a consumer without a membership does (generation -1).
//! Invariants: positions of a group rise; a group whose commit has no known outcome is left alone for ever, because that commit may
//! arrive at any later time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use strandline_client::Cluster;
use strandline_protocol::messages::find_coordinator_request::FindCoordinatorRequest;
use strandline_protocol::messages::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use strandline_protocol::messages::offset_fetch_request::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopics,
};
use tokio::time::sleep;

use super::clients::Shared;
use crate::history::op::{Action, Key, Position, Stage};
use crate::random::Random;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(100);
/// Between two commits, ms, at most.
const PAUSE_MS: u64 = 150;
/// A position rises by so much, at most.
const STEP_MAX: u64 = 50;
/// The newest versions that name topics.
const OFFSET_COMMIT: i16 = 8;
const OFFSET_FETCH: i16 = 8;

/// The groups of a run.
#[derive(Default)]
pub struct Groups(Mutex<Vec<String>>);

impl Groups {
    fn begin(&self, client: u32) -> String {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let group = format!("group-{client}-{}", all.len());
        all.push(group.clone());
        group
    }

    /// All that were begun.
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What became of a request.
enum Outcome {
    Done,
    /// An error code: it was looked at, and the same request may be sent again.
    Refused(i16),
    /// No answer.
    Unknown(String),
}

/// One client of groups.
pub struct Committer {
    shared: Arc<Shared>,
    cluster: Cluster,
    process: u32,
}

impl Committer {
    pub fn new(shared: &Arc<Shared>) -> Self {
        let cluster = Cluster::over(shared.network.clone(), &shared.bootstrap, "groups", ANSWER);
        Committer { shared: Arc::clone(shared), cluster, process: shared.recorder.process() }
    }

    async fn coordinator(&self, group: &str) -> Result<i32, String> {
        // Where the nodes are.
        self.cluster.metadata(Some(&[]), false).await.map_err(|error| error.to_string())?;
        let request = FindCoordinatorRequest { coordinator_keys: vec![group.to_owned()], ..Default::default() };
        let response = self.cluster.ask(&request).await.map_err(|error| error.to_string())?;
        let found = response.coordinators.first().ok_or("no coordinator in the answer")?;
        if found.error_code == 0 {
            Ok(found.node_id)
        } else {
            Err(format!("FindCoordinator: error {}", found.error_code))
        }
    }

    async fn commit(&self, group: &str, offset: i64) -> Outcome {
        // Nothing was sent yet if this fails.
        let Ok(node) = self.coordinator(group).await else { return Outcome::Refused(-1) };
        let Ok(connection) = self.cluster.node(node).await else { return Outcome::Refused(-1) };
        let partition =
            OffsetCommitRequestPartition { partition_index: 0, committed_offset: offset, ..Default::default() };
        let topic = OffsetCommitRequestTopic {
            name: self.shared.topic.clone(),
            partitions: vec![partition],
            ..Default::default()
        };
        let request = OffsetCommitRequest {
            group_id: group.to_owned(),
            generation_id_or_member_epoch: -1,
            topics: vec![topic],
            ..Default::default()
        };
        match connection.call_version(OFFSET_COMMIT, &request, ANSWER).await {
            Err(error) => Outcome::Unknown(error.to_string()),
            Ok(response) => match response.topics[0].partitions[0].error_code {
                0 => Outcome::Done,
                code => Outcome::Refused(code),
            },
        }
    }

    async fn committed(&self, group: &str) -> Result<i64, String> {
        let node = self.coordinator(group).await?;
        let connection = self.cluster.node(node).await.map_err(|error| error.to_string())?;
        let topic = OffsetFetchRequestTopics {
            name: self.shared.topic.clone(),
            partition_indexes: vec![0],
            ..Default::default()
        };
        let wanted =
            OffsetFetchRequestGroup { group_id: group.to_owned(), topics: Some(vec![topic]), ..Default::default() };
        let request = OffsetFetchRequest { groups: vec![wanted], require_stable: true, ..Default::default() };
        let response = connection.call_version(OFFSET_FETCH, &request, ANSWER).await.map_err(|e| e.to_string())?;
        let group = response.groups.first().ok_or("no group in the answer")?;
        if group.error_code != 0 {
            return Err(format!("OffsetFetch: error {}", group.error_code));
        }
        let partition = group.topics.first().and_then(|t| t.partitions.first()).ok_or("no partition in the answer")?;
        if partition.error_code == 0 {
            Ok(partition.committed_offset)
        } else {
            Err(format!("OffsetFetch: error {}", partition.error_code))
        }
    }

    fn positions(&self, offset: i64) -> Vec<Position> {
        vec![Position { key: Key::new(&self.shared.topic, 0), offset }]
    }

    /// Commits until the outcome is known, or unknown for ever (`false`).
    async fn commit_told(&self, group: &str, offset: i64) -> bool {
        let tell = |stage| {
            let (group, positions) = (group.to_owned(), self.positions(offset));
            self.shared.tell(self.process, stage, Action::Commit { group, generation: 0, positions });
        };
        tell(Stage::Invoke);
        loop {
            match self.commit(group, offset).await {
                Outcome::Done => {
                    tell(Stage::Ok);
                    return true;
                }
                Outcome::Refused(code) => tracing::debug!(group, offset, code, "a commit was refused"),
                Outcome::Unknown(why) => {
                    tracing::debug!(group, offset, why, "a commit has no known outcome");
                    tell(Stage::Info);
                    return false;
                }
            }
            if self.shared.stopping() {
                tell(Stage::Info);
                return false;
            }
            sleep(RETRY).await;
        }
    }

    /// Asks for the group's position once. True if it was told.
    pub async fn ask(&self, group: &str) -> bool {
        let tell = |stage, offset| {
            let (group, positions) = (group.to_owned(), self.positions(offset));
            self.shared.tell(self.process, stage, Action::Committed { group, positions });
        };
        tell(Stage::Invoke, -1);
        match self.committed(group).await {
            Ok(offset) => {
                tell(Stage::Ok, offset);
                true
            }
            Err(why) => {
                tracing::debug!(group, why, "a position was not told");
                tell(Stage::Fail, -1);
                false
            }
        }
    }

    /// Asks for the positions of all groups until each was told.
    pub async fn ask_all(&self, groups: &[String]) {
        for group in groups {
            while !self.ask(group).await {
                sleep(RETRY).await;
            }
        }
    }
}

/// Commits rising positions and asks for them, until the run stops.
pub async fn commit(shared: Arc<Shared>, mut random: Random) {
    while !shared.stopping() {
        // An operation without a known outcome ends its process.
        let committer = Committer::new(&shared);
        let group = shared.groups.begin(committer.process);
        let mut offset = 0;
        while !shared.stopping() {
            offset += 1 + random.below(STEP_MAX).cast_signed();
            if !committer.commit_told(&group, offset).await {
                break;
            }
            if random.below(2) == 0 {
                committer.ask(&group).await;
            }
            sleep(Duration::from_millis(random.below(PAUSE_MS))).await;
        }
    }
}
