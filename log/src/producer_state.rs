//! What a log knows of its producers: the last batches of each, open transactions, and the snapshots of that.
//!
//! Owns: the idempotence rules (duplicate, in sequence, fenced), the first unstable offset, the bytes of `.snapshot` files
//! (docs/formats/producer-snapshot.md). Does not own: files and their names (`snapshots.rs`), the transaction index.
//! Invariants: at most [`BATCHES_MAX`] batches per producer, oldest first; an open transaction's first offset is unique.
//! Source: `org.apache.kafka.storage.internals.log.{ProducerStateManager,ProducerAppendInfo,ProducerStateEntry}`, KIP-98.

use crate::error::AppendError;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// Batches remembered per producer: as many as a producer may have in flight.
pub const BATCHES_MAX: usize = 5;
/// No sequence.
const NO_SEQUENCE: i32 = -1;
/// No epoch.
const NO_PRODUCER_EPOCH: i16 = -1;

/// Where an append comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendOrigin {
    /// A producer: everything is checked.
    Client,
    /// The group coordinator: as a producer.
    Coordinator,
    /// A leader: nothing about producers is checked, it was there.
    Replication,
}

/// One remembered batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchMetadata {
    pub last_sequence: i32,
    /// Inclusive.
    pub last_offset: i64,
    /// Last offset less first offset.
    pub offset_delta: i32,
    pub timestamp: i64,
}

impl BatchMetadata {
    pub fn first_sequence(&self) -> i32 {
        decrement_sequence(self.last_sequence, self.offset_delta)
    }

    pub fn first_offset(&self) -> i64 {
        self.last_offset - i64::from(self.offset_delta)
    }
}

/// Sequences run from 0 to `i32::MAX` and then again from 0 (Kafka: `DefaultRecordBatch.decrementSequence`).
fn decrement_sequence(sequence: i32, by: i32) -> i32 {
    if sequence < by {
        // Kafka: MAX - (decrement - sequence) + 1
        i32::MAX - (by - sequence) + 1
    } else {
        sequence - by
    }
}

/// The last sequence of a batch (Kafka: `DefaultRecordBatch.incrementSequence`).
pub(crate) fn increment_sequence(sequence: i32, by: i32) -> i32 {
    if sequence > i32::MAX - by { by - (i32::MAX - sequence) - 1 } else { sequence + by }
}

/// One producer's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerEntry {
    pub producer_epoch: i16,
    pub coordinator_epoch: i32,
    /// Time of the last batch or marker, in milliseconds.
    pub last_timestamp: i64,
    /// First offset of the open transaction.
    pub current_txn_first_offset: Option<i64>,
    /// Oldest first, at most [`BATCHES_MAX`].
    pub batches: VecDeque<BatchMetadata>,
}

impl ProducerEntry {
    fn new() -> Self {
        Self {
            producer_epoch: NO_PRODUCER_EPOCH,
            coordinator_epoch: -1,
            last_timestamp: -1,
            current_txn_first_offset: None,
            batches: VecDeque::new(),
        }
    }

    fn last_sequence(&self) -> i32 {
        self.batches.back().map_or(NO_SEQUENCE, |batch| batch.last_sequence)
    }

    fn set_epoch(&mut self, epoch: i16) {
        if self.producer_epoch != epoch {
            self.batches.clear();
            self.producer_epoch = epoch;
        }
    }

    fn add_batch(&mut self, epoch: i16, batch: BatchMetadata) {
        self.set_epoch(epoch);
        if self.batches.len() == BATCHES_MAX {
            self.batches.pop_front();
        }
        self.batches.push_back(batch);
        self.last_timestamp = batch.timestamp;
    }

    fn duplicate_of(&self, batch: &ProducerBatch) -> Option<BatchMetadata> {
        if batch.producer_epoch != self.producer_epoch {
            return None;
        }
        let same = |known: &&BatchMetadata| {
            known.first_sequence() == batch.first_sequence && known.last_sequence == batch.last_sequence()
        };
        self.batches.iter().find(same).copied()
    }
}

/// What matters of a data batch with a producer id.
#[derive(Debug, Clone, Copy)]
pub struct ProducerBatch {
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub first_sequence: i32,
    pub first_offset: i64,
    /// Inclusive.
    pub last_offset: i64,
    pub max_timestamp: i64,
    pub is_transactional: bool,
}

impl ProducerBatch {
    fn offset_delta(&self) -> i32 {
        i32::try_from(self.last_offset - self.first_offset).unwrap_or(i32::MAX)
    }

    fn metadata(&self) -> BatchMetadata {
        BatchMetadata {
            last_sequence: self.last_sequence(),
            last_offset: self.last_offset,
            offset_delta: self.offset_delta(),
            timestamp: self.max_timestamp,
        }
    }

    fn last_sequence(&self) -> i32 {
        if self.first_sequence == NO_SEQUENCE {
            NO_SEQUENCE
        } else {
            increment_sequence(self.first_sequence, self.offset_delta())
        }
    }
}

/// An end-of-transaction marker.
#[derive(Debug, Clone, Copy)]
pub struct EndTxn {
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub coordinator_epoch: i32,
    pub offset: i64,
    pub timestamp: i64,
    pub is_abort: bool,
}

/// A transaction that a marker has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompletedTxn {
    pub producer_id: i64,
    pub first_offset: i64,
    /// The marker's offset, inclusive.
    pub last_offset: i64,
    pub is_aborted: bool,
}

/// Changes of one append, made on copies, so that a refused append changes nothing.
#[derive(Debug, Default)]
pub(crate) struct PendingProducers {
    entries: Vec<(i64, ProducerEntry)>,
    completed: Vec<CompletedTxn>,
}

/// All producers of one log, up to (exclusive) `map_end_offset`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ProducerState {
    producers: HashMap<i64, ProducerEntry>,
    /// Open transactions: first offset to producer id.
    ongoing: BTreeMap<i64, i64>,
    /// Ended ones whose marker is not below the high watermark yet: first offset to marker's offset.
    unreplicated: BTreeMap<i64, i64>,
    map_end_offset: i64,
}

impl ProducerState {
    /// Nothing known, up to `offset` (exclusive).
    pub fn empty_at(offset: i64) -> Self {
        Self { map_end_offset: offset, ..Self::default() }
    }

    /// The offset, exclusive, up to which batches were taken in.
    pub fn map_end_offset(&self) -> i64 {
        self.map_end_offset
    }

    pub(crate) fn set_map_end_offset(&mut self, offset: i64) {
        self.map_end_offset = offset;
    }

    /// Producers known.
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// One producer's state, for DescribeProducers.
    pub fn get(&self, producer_id: i64) -> Option<&ProducerEntry> {
        self.producers.get(&producer_id)
    }

    /// All producers, unordered, for DescribeProducers.
    pub fn iter(&self) -> impl Iterator<Item = (i64, &ProducerEntry)> {
        self.producers.iter().map(|(id, entry)| (*id, entry))
    }

    /// True if a transaction is open or its marker is above the high watermark.
    pub fn has_unstable(&self) -> bool {
        !self.ongoing.is_empty() || !self.unreplicated.is_empty()
    }

    /// The first offset of the oldest transaction that is not decided below the high watermark.
    pub fn first_unstable_offset(&self) -> Option<i64> {
        let ongoing = self.ongoing.first_key_value().map(|(first, _)| *first);
        let unreplicated = self.unreplicated.first_key_value().map(|(first, _)| *first);
        match (ongoing, unreplicated) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Forgets ended transactions whose markers are now below the high watermark.
    pub fn on_high_watermark(&mut self, high_watermark: i64) {
        self.unreplicated.retain(|_, marker_offset| *marker_offset >= high_watermark);
    }

    /// The last stable offset that stands beside an aborted transaction in the transaction index.
    pub(crate) fn last_stable_offset_after(&self, completed: &CompletedTxn) -> i64 {
        let other = self.ongoing.keys().find(|first| **first != completed.first_offset);
        other.copied().unwrap_or(completed.last_offset + 1)
    }

    /// The earlier batch that `batch` repeats, if it does.
    pub(crate) fn find_duplicate(&self, batch: &ProducerBatch) -> Option<BatchMetadata> {
        self.producers.get(&batch.producer_id)?.duplicate_of(batch)
    }

    fn pending_entry<'a>(&self, pending: &'a mut PendingProducers, producer_id: i64) -> &'a mut ProducerEntry {
        let found = pending.entries.iter().position(|(id, _)| *id == producer_id);
        let index = found.unwrap_or_else(|| {
            let entry = self.producers.get(&producer_id).cloned();
            pending.entries.push((producer_id, entry.unwrap_or_else(ProducerEntry::new)));
            pending.entries.len() - 1
        });
        &mut pending.entries[index].1
    }

    /// Checks a data batch and notes it in `pending`.
    pub(crate) fn append_batch(
        &self,
        pending: &mut PendingProducers,
        batch: &ProducerBatch,
        origin: AppendOrigin,
    ) -> Result<(), AppendError> {
        let current_epoch = self.producers.get(&batch.producer_id).map_or(NO_PRODUCER_EPOCH, |e| e.producer_epoch);
        let current_last = self.producers.get(&batch.producer_id).map_or(NO_SEQUENCE, ProducerEntry::last_sequence);
        let entry = self.pending_entry(pending, batch.producer_id);
        if origin != AppendOrigin::Replication {
            check_epoch(entry, batch.producer_id, batch.producer_epoch)?;
        }
        if origin == AppendOrigin::Client {
            check_sequence(entry, current_epoch, current_last, batch)?;
        }
        if entry.current_txn_first_offset.is_some() && !batch.is_transactional && origin != AppendOrigin::Replication {
            return Err(AppendError::InvalidTxnState { producer_id: batch.producer_id });
        }
        entry.add_batch(batch.producer_epoch, batch.metadata());
        if batch.is_transactional && entry.current_txn_first_offset.is_none() {
            entry.current_txn_first_offset = Some(batch.first_offset);
        }
        Ok(())
    }

    /// Checks a marker and notes it in `pending`.
    pub(crate) fn append_marker(
        &self,
        pending: &mut PendingProducers,
        marker: &EndTxn,
        origin: AppendOrigin,
    ) -> Result<(), AppendError> {
        let entry = self.pending_entry(pending, marker.producer_id);
        if origin != AppendOrigin::Replication {
            check_epoch(entry, marker.producer_id, marker.producer_epoch)?;
            if marker.coordinator_epoch < entry.coordinator_epoch {
                return Err(AppendError::TransactionCoordinatorFenced {
                    epoch: marker.coordinator_epoch,
                    current_epoch: entry.coordinator_epoch,
                });
            }
        }
        let first_offset = entry.current_txn_first_offset.take();
        entry.set_epoch(marker.producer_epoch);
        entry.coordinator_epoch = marker.coordinator_epoch;
        entry.last_timestamp = marker.timestamp;
        if let Some(first_offset) = first_offset {
            pending.completed.push(CompletedTxn {
                producer_id: marker.producer_id,
                first_offset,
                last_offset: marker.offset,
                is_aborted: marker.is_abort,
            });
        }
        Ok(())
    }

    /// Takes over what was noted, once the batches are in the log. Returns aborted transactions with the last stable
    /// offset for the transaction index, in the order of their markers.
    pub(crate) fn commit(&mut self, pending: PendingProducers, end_offset: i64) -> Vec<(CompletedTxn, i64)> {
        for (producer_id, entry) in &pending.entries {
            if let Some(first) = entry.current_txn_first_offset {
                self.ongoing.insert(first, *producer_id);
            }
        }
        let mut aborted = Vec::new();
        for completed in pending.completed {
            let last_stable_offset = self.last_stable_offset_after(&completed);
            self.ongoing.remove(&completed.first_offset);
            self.unreplicated.insert(completed.first_offset, completed.last_offset);
            if completed.is_aborted {
                aborted.push((completed, last_stable_offset));
            }
        }
        for (producer_id, entry) in pending.entries {
            self.producers.insert(producer_id, entry);
        }
        assert!(end_offset >= self.map_end_offset, "producer state never goes back by an append");
        self.map_end_offset = end_offset;
        aborted
    }

    /// Forgets producers that wrote nothing for `expiration_ms` and have no open transaction. Returns how many.
    pub fn remove_expired(&mut self, now_ms: i64, expiration_ms: i64) -> usize {
        let before = self.producers.len();
        self.producers.retain(|_, entry| {
            entry.current_txn_first_offset.is_some() || now_ms.saturating_sub(entry.last_timestamp) < expiration_ms
        });
        before - self.producers.len()
    }

    /// Forgets open transactions, as a replica does that adopts the remote log: all of them were decided before the copy.
    pub fn forget_open_transactions(&mut self) {
        self.ongoing.clear();
        self.unreplicated.clear();
        for entry in self.producers.values_mut() {
            entry.current_txn_first_offset = None;
        }
    }

    /// Knows the batches before the last one too, for every producer whose last batch is the last that was seen.
    pub(crate) fn remember(&mut self, seen: RecentBatches) {
        for (id, recent) in seen.0 {
            let Some(entry) = self.producers.get_mut(&id) else { continue };
            let same = |a: &BatchMetadata, b: &BatchMetadata| {
                (a.last_sequence, a.last_offset) == (b.last_sequence, b.last_offset)
            };
            let is_last_seen =
                matches!((entry.batches.back(), recent.batches.back()), (Some(a), Some(b)) if same(a, b));
            if is_last_seen && entry.producer_epoch == recent.producer_epoch {
                entry.batches = recent.batches;
            }
        }
    }

    pub(crate) fn insert_loaded(&mut self, producer_id: i64, entry: ProducerEntry) {
        if let Some(first) = entry.current_txn_first_offset {
            self.ongoing.insert(first, producer_id);
        }
        self.producers.insert(producer_id, entry);
    }
}

/// The newest batches of the producers of a state, read from the log in offset order.
pub(crate) struct RecentBatches(HashMap<i64, ProducerEntry>);

impl RecentBatches {
    /// None yet, of the producers that `state` knows.
    pub(crate) fn of(state: &ProducerState) -> Self {
        Self(state.producers.keys().map(|id| (*id, ProducerEntry::new())).collect())
    }

    /// The next batch in the log.
    pub(crate) fn add(&mut self, batch: &ProducerBatch) {
        if let Some(entry) = self.0.get_mut(&batch.producer_id) {
            entry.add_batch(batch.producer_epoch, batch.metadata());
        }
    }
}

fn check_epoch(entry: &ProducerEntry, producer_id: i64, epoch: i16) -> Result<(), AppendError> {
    if epoch < entry.producer_epoch {
        let current_epoch = entry.producer_epoch;
        return Err(AppendError::InvalidProducerEpoch { producer_id, epoch, current_epoch });
    }
    Ok(())
}

fn check_sequence(
    updated: &ProducerEntry,
    current_epoch: i16,
    current_last: i32,
    batch: &ProducerBatch,
) -> Result<(), AppendError> {
    let refuse = |last_sequence| {
        Err(AppendError::OutOfOrderSequence {
            producer_id: batch.producer_id,
            epoch: batch.producer_epoch,
            sequence: batch.first_sequence,
            last_sequence,
        })
    };
    if batch.producer_epoch != updated.producer_epoch {
        // A new epoch starts at 0, unless the producer is unknown: then its records were deleted, any sequence will do.
        if batch.first_sequence != 0 && updated.producer_epoch != NO_PRODUCER_EPOCH {
            return refuse(NO_SEQUENCE);
        }
        return Ok(());
    }
    let last = if !updated.batches.is_empty() {
        updated.last_sequence()
    } else if batch.producer_epoch == current_epoch {
        current_last
    } else {
        NO_SEQUENCE
    };
    let in_sequence =
        i64::from(batch.first_sequence) == i64::from(last) + 1 || (batch.first_sequence == 0 && last == i32::MAX);
    // Within one append to an unknown producer the batches must still follow each other.
    if in_sequence || (current_epoch == NO_PRODUCER_EPOCH && updated.batches.is_empty()) {
        Ok(())
    } else {
        refuse(last)
    }
}
