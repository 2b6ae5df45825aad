//! The group of workers: who is there, who leads, who runs what.
//!
//! Owns this worker's seat in `group.id` (protocol type `connect`) and, while it leads, the memory between rounds. Work that stays where
//! it is goes on during a round; what is taken away is stopped before the next one begins. Does not start or stop anything itself: it
//! tells the runner, and waits for it. A crash leaves a seat that the group frees after the session timeout.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use strandline_client::Cluster;
use strandline_client::group::membership::Standing;
use strandline_client::group::{GroupError, GroupOptions, Member, Seat};
use tokio::sync::{mpsc, oneshot, watch};

use super::assign::{Memory, Round, Unit, assign};
use super::config::WorkerConfig;
use super::records::TaskId;
use super::runner::Command;
use super::stopped;
use super::topics::StateTopics;
use crate::task::Clock;

/// Kafka Connect's protocol type. The protocol's name is ours: workers that cannot read each other's assignments do not mix.
const PROTOCOL_TYPE: &str = "connect";
const PROTOCOL: &str = "strandline";
/// Pause after a round failed.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the worker looks away from its surroundings, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A worker whose loop hangs this long gives its seat up.
const HANG_MAX: Duration = Duration::from_secs(300);

/// What this worker knows of its group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// None = no seat (yet).
    pub generation: Option<i32>,
    pub leads: bool,
    pub leader_url: Option<String>,
}

/// Who this worker is to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// host:port, as Kafka Connect shows it.
    pub worker_id: String,
    pub url: String,
}

pub fn units_to_json(units: &BTreeSet<Unit>) -> Value {
    let connectors: Vec<&String> =
        units.iter().filter_map(|u| if let Unit::Connector(name) = u { Some(name) } else { None }).collect();
    let tasks: Vec<Value> = units
        .iter()
        .filter_map(|u| if let Unit::Task(id) = u { Some(json!([id.connector, id.task])) } else { None })
        .collect();
    json!({ "connectors": connectors, "tasks": tasks })
}

fn units_from_json(value: &Value) -> BTreeSet<Unit> {
    let list = |key: &str| value[key].as_array().cloned().unwrap_or_default();
    let connectors = list("connectors").into_iter().filter_map(|n| Some(Unit::Connector(n.as_str()?.to_owned())));
    let tasks = list("tasks").into_iter().filter_map(|t| {
        let task = u32::try_from(t[1].as_u64()?).ok()?;
        Some(Unit::Task(TaskId { connector: t[0].as_str()?.to_owned(), task }))
    });
    connectors.chain(tasks).collect()
}

fn json_bytes(value: &Value) -> Bytes {
    Bytes::from(value.to_string().into_bytes())
}

/// What a member is told by its leader.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Assignment {
    leader_url: String,
    units: BTreeSet<Unit>,
    /// Some work changed hands: who let go of something joins again.
    revoked: bool,
}

impl Assignment {
    fn to_bytes(&self) -> Bytes {
        json_bytes(&json!({
            "version": 1, "leader_url": self.leader_url, "revoked": self.revoked, "units": units_to_json(&self.units),
        }))
    }

    /// Unreadable bytes are an empty assignment: nothing runs that nobody gave.
    fn from_bytes(bytes: &[u8]) -> Assignment {
        let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
        Assignment {
            leader_url: value["leader_url"].as_str().unwrap_or_default().to_owned(),
            units: units_from_json(&value["units"]),
            revoked: value["revoked"].as_bool().unwrap_or(false),
        }
    }
}

/// The loop's surroundings.
pub struct Group {
    pub identity: Identity,
    pub config: WorkerConfig,
    pub topics: Arc<StateTopics>,
    pub clock: Clock,
    pub runner: mpsc::Sender<Command>,
    pub view: watch::Sender<View>,
}

#[derive(Default)]
struct State {
    held: BTreeSet<Unit>,
    memory: Memory,
    /// While this leads: the work that the last round was about, and when the next is due anyway.
    led: Option<(BTreeSet<Unit>, Option<i64>)>,
}

impl Group {
    /// Holds a seat until `stop` becomes true, then gives it back.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let cluster =
            Arc::new(Cluster::new(&self.config.bootstrap, &self.config.client_id, self.config.request_timeout));
        let member = Member::new(
            cluster,
            GroupOptions {
                group: self.config.group_id.clone(),
                protocol_type: PROTOCOL_TYPE.to_owned(),
                session_timeout: self.config.session_timeout,
                rebalance_timeout: self.config.rebalance_timeout,
                heartbeat_interval: self.config.heartbeat_interval,
                max_poll_interval: HANG_MAX,
            },
        );
        let mut state = State::default();
        loop {
            let round = tokio::select! {
                round = self.round(&member, &mut state) => round,
                () = stopped(&mut stop) => break,
            };
            match round {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    tracing::warn!(%error, "the workers' group is joined again");
                    self.view.send_replace(View::default());
                    tokio::select! {
                        () = tokio::time::sleep(PAUSE) => {}
                        () = stopped(&mut stop) => break,
                    }
                    continue;
                }
            }
            tokio::select! {
                () = self.settled(&member, &state) => {}
                () = stopped(&mut stop) => break,
            }
        }
        self.view.send_replace(View::default());
        member.leave().await;
    }

    /// Joins and does as it is told. False = another round is due at once.
    async fn round(&self, member: &Member, state: &mut State) -> Result<bool, GroupError> {
        // Who comes back late must not lead with yesterday's settings.
        if let Err(error) = self.topics.read_config_to_end().await {
            tracing::warn!(%error, "the workers' settings are read again");
            tokio::time::sleep(PAUSE).await;
            return Ok(false);
        }
        let metadata = json!({
            "worker_id": self.identity.worker_id, "url": self.identity.url, "owned": units_to_json(&state.held),
        });
        let seat = member.join(&[(PROTOCOL.to_owned(), json_bytes(&metadata))]).await?;
        let assignments = match &seat.members {
            Some(members) => self.lead(&seat, members, state),
            None => {
                state.led = None;
                Vec::new()
            }
        };
        let Some(bytes) = member.sync(&seat, assignments).await? else { return Ok(false) };
        let assignment = Assignment::from_bytes(&bytes);
        let let_go = self.topics.with(|image| {
            let work = work_of(image.work());
            state.held.iter().any(|unit| work.contains(unit) && !assignment.units.contains(unit))
        });
        state.held = assignment.units.clone();
        self.view.send_replace(View {
            generation: Some(seat.generation),
            leads: state.led.is_some(),
            leader_url: Some(assignment.leader_url),
        });
        let (done, reconciled) = oneshot::channel();
        let command = Command::Assigned { units: assignment.units, generation: seat.generation, done };
        if self.runner.send(command).await.is_ok() {
            // The runner's stops have their own limit.
            let _ = reconciled.await;
        }
        Ok(!(assignment.revoked && let_go))
    }

    fn lead(&self, seat: &Seat, members: &[(String, Bytes)], state: &mut State) -> Vec<(String, Bytes)> {
        let read = |(id, metadata): &(String, Bytes)| {
            let value: Value = serde_json::from_slice(metadata).unwrap_or_default();
            (id.clone(), units_from_json(&value["owned"]))
        };
        let owned: BTreeMap<String, BTreeSet<Unit>> = members.iter().map(read).collect();
        let work = self.topics.with(|image| work_of(image.work()));
        let delay = self.config.rebalance_delay_max_ms;
        let round: Round = assign(&mut state.memory, &work, &owned, delay, (self.clock)());
        tracing::info!(
            generation = seat.generation,
            workers = owned.len(),
            units = work.len(),
            revoked = round.revoked,
            "work is shared out"
        );
        state.led = Some((work, round.delayed_until_ms));
        let one = |(id, units): (String, BTreeSet<Unit>)| {
            let told = Assignment { leader_url: self.identity.url.clone(), units, revoked: round.revoked };
            (id, told.to_bytes())
        };
        round.assignments.into_iter().map(one).collect()
    }

    /// Waits until there is a reason for another round.
    async fn settled(&self, member: &Member, state: &State) {
        let mut changes = self.topics.changes();
        loop {
            member.alive();
            if let Some((work, due)) = &state.led {
                let other = self.topics.with(|image| work_of(image.work())) != *work;
                if other || due.is_some_and(|due| (self.clock)() >= due) {
                    return;
                }
            }
            tokio::select! {
                standing = member.unsettled(LOOK_EVERY) => {
                    if standing != Standing::Stable {
                        return;
                    }
                }
                _ = changes.changed() => {}
            }
        }
    }
}

fn work_of((connectors, tasks): (BTreeSet<String>, BTreeSet<TaskId>)) -> BTreeSet<Unit> {
    connectors.into_iter().map(Unit::Connector).chain(tasks.into_iter().map(Unit::Task)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_survive_the_wire() {
        let units = BTreeSet::from([
            Unit::Connector("c".to_owned()),
            Unit::Task(TaskId { connector: "c-d".to_owned(), task: 3 }),
        ]);
        let told = Assignment { leader_url: "http://h:1/".to_owned(), units, revoked: true };
        assert_eq!(Assignment::from_bytes(&told.to_bytes()), told);
        assert_eq!(Assignment::from_bytes(b"nonsense"), Assignment::default());
    }
}
