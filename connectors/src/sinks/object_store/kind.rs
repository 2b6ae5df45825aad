//! The sink in the registry: its names, its keys, a task's archive.

use std::sync::Arc;

use strandline_tiering::Metrics;
use strandline_tiering::{Store, StoreLimits};

use super::archive::Archive;
use super::keys::{Config, KEYS};
use crate::config::{Key, Settings};
use crate::registry::{SinkKind, TaskContext};
use crate::sink::{Sink, SinkError};
use crate::url_policy::{Destination, UrlPolicy};

/// Connections to a store that wait for the next call.
const STORE_CONNECTIONS_IDLE_MAX: usize = 16;

/// `object-store`.
#[derive(Debug, Default)]
pub struct ObjectStoreKind;

impl SinkKind for ObjectStoreKind {
    fn class(&self) -> &str {
        "object-store"
    }

    fn aliases(&self) -> &[&str] {
        &[
            "io.confluent.connect.s3.S3SinkConnector",
            "io.aiven.kafka.connect.s3.AivenKafkaConnectS3SinkConnector",
            "io.confluent.connect.hdfs3.Hdfs3SinkConnector",
            "io.confluent.connect.hdfs.HdfsSinkConnector",
        ]
    }

    fn keys(&self) -> &[Key] {
        KEYS
    }

    fn faults(&self, settings: &Settings) -> Vec<(String, String)> {
        match Config::parse(settings) {
            Err(faults) => faults.into_iter().filter(|(key, _)| !key.is_empty()).collect(),
            Ok(config) => match open(&config, 0, &Arc::default()) {
                Ok(_) => Vec::new(),
                Err(error) => vec![("store.url".to_owned(), error)],
            },
        }
    }

    fn destinations(&self, settings: &Settings) -> Vec<(String, Destination)> {
        let keys = ["store.url", "hdfs.url", "aws.s3.endpoint"];
        let given = keys.iter().filter_map(|key| Some((*key, settings.get(*key)?.trim())));
        let urls = given.filter(|(_, url)| !url.is_empty());
        urls.map(|(key, url)| (key.to_owned(), Destination::Url(url.to_owned()))).collect()
    }

    fn create(&self, settings: &Settings, context: &TaskContext) -> Result<Box<dyn Sink>, SinkError> {
        let config = Config::parse(settings).map_err(|faults| {
            SinkError::Fatal(faults.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join("; "))
        })?;
        let store = open(&config, u64::from(context.task), &context.urls).map_err(SinkError::Fatal)?;
        let prepared = match std::fs::remove_dir_all(&context.spool) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => std::fs::create_dir_all(&context.spool),
        };
        prepared.map_err(|e| SinkError::Fatal(format!("{} cannot be used: {e}", context.spool.display())))?;
        Ok(Box::new(Archive::new(config, Arc::new(store), context.spool.clone(), context.memory_bytes_max)))
    }
}

fn open(config: &Config, seed: u64, urls: &Arc<UrlPolicy>) -> Result<Store, String> {
    let metrics = Arc::new(Metrics::default());
    // Redirects would lead past the store that was named, and its signatures do not hold elsewhere.
    let client = urls.client(false).http1_only().pool_max_idle_per_host(STORE_CONNECTIONS_IDLE_MAX);
    let client = client.build().map_err(|e| e.to_string())?;
    let opened = Store::open_with(client, &config.url, &config.options, StoreLimits::default(), metrics, seed);
    opened.map_err(|e| e.to_string())
}
