//! Topic settings as this node sees them: its defaults, the topic's own, and which values may be set.

use std::collections::BTreeMap;

use strandline_controller::image::MetadataImage;
use strandline_controller::record::ResourceType;
use strandline_controller::request::Refused;
use strandline_log::config::LogConfig;
use strandline_protocol::error_code::ErrorCode;

use crate::broker::Broker;
use crate::config::{NodeConfig, server_synonyms};

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Topic,
    /// `server.properties`.
    StaticBroker,
    Default,
}

/// One setting of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSetting {
    pub name: &'static str,
    pub value: String,
    pub source: Source,
}

/// The configuration of a topic with these own settings. Settings that this version does not know (written by a later
/// one) keep their defaults.
pub fn effective(config: &NodeConfig, own: Option<&BTreeMap<String, String>>) -> LogConfig {
    let mut log = config.log_defaults.clone();
    for (name, value) in own.into_iter().flatten() {
        if let Err(error) = log.set(name, value) {
            tracing::warn!(%name, %value, %error, "a stored topic setting is not usable; its default holds");
        }
    }
    log
}

/// The configuration of the topic `name` in `image`.
pub fn of_topic(config: &NodeConfig, image: &MetadataImage, name: &str) -> LogConfig {
    effective(config, image.configs(ResourceType::Topic, name).map(|map| &**map))
}

/// All settings of a topic with these own ones, in name order.
pub fn all(broker: &Broker, own: &BTreeMap<String, String>) -> Vec<TopicSetting> {
    let log = effective(&broker.config, Some(own));
    LogConfig::NAMES
        .iter()
        .map(|name| TopicSetting {
            name,
            // A topic's own is told as it was set: the order of a list is the user's.
            value: own.get(*name).map(|v| v.trim().to_owned()).or_else(|| log.get(name)).unwrap_or_default(),
            source: if own.contains_key(*name) {
                Source::Topic
            } else if broker.config.log_settings.contains_key(*name) {
                Source::StaticBroker
            } else {
                Source::Default
            },
        })
        .collect()
}

/// Kafka's `ConfigDef.Type` number of a topic setting, as in `ConfigResponse`.
pub fn kind(name: &str) -> i8 {
    const BOOLEAN: i8 = 1;
    const STRING: i8 = 2;
    const INT: i8 = 3;
    const LONG: i8 = 5;
    const DOUBLE: i8 = 6;
    match name {
        "cleanup.policy" | "follower.replication.throttled.replicas" | "leader.replication.throttled.replicas" => LIST,
        "compression.type" | "message.timestamp.type" => STRING,
        "min.cleanable.dirty.ratio" => DOUBLE,
        "preallocate"
        | "remote.log.copy.disable"
        | "remote.log.delete.on.disable"
        | "remote.storage.enable"
        | "unclean.leader.election.enable" => BOOLEAN,
        "compression.gzip.level"
        | "compression.lz4.level"
        | "compression.zstd.level"
        | "index.interval.bytes"
        | "max.message.bytes"
        | "min.insync.replicas"
        | "segment.bytes"
        | "segment.index.bytes" => INT,
        _ => LONG,
    }
}

/// [`kind`] of a comma-separated list.
pub const LIST: i8 = 7;

/// Server keys that have no default of their own in Kafka, so that none is told.
const WITHOUT_DEFAULT: [&str; 5] =
    ["log.flush.interval.ms", "log.retention.ms", "log.roll.jitter.ms", "log.roll.ms", "remote.storage.enable"];

/// Where else the value of a topic setting may come from, the strongest first: the server keys that are given, and the
/// default of the first of them.
pub fn server_values(config: &NodeConfig, name: &str) -> Vec<(&'static str, String, Source)> {
    let keys: Vec<_> = server_synonyms().iter().filter(|s| s.topic == name).collect();
    let given = keys.iter().filter_map(|s| Some((s.server, config.given.get(s.server)?.clone(), Source::StaticBroker)));
    let mut values: Vec<_> = given.collect();
    if let Some(first) = keys.first().filter(|s| !WITHOUT_DEFAULT.contains(&s.server)) {
        values.push((first.server, LogConfig::default().get(name).unwrap_or_default(), Source::Default));
    }
    values
}

/// Refuses settings that a topic cannot have, alone or together.
pub fn check(broker: &Broker, topic: &str, own: &BTreeMap<String, String>) -> Result<(), Refused> {
    let refuse = |message: String| Err(Refused::new(ErrorCode::InvalidConfig, message));
    let mut log = broker.config.log_defaults.clone();
    for (name, value) in own {
        if !LogConfig::NAMES.contains(&name.as_str()) {
            return refuse(format!("Unknown topic config name: {name}"));
        }
        if let Err(error) = log.set(name, value) {
            return refuse(error.to_string());
        }
    }
    if let Err(error) = log.validate() {
        return refuse(error.to_string());
    }
    if log.remote_storage_enable && own.contains_key("remote.storage.enable") {
        if !broker.config.remote_storage {
            return refuse(
                "Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log \
                 storage. (Set tier.url in server.properties and restart.)"
                    .to_owned(),
            );
        }
        if log.cleanup_policy.compact {
            return refuse("Remote log storage is not supported for compacted topics".to_owned());
        }
        if crate::auto_topics::is_internal(topic) {
            return refuse(format!("Remote log storage is not supported for the internal topic {topic}"));
        }
    }
    Ok(())
}
