//! `/connectors/{c}/offsets`: the committed offsets of a connector's group.
//!
//! They are changed only while the connector is stopped: then no task can commit over them, and the coordinator refuses them if one still
//! holds a seat.

use bytes::Bytes;
use serde_json::{Value, json};
use strandline_client::group::GroupError;
use strandline_client::group::offsets::{self, Committer, GroupOffsets};
use strandline_protocol::error_code::ErrorCode;

use super::answer::{Answer, Failure};
use super::connectors::body_json;
use crate::task::settings::task_settings;
use crate::worker::Worker;
use crate::worker::records::TargetState;

/// The connector's group, and whether it is stopped.
fn group_of(worker: &Worker, name: &str) -> Result<(String, bool), Failure> {
    let found = worker.topics.with(|image| {
        let connector = image.connectors.get(name)?;
        Some((connector.settings.clone(), connector.target == TargetState::Stopped && connector.tasks.is_empty()))
    });
    let (settings, stopped) = found.ok_or_else(|| Failure::no_such_connector(name))?;
    let options = task_settings(name, &settings, &worker.config.tasks).map_err(|e| Failure::new(400, e))?;
    Ok((options.group, stopped))
}

fn failed(name: &str, error: &GroupError) -> Failure {
    let busy = [ErrorCode::UnknownMemberId, ErrorCode::NonEmptyGroup, ErrorCode::GroupSubscribedToTopic];
    match error {
        GroupError::Refused { code, .. } if busy.contains(code) => Failure::new(
            500,
            format!(
                "Failed to alter consumer group offsets for connector {name} either because its tasks haven't stopped \
                 completely yet or the connector was resumed before the request could be completed. If the connector is in a \
                 stopped state, this operation can be safely retried."
            ),
        ),
        _ => Failure::new(500, format!("the offsets of {name}: {error}")),
    }
}

fn stopped_group(worker: &Worker, name: &str) -> Result<String, Failure> {
    let (group, stopped) = group_of(worker, name)?;
    if stopped {
        return Ok(group);
    }
    Err(Failure::new(
        400,
        format!(
            "Connectors must be in the STOPPED state before their offsets can be modified. This can be done for the specified \
             connector by issuing a 'PUT' request to the '/connectors/{name}/stop' endpoint"
        ),
    ))
}

pub async fn get(worker: &Worker, name: &str) -> Result<Answer, Failure> {
    let (group, _) = group_of(worker, name)?;
    let committed = async {
        let connection = offsets::coordinator_connection(&worker.cluster, &group).await?;
        offsets::fetch(&worker.cluster, &connection, &group).await
    };
    let committed = committed.await.map_err(|e| failed(name, &e))?;
    let one = |((topic, partition), offset): (&(String, i32), &i64)| {
        json!({
            "partition": { "kafka_topic": topic, "kafka_partition": partition },
            "offset": { "kafka_offset": offset },
        })
    };
    Ok(Answer::ok(json!({ "offsets": committed.iter().map(one).collect::<Vec<Value>>() })))
}

fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.trim().parse().ok())
}

/// What is to be set, and what is to be forgotten (offset null).
fn wanted(body: &Value) -> Result<(GroupOffsets, Vec<(String, i32)>), Failure> {
    let all = body["offsets"].as_array().filter(|all| !all.is_empty());
    let all =
        all.ok_or_else(|| Failure::new(400, "Partitions / offsets need to be provided for an alter offsets request"))?;
    let mut set = GroupOffsets::new();
    let mut forget = Vec::new();
    for one in all {
        let topic = one["partition"]["kafka_topic"].as_str();
        let partition = number(&one["partition"]["kafka_partition"]).and_then(|p| i32::try_from(p).ok());
        let (Some(topic), Some(partition)) = (topic, partition.filter(|p| *p >= 0)) else {
            let text =
                "The partition for a sink connector offset must contain the keys 'kafka_topic' and 'kafka_partition'";
            return Err(Failure::new(400, text));
        };
        let name = (topic.to_owned(), partition);
        if one["offset"].is_null() {
            forget.push(name);
            continue;
        }
        match number(&one["offset"]["kafka_offset"]).filter(|o| *o >= 0) {
            Some(offset) => drop(set.insert(name, offset)),
            None => {
                let text = "The offset for a sink connector should either be null or contain the key 'kafka_offset'";
                return Err(Failure::new(400, text));
            }
        }
    }
    Ok((set, forget))
}

pub async fn alter(worker: &Worker, name: &str, body: &Bytes) -> Result<Answer, Failure> {
    let (set, forget) = wanted(&body_json(body)?)?;
    let group = stopped_group(worker, name)?;
    let altered = async {
        let connection = offsets::coordinator_connection(&worker.cluster, &group).await?;
        if !set.is_empty() {
            offsets::commit(&worker.cluster, &connection, &Committer::nobody(&group), &set).await?;
        }
        if !forget.is_empty() {
            offsets::delete(&worker.cluster, &connection, &group, &forget).await?;
        }
        Ok(())
    };
    altered.await.map_err(|e| failed(name, &e))?;
    Ok(Answer::ok(json!({ "message": "The offsets for this connector have been altered successfully" })))
}

pub async fn reset(worker: &Worker, name: &str) -> Result<Answer, Failure> {
    let group = stopped_group(worker, name)?;
    let deleted = async {
        let connection = offsets::coordinator_connection(&worker.cluster, &group).await?;
        offsets::delete_group(&worker.cluster, &connection, &group).await
    };
    deleted.await.map_err(|e| failed(name, &e))?;
    Ok(Answer::ok(json!({ "message": "The offsets for this connector have been reset successfully" })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_set_or_forgotten() {
        let body = json!({ "offsets": [
            { "partition": { "kafka_topic": "t", "kafka_partition": 0 }, "offset": { "kafka_offset": 5 } },
            { "partition": { "kafka_topic": "t", "kafka_partition": "1" }, "offset": null },
        ]});
        let (set, forget) = wanted(&body).unwrap();
        assert_eq!(set, GroupOffsets::from([(("t".to_owned(), 0), 5)]));
        assert_eq!(forget, [("t".to_owned(), 1)]);
    }

    #[test]
    fn what_is_no_offset_is_refused() {
        for body in [
            json!({}),
            json!({ "offsets": [] }),
            json!({ "offsets": [{ "partition": { "kafka_topic": "t" }, "offset": null }] }),
            json!({ "offsets": [{ "partition": { "kafka_topic": "t", "kafka_partition": 0 }, "offset": { "kafka_offset": -1 } }] }),
        ] {
            assert_eq!(wanted(&body).unwrap_err().status, 400, "{body}");
        }
    }
}
