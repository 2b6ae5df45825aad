//! What every connector can be told, beside the keys of its kind, and whether what it was told is right.
//!
//! Owns the keys under Kafka Connect's names and the answer to `config/validate`. Does not own what a kind means by its keys.

use std::sync::Arc;

use regex::Regex;
use serde_json::{Value, json};

use crate::config::{HIDDEN, Importance, Key, Rule, Settings, Type, validated, validated_as};
use crate::convert::Converter;
use crate::providers::Providers;
use crate::registry::{Registry, SinkKind, all_destinations};
use crate::secrets::{Secrets, is_secret, without_userinfo};
use crate::transform::{self, keys::Named};
use crate::url_policy::UrlPolicy;

const COMMON: &str = "Common";
const ERRORS: &str = "Error Handling";

fn printable(value: &str) -> Result<(), String> {
    if value.chars().any(char::is_control) {
        return Err(
            "String may not contain control sequences but had the following ASCII chars: those below 32".to_owned()
        );
    }
    if value.trim().is_empty() { Err("String may not be empty".to_owned()) } else { Ok(()) }
}

fn pattern(value: &str) -> Result<(), String> {
    whole(value).map(|_| ()).map_err(|e| format!("Invalid regex {value:?}: {e}"))
}

fn distinct(value: &str) -> Result<(), String> {
    let mut names: Vec<&str> = value.split(',').map(str::trim).collect();
    names.sort_unstable();
    if names.windows(2).any(|pair| pair[0] == pair[1]) { Err("Duplicate alias provided.".to_owned()) } else { Ok(()) }
}

/// A pattern that has to match a topic's name as a whole, as Java's `matches` does.
pub fn whole(text: &str) -> Result<Regex, regex::Error> {
    Regex::new(&format!("^(?:{text})$"))
}

/// Keys of every sink connector, in the order in which Kafka Connect tells them.
pub const CONNECTOR_KEYS: [Key; 21] = [
    Key::required("name", Type::String, "The connector's name, unique in its workers' group.")
        .rule(Rule::Check(printable))
        .group(COMMON),
    Key::required(
        "connector.class",
        Type::String,
        "What kind of connector this is: a name of GET /connector-plugins, with or without its package.",
    )
    .group(COMMON),
    Key::new("connector.plugin.version", Type::String, "", "The version of the kind; empty = the one that is there.")
        .group(COMMON),
    Key::new("tasks.max", Type::Int, "1", "How many tasks share the partitions.")
        .rule(Rule::AtLeast(1))
        .importance(Importance::High)
        .group(COMMON),
    Key::new("tasks.max.enforce", Type::Boolean, "true", "Whether more tasks than tasks.max are refused.")
        .importance(Importance::Low)
        .group(COMMON),
    Key::new("key.converter", Type::Class, "", "How keys are read; empty = as the worker says.")
        .importance(Importance::Low)
        .group(COMMON),
    Key::new("value.converter", Type::Class, "", "How values are read; empty = as the worker says.")
        .importance(Importance::Low)
        .group(COMMON),
    Key::new("header.converter", Type::Class, "", "How headers are read; empty = as the worker says.")
        .importance(Importance::Low)
        .group(COMMON),
    Key::new("transforms", Type::List, "", "Names of the transformations that records pass, in order.")
        .rule(Rule::Check(distinct))
        .importance(Importance::Low)
        .group("Transforms"),
    Key::new("predicates", Type::List, "", "Names of the predicates that transformations ask.")
        .rule(Rule::Check(distinct))
        .importance(Importance::Low)
        .group("Predicates"),
    Key::new("config.action.reload", Type::String, "restart", "What happens when a value from outside has changed.")
        .rule(Rule::OneOf(&["none", "restart"]))
        .importance(Importance::Low)
        .group(COMMON),
    Key::new(
        "errors.retry.timeout",
        Type::Long,
        "0",
        "How long a call that failed is tried again, ms; 0 and -1 = a call of the sink for as long as it takes.",
    )
    .group(ERRORS),
    Key::new("errors.retry.delay.max.ms", Type::Long, "60000", "The longest pause between two tries, ms.")
        .group(ERRORS),
    Key::new(
        "errors.tolerance",
        Type::String,
        "none",
        "none: a record that cannot be delivered ends the task; all: it is put aside.",
    )
    .rule(Rule::OneOf(&["none", "all"]))
    .group(ERRORS),
    Key::new("errors.log.enable", Type::Boolean, "false", "Whether records that are put aside are logged.")
        .group(ERRORS),
    Key::new(
        "errors.log.include.messages",
        Type::Boolean,
        "false",
        "Whether that log names topic, partition, offset and time.",
    )
    .group(ERRORS),
    Key::new("topics", Type::List, "", "The topics that are read, separated by commas.")
        .importance(Importance::High)
        .group(COMMON),
    Key::new("topics.regex", Type::String, "", "The topics that are read, as a pattern that their whole name matches.")
        .rule(Rule::Check(pattern))
        .importance(Importance::High)
        .group(COMMON),
    Key::new(
        "errors.deadletterqueue.topic.name",
        Type::String,
        "",
        "The topic for records that cannot be delivered; empty = none.",
    )
    .group(ERRORS),
    Key::new(
        "errors.deadletterqueue.topic.replication.factor",
        Type::Int,
        "3",
        "Replicas of that topic if it has to be made.",
    )
    .group(ERRORS),
    Key::new(
        "errors.deadletterqueue.context.headers.enable",
        Type::Boolean,
        "false",
        "Whether those records say in __connect.errors.* headers what went wrong.",
    )
    .group(ERRORS),
];

/// What is wrong with one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub key: String,
    pub text: String,
}

fn given<'a>(settings: &'a Settings, key: &str) -> Option<&'a str> {
    settings.get(key).map(|v| v.trim()).filter(|v| !v.is_empty())
}

/// The topics that are listed, each once.
pub fn listed_topics(settings: &Settings) -> Vec<String> {
    let mut topics: Vec<String> = given(settings, "topics")
        .unwrap_or("")
        .split(',')
        .map(|t| t.trim().to_owned())
        .filter(|t| !t.is_empty())
        .collect();
    topics.sort_unstable();
    topics.dedup();
    topics
}

/// What the keys of every connector together get wrong.
fn faults_together(settings: &Settings) -> Vec<Fault> {
    let fault = |key: &str, text: String| Fault { key: key.to_owned(), text };
    let mut faults = Vec::new();
    let mut both = |text: String| {
        faults.extend([fault("topics", text.clone()), fault("topics.regex", text)]);
    };
    match (given(settings, "topics"), given(settings, "topics.regex")) {
        (Some(_), Some(_)) => {
            both("topics and topics.regex are mutually exclusive options, but both are set.".to_owned())
        }
        (None, None) => both("Must configure one of topics or topics.regex".to_owned()),
        (topics, regex) => {
            let letters = given(settings, "errors.deadletterqueue.topic.name").unwrap_or("");
            if topics.is_some() && listed_topics(settings).iter().any(|t| t == letters) {
                let text = format!(
                    "The DLQ topic '{letters}' may not be included in the list of topics consumed by the connector"
                );
                faults.push(fault("topics", text));
            }
            let matches = regex.and_then(|r| whole(r).ok()).is_some_and(|r| !letters.is_empty() && r.is_match(letters));
            if matches {
                let text = format!(
                    "The DLQ topic '{letters}' may not be matched by the regex for the topics consumed by the connector"
                );
                faults.push(fault("topics.regex", text));
            }
        }
    }
    faults
}

/// What a worker allows its connectors.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    pub urls: Arc<UrlPolicy>,
    pub providers: Arc<Providers>,
}

/// Keys of every connector and of this kind.
pub fn keys_of(kind: &dyn SinkKind) -> Vec<Key> {
    CONNECTOR_KEYS.iter().chain(kind.keys()).copied().collect()
}

/// All that is wrong with a connector's settings, in the order of the keys, without secrets. A value that a provider will give is
/// judged when a task starts.
pub fn faults(kind: &dyn SinkKind, settings: &Settings, allowed: &Allowed) -> Vec<Fault> {
    let secrets = Secrets::of(&keys_of(kind), settings, &[]);
    let discreet = |fault: Fault| Fault { text: secrets.blot(&fault.text), ..fault };
    all_faults(kind, settings, allowed).into_iter().map(discreet).collect()
}

fn all_faults(kind: &dyn SinkKind, settings: &Settings, allowed: &Allowed) -> Vec<Fault> {
    let is_open = |value: &String| allowed.providers.has_reference(value);
    let keys = CONNECTOR_KEYS.iter().chain(kind.keys());
    let alone = keys.filter(|key| !settings.get(key.name).is_some_and(is_open)).filter_map(|key| {
        let text = key.fault(settings.get(key.name).map(String::as_str))?;
        Some(Fault { key: key.name.to_owned(), text })
    });
    let mut all: Vec<Fault> = alone.collect();
    all.extend(faults_together(settings));
    let is_converter = |(key, value): (&String, &String)| key.contains(".converter") && is_open(value);
    if !settings.iter().any(is_converter) {
        for key in ["key.converter", "value.converter"] {
            if let Err(text) = Converter::configured(settings, key, &allowed.urls) {
                all.push(Fault { key: key.to_owned(), text });
            }
        }
    }
    for (key, to) in all_destinations(kind, settings) {
        if settings.get(&key).is_some_and(is_open) {
            continue;
        }
        let refusal = allowed.urls.admit_destination(&to).err().map(|refused| Fault { key, text: refused.to_string() });
        all.extend(refusal.filter(|fault| !all.contains(fault)));
    }
    let is_transform = |(key, value): (&String, &String)| {
        (key.starts_with("transforms") || key.starts_with("predicates")) && is_open(value)
    };
    if !settings.iter().any(is_transform) {
        all.extend(transform::keys::faults(settings).into_iter().map(|(key, text)| Fault { key, text }));
    }
    if all.is_empty() && !settings.values().any(is_open) {
        all.extend(kind.faults(settings).into_iter().map(|(key, text)| Fault { key, text }));
    }
    all
}

/// Settings with every password hidden, and those in URLs.
pub fn masked(registry: &Registry, settings: &Settings) -> Settings {
    let kind = settings.get("connector.class").and_then(|class| registry.find(class));
    let keys = kind.map_or_else(|| CONNECTOR_KEYS.to_vec(), |kind| keys_of(&**kind));
    let shown = |(name, value): (&String, &String)| {
        let hidden = is_secret(name, &keys) && !value.is_empty();
        let value = if hidden { HIDDEN.to_owned() } else { without_userinfo(value).into_owned() };
        (name.clone(), value)
    };
    settings.iter().map(shown).collect()
}

/// A value that was read masked and comes back so means the one that is kept.
pub fn unmasked(registry: &Registry, kept: Option<&Settings>, mut posted: Settings) -> Settings {
    let Some(kept) = kept else { return posted };
    let shown = masked(registry, kept);
    for (name, value) in &mut posted {
        if value.contains(HIDDEN)
            && shown.get(name) == Some(value)
            && let Some(old) = kept.get(name)
        {
            value.clone_from(old);
        }
    }
    posted
}

/// The answer to `config/validate`.
pub fn validation(kind: &dyn SinkKind, settings: &Settings, allowed: &Allowed) -> Value {
    let all = faults(kind, settings, allowed);
    let own = CONNECTOR_KEYS.iter().chain(kind.keys());
    let own = own.map(|key| Named { name: key.name.to_owned(), group: key.group.to_owned(), key: *key });
    let mut configs = Vec::new();
    let mut groups: Vec<String> = Vec::new();
    for (order, named) in own.chain(transform::keys::definitions(settings)).enumerate() {
        let Named { name, group, key } = named;
        let errors: Vec<String> = all.iter().filter(|f| f.key == name).map(|f| f.text.clone()).collect();
        let value = settings.get(&name).map(String::as_str);
        configs.push(validated_as(&name, &group, &key, order + 1, value, &errors));
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    json!({ "name": kind.class(), "error_count": all.len(), "groups": groups, "configs": configs })
}

/// The definitions of a kind's keys, as `GET /connector-plugins/{p}/config` tells them.
pub fn definitions(kind: &dyn SinkKind) -> Value {
    let none = Settings::new();
    let keys = CONNECTOR_KEYS.iter().chain(kind.keys()).enumerate();
    keys.map(|(order, key)| {
        validated(key, order + 1, none.get(key.name).map(String::as_str), &[])["definition"].clone()
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::built_in;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn texts(pairs: &[(&str, &str)]) -> Vec<String> {
        let registry = built_in();
        let kind = registry.find("FileStreamSinkConnector").unwrap();
        faults(&**kind, &settings(pairs), &Allowed::default())
            .into_iter()
            .map(|f| format!("{}: {}", f.key, f.text))
            .collect()
    }

    const GOOD: [(&str, &str); 4] =
        [("name", "n"), ("connector.class", "FileStreamSink"), ("file", "/f"), ("topics", "a,b")];

    #[test]
    fn a_right_configuration_has_no_faults() {
        assert_eq!(texts(&GOOD), Vec::<String>::new());
    }

    #[test]
    fn topics_come_from_one_of_two_keys() {
        let none = texts(&GOOD[..3]);
        assert_eq!(none.len(), 2, "{none:?}");
        assert!(none[0].contains("Must configure one of topics or topics.regex"));
        let both = texts(&[&GOOD[..], &[("topics.regex", "x")]].concat());
        assert!(both.iter().any(|t| t.contains("mutually exclusive")), "{both:?}");
    }

    #[test]
    fn the_dead_letter_queue_is_not_read() {
        let listed = texts(&[&GOOD[..], &[("errors.deadletterqueue.topic.name", "b")]].concat());
        assert!(listed[0].starts_with("topics: The DLQ topic 'b'"), "{listed:?}");
        let matched =
            texts(&[&GOOD[..3], &[("topics.regex", "b.*"), ("errors.deadletterqueue.topic.name", "bad")]].concat());
        assert!(matched[0].starts_with("topics.regex: The DLQ topic 'bad'"), "{matched:?}");
    }

    #[test]
    fn a_converters_password_is_masked_and_its_faults_are_the_connectors() {
        let registry = built_in();
        let password = ("value.converter.basic.auth.user.info", "me:hunter2");
        let given = [&GOOD[..], &[("value.converter", "avro"), password]].concat();
        assert!(!format!("{:?}", masked(&registry, &settings(&given))).contains("hunter2"));
        let told = texts(&given);
        assert!(told.len() == 1 && told[0].contains("value.converter.schema.registry.url"), "{told:?}");
    }

    #[test]
    fn no_destination_leads_to_what_is_forbidden() {
        let registry = built_in();
        let kind = registry.find("object-store").unwrap();
        let given = [
            ("name", "n"),
            ("connector.class", "object-store"),
            ("topics", "t"),
            ("s3.bucket.name", "b"),
            ("aws.s3.endpoint", "http:169.254.169.254"),
        ];
        let told = faults(&**kind, &settings(&given), &Allowed::default());
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].key == "aws.s3.endpoint" && told[0].text.contains("connect.url.allowlist"), "{told:?}");
        // A region is part of a host's name.
        let given = [&given[..4], &[("s3.region", "x@169.254.169.254/")]].concat();
        let told = faults(&**kind, &settings(&given), &Allowed::default());
        assert_eq!(told[0].key, "s3.region", "{told:?}");
    }

    #[test]
    fn a_file_is_written_where_the_list_says() {
        let registry = built_in();
        let kind = registry.find("FileStreamSink").unwrap();
        let urls = Arc::new(UrlPolicy::parse("file:///allowed").unwrap());
        let told = faults(&**kind, &settings(&GOOD), &Allowed { urls, ..Allowed::default() });
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].key, "file");
    }

    #[test]
    fn what_is_hidden_comes_back_as_it_was() {
        let registry = built_in();
        let kept = settings(&[
            ("connector.class", "object-store"),
            ("aws.secret.access.key", "hunter2"),
            ("store.url", "http://joe:pw@host/x"),
            ("consumer.override.sasl.jaas.config", "secret"),
        ]);
        let mut shown = masked(&registry, &kept);
        assert!(!format!("{shown:?}").contains("hunter2") && !format!("{shown:?}").contains("pw@"), "{shown:?}");
        assert_eq!(shown["consumer.override.sasl.jaas.config"], HIDDEN);
        assert_eq!(unmasked(&registry, Some(&kept), shown.clone()), kept);
        // Another host does not get the password of the one that was kept.
        shown.insert("store.url".to_owned(), "http://joe:[hidden]@other/x".to_owned());
        assert!(!unmasked(&registry, Some(&kept), shown)["store.url"].contains("pw"));
    }

    #[test]
    fn values_from_outside_are_judged_when_a_task_starts() {
        let registry = built_in();
        let kind = registry.find("FileStreamSink").unwrap();
        let worker = settings(&[("config.providers", "env"), ("config.providers.env.param.allowlist.pattern", ".*")]);
        let providers = Arc::new(Providers::parse(&worker).unwrap());
        let given = [&GOOD[..], &[("tasks.max", "${env:TASKS}")]].concat();
        let allowed = Allowed { providers, ..Allowed::default() };
        assert_eq!(faults(&**kind, &settings(&given), &allowed), []);
        assert_eq!(faults(&**kind, &settings(&given), &Allowed::default()).len(), 1, "without a provider it is a text");
    }

    #[test]
    fn validation_counts_the_errors_and_shows_every_key() {
        let registry = built_in();
        let kind = registry.find("FileStreamSink").unwrap();
        let answer =
            validation(&**kind, &settings(&[("name", "n"), ("topics", "t"), ("tasks.max", "0")]), &Allowed::default());
        assert_eq!(answer["error_count"], 3, "{answer}");
        let configs = answer["configs"].as_array().unwrap();
        assert_eq!(configs.len(), CONNECTOR_KEYS.len() + kind.keys().len());
        let tasks = configs.iter().find(|c| c["value"]["name"] == "tasks.max").unwrap();
        assert_eq!(tasks["value"]["errors"].as_array().unwrap().len(), 1);
    }
}
