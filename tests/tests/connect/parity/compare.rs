//! Two answers, place by place.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// An answer.
#[derive(Debug)]
pub struct Told {
    pub status: u16,
    pub location: Option<String>,
    pub content_type: Option<String>,
    /// JSON, or a text that is none.
    pub body: Value,
}

/// Where two answers differ, and what each says there.
#[derive(Debug)]
pub struct Difference {
    pub place: String,
    pub kafka: String,
    pub ours: String,
}

/// Members whose value is each side's own: they have to be on both sides, or on none.
const OWN: [&str; 4] = ["version", "commit", "kafka_cluster_id", "last_modified"];

pub fn differences(kafka: &Told, ours: &Told) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut head = |place: &str, kafka: String, ours: String| {
        if kafka != ours {
            found.push(Difference { place: place.to_owned(), kafka, ours });
        }
    };
    head("status", kafka.status.to_string(), ours.status.to_string());
    head("location", format!("{:?}", kafka.location), format!("{:?}", ours.location));
    head("content-type", format!("{:?}", kafka.content_type), format!("{:?}", ours.content_type));
    // The code in the body repeats the status.
    let without_code = |told: &Told| {
        let mut body = told.body.clone();
        if body["error_code"] == told.status {
            body["error_code"] = "the status".into();
        }
        body
    };
    walk("body", &without_code(kafka), &without_code(ours), &mut found);
    found
}

/// Elements by their names, if they have some: their order is none of our business then.
fn by_name(list: &[Value]) -> Option<BTreeMap<String, &Value>> {
    let name = |one: &Value| {
        let names = [&one["definition"]["name"], &one["name"], &one["class"]];
        names.iter().find_map(|name| name.as_str().map(str::to_owned))
    };
    let named: BTreeMap<String, &Value> = list.iter().filter_map(|one| Some((name(one)?, one))).collect();
    (!list.is_empty() && named.len() == list.len()).then_some(named)
}

fn walk(place: &str, kafka: &Value, ours: &Value, found: &mut Vec<Difference>) {
    if kafka == ours {
        return;
    }
    let name = place.rsplit('/').next().unwrap_or_default();
    if OWN.contains(&name) && kafka.is_string() && ours.is_string() {
        return;
    }
    let mut members = |kafka: &BTreeMap<String, &Value>, ours: &BTreeMap<String, &Value>| {
        let all: BTreeSet<&String> = kafka.keys().chain(ours.keys()).collect();
        for key in all {
            let at =
                |side: &BTreeMap<String, &Value>| side.get(key).map_or(Value::from("(is not there)"), |v| (*v).clone());
            walk(&format!("{place}/{key}"), &at(kafka), &at(ours), found);
        }
    };
    match (kafka, ours) {
        (Value::Object(kafka), Value::Object(ours)) => {
            let refs = |side: &serde_json::Map<String, Value>| -> BTreeMap<String, Value> {
                side.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
            };
            let (kafka, ours) = (refs(kafka), refs(ours));
            members(
                &kafka.iter().map(|(k, v)| (k.clone(), v)).collect(),
                &ours.iter().map(|(k, v)| (k.clone(), v)).collect(),
            );
        }
        (Value::Array(a), Value::Array(b)) => match (by_name(a), by_name(b)) {
            (Some(a), Some(b)) => members(&a, &b),
            _ if a.len() == b.len() => {
                for (at, (a, b)) in a.iter().zip(b).enumerate() {
                    walk(&format!("{place}/{at}"), a, b, found);
                }
            }
            _ => found.push(Difference { place: place.to_owned(), kafka: kafka.to_string(), ours: ours.to_string() }),
        },
        _ => found.push(Difference { place: place.to_owned(), kafka: kafka.to_string(), ours: ours.to_string() }),
    }
}
