//! Consumers that are assigned their partitions: readers from the beginning, and one that asks for offsets.
//!
//! Invariant: a position moves only by what an ok poll returned.

use std::time::Duration;

use strandline_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use strandline_tests::history::op::{Action, Key, Micro, Query, Slice, Stage};
use strandline_tests::history::payload::slice_of;
use strandline_tests::random::Random;
use strandline_tests::wait;
use strandline_tests::wire::{EARLIEST, EARLIEST_LOCAL, FETCH, LATEST, fetch_request};

use crate::link::Router;
use crate::workload::Shared;

/// Bytes of one fetch.
const FETCH_BYTES: i32 = 512 << 10;
/// How long a broker may wait for records.
const WAIT_MS: i32 = 100;
const RETRY: Duration = Duration::from_millis(100);
/// Between two rounds of questions for offsets.
const ASK: Duration = Duration::from_millis(500);
const LIST_OFFSETS: i16 = 9;
/// How far back questions by time go, ms.
const BACK_MS: u64 = 120_000;

/// What a fetch of one partition gave: its slice, and where to go on.
pub fn fetch(router: &mut Router, partition: i32, from: i64) -> Result<(Slice, i64), String> {
    let request = fetch_request(router.topic(), partition, from, FETCH_BYTES, WAIT_MS);
    let mut response = router.ask_leader(partition, FETCH, &request)?;
    if response.error_code != 0 || response.responses.is_empty() {
        return Err(format!("Fetch: error {}", response.error_code));
    }
    let data = response.responses.swap_remove(0).partitions.swap_remove(0);
    if data.error_code != 0 {
        router.forget_leader(partition);
        return Err(format!("Fetch of {partition} at {from}: error {}", data.error_code));
    }
    slice_of(Key::new(router.topic(), partition), from, data)
}

/// A reader with its positions.
#[derive(Debug)]
pub struct Reader<'a> {
    shared: &'a Shared,
    router: Router,
    process: u32,
    /// Next offset of each partition.
    positions: Vec<i64>,
}

impl<'a> Reader<'a> {
    /// Assigned to all partitions, from their beginning.
    pub fn new(shared: &'a Shared, router: Router) -> Self {
        let process = shared.recorder.process();
        let keys = (0..shared.partitions).map(|partition| Key::new(router.topic(), partition)).collect();
        for stage in [Stage::Invoke, Stage::Ok] {
            let action = Action::Assign { keys: Vec::clone(&keys), seek_to_beginning: true };
            shared.recorder.tell(wait::now(), process, stage, action);
        }
        let positions = (0..shared.partitions).map(|_| 0).collect();
        Reader { shared, router, process, positions }
    }

    /// Reads one partition once; false = an error, or nothing new.
    pub fn poll(&mut self, partition: i32) -> bool {
        let place = usize::try_from(partition).expect("a partition");
        let tell = |stage, slices: Vec<Slice>| {
            let action = Action::Poll(vec![Micro::Poll(slices)]);
            self.shared.recorder.tell(wait::now(), self.process, stage, action);
        };
        tell(Stage::Invoke, Vec::new());
        match fetch(&mut self.router, partition, self.positions[place]) {
            Ok((slice, next)) => {
                tell(Stage::Ok, vec![slice]);
                let moved = next > self.positions[place];
                self.positions[place] = next;
                moved
            }
            Err(why) => {
                tell(Stage::Fail, Vec::new());
                self.shared.complain(&format!("reader {}: {why}", self.process));
                wait::pause(RETRY);
                false
            }
        }
    }

    /// Reads every partition up to `ends`; Err = how far it came by the deadline.
    pub fn read_up_to(&mut self, ends: &[i64], deadline: Duration) -> Result<(), String> {
        let end = wait::now() + deadline;
        for (partition, offset) in (0..).zip(ends) {
            let place = usize::try_from(partition).expect("a partition");
            while self.positions[place] < *offset {
                if wait::now() >= end {
                    return Err(format!("partition {partition} is read up to {} of {offset}", self.positions[place]));
                }
                self.poll(partition);
            }
        }
        Ok(())
    }
}

/// Reads all partitions in turn until the workload stops, then begins anew now and then: a crash of the client.
pub fn run(shared: &Shared, router: impl Fn() -> Router, polls: u64, seed: u64) {
    let mut random = Random::new(seed);
    while !shared.stopping() {
        let mut reader = Reader::new(shared, router());
        let life = polls + random.below(polls);
        for _ in 0..life {
            for partition in 0..shared.partitions {
                if shared.stopping() {
                    return;
                }
                reader.poll(partition);
            }
        }
        for stage in [Stage::Invoke, Stage::Info] {
            shared.recorder.tell(wait::now(), reader.process, stage, Action::Crash);
        }
    }
}

/// One question for an offset.
pub fn list(router: &mut Router, partition: i32, query: Query) -> Result<i64, String> {
    let timestamp = match query {
        Query::Earliest => EARLIEST,
        Query::EarliestLocal => EARLIEST_LOCAL,
        Query::Latest => LATEST,
        Query::Timestamp(time) => time,
    };
    let asked =
        ListOffsetsPartition { partition_index: partition, current_leader_epoch: -1, timestamp, ..Default::default() };
    let topics = vec![ListOffsetsTopic { name: router.topic().to_owned(), partitions: vec![asked] }];
    let request = ListOffsetsRequest { replica_id: -1, topics, timeout_ms: 10_000, ..Default::default() };
    let response = router.ask_leader(partition, LIST_OFFSETS, &request)?;
    let answer = &response.topics[0].partitions[0];
    if answer.error_code != 0 {
        router.forget_leader(partition);
        return Err(format!("ListOffsets of {partition}: error {}", answer.error_code));
    }
    Ok(answer.offset)
}

/// Asks for offsets until the workload stops.
pub fn ask(shared: &Shared, mut router: Router, seed: u64) {
    let (process, mut random) = (shared.recorder.process(), Random::new(seed));
    while !shared.stopping() {
        for partition in 0..shared.partitions {
            let back = i64::try_from(random.below(BACK_MS)).expect("two minutes");
            let time = Query::Timestamp(wait::wall_clock_ms() - back);
            for query in [Query::Earliest, Query::EarliestLocal, Query::Latest, time] {
                let key = Key::new(router.topic(), partition);
                let tell = |stage, offset| {
                    let action = Action::ListOffsets { key: key.clone(), query, offset };
                    shared.recorder.tell(wait::now(), process, stage, action);
                };
                tell(Stage::Invoke, -1);
                match list(&mut router, partition, query) {
                    Ok(offset) => tell(Stage::Ok, offset),
                    Err(why) => {
                        tell(Stage::Fail, -1);
                        shared.complain(&why);
                        wait::pause(RETRY);
                    }
                }
            }
        }
        wait::pause(ASK);
    }
}
