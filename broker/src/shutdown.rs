//! The signal that a node stops: one flag that tasks wait for beside their work.

use tokio::sync::watch;

/// Done when the flag is set, or nobody is left to set it.
pub async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the node is gone: as good as stopped.
    let _ = stop.wait_for(|stopping| *stopping).await;
}
