//! Replicas that a broker has lost, or cannot serve.
//!
//! Owns what follows: such a replica is in sync with nothing and does not lead. One that is offline is not elected until its
//! broker registers anew; then it may still be eligible, since what it held may be good. One whose data is lost is not. What
//! nobody else has is left without a leader, never given to who lost it; and a damaged replica that nobody can stand in for
//! stays what it is, so that its broker does not drop it.

use strandline_protocol::ids::{BrokerEpoch, BrokerId, TopicPartition};

use super::Defaults;
use super::brokers::check_epoch;
use super::election::{Rules, finish, may_lead_of, settle};
use crate::image::MetadataImage;
use crate::record::{MetadataRecord, PartitionRecord};
use crate::request::{Loss, Refused};

pub(super) fn lost(
    image: &MetadataImage,
    defaults: &Defaults,
    broker: (BrokerId, BrokerEpoch),
    partitions: &[TopicPartition],
    loss: Loss,
    out: &mut Vec<MetadataRecord>,
) -> Result<(), Refused> {
    let (broker_id, broker_epoch) = broker;
    check_epoch(image, broker_id, broker_epoch)?;
    if loss == Loss::Offline {
        let known = |tp: &&TopicPartition| image.partitions.contains_key(*tp) && !image.is_offline(**tp, broker_id);
        let partitions: Vec<TopicPartition> = partitions.iter().filter(known).copied().collect();
        if !partitions.is_empty() {
            out.push(MetadataRecord::ReplicasOffline { broker_id, broker_epoch, partitions });
        }
    }
    for tp in partitions {
        let (Some(topic), Some(found)) = (image.live_topic(tp.topic_id), image.partitions.get(tp)) else { continue };
        let rules = Rules::of(image, defaults, &topic.name);
        out.extend(without(image, &found.record, broker_id, loss, rules).map(MetadataRecord::Partition));
    }
    Ok(())
}

fn without(
    image: &MetadataImage,
    record: &PartitionRecord,
    gone: BrokerId,
    loss: Loss,
    rules: Rules,
) -> Option<PartitionRecord> {
    let may_lead = may_lead_of(image, record);
    let others = |id: BrokerId| id != gone && may_lead(id);
    let mut left = record.clone();
    left.isr.retain(|id| *id != gone);
    match loss {
        Loss::Offline => return settle(record, left, rules, others),
        Loss::Damaged if left.isr.is_empty() => return None,
        Loss::Damaged | Loss::Dropped => {}
    }
    // As if it had never been counted: it is not eligible either.
    left.elr.retain(|id| *id != gone);
    let settled = settle(&left, left.clone(), rules, others);
    finish(record, settled.unwrap_or(left))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::BrokerRecord;
    use strandline_protocol::ids::TopicId;
    use uuid::Uuid;

    const TP: TopicPartition = TopicPartition { topic_id: TopicId(Uuid::from_u128(1)), partition: 0 };

    fn image(isr: &[BrokerId], elr: &[BrokerId]) -> MetadataImage {
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
            isr: isr.to_vec(),
            leader: isr.first().copied().unwrap_or(-1),
            leader_epoch: 4,
            partition_epoch: 9,
            adding: Vec::new(),
            removing: Vec::new(),
            elr: elr.to_vec(),
        }));
        MetadataImage::from_records(&records, 1)
    }

    fn after(mut image: MetadataImage, broker: BrokerId, loss: Loss) -> MetadataImage {
        let mut out = Vec::new();
        let defaults = Defaults { min_insync_replicas: 2, unclean_leader_election: false, synced: true };
        lost(&image, &defaults, (broker, 7), &[TP], loss, &mut out).unwrap();
        for record in &out {
            image.replay(record, 2);
        }
        image
    }

    #[test]
    fn a_leader_that_lost_its_log_is_followed_by_another_in_sync() {
        for loss in [Loss::Damaged, Loss::Dropped] {
            let record = after(image(&[1, 2, 3], &[]), 1, loss).partitions[&TP].record.clone();
            assert_eq!((record.leader, record.isr.as_slice(), record.leader_epoch), (2, &[2, 3][..], 5));
            let record = after(image(&[1, 2], &[]), 1, loss).partitions[&TP].record.clone();
            assert_eq!((record.leader, record.elr.len()), (2, 0), "who lost its data is not eligible");
        }
    }

    #[test]
    fn what_nobody_else_has_is_not_given_up_for_damage_and_not_trusted_when_it_is_gone() {
        let before = image(&[1], &[]);
        assert_eq!(after(before.clone(), 1, Loss::Damaged).partitions[&TP], before.partitions[&TP]);
        let record = after(before, 1, Loss::Dropped).partitions[&TP].record.clone();
        assert_eq!((record.leader, record.isr.len(), record.elr.len()), (-1, 0, 0));
        let record = after(image(&[2], &[1]), 1, Loss::Dropped).partitions[&TP].record.clone();
        assert_eq!((record.leader, record.elr.len()), (2, 0));
    }

    #[test]
    fn the_last_replica_is_not_elected_while_it_is_offline() {
        let lost = after(image(&[1], &[]), 1, Loss::Offline);
        let record = &lost.partitions[&TP].record;
        assert_eq!((record.leader, record.isr.len(), record.elr.as_slice()), (-1, 0, &[1][..]));
        assert!(lost.is_offline(TP, 1) && !lost.is_offline(TP, 2));
        let again = MetadataImage::from_records(&lost.to_records(), lost.index);
        assert_eq!(again, lost, "a snapshot keeps it");
    }

    #[test]
    fn a_new_registration_is_online_again() {
        let mut lost = after(image(&[1, 2, 3], &[]), 1, Loss::Offline);
        let broker = BrokerRecord { incarnation: Uuid::from_u128(2), broker_epoch: 8, ..(*lost.brokers[&1]).clone() };
        lost.replay(&MetadataRecord::Broker(broker), 8);
        assert!(!lost.is_offline(TP, 1));
    }

    #[test]
    fn an_old_registration_changes_nothing() {
        let image = image(&[1, 2, 3], &[]);
        let mut out = Vec::new();
        assert!(lost(&image, &Defaults::default(), (1, 6), &[TP], Loss::Offline, &mut out).is_err());
        assert!(out.is_empty());
    }
}
