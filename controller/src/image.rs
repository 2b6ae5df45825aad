//! `MetadataImage`: the cluster as the committed records say it is.
//!
//! Owns replay: the one function that turns records into state, run by every node in log order. Does not own who may
//! write a record (`decide`) nor where records are kept (`raft`).
//!
//! Invariants: replay is deterministic: it reads no clock, no randomness, nothing but the image, the record and its
//! index. Cloning is cheap (shared structure), so a reader keeps a consistent image for as long as it likes.
//! A crash leaves nothing: the image is rebuilt from snapshot and log.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};
use strandline_protocol::ids::{BrokerId, TopicId, TopicPartition};
use strandline_protocol::remote_pointer::{Advance, AdvanceOutcome, Leadership, PointerState, RemotePointer, judge};

use crate::record::{BrokerRecord, ConfigMap, MetadataRecord, PartitionRecord, ResourceType};

/// One topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicImage {
    pub id: TopicId,
    pub name: Arc<str>,
    /// Partitions are numbered 0..partition_count.
    pub partition_count: i32,
    /// When deletion was decided, in ms since the epoch. The name is free from then on.
    pub deleting_since_ms: Option<i64>,
    /// Brokers that have removed their replicas since.
    pub removed_by: Vec<BrokerId>,
}

/// One partition: who has it, and how far its remote log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionImage {
    pub record: PartitionRecord,
    pub pointer: RemotePointer,
}

/// All metadata at one index of the log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetadataImage {
    /// Raft index of the last entry in this image.
    pub index: u64,
    pub cluster_id: Option<Arc<str>>,
    pub brokers: OrdMap<BrokerId, Arc<BrokerRecord>>,
    /// Every topic, also those being deleted.
    pub topics: OrdMap<TopicId, Arc<TopicImage>>,
    /// Live names.
    pub topic_ids: OrdMap<Arc<str>, TopicId>,
    pub partitions: OrdMap<TopicPartition, Arc<PartitionImage>>,
    pub configs: OrdMap<(ResourceType, Arc<str>), Arc<ConfigMap>>,
    pub next_producer_id: i64,
    /// Replicas that their broker cannot serve in its present registration.
    pub offline: OrdSet<(BrokerId, TopicPartition)>,
}

impl MetadataImage {
    /// The live topic of that name.
    pub fn topic(&self, name: &str) -> Option<&Arc<TopicImage>> {
        self.topics.get(self.topic_ids.get(name)?)
    }

    /// The topic of that id, if it is not being deleted.
    pub fn live_topic(&self, id: TopicId) -> Option<&Arc<TopicImage>> {
        self.topics.get(&id).filter(|t| t.deleting_since_ms.is_none())
    }

    pub fn partition(&self, topic_id: TopicId, partition: i32) -> Option<&Arc<PartitionImage>> {
        self.partitions.get(&TopicPartition { topic_id, partition })
    }

    /// Whether the broker has said that it cannot serve its replica.
    pub fn is_offline(&self, tp: TopicPartition, broker: BrokerId) -> bool {
        self.offline.contains(&(broker, tp))
    }

    /// Partitions of a topic in order of their number.
    pub fn partitions_of(&self, topic: &TopicImage) -> impl Iterator<Item = &Arc<PartitionImage>> {
        let id = topic.id;
        (0..topic.partition_count).filter_map(move |p| self.partition(id, p))
    }

    /// Settings of a resource that differ from the defaults; `name` is the topic's name, or the broker's id in decimal
    /// (empty = cluster-wide default).
    pub fn configs(&self, resource: ResourceType, name: &str) -> Option<&Arc<ConfigMap>> {
        self.configs.get(&(resource, Arc::from(name)))
    }

    /// What the judge of an advance needs to know of the partition's leader.
    pub fn leadership(&self, tp: TopicPartition) -> Option<Leadership> {
        let record = &self.partitions.get(&tp)?.record;
        let topic = self.topics.get(&tp.topic_id)?;
        let broker_epoch = self.brokers.get(&record.leader).map_or(-1, |b| b.broker_epoch);
        Some(Leadership {
            leader: record.leader,
            leader_epoch: record.leader_epoch,
            broker_epoch,
            deleting: topic.deleting_since_ms.is_some(),
        })
    }

    /// Applies one record of the entry at `index`. Returns what became of an advance.
    pub fn replay(&mut self, record: &MetadataRecord, index: u64) -> Option<AdvanceOutcome> {
        match record {
            MetadataRecord::Cluster { cluster_id } => self.cluster_id = Some(Arc::from(cluster_id.as_str())),
            MetadataRecord::Broker(broker) => self.replay_broker(broker, index),
            MetadataRecord::BrokerFence { broker_id, broker_epoch, fenced, stopping } => {
                if let Some(broker) = self.brokers.get_mut(broker_id)
                    && broker.broker_epoch == *broker_epoch
                {
                    let broker = Arc::make_mut(broker);
                    (broker.fenced, broker.stopping) = (*fenced, *stopping);
                }
            }
            MetadataRecord::BrokerRemoved { broker_id } => {
                self.brokers.remove(broker_id);
                self.forget_offline(|(id, _)| id == broker_id);
            }
            MetadataRecord::ReplicasOffline { broker_id, broker_epoch, partitions } => {
                if self.brokers.get(broker_id).is_some_and(|b| b.broker_epoch == *broker_epoch) {
                    self.offline.extend(partitions.iter().map(|tp| (*broker_id, *tp)));
                }
            }
            MetadataRecord::Topic { topic_id, name } => self.replay_topic(*topic_id, name),
            MetadataRecord::Partition(partition) => self.replay_partition(partition),
            MetadataRecord::TopicDeleting { topic_id, at_ms } => self.replay_topic_deleting(*topic_id, *at_ms),
            MetadataRecord::TopicRemovedBy { topic_id, broker_id } => {
                if let Some(topic) = self.topics.get_mut(topic_id)
                    && !topic.removed_by.contains(broker_id)
                {
                    Arc::make_mut(topic).removed_by.push(*broker_id);
                }
            }
            MetadataRecord::TopicDeleted { topic_id } => self.replay_topic_deleted(*topic_id),
            MetadataRecord::Config { resource, name, key, value } => {
                self.replay_config(*resource, name, key, value.as_deref());
            }
            MetadataRecord::ProducerIds { next_producer_id } => {
                self.next_producer_id = self.next_producer_id.max(*next_producer_id);
            }
            MetadataRecord::Advance(advance) => return Some(self.replay_advance(advance)),
            MetadataRecord::Pointer { topic_id, partition, pointer } => {
                let tp = TopicPartition { topic_id: *topic_id, partition: *partition };
                if let Some(image) = self.partitions.get_mut(&tp) {
                    Arc::make_mut(image).pointer = *pointer;
                }
            }
        }
        None
    }

    fn replay_broker(&mut self, broker: &BrokerRecord, index: u64) {
        let mut broker = broker.clone();
        if broker.broker_epoch < 0 {
            broker.broker_epoch = i64::try_from(index).expect("a Raft index fits 63 bits");
        }
        self.forget_offline(|(id, _)| *id == broker.broker_id);
        self.brokers.insert(broker.broker_id, Arc::new(broker));
    }

    fn forget_offline(&mut self, gone: impl Fn(&(BrokerId, TopicPartition)) -> bool) {
        if self.offline.iter().any(&gone) {
            self.offline = self.offline.iter().filter(|one| !gone(one)).copied().collect();
        }
    }

    fn replay_topic(&mut self, id: TopicId, name: &str) {
        let name: Arc<str> = Arc::from(name);
        let topic =
            TopicImage { id, name: name.clone(), partition_count: 0, deleting_since_ms: None, removed_by: Vec::new() };
        self.topics.insert(id, Arc::new(topic));
        self.topic_ids.insert(name, id);
    }

    fn replay_partition(&mut self, record: &PartitionRecord) {
        let tp = TopicPartition { topic_id: record.topic_id, partition: record.partition };
        match self.partitions.get_mut(&tp) {
            Some(image) => Arc::make_mut(image).record = record.clone(),
            None => {
                let image = PartitionImage { record: record.clone(), pointer: RemotePointer::default() };
                self.partitions.insert(tp, Arc::new(image));
                if let Some(topic) = self.topics.get_mut(&tp.topic_id) {
                    let topic = Arc::make_mut(topic);
                    topic.partition_count = topic.partition_count.max(tp.partition + 1);
                }
            }
        }
    }

    fn replay_topic_deleting(&mut self, id: TopicId, at_ms: i64) {
        let Some(topic) = self.topics.get_mut(&id) else { return };
        Arc::make_mut(topic).deleting_since_ms = Some(at_ms);
        let name = topic.name.clone();
        // In a snapshot a newer topic may already have the name.
        if self.topic_ids.get(&name) == Some(&id) {
            self.topic_ids.remove(&name);
            self.configs.remove(&(ResourceType::Topic, name));
        }
    }

    fn replay_topic_deleted(&mut self, id: TopicId) {
        let Some(topic) = self.topics.remove(&id) else { return };
        if self.topic_ids.get(&topic.name) == Some(&id) {
            self.topic_ids.remove(&topic.name);
        }
        for partition in 0..topic.partition_count {
            self.partitions.remove(&TopicPartition { topic_id: id, partition });
        }
        self.forget_offline(|(_, tp)| tp.topic_id == id);
    }

    fn replay_config(&mut self, resource: ResourceType, name: &str, key: &str, value: Option<&str>) {
        let at = (resource, Arc::<str>::from(name));
        let mut map = self.configs.get(&at).map(|m| ConfigMap::clone(m)).unwrap_or_default();
        match value {
            Some(value) => map.insert(key.to_owned(), value.to_owned()),
            None => map.remove(key),
        };
        if map.is_empty() {
            self.configs.remove(&at);
        } else {
            self.configs.insert(at, Arc::new(map));
        }
        if resource == ResourceType::Topic && key == "remote.storage.enable" && value == Some("true") {
            self.reopen_pointers(name);
        }
    }

    /// Tiering is switched on again: pointers that it closed are unset, their versions go on counting.
    fn reopen_pointers(&mut self, topic: &str) {
        let Some(topic) = self.topic(topic).cloned() else { return };
        for partition in 0..topic.partition_count {
            let tp = TopicPartition { topic_id: topic.id, partition };
            if let Some(image) = self.partitions.get_mut(&tp)
                && image.pointer.state == PointerState::Closed
            {
                let image = Arc::make_mut(image);
                image.pointer = image.pointer.reopened();
            }
        }
    }

    fn replay_advance(&mut self, advance: &Advance) -> AdvanceOutcome {
        let leadership = self.leadership(advance.tp);
        let Some(image) = self.partitions.get_mut(&advance.tp) else {
            let pointer = RemotePointer::default();
            let accepted = judge(&pointer, None, advance).map(|_| ());
            return AdvanceOutcome { accepted, pointer };
        };
        match judge(&image.pointer, leadership.as_ref(), advance) {
            Ok(moved) => {
                Arc::make_mut(image).pointer = moved;
                AdvanceOutcome { accepted: Ok(()), pointer: moved }
            }
            Err(refusal) => AdvanceOutcome { accepted: Err(refusal), pointer: image.pointer },
        }
    }

    /// The records that rebuild this image from nothing, for a snapshot. Replaying them gives an equal image but for
    /// `index`.
    pub fn to_records(&self) -> Vec<MetadataRecord> {
        let mut records = Vec::new();
        if let Some(id) = &self.cluster_id {
            records.push(MetadataRecord::Cluster { cluster_id: id.to_string() });
        }
        records.extend(self.brokers.values().map(|b| MetadataRecord::Broker(BrokerRecord::clone(b))));
        // Topics being deleted come first, so that a live one of the same name keeps it.
        let mut topics: Vec<_> = self.topics.values().collect();
        topics.sort_by_key(|t| t.deleting_since_ms.is_none());
        for topic in topics {
            records.push(MetadataRecord::Topic { topic_id: topic.id, name: topic.name.to_string() });
            for partition in self.partitions_of(topic) {
                records.push(MetadataRecord::Partition(partition.record.clone()));
                if partition.pointer != RemotePointer::default() {
                    records.push(MetadataRecord::Pointer {
                        topic_id: topic.id,
                        partition: partition.record.partition,
                        pointer: partition.pointer,
                    });
                }
            }
            if let Some(at_ms) = topic.deleting_since_ms {
                records.push(MetadataRecord::TopicDeleting { topic_id: topic.id, at_ms });
                let removed =
                    |broker_id: &BrokerId| MetadataRecord::TopicRemovedBy { topic_id: topic.id, broker_id: *broker_id };
                records.extend(topic.removed_by.iter().map(removed));
            }
        }
        let mut offline: BTreeMap<BrokerId, Vec<TopicPartition>> = BTreeMap::new();
        for (broker, tp) in &self.offline {
            offline.entry(*broker).or_default().push(*tp);
        }
        for (broker_id, partitions) in offline {
            let broker_epoch = self.brokers.get(&broker_id).map_or(-1, |b| b.broker_epoch);
            records.push(MetadataRecord::ReplicasOffline { broker_id, broker_epoch, partitions });
        }
        for ((resource, name), map) in &self.configs {
            for (key, value) in map.iter() {
                records.push(MetadataRecord::Config {
                    resource: *resource,
                    name: name.to_string(),
                    key: key.clone(),
                    value: Some(value.clone()),
                });
            }
        }
        if self.next_producer_id > 0 {
            records.push(MetadataRecord::ProducerIds { next_producer_id: self.next_producer_id });
        }
        records
    }

    /// Rebuilds an image from a snapshot's records.
    pub fn from_records(records: &[MetadataRecord], index: u64) -> Self {
        let mut image = MetadataImage::default();
        for record in records {
            image.replay(record, index);
        }
        image.index = index;
        image
    }

    /// Replicas that each broker has, for placement: of all that are registered, and not shutting down in order.
    pub fn replica_counts(&self) -> BTreeMap<BrokerId, usize> {
        let mut counts: BTreeMap<BrokerId, usize> =
            self.brokers.values().filter(|b| !b.stopping).map(|b| (b.broker_id, 0)).collect();
        for partition in self.partitions.values() {
            for replica in &partition.record.replicas {
                if let Some(count) = counts.get_mut(replica) {
                    *count += 1;
                }
            }
        }
        counts
    }
}
