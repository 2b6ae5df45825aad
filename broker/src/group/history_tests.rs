//! Random histories of one group, seeded: clients join, sync, commit, fail and come back, writes fail, the node crashes.
//!
//! Checked throughout: a partition has one owner per generation; offsets are accepted from the current generation only;
//! whoever is parked is answered within the rebalance timeout. Checked at the end: left alone, the group becomes stable
//! and every partition has an owner.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::messages::group_metadata_value::GroupMetadataValue;
use uuid::Uuid;

use super::join::JoinInput;
use super::member::Protocol;
use super::offsets::{CommitInput, CommitPartition};
use super::outcomes::{Answer, Outcomes, Ticket, Write};
use super::rebalance::SyncInput;
use super::records::{Entry, read};
use super::settings::GroupSettings;
use super::state::{Group, State, Step};

const PARTITIONS: u8 = 6;
const REBALANCE_MS: i64 = 20_000;
const SESSION_MS: i32 = 7000;
const HEARTBEAT_MS: i64 = 2000;
/// Longest time that a write takes, in ms.
const WRITE_MS: i64 = 700;
const SEEDS: u64 = 400;
const STEPS: usize = 250;

struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.next(100) < percent
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Phase {
    Away,
    Joining(Ticket),
    /// Joined; with the members to assign to, if it leads.
    Joined(Vec<String>),
    Syncing(Ticket),
    Stable,
}

/// A consumer that follows the protocol.
#[derive(Debug, Clone)]
struct Client {
    instance: Option<String>,
    member: String,
    generation: i32,
    phase: Phase,
    next_heartbeat_ms: i64,
    /// Until then its heartbeats go on, and nothing else does.
    stuck_until_ms: i64,
}

struct World {
    random: Random,
    settings: GroupSettings,
    group: Group,
    now_ms: i64,
    tickets: u64,
    clients: Vec<Client>,
    /// Parked requests: since when, and whose.
    parked: BTreeMap<Ticket, (i64, usize)>,
    /// When each write ends, and how.
    writes: Vec<(i64, bool, Write)>,
    /// What a crash leaves behind.
    durable: Option<GroupMetadataValue>,
    /// (generation, partition) -> owner, as clients were told.
    owners: BTreeMap<(i32, u8), String>,
    stable: u64,
    commits: u64,
    /// No more writes fail.
    calm: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let clients = (0..2 + random.next(5)).map(|i| Client {
            instance: (i % 3 == 2).then(|| format!("instance-{i}")),
            member: String::new(),
            generation: -1,
            phase: Phase::Away,
            next_heartbeat_ms: 0,
            stuck_until_ms: 0,
        });
        World {
            clients: clients.collect(),
            random,
            settings: super::state_tests::settings(),
            group: Group::new("g", 0),
            now_ms: 0,
            tickets: 0,
            parked: BTreeMap::new(),
            writes: Vec::new(),
            durable: None,
            owners: BTreeMap::new(),
            stable: 0,
            commits: 0,
            calm: false,
        }
    }

    fn step<R>(&mut self, act: impl FnOnce(&mut Group, &mut Step<'_>) -> R) -> R {
        let mut out = Outcomes::default();
        let result = act(&mut self.group, &mut Step { settings: &self.settings, now_ms: self.now_ms, out: &mut out });
        for write in out.writes {
            // The log ends writes in order.
            let earliest = self.writes.last().map_or(self.now_ms, |(at, _, _)| *at).max(self.now_ms);
            let at = earliest.max(self.now_ms + self.random.next(WRITE_MS as u64) as i64);
            let fails = !self.calm && self.random.chance(8);
            self.writes.push((at, fails, write));
        }
        for (ticket, answer) in out.answers {
            self.answered(ticket, answer);
        }
        result
    }

    fn ticket(&mut self, client: usize) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.parked.insert(ticket, (self.now_ms, client));
        ticket
    }

    fn identity(&self, client: usize) -> String {
        let client = &self.clients[client];
        client.instance.clone().unwrap_or_else(|| client.member.clone())
    }

    fn answered(&mut self, ticket: Ticket, answer: Answer) {
        let Some((_, at)) = self.parked.remove(&ticket) else { return };
        let now = self.now_ms;
        match answer {
            Answer::Join(response) => {
                let client = &mut self.clients[at];
                if client.phase != Phase::Joining(ticket) {
                    return;
                }
                client.phase = Phase::Away;
                match ErrorCode::from_code(response.error_code).unwrap() {
                    ErrorCode::None => {
                        client.member = response.member_id;
                        client.generation = response.generation_id;
                        client.next_heartbeat_ms = now + HEARTBEAT_MS;
                        let leads = response.leader == client.member && !response.skip_assignment;
                        let members = response.members.into_iter().filter(|_| leads).map(|m| m.member_id);
                        client.phase = Phase::Joined(members.collect());
                    }
                    ErrorCode::MemberIdRequired => client.member = response.member_id,
                    ErrorCode::UnknownMemberId | ErrorCode::FencedInstanceId => client.member = String::new(),
                    ErrorCode::RebalanceInProgress | ErrorCode::CoordinatorNotAvailable => {}
                    other => panic!("{other}"),
                }
            }
            Answer::Sync(response) => {
                if self.clients[at].phase != Phase::Syncing(ticket) {
                    return;
                }
                self.clients[at].phase = Phase::Away;
                match ErrorCode::from_code(response.error_code).unwrap() {
                    ErrorCode::None => {
                        self.clients[at].phase = Phase::Stable;
                        self.owns(at, &response.assignment);
                    }
                    ErrorCode::UnknownMemberId | ErrorCode::FencedInstanceId => {
                        self.clients[at].member = String::new();
                    }
                    _ => {}
                }
            }
            Answer::Done(_) => {}
        }
    }

    fn owns(&mut self, client: usize, assignment: &Bytes) {
        let (generation, identity) = (self.clients[client].generation, self.identity(client));
        for partition in assignment {
            let owner = self.owners.entry((generation, *partition)).or_insert_with(|| identity.clone());
            assert_eq!(*owner, identity, "partition {partition} has two owners in generation {generation}");
        }
        self.stable += 1;
    }

    fn join(&mut self, at: usize) {
        let ticket = self.ticket(at);
        self.clients[at].phase = Phase::Joining(ticket);
        let client = self.clients[at].clone();
        let mut names = vec!["range", "sticky"];
        if self.random.chance(50) {
            names.reverse();
        }
        let join = JoinInput {
            ticket,
            member_id: client.member,
            new_member_id: format!("member-{:04}-{}", self.random.next(10_000), ticket.0),
            instance_id: client.instance,
            client_id: format!("client-{at}"),
            client_host: "/127.0.0.1".to_owned(),
            rebalance_timeout_ms: (REBALANCE_MS - self.random.next(10_000) as i64) as i32,
            session_timeout_ms: SESSION_MS,
            protocol_type: "consumer".to_owned(),
            protocols: names
                .into_iter()
                .map(|n| Protocol { name: n.to_owned(), metadata: Bytes::from(vec![0, 0, 0, 0, 0, 0]) })
                .collect(),
            member_id_required: self.random.chance(70),
            skip_assignment_supported: true,
        };
        self.step(|group, step| group.join(join, step));
    }

    fn sync(&mut self, at: usize, members: &[String]) {
        let ticket = self.ticket(at);
        self.clients[at].phase = Phase::Syncing(ticket);
        let client = self.clients[at].clone();
        let start = self.random.next(members.len().max(1) as u64) as usize;
        let assignments = members.iter().enumerate().map(|(i, id)| {
            let own = (0..PARTITIONS).filter(|p| (usize::from(*p) + start) % members.len() == i);
            (id.clone(), own.collect::<Bytes>())
        });
        let sync = SyncInput {
            ticket,
            member_id: client.member,
            instance_id: client.instance,
            generation: client.generation,
            protocol_type: None,
            protocol_name: None,
            assignments: assignments.collect(),
        };
        self.step(|group, step| group.sync(sync, step));
    }

    fn heartbeat(&mut self, at: usize) {
        let client = self.clients[at].clone();
        self.clients[at].next_heartbeat_ms = self.now_ms + HEARTBEAT_MS;
        let code = self
            .step(|group, step| group.heartbeat(&client.member, client.instance.as_deref(), client.generation, step));
        match code {
            ErrorCode::None => {}
            ErrorCode::RebalanceInProgress | ErrorCode::IllegalGeneration => self.clients[at].phase = Phase::Away,
            ErrorCode::UnknownMemberId | ErrorCode::FencedInstanceId => {
                self.clients[at].phase = Phase::Away;
                self.clients[at].member = String::new();
            }
            other => panic!("{other}"),
        }
    }

    /// A commit that may be of an older generation, or from outside.
    fn commit(&mut self, at: usize) {
        let client = self.clients[at].clone();
        let generation = client.generation - self.random.next(2) as i32;
        let outside = self.random.chance(20);
        let partition = CommitPartition {
            topic: "t".to_owned(),
            topic_id: Uuid::nil(),
            partition: 0,
            offset: 1,
            leader_epoch: -1,
            metadata: String::new(),
        };
        let commit = CommitInput {
            ticket: Ticket(u64::MAX),
            member_id: if outside { String::new() } else { client.member.clone() },
            instance_id: client.instance.filter(|_| !outside),
            generation: if outside { -1 } else { generation },
            retention_ms: None,
            partitions: vec![partition],
        };
        let (current, state) = (self.group.generation(), self.group.state());
        let is_member = self.group.members().contains_key(&client.member);
        if self.step(|group, step| group.commit(commit, step)).is_ok() {
            self.commits += 1;
            if outside || generation < 0 {
                assert_eq!(state, State::Empty, "an offset from outside of a group that has members");
            } else {
                assert!(is_member && generation == current, "an offset of generation {generation} in {current}");
            }
        }
    }

    /// Does what every client has to do by now.
    fn clients_act(&mut self, may_dawdle: bool) {
        for at in 0..self.clients.len() {
            if may_dawdle && self.random.chance(30) {
                continue;
            }
            if self.clients[at].stuck_until_ms > self.now_ms {
                let parked = matches!(self.clients[at].phase, Phase::Joining(_) | Phase::Syncing(_));
                if !parked && self.clients[at].next_heartbeat_ms <= self.now_ms {
                    self.heartbeat(at);
                }
                continue;
            }
            match self.clients[at].phase.clone() {
                Phase::Away => self.join(at),
                Phase::Joined(members) => self.sync(at, &members),
                Phase::Stable if self.clients[at].next_heartbeat_ms <= self.now_ms => self.heartbeat(at),
                _ => {}
            }
        }
    }

    /// Lets time pass, with deadlines and writes at their times.
    fn until(&mut self, at_ms: i64) {
        loop {
            let write = self.writes.first().map(|(at, _, _)| *at);
            let next = self.group.next_deadline().into_iter().chain(write).min().filter(|next| *next <= at_ms);
            let Some(next) = next else { break };
            self.now_ms = self.now_ms.max(next);
            if write.is_some_and(|at| at <= self.now_ms) {
                self.end_write();
            } else {
                self.step(|group, step| group.on_deadlines(step));
            }
            self.check_parked();
        }
        self.now_ms = at_ms;
    }

    fn end_write(&mut self) {
        let (_, fails, write) = self.writes.remove(0);
        // A failed write may be in the log all the same.
        if !fails || self.random.chance(30) {
            for record in &write.records {
                if let Entry::Group { value, .. } = read(Some(record.key.clone()), record.value.clone()).unwrap() {
                    self.durable = value;
                }
            }
        }
        let result = if fails { Err(ErrorCode::CoordinatorNotAvailable) } else { Ok(()) };
        self.step(|group, step| group.written(write, result, step));
    }

    fn check_parked(&self) {
        for (ticket, (since, client)) in &self.parked {
            // The join phase and the sync phase each have the rebalance timeout; an assignment is also written.
            let limit = REBALANCE_MS + WRITE_MS;
            let waited = self.now_ms - since;
            assert!(waited <= limit, "{ticket:?} of {client} waits for {waited} ms in {:?}", self.group);
        }
    }

    /// The coordinator dies and is loaded again; connections break.
    fn crash(&mut self) {
        self.group = match self.durable.clone() {
            Some(value) => Group::restore("g", value, self.now_ms),
            None => Group::new("g", self.now_ms),
        };
        self.writes.clear();
        self.parked.clear();
        for client in &mut self.clients {
            if !matches!(client.phase, Phase::Stable | Phase::Joined(_)) {
                client.phase = Phase::Away;
            }
        }
    }

    fn disturb(&mut self) {
        let at = self.random.next(self.clients.len() as u64) as usize;
        match self.random.next(100) {
            0..30 => self.commit(at),
            30..38 => {
                // The process is replaced: a static member comes back under its instance id, a dynamic one as a new one.
                self.clients[at].member = String::new();
                self.clients[at].phase = Phase::Away;
            }
            38..46 => {
                let leaving = (self.clients[at].member.clone(), self.clients[at].instance.clone());
                let left = self.step(|group, step| group.leave(&[leaving], step));
                if left == Ok(vec![ErrorCode::None]) {
                    self.clients[at].member = String::new();
                    self.clients[at].phase = Phase::Away;
                }
            }
            46..50 => self.crash(),
            50..70 => {
                let pause = self.random.next(2 * REBALANCE_MS as u64) as i64;
                self.clients[at].stuck_until_ms = self.now_ms + pause;
            }
            // A request that is sent again on another connection.
            70..76 if matches!(self.clients[at].phase, Phase::Joining(_)) => self.join(at),
            _ => {}
        }
    }

    fn assert_converges(&mut self) {
        self.calm = true;
        let end = self.now_ms + 6 * REBALANCE_MS;
        while self.now_ms < end {
            self.clients_act(false);
            self.until(self.now_ms + 500);
        }
        assert_eq!(self.group.state(), State::Stable, "{:?}", self.group);
        let members: BTreeSet<_> = self.clients.iter().map(|c| c.member.clone()).collect();
        assert_eq!(members, self.group.members().keys().cloned().collect());
        let assigned: BTreeSet<u8> = self.group.members().values().flat_map(|m| m.assignment.to_vec()).collect();
        assert_eq!(assigned.len(), usize::from(PARTITIONS));
    }
}

#[test]
fn random_histories_keep_the_promises_of_a_group() {
    let (mut stable, mut commits) = (0, 0);
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        // Some histories are busy, others give every deadline the time to pass.
        let disturbances = [5, 20, 100][(seed % 3) as usize];
        for _ in 0..STEPS {
            world.clients_act(true);
            if world.random.chance(disturbances) {
                world.disturb();
            }
            let pause = 1 + world.random.next(1500) as i64;
            world.until(world.now_ms + pause);
            world.check_parked();
        }
        world.assert_converges();
        stable += world.stable;
        commits += world.commits;
    }
    // The histories are worth something: they reach assignments and commits all the time.
    assert!(stable > 10 * SEEDS && commits > 3 * SEEDS, "{stable} assignments, {commits} commits");
}
