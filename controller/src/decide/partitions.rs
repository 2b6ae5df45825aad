//! Placement of replicas, and partitions added to a topic.

use std::collections::{BTreeMap, BTreeSet};

use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::{BrokerId, TopicId};

use crate::image::MetadataImage;
use crate::record::{MetadataRecord, PartitionRecord};
use crate::request::{NewPartitions, Refused};

/// Partitions of one topic, at most.
pub(super) const PARTITIONS_PER_TOPIC_MAX: i32 = 100_000;

/// Replicas for `count` partitions: racks that the partition does not use yet first, then brokers that are not fenced, then those
/// with the fewest replicas so far. The one of them that leads the fewest partitions is the preferred leader; it is not fenced. A
/// fenced broker counts as one to come back (Kafka's `StripedReplicaPlacer`).
pub(super) fn place(image: &MetadataImage, count: i32, replication_factor: i16) -> Result<Vec<Vec<BrokerId>>, Refused> {
    let mut load: BTreeMap<BrokerId, usize> = image.replica_counts();
    let wanted = usize::try_from(replication_factor).unwrap_or(0);
    if wanted == 0 || wanted > load.len() {
        let message = format!(
            "Unable to replicate the partition {replication_factor} time(s): The target replication factor of \
             {replication_factor} cannot be reached because only {} broker(s) are registered or \
             some brokers have all their log directories cordoned.",
            load.len()
        );
        return Err(Refused::new(ErrorCode::InvalidReplicationFactor, message));
    }
    let fenced = |id: &BrokerId| image.brokers.get(id).is_none_or(|b| b.fenced);
    if load.keys().all(fenced) {
        let message = "All brokers are currently fenced.".to_owned();
        return Err(Refused::new(ErrorCode::InvalidReplicationFactor, message));
    }
    let mut leads: BTreeMap<BrokerId, usize> = load.keys().map(|id| (*id, 0)).collect();
    for partition in image.partitions.values() {
        if let Some(count) = partition.record.replicas.first().and_then(|preferred| leads.get_mut(preferred)) {
            *count += 1;
        }
    }
    let rack = |id: &BrokerId| image.brokers.get(id).and_then(|b| b.rack.as_deref());
    let mut placed = Vec::new();
    for _ in 0..count {
        let mut replicas: Vec<BrokerId> = Vec::with_capacity(wanted);
        while replicas.len() < wanted {
            let shares_rack = |id: &BrokerId| rack(id).is_some() && replicas.iter().any(|r| rack(r) == rack(id));
            let free = load.iter().filter(|(id, _)| !replicas.contains(id));
            let next = free.min_by_key(|(id, count)| (shares_rack(id), fenced(id), **count, **id)).map(|(id, _)| *id);
            let Some(next) = next else { break };
            *load.entry(next).or_default() += 1;
            replicas.push(next);
        }
        if let Some(preferred) =
            replicas.iter().enumerate().min_by_key(|(_, id)| (fenced(id), leads.get(id), **id)).map(|(at, _)| at)
        {
            replicas.swap(0, preferred);
            *leads.entry(replicas[0]).or_default() += 1;
        }
        placed.push(replicas);
    }
    Ok(placed)
}

/// Refuses an assignment that names a broker twice, or one that is not there.
pub(super) fn check_assignment(image: &MetadataImage, replicas: &[BrokerId]) -> Result<(), Refused> {
    let refuse = |message: String| Err(Refused::new(ErrorCode::InvalidReplicaAssignment, message));
    if replicas.is_empty() {
        return refuse("The manual partition assignment includes an empty replica list.".to_owned());
    }
    let distinct: BTreeSet<_> = replicas.iter().collect();
    if distinct.len() != replicas.len() {
        return refuse(format!(
            "The manual partition assignment includes the broker {} more than once.",
            replicas.iter().find(|r| replicas.iter().filter(|x| x == r).count() > 1).unwrap_or(&-1)
        ));
    }
    match replicas.iter().find(|r| !image.brokers.contains_key(*r)) {
        Some(unknown) => refuse(format!(
            "The manual partition assignment includes broker {unknown}, but no such broker is registered."
        )),
        None => Ok(()),
    }
}

/// A new partition: led by its first unfenced replica, in leader epoch 0.
pub(super) fn new_partition(
    image: &MetadataImage,
    topic_id: TopicId,
    partition: i32,
    replicas: Vec<BrokerId>,
) -> MetadataRecord {
    let unfenced = |id: &BrokerId| image.brokers.get(id).is_some_and(|b| !b.fenced);
    let isr: Vec<BrokerId> = replicas.iter().copied().filter(|id| unfenced(id)).collect();
    let isr = if isr.is_empty() { replicas.clone() } else { isr };
    MetadataRecord::Partition(PartitionRecord {
        topic_id,
        partition,
        leader: isr.first().copied().unwrap_or(-1),
        isr,
        replicas,
        leader_epoch: 0,
        partition_epoch: 0,
        adding: Vec::new(),
        removing: Vec::new(),
        elr: Vec::new(),
    })
}

pub(super) fn create(
    image: &MetadataImage,
    topics: &[NewPartitions],
    validate_only: bool,
    out: &mut Vec<MetadataRecord>,
) -> Vec<Result<(), Refused>> {
    topics
        .iter()
        .map(|request| {
            let records = create_one(image, request)?;
            if !validate_only {
                out.extend(records);
            }
            Ok(())
        })
        .collect()
}

fn create_one(image: &MetadataImage, request: &NewPartitions) -> Result<Vec<MetadataRecord>, Refused> {
    let Some(topic) = image.topic(&request.name) else {
        return Err(Refused::new(ErrorCode::UnknownTopicOrPartition, ""));
    };
    let refuse = |message: String| Err(Refused::new(ErrorCode::InvalidPartitions, message));
    if request.count == topic.partition_count {
        return refuse(format!("Topic already has {} partition(s).", request.count));
    }
    if request.count < topic.partition_count {
        return refuse(format!(
            "The topic {} currently has {} partition(s); {} would not be an increase.",
            request.name, topic.partition_count, request.count
        ));
    }
    if request.count > PARTITIONS_PER_TOPIC_MAX {
        return refuse(format!("A topic has at most {PARTITIONS_PER_TOPIC_MAX} partitions."));
    }
    let added = request.count - topic.partition_count;
    let first = image.partition(topic.id, 0);
    let factor = first.map_or(1, |p| p.record.replicas.len()) as i16;
    let placed = match &request.assignments {
        None => place(image, added, factor)?,
        Some(assignments) if assignments.len() != added as usize => {
            let message = format!(
                "Attempted to add {added} additional partition(s), but only {} assignment(s) were specified.",
                assignments.len()
            );
            return Err(Refused::new(ErrorCode::InvalidReplicaAssignment, message));
        }
        Some(assignments) => {
            for replicas in assignments {
                check_assignment(image, replicas)?;
            }
            assignments.clone()
        }
    };
    let numbered = (topic.partition_count..).zip(placed);
    Ok(numbered.map(|(p, replicas)| new_partition(image, topic.id, p, replicas)).collect())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::record::BrokerRecord;

    /// Brokers 1, 2, ... by (rack, fenced, stopping).
    fn image(brokers: &[(Option<&str>, bool, bool)]) -> MetadataImage {
        let mut image = MetadataImage::default();
        for (broker_id, (rack, fenced, stopping)) in (1..).zip(brokers) {
            let record = BrokerRecord {
                broker_id,
                broker_epoch: i64::from(broker_id),
                incarnation: Uuid::from_u128(1),
                endpoints: Vec::new(),
                rack: rack.map(str::to_owned),
                fenced: *fenced,
                stopping: *stopping,
            };
            image.replay(&MetadataRecord::Broker(record), 1);
        }
        image
    }

    fn placed(image: &MetadataImage, replicas: i16) -> Result<Vec<BrokerId>, String> {
        place(image, 1, replicas).map(|mut p| p.swap_remove(0)).map_err(|r| r.message)
    }

    #[test]
    fn a_fenced_broker_is_taken_last_and_never_leads() {
        let up = (None, false, false);
        let down = (None, true, false);
        assert_eq!(placed(&image(&[down, up, up]), 2), Ok(vec![2, 3]));
        let all = placed(&image(&[down, up, up]), 3).expect("three are registered");
        assert_eq!((all[0], all.contains(&1)), (2, true));
        assert_eq!(placed(&image(&[down, down]), 1), Err("All brokers are currently fenced.".to_owned()));
    }

    #[test]
    fn a_broker_that_was_shut_down_in_order_is_not_taken() {
        let refused = placed(&image(&[(None, false, false), (None, true, true)]), 2);
        assert!(refused.is_err_and(|message| message.contains("only 1 broker(s) are registered")));
    }

    #[test]
    fn another_rack_counts_more_than_being_up() {
        let brokers = [(Some("a"), false, false), (Some("a"), false, false), (Some("b"), true, false)];
        assert_eq!(placed(&image(&brokers), 2), Ok(vec![1, 3]));
    }
}
