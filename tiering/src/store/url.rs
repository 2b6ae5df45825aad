//! From a URL to a store: `file://`, `s3://`, `hdfs://`.
//!
//! Owns: which schemes there are, which options each takes, and what to say when one is wrong.

use std::collections::{BTreeMap, HashMap};
use std::path::Path as FsPath;
use std::sync::Arc;
use std::time::Duration;

use hdfs_native_object_store::HdfsObjectStoreBuilder;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use thiserror::Error;

use super::{Store, StoreLimits};
use crate::metrics::Metrics;

/// Options by name: for `s3` `aws_access_key_id`, `aws_secret_access_key`, `aws_region`, `aws_endpoint`, `aws_allow_http`
/// and the other names of the AWS SDK (with or without `aws_`); for `hdfs` Hadoop's configuration keys.
pub type StoreOptions = BTreeMap<String, String>;

/// Why a URL gives no store.
#[derive(Debug, Error)]
pub enum StoreUrlError {
    #[error("{url} has no scheme; write file:///directory, s3://bucket/prefix or hdfs://namenode:port/directory")]
    NoScheme { url: String },
    #[error("the scheme {scheme}:// is not supported; use file://, s3:// or hdfs://")]
    UnknownScheme { scheme: String },
    #[error("{url} names no bucket; write s3://bucket/prefix")]
    NoBucket { url: String },
    #[error("the store option {key} is unknown")]
    UnknownOption { key: String },
    #[error("cannot use the directory {directory}: {reason}")]
    Directory { directory: String, reason: String },
    #[error("cannot set up {url}: {reason}")]
    Setup { url: String, reason: String },
}

impl Store {
    /// Opens a store by its URL. No call is made to it yet, except that a `file://` directory is created.
    pub fn open(
        url: &str,
        options: &StoreOptions,
        limits: StoreLimits,
        metrics: Arc<Metrics>,
        seed: u64,
    ) -> Result<Store, StoreUrlError> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| StoreUrlError::NoScheme { url: url.to_owned() })?;
        let (inner, prefix) = match scheme {
            "file" => (open_file(rest)?, ""),
            "s3" | "s3a" => open_s3(url, rest, options, &limits)?,
            "hdfs" => open_hdfs(url, rest, options)?,
            other => return Err(StoreUrlError::UnknownScheme { scheme: other.to_owned() }),
        };
        Ok(Store::new(inner, prefix, url, limits, metrics, seed))
    }
}

fn open_file(directory: &str) -> Result<Arc<dyn ObjectStore>, StoreUrlError> {
    let failed = |reason: String| StoreUrlError::Directory { directory: directory.to_owned(), reason };
    let path = FsPath::new(directory);
    if !path.is_absolute() {
        return Err(failed("write an absolute path after file://".to_owned()));
    }
    std::fs::create_dir_all(path).map_err(|error| failed(error.to_string()))?;
    let store = LocalFileSystem::new_with_prefix(path).map_err(|error| failed(error.to_string()))?;
    Ok(Arc::new(store.with_fsync(true).with_automatic_cleanup(true)))
}

fn open_s3<'a>(
    url: &str,
    rest: &'a str,
    options: &StoreOptions,
    limits: &StoreLimits,
) -> Result<(Arc<dyn ObjectStore>, &'a str), StoreUrlError> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err(StoreUrlError::NoBucket { url: url.to_owned() });
    }
    // Deadlines are ours; the client's own tries are for the parts of an upload, which cannot be sent twice from outside.
    let client = ClientOptions::new()
        .with_connect_timeout(Duration::from_secs(5))
        .with_timeout_disabled()
        .with_http1_only()
        .with_pool_max_idle_per_host(64);
    let backoff = BackoffConfig { init_backoff: limits.backoff, max_backoff: limits.backoff_max, base: 2.0 };
    let retry = RetryConfig { backoff, max_retries: 2, retry_timeout: limits.deadline };
    let mut builder = AmazonS3Builder::new().with_bucket_name(bucket).with_client_options(client).with_retry(retry);
    for (key, value) in options {
        let parsed: AmazonS3ConfigKey =
            key.to_ascii_lowercase().parse().map_err(|_| StoreUrlError::UnknownOption { key: key.clone() })?;
        builder = builder.with_config(parsed, value);
    }
    let store =
        builder.build().map_err(|error| StoreUrlError::Setup { url: url.to_owned(), reason: error.to_string() })?;
    Ok((Arc::new(store), prefix.trim_end_matches('/')))
}

fn open_hdfs<'a>(
    url: &str,
    rest: &'a str,
    options: &StoreOptions,
) -> Result<(Arc<dyn ObjectStore>, &'a str), StoreUrlError> {
    let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let config: HashMap<String, String> = options.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let store = HdfsObjectStoreBuilder::new()
        .with_url(format!("hdfs://{authority}"))
        .with_config(config)
        .build()
        .map_err(|error| StoreUrlError::Setup { url: url.to_owned(), reason: error.to_string() })?;
    Ok((Arc::new(store), prefix.trim_end_matches('/')))
}
