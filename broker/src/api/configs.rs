//! DescribeConfigs, AlterConfigs, IncrementalAlterConfigs, ListConfigResources.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use strandline_controller::decide::resulting_configs;
use strandline_controller::record::ResourceType;
use strandline_controller::request::{AlterConfigs, ConfigOp, Refused, Request, Response};
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::validate_topic_name;
use strandline_protocol::messages::alter_configs_request::AlterConfigsRequest;
use strandline_protocol::messages::alter_configs_response::{AlterConfigsResourceResponse, AlterConfigsResponse};
use strandline_protocol::messages::describe_configs_request::{DescribeConfigsRequest, DescribeConfigsResource};
use strandline_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResponse, DescribeConfigsResult, DescribeConfigsSynonym,
};
use strandline_protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};
use strandline_protocol::messages::incremental_alter_configs_response::{
    AlterConfigsResourceResponse as IncrementalResourceResponse, IncrementalAlterConfigsResponse,
};
use strandline_protocol::messages::list_config_resources_request::ListConfigResourcesRequest;
use strandline_protocol::messages::list_config_resources_response::{ConfigResource, ListConfigResourcesResponse};

use super::{Call, MALFORMED};
use crate::broker::Broker;
use crate::replication::throttle::RATES;
use crate::topic_configs::{self, Source, TopicSetting};

/// Kafka's `ConfigSource` numbers.
const TOPIC_CONFIG: i8 = 1;
const DYNAMIC_BROKER_CONFIG: i8 = 2;
const DYNAMIC_DEFAULT_BROKER_CONFIG: i8 = 3;
const STATIC_BROKER_CONFIG: i8 = 4;
const DEFAULT_CONFIG: i8 = 5;
/// Kafka's `ConfigResource.Type`s that have no settings here.
const BROKER_LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;

pub(super) async fn describe(
    broker: Arc<Broker>,
    _call: Call,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let results = request
        .resources
        .iter()
        .map(|resource| {
            let described = describe_one(&broker, resource, request.include_synonyms);
            let (configs, refused) = match described {
                Ok(configs) => (configs, None),
                Err(refused) => (Vec::new(), Some(refused)),
            };
            DescribeConfigsResult {
                error_code: refused.as_ref().map_or(ErrorCode::None, |r| r.code).code(),
                // Kafka tells an empty text where nothing is wrong.
                error_message: Some(refused.map_or_else(String::new, |r| r.message)),
                resource_type: resource.resource_type,
                resource_name: resource.resource_name.clone(),
                configs,
                ..Default::default()
            }
        })
        .collect();
    DescribeConfigsResponse { results, ..Default::default() }
}

fn describe_one(
    broker: &Broker,
    resource: &DescribeConfigsResource,
    synonyms: bool,
) -> Result<Vec<DescribeConfigsResourceResult>, Refused> {
    let image = broker.image();
    let name = resource.resource_name.as_str();
    let kind = ResourceType::from_id(resource.resource_type)
        .ok_or_else(|| Refused::new(ErrorCode::InvalidRequest, MALFORMED))?;
    let all = match kind {
        ResourceType::Topic => {
            check_topic_name(name)?;
            if image.topic(name).is_none() {
                return Err(Refused::new(ErrorCode::UnknownTopicOrPartition, ""));
            }
            let none = BTreeMap::new();
            let own = image.configs(ResourceType::Topic, name).map_or(&none, |m| m);
            topic_configs::all(broker, own).into_iter().map(|c| topic_entry(broker, c, synonyms)).collect()
        }
        ResourceType::Broker => describe_broker(broker, name, synonyms)?,
        ResourceType::Group => {
            let own = image.configs(ResourceType::Group, name);
            own.into_iter()
                .flat_map(|m| m.iter())
                .map(|(k, v)| entry(k, Some(v.clone()), DYNAMIC_BROKER_CONFIG, false, synonyms))
                .collect()
        }
    };
    Ok(match &resource.configuration_keys {
        None => all,
        Some(keys) if keys.is_empty() => all,
        Some(keys) => all.into_iter().filter(|c| keys.contains(&c.name)).collect(),
    })
}

fn check_topic_name(name: &str) -> Result<(), Refused> {
    validate_topic_name(name).map_err(|invalid| Refused::new(ErrorCode::InvalidTopicException, invalid.to_string()))
}

fn source_number(source: Source) -> i8 {
    match source {
        Source::Topic => TOPIC_CONFIG,
        Source::StaticBroker => STATIC_BROKER_CONFIG,
        Source::Default => DEFAULT_CONFIG,
    }
}

fn topic_entry(broker: &Broker, setting: TopicSetting, synonyms: bool) -> DescribeConfigsResourceResult {
    let mut others = Vec::new();
    if synonyms {
        if setting.source == Source::Topic {
            others.push((setting.name, setting.value.clone(), Source::Topic));
        }
        others.extend(topic_configs::server_values(&broker.config, setting.name));
    }
    let synonyms = others.into_iter().map(|(name, value, source)| DescribeConfigsSynonym {
        name: name.to_owned(),
        value: Some(value),
        source: source_number(source),
        ..Default::default()
    });
    DescribeConfigsResourceResult {
        name: setting.name.to_owned(),
        config_type: topic_configs::kind(setting.name),
        value: Some(setting.value),
        config_source: source_number(setting.source),
        synonyms: synonyms.collect(),
        documentation: None,
        ..Default::default()
    }
}

fn describe_broker(broker: &Broker, name: &str, synonyms: bool) -> Result<Vec<DescribeConfigsResourceResult>, Refused> {
    let image = broker.image();
    let dynamic = |name: &str| {
        let own = image.configs(ResourceType::Broker, name);
        own.into_iter().flat_map(|m| m.iter()).map(|(k, v)| (k.clone(), v.clone())).collect::<BTreeMap<_, _>>()
    };
    let mut entries = BTreeMap::new();
    if !name.is_empty() {
        let Ok(id) = name.parse::<i32>() else {
            let message = format!("Broker id must be an integer, but it is: {name}");
            return Err(Refused::new(ErrorCode::InvalidRequest, message));
        };
        if id != broker.config.node_id {
            let message = format!(
                "Unexpected broker id, expected {} or empty string, but received {name}",
                broker.config.node_id
            );
            return Err(Refused::new(ErrorCode::InvalidRequest, message));
        }
        for (key, value) in &broker.config.given {
            entries.insert(key.clone(), (Some(value.clone()), STATIC_BROKER_CONFIG, true));
        }
        for (key, value) in broker.config_in_use() {
            entries.entry(key.to_owned()).or_insert((Some(value), DEFAULT_CONFIG, true));
        }
    }
    entries.extend(dynamic("").into_iter().map(|(k, v)| (k, (Some(v), DYNAMIC_DEFAULT_BROKER_CONFIG, false))));
    if !name.is_empty() {
        entries.extend(dynamic(name).into_iter().map(|(k, v)| (k, (Some(v), DYNAMIC_BROKER_CONFIG, false))));
    }
    Ok(entries.into_iter().map(|(k, (v, source, read_only))| entry(&k, v, source, read_only, synonyms)).collect())
}

/// Values of these keys are never answered.
fn is_sensitive(name: &str) -> bool {
    ["secret", "password", "access.key", "token", "credential"].iter().any(|part| name.contains(part))
}

fn entry(
    name: &str,
    value: Option<String>,
    source: i8,
    read_only: bool,
    synonyms: bool,
) -> DescribeConfigsResourceResult {
    let sensitive = is_sensitive(name);
    let value = value.filter(|_| !sensitive);
    let synonyms = if synonyms {
        vec![DescribeConfigsSynonym { name: name.to_owned(), value: value.clone(), source, ..Default::default() }]
    } else {
        Vec::new()
    };
    DescribeConfigsResourceResult {
        name: name.to_owned(),
        config_type: config_type(value.as_deref()),
        value,
        read_only,
        config_source: source,
        is_sensitive: sensitive,
        synonyms,
        documentation: None,
        ..Default::default()
    }
}

/// Kafka's `ConfigDef.Type` number, told from the value: 1 boolean, 2 string, 5 long, 6 double.
fn config_type(value: Option<&str>) -> i8 {
    match value {
        Some("true" | "false") => 1,
        Some(v) if v.parse::<i64>().is_ok() => 5,
        Some(v) if v.parse::<f64>().is_ok() => 6,
        _ => 2,
    }
}

fn resource_type(id: i8) -> Result<ResourceType, Refused> {
    ResourceType::from_id(id)
        .ok_or_else(|| Refused::new(ErrorCode::InvalidRequest, format!("Unknown resource type {id}")))
}

pub(super) async fn alter_incrementally(
    broker: Arc<Broker>,
    _call: Call,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let repeated = repeated(request.resources.iter().map(|r| (r.resource_type, r.resource_name.as_str())));
    let wanted: Vec<Result<AlterConfigs, Refused>> = request
        .resources
        .iter()
        .map(|resource| {
            refuse_repeated(repeated.contains(&(resource.resource_type, resource.resource_name.as_str())))?;
            let mut ops = BTreeMap::new();
            for config in &resource.configs {
                let op = operation(&broker, resource, config)?;
                refuse_repeated_key(ops.insert(config.name.clone(), op).is_some())?;
            }
            checked(&broker, resource.resource_type, &resource.resource_name, ops, false)
        })
        .collect();
    let outcomes = carry_out(&broker, wanted, request.validate_only).await;
    let responses = request
        .resources
        .iter()
        .zip(outcomes)
        .map(|(resource, outcome)| IncrementalResourceResponse {
            error_code: outcome.as_ref().err().map_or(ErrorCode::None, |r| r.code).code(),
            error_message: outcome.err().map(|r| r.message),
            resource_type: resource.resource_type,
            resource_name: resource.resource_name.clone(),
            ..Default::default()
        })
        .collect();
    IncrementalAlterConfigsResponse { responses, ..Default::default() }
}

/// What comes more than once.
fn repeated<'a>(all: impl Iterator<Item = (i8, &'a str)>) -> BTreeSet<(i8, &'a str)> {
    let mut seen = BTreeSet::new();
    all.filter(|one| !seen.insert(*one)).collect()
}

fn refuse_repeated(repeated: bool) -> Result<(), Refused> {
    if repeated {
        return Err(Refused::new(ErrorCode::InvalidRequest, "Each resource must appear at most once."));
    }
    Ok(())
}

fn refuse_repeated_key(repeated: bool) -> Result<(), Refused> {
    if repeated {
        return Err(Refused::new(ErrorCode::InvalidRequest, "Error due to duplicate config keys"));
    }
    Ok(())
}

fn null_value(key: &str) -> Refused {
    Refused::new(ErrorCode::InvalidRequest, format!("Null value not supported for : {key}"))
}

/// One change of a key. A list that the topic does not have itself is changed from its default.
fn operation(broker: &Broker, resource: &AlterConfigsResource, config: &AlterableConfig) -> Result<ConfigOp, Refused> {
    let key = config.name.as_str();
    let value = || config.value.clone().ok_or_else(|| null_value(key));
    let list = |verb: &str| {
        let topic = resource.resource_type == ResourceType::Topic.id();
        if topic && topic_configs::kind(key) != topic_configs::LIST {
            let message = format!("Can't {verb} to key {key} because its type is not LIST.");
            return Err(Refused::new(ErrorCode::InvalidConfig, message));
        }
        let image = broker.image();
        let own = image.configs(ResourceType::Topic, &resource.resource_name);
        let inherited = topic && !own.is_some_and(|own| own.contains_key(key));
        Ok(inherited.then(|| broker.config.log_defaults.get(key)).flatten())
    };
    match config.config_operation {
        0 => Ok(ConfigOp::Set(value()?)),
        1 => Ok(ConfigOp::Delete),
        2 => {
            let (inherited, value) = (list("APPEND")?, value()?);
            Ok(ConfigOp::Append(inherited.map_or_else(|| value.clone(), |old| format!("{old},{value}"))))
        }
        3 => {
            let (inherited, value) = (list("SUBTRACT")?, value()?);
            let rest = |old: String| {
                let kept = old.split(',').filter(|one| !value.split(',').any(|gone| gone.trim() == *one));
                kept.collect::<Vec<_>>().join(",")
            };
            Ok(inherited.map_or_else(|| ConfigOp::Subtract(value.clone()), |old| ConfigOp::Set(rest(old))))
        }
        other => {
            let message = format!("Unknown alter operation {other} for config {key}");
            Err(Refused::new(ErrorCode::InvalidRequest, message))
        }
    }
}

pub(super) async fn alter(broker: Arc<Broker>, _call: Call, request: AlterConfigsRequest) -> AlterConfigsResponse {
    let repeated = repeated(request.resources.iter().map(|r| (r.resource_type, r.resource_name.as_str())));
    let wanted: Vec<Result<AlterConfigs, Refused>> = request
        .resources
        .iter()
        .map(|resource| {
            refuse_repeated(repeated.contains(&(resource.resource_type, resource.resource_name.as_str())))?;
            let mut ops = BTreeMap::new();
            for config in &resource.configs {
                let value = config.value.clone().ok_or_else(|| null_value(&config.name))?;
                refuse_repeated_key(ops.insert(config.name.clone(), ConfigOp::Set(value)).is_some())?;
            }
            checked(&broker, resource.resource_type, &resource.resource_name, ops, true)
        })
        .collect();
    let outcomes = carry_out(&broker, wanted, request.validate_only).await;
    let responses = request
        .resources
        .iter()
        .zip(outcomes)
        .map(|(resource, outcome)| AlterConfigsResourceResponse {
            error_code: outcome.as_ref().err().map_or(ErrorCode::None, |r| r.code).code(),
            error_message: outcome.err().map(|r| r.message),
            resource_type: resource.resource_type,
            resource_name: resource.resource_name.clone(),
            ..Default::default()
        })
        .collect();
    AlterConfigsResponse { responses, ..Default::default() }
}

/// The change, if what it leads to is valid.
fn checked(
    broker: &Broker,
    resource: i8,
    name: &str,
    ops: BTreeMap<String, ConfigOp>,
    replace_all: bool,
) -> Result<AlterConfigs, Refused> {
    let change = AlterConfigs { resource: resource_type(resource)?, name: name.to_owned(), ops, replace_all };
    match change.resource {
        ResourceType::Topic => check_topic_change(broker, &change)?,
        ResourceType::Broker => check_broker_change(broker, &change)?,
        ResourceType::Group => {}
    }
    Ok(change)
}

fn check_topic_change(broker: &Broker, change: &AlterConfigs) -> Result<(), Refused> {
    let (image, name) = (broker.image(), change.name.as_str());
    if name.is_empty() {
        return Err(Refused::new(ErrorCode::InvalidRequest, "Default topic resources are not allowed."));
    }
    check_topic_name(name)?;
    if image.topic(name).is_none() {
        let message = format!("The topic '{name}' does not exist.");
        return Err(Refused::new(ErrorCode::UnknownTopicOrPartition, message));
    }
    let before = topic_configs::of_topic(&broker.config, &image, name);
    let after = resulting_configs(&image, change);
    topic_configs::check(broker, name, &after)?;
    let after = topic_configs::effective(&broker.config, Some(&after));
    if before.remote_storage_enable && !after.remote_storage_enable && !after.remote_log_delete_on_disable {
        let message = "It is invalid to disable remote storage without deleting remote data. If you want to keep \
                       the remote data and turn to read only, please set `remote.storage.enable=true,\
                       remote.log.copy.disable=true`. If you want to disable remote storage and delete all remote \
                       data, please set `remote.storage.enable=false,remote.log.delete.on.disable=true`.";
        return Err(Refused::new(ErrorCode::InvalidConfig, message));
    }
    Ok(())
}

/// A broker's settings are read at its start: only throttles are changed while it runs, and what else was stored may only
/// be taken away.
fn check_broker_change(broker: &Broker, change: &AlterConfigs) -> Result<(), Refused> {
    if !change.name.is_empty() {
        let Ok(id) = change.name.parse::<i32>() else {
            let message = format!("Node id must be an integer, but it is: {}", change.name);
            return Err(Refused::new(ErrorCode::InvalidRequest, message));
        };
        if id != broker.config.node_id {
            let message =
                format!("Unexpected broker id, expected {}, but received {}", broker.config.node_id, change.name);
            return Err(Refused::new(ErrorCode::InvalidRequest, message));
        }
    }
    let set = |(key, op): (&String, &ConfigOp)| match op {
        ConfigOp::Set(value) if RATES.contains(&key.as_str()) => check_rate(key, value),
        _ => Ok(()),
    };
    change.ops.iter().try_for_each(set)?;
    let fixed: Vec<&str> = change
        .ops
        .iter()
        .filter(|(key, op)| **op != ConfigOp::Delete && !RATES.contains(&key.as_str()))
        .map(|(key, _)| key.as_str())
        .collect();
    if fixed.is_empty() {
        return Ok(());
    }
    let message = format!("Cannot update these configs dynamically: [{}]", fixed.join(", "));
    Err(Refused::new(ErrorCode::InvalidRequest, message))
}

fn check_rate(key: &str, value: &str) -> Result<(), Refused> {
    let reason = match value.trim().parse::<i64>() {
        Err(_) => "Not a number of type LONG",
        Ok(negative) if negative < 0 => "Value must be at least 0",
        Ok(_) => return Ok(()),
    };
    let message = format!("Invalid value {value} for configuration {key}: {reason}");
    Err(Refused::new(ErrorCode::InvalidConfig, message))
}

async fn carry_out(
    broker: &Arc<Broker>,
    wanted: Vec<Result<AlterConfigs, Refused>>,
    validate_only: bool,
) -> Vec<Result<(), Refused>> {
    let resources: Vec<AlterConfigs> = wanted.iter().flatten().cloned().collect();
    let count = resources.len();
    let outcomes = if count == 0 {
        Vec::new()
    } else {
        match broker.ask(Request::AlterConfigs { resources, validate_only }).await {
            Ok(Response::AlterConfigs(outcomes)) => outcomes,
            Ok(_) => vec![Err(Refused::new(ErrorCode::UnknownServerError, "unexpected answer")); count],
            Err(refused) => vec![Err(refused); count],
        }
    };
    let mut outcomes = outcomes.into_iter();
    wanted.into_iter().map(|w| w.and_then(|_| outcomes.next().unwrap_or(Ok(())))).collect()
}

pub(super) async fn list_resources(
    broker: Arc<Broker>,
    call: Call,
    request: ListConfigResourcesRequest,
) -> ListConfigResourcesResponse {
    // Version 0 lists client metrics subscriptions alone, of which there are none here.
    if call.version == 0 {
        return ListConfigResourcesResponse::default();
    }
    if request.resource_types.iter().any(|t| ![2, 4, BROKER_LOGGER, CLIENT_METRICS, 32].contains(t)) {
        let error_code = ErrorCode::UnsupportedVersion.code();
        return ListConfigResourcesResponse { error_code, ..Default::default() };
    }
    let image = broker.image();
    let wanted = |t: ResourceType| request.resource_types.is_empty() || request.resource_types.contains(&t.id());
    let mut config_resources = Vec::new();
    if request.resource_types.is_empty() || request.resource_types.contains(&BROKER_LOGGER) {
        config_resources.extend(image.brokers.keys().map(|id| ConfigResource {
            resource_name: id.to_string(),
            resource_type: BROKER_LOGGER,
            ..Default::default()
        }));
    }
    let mut push = |t: ResourceType, name: String| {
        config_resources.push(ConfigResource { resource_name: name, resource_type: t.id(), ..Default::default() });
    };
    if wanted(ResourceType::Topic) {
        image.topic_ids.keys().for_each(|name| push(ResourceType::Topic, name.to_string()));
    }
    if wanted(ResourceType::Broker) {
        image.brokers.keys().for_each(|id| push(ResourceType::Broker, id.to_string()));
    }
    if wanted(ResourceType::Group) {
        let groups = image.configs.keys().filter(|(t, _)| *t == ResourceType::Group);
        groups.for_each(|(_, name)| push(ResourceType::Group, name.to_string()));
    }
    ListConfigResourcesResponse { config_resources, ..Default::default() }
}
