//! The sink against a server in this process that takes, refuses, fails, hangs and redirects.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use parking_lot::Mutex;

use super::*;
use crate::conformance::{self, Seen, Subject, check, records, sink_of, tagged};

/// What the server has seen and how it behaves.
#[derive(Default)]
struct Server {
    /// Bodies that it has taken.
    taken: Vec<String>,
    /// `Idempotency-Key` of all requests.
    keys: Vec<String>,
    headers: HeaderMap,
    /// Answers of the next requests; empty = it takes them.
    moods: Vec<Mood>,
    /// A body with this in it is refused.
    poison: Option<&'static str>,
}

#[derive(Clone)]
enum Mood {
    Status(u16, &'static str),
    RetryAfter(u16, &'static str),
    Redirect(u16, &'static str),
    Hang,
    Take,
}

type Shared = Arc<Mutex<Server>>;

async fn take(State(server): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let body = String::from_utf8_lossy(&body).into_owned();
    let mood = {
        let mut server = server.lock();
        let key = headers.get("Idempotency-Key").map_or("", |k| k.to_str().unwrap_or("")).to_owned();
        server.keys.push(key);
        server.headers = headers;
        if server.moods.is_empty() { Mood::Take } else { server.moods.remove(0) }
    };
    match mood {
        Mood::Hang => {
            tokio::time::sleep(Duration::from_secs(3_600)).await;
            StatusCode::OK.into_response()
        }
        Mood::Status(code, text) => (StatusCode::from_u16(code).unwrap(), text).into_response(),
        Mood::RetryAfter(code, after) => {
            (StatusCode::from_u16(code).unwrap(), [("Retry-After", after)]).into_response()
        }
        Mood::Redirect(code, to) => (StatusCode::from_u16(code).unwrap(), [("Location", to)]).into_response(),
        Mood::Take => {
            let mut server = server.lock();
            if server.poison.is_some_and(|poison| body.contains(poison)) {
                return (StatusCode::UNPROCESSABLE_ENTITY, "that one\nis bad").into_response();
            }
            server.taken.push(body);
            StatusCode::NO_CONTENT.into_response()
        }
    }
}

async fn server() -> (SocketAddr, Shared) {
    let shared = Shared::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limit = axum::extract::DefaultBodyLimit::max(64 << 20);
    let router = Router::new().route("/in", post(take)).route("/moved", post(take)).layer(limit);
    let service = router.with_state(Arc::clone(&shared)).into_make_service();
    tokio::spawn(async move { axum::serve(listener, service).await });
    (address, shared)
}

fn sink(address: SocketAddr, more: &[(&str, &str)]) -> Box<dyn Sink> {
    let url = format!("http://{address}/in?token=of-the-query");
    let mut settings = conformance::settings(&[("http.url", &url), ("retry.backoff.ms", "0")]);
    settings.extend(conformance::settings(more));
    let kind: Arc<dyn SinkKind> = Arc::new(HttpKind);
    assert_eq!(kind.faults(&settings), []);
    sink_of(&kind, &settings, std::path::Path::new("/nonexistent")).unwrap()
}

fn rows(from: i64, values: &[&str]) -> Rows {
    let values: Vec<Option<Vec<u8>>> = values.iter().map(|v| Some(v.as_bytes().to_vec())).collect();
    records("t", 0, from, &values)
}

fn batched(size: &'static str) -> Vec<(&'static str, &'static str)> {
    vec![
        ("batching.enabled", "true"),
        ("batch.max.size", size),
        ("batch.prefix", "["),
        ("batch.suffix", "]"),
        ("batch.separator", ","),
    ]
}

#[tokio::test]
async fn batches_have_a_prefix_a_separator_a_suffix_and_a_key() {
    let (address, server) = server().await;
    let mut sink = sink(address, &batched("2"));
    sink.write(rows(7, &["1", "2", "3"])).await.unwrap();
    assert_eq!(server.lock().taken, ["[1,2]", "[3]"]);
    assert_eq!(server.lock().keys, ["\"conformance/t/0/7-8\"", "\"conformance/t/0/9-9\""]);
    assert_eq!(sink.flush(0, false).await.unwrap()[&TopicPartition::new("t", 0)], 10);
}

#[tokio::test]
async fn a_body_has_no_more_bytes_than_it_may_but_for_one_record() {
    let (address, server) = server().await;
    let mut sink = sink(address, &[batched("100"), vec![("batch.max.bytes", "8")]].concat());
    sink.write(rows(0, &["aaa", "bbb", "cccccccccccc", "d"])).await.unwrap();
    assert_eq!(server.lock().taken, ["[aaa,bbb]", "[cccccccccccc]", "[d]"]);
}

#[tokio::test]
async fn a_batch_that_is_refused_is_halved_until_the_record_stands_alone() {
    let (address, server) = server().await;
    server.lock().poison = Some("x");
    let mut sink = sink(address, &batched("8"));
    let refused = sink.write(rows(0, &["0", "1", "2", "x3", "4", "5", "x6", "7", "8"])).await.unwrap_err();
    let SinkError::Rejected { offsets, reason } = refused else { panic!("{refused:?}") };
    assert_eq!(offsets, [3, 6]);
    assert!(reason.ends_with("answered 422 Unprocessable Entity: that one is bad"), "{reason}");
    assert!(!reason.contains("of-the-query"), "{reason}");
    assert_eq!(server.lock().taken, ["[0,1]", "[2]", "[4,5]", "[7]", "[8]"]);
    assert_eq!(sink.flush(0, true).await.unwrap()[&TopicPartition::new("t", 0)], 9);
}

#[tokio::test]
async fn what_was_delivered_before_a_failure_is_not_posted_again_by_the_next_try() {
    let (address, server) = server().await;
    server.lock().moods = vec![Mood::Take, Mood::Status(503, "later"), Mood::Status(429, "too fast"), Mood::Take];
    let mut sink = sink(address, &[]);
    for tries in 0..2 {
        let error = sink.write(rows(0, &["a", "b", "c"])).await.unwrap_err();
        assert!(error.retryable(), "{tries}: {error:?}");
        assert_eq!(sink.flush(0, true).await.unwrap(), Offsets::new(), "half a write is not durable");
    }
    sink.write(rows(0, &["a", "b", "c"])).await.unwrap();
    let server = server.lock();
    assert_eq!(server.taken, ["a", "b", "c"]);
    assert_eq!(server.keys[1..4], ["\"conformance/t/0/1-1\"", "\"conformance/t/0/1-1\"", "\"conformance/t/0/1-1\""]);
}

#[tokio::test]
async fn a_server_that_hangs_is_left_after_the_time_out_and_one_that_is_gone_is_tried_again() {
    let (address, server) = server().await;
    server.lock().moods = vec![Mood::Hang];
    let mut sink = sink(address, &[("http.timeout", "1")]);
    let error = sink.write(rows(0, &["a"])).await.unwrap_err();
    assert!(error.retryable(), "{error:?}");
    sink.write(rows(0, &["a"])).await.unwrap();
    assert_eq!(server.lock().taken, ["a"]);
    let nobody: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let mut sink = self::sink(nobody, &[("max.retries", "1")]);
    let error = sink.write(rows(0, &["a"])).await.unwrap_err();
    assert!(error.retryable() && error.to_string().contains("cannot be reached"), "{error:?}");
    let error = sink.write(rows(0, &["a"])).await.unwrap_err();
    assert!(matches!(&error, SinkError::Fatal(text) if text.contains("2 tries failed (max.retries)")), "{error:?}");
}

#[tokio::test]
async fn retry_after_is_kept() {
    let (address, server) = server().await;
    server.lock().moods = vec![Mood::RetryAfter(429, "600")];
    let mut sink = sink(address, &[]);
    assert!(sink.write(rows(0, &["a"])).await.unwrap_err().retryable());
    let error = sink.write(rows(0, &["a"])).await.unwrap_err();
    assert!(error.retryable() && error.to_string().contains("is tried again in 59"), "{error:?}");
    assert_eq!(server.lock().keys.len(), 1, "nothing was posted before its time");
}

#[tokio::test]
async fn a_wrong_address_ends_the_task_and_no_record_is_at_fault() {
    let (address, server) = server().await;
    let secret = [("http.authorization.type", "static"), ("http.headers.authorization", "Bearer canary-token")];
    let more = [
        &secret[..],
        &[("http.headers.additional", "X-Key: canary-key, X-Other:1"), ("http.headers.content.type", "text/plain")],
    ]
    .concat();
    server.lock().moods = vec![Mood::Status(403, "Bearer canary-token and canary-key are not welcome")];
    let mut sink = sink(address, &more);
    let error = sink.write(rows(0, &["a"])).await.unwrap_err();
    assert!(matches!(&error, SinkError::Fatal(text) if text.contains("correct http.url")), "{error:?}");
    assert!(!error.to_string().contains("canary"), "{error}");
    let headers = server.lock().headers.clone();
    assert_eq!(headers["authorization"], "Bearer canary-token");
    assert_eq!(
        (&headers["x-key"], &headers["x-other"], &headers["content-type"]),
        (&"canary-key".parse().unwrap(), &"1".parse().unwrap(), &"text/plain".parse().unwrap())
    );
}

#[tokio::test]
async fn a_redirect_is_followed_only_where_that_is_said_and_the_body_comes_along() {
    for (follow, code, arrives) in [("false", 307, false), ("true", 307, true), ("true", 302, false)] {
        let (address, server) = server().await;
        server.lock().moods = vec![Mood::Redirect(code, "/moved")];
        let mut sink = sink(address, &[("http.follow.redirects", follow)]);
        let outcome = sink.write(rows(0, &["a"])).await;
        assert_eq!(outcome.is_ok(), arrives, "{follow} {code}: {outcome:?}");
        assert!(arrives || matches!(&outcome, Err(SinkError::Fatal(text)) if text.contains("redirects (/moved)")));
        assert_eq!(server.lock().taken.len(), usize::from(arrives));
    }
}

#[tokio::test]
async fn records_without_a_value_are_written_ignored_or_refused() {
    for (mood, taken, refused) in
        [("write", vec!["[a,null]"], vec![]), ("ignore", vec!["[a]"], vec![]), ("fail", vec!["[a]"], vec![1])]
    {
        let (address, server) = server().await;
        let mut sink = sink(address, &[batched("9"), vec![("behavior.on.null.values", mood)]].concat());
        let outcome = sink.write(records("t", 0, 0, &[Some(b"a".to_vec()), None])).await;
        let offsets = match outcome {
            Err(SinkError::Rejected { offsets, .. }) => offsets,
            other => other.map(|()| Vec::new()).unwrap(),
        };
        assert_eq!(
            (&server.lock().taken[..], offsets),
            (&taken.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>()[..], refused)
        );
        assert_eq!(sink.flush(0, true).await.unwrap().len(), 1);
    }
}

#[test]
fn wrong_settings_are_told_with_their_key() {
    let faults = |pairs: &[(&str, &str)]| -> Vec<String> {
        let mut all = conformance::settings(&[("http.url", "http://example.test/")]);
        all.extend(conformance::settings(pairs));
        let alone =
            KEYS.iter().filter_map(|key| key.fault(all.get(key.name).map(String::as_str)).map(|_| key.name.to_owned()));
        alone.chain(HttpKind.faults(&all).into_iter().map(|(key, _)| key)).collect()
    };
    assert_eq!(faults(&[]), Vec::<String>::new());
    assert_eq!(faults(&[("http.url", "ftp://example.test/")]), ["http.url"]);
    assert_eq!(faults(&[("http.url", "https://user:secret@example.test/")]), ["http.url"]);
    assert_eq!(faults(&[("http.authorization.type", "static")]), ["http.headers.authorization"]);
    assert_eq!(faults(&[("http.headers.authorization", "x")]), ["http.headers.authorization"]);
    assert_eq!(faults(&[("http.headers.additional", "authorization:x")]), ["http.headers.additional"]);
    assert_eq!(faults(&[("http.headers.additional", "no colon")]), ["http.headers.additional"]);
    assert_eq!(faults(&[("batch.max.size", "0"), ("http.timeout", "0")]), ["http.timeout", "batch.max.size"]);
}

struct Posted {
    address: SocketAddr,
    server: Shared,
}

#[async_trait]
impl Subject for Posted {
    fn sink(&self) -> Result<Box<dyn Sink>, SinkError> {
        Ok(sink(self.address, &[("batching.enabled", "true"), ("batch.max.size", "7")]))
    }

    async fn seen(&self) -> Result<Vec<Seen>, String> {
        let taken = self.server.lock().taken.join("\n");
        let known = |line: &str| {
            let (partition, offset) = tagged(line)?;
            Some(Seen { partition, offset, length: i64::try_from(line.len()).ok() })
        };
        Ok(taken.lines().filter_map(known).collect())
    }

    fn sees_all(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_http_sink_conforms() {
    let mut servers = Vec::new();
    for _ in 0..16 {
        servers.push(server().await);
    }
    let fresh = || -> Box<dyn Subject> {
        let (address, server) = servers.pop().expect("a server for each scene");
        Box::new(Posted { address, server })
    };
    assert_eq!(check(fresh).await, Vec::<String>::new());
}

#[test]
fn a_connector_s_name_is_plain_in_a_header() {
    assert_eq!(plain("my sink/\u{e4}"), "my%20sink%2F%C3%A4");
}
