//! `/admin/loggers`: what is logged, changed while the worker runs.
//!
//! Owns the levels that were set by name, and hands all of them to a callback: whoever writes the log knows how to filter it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::answer::{Answer, Failure};
use super::connectors::body_json;
use crate::worker::Worker;
use crate::worker::records::Record;

const ROOT: &str = "root";
/// Names with a level of their own, at most.
const LOGGERS_MAX: usize = 1_000;

/// What is told the levels by name; `root` is everything else.
pub type Apply = Box<dyn Fn(&BTreeMap<String, String>) + Send + Sync>;

#[derive(Debug, Clone)]
struct Level {
    level: String,
    modified_ms: Option<i64>,
}

/// Levels by name.
pub struct Loggers {
    levels: Mutex<BTreeMap<String, Level>>,
    apply: Apply,
}

impl Loggers {
    pub fn new(root: &str, apply: Apply) -> Loggers {
        let root = Level { level: root.to_owned(), modified_ms: None };
        Loggers { levels: Mutex::new(BTreeMap::from([(ROOT.to_owned(), root)])), apply }
    }

    /// Sets a name and everything that has been set below it. Returns the names that changed.
    fn set(&self, name: &str, level: &str, now_ms: i64) -> Vec<String> {
        let mut levels = self.levels.lock();
        if levels.len() >= LOGGERS_MAX && !levels.contains_key(name) {
            return Vec::new();
        }
        let below = |other: &String| name == ROOT || other.starts_with(&format!("{name}."));
        let mut names: Vec<String> = levels.keys().filter(|other| below(other)).cloned().collect();
        names.push(name.to_owned());
        names.sort_unstable();
        names.dedup();
        for changed in &names {
            levels.insert(changed.clone(), Level { level: level.to_owned(), modified_ms: Some(now_ms) });
        }
        let all = levels.iter().map(|(n, l)| (n.clone(), l.level.clone())).collect();
        drop(levels);
        (self.apply)(&all);
        names
    }
}

fn shown(level: &Level) -> Value {
    json!({ "level": level.level, "last_modified": level.modified_ms })
}

pub fn list(worker: &Worker) -> Answer {
    let levels = worker.loggers.levels.lock();
    Answer::ok(Value::Object(levels.iter().map(|(n, l)| (n.clone(), shown(l))).collect()))
}

pub fn get(worker: &Worker, name: &str) -> Result<Answer, Failure> {
    let levels = worker.loggers.levels.lock();
    let own = levels.get(name).map(shown);
    own.map(Answer::ok).ok_or_else(|| Failure::new(404, format!("Logger {name} not found.")))
}

/// Log4j's levels; Err = none of them.
fn known(level: &str) -> Result<String, Failure> {
    let upper = level.to_ascii_uppercase();
    let all = ["OFF", "FATAL", "ERROR", "WARN", "INFO", "DEBUG", "TRACE", "ALL"];
    if all.contains(&upper.as_str()) {
        Ok(upper)
    } else {
        Err(Failure::new(404, format!("invalid log level '{level}'.")))
    }
}

pub async fn set(worker: &Worker, name: &str, cluster: bool, body: &Bytes) -> Result<Answer, Failure> {
    let body = body_json(body)?;
    let level = body["level"].as_str();
    let level = level.ok_or_else(|| Failure::new(400, "Desired 'level' parameter was not specified in request."))?;
    let level = known(level)?;
    if cluster {
        let record = Record::Logger(name.to_owned(), Some(level));
        let written = worker.topics.write_config(vec![record]).await;
        return written.map(|()| Answer::empty(204)).map_err(|e| Failure::new(500, e.to_string()));
    }
    Ok(Answer::ok(json!(worker.loggers.set(name, &level, (worker.clock)()))))
}

/// Sets what another worker was asked to set everywhere.
pub async fn follow(worker: Arc<Worker>) {
    let mut changes = worker.topics.changes();
    // What was set before this worker was there is not set again.
    let mut seen = worker.topics.with(|image| image.loggers.clone());
    while changes.changed().await.is_ok() {
        let now = worker.topics.with(|image| image.loggers.clone());
        for (name, level) in &now {
            if seen.get(name) != Some(level)
                && let Ok(level) = known(level)
            {
                worker.loggers.set(name, &level, (worker.clock)());
            }
        }
        seen = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_holds_for_all_below_it() {
        let told = Arc::new(Mutex::new(BTreeMap::new()));
        let heard = Arc::clone(&told);
        let loggers = Loggers::new("INFO", Box::new(move |all| *heard.lock() = all.clone()));
        loggers.set("a.b", "WARN", 1);
        assert_eq!(loggers.set("a", "DEBUG", 2), ["a", "a.b"]);
        assert_eq!(told.lock()["a.b"], "DEBUG");
        assert_eq!(told.lock()["root"], "INFO");
        assert_eq!(loggers.set("root", "ERROR", 3), ["a", "a.b", "root"]);
    }

    #[test]
    fn a_level_that_is_none_is_refused() {
        assert_eq!(known("debug").unwrap(), "DEBUG");
        assert_eq!(known("loud").unwrap_err().status, 404);
    }
}
