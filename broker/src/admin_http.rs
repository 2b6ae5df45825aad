//! `admin.listener`: `/metrics` for Prometheus, `/health` for supervisors, `/tiers/<topic>` for the tier map. Changes
//! nothing, whoever asks.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::broker::Broker;
use crate::metrics;

/// Serves until `stop` becomes true.
pub async fn serve(listener: TcpListener, broker: Arc<Broker>, mut stop: watch::Receiver<bool>) {
    let app = Router::new()
        .route("/metrics", get(scrape))
        .route("/health", get(health))
        .route("/tiers/{topic}", get(tiers))
        .with_state(broker);
    let stopped = async move {
        // The sender is gone only when the node is.
        let _ = stop.wait_for(|stopping| *stopping).await;
    };
    if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(stopped).await {
        tracing::warn!(%error, "the admin listener has ended");
    }
}

/// The address of the listener, for the banner.
pub fn url(address: SocketAddr) -> String {
    format!("http://{address}/metrics")
}

async fn scrape(State(broker): State<Arc<Broker>>) -> impl IntoResponse {
    let controller = broker.controller.leader();
    match metrics::exposition(&broker, controller) {
        Ok(text) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            (StatusCode::OK, [(header::CONTENT_TYPE, content_type)], text)
        }
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], format!("metrics: {error}\n"))
        }
    }
}

async fn tiers(State(broker): State<Arc<Broker>>, Path(topic): Path<String>) -> impl IntoResponse {
    match crate::tier::map::of_topic(&broker, &topic).await {
        Some(map) => (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], map.to_string()),
        None => (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, "text/plain")], format!("there is no topic {topic}\n")),
    }
}

async fn health(State(broker): State<Arc<Broker>>) -> impl IntoResponse {
    let offline = broker.partitions.dirs().iter().filter(|d| d.is_offline()).count();
    if offline == 0 {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("{offline} log directories are offline\n"))
    }
}
