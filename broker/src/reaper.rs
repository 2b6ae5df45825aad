//! Segment files that were taken out of their logs and are removed after `file.delete.delay.ms`.
//!
//! Owns the list. A reader that has a file open goes on reading it. A crash leaves `*.deleted` files, removed when the
//! log is opened again.

use std::sync::Arc;

use parking_lot::Mutex;
use strandline_disk::Disk;
use strandline_log::DeletedSegments;
use strandline_log::error::LogError;

use crate::partition::Partition;

struct Waiting {
    at_ms: i64,
    disk: Arc<dyn Disk>,
    segments: DeletedSegments,
    name: String,
}

/// Files waiting to be removed.
#[derive(Default)]
pub struct Reaper {
    waiting: Mutex<Vec<Waiting>>,
}

impl Reaper {
    /// Takes over what a log gave up; says what went wrong if it could not.
    pub fn take(&self, partition: &Partition, deleted: Result<DeletedSegments, LogError>, delay_ms: i64, now_ms: i64) {
        match deleted {
            Ok(segments) if segments.count == 0 => {}
            Ok(segments) => {
                tracing::debug!(partition = %partition.name(), segments = segments.count, bytes = segments.bytes, "local segments freed");
                self.waiting.lock().push(Waiting {
                    at_ms: now_ms.saturating_add(delay_ms),
                    disk: Arc::clone(&partition.dir.disk),
                    segments,
                    name: partition.name(),
                });
            }
            Err(error) => {
                tracing::error!(partition = %partition.name(), %error, "local segments cannot be freed");
                partition.dir.fail(&error.to_string());
            }
        }
    }

    /// Removes what is due. Blocks.
    pub fn remove_due(&self, now_ms: i64) {
        let due: Vec<Waiting> = self.waiting.lock().extract_if(.., |w| w.at_ms <= now_ms).collect();
        for w in due {
            if let Err(error) = w.segments.remove(&*w.disk) {
                tracing::warn!(partition = %w.name, %error, "a freed segment's files stay until the next start");
            }
        }
    }
}
