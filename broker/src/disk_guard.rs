//! Refuses produce before the disk is full.
//!
//! Owns the threshold and a cached look at each directory's free space. Internal topics are excepted, so that groups can
//! still commit; the controller's log, checkpoints and deletions live off the reserve. When space returns, produce goes on.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use strandline_protocol::error_code::ErrorCode;

use crate::auto_topics::is_internal;
use crate::clock;
use crate::partition::{AppendRefused, Partition};

/// Free bytes that produce leaves alone.
pub const RESERVE_BYTES: i64 = 64 << 20;
/// How long a look at the disk counts.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The guard of a node.
#[derive(Debug, Default)]
pub struct DiskGuard {
    looked: Mutex<HashMap<PathBuf, (Instant, bool)>>,
}

impl DiskGuard {
    /// Refuses an append to a directory that is nearly full, with KAFKA_STORAGE_ERROR.
    pub fn admit(&self, partition: &Partition) -> Result<(), AppendRefused> {
        if is_internal(&partition.topic) {
            return Ok(());
        }
        let now = clock::monotonic();
        let mut looked = self.looked.lock();
        let known = looked.get(&partition.dir.path).filter(|(at, _)| now.duration_since(*at) < LOOK_AGAIN);
        let full = match known {
            Some((_, full)) => *full,
            None => {
                let full = (0..RESERVE_BYTES).contains(&partition.dir.space().0);
                let before = looked.insert(partition.dir.path.clone(), (now, full));
                if before.is_some_and(|(_, was)| was != full) || (full && before.is_none()) {
                    report(partition, full);
                }
                full
            }
        };
        drop(looked);
        if !full {
            return Ok(());
        }
        let message = format!(
            "less than {} MiB are free in {}; free space or shorten retention",
            RESERVE_BYTES >> 20,
            partition.dir.path.display()
        );
        Err(AppendRefused { code: ErrorCode::KafkaStorageError, message: Some(message), records: Vec::new() })
    }
}

fn report(partition: &Partition, full: bool) {
    let dir = partition.dir.path.display();
    if full {
        tracing::error!(%dir, reserve_mib = RESERVE_BYTES >> 20, "the disk is nearly full: produce is refused until space returns");
    } else {
        tracing::info!(%dir, "space has returned: produce is taken again");
    }
}
