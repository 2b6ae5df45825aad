//! What a task takes from its connector's settings and its worker's.
//!
//! Owns the order of precedence: `consumer.override.*` of the connector, `consumer.*` of the worker, the default.

use std::sync::Arc;
use std::time::Duration;

use super::dead_letters::LetterSettings;
use crate::config::Settings;
use crate::convert::{Converter, Converters};
use crate::delivery::Policy;
use crate::transform::Chain;
use crate::url_policy::UrlPolicy;

/// Where reading begins without a committed offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    Earliest,
    Latest,
    /// It is an error.
    None,
}

/// Everything that shapes a task but its sink.
#[derive(Debug, Clone)]
pub struct TaskSettings {
    /// The consumer group.
    pub group: String,
    pub policy: Policy,
    pub reset: Reset,
    pub session_timeout: Duration,
    pub heartbeat_interval: Duration,
    pub max_poll_interval: Duration,
    pub fetch_max_wait: Duration,
    pub fetch_max_bytes: i32,
    pub max_partition_fetch_bytes: i32,
    /// `isolation.level=read_committed`.
    pub read_committed: bool,
    /// Rows of one write, at most; None = as they were read.
    pub max_poll_records: Option<usize>,
    /// How often topics and their partitions are looked up.
    pub metadata_max_age: Duration,
    pub create_topics: bool,
    /// Rows in memory, in front of the sink.
    pub memory_bytes: usize,
    pub dead_letters: Option<LetterSettings>,
    pub converters: Converters,
    pub transforms: Chain,
}

/// What the worker says of all its tasks.
#[derive(Debug, Clone)]
pub struct WorkerDefaults {
    /// `consumer.*`, without the prefix.
    pub consumer: Settings,
    pub offset_flush_interval_ms: i64,
    pub session_timeout_ms: i64,
    pub heartbeat_interval_ms: i64,
    /// Rows that one task may hold in front of its sink, bytes.
    pub memory_bytes: usize,
    /// Where converters may go.
    pub urls: Arc<UrlPolicy>,
}

struct Sources<'a> {
    connector: &'a Settings,
    worker: &'a WorkerDefaults,
}

impl<'a> Sources<'a> {
    fn consumer(&self, key: &str) -> Option<&'a str> {
        let own = self.connector.get(&format!("consumer.override.{key}")).or_else(|| self.worker.consumer.get(key));
        own.map(|v| v.trim()).filter(|v| !v.is_empty())
    }

    fn number(&self, key: &str, default: i64) -> Result<i64, String> {
        match self.consumer(key) {
            Some(text) => text
                .parse()
                .ok()
                .filter(|n| *n >= 1)
                .ok_or_else(|| format!("consumer.override.{key} is {text}: it has to be a number of at least 1")),
            None => Ok(default),
        }
    }

    fn duration(&self, key: &str, default_ms: i64) -> Result<Duration, String> {
        Ok(Duration::from_millis(u64::try_from(self.number(key, default_ms)?).unwrap_or(1)))
    }

    fn bytes(&self, key: &str, default: i64) -> Result<i32, String> {
        Ok(i32::try_from(self.number(key, default)?).unwrap_or(i32::MAX))
    }

    fn reset(&self) -> Result<Reset, String> {
        match self.consumer("auto.offset.reset").unwrap_or("earliest").to_ascii_lowercase().as_str() {
            "earliest" => Ok(Reset::Earliest),
            "latest" => Ok(Reset::Latest),
            "none" => Ok(Reset::None),
            other => {
                Err(format!("consumer.override.auto.offset.reset is {other}: it has to be earliest, latest or none"))
            }
        }
    }

    fn read_committed(&self) -> Result<bool, String> {
        match self.consumer("isolation.level").unwrap_or("read_uncommitted").to_ascii_lowercase().as_str() {
            "read_uncommitted" => Ok(false),
            "read_committed" => Ok(true),
            other => Err(format!(
                "consumer.override.isolation.level is {other}: it has to be read_uncommitted or read_committed"
            )),
        }
    }

    fn own_number(&self, key: &str, default: i64) -> i64 {
        self.connector.get(key).and_then(|v| v.trim().parse().ok()).unwrap_or(default)
    }

    fn flag(&self, key: &str) -> bool {
        self.connector.get(key).is_some_and(|v| v.trim().eq_ignore_ascii_case("true"))
    }
}

/// Err = what is wrong, for the operator.
pub fn task_settings(connector: &str, settings: &Settings, worker: &WorkerDefaults) -> Result<TaskSettings, String> {
    let from = Sources { connector: settings, worker };
    let reset = from.reset()?;
    let read_committed = from.read_committed()?;
    let letters = settings.get("errors.deadletterqueue.topic.name").map(|t| t.trim()).filter(|t| !t.is_empty());
    let dead_letters = letters.map(|topic| LetterSettings {
        topic: topic.to_owned(),
        replication_factor: from.own_number("errors.deadletterqueue.topic.replication.factor", 3),
        context_headers: from.flag("errors.deadletterqueue.context.headers.enable"),
        log: from.flag("errors.log.enable"),
    });
    let max_poll_records = match from.consumer("max.poll.records") {
        Some(_) => usize::try_from(from.number("max.poll.records", 500)?).ok(),
        None => None,
    };
    Ok(TaskSettings {
        group: from.consumer("group.id").map_or_else(|| format!("connect-{connector}"), str::to_owned),
        policy: Policy {
            retry_timeout_ms: from.own_number("errors.retry.timeout", 0),
            retry_delay_max_ms: from.own_number("errors.retry.delay.max.ms", 60_000),
            tolerate: settings.get("errors.tolerance").is_some_and(|v| v.trim().eq_ignore_ascii_case("all")),
            dead_letters: dead_letters.is_some(),
            flush_interval_ms: worker.offset_flush_interval_ms,
        },
        reset,
        session_timeout: from.duration("session.timeout.ms", worker.session_timeout_ms)?,
        heartbeat_interval: from.duration("heartbeat.interval.ms", worker.heartbeat_interval_ms)?,
        max_poll_interval: from.duration("max.poll.interval.ms", 300_000)?,
        fetch_max_wait: from.duration("fetch.max.wait.ms", 500)?,
        fetch_max_bytes: from.bytes("fetch.max.bytes", 8 << 20)?,
        max_partition_fetch_bytes: from.bytes("max.partition.fetch.bytes", 1 << 20)?,
        read_committed,
        max_poll_records,
        metadata_max_age: from.duration("metadata.max.age.ms", 300_000)?,
        create_topics: from.consumer("allow.auto.create.topics") != Some("false"),
        memory_bytes: worker.memory_bytes,
        dead_letters,
        transforms: Chain::of(settings)?,
        converters: Converters {
            key: Converter::configured(settings, "key.converter", &worker.urls)?,
            value: Converter::configured(settings, "value.converter", &worker.urls)?,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker() -> WorkerDefaults {
        WorkerDefaults {
            consumer: Settings::from([("max.poll.records".to_owned(), "10".to_owned())]),
            offset_flush_interval_ms: 60_000,
            session_timeout_ms: 10_000,
            heartbeat_interval_ms: 3_000,
            memory_bytes: 1 << 20,
            urls: Arc::default(),
        }
    }

    #[test]
    fn the_connector_wins_over_the_worker_and_that_over_the_default() {
        let settings = Settings::from([
            ("consumer.override.auto.offset.reset".to_owned(), "latest".to_owned()),
            ("errors.tolerance".to_owned(), "ALL".to_owned()),
            ("errors.deadletterqueue.topic.name".to_owned(), "bad".to_owned()),
        ]);
        let task = task_settings("c", &settings, &worker()).unwrap();
        assert_eq!((task.reset, task.max_poll_records, task.fetch_max_bytes), (Reset::Latest, Some(10), 8 << 20));
        assert_eq!((task.group.as_str(), task.policy.tolerate, task.policy.dead_letters), ("connect-c", true, true));
        let plain = task_settings("c", &Settings::new(), &worker()).unwrap();
        assert_eq!((plain.reset, plain.policy.tolerate, plain.dead_letters), (Reset::Earliest, false, None));
    }

    #[test]
    fn a_wrong_override_says_what_would_be_right() {
        let wrong = |key: &str, value: &str| {
            let settings = Settings::from([(format!("consumer.override.{key}"), value.to_owned())]);
            task_settings("c", &settings, &worker()).unwrap_err()
        };
        assert!(wrong("auto.offset.reset", "begin").contains("earliest, latest or none"));
        assert!(wrong("isolation.level", "committed").contains("read_uncommitted or read_committed"));
        assert!(wrong("max.poll.records", "0").contains("at least 1"));
    }
}
