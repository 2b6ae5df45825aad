//! FindCoordinator, the group protocol, committed offsets, and their administration.

use crate::line::Line;
use bytes::Bytes;
use strandline_protocol::messages::delete_groups_request::DeleteGroupsRequest;
use strandline_protocol::messages::describe_groups_request::DescribeGroupsRequest;
use strandline_protocol::messages::find_coordinator_request::FindCoordinatorRequest;
use strandline_protocol::messages::heartbeat_request::HeartbeatRequest;
use strandline_protocol::messages::join_group_request::{JoinGroupRequest, JoinGroupRequestProtocol};
use strandline_protocol::messages::join_group_response::JoinGroupResponse;
use strandline_protocol::messages::leave_group_request::{LeaveGroupRequest, MemberIdentity};
use strandline_protocol::messages::list_groups_request::ListGroupsRequest;
use strandline_protocol::messages::offset_commit_request::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use strandline_protocol::messages::offset_delete_request::{
    OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use strandline_protocol::messages::offset_fetch_request::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use strandline_protocol::messages::offset_fetch_response::OffsetFetchResponse;
use strandline_protocol::messages::sync_group_request::{SyncGroupRequest, SyncGroupRequestAssignment};
use strandline_tests::wait;
use uuid::Uuid;

use crate::pair::{Pair, Side};
use crate::table::Table;

/// First version of OffsetCommit and OffsetFetch with topic ids.
const BY_ID: i16 = 10;

/// Makes the coordinators ready: the first request makes `__consumer_offsets`.
fn ready(pair: &Pair) {
    for side in pair.sides() {
        wait::until("a coordinator is there", std::time::Duration::from_secs(60), || {
            let mut connection = side.connection();
            let find = FindCoordinatorRequest { coordinator_keys: vec!["parity".to_owned()], ..Default::default() };
            let found = connection.call(4, &find).ok()?;
            let described =
                connection.call(5, &describe(&["parity", "parity-1", "parity-2", "parity-3", "groups-a"])).ok()?;
            let loaded = described.groups.iter().all(|g| g.error_code == 0);
            (found.coordinators[0].error_code == 0 && loaded).then_some(())
        });
    }
}

pub fn describe(groups: &[&str]) -> DescribeGroupsRequest {
    DescribeGroupsRequest { groups: groups.iter().map(|g| (*g).to_owned()).collect(), ..Default::default() }
}

pub fn find(version: i16, key: &str, key_type: i8) -> FindCoordinatorRequest {
    if version >= 4 {
        FindCoordinatorRequest { key_type, coordinator_keys: vec![key.to_owned()], ..Default::default() }
    } else {
        FindCoordinatorRequest { key: key.to_owned(), key_type, ..Default::default() }
    }
}

#[test]
fn find_coordinator() {
    let mut table = Table::new();
    ready(table.pair);
    table.all("of a group", |_, v| find(v, "g", 0));
    table.all("of an empty group", |_, v| find(v, "", 0));
    for key_type in [2, 3, 9, -1] {
        table.some(&format!("the key type {key_type}"), 1..=6, |_, v| find(v, "g", key_type));
    }
    table.some("of two groups", 4..=6, |_, _| FindCoordinatorRequest {
        coordinator_keys: vec!["b".to_owned(), "a".to_owned()],
        ..Default::default()
    });
    table.some("of a group twice", 4..=6, |_, _| FindCoordinatorRequest {
        coordinator_keys: vec!["a".to_owned(), "a".to_owned()],
        ..Default::default()
    });
    table.some("of no groups", 4..=6, |_, _| FindCoordinatorRequest::default());
    table.finish();
}

fn protocol(name: &str) -> JoinGroupRequestProtocol {
    JoinGroupRequestProtocol { name: name.to_owned(), metadata: Bytes::from_static(b"meta") }
}

pub fn join(version: i16, group: &str, member: &str) -> JoinGroupRequest {
    JoinGroupRequest {
        group_id: group.to_owned(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: if version >= 1 { 10_000 } else { -1 },
        member_id: member.to_owned(),
        protocol_type: "consumer".to_owned(),
        protocols: vec![protocol("range")],
        ..Default::default()
    }
}

pub fn sync(version: i16, group: &str, generation: i32, member: &str) -> SyncGroupRequest {
    SyncGroupRequest {
        group_id: group.to_owned(),
        generation_id: generation,
        member_id: member.to_owned(),
        protocol_type: (version >= 5).then(|| "consumer".to_owned()),
        protocol_name: (version >= 5).then(|| "range".to_owned()),
        ..Default::default()
    }
}

pub fn heartbeat(group: &str, generation: i32, member: &str) -> HeartbeatRequest {
    HeartbeatRequest {
        group_id: group.to_owned(),
        generation_id: generation,
        member_id: member.to_owned(),
        group_instance_id: None,
    }
}

pub fn leave(version: i16, group: &str, member: &str) -> LeaveGroupRequest {
    let mut request = LeaveGroupRequest { group_id: group.to_owned(), ..Default::default() };
    if version >= 3 {
        request.members.push(MemberIdentity { member_id: member.to_owned(), ..Default::default() });
    } else {
        request.member_id = member.to_owned();
    }
    request
}

pub fn deletion(groups: &[&str]) -> DeleteGroupsRequest {
    DeleteGroupsRequest { groups_names: groups.iter().map(|g| (*g).to_owned()).collect() }
}

#[test]
fn groups_that_are_not() {
    let mut table = Table::new();
    ready(table.pair);
    table.all("an empty group", |_, v| join(v, "", ""));
    table.all("a session too short", |_, v| JoinGroupRequest { session_timeout_ms: 5, ..join(v, "none-a", "") });
    table.all("a session too long", |_, v| JoinGroupRequest { session_timeout_ms: i32::MAX, ..join(v, "none-a", "") });
    table.all("an unknown member", |_, v| join(v, "none-a", "nobody"));
    table.all("no protocols", |_, v| JoinGroupRequest { protocols: Vec::new(), ..join(v, "none-b", "") });
    table.all("no protocol type", |_, v| JoinGroupRequest { protocol_type: String::new(), ..join(v, "none-c", "") });
    for instance in ["", ".", "a b"] {
        table.some(&format!("the instance '{instance}'"), 5..=9, |_, v| JoinGroupRequest {
            group_instance_id: Some(instance.to_owned()),
            ..join(v, &format!("none-d-{instance}"), "")
        });
    }
    table.some("an unknown member of an instance", 5..=9, |_, v| JoinGroupRequest {
        group_instance_id: Some("i".to_owned()),
        ..join(v, "none-e", "nobody")
    });
    table.all("of an unknown group", |_, v| sync(v, "none-f", 1, "nobody"));
    table.all("of an empty group", |_, v| sync(v, "", 1, "nobody"));
    table.some("without protocol type", 5..=5, |_, v| SyncGroupRequest {
        protocol_type: None,
        ..sync(v, "none-f", 1, "nobody")
    });
    table.some("without protocol name", 5..=5, |_, v| SyncGroupRequest {
        protocol_name: None,
        ..sync(v, "none-f", 1, "nobody")
    });
    table.all("of an unknown group", |_, _| heartbeat("none-g", 1, "nobody"));
    table.all("of an empty group", |_, _| heartbeat("", 1, "nobody"));
    table.all("from an unknown group", |_, v| leave(v, "none-h", "nobody"));
    table.all("from an empty group", |_, v| leave(v, "", "nobody"));
    table.some("of nobody", 3..=5, |_, _| LeaveGroupRequest { group_id: "none-h".to_owned(), ..Default::default() });
    table.some("of an unknown instance", 3..=5, |_, v| {
        let mut request = leave(v, "none-h", "");
        request.members[0].group_instance_id = Some("i".to_owned());
        request
    });
    table.all("of unknown groups", |_, _| describe(&["none-i", "none-j"]));
    table.all("of no groups", |_, _| describe(&[]));
    table.all("of a group twice", |_, _| describe(&["none-i", "none-i"]));
    table.some("with operations", 3..=6, |_, _| DescribeGroupsRequest {
        include_authorized_operations: true,
        ..describe(&["none-i"])
    });
    let sorted = |answer: &mut strandline_protocol::messages::delete_groups_response::DeleteGroupsResponse| {
        answer.results.sort_by(|a, b| a.group_id.cmp(&b.group_id));
    };
    table.with("unknown ones", 0..=2, |_, _| deletion(&["none-k", "none-l"]), sorted);
    table.with("an unknown one twice", 0..=2, |_, _| deletion(&["none-k", "none-k"]), sorted);
    table.with("none", 0..=2, |_, _| deletion(&[]), sorted);
    table.finish();
}

fn told<T: std::fmt::Debug>(answer: &T, members: &[&str]) -> String {
    let mut text = format!("{answer:#?}");
    for (number, member) in members.iter().enumerate().filter(|(_, m)| !m.is_empty()) {
        text = text.replace(member, &format!("<member {number}>"));
    }
    text
}

/// Joins as the only member, taking the id that the broker gives.
fn enter(
    connection: &mut Line,
    version: i16,
    group: &str,
    text: &mut Vec<String>,
) -> Result<JoinGroupResponse, String> {
    let call = |connection: &mut Line, request: &JoinGroupRequest| connection.call(version, request);
    let mut answer = call(connection, &join(version, group, ""))?;
    text.push(told(&answer, &[&answer.member_id]));
    if answer.error_code == 79 {
        answer = call(connection, &join(version, group, &answer.member_id))?;
        text.push(told(&answer, &[&answer.member_id]));
    }
    Ok(answer)
}

/// The life of one member, in each version of JoinGroup with the versions of the others that came with it.
#[test]
fn the_life_of_a_member() {
    let mut table = Table::new();
    ready(table.pair);
    for version in 0..=9 {
        table.effect("JoinGroup: a member's life", version, |_, connection| {
            let group = format!("life-{version}");
            let mut text = Vec::new();
            let entered = enter(connection, version, &group, &mut text)?;
            let member = entered.member_id.clone();
            let generation = entered.generation_id;
            let (sync_v, beat_v, leave_v) = (version.min(5), version.min(4), version.min(5));
            let mut say = |what: &str, answer: String| text.push(format!("{what}: {answer}"));
            let synced = |connection: &mut Line, request: SyncGroupRequest| {
                connection.call(sync_v, &request).map(|a| told(&a, &[&member]))
            };
            let beat = |connection: &mut Line, generation: i32, member: &str| {
                connection.call(beat_v, &heartbeat(&group, generation, member)).map(|a| told(&a, &[]))
            };
            let described = |connection: &mut Line| {
                connection.call(version.min(6), &describe(&[&group])).map(|a| told(&a, &[&member]))
            };
            say("described before its assignment", described(connection)?);
            say("an old generation syncs", synced(connection, sync(sync_v, &group, generation - 1, &member))?);
            say("a stranger syncs", synced(connection, sync(sync_v, &group, generation, "nobody"))?);
            if sync_v >= 5 {
                let wrong = SyncGroupRequest {
                    protocol_type: Some("connect".to_owned()),
                    ..sync(sync_v, &group, generation, &member)
                };
                say("another protocol type syncs", synced(connection, wrong)?);
                let wrong = SyncGroupRequest {
                    protocol_name: Some("sticky".to_owned()),
                    ..sync(sync_v, &group, generation, &member)
                };
                say("another protocol syncs", synced(connection, wrong)?);
            }
            let assignment =
                SyncGroupRequestAssignment { member_id: member.clone(), assignment: Bytes::from_static(b"yours") };
            say(
                "it syncs",
                synced(
                    connection,
                    SyncGroupRequest { assignments: vec![assignment], ..sync(sync_v, &group, generation, &member) },
                )?,
            );
            say("it syncs again", synced(connection, sync(sync_v, &group, generation, &member))?);
            say("it beats", beat(connection, generation, &member)?);
            say("an old generation beats", beat(connection, generation - 1, &member)?);
            say("a generation to come beats", beat(connection, generation + 1, &member)?);
            say("a stranger beats", beat(connection, generation, "nobody")?);
            say("described", described(connection)?);
            let stranger = JoinGroupRequest { protocols: vec![protocol("other")], ..join(version, &group, "") };
            let answer = connection.call(version, &stranger)?;
            say("one of another protocol", told(&answer, &[&answer.member_id]));
            let stranger = JoinGroupRequest { protocol_type: "connect".to_owned(), ..join(version, &group, "") };
            let answer = connection.call(version, &stranger)?;
            say("one of another protocol type", told(&answer, &[&answer.member_id]));
            let delete = DeleteGroupsRequest { groups_names: vec![group.clone()] };
            say("it is deleted while in use", told(&connection.call(2, &delete)?, &[]));
            let answer = connection.call(leave_v, &leave(leave_v, &group, "nobody"))?;
            say("a stranger leaves", told(&answer, &[]));
            let answer = connection.call(leave_v, &leave(leave_v, &group, &member))?;
            say("it leaves", told(&answer, &[&member]));
            say("it beats afterwards", beat(connection, generation, &member)?);
            say("described afterwards", described(connection)?);
            say("it is deleted", told(&connection.call(2, &delete)?, &[]));
            say("described at last", described(connection)?);
            Ok(text.join("\n"))
        });
    }
    table.finish();
}

pub fn list(states: &[&str], types: &[&str]) -> ListGroupsRequest {
    ListGroupsRequest {
        states_filter: states.iter().map(|s| (*s).to_owned()).collect(),
        types_filter: types.iter().map(|s| (*s).to_owned()).collect(),
    }
}

#[test]
fn list_groups() {
    let mut table = Table::new();
    ready(table.pair);
    for side in table.pair.sides() {
        let mut connection = Line::open(side.address);
        enter(&mut connection, 9, "listed-a", &mut Vec::new()).expect("it joins");
        let answer = connection.call(7, &commit(side, 7, "listed-b", -1, "", &[("listed", 0, 1)])).expect("an answer");
        assert_eq!(answer.topics[0].partitions[0].error_code, 3, "no such topic");
    }
    let sorted = |answer: &mut strandline_protocol::messages::list_groups_response::ListGroupsResponse| {
        answer.groups.retain(|g| g.group_id.starts_with("listed-"));
        answer.groups.sort_by(|a, b| a.group_id.cmp(&b.group_id));
    };
    table.with("all", 0..=5, |_, _| list(&[], &[]), sorted);
    for states in [
        &["CompletingRebalance"][..],
        &["completingrebalance"],
        &["Stable"],
        &["Empty", "CompletingRebalance"],
        &["Nonsense"],
        &[""],
    ] {
        table.with(&format!("in the states {states:?}"), 4..=5, |_, _| list(states, &[]), sorted);
    }
    for types in [&["classic"][..], &["Classic"], &["consumer"], &["nonsense"], &["consumer", "classic"], &[""]] {
        table.with(&format!("of the types {types:?}"), 5..=5, |_, _| list(&[], types), sorted);
    }
    table.finish();
}

pub fn commit(
    side: &Side,
    version: i16,
    group: &str,
    generation: i32,
    member: &str,
    offsets: &[(&str, i32, i64)],
) -> OffsetCommitRequest {
    let topics = offsets.iter().map(|(topic, partition, offset)| {
        let committed = OffsetCommitRequestPartition {
            partition_index: *partition,
            committed_offset: *offset,
            committed_leader_epoch: if version >= 6 { 0 } else { -1 },
            committed_metadata: Some("note".to_owned()),
        };
        let mut asked = OffsetCommitRequestTopic { partitions: vec![committed], ..Default::default() };
        if version >= BY_ID {
            asked.topic_id = side.id(topic)
        } else {
            asked.name = (*topic).to_owned()
        }
        asked
    });
    OffsetCommitRequest {
        group_id: group.to_owned(),
        generation_id_or_member_epoch: generation,
        member_id: member.to_owned(),
        retention_time_ms: -1,
        topics: topics.collect(),
        ..Default::default()
    }
}

pub fn fetch(side: &Side, version: i16, group: &str, topics: Option<&[(&str, &[i32])]>) -> OffsetFetchRequest {
    if version >= 8 {
        let topics = topics.map(|all| {
            all.iter()
                .map(|(topic, partitions)| {
                    let mut asked =
                        OffsetFetchRequestTopics { partition_indexes: partitions.to_vec(), ..Default::default() };
                    if version >= BY_ID {
                        asked.topic_id = side.id(topic)
                    } else {
                        asked.name = (*topic).to_owned()
                    }
                    asked
                })
                .collect()
        });
        let group = OffsetFetchRequestGroup { group_id: group.to_owned(), topics, ..Default::default() };
        return OffsetFetchRequest { groups: vec![group], ..Default::default() };
    }
    let topics = topics.map(|all| {
        all.iter()
            .map(|(topic, partitions)| OffsetFetchRequestTopic {
                name: (*topic).to_owned(),
                partition_indexes: partitions.to_vec(),
            })
            .collect()
    });
    OffsetFetchRequest { group_id: group.to_owned(), topics, ..Default::default() }
}

fn in_order(answer: &mut OffsetFetchResponse) {
    answer.topics.sort_by(|a, b| a.name.cmp(&b.name));
    answer.topics.iter_mut().for_each(|t| t.partitions.sort_by_key(|p| p.partition_index));
    answer.groups.sort_by(|a, b| a.group_id.cmp(&b.group_id));
    for group in &mut answer.groups {
        group.topics.sort_by(|a, b| a.name.cmp(&b.name));
        group.topics.iter_mut().for_each(|t| t.partitions.sort_by_key(|p| p.partition_index));
    }
}

#[test]
fn committed_offsets() {
    let mut table = Table::new();
    ready(table.pair);
    table.pair.topic("groups-a", 3, &[]);
    table.all("by a simple consumer", |side, v| {
        commit(side, v, "groups-a", -1, "", &[("groups-a", 0, 5), ("groups-a", 1, 0)])
    });
    table.all("of an unknown partition", |side, v| commit(side, v, "groups-a", -1, "", &[("groups-a", 9, 5)]));
    table.all("of a negative partition", |side, v| commit(side, v, "groups-a", -1, "", &[("groups-a", -1, 5)]));
    table.all("of a negative offset", |side, v| commit(side, v, "groups-a", -1, "", &[("groups-a", 2, -7)]));
    table.some("of an unknown topic", 2..=9, |side, v| {
        commit(side, v, "groups-a", -1, "", &[("groups-none", 0, 5), ("groups-a", 0, 6)])
    });
    table.some("of an unknown topic id", 10..=10, |side, v| {
        let mut request = commit(side, v, "groups-a", -1, "", &[("groups-a", 0, 5), ("groups-a", 1, 7)]);
        request.topics[0].topic_id = Uuid::from_u128(4);
        request
    });
    table.all("of an empty group", |side, v| commit(side, v, "", -1, "", &[("groups-a", 0, 5)]));
    table.all("of nothing", |side, v| commit(side, v, "groups-a", -1, "", &[]));
    table.all("by a member of an unknown group", |side, v| {
        commit(side, v, "groups-none", 3, "nobody", &[("groups-a", 0, 5)])
    });
    table.all("by an unknown member", |side, v| commit(side, v, "groups-a", 3, "nobody", &[("groups-a", 0, 5)]));
    table.all("by an unknown member without generation", |side, v| {
        commit(side, v, "groups-a", -1, "nobody", &[("groups-a", 0, 5)])
    });
    table.all("with a long note", |side, v| {
        let mut request = commit(side, v, "groups-a", -1, "", &[("groups-a", 0, 5)]);
        request.topics[0].partitions[0].committed_metadata = Some("x".repeat(5000));
        request
    });
    table.all("with a null note", |side, v| {
        let mut request = commit(side, v, "groups-a", -1, "", &[("groups-a", 2, 5)]);
        request.topics[0].partitions[0].committed_metadata = None;
        request
    });
    table.some("by an instance", 7..=10, |side, v| OffsetCommitRequest {
        group_instance_id: Some("i".to_owned()),
        ..commit(side, v, "groups-a", 1, "nobody", &[("groups-a", 0, 5)])
    });
    let some: &[(&str, &[i32])] = &[("groups-a", &[0, 1, 2, 9, -1])];
    table.with("some", 1..=10, |side, v| fetch(side, v, "groups-a", Some(some)), in_order);
    table.with("all", 2..=10, |side, v| fetch(side, v, "groups-a", None), in_order);
    table.with("none", 1..=10, |side, v| fetch(side, v, "groups-a", Some(&[])), in_order);
    table.with("no partitions", 1..=10, |side, v| fetch(side, v, "groups-a", Some(&[("groups-a", &[])])), in_order);
    table.with(
        "of an unknown topic",
        1..=9,
        |side, v| fetch(side, v, "groups-a", Some(&[("groups-none", &[0])])),
        in_order,
    );
    table.with("of an unknown group", 1..=10, |side, v| fetch(side, v, "groups-none", Some(some)), in_order);
    table.with("all of an unknown group", 2..=10, |side, v| fetch(side, v, "groups-none", None), in_order);
    table.with("of an empty group", 1..=10, |side, v| fetch(side, v, "", Some(some)), in_order);
    table.with(
        "stable ones",
        7..=10,
        |side, v| OffsetFetchRequest { require_stable: true, ..fetch(side, v, "groups-a", Some(some)) },
        in_order,
    );
    table.with(
        "of two groups",
        8..=10,
        |side, v| {
            let mut request = fetch(side, v, "groups-a", Some(some));
            request.groups.extend(fetch(side, v, "groups-none", None).groups);
            request
        },
        in_order,
    );
    table.with("of no groups", 8..=10, |_, _| OffsetFetchRequest::default(), in_order);
    table.with(
        "of an unknown topic id",
        10..=10,
        |side, v| {
            let mut request = fetch(side, v, "groups-a", Some(some));
            request.groups[0].topics.as_mut().expect("topics")[0].topic_id = Uuid::from_u128(4);
            request
        },
        in_order,
    );
    table.with(
        "by an unknown member",
        9..=10,
        |side, v| {
            let mut request = fetch(side, v, "groups-a", Some(some));
            (request.groups[0].member_id, request.groups[0].member_epoch) = (Some("nobody".to_owned()), 3);
            request
        },
        in_order,
    );
    table.all("of a group with offsets", |_, _| describe(&["groups-a"]));
    table.all("of the group without a name", |_, _| describe(&[""]));
    offset_delete(&mut table);
    table.finish();
}

pub fn offset_deletion(group: &str, topics: &[(&str, &[i32])]) -> OffsetDeleteRequest {
    let topic = |(name, partitions): &(&str, &[i32])| OffsetDeleteRequestTopic {
        name: (*name).to_owned(),
        partitions: partitions.iter().map(|p| OffsetDeleteRequestPartition { partition_index: *p }).collect(),
    };
    OffsetDeleteRequest { group_id: group.to_owned(), topics: topics.iter().map(topic).collect() }
}

fn offset_delete(table: &mut Table) {
    table.all("of an unknown group", |_, _| offset_deletion("groups-none", &[("groups-a", &[0])]));
    table.all("of an empty group", |_, _| offset_deletion("", &[("groups-a", &[0])]));
    table.all("of an unknown topic", |_, _| offset_deletion("groups-a", &[("groups-none", &[0])]));
    table.all("of unknown partitions", |_, _| offset_deletion("groups-a", &[("groups-a", &[9, -1])]));
    table.all("of nothing", |_, _| offset_deletion("groups-a", &[]));
    table.all("of one", |_, _| offset_deletion("groups-a", &[("groups-a", &[1])]));
    table.all("of one that is gone", |_, _| offset_deletion("groups-a", &[("groups-a", &[1])]));
    table.with("what is left", 9..=9, |side, v| fetch(side, v, "groups-a", None), in_order);
    let whole = DeleteGroupsRequest { groups_names: vec!["groups-a".to_owned()] };
    table.some("one with offsets", 2..=2, |_, _| whole.clone());
    table.some("one that was deleted", 2..=2, |_, _| whole.clone());
}
