//! Metadata, CreateTopics, DeleteTopics, CreatePartitions.

use strandline_protocol::messages::create_partitions_request::{
    CreatePartitionsAssignment, CreatePartitionsRequest, CreatePartitionsTopic,
};
use strandline_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use strandline_protocol::messages::create_topics_response::CreateTopicsResponse;
use strandline_protocol::messages::delete_topics_request::{DeleteTopicState, DeleteTopicsRequest};
use strandline_protocol::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};
use uuid::Uuid;

use crate::pair::Side;
use crate::table::Table;

pub fn by_names(names: &[&str], create: bool, version: i16) -> MetadataRequest {
    let topic = |name: &&str| MetadataRequestTopic { name: Some((*name).to_owned()), ..Default::default() };
    MetadataRequest {
        topics: Some(names.iter().map(topic).collect()),
        // Before version 4 it is always asked for.
        allow_auto_topic_creation: create || version < 4,
        ..Default::default()
    }
}

fn by_id(id: Uuid) -> MetadataRequest {
    let topic = MetadataRequestTopic { topic_id: id, name: None };
    MetadataRequest { topics: Some(vec![topic]), allow_auto_topic_creation: false, ..Default::default() }
}

#[test]
fn metadata() {
    let mut table = Table::new();
    let pair = table.pair;
    pair.topic("meta-a", 3, &[]);
    pair.topic("meta-b", 1, &[]);
    let all = |_: &Side, v: i16| MetadataRequest {
        topics: (v > 0).then_some(()).map_or(Some(Vec::new()), |()| None),
        ..Default::default()
    };
    table.with("all topics", 0..=13, all, |answer| {
        // Other tests make topics meanwhile, and Kafka has internal topics of its own.
        answer.topics.retain(|t| t.name.as_deref().is_some_and(|n| n.starts_with("meta-a") || n.starts_with("meta-b")));
        answer.topics.sort_by(|a, b| a.name.cmp(&b.name));
    });
    table.some("no topics", 1..=13, |_, v| by_names(&[], false, v));
    table.all("two topics", |_, v| by_names(&["meta-b", "meta-a"], false, v));
    table.all("a topic twice", |_, v| by_names(&["meta-a", "meta-a"], false, v));
    table.some("an unknown topic", 4..=13, |_, v| by_names(&["meta-none"], false, v));
    for name in ["", ".", "..", "a b", "ä", &"x".repeat(250)] {
        let case = format!("the invalid name {:.10}", name);
        table.some(&case, 4..=13, |_, v| by_names(&[name], false, v));
        table.all(&format!("{case}, to be created"), |_, v| by_names(&[name], true, v));
    }
    table.some("by id", 12..=13, |side, _| by_id(side.id("meta-a")));
    table.some("by an unknown id", 12..=13, |_, _| by_id(Uuid::from_u128(77)));
    table.some("a null name without an id", 12..=13, |_, _| by_id(Uuid::nil()));
    table.some("an id and a name", 12..=13, |side, v| {
        let mut request = by_names(&["meta-a"], false, v);
        request.topics.as_mut().expect("names")[0].topic_id = side.id("meta-a");
        request
    });
    table.some("ids in a version without", 10..=11, |side, _| by_id(side.id("meta-a")));
    table.some("an id and a name each", 12..=13, |side, v| {
        let mut request = by_names(&["meta-a"], false, v);
        request.topics.as_mut().expect("names").push(MetadataRequestTopic { topic_id: side.id("meta-b"), name: None });
        request
    });
    table.some("authorized operations", 8..=10, |_, v| MetadataRequest {
        include_cluster_authorized_operations: true,
        include_topic_authorized_operations: true,
        ..by_names(&["meta-a"], false, v)
    });
    table.some("authorized operations of topics", 11..=13, |_, v| MetadataRequest {
        include_topic_authorized_operations: true,
        ..by_names(&["meta-a", "meta-none"], false, v)
    });
    for side in pair.sides() {
        let _ = side.connection().call(12, &by_names(&["meta-auto"], true, 12));
    }
    for side in pair.sides() {
        strandline_tests::wait::until("meta-auto is there", std::time::Duration::from_secs(20), || {
            side.connection().list_offset("meta-auto", 1, -1).ok()
        });
        side.learn("meta-auto");
    }
    table.all("a topic made on first use", |_, v| by_names(&["meta-auto"], true, v));
    table.finish();
}

/// A name, and the topics of its request.
type Case<T> = (&'static str, fn() -> Vec<T>);

fn topic(name: &str, partitions: i32, replication_factor: i16) -> CreatableTopic {
    CreatableTopic { name: name.to_owned(), num_partitions: partitions, replication_factor, ..Default::default() }
}

fn with_config(mut topic: CreatableTopic, key: &str, value: Option<&str>) -> CreatableTopic {
    topic.configs.push(CreatableTopicConfig { name: key.to_owned(), value: value.map(str::to_owned) });
    topic
}

pub fn assigned(name: &str, assignments: &[(i32, &[i32])]) -> CreatableTopic {
    let assignments = assignments.iter().map(|(partition, brokers)| CreatableReplicaAssignment {
        partition_index: *partition,
        broker_ids: brokers.to_vec(),
    });
    CreatableTopic { assignments: assignments.collect(), ..topic(name, -1, -1) }
}

pub fn create(topics: Vec<CreatableTopic>, validate_only: bool) -> CreateTopicsRequest {
    CreateTopicsRequest { topics, timeout_ms: 20_000, validate_only }
}

/// Topics come in no order; their settings are the matter of `configs`.
fn created(answer: &mut CreateTopicsResponse) {
    answer.topics.sort_by(|a, b| (&a.name, a.error_code).cmp(&(&b.name, b.error_code)));
    for topic in &mut answer.topics {
        if let Some(configs) = &mut topic.configs {
            configs.retain(|c| ["retention.ms", "cleanup.policy", "segment.bytes"].contains(&c.name.as_str()));
        }
    }
}

#[test]
fn create_topics() {
    let mut table = Table::new();
    table.pair.topic("create-there", 1, &[]);
    table.pair.topic("create.dotted", 1, &[]);
    table.with(
        "good ones",
        2..=7,
        |_, v| {
            create(
                vec![
                    topic(&format!("create-good-{v}"), 2, 1),
                    with_config(topic(&format!("create-set-{v}"), 1, 1), "retention.ms", Some("1000")),
                ],
                false,
            )
        },
        created,
    );
    table.with("defaults", 4..=7, |_, v| create(vec![topic(&format!("create-default-{v}"), -1, -1)], false), created);
    let refused: &[Case<CreatableTopic>] = &[
        ("no topics", Vec::new),
        ("one that exists", || vec![topic("create-there", 1, 1)]),
        ("an empty name", || vec![topic("", 1, 1)]),
        ("a name with a space", || vec![topic("a b", 1, 1)]),
        ("the name of a dot", || vec![topic(".", 1, 1)]),
        ("the name of two dots", || vec![topic("..", 1, 1)]),
        ("a long name", || vec![topic(&"x".repeat(250), 1, 1)]),
        ("a name that collides", || vec![topic("create_dotted", 1, 1)]),
        ("no partitions", || vec![topic("create-x", 0, 1)]),
        ("negative partitions", || vec![topic("create-x", -2, 1)]),
        ("no replicas", || vec![topic("create-x", 1, 0)]),
        ("negative replicas", || vec![topic("create-x", 1, -2)]),
        ("three replicas on one node", || vec![topic("create-x", 1, 3)]),
        ("an unknown setting", || vec![with_config(topic("create-x", 1, 1), "no.such.setting", Some("1"))]),
        ("a bad number", || vec![with_config(topic("create-x", 1, 1), "retention.ms", Some("soon"))]),
        ("a number out of range", || vec![with_config(topic("create-x", 1, 1), "retention.ms", Some("-2"))]),
        ("a bad word", || vec![with_config(topic("create-x", 1, 1), "cleanup.policy", Some("keep"))]),
        ("a null value", || vec![with_config(topic("create-x", 1, 1), "retention.ms", None)]),
        ("a setting twice", || {
            vec![with_config(
                with_config(topic("create-x", 1, 1), "retention.ms", Some("1")),
                "retention.ms",
                Some("2"),
            )]
        }),
        ("a name twice", || vec![topic("create-x", 1, 1), topic("create-x", 1, 1)]),
        ("a name twice among others", || {
            vec![topic("create-x", 1, 1), topic("create-x", 2, 1), topic("create-there", 1, 1)]
        }),
        ("an assignment with a count", || {
            vec![CreatableTopic { num_partitions: 1, ..assigned("create-x", &[(0, &[1])]) }]
        }),
        ("an assignment with a replication factor", || {
            vec![CreatableTopic { replication_factor: 1, ..assigned("create-x", &[(0, &[1])]) }]
        }),
        ("an assignment to an unknown broker", || vec![assigned("create-x", &[(0, &[9])])]),
        ("an assignment to a broker twice", || vec![assigned("create-x", &[(0, &[1, 1])])]),
        ("an assignment to a negative broker", || vec![assigned("create-x", &[(0, &[-1])])]),
        ("an assignment of nothing", || vec![assigned("create-x", &[(0, &[])])]),
        ("an assignment with a gap", || vec![assigned("create-x", &[(0, &[1]), (2, &[1])])]),
        ("an assignment from 1", || vec![assigned("create-x", &[(1, &[1])])]),
        ("an assignment of a negative partition", || vec![assigned("create-x", &[(-1, &[1])])]),
        ("an assignment of a partition twice", || vec![assigned("create-x", &[(0, &[1]), (0, &[1])])]),
        ("an assignment of different sizes", || vec![assigned("create-x", &[(0, &[1]), (1, &[1, 2])])]),
        ("several wrongs", || vec![with_config(topic("create-there", 0, 3), "no.such.setting", Some("1"))]),
    ];
    for (name, topics) in refused {
        // Validated only, so that one that one side takes is not there for the next case.
        table.with(name, 2..=7, |_, _| create(topics(), true), created);
    }
    table.with("a good one, validated", 2..=7, |_, _| create(vec![topic("create-never", 2, 1)], true), created);
    table.with(
        "an assignment",
        2..=7,
        |_, v| create(vec![assigned(&format!("create-assigned-{v}"), &[(0, &[1]), (1, &[1])])], false),
        created,
    );
    table.finish();
}

pub fn delete_names(names: &[&str], version: i16) -> DeleteTopicsRequest {
    let mut request = DeleteTopicsRequest { timeout_ms: 20_000, ..Default::default() };
    if version < 6 {
        request.topic_names = names.iter().map(|n| (*n).to_owned()).collect();
    } else {
        request.topics =
            names.iter().map(|n| DeleteTopicState { name: Some((*n).to_owned()), ..Default::default() }).collect();
    }
    request
}

fn delete_ids(ids: &[Uuid]) -> DeleteTopicsRequest {
    let topics = ids.iter().map(|id| DeleteTopicState { name: None, topic_id: *id }).collect();
    DeleteTopicsRequest { topics, timeout_ms: 20_000, ..Default::default() }
}

#[test]
fn delete_topics() {
    let mut table = Table::new();
    for version in 1..=6 {
        table.pair.topic(&format!("delete-{version}"), 1, &[]);
    }
    table.pair.topic("delete-by-id", 1, &[]);
    table.pair.topic("delete-stays", 1, &[]);
    let sorted = |answer: &mut strandline_protocol::messages::delete_topics_response::DeleteTopicsResponse| {
        answer.responses.sort_by(|a, b| (&a.name, a.error_code).cmp(&(&b.name, b.error_code)));
    };
    table.with("by name", 1..=6, |_, v| delete_names(&[&format!("delete-{v}")], v), sorted);
    table.with("unknown names", 1..=6, |_, v| delete_names(&["delete-none", "delete-1"], v), sorted);
    table.with("a name twice", 1..=6, |_, v| delete_names(&["delete-none", "delete-none"], v), sorted);
    table.with("a known name twice", 1..=6, |_, v| delete_names(&["delete-stays", "delete-stays"], v), sorted);
    table.with("no topics", 1..=6, |_, v| delete_names(&[], v), sorted);
    table.with("an invalid name", 1..=6, |_, v| delete_names(&["a b"], v), sorted);
    table.with("an unknown id", 6..=6, |_, _| delete_ids(&[Uuid::from_u128(5)]), sorted);
    table.with("an unknown id twice", 6..=6, |_, _| delete_ids(&[Uuid::from_u128(5), Uuid::from_u128(5)]), sorted);
    table.with("no name and no id", 6..=6, |_, _| delete_ids(&[Uuid::nil()]), sorted);
    table.with(
        "a name and an id",
        6..=6,
        |side, v| {
            let mut request = delete_names(&["delete-stays"], v);
            request.topics[0].topic_id = side.id("delete-stays");
            request
        },
        sorted,
    );
    table.with(
        "a name and its id each",
        6..=6,
        |side, v| {
            let mut request = delete_names(&["delete-stays"], v);
            request.topics.extend(delete_ids(&[side.id("delete-stays")]).topics);
            request
        },
        sorted,
    );
    table.with("by id", 6..=6, |side, _| delete_ids(&[side.id("delete-by-id")]), sorted);
    table.finish();
}

pub fn grow(name: &str, count: i32, assignments: Option<&[&[i32]]>) -> CreatePartitionsTopic {
    let assignment = |ids: &&[i32]| CreatePartitionsAssignment { broker_ids: ids.to_vec() };
    CreatePartitionsTopic {
        name: name.to_owned(),
        count,
        assignments: assignments.map(|all| all.iter().map(assignment).collect()),
    }
}

pub fn grow_request(topics: Vec<CreatePartitionsTopic>, validate_only: bool) -> CreatePartitionsRequest {
    CreatePartitionsRequest { topics, timeout_ms: 20_000, validate_only }
}

#[test]
fn create_partitions() {
    let mut table = Table::new();
    table.pair.topic("grow-a", 3, &[]);
    for version in 0..=3 {
        table.pair.topic(&format!("grow-{version}"), 1, &[]);
    }
    let sorted = |answer: &mut strandline_protocol::messages::create_partitions_response::CreatePartitionsResponse| {
        answer.results.sort_by(|a, b| (&a.name, a.error_code).cmp(&(&b.name, b.error_code)));
    };
    let cases: &[Case<CreatePartitionsTopic>] = &[
        ("none", Vec::new),
        ("fewer", || vec![grow("grow-a", 1, None)]),
        ("as many", || vec![grow("grow-a", 3, None)]),
        ("zero", || vec![grow("grow-a", 0, None)]),
        ("negative", || vec![grow("grow-a", -1, None)]),
        ("more", || vec![grow("grow-a", 5, None)]),
        ("an unknown topic", || vec![grow("grow-none", 5, None)]),
        ("an invalid name", || vec![grow("a b", 5, None)]),
        ("a topic twice", || vec![grow("grow-a", 5, None), grow("grow-a", 6, None)]),
        ("too few assignments", || vec![grow("grow-a", 5, Some(&[&[1]]))]),
        ("too many assignments", || vec![grow("grow-a", 4, Some(&[&[1], &[1]]))]),
        ("no assignments", || vec![grow("grow-a", 4, Some(&[]))]),
        ("an empty assignment", || vec![grow("grow-a", 4, Some(&[&[]]))]),
        ("an unknown broker", || vec![grow("grow-a", 4, Some(&[&[7]]))]),
        ("a broker twice", || vec![grow("grow-a", 4, Some(&[&[1, 1]]))]),
        ("a negative broker", || vec![grow("grow-a", 4, Some(&[&[-1]]))]),
        ("more replicas than there were", || vec![grow("grow-a", 4, Some(&[&[1, 2]]))]),
        ("a good assignment", || vec![grow("grow-a", 4, Some(&[&[1]]))]),
    ];
    for (name, topics) in cases {
        table.with(name, 0..=3, |_, _| grow_request(topics(), true), sorted);
    }
    table.with(
        "grown",
        0..=3,
        |_, v| grow_request(vec![grow(&format!("grow-{v}"), 2 + i32::from(v), None)], false),
        sorted,
    );
    table.finish();
}
