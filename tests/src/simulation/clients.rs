//! The clients of a simulation: idempotent producers, readers from the beginning, one that asks for offsets. Those that commit are in
//! `committers`.
//!
//! Owns what a client believes and tells the history. They run on the clients' host; every call has a deadline.
//! Invariants: a batch is sent again under its own sequence numbers only, and one whose outcome stays unknown is told as `info`; a
//! position moves only by what an ok poll returned.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use strandline_client::network::Network;
use strandline_client::{CallError, Cluster};
use strandline_protocol::compression::Compression;
use strandline_protocol::messages::Request;
use strandline_protocol::messages::fetch_response::PartitionData;
use strandline_protocol::messages::init_producer_id_request::InitProducerIdRequest;
use strandline_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use strandline_protocol::record_batch::{RecordBatchBuilder, batches};
use tokio::time::{Instant, sleep};

use super::committers::Groups;
use crate::history::op::{Action, Key, Micro, Query, Sent, Slice, Stage};
use crate::history::payload::{NUMBER_BITS, slice_of, text};
use crate::history::recorder::Recorder;
use crate::random::Random;
use crate::wait::wall_clock_ms;
use crate::wire::{EARLIEST, EARLIEST_LOCAL, FETCH, LATEST, PRODUCE, fetch_request, produce_request};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(100);
/// How long a batch is sent again before its outcome counts as unknown.
const BATCH: Duration = Duration::from_secs(60);
/// Records of one batch, at most.
const BATCH_MAX: u64 = 8;
/// Bytes of a record's value, at most.
const VALUE_MAX: u64 = 300;
/// Bytes of one fetch, and how long a broker may wait for them.
const FETCH_BYTES: i32 = 256 << 10;
const FETCH_WAIT_MS: i32 = 100;
/// Between two rounds of questions for offsets.
const ASK: Duration = Duration::from_millis(700);
const LIST_OFFSETS: i16 = 9;

const DUPLICATE_SEQUENCE_NUMBER: i16 = 46;
/// The same batch may be sent again.
const RETRIABLE: [i16; 15] = [3, 5, 6, 7, 8, 9, 13, 14, 15, 16, 19, 20, 56, 74, 75];

/// What the clients of a run share.
pub struct Shared {
    pub recorder: Recorder,
    pub topic: String,
    pub partitions: i32,
    pub bootstrap: String,
    pub network: Network,
    pub groups: Groups,
    stop: AtomicBool,
    /// Of each partition: batches, and the offset behind the last acknowledged record.
    acknowledged: Vec<(AtomicU64, AtomicI64)>,
}

impl Shared {
    /// To be called in the clients' runtime, when the world begins.
    pub fn new(topic: &str, partitions: i32, bootstrap: String, network: Network) -> Arc<Self> {
        Arc::new(Shared {
            recorder: Recorder::new(Instant::now().into_std()),
            topic: topic.to_owned(),
            partitions,
            bootstrap,
            network,
            groups: Groups::default(),
            stop: AtomicBool::new(false),
            acknowledged: (0..partitions).map(|_| Default::default()).collect(),
        })
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(super) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Batches acknowledged so far, of each partition.
    pub fn progress(&self) -> Vec<u64> {
        self.acknowledged.iter().map(|(count, _)| count.load(Ordering::Relaxed)).collect()
    }

    /// The offset behind the last acknowledged record, of each partition.
    pub fn ends(&self) -> Vec<i64> {
        self.acknowledged.iter().map(|(_, end)| end.load(Ordering::Relaxed)).collect()
    }

    pub(super) fn tell(&self, process: u32, stage: Stage, action: Action) {
        self.recorder.tell(Instant::now().into_std(), process, stage, action);
    }
}

/// A client's way to the cluster.
pub struct Client {
    shared: Arc<Shared>,
    cluster: Cluster,
    leaders: BTreeMap<i32, i32>,
    /// Fetch sessions, if it uses them: one for each partition.
    sessions: Option<BTreeMap<i32, Session>>,
}

/// An open fetch session.
#[derive(Debug, Clone, Copy)]
struct Session {
    node: i32,
    id: i32,
    /// Of the next request.
    epoch: i32,
    /// Where the broker was last told to go on.
    offset: i64,
}

impl Client {
    pub fn new(shared: &Arc<Shared>) -> Self {
        let cluster = Cluster::over(shared.network.clone(), &shared.bootstrap, "simulation", ANSWER);
        Client { shared: Arc::clone(shared), cluster, leaders: BTreeMap::new(), sessions: None }
    }

    async fn ask_leader<R: Request>(
        &mut self,
        partition: i32,
        version: i16,
        request: &R,
    ) -> Result<R::Response, String> {
        let leader = match self.leaders.get(&partition) {
            Some(leader) => *leader,
            None => {
                let leaders = self.cluster.leaders(&self.shared.topic, false).await;
                let leaders = leaders.map_err(|e| e.to_string())?.map_err(|code| format!("{code:?}"))?;
                self.leaders = leaders.into_iter().map(|(p, leader)| (p, leader.node_id)).collect();
                *self.leaders.get(&partition).ok_or("nobody leads")?
            }
        };
        let answer = async { self.cluster.node(leader).await?.call_version(version, request, ANSWER).await };
        let answer: Result<_, CallError> = answer.await;
        answer.map_err(|error| {
            self.leaders.remove(&partition);
            error.to_string()
        })
    }

    async fn fetch(&mut self, partition: i32, from: i64) -> Result<(Slice, i64), String> {
        let mut request = fetch_request(&self.shared.topic, partition, from, FETCH_BYTES, FETCH_WAIT_MS);
        // A session that does not come to its end here is given up.
        let session = self.sessions.as_mut().and_then(|sessions| sessions.remove(&partition));
        let session = session.filter(|session| self.leaders.get(&partition) == Some(&session.node));
        if self.sessions.is_some() {
            (request.session_id, request.session_epoch) = session.map_or((0, 0), |session| (session.id, session.epoch));
        }
        if session.is_some_and(|session| session.offset == from) {
            request.topics.clear();
        }
        let mut response = self.ask_leader(partition, FETCH, &request).await?;
        let silent = response.responses.is_empty();
        if response.error_code != 0 || (silent && session.is_none()) {
            return Err(format!("Fetch: error {}", response.error_code));
        }
        let answer = if silent {
            // Nothing new in the session's only partition.
            (Slice::new(Key::new(&self.shared.topic, partition), Vec::new()), from)
        } else {
            let data = response.responses.swap_remove(0).partitions.swap_remove(0);
            if data.error_code != 0 {
                self.leaders.remove(&partition);
                return Err(format!("Fetch of {partition} at {from}: error {}", data.error_code));
            }
            check_begin(from, &data);
            slice_of(Key::new(&self.shared.topic, partition), from, data)?
        };
        if let (Some(sessions), Some(node)) = (&mut self.sessions, self.leaders.get(&partition))
            && response.session_id != 0
        {
            let epoch = session.map_or(1, |session| session.epoch + 1);
            sessions.insert(partition, Session { node: *node, id: response.session_id, epoch, offset: from });
        }
        Ok(answer)
    }

    /// One question for an offset.
    pub async fn list(&mut self, partition: i32, query: Query) -> Result<i64, String> {
        let timestamp = match query {
            Query::Earliest => EARLIEST,
            Query::EarliestLocal => EARLIEST_LOCAL,
            Query::Latest => LATEST,
            Query::Timestamp(time) => time,
        };
        let asked = ListOffsetsPartition {
            partition_index: partition,
            current_leader_epoch: -1,
            timestamp,
            ..Default::default()
        };
        let topics = vec![ListOffsetsTopic { name: self.shared.topic.clone(), partitions: vec![asked] }];
        let request = ListOffsetsRequest { replica_id: -1, topics, timeout_ms: 5_000, ..Default::default() };
        let response = self.ask_leader(partition, LIST_OFFSETS, &request).await?;
        let answer = &response.topics[0].partitions[0];
        if answer.error_code != 0 {
            self.leaders.remove(&partition);
            return Err(format!("ListOffsets of {partition}: error {}", answer.error_code));
        }
        Ok(answer.offset)
    }
}

/// An idempotent producer of one partition, acks=all: one batch at a time, sent again until its outcome is known.
pub async fn produce(shared: Arc<Shared>, partition: i32, mut random: Random, pause: Duration) {
    let mut client = Client::new(&shared);
    while !shared.stopping() {
        let process = shared.recorder.process();
        let Some(id) = producer_id(&client).await else { return };
        let (mut number, mut sequence) = (0, 0);
        while !shared.stopping() {
            let count = 1 + random.below(BATCH_MAX);
            let timestamp = Some(wall_clock_ms());
            let values = (number..number + count).map(|n| u64::from(process) << NUMBER_BITS | n);
            let mut sent: Vec<Sent> = values.map(|value| Sent { value, offset: None, timestamp }).collect();
            let tell = |stage, sent: Vec<Sent>| {
                let micro = Micro::Send(Key::new(&shared.topic, partition), sent);
                shared.tell(process, stage, Action::Send(vec![micro]));
            };
            tell(Stage::Invoke, sent.clone());
            let batch = batch(&sent, id, sequence, &mut random);
            number += count;
            sequence += i32::try_from(count).expect("a small batch");
            match send(&mut client, partition, &batch).await {
                Ok(base) => {
                    for (offset, one) in (base.unwrap_or(0)..).zip(&mut sent) {
                        one.offset = base.map(|_| offset);
                    }
                    tell(Stage::Ok, sent);
                    let (batches, end) = &shared.acknowledged[usize::try_from(partition).expect("a partition")];
                    batches.fetch_add(1, Ordering::Relaxed);
                    end.fetch_max(base.map_or(0, |base| base + count.cast_signed()), Ordering::Relaxed);
                }
                Err(why) => {
                    tracing::info!(partition, process, why, "a batch has no known outcome");
                    tell(Stage::Info, sent);
                    break;
                }
            }
            sleep(pause).await;
        }
    }
}

/// A fetch's answer begins with the batch that holds the offset asked for. A client passes over what comes before it, and would hide a
/// broker that reads from somewhere else; so this ends the run.
fn check_begin(from: i64, data: &PartitionData) {
    let bytes = data.records.as_ref().and_then(|records| records.to_bytes()).unwrap_or_default();
    if let Some(Ok((header, _))) = batches(&bytes).next() {
        let end = header.next_offset();
        assert!(
            end > from,
            "a fetch of partition {} from {from} begins with a batch up to {end}",
            data.partition_index
        );
    }
}

async fn producer_id(client: &Client) -> Option<(i64, i16)> {
    let request = InitProducerIdRequest {
        transactional_id: None,
        transaction_timeout_ms: 60_000,
        producer_id: -1,
        producer_epoch: -1,
        ..Default::default()
    };
    while !client.shared.stopping() {
        match client.cluster.ask(&request).await {
            Ok(response) if response.error_code == 0 => return Some((response.producer_id, response.producer_epoch)),
            _ => sleep(RETRY).await,
        }
    }
    None
}

fn batch(sent: &[Sent], id: (i64, i16), sequence: i32, random: &mut Random) -> bytes::Bytes {
    let mut batch = RecordBatchBuilder::new(Compression::None);
    (batch.producer_id, batch.producer_epoch) = id;
    batch.base_sequence = sequence;
    for one in sent {
        let length = usize::try_from(random.below(VALUE_MAX)).expect("a small record");
        batch.append(one.timestamp.expect("it was given"), None, Some(&text(one.value, length)), &[]);
    }
    batch.build()
}

/// Sends a batch until it is acknowledged (with its offset, if that was told), or its outcome counts as unknown.
async fn send(client: &mut Client, partition: i32, batch: &bytes::Bytes) -> Result<Option<i64>, String> {
    let end = Instant::now() + BATCH;
    loop {
        let request = produce_request(&client.shared.topic, partition, batch.clone(), -1);
        let why = match client.ask_leader(partition, PRODUCE, &request).await {
            Ok(response) => {
                let answer = &response.responses[0].partition_responses[0];
                match answer.error_code {
                    0 => return Ok((answer.base_offset >= 0).then_some(answer.base_offset)),
                    DUPLICATE_SEQUENCE_NUMBER => return Ok(None),
                    code if RETRIABLE.contains(&code) => {
                        client.leaders.remove(&partition);
                        format!("error {code}")
                    }
                    code => return Err(format!("error {code} {:?}", answer.error_message)),
                }
            }
            Err(why) => why,
        };
        if Instant::now() >= end {
            return Err(why);
        }
        sleep(RETRY).await;
    }
}

/// A reader of all partitions, from their beginning.
pub struct Reader {
    client: Client,
    process: u32,
    /// Next offset of each partition.
    pub positions: Vec<i64>,
}

impl Reader {
    pub fn new(shared: &Arc<Shared>) -> Self {
        let process = shared.recorder.process();
        let keys: Vec<Key> = (0..shared.partitions).map(|partition| Key::new(&shared.topic, partition)).collect();
        for stage in [Stage::Invoke, Stage::Ok] {
            shared.tell(process, stage, Action::Assign { keys: keys.clone(), seek_to_beginning: true });
        }
        Reader { client: Client::new(shared), process, positions: vec![0; keys.len()] }
    }

    /// Reads in fetch sessions (KIP-227).
    #[must_use]
    pub fn in_sessions(mut self) -> Self {
        self.client.sessions = Some(BTreeMap::new());
        self
    }

    /// Reads one partition once.
    pub async fn poll(&mut self, partition: i32) {
        let place = usize::try_from(partition).expect("a partition");
        let shared = Arc::clone(&self.client.shared);
        let process = self.process;
        let tell = |stage, slices| shared.tell(process, stage, Action::Poll(vec![Micro::Poll(slices)]));
        tell(Stage::Invoke, Vec::new());
        match self.client.fetch(partition, self.positions[place]).await {
            Ok((slice, next)) => {
                tell(Stage::Ok, vec![slice]);
                self.positions[place] = next;
            }
            Err(why) => {
                tracing::debug!(process, why, "a poll failed");
                tell(Stage::Fail, Vec::new());
                sleep(RETRY).await;
            }
        }
    }

    /// Reads every partition up to `ends`.
    pub async fn read_up_to(&mut self, ends: &[i64]) {
        for (partition, end) in (0..).zip(ends) {
            while self.positions[usize::try_from(partition).expect("a partition")] < *end {
                self.poll(partition).await;
            }
        }
    }
}

/// Reads all partitions in turn until the run stops, and begins anew now and then: a crash of the client.
pub async fn read(shared: Arc<Shared>, mut random: Random, polls: u64) {
    while !shared.stopping() {
        let mut reader = Reader::new(&shared);
        if random.below(2) == 0 {
            reader = reader.in_sessions();
        }
        for _ in 0..polls + random.below(polls) {
            for partition in 0..shared.partitions {
                if shared.stopping() {
                    return;
                }
                reader.poll(partition).await;
            }
        }
        for stage in [Stage::Invoke, Stage::Info] {
            shared.tell(reader.process, stage, Action::Crash);
        }
    }
}

/// Asks for offsets until the run stops.
pub async fn ask(shared: Arc<Shared>, mut random: Random) {
    let (process, mut client) = (shared.recorder.process(), Client::new(&shared));
    while !shared.stopping() {
        for partition in 0..shared.partitions {
            let back = random.below(20_000).cast_signed();
            let time = Query::Timestamp(wall_clock_ms() - back);
            for query in [Query::Earliest, Query::EarliestLocal, Query::Latest, time] {
                let key = Key::new(&shared.topic, partition);
                let tell = |stage, offset| {
                    shared.tell(process, stage, Action::ListOffsets { key: key.clone(), query, offset });
                };
                tell(Stage::Invoke, -1);
                match client.list(partition, query).await {
                    Ok(offset) => tell(Stage::Ok, offset),
                    Err(why) => {
                        tracing::debug!(why, "a question for an offset failed");
                        tell(Stage::Fail, -1);
                        sleep(RETRY).await;
                    }
                }
            }
        }
        sleep(ASK).await;
    }
}
