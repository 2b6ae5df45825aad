//! Topics made without being asked for by name: on first use, and `__consumer_offsets`.
//!
//! Owns which names are internal and what they are made with. Concurrent first uses make one request.

use std::collections::BTreeMap;
use std::sync::Arc;

use strandline_controller::request::{NewTopic, Refused};
use strandline_log::config::NO_LIMIT;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::TopicId;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::broker::Broker;
use crate::config::NodeConfig;

/// The topic of committed offsets.
pub const CONSUMER_OFFSETS: &str = "__consumer_offsets";

/// Whether clients are told that the topic is internal (consumers by pattern then skip it).
pub fn is_internal(name: &str) -> bool {
    name == CONSUMER_OFFSETS || name == "__transaction_state"
}

/// Whether a Metadata request may make this topic.
pub fn may_auto_create(broker: &Broker, name: &str) -> bool {
    broker.config.auto_create_topics || is_internal(name)
}

/// Makes topics on first use, one at a time.
#[derive(Debug, Default)]
pub struct AutoTopics {
    one_at_a_time: Mutex<()>,
}

impl AutoTopics {
    /// Makes the topic unless it is there. Returns once this node knows it.
    pub async fn create(&self, broker: &Arc<Broker>, name: &str) -> Result<(), Refused> {
        let _turn = self.one_at_a_time.lock().await;
        if broker.image().topic(name).is_some() {
            return Ok(());
        }
        let brokers = broker.image().brokers.values().filter(|b| !b.fenced).count();
        let new = new_topic(&broker.config, name, brokers);
        match broker.create_topics(vec![new], false).await.pop() {
            Some(Err(refused)) if refused.code != ErrorCode::TopicAlreadyExists => Err(refused),
            _ => Ok(()),
        }
    }
}

/// Settings that a topic of this name is made with.
pub fn settings_of(config: &NodeConfig, name: &str) -> BTreeMap<String, String> {
    let mut configs = BTreeMap::new();
    if name == CONSUMER_OFFSETS {
        configs.insert("cleanup.policy".to_owned(), "compact".to_owned());
        configs.insert("compression.type".to_owned(), "producer".to_owned());
        configs.insert("segment.bytes".to_owned(), config.offsets.segment_bytes.to_string());
    }
    configs
}

/// Settings of a topic that was found in a log directory, where its own are not: nothing is deleted by age or size until
/// somebody asks for it. Committed offsets are compacted, as everywhere.
pub fn settings_of_imported(config: &NodeConfig, name: &str) -> BTreeMap<String, String> {
    let mut configs = settings_of(config, name);
    if name != CONSUMER_OFFSETS {
        let unlimited = NO_LIMIT.to_string();
        configs.insert("retention.ms".to_owned(), unlimited.clone());
        configs.insert("retention.bytes".to_owned(), unlimited);
    }
    configs
}

fn new_topic(config: &NodeConfig, name: &str, brokers: usize) -> NewTopic {
    let configs = settings_of(config, name);
    let (partitions, replication_factor) = if name == CONSUMER_OFFSETS {
        let unset = i16::try_from(brokers.clamp(1, 3)).unwrap_or(1);
        (config.offsets.partitions, config.offsets.replication_factor.unwrap_or(unset))
    } else {
        (config.num_partitions, config.default_replication_factor)
    };
    NewTopic {
        name: name.to_owned(),
        topic_id: TopicId(Uuid::new_v4()),
        partitions,
        replication_factor,
        assignments: BTreeMap::new(),
        configs,
    }
}
