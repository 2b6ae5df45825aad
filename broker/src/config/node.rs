//! `NodeConfig`: what a node runs with, typed and checked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use strandline_controller::LeaderBalance;
use strandline_log::config::LogConfig;

use super::keys::{OWN, WITHOUT_EFFECT, nearest, server_synonyms};
use super::properties::Properties;
use crate::replication::selector::{LEADER, RACK_AWARE};

/// A configuration that cannot run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("{key}={value} ({origin}): {detail}")]
    Invalid { key: String, value: String, origin: String, detail: String },
    #[error("{key} is not set: {detail}")]
    Missing { key: &'static str, detail: &'static str },
}

/// One socket that is listened on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    pub name: String,
    /// Empty = all interfaces.
    pub host: String,
    /// 0 = any free port.
    pub port: u16,
}

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    pub broker: bool,
    pub controller: bool,
}

/// `__consumer_offsets`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetsTopic {
    pub partitions: i32,
    /// None = min(3, registered brokers).
    pub replication_factor: Option<i16>,
    pub segment_bytes: i64,
    pub retention: Duration,
    pub check_interval: Duration,
    pub metadata_max_bytes: usize,
}

/// All that a node is started with. Times are durations, sizes bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeConfig {
    pub node_id: i32,
    pub roles: Roles,
    /// Client listeners.
    pub listeners: Vec<Listener>,
    pub controller_listeners: Vec<Listener>,
    pub advertised: Vec<Listener>,
    pub voters: BTreeMap<u64, String>,
    pub log_dirs: Vec<PathBuf>,
    pub metadata_dir: PathBuf,
    pub rack: Option<String>,
    /// Name of the listener that other brokers use.
    pub inter_broker_listener: String,
    /// Controllers of an existing or new cluster by address alone.
    pub bootstrap_controllers: Vec<String>,
    /// A follower that lags for longer leaves the in-sync set.
    pub replica_lag_max: Duration,
    /// A broker that was not heard of for longer is fenced.
    pub broker_session_timeout: Duration,
    pub broker_heartbeat_interval: Duration,
    /// Consumers are sent to a replica in their rack (`replica.selector.class`).
    pub rack_aware_reads: bool,
    /// None: `auto.leader.rebalance.enable=false`.
    pub leader_balance: Option<LeaderBalance>,
    pub admin_listener: Option<(String, u16)>,
    /// A taken admin port is replaced by a free one (`dev`).
    pub admin_any_port: bool,
    /// Of a new cluster; an existing one keeps its own.
    pub cluster_id: Option<String>,

    pub num_partitions: i32,
    pub default_replication_factor: i16,
    pub auto_create_topics: bool,
    pub delete_topics: bool,
    /// Defaults of topic settings.
    pub log_defaults: LogConfig,
    /// The topic settings that the node sets, as text (DescribeConfigs calls them STATIC_BROKER_CONFIG).
    pub log_settings: BTreeMap<String, String>,
    pub retention_check_interval: Duration,
    pub initial_task_delay: Duration,
    pub producer_id_expiration: Duration,

    pub request_max_bytes: usize,
    pub queued_request_max_bytes: usize,
    pub connections_max: usize,
    pub connections_max_idle: Duration,
    pub fetch_max_bytes: i32,
    pub fetch_sessions_max: usize,

    pub group_initial_rebalance_delay: Duration,
    pub group_min_session_timeout: Duration,
    pub group_max_session_timeout: Duration,
    pub group_max_size: usize,
    pub offsets: OffsetsTopic,

    pub remote_storage: bool,
    pub tier_url: Option<String>,
    /// `access_key_id`, `secret_access_key`, `region`, `endpoint`, `allow_http`, as far as set.
    pub tier_options: BTreeMap<String, String>,
    pub tier_cache_dir: Option<PathBuf>,
    pub tier_cache_bytes: u64,
    pub tier_undelete: Duration,
    pub tier_task_interval: Duration,
    pub tier_copiers: usize,
    pub remote_fetch_max_wait: Duration,

    /// What to tell the operator at start.
    pub warnings: Vec<String>,
    /// Every setting as given, for DescribeConfigs of the broker; secrets are never answered.
    pub given: BTreeMap<String, String>,
}

struct Source<'a> {
    properties: &'a Properties,
}

impl Source<'_> {
    fn text(&self, key: &str) -> Option<&str> {
        self.properties.get(key).map(str::trim).filter(|v| !v.is_empty())
    }

    fn invalid(&self, key: &str, detail: impl Into<String>) -> ConfigError {
        let setting = self.properties.settings.get(key);
        ConfigError::Invalid {
            key: key.to_owned(),
            value: setting.map(|s| s.value.clone()).unwrap_or_default(),
            origin: setting.map(|s| s.origin.clone()).unwrap_or_default(),
            detail: detail.into(),
        }
    }

    fn number<T: FromStr + PartialOrd + std::fmt::Display + Copy>(
        &self,
        key: &str,
        default: T,
        least: T,
    ) -> Result<T, ConfigError> {
        let Some(text) = self.text(key) else { return Ok(default) };
        let value: T = text.parse().map_err(|_| self.invalid(key, "not a number of the expected size"))?;
        if value < least {
            return Err(self.invalid(key, format!("must be at least {least}")));
        }
        Ok(value)
    }

    fn millis(&self, key: &str, default_ms: u64) -> Result<Duration, ConfigError> {
        Ok(Duration::from_millis(self.number(key, default_ms, 0)?))
    }

    fn boolean(&self, key: &str, default: bool) -> Result<bool, ConfigError> {
        match self.text(key).map(str::to_ascii_lowercase).as_deref() {
            None => Ok(default),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(_) => Err(self.invalid(key, "must be true or false")),
        }
    }

    fn list(&self, key: &str) -> Vec<String> {
        let text = self.text(key).unwrap_or("");
        text.split(',').map(str::trim).filter(|v| !v.is_empty()).map(str::to_owned).collect()
    }
}

impl NodeConfig {
    /// Checks and types `properties`. `environment` looks up an `AWS_*` variable.
    pub fn from_properties(
        properties: &Properties,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let source = Source { properties };
        let roles = roles(&source)?;
        let node_id = node_id(&source)?;
        let controller_names = source.list("controller.listener.names");
        let controller_names =
            if controller_names.is_empty() { vec!["CONTROLLER".to_owned()] } else { controller_names };
        check_protocols(&source)?;
        let all = listeners(&source, "listeners")?;
        let all = if all.is_empty() { default_listeners(roles) } else { all };
        let (controller_listeners, listeners): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|l| controller_names.contains(&l.name));
        if roles.broker && listeners.is_empty() {
            return Err(ConfigError::Missing {
                key: "listeners",
                detail: "a broker needs a client listener, for instance PLAINTEXT://:9092",
            });
        }
        check_roles(&source, roles, &listeners)?;
        let advertised = listeners_or(&source, "advertised.listeners", &listeners)?;
        let inter_broker_listener = source.text("inter.broker.listener.name").map(str::to_uppercase);
        let inter_broker_listener =
            inter_broker_listener.or_else(|| listeners.first().map(|l| l.name.clone())).unwrap_or_default();
        let voters = voters(&source, roles, node_id, &controller_listeners)?;
        let log_dirs = log_dirs(&source);
        let metadata_dir = source.text("metadata.log.dir").map_or_else(|| log_dirs[0].clone(), PathBuf::from);
        let (log_defaults, log_settings) = log_defaults(&source)?;
        let tier_url = source.text("tier.url").map(str::to_owned);
        let remote_storage = remote_storage(&source, tier_url.is_some())?;
        Ok(NodeConfig {
            node_id,
            roles,
            listeners,
            controller_listeners,
            advertised,
            voters,
            metadata_dir,
            rack: source.text("broker.rack").map(str::to_owned),
            inter_broker_listener,
            bootstrap_controllers: source.list("controller.quorum.bootstrap.servers"),
            replica_lag_max: source.millis("replica.lag.time.max.ms", 30_000)?,
            // Kafka waits 9 s; a broken connection is noticed at once here, so silence is the rare case.
            broker_session_timeout: source.millis("broker.session.timeout.ms", 3_000)?,
            broker_heartbeat_interval: source.millis("broker.heartbeat.interval.ms", 500)?,
            rack_aware_reads: rack_aware_reads(&source)?,
            leader_balance: leader_balance(&source)?,
            admin_listener: admin_listener(&source)?,
            admin_any_port: false,
            cluster_id: source.text("cluster.id").map(str::to_owned),
            num_partitions: source.number("num.partitions", 1, 1)?,
            default_replication_factor: source.number("default.replication.factor", 1, 1)?,
            auto_create_topics: source.boolean("auto.create.topics.enable", true)?,
            delete_topics: source.boolean("delete.topic.enable", true)?,
            log_defaults,
            log_settings,
            retention_check_interval: source.millis("log.retention.check.interval.ms", 300_000)?,
            initial_task_delay: source.millis("log.initial.task.delay.ms", 30_000)?,
            producer_id_expiration: source.millis("producer.id.expiration.ms", 86_400_000)?,
            request_max_bytes: source.number("socket.request.max.bytes", 100 << 20, 1)?,
            queued_request_max_bytes: queued_bytes(&source)?,
            connections_max: source.number("max.connections", i32::MAX as usize, 0)?,
            connections_max_idle: source.millis("connections.max.idle.ms", 600_000)?,
            fetch_max_bytes: source.number("fetch.max.bytes", 55 << 20, 1024)?,
            fetch_sessions_max: source.number("max.incremental.fetch.session.cache.slots", 1000, 0)?,
            group_initial_rebalance_delay: source.millis("group.initial.rebalance.delay.ms", 3000)?,
            group_min_session_timeout: source.millis("group.min.session.timeout.ms", 6000)?,
            group_max_session_timeout: source.millis("group.max.session.timeout.ms", 1_800_000)?,
            group_max_size: source.number("group.max.size", i32::MAX as usize, 1)?,
            offsets: offsets_topic(&source)?,
            remote_storage,
            tier_url,
            tier_options: tier_options(&source, environment),
            tier_cache_dir: source.text("tier.cache.dir").map(PathBuf::from),
            tier_cache_bytes: source.number("tier.cache.bytes", 1 << 30, 64 << 20)?,
            tier_undelete: source.millis("tier.undelete.ms", 0)?,
            tier_task_interval: source.millis("remote.log.manager.task.interval.ms", 30_000)?,
            tier_copiers: source.number("remote.log.manager.copier.thread.pool.size", 10, 1)?,
            remote_fetch_max_wait: source.millis("remote.fetch.max.wait.ms", 500)?,
            warnings: warnings(properties),
            given: properties.settings.iter().map(|(k, s)| (k.clone(), s.value.clone())).collect(),
            log_dirs,
        })
    }
}

fn rack_aware_reads(source: &Source<'_>) -> Result<bool, ConfigError> {
    let key = "replica.selector.class";
    match source.text(key) {
        None | Some(LEADER) => Ok(false),
        Some(RACK_AWARE) => Ok(true),
        Some(_) => Err(source.invalid(key, format!("is {RACK_AWARE} or {LEADER}"))),
    }
}

fn leader_balance(source: &Source<'_>) -> Result<Option<LeaderBalance>, ConfigError> {
    let seconds = source.number("leader.imbalance.check.interval.seconds", 300, 1)?;
    let percentage = source.number("leader.imbalance.per.broker.percentage", 10, 0)?;
    let enabled = source.boolean("auto.leader.rebalance.enable", true)?;
    Ok(enabled.then_some(LeaderBalance { interval: Duration::from_secs(seconds), percentage }))
}

fn remote_storage(source: &Source<'_>, has_bucket: bool) -> Result<bool, ConfigError> {
    let enabled = source.boolean("remote.log.storage.system.enable", has_bucket)?;
    if enabled && !has_bucket {
        return Err(ConfigError::Missing {
            key: "tier.url",
            detail: "remote.log.storage.system.enable=true needs a bucket: s3://bucket/prefix, hdfs://host:port/path \
                     or file:///path",
        });
    }
    Ok(enabled)
}

fn offsets_topic(source: &Source<'_>) -> Result<OffsetsTopic, ConfigError> {
    Ok(OffsetsTopic {
        partitions: source.number("offsets.topic.num.partitions", 50, 1)?,
        replication_factor: match source.text("offsets.topic.replication.factor") {
            None => None,
            Some(_) => Some(source.number("offsets.topic.replication.factor", 3, 1)?),
        },
        segment_bytes: source.number("offsets.topic.segment.bytes", 104_857_600, 1)?,
        retention: Duration::from_secs(60 * source.number("offsets.retention.minutes", 10_080, 1)?),
        check_interval: source.millis("offsets.retention.check.interval.ms", 600_000)?,
        metadata_max_bytes: source.number("offset.metadata.max.bytes", 4096, 0)?,
    })
}

fn queued_bytes(source: &Source<'_>) -> Result<usize, ConfigError> {
    const DEFAULT: i64 = 512 << 20;
    let value: i64 = source.number("queued.max.request.bytes", DEFAULT, -1)?;
    Ok(usize::try_from(value).unwrap_or(DEFAULT as usize))
}

fn roles(source: &Source<'_>) -> Result<Roles, ConfigError> {
    let names = source.list("process.roles");
    if names.is_empty() {
        return Ok(Roles { broker: true, controller: true });
    }
    let mut roles = Roles { broker: false, controller: false };
    for name in names {
        match name.as_str() {
            "broker" => roles.broker = true,
            "controller" => roles.controller = true,
            other => {
                return Err(
                    source.invalid("process.roles", format!("unknown role '{other}'; use broker, controller or both"))
                );
            }
        }
    }
    Ok(roles)
}

/// What a node that is only one of the two needs.
fn check_roles(source: &Source<'_>, roles: Roles, clients: &[Listener]) -> Result<(), ConfigError> {
    if !roles.broker && !clients.is_empty() {
        let detail = "a node that is only controller has controller listeners only (controller.listener.names)";
        return Err(source.invalid("listeners", detail));
    }
    let named = ["controller.quorum.voters", "controller.quorum.bootstrap.servers"];
    if !roles.controller && named.iter().all(|key| source.text(key).is_none()) {
        return Err(ConfigError::Missing {
            key: "controller.quorum.bootstrap.servers",
            detail: "a node that is only broker needs the addresses of controllers",
        });
    }
    Ok(())
}

fn node_id(source: &Source<'_>) -> Result<i32, ConfigError> {
    let key = if source.text("node.id").is_some() { "node.id" } else { "broker.id" };
    source.number(key, 1, 0)
}

/// Only PLAINTEXT is served; anything else is refused rather than silently opened.
fn check_protocols(source: &Source<'_>) -> Result<(), ConfigError> {
    let key = "listener.security.protocol.map";
    for pair in source.list(key) {
        let Some((name, protocol)) = pair.split_once(':') else {
            return Err(source.invalid(key, format!("'{pair}' is not of the form LISTENER:PROTOCOL")));
        };
        let used = source.list("listeners").iter().any(|l| l.starts_with(&format!("{name}:")));
        if protocol != "PLAINTEXT" && used {
            return Err(
                source.invalid(key, format!("listener {name} asks for {protocol}; this version serves PLAINTEXT only"))
            );
        }
    }
    Ok(())
}

fn listeners(source: &Source<'_>, key: &str) -> Result<Vec<Listener>, ConfigError> {
    let mut found: Vec<Listener> = Vec::new();
    for text in source.list(key) {
        let listener = parse_listener(&text).ok_or_else(|| {
            source.invalid(key, format!("'{text}' is not of the form NAME://host:port, for instance PLAINTEXT://:9092"))
        })?;
        if found.iter().any(|l| l.name == listener.name) {
            return Err(source.invalid(key, format!("listener {} is named twice", listener.name)));
        }
        let unmapped = !source
            .list("listener.security.protocol.map")
            .iter()
            .any(|p| p.starts_with(&format!("{}:", listener.name)));
        if unmapped && ["SSL", "SASL_PLAINTEXT", "SASL_SSL"].contains(&listener.name.as_str()) {
            return Err(source.invalid(key, format!("{} is not served by this version, only PLAINTEXT", listener.name)));
        }
        found.push(listener);
    }
    Ok(found)
}

fn listeners_or(source: &Source<'_>, key: &str, default: &[Listener]) -> Result<Vec<Listener>, ConfigError> {
    let found = listeners(source, key)?;
    Ok(if found.is_empty() { default.to_vec() } else { found })
}

fn parse_listener(text: &str) -> Option<Listener> {
    let (name, address) = text.split_once("://")?;
    let (host, port) = address.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some(Listener { name: name.to_uppercase(), host: host.to_owned(), port: port.parse().ok()? })
}

fn default_listeners(roles: Roles) -> Vec<Listener> {
    let listener = |name: &str, host: &str, port| Listener { name: name.to_owned(), host: host.to_owned(), port };
    let client = roles.broker.then(|| listener("PLAINTEXT", "", 9092));
    let controller = roles.controller.then(|| listener("CONTROLLER", "127.0.0.1", 0));
    client.into_iter().chain(controller).collect()
}

/// `controller.quorum.voters` (`1@host:port,...`) names voters with ids; `controller.quorum.bootstrap.servers` does not,
/// and then a new cluster begins with this node alone.
fn voters(
    source: &Source<'_>,
    roles: Roles,
    node_id: i32,
    own: &[Listener],
) -> Result<BTreeMap<u64, String>, ConfigError> {
    let key = "controller.quorum.voters";
    let mut voters = BTreeMap::new();
    for text in source.list(key) {
        let parsed = text.split_once('@').and_then(|(id, addr)| Some((id.parse::<u32>().ok()?, addr)));
        let Some((id, address)) = parsed.filter(|(_, a)| a.contains(':')) else {
            return Err(source.invalid(key, format!("'{text}' is not of the form id@host:port")));
        };
        voters.insert(u64::from(id), address.to_owned());
    }
    let me = u64::try_from(node_id).expect("node ids are not negative");
    if voters.is_empty() && roles.controller {
        let address = own.first().map_or_else(String::new, |l| format!("{}:{}", l.host, l.port));
        voters.insert(me, address);
    }
    Ok(voters)
}

fn log_dirs(source: &Source<'_>) -> Vec<PathBuf> {
    let key = if source.text("log.dirs").is_some() { "log.dirs" } else { "log.dir" };
    let dirs: Vec<PathBuf> = source.list(key).into_iter().map(PathBuf::from).collect();
    if dirs.is_empty() { vec![PathBuf::from("/tmp/kafka-logs")] } else { dirs }
}

fn admin_listener(source: &Source<'_>) -> Result<Option<(String, u16)>, ConfigError> {
    let key = "admin.listener";
    let text = source.text(key).unwrap_or("http://127.0.0.1:9644");
    if text == "none" {
        return Ok(None);
    }
    let address = text.strip_prefix("http://").unwrap_or(text).trim_end_matches("/metrics").trim_end_matches('/');
    let parsed = address.rsplit_once(':').and_then(|(host, port)| Some((host.to_owned(), port.parse().ok()?)));
    parsed.map(Some).ok_or_else(|| source.invalid(key, "is not of the form http://host:port (or none)"))
}

fn log_defaults(source: &Source<'_>) -> Result<(LogConfig, BTreeMap<String, String>), ConfigError> {
    let mut defaults = LogConfig::default();
    let mut settings = BTreeMap::new();
    for synonym in server_synonyms() {
        let Some(text) = source.text(synonym.server) else { continue };
        if settings.contains_key(synonym.topic) {
            continue;
        }
        let value = if synonym.scale_to_ms == 1 {
            text.to_owned()
        } else {
            let number: i64 = source.number(synonym.server, 0, -1)?;
            if number < 0 { "-1".to_owned() } else { number.saturating_mul(synonym.scale_to_ms).to_string() }
        };
        defaults.set(synonym.topic, &value).map_err(|e| source.invalid(synonym.server, e.to_string()))?;
        settings.insert(synonym.topic.to_owned(), value);
    }
    Ok((defaults, settings))
}

fn tier_options(source: &Source<'_>, environment: impl Fn(&str) -> Option<String>) -> BTreeMap<String, String> {
    const OPTIONS: [(&str, &str, &[&str]); 5] = [
        ("access_key_id", "tier.access.key.id", &["AWS_ACCESS_KEY_ID"]),
        ("secret_access_key", "tier.secret.access.key", &["AWS_SECRET_ACCESS_KEY"]),
        ("region", "tier.region", &["AWS_REGION", "AWS_DEFAULT_REGION"]),
        ("endpoint", "tier.endpoint", &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]),
        ("allow_http", "tier.allow.http", &["AWS_ALLOW_HTTP"]),
    ];
    let mut options = BTreeMap::new();
    for (option, key, variables) in OPTIONS {
        let value = source.text(key).map(str::to_owned).or_else(|| variables.iter().find_map(|v| environment(v)));
        if let Some(value) = value.filter(|v| !v.is_empty()) {
            options.insert(option.to_owned(), value);
        }
    }
    options
}

fn warnings(properties: &Properties) -> Vec<String> {
    let mut warnings = Vec::new();
    for (key, setting) in &properties.settings {
        let key = key.as_str();
        if OWN.contains(&key) || server_synonyms().iter().any(|s| s.server == key) {
            continue;
        }
        let origin = &setting.origin;
        warnings.push(if WITHOUT_EFFECT.contains(&key) {
            format!("{key} ({origin}) has no effect here")
        } else {
            match nearest(key) {
                Some(near) => format!("{key} ({origin}) is not known; did you mean {near}?"),
                None => format!("{key} ({origin}) is not known and is ignored"),
            }
        });
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<NodeConfig, ConfigError> {
        let mut p = Properties::default();
        p.add_text(text, "server.properties").unwrap();
        NodeConfig::from_properties(&p, |_| None)
    }

    #[test]
    fn a_kafka_file_is_understood() {
        let c = config(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.bootstrap.servers=localhost:9093\n\
             listeners=PLAINTEXT://:9092,CONTROLLER://:9093\nadvertised.listeners=PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093\n\
             controller.listener.names=CONTROLLER\nlog.dirs=/tmp/kraft\nnum.partitions=3\nlog.retention.hours=168\nnum.io.threads=8\n\
             log.retentoin.bytes=5\ntier.url=s3://b/p\n",
        )
        .unwrap();
        assert_eq!((c.num_partitions, c.listeners[0].port, c.controller_listeners.len()), (3, 9092, 1));
        assert_eq!(c.log_defaults.retention_ms, 168 * 3_600_000);
        assert!(c.remote_storage);
        assert_eq!(c.warnings.len(), 2);
        assert!(c.warnings[0].contains("did you mean log.retention.bytes?"), "{:?}", c.warnings);
    }

    #[test]
    fn a_node_that_is_only_one_of_the_two_says_what_it_needs() {
        let c = config("process.roles=controller\nnode.id=3\nlisteners=CONTROLLER://:9093\n").unwrap();
        assert!(c.listeners.is_empty() && !c.roles.broker);
        let e = config("process.roles=controller\nlisteners=PLAINTEXT://:9092,CONTROLLER://:9093\n").unwrap_err();
        assert!(e.to_string().contains("controller listeners only"), "{e}");
        let e = config("process.roles=broker\nlisteners=PLAINTEXT://:9092\n").unwrap_err();
        assert!(e.to_string().contains("controller.quorum.bootstrap.servers"), "{e}");
        let voters = "controller.quorum.voters=1@a:9093";
        let c = config(&format!("process.roles=broker\nnode.id=5\nlisteners=PLAINTEXT://:9092\n{voters}\n")).unwrap();
        assert_eq!(c.voters.len(), 1, "it is not among the voters");
    }

    #[test]
    fn bad_values_name_their_line() {
        let e = config("num.partitions=x\n").unwrap_err().to_string();
        assert_eq!(e, "num.partitions=x (server.properties:1): not a number of the expected size");
        assert!(config("listeners=SSL://:9093\n").unwrap_err().to_string().contains("only PLAINTEXT"));
        assert!(config("remote.log.storage.system.enable=true\n").unwrap_err().to_string().contains("tier.url"));
    }
}
