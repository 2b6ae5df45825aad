//! The end of a deleted topic: its objects, its local directories, its record.
//!
//! Owns the passes over what the image calls *deleting*. Does not own the mark (the controller's).
//! Order: wait `tier.undelete.ms` -> delete every object -> once more after the longest a late upload may take -> nothing
//! of the topic is left -> the controller forgets it. A crash begins the passes again.

use std::collections::HashMap;
use std::sync::Arc;

use strandline_controller::image::{MetadataImage, TopicImage};
use strandline_controller::request::Request;
use strandline_protocol::ids::{TopicId, TopicPartition};
use strandline_protocol::remote_pointer::RemotePointer;
use strandline_tiering::MoveError;
use tokio::sync::watch;

use super::Tier;
use crate::broker::Broker;
use crate::clock;
use crate::shutdown::stopped;

/// Pause between looks at the topics being deleted.
const TICK: std::time::Duration = std::time::Duration::from_secs(1);
/// An upload that began before the deletion was decided has ended by then, whatever became of it.
const LATE_UPLOAD_MS: i64 = 300_000;
/// Pause after a failed pass.
const RETRY_MS: i64 = 10_000;

/// Where one topic stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// All objects were deleted at this time; a late upload may still land.
    Purged { at_ms: i64 },
    /// A pass failed; the next one not before.
    Failed { again_ms: i64 },
}

/// Deletes what is left of deleted topics.
pub struct TopicDeletion {
    broker: Arc<Broker>,
    stages: HashMap<TopicId, Stage>,
}

impl TopicDeletion {
    pub fn new(broker: Arc<Broker>) -> Self {
        TopicDeletion { broker, stages: HashMap::new() }
    }

    /// Runs until `stop` becomes true.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = stopped(&mut stop) => return,
                () = tokio::time::sleep(TICK) => {}
            }
            let image = self.broker.image();
            self.stages.retain(|id, _| image.topics.contains_key(id));
            for topic in image.topics.values().filter(|t| t.deleting_since_ms.is_some()) {
                self.confirm(&image, topic).await;
                // One node is enough; which one changes with the active controller.
                if self.broker.controller.is_leader() {
                    self.advance(&image, topic).await;
                }
            }
        }
    }

    /// Says that this broker has no files of the topic any more.
    async fn confirm(&self, image: &MetadataImage, topic: &TopicImage) {
        let me = self.broker.config.node_id;
        let mine = image.partitions_of(topic).any(|p| p.record.replicas.contains(&me));
        if !mine || topic.removed_by.contains(&me) || self.broker.partitions.has_files_of(topic.id) {
            return;
        }
        let request = Request::ConfirmTopicRemoved { topic_id: topic.id, broker_id: me };
        if let Err(refused) = self.broker.ask(request).await {
            tracing::debug!(topic = %topic.name, %refused, "not confirmed yet");
        }
    }

    async fn advance(&mut self, image: &MetadataImage, topic: &TopicImage) {
        let now = clock::now_ms();
        let undelete = i64::try_from(self.broker.config.tier_undelete.as_millis()).unwrap_or(i64::MAX);
        let since = topic.deleting_since_ms.unwrap_or(now);
        if was_tiered(image, topic) {
            if now < since.saturating_add(undelete) {
                return;
            }
            match self.stages.get(&topic.id) {
                Some(Stage::Failed { again_ms }) if now < *again_ms => return,
                Some(Stage::Purged { at_ms }) if now < at_ms.max(&since).saturating_add(LATE_UPLOAD_MS) => return,
                Some(Stage::Purged { .. }) | Some(Stage::Failed { .. }) | None => {}
            }
            let last_pass = matches!(self.stages.get(&topic.id), Some(Stage::Purged { .. }));
            let Some(tier) = self.broker.tier.clone() else { return };
            match purge(&tier, topic).await {
                Ok(deleted) => {
                    tracing::info!(topic = %topic.name, id = %topic.id, deleted, "objects of a deleted topic are gone");
                    self.stages.insert(topic.id, Stage::Purged { at_ms: now });
                }
                Err(error) => {
                    tracing::warn!(topic = %topic.name, bucket = tier.store.name(), %error, "objects of a deleted topic are left; trying again");
                    self.stages.insert(topic.id, Stage::Failed { again_ms: now + RETRY_MS });
                    return;
                }
            }
            if !last_pass {
                return;
            }
        }
        if let Err(refused) = self.broker.ask(Request::FinishTopicDeletion { topic_id: topic.id }).await {
            tracing::warn!(topic = %topic.name, %refused, "the deletion is not recorded yet");
        }
    }
}

/// True if the topic ever had a remote log.
fn was_tiered(image: &MetadataImage, topic: &TopicImage) -> bool {
    image.partitions_of(topic).any(|p| p.pointer != RemotePointer::default())
}

async fn purge(tier: &Tier, topic: &TopicImage) -> Result<usize, MoveError> {
    let mut deleted = 0;
    for partition in 0..topic.partition_count {
        let tp = TopicPartition { topic_id: topic.id, partition };
        deleted += tier.partition(&topic.name, tp).delete_all().await?;
    }
    Ok(deleted)
}
