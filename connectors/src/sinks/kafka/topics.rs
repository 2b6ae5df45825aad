//! Topics of the other cluster: looked for, made, given more partitions.
//!
//! Owns nothing: the cluster does. A topic that somebody else makes at the same time is as good as one that was made here.

use strandline_client::{CallError, Cluster};
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::messages::create_partitions_request::{CreatePartitionsRequest, CreatePartitionsTopic};
use strandline_protocol::messages::create_topics_request::{CreatableTopic, CreateTopicsRequest};

use super::keys::Config;
use crate::sink::SinkError;

fn unreachable(error: &CallError) -> SinkError {
    let text = format!("the target cluster: {error}");
    if error.retryable() { SinkError::Retriable(text) } else { SinkError::Fatal(text) }
}

/// Sees that a topic has at least `partitions`. Err(Retriable) also when it was made a moment ago and its leaders are not known yet.
pub async fn ready(cluster: &Cluster, config: &Config, topic: &str, partitions: i32) -> Result<(), SinkError> {
    let found = cluster.leaders(topic, false).await.map_err(|e| unreachable(&e))?;
    let there = match &found {
        Ok(leaders) => i32::try_from(leaders.len()).unwrap_or(i32::MAX),
        Err(ErrorCode::UnknownTopicOrPartition) => 0,
        Err(code) if code.retriable() => {
            return Err(SinkError::Retriable(format!("the target topic {topic}: {code:?}")));
        }
        Err(code) => return Err(SinkError::Fatal(format!("the target topic {topic} cannot be used: {code:?}"))),
    };
    if there >= partitions {
        return Ok(());
    }
    if !config.create {
        return Err(SinkError::Fatal(format!(
            "make the topic {topic} with at least {partitions} partitions in the target cluster (it has {there}), or set \
             topic.creation.enable=true, then restart the task"
        )));
    }
    let (code, message) = match there {
        0 => create(cluster, config, topic, config.partitions.unwrap_or(1).max(partitions)).await,
        _ => widen(cluster, topic, partitions).await,
    }
    .map_err(|e| unreachable(&e))?;
    match code {
        // Somebody else was first: what is there now is looked at by the next try.
        ErrorCode::None | ErrorCode::TopicAlreadyExists | ErrorCode::InvalidPartitions => {
            Err(SinkError::Retriable(format!("the target topic {topic} was made and is looked for")))
        }
        code if code.retriable() => Err(SinkError::Retriable(format!("the target topic {topic}: {code:?}"))),
        code => Err(SinkError::Fatal(format!(
            "make the topic {topic} with {partitions} partitions in the target cluster yourself, then restart the task: {}",
            message.unwrap_or_else(|| format!("{code:?}"))
        ))),
    }
}

type Answer = Result<(ErrorCode, Option<String>), CallError>;

fn code(code: i16) -> ErrorCode {
    ErrorCode::from_code(code).unwrap_or(ErrorCode::UnknownServerError)
}

async fn create(cluster: &Cluster, config: &Config, topic: &str, partitions: i32) -> Answer {
    let request = CreateTopicsRequest {
        topics: vec![CreatableTopic {
            name: topic.to_owned(),
            num_partitions: partitions,
            replication_factor: config.replication_factor,
            ..Default::default()
        }],
        timeout_ms: i32::try_from(cluster.deadline().as_millis()).unwrap_or(i32::MAX),
        ..Default::default()
    };
    let answer = cluster.ask(&request).await?.topics.into_iter().next();
    Ok(answer.map_or((ErrorCode::UnknownServerError, None), |t| (code(t.error_code), t.error_message)))
}

async fn widen(cluster: &Cluster, topic: &str, partitions: i32) -> Answer {
    let request = CreatePartitionsRequest {
        topics: vec![CreatePartitionsTopic { name: topic.to_owned(), count: partitions, assignments: None }],
        timeout_ms: i32::try_from(cluster.deadline().as_millis()).unwrap_or(i32::MAX),
        ..Default::default()
    };
    let answer = cluster.ask(&request).await?.results.into_iter().next();
    Ok(answer.map_or((ErrorCode::UnknownServerError, None), |t| (code(t.error_code), t.error_message)))
}
