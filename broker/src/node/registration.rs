//! A broker's registration with the controller, and the heartbeats that keep it.
//!
//! Owns when a broker registers (at its start, and when the controller has forgotten it) and what it hears back. Does not own
//! what a registration does (`strandline_controller`). Heartbeats run on the controller's thread, so that a busy node is not
//! taken for dead. A crash leaves a registration that the next one replaces.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use strandline_controller::ControllerHandle;
use strandline_controller::record::Endpoint;
use strandline_controller::request::{Heartbeat, Refused, RegisterBroker, Request, Response};
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::uuid_to_base64;
use tokio::sync::watch;
use uuid::Uuid;

use super::{BEAT_SOON, Control, NodeError};
use crate::broker::Broker;
use crate::config::NodeConfig;
use crate::log_dir::Meta;
use crate::shutdown::stopped;

/// Registers, and learns the cluster's id. A node whose directories are new takes the id that the cluster has; the first
/// one of all gives it. `clean`: the node's logs were closed in order.
pub(super) async fn register_first(
    config: &NodeConfig,
    controller: &ControllerHandle,
    known: Option<String>,
    clean: bool,
) -> Result<(i64, String), NodeError> {
    let of_image = || controller.image().cluster_id.as_ref().map(ToString::to_string);
    let mut proposed = known.clone().or_else(of_image).unwrap_or_else(|| uuid_to_base64(Uuid::new_v4()));
    loop {
        match register(config, controller, &proposed, clean).await {
            Ok(epoch) => return Ok((epoch, proposed)),
            Err(NodeError::Refused(refused)) if refused.code == ErrorCode::InconsistentClusterId && known.is_none() => {
                // Another new node was first.
                tokio::time::sleep(BEAT_SOON).await;
                proposed = of_image().unwrap_or(proposed);
            }
            Err(NodeError::Refused(refused)) if is_transient(refused.code) => {
                tracing::info!(%refused, "not registered yet");
                tokio::time::sleep(BEAT_SOON).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Nobody decided: the next try may reach the active controller. What was written all the same is replaced by it, or refused as there.
pub(super) fn is_transient(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::UnknownServerError | ErrorCode::RequestTimedOut | ErrorCode::NotController)
}

async fn register(config: &NodeConfig, controller: &ControllerHandle, id: &str, clean: bool) -> Result<i64, NodeError> {
    let endpoints =
        config.advertised.iter().map(|l| Endpoint { listener: l.name.clone(), host: l.host.clone(), port: l.port });
    let request = Request::RegisterBroker(RegisterBroker {
        broker_id: config.node_id,
        cluster_id: id.to_owned(),
        incarnation: Uuid::new_v4(),
        endpoints: endpoints.collect(),
        rack: config.rack.clone(),
        clean,
    });
    match controller.request(request).await {
        Ok(Response::RegisterBroker(outcome)) => Ok(outcome?),
        Ok(_) => Err(Refused::new(ErrorCode::UnknownServerError, "unexpected answer").into()),
        Err(error) => Err(Refused::new(ErrorCode::UnknownServerError, error.to_string()).into()),
    }
}

/// Waits until this node's image holds its registration: what it says of in-sync sets counts the old process as gone.
pub(super) async fn until_registered(broker: &Broker) {
    let registered = u64::try_from(broker.epoch()).unwrap_or(0);
    while broker.image().index < registered {
        tokio::time::sleep(BEAT_SOON).await;
    }
}

/// Sends signs of life until the node has stopped. The receiver hears whether the broker is unfenced, and whether it may
/// stop.
pub(super) fn start_heartbeats(
    broker: &Arc<Broker>,
    control: &Control,
    meta: &Meta,
    stopping: &Arc<AtomicBool>,
    stop: &watch::Sender<bool>,
) -> watch::Receiver<(bool, bool)> {
    let (state, heard) = watch::channel((false, false));
    let (broker, stopping, meta, mut stop) = (Arc::clone(broker), Arc::clone(stopping), meta.clone(), stop.subscribe());
    control.runtime.spawn(async move {
        loop {
            let beat = Heartbeat {
                broker_id: broker.config.node_id,
                broker_epoch: broker.epoch(),
                applied_index: broker.applied(),
                ready: true,
                want_shutdown: stopping.load(Ordering::Acquire),
            };
            let mut pause = broker.config.broker_heartbeat_interval;
            match broker.controller.request(Request::Heartbeat(beat)).await {
                Ok(Response::Heartbeat(Ok(answer))) => {
                    state.send_replace((!answer.fenced, answer.may_stop));
                    if answer.fenced || beat.want_shutdown {
                        pause = BEAT_SOON;
                    }
                }
                Ok(Response::Heartbeat(Err(refused))) => {
                    tracing::warn!(%refused, "the controller does not know this registration: registering again");
                    match register(&broker.config, &broker.controller, &meta.cluster_id, true).await {
                        Ok(epoch) => broker.set_epoch(epoch),
                        Err(error) => tracing::warn!(%error, "not registered"),
                    }
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "a heartbeat was not answered"),
            }
            tokio::select! {
                () = stopped(&mut stop) => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    });
    heard
}

/// Waits until the controller counts this broker in, and what it leads is led here.
pub(super) async fn until_unfenced(
    broker: &Arc<Broker>,
    heard: Option<watch::Receiver<(bool, bool)>>,
) -> Result<(), NodeError> {
    let Some(mut heard) = heard else { return Ok(()) };
    let unfenced = heard.wait_for(|(unfenced, _)| *unfenced).await.map(drop);
    unfenced.map_err(|_| Refused::new(ErrorCode::UnknownServerError, "the heartbeats have ended"))?;
    broker.catch_up().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_that_was_not_reached_is_asked_again_and_a_refusal_is_final() {
        for code in [ErrorCode::UnknownServerError, ErrorCode::RequestTimedOut, ErrorCode::NotController] {
            assert!(is_transient(code), "{code:?}");
        }
        for code in [ErrorCode::InconsistentClusterId, ErrorCode::InvalidRequest, ErrorCode::StaleBrokerEpoch] {
            assert!(!is_transient(code), "{code:?}");
        }
    }
}
