//! What a caller hands in to be copied.
//!
//! Owns: the shape of a closed segment as the tier sees it. Does not own: the file, or when a segment may be copied.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use strandline_protocol::ids::{LeaderEpoch, Offset};

use crate::sidecar::AbortedTxn;

/// The bytes of one closed segment. Calls block and come from the tier's own threads.
pub trait SegmentSource: Send + Sync + Debug {
    /// Reads into `buf` from `offset` (bytes); fewer bytes than `buf.len()` only at the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// A closed segment whose next segment begins at or below the last stable offset.
#[derive(Debug, Clone)]
pub struct SegmentToCopy {
    /// Offset of the first batch in the source.
    pub base_offset: Offset,
    /// Base offset of the next segment, minus one.
    pub last_offset: Offset,
    pub size_bytes: u64,
    pub source: Arc<dyn SegmentSource>,
    /// Producer state at `last_offset + 1`, the bytes of Kafka's `.snapshot` file.
    pub producer_state: Bytes,
    /// Leader-epoch history from log start to `last_offset`.
    pub leader_epochs: Vec<(LeaderEpoch, Offset)>,
    /// Every aborted transaction that overlaps the segment, wherever its marker lies.
    pub aborted: Vec<AbortedTxn>,
}
