//! CreateTopics, DeleteTopics, CreatePartitions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use strandline_controller::request::{NewPartitions, NewTopic, Refused, Request, Response};
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::{TopicId, validate_topic_name};
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
    let (asked, repeated) = once_each(request.topics, |topic| topic.name.clone());
    for topic in &asked {
        let new = if repeated.contains(&topic.name) {
            Err(Refused::new(ErrorCode::InvalidRequest, DUPLICATE_NAME))
        } else {
            new_topic(&broker, topic)
        };
        if let Ok(new) = &new {
            wanted.push(new.clone());
        }
        checked.push(new);
    }
    let created = broker.create_topics(wanted, request.validate_only).await;
    let mut created = created.into_iter();
    let topics = asked
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
                    // One that is only validated is told an id, too; it comes to nothing.
                    topic_id: created.topic_id.0,
                    error_message: None,
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

const DUPLICATE_NAME: &str = "Duplicate topic name.";

/// The first of each key, and the keys that came more than once: those are refused, with one answer each.
fn once_each<T, K: Ord + Clone>(asked: Vec<T>, key: impl Fn(&T) -> K) -> (Vec<T>, BTreeSet<K>) {
    let (mut seen, mut repeated, mut first) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for one in asked {
        let key = key(&one);
        if seen.insert(key.clone()) {
            first.push(one);
        } else {
            repeated.insert(key);
        }
    }
    (first, repeated)
}

/// What the controller is asked for. A name that it will refuse is not looked at further: the name's fault is told.
fn new_topic(broker: &Broker, topic: &CreatableTopic) -> Result<NewTopic, Refused> {
    let mut configs = BTreeMap::new();
    let may_be_new = validate_topic_name(&topic.name).is_ok() && broker.image().topic(&topic.name).is_none();
    for config in topic.configs.iter().filter(|_| may_be_new) {
        let Some(value) = &config.value else {
            let message = format!("Null value not supported for topic configs: {}", config.name);
            return Err(Refused::new(ErrorCode::InvalidConfig, message));
        };
        configs.insert(config.name.clone(), value.clone());
    }
    if may_be_new {
        check_assignments(topic)?;
        topic_configs::check(broker, &topic.name, &configs)?;
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

/// What is wrong with a manual assignment as such, whatever brokers there are.
fn check_assignments(topic: &CreatableTopic) -> Result<(), Refused> {
    if topic.assignments.is_empty() {
        return Ok(());
    }
    let not_default = |what: &str| {
        let message = format!("A manual partition assignment was specified, but {what} was not set to -1.");
        Err(Refused::new(ErrorCode::InvalidRequest, message))
    };
    if topic.replication_factor != -1 {
        return not_default("replication factor");
    }
    if topic.num_partitions != -1 {
        return not_default("numPartitions");
    }
    let mut seen = BTreeSet::new();
    match topic.assignments.iter().find(|a| !seen.insert(a.partition_index)) {
        None => Ok(()),
        Some(twice) => {
            let message =
                format!("Found multiple manual partition assignments for partition {}", twice.partition_index);
            Err(Refused::new(ErrorCode::InvalidReplicaAssignment, message))
        }
    }
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

/// A topic to be deleted, as it was asked for: up to version 5 by name, later by name or id.
type Named = (Option<String>, TopicId);

pub(super) async fn delete(broker: Arc<Broker>, call: Call, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let asked: Vec<Named> = if call.version < 6 {
        request.topic_names.into_iter().map(|name| (Some(name), TopicId::default())).collect()
    } else {
        request.topics.into_iter().map(|t| (t.name, TopicId(t.topic_id))).collect()
    };
    let resolved = resolve_deletions(&broker, asked);
    let topic_ids: Vec<TopicId> = resolved.iter().filter(|(_, r)| r.is_ok()).map(|((_, id), _)| *id).collect();
    let mut outcomes = match broker.ask(Request::DeleteTopics { topic_ids: topic_ids.clone() }).await {
        Ok(Response::DeleteTopics(outcomes)) => outcomes,
        Ok(_) => vec![Err(Refused::new(ErrorCode::UnknownServerError, "unexpected answer")); topic_ids.len()],
        Err(refused) => vec![Err(refused); topic_ids.len()],
    }
    .into_iter();
    let responses = resolved
        .into_iter()
        .map(|((name, id), found)| {
            let refused = found.and_then(|()| outcomes.next().unwrap_or(Ok(()))).err();
            DeletableTopicResult {
                name,
                topic_id: id.0,
                error_code: refused.as_ref().map_or(ErrorCode::None, |r| r.code).code(),
                error_message: refused.map(|r| r.message),
                ..Default::default()
            }
        })
        .collect();
    DeleteTopicsResponse { responses, ..Default::default() }
}

/// Each topic once, with both its name and its id if it exists, and why it is not deleted.
fn resolve_deletions(broker: &Broker, asked: Vec<Named>) -> Vec<(Named, Result<(), Refused>)> {
    let image = broker.image();
    let refuse = |code: ErrorCode, message: &str| Err(Refused::new(code, message));
    let (asked, repeated) = once_each(asked, Clone::clone);
    let ids: BTreeSet<TopicId> = asked.iter().filter(|(name, _)| name.is_none()).map(|(_, id)| *id).collect();
    let mut resolved = Vec::new();
    let mut named_by_both = BTreeSet::new();
    for (name, id) in asked {
        let nil = id == TopicId::default();
        let topic = match &name {
            Some(name) => image.topic(name),
            None => image.live_topic(id),
        };
        let outcome = match (&name, topic) {
            (None, _) if nil => refuse(ErrorCode::InvalidRequest, "Neither topic name nor id were specified."),
            (Some(_), _) if !nil => {
                refuse(ErrorCode::InvalidRequest, "You may not specify both topic name and topic id.")
            }
            (Some(_), _) if repeated.contains(&(name.clone(), id)) => refuse(ErrorCode::InvalidRequest, DUPLICATE_NAME),
            (None, _) if repeated.contains(&(None, id)) => refuse(ErrorCode::InvalidRequest, "Duplicate topic id."),
            _ if !broker.config.delete_topics => {
                refuse(ErrorCode::TopicDeletionDisabled, "Topic deletion is disabled.")
            }
            (Some(_), None) => {
                refuse(ErrorCode::UnknownTopicOrPartition, "This server does not host this topic-partition.")
            }
            (None, None) => refuse(ErrorCode::UnknownTopicId, "This server does not host this topic ID."),
            (Some(_), Some(topic)) if ids.contains(&topic.id) => {
                named_by_both.insert(topic.id);
                let message = "The provided topic name maps to an ID that was already supplied.";
                refuse(ErrorCode::InvalidRequest, message)
            }
            (_, Some(_)) => Ok(()),
        };
        let named = match (&outcome, topic) {
            (Ok(()), Some(topic)) => (Some(topic.name.to_string()), topic.id),
            (Err(_), Some(topic)) if named_by_both.contains(&topic.id) => (name, topic.id),
            _ => (name, id),
        };
        resolved.push((named, outcome));
    }
    // A topic that was named both ways is answered once.
    resolved.retain(|((_, id), outcome)| outcome.is_err() || !named_by_both.contains(id));
    resolved
}

pub(super) async fn create_partitions(
    broker: Arc<Broker>,
    _call: Call,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let (asked_for, repeated) = once_each(request.topics, |topic| topic.name.clone());
    let topics: Vec<NewPartitions> = asked_for
        .iter()
        .filter(|t| !repeated.contains(&t.name))
        .map(|t| NewPartitions {
            name: t.name.clone(),
            count: t.count,
            assignments: t.assignments.as_ref().map(|all| all.iter().map(|a| a.broker_ids.clone()).collect()),
        })
        .collect();
    let count = topics.len();
    let asked = Request::CreatePartitions { topics, validate_only: request.validate_only };
    let outcomes = match broker.ask(asked).await {
        Ok(Response::CreatePartitions(outcomes)) => outcomes,
        Ok(_) => vec![Err(Refused::new(ErrorCode::UnknownServerError, "unexpected answer")); count],
        Err(refused) => vec![Err(refused); count],
    };
    let mut outcomes = outcomes.into_iter();
    let results = asked_for
        .into_iter()
        .map(|topic| {
            let refused = if repeated.contains(&topic.name) {
                Some(Refused::new(ErrorCode::InvalidRequest, DUPLICATE_NAME))
            } else {
                outcomes.next().and_then(Result::err)
            };
            CreatePartitionsTopicResult {
                name: topic.name,
                error_code: refused.as_ref().map_or(ErrorCode::None, |r| r.code).code(),
                // An unknown topic is told by its code alone.
                error_message: refused.map(|r| r.message).filter(|text| !text.is_empty()),
                ..Default::default()
            }
        })
        .collect();
    CreatePartitionsResponse { results, ..Default::default() }
}
