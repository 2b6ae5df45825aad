//! Records posted to a real server that fails, hangs and refuses one of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use parking_lot::Mutex;
use serde_json::{Value, json};
use strandline_tests::broker::strandline_command;
use strandline_tests::connect::Worker;
use strandline_tests::wait;

use crate::scene::{ARRIVE, broker, produce, topic};

/// What the server has taken, and how many of the next requests it treats badly.
#[derive(Default)]
struct Book {
    lines: Vec<String>,
    by_key: BTreeMap<String, usize>,
    requests: usize,
    authorization: Option<String>,
    fail: usize,
    hang: usize,
    poison: Option<String>,
}

type Shared = Arc<Mutex<Book>>;

async fn take(State(book): State<Shared>, headers: HeaderMap, body: String) -> Response {
    let hangs = {
        let mut book = book.lock();
        book.requests += 1;
        book.authorization = headers.get("authorization").and_then(|h| h.to_str().ok()).map(str::to_owned);
        if book.fail > 0 {
            book.fail -= 1;
            return (StatusCode::SERVICE_UNAVAILABLE, "come back later").into_response();
        }
        book.hang > 0 && {
            book.hang -= 1;
            true
        }
    };
    if hangs {
        tokio::time::sleep(Duration::from_secs(600)).await;
    }
    let mut book = book.lock();
    if book.poison.as_ref().is_some_and(|poison| body.lines().any(|line| line == poison)) {
        return (StatusCode::BAD_REQUEST, "that record is not for me").into_response();
    }
    let key = headers.get("idempotency-key").and_then(|h| h.to_str().ok()).unwrap_or_default().to_owned();
    *book.by_key.entry(key).or_default() += 1;
    book.lines.extend(body.lines().map(str::to_owned));
    StatusCode::OK.into_response()
}

struct Hook {
    address: SocketAddr,
    book: Shared,
    _runtime: tokio::runtime::Runtime,
}

impl Hook {
    fn start() -> Hook {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let book = Shared::default();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("bound");
        let router = Router::new().route("/in", post(take)).with_state(Arc::clone(&book));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Hook { address, book, _runtime: runtime }
    }

    fn config(&self) -> Value {
        json!({
            "connector.class": "io.aiven.kafka.connect.http.HttpSinkConnector", "topics": "orders", "tasks.max": "1",
            "http.url": format!("http://{}/in", self.address),
            "http.authorization.type": "static", "http.headers.authorization": "Bearer canary-of-the-hook",
            "batching.enabled": "true", "batch.max.size": "20", "http.timeout": "1", "retry.backoff.ms": "100",
        })
    }

    fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for line in &self.book.lock().lines {
            *counts.entry(line.clone()).or_default() += 1;
        }
        counts
    }

    fn await_lines(&self, prefix: &str, count: usize) -> BTreeMap<String, usize> {
        wait::until(&format!("{count} records of {prefix} are posted"), ARRIVE, || {
            let found = self.counts();
            (0..count).all(|n| found.contains_key(&format!("{prefix} {n}"))).then_some(found)
        })
    }
}

#[test]
fn records_are_posted_in_batches_through_failures_and_time_outs() {
    let (broker, hook) = (broker(), Hook::start());
    topic(&broker, "orders", 2);
    produce(&broker, "orders", 2, "first", 100);
    let mut worker = Worker::start(&broker.bootstrap(), "g", &[]);
    hook.book.lock().fail = 2;
    let (status, made) = worker.rest.call("PUT", "/connectors/hook/config", Some(&hook.config()));
    assert_eq!(status, 201, "{made}");
    assert!(!made.to_string().contains("canary"), "{made}");
    let found = hook.await_lines("first", 100);
    assert!(found.values().all(|n| *n == 1), "a failed request took nothing, so nothing comes twice: {found:?}");
    assert_eq!(hook.book.lock().authorization.as_deref(), Some("Bearer canary-of-the-hook"));
    assert!(hook.book.lock().requests < 30, "in batches");
    hook.book.lock().hang = 1;
    produce(&broker, "orders", 2, "second", 60);
    let found = hook.await_lines("second", 60);
    assert!(found.values().all(|n| *n == 1), "{found:?}");
    worker.stop();
    produce(&broker, "orders", 2, "third", 10);
    worker.up();
    let found = hook.await_lines("third", 10);
    assert!(found.values().all(|n| *n == 1), "an orderly stop commits what is delivered: {found:?}");
    assert!(hook.book.lock().by_key.iter().all(|(key, n)| *n == 1 && key.starts_with("\"hook/orders/")));
}

#[test]
fn a_record_that_the_server_refuses_is_put_aside_alone() {
    let (broker, hook) = (broker(), Hook::start());
    topic(&broker, "orders", 1);
    hook.book.lock().poison = Some("first 13".to_owned());
    produce(&broker, "orders", 1, "first", 40);
    let worker = Worker::start(&broker.bootstrap(), "g", &[]);
    let mut config = hook.config();
    for (key, value) in [
        ("errors.tolerance", "all"),
        ("errors.deadletterqueue.topic.name", "bad-orders"),
        ("errors.deadletterqueue.topic.replication.factor", "1"),
        ("errors.deadletterqueue.context.headers.enable", "true"),
    ] {
        config[key] = json!(value);
    }
    worker.rest.call("PUT", "/connectors/hook/config", Some(&config));
    let letter = wait::until("one letter", ARRIVE, || {
        (broker.connection().list_offset("bad-orders", 0, -1).ok()? >= 1).then_some(())?;
        let arguments = ["consume", "-b", &broker.bootstrap(), "bad-orders", "--from-beginning", "-e", "--json"];
        Some(String::from_utf8_lossy(&strandline_command(&arguments, ARRIVE)).into_owned())
    });
    assert_eq!(letter.lines().count(), 1, "{letter}");
    assert!(letter.contains("first 13") && letter.contains("TASK_PUT") && letter.contains("not for me"), "{letter}");
    wait::until("39 records are posted and all is committed", ARRIVE, || {
        let (_, offsets) = worker.rest.get("/connectors/hook/offsets");
        let is_committed = offsets["offsets"][0]["offset"]["kafka_offset"] == 40;
        (hook.counts().len() == 39 && is_committed).then_some(())
    });
    assert!(hook.counts().values().all(|n| *n == 1), "{:?}", hook.counts());
}

#[test]
fn a_server_that_does_not_let_it_in_ends_the_task_and_keeps_the_secret() {
    let (broker, hook) = (broker(), Hook::start());
    topic(&broker, "orders", 1);
    produce(&broker, "orders", 1, "first", 3);
    let mut worker = Worker::start(&broker.bootstrap(), "g", &[]);
    let mut config = hook.config();
    config["http.url"] = json!(format!("http://{}/elsewhere", hook.address));
    worker.rest.call("PUT", "/connectors/hook/config", Some(&config));
    let failed = wait::until("the task has failed", ARRIVE, || {
        let (_, status) = worker.rest.get("/connectors/hook/status");
        (status["tasks"][0]["state"] == "FAILED").then_some(status)
    });
    let trace = failed["tasks"][0]["trace"].as_str().unwrap();
    assert!(trace.lines().next().unwrap().starts_with("correct http.url"), "{trace}");
    worker.rest.call("PUT", "/connectors/hook/config", Some(&hook.config()));
    hook.await_lines("first", 3);
    let log = worker.server().log_text();
    assert!(!log.contains("canary") && !failed.to_string().contains("canary"), "{log}");
}
