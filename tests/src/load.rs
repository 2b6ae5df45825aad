//! A fast loader and its verifier: a million records a few seconds, each a function of its partition and number, so that the
//! verifier needs no memory of what was sent.
//!
//! A record of number n in partition p: key = p and n; value = pseudo-random bytes of a size drawn from (p, n), mean 1 KiB. What is
//! read must be number after number without a gap, byte for byte. Batches take the five codecs in turn.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use strandline_protocol::compression::{Compression, DecompressLimit};
use strandline_protocol::messages::fetch_request::FetchRequest;
use strandline_protocol::messages::init_producer_id_request::InitProducerIdRequest;
use strandline_protocol::messages::produce_request::ProduceRequest;
use strandline_protocol::record_batch::{RecordBatchBuilder, batches, records};

use crate::random::Random;
use crate::wait;
use crate::wire::{Broken, Connection, FETCH, LATEST, PRODUCE, fetch_request, produce_request};

/// Uncompressed bytes of a batch, about.
const BATCH_BYTES: usize = 128 << 10;
/// Requests sent ahead of their answers, per connection.
const PIPELINE: usize = 4;
const INIT_PRODUCER_ID: i16 = 4;
/// Of the record timestamps; they rise by 1 ms each 10 records.
const EPOCH_MS: i64 = 1_704_067_200_000;
/// Bytes of one fetch.
const FETCH_BYTES: i32 = 8 << 20;
/// The largest decompressed batch, bytes.
const DECOMPRESSED_MAX: usize = 64 << 20;
/// How long a reader may get nothing before the records count as lost.
const STALL: Duration = Duration::from_secs(60);
/// Pseudo-random bytes that values are cut from.
const POOL: usize = 1 << 20;

/// Makes the records of a load.
#[derive(Debug)]
pub struct Pattern {
    pool: Vec<u8>,
    seed: u64,
}

impl Pattern {
    pub fn new(seed: u64) -> Self {
        let mut pool = vec![0; POOL];
        Random::new(seed).fill(&mut pool);
        Pattern { pool, seed }
    }

    /// Value of record `number` of `partition`: three in four are 1 to 1,024 bytes, the rest up to 4 KiB; mean about 1 KiB.
    pub fn value(&self, partition: i32, number: i64) -> &[u8] {
        let mut random =
            Random::new(self.seed ^ (number as u64).wrapping_mul(0x2545_f491_4f6c_dd1d) ^ ((partition as u64) << 48));
        let size = if random.below(4) == 0 { 1 + random.below(4096) } else { 1 + random.below(1366) };
        let start = random.below((POOL - 4096) as u64);
        &self.pool[start as usize..(start + size) as usize]
    }

    fn key(partition: i32, number: i64) -> [u8; 12] {
        let mut key = [0; 12];
        key[..4].copy_from_slice(&partition.to_be_bytes());
        key[4..].copy_from_slice(&number.to_be_bytes());
        key
    }

    /// The batch that begins with record `first`, and the number behind its last; at most `end`.
    fn batch(&self, partition: i32, first: i64, end: i64, codec: Compression, producer: (i64, i16)) -> (Bytes, i64) {
        let mut batch = RecordBatchBuilder::new(codec);
        (batch.producer_id, batch.producer_epoch) = producer;
        batch.base_sequence = i32::try_from(first).expect("fewer records than sequence numbers");
        let mut number = first;
        while number < end && batch.size_estimate() < BATCH_BYTES {
            let (key, value) = (Self::key(partition, number), self.value(partition, number));
            batch.append(EPOCH_MS + number / 10, Some(&key), Some(value), &[]);
            number += 1;
        }
        (batch.build(), number)
    }
}

/// Produces records `first..end` of a partition with acks=all; the number behind the last that was acknowledged.
///
/// Err tells how far it came and why it ended: the records up to there are acknowledged, some behind may be written.
pub fn produce(
    address: SocketAddr,
    topic: &str,
    partition: i32,
    pattern: &Pattern,
    range: std::ops::Range<i64>,
) -> Result<(), (i64, Broken)> {
    let mut acknowledged = range.start;
    let mut outcome = || -> Result<(), Broken> {
        let mut connection = Connection::open(address)?;
        let mut open = std::collections::VecDeque::new();
        let mut next = range.start;
        let mut turn = 0;
        // With sequence numbers the broker refuses what follows a refused batch; the first batch is sent alone, as nothing
        // precedes it that would tell the broker where the sequence begins.
        let ids = InitProducerIdRequest {
            transactional_id: None,
            transaction_timeout_ms: 60_000,
            producer_id: -1,
            producer_epoch: -1,
            ..Default::default()
        };
        let ids = connection.call(INIT_PRODUCER_ID, &ids)?;
        if ids.error_code != 0 {
            return Err(Broken(format!("InitProducerId: error {}", ids.error_code)));
        }
        let producer = (ids.producer_id, ids.producer_epoch);
        while acknowledged < range.end {
            while next < range.end && open.len() < if acknowledged == range.start { 1 } else { PIPELINE } {
                let codec = Compression::ALL[turn % Compression::ALL.len()];
                turn += 1;
                let (batch, end) = pattern.batch(partition, next, range.end, codec, producer);
                connection.send(PRODUCE, &produce_request(topic, partition, batch, -1))?;
                open.push_back((next, end));
                next = end;
            }
            let response = connection.receive::<ProduceRequest>(PRODUCE)?;
            let answer = &response.responses[0].partition_responses[0];
            let (first, end) = open.pop_front().expect("an answer belongs to a request");
            if answer.error_code != 0 {
                return Err(Broken(format!("produce: error {} {:?}", answer.error_code, answer.error_message)));
            }
            if answer.base_offset != first {
                return Err(Broken(format!("record {first} was given offset {}", answer.base_offset)));
            }
            acknowledged = end;
        }
        Ok(())
    };
    let result = outcome();
    result.map_err(|why| (acknowledged, why))
}

/// Reads a partition from offset `from` until `end`; panics on a record that is missing, repeated, out of order or changed.
/// Err = the connection broke or the broker refused; the offset reached, from where it may go on.
pub fn verify(
    address: SocketAddr,
    topic: &str,
    partition: i32,
    pattern: &Pattern,
    from: i64,
    end: i64,
) -> Result<(), (i64, Broken)> {
    let mut next = from;
    let mut outcome = || -> Result<(), Broken> {
        let mut connection = Connection::open(address)?;
        connection.send(FETCH, &fetch_request(topic, partition, next, FETCH_BYTES, 500))?;
        while next < end {
            let mut response = connection.receive::<FetchRequest>(FETCH)?;
            let data = response.responses.swap_remove(0).partitions.swap_remove(0);
            if data.error_code != 0 {
                return Err(Broken(format!("fetch at {next}: error {}", data.error_code)));
            }
            let bytes = data.records.and_then(|r| r.to_bytes()).unwrap_or_default();
            if bytes.is_empty() && data.high_watermark < end {
                return Err(Broken(format!("the log ends at {}", data.high_watermark)));
            }
            let reached = whole_batches_end(&bytes, next);
            if reached < end {
                connection.send(FETCH, &fetch_request(topic, partition, reached, FETCH_BYTES, 500))?;
            }
            next = check_batches(&bytes, partition, pattern, next);
            assert_eq!(next, reached, "{topic}-{partition}: the records of a batch are as many as its header says");
        }
        Ok(())
    };
    let result = outcome();
    result.map_err(|why| (next, why))
}

/// The offset behind the last whole batch, `from` if there is none.
fn whole_batches_end(bytes: &[u8], from: i64) -> i64 {
    batches(bytes).map_while(Result::ok).last().map_or(from, |(header, _)| header.next_offset())
}

fn check_batches(bytes: &[u8], partition: i32, pattern: &Pattern, mut next: i64) -> i64 {
    // The last batch may be cut off by the size limit: it comes again.
    for (header, batch) in batches(bytes).map_while(Result::ok) {
        header.verify_crc(batch).expect("the batch's CRC is right");
        for record in records(batch, DecompressLimit(DECOMPRESSED_MAX)).expect("a batch that reads") {
            let record = record.expect("a record that reads");
            if record.offset < next {
                // A fetch may begin inside a batch.
                continue;
            }
            assert_eq!(record.offset, next, "partition {partition}: offsets have no gap");
            let place = format!("partition {partition}, record {next}");
            assert_eq!(record.key.as_deref(), Some(&Pattern::key(partition, next)[..]), "{place}: the key");
            assert!(record.value.as_deref() == Some(pattern.value(partition, next)), "{place}: the value");
            next += 1;
        }
    }
    next
}

/// [`verify`], going on after every break until `deadline` has passed.
pub fn verify_with_retries(
    address: SocketAddr,
    topic: &str,
    partition: i32,
    pattern: &Pattern,
    end: i64,
    deadline: Duration,
) {
    let mut next = 0;
    let mut progress = wait::now();
    wait::until(&format!("{topic}-{partition} is read up to {end}"), deadline, || {
        match verify(address, topic, partition, pattern, next, end) {
            Ok(()) => Some(()),
            Err((reached, why)) => {
                if reached > next {
                    progress = wait::now();
                }
                let stalled = progress.elapsed();
                assert!(stalled < STALL, "{topic}-{partition}: no record behind {reached} for {stalled:?}: {}", why.0);
                next = reached;
                None
            }
        }
    });
}

/// Produces `range` and goes on after every break, from what the broker has, until `deadline` has passed.
pub fn produce_with_retries(
    address: SocketAddr,
    topic: &str,
    partition: i32,
    pattern: &Pattern,
    range: std::ops::Range<i64>,
    deadline: Duration,
) {
    let mut next = range.start;
    // After a break: what was acknowledged. What was written without an answer is there, or is not; the broker knows.
    let mut broken_at = None;
    wait::until(&format!("{topic}-{partition} is written up to {}", range.end), deadline, || {
        if let Some(acknowledged) = broken_at {
            let mut connection = Connection::open(address).ok()?;
            next = connection.try_list_offset(topic, partition, LATEST).ok()?.ok()?;
            assert!(next >= acknowledged, "{topic}-{partition}: {acknowledged} were acknowledged, {next} are there");
            broken_at = None;
        }
        if next >= range.end {
            return Some(());
        }
        match produce(address, topic, partition, pattern, next..range.end) {
            Ok(()) => Some(()),
            Err((acknowledged, why)) => {
                eprintln!("{topic}-{partition} broke off at {acknowledged}: {}", why.0);
                broken_at = Some(acknowledged);
                None
            }
        }
    });
}
