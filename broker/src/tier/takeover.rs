//! Rule 3 of the remote log protocol: what a new leader does before its first append.
//!
//! Owns the question whether a local log agrees with the remote one, and the adoption of the remote log where it does not.
//! Does not own when a leadership begins (`partition`). A crash in the middle leaves a log that is shorter than what is
//! copied; the next leadership begins again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use strandline_log::leader_epochs::EpochEntry;
use strandline_log::{Log, LogError};
use strandline_protocol::remote_pointer::{PointerState, RemotePointer, UNKNOWN_EPOCH};

use crate::environment::block_in_place;
use crate::partition::Partition;
use crate::partitions::Partitions;

/// Reading a sidecar to take over from.
const TAIL_DEADLINE: Duration = Duration::from_secs(60);
/// Pause after a failed take-over.
const ADOPT_PAUSE: Duration = Duration::from_secs(1);

/// Whether a leadership that has just begun has to take over the remote log: then the partition is out of service until
/// [`take_over`] is done.
pub fn is_needed(partition: &Partition) -> bool {
    let pointer = partition.pointer();
    let mut log = partition.log();
    if pointer.state == PointerState::Open {
        if !agrees(&log, &pointer) {
            partition.set_ready(false);
            return true;
        }
        // What was copied was decided: it is below the high watermark, whatever this node knew of it.
        log.advance_high_watermark(pointer.highest_copied_offset + 1);
    }
    partition.set_ready(true);
    false
}

/// Takes over the remote log, as often as it takes; then the partition serves. Ends without effect when the leadership of `epoch`
/// is over: its successor has a log that others have acknowledged.
pub async fn take_over(partition: &Arc<Partition>, epoch: i32, partitions: &Partitions) {
    while partition.leads_in(epoch) {
        match adopt(partition, epoch, partitions).await {
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(partition = %partition.name(), %error, "the remote log cannot be taken over yet");
                tokio::time::sleep(ADOPT_PAUSE).await;
            }
        }
    }
}

/// True if the local log's history holds the last copied offset in the epoch that the pointer says, or a log that starts
/// above it can simply go on.
fn agrees(log: &Log, pointer: &RemotePointer) -> bool {
    let offsets = log.offsets();
    if offsets.log_end <= pointer.highest_copied_offset {
        return false;
    }
    if !pointer.has_live() || pointer.highest_copied_epoch == UNKNOWN_EPOCH {
        return true;
    }
    match log.epoch_for_offset(pointer.highest_copied_offset) {
        Some(epoch) => epoch == pointer.highest_copied_epoch,
        // The history begins with the first local offset. A log that begins exactly behind what is copied was freed up to
        // there by this very pointer, which only follows a log that agrees.
        None => {
            let begins_behind = offsets.local_log_start == pointer.highest_copied_offset + 1;
            let first_epoch = log.epoch_for_offset(offsets.local_log_start);
            begins_behind && first_epoch.is_none_or(|epoch| epoch >= pointer.highest_copied_epoch)
        }
    }
}

/// Why the remote log is not taken over yet.
type AdoptError = Box<dyn std::error::Error + Send + Sync>;

/// Takes over the remote log: the local one restarts behind it, and what it held is set aside.
async fn adopt(partition: &Arc<Partition>, epoch: i32, partitions: &Partitions) -> Result<(), AdoptError> {
    let pointer = partition.pointer();
    let remote = partition.remote.as_ref().ok_or("the topic is tiered, but tier.url is not set")?;
    let tail = if pointer.has_live() { remote.tail(TAIL_DEADLINE).await? } else { None };
    let (epochs, producer_state) = match &tail {
        Some(tail) => {
            let entry = |(epoch, start_offset): &(i32, i64)| EpochEntry { epoch: *epoch, start_offset: *start_offset };
            (tail.leader_epochs.iter().map(entry).collect(), tail.producer_state.clone())
        }
        None if pointer.highest_copied_epoch != UNKNOWN_EPOCH => {
            let entry = EpochEntry { epoch: pointer.highest_copied_epoch, start_offset: pointer.log_start_offset };
            (vec![entry], Bytes::new())
        }
        None => (Vec::new(), Bytes::new()),
    };
    let next = pointer.highest_copied_offset + 1;
    let name = partition.name();
    let aside = partition.dir.path.join(format!("{name}.{}-stray", uuid::Uuid::new_v4().simple()));
    let offsets = partition.offsets();
    tracing::warn!(
        partition = %name, local_end = offsets.log_end, remote_end = next, set_aside = %aside.display(),
        "the local log disagrees with the remote one, which wins: the log restarts behind it"
    );
    block_in_place(|| {
        let mut log = partition.log();
        if !partition.leads_in(epoch) {
            return Ok(());
        }
        log.restart_at(next, pointer.log_start_offset, epochs, &producer_state, Some(&aside))?;
        drop(log);
        // Before anything is appended behind the new start: recovery must not look below it.
        partitions.write_checkpoints();
        partition.adopted(epoch);
        Ok::<_, LogError>(())
    })?;
    Ok(())
}
