//! Who reads on, and how far to read ahead for each.
//!
//! Owns: one small record per sequential reader, at most [`STREAMS_LIMIT`] in the process; pure.
//! Does not own: chunks. A reader is known by where it stopped: the next read of the same segment that begins inside what
//! the last one returned, or at the base of the segment after it, is the same reader going on.

use strandline_protocol::ids::{Offset, TopicPartition};
use uuid::Uuid;

use crate::sidecar::CHUNK_BYTES;

/// Readers remembered; the one that has not read for longest is forgotten.
pub const STREAMS_LIMIT: usize = 256;

/// A reader counts for fair shares if it was among the last so many reads.
const ACTIVE_READS: u64 = 512;

/// One read, as far as the store is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadSpan {
    pub(crate) tp: TopicPartition,
    pub(crate) segment: Uuid,
    pub(crate) base_offset: Offset,
    pub(crate) last_offset: Offset,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) size_bytes: u64,
}

#[derive(Debug, Clone)]
struct Stream {
    last: ReadSpan,
    hits: u32,
    served: u64,
    used: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Streams {
    streams: Vec<Stream>,
    reads: u64,
}

impl Streams {
    /// Notes a read and says how many chunks beyond it are wanted: twice as many on each sequential hit, at most `depth`,
    /// a fair share of `budget_chunks`, and in proportion to what this reader has taken so far, so that a short visit does
    /// not fetch much more than it reads.
    pub(crate) fn note(&mut self, read: ReadSpan, depth: u64, budget_chunks: usize) -> u64 {
        self.reads += 1;
        let reads = self.reads;
        let Some(stream) = self.streams.iter_mut().find(|stream| continues(&stream.last, &read)) else {
            self.remember(read);
            return 0;
        };
        stream.served += read.end
            - read.start.max(if stream.last.segment == read.segment { stream.last.end } else { 0 }).min(read.end);
        stream.hits = stream.hits.saturating_add(1);
        stream.last = read;
        stream.used = reads;
        let doubled = 1u64 << stream.hits.min(16);
        let earned = 1 + 2 * (stream.served / CHUNK_BYTES);
        let active = self.streams.iter().filter(|stream| reads - stream.used < ACTIVE_READS).count().max(1);
        let share = (budget_chunks / active).max(1) as u64;
        doubled.min(depth).min(earned).min(share)
    }

    fn remember(&mut self, read: ReadSpan) {
        let stream = Stream { last: read, hits: 0, served: read.end - read.start, used: self.reads };
        if self.streams.len() < STREAMS_LIMIT {
            self.streams.push(stream);
            return;
        }
        if let Some(oldest) = self.streams.iter_mut().min_by_key(|stream| stream.used) {
            *oldest = stream;
        }
    }
}

fn continues(last: &ReadSpan, read: &ReadSpan) -> bool {
    let within = last.segment == read.segment && read.start > last.start && read.start <= last.end;
    let next_segment = last.tp == read.tp && last.last_offset + 1 == read.base_offset && read.start == 0;
    within || (next_segment && last.end == last.size_bytes)
}
