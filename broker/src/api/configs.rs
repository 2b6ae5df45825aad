//! DescribeConfigs, AlterConfigs, IncrementalAlterConfigs, ListConfigResources.

use std::collections::BTreeMap;
use std::sync::Arc;

use strandline_controller::decide::resulting_configs;
use strandline_controller::record::ResourceType;
use strandline_controller::request::{AlterConfigs, ConfigOp, Refused, Request, Response};
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::messages::alter_configs_request::AlterConfigsRequest;
use strandline_protocol::messages::alter_configs_response::{AlterConfigsResourceResponse, AlterConfigsResponse};
use strandline_protocol::messages::describe_configs_request::{DescribeConfigsRequest, DescribeConfigsResource};
use strandline_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResponse, DescribeConfigsResult, DescribeConfigsSynonym,
};
use strandline_protocol::messages::incremental_alter_configs_request::IncrementalAlterConfigsRequest;
use strandline_protocol::messages::incremental_alter_configs_response::{
    AlterConfigsResourceResponse as IncrementalResourceResponse, IncrementalAlterConfigsResponse,
};
use strandline_protocol::messages::list_config_resources_request::ListConfigResourcesRequest;
use strandline_protocol::messages::list_config_resources_response::{ConfigResource, ListConfigResourcesResponse};

use super::Call;
use crate::broker::Broker;
use crate::topic_configs::{self, Source};

/// Kafka's `ConfigSource` numbers.
const TOPIC_CONFIG: i8 = 1;
const DYNAMIC_BROKER_CONFIG: i8 = 2;
const STATIC_BROKER_CONFIG: i8 = 4;
const DEFAULT_CONFIG: i8 = 5;

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
                error_message: refused.map(|r| r.message),
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
    let all = match resource_type(resource.resource_type)? {
        ResourceType::Topic => {
            if image.topic(name).is_none() {
                let message = format!("The topic '{name}' does not exist.");
                return Err(Refused::new(ErrorCode::UnknownTopicOrPartition, message));
            }
            let none = BTreeMap::new();
            let own = image.configs(ResourceType::Topic, name).map_or(&none, |m| m);
            topic_configs::all(broker, own)
                .into_iter()
                .map(|c| {
                    let source = match c.source {
                        Source::Topic => TOPIC_CONFIG,
                        Source::StaticBroker => STATIC_BROKER_CONFIG,
                        Source::Default => DEFAULT_CONFIG,
                    };
                    entry(c.name, Some(c.value), source, false, synonyms)
                })
                .collect()
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

fn describe_broker(broker: &Broker, name: &str, synonyms: bool) -> Result<Vec<DescribeConfigsResourceResult>, Refused> {
    let image = broker.image();
    let dynamic = |name: &str| {
        let own = image.configs(ResourceType::Broker, name);
        own.into_iter().flat_map(|m| m.iter()).map(|(k, v)| (k.clone(), v.clone())).collect::<BTreeMap<_, _>>()
    };
    let mut entries = BTreeMap::new();
    if !name.is_empty() {
        if name.parse() != Ok(broker.config.node_id) {
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
    for (key, value) in dynamic("").into_iter().chain(if name.is_empty() { BTreeMap::new() } else { dynamic(name) }) {
        entries.insert(key, (Some(value), DYNAMIC_BROKER_CONFIG, false));
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
        config_type: config_type(name, value.as_deref()),
        value,
        read_only,
        config_source: source,
        is_sensitive: sensitive,
        synonyms,
        ..Default::default()
    }
}

/// Kafka's `ConfigDef.Type` number, told from the value: 1 boolean, 2 string, 5 long, 6 double.
fn config_type(name: &str, value: Option<&str>) -> i8 {
    match value {
        _ if name == "cleanup.policy" => 7,
        Some("true" | "false") => 1,
        Some(v) if v.parse::<i64>().is_ok() => 5,
        Some(v) if v.parse::<f64>().is_ok() => 6,
        _ => 2,
    }
}

fn resource_type(id: i8) -> Result<ResourceType, Refused> {
    ResourceType::from_id(id)
        .ok_or_else(|| Refused::new(ErrorCode::InvalidRequest, format!("Unsupported resource type: {id}")))
}

pub(super) async fn alter_incrementally(
    broker: Arc<Broker>,
    _call: Call,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let wanted: Vec<Result<AlterConfigs, Refused>> = request
        .resources
        .iter()
        .map(|resource| {
            let mut ops = BTreeMap::new();
            for config in &resource.configs {
                let value = || config.value.clone().unwrap_or_default();
                let op = match config.config_operation {
                    0 => ConfigOp::Set(value()),
                    1 => ConfigOp::Delete,
                    2 => ConfigOp::Append(value()),
                    3 => ConfigOp::Subtract(value()),
                    other => {
                        let message = format!("Unknown alter operation {other} for config {}", config.name);
                        return Err(Refused::new(ErrorCode::InvalidRequest, message));
                    }
                };
                if ops.insert(config.name.clone(), op).is_some() {
                    let message = format!("Error due to duplicate config keys: {}", config.name);
                    return Err(Refused::new(ErrorCode::InvalidRequest, message));
                }
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

pub(super) async fn alter(broker: Arc<Broker>, _call: Call, request: AlterConfigsRequest) -> AlterConfigsResponse {
    let wanted: Vec<Result<AlterConfigs, Refused>> = request
        .resources
        .iter()
        .map(|resource| {
            let set = |value: &Option<String>| value.clone().map_or(ConfigOp::Delete, ConfigOp::Set);
            let ops = resource.configs.iter().map(|c| (c.name.clone(), set(&c.value))).collect();
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
    if change.resource == ResourceType::Topic {
        let image = broker.image();
        if image.topic(name).is_none() {
            let message = format!("The topic '{name}' does not exist.");
            return Err(Refused::new(ErrorCode::UnknownTopicOrPartition, message));
        }
        let before = topic_configs::of_topic(&broker.config, &image, name);
        let after = resulting_configs(&image, &change);
        topic_configs::check(broker, name, &after)?;
        let after = topic_configs::effective(&broker.config, Some(&after));
        if before.remote_storage_enable && !after.remote_storage_enable && !after.remote_log_delete_on_disable {
            let message = "It is invalid to disable remote storage without deleting remote data. If you want to keep \
                           the remote data and turn to read only, please set `remote.storage.enable=true,\
                           remote.log.copy.disable=true`. If you want to disable remote storage and delete all remote \
                           data, please set `remote.storage.enable=false,remote.log.delete.on.disable=true`.";
            return Err(Refused::new(ErrorCode::InvalidConfig, message));
        }
    }
    Ok(change)
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
    _call: Call,
    request: ListConfigResourcesRequest,
) -> ListConfigResourcesResponse {
    let image = broker.image();
    let wanted = |t: ResourceType| request.resource_types.is_empty() || request.resource_types.contains(&t.id());
    let mut config_resources = Vec::new();
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
