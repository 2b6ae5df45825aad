//! Decisions: pure functions `(image, request, now) -> records + response`.
//!
//! Owns Kafka's rules on who may change which metadata, and the texts of refusals. Does not own replay: what a record
//! does is `image`'s. A decision reads nothing but its arguments, so that seeds can test it.

mod brokers;
mod configs;
mod partitions;
mod producers;
mod topics;

pub use configs::resulting_configs;
pub use producers::PRODUCER_ID_BLOCK;

use crate::image::MetadataImage;
use crate::record::MetadataRecord;
use crate::request::{Request, Response};

/// What is to be written, and what to answer once it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub records: Vec<MetadataRecord>,
    pub response: Response,
}

/// Decides `request` against `image`; `now_ms` is wall-clock time in ms since the epoch.
pub fn decide(image: &MetadataImage, request: &Request, now_ms: i64) -> Decision {
    let mut records = Vec::new();
    let out = &mut records;
    let response = match request {
        Request::RegisterBroker(registration) => Response::RegisterBroker(brokers::register(image, registration, out)),
        Request::Unfence { broker_id, broker_epoch } => {
            Response::Unfence(brokers::unfence(image, *broker_id, *broker_epoch, out))
        }
        Request::CreateTopics { topics, validate_only } => {
            Response::CreateTopics(topics::create(image, topics, *validate_only, out))
        }
        Request::DeleteTopics { topic_ids } => Response::DeleteTopics(topics::delete(image, topic_ids, now_ms, out)),
        Request::FinishTopicDeletion { topic_id } => {
            topics::finish_deletion(image, *topic_id, out);
            Response::FinishTopicDeletion
        }
        Request::CreatePartitions { topics, validate_only } => {
            Response::CreatePartitions(partitions::create(image, topics, *validate_only, out))
        }
        Request::AlterConfigs { resources, validate_only } => {
            Response::AlterConfigs(configs::alter(image, resources, *validate_only, out))
        }
        Request::AllocateProducerIds { broker_id, broker_epoch } => {
            Response::AllocateProducerIds(producers::allocate(image, *broker_id, *broker_epoch, out))
        }
        Request::Advance { advances } => {
            // Replay judges; the outcomes are filled in from what it did.
            out.extend(advances.iter().cloned().map(MetadataRecord::Advance));
            Response::Advance(Vec::new())
        }
    };
    Decision { records, response }
}
