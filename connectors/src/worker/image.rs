//! What a worker's group knows: a fold of the records of its topics.
//!
//! Owns nothing but what the records say; equal records give equal images on every worker.

use std::collections::{BTreeMap, BTreeSet};

use super::records::{Record, Restart, Status, TargetState, TaskId};
use crate::config::Settings;

/// Restart wishes that are kept for workers to look at.
const RESTARTS_MAX: usize = 1_000;

/// A connector.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Connector {
    pub settings: Settings,
    pub target: TargetState,
    /// Of its tasks, by number.
    pub tasks: Vec<Settings>,
    /// Grows with every change of the settings: what runs with an older one is started anew.
    pub revision: u64,
}

/// Everything.
#[derive(Debug, Clone, Default)]
pub struct Image {
    pub connectors: BTreeMap<String, Connector>,
    /// Configured, not committed.
    pending_tasks: BTreeMap<TaskId, Settings>,
    /// Targets of connectors whose settings have not been seen (yet).
    targets: BTreeMap<String, TargetState>,
    pub connector_status: BTreeMap<String, Status>,
    pub task_status: BTreeMap<TaskId, Status>,
    /// Topics by connector.
    pub topics: BTreeMap<String, BTreeSet<String>>,
    pub loggers: BTreeMap<String, String>,
    /// The last ones, with a number that grows.
    pub restarts: Vec<(u64, Restart)>,
    changes: u64,
}

impl Image {
    /// Records taken in so far.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Connectors and tasks that are to run somewhere.
    pub fn work(&self) -> (BTreeSet<String>, BTreeSet<TaskId>) {
        let tasks = self.connectors.iter().flat_map(|(name, c)| {
            (0..c.tasks.len()).filter_map(|n| Some(TaskId { connector: name.clone(), task: u32::try_from(n).ok()? }))
        });
        (self.connectors.keys().cloned().collect(), tasks.collect())
    }

    pub fn apply(&mut self, record: Record) {
        self.changes += 1;
        match record {
            Record::Connector(name, Some(settings)) => {
                let target = self.targets.get(&name).copied().unwrap_or_default();
                let changes = self.changes;
                let connector = self.connectors.entry(name).or_default();
                connector.settings = settings;
                connector.target = target;
                connector.revision = changes;
            }
            Record::Connector(name, None) => {
                self.connectors.remove(&name);
                self.targets.remove(&name);
                self.pending_tasks.retain(|id, _| id.connector != name);
            }
            Record::Target(name, target) => self.target(name, target),
            Record::TaskConfig(id, Some(settings)) => drop(self.pending_tasks.insert(id, settings)),
            Record::TaskConfig(id, None) => drop(self.pending_tasks.remove(&id)),
            Record::Commit(name, count) => self.commit(&name, count),
            Record::Restart(restart) => {
                if self.restarts.len() >= RESTARTS_MAX {
                    self.restarts.remove(0);
                }
                self.restarts.push((self.changes, restart));
            }
            Record::Logger(name, Some(level)) => drop(self.loggers.insert(name, level)),
            Record::Logger(name, None) => drop(self.loggers.remove(&name)),
            Record::ConnectorStatus(name, Some(status)) => drop(self.connector_status.insert(name, status)),
            Record::ConnectorStatus(name, None) => drop(self.connector_status.remove(&name)),
            Record::TaskStatus(id, Some(status)) => drop(self.task_status.insert(id, status)),
            Record::TaskStatus(id, None) => drop(self.task_status.remove(&id)),
            Record::Topic { connector, topic, deleted, .. } => {
                let topics = self.topics.entry(connector).or_default();
                let _ = if deleted { topics.remove(&topic) } else { topics.insert(topic) };
            }
        }
    }

    fn target(&mut self, name: String, target: Option<TargetState>) {
        let target_state = target.unwrap_or_default();
        if let Some(connector) = self.connectors.get_mut(&name) {
            connector.target = target_state;
        }
        match target {
            Some(state) => drop(self.targets.insert(name, state)),
            None => drop(self.targets.remove(&name)),
        }
    }

    /// The first `count` task configurations become the connector's. One that is missing leaves what was before: half of a set
    /// is never run.
    fn commit(&mut self, name: &str, count: u32) {
        let Some(connector) = self.connectors.get_mut(name) else { return };
        let mut tasks = Vec::new();
        for task in 0..count {
            let id = TaskId { connector: name.to_owned(), task };
            let Some(settings) = self.pending_tasks.remove(&id).or_else(|| connector.tasks.get(tasks.len()).cloned())
            else {
                return;
            };
            tasks.push(settings);
        }
        self.pending_tasks.retain(|id, _| id.connector != name);
        if tasks != connector.tasks {
            connector.revision = self.changes;
        }
        connector.tasks = tasks;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(file: &str) -> Settings {
        Settings::from([("file".to_owned(), file.to_owned())])
    }

    fn task(n: u32) -> TaskId {
        TaskId { connector: "c".to_owned(), task: n }
    }

    fn fold(records: impl IntoIterator<Item = Record>) -> Image {
        let mut image = Image::default();
        records.into_iter().for_each(|r| image.apply(r));
        image
    }

    fn created() -> Vec<Record> {
        vec![
            Record::Target("c".to_owned(), Some(TargetState::Paused)),
            Record::Connector("c".to_owned(), Some(settings("a"))),
            Record::TaskConfig(task(0), Some(settings("a"))),
            Record::TaskConfig(task(1), Some(settings("a"))),
            Record::Commit("c".to_owned(), 2),
        ]
    }

    #[test]
    fn tasks_are_there_once_they_are_committed() {
        let records = created();
        assert_eq!(fold(records[..4].to_vec()).work().1.len(), 0);
        let image = fold(records);
        assert_eq!(image.work().1, BTreeSet::from([task(0), task(1)]));
        assert_eq!(image.connectors["c"].target, TargetState::Paused);
    }

    #[test]
    fn half_of_a_new_set_is_not_run() {
        let mut records = created();
        records.push(Record::TaskConfig(task(2), Some(settings("b"))));
        records.push(Record::Commit("c".to_owned(), 4));
        let image = fold(records);
        assert_eq!(image.connectors["c"].tasks, [settings("a"), settings("a")]);
    }

    #[test]
    fn what_compaction_leaves_folds_to_the_same() {
        // Of two task configurations with one key, the last stays; so does one commit.
        let mut all = created();
        all.push(Record::TaskConfig(task(0), Some(settings("b"))));
        all.push(Record::Commit("c".to_owned(), 1));
        let compacted = vec![all[0].clone(), all[1].clone(), all[3].clone(), all[5].clone(), all[6].clone()];
        assert_eq!(fold(all).connectors["c"].tasks, fold(compacted).connectors["c"].tasks);
    }

    #[test]
    fn a_deleted_connector_leaves_no_target_behind() {
        let mut records = created();
        records.push(Record::Connector("c".to_owned(), None));
        records.push(Record::Target("c".to_owned(), None));
        let image = fold(records.clone());
        assert!(image.connectors.is_empty() && image.work().1.is_empty());
        records.push(Record::Connector("c".to_owned(), Some(settings("a"))));
        assert_eq!(fold(records).connectors["c"].target, TargetState::Started);
    }
}
