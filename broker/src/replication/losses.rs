//! What this node has lost: log directories that failed, and logs that are damaged.
//!
//! Owns telling the controller, so that others lead and nothing of it counts as in sync, and when a damaged log may be dropped.
//! Does not own noticing (`partition`, `log_dir`), elections (the controller), nor the copy (`fetcher`).
//! Invariants: a log is dropped only after the controller has taken the replica out of the in-sync set and out of those that
//! are eligible, and only while others are in sync: what nobody else has stays as it is. A directory that failed is not used
//! until the node starts anew.
//! A crash forgets what was noticed; the start looks at every log again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use strandline_controller::request::{Loss, Request, Response};
use strandline_protocol::ids::TopicPartition;
use tokio::sync::{Notify, watch};

use crate::broker::Broker;
use crate::shutdown::stopped;

/// Between tries to tell the controller, and looks at what only this node has.
const RETRY: Duration = Duration::from_secs(1);

/// What was noticed.
#[derive(Debug, Default)]
pub struct Losses {
    damaged: Mutex<BTreeSet<TopicPartition>>,
    noticed: Notify,
    /// Damaged logs since the start.
    count: AtomicU64,
    /// Every log directory has failed, or the metadata log.
    nothing_left: watch::Sender<bool>,
}

impl Losses {
    /// A log of this node is damaged.
    pub fn damaged(&self, tp: TopicPartition) {
        if self.damaged.lock().insert(tp) {
            self.count_damaged();
            self.noticed.notify_one();
        }
    }

    /// A log was found damaged and was not served.
    pub fn count_damaged(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Damaged logs since the start of the node.
    pub fn damaged_count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// A log directory has failed.
    pub fn directory_failed(&self) {
        self.noticed.notify_one();
    }

    /// The damaged log was dropped.
    pub fn rebuilt(&self, tp: TopicPartition) {
        self.damaged.lock().remove(&tp);
    }

    /// Done when every log directory has failed, or the metadata log: there is nothing to serve any more.
    pub async fn nothing_left(&self) {
        let mut gone = self.nothing_left.subscribe();
        // The sender lives as long as this does.
        let _ = gone.wait_for(|gone| *gone).await;
    }
}

/// Tells what is noticed, until `stop` becomes true.
pub async fn run(broker: Arc<Broker>, mut stop: watch::Receiver<bool>) {
    let losses = Arc::clone(broker.partitions.losses());
    let mut left = true;
    loop {
        let noticed = tokio::select! {
            () = stopped(&mut stop) => return,
            () = losses.noticed.notified() => true,
            () = tokio::time::sleep(RETRY) => false,
        };
        if noticed || left {
            left = !tell(&broker).await;
        }
        let without_disk = broker.partitions.dirs().iter().all(|dir| dir.is_offline());
        if without_disk || broker.controller.fatal().is_some() {
            tracing::error!(
                without_disk,
                "the node cannot go on without its log directories and its metadata: it stops"
            );
            losses.nothing_left.send_replace(true);
            return;
        }
    }
}

/// Tells what the start has found, before anything can be led here.
pub async fn tell_at_start(broker: &Arc<Broker>) {
    let rebuilt = broker.partitions.take_rebuilt();
    while !(report(broker, rebuilt.clone(), Loss::Dropped).await && tell(broker).await) {
        tokio::time::sleep(RETRY).await;
    }
}

/// True if nothing is left to be told.
async fn tell(broker: &Arc<Broker>) -> bool {
    let image = broker.image();
    let me = broker.config.node_id;
    let mut offline = broker.partitions.offline();
    offline.retain(|tp| image.partitions.contains_key(tp) && !image.is_offline(*tp, me));
    let damaged: Vec<TopicPartition> = broker.partitions.losses().damaged.lock().iter().copied().collect();
    let (mut lost, mut kept) = (Vec::new(), 0);
    for tp in damaged {
        let Some(record) = image.partitions.get(&tp).map(|p| &p.record) else {
            broker.partitions.losses().rebuilt(tp);
            continue;
        };
        let counted = record.isr.contains(&me) || record.elr.contains(&me);
        let others = record.isr.iter().any(|id| *id != me);
        if counted && others {
            lost.push(tp);
        } else if counted {
            kept += 1;
        }
    }
    report(broker, offline, Loss::Offline).await && report(broker, lost, Loss::Damaged).await && kept == 0
}

async fn report(broker: &Arc<Broker>, partitions: Vec<TopicPartition>, loss: Loss) -> bool {
    if partitions.is_empty() {
        return true;
    }
    let count = partitions.len();
    let (broker_id, broker_epoch) = (broker.config.node_id, broker.epoch());
    match broker.controller.request(Request::ReplicasLost { broker_id, broker_epoch, partitions, loss }).await {
        Ok(Response::ReplicasLost(Ok(()))) => {
            tracing::warn!(partitions = count, ?loss, "the controller knows of lost replicas");
            true
        }
        answer => {
            tracing::warn!(partitions = count, ?loss, ?answer, "lost replicas are not told yet");
            false
        }
    }
}
