//! The tier as one node runs it: the store, the pointer service, and the tasks that move segments.
//!
//! Owns the connection between partitions and their remote logs. Does not own the protocol (`strandline_tiering`) nor
//! the pointer (`strandline_controller`).

mod deletion;
pub mod map;
mod pointers;
mod read;
pub mod round;
pub mod takeover;
mod tasks;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use strandline_controller::ControllerHandle;
use strandline_protocol::ids::TopicPartition;
use strandline_tiering::{RemoteLog, RemoteLogConfig, RemotePartition, StartError, Store, StoreOptions, StoreUrlError};
use uuid::Uuid;

pub use deletion::TopicDeletion;
pub use tasks::TierTasks;

use crate::config::NodeConfig;
use crate::environment::Environment;

/// Why the tier does not start.
#[derive(Debug, thiserror::Error)]
pub enum TierError {
    #[error("tier.url: {0}")]
    Url(#[from] StoreUrlError),
    #[error(transparent)]
    Start(#[from] StartError),
}

/// The tier of this node.
pub struct Tier {
    pub log: Arc<RemoteLog>,
    pub store: Arc<Store>,
}

impl Tier {
    /// Opens the store of `tier.url`. No call is made to it.
    pub fn start(
        config: &NodeConfig,
        url: &str,
        cluster_id: &str,
        cache_dir: PathBuf,
        controller: ControllerHandle,
        environment: &Environment,
    ) -> Result<Tier, TierError> {
        let seed = Uuid::new_v4().as_u128() as u64;
        let mut settings = RemoteLogConfig::new(cluster_id, cache_dir, seed);
        settings.chunk_cache_bytes = config.tier_cache_bytes;
        if !environment.workers.are_threads() {
            settings.io_threads = 0;
        }
        settings.concurrent_uploads = config.tier_copiers.min(4);
        let service = Arc::new(pointers::Pointers { controller });
        let log = RemoteLog::start(settings, service, Uuid::new_v4)?;
        let store = match &environment.store {
            None => log.store(url, &store_options(url, &config.tier_options))?,
            Some(simulated) => log.simulated_store(url, Arc::clone(simulated)),
        };
        Ok(Tier { log, store })
    }

    /// The remote log of one partition. Cheap.
    pub fn partition(&self, topic: &str, tp: TopicPartition) -> Arc<RemotePartition> {
        Arc::new(self.log.partition(Arc::clone(&self.store), topic, tp))
    }
}

/// What `server` takes from its configuration, from `AWS_*` variables instead: for commands that have a URL only.
pub fn environment_options(url: &str, environment: impl Fn(&str) -> Option<String>) -> StoreOptions {
    let mut properties = crate::config::Properties::default();
    properties.set("tier.url", url.to_owned(), "command line");
    let config = NodeConfig::from_properties(&properties, environment);
    config.map(|config| store_options(url, &config.tier_options)).unwrap_or_default()
}

/// The store's names of what the node was given.
fn store_options(url: &str, given: &BTreeMap<String, String>) -> StoreOptions {
    if !url.starts_with("s3") {
        return StoreOptions::new();
    }
    let named = |(key, value): (&String, &String)| {
        let key = match key.as_str() {
            "access_key_id" | "secret_access_key" | "region" | "endpoint" | "allow_http" => format!("aws_{key}"),
            other => other.to_owned(),
        };
        (key, value.clone())
    };
    given.iter().map(named).collect()
}
