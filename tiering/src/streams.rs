//! Who reads on, how far to read ahead for each, and what each has behind it.
//!
//! Owns: one small record per sequential reader, at most [`STREAMS_LIMIT`] in the process; pure.
//! Does not own: what becomes of chunks (`chunks`). A reader is known by where it stopped: the next read of the same segment that begins inside what
//! the last one returned, or at the base of the segment after it, is the same reader going on.

use strandline_protocol::ids::{Offset, TopicPartition};
use uuid::Uuid;

use crate::chunks::ChunkId;
use crate::sidecar::CHUNK_BYTES;

/// Readers remembered; the one that has not read for longest is forgotten.
pub const STREAMS_LIMIT: usize = 256;

/// A reader counts for fair shares if it was among the last so many reads.
const ACTIVE_READS: u64 = 512;

/// A reader further back counts as one that will come if it was among the last so many reads, and has gone on once.
const BEHIND_READS: u64 = 128;

/// An answer may end inside a batch, and the next read then begins where that batch does: so many bytes before the end of
/// an answer are not behind its reader yet. As long as a batch is as a rule (`max.message.bytes` of a topic that sets none).
const LAST_BATCH_BYTES: u64 = 1 << 20;

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

/// What follows from a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Noted {
    /// Chunks wanted beyond it.
    pub(crate) window: u64,
    /// Chunks that its reader has behind it since.
    pub(crate) passed: Vec<ChunkId>,
    /// Another reader has them before it.
    pub(crate) awaited: bool,
}

#[derive(Debug, Clone)]
struct Stream {
    last: ReadSpan,
    /// Bytes of `last.segment` that it has behind it.
    passed: u64,
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
    pub(crate) fn note(&mut self, read: ReadSpan, depth: u64, budget_chunks: usize) -> Noted {
        self.reads += 1;
        let reads = self.reads;
        let found = self.streams.iter().position(|stream| continues(&stream.last, &read));
        let index = found.unwrap_or_else(|| self.remember(read));
        let stream = &mut self.streams[index];
        let mut window = 0;
        let mut before = read.start;
        if found.is_some() {
            let same_segment = stream.last.segment == read.segment;
            let taken = if same_segment { stream.last.end } else { 0 };
            stream.served += read.end - read.start.max(taken).min(read.end);
            stream.hits = stream.hits.saturating_add(1);
            stream.used = reads;
            before = if same_segment { stream.passed } else { 0 };
            let doubled = 1u64 << stream.hits.min(16);
            let earned = 1 + 2 * (stream.served / CHUNK_BYTES);
            window = doubled.min(depth).min(earned);
        }
        stream.last = read;
        stream.passed = before.max(behind(&read));
        let passed = chunks_that_end(&read, before, stream.passed);
        let active = self.streams.iter().filter(|stream| reads - stream.used < ACTIVE_READS).count().max(1);
        let share = (budget_chunks / active).max(1) as u64;
        let awaited = !passed.is_empty() && self.somebody_comes(index);
        Noted { window: window.min(share), passed, awaited }
    }

    /// Somebody else reads towards what this reader has just passed.
    fn somebody_comes(&self, index: usize) -> bool {
        let (ours, upto) = (&self.streams[index].last, self.streams[index].passed);
        self.streams.iter().enumerate().any(|(other, stream)| {
            let further_back = if stream.last.segment == ours.segment {
                stream.passed < upto
            } else {
                stream.last.base_offset < ours.base_offset
            };
            let goes_on = stream.hits > 0 && self.reads - stream.used < BEHIND_READS;
            other != index && stream.last.tp == ours.tp && further_back && goes_on
        })
    }

    /// In place of the one that has not read for longest if there is no room. Returns where.
    fn remember(&mut self, read: ReadSpan) -> usize {
        let stream =
            Stream { last: read, passed: read.start, hits: 0, served: read.end - read.start, used: self.reads };
        if self.streams.len() < STREAMS_LIMIT {
            self.streams.push(stream);
            return self.streams.len() - 1;
        }
        let oldest = self.streams.iter().enumerate().min_by_key(|(_, stream)| stream.used);
        let index = oldest.map_or(0, |(index, _)| index);
        self.streams[index] = stream;
        index
    }
}

/// Up to where the reader of this span will not come back, bytes of the segment.
fn behind(read: &ReadSpan) -> u64 {
    if read.end == read.size_bytes { read.end } else { read.start.max(read.end.saturating_sub(LAST_BATCH_BYTES)) }
}

/// Chunks whose last byte lies in `from..to`.
fn chunks_that_end(read: &ReadSpan, from: u64, to: u64) -> Vec<ChunkId> {
    let beyond = if to == read.size_bytes { to.div_ceil(CHUNK_BYTES) } else { to / CHUNK_BYTES };
    let first = if from == read.size_bytes { beyond } else { from / CHUNK_BYTES };
    (first..beyond).map(|number| ChunkId { segment: read.segment, number }).collect()
}

fn continues(last: &ReadSpan, read: &ReadSpan) -> bool {
    let within = last.segment == read.segment && read.start > last.start && read.start <= last.end;
    let next_segment = last.tp == read.tp && last.last_offset + 1 == read.base_offset && read.start == 0;
    within || (next_segment && last.end == last.size_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use strandline_protocol::ids::TopicId;

    const MIB: u64 = 1 << 20;

    /// Segments of 20 MiB and 1,000 records.
    fn span(segment: i64, start: u64, end: u64) -> ReadSpan {
        ReadSpan {
            tp: TopicPartition { topic_id: TopicId(Uuid::from_u128(7)), partition: 0 },
            segment: Uuid::from_u128(segment as u128),
            base_offset: segment * 1000,
            last_offset: segment * 1000 + 999,
            start,
            end,
            size_bytes: 20 * MIB,
        }
    }

    fn passed(noted: &Noted) -> Vec<u64> {
        noted.passed.iter().map(|chunk| chunk.number).collect()
    }

    #[test]
    fn a_chunk_is_behind_its_reader_when_no_batch_that_begins_in_it_is_still_wanted() {
        let mut streams = Streams::default();
        assert_eq!(passed(&streams.note(span(0, 0, 8 * MIB), 8, 8)), [0; 0], "the last batch may be cut off");
        assert_eq!(passed(&streams.note(span(0, 8 * MIB - 9, 9 * MIB - 9), 8, 8)), [0; 0]);
        assert_eq!(passed(&streams.note(span(0, 8 * MIB + 9, 9 * MIB), 8, 8)), [0]);
        assert_eq!(passed(&streams.note(span(0, 9 * MIB, 10 * MIB), 8, 8)), [0; 0], "once");
        assert_eq!(passed(&streams.note(span(0, 10 * MIB, 20 * MIB), 8, 8)), [1, 2], "a segment ends with a batch");
        let noted = streams.note(span(1, 0, 17 * MIB), 8, 8);
        assert_eq!((passed(&noted), noted.awaited), (vec![0, 1], false));
        assert!(noted.passed.iter().all(|chunk| chunk.segment == Uuid::from_u128(1)));
    }

    #[test]
    fn a_reader_further_back_is_waited_for_if_it_goes_on_and_comes_again() {
        let mut streams = Streams::default();
        streams.note(span(0, 0, MIB), 8, 8);
        // It may have looked in only.
        assert!(!streams.note(span(0, 4 * MIB, 20 * MIB), 8, 8).awaited);
        streams.note(span(0, MIB, 2 * MIB), 8, 8);
        assert!(streams.note(span(1, 0, 20 * MIB), 8, 8).awaited);
        let mut end = 3 * MIB;
        for _ in 0..BEHIND_READS {
            streams.note(span(2, end, end + 9), 8, 8);
            end += 9;
        }
        assert!(!streams.note(span(2, end, 20 * MIB), 8, 8).awaited, "it has not come for long");
    }
}
