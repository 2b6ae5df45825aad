//! Which partitions should be led by their preferred replica again: pure.
//!
//! Owns Kafka's rule (`leader.imbalance.per.broker.percentage`). Does not own when it is looked at (`balancer`), nor the
//! election (`reassign`).

use std::collections::BTreeMap;

use strandline_protocol::ids::BrokerId;

use super::election::may_lead_of;
use crate::image::MetadataImage;

/// What one broker is preferred for.
#[derive(Default)]
struct Share {
    all: usize,
    /// Led by others.
    elsewhere: usize,
    /// Of those, what the broker could lead.
    could: Vec<(String, i32)>,
}

/// Partitions whose preferred replica could lead and does not, of the brokers that lack more than `percentage` of the
/// leaderships they are preferred for; topic and number, at most `most` of them.
pub fn unbalanced(image: &MetadataImage, percentage: u32, most: usize) -> Vec<(String, i32)> {
    let mut shares: BTreeMap<BrokerId, Share> = BTreeMap::new();
    for partition in image.partitions.values() {
        let record = &partition.record;
        let (Some(topic), Some(first)) = (image.live_topic(record.topic_id), record.replicas.first()) else { continue };
        let share = shares.entry(*first).or_default();
        share.all += 1;
        if record.leader != *first {
            share.elsewhere += 1;
            if record.isr.contains(first) && may_lead_of(image, record)(*first) {
                share.could.push((topic.name.to_string(), record.partition));
            }
        }
    }
    let beyond = |share: &Share| share.elsewhere * 100 > share.all * percentage as usize;
    shares.into_values().filter(beyond).flat_map(|share| share.could).take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BrokerRecord, MetadataRecord, PartitionRecord};
    use strandline_protocol::ids::TopicId;
    use uuid::Uuid;

    /// Partitions with preferred broker 1, led as listed, by brokers of which the named are fenced.
    fn image(leaders: &[BrokerId], isr: &[BrokerId], fenced: &[BrokerId]) -> MetadataImage {
        let topic_id = TopicId(Uuid::from_u128(1));
        let mut records = vec![MetadataRecord::Topic { topic_id, name: "t".to_owned() }];
        for broker_id in [1, 2] {
            records.push(MetadataRecord::Broker(BrokerRecord {
                broker_id,
                broker_epoch: 1,
                incarnation: Uuid::nil(),
                endpoints: Vec::new(),
                rack: None,
                fenced: fenced.contains(&broker_id),
                stopping: false,
            }));
        }
        for (partition, leader) in (0..).zip(leaders) {
            records.push(MetadataRecord::Partition(PartitionRecord {
                topic_id,
                partition,
                replicas: vec![1, 2],
                isr: isr.to_vec(),
                leader: *leader,
                leader_epoch: 0,
                partition_epoch: 0,
                adding: Vec::new(),
                removing: Vec::new(),
                elr: Vec::new(),
            }));
        }
        MetadataImage::from_records(&records, 1)
    }

    fn numbers(found: Vec<(String, i32)>) -> Vec<i32> {
        found.into_iter().map(|(_, partition)| partition).collect()
    }

    #[test]
    fn only_beyond_the_percentage_something_is_done() {
        let one_of_ten: Vec<BrokerId> = std::iter::once(2).chain([1; 9]).collect();
        assert!(unbalanced(&image(&one_of_ten, &[1, 2], &[]), 10, 100).is_empty(), "10 of 100 are allowed");
        assert_eq!(numbers(unbalanced(&image(&one_of_ten, &[1, 2], &[]), 9, 100)), [0]);
        assert_eq!(numbers(unbalanced(&image(&[2; 5], &[1, 2], &[]), 10, 3)), [0, 1, 2], "so many at once");
    }

    #[test]
    fn who_cannot_lead_is_left_alone() {
        assert!(unbalanced(&image(&[2; 5], &[2], &[]), 10, 100).is_empty(), "not in sync");
        assert!(unbalanced(&image(&[2; 5], &[1, 2], &[1]), 10, 100).is_empty(), "not there");
    }
}
