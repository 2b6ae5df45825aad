//! Finds brokers that were not heard of for too long, on the active controller.
//!
//! Owns the clock of silence. A new active controller gives every broker a whole session before it judges. What finds a
//! killed process faster (its broken connection) is the broker's, see [`ControllerHandle::suspect`].

use std::time::Duration;

use tokio::time::Instant;

use crate::handle::ControllerHandle;
use crate::request::Request;

/// Between two looks.
const TICK: Duration = Duration::from_millis(50);

/// Runs until the controller stops.
pub(crate) async fn run(handle: ControllerHandle, session_timeout: Duration) {
    let mut led_since: Option<Instant> = None;
    loop {
        tokio::time::sleep(TICK).await;
        if let Some(error) = handle.fatal() {
            tracing::error!(%error, "the metadata log has failed: this node's controller has stopped");
            return;
        }
        let now = Instant::now();
        note_unfenced(&handle, now);
        if !handle.is_leader() {
            led_since = None;
            continue;
        }
        let image = handle.image();
        if led_since.is_none() {
            // The old active controller may have died together with its broker: whoever is gone is found now.
            let alive = image.brokers.values().filter(|b| !b.fenced).map(|b| (b.broker_id, b.broker_epoch));
            for (broker_id, broker_epoch) in alive.collect::<Vec<_>>() {
                let handle = handle.clone();
                tokio::spawn(async move { handle.suspect(broker_id, broker_epoch).await });
            }
        }
        let since = *led_since.get_or_insert(now);
        let silent = image.brokers.values().filter(|b| !b.fenced).filter_map(|broker| {
            let heard =
                handle.beats.lock().get(&broker.broker_id).filter(|(epoch, _)| *epoch == broker.broker_epoch).copied();
            let heard = heard.map_or(since, |(_, at)| at.max(since));
            (now.duration_since(heard) > session_timeout).then_some((broker.broker_id, broker.broker_epoch))
        });
        for (broker_id, broker_epoch) in silent.collect::<Vec<_>>() {
            tracing::warn!(broker_id, broker_epoch, ?session_timeout, "a broker was not heard of: it is fenced");
            if let Err(error) = handle.request(Request::Fence { broker_id, broker_epoch }).await {
                tracing::warn!(broker_id, %error, "the broker is not fenced yet");
            }
        }
    }
}

/// Who leads next must know, too, which brokers have only just been unfenced.
fn note_unfenced(handle: &ControllerHandle, now: Instant) {
    let image = handle.image();
    let mut unfenced = handle.unfenced.lock();
    let is_unfenced =
        |id: &i32, epoch: i64| image.brokers.get(id).is_some_and(|b| !b.fenced && b.broker_epoch == epoch);
    unfenced.retain(|id, (epoch, _)| is_unfenced(id, *epoch));
    for broker in image.brokers.values().filter(|b| !b.fenced) {
        unfenced.entry(broker.broker_id).or_insert((broker.broker_epoch, now));
    }
}
