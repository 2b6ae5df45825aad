//! What the handlers of one node share.
//!
//! Owns the composition: configuration, controller, partitions, tier, groups, counters. Does not own any rule of them.
//! Created by `node`, dropped when the node has stopped.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use strandline_controller::image::MetadataImage;
use strandline_controller::request::{CreatedTopic, NewTopic, Refused, Request, Response};
use strandline_controller::{ControllerError, ControllerHandle};
use strandline_protocol::error_code::ErrorCode;
use tokio::sync::{Notify, watch};

use crate::auto_topics::AutoTopics;
use crate::config::NodeConfig;
use crate::disk_guard::DiskGuard;
use crate::fetch_session::FetchSessions;
use crate::group::GroupCoordinator;
use crate::metrics::Metrics;
use crate::partitions::Partitions;
use crate::producer_ids::ProducerIds;
use crate::reaper::Reaper;
use crate::replication::answer::is_registered;
use crate::replication::fetcher::Fetchers;
use crate::replication::isr::IsrQueue;
use crate::tier::Tier;

/// This node follows a decided change within this time, or the client is told that it will.
const APPLY_MAX: Duration = Duration::from_secs(10);
/// Between looks for this node's registration in the image.
const IMAGE_PAUSE: Duration = Duration::from_millis(5);

/// One log directory, for DescribeLogDirs.
pub struct LogDirView {
    pub path: PathBuf,
    pub offline: bool,
    /// -1 = unknown, as `usable_bytes`.
    pub total_bytes: i64,
    pub usable_bytes: i64,
}

/// A running node, as its handlers and tasks see it.
pub struct Broker {
    pub config: Arc<NodeConfig>,
    pub controller: ControllerHandle,
    pub partitions: Arc<Partitions>,
    pub tier: Option<Arc<Tier>>,
    pub groups: Arc<GroupCoordinator>,
    pub sessions: FetchSessions,
    pub auto_topics: AutoTopics,
    pub producer_ids: ProducerIds,
    pub disk_guard: DiskGuard,
    pub reaper: Reaper,
    pub isr_queue: IsrQueue,
    pub fetchers: Arc<Fetchers>,
    pub metrics: Metrics,
    /// A segment was closed: the tier may have something to copy.
    pub segment_closed: Notify,
    /// Where metrics and the tier map are served; empty = nowhere.
    pub admin_url: String,
    epoch: AtomicI64,
    /// Index of the image that this node's partitions follow.
    applied: watch::Sender<u64>,
}

impl Broker {
    pub fn new(
        config: Arc<NodeConfig>,
        controller: ControllerHandle,
        partitions: Arc<Partitions>,
        tier: Option<Arc<Tier>>,
        groups: Arc<GroupCoordinator>,
        epoch: i64,
        admin_url: String,
    ) -> Self {
        Broker {
            sessions: FetchSessions::new(config.fetch_sessions_max),
            config,
            controller,
            partitions,
            tier,
            groups,
            auto_topics: AutoTopics::default(),
            producer_ids: ProducerIds::default(),
            disk_guard: DiskGuard::default(),
            reaper: Reaper::default(),
            isr_queue: IsrQueue::default(),
            fetchers: Arc::default(),
            metrics: Metrics::default(),
            segment_closed: Notify::new(),
            admin_url,
            epoch: AtomicI64::new(epoch),
            applied: watch::Sender::new(0),
        }
    }

    /// The newest image of this node's controller.
    pub fn image(&self) -> Arc<MetadataImage> {
        self.controller.image()
    }

    /// The epoch of this node's registration.
    pub fn epoch(&self) -> i64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The index of the image that this node's partitions follow.
    pub fn applied(&self) -> u64 {
        *self.applied.borrow()
    }

    /// A new registration.
    pub fn set_epoch(&self, epoch: i64) {
        self.epoch.store(epoch, Ordering::Release);
    }

    /// Waits for an image with this registration. An older one would give back the roles of this node's earlier life: it would
    /// append in a leader epoch in which it may have lost what others still hold.
    pub async fn until_image_has_it(&self) {
        while !is_registered(&self.image(), self.config.node_id, self.epoch()) {
            tokio::time::sleep(IMAGE_PAUSE).await;
        }
    }

    /// Says that partitions follow the image of this index.
    pub fn set_applied(&self, index: u64) {
        self.applied.send_replace(index);
    }

    /// Asks the controller, in Kafka's terms.
    pub async fn ask(&self, request: Request) -> Result<Response, Refused> {
        let answer = self.controller.request(request).await;
        answer.map_err(|error| match error {
            ControllerError::NotController { .. } => Refused::new(ErrorCode::NotController, error.to_string()),
            ControllerError::TooLarge => Refused::new(ErrorCode::PolicyViolation, error.to_string()),
            ControllerError::Unreachable(_) => Refused::new(ErrorCode::RequestTimedOut, error.to_string()),
            ControllerError::Stopped(_) => Refused::new(ErrorCode::UnknownServerError, error.to_string()),
        })
    }

    /// Waits until this node's partitions follow everything decided so far.
    pub async fn catch_up(&self) {
        let index = self.image().index;
        let mut applied = self.applied.subscribe();
        let wait = applied.wait_for(|at| *at >= index);
        if tokio::time::timeout(APPLY_MAX, wait).await.is_err() {
            tracing::warn!(index, "this node is slow to follow the metadata");
        }
    }

    /// Makes topics; answers in the order asked. Returns once this node serves them.
    pub async fn create_topics(
        &self,
        topics: Vec<NewTopic>,
        validate_only: bool,
    ) -> Vec<Result<CreatedTopic, Refused>> {
        let count = topics.len();
        let outcomes = match self.ask(Request::CreateTopics { topics, validate_only }).await {
            Ok(Response::CreateTopics(outcomes)) => outcomes,
            Ok(_) => vec![Err(Refused::new(ErrorCode::UnknownServerError, "unexpected answer")); count],
            Err(refused) => vec![Err(refused); count],
        };
        self.catch_up().await;
        outcomes
    }

    pub fn log_dirs(&self) -> Vec<LogDirView> {
        let view = |dir: &Arc<crate::log_dir::LogDirectory>| {
            let (usable_bytes, total_bytes) = dir.space();
            LogDirView { path: dir.path.clone(), offline: dir.is_offline(), total_bytes, usable_bytes }
        };
        self.partitions.dirs().iter().map(view).collect()
    }

    /// Kafka's broker settings as they hold here, whether given or default.
    pub fn config_in_use(&self) -> Vec<(&'static str, String)> {
        let c = &self.config;
        let ms = |d: Duration| d.as_millis().to_string();
        let dirs: Vec<_> = c.log_dirs.iter().map(|d| d.display().to_string()).collect();
        let mut all = vec![
            ("admin.listener", self.admin_url.clone()),
            ("auto.create.topics.enable", c.auto_create_topics.to_string()),
            ("connections.max.idle.ms", ms(c.connections_max_idle)),
            ("default.replication.factor", c.default_replication_factor.to_string()),
            ("delete.topic.enable", c.delete_topics.to_string()),
            ("fetch.max.bytes", c.fetch_max_bytes.to_string()),
            ("group.initial.rebalance.delay.ms", ms(c.group_initial_rebalance_delay)),
            ("group.max.session.timeout.ms", ms(c.group_max_session_timeout)),
            ("group.max.size", c.group_max_size.to_string()),
            ("group.min.session.timeout.ms", ms(c.group_min_session_timeout)),
            ("log.dirs", dirs.join(",")),
            ("log.retention.check.interval.ms", ms(c.retention_check_interval)),
            ("max.connections", c.connections_max.to_string()),
            ("node.id", c.node_id.to_string()),
            ("num.partitions", c.num_partitions.to_string()),
            ("offset.metadata.max.bytes", c.offsets.metadata_max_bytes.to_string()),
            ("offsets.retention.minutes", (c.offsets.retention.as_secs() / 60).to_string()),
            ("offsets.topic.num.partitions", c.offsets.partitions.to_string()),
            ("offsets.topic.segment.bytes", c.offsets.segment_bytes.to_string()),
            ("producer.id.expiration.ms", ms(c.producer_id_expiration)),
            ("remote.fetch.max.wait.ms", ms(c.remote_fetch_max_wait)),
            ("remote.log.manager.copier.thread.pool.size", c.tier_copiers.to_string()),
            ("remote.log.manager.task.interval.ms", ms(c.tier_task_interval)),
            ("remote.log.storage.system.enable", c.remote_storage.to_string()),
            ("socket.request.max.bytes", c.request_max_bytes.to_string()),
        ];
        if let Some(url) = &c.tier_url {
            all.push(("tier.url", url.clone()));
        }
        for synonym in crate::config::server_synonyms() {
            if synonym.scale_to_ms == 1
                && let Some(value) = c.log_defaults.get(synonym.topic)
            {
                all.push((synonym.server, value));
            }
        }
        all
    }
}
