//! When producer state is in memory, and how it comes there: from the newest snapshot and the batches after it.
//!
//! Owns: lazy loading, replay of batches, what is remembered while the state is not loaded. Does not own: the rules on
//! producers (`producer_state.rs`), snapshot bytes (`producer_snapshot.rs`). Invariants: a loaded state knows all below the
//! log end. A crash leaves: snapshots, of which a damaged one is passed over for an older one.

use crate::batch_walk::{BatchWalk, SCAN_BLOCK_BYTES, WALK_BLOCK_BYTES, WalkError, read_exact};
use crate::error::{CorruptLog, OpenError};
use crate::file_cache::FileKind;
use crate::log::{Log, Segment};
use crate::producer_snapshot;
use crate::producer_state::{AppendOrigin, EndTxn, PendingProducers, ProducerBatch, ProducerState, RecentBatches};
use crate::segment::file_name;
use crate::transaction_index::AbortedTxn;
use crate::validate::DECOMPRESSED_BYTES_MAX;
use parking_lot::Mutex;
use std::path::PathBuf;
use strandline_disk::DiskFile;
use strandline_protocol::record_batch::{BatchError, BatchHeader, ControlRecord, records};

/// Bytes of log before a snapshot whose batch headers are read for what the snapshot leaves out: five batches of 16 KiB of fifty producers.
const LOOK_BACK_BYTES: u64 = 4 << 20;
/// Largest control batch that is read, in bytes; markers are under 100.
const CONTROL_BATCH_BYTES_MAX: usize = 64 << 10;

#[derive(Debug, Default)]
struct Cell {
    state: Option<ProducerState>,
    /// What the state would answer, while it is not loaded; `None` = not known.
    first_unstable: Option<Option<i64>>,
}

/// The producer state of a log, loaded on first use.
#[derive(Debug, Default)]
pub(crate) struct Producers(Mutex<Cell>);

impl Producers {
    /// State that is known already.
    pub(crate) fn loaded(state: ProducerState) -> Self {
        Self(Mutex::new(Cell { state: Some(state), first_unstable: None }))
    }

    /// Not loaded, but known to have no open transaction.
    pub(crate) fn nothing_unstable() -> Self {
        Self(Mutex::new(Cell { state: None, first_unstable: Some(None) }))
    }

    pub(crate) fn first_unstable_offset(&self, log: &Log) -> Result<Option<i64>, OpenError> {
        if let Some(known) = self.0.lock().first_unstable {
            return Ok(known);
        }
        self.with(log, |state| state.first_unstable_offset())
    }

    pub(crate) fn with<T>(&self, log: &Log, use_state: impl FnOnce(&ProducerState) -> T) -> Result<T, OpenError> {
        let mut cell = self.0.lock();
        if cell.state.is_none() {
            let mut state = log.load_producers(log.log_end, |_, _| {})?;
            state.on_high_watermark(log.high_watermark);
            cell.state = Some(state);
            cell.first_unstable = None;
        }
        let Some(state) = cell.state.as_ref() else { unreachable!("it was just loaded") };
        Ok(use_state(state))
    }

    /// The state, if it is in memory.
    pub(crate) fn loaded_mut(&mut self) -> Option<&mut ProducerState> {
        self.0.get_mut().state.as_mut()
    }

    pub(crate) fn on_high_watermark(&mut self, offset: i64) {
        if let Some(state) = self.loaded_mut() {
            state.on_high_watermark(offset);
        }
    }

    /// Leaves memory if a snapshot says as much as it does; its first unstable offset is remembered.
    pub(crate) fn unload(&mut self) {
        let cell = self.0.get_mut();
        // A marker above the high watermark is not in a snapshot, nor is any batch of a producer but its last, and looking back for those is
        // bounded: a replica that is idle because its leader is gone leads next, and has to know what the producers send again.
        if let Some(state) = &cell.state
            && !state.has_unstable()
            && state.iter().all(|(_, producer)| producer.batches.len() <= 1)
        {
            cell.first_unstable = Some(None);
            cell.state = None;
        }
    }
}

/// What a batch says about its producer.
pub(crate) enum ProducerEvent {
    Nothing,
    Data(ProducerBatch),
    Marker(EndTxn),
}

/// Reads a batch with what `bytes` gives of it (needed only for a control batch).
pub(crate) fn producer_event<'a>(
    header: &BatchHeader,
    bytes: impl FnOnce() -> Result<std::borrow::Cow<'a, [u8]>, BatchError>,
) -> Result<ProducerEvent, BatchError> {
    if !header.has_producer_id() {
        return Ok(ProducerEvent::Nothing);
    }
    if !header.is_control() {
        return Ok(ProducerEvent::Data(data_batch(header)));
    }
    let bytes = bytes()?;
    let Some(record) = records(&bytes, DECOMPRESSED_BYTES_MAX)?.next().transpose()? else {
        // Compaction may leave a control batch without its record.
        return Ok(ProducerEvent::Nothing);
    };
    let (coordinator_epoch, is_abort) = match ControlRecord::parse(&record)? {
        ControlRecord::Abort { coordinator_epoch } => (coordinator_epoch, true),
        ControlRecord::Commit { coordinator_epoch } => (coordinator_epoch, false),
        ControlRecord::Other(_) => return Ok(ProducerEvent::Nothing),
    };
    Ok(ProducerEvent::Marker(EndTxn {
        producer_id: header.producer_id,
        producer_epoch: header.producer_epoch,
        coordinator_epoch,
        offset: header.last_offset(),
        timestamp: header.max_timestamp,
        is_abort,
    }))
}

fn data_batch(header: &BatchHeader) -> ProducerBatch {
    ProducerBatch {
        producer_id: header.producer_id,
        producer_epoch: header.producer_epoch,
        first_sequence: header.base_sequence,
        first_offset: header.base_offset,
        last_offset: header.last_offset(),
        max_timestamp: header.max_timestamp,
        is_transactional: header.is_transactional(),
    }
}

/// Takes a batch that is in the log into `state`. Returns the transactions that it aborts.
pub(crate) fn replay_batch(
    state: &mut ProducerState,
    file: &dyn DiskFile,
    position: u64,
    header: &BatchHeader,
) -> Result<Vec<AbortedTxn>, WalkError> {
    let bad = |reason: String| WalkError::Bad { position, reason };
    let size = header.size_in_bytes();
    if header.is_control() && size > CONTROL_BATCH_BYTES_MAX {
        return Err(bad(format!("a control batch of {size} bytes")));
    }
    let mut failed_read = None;
    let event = producer_event(header, || match read_exact(file, position, size) {
        Ok(bytes) => Ok(bytes.into()),
        Err(error) => {
            failed_read = Some(error);
            Err(BatchError::Record("it cannot be read"))
        }
    });
    if let Some(error) = failed_read {
        return Err(WalkError::Io(error));
    }
    let mut pending = PendingProducers::default();
    let noted = match event.map_err(|e| bad(e.to_string()))? {
        ProducerEvent::Nothing => Ok(()),
        ProducerEvent::Data(batch) => state.append_batch(&mut pending, &batch, AppendOrigin::Replication),
        ProducerEvent::Marker(marker) => state.append_marker(&mut pending, &marker, AppendOrigin::Replication),
    };
    noted.map_err(|e| bad(e.to_string()))?;
    let end = header.next_offset().max(state.map_end_offset());
    Ok(aborted_entries(state.commit(pending, end)))
}

pub(crate) fn aborted_entries(ended: Vec<(crate::producer_state::CompletedTxn, i64)>) -> Vec<AbortedTxn> {
    let entry = |(txn, last_stable_offset): (crate::producer_state::CompletedTxn, i64)| AbortedTxn {
        producer_id: txn.producer_id,
        first_offset: txn.first_offset,
        last_offset: txn.last_offset,
        last_stable_offset,
    };
    ended.into_iter().map(entry).collect()
}

impl Log {
    pub(crate) fn snapshot_path(&self, offset: i64) -> PathBuf {
        self.dir.join(file_name(offset, ".snapshot"))
    }

    /// The newest usable snapshot at or below `end`, or nothing known at the first local offset.
    fn newest_snapshot(&self, end: i64) -> Result<ProducerState, OpenError> {
        for offset in self.snapshots.range(..=end).rev() {
            let path = self.snapshot_path(*offset);
            match self.disk().read_file(&path, producer_snapshot::FILE_BYTES_MAX) {
                Ok(bytes) => match producer_snapshot::decode(&bytes, *offset) {
                    Ok(mut state) => {
                        if let Err(error) = self.look_back(&mut state) {
                            tracing::debug!(path = %path.display(), ?error, "only the last batch of each producer is known");
                        }
                        return Ok(state);
                    }
                    Err(reason) => {
                        tracing::warn!(path = %path.display(), reason, "a producer snapshot is passed over");
                    }
                },
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(OpenError::io(path)(error)),
            }
        }
        let first = self.segments.first().map_or(end, Segment::base);
        Ok(ProducerState::empty_at(first.min(end)))
    }

    /// Adds to a state out of a snapshot what a snapshot leaves out: the batches before each producer's last. A client sends up to five
    /// again, and a log that knew one of them as a duplicate and not the others would refuse those as out of order; the client would
    /// take a new epoch and write them twice. An error leaves `state` as it is, which is what Kafka knows then.
    fn look_back(&self, state: &mut ProducerState) -> Result<(), WalkError> {
        let end = state.map_end_offset();
        if state.is_empty() {
            return Ok(());
        }
        let mut walks = Vec::new();
        let mut left = LOOK_BACK_BYTES;
        for segment in self.segments.iter().rev().filter(|segment| segment.base() < end && segment.size > 0) {
            let (_, near_end) = segment.files.lookup_offset(end)?;
            let (indexed, from) = segment.files.lookup_position(near_end.saturating_sub(left))?;
            walks.push((segment, indexed, from));
            left = left.saturating_sub(near_end.saturating_sub(from));
            if left == 0 {
                break;
            }
        }
        let mut seen = RecentBatches::of(state);
        for (segment, indexed, from) in walks.into_iter().rev() {
            let file = segment.files.open(FileKind::Log)?;
            let from = if indexed_batch(&*file, from, segment.size, indexed) { from } else { 0 };
            let mut walk = BatchWalk::new(&*file, from, segment.size, WALK_BLOCK_BYTES);
            while let Some((_, header)) = walk.next_batch()? {
                if header.base_offset >= end {
                    break;
                }
                if header.has_producer_id() && !header.is_control() {
                    seen.add(&data_batch(&header));
                }
            }
        }
        state.remember(seen);
        Ok(())
    }

    /// Producer state as of `end` (exclusive): the newest snapshot, then every batch after it. `on_aborted` sees the aborted
    /// transactions of each segment (by number) that is walked.
    pub(crate) fn load_producers(
        &self,
        end: i64,
        mut on_aborted: impl FnMut(usize, AbortedTxn),
    ) -> Result<ProducerState, OpenError> {
        let mut state = self.newest_snapshot(end)?;
        let first = self.segments.partition_point(|segment| segment.base() <= state.map_end_offset()).saturating_sub(1);
        for at in first..self.segments.len() {
            if self.segments[at].base() >= end {
                break;
            }
            if self.segment_end(at) > state.map_end_offset() {
                self.replay_segment(at, end, &mut state, &mut on_aborted)?;
            }
        }
        if state.map_end_offset() < end {
            state.set_map_end_offset(end);
        }
        Ok(state)
    }

    fn replay_segment(
        &self,
        at: usize,
        end: i64,
        state: &mut ProducerState,
        on_aborted: &mut impl FnMut(usize, AbortedTxn),
    ) -> Result<(), OpenError> {
        let segment = &self.segments[at];
        if segment.size == 0 {
            return Ok(());
        }
        let path = segment.files.path(FileKind::Log);
        let file = segment.files.open(FileKind::Log).map_err(OpenError::io(&path))?;
        let (indexed, position) = segment.files.lookup_offset(state.map_end_offset()).map_err(OpenError::io(&path))?;
        // The index is only a hint: it must lead to the batch that it names.
        let position = if position < segment.size && indexed_batch(&*file, position, segment.size, indexed) {
            position
        } else {
            0
        };
        let mut walk = BatchWalk::new(&*file, position, segment.size, SCAN_BLOCK_BYTES);
        let result = loop {
            match walk.next_batch() {
                Ok(None) => break Ok(()),
                Ok(Some((_, header))) if header.base_offset >= end => break Ok(()),
                Ok(Some((_, header))) if header.base_offset < state.map_end_offset() => {}
                Ok(Some((position, header))) => match replay_batch(state, &*file, position, &header) {
                    Ok(aborted) => aborted.into_iter().for_each(|txn| on_aborted(at, txn)),
                    Err(error) => break Err(error),
                },
                Err(error) => break Err(error),
            }
        };
        result.map_err(|error| match error {
            WalkError::Io(error) => OpenError::io(&path)(error),
            WalkError::Bad { position, reason } => {
                let expected_offset = state.map_end_offset();
                CorruptLog { path, position, expected_offset, next_valid_offset: -1, reason }.into()
            }
        })
    }
}

/// True if the batch at `position` ends at the offset that the index says, so that the index can be trusted there.
pub(crate) fn indexed_batch(file: &dyn DiskFile, position: u64, limit: u64, last_offset: i64) -> bool {
    if position == 0 {
        return true;
    }
    let mut walk = BatchWalk::new(file, position, limit, 61);
    matches!(walk.next_batch(), Ok(Some((_, header))) if header.last_offset() == last_offset)
}
