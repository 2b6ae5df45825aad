//! What the clients of a run share: the history, the counts of what was acknowledged, and when to stop.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use strandline_tests::history::recorder::Recorder;
use strandline_tests::wait;

/// Complaints of clients that are printed; further ones are only counted.
const COMPLAINTS_MAX: u64 = 40;

/// Shared by all clients of a run.
#[derive(Debug)]
pub struct Shared {
    pub recorder: Recorder,
    pub partitions: i32,
    stop: AtomicBool,
    /// Batches of each partition.
    acknowledged: Vec<AtomicU64>,
    /// Of each partition: the offset behind the last acknowledged record.
    ends: Vec<AtomicI64>,
    complaints: Mutex<u64>,
}

impl Shared {
    pub fn new(partitions: i32) -> Self {
        Shared {
            recorder: Recorder::new(wait::now()),
            partitions,
            stop: AtomicBool::new(false),
            acknowledged: (0..partitions).map(|_| AtomicU64::new(0)).collect(),
            ends: (0..partitions).map(|_| AtomicI64::new(0)).collect(),
            complaints: Mutex::new(0),
        }
    }

    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// A batch was acknowledged; `end` = the offset behind it, if it was told.
    pub fn acknowledged(&self, partition: i32, end: Option<i64>) {
        let place = usize::try_from(partition).expect("a partition");
        self.acknowledged[place].fetch_add(1, Ordering::Relaxed);
        self.ends[place].fetch_max(end.unwrap_or(0), Ordering::Relaxed);
    }

    /// Batches acknowledged so far, of each partition.
    pub fn progress(&self) -> Vec<u64> {
        self.acknowledged.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// The offset behind the last acknowledged record, of each partition.
    pub fn ends(&self) -> Vec<i64> {
        self.ends.iter().map(|end| end.load(Ordering::Relaxed)).collect()
    }

    /// Prints what went wrong for a client, unless too much did.
    pub fn complain(&self, what: &str) {
        let mut count = self.complaints.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *count += 1;
        if *count <= COMPLAINTS_MAX {
            eprintln!("{what}");
        }
    }
}
