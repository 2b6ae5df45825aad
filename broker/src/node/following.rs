//! Following the metadata: what a change of the image, and of a role, starts and ends on this node.
//!
//! Owns the order in which the parts hear of it. Does not own roles (`partition`) nor what the parts then do.

use std::collections::BTreeSet;
use std::sync::Arc;

use strandline_controller::ImageUpdate;
use strandline_controller::record::MetadataRecord;
use strandline_protocol::error_code::ErrorCode;
use tokio::sync::{mpsc, watch};

use crate::auto_topics;
use crate::broker::Broker;
use crate::clock;
use crate::environment::block_in_place;
use crate::partitions::RoleChange;
use crate::shutdown::stopped;
use crate::tier::TierTasks;

/// Reads one partition of committed offsets in the background; until then its groups answer "loading".
fn load_group_partition(broker: &Arc<Broker>, partition: i32) {
    let groups = Arc::clone(&broker.groups);
    tokio::spawn(async move {
        if let Err(code) = groups.load(partition).await
            // Another node leads it by now, and loads it.
            && !matches!(code, ErrorCode::NotCoordinator | ErrorCode::NotLeaderOrFollower)
        {
            tracing::error!(
                partition,
                code = code.name(),
                "committed offsets cannot be loaded: the groups of this partition are not served"
            );
        }
    });
}

/// What follows a change of role.
pub(super) struct Roles {
    pub(super) broker: Arc<Broker>,
    pub(super) tier_tasks: Arc<TierTasks>,
    pub(super) stop: watch::Receiver<bool>,
}

impl Roles {
    pub(super) fn take(&self, changes: Vec<RoleChange>) {
        for RoleChange { partition, began, leader } in changes {
            if began {
                self.tier_tasks.lead(&partition);
                self.broker.isr_queue.look_at(&partition);
            }
            self.broker.fetchers.assign(&self.broker, &partition, leader, &self.stop);
            if *partition.topic == *auto_topics::CONSUMER_OFFSETS {
                if began {
                    load_group_partition(&self.broker, partition.tp.partition);
                } else if !partition.leads() {
                    self.broker.groups.unload(partition.tp.partition);
                }
            }
        }
    }
}

/// Keeps the partitions equal to the image until told to stop; they were opened as of `opened_at`. Takes every update, so
/// that the controller never waits.
pub(super) async fn follow_image(
    roles: Roles,
    opened_at: u64,
    mut updates: mpsc::Receiver<ImageUpdate>,
    mut stop: watch::Receiver<bool>,
) {
    let broker = Arc::clone(&roles.broker);
    loop {
        let update = tokio::select! {
            () = stopped(&mut stop) => break,
            update = updates.recv() => update,
        };
        let Some(update) = update else { return };
        if update.image.index <= opened_at {
            continue;
        }
        let changes = block_in_place(|| broker.partitions.apply(&update, clock::now_ms()));
        roles.take(changes);
        let gone = update.records.iter().filter_map(|record| match record {
            MetadataRecord::TopicDeleting { topic_id, .. } => {
                update.image.topics.get(topic_id).map(|t| t.name.to_string())
            }
            _ => None,
        });
        let gone: BTreeSet<String> = gone.collect();
        if !gone.is_empty() {
            broker.groups.topics_deleted(&gone);
        }
        broker.set_applied(update.image.index);
    }
    // The controller may still apply entries while it stops.
    while updates.recv().await.is_some() {}
}
