//! Changes of in-sync sets that leaders ask for (AlterPartition), and the end of reassignments that they bring about.
//!
//! Owns Kafka's checks: only the leader of the epoch, only from the state it last saw, only brokers that could lead.

use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::{BrokerEpoch, BrokerId};

use super::Defaults;
use super::brokers::check_epoch;
use super::election::{Rules, finish, may_lead_of, settle};
use crate::image::MetadataImage;
use crate::record::{MetadataRecord, PartitionRecord};
use crate::request::{IsrChange, Refused};

pub(super) fn alter(
    image: &MetadataImage,
    defaults: &Defaults,
    broker_id: BrokerId,
    broker_epoch: BrokerEpoch,
    changes: &[IsrChange],
    out: &mut Vec<MetadataRecord>,
) -> Vec<Result<PartitionRecord, Refused>> {
    changes
        .iter()
        .map(|change| {
            check_epoch(image, broker_id, broker_epoch)?;
            let next = alter_one(image, defaults, broker_id, change)?;
            out.push(MetadataRecord::Partition(next.clone()));
            Ok(next)
        })
        .collect()
}

/// The record after the change. A leader that asks for the set there is gets the next partition epoch: what it asked for before and
/// does not know the outcome of can then not be written any more.
fn alter_one(
    image: &MetadataImage,
    defaults: &Defaults,
    broker_id: BrokerId,
    change: &IsrChange,
) -> Result<PartitionRecord, Refused> {
    let refuse = |code: ErrorCode, message: String| Err(Refused::new(code, message));
    let topic = image.live_topic(change.tp.topic_id);
    let (Some(topic), Some(partition)) = (topic, image.partitions.get(&change.tp)) else {
        return refuse(ErrorCode::UnknownTopicOrPartition, format!("{} is not there", change.tp));
    };
    let record = &partition.record;
    if record.leader != broker_id {
        return refuse(ErrorCode::InvalidRequest, format!("{broker_id} does not lead {}", change.tp));
    }
    if record.leader_epoch != change.leader_epoch {
        return refuse(ErrorCode::FencedLeaderEpoch, format!("the leader epoch is {}", record.leader_epoch));
    }
    if record.partition_epoch != change.partition_epoch {
        return refuse(ErrorCode::InvalidUpdateVersion, format!("the partition epoch is {}", record.partition_epoch));
    }
    let mut isr = change.isr.clone();
    isr.sort_unstable();
    isr.dedup();
    if !isr.contains(&broker_id) || isr.iter().any(|id| !record.replicas.contains(id)) {
        return refuse(ErrorCode::InvalidRequest, format!("{isr:?} is no in-sync set of {:?}", record.replicas));
    }
    let may_lead = may_lead_of(image, record);
    if let Some(dead) = isr.iter().find(|id| !record.isr.contains(id) && !may_lead(**id)) {
        return refuse(
            ErrorCode::IneligibleReplica,
            format!("broker {dead} is fenced, stopping or without the replica"),
        );
    }
    // What joins is the registration that fetched: an earlier one of the same broker may have had what this one lost (KIP-903).
    let heard = |id: &BrokerId| {
        let at = change.isr.iter().position(|member| member == id)?;
        change.broker_epochs.get(at).copied()
    };
    let registered = |id: &BrokerId| image.brokers.get(id).map(|b| b.broker_epoch);
    if let Some(other) = isr.iter().find(|id| !record.isr.contains(id) && heard(id) != registered(id)) {
        return refuse(ErrorCode::IneligibleReplica, format!("broker {other} has registered anew since it fetched"));
    }
    let rules = Rules::of(image, defaults, &topic.name);
    // Kept in the order of the replicas, so that the record does not depend on the order of the request.
    let isr = record.replicas.iter().copied().filter(|id| isr.contains(id)).collect();
    let target = PartitionRecord { isr, ..record.clone() };
    let next = settle(record, target, rules, |id| id == broker_id || may_lead(id));
    let settled = next.as_ref().unwrap_or(record);
    let ended = end_reassignment(settled, rules, &may_lead);
    let next = ended.map(|target| renumber(record, target)).or(next);
    Ok(next.unwrap_or_else(|| PartitionRecord { partition_epoch: record.partition_epoch + 1, ..record.clone() }))
}

/// Epochs as of one step from `before`.
fn renumber(before: &PartitionRecord, target: PartitionRecord) -> PartitionRecord {
    finish(before, target).unwrap_or_else(|| before.clone())
}

/// The record after a reassignment, if all that is added is in sync and something of the target can lead.
pub(super) fn end_reassignment(
    record: &PartitionRecord,
    rules: Rules,
    may_lead: impl Fn(BrokerId) -> bool,
) -> Option<PartitionRecord> {
    let targets = record.target_replicas();
    let added = record.adding.iter().all(|id| record.isr.contains(id));
    let can_lead = targets.iter().any(|id| record.isr.contains(id) && may_lead(*id));
    if !record.is_reassigning() || !added || !can_lead {
        return None;
    }
    // Other than in Kafka, who is in sync does not go while too few would be left that are.
    let kept = targets.iter().filter(|id| record.isr.contains(id)).count();
    let safe = |id: &BrokerId| !record.isr.contains(id) && !record.elr.contains(id);
    if kept < rules.min_insync_replicas.min(targets.len()) && !record.removing.iter().all(safe) {
        return None;
    }
    let mut target = record.clone();
    target.replicas = targets;
    target.adding.clear();
    target.removing.clear();
    target.elr.retain(|id| target.replicas.contains(id));
    settle(record, target, rules, may_lead)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::BrokerRecord;
    use strandline_protocol::ids::{TopicId, TopicPartition};
    use uuid::Uuid;

    const TP: TopicPartition = TopicPartition { topic_id: TopicId(Uuid::from_u128(1)), partition: 0 };

    fn image() -> MetadataImage {
        let mut records = vec![MetadataRecord::Topic { topic_id: TP.topic_id, name: "t".to_owned() }];
        records.extend((1..=3).map(|broker_id| {
            MetadataRecord::Broker(BrokerRecord {
                broker_id,
                broker_epoch: 7,
                incarnation: Uuid::nil(),
                endpoints: Vec::new(),
                rack: None,
                fenced: false,
                stopping: false,
            })
        }));
        records.push(MetadataRecord::Partition(PartitionRecord {
            topic_id: TP.topic_id,
            partition: 0,
            replicas: vec![1, 2, 3],
            isr: vec![1, 2],
            leader: 1,
            leader_epoch: 4,
            partition_epoch: 9,
            adding: Vec::new(),
            removing: Vec::new(),
            elr: Vec::new(),
        }));
        MetadataImage::from_records(&records, 1)
    }

    fn ask(image: &mut MetadataImage, isr: &[BrokerId], partition_epoch: i32) -> Result<PartitionRecord, ErrorCode> {
        ask_of(image, isr, vec![7; isr.len()], partition_epoch)
    }

    fn ask_of(
        image: &mut MetadataImage,
        isr: &[BrokerId],
        broker_epochs: Vec<BrokerEpoch>,
        partition_epoch: i32,
    ) -> Result<PartitionRecord, ErrorCode> {
        let defaults = Defaults { min_insync_replicas: 2, unclean_leader_election: false, synced: true };
        let change = IsrChange { tp: TP, leader_epoch: 4, partition_epoch, isr: isr.to_vec(), broker_epochs };
        let mut out = Vec::new();
        let answer = alter(image, &defaults, 1, 7, &[change], &mut out).remove(0);
        for record in &out {
            image.replay(record, 2);
        }
        answer.map_err(|refused| refused.code)
    }

    #[test]
    fn asking_for_the_set_there_is_makes_every_earlier_request_void() {
        let mut image = image();
        let record = ask(&mut image, &[1, 2], 9).unwrap();
        assert_eq!((record.isr.as_slice(), record.leader, record.leader_epoch), (&[1, 2][..], 1, 4));
        assert_eq!(record.partition_epoch, 10);
        assert_eq!(image.partitions[&TP].record, record, "it is written, not only answered");
        assert_eq!(ask(&mut image, &[1, 2, 3], 9), Err(ErrorCode::InvalidUpdateVersion), "the late one of before");
        assert_eq!(ask(&mut image, &[1, 2, 3], 10).unwrap().isr, [1, 2, 3]);
    }

    #[test]
    fn who_joins_is_the_registration_that_fetched() {
        let mut image = image();
        let earlier = ask_of(&mut image, &[1, 2, 3], vec![7, 7, 6], 9);
        assert_eq!(earlier, Err(ErrorCode::IneligibleReplica));
        let unheard = ask_of(&mut image, &[1, 2, 3], vec![7, 7], 9);
        assert_eq!(unheard, Err(ErrorCode::IneligibleReplica));
        assert_eq!(ask_of(&mut image, &[1, 2, 3], vec![-1, -1, 7], 9).unwrap().isr, [1, 2, 3], "members stay");
    }

    #[test]
    fn a_change_moves_the_partition_epoch_by_one() {
        let mut image = image();
        let record = ask(&mut image, &[1, 3], 9).unwrap();
        assert_eq!((record.isr.as_slice(), record.partition_epoch, record.leader_epoch), (&[1, 3][..], 10, 4));
    }
}
