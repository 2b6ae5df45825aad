//! Asks the controller for the in-sync sets that this node's leaders want.
//!
//! Owns the queue of partitions to look at, and one request under way. Does not own the rule (`leadership`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use strandline_controller::request::{IsrChange, Request, Response};
use strandline_protocol::ids::TopicPartition;
use tokio::sync::{Notify, watch};

use crate::broker::Broker;
use crate::clock;
use crate::partition::Partition;
use crate::shutdown::stopped;

/// Changes of one request, at most.
const CHANGES_MAX: usize = 10_000;
/// Pause after the controller did not answer.
const RETRY: Duration = Duration::from_millis(100);

/// Partitions whose in-sync set may have to change.
#[derive(Default)]
pub struct IsrQueue {
    waiting: Mutex<BTreeMap<TopicPartition, Arc<Partition>>>,
    wake: Notify,
}

impl IsrQueue {
    /// Looks at the partition soon.
    pub fn look_at(&self, partition: &Arc<Partition>) {
        self.waiting.lock().insert(partition.tp, Arc::clone(partition));
        self.wake.notify_one();
    }

    fn take(&self) -> Vec<Arc<Partition>> {
        let mut waiting = self.waiting.lock();
        let mut taken = Vec::new();
        while taken.len() < CHANGES_MAX {
            let Some((_, partition)) = waiting.pop_first() else { break };
            taken.push(partition);
        }
        taken
    }
}

/// Runs until `stop` becomes true: what is queued at once, and laggards every half of `replica.lag.time.max.ms`.
pub async fn run(broker: Arc<Broker>, mut stop: watch::Receiver<bool>) {
    let period = broker.config.replica_lag_max / 2;
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = broker.isr_queue.wake.notified() => {}
            () = tokio::time::sleep(period) => {
                for partition in broker.partitions.all().iter().filter(|p| p.has_followers()) {
                    broker.isr_queue.waiting.lock().insert(partition.tp, Arc::clone(partition));
                }
            }
        }
        loop {
            let partitions = broker.isr_queue.take();
            if partitions.is_empty() {
                break;
            }
            ask(&broker, partitions).await;
        }
    }
}

async fn ask(broker: &Arc<Broker>, partitions: Vec<Arc<Partition>>) {
    let lag_max_ms = i64::try_from(broker.config.replica_lag_max.as_millis()).unwrap_or(i64::MAX);
    let now = clock::now_ms();
    let mut changes: Vec<IsrChange> = Vec::new();
    let mut asking = Vec::new();
    for partition in partitions {
        if let Some(change) = partition.change_isr(now, lag_max_ms) {
            tracing::info!(partition = %partition.name(), isr = ?change.isr, "the in-sync set is to change");
            changes.push(change);
            asking.push(partition);
        }
    }
    if changes.is_empty() {
        return;
    }
    let request = Request::AlterIsr { broker_id: broker.config.node_id, broker_epoch: broker.epoch(), changes };
    match broker.controller.request(request).await {
        Ok(Response::AlterIsr(outcomes)) => {
            for (partition, outcome) in asking.iter().zip(outcomes) {
                match outcome {
                    Ok(record) => partition.isr_changed(&record),
                    Err(refused) => {
                        tracing::info!(partition = %partition.name(), %refused, "the in-sync set stays as it is");
                        partition.isr_refused();
                    }
                }
            }
        }
        Ok(_) => asking.iter().for_each(|p| p.isr_unanswered()),
        Err(error) => {
            tracing::warn!(%error, "in-sync sets were not changed; asked again");
            // What was asked may be written, now or later: until the image says so, the high watermark waits for both sets.
            tokio::time::sleep(RETRY).await;
            for partition in asking {
                partition.isr_unanswered();
                broker.isr_queue.look_at(&partition);
            }
        }
    }
}
