//! From a URL to a store: `file://`, `s3://`, `hdfs://`, and what else the object store client speaks.
//!
//! Owns: which schemes there are, which options each takes, and what to say when one is wrong.
//! Options given win over the process's environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`); where both say nothing, the client
//! looks for credentials as the provider's own SDK does (web identity, container, instance metadata).

use std::collections::{BTreeMap, HashMap};
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::url::{Position, Url};
use hdfs_native_object_store::HdfsObjectStoreBuilder;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::AzureConfigKey;
use object_store::client::{HttpClient, HttpConnector};
use object_store::gcp::GoogleConfigKey;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::{BackoffConfig, ClientConfigKey, ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig};
use thiserror::Error;

use super::{Store, StoreLimits};
use crate::metrics::Metrics;

/// Options by name: for `s3` `aws_access_key_id`, `aws_secret_access_key`, `aws_region`, `aws_endpoint`, `aws_allow_http`
/// and the other names of the AWS SDK (with or without `aws_`); for `hdfs` Hadoop's configuration keys; for the other
/// schemes the names that the client knows (`google_service_account`, `azure_storage_account_key`, `allow_http`).
pub type StoreOptions = BTreeMap<String, String>;

/// Why a URL gives no store.
#[derive(Debug, Error)]
pub enum StoreUrlError {
    #[error("{url} has no scheme; write file:///directory, s3://bucket/prefix or hdfs://namenode:port/directory")]
    NoScheme { url: String },
    #[error(
        "the scheme {scheme}:// is not supported; use file://, s3://, hdfs://, gs://, az://, abfs://, http(s):// or memory://"
    )]
    UnknownScheme { scheme: String },
    #[error("{url} names no bucket; write {scheme}://bucket/prefix")]
    NoBucket { url: String, scheme: String },
    #[error("the store option {key} is unknown")]
    UnknownOption { key: String },
    #[error("cannot use the directory {directory}: {reason}")]
    Directory { directory: String, reason: String },
    #[error("cannot set up {url}: {reason}")]
    Setup { url: String, reason: String },
}

type Opened = (Arc<dyn ObjectStore>, String);

impl Store {
    /// Opens a store by its URL. No call is made to it yet, except that a `file://` directory is created.
    pub fn open(
        url: &str,
        options: &StoreOptions,
        limits: StoreLimits,
        metrics: Arc<Metrics>,
        seed: u64,
    ) -> Result<Store, StoreUrlError> {
        Store::open_in(&environment(), None, url, options, limits, metrics, seed)
    }

    /// The same, with a client of the caller's for every HTTP call: it decides where connections may go. `gs://` and `az://` have a
    /// client of their own, for the provider's hosts alone; `hdfs://` has none.
    pub fn open_with(
        client: reqwest::Client,
        url: &str,
        options: &StoreOptions,
        limits: StoreLimits,
        metrics: Arc<Metrics>,
        seed: u64,
    ) -> Result<Store, StoreUrlError> {
        Store::open_in(&environment(), Some(GivenClient(client)), url, options, limits, metrics, seed)
    }

    fn open_in(
        environment: &StoreOptions,
        client: Option<GivenClient>,
        url: &str,
        options: &StoreOptions,
        limits: StoreLimits,
        metrics: Arc<Metrics>,
        seed: u64,
    ) -> Result<Store, StoreUrlError> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| StoreUrlError::NoScheme { url: url.to_owned() })?;
        let (inner, prefix) = match scheme {
            "file" => {
                let (inner, directory) = open_file(rest)?;
                let store = Store::new(inner, "", url, limits, metrics, seed);
                return Ok(Store { directory: Some(directory), ..store });
            }
            "s3" | "s3a" => open_s3(client, url, scheme, rest, environment, options, &limits)?,
            "hdfs" => open_hdfs(url, rest, options)?,
            _ => open_other(client, url, scheme, environment, options, &limits)?,
        };
        Ok(Store::new(inner, &prefix, url, limits, metrics, seed))
    }
}

/// What the process's environment says.
fn environment() -> StoreOptions {
    let text = |os: std::ffi::OsString| os.into_string().ok();
    std::env::vars_os().filter_map(|(key, value)| Some((text(key)?, text(value)?))).collect()
}

/// A client that is there already.
#[derive(Debug, Clone)]
struct GivenClient(reqwest::Client);

impl HttpConnector for GivenClient {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

fn setup_failed(url: &str, reason: &dyn std::fmt::Display) -> StoreUrlError {
    StoreUrlError::Setup { url: url.to_owned(), reason: reason.to_string() }
}

fn open_file(directory: &str) -> Result<(Arc<dyn ObjectStore>, PathBuf), StoreUrlError> {
    let failed = |reason: String| StoreUrlError::Directory { directory: directory.to_owned(), reason };
    let path = FsPath::new(directory);
    if !path.is_absolute() {
        return Err(failed("write an absolute path after file://".to_owned()));
    }
    std::fs::create_dir_all(path).map_err(|error| failed(error.to_string()))?;
    let path = path.canonicalize().map_err(|error| failed(error.to_string()))?;
    let store = LocalFileSystem::new_with_prefix(&path).map_err(|error| failed(error.to_string()))?;
    // A put is answered when the file, its name and new folders are on disk, a delete when the name is gone from it.
    Ok((Arc::new(store.with_fsync(true).with_automatic_cleanup(true)), path))
}

/// What the environment says to this kind of store: names that begin so, and that the client knows.
fn from_environment<'a, K: std::str::FromStr>(
    environment: &'a StoreOptions,
    prefix: &'a str,
) -> impl Iterator<Item = (K, &'a String)> {
    let named = environment.iter().filter(move |(name, _)| name.starts_with(prefix));
    named.filter_map(|(name, value)| Some((name.to_ascii_lowercase().parse().ok()?, value)))
}

fn given<K: std::str::FromStr>(options: &StoreOptions) -> Result<Vec<(K, &String)>, StoreUrlError> {
    let parsed = |(name, value)| match str::parse(&str::to_ascii_lowercase(name)) {
        Ok(key) => Ok((key, value)),
        Err(_) => Err(StoreUrlError::UnknownOption { key: str::to_owned(name) }),
    };
    options.iter().map(|(name, value)| parsed((name.as_str(), value))).collect()
}

fn open_s3(
    client: Option<GivenClient>,
    url: &str,
    scheme: &str,
    rest: &str,
    environment: &StoreOptions,
    options: &StoreOptions,
    limits: &StoreLimits,
) -> Result<Opened, StoreUrlError> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err(StoreUrlError::NoBucket { url: url.to_owned(), scheme: scheme.to_owned() });
    }
    let builder = s3_builder(bucket, environment, options, limits)?;
    let builder = match client {
        Some(client) => builder.with_http_connector(client),
        None => builder,
    };
    let store = builder.build().map_err(|error| setup_failed(url, &error))?;
    Ok((Arc::new(store), prefix.trim_end_matches('/').to_owned()))
}

fn retry(limits: &StoreLimits) -> RetryConfig {
    let backoff = BackoffConfig { init_backoff: limits.backoff, max_backoff: limits.backoff_max, base: 2.0 };
    RetryConfig { backoff, max_retries: 2, retry_timeout: limits.deadline }
}

fn s3_builder(
    bucket: &str,
    environment: &StoreOptions,
    options: &StoreOptions,
    limits: &StoreLimits,
) -> Result<AmazonS3Builder, StoreUrlError> {
    // Deadlines are ours; the client's own tries are for the parts of an upload, which cannot be sent twice from outside.
    let client = ClientOptions::new()
        .with_connect_timeout(Duration::from_secs(5))
        .with_timeout_disabled()
        .with_http1_only()
        .with_pool_max_idle_per_host(64);
    let mut builder = AmazonS3Builder::new().with_client_options(client).with_retry(retry(limits));
    let given = given::<AmazonS3ConfigKey>(options)?;
    let mut from_environment: Vec<_> = from_environment::<AmazonS3ConfigKey>(environment, "AWS_").collect();
    // A key pair belongs together: half of one and half of another, or one with a foreign token, is refused by every store.
    let is_credential = |key: &AmazonS3ConfigKey| {
        matches!(key, AmazonS3ConfigKey::AccessKeyId | AmazonS3ConfigKey::SecretAccessKey | AmazonS3ConfigKey::Token)
    };
    if given.iter().any(|(key, _)| is_credential(key)) {
        from_environment.retain(|(key, _)| !is_credential(key));
    }
    if given.iter().any(|(key, _)| matches!(key, AmazonS3ConfigKey::Endpoint)) {
        from_environment.retain(|(key, _)| !matches!(key, AmazonS3ConfigKey::S3Endpoint));
    }
    for (key, value) in from_environment.into_iter().chain(given) {
        builder = builder.with_config(key, value);
    }
    Ok(builder.with_bucket_name(bucket))
}

fn open_hdfs(url: &str, rest: &str, options: &StoreOptions) -> Result<Opened, StoreUrlError> {
    let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let config: HashMap<String, String> = options.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let store = HdfsObjectStoreBuilder::new()
        .with_url(format!("hdfs://{authority}"))
        .with_config(config)
        .build()
        .map_err(|error| setup_failed(url, &error))?;
    Ok((Arc::new(store), prefix.trim_end_matches('/').to_owned()))
}

/// Longer than any deadline of ours, so that ours are the ones that count.
const CLIENT_TIMEOUT: &str = "1 hour";

fn open_other(
    client: Option<GivenClient>,
    url: &str,
    scheme: &str,
    environment: &StoreOptions,
    options: &StoreOptions,
    limits: &StoreLimits,
) -> Result<Opened, StoreUrlError> {
    let parsed = Url::parse(url).map_err(|error| setup_failed(url, &error))?;
    let unknown = || StoreUrlError::UnknownScheme { scheme: scheme.to_owned() };
    let (kind, path) = ObjectStoreScheme::parse(&parsed).map_err(|_| unknown())?;
    let mut all: Vec<(String, String)> = vec![("timeout".to_owned(), CLIENT_TIMEOUT.to_owned())];
    let mut add = |name: &str, value: &str| all.push((name.to_owned(), value.to_owned()));
    match kind {
        ObjectStoreScheme::Memory => {}
        ObjectStoreScheme::Http => {
            given::<ClientConfigKey>(options)?;
            if let Some(client) = client {
                let builder = HttpBuilder::new().with_url(&parsed[..Position::BeforePath]).with_retry(retry(limits));
                let store = builder.with_http_connector(client).build().map_err(|error| setup_failed(url, &error))?;
                return Ok((Arc::new(store), path.to_string()));
            }
            add("allow_http", "true");
        }
        ObjectStoreScheme::GoogleCloudStorage => {
            given::<GoogleConfigKey>(options)?;
            from_environment::<GoogleConfigKey>(environment, "GOOGLE_").for_each(|(k, v)| add(k.as_ref(), v));
        }
        ObjectStoreScheme::MicrosoftAzure => {
            given::<AzureConfigKey>(options)?;
            from_environment::<AzureConfigKey>(environment, "AZURE_").for_each(|(k, v)| add(k.as_ref(), v));
        }
        ObjectStoreScheme::AmazonS3 => {
            given::<AmazonS3ConfigKey>(options)?;
            from_environment::<AmazonS3ConfigKey>(environment, "AWS_").for_each(|(k, v)| add(k.as_ref(), v));
        }
        _ => return Err(unknown()),
    }
    options.iter().for_each(|(name, value)| add(name, value));
    let (store, prefix) = object_store::parse_url_opts(&parsed, all).map_err(|error| setup_failed(url, &error))?;
    Ok((Arc::from(store), prefix.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> StoreOptions {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn open(environment: &[(&str, &str)], url: &str, given: &[(&str, &str)]) -> Result<Store, StoreUrlError> {
        let metrics = Arc::new(Metrics::default());
        Store::open_in(&options(environment), None, url, &options(given), StoreLimits::default(), metrics, 1)
    }

    #[test]
    fn what_is_given_wins_over_the_environment_and_the_rest_comes_from_it() {
        let environment = [
            ("AWS_ACCESS_KEY_ID", "theirs"),
            ("AWS_SECRET_ACCESS_KEY", "their secret"),
            ("AWS_SESSION_TOKEN", "their token"),
            ("AWS_REGION", "eu-north-1"),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_NO_SUCH_NAME", "ignored"),
        ];
        let limits = StoreLimits::default();
        let value = |builder: &AmazonS3Builder, key| builder.get_config_value(&key).unwrap_or_default();
        let builder = s3_builder("bucket", &options(&environment), &options(&[]), &limits).unwrap();
        assert_eq!(value(&builder, AmazonS3ConfigKey::AccessKeyId), "theirs");
        assert_eq!(value(&builder, AmazonS3ConfigKey::Region), "eu-north-1");
        assert_eq!(value(&builder, AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp)), "true");

        let mine = options(&[("access_key_id", "mine"), ("AWS_SECRET_ACCESS_KEY", "my secret")]);
        let builder = s3_builder("bucket", &options(&environment), &mine, &limits).unwrap();
        assert_eq!(value(&builder, AmazonS3ConfigKey::AccessKeyId), "mine");
        assert_eq!(value(&builder, AmazonS3ConfigKey::SecretAccessKey), "my secret");
        assert_eq!(value(&builder, AmazonS3ConfigKey::Token), "", "a foreign token does not go with my keys");
        assert_eq!(value(&builder, AmazonS3ConfigKey::Region), "eu-north-1");
        assert_eq!(value(&builder, AmazonS3ConfigKey::Bucket), "bucket");
    }

    #[test]
    fn every_scheme_opens_without_a_call() {
        let directory = tempfile::tempdir().unwrap();
        let file = format!("file://{}/new/bucket", directory.path().display());
        let azure = [("azure_storage_account_name", "account"), ("azure_storage_account_key", "a2V5")];
        let google = [("google_skip_signature", "true")];
        open(&[], &file, &[]).unwrap();
        open(&[], "memory:///", &[]).unwrap();
        open(&[], "s3://bucket/a/prefix/", &[]).unwrap();
        open(&[], "s3a://bucket", &[("aws_region", "eu-west-1")]).unwrap();
        open(&[], "gs://bucket/prefix", &google).unwrap();
        open(&[], "az://container/prefix", &azure).unwrap();
        open(&[], "http://127.0.0.1:1/prefix", &[]).unwrap();
        assert!(directory.path().join("new/bucket").is_dir());
    }

    #[test]
    fn the_prefix_of_the_url_is_the_prefix_of_every_key() {
        assert_eq!(open(&[], "s3://bucket/a/prefix/", &[]).unwrap().path("k/x").as_ref(), "a/prefix/k/x");
        assert_eq!(open(&[], "s3://bucket", &[]).unwrap().path("k/x").as_ref(), "k/x");
        assert_eq!(open(&[], "memory:///below", &[]).unwrap().path("k").as_ref(), "below/k");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let says = |environment: &[(&str, &str)], url: &str, given: &[(&str, &str)], words: &str| {
            let error = open(environment, url, given).expect_err(url).to_string();
            assert!(error.contains(words), "{error}");
        };
        says(&[], "bucket", &[], "no scheme");
        says(&[], "ftp://host/x", &[], "the scheme ftp:// is not supported");
        says(&[], "s3:///x", &[], "names no bucket");
        says(&[], "s3://bucket", &[("aws_acess_key", "x")], "aws_acess_key is unknown");
        says(&[], "gs://bucket", &[("hadoop", "x")], "hadoop is unknown");
        says(&[], "file://relative", &[], "absolute path");
        says(&[], "az://container", &[], "cannot set up az://container");
        says(&[], "hdfs://", &[], "cannot set up hdfs://");
    }
}
