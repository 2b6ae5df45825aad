//! What a history proves about each partition's log.
//!
//! Owns who wrote and who read a value, and the version order: the offsets that are known to hold something, densely numbered.
//! Invariant: the log is made of the sends that must have happened and of *all* polls, failed ones included: a broker may never
//! emit what is not safe.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::op::{Key, Micro, Op, Seen, Sent, Slice, Stage, Value};
use super::pairs::{Operation, operations};

/// One partition as the history shows it.
#[derive(Debug, Default)]
pub struct Partition {
    /// The operation that sent a value, by its place in [`Versions::operations`], and what it said of it.
    pub writers: HashMap<Value, (usize, Sent)>,
    /// Values that an ok operation read.
    pub read_ok: HashSet<Value>,
    /// Values that any operation read.
    pub read: HashSet<Value>,
    /// The different values of each offset, in the order in which they were told.
    pub offsets: BTreeMap<i64, Vec<Value>>,
    /// The keys of `offsets`: an offset's place in the version order.
    dense: Vec<i64>,
    /// First and last place of a value in the version order.
    places: HashMap<Value, (usize, usize)>,
}

impl Partition {
    /// An offset's place in the version order.
    pub fn place_of_offset(&self, offset: i64) -> Option<usize> {
        self.dense.binary_search(&offset).ok()
    }

    /// First and last place of a value in the version order.
    pub fn places(&self, value: Value) -> Option<(usize, usize)> {
        self.places.get(&value).copied()
    }

    /// Where a read stands: at its offset, which is in the log because it was read.
    pub fn place_of_read(&self, seen: &Seen) -> usize {
        self.place_of_offset(seen.offset).expect("every read is in the log")
    }

    /// Where a send stands, if that is known.
    pub fn place_of_send(&self, sent: &Sent) -> Option<usize> {
        sent.offset.and_then(|o| self.place_of_offset(o)).or_else(|| self.places(sent.value).map(|(first, _)| first))
    }

    /// The values in the version order, with their offsets.
    pub fn versions(&self) -> impl Iterator<Item = (i64, &[Value])> {
        self.offsets.iter().map(|(offset, values)| (*offset, values.as_slice()))
    }

    /// The first offset behind what is known; 0 = nothing is.
    pub fn end(&self) -> i64 {
        self.dense.last().map_or(0, |last| last + 1)
    }

    fn note(&mut self, offset: i64, value: Value) {
        let values = self.offsets.entry(offset).or_default();
        if !values.contains(&value) {
            values.push(value);
        }
    }

    fn number(&mut self) {
        self.dense = self.offsets.keys().copied().collect();
        for (place, value) in self.offsets.values().enumerate().flat_map(|(i, all)| all.iter().map(move |v| (i, *v))) {
            self.places.entry(value).or_insert((place, place)).1 = place;
        }
    }
}

/// A whole history.
#[derive(Debug)]
pub struct Versions<'a> {
    pub operations: Vec<Operation<'a>>,
    pub partitions: BTreeMap<Key, Partition>,
    /// Whether the operation of this place surely happened: ok, or info and a value of it was read by an ok operation.
    pub happened: Vec<bool>,
}

/// The sends of an operation.
pub fn sends<'a>(operation: &Operation<'a>) -> impl Iterator<Item = (&'a Key, &'a [Sent])> {
    operation.action.micros().iter().filter_map(|micro| match micro {
        Micro::Send(key, sent) => Some((key, sent.as_slice())),
        Micro::Poll(_) => None,
    })
}

/// What an operation read.
pub fn reads<'a>(operation: &Operation<'a>) -> impl Iterator<Item = &'a Slice> {
    let polls = operation.action.micros().iter().filter_map(|micro| match micro {
        Micro::Poll(slices) => Some(slices),
        Micro::Send(..) => None,
    });
    polls.flatten()
}

impl<'a> Versions<'a> {
    pub fn new(history: &'a [Op]) -> Self {
        let operations = operations(history);
        let mut partitions: BTreeMap<Key, Partition> = BTreeMap::new();
        for (n, operation) in operations.iter().enumerate() {
            for (key, sent) in sends(operation) {
                let partition = partitions.entry(key.clone()).or_default();
                for one in sent {
                    partition.writers.entry(one.value).or_insert_with(|| (n, one.clone()));
                }
            }
            for slice in reads(operation) {
                let partition = partitions.entry(slice.key.clone()).or_default();
                for seen in &slice.records {
                    partition.note(seen.offset, seen.value);
                    partition.read.insert(seen.value);
                    if operation.stage == Stage::Ok {
                        partition.read_ok.insert(seen.value);
                    }
                }
            }
        }
        let happened: Vec<bool> = operations.iter().map(|operation| happened(operation, &partitions)).collect();
        for (operation, _) in operations.iter().zip(&happened).filter(|(_, happened)| **happened) {
            for (key, sent) in sends(operation) {
                let partition = partitions.get_mut(key).expect("made above");
                for one in sent {
                    if let Some(offset) = one.offset {
                        partition.note(offset, one.value);
                    }
                }
            }
        }
        partitions.values_mut().for_each(Partition::number);
        Versions { operations, partitions, happened }
    }

    pub fn partition(&self, key: &Key) -> &Partition {
        &self.partitions[key]
    }
}

fn happened(operation: &Operation<'_>, partitions: &BTreeMap<Key, Partition>) -> bool {
    match operation.stage {
        Stage::Ok => true,
        Stage::Info => {
            sends(operation).any(|(key, sent)| sent.iter().any(|one| partitions[key].read_ok.contains(&one.value)))
        }
        Stage::Fail | Stage::Invoke => false,
    }
}
