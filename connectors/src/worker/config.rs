//! A worker's own settings, under Kafka Connect's names (`connect-distributed.properties`).
//!
//! Owns their defaults and checks. A key that is not known is a warning with the nearest name, never an error: files written for other
//! versions have to work.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Key, Rule, Settings, Type, Values};
use crate::connector::Allowed;
use crate::plugin::{self, Isolation};
use crate::providers::Providers;
use crate::task::settings::WorkerDefaults;
use crate::url_policy::{self, UrlPolicy};

/// Keys that have an effect.
pub const WORKER_KEYS: [Key; 33] = [
    Key::new(
        "bootstrap.servers",
        Type::List,
        "localhost:9092",
        "Brokers of the cluster, host:port, separated by commas.",
    ),
    Key::required("group.id", Type::String, "Workers of the same group share connectors and tasks."),
    Key::required("config.storage.topic", Type::String, "Where connectors' settings are kept."),
    Key::required("offset.storage.topic", Type::String, "Where offsets of source connectors are kept."),
    Key::required("status.storage.topic", Type::String, "Where the states of connectors and tasks are kept."),
    Key::new(
        "config.storage.replication.factor",
        Type::Int,
        "3",
        "Replicas of that topic if it has to be made; -1 = as the broker says.",
    ),
    Key::new(
        "offset.storage.replication.factor",
        Type::Int,
        "3",
        "Replicas of that topic if it has to be made; -1 = as the broker says.",
    ),
    Key::new(
        "status.storage.replication.factor",
        Type::Int,
        "3",
        "Replicas of that topic if it has to be made; -1 = as the broker says.",
    ),
    Key::new("offset.storage.partitions", Type::Int, "25", "Partitions of that topic if it has to be made.")
        .rule(Rule::AtLeast(1)),
    Key::new("status.storage.partitions", Type::Int, "5", "Partitions of that topic if it has to be made.")
        .rule(Rule::AtLeast(1)),
    Key::new("key.converter", Type::Class, "", "How keys are read where a connector does not say."),
    Key::new("value.converter", Type::Class, "", "How values are read where a connector does not say."),
    Key::new("header.converter", Type::Class, "", "How headers are read where a connector does not say."),
    Key::new("offset.flush.interval.ms", Type::Long, "60000", "How often what is durable is committed.")
        .rule(Rule::AtLeast(1)),
    Key::new("session.timeout.ms", Type::Int, "10000", "How long a worker, or a task's consumer, may be silent.")
        .rule(Rule::AtLeast(1)),
    Key::new("heartbeat.interval.ms", Type::Int, "3000", "How often it speaks.").rule(Rule::AtLeast(1)),
    Key::new("rebalance.timeout.ms", Type::Int, "60000", "How long workers wait for each other.")
        .rule(Rule::AtLeast(1)),
    Key::new(
        "scheduled.rebalance.max.delay.ms",
        Type::Int,
        "300000",
        "How long work of a worker that went waits for it to come back.",
    )
    .rule(Rule::AtLeast(0)),
    Key::new("task.shutdown.graceful.timeout.ms", Type::Long, "5000", "How long a task may take to stop.")
        .rule(Rule::AtLeast(0)),
    Key::new("request.timeout.ms", Type::Int, "40000", "How long a call to the cluster may take.")
        .rule(Rule::AtLeast(1)),
    Key::new("listeners", Type::List, "http://:8083", "Where the REST API listens."),
    Key::new("rest.advertised.host.name", Type::String, "", "The host under which other workers reach this one."),
    Key::new("rest.advertised.port", Type::Int, "", "The port under which other workers reach this one."),
    Key::new("client.id", Type::String, "strandline-connect", "How this worker names itself to brokers."),
    Key::new("topic.tracking.enable", Type::Boolean, "true", "Whether the topics that connectors read are kept."),
    Key::new("topic.tracking.allow.reset", Type::Boolean, "true", "Whether those may be reset."),
    Key::new(
        "task.memory.bytes",
        Type::Long,
        "67108864",
        "Rows that one task may hold in front of its sink, and as much again for the sink; bytes.",
    )
    .rule(Rule::AtLeast(1 << 20)),
    Key::new("plugin.path", Type::List, "", "Directories with plugins (docs/PLUGINS.md), separated by commas."),
    Key::new(
        plugin::ISOLATION_KEY,
        Type::String,
        "process",
        "Where shared libraries run: in a process of their own for each task, or in-process: without a pipe, and without limits; a crash is the \
         worker's.",
    )
    .rule(Rule::OneOf(&plugin::ISOLATIONS)),
    Key::new(
        url_policy::KEY,
        Type::List,
        "",
        "Where connectors may go: hosts, *.domains, addresses, networks, scheme://host:port, file:///directory; empty = everywhere but \
         link-local and cloud metadata addresses.",
    )
    .rule(Rule::Check(|list| UrlPolicy::parse(list).map(drop))),
    Key::new("admin.listener", Type::String, "none", "Where metrics are served: http://host:port, or none."),
    Key::new("config.providers", Type::List, "", "Names of providers of values from outside; empty = none."),
    Key::new("spool.dir", Type::String, "", "Where tasks keep files; empty = a directory for temporary files."),
];

/// Keys of Kafka Connect that mean nothing here, and are no mistakes.
const WITHOUT_EFFECT: [&str; 22] = [
    "plugin.discovery",
    "offset.flush.timeout.ms",
    "connector.client.config.override.policy",
    "exactly.once.source.support",
    "connect.protocol",
    "access.control.allow.origin",
    "access.control.allow.methods",
    "admin.listeners",
    "rest.extension.classes",
    "rest.advertised.listener",
    "response.http.headers.config",
    "topic.creation.enable",
    "metric.reporters",
    "metrics.num.samples",
    "metrics.sample.window.ms",
    "metrics.recording.level",
    "metadata.max.age.ms",
    "worker.sync.timeout.ms",
    "worker.unsync.backoff.ms",
    "retry.backoff.ms",
    "reconnect.backoff.ms",
    "connections.max.idle.ms",
];

const PREFIXES: [&str; 14] = [
    "consumer.",
    "producer.",
    "admin.",
    "key.converter.",
    "value.converter.",
    "header.converter.",
    "config.providers.",
    "config.storage.",
    "offset.storage.",
    "status.storage.",
    "inter.worker.",
    "internal.",
    "listeners.https.",
    "connect.",
];

/// One of the topics that a worker keeps its state in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageTopic {
    pub name: String,
    pub partitions: i32,
    pub replication_factor: i16,
}

/// A worker, as configured.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    pub bootstrap: String,
    pub group_id: String,
    pub client_id: String,
    pub config_topic: StorageTopic,
    pub offset_topic: StorageTopic,
    pub status_topic: StorageTopic,
    pub session_timeout: Duration,
    pub heartbeat_interval: Duration,
    pub rebalance_timeout: Duration,
    pub rebalance_delay_max_ms: i64,
    pub shutdown_timeout: Duration,
    pub request_timeout: Duration,
    /// host:port to listen at; an empty host is every address.
    pub listen: String,
    /// host:port of the metrics; None = they are not served here.
    pub admin_listen: Option<String>,
    pub advertised_host: Option<String>,
    pub advertised_port: Option<u16>,
    pub topic_tracking: bool,
    pub topic_tracking_reset: bool,
    pub spool_dir: PathBuf,
    /// Where plugins are looked for; the only place that they come from.
    pub plugin_path: Vec<PathBuf>,
    pub plugin_isolation: Isolation,
    pub tasks: WorkerDefaults,
    pub allowed: Allowed,
    /// `key.converter`, `value.converter`, `header.converter` and what stands below them: given to connectors that do not say.
    pub converters: Settings,
}

/// Why a worker does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct WorkerConfigError(pub Vec<String>);

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

/// What is said of keys that are not known.
pub fn warnings(settings: &Settings) -> Vec<String> {
    let known = || WORKER_KEYS.iter().map(|k| k.name).chain(WITHOUT_EFFECT);
    let unknown =
        settings.keys().filter(|key| !known().any(|k| k == *key) && !PREFIXES.iter().any(|p| key.starts_with(p)));
    unknown
        .map(|key| {
            let near = known().map(|k| (distance(key, k), k)).min().filter(|(d, k)| *d <= 1 + k.len() / 5);
            match near {
                Some((_, k)) => format!("{key} is not a key of a worker; did you mean {k}?"),
                None => format!("{key} is not a key of a worker, and has no effect"),
            }
        })
        .collect()
}

fn listener(text: &str) -> Result<String, String> {
    let first = text.split(',').next().unwrap_or("").trim();
    let rest = first.strip_prefix("http://").ok_or_else(|| {
        format!("listeners is {text}: it has to be http://host:port (https is not served; put a proxy in front of it)")
    })?;
    match rest.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
        Some((host, Ok(port))) => Ok(format!("{}:{port}", if host.is_empty() { "0.0.0.0" } else { host })),
        _ => Err(format!("listeners is {text}: it has to be http://host:port")),
    }
}

/// host:port of the metrics; None = they are not served.
fn admin_listener(text: &str) -> Result<Option<String>, String> {
    if text == "none" {
        return Ok(None);
    }
    listener(text).map(Some).map_err(|fault| fault.replacen("listeners", "admin.listener", 1))
}

impl WorkerConfig {
    /// Err = everything that is wrong.
    pub fn from_settings(settings: &Settings) -> Result<WorkerConfig, WorkerConfigError> {
        let values = Values::check(&WORKER_KEYS, settings).map_err(WorkerConfigError)?;
        let mut faults = Vec::new();
        let listen = listener(values.text("listeners")).unwrap_or_else(|fault| {
            faults.push(fault);
            String::new()
        });
        let admin_listen = admin_listener(values.text("admin.listener")).unwrap_or_else(|fault| {
            faults.push(fault);
            None
        });
        if values.number("session.timeout.ms") <= values.number("heartbeat.interval.ms") {
            faults.push("heartbeat.interval.ms has to be lower than session.timeout.ms, best a third of it".to_owned());
        }
        let providers = Providers::parse(settings).map_err(|wrong| faults.extend(wrong)).unwrap_or_default();
        let urls = Arc::new(UrlPolicy::parse(values.text(url_policy::KEY)).expect("checked with its key"));
        if !faults.is_empty() {
            return Err(WorkerConfigError(faults));
        }
        let ms = |key: &str| Duration::from_millis(u64::try_from(values.number(key)).unwrap_or(0));
        let topic = |kind: &str, partitions: i64| StorageTopic {
            name: values.text(&format!("{kind}.storage.topic")).to_owned(),
            partitions: i32::try_from(partitions).unwrap_or(1),
            replication_factor: i16::try_from(values.number(&format!("{kind}.storage.replication.factor")))
                .unwrap_or(-1),
        };
        let group_id = values.text("group.id").to_owned();
        let spool_dir = values.given("spool.dir").map_or_else(
            || std::env::temp_dir().join(format!("strandline-connect-{group_id}-{}", std::process::id())),
            PathBuf::from,
        );
        let below = |prefix: &str| -> Settings {
            settings.iter().filter_map(|(k, v)| Some((k.strip_prefix(prefix)?.to_owned(), v.clone()))).collect()
        };
        let is_converter =
            |key: &str| ["key", "value", "header"].iter().any(|p| key.starts_with(&format!("{p}.converter")));
        Ok(WorkerConfig {
            bootstrap: values.text("bootstrap.servers").to_owned(),
            group_id,
            client_id: values.text("client.id").to_owned(),
            config_topic: topic("config", 1),
            offset_topic: topic("offset", values.number("offset.storage.partitions")),
            status_topic: topic("status", values.number("status.storage.partitions")),
            session_timeout: ms("session.timeout.ms"),
            heartbeat_interval: ms("heartbeat.interval.ms"),
            rebalance_timeout: ms("rebalance.timeout.ms"),
            rebalance_delay_max_ms: values.number("scheduled.rebalance.max.delay.ms"),
            shutdown_timeout: ms("task.shutdown.graceful.timeout.ms"),
            request_timeout: ms("request.timeout.ms"),
            listen,
            admin_listen,
            advertised_host: values.given("rest.advertised.host.name").map(str::to_owned),
            advertised_port: values.given("rest.advertised.port").and_then(|p| p.parse().ok()),
            topic_tracking: values.flag("topic.tracking.enable"),
            topic_tracking_reset: values.flag("topic.tracking.allow.reset"),
            spool_dir,
            plugin_path: values.list("plugin.path").into_iter().map(PathBuf::from).collect(),
            plugin_isolation: Isolation::of(values.text(plugin::ISOLATION_KEY)),
            allowed: Allowed { urls: Arc::clone(&urls), providers: Arc::new(providers) },
            tasks: WorkerDefaults {
                consumer: below("consumer."),
                offset_flush_interval_ms: values.number("offset.flush.interval.ms"),
                session_timeout_ms: values.number("session.timeout.ms"),
                heartbeat_interval_ms: values.number("heartbeat.interval.ms"),
                memory_bytes: usize::try_from(values.number("task.memory.bytes")).unwrap_or(64 << 20),
                urls: Arc::clone(&urls),
            },
            converters: settings.iter().filter(|(k, _)| is_converter(k)).map(|(k, v)| (k.clone(), v.clone())).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        let needed = [
            ("group.id", "g"),
            ("config.storage.topic", "c"),
            ("offset.storage.topic", "o"),
            ("status.storage.topic", "s"),
        ];
        needed.iter().chain(pairs).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn kafka_connects_file_works_as_it_is() {
        let given = settings(&[
            ("bootstrap.servers", "b1:9092,b2:9092"),
            ("key.converter", "org.apache.kafka.connect.json.JsonConverter"),
            ("key.converter.schemas.enable", "true"),
            ("offset.flush.interval.ms", "10000"),
            ("plugin.path", "/usr/share/java"),
            ("consumer.max.poll.records", "7"),
            ("listeners", "http://127.0.0.1:8084"),
        ]);
        assert_eq!(warnings(&given), Vec::<String>::new());
        let config = WorkerConfig::from_settings(&given).unwrap();
        assert_eq!((config.listen.as_str(), config.config_topic.partitions), ("127.0.0.1:8084", 1));
        assert_eq!(config.tasks.consumer["max.poll.records"], "7");
        assert_eq!(config.plugin_path, [PathBuf::from("/usr/share/java")]);
        assert_eq!(config.converters.len(), 2);
    }

    #[test]
    fn a_wrong_name_is_told_with_the_nearest() {
        let told = warnings(&settings(&[("ofset.flush.interval.ms", "1"), ("colour", "red")]));
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[1].contains("did you mean offset.flush.interval.ms?"), "{told:?}");
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let error = WorkerConfig::from_settings(&Settings::new()).unwrap_err();
        assert_eq!(error.0.len(), 4, "{error}");
        let error =
            WorkerConfig::from_settings(&settings(&[("listeners", "https://:8083"), ("session.timeout.ms", "1000")]))
                .unwrap_err();
        assert_eq!(error.0.len(), 2, "{error}");
    }
}
