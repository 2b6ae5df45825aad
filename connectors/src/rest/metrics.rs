//! `admin.listener` of a worker: `/metrics` for Prometheus, `/health` for supervisors. Changes nothing, whoever asks.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::metrics::{WorkerMetrics, exposition};

/// Serves until `stop` becomes true.
pub async fn serve(listener: TcpListener, metrics: Arc<WorkerMetrics>, mut stop: watch::Receiver<bool>) {
    let app = Router::new().route("/metrics", get(scrape)).route("/health", get(|| async { "ok\n" }));
    let stopped = async move {
        // The sender is gone only when the worker is.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    if let Err(error) = axum::serve(listener, app.with_state(metrics)).with_graceful_shutdown(stopped).await {
        tracing::warn!(%error, "the admin listener has ended");
    }
}

async fn scrape(State(metrics): State<Arc<WorkerMetrics>>) -> impl IntoResponse {
    match exposition(&metrics) {
        Ok(text) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            (StatusCode::OK, [(header::CONTENT_TYPE, content_type)], text)
        }
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], format!("metrics: {error}\n"))
        }
    }
}
