//! `/connector-plugins`: the kinds that are there, their keys, and what a configuration gets wrong.

use bytes::Bytes;
use serde_json::{Value, json};

use super::answer::{Answer, Failure};
use super::connectors::body_json;
use crate::config::{Key, Settings, validated};
use crate::connector::{definitions, validation};
use crate::convert::CONVERTERS;
use crate::transform;
use crate::worker::Worker;

/// In Kafka Connect's words.
pub fn no_such_class(worker: &Worker, class: &str) -> String {
    let all: Vec<&str> = worker.registry.kinds().map(|kind| kind.class()).collect();
    format!(
        "Failed to find any class that implements Connector and which name matches {class}, available connectors are: {}",
        all.join(", ")
    )
}

pub fn list(worker: &Worker, connectors_only: bool) -> Answer {
    let one = |class: &str, kind: &str, version: &str| json!({ "class": class, "type": kind, "version": version });
    let mut all: Vec<Value> = worker.registry.kinds().map(|kind| one(kind.class(), "sink", kind.version())).collect();
    if !connectors_only {
        all.extend(CONVERTERS.iter().map(|class| one(class, "converter", env!("CARGO_PKG_VERSION"))));
        let own = env!("CARGO_PKG_VERSION");
        all.extend(transform::keys::CLASSES.iter().map(|class| one(class.name, class.plugin.name(), own)));
    }
    Answer::ok(Value::Array(all))
}

pub fn config(worker: &Worker, name: &str) -> Result<Answer, Failure> {
    match worker.registry.find(name) {
        Some(kind) => Ok(Answer::ok(definitions(&**kind))),
        None => match transform::keys::class(name) {
            Some(class) => {
                let keys = class.keys.iter().enumerate();
                let one = |(at, key): (usize, &Key)| validated(key, at + 1, None, &[])["definition"].clone();
                Ok(Answer::ok(keys.map(one).collect()))
            }
            None => Err(Failure::new(404, format!("Unknown plugin {name}."))),
        },
    }
}

/// The class's name without package and ending, for comparing.
fn short(class: &str) -> &str {
    let name = class.rsplit('.').next().unwrap_or(class);
    name.strip_suffix("Connector").unwrap_or(name)
}

pub fn validate(worker: &Worker, name: &str, body: &Bytes) -> Result<Answer, Failure> {
    let body = body_json(body)?;
    let object =
        body.as_object().ok_or_else(|| Failure::new(400, "the configuration has to be a JSON object of texts"))?;
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let settings: Settings = object.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), text(v))).collect();
    let class = settings.get("connector.class").map(|c| c.trim()).filter(|c| !c.is_empty());
    let Some(class) = class else {
        let shown: Vec<String> = settings.keys().cloned().collect();
        let text = format!("Connector config {{{}}} contains no connector type", shown.join(", "));
        return Err(Failure::new(400, text));
    };
    if !short(class).ends_with(short(name)) {
        let text = format!("Included connector type {class} does not match request type {name}");
        return Err(Failure::new(400, text));
    }
    match worker.registry.find(class) {
        Some(kind) => Ok(Answer::ok(validation(&**kind, &settings, &worker.config.allowed))),
        None => Err(Failure::new(400, no_such_class(worker, class))),
    }
}
