//! Codes and bodies of the REST API.

use serde_json::{Value, json};
use strandline_tests::connect::{Rest, Worker};
use strandline_tests::place;

use crate::scene::{broker, file_sink, topic};

fn refused(rest: Rest, method: &str, path: &str, body: Option<Value>, status: u16, says: &str) {
    let (code, answer) = rest.call(method, path, body.as_ref());
    assert_eq!(code, status, "{method} {path}: {answer}");
    assert_eq!(answer["error_code"], status, "{method} {path}: {answer}");
    assert!(answer["message"].as_str().is_some_and(|m| m.contains(says)), "{method} {path}: {answer}");
}

#[test]
fn what_is_wrong_is_told_as_kafka_connect_tells_it() {
    let broker = broker();
    topic(&broker, "orders", 1);
    let worker = Worker::start(&broker.bootstrap(), "g", &[]);
    let rest = worker.rest;
    let file = place::directory("sink").join("out");
    let good = file_sink("orders", &file, 1);
    let named = |name: &str, config: &Value| json!({ "name": name, "config": config });
    refused(rest, "GET", "/nonsense", None, 404, "HTTP 404 Not Found");
    refused(rest, "POST", "/connectors/x/status", None, 405, "HTTP 405 Method Not Allowed");
    for path in ["", "/config", "/tasks", "/offsets"] {
        refused(rest, "GET", &format!("/connectors/x{path}"), None, 404, "Connector x not found");
    }
    refused(rest, "GET", "/connectors/x/status", None, 404, "No status found for connector x");
    refused(rest, "GET", "/connectors/x/tasks/0/status", None, 404, "No status found for task x-0");
    refused(rest, "PUT", "/connectors/x/pause", None, 404, "Unknown connector x");
    refused(rest, "PUT", "/connectors/x/stop", None, 404, "Unknown connector x");
    refused(rest, "DELETE", "/connectors/x", None, 404, "Connector x not found");
    refused(rest, "POST", "/connectors/x/restart", None, 404, "Unknown connector: x");
    refused(rest, "POST", "/connectors/x/restart?includeTasks=true", None, 404, "Unknown connector: x");
    refused(rest, "POST", "/connectors", Some(named("a", &json!({}))), 400, "contains no connector type");
    let mut other = good.clone();
    other["name"] = json!("b");
    refused(rest, "POST", "/connectors", Some(named("a", &other)), 400, "doesn't match connector name in the URL (a)");
    let mut faulty = good.clone();
    faulty["tasks.max"] = json!("0");
    faulty["file"] = json!("");
    refused(rest, "POST", "/connectors", Some(named("a", &faulty)), 400, "contains the following 2 error(s)");
    assert_eq!(rest.call("POST", "/connectors", Some(&named("a", &good))).0, 201);
    refused(rest, "POST", "/connectors", Some(named("a", &good)), 409, "Connector a already exists");
    rest.await_state("a", "RUNNING", 1);
    refused(rest, "POST", "/connectors/a/tasks/7/restart", None, 404, "Unknown task: a-7");
    refused(rest, "PATCH", "/connectors/a/offsets", Some(json!({})), 400, "Partitions / offsets need to be provided");
    refused(rest, "DELETE", "/connectors/a/offsets", None, 400, "STOPPED");
    refused(rest, "GET", "/connector-plugins/x/config", None, 404, "Unknown plugin x.");
    refused(rest, "PUT", "/admin/loggers/root", Some(json!({ "level": "loud" })), 404, "invalid log level 'loud'.");
    refused(rest, "PUT", "/admin/loggers/root", Some(json!({})), 400, "'level' parameter was not specified");
}

#[test]
fn what_is_right_is_answered_as_kafka_connect_answers_it() {
    let broker = broker();
    topic(&broker, "orders", 1);
    let worker = Worker::start(&broker.bootstrap(), "g", &[]);
    let rest = worker.rest;
    let file = place::directory("sink").join("out");
    let good = file_sink("orders", &file, 2);
    let (status, root) = rest.get("/");
    assert_eq!(status, 200);
    assert!(
        root["version"].is_string() && root["commit"].is_string() && root["kafka_cluster_id"].is_string(),
        "{root}"
    );
    assert_eq!(rest.get("/connectors"), (200, json!([])));
    let body = json!({ "name": "a", "config": good, "initial_state": "PAUSED" });
    let (status, made) = rest.call("POST", "/connectors", Some(&body));
    assert_eq!(status, 201);
    let mut kept = good.clone();
    kept["name"] = json!("a");
    let tasks = json!([{ "connector": "a", "task": 0 }, { "connector": "a", "task": 1 }]);
    assert_eq!(made, json!({ "name": "a", "config": kept, "tasks": tasks, "type": "sink" }));
    assert_eq!(rest.get("/connectors/a"), (200, made.clone()));
    assert_eq!(rest.get("/connectors/a/config"), (200, kept.clone()));
    rest.await_state("a", "PAUSED", 2);
    let (_, all) = rest.get("/connectors?expand=status&expand=info");
    assert_eq!((&all["a"]["info"], &all["a"]["status"]["type"]), (&made, &json!("sink")), "{all}");
    let (_, task) = rest.get("/connectors/a/tasks/1/status");
    assert_eq!((&task["id"], &task["state"], &task["worker_id"]), (&json!(1), &json!("PAUSED"), &json!(worker.id())));
    assert_eq!(rest.get("/connectors/a/tasks").1[1]["id"], json!({ "connector": "a", "task": 1 }));
    let (status, patched) = rest.call("PATCH", "/connectors/a/config", Some(&json!({ "tasks.max": "1", "x": "y" })));
    assert_eq!((status, patched["tasks"].as_array().unwrap().len()), (200, 1), "{patched}");
    let (_, patched) = rest.call("PATCH", "/connectors/a/config", Some(&json!({ "x": null })));
    assert_eq!(patched["config"]["x"], Value::Null);
    rest.await_state("a", "PAUSED", 1);
    assert_eq!(rest.call("POST", "/connectors/a/restart", None).0, 204);
    assert_eq!(rest.call("POST", "/connectors/a/tasks/0/restart", None).0, 204);
    rest.await_state("a", "PAUSED", 1);
    let plugins = rest.get("/connector-plugins").1;
    let file_kind =
        plugins.as_array().unwrap().iter().find(|p| p["class"].as_str().unwrap().contains("FileStreamSink"));
    assert_eq!(file_kind.unwrap()["type"], "sink");
    let mut faulty = good.clone();
    faulty["errors.tolerance"] = json!("some");
    faulty["name"] = json!("a");
    let (status, validated) = rest.call("PUT", "/connector-plugins/FileStreamSink/config/validate", Some(&faulty));
    assert_eq!((status, &validated["error_count"]), (200, &json!(1)), "{validated}");
    let (_, levels) = rest.call("PUT", "/admin/loggers/strandline", Some(&json!({ "level": "debug" })));
    assert_eq!(levels, json!(["strandline"]));
    assert_eq!(rest.get("/admin/loggers").1["strandline"]["level"], "DEBUG");
    let everywhere = rest.call("PUT", "/admin/loggers/root?scope=cluster", Some(&json!({ "level": "WARN" })));
    assert_eq!(everywhere, (204, Value::Null));
    assert_eq!(rest.call("PUT", "/connectors/a/topics/reset", None).0, 202);
}
