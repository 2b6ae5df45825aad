//! `MetadataRecord`: the only thing that is ever in the Raft log.
//!
//! Owns the records' meaning and bytes (`docs/formats/metadata-record.md`). Does not own what they do to the image
//! (see `image`) nor who may write them (see `decide`).
//!
//! Invariant: a record's type number and the layout of a version never change; a new field is a new version.

use std::collections::BTreeMap;

use strandline_protocol::ids::{BrokerEpoch, BrokerId, LeaderEpoch, TopicId, TopicPartition};
use strandline_protocol::remote_pointer::{Advance, RemotePointer};
use uuid::Uuid;

use crate::encoding::{DecodeError, Get, Put};

/// Records in one Raft entry, at most. Bounds the entry a decision may make.
pub const RECORDS_PER_ENTRY_MAX: usize = 200_000;

/// An endpoint a broker can be reached at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Listener name, as in `listeners`, for instance `PLAINTEXT`.
    pub listener: String,
    pub host: String,
    pub port: u16,
}

/// A broker's registration. `broker_epoch` is -1 in the log (the entry's index is meant) and explicit in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerRecord {
    pub broker_id: BrokerId,
    pub broker_epoch: BrokerEpoch,
    /// New for each process: tells a restart from a repeated registration.
    pub incarnation: Uuid,
    pub endpoints: Vec<Endpoint>,
    pub rack: Option<String>,
    pub fenced: bool,
    /// It is shutting down in order: it may not become leader of anything.
    pub stopping: bool,
}

impl BrokerRecord {
    /// Where the broker is reached by those of `listener`; by its first endpoint if it has no such listener.
    pub fn endpoint(&self, listener: &str) -> Option<&Endpoint> {
        self.endpoints.iter().find(|e| e.listener == listener).or(self.endpoints.first())
    }
}

/// The state of one partition, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionRecord {
    pub topic_id: TopicId,
    pub partition: i32,
    pub replicas: Vec<BrokerId>,
    pub isr: Vec<BrokerId>,
    /// -1 = no leader.
    pub leader: BrokerId,
    pub leader_epoch: LeaderEpoch,
    pub partition_epoch: i32,
    /// Replicas that a reassignment adds; a subset of `replicas`.
    pub adding: Vec<BrokerId>,
    /// Replicas that a reassignment will take away; a subset of `replicas`.
    pub removing: Vec<BrokerId>,
    /// Eligible leader replicas (KIP-966): not in sync any more, but known to hold everything below the high watermark.
    pub elr: Vec<BrokerId>,
}

impl PartitionRecord {
    /// The replicas once a reassignment is over.
    pub fn target_replicas(&self) -> Vec<BrokerId> {
        self.replicas.iter().copied().filter(|id| !self.removing.contains(id)).collect()
    }

    pub fn is_reassigning(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }
}

/// What a configuration belongs to, numbered as in Kafka's `ConfigResource.Type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    Topic,
    Broker,
    Group,
}

impl ResourceType {
    /// Kafka's number.
    pub fn id(self) -> i8 {
        match self {
            ResourceType::Topic => 2,
            ResourceType::Broker => 4,
            ResourceType::Group => 32,
        }
    }
    pub fn from_id(id: i8) -> Option<Self> {
        match id {
            2 => Some(ResourceType::Topic),
            4 => Some(ResourceType::Broker),
            32 => Some(ResourceType::Group),
            _ => None,
        }
    }
}

/// One change of the cluster's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataRecord {
    /// First record of a cluster: its id.
    Cluster {
        cluster_id: String,
    },
    Broker(BrokerRecord),
    /// Fences or unfences a broker, or says that it is shutting down, if `broker_epoch` is still its epoch.
    BrokerFence {
        broker_id: BrokerId,
        broker_epoch: BrokerEpoch,
        fenced: bool,
        stopping: bool,
    },
    /// The broker cannot serve its replicas of these partitions, until it registers anew; if `broker_epoch` is still its
    /// epoch.
    ReplicasOffline {
        broker_id: BrokerId,
        broker_epoch: BrokerEpoch,
        partitions: Vec<TopicPartition>,
    },
    /// The broker is no longer part of the cluster.
    BrokerRemoved {
        broker_id: BrokerId,
    },
    Topic {
        topic_id: TopicId,
        name: String,
    },
    Partition(PartitionRecord),
    /// The topic is being deleted: its name is free, its objects are not yet gone. `at_ms`: when it was decided.
    TopicDeleting {
        topic_id: TopicId,
        at_ms: i64,
    },
    /// The broker has removed its replicas of a topic that is being deleted.
    TopicRemovedBy {
        topic_id: TopicId,
        broker_id: BrokerId,
    },
    /// Nothing of the topic is left anywhere.
    TopicDeleted {
        topic_id: TopicId,
    },
    /// `value` none = back to the default.
    Config {
        resource: ResourceType,
        name: String,
        key: String,
        value: Option<String>,
    },
    /// All producer ids below are given out.
    ProducerIds {
        next_producer_id: i64,
    },
    /// A proposal to move a remote-log pointer. Replay judges it.
    Advance(Advance),
    /// A pointer as it is; only in snapshots.
    Pointer {
        topic_id: TopicId,
        partition: i32,
        pointer: RemotePointer,
    },
}

const CLUSTER: u8 = 1;
const BROKER: u8 = 2;
const BROKER_FENCE: u8 = 3;
const TOPIC: u8 = 4;
const PARTITION: u8 = 5;
const TOPIC_DELETING: u8 = 6;
const TOPIC_DELETED: u8 = 7;
const CONFIG: u8 = 8;
const PRODUCER_IDS: u8 = 9;
const ADVANCE: u8 = 10;
const POINTER: u8 = 11;
const TOPIC_REMOVED_BY: u8 = 12;
const BROKER_REMOVED: u8 = 13;
const REPLICAS_OFFLINE: u8 = 14;

/// Version of the layouts that have only one.
const VERSION: u8 = 0;
/// Version of Broker, BrokerFence and Partition since a cluster has more than one broker.
const CLUSTERED: u8 = 1;

impl MetadataRecord {
    /// Appends type, version and fields.
    pub fn encode(&self, out: &mut Put) {
        match self {
            MetadataRecord::Cluster { cluster_id } => {
                out.u8(CLUSTER).u8(VERSION).string(cluster_id);
            }
            MetadataRecord::Broker(b) => encode_broker(b, out.u8(BROKER).u8(CLUSTERED)),
            MetadataRecord::BrokerFence { broker_id, broker_epoch, fenced, stopping } => {
                out.u8(BROKER_FENCE).u8(CLUSTERED).i32(*broker_id).i64(*broker_epoch);
                out.u8((*fenced).into()).u8((*stopping).into());
            }
            MetadataRecord::BrokerRemoved { broker_id } => {
                out.u8(BROKER_REMOVED).u8(VERSION).i32(*broker_id);
            }
            MetadataRecord::ReplicasOffline { broker_id, broker_epoch, partitions } => {
                out.u8(REPLICAS_OFFLINE).u8(VERSION).i32(*broker_id).i64(*broker_epoch);
                out.u32(partitions.len() as u32);
                for tp in partitions {
                    out.uuid(tp.topic_id.0).i32(tp.partition);
                }
            }
            MetadataRecord::TopicRemovedBy { topic_id, broker_id } => {
                out.u8(TOPIC_REMOVED_BY).u8(VERSION).uuid(topic_id.0).i32(*broker_id);
            }
            MetadataRecord::Topic { topic_id, name } => {
                out.u8(TOPIC).u8(VERSION).uuid(topic_id.0).string(name);
            }
            MetadataRecord::Partition(p) => encode_partition(p, out.u8(PARTITION).u8(CLUSTERED)),
            MetadataRecord::TopicDeleting { topic_id, at_ms } => {
                out.u8(TOPIC_DELETING).u8(VERSION).uuid(topic_id.0).i64(*at_ms);
            }
            MetadataRecord::TopicDeleted { topic_id } => {
                out.u8(TOPIC_DELETED).u8(VERSION).uuid(topic_id.0);
            }
            MetadataRecord::Config { resource, name, key, value } => {
                out.u8(CONFIG).u8(VERSION).u8(resource.id() as u8);
                out.string(name).string(key).option_string(value.as_deref());
            }
            MetadataRecord::ProducerIds { next_producer_id } => {
                out.u8(PRODUCER_IDS).u8(VERSION).i64(*next_producer_id);
            }
            MetadataRecord::Advance(advance) => {
                out.u8(ADVANCE).u8(VERSION).field(&advance.encode());
            }
            MetadataRecord::Pointer { topic_id, partition, pointer } => {
                out.u8(POINTER).u8(VERSION).uuid(topic_id.0).i32(*partition).field(&pointer.encode());
            }
        }
    }

    /// Reads one record.
    pub fn decode(get: &mut Get<'_>) -> Result<Self, DecodeError> {
        let kind = get.u8("record type")?;
        let version = get.u8("record version")?;
        let newest = if matches!(kind, BROKER | BROKER_FENCE | PARTITION) { CLUSTERED } else { VERSION };
        if version > newest {
            return Err(DecodeError::Unknown { field: "record version", value: version.into() });
        }
        Ok(match kind {
            CLUSTER => MetadataRecord::Cluster { cluster_id: get.string("cluster id")? },
            BROKER => MetadataRecord::Broker(decode_broker(get, version)?),
            BROKER_FENCE => MetadataRecord::BrokerFence {
                broker_id: get.i32("broker id")?,
                broker_epoch: get.i64("broker epoch")?,
                fenced: get.u8("fenced")? != 0,
                stopping: version >= CLUSTERED && get.u8("stopping")? != 0,
            },
            BROKER_REMOVED => MetadataRecord::BrokerRemoved { broker_id: get.i32("broker id")? },
            REPLICAS_OFFLINE => decode_replicas_offline(get)?,
            TOPIC_REMOVED_BY => MetadataRecord::TopicRemovedBy {
                topic_id: TopicId(get.uuid("topic id")?),
                broker_id: get.i32("broker id")?,
            },
            TOPIC => {
                MetadataRecord::Topic { topic_id: TopicId(get.uuid("topic id")?), name: get.string("topic name")? }
            }
            PARTITION => MetadataRecord::Partition(decode_partition(get, version)?),
            TOPIC_DELETING => {
                MetadataRecord::TopicDeleting { topic_id: TopicId(get.uuid("topic id")?), at_ms: get.i64("at")? }
            }
            TOPIC_DELETED => MetadataRecord::TopicDeleted { topic_id: TopicId(get.uuid("topic id")?) },
            CONFIG => {
                let id = get.u8("resource type")? as i8;
                MetadataRecord::Config {
                    resource: ResourceType::from_id(id)
                        .ok_or(DecodeError::Unknown { field: "resource type", value: id.into() })?,
                    name: get.string("resource name")?,
                    key: get.string("config key")?,
                    value: get.option_string("config value")?,
                }
            }
            PRODUCER_IDS => MetadataRecord::ProducerIds { next_producer_id: get.i64("next producer id")? },
            ADVANCE => MetadataRecord::Advance(
                Advance::decode(get.field("advance")?)
                    .map_err(|e| DecodeError::Malformed { field: "advance", detail: e.to_string() })?,
            ),
            POINTER => MetadataRecord::Pointer {
                topic_id: TopicId(get.uuid("topic id")?),
                partition: get.i32("partition")?,
                pointer: RemotePointer::decode(get.field("pointer")?)
                    .map_err(|e| DecodeError::Malformed { field: "pointer", detail: e.to_string() })?,
            },
            other => return Err(DecodeError::Unknown { field: "record type", value: other.into() }),
        })
    }
}

fn encode_broker(b: &BrokerRecord, out: &mut Put) {
    out.i32(b.broker_id).i64(b.broker_epoch).uuid(b.incarnation);
    out.u32(b.endpoints.len() as u32);
    for e in &b.endpoints {
        out.string(&e.listener).string(&e.host).u16(e.port);
    }
    out.option_string(b.rack.as_deref()).u8(b.fenced.into()).u8(b.stopping.into());
}

fn decode_broker(get: &mut Get<'_>, version: u8) -> Result<BrokerRecord, DecodeError> {
    let broker_id = get.i32("broker id")?;
    let broker_epoch = get.i64("broker epoch")?;
    let incarnation = get.uuid("incarnation")?;
    let count = get.count("endpoints", 10)?;
    let mut endpoints = Vec::with_capacity(count);
    for _ in 0..count {
        endpoints.push(Endpoint {
            listener: get.string("listener")?,
            host: get.string("host")?,
            port: get.u16("port")?,
        });
    }
    let rack = get.option_string("rack")?;
    let fenced = get.u8("fenced")? != 0;
    let stopping = version >= CLUSTERED && get.u8("stopping")? != 0;
    Ok(BrokerRecord { broker_id, broker_epoch, incarnation, endpoints, rack, fenced, stopping })
}

fn decode_replicas_offline(get: &mut Get<'_>) -> Result<MetadataRecord, DecodeError> {
    let broker_id = get.i32("broker id")?;
    let broker_epoch = get.i64("broker epoch")?;
    let count = get.count("partitions", 20)?;
    let mut partitions = Vec::with_capacity(count);
    for _ in 0..count {
        let topic_id = TopicId(get.uuid("topic id")?);
        partitions.push(TopicPartition { topic_id, partition: get.i32("partition")? });
    }
    Ok(MetadataRecord::ReplicasOffline { broker_id, broker_epoch, partitions })
}

fn encode_partition(p: &PartitionRecord, out: &mut Put) {
    out.uuid(p.topic_id.0).i32(p.partition).i32_list(&p.replicas).i32_list(&p.isr);
    out.i32(p.leader).i32(p.leader_epoch).i32(p.partition_epoch);
    out.i32_list(&p.adding).i32_list(&p.removing).i32_list(&p.elr);
}

fn decode_partition(get: &mut Get<'_>, version: u8) -> Result<PartitionRecord, DecodeError> {
    let mut record = PartitionRecord {
        topic_id: TopicId(get.uuid("topic id")?),
        partition: get.i32("partition")?,
        replicas: get.i32_list("replicas")?,
        isr: get.i32_list("isr")?,
        leader: get.i32("leader")?,
        leader_epoch: get.i32("leader epoch")?,
        partition_epoch: get.i32("partition epoch")?,
        adding: Vec::new(),
        removing: Vec::new(),
        elr: Vec::new(),
    };
    if version >= CLUSTERED {
        record.adding = get.i32_list("adding")?;
        record.removing = get.i32_list("removing")?;
        record.elr = get.i32_list("eligible leader replicas")?;
    }
    Ok(record)
}

/// Encodes records as one Raft payload: count, then the records.
pub fn encode_records(records: &[MetadataRecord]) -> Vec<u8> {
    assert!(records.len() <= RECORDS_PER_ENTRY_MAX, "an entry's records are bounded");
    let mut out = Put::default();
    out.u32(records.len() as u32);
    for record in records {
        record.encode(&mut out);
    }
    out.bytes
}

/// Decodes what [`encode_records`] wrote; bytes left over are an error.
pub fn decode_records(bytes: &[u8]) -> Result<Vec<MetadataRecord>, DecodeError> {
    let mut get = Get::new(bytes);
    let count = get.count("records", 2)?;
    if count > RECORDS_PER_ENTRY_MAX {
        return Err(DecodeError::Unknown { field: "records", value: count as i64 });
    }
    let records = (0..count).map(|_| MetadataRecord::decode(&mut get)).collect::<Result<_, _>>()?;
    if get.remaining() > 0 {
        return Err(DecodeError::Malformed {
            field: "records",
            detail: format!("{} bytes left over", get.remaining()),
        });
    }
    Ok(records)
}

/// The configuration of one resource.
pub type ConfigMap = BTreeMap<String, String>;
