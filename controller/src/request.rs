//! What may be asked of the controller, and what it answers.
//!
//! Owns the closed list of requests. Does not own decisions (`decide`) nor transport. Randomness (topic ids) comes in
//! with the request, so that a decision is a function of its arguments.

use std::collections::BTreeMap;

use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::{BrokerEpoch, BrokerId, LeaderEpoch, TopicId, TopicPartition};
use strandline_protocol::remote_pointer::{Advance, AdvanceOutcome};
use uuid::Uuid;

use crate::record::{Endpoint, PartitionRecord, ResourceType};

/// A refusal in Kafka's terms.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.name())]
pub struct Refused {
    pub code: ErrorCode,
    pub message: String,
}

impl Refused {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Refused { code, message: message.into() }
    }
}

/// A broker that starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisterBroker {
    pub broker_id: BrokerId,
    /// What the broker's directories say; the first one ever names the cluster.
    pub cluster_id: String,
    pub incarnation: Uuid,
    pub endpoints: Vec<Endpoint>,
    pub rack: Option<String>,
    /// False if its logs were not closed in order: what was not synced may be gone (KIP-966).
    pub clean: bool,
}

/// A topic to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    pub name: String,
    /// The id it gets if it is made.
    pub topic_id: TopicId,
    /// Ignored if `assignments` is not empty.
    pub partitions: i32,
    pub replication_factor: i16,
    /// Replicas by partition, or empty.
    pub assignments: BTreeMap<i32, Vec<BrokerId>>,
    /// Settings, already validated by the broker.
    pub configs: BTreeMap<String, String>,
}

/// More partitions for a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPartitions {
    pub name: String,
    /// Total count afterwards.
    pub count: i32,
    /// Replicas of each new partition; `None` = where the controller places them.
    pub assignments: Option<Vec<Vec<BrokerId>>>,
}

/// One key of IncrementalAlterConfigs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigOp {
    Set(String),
    Delete,
    /// Adds to a comma-separated list.
    Append(String),
    /// Removes from a comma-separated list.
    Subtract(String),
}

/// Changes to one resource; all or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlterConfigs {
    pub resource: ResourceType,
    pub name: String,
    pub ops: BTreeMap<String, ConfigOp>,
    /// AlterConfigs (not incremental): keys not named go back to their defaults.
    pub replace_all: bool,
}

/// A sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    pub broker_id: BrokerId,
    pub broker_epoch: BrokerEpoch,
    /// Index of the image that its partitions follow.
    pub applied_index: u64,
    /// Its logs are open: it can serve once it is unfenced.
    pub ready: bool,
    pub want_shutdown: bool,
}

/// What a broker is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeartbeatAnswer {
    pub fenced: bool,
    /// Its leaderships are handed over, as far as that is possible.
    pub may_stop: bool,
}

/// An in-sync set as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IsrChange {
    pub tp: TopicPartition,
    pub leader_epoch: LeaderEpoch,
    /// Of the record that the leader last saw.
    pub partition_epoch: i32,
    pub isr: Vec<BrokerId>,
    /// Broker epochs of `isr`, in its order, as the leader heard them in fetches (KIP-903); -1 = not heard.
    pub broker_epochs: Vec<BrokerEpoch>,
}

/// Where a partition's replicas are to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reassignment {
    pub topic: String,
    pub partition: i32,
    /// None = a move under way is cancelled.
    pub replicas: Option<Vec<BrokerId>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElectionKind {
    /// The first replica, if it is in sync.
    Preferred,
    /// Any replica, for partitions without a leader.
    Unclean,
}

/// What became of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// It cannot be served until the broker starts anew; what it holds may still be good then.
    Offline,
    /// It is damaged, and is to be dropped if others have what it has.
    Damaged,
    /// It was dropped: it holds nothing.
    Dropped,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElectLeaders {
    pub kind: ElectionKind,
    /// Topic and partition; none = all.
    pub partitions: Option<Vec<(String, i32)>>,
}

/// A request to the active controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    RegisterBroker(RegisterBroker),
    /// The broker has caught up with its registration and can serve.
    Unfence {
        broker_id: BrokerId,
        broker_epoch: BrokerEpoch,
    },
    CreateTopics {
        topics: Vec<NewTopic>,
        validate_only: bool,
    },
    DeleteTopics {
        topic_ids: Vec<TopicId>,
    },
    /// All objects of a deleting topic are gone.
    FinishTopicDeletion {
        topic_id: TopicId,
    },
    /// This broker has no files of the topic any more.
    ConfirmTopicRemoved {
        topic_id: TopicId,
        broker_id: BrokerId,
    },
    Heartbeat(Heartbeat),
    /// The broker is not there any more (the failure detector's).
    Fence {
        broker_id: BrokerId,
        broker_epoch: BrokerEpoch,
    },
    UnregisterBroker {
        broker_id: BrokerId,
    },
    /// In-sync sets as their leader sees them.
    AlterIsr {
        broker_id: BrokerId,
        broker_epoch: BrokerEpoch,
        changes: Vec<IsrChange>,
    },
    Reassign {
        moves: Vec<Reassignment>,
    },
    ElectLeaders(ElectLeaders),
    CreatePartitions {
        topics: Vec<NewPartitions>,
        validate_only: bool,
    },
    AlterConfigs {
        resources: Vec<AlterConfigs>,
        validate_only: bool,
    },
    AllocateProducerIds {
        broker_id: BrokerId,
        broker_epoch: BrokerEpoch,
    },
    Advance {
        advances: Vec<Advance>,
    },
    /// A member of a new cluster proposes the cluster's id; the first one holds.
    NameCluster {
        cluster_id: String,
    },
    /// The broker has lost its replicas of these partitions.
    ReplicasLost {
        broker_id: BrokerId,
        broker_epoch: BrokerEpoch,
        partitions: Vec<TopicPartition>,
        loss: Loss,
    },
}

/// What was made of a new topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedTopic {
    pub topic_id: TopicId,
    pub partitions: i32,
    pub replication_factor: i16,
}

/// The answer to a [`Request`], variant by variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    RegisterBroker(Result<BrokerEpoch, Refused>),
    Unfence(Result<(), Refused>),
    CreateTopics(Vec<Result<CreatedTopic, Refused>>),
    DeleteTopics(Vec<Result<(), Refused>>),
    /// True if the topic is gone; false if a broker still has files of it.
    FinishTopicDeletion(bool),
    ConfirmTopicRemoved,
    Heartbeat(Result<HeartbeatAnswer, Refused>),
    Fence(Result<(), Refused>),
    UnregisterBroker(Result<(), Refused>),
    /// The partition as it is after the change.
    AlterIsr(Vec<Result<PartitionRecord, Refused>>),
    Reassign(Vec<Result<(), Refused>>),
    /// Topic, partition, outcome.
    ElectLeaders(Vec<(String, i32, Result<(), Refused>)>),
    CreatePartitions(Vec<Result<(), Refused>>),
    AlterConfigs(Vec<Result<(), Refused>>),
    /// First id and count of a block.
    AllocateProducerIds(Result<(i64, i32), Refused>),
    Advance(Vec<AdvanceOutcome>),
    /// The id that holds.
    NameCluster(String),
    ReplicasLost(Result<(), Refused>),
}
