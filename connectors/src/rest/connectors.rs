//! `/connectors`: what is there, how it is, and every change of it.
//!
//! Owns Kafka Connect's order of writes: a target before the settings, the settings before the tasks, the tasks before their commit, so that
//! whoever reads half of it runs nothing half. Passwords leave masked, and a masked one that comes back means the one that is kept.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::answer::{Answer, Failure};
use crate::config::Settings;
use crate::connector::{faults, masked, unmasked};
use crate::worker::Worker;
use crate::worker::image::{Connector, Image};
use crate::worker::records::{Record, Restart, Status, TargetState, TaskId};
use crate::worker::topics::TopicsError;

fn unwritten(error: &TopicsError) -> Failure {
    let text =
        format!("the change was not written, or it is not known whether it was: {error}; look before you try again");
    Failure::new(500, text)
}

/// A JSON object of texts; numbers and flags count as their text, null as nothing.
fn settings_of(value: &Value) -> Result<Settings, Failure> {
    let Some(object) = value.as_object() else {
        return Err(Failure::new(400, "the configuration has to be a JSON object of texts"));
    };
    let mut settings = Settings::new();
    for (key, value) in object {
        let text = match value {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            _ => return Err(Failure::new(400, format!("the value of {key} has to be a text"))),
        };
        settings.insert(key.clone(), text);
    }
    Ok(settings)
}

pub(super) fn body_json(body: &Bytes) -> Result<Value, Failure> {
    serde_json::from_slice(body).map_err(|e| Failure::new(400, format!("the body is not JSON: {e}")))
}

/// The settings of a body, with their name checked against the path's.
fn named(name: &str, value: &Value) -> Result<Settings, Failure> {
    let mut settings = settings_of(value)?;
    match settings.get("name") {
        Some(other) if other != name => Err(Failure::new(
            400,
            format!("Connector name configuration ({other}) doesn't match connector name in the URL ({name})"),
        )),
        _ => {
            settings.insert("name".to_owned(), name.to_owned());
            Ok(settings)
        }
    }
}

fn task_ids(name: &str, connector: &Connector) -> Vec<Value> {
    (0..connector.tasks.len()).map(|n| json!({ "connector": name, "task": n })).collect()
}

fn info(worker: &Worker, name: &str, connector: &Connector) -> Value {
    json!({
        "name": name, "config": masked(&worker.registry, &connector.settings), "tasks": task_ids(name, connector),
        "type": kind_of(worker, connector),
    })
}

fn kind_of(worker: &Worker, connector: &Connector) -> &'static str {
    let known = connector.settings.get("connector.class").and_then(|class| worker.registry.find(class));
    if known.is_some() { "sink" } else { "unknown" }
}

fn state(status: &Status) -> Map<String, Value> {
    let mut told = Map::new();
    told.insert("state".to_owned(), json!(status.state));
    told.insert("worker_id".to_owned(), json!(status.worker_id));
    for (key, value) in [("trace", &status.trace), ("version", &status.version)] {
        if let Some(value) = value {
            told.insert(key.to_owned(), json!(value));
        }
    }
    told
}

fn task_state(id: &TaskId, status: &Status) -> Value {
    let mut told = state(status);
    told.insert("id".to_owned(), json!(id.task));
    Value::Object(told)
}

fn status_of(worker: &Worker, image: &Image, name: &str) -> Option<Value> {
    let status = image.connector_status.get(name)?;
    let tasks: Vec<Value> = image
        .task_status
        .iter()
        .filter(|(id, _)| id.connector == name)
        .map(|(id, status)| task_state(id, status))
        .collect();
    let kind = image.connectors.get(name).map_or("unknown", |c| kind_of(worker, c));
    Some(json!({ "name": name, "connector": state(status), "tasks": tasks, "type": kind }))
}

fn look<T>(worker: &Worker, name: &str, look: impl FnOnce(&Connector) -> T) -> Result<T, Failure> {
    let found = worker.topics.with(|image| image.connectors.get(name).map(look));
    found.ok_or_else(|| Failure::no_such_connector(name))
}

pub fn list(worker: &Worker, with_status: bool, with_info: bool, expand: bool) -> Answer {
    worker.topics.with(|image| {
        if !expand {
            return Answer::ok(image.connectors.keys().cloned().collect());
        }
        let mut all = Map::new();
        for (name, connector) in &image.connectors {
            let mut one = Map::new();
            if with_status {
                match status_of(worker, image, name) {
                    Some(status) => drop(one.insert("status".to_owned(), status)),
                    None => continue,
                }
            }
            if with_info {
                one.insert("info".to_owned(), info(worker, name, connector));
            }
            all.insert(name.clone(), Value::Object(one));
        }
        Answer::ok(Value::Object(all))
    })
}

pub fn get(worker: &Worker, name: &str) -> Result<Answer, Failure> {
    look(worker, name, |connector| Answer::ok(info(worker, name, connector)))
}

pub fn config(worker: &Worker, name: &str) -> Result<Answer, Failure> {
    look(worker, name, |connector| Answer::ok(json!(masked(&worker.registry, &connector.settings))))
}

pub fn tasks(worker: &Worker, name: &str) -> Result<Answer, Failure> {
    look(worker, name, |connector| {
        let one = |(n, settings): (usize, &Settings)| json!({ "id": { "connector": name, "task": n }, "config": masked(&worker.registry, settings) });
        Answer::ok(connector.tasks.iter().enumerate().map(one).collect())
    })
}

pub fn status(worker: &Worker, name: &str) -> Result<Answer, Failure> {
    let found = worker.topics.with(|image| status_of(worker, image, name));
    found.map(Answer::ok).ok_or_else(|| Failure::new(404, format!("No status found for connector {name}")))
}

pub fn task_status(worker: &Worker, name: &str, task: u32) -> Result<Answer, Failure> {
    let id = TaskId { connector: name.to_owned(), task };
    let found = worker.topics.with(|image| image.task_status.get(&id).map(|status| task_state(&id, status)));
    found.map(Answer::ok).ok_or_else(|| Failure::new(404, format!("No status found for task {id}")))
}

/// Err = 400 with everything that is wrong.
fn check(worker: &Worker, settings: &Settings) -> Result<(), Failure> {
    let class = settings.get("connector.class").map_or("", |c| c.trim());
    if class.is_empty() {
        let shown = masked(&worker.registry, settings);
        let shown: Vec<String> = shown.iter().map(|(k, v)| format!("{k}={v}")).collect();
        return Err(Failure::new(400, format!("Connector config {{{}}} contains no connector type", shown.join(", "))));
    }
    let Some(kind) = worker.registry.find(class) else {
        return Err(Failure::new(400, super::plugins::no_such_class(worker, class)));
    };
    let all = faults(&**kind, settings, &worker.config.allowed);
    if all.is_empty() {
        return Ok(());
    }
    let lines: Vec<&str> = all.iter().map(|f| f.text.as_str()).collect();
    let text = format!(
        "Connector configuration is invalid and contains the following {} error(s):\n{}\nYou can also find the above list of \
         errors at the endpoint `/connector-plugins/{{connectorType}}/config/validate`",
        all.len(),
        lines.join("\n")
    );
    Err(Failure::new(400, text))
}

/// The records of a connector's tasks; none while it is stopped.
fn task_records(name: &str, settings: &Settings, target: TargetState) -> Vec<Record> {
    let wanted = settings.get("tasks.max").and_then(|n| n.trim().parse::<u32>().ok()).unwrap_or(1);
    let count = if target == TargetState::Stopped { 0 } else { wanted.max(1) };
    let mut records: Vec<Record> = (0..count)
        .map(|task| {
            let mut own = settings.clone();
            own.insert("task.class".to_owned(), task_class(settings));
            Record::TaskConfig(TaskId { connector: name.to_owned(), task }, Some(own))
        })
        .collect();
    records.push(Record::Commit(name.to_owned(), count));
    records
}

/// Java's habit: `XSinkConnector` has tasks of class `XSinkTask`.
fn task_class(settings: &Settings) -> String {
    let class = settings.get("connector.class").map_or("", String::as_str);
    class.strip_suffix("Connector").map_or_else(|| class.to_owned(), |stem| format!("{stem}Task"))
}

async fn write(worker: &Worker, records: Vec<Record>) -> Result<(), Failure> {
    worker.topics.write_config(records).await.map_err(|e| unwritten(&e))
}

async fn put(
    worker: &Worker,
    name: &str,
    posted: Settings,
    initial: Option<TargetState>,
    may_exist: bool,
) -> Result<Answer, Failure> {
    worker.topics.read_config_to_end().await.map_err(|e| unwritten(&e))?;
    let kept = worker.topics.with(|image| image.connectors.get(name).cloned());
    let settings = unmasked(&worker.registry, kept.as_ref().map(|c| &c.settings), posted);
    check(worker, &settings)?;
    if kept.is_some() && !may_exist {
        return Err(Failure::new(409, format!("Connector {name} already exists")));
    }
    let target = initial.or(kept.as_ref().map(|c| c.target)).unwrap_or_default();
    let mut records: Vec<Record> = initial.map(|t| Record::Target(name.to_owned(), Some(t))).into_iter().collect();
    records.push(Record::Connector(name.to_owned(), Some(settings.clone())));
    records.extend(task_records(name, &settings, target));
    write(worker, records).await?;
    let created = kept.is_none();
    look(worker, name, |connector| Answer {
        status: if created { 201 } else { 200 },
        body: Some(info(worker, name, connector)),
        location: created.then(|| format!("/connectors/{}", escaped(name))),
        text: None,
    })
}

/// A name as a path's segment.
fn escaped(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

pub async fn create(worker: &Worker, body: &Bytes) -> Result<Answer, Failure> {
    let body = body_json(body)?;
    let name = body["name"].as_str().unwrap_or("").trim().to_owned();
    let settings = named(&name, &body["config"])?;
    let initial = match &body["initial_state"] {
        Value::Null => None,
        Value::String(text) => Some(TargetState::initial(text).ok_or_else(|| {
            Failure::new(400, format!("initial_state is {text}: it has to be RUNNING, PAUSED or STOPPED"))
        })?),
        _ => return Err(Failure::new(400, "initial_state has to be RUNNING, PAUSED or STOPPED")),
    };
    put(worker, &name, settings, initial, false).await
}

pub async fn put_config(worker: &Worker, name: &str, body: &Bytes) -> Result<Answer, Failure> {
    let settings = named(name, &body_json(body)?)?;
    put(worker, name, settings, None, true).await
}

/// A JSON merge: null takes a key away.
pub async fn patch_config(worker: &Worker, name: &str, body: &Bytes) -> Result<Answer, Failure> {
    let patch = body_json(body)?;
    let kept = look(worker, name, |connector| connector.settings.clone())?;
    let changed = settings_of(&patch)?;
    let removed = patch.as_object().into_iter().flatten().filter(|(_, v)| v.is_null()).map(|(k, _)| k);
    let mut settings = kept;
    removed.for_each(|key| drop(settings.remove(key)));
    settings.extend(changed);
    let settings = named(name, &json!(settings))?;
    put(worker, name, settings, None, true).await
}

pub async fn delete(worker: &Worker, name: &str) -> Result<Answer, Failure> {
    look(worker, name, |_| ())?;
    write(worker, vec![Record::Connector(name.to_owned(), None), Record::Target(name.to_owned(), None)]).await?;
    let forgotten = worker.topics.with(|image| {
        let tasks = image.task_status.keys().filter(|id| id.connector == name);
        let mut records: Vec<Record> = tasks.map(|id| Record::TaskStatus(id.clone(), None)).collect();
        records.push(Record::ConnectorStatus(name.to_owned(), None));
        records.extend(topic_tombstones(image, name));
        records
    });
    worker.topics.write_status(forgotten).await.map_err(|e| unwritten(&e))?;
    Ok(Answer::empty(204))
}

fn topic_tombstones(image: &Image, name: &str) -> Vec<Record> {
    let one = |topic: &String| Record::Topic {
        connector: name.to_owned(),
        topic: topic.clone(),
        task: 0,
        discovered_ms: 0,
        deleted: true,
    };
    image.topics.get(name).into_iter().flatten().map(one).collect()
}

async fn set_target(worker: &Worker, name: &str, target: TargetState, status: u16) -> Result<Answer, Failure> {
    let found = worker.topics.with(|image| image.connectors.get(name).cloned());
    let connector = found.ok_or_else(|| Failure::new(404, format!("Unknown connector {name}")))?;
    let mut records = vec![Record::Target(name.to_owned(), Some(target))];
    let has_tasks = !connector.tasks.is_empty();
    if has_tasks == (target == TargetState::Stopped) {
        records.extend(task_records(name, &connector.settings, target));
    }
    write(worker, records).await?;
    Ok(Answer::empty(status))
}

pub async fn pause(worker: &Worker, name: &str) -> Result<Answer, Failure> {
    set_target(worker, name, TargetState::Paused, 202).await
}

pub async fn resume(worker: &Worker, name: &str) -> Result<Answer, Failure> {
    set_target(worker, name, TargetState::Started, 202).await
}

pub async fn stop(worker: &Worker, name: &str) -> Result<Answer, Failure> {
    set_target(worker, name, TargetState::Stopped, 204).await
}

pub async fn restart(worker: &Worker, name: &str, include_tasks: bool, only_failed: bool) -> Result<Answer, Failure> {
    let plain = !include_tasks && !only_failed;
    look(worker, name, |_| ()).map_err(|_| Failure::new(404, format!("Unknown connector: {name}")))?;
    let wish = Restart { connector: name.to_owned(), include_tasks, only_failed, task: None };
    let planned = worker.topics.with(|image| status_of(worker, image, name));
    if plain {
        write(worker, vec![Record::Restart(wish)]).await?;
        return Ok(Answer::empty(204));
    }
    let mut planned = planned.ok_or_else(|| Failure::new(404, format!("Status for connector {name} not found")))?;
    write(worker, vec![Record::Restart(wish)]).await?;
    let restarts = |state: &Value| !only_failed || state["state"] == "FAILED";
    let restarting = |state: &mut Value| {
        state["state"] = json!("RESTARTING");
        state.as_object_mut().map(|told| told.remove("trace"));
    };
    if restarts(&planned["connector"]) {
        restarting(&mut planned["connector"]);
    }
    if include_tasks {
        let tasks = planned["tasks"].as_array_mut().into_iter().flatten();
        tasks.filter(|t| restarts(t)).for_each(restarting);
    }
    Ok(Answer { status: 202, ..Answer::ok(planned) })
}

pub async fn restart_task(worker: &Worker, name: &str, task: u32) -> Result<Answer, Failure> {
    let unknown = |text: String| Failure::new(404, text);
    let count = look(worker, name, |c| c.tasks.len()).map_err(|_| unknown(format!("Unknown connector: {name}")))?;
    if task as usize >= count {
        return Err(unknown(format!("Unknown task: {name}-{task}")));
    }
    let wish = Restart { connector: name.to_owned(), include_tasks: false, only_failed: false, task: Some(task) };
    write(worker, vec![Record::Restart(wish)]).await?;
    Ok(Answer::empty(204))
}

pub fn topics(worker: &Worker, name: &str) -> Result<Answer, Failure> {
    if !worker.config.topic_tracking {
        return Err(Failure::new(403, "Topic tracking is disabled."));
    }
    let topics = worker.topics.with(|image| image.topics.get(name).cloned().unwrap_or_default());
    let mut answer = Map::new();
    answer.insert(name.to_owned(), json!({ "topics": topics }));
    Ok(Answer::ok(Value::Object(answer)))
}

pub async fn reset_topics(worker: &Worker, name: &str) -> Result<Answer, Failure> {
    if !worker.config.topic_tracking {
        return Err(Failure::new(403, "Topic tracking is disabled."));
    }
    if !worker.config.topic_tracking_reset {
        return Err(Failure::new(403, "Topic tracking reset is disabled."));
    }
    let forgotten = worker.topics.with(|image| topic_tombstones(image, name));
    worker.topics.write_status(forgotten).await.map_err(|e| unwritten(&e))?;
    Ok(Answer::empty(202))
}
