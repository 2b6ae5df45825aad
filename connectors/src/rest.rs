//! Kafka Connect's REST API.
//!
//! Owns the way of a request: read, route, forwarded to the leader if it changes something and this is not it, answered. Any worker
//! answers what is only read, from its own image. Does not own what the answers are made of. Bodies are bounded by [`BODY_BYTES_MAX`].

pub mod answer;
mod connectors;
mod forward;
pub mod loggers;
pub mod metrics;
mod offsets;
mod openapi;
mod plugins;
mod route;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;

use self::answer::{Answer, Failure};
use self::forward::Forwarder;
use self::route::Call;
use crate::worker::Worker;

/// The longest body of a request, bytes.
pub const BODY_BYTES_MAX: usize = 8 << 20;
/// How long a change waits for the group to have a leader.
const LEADER_WAIT: Duration = Duration::from_secs(20);
const JSON: &str = "application/json";
/// Set on a request that was forwarded once: it is not forwarded again.
const FORWARDED: &str = "x-strandline-forwarded";

struct Rest {
    worker: Arc<Worker>,
    forwarder: Forwarder,
}

/// Serves until `stop` becomes true.
pub async fn serve(listener: TcpListener, worker: Arc<Worker>, mut stop: watch::Receiver<bool>) {
    let forwarder = match Forwarder::new() {
        Ok(forwarder) => forwarder,
        Err(error) => return tracing::error!(%error, "the REST API does not start"),
    };
    let app = Router::new().fallback(handle).with_state(Arc::new(Rest { worker, forwarder }));
    let stopped = async move {
        // The sender is gone only when the worker is.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(stopped).await {
        tracing::warn!(%error, "the REST API has ended");
    }
}

async fn handle(State(rest): State<Arc<Rest>>, request: Request) -> Response {
    match answer(&rest, request).await {
        Ok(response) => response,
        Err(failure) => {
            tracing::debug!(status = failure.status, failure.message, "a REST call was refused");
            response(failure.status, Some(&failure.body().to_string()), None)
        }
    }
}

fn response(status: u16, body: Option<&str>, location: Option<&str>) -> Response {
    let mut response = Response::new(body.map_or_else(Body::empty, |text| Body::from(text.to_owned())));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    if body.is_some() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    }
    if let Some(location) = location.and_then(|l| HeaderValue::from_str(l).ok()) {
        headers.insert(header::LOCATION, location);
    }
    response
}

async fn answer(rest: &Rest, request: Request) -> Result<Response, Failure> {
    let (head, body) = request.into_parts();
    let query = head.uri.query().unwrap_or("").to_owned();
    let call = route::parse(head.method.as_str(), head.uri.path(), &query)?;
    let forwarded = head.headers.contains_key(FORWARDED);
    let body = to_bytes(body, BODY_BYTES_MAX).await;
    let body = body.map_err(|_| Failure::new(413, format!("a body has at most {BODY_BYTES_MAX} bytes")))?;
    if call.needs_leader()
        && let Some(leader) = leader(rest, forwarded).await?
    {
        let path = head.uri.path_and_query().map_or("/", |p| p.as_str());
        let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        return rest.forwarder.forward(&leader, &head.method, path, host, body).await;
    }
    let answer = carry_out(&rest.worker, call, &body).await?;
    let (kind, text) = match answer.text {
        Some((kind, text)) => (kind, Some(text)),
        None => (JSON, answer.body.map(|b| b.to_string())),
    };
    let text = text.filter(|_| head.method != Method::HEAD);
    let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let location = answer.location.map(|path| match host.filter(|_| !forwarded) {
        Some(host) => format!("http://{host}{path}"),
        None => path,
    });
    let mut response = response(answer.status, text.as_deref(), location.as_deref());
    if text.is_some() {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    Ok(response)
}

/// Where a change goes; None = it is made here.
async fn leader(rest: &Rest, forwarded: bool) -> Result<Option<String>, Failure> {
    let busy = "Cannot complete request momentarily due to stale configuration (typically caused by a concurrent config change)";
    let mut view = rest.worker.view.clone();
    let seated = tokio::time::timeout(LEADER_WAIT, view.wait_for(|view| view.generation.is_some())).await;
    let Ok(Ok(view)) = seated else {
        let text =
            "Cannot complete request momentarily due to no known leader URL, likely because a rebalance was underway.";
        return Err(Failure::new(409, text));
    };
    if view.leads {
        return Ok(None);
    }
    match view.leader_url.clone().filter(|_| !forwarded) {
        Some(url) => Ok(Some(url)),
        None => Err(Failure::new(409, busy)),
    }
}

async fn carry_out(worker: &Worker, call: Call, body: &Bytes) -> Result<Answer, Failure> {
    match call {
        Call::Root => Ok(Answer::ok(json!({
            "version": env!("CARGO_PKG_VERSION"), "commit": "strandline", "kafka_cluster_id": worker.cluster_id,
        }))),
        Call::Health => Ok(health(worker)),
        Call::OpenApi { yaml } => Ok(openapi::answer(yaml)),
        Call::List { status, info, expand } => Ok(connectors::list(worker, status, info, expand)),
        Call::Create => connectors::create(worker, body).await,
        Call::Get(name) => connectors::get(worker, &name),
        Call::Delete(name) => connectors::delete(worker, &name).await,
        Call::Config(name) => connectors::config(worker, &name),
        Call::PutConfig(name) => connectors::put_config(worker, &name, body).await,
        Call::PatchConfig(name) => connectors::patch_config(worker, &name, body).await,
        Call::Status(name) => connectors::status(worker, &name),
        Call::Tasks(name) => connectors::tasks(worker, &name),
        Call::TaskStatus(name, task) => connectors::task_status(worker, &name, task),
        Call::Restart { connector, include_tasks, only_failed } => {
            connectors::restart(worker, &connector, include_tasks, only_failed).await
        }
        Call::RestartTask(name, task) => connectors::restart_task(worker, &name, task).await,
        Call::Pause(name) => connectors::pause(worker, &name).await,
        Call::Resume(name) => connectors::resume(worker, &name).await,
        Call::Stop(name) => connectors::stop(worker, &name).await,
        Call::Topics(name) => connectors::topics(worker, &name),
        Call::ResetTopics(name) => connectors::reset_topics(worker, &name).await,
        Call::Offsets(name) => offsets::get(worker, &name).await,
        Call::AlterOffsets(name) => offsets::alter(worker, &name, body).await,
        Call::ResetOffsets(name) => offsets::reset(worker, &name).await,
        Call::Plugins { connectors_only } => Ok(plugins::list(worker, connectors_only)),
        Call::PluginConfig(name) => plugins::config(worker, &name),
        Call::Validate(name) => plugins::validate(worker, &name, body),
        Call::Loggers => Ok(loggers::list(worker)),
        Call::Logger(name) => loggers::get(worker, &name),
        Call::SetLogger { logger, cluster } => loggers::set(worker, &logger, cluster, body).await,
    }
}

fn health(worker: &Worker) -> Answer {
    let (status, word, message) = match worker.view.borrow().generation {
        Some(_) => (200, "healthy", "Worker has completed startup and is ready to handle requests."),
        None => (503, "starting", "Worker is still starting up."),
    };
    Answer { status, ..Answer::ok(json!({ "status": word, "message": message })) }
}
