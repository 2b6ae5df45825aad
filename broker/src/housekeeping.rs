//! The slow, regular work of a node, on one thread (in a simulation: task) of its own: retention, compaction, checkpoints, removal of files.
//!
//! Owns the schedule. Does not own the rules (`strandline_log`), nor tiered topics' retention (`tier::tasks`).
//! A crash leaves work for the next round after the restart.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use strandline_log::config::LogConfig;
use strandline_log::error::{LogError, ReadError};
use strandline_log::retention::RetentionLimits;
use tokio::sync::watch;

use crate::broker::Broker;
use crate::clock;
use crate::partition::Partition;
use crate::shutdown::stopped;

/// Kafka's `log.flush.offset.checkpoint.interval.ms`.
const CHECKPOINT_EVERY_MS: i64 = 60_000;
/// Between looks for something to compact (Kafka: `log.cleaner.backoff.ms`).
const COMPACT_EVERY_MS: i64 = 15_000;
/// The map of keys of one compaction, in bytes (Kafka: `log.cleaner.dedupe.buffer.size`, shared by its threads).
const COMPACTION_MAP_BYTES: usize = 128 << 20;
/// Between looks at producers that wrote nothing for long.
const EXPIRE_PRODUCERS_EVERY_MS: i64 = 600_000;
/// Logs without traffic give back memory and files this often.
const RELEASE_EVERY_MS: i64 = 60_000;
/// The least time between two rounds.
const ROUND_MIN: Duration = Duration::from_millis(500);
const ROUND_MAX: Duration = Duration::from_secs(5);

/// When each kind of work was last done.
struct Due {
    retention: i64,
    checkpoints: i64,
    compaction: i64,
    producers: i64,
    release: i64,
}

impl Due {
    fn from_now(broker: &Broker) -> Due {
        let now = clock::now_ms();
        let initial = i64::try_from(broker.config.initial_task_delay.as_millis()).unwrap_or(0);
        Due {
            retention: now.saturating_add(initial),
            checkpoints: now + CHECKPOINT_EVERY_MS,
            compaction: now.saturating_add(initial),
            producers: now + EXPIRE_PRODUCERS_EVERY_MS,
            release: now + RELEASE_EVERY_MS,
        }
    }
}

fn pause(broker: &Broker) -> Duration {
    broker.config.retention_check_interval.clamp(ROUND_MIN, ROUND_MAX)
}

/// Runs on its own thread until `stop` says so, or its sender is gone.
pub fn run(broker: &Arc<Broker>, stop: &Receiver<()>) {
    let mut due = Due::from_now(broker);
    while matches!(stop.recv_timeout(pause(broker)), Err(RecvTimeoutError::Timeout)) {
        round(broker, &mut due);
    }
}

/// The same as a task.
pub async fn run_as_task(broker: Arc<Broker>, mut stop: watch::Receiver<bool>) {
    let mut due = Due::from_now(&broker);
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = tokio::time::sleep(pause(&broker)) => round(&broker, &mut due),
        }
    }
}

fn round(broker: &Arc<Broker>, due: &mut Due) {
    let retention_every_ms = i64::try_from(broker.config.retention_check_interval.as_millis()).unwrap_or(i64::MAX);
    let now = clock::now_ms();
    broker.reaper.remove_due(now);
    broker.partitions.remove_doomed(now);
    let is_due = |at: &mut i64, every: i64| {
        let yes = now >= *at;
        if yes {
            *at = now.saturating_add(every);
        }
        yes
    };
    let retention = is_due(&mut due.retention, retention_every_ms);
    let compaction = is_due(&mut due.compaction, COMPACT_EVERY_MS);
    let producers = is_due(&mut due.producers, EXPIRE_PRODUCERS_EVERY_MS);
    let release = is_due(&mut due.release, RELEASE_EVERY_MS);
    let mut compacted = false;
    if retention || compaction || producers || release {
        for partition in broker.partitions.all() {
            if partition.dir.is_offline() {
                continue;
            }
            let config = partition.config();
            if retention && !config.remote_storage_enable && config.cleanup_policy.delete {
                expire(broker, &partition, &config, now);
            }
            if compaction && config.cleanup_policy.compact {
                match compact(&partition, &config, now) {
                    Ok(done) => compacted |= done,
                    Err(error) => {
                        tracing::warn!(partition = %partition.name(), %error, "not compacted; tried again later")
                    }
                }
            }
            if producers {
                let expiration = i64::try_from(broker.config.producer_id_expiration.as_millis()).unwrap_or(i64::MAX);
                partition.log().remove_expired_producers(now, expiration);
            }
            if release {
                partition.release_if_idle();
            }
        }
    }
    if compacted {
        broker.partitions.write_cleaner_checkpoints();
    }
    if is_due(&mut due.checkpoints, CHECKPOINT_EVERY_MS) {
        broker.partitions.write_checkpoints();
    }
}

/// Retention of a topic that is not tiered.
fn expire(broker: &Broker, partition: &Partition, config: &LogConfig, now: i64) {
    let limits = RetentionLimits { retention_ms: config.retention_ms, retention_bytes: config.retention_bytes };
    let mut log = partition.log();
    if log.has_failed() {
        return;
    }
    let deleted = log.delete_expired(limits, now);
    drop(log);
    broker.reaper.take(partition, deleted, config.file_delete_delay_ms, now);
}

/// Why a log was not compacted; nothing is lost.
#[derive(Debug, thiserror::Error)]
enum CompactionError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Compacts if enough is dirty, or something has been for too long. The rewrite runs without the log's lock.
fn compact(partition: &Partition, config: &LogConfig, now: i64) -> Result<bool, CompactionError> {
    let first_dirty = partition.clean_until();
    let plan = {
        let log = partition.log();
        let overdue = log.segments().iter().find(|s| s.next_offset > first_dirty).is_some_and(|s| {
            s.max_timestamp >= 0 && now.saturating_sub(s.max_timestamp) > config.max_compaction_lag_ms
        });
        let ratio = log.log_dirty_ratio(first_dirty, now)?;
        if ratio <= 0.0 || (ratio < config.min_cleanable_dirty_ratio && !overdue) {
            return Ok(false);
        }
        log.compaction_plan(first_dirty, now)?
    };
    let Some(plan) = plan else { return Ok(false) };
    let compacted = plan.run(COMPACTION_MAP_BYTES)?;
    let clean_until = compacted.clean_until;
    partition.log().compact(compacted)?;
    partition.set_clean_until(clean_until);
    tracing::debug!(partition = %partition.name(), clean_until, "compacted");
    Ok(true)
}
