//! Topics: made, deleted, and gone.

use std::collections::BTreeSet;

use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::{BrokerId, TopicId, validate_topic_name};

use super::partitions::{PARTITIONS_PER_TOPIC_MAX, check_assignment, new_partition, place};
use crate::image::MetadataImage;
use crate::record::{MetadataRecord, ResourceType};
use crate::request::{CreatedTopic, NewTopic, Refused};

pub(super) fn create(
    image: &MetadataImage,
    topics: &[NewTopic],
    validate_only: bool,
    out: &mut Vec<MetadataRecord>,
) -> Vec<Result<CreatedTopic, Refused>> {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    // Placement of the second topic of a request sees the first.
    let mut ahead = image.clone();
    topics
        .iter()
        .map(|topic| {
            if !seen.insert(&topic.name) {
                return Err(Refused::new(ErrorCode::InvalidRequest, "Duplicate topic name."));
            }
            let (created, records) = create_one(&ahead, topic)?;
            for record in &records {
                ahead.replay(record, image.index + 1);
            }
            if !validate_only {
                out.extend(records);
            }
            Ok(created)
        })
        .collect()
}

fn create_one(image: &MetadataImage, topic: &NewTopic) -> Result<(CreatedTopic, Vec<MetadataRecord>), Refused> {
    check_name(image, &topic.name)?;
    let placed = placement(image, topic)?;
    let created = CreatedTopic {
        topic_id: topic.topic_id,
        partitions: placed.len() as i32,
        replication_factor: placed.first().map_or(0, |r| r.len() as i16),
    };
    let mut records = vec![MetadataRecord::Topic { topic_id: topic.topic_id, name: topic.name.clone() }];
    for (key, value) in &topic.configs {
        records.push(MetadataRecord::Config {
            resource: ResourceType::Topic,
            name: topic.name.clone(),
            key: key.clone(),
            value: Some(value.clone()),
        });
    }
    for (number, replicas) in (0..).zip(placed) {
        records.push(new_partition(image, topic.topic_id, number, replicas));
    }
    Ok((created, records))
}

fn check_name(image: &MetadataImage, name: &str) -> Result<(), Refused> {
    if let Err(invalid) = validate_topic_name(name) {
        return Err(Refused::new(ErrorCode::InvalidTopicException, invalid.to_string()));
    }
    if image.topic(name).is_some() {
        return Err(Refused::new(ErrorCode::TopicAlreadyExists, format!("Topic '{name}' already exists.")));
    }
    // Metric names replace '.' by '_', so two such topics would share theirs.
    if name.contains(['.', '_']) {
        let plain = name.replace('.', "_");
        let same = |other: &&std::sync::Arc<str>| other.contains(['.', '_']) && other.replace('.', "_") == plain;
        if let Some(other) = image.topic_ids.keys().find(same) {
            let message = format!("Topic '{name}' collides with existing topic: {other}");
            return Err(Refused::new(ErrorCode::InvalidTopicException, message));
        }
    }
    Ok(())
}

fn placement(image: &MetadataImage, topic: &NewTopic) -> Result<Vec<Vec<i32>>, Refused> {
    if topic.assignments.is_empty() {
        if topic.partitions <= 0 || topic.partitions > PARTITIONS_PER_TOPIC_MAX {
            let message = if topic.partitions <= 0 {
                "Number of partitions was set to an invalid non-positive value.".to_owned()
            } else {
                format!("Number of partitions must be at most {PARTITIONS_PER_TOPIC_MAX}.")
            };
            return Err(Refused::new(ErrorCode::InvalidPartitions, message));
        }
        if topic.replication_factor <= 0 {
            let message = "Replication factor must be larger than 0, or -1 to use the default value.";
            return Err(Refused::new(ErrorCode::InvalidReplicationFactor, message));
        }
        return place(image, topic.partitions, topic.replication_factor);
    }
    let numbers: Vec<i32> = topic.assignments.keys().copied().collect();
    if numbers != (0..numbers.len() as i32).collect::<Vec<_>>() {
        let message = "partitions should be a consecutive 0-based integer sequence";
        return Err(Refused::new(ErrorCode::InvalidReplicaAssignment, message));
    }
    for replicas in topic.assignments.values() {
        check_assignment(image, replicas)?;
    }
    Ok(topic.assignments.values().cloned().collect())
}

pub(super) fn delete(
    image: &MetadataImage,
    topic_ids: &[TopicId],
    now_ms: i64,
    out: &mut Vec<MetadataRecord>,
) -> Vec<Result<(), Refused>> {
    topic_ids
        .iter()
        .map(|id| match image.live_topic(*id) {
            Some(_) => {
                out.push(MetadataRecord::TopicDeleting { topic_id: *id, at_ms: now_ms });
                Ok(())
            }
            None => Err(Refused::new(ErrorCode::UnknownTopicId, "This server does not host this topic ID.")),
        })
        .collect()
}

/// A broker has removed its replicas of a deleted topic.
pub(super) fn confirm_removed(
    image: &MetadataImage,
    topic_id: TopicId,
    broker_id: BrokerId,
    out: &mut Vec<MetadataRecord>,
) {
    let deleting = image.topics.get(&topic_id).filter(|t| t.deleting_since_ms.is_some());
    if deleting.is_some_and(|t| !t.removed_by.contains(&broker_id)) {
        out.push(MetadataRecord::TopicRemovedBy { topic_id, broker_id });
    }
}

/// The objects are gone. The record goes when every registered broker that had a replica has removed it, too.
pub(super) fn finish_deletion(image: &MetadataImage, topic_id: TopicId, out: &mut Vec<MetadataRecord>) -> bool {
    let Some(topic) = image.topics.get(&topic_id) else { return true };
    if topic.deleting_since_ms.is_none() {
        return false;
    }
    let holders = image.partitions_of(topic).flat_map(|p| p.record.replicas.iter());
    let all = holders.filter(|id| image.brokers.contains_key(*id)).all(|id| topic.removed_by.contains(id));
    if all {
        out.push(MetadataRecord::TopicDeleted { topic_id });
    }
    all
}
