//! Decisions: pure functions `(image, request, now) -> records + response`.
//!
//! Owns Kafka's rules on who may change which metadata, and the texts of refusals. Does not own replay: what a record
//! does is `image`'s. A decision reads nothing but its arguments, so that seeds can test it.

mod balance;
mod brokers;
mod configs;
mod election;
mod isr;
mod losses;
mod partitions;
mod producers;
mod reassign;
mod topics;

pub use balance::unbalanced;
pub use configs::resulting_configs;
pub use producers::PRODUCER_ID_BLOCK;

use crate::image::MetadataImage;
use crate::record::MetadataRecord;
use crate::request::{Request, Response};

/// Settings of this node that hold where neither the topic nor the cluster has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defaults {
    pub min_insync_replicas: usize,
    pub unclean_leader_election: bool,
    /// Appends are synced before they are acknowledged (`flush.messages=1`).
    pub synced: bool,
}

impl Default for Defaults {
    fn default() -> Self {
        Defaults { min_insync_replicas: 1, unclean_leader_election: false, synced: true }
    }
}

/// What is to be written, and what to answer once it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub records: Vec<MetadataRecord>,
    pub response: Response,
}

/// Decides `request` against `image`; `now_ms` is wall-clock time in ms since the epoch.
pub fn decide(image: &MetadataImage, defaults: &Defaults, request: &Request, now_ms: i64) -> Decision {
    let mut records = Vec::new();
    let out = &mut records;
    let response = match request {
        Request::RegisterBroker(registration) => {
            Response::RegisterBroker(brokers::register(image, defaults, registration, out))
        }
        Request::Heartbeat(beat) => Response::Heartbeat(brokers::heartbeat(image, defaults, beat, out)),
        Request::Fence { broker_id, broker_epoch } => {
            Response::Fence(brokers::fence(image, defaults, *broker_id, *broker_epoch, out))
        }
        Request::UnregisterBroker { broker_id } => {
            Response::UnregisterBroker(brokers::unregister(image, *broker_id, out))
        }
        Request::Unfence { broker_id, broker_epoch } => {
            Response::Unfence(brokers::unfence(image, defaults, *broker_id, *broker_epoch, out))
        }
        Request::CreateTopics { topics, validate_only } => {
            Response::CreateTopics(topics::create(image, topics, *validate_only, out))
        }
        Request::DeleteTopics { topic_ids } => Response::DeleteTopics(topics::delete(image, topic_ids, now_ms, out)),
        Request::ConfirmTopicRemoved { topic_id, broker_id } => {
            topics::confirm_removed(image, *topic_id, *broker_id, out);
            Response::ConfirmTopicRemoved
        }
        Request::FinishTopicDeletion { topic_id } => {
            Response::FinishTopicDeletion(topics::finish_deletion(image, *topic_id, out))
        }
        Request::AlterIsr { broker_id, broker_epoch, changes } => {
            Response::AlterIsr(isr::alter(image, defaults, *broker_id, *broker_epoch, changes, out))
        }
        Request::Reassign { moves } => Response::Reassign(reassign::reassign(image, defaults, moves, out)),
        Request::ElectLeaders(request) => Response::ElectLeaders(reassign::elect(image, defaults, request, out)),
        Request::CreatePartitions { topics, validate_only } => {
            Response::CreatePartitions(partitions::create(image, topics, *validate_only, out))
        }
        Request::AlterConfigs { resources, validate_only } => {
            Response::AlterConfigs(configs::alter(image, resources, *validate_only, out))
        }
        Request::AllocateProducerIds { broker_id, broker_epoch } => {
            Response::AllocateProducerIds(producers::allocate(image, *broker_id, *broker_epoch, out))
        }
        Request::NameCluster { cluster_id } => Response::NameCluster(brokers::name_cluster(image, cluster_id, out)),
        Request::ReplicasLost { broker_id, broker_epoch, partitions, loss } => {
            let broker = (*broker_id, *broker_epoch);
            Response::ReplicasLost(losses::lost(image, defaults, broker, partitions, *loss, out))
        }
        Request::Advance { advances } => {
            // Replay judges; the outcomes are filled in from what it did.
            out.extend(advances.iter().cloned().map(MetadataRecord::Advance));
            Response::Advance(Vec::new())
        }
    };
    Decision { records, response }
}
