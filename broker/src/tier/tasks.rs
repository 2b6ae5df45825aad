//! What a node does for its tiered partitions: rounds of those it leads, frees local segments of those it follows.
//!
//! Owns the schedule. Does not own what a round does (`round`) nor what a new leader does first (`takeover`).
//! A crash leaves rounds undone; the next ones begin from the pointer.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use strandline_protocol::ids::TopicPartition;
use strandline_protocol::remote_pointer::PointerState;
use strandline_tiering::{MoveError, RemotePartition, UploadError};
use tokio::sync::{Semaphore, watch};

use super::round::{Round, free_local};
use super::takeover;
use crate::broker::Broker;
use crate::clock;
use crate::partition::Partition;
use crate::shutdown::stopped;

/// Garbage is looked for this often, and once after a start.
const COLLECT_EVERY_MS: i64 = 3_600_000;
/// The least time between two looks at all partitions.
const TICK_MIN: Duration = Duration::from_millis(250);
/// A failing bucket is named in the log this often.
const WARN_EVERY_MS: i64 = 30_000;

/// The tier's tasks on one node.
pub struct TierTasks {
    broker: Arc<Broker>,
    permits: Arc<Semaphore>,
    busy: Mutex<HashSet<TopicPartition>>,
    collected_ms: Mutex<HashMap<TopicPartition, i64>>,
    warned_ms: AtomicI64,
}

impl TierTasks {
    pub fn new(broker: Arc<Broker>) -> Arc<TierTasks> {
        let permits = Arc::new(Semaphore::new(broker.config.tier_copiers));
        Arc::new(TierTasks {
            broker,
            permits,
            busy: Mutex::default(),
            collected_ms: Mutex::default(),
            warned_ms: AtomicI64::new(i64::MIN),
        })
    }

    /// Runs until `stop` becomes true: a look at all tiered partitions per interval, and soon after a segment was closed.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let interval = self.broker.config.tier_task_interval.max(TICK_MIN);
        loop {
            let partitions = self.broker.partitions.all();
            for partition in partitions {
                self.begin_round(partition);
            }
            tokio::select! {
                () = stopped(&mut stop) => return,
                () = tokio::time::sleep(TICK_MIN) => {}
            }
            tokio::select! {
                () = stopped(&mut stop) => return,
                () = tokio::time::sleep(interval - TICK_MIN.min(interval)) => {}
                () = self.broker.segment_closed.notified() => {}
            }
        }
    }

    fn begin_round(self: &Arc<Self>, partition: Arc<Partition>) {
        let Some(remote) = partition.remote.clone() else { return };
        if !partition.leads() {
            if partition.pointer().state == PointerState::Open && !partition.dir.is_offline() {
                free_local(&partition, &partition.config(), &self.broker.reaper, clock::now_ms());
            }
            return;
        }
        let tiered = partition.config().remote_storage_enable || partition.pointer().state != PointerState::Unset;
        if !tiered || !partition.is_ready() || partition.dir.is_offline() || !self.busy.lock().insert(partition.tp) {
            return;
        }
        let tasks = Arc::clone(self);
        tokio::spawn(async move {
            // Never closed while the process runs, so this only waits.
            let permit = Arc::clone(&tasks.permits).acquire_owned().await;
            if let Err(error) = tasks.round(&partition, &remote).await {
                if let MoveError::Upload(UploadError::Damaged(damage)) = &error {
                    partition.found_damaged(damage);
                }
                tasks.warn(&partition, &error);
            }
            tasks.busy.lock().remove(&partition.tp);
            drop(permit);
        });
    }

    fn warn(&self, partition: &Partition, error: &MoveError) {
        let now = clock::now_ms();
        let bucket = self.broker.tier.as_ref().map_or("", |tier| tier.store.name());
        let before = self.warned_ms.load(Ordering::Relaxed);
        if now.saturating_sub(before) >= WARN_EVERY_MS {
            self.warned_ms.store(now, Ordering::Relaxed);
            tracing::warn!(
                bucket, partition = %partition.name(), %error,
                "the tier cannot be moved forward; produce goes on, local segments stay until it can (try: strandline tier check {bucket})"
            );
        } else {
            tracing::debug!(bucket, partition = %partition.name(), %error, "the tier cannot be moved forward");
        }
    }

    async fn round(&self, partition: &Arc<Partition>, remote: &RemotePartition) -> Result<(), MoveError> {
        let now = clock::now_ms();
        let round = Round {
            partition,
            remote,
            leader: self.broker.leader(partition),
            undelete_ms: i64::try_from(self.broker.config.tier_undelete.as_millis()).unwrap_or(i64::MAX),
            reaper: &self.broker.reaper,
            now_ms: &clock::now_ms,
        };
        let due = self.collected_ms.lock().get(&partition.tp).is_none_or(|at| now - at >= COLLECT_EVERY_MS);
        if round.run(due).await? {
            self.collected_ms.lock().insert(partition.tp, now);
        }
        Ok(())
    }

    /// Rule 3, before the first append in a new leadership: does the local log agree with the remote one? If not, the
    /// partition is taken out of service until it has taken over the remote log.
    pub fn lead(self: &Arc<Self>, partition: &Arc<Partition>) {
        if takeover::is_needed(partition) {
            let (tasks, partition, epoch) = (Arc::clone(self), Arc::clone(partition), partition.leader_epoch());
            tokio::spawn(async move { takeover::take_over(&partition, epoch, &tasks.broker.partitions).await });
        }
    }
}
