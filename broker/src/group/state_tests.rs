//! The rules of one group, one at a time.

use std::collections::BTreeSet;

use bytes::Bytes;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::messages::join_group_response::JoinGroupResponse;
use strandline_protocol::messages::sync_group_response::SyncGroupResponse;
use uuid::Uuid;

use super::join::JoinInput;
use super::member::Protocol;
use super::offsets::{CommitInput, CommitPartition};
use super::outcomes::{Answer, Completion, Outcomes, Ticket, Write};
use super::rebalance::SyncInput;
use super::records::{Entry, read};
use super::settings::GroupSettings;
use super::state::{Group, State, Step};

const SESSION_MS: i32 = 10_000;
const REBALANCE_MS: i32 = 60_000;

pub(super) fn settings() -> GroupSettings {
    GroupSettings {
        initial_rebalance_delay_ms: 3000,
        min_session_timeout_ms: 6000,
        max_session_timeout_ms: 1_800_000,
        max_size: 100,
        offsets_retention_ms: 1_000_000,
        offsets_check_interval_ms: 600_000,
        metadata_max_bytes: 10,
    }
}

/// A group, the time, and everything it has said so far.
struct Bench {
    group: Group,
    settings: GroupSettings,
    now_ms: i64,
    tickets: u64,
    answers: Vec<(Ticket, Answer)>,
    writes: Vec<Write>,
}

impl Bench {
    fn new() -> Self {
        Bench {
            group: Group::new("g", 0),
            settings: settings(),
            now_ms: 0,
            tickets: 0,
            answers: Vec::new(),
            writes: Vec::new(),
        }
    }

    fn step<R>(&mut self, act: impl FnOnce(&mut Group, &mut Step<'_>) -> R) -> R {
        let mut out = Outcomes::default();
        let result = act(&mut self.group, &mut Step { settings: &self.settings, now_ms: self.now_ms, out: &mut out });
        self.answers.extend(out.answers);
        self.writes.extend(out.writes);
        result
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    /// A JoinGroup as version 3 sends it: no id has to be known.
    fn join(&mut self, member: &str, change: impl FnOnce(&mut JoinInput)) -> Ticket {
        let ticket = self.ticket();
        let mut join = JoinInput {
            ticket,
            member_id: member.to_owned(),
            new_member_id: format!("new-{}", ticket.0),
            instance_id: None,
            client_id: "client".to_owned(),
            client_host: "/127.0.0.1".to_owned(),
            rebalance_timeout_ms: REBALANCE_MS,
            session_timeout_ms: SESSION_MS,
            protocol_type: "consumer".to_owned(),
            protocols: vec![protocol("range", "t")],
            member_id_required: false,
            skip_assignment_supported: true,
        };
        change(&mut join);
        self.step(|group, step| group.join(join, step));
        ticket
    }

    fn sync(&mut self, member: &str, assignments: &[(&str, &'static str)]) -> Ticket {
        let ticket = self.ticket();
        let sync = SyncInput {
            ticket,
            member_id: member.to_owned(),
            instance_id: None,
            generation: self.group.generation(),
            protocol_type: None,
            protocol_name: None,
            assignments: assignments
                .iter()
                .map(|(id, a)| ((*id).to_owned(), Bytes::from_static(a.as_bytes())))
                .collect(),
        };
        self.step(|group, step| group.sync(sync, step));
        ticket
    }

    fn heartbeat(&mut self, member: &str, generation: i32) -> ErrorCode {
        self.step(|group, step| group.heartbeat(member, None, generation, step))
    }

    fn commit(&mut self, member: &str, generation: i32, topic: &str, offset: i64) -> Result<Vec<ErrorCode>, ErrorCode> {
        self.commit_with(member, generation, topic, offset, "", None)
    }

    fn commit_with(
        &mut self,
        member: &str,
        generation: i32,
        topic: &str,
        offset: i64,
        metadata: &str,
        retention_ms: Option<i64>,
    ) -> Result<Vec<ErrorCode>, ErrorCode> {
        let partition = CommitPartition {
            topic: topic.to_owned(),
            topic_id: Uuid::nil(),
            partition: 0,
            offset,
            leader_epoch: -1,
            metadata: metadata.to_owned(),
        };
        let commit = CommitInput {
            ticket: self.ticket(),
            member_id: member.to_owned(),
            instance_id: None,
            generation,
            retention_ms,
            partitions: vec![partition],
        };
        self.step(|group, step| group.commit(commit, step))
    }

    /// Lets time pass up to `at_ms`, with every deadline on the way at its time.
    fn until(&mut self, at_ms: i64) {
        while let Some(next) = self.group.next_deadline().filter(|next| *next <= at_ms) {
            self.now_ms = self.now_ms.max(next);
            self.step(|group, step| group.on_deadlines(step));
        }
        self.now_ms = at_ms;
    }

    /// Ends every write that is under way.
    fn write(&mut self, result: Result<(), ErrorCode>) {
        for write in std::mem::take(&mut self.writes) {
            self.step(|group, step| group.written(write, result, step));
        }
    }

    fn joined(&mut self, ticket: Ticket) -> Option<JoinGroupResponse> {
        let at = self.answers.iter().position(|(t, _)| *t == ticket)?;
        match self.answers.remove(at).1 {
            Answer::Join(response) => Some(response),
            other => panic!("{other:?}"),
        }
    }

    fn synced(&mut self, ticket: Ticket) -> Option<SyncGroupResponse> {
        let at = self.answers.iter().position(|(t, _)| *t == ticket)?;
        match self.answers.remove(at).1 {
            Answer::Sync(response) => Some(response),
            other => panic!("{other:?}"),
        }
    }

    fn join_code(&mut self, ticket: Ticket) -> Option<i16> {
        self.joined(ticket).map(|response| response.error_code)
    }

    /// A stable group of members `new-1` (the leader) and `new-2`, in generation 1.
    fn stable_pair() -> Self {
        let mut bench = Bench::new();
        let (a, b) = (bench.join("", |_| {}), bench.join("", |_| {}));
        bench.until(6000);
        assert!(bench.joined(a).is_some() && bench.joined(b).is_some());
        bench.sync("new-2", &[]);
        bench.sync("new-1", &[("new-1", "A"), ("new-2", "B")]);
        bench.write(Ok(()));
        assert_eq!((bench.group.state(), bench.group.generation()), (State::Stable, 1));
        bench.answers.clear();
        bench
    }
}

fn protocol(name: &str, topic: &str) -> Protocol {
    // Version 0 of the consumer's subscription: version, one topic, no user data.
    let mut metadata = vec![0, 0, 0, 0, 0, 1, 0, u8::try_from(topic.len()).unwrap()];
    metadata.extend_from_slice(topic.as_bytes());
    metadata.extend_from_slice(&[0xff; 4]);
    Protocol { name: name.to_owned(), metadata: Bytes::from(metadata) }
}

#[test]
fn a_new_member_comes_back_with_its_id_and_the_first_rebalance_waits_for_more() {
    let mut bench = Bench::new();
    let ticket = bench.join("", |join| join.member_id_required = true);
    let refused = bench.joined(ticket).unwrap();
    assert_eq!((refused.error_code, refused.member_id.as_str()), (ErrorCode::MemberIdRequired.code(), "new-1"));
    let first = bench.join("new-1", |_| {});
    bench.until(2999);
    let second = bench.join("", |_| {});
    bench.until(5999);
    assert_eq!((bench.joined(first), bench.joined(second)), (None, None), "the second member extends the delay");
    bench.until(6000);
    let (first, second) = (bench.joined(first).unwrap(), bench.joined(second).unwrap());
    assert_eq!((first.generation_id, first.leader.as_str(), first.members.len()), (1, "new-1", 2));
    assert_eq!((second.generation_id, second.leader.as_str(), second.members.len()), (1, "new-1", 0));
    assert_eq!(second.protocol_name.as_deref(), Some("range"));
    let waiting = bench.sync("new-3", &[]);
    assert_eq!(bench.synced(waiting), None);
    let leader = bench.sync("new-1", &[("new-3", "B")]);
    assert_eq!(bench.synced(leader), None, "the assignment is not durable yet");
    bench.write(Ok(()));
    assert_eq!(bench.synced(waiting).unwrap().assignment, "B");
    assert_eq!(bench.synced(leader).unwrap().assignment, "", "the leader left itself out");
}

#[test]
fn the_initial_delay_is_extended_up_to_the_rebalance_timeout() {
    let mut bench = Bench::new();
    let first = bench.join("", |join| join.rebalance_timeout_ms = 10_000);
    for at in [2000, 4000, 7000, 9500] {
        bench.until(at);
        assert_eq!(bench.joined(first), None);
        bench.join("", |join| join.rebalance_timeout_ms = 10_000);
    }
    bench.until(10_000);
    assert_eq!(bench.joined(first).unwrap().members.len(), 5);
}

#[test]
fn members_vote_for_a_protocol_that_everyone_knows() {
    let mut bench = Bench::new();
    let offers = |names: &'static [&'static str]| {
        move |join: &mut JoinInput| join.protocols = names.iter().map(|n| protocol(n, "t")).collect()
    };
    let first = bench.join("", offers(&["a", "b", "c"]));
    bench.join("", offers(&["c", "b"]));
    bench.join("", offers(&["b", "c"]));
    let stranger = bench.join("", offers(&["a", "x"]));
    assert_eq!(bench.join_code(stranger), Some(ErrorCode::InconsistentGroupProtocol.code()), "a is not everyone's");
    let worker = bench.join("", |join| join.protocol_type = "connect".to_owned());
    assert_eq!(bench.join_code(worker), Some(ErrorCode::InconsistentGroupProtocol.code()));
    bench.until(6000);
    assert_eq!(bench.joined(first).unwrap().protocol_name.as_deref(), Some("b"), "two votes against one");
}

#[test]
fn stale_members_are_told_apart() {
    let mut bench = Bench::stable_pair();
    assert_eq!(bench.heartbeat("new-1", 1), ErrorCode::None);
    assert_eq!(bench.heartbeat("new-1", 0), ErrorCode::IllegalGeneration);
    assert_eq!(bench.heartbeat("stranger", 1), ErrorCode::UnknownMemberId);
    let unknown = bench.join("stranger", |_| {});
    assert_eq!(bench.join_code(unknown), Some(ErrorCode::UnknownMemberId.code()));
    // A follower that joins again unchanged is told the generation; the leader starts a rebalance.
    let follower = bench.join("new-2", |_| {});
    assert_eq!(bench.joined(follower).unwrap().generation_id, 1);
    assert_eq!(bench.group.state(), State::Stable);
    let leader = bench.join("new-1", |_| {});
    assert_eq!(bench.joined(leader), None);
    assert_eq!(bench.heartbeat("new-2", 1), ErrorCode::RebalanceInProgress);
    let early = bench.sync("new-2", &[]);
    assert_eq!(bench.synced(early).unwrap().error_code, ErrorCode::RebalanceInProgress.code());
    let follower = bench.join("new-2", |_| {});
    assert_eq!(bench.joined(follower).unwrap().generation_id, 2);
    assert_eq!(bench.joined(leader).unwrap().members.len(), 2);
    assert_eq!(bench.commit("new-1", 2, "t", 5), Err(ErrorCode::RebalanceInProgress));
    assert_eq!(bench.commit("new-1", 1, "t", 5), Err(ErrorCode::IllegalGeneration));
}

#[test]
fn a_silent_member_is_out_and_a_late_one_too() {
    let mut bench = Bench::stable_pair();
    let start = bench.now_ms;
    bench.until(start + 9000);
    assert_eq!(bench.heartbeat("new-1", 1), ErrorCode::None);
    bench.until(start + 10_000);
    assert_eq!(bench.group.state(), State::PreparingRebalance, "new-2 sent no heartbeat for its session timeout");
    assert_eq!(bench.group.members().len(), 1);
    let third = bench.join("", |_| {});
    // new-1 keeps its session but does not join.
    let began = bench.now_ms;
    for at in (began..began + i64::from(REBALANCE_MS)).step_by(5000) {
        bench.until(at);
        assert_eq!(bench.heartbeat("new-1", 1), ErrorCode::RebalanceInProgress);
        assert_eq!(bench.joined(third), None);
    }
    bench.until(began + i64::from(REBALANCE_MS));
    let joined = bench.joined(third).unwrap();
    assert_eq!((joined.generation_id, joined.members.len()), (2, 1));
    assert_eq!(joined.leader, joined.member_id);
    // It never syncs: it is out after the rebalance timeout, unless its session ends it first.
    for at in (bench.now_ms..bench.now_ms + i64::from(REBALANCE_MS)).step_by(5000) {
        bench.until(at);
        assert_eq!(bench.heartbeat(&joined.member_id, 2), ErrorCode::None);
    }
    bench.until(bench.now_ms + 5000);
    assert_eq!((bench.group.state(), bench.group.generation()), (State::Empty, 3));
    assert!(matches!(bench.writes.last().unwrap().completion, Completion::Empty));
}

#[test]
fn an_assignment_that_is_not_durable_starts_over() {
    let mut bench = Bench::new();
    let first = bench.join("", |_| {});
    bench.until(3000);
    bench.joined(first).unwrap();
    let sync = bench.sync("new-1", &[("new-1", "A")]);
    bench.write(Err(ErrorCode::CoordinatorNotAvailable));
    let refused = bench.synced(sync).unwrap();
    assert_eq!((refused.error_code, refused.assignment.len()), (ErrorCode::CoordinatorNotAvailable.code(), 0));
    assert_eq!(bench.group.state(), State::PreparingRebalance);
    let again = bench.join("new-1", |_| {});
    assert_eq!(bench.joined(again).unwrap().generation_id, 2);
}

#[test]
fn a_member_that_joins_meanwhile_voids_the_assignment_that_is_being_written() {
    let mut bench = Bench::new();
    bench.join("", |_| {});
    bench.until(3000);
    let sync = bench.sync("new-1", &[("new-1", "A")]);
    bench.join("", |_| {});
    assert_eq!(bench.synced(sync).unwrap().error_code, ErrorCode::RebalanceInProgress.code());
    bench.write(Ok(()));
    assert_eq!(bench.group.state(), State::PreparingRebalance);
    assert!(bench.group.members().values().all(|m| m.assignment.is_empty()));
}

#[test]
fn a_static_member_comes_back_without_a_rebalance() {
    let mut bench = Bench::new();
    let own = |join: &mut JoinInput| join.instance_id = Some("i".to_owned());
    let first = bench.join("", own);
    bench.until(3000);
    bench.joined(first).unwrap();
    bench.sync("new-1", &[("new-1", "A")]);
    bench.write(Ok(()));
    let back = bench.join("", own);
    assert_eq!(bench.joined(back), None, "its new id is not durable yet");
    bench.write(Ok(()));
    let response = bench.joined(back).unwrap();
    assert_eq!((response.generation_id, response.error_code, response.skip_assignment), (1, 0, true));
    assert_eq!(response.members.len(), 1, "the leader gets the members even if it skips the assignment (KIP-814)");
    assert_eq!(response.leader, response.member_id);
    let sync = bench.sync(&response.member_id, &[]);
    assert_eq!(bench.synced(sync).unwrap().assignment, "A");
    // The old process is still there.
    let fenced = bench.step(|group, step| group.heartbeat("new-1", Some("i"), 1, step));
    assert_eq!(fenced, ErrorCode::FencedInstanceId);
    let fenced = bench.step(|group, step| group.leave(&[("new-1".to_owned(), Some("i".to_owned()))], step));
    assert_eq!(fenced, Ok(vec![ErrorCode::FencedInstanceId]));

    // A version that cannot skip is told the old leader, so that it does not assign.
    let old_version = bench.join("", |join| {
        own(join);
        join.skip_assignment_supported = false;
    });
    bench.write(Ok(()));
    let told = bench.joined(old_version).unwrap();
    assert_eq!((told.leader.as_str(), told.skip_assignment), (response.member_id.as_str(), false));

    // If the new id cannot be made durable, the old one stays.
    let failing = bench.join("", own);
    bench.write(Err(ErrorCode::NotCoordinator));
    assert_eq!(bench.join_code(failing), Some(ErrorCode::NotCoordinator.code()));
    assert_eq!(bench.group.members().keys().collect::<Vec<_>>(), [&told.member_id]);
    assert_eq!(bench.heartbeat(&told.member_id, 1), ErrorCode::None);

    // An operator removes it by its instance id.
    let left = bench.step(|group, step| group.leave(&[(String::new(), Some("i".to_owned()))], step));
    assert_eq!((left, bench.group.state()), (Ok(vec![ErrorCode::None]), State::Empty));
    let unknown = bench.step(|group, step| group.leave(&[(String::new(), Some("i".to_owned()))], step));
    assert_eq!(unknown, Ok(vec![ErrorCode::UnknownMemberId]));
}

#[test]
fn a_static_member_outlives_the_join_phase_until_its_session_ends() {
    let mut bench = Bench::new();
    bench.join("", |join| {
        join.instance_id = Some("i".to_owned());
        join.session_timeout_ms = 200_000;
    });
    bench.join("", |_| {});
    bench.until(6000);
    bench.sync("new-2", &[]);
    bench.sync("new-1", &[]);
    bench.write(Ok(()));
    bench.answers.clear();
    // The other one joins with other topics: a rebalance in which the static member is away.
    let changed = bench.join("new-2", |join| join.protocols = vec![protocol("range", "u")]);
    bench.until(6000 + i64::from(REBALANCE_MS));
    let response = bench.joined(changed).unwrap();
    assert_eq!(response.members.len(), 2, "the absent static member is assigned to");
    assert_eq!(response.leader, "new-2", "the leader is one that is here");
}

#[test]
fn a_full_group_turns_members_away() {
    let mut bench = Bench::stable_pair();
    bench.settings.max_size = 2;
    let third = bench.join("", |_| {});
    assert_eq!(bench.join_code(third), Some(ErrorCode::GroupMaxSizeReached.code()));
    bench.settings.max_size = 1;
    bench.step(|group, step| group.shrink(step));
    let first = bench.join("new-2", |_| {});
    let last = bench.join("new-1", |_| {});
    assert_eq!(bench.join_code(last), Some(ErrorCode::GroupMaxSizeReached.code()));
    assert_eq!(bench.joined(first).unwrap().members.len(), 1);
}

#[test]
fn a_repeated_request_answers_the_one_that_it_replaces() {
    let mut bench = Bench::new();
    bench.join("", |_| {});
    let again = bench.join("new-1", |_| {});
    assert_eq!(bench.join_code(Ticket(1)), Some(ErrorCode::RebalanceInProgress.code()));
    bench.join("", |_| {});
    bench.until(6000);
    assert_eq!(bench.join_code(again), Some(0));
    let first = bench.sync("new-3", &[]);
    bench.sync("new-3", &[]);
    assert_eq!(bench.synced(first).unwrap().error_code, ErrorCode::RebalanceInProgress.code());
}

#[test]
fn offsets_are_taken_from_the_current_generation_or_from_outside_of_an_empty_group() {
    let mut bench = Bench::new();
    assert_eq!(bench.commit("", -1, "t", 7), Ok(vec![ErrorCode::None]));
    assert!(bench.group.offsets().committed().is_empty(), "not durable yet");
    bench.write(Ok(()));
    assert_eq!(bench.group.offsets().committed()["t"][&0].offset, 7);
    assert_eq!(bench.commit_with("", -1, "t", 8, "12345678901", None), Ok(vec![ErrorCode::OffsetMetadataTooLarge]));
    assert_eq!(bench.commit("someone", 1, "t", 8), Err(ErrorCode::UnknownMemberId));

    let mut bench = Bench::stable_pair();
    assert_eq!(bench.commit("", -1, "t", 9), Err(ErrorCode::UnknownMemberId), "the group has members");
    assert_eq!(bench.commit("new-1", 0, "t", 9), Err(ErrorCode::IllegalGeneration));
    assert_eq!(bench.commit("new-1", 1, "t", 9), Ok(vec![ErrorCode::None]));
    bench.write(Err(ErrorCode::CoordinatorNotAvailable));
    assert!(bench.group.offsets().committed().is_empty());
    assert!(bench.answers.iter().any(|(_, a)| *a == Answer::Done(ErrorCode::CoordinatorNotAvailable)));
    // While others join, a member may still say how far it came.
    bench.join("", |_| {});
    assert_eq!(bench.commit("new-1", 1, "t", 10), Ok(vec![ErrorCode::None]));
}

#[test]
fn offsets_expire_as_in_kafka() {
    let retention = settings().offsets_retention_ms;
    // Stored from outside: each from its own commit on.
    let mut simple = Bench::new();
    simple.commit("", -1, "t", 1).unwrap();
    simple.commit_with("", -1, "u", 1, "", Some(50)).unwrap();
    simple.write(Ok(()));
    simple.now_ms = 50;
    simple.step(|group, step| group.expire(step));
    simple.write(Ok(()));
    assert_eq!(simple.group.offsets().committed().keys().collect::<Vec<_>>(), ["t"], "u had a retention of its own");
    simple.now_ms = retention;
    simple.step(|group, step| group.expire(step));
    assert_eq!(simple.group.state(), State::Dead);
    let late = simple.join("", |_| {});
    assert_eq!(simple.join_code(late), Some(ErrorCode::CoordinatorNotAvailable.code()));
    simple.write(Ok(()));
    assert!(simple.group.is_vacant());

    // Of a group with members: topics that nobody subscribes to, from the commit on.
    let mut group = Bench::stable_pair();
    group.commit("new-1", 1, "t", 1).unwrap();
    group.commit("new-1", 1, "other", 1).unwrap();
    group.write(Ok(()));
    let committed_at = group.now_ms;
    group.now_ms = committed_at + retention;
    group.step(|group, step| group.expire(step));
    group.write(Ok(()));
    assert_eq!(group.group.offsets().committed().keys().collect::<Vec<_>>(), ["t"]);
    // Then the members leave: from then on.
    group.step(|group, step| group.leave(&[("new-1".to_owned(), None), ("new-2".to_owned(), None)], step)).unwrap();
    group.write(Ok(()));
    let empty_since = group.now_ms;
    group.now_ms = empty_since + retention - 1;
    group.step(|group, step| group.expire(step));
    assert!(group.writes.is_empty());
    group.now_ms += 1;
    group.step(|group, step| group.expire(step));
    assert!(matches!(group.writes[0].completion, Completion::DeleteGroup));
    assert_eq!(group.writes[0].records.len(), 2, "the offset and the group");
}

#[test]
fn only_empty_groups_are_deleted_with_what_is_being_committed() {
    let mut bench = Bench::stable_pair();
    assert_eq!(bench.step(|group, step| group.delete(None, step)), Err(ErrorCode::NonEmptyGroup));
    let partitions = [("t".to_owned(), 0), ("x".to_owned(), 0)];
    let subscribed = bench.step(|group, step| group.delete_offsets(&partitions, Ticket(99), step));
    assert_eq!(subscribed, Ok(vec![ErrorCode::GroupSubscribedToTopic, ErrorCode::None]));
    bench.step(|group, step| group.leave(&[("new-1".to_owned(), None), ("new-2".to_owned(), None)], step)).unwrap();
    bench.write(Ok(()));
    bench.commit("", -1, "t", 1).unwrap();
    bench.step(|group, step| group.delete(Some(Ticket(100)), step)).unwrap();
    let delete = bench.writes.last().unwrap();
    let keys: Vec<_> = delete.records.iter().map(|r| read(Some(r.key.clone()), r.value.clone()).unwrap()).collect();
    assert!(matches!(&keys[0], Entry::Offset { topic, value: None, .. } if topic == "t"));
    assert!(matches!(&keys[1], Entry::Group { value: None, .. }));
    bench.write(Ok(()));
    assert!(bench.group.is_vacant());

    // Not durable: the group is still there.
    let mut bench = Bench::new();
    bench.commit("", -1, "t", 1).unwrap();
    bench.write(Ok(()));
    bench.step(|group, step| group.delete(Some(Ticket(100)), step)).unwrap();
    bench.write(Err(ErrorCode::NotCoordinator));
    assert_eq!((bench.group.state(), bench.group.offsets().committed().len()), (State::Empty, 1));
    bench.step(|group, step| group.topics_deleted(&BTreeSet::from(["t".to_owned()]), step));
    bench.write(Ok(()));
    assert!(bench.group.offsets().is_empty());
}

#[test]
fn a_group_comes_back_from_its_record() {
    let mut bench = Bench::stable_pair();
    bench.join("new-1", |_| {});
    bench.join("new-2", |_| {});
    bench.sync("new-1", &[("new-1", "A"), ("new-2", "B")]);
    let record = bench.writes.pop().unwrap().records.remove(0);
    let Entry::Group { value: Some(value), .. } = read(Some(record.key), record.value).unwrap() else { panic!() };
    let mut restored = Bench::new();
    restored.group = Group::restore("g", value, 0);
    assert_eq!((restored.group.state(), restored.group.generation()), (State::Stable, 2));
    let sync = restored.sync("new-2", &[]);
    assert_eq!(restored.synced(sync).unwrap().assignment, "B");
    assert_eq!(restored.heartbeat("new-1", 2), ErrorCode::None);
    assert_eq!(restored.commit("new-1", 2, "t", 1), Ok(vec![ErrorCode::None]));
    restored.write(Ok(()));
    restored.until(i64::from(SESSION_MS));
    assert_eq!(restored.group.members().len(), 0, "nobody sent a heartbeat since");
}
