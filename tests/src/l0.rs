//! L0: the product's pure parts under one seed, in one process, without sockets, threads or a clock.
//!
//! A run is a few brokers, one partition, a controller whose log is one list of records that every broker applies at its own pace,
//! a bucket, idempotent producers and a consumer. All decisions are the product's own: the controller's (`decide`, replay), the
//! partition's state and roles, replication's two sides, the log on a disk that loses what was not synced, the tier's rounds and
//! moves. What is simulated is what lies between them: messages, power, the disk, the bucket, time.
//!
//! First misfortunes, then a heal: everything must come right in bounded simulated time. After every event the oracle looks
//! (`oracle`). A run is a function of its seed: same seed, same trace.
//! Owns no file but an empty cache directory per process; a crash leaves that.

mod answer;
mod clients;
mod controller;
mod metadata;
mod moves;
mod nemesis;
mod node;
mod oracle;
mod pump;
mod replicas;
mod store;
mod swarm;
mod task;
mod trace;
mod world;

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

pub use oracle::Violation;

use world::World;

/// What a run was.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    pub seed: u64,
    pub events: u64,
    /// Batches that producers were told are safe.
    pub acknowledged: u64,
    /// Misfortunes that happened, by kind.
    pub fired: BTreeMap<&'static str, u64>,
    /// One number for the whole trace.
    pub trace_hash: u64,
    pub trace_lines: u64,
}

/// What a run found.
#[derive(Debug, Clone)]
pub struct Failure {
    pub seed: u64,
    pub violation: Violation,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}: {}", self.seed, self.violation)
    }
}

/// Runs one seed.
pub fn run_seed(seed: u64) -> Result<Summary, Failure> {
    run(seed, false)
}

/// Runs one seed and prints its trace.
pub fn trace_seed(seed: u64) -> Result<Summary, Failure> {
    run(seed, true)
}

fn run(seed: u64, print: bool) -> Result<Summary, Failure> {
    let mut world = World::new(seed, print, cache());
    // An assertion of the product's own counts as a finding like any other.
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Err(Violation { invariant: "an assertion of the product", detail: text.unwrap_or_default() })
    });
    match outcome {
        Ok(()) => Ok(Summary {
            seed,
            events: world.events,
            acknowledged: world.acknowledged,
            fired: std::mem::take(&mut world.fired),
            trace_hash: world.trace.hash(),
            trace_lines: world.trace.count(),
        }),
        Err(violation) => Err(Failure { seed, violation }),
    }
}

/// Nothing is ever read through the chunk cache here; its directory stays empty.
fn cache() -> PathBuf {
    std::env::temp_dir().join(format!("strandline-l0-{}", std::process::id()))
}
