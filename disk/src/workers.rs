//! Where work on files that blocks is carried out.
//!
//! Owns the choice. Does not own threads or tasks: each part starts its own.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Says how long the next sync takes.
pub type SyncTime = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Who carries out writes, syncs and other work that blocks.
#[derive(Clone, Default)]
pub enum Workers {
    /// Threads of their own, so that nobody else waits for a disk.
    #[default]
    Threads,
    /// Tasks of the runtime that the caller runs in: for a simulation, whose one thread does everything. Each sync takes
    /// the time that the function says, on the runtime's clock.
    Tasks(SyncTime),
}

impl Workers {
    pub fn are_threads(&self) -> bool {
        matches!(self, Workers::Threads)
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Workers::Threads => "Threads",
            Workers::Tasks(_) => "Tasks",
        })
    }
}
