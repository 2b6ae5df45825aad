//! An idempotent producer of one partition, acks=all: one batch at a time, sent again until its outcome is known.
//!
//! Invariant: a batch is sent again under its own sequence numbers only. One whose outcome stays unknown is told as `info`, and the
//! producer goes on under a new process and a new producer id: the old batch may still land.

use std::time::Duration;

use bytes::Bytes;
use strandline_protocol::compression::Compression;
use strandline_protocol::messages::init_producer_id_request::InitProducerIdRequest;
use strandline_protocol::record_batch::RecordBatchBuilder;
use strandline_tests::history::op::{Action, Key, Micro, Sent, Stage};
use strandline_tests::history::payload::{NUMBER_BITS, text};
use strandline_tests::random::Random;
use strandline_tests::wait;
use strandline_tests::wire::{PRODUCE, produce_request};

use crate::link::Router;
use crate::workload::Shared;

/// Records of one batch, at most.
const BATCH_MAX: u64 = 20;
/// Bytes of a record's value, at most; the mean is half of it.
const VALUE_MAX: u64 = 1_200;
/// How long a batch is sent again before its outcome counts as unknown.
const BATCH: Duration = Duration::from_secs(120);
/// Between two attempts.
const RETRY: Duration = Duration::from_millis(100);
/// Between two batches.
const PAUSE: Duration = Duration::from_millis(15);
const INIT_PRODUCER_ID: i16 = 4;

/// The batch is there already.
const DUPLICATE_SEQUENCE_NUMBER: i16 = 46;
/// NETWORK_EXCEPTION and its like: the same batch may be sent again.
const RETRIABLE: [i16; 15] = [3, 5, 6, 7, 8, 9, 13, 14, 15, 16, 19, 20, 56, 74, 75];

/// How a batch was received.
enum Outcome {
    /// Acknowledged; `None` = its offset was not told.
    Written(Option<i64>),
    Unknown(String),
}

struct Producer<'a> {
    shared: &'a Shared,
    router: Router,
    random: Random,
    partition: i32,
    acks: i16,
}

/// Produces until the workload stops.
pub fn run(shared: &Shared, router: Router, partition: i32, acks: i16, seed: u64) {
    let mut producer = Producer { shared, router, random: Random::new(seed), partition, acks };
    while !shared.stopping() {
        let process = shared.recorder.process();
        let Some(id) = producer.producer_id() else { return };
        producer.batches(process, id);
    }
}

impl Producer<'_> {
    fn producer_id(&mut self) -> Option<(i64, i16)> {
        let request = InitProducerIdRequest {
            transactional_id: None,
            transaction_timeout_ms: 60_000,
            producer_id: -1,
            producer_epoch: -1,
            ..Default::default()
        };
        while !self.shared.stopping() {
            match self.router.ask_any(INIT_PRODUCER_ID, &request) {
                Ok(response) if response.error_code == 0 => {
                    return Some((response.producer_id, response.producer_epoch));
                }
                _ => wait::pause(RETRY),
            }
        }
        None
    }

    /// Batch after batch, until one has no known outcome.
    fn batches(&mut self, process: u32, id: (i64, i16)) {
        let (mut number, mut sequence) = (0, 0);
        while !self.shared.stopping() {
            let count = 1 + self.random.below(BATCH_MAX);
            let timestamp = wait::wall_clock_ms();
            let values = (number..number + count).map(|n| u64::from(process) << NUMBER_BITS | n);
            let mut sent: Vec<Sent> =
                values.map(|value| Sent { value, offset: None, timestamp: Some(timestamp) }).collect();
            number += count;
            let batch = self.batch(&sent, id, sequence);
            sequence += i32::try_from(count).expect("a small batch");
            self.tell(process, Stage::Invoke, sent.clone());
            match self.send(&batch) {
                Outcome::Written(base) => {
                    for (offset, one) in (base.unwrap_or(0)..).zip(&mut sent) {
                        one.offset = base.map(|_| offset);
                    }
                    self.tell(process, Stage::Ok, sent);
                    self.shared.acknowledged(self.partition, base.map(|base| base + count.cast_signed()));
                }
                Outcome::Unknown(why) => {
                    eprintln!("partition {}: a batch of process {process} has no known outcome: {why}", self.partition);
                    self.tell(process, Stage::Info, sent);
                    return;
                }
            }
            wait::pause(PAUSE);
        }
    }

    fn tell(&self, process: u32, stage: Stage, sent: Vec<Sent>) {
        let action = Action::Send(vec![Micro::Send(Key::new(self.router.topic(), self.partition), sent)]);
        self.shared.recorder.tell(wait::now(), process, stage, action);
    }

    fn batch(&mut self, sent: &[Sent], id: (i64, i16), sequence: i32) -> Bytes {
        let mut batch = RecordBatchBuilder::new(Compression::None);
        (batch.producer_id, batch.producer_epoch) = id;
        batch.base_sequence = sequence;
        for one in sent {
            let length = usize::try_from(self.random.below(VALUE_MAX)).expect("a small record");
            batch.append(one.timestamp.expect("just set"), None, Some(&text(one.value, length)), &[]);
        }
        batch.build()
    }

    fn send(&mut self, batch: &Bytes) -> Outcome {
        let end = wait::now() + BATCH;
        loop {
            let request = produce_request(self.router.topic(), self.partition, batch.clone(), self.acks);
            let why = match self.router.ask_leader(self.partition, PRODUCE, &request) {
                Ok(response) => {
                    let answer = &response.responses[0].partition_responses[0];
                    match answer.error_code {
                        0 => return Outcome::Written((answer.base_offset >= 0).then_some(answer.base_offset)),
                        DUPLICATE_SEQUENCE_NUMBER => return Outcome::Written(None),
                        code if RETRIABLE.contains(&code) => {
                            self.router.forget_leader(self.partition);
                            format!("error {code}")
                        }
                        code => return Outcome::Unknown(format!("error {code} {:?}", answer.error_message)),
                    }
                }
                Err(why) => why,
            };
            if wait::now() >= end {
                return Outcome::Unknown(why);
            }
            wait::pause(RETRY);
        }
    }
}
