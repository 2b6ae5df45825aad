//! Several workers share connectors and tasks.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use strandline_tests::connect::{Rest, Worker};
use strandline_tests::{place, wait};

use crate::scene::{ARRIVE, await_lines, broker, file_sink, produce, topic};

fn owners(status: &Value) -> BTreeSet<String> {
    let tasks = status["tasks"].as_array().into_iter().flatten();
    tasks.filter_map(|t| t["worker_id"].as_str().map(str::to_owned)).collect()
}

/// Waits until all four tasks run, on exactly these workers.
fn await_owners(rest: Rest, workers: &[String]) -> Value {
    let wanted: BTreeSet<String> = workers.iter().cloned().collect();
    wait::until(&format!("tasks run on {wanted:?}"), ARRIVE, || {
        let (_, status) = rest.get("/connectors/archive/status");
        let running = status["tasks"].as_array()?.iter().filter(|t| t["state"] == "RUNNING").count();
        (running == 4 && owners(&status) == wanted).then_some(status)
    })
}

#[test]
fn tasks_are_shared_and_move_when_a_worker_dies() {
    let broker = broker();
    topic(&broker, "orders", 8);
    let first = Worker::start(&broker.bootstrap(), "g", &[]);
    let file = place::directory("sink").join("out");
    let (status, made) = first.rest.call("PUT", "/connectors/archive/config", Some(&file_sink("orders", &file, 4)));
    assert_eq!(status, 201, "{made}");
    await_owners(first.rest, &[first.id()]);
    let mut second = Worker::start(&broker.bootstrap(), "g", &[]);
    let shared = await_owners(first.rest, &[first.id(), second.id()]);
    let on_first = shared["tasks"].as_array().unwrap().iter().filter(|t| t["worker_id"] == first.id().as_str()).count();
    assert_eq!(on_first, 2, "{shared}");
    produce(&broker, "orders", 8, "both", 400);
    await_lines(&file, "both", 400);
    second.kill();
    produce(&broker, "orders", 8, "one", 400);
    await_owners(first.rest, &[first.id()]);
    await_lines(&file, "one", 400);
}

#[test]
fn any_worker_answers_and_changes_go_through_the_leader() {
    let broker = broker();
    topic(&broker, "orders", 1);
    let first = Worker::start(&broker.bootstrap(), "g", &[]);
    let second = Worker::start(&broker.bootstrap(), "g", &[]);
    let file = place::directory("sink").join("out");
    for (n, worker) in [&first, &second].into_iter().enumerate() {
        let name = format!("c{n}");
        let body = json!({ "name": name, "config": file_sink("orders", &file, 1) });
        let answer = worker.rest.answer("POST", "/connectors", Some(&body));
        assert_eq!(answer.status, 201, "{}", answer.body);
        assert!(
            answer.head.to_lowercase().contains(&format!("location: http://{}/connectors/{name}", worker.rest.0)),
            "{}",
            answer.head
        );
    }
    for worker in [&first, &second] {
        wait::until("both connectors are seen", ARRIVE, || {
            (worker.rest.get("/connectors").1 == json!(["c0", "c1"])).then_some(())
        });
        for name in ["c0", "c1"] {
            worker.rest.await_state(name, "RUNNING", 1);
        }
    }
    assert_eq!(second.rest.call("PUT", "/connectors/c0/stop", None).0, 204);
    first.rest.await_state("c0", "STOPPED", 0);
    assert_eq!(first.rest.call("DELETE", "/connectors/c1", None).0, 204);
    wait::until("the other worker sees it", ARRIVE, || {
        (second.rest.get("/connectors").1 == json!(["c0"])).then_some(())
    });
}

#[test]
fn a_worker_that_leaves_in_order_hands_its_tasks_over() {
    let broker = broker();
    topic(&broker, "orders", 4);
    let mut first = Worker::start(&broker.bootstrap(), "g", &[]);
    let second = Worker::start(&broker.bootstrap(), "g", &[]);
    let file = place::directory("sink").join("out");
    second.rest.call("PUT", "/connectors/archive/config", Some(&file_sink("orders", &file, 4)));
    await_owners(second.rest, &[first.id(), second.id()]);
    produce(&broker, "orders", 4, "both", 100);
    await_lines(&file, "both", 100);
    first.stop();
    await_owners(second.rest, &[second.id()]);
    produce(&broker, "orders", 4, "one", 100);
    let found = await_lines(&file, "one", 100);
    assert!(found.values().all(|n| *n == 1), "handed over in order, nothing comes twice: {found:?}");
}
