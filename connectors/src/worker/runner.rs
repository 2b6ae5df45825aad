//! What runs on this worker: starts and stops tasks as the group and the settings say, and writes how they are.
//!
//! Owns the running tasks and the states this worker last wrote. Does not decide what runs here (the group does) nor what a task does.
//! Invariant: of a task, at most one runs here; it is started anew only after the one before has ended, or was aborted when its time was
//! over. A crash leaves states that the next owner of the work overwrites.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use strandline_client::Cluster;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::Instrument as _;

use super::assign::Unit;
use super::config::WorkerConfig;
use super::group::Identity;
use super::records::{Record, Restart, Status, TargetState, TaskId};
use super::stopped;
use super::topics::StateTopics;
use crate::config::Settings;
use crate::connector::{faults, keys_of};
use crate::delivery::Target;
use crate::metrics::WorkerMetrics;
use crate::registry::{Registry, SinkKind, TaskContext};
use crate::secrets::Secrets;
use crate::task::settings::task_settings;
use crate::task::{self, Clock, Report, TaskParts};

/// Reports of tasks that wait to be written.
const REPORTS_MAX: usize = 1_024;
/// Reports of one task that wait.
const TASK_REPORTS_MAX: usize = 16;

/// What the group tells the runner.
pub enum Command {
    /// This, and nothing else, is to run here; `done` when what is not has stopped.
    Assigned { units: BTreeSet<Unit>, generation: i32, done: oneshot::Sender<()> },
}

struct Running {
    run: u64,
    revision: u64,
    target: watch::Sender<Target>,
    handle: JoinHandle<()>,
    failed: bool,
}

/// A connector as the settings have it: target, revision, settings.
type Found = (TargetState, u64, Settings);

/// How a task is to run.
#[derive(Clone)]
struct Wanted {
    revision: u64,
    settings: Settings,
    target: Target,
}

pub struct Runner {
    identity: Identity,
    config: WorkerConfig,
    registry: Registry,
    topics: Arc<StateTopics>,
    clock: Clock,
    units: BTreeSet<Unit>,
    generation: i32,
    running: BTreeMap<TaskId, Running>,
    /// States of connectors as last written here, with the revision that they are about.
    told: BTreeMap<String, (String, u64)>,
    /// Restarts up to this number are done.
    restarted: u64,
    runs: u64,
    reports: mpsc::Sender<(TaskId, u64, Report)>,
    metrics: Arc<WorkerMetrics>,
}

impl Runner {
    pub fn new(
        identity: Identity,
        config: WorkerConfig,
        registry: Registry,
        topics: Arc<StateTopics>,
        clock: Clock,
        metrics: Arc<WorkerMetrics>,
    ) -> (Runner, mpsc::Receiver<(TaskId, u64, Report)>) {
        let (reports, inbox) = mpsc::channel(REPORTS_MAX);
        // Wishes from before this worker was there are not its own.
        let restarted = topics.with(super::image::Image::changes);
        let runner = Runner {
            identity,
            config,
            registry,
            topics,
            clock,
            units: BTreeSet::new(),
            generation: -1,
            running: BTreeMap::new(),
            told: BTreeMap::new(),
            restarted,
            runs: 0,
            reports,
            metrics,
        };
        (runner, inbox)
    }

    /// Runs until `stop` becomes true and everything has stopped.
    pub async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut reports: mpsc::Receiver<(TaskId, u64, Report)>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut changes = self.topics.changes();
        loop {
            tokio::select! {
                () = stopped(&mut stop) => break,
                command = commands.recv() => match command {
                    Some(Command::Assigned { units, generation, done }) => {
                        self.units = units;
                        self.generation = generation;
                        self.reconcile().await;
                        // The group may have gone on without an answer.
                        let _ = done.send(());
                    }
                    None => break,
                },
                changed = changes.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.restart_wished().await;
                    self.reconcile().await;
                }
                report = reports.recv() => {
                    if let Some((id, run, report)) = report {
                        self.reported(&id, run, report).await;
                    }
                }
            }
        }
        let all: Vec<TaskId> = self.running.keys().cloned().collect();
        self.stop_tasks(&all).await;
        let mut records: Vec<Record> =
            all.into_iter().map(|id| Record::TaskStatus(id, Some(self.status("UNASSIGNED", None, None)))).collect();
        let names: Vec<String> = self.told.keys().cloned().collect();
        records
            .extend(names.into_iter().map(|n| Record::ConnectorStatus(n, Some(self.status("UNASSIGNED", None, None)))));
        self.write(records).await;
    }

    fn status(&self, state: &str, trace: Option<String>, class: Option<&str>) -> Status {
        let version = class.and_then(|class| self.registry.find(class)).map(|kind| kind.version().to_owned());
        Status {
            state: state.to_owned(),
            trace,
            worker_id: self.identity.worker_id.clone(),
            generation: self.generation,
            version,
        }
    }

    async fn write(&self, records: Vec<Record>) {
        if records.is_empty() {
            return;
        }
        if let Err(error) = self.topics.write_status(records).await {
            tracing::error!(%error, "states were not written: what the REST API shows of them is old");
        }
    }

    fn wanted(&self) -> BTreeMap<TaskId, Wanted> {
        self.topics.with(|image| {
            let mut wanted = BTreeMap::new();
            for unit in &self.units {
                let Unit::Task(id) = unit else { continue };
                let Some(connector) = image.connectors.get(&id.connector) else { continue };
                let Some(settings) = connector.tasks.get(id.task as usize) else { continue };
                let target = match connector.target {
                    TargetState::Started => Target::Running,
                    TargetState::Paused => Target::Paused,
                    TargetState::Stopped => continue,
                };
                let one = Wanted { revision: connector.revision, settings: settings.clone(), target };
                wanted.insert(id.clone(), one);
            }
            wanted
        })
    }

    async fn reconcile(&mut self) {
        let wanted = self.wanted();
        let stale = |(id, running): (&TaskId, &Running)| match wanted.get(id) {
            Some(w) => (w.revision != running.revision).then(|| id.clone()),
            None => Some(id.clone()),
        };
        let stopping: Vec<TaskId> = self.running.iter().filter_map(stale).collect();
        self.stop_tasks(&stopping).await;
        let mut records = Vec::new();
        for id in stopping.into_iter().filter(|id| !wanted.contains_key(id)) {
            let there =
                self.topics.with(|i| i.connectors.get(&id.connector).is_some_and(|c| c.tasks.len() > id.task as usize));
            let status = there.then(|| self.status("UNASSIGNED", None, None));
            records.push(Record::TaskStatus(id, status));
        }
        for (id, wanted) in wanted {
            match self.running.get(&id) {
                Some(running) => {
                    running.target.send_if_modified(|target| std::mem::replace(target, wanted.target) != wanted.target);
                }
                None => records.extend(self.start(id, &wanted)),
            }
        }
        records.extend(self.connector_states());
        self.write(records).await;
    }

    /// States of the connectors that are this worker's and have changed.
    fn connector_states(&mut self) -> Vec<Record> {
        let mut records = Vec::new();
        let mine: BTreeSet<&String> =
            self.units.iter().filter_map(|u| if let Unit::Connector(name) = u { Some(name) } else { None }).collect();
        let found: BTreeMap<String, Option<Found>> = self.topics.with(|image| {
            let look = |name: &String| image.connectors.get(name).map(|c| (c.target, c.revision, c.settings.clone()));
            self.told.keys().chain(mine.iter().copied()).map(|name| (name.clone(), look(name))).collect()
        });
        for (name, there) in found {
            let Some((target, revision, settings)) = there else {
                if self.told.remove(&name).is_some() {
                    records.push(Record::ConnectorStatus(name, None));
                }
                continue;
            };
            if !mine.contains(&name) {
                self.told.remove(&name);
                continue;
            }
            let (state, trace) = self.connector_state(target, &settings);
            if self.told.get(&name) != Some(&(state.to_owned(), revision)) {
                self.told.insert(name.clone(), (state.to_owned(), revision));
                let class = settings.get("connector.class").map(String::as_str);
                records.push(Record::ConnectorStatus(name, Some(self.status(state, trace, class))));
            }
        }
        records
    }

    fn connector_state(&self, target: TargetState, settings: &Settings) -> (&'static str, Option<String>) {
        let class = settings.get("connector.class").map_or("", String::as_str);
        let Some(kind) = self.registry.find(class) else {
            return ("FAILED", Some(no_such_kind(class)));
        };
        match target {
            TargetState::Paused => ("PAUSED", None),
            TargetState::Stopped => ("STOPPED", None),
            TargetState::Started => match faults(&**kind, settings, &self.config.allowed).first() {
                Some(fault) => ("FAILED", Some(format!("{}: {}", fault.key, fault.text))),
                None => ("RUNNING", None),
            },
        }
    }

    /// Starts a task; the record to write if it cannot be.
    fn start(&mut self, id: TaskId, wanted: &Wanted) -> Option<Record> {
        self.runs += 1;
        let run = self.runs;
        let (target, told) = watch::channel(wanted.target);
        let (reports, inbox) = mpsc::channel(TASK_REPORTS_MAX);
        let (parts, failure) = match self.parts(&id, &wanted.settings) {
            Ok(parts) => (Some(parts), None),
            Err(reason) => (None, Some(reason)),
        };
        let onward = self.reports.clone();
        let named = id.clone();
        let handle = tokio::spawn(async move {
            if let Some(parts) = parts {
                supervise(parts, told, reports, inbox, named, run, onward).await;
            }
        });
        let failed = failure.is_some();
        self.running.insert(id.clone(), Running { run, revision: wanted.revision, target, handle, failed });
        let class = wanted.settings.get("connector.class").map(String::as_str);
        failure.map(|reason| Record::TaskStatus(id, Some(self.status("FAILED", Some(reason), class))))
    }

    /// With values from outside in place of their references: from here on, and nowhere else.
    fn parts(&self, id: &TaskId, settings: &Settings) -> Result<TaskParts, String> {
        let class = settings.get("connector.class").map_or("", String::as_str);
        let kind = self.registry.find(class).ok_or_else(|| no_such_kind(class))?;
        let mut settings = settings.clone();
        for side in ["key.converter", "value.converter", "header.converter"] {
            if settings.get(side).is_none_or(|v| v.trim().is_empty()) {
                let own = self.config.converters.iter().filter(|(k, _)| k.starts_with(side));
                settings.extend(own.map(|(k, v)| (k.clone(), v.clone())));
            }
        }
        let resolved = self.config.allowed.providers.resolve(&settings)?;
        let secrets = Secrets::of(&keys_of(&**kind), &resolved.settings, &resolved.secrets);
        if !resolved.secrets.is_empty()
            && let Some(fault) = faults(&**kind, &resolved.settings, &self.config.allowed).first()
        {
            return Err(secrets.blot(&format!("{}: {}", fault.key, fault.text)));
        }
        self.parts_of(kind, id, resolved.settings, secrets.clone()).map_err(|reason| secrets.blot(&reason))
    }

    fn parts_of(
        &self,
        kind: &Arc<dyn SinkKind>,
        id: &TaskId,
        settings: Settings,
        secrets: Secrets,
    ) -> Result<TaskParts, String> {
        let options = task_settings(&id.connector, &settings, &self.config.tasks)?;
        let spool = self.config.spool_dir.join(id.to_string());
        let made = std::fs::remove_dir_all(&spool).or_else(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(e),
        });
        made.and_then(|()| std::fs::create_dir_all(&spool)).map_err(|e| {
            format!("{}: {e}; set spool.dir of the worker to a directory that it may write", spool.display())
        })?;
        let client_id = format!("connector-consumer-{id}");
        let cluster = || Arc::new(Cluster::new(&self.config.bootstrap, &client_id, self.config.request_timeout));
        Ok(TaskParts {
            kind: Arc::clone(kind),
            context: TaskContext {
                connector: id.connector.clone(),
                task: id.task,
                spool,
                memory_bytes_max: self.config.tasks.memory_bytes as u64,
                urls: Arc::clone(&self.config.allowed.urls),
                secrets,
            },
            settings,
            options,
            cluster: cluster(),
            fetches: cluster(),
            clock: Arc::clone(&self.clock),
            metrics: self.metrics.begin(id),
        })
    }

    async fn stop_tasks(&mut self, ids: &[TaskId]) {
        let mut stopping = Vec::new();
        for id in ids {
            self.metrics.end(id);
            if let Some(running) = self.running.remove(id) {
                running.target.send_replace(Target::Stopped);
                stopping.push((id, running.handle));
            }
        }
        let end = tokio::time::Instant::now() + self.config.shutdown_timeout;
        for (id, mut handle) in stopping {
            if tokio::time::timeout_at(end, &mut handle).await.is_err() {
                tracing::warn!(
                    connector = id.connector,
                    task = id.task,
                    "a task did not stop in task.shutdown.graceful.timeout.ms, and is aborted"
                );
                handle.abort();
            }
        }
    }

    /// Does what was wished for since the last look.
    async fn restart_wished(&mut self) {
        let from = self.restarted;
        let wishes: Vec<(u64, Restart)> =
            self.topics.with(|image| image.restarts.iter().filter(|(n, _)| *n > from).cloned().collect());
        for (number, wish) in wishes {
            self.restarted = number;
            let picked = |(id, running): (&TaskId, &Running)| {
                let own = id.connector == wish.connector;
                let wanted = match wish.task {
                    Some(task) => id.task == task,
                    None => wish.include_tasks && (running.failed || !wish.only_failed),
                };
                (own && wanted).then(|| id.clone())
            };
            let ids: Vec<TaskId> = self.running.iter().filter_map(picked).collect();
            let class =
                self.topics.with(|i| i.connectors.get(&wish.connector)?.settings.get("connector.class").cloned());
            let restarting =
                |id: &TaskId| Record::TaskStatus(id.clone(), Some(self.status("RESTARTING", None, class.as_deref())));
            self.write(ids.iter().map(restarting).collect()).await;
            self.stop_tasks(&ids).await;
            let failed = self.told.get(&wish.connector).is_some_and(|(state, _)| state == "FAILED");
            if wish.task.is_none() && (failed || !wish.only_failed) {
                self.told.remove(&wish.connector);
            }
        }
    }

    async fn reported(&mut self, id: &TaskId, run: u64, report: Report) {
        let Some(running) = self.running.get_mut(id).filter(|r| r.run == run) else { return };
        let class =
            self.topics.with(|image| image.connectors.get(&id.connector)?.settings.get("connector.class").cloned());
        let record = |status| vec![Record::TaskStatus(id.clone(), Some(status))];
        let records = match report {
            Report::Running => record(self.status("RUNNING", None, class.as_deref())),
            Report::Paused => record(self.status("PAUSED", None, class.as_deref())),
            Report::Failed(trace) => {
                running.failed = true;
                tracing::error!(connector = id.connector, task = id.task, trace, "a task has failed");
                record(self.status("FAILED", Some(trace), class.as_deref()))
            }
            Report::Stopped => return,
            Report::Topics(topics) if self.config.topic_tracking => {
                let known = self.topics.with(|image| image.topics.get(&id.connector).cloned().unwrap_or_default());
                let one = |topic: &String| Record::Topic {
                    connector: id.connector.clone(),
                    topic: topic.clone(),
                    task: id.task,
                    discovered_ms: (self.clock)(),
                    deleted: false,
                };
                topics.difference(&known).map(one).collect()
            }
            Report::Topics(_) => return,
        };
        self.write(records).await;
    }
}

fn no_such_kind(class: &str) -> String {
    format!(
        "Failed to find any class that implements Connector and which name matches {class}; \
         GET /connector-plugins names those that are there"
    )
}

/// Runs a task and passes its reports on; a panic of its sink is a report too.
async fn supervise(
    parts: TaskParts,
    target: watch::Receiver<Target>,
    reports: mpsc::Sender<Report>,
    mut inbox: mpsc::Receiver<Report>,
    id: TaskId,
    run: u64,
    onward: mpsc::Sender<(TaskId, u64, Report)>,
) {
    let secrets = parts.context.secrets.clone();
    // At the highest level: every line of the task has it, whatever is logged.
    let span = tracing::error_span!("task", connector = id.connector, task = id.task);
    let mut inner = AbortOnDrop(tokio::spawn(task::run(parts, target, reports).instrument(span)));
    while let Some(report) = inbox.recv().await {
        if onward.send((id.clone(), run, report)).await.is_err() {
            return;
        }
    }
    if let Err(error) = (&mut inner.0).await
        && error.is_panic()
    {
        let reason = format!("the task panicked: its sink has a defect; report it, then restart the task\n{error}");
        let reason = secrets.blot(&reason);
        // The worker may be gone.
        let _ = onward.send((id, run, Report::Failed(reason))).await;
    }
}

/// A task must not outlive its supervisor.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
