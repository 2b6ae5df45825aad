//! The records of a worker's topics: keys and values as Kafka Connect writes them (JSON without schemas).
//!
//! Owns their encoding both ways. What it does not understand it leaves alone: other versions may write more.

use serde_json::{Value, json};

use crate::config::Settings;

/// A task of a connector.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    pub connector: String,
    pub task: u32,
}

impl std::fmt::Display for TaskId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.connector, self.task)
    }
}

/// What the operator wants of a connector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TargetState {
    #[default]
    Started,
    Paused,
    Stopped,
}

impl TargetState {
    pub fn name(self) -> &'static str {
        match self {
            TargetState::Started => "STARTED",
            TargetState::Paused => "PAUSED",
            TargetState::Stopped => "STOPPED",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [TargetState::Started, TargetState::Paused, TargetState::Stopped].into_iter().find(|s| s.name() == name)
    }

    /// Kafka Connect's `initial_state`.
    pub fn initial(name: &str) -> Option<Self> {
        match name {
            "RUNNING" => Some(TargetState::Started),
            "PAUSED" => Some(TargetState::Paused),
            "STOPPED" => Some(TargetState::Stopped),
            _ => None,
        }
    }
}

/// A wish to restart, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restart {
    pub connector: String,
    pub include_tasks: bool,
    pub only_failed: bool,
    /// This task and nothing else; Kafka Connect has no such record, and reads the others of it.
    pub task: Option<u32>,
}

/// How a connector or task is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// UNASSIGNED, RUNNING, PAUSED, STOPPED, FAILED, RESTARTING.
    pub state: String,
    pub trace: Option<String>,
    pub worker_id: String,
    pub generation: i32,
    pub version: Option<String>,
}

/// One record of the config or the status topic. `None` of an option = it was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    Connector(String, Option<Settings>),
    Target(String, Option<TargetState>),
    TaskConfig(TaskId, Option<Settings>),
    /// The connector's tasks are those configured before this, so many.
    Commit(String, u32),
    Restart(Restart),
    Logger(String, Option<String>),
    ConnectorStatus(String, Option<Status>),
    TaskStatus(TaskId, Option<Status>),
    /// A topic that a connector has read.
    Topic {
        connector: String,
        topic: String,
        task: u32,
        discovered_ms: i64,
        deleted: bool,
    },
}

/// Key and value as they are written.
pub type Encoded = (String, Option<Vec<u8>>);

fn properties(settings: &Settings) -> Value {
    json!({ "properties": settings })
}

fn status_value(status: &Status) -> Value {
    json!({
        "state": status.state, "trace": status.trace, "worker_id": status.worker_id, "generation": status.generation,
        "version": status.version,
    })
}

impl Record {
    pub fn encode(&self) -> Encoded {
        let (key, value) = match self {
            Record::Connector(name, settings) => (format!("connector-{name}"), settings.as_ref().map(properties)),
            Record::Target(name, target) => (format!("target-state-{name}"), target.map(target_value)),
            Record::TaskConfig(id, settings) => (format!("task-{id}"), settings.as_ref().map(properties)),
            Record::Commit(name, tasks) => (format!("commit-{name}"), Some(json!({ "tasks": tasks }))),
            Record::Restart(restart) => {
                let mut value = json!({ "include-tasks": restart.include_tasks, "only-failed": restart.only_failed });
                if let Some(task) = restart.task {
                    value["task"] = json!(task);
                }
                (format!("restart-connector-{}", restart.connector), Some(value))
            }
            Record::Logger(name, level) => {
                (format!("logger-cluster-{name}"), level.as_ref().map(|level| json!({ "level": level })))
            }
            Record::ConnectorStatus(name, status) => {
                (format!("status-connector-{name}"), status.as_ref().map(status_value))
            }
            Record::TaskStatus(id, status) => (format!("status-task-{id}"), status.as_ref().map(status_value)),
            Record::Topic { connector, topic, task, discovered_ms, deleted } => {
                let value = json!({ "topic": {
                    "name": topic, "connector": connector, "task": task, "discoverTimestamp": discovered_ms,
                }});
                (format!("status-topic-{topic}:connector-{connector}"), (!deleted).then_some(value))
            }
        };
        (key, value.map(|v| v.to_string().into_bytes()))
    }

    /// None = nothing that is known here.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Option<Record> {
        let key = std::str::from_utf8(key).ok()?;
        let value: Option<Value> = match value {
            Some(bytes) => Some(serde_json::from_slice(bytes).ok()?),
            None => None,
        };
        let value = value.filter(|v| !v.is_null());
        if let Some(rest) = key.strip_prefix("status-topic-") {
            let (topic, connector) = rest.split_once(":connector-")?;
            let told = value.as_ref().map(|v| &v["topic"]);
            return Some(Record::Topic {
                connector: connector.to_owned(),
                topic: topic.to_owned(),
                task: told.and_then(|t| t["task"].as_u64()).and_then(|t| u32::try_from(t).ok()).unwrap_or(0),
                discovered_ms: told.and_then(|t| t["discoverTimestamp"].as_i64()).unwrap_or(0),
                deleted: told.is_none(),
            });
        }
        if let Some(name) = key.strip_prefix("status-connector-") {
            return Some(Record::ConnectorStatus(name.to_owned(), value.as_ref().and_then(status)));
        }
        if let Some(id) = key.strip_prefix("status-task-") {
            return Some(Record::TaskStatus(task_id(id)?, value.as_ref().and_then(status)));
        }
        decode_config(key, value)
    }
}

fn decode_config(key: &str, value: Option<Value>) -> Option<Record> {
    if let Some(name) = key.strip_prefix("restart-connector-") {
        let value = value?;
        return Some(Record::Restart(Restart {
            connector: name.to_owned(),
            include_tasks: value["include-tasks"].as_bool().unwrap_or(false),
            only_failed: value["only-failed"].as_bool().unwrap_or(false),
            task: value["task"].as_u64().and_then(|t| u32::try_from(t).ok()),
        }));
    }
    if let Some(name) = key.strip_prefix("target-state-") {
        return Some(Record::Target(name.to_owned(), value.as_ref().map(target)));
    }
    if let Some(name) = key.strip_prefix("logger-cluster-") {
        let level = value.and_then(|v| v["level"].as_str().map(str::to_owned));
        return Some(Record::Logger(name.to_owned(), level));
    }
    if let Some(name) = key.strip_prefix("connector-") {
        return Some(Record::Connector(name.to_owned(), value.as_ref().and_then(settings)));
    }
    if let Some(name) = key.strip_prefix("commit-") {
        let tasks = value?["tasks"].as_u64()?;
        return Some(Record::Commit(name.to_owned(), u32::try_from(tasks).ok()?));
    }
    let id = key.strip_prefix("task-")?;
    Some(Record::TaskConfig(task_id(id)?, value.as_ref().and_then(settings)))
}

fn task_id(text: &str) -> Option<TaskId> {
    let (connector, task) = text.rsplit_once('-')?;
    Some(TaskId { connector: connector.to_owned(), task: task.parse().ok()? })
}

fn settings(value: &Value) -> Option<Settings> {
    let entries = value["properties"].as_object()?;
    let text = |v: &Value| v.as_str().map(str::to_owned).or_else(|| (!v.is_null()).then(|| v.to_string()));
    Some(entries.iter().filter_map(|(k, v)| Some((k.clone(), text(v)?))).collect())
}

fn status(value: &Value) -> Option<Status> {
    let text = |key: &str| value[key].as_str().map(str::to_owned);
    Some(Status {
        state: text("state")?,
        trace: text("trace"),
        worker_id: text("worker_id").unwrap_or_default(),
        generation: value["generation"].as_i64().and_then(|g| i32::try_from(g).ok()).unwrap_or(-1),
        version: text("version"),
    })
}

/// Workers before Kafka 3.5 know no STOPPED: `state` tells them to pause, `state.v2` is the truth.
fn target_value(target: TargetState) -> Value {
    let old = if target == TargetState::Stopped { TargetState::Paused } else { target };
    json!({ "state": old.name(), "state.v2": target.name() })
}

fn target(value: &Value) -> TargetState {
    let of = |key: &str| value[key].as_str().and_then(TargetState::parse);
    of("state.v2").or_else(|| of("state")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_the_topic() {
        let settings = Settings::from([("name".to_owned(), "a-b".to_owned())]);
        let status = Status {
            state: "FAILED".to_owned(),
            trace: Some("why".to_owned()),
            worker_id: "h:1".to_owned(),
            generation: 4,
            version: Some("1".to_owned()),
        };
        let id = TaskId { connector: "a-b".to_owned(), task: 12 };
        let restart = Restart { connector: "a-b".to_owned(), include_tasks: true, only_failed: false, task: Some(3) };
        for record in [
            Record::Connector("a-b".to_owned(), Some(settings.clone())),
            Record::Connector("a-b".to_owned(), None),
            Record::Target("a-b".to_owned(), Some(TargetState::Stopped)),
            Record::Target("a-b".to_owned(), None),
            Record::TaskConfig(id.clone(), Some(settings)),
            Record::Commit("a-b".to_owned(), 3),
            Record::Restart(restart),
            Record::Logger("root".to_owned(), Some("DEBUG".to_owned())),
            Record::ConnectorStatus("a-b".to_owned(), Some(status.clone())),
            Record::TaskStatus(id.clone(), Some(status)),
            Record::TaskStatus(id, None),
            Record::Topic {
                connector: "a-b".to_owned(),
                topic: "t".to_owned(),
                task: 1,
                discovered_ms: 9,
                deleted: false,
            },
        ] {
            let (key, value) = record.encode();
            assert_eq!(Record::decode(key.as_bytes(), value.as_deref()), Some(record), "{key}");
        }
    }

    /// As docs/formats/connect-topics.md has them: other workers, and Kafka Connect, read these texts.
    #[test]
    fn records_are_written_as_they_always_were() {
        let text = |record: Record| {
            let (key, value) = record.encode();
            (key, String::from_utf8(value.unwrap()).unwrap())
        };
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let settings = Settings::from([("topics".to_owned(), "t".to_owned())]);
        let connector = Record::Connector("c".to_owned(), Some(settings));
        assert_eq!(text(connector), pair("connector-c", r#"{"properties":{"topics":"t"}}"#));
        let commit = Record::Commit("c".to_owned(), 2);
        assert_eq!(text(commit), pair("commit-c", r#"{"tasks":2}"#));
        let paused = Record::Target("c".to_owned(), Some(TargetState::Paused));
        let (key, value) = text(paused);
        let value: Value = serde_json::from_str(&value).unwrap();
        assert_eq!(
            (key.as_str(), &value["state"], &value["state.v2"]),
            ("target-state-c", &json!("PAUSED"), &json!("PAUSED"))
        );
    }

    #[test]
    fn what_kafka_connect_writes_is_read() {
        let target = Record::decode(b"target-state-c", Some(br#"{"state":"PAUSED","state.v2":"STOPPED"}"#));
        assert_eq!(target, Some(Record::Target("c".to_owned(), Some(TargetState::Stopped))));
        let old = Record::decode(b"target-state-c", Some(br#"{"state":"PAUSED"}"#));
        assert_eq!(old, Some(Record::Target("c".to_owned(), Some(TargetState::Paused))));
        assert_eq!(Record::decode(b"session-key", Some(br#"{"key":"x"}"#)), None);
    }
}
