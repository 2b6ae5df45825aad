//! Producers: idempotent, acks=all, one batch under way, tried again for as long as it takes.

use bytes::Bytes;
use strandline_protocol::compression::Compression;
use strandline_protocol::record_batch::{BatchHeader, RecordBatchBuilder};

use crate::random::Random;

/// One batch as it is known to its producer.
#[derive(Debug, Clone)]
pub struct Batch {
    pub bytes: Bytes,
    pub crc: u32,
    pub sequence: i32,
}

/// One sending of a batch.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub producer: usize,
    pub producer_id: i64,
    pub number: u64,
    pub batch: Batch,
}

/// A producer.
#[derive(Debug)]
pub struct Producer {
    pub id: i64,
    next_sequence: i32,
    /// Batches still to be written, the one under way included.
    pub left: i32,
    pub current: Option<Batch>,
    /// The sending that an answer is waited for; 0 = none.
    pub waiting: u64,
}

impl Producer {
    pub fn new(id: i64, batches: i32) -> Producer {
        Producer { id, next_sequence: 0, left: batches, current: None, waiting: 0 }
    }

    /// The batch to be sent: the one under way, or the next; none if all are written.
    pub fn batch(&mut self, random: &mut Random, now_ms: i64) -> Option<Batch> {
        if self.current.is_none() && self.left > 0 {
            let records = 1 + random.below(4) as i32;
            let mut builder = RecordBatchBuilder::new(Compression::None);
            (builder.producer_id, builder.producer_epoch, builder.base_sequence) = (self.id, 0, self.next_sequence);
            for _ in 0..records {
                let value = random.word().to_le_bytes();
                builder.append(now_ms, None, Some(&value), &[]);
            }
            let bytes = builder.build();
            let crc = BatchHeader::parse(&bytes).expect("it was just built").crc;
            self.current = Some(Batch { bytes, crc, sequence: self.next_sequence });
            self.next_sequence += records;
        }
        self.current.clone()
    }

    /// Another id, and sequences from 0 on.
    pub fn begin_anew(&mut self, id: i64) {
        (self.id, self.next_sequence, self.current) = (id, 0, None);
    }

    /// The batch under way is acknowledged.
    pub fn acknowledged(&mut self) {
        self.current = None;
        self.waiting = 0;
        self.left -= 1;
    }
}
