//! Fetch, with and without sessions.

use crate::line::Line;
use strandline_protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic, ForgottenTopic};
use strandline_protocol::messages::fetch_response::FetchResponse;
use uuid::Uuid;

use crate::pair::{BEGIN_MS, Side, batch_at};
use crate::table::Table;

/// First version that names topics by id.
const BY_ID: i16 = 13;

fn at(partition: i32, offset: i64) -> FetchPartition {
    FetchPartition {
        partition,
        current_leader_epoch: -1,
        fetch_offset: offset,
        last_fetched_epoch: -1,
        log_start_offset: -1,
        partition_max_bytes: 1 << 20,
        ..Default::default()
    }
}

fn of(side: &Side, version: i16, topic: &str, partitions: Vec<FetchPartition>) -> FetchTopic {
    let mut asked = FetchTopic { partitions, ..Default::default() };
    if version >= BY_ID {
        asked.topic_id = side.id(topic)
    } else {
        asked.topic = topic.to_owned()
    }
    asked
}

fn fetch(topics: Vec<FetchTopic>) -> FetchRequest {
    FetchRequest { max_wait_ms: 100, min_bytes: 1, max_bytes: 1 << 20, topics, ..Default::default() }
}

fn one(side: &Side, version: i16, partition: FetchPartition) -> FetchRequest {
    fetch(vec![of(side, version, "fetch-a", vec![partition])])
}

pub fn request(side: &Side, version: i16, topic: &str) -> FetchRequest {
    fetch(vec![of(side, version, topic, vec![at(0, 0)])])
}

/// Kafka answers topics in an order of its own, and says where the leader is.
fn in_order(answer: &mut FetchResponse) {
    answer.node_endpoints.clear();
    answer.responses.sort_by_key(|t| t.partitions.first().map(|p| p.error_code));
}

#[test]
fn fetch_partitions() {
    let mut table = Table::new();
    table.pair.topic("fetch-a", 2, &[]);
    let batches = [batch_at(BEGIN_MS, 3), batch_at(BEGIN_MS, 1), batch_at(BEGIN_MS, 6)];
    table.pair.produce("fetch-a", 0, &batches);
    for offset in [0, 1, 2, 3, 4, 9] {
        table.all(&format!("from {offset}"), |side, v| one(side, v, at(0, offset)));
    }
    for offset in [10, 11, 1000, -1, -2, i64::MAX] {
        table.all(&format!("from {offset}, where nothing is"), |side, v| one(side, v, at(0, offset)));
    }
    table.all("an empty partition", |side, v| one(side, v, at(1, 0)));
    table.all("without waiting", |side, v| FetchRequest { max_wait_ms: 0, ..one(side, v, at(0, 10)) });
    table.all("more bytes than there are", |side, v| FetchRequest { min_bytes: 1 << 20, ..one(side, v, at(0, 0)) });
    table.all("no bytes at least", |side, v| FetchRequest { min_bytes: 0, ..one(side, v, at(0, 10)) });
    table.all("two partitions", |side, v| fetch(vec![of(side, v, "fetch-a", vec![at(0, 3), at(1, 0)])]));
    table.all("a partition twice", |side, v| fetch(vec![of(side, v, "fetch-a", vec![at(0, 3), at(0, 4)])]));
    table.all("an unknown partition", |side, v| one(side, v, at(9, 0)));
    table.all("a negative partition", |side, v| one(side, v, at(-1, 0)));
    table.some("an unknown topic", 4..=12, |side, v| fetch(vec![of(side, v, "fetch-none", vec![at(0, 0)])]));
    let missing = |id: Uuid| FetchTopic { topic_id: id, partitions: vec![at(0, 0)], ..Default::default() };
    table.with("an unknown topic id", 13..=18, |_, _| fetch(vec![missing(Uuid::from_u128(9))]), in_order);
    table.with("the nil topic id", 13..=18, |_, _| fetch(vec![missing(Uuid::nil())]), in_order);
    table.with(
        "a known and an unknown id",
        13..=18,
        |side, v| fetch(vec![of(side, v, "fetch-a", vec![at(0, 4)]), missing(Uuid::from_u128(9))]),
        in_order,
    );
    table.all("no topics", |_, _| fetch(Vec::new()));
    table.all("no partitions", |side, v| fetch(vec![of(side, v, "fetch-a", Vec::new())]));
    table.some("the leader epoch", 9..=18, |side, v| {
        one(side, v, FetchPartition { current_leader_epoch: 0, ..at(0, 4) })
    });
    table.with(
        "a leader epoch to come",
        9..=18,
        |side, v| one(side, v, FetchPartition { current_leader_epoch: 5, ..at(0, 4) }),
        in_order,
    );
    table.some("the last fetched epoch", 12..=18, |side, v| {
        one(side, v, FetchPartition { last_fetched_epoch: 0, current_leader_epoch: 0, ..at(0, 4) })
    });
    table.some("a last fetched epoch to come", 12..=18, |side, v| {
        one(side, v, FetchPartition { last_fetched_epoch: 7, ..at(0, 4) })
    });
    table.some("the last fetched epoch past the end", 12..=18, |side, v| {
        one(side, v, FetchPartition { last_fetched_epoch: 0, ..at(0, 40) })
    });
    for max in [0, 1, 60, 80, 200, 500] {
        table.all(&format!("{max} bytes"), |side, v| FetchRequest { max_bytes: max, ..one(side, v, at(0, 0)) });
        table.all(&format!("{max} bytes of a partition"), |side, v| {
            one(side, v, FetchPartition { partition_max_bytes: max, ..at(0, 0) })
        });
        table.all(&format!("{max} bytes of two partitions"), |side, v| {
            let small = |p| FetchPartition { partition_max_bytes: max, ..p };
            fetch(vec![of(side, v, "fetch-a", vec![small(at(1, 0)), small(at(0, 0))])])
        });
    }
    table.all("negative bytes", |side, v| FetchRequest { max_bytes: -5, ..one(side, v, at(0, 0)) });
    table.all("committed only", |side, v| FetchRequest { isolation_level: 1, ..one(side, v, at(0, 0)) });
    table.all("committed only at the end", |side, v| FetchRequest { isolation_level: 1, ..one(side, v, at(0, 10)) });
    table.all("an isolation level of 5", |side, v| FetchRequest { isolation_level: 5, ..one(side, v, at(0, 0)) });
    table.some("a rack", 11..=18, |side, v| FetchRequest { rack_id: "here".to_owned(), ..one(side, v, at(0, 0)) });
    table
        .some("a log start offset", 5..=18, |side, v| one(side, v, FetchPartition { log_start_offset: 3, ..at(0, 4) }));
    table.finish();
}

/// A step of a session: what is asked, and whether the session's own id is used.
struct Step {
    name: &'static str,
    /// Added to the id that the session was given.
    id_off_by: i32,
    epoch: i32,
    ask: Vec<FetchPartition>,
    forget: Vec<i32>,
}

fn step(name: &'static str, epoch: i32, ask: Vec<FetchPartition>, forget: &[i32]) -> Step {
    Step { name, id_off_by: 0, epoch, ask, forget: forget.to_vec() }
}

fn call(connection: &mut Line, version: i16, request: &FetchRequest) -> Result<FetchResponse, String> {
    connection.call(version, request)
}

#[test]
fn fetch_sessions() {
    let mut table = Table::new();
    table.pair.topic("session-a", 3, &[]);
    table.pair.produce("session-a", 0, &[batch_at(BEGIN_MS, 2)]);
    table.pair.produce("session-a", 1, &[batch_at(BEGIN_MS, 2)]);
    let scripts: Vec<(&str, Vec<Step>)> = vec![
        ("nothing new", vec![step("again", 1, vec![], &[]), step("and again", 2, vec![], &[])]),
        ("moved on", vec![step("from 2", 1, vec![at(0, 2)], &[]), step("again", 2, vec![], &[])]),
        ("one added", vec![step("1 too", 1, vec![at(1, 0)], &[]), step("again", 2, vec![], &[])]),
        ("one forgotten", vec![step("not 0", 1, vec![], &[0]), step("again", 2, vec![], &[])]),
        ("all forgotten", vec![step("none", 1, vec![], &[0, 1, 2]), step("again", 2, vec![at(1, 0)], &[])]),
        ("forgotten and asked", vec![step("0", 1, vec![at(0, 1)], &[0]), step("again", 2, vec![], &[])]),
        ("forgotten that was not", vec![step("7", 1, vec![], &[7])]),
        ("an epoch too high", vec![step("5", 5, vec![], &[]), step("1", 1, vec![], &[])]),
        ("an epoch again", vec![step("1", 1, vec![], &[]), step("1", 1, vec![], &[])]),
        ("closed", vec![step("-1", -1, vec![at(0, 0)], &[]), step("1", 1, vec![], &[])]),
        ("closed with an empty request", vec![step("-1", -1, vec![], &[]), step("1", 1, vec![], &[])]),
        ("begun anew", vec![step("0", 0, vec![at(1, 0)], &[]), step("1", 1, vec![], &[])]),
        ("a negative epoch", vec![step("-2", -2, vec![], &[])]),
        ("another id", vec![Step { id_off_by: 1, ..step("1", 1, vec![at(0, 0)], &[]) }, step("1", 1, vec![], &[])]),
        (
            "another id closed",
            vec![Step { id_off_by: 1, ..step("-1", -1, vec![at(0, 0)], &[]) }, step("1", 1, vec![], &[])],
        ),
        ("out of range", vec![step("9", 1, vec![at(0, 9)], &[]), step("again", 2, vec![], &[])]),
        (
            "an unknown partition",
            vec![step("9", 1, vec![at(9, 0)], &[]), step("again", 2, vec![], &[]), step("0", 3, vec![at(0, 0)], &[9])],
        ),
    ];
    for (name, steps) in &scripts {
        for version in [7, 11, 12, 13, 17, 18] {
            table.effect(&format!("Fetch session: {name}"), version, |side, connection| {
                let first = fetch(vec![of(side, version, "session-a", vec![at(0, 0), at(2, 0)])]);
                let opened = call(connection, version, &FetchRequest { session_epoch: 0, ..first })?;
                let id = opened.session_id;
                let mut text = format!("opened: {}", told(opened, id));
                for step in steps {
                    let mut request = FetchRequest {
                        session_id: id.wrapping_add(step.id_off_by),
                        session_epoch: step.epoch,
                        ..fetch(Vec::new())
                    };
                    if !step.ask.is_empty() {
                        request.topics.push(of(side, version, "session-a", step.ask.clone()));
                    }
                    if !step.forget.is_empty() {
                        let named = of(side, version, "session-a", Vec::new());
                        let forgotten = ForgottenTopic {
                            topic: named.topic,
                            topic_id: named.topic_id,
                            partitions: step.forget.clone(),
                        };
                        request.forgotten_topics_data.push(forgotten);
                    }
                    let answer = call(connection, version, &request)?;
                    text += &format!("\n{}: {}", step.name, told(answer, id));
                }
                Ok(text)
            });
        }
    }
    for (name, id, epoch) in [
        ("no id, epoch 1", 0, 1),
        ("an id that is not, epoch 1", 77, 1),
        ("an id that is not, epoch 0", 77, 0),
        ("an id that is not, epoch -1", 77, -1),
    ] {
        table.with(
            &format!("session: {name}"),
            7..=18,
            |side, v| {
                let first = fetch(vec![of(side, v, "session-a", vec![at(0, 0)])]);
                FetchRequest { session_id: id, session_epoch: epoch, ..first }
            },
            |answer| answer.session_id = answer.session_id.clamp(-1, 1),
        );
    }
    table.finish();
}

/// An answer with its session's id replaced.
fn told(mut answer: FetchResponse, id: i32) -> String {
    let own = if answer.session_id == id && id != 0 {
        1
    } else if answer.session_id == 0 {
        0
    } else {
        2
    };
    answer.session_id = own;
    answer.responses.iter_mut().for_each(|t| t.partitions.sort_by_key(|p| p.partition_index));
    format!("{answer:#?}")
}
