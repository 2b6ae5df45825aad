//! A member of a consumer group: joins, reads what it is given, commits, and joins again when it is told to.
//!
//! Invariants: it reads a partition only between the assignment that gave it and the next join; it begins at what the group has
//! committed; it commits what its ok polls returned, under the generation it read in.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use strandline_protocol::messages::heartbeat_request::HeartbeatRequest;
use strandline_protocol::messages::join_group_request::{JoinGroupRequest, JoinGroupRequestProtocol};
use strandline_protocol::messages::join_group_response::JoinGroupResponse;
use strandline_protocol::messages::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use strandline_protocol::messages::offset_fetch_request::{OffsetFetchRequest, OffsetFetchRequestTopic};
use strandline_protocol::messages::sync_group_request::{SyncGroupRequest, SyncGroupRequestAssignment};
use strandline_tests::history::op::{Action, Key, Micro, Position, Slice, Stage};
use strandline_tests::random::Random;
use strandline_tests::wait;

use crate::consumer::fetch;
use crate::link::Router;
use crate::workload::Shared;

const GROUP: &str = "chaos-group";
const SESSION_MS: i32 = 10_000;
const HEARTBEAT: Duration = Duration::from_millis(1_000);
const RETRY: Duration = Duration::from_millis(300);
/// Rounds of polls between two commits.
const COMMIT_EVERY: u32 = 5;
/// One round in so many ends with a crash of the client.
const CRASH_ONE_IN: u64 = 600;

const JOIN_GROUP: i16 = 5;
const SYNC_GROUP: i16 = 3;
const HEARTBEAT_VERSION: i16 = 3;
const OFFSET_COMMIT: i16 = 7;
const OFFSET_FETCH: i16 = 5;

const MEMBER_ID_REQUIRED: i16 = 79;
const UNKNOWN_MEMBER_ID: i16 = 25;
const ILLEGAL_GENERATION: i16 = 22;
const REBALANCE_IN_PROGRESS: i16 = 27;
/// COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR.
const COORDINATOR: [i16; 3] = [14, 15, 16];

/// Why a generation has ended for this member.
enum End {
    /// Another begins: join under the same name.
    Rejoin,
    /// The group has forgotten it: join as a new one.
    Forgotten,
    /// The coordinator is elsewhere, or silent.
    Lost(String),
}

impl End {
    fn of(code: i16) -> Self {
        match code {
            REBALANCE_IN_PROGRESS => End::Rejoin,
            UNKNOWN_MEMBER_ID | ILLEGAL_GENERATION => End::Forgotten,
            code => End::Lost(format!("error {code}")),
        }
    }
}

struct Member<'a> {
    shared: &'a Shared,
    router: Router,
    process: u32,
    coordinator: Option<SocketAddr>,
    name: String,
    generation: i32,
    /// Next offset of each partition that it owns.
    positions: BTreeMap<i32, i64>,
    /// What it has committed in this generation.
    committed: BTreeMap<i32, i64>,
}

/// A member until the workload stops; it crashes now and then, and another takes its place.
pub fn run(shared: &Shared, router: Router, seed: u64) {
    let mut random = Random::new(seed);
    let mut member = Member {
        shared,
        router,
        process: 0,
        coordinator: None,
        name: String::new(),
        generation: -1,
        positions: BTreeMap::new(),
        committed: BTreeMap::new(),
    };
    while !shared.stopping() {
        member.process = shared.recorder.process();
        member.name.clear();
        let topics = vec![member.router.topic().to_owned()];
        member.tell(Stage::Invoke, Action::Subscribe { group: GROUP.into(), topics: topics.clone() });
        member.tell(Stage::Ok, Action::Subscribe { group: GROUP.into(), topics });
        member.live(&mut random);
        member.tell(Stage::Invoke, Action::Crash);
        member.tell(Stage::Info, Action::Crash);
    }
}

impl Member<'_> {
    fn tell(&self, stage: Stage, action: Action) {
        self.shared.recorder.tell(wait::now(), self.process, stage, action);
    }

    fn key(&self, partition: i32) -> Key {
        Key::new(self.router.topic(), partition)
    }

    /// Generation after generation, until a crash.
    fn live(&mut self, random: &mut Random) {
        while !self.shared.stopping() {
            let end = match self.enter() {
                Ok(()) => match self.generation(random) {
                    Ok(()) => return,
                    Err(end) => end,
                },
                Err(end) => end,
            };
            match end {
                End::Rejoin => {}
                End::Forgotten => self.name.clear(),
                End::Lost(why) => {
                    self.shared.complain(&format!("member {}: {why}", self.process));
                    self.coordinator = None;
                    wait::pause(RETRY);
                }
            }
        }
    }

    fn at(&mut self) -> Result<SocketAddr, End> {
        if self.coordinator.is_none() {
            self.coordinator = Some(self.router.coordinator(GROUP).map_err(End::Lost)?);
        }
        Ok(self.coordinator.expect("just set"))
    }

    /// Joins, and learns what it owns and where to begin.
    fn enter(&mut self) -> Result<(), End> {
        let joined = self.join()?;
        self.generation = joined.generation_id;
        let assignments = if joined.leader == self.name { self.share_out(&joined) } else { Vec::new() };
        let request = SyncGroupRequest {
            group_id: GROUP.into(),
            generation_id: self.generation,
            member_id: self.name.clone(),
            assignments,
            ..Default::default()
        };
        let at = self.at()?;
        let response = self.router.ask(at, SYNC_GROUP, &request).map_err(End::Lost)?;
        if response.error_code != 0 {
            return Err(End::of(response.error_code));
        }
        let owned = assigned(response.assignment);
        let keys: Vec<Key> = owned.iter().map(|partition| self.key(*partition)).collect();
        let rebalance = Action::Rebalance { group: GROUP.into(), generation: self.generation, keys };
        self.tell(Stage::Invoke, rebalance.clone());
        self.tell(Stage::Ok, rebalance);
        self.committed.clear();
        self.positions = self.begin(&owned)?;
        Ok(())
    }

    fn join(&mut self) -> Result<JoinGroupResponse, End> {
        let mut metadata = BytesMut::new();
        metadata.put_i16(0);
        metadata.put_i32(1);
        put_text(&mut metadata, self.router.topic());
        metadata.put_i32(-1);
        let mut request = JoinGroupRequest {
            group_id: GROUP.into(),
            session_timeout_ms: SESSION_MS,
            rebalance_timeout_ms: SESSION_MS,
            member_id: self.name.clone(),
            protocol_type: "consumer".into(),
            protocols: vec![JoinGroupRequestProtocol { name: "range".into(), metadata: metadata.freeze() }],
            ..Default::default()
        };
        let at = self.at()?;
        let mut response = self.router.ask(at, JOIN_GROUP, &request).map_err(End::Lost)?;
        if response.error_code == MEMBER_ID_REQUIRED {
            request.member_id = response.member_id;
            response = self.router.ask(at, JOIN_GROUP, &request).map_err(End::Lost)?;
        }
        if response.error_code != 0 {
            return Err(End::of(response.error_code));
        }
        self.name.clone_from(&response.member_id);
        Ok(response)
    }

    /// Partitions to members in turn, the members in the order of their names.
    fn share_out(&self, joined: &JoinGroupResponse) -> Vec<SyncGroupRequestAssignment> {
        let mut names: Vec<&String> = joined.members.iter().map(|member| &member.member_id).collect();
        names.sort();
        let mut assignments = Vec::new();
        for (n, name) in names.iter().enumerate() {
            let owned = (0..self.shared.partitions).skip(n).step_by(names.len());
            let mut bytes = BytesMut::new();
            bytes.put_i16(0);
            bytes.put_i32(1);
            put_text(&mut bytes, self.router.topic());
            bytes.put_i32(i32::try_from(owned.len()).expect("few partitions"));
            owned.for_each(|partition| bytes.put_i32(partition));
            bytes.put_i32(-1);
            assignments.push(SyncGroupRequestAssignment { member_id: (*name).clone(), assignment: bytes.freeze() });
        }
        assignments
    }

    /// What the group has committed; the beginning where it has nothing.
    fn begin(&mut self, owned: &[i32]) -> Result<BTreeMap<i32, i64>, End> {
        let topic = OffsetFetchRequestTopic { name: self.router.topic().to_owned(), partition_indexes: owned.to_vec() };
        let request = OffsetFetchRequest { group_id: GROUP.into(), topics: Some(vec![topic]), ..Default::default() };
        let at = self.at()?;
        self.tell(Stage::Invoke, Action::Committed { group: GROUP.into(), positions: Vec::new() });
        let outcome = self.router.ask(at, OFFSET_FETCH, &request).and_then(|response| {
            let partitions = response.topics.first().map_or(&[][..], |topic| topic.partitions.as_slice());
            let code = partitions.iter().map(|p| p.error_code).find(|code| *code != 0).unwrap_or(response.error_code);
            let positions = partitions.iter().map(|p| (p.partition_index, p.committed_offset)).collect();
            if code == 0 { Ok(positions) } else { Err(format!("OffsetFetch: error {code}")) }
        });
        let found: BTreeMap<i32, i64> = match outcome {
            Ok(found) => found,
            Err(why) => {
                self.tell(Stage::Fail, Action::Committed { group: GROUP.into(), positions: Vec::new() });
                return Err(End::Lost(why));
            }
        };
        let positions = self.positions_of(&found);
        self.tell(Stage::Ok, Action::Committed { group: GROUP.into(), positions });
        Ok(owned.iter().map(|p| (*p, found.get(p).copied().unwrap_or(-1).max(0))).collect())
    }

    fn positions_of(&self, offsets: &BTreeMap<i32, i64>) -> Vec<Position> {
        offsets.iter().map(|(p, offset)| Position { key: self.key(*p), offset: *offset }).collect()
    }

    /// Reads, commits and beats until the generation ends; Ok = the client crashes.
    fn generation(&mut self, random: &mut Random) -> Result<(), End> {
        let (mut beat, mut round) = (wait::now(), 0);
        while !self.shared.stopping() && random.below(CRASH_ONE_IN) > 0 {
            for partition in self.positions.keys().copied().collect::<Vec<_>>() {
                self.poll(partition);
                self.heartbeat(&mut beat)?;
            }
            if self.positions.is_empty() {
                wait::pause(RETRY);
                self.heartbeat(&mut beat)?;
            }
            round += 1;
            if round % COMMIT_EVERY == 0 {
                self.commit()?;
            }
        }
        Ok(())
    }

    fn poll(&mut self, partition: i32) {
        let tell = |stage, slices: Vec<Slice>| {
            let action = Action::Poll(vec![Micro::Poll(slices)]);
            self.shared.recorder.tell(wait::now(), self.process, stage, action);
        };
        tell(Stage::Invoke, Vec::new());
        match fetch(&mut self.router, partition, self.positions[&partition]) {
            Ok((slice, next)) => {
                tell(Stage::Ok, vec![slice]);
                self.positions.insert(partition, next);
            }
            Err(why) => {
                tell(Stage::Fail, Vec::new());
                self.shared.complain(&format!("member {}: {why}", self.process));
            }
        }
    }

    fn heartbeat(&mut self, last: &mut Instant) -> Result<(), End> {
        if last.elapsed() < HEARTBEAT {
            return Ok(());
        }
        *last = wait::now();
        let request = HeartbeatRequest {
            group_id: GROUP.into(),
            generation_id: self.generation,
            member_id: self.name.clone(),
            ..Default::default()
        };
        let at = self.at()?;
        let response = self.router.ask(at, HEARTBEAT_VERSION, &request).map_err(End::Lost)?;
        if response.error_code == 0 { Ok(()) } else { Err(End::of(response.error_code)) }
    }

    fn commit(&mut self) -> Result<(), End> {
        let moved = |(partition, offset): (&i32, &i64)| self.committed.get(partition) != Some(offset) && *offset > 0;
        let offsets: BTreeMap<i32, i64> =
            self.positions.iter().filter(|place| moved(*place)).map(|(p, offset)| (*p, *offset)).collect();
        if offsets.is_empty() {
            return Ok(());
        }
        let partitions = offsets.iter().map(|(p, offset)| OffsetCommitRequestPartition {
            partition_index: *p,
            committed_offset: *offset,
            committed_leader_epoch: -1,
            ..Default::default()
        });
        let topic = OffsetCommitRequestTopic {
            name: self.router.topic().to_owned(),
            partitions: partitions.collect(),
            ..Default::default()
        };
        let request = OffsetCommitRequest {
            group_id: GROUP.into(),
            generation_id_or_member_epoch: self.generation,
            member_id: self.name.clone(),
            topics: vec![topic],
            ..Default::default()
        };
        let at = self.at()?;
        let positions = self.positions_of(&offsets);
        let action = Action::Commit { group: GROUP.into(), generation: self.generation, positions };
        self.tell(Stage::Invoke, action.clone());
        let outcome = self.router.ask(at, OFFSET_COMMIT, &request).map(|response| {
            let mut codes = response.topics.iter().flat_map(|topic| topic.partitions.iter().map(|p| p.error_code));
            codes.find(|code| *code != 0).unwrap_or(0)
        });
        let refused = [UNKNOWN_MEMBER_ID, ILLEGAL_GENERATION, REBALANCE_IN_PROGRESS];
        match outcome {
            Ok(0) => {
                self.tell(Stage::Ok, action);
                self.committed.extend(offsets);
                Ok(())
            }
            Ok(code) => {
                let surely_not = refused.contains(&code) || COORDINATOR.contains(&code);
                self.tell(if surely_not { Stage::Fail } else { Stage::Info }, action);
                Err(End::of(code))
            }
            Err(why) => {
                self.tell(Stage::Info, action);
                Err(End::Lost(why))
            }
        }
    }
}

fn put_text(bytes: &mut BytesMut, text: &str) {
    bytes.put_i16(i16::try_from(text.len()).expect("a short name"));
    bytes.put_slice(text.as_bytes());
}

/// The partitions of an assignment of one topic; none where it is empty.
fn assigned(mut bytes: Bytes) -> Vec<i32> {
    if bytes.remaining() < 6 {
        return Vec::new();
    }
    let _version = bytes.get_i16();
    let mut owned = Vec::new();
    for _ in 0..bytes.get_i32() {
        let name = usize::try_from(bytes.get_i16()).expect("a name");
        bytes.advance(name);
        let count = bytes.get_i32();
        owned.extend((0..count).map(|_| bytes.get_i32()));
    }
    owned
}
