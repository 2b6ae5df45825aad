//! DescribeConfigs, AlterConfigs, IncrementalAlterConfigs, ListConfigResources.

use strandline_protocol::messages::alter_configs_request::{
    AlterConfigsRequest, AlterConfigsResource as Replaced, AlterableConfig as ReplacedConfig,
};
use strandline_protocol::messages::describe_configs_request::{DescribeConfigsRequest, DescribeConfigsResource};
use strandline_protocol::messages::describe_configs_response::DescribeConfigsResponse;
use strandline_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use strandline_protocol::messages::list_config_resources_request::ListConfigResourcesRequest;

use crate::table::Table;

const TOPIC: i8 = 2;
const BROKER: i8 = 4;

const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

pub fn describe(kind: i8, name: &str, keys: Option<&[&str]>, synonyms: bool) -> DescribeConfigsRequest {
    let resource = DescribeConfigsResource {
        resource_type: kind,
        resource_name: name.to_owned(),
        configuration_keys: keys.map(|keys| keys.iter().map(|k| (*k).to_owned()).collect()),
    };
    DescribeConfigsRequest { resources: vec![resource], include_synonyms: synonyms, include_documentation: false }
}

const UNLIKE: [&str; 2] = ["flush.messages", "min.insync.replicas"];

/// Settings come in no order. `flush.messages` is 1 in Strandline by default: it acknowledges what is synced. Kafka stores
/// `min.insync.replicas` as a default of the cluster.
fn sorted(answer: &mut DescribeConfigsResponse) {
    for result in &mut answer.results {
        result.configs.retain(|c| !UNLIKE.contains(&c.name.as_str()));
        result.configs.sort_by(|a, b| a.name.cmp(&b.name));
        // Kafka tells the default in hours behind a value in ms.
        result.configs.iter_mut().for_each(|c| c.synonyms.retain(|s| s.name != "log.retention.hours"));
    }
}

#[test]
fn describe_configs() {
    let mut table = Table::new();
    let set = [("retention.ms", "86400000"), ("cleanup.policy", "compact,delete"), ("max.message.bytes", "2000000")];
    table.pair.topic("config-set", 1, &set);
    table.pair.topic("config-plain", 1, &[]);
    for topic in ["config-set", "config-plain"] {
        table.with(&format!("all of {topic}"), 1..=4, |_, _| describe(TOPIC, topic, None, false), sorted);
        table.with(&format!("all of {topic} with synonyms"), 1..=4, |_, _| describe(TOPIC, topic, None, true), sorted);
    }
    let some: &[&str] = &["retention.ms", "no.such.setting", "cleanup.policy"];
    table.with("some keys", 1..=4, |_, _| describe(TOPIC, "config-set", Some(some), false), sorted);
    table.with("no keys", 1..=4, |_, _| describe(TOPIC, "config-set", Some(&[]), false), sorted);
    table.with("an unknown topic", 1..=4, |_, _| describe(TOPIC, "config-none", None, false), sorted);
    table.with("an invalid topic", 1..=4, |_, _| describe(TOPIC, "a b", None, false), sorted);
    table.with("an empty topic", 1..=4, |_, _| describe(TOPIC, "", None, false), sorted);
    table.with("no resources", 1..=4, |_, _| DescribeConfigsRequest::default(), sorted);
    for name in ["2", "x", "-1"] {
        table.with(&format!("the broker {name}"), 1..=4, |_, _| describe(BROKER, name, None, false), sorted);
    }
    let keys: &[&str] = &["node.id", "process.roles", "no.such.setting"];
    table.with("keys of the broker", 1..=4, |_, _| describe(BROKER, "1", Some(keys), false), sorted);
    let keys: &[&str] = &["message.max.bytes", "num.partitions", "auto.create.topics.enable"];
    table.with("keys that set topic defaults", 1..=4, |_, _| describe(BROKER, "1", Some(keys), false), sorted);
    table.with("defaults of all brokers", 1..=4, |_, _| describe(BROKER, "", None, false), sorted);
    for kind in [0, 1, 3, 99, -1] {
        table.with(&format!("the resource type {kind}"), 1..=4, |_, _| describe(kind, "x", None, false), sorted);
    }
    table.with(
        "two resources",
        1..=4,
        |_, _| {
            let mut request = describe(TOPIC, "config-none", None, false);
            request.resources.extend(describe(TOPIC, "config-set", Some(&["retention.ms"]), false).resources);
            request
        },
        sorted,
    );
    table.finish();
}

pub fn change(
    kind: i8,
    name: &str,
    changes: &[(&str, i8, Option<&str>)],
    validate_only: bool,
) -> IncrementalAlterConfigsRequest {
    let config = |(name, operation, value): &(&str, i8, Option<&str>)| AlterableConfig {
        name: (*name).to_owned(),
        config_operation: *operation,
        value: value.map(str::to_owned),
    };
    let resource = AlterConfigsResource {
        resource_type: kind,
        resource_name: name.to_owned(),
        configs: changes.iter().map(config).collect(),
    };
    IncrementalAlterConfigsRequest { resources: vec![resource], validate_only }
}

type Changes = &'static [(&'static str, i8, Option<&'static str>)];

#[test]
fn incremental_alter_configs() {
    let mut table = Table::new();
    table.pair.topic("alter-a", 1, &[]);
    let cases: &[(&str, i8, &str, Changes)] = &[
        ("a number", TOPIC, "alter-a", &[("retention.ms", SET, Some("1000"))]),
        ("nothing", TOPIC, "alter-a", &[]),
        ("an unknown topic", TOPIC, "alter-none", &[("retention.ms", SET, Some("1000"))]),
        ("an invalid topic", TOPIC, "a b", &[("retention.ms", SET, Some("1000"))]),
        ("an empty topic", TOPIC, "", &[("retention.ms", SET, Some("1000"))]),
        ("an unknown setting", TOPIC, "alter-a", &[("no.such", SET, Some("1000"))]),
        ("an unknown setting deleted", TOPIC, "alter-a", &[("no.such", DELETE, None)]),
        ("no number", TOPIC, "alter-a", &[("retention.ms", SET, Some("soon"))]),
        ("an empty number", TOPIC, "alter-a", &[("retention.ms", SET, Some(""))]),
        ("a null value set", TOPIC, "alter-a", &[("retention.ms", SET, None)]),
        ("a number too small", TOPIC, "alter-a", &[("retention.ms", SET, Some("-5"))]),
        ("an int too large", TOPIC, "alter-a", &[("segment.bytes", SET, Some("99999999999"))]),
        ("a long too large", TOPIC, "alter-a", &[("retention.ms", SET, Some("99999999999999999999"))]),
        ("small segments", TOPIC, "alter-a", &[("segment.bytes", SET, Some("13"))]),
        ("no boolean", TOPIC, "alter-a", &[("preallocate", SET, Some("yes"))]),
        ("no double", TOPIC, "alter-a", &[("min.cleanable.dirty.ratio", SET, Some("x"))]),
        ("a double too large", TOPIC, "alter-a", &[("min.cleanable.dirty.ratio", SET, Some("2"))]),
        ("no word", TOPIC, "alter-a", &[("compression.type", SET, Some("zip"))]),
        ("no time type", TOPIC, "alter-a", &[("message.timestamp.type", SET, Some("Never"))]),
        ("no policy", TOPIC, "alter-a", &[("cleanup.policy", SET, Some("keep"))]),
        ("an empty policy", TOPIC, "alter-a", &[("cleanup.policy", SET, Some(""))]),
        ("a gzip level", TOPIC, "alter-a", &[("compression.gzip.level", SET, Some("99"))]),
        ("a gzip level of 0", TOPIC, "alter-a", &[("compression.gzip.level", SET, Some("0"))]),
        ("an lz4 level", TOPIC, "alter-a", &[("compression.lz4.level", SET, Some("18"))]),
        ("a zstd level", TOPIC, "alter-a", &[("compression.zstd.level", SET, Some("23"))]),
        ("a small index", TOPIC, "alter-a", &[("segment.index.bytes", SET, Some("3"))]),
        ("no replicas", TOPIC, "alter-a", &[("min.insync.replicas", SET, Some("0"))]),
        ("an operation that is not", TOPIC, "alter-a", &[("retention.ms", 9, Some("1"))]),
        ("a setting twice", TOPIC, "alter-a", &[("retention.ms", SET, Some("1")), ("retention.ms", SET, Some("2"))]),
        ("appending to a number", TOPIC, "alter-a", &[("retention.ms", APPEND, Some("1"))]),
        ("subtracting from a number", TOPIC, "alter-a", &[("retention.ms", SUBTRACT, Some("1"))]),
        ("appending a policy", TOPIC, "alter-a", &[("cleanup.policy", APPEND, Some("compact"))]),
        ("appending no policy", TOPIC, "alter-a", &[("cleanup.policy", APPEND, Some("keep"))]),
        (
            "compaction lags that cross",
            TOPIC,
            "alter-a",
            &[("min.compaction.lag.ms", SET, Some("100")), ("max.compaction.lag.ms", SET, Some("10"))],
        ),
        ("replicas throttled", TOPIC, "alter-a", &[("leader.replication.throttled.replicas", SET, Some("*"))]),
        ("bad throttled replicas", TOPIC, "alter-a", &[("follower.replication.throttled.replicas", SET, Some("x"))]),
        ("one good and one bad", TOPIC, "alter-a", &[("retention.ms", SET, Some("1")), ("segment.ms", SET, Some("0"))]),
        ("a resource type of 0", 0, "x", &[("retention.ms", SET, Some("1"))]),
        ("a resource type of 3", 3, "x", &[("retention.ms", SET, Some("1"))]),
        ("a resource type of 99", 99, "x", &[("retention.ms", SET, Some("1"))]),
        ("the wrong broker", BROKER, "7", &[("message.max.bytes", SET, Some("1"))]),
        ("no broker", BROKER, "x", &[("message.max.bytes", SET, Some("1"))]),
        ("a broker setting that needs a restart", BROKER, "1", &[("log.dirs", SET, Some("/x"))]),
        ("a broker setting that is no number", BROKER, "1", &[("message.max.bytes", SET, Some("x"))]),
    ];
    for (name, kind, resource, changes) in cases {
        table.some(name, 0..=1, |_, _| change(*kind, resource, changes, true));
    }
    table.some("no resources", 0..=1, |_, _| IncrementalAlterConfigsRequest::default());
    table.some("a resource twice", 0..=1, |_, _| {
        let mut request = change(TOPIC, "alter-a", &[("retention.ms", SET, Some("1"))], true);
        request.resources.extend(request.resources.clone());
        request
    });
    table.some("set", 0..=1, |_, _| {
        change(
            TOPIC,
            "alter-a",
            &[("retention.ms", SET, Some("777")), ("cleanup.policy", APPEND, Some("compact"))],
            false,
        )
    });
    table.with("what was set", 4..=4, |_, _| describe(TOPIC, "alter-a", None, true), sorted);
    table.some("taken away", 0..=1, |_, _| {
        change(TOPIC, "alter-a", &[("retention.ms", DELETE, None), ("cleanup.policy", SUBTRACT, Some("delete"))], false)
    });
    table.with("what is left", 4..=4, |_, _| describe(TOPIC, "alter-a", None, true), sorted);
    table.finish();
}

pub fn replace(kind: i8, name: &str, configs: &[(&str, Option<&str>)], validate_only: bool) -> AlterConfigsRequest {
    let config = |(name, value): &(&str, Option<&str>)| ReplacedConfig {
        name: (*name).to_owned(),
        value: value.map(str::to_owned),
    };
    let resource =
        Replaced { resource_type: kind, resource_name: name.to_owned(), configs: configs.iter().map(config).collect() };
    AlterConfigsRequest { resources: vec![resource], validate_only }
}

#[test]
fn alter_configs() {
    let mut table = Table::new();
    table.pair.topic("replace-a", 1, &[("segment.ms", "100000")]);
    type Replacement = &'static [(&'static str, Option<&'static str>)];
    let cases: &[(&str, i8, &str, Replacement)] = &[
        ("a number", TOPIC, "replace-a", &[("retention.ms", Some("1000"))]),
        ("nothing", TOPIC, "replace-a", &[]),
        ("a null value", TOPIC, "replace-a", &[("retention.ms", None)]),
        ("a setting twice", TOPIC, "replace-a", &[("retention.ms", Some("1")), ("retention.ms", Some("2"))]),
        ("no number", TOPIC, "replace-a", &[("retention.ms", Some("soon"))]),
        ("an unknown setting", TOPIC, "replace-a", &[("no.such", Some("1"))]),
        ("an unknown topic", TOPIC, "replace-none", &[("retention.ms", Some("1"))]),
        ("an unknown broker", BROKER, "7", &[]),
        ("a resource type of 3", 3, "x", &[]),
    ];
    for (name, kind, resource, configs) in cases {
        table.some(name, 0..=2, |_, _| replace(*kind, resource, configs, true));
    }
    table.some("replaced", 0..=2, |_, _| replace(TOPIC, "replace-a", &[("retention.ms", Some("4711"))], false));
    table.with("what is left", 4..=4, |_, _| describe(TOPIC, "replace-a", None, true), sorted);
    table.finish();
}

#[test]
fn tiering_rules() {
    let mut table = Table::new();
    table.pair.topic("tier-plain", 1, &[]);
    table.pair.topic("tier-compacted", 1, &[("cleanup.policy", "compact")]);
    table.pair.topic(
        "tier-on",
        1,
        &[("remote.storage.enable", "true"), ("retention.ms", "1000000"), ("retention.bytes", "1000000")],
    );
    let copy_off =
        [("remote.storage.enable", "true"), ("remote.log.copy.disable", "true"), ("retention.ms", "1000000")];
    table.pair.topic("tier-copy-off", 1, &copy_off);
    let cases: &[(&str, &str, Changes)] = &[
        ("enabled", "tier-plain", &[("remote.storage.enable", SET, Some("true"))]),
        ("enabled on a compacted topic", "tier-compacted", &[("remote.storage.enable", SET, Some("true"))]),
        ("compacted on a tiered topic", "tier-on", &[("cleanup.policy", SET, Some("compact"))]),
        ("compaction appended on a tiered topic", "tier-on", &[("cleanup.policy", APPEND, Some("compact"))]),
        ("disabled", "tier-on", &[("remote.storage.enable", SET, Some("false"))]),
        ("disabled by deletion", "tier-on", &[("remote.storage.enable", DELETE, None)]),
        (
            "disabled with deletion of data",
            "tier-on",
            &[("remote.storage.enable", SET, Some("false")), ("remote.log.delete.on.disable", SET, Some("true"))],
        ),
        (
            "disabled with both flags",
            "tier-on",
            &[
                ("remote.storage.enable", SET, Some("false")),
                ("remote.log.delete.on.disable", SET, Some("true")),
                ("remote.log.copy.disable", SET, Some("true")),
            ],
        ),
        ("deletion flag without tiering", "tier-plain", &[("remote.log.delete.on.disable", SET, Some("true"))]),
        ("copy flag without tiering", "tier-plain", &[("remote.log.copy.disable", SET, Some("true"))]),
        (
            "both flags with tiering",
            "tier-on",
            &[("remote.log.copy.disable", SET, Some("true")), ("remote.log.delete.on.disable", SET, Some("true"))],
        ),
        ("no copies", "tier-on", &[("remote.log.copy.disable", SET, Some("true"))]),
        (
            "no copies, less local time",
            "tier-on",
            &[("remote.log.copy.disable", SET, Some("true")), ("local.retention.ms", SET, Some("5"))],
        ),
        (
            "no copies, fewer local bytes",
            "tier-on",
            &[("remote.log.copy.disable", SET, Some("true")), ("local.retention.bytes", SET, Some("5"))],
        ),
        (
            "no copies, equal local time",
            "tier-on",
            &[("remote.log.copy.disable", SET, Some("true")), ("local.retention.ms", SET, Some("1000000"))],
        ),
        ("less local time where copies are off", "tier-copy-off", &[("local.retention.ms", SET, Some("5"))]),
        ("more retention where copies are off", "tier-copy-off", &[("retention.ms", SET, Some("2000000"))]),
        ("copies again", "tier-copy-off", &[("remote.log.copy.disable", SET, Some("false"))]),
        ("more local time than in all", "tier-on", &[("local.retention.ms", SET, Some("1000001"))]),
        ("more local bytes than in all", "tier-on", &[("local.retention.bytes", SET, Some("1000001"))]),
        ("unlimited local time", "tier-on", &[("local.retention.ms", SET, Some("-1"))]),
        ("unlimited local bytes", "tier-on", &[("local.retention.bytes", SET, Some("-1"))]),
        ("local time of -3", "tier-on", &[("local.retention.ms", SET, Some("-3"))]),
        ("local bytes of -3", "tier-on", &[("local.retention.bytes", SET, Some("-3"))]),
        ("local time as in all", "tier-on", &[("local.retention.ms", SET, Some("-2"))]),
        (
            "more local time where nothing is tiered",
            "tier-plain",
            &[("retention.ms", SET, Some("10")), ("local.retention.ms", SET, Some("11"))],
        ),
        (
            "retention below the local one",
            "tier-on",
            &[("retention.ms", SET, Some("10")), ("local.retention.ms", SET, Some("11"))],
        ),
        (
            "unlimited in all, limited locally",
            "tier-on",
            &[("retention.ms", SET, Some("-1")), ("local.retention.ms", SET, Some("11"))],
        ),
        ("tiering that is no boolean", "tier-plain", &[("remote.storage.enable", SET, Some("on"))]),
    ];
    for (name, topic, changes) in cases {
        table.some(name, 1..=1, |_, _| change(TOPIC, topic, changes, true));
    }
    table.finish();
}

pub fn list(kinds: &[i8]) -> ListConfigResourcesRequest {
    ListConfigResourcesRequest { resource_types: kinds.to_vec() }
}

#[test]
fn list_config_resources() {
    let mut table = Table::new();
    table.pair.topic("resource-a", 1, &[]);
    let ours =
        |answer: &mut strandline_protocol::messages::list_config_resources_response::ListConfigResourcesResponse| {
            answer.config_resources.retain(|r| r.resource_type != TOPIC || r.resource_name.starts_with("resource-"));
            answer
                .config_resources
                .sort_by(|a, b| (a.resource_type, &a.resource_name).cmp(&(b.resource_type, &b.resource_name)));
        };
    table.with("version 0", 0..=0, |_, _| list(&[]), ours);
    for kinds in [&[][..], &[2], &[4], &[8], &[16], &[32], &[2, 4], &[2, 2], &[0], &[99], &[-1]] {
        table.with(&format!("the types {kinds:?}"), 1..=1, |_, _| list(kinds), ours);
    }
    table.finish();
}
