//! Asks the controller for the in-sync sets that this node's leaders want.
//!
//! Owns the queue of partitions to look at, and one request under way. Does not own the rule (`leadership`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use strandline_controller::record::PartitionRecord;
use strandline_controller::request::{IsrChange, Refused, Request, Response};
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

/// What the controller is asked for at once.
pub struct IsrAsk {
    asking: Vec<Arc<Partition>>,
    pub changes: Vec<IsrChange>,
}

impl IsrAsk {
    /// The changes that these partitions want; none if none does.
    pub fn of(partitions: Vec<Arc<Partition>>, now_ms: i64, lag_max_ms: i64) -> Option<IsrAsk> {
        let mut ask = IsrAsk { asking: Vec::new(), changes: Vec::new() };
        for partition in partitions {
            if let Some(change) = partition.change_isr(now_ms, lag_max_ms) {
                tracing::info!(partition = %partition.name(), isr = ?change.isr, "the in-sync set is to change");
                ask.changes.push(change);
                ask.asking.push(partition);
            }
        }
        (!ask.changes.is_empty()).then_some(ask)
    }

    /// Takes the controller's answer.
    pub fn answered(&self, outcomes: Vec<Result<PartitionRecord, Refused>>, now_ms: i64) {
        for (partition, outcome) in self.asking.iter().zip(outcomes) {
            match outcome {
                Ok(record) => partition.isr_changed(&record, now_ms),
                Err(refused) => {
                    tracing::info!(partition = %partition.name(), %refused, "the in-sync set stays as it is");
                    partition.isr_refused(now_ms);
                }
            }
        }
    }

    /// Nobody answered: returns the partitions that are to be looked at again.
    pub fn unanswered(self) -> Vec<Arc<Partition>> {
        self.asking.iter().for_each(|p| p.isr_unanswered());
        self.asking
    }
}

async fn ask(broker: &Arc<Broker>, partitions: Vec<Arc<Partition>>) {
    let lag_max_ms = i64::try_from(broker.config.replica_lag_max.as_millis()).unwrap_or(i64::MAX);
    let Some(ask) = IsrAsk::of(partitions, clock::now_ms(), lag_max_ms) else { return };
    let (broker_id, broker_epoch) = (broker.config.node_id, broker.epoch());
    let request = Request::AlterIsr { broker_id, broker_epoch, changes: ask.changes.clone() };
    match broker.controller.request(request).await {
        Ok(Response::AlterIsr(outcomes)) => ask.answered(outcomes, clock::now_ms()),
        other => {
            tracing::warn!(error = ?other.err(), "in-sync sets were not changed; asked again");
            // What was asked may be written, now or later: until the image says so, the high watermark waits for both sets.
            tokio::time::sleep(RETRY).await;
            ask.unanswered().iter().for_each(|partition| broker.isr_queue.look_at(partition));
        }
    }
}
