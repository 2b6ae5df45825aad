//! CreateTopics, DeleteTopics, CreatePartitions.

use std::collections::BTreeMap;
use std::sync::Arc;

use strandline_controller::request::{NewPartitions, NewTopic, Refused, Request, Response};
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::TopicId;
use strandline_protocol::messages::create_partitions_request::CreatePartitionsRequest;
use strandline_protocol::messages::create_partitions_response::{
    CreatePartitionsResponse, CreatePartitionsTopicResult,
};
use strandline_protocol::messages::create_topics_request::{CreatableTopic, CreateTopicsRequest};
use strandline_protocol::messages::create_topics_response::{
    CreatableTopicConfigs, CreatableTopicResult, CreateTopicsResponse,
};
use strandline_protocol::messages::delete_topics_request::DeleteTopicsRequest;
use strandline_protocol::messages::delete_topics_response::{DeletableTopicResult, DeleteTopicsResponse};
use uuid::Uuid;

use super::Call;
use crate::broker::Broker;
use crate::topic_configs::{self, Source};

pub(super) async fn create(broker: Arc<Broker>, _call: Call, request: CreateTopicsRequest) -> CreateTopicsResponse {
    let mut wanted = Vec::new();
    let mut checked = Vec::new();
    for topic in &request.topics {
        let new = new_topic(&broker, topic);
        if let Ok(new) = &new {
            wanted.push(new.clone());
        }
        checked.push(new);
    }
    let created = broker.create_topics(wanted, request.validate_only).await;
    let mut created = created.into_iter();
    let topics = request
        .topics
        .iter()
        .zip(checked)
        .map(|(topic, new)| {
            let outcome = new.and_then(|new| {
                let none = || Err(Refused::new(ErrorCode::UnknownServerError, "no answer from the controller"));
                created.next().unwrap_or_else(none).map(|created| (new, created))
            });
            match outcome {
                Err(refused) => CreatableTopicResult {
                    name: topic.name.clone(),
                    error_code: refused.code.code(),
                    error_message: Some(refused.message),
                    ..Default::default()
                },
                Ok((new, created)) => CreatableTopicResult {
                    name: topic.name.clone(),
                    topic_id: if request.validate_only { Uuid::nil() } else { created.topic_id.0 },
                    num_partitions: created.partitions,
                    replication_factor: created.replication_factor,
                    configs: Some(described(&broker, &new.configs)),
                    ..Default::default()
                },
            }
        })
        .collect();
    CreateTopicsResponse { topics, ..Default::default() }
}

fn new_topic(broker: &Broker, topic: &CreatableTopic) -> Result<NewTopic, Refused> {
    let mut configs = BTreeMap::new();
    for config in &topic.configs {
        // A null value means the default.
        if let Some(value) = &config.value {
            configs.insert(config.name.clone(), value.clone());
        }
    }
    topic_configs::check(broker, &topic.name, &configs)?;
    if !topic.assignments.is_empty() && (topic.num_partitions != -1 || topic.replication_factor != -1) {
        let message =
            "A manual partition assignment was specified, but numPartitions or replicationFactor was not set to -1.";
        return Err(Refused::new(ErrorCode::InvalidRequest, message));
    }
    let replication_factor = match topic.replication_factor {
        -1 => broker.config.default_replication_factor,
        factor => factor,
    };
    Ok(NewTopic {
        name: topic.name.clone(),
        topic_id: TopicId(Uuid::new_v4()),
        partitions: if topic.num_partitions == -1 { broker.config.num_partitions } else { topic.num_partitions },
        replication_factor,
        assignments: topic.assignments.iter().map(|a| (a.partition_index, a.broker_ids.clone())).collect(),
        configs,
    })
}

fn described(broker: &Broker, configs: &BTreeMap<String, String>) -> Vec<CreatableTopicConfigs> {
    topic_configs::all(broker, configs)
        .into_iter()
        .map(|c| CreatableTopicConfigs {
            name: c.name.to_owned(),
            value: Some(c.value),
            config_source: match c.source {
                Source::Topic => 1,
                Source::StaticBroker => 4,
                Source::Default => 5,
            },
            ..Default::default()
        })
        .collect()
}

pub(super) async fn delete(broker: Arc<Broker>, call: Call, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let image = broker.image();
    // Up to version 5 names only; later names or ids.
    let named = request.topic_names.iter().map(|name| (Some(name.clone()), None));
    let either = request.topics.iter().map(|t| match &t.name {
        Some(name) => (Some(name.clone()), None),
        None => (None, Some(TopicId(t.topic_id))),
    });
    let asked: Vec<(Option<String>, Option<TopicId>)> =
        if call.version < 6 { named.collect() } else { either.collect() };
    let found: Vec<Result<(String, TopicId), ErrorCode>> = asked
        .iter()
        .map(|(name, id)| {
            if !broker.config.delete_topics {
                return Err(ErrorCode::TopicDeletionDisabled);
            }
            match (name, id) {
                (Some(name), _) => {
                    image.topic(name).map(|t| (name.clone(), t.id)).ok_or(ErrorCode::UnknownTopicOrPartition)
                }
                (None, Some(id)) => {
                    image.live_topic(*id).map(|t| (t.name.to_string(), t.id)).ok_or(ErrorCode::UnknownTopicId)
                }
                (None, None) => Err(ErrorCode::InvalidRequest),
            }
        })
        .collect();
    let topic_ids: Vec<TopicId> = found.iter().flatten().map(|(_, id)| *id).collect();
    let mut outcomes = match broker.ask(Request::DeleteTopics { topic_ids: topic_ids.clone() }).await {
        Ok(Response::DeleteTopics(outcomes)) => outcomes,
        Ok(_) => vec![Err(Refused::new(ErrorCode::UnknownServerError, "unexpected answer")); topic_ids.len()],
        Err(refused) => vec![Err(refused); topic_ids.len()],
    }
    .into_iter();
    let responses = asked
        .into_iter()
        .zip(found)
        .map(|((name, id), found)| {
            let outcome = match &found {
                Err(code) => Err(*code),
                Ok(_) => outcomes.next().unwrap_or(Ok(())).map_err(|r| r.code),
            };
            let (name, id) = match found {
                Ok((name, id)) => (Some(name), id),
                Err(_) => (name, id.unwrap_or_default()),
            };
            let code = outcome.err().unwrap_or(ErrorCode::None);
            DeletableTopicResult {
                name,
                topic_id: id.0,
                error_code: code.code(),
                error_message: (code != ErrorCode::None).then(|| code.message().to_owned()),
                ..Default::default()
            }
        })
        .collect();
    DeleteTopicsResponse { responses, ..Default::default() }
}

pub(super) async fn create_partitions(
    broker: Arc<Broker>,
    _call: Call,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let topics: Vec<NewPartitions> = request
        .topics
        .iter()
        .map(|t| NewPartitions {
            name: t.name.clone(),
            count: t.count,
            assignments: t.assignments.iter().flatten().map(|a| a.broker_ids.clone()).collect(),
        })
        .collect();
    let count = topics.len();
    let asked = Request::CreatePartitions { topics, validate_only: request.validate_only };
    let outcomes = match broker.ask(asked).await {
        Ok(Response::CreatePartitions(outcomes)) => outcomes,
        Ok(_) => vec![Err(Refused::new(ErrorCode::UnknownServerError, "unexpected answer")); count],
        Err(refused) => vec![Err(refused); count],
    };
    let results = request
        .topics
        .iter()
        .zip(outcomes)
        .map(|(topic, outcome)| {
            let refused = outcome.err();
            CreatePartitionsTopicResult {
                name: topic.name.clone(),
                error_code: refused.as_ref().map_or(ErrorCode::None, |r| r.code).code(),
                error_message: refused.map(|r| r.message),
                ..Default::default()
            }
        })
        .collect();
    CreatePartitionsResponse { results, ..Default::default() }
}
