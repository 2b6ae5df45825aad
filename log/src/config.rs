//! The typed configuration of one topic's logs, under Kafka's names and with Kafka's defaults.
//!
//! Owns: names, types, defaults, and the check of values that stand alone or together. Does not own: where values come
//! from (dynamic overrides, broker defaults). Source: `org.apache.kafka.storage.internals.log.LogConfig` of 4.3.
//! One default differs from Kafka's on purpose: `flush.messages` is 1 (acknowledge after a group-committed sync).

use thiserror::Error;

/// "No limit" for retention sizes and times.
pub const NO_LIMIT: i64 = -1;
/// "As the total retention" for local retention.
pub const AS_TOTAL_RETENTION: i64 = -2;
/// Smallest `segment.bytes` that a topic may ask for, in bytes (Kafka since 4.0).
pub const SEGMENT_BYTES_MIN: i64 = 1024 * 1024;

#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum ConfigError {
    #[error("unknown topic configuration {0}")]
    UnknownName(String),
    #[error("Invalid value {value} for configuration {name}: {reason}")]
    InvalidValue { name: String, value: String, reason: String },
    #[error("{0}")]
    Conflict(String),
}

/// `cleanup.policy`: a set of `delete` and `compact`; may be empty (`none`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CleanupPolicy {
    pub delete: bool,
    pub compact: bool,
}

/// `message.timestamp.type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageTimestampType {
    CreateTime,
    LogAppendTime,
}

/// `compression.type` of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompressionType {
    /// As the producer sent it.
    Producer,
    Uncompressed,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl CompressionType {
    const NAMES: [(&'static str, CompressionType); 6] = [
        ("producer", CompressionType::Producer),
        ("uncompressed", CompressionType::Uncompressed),
        ("gzip", CompressionType::Gzip),
        ("snappy", CompressionType::Snappy),
        ("lz4", CompressionType::Lz4),
        ("zstd", CompressionType::Zstd),
    ];
}

/// Times in milliseconds, sizes in bytes; -1 is "no limit" for retention, -2 "as the total" for local retention.
#[derive(Debug, Clone, PartialEq)]
pub struct LogConfig {
    pub cleanup_policy: CleanupPolicy,
    pub compression_type: CompressionType,
    pub compression_gzip_level: i32,
    pub compression_lz4_level: i32,
    pub compression_zstd_level: i32,
    pub delete_retention_ms: i64,
    pub file_delete_delay_ms: i64,
    pub flush_messages: i64,
    pub flush_ms: i64,
    /// As it was set: `*`, or `partition:broker` pairs separated by commas; empty = none.
    pub follower_replication_throttled_replicas: String,
    pub index_interval_bytes: i32,
    pub leader_replication_throttled_replicas: String,
    pub local_retention_bytes: i64,
    pub local_retention_ms: i64,
    pub max_compaction_lag_ms: i64,
    pub max_message_bytes: i32,
    pub message_timestamp_after_max_ms: i64,
    pub message_timestamp_before_max_ms: i64,
    pub message_timestamp_type: MessageTimestampType,
    pub min_cleanable_dirty_ratio: f64,
    pub min_compaction_lag_ms: i64,
    pub min_insync_replicas: i32,
    pub preallocate: bool,
    pub remote_log_copy_disable: bool,
    pub remote_log_delete_on_disable: bool,
    pub remote_storage_enable: bool,
    pub retention_bytes: i64,
    pub retention_ms: i64,
    pub segment_bytes: i64,
    pub segment_index_bytes: i32,
    pub segment_jitter_ms: i64,
    pub segment_ms: i64,
    pub unclean_leader_election_enable: bool,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            cleanup_policy: CleanupPolicy { delete: true, compact: false },
            compression_type: CompressionType::Producer,
            compression_gzip_level: -1,
            compression_lz4_level: 9,
            compression_zstd_level: 3,
            delete_retention_ms: 24 * 60 * 60 * 1000,
            file_delete_delay_ms: 60_000,
            flush_messages: 1,
            flush_ms: i64::MAX,
            follower_replication_throttled_replicas: String::new(),
            index_interval_bytes: 4096,
            leader_replication_throttled_replicas: String::new(),
            local_retention_bytes: AS_TOTAL_RETENTION,
            local_retention_ms: AS_TOTAL_RETENTION,
            max_compaction_lag_ms: i64::MAX,
            max_message_bytes: 1024 * 1024 + 12,
            message_timestamp_after_max_ms: 60 * 60 * 1000,
            message_timestamp_before_max_ms: i64::MAX,
            message_timestamp_type: MessageTimestampType::CreateTime,
            min_cleanable_dirty_ratio: 0.5,
            min_compaction_lag_ms: 0,
            min_insync_replicas: 1,
            preallocate: false,
            remote_log_copy_disable: false,
            remote_log_delete_on_disable: false,
            remote_storage_enable: false,
            retention_bytes: NO_LIMIT,
            retention_ms: 7 * 24 * 60 * 60 * 1000,
            segment_bytes: 1024 * 1024 * 1024,
            segment_index_bytes: 10 * 1024 * 1024,
            segment_jitter_ms: 0,
            segment_ms: 7 * 24 * 60 * 60 * 1000,
            unclean_leader_election_enable: false,
        }
    }
}

const COMPRESSION_TYPES: &str = "String must be one of: uncompressed, zstd, lz4, snappy, gzip, producer";

fn invalid(name: &str, value: &str, reason: impl Into<String>) -> ConfigError {
    ConfigError::InvalidValue { name: name.into(), value: value.into(), reason: reason.into() }
}

fn number(name: &str, value: &str, least: i64, most: i64) -> Result<i64, ConfigError> {
    let parsed = value.trim().parse::<i64>().map_err(|_| invalid(name, value, "Not a number of type LONG"))?;
    within(name, value, parsed, least, most)
}

fn within(name: &str, value: &str, parsed: i64, least: i64, most: i64) -> Result<i64, ConfigError> {
    match parsed {
        small if small < least => Err(invalid(name, value, format!("Value must be at least {least}"))),
        large if large > most => Err(invalid(name, value, format!("Value must be no more than {most}"))),
        fits => Ok(fits),
    }
}

fn small(name: &str, value: &str, least: i32) -> Result<i32, ConfigError> {
    level(name, value, least, i32::MAX)
}

fn level(name: &str, value: &str, least: i32, most: i32) -> Result<i32, ConfigError> {
    let parsed = value.trim().parse::<i32>().map_err(|_| invalid(name, value, "Not a number of type INT"))?;
    within(name, value, i64::from(parsed), i64::from(least), i64::from(most))?;
    Ok(parsed)
}

fn gzip_level(name: &str, value: &str) -> Result<i32, ConfigError> {
    match small(name, value, i32::MIN)? {
        level @ (-1 | 1..=9) => Ok(level),
        _ => Err(invalid(name, value, "Value must be between 1 and 9 or equal to -1")),
    }
}

fn ratio(name: &str, value: &str) -> Result<f64, ConfigError> {
    let parsed = value.trim().parse::<f64>().map_err(|_| invalid(name, value, "Not a number of type DOUBLE"))?;
    match parsed {
        small if small < 0.0 => Err(invalid(name, &format!("{small:?}"), "Value must be at least 0")),
        fits if fits <= 1.0 => Ok(fits),
        // Also what is no number.
        large => Err(invalid(name, &format!("{large:?}"), "Value must be no more than 1")),
    }
}

fn boolean(name: &str, value: &str) -> Result<bool, ConfigError> {
    match value.trim().to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(invalid(name, value, "Expected value to be either true or false")),
    }
}

impl LogConfig {
    /// Every name that [`LogConfig::set`] takes, sorted.
    pub const NAMES: [&'static str; 33] = [
        "cleanup.policy",
        "compression.gzip.level",
        "compression.lz4.level",
        "compression.type",
        "compression.zstd.level",
        "delete.retention.ms",
        "file.delete.delay.ms",
        "flush.messages",
        "flush.ms",
        "follower.replication.throttled.replicas",
        "index.interval.bytes",
        "leader.replication.throttled.replicas",
        "local.retention.bytes",
        "local.retention.ms",
        "max.compaction.lag.ms",
        "max.message.bytes",
        "message.timestamp.after.max.ms",
        "message.timestamp.before.max.ms",
        "message.timestamp.type",
        "min.cleanable.dirty.ratio",
        "min.compaction.lag.ms",
        "min.insync.replicas",
        "preallocate",
        "remote.log.copy.disable",
        "remote.log.delete.on.disable",
        "remote.storage.enable",
        "retention.bytes",
        "retention.ms",
        "segment.bytes",
        "segment.index.bytes",
        "segment.jitter.ms",
        "segment.ms",
        "unclean.leader.election.enable",
    ];

    /// Sets one configuration by Kafka's name. Values that depend on each other are checked by [`LogConfig::validate`].
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), ConfigError> {
        const MAX: i64 = i64::MAX;
        match name {
            "cleanup.policy" => self.cleanup_policy = cleanup_policy(value)?,
            "compression.gzip.level" => self.compression_gzip_level = gzip_level(name, value)?,
            "compression.lz4.level" => self.compression_lz4_level = level(name, value, 1, 17)?,
            "compression.zstd.level" => {
                self.compression_zstd_level = level(name, value, -131_072, 22)?;
            }
            "compression.type" => {
                let found = CompressionType::NAMES.iter().find(|(n, _)| *n == value.trim());
                self.compression_type = found.ok_or_else(|| invalid(name, value, COMPRESSION_TYPES))?.1;
            }
            "delete.retention.ms" => self.delete_retention_ms = number(name, value, 0, MAX)?,
            "file.delete.delay.ms" => self.file_delete_delay_ms = number(name, value, 0, MAX)?,
            "flush.messages" => self.flush_messages = number(name, value, 1, MAX)?,
            "flush.ms" => self.flush_ms = number(name, value, 0, MAX)?,
            "follower.replication.throttled.replicas" => {
                self.follower_replication_throttled_replicas = throttled_replicas(name, value)?;
            }
            "leader.replication.throttled.replicas" => {
                self.leader_replication_throttled_replicas = throttled_replicas(name, value)?;
            }
            "index.interval.bytes" => self.index_interval_bytes = small(name, value, 0)?,
            "local.retention.bytes" => self.local_retention_bytes = number(name, value, -2, MAX)?,
            "local.retention.ms" => self.local_retention_ms = number(name, value, -2, MAX)?,
            "max.compaction.lag.ms" => self.max_compaction_lag_ms = number(name, value, 1, MAX)?,
            "max.message.bytes" => self.max_message_bytes = small(name, value, 0)?,
            "message.timestamp.after.max.ms" => {
                self.message_timestamp_after_max_ms = number(name, value, 0, MAX)?;
            }
            "message.timestamp.before.max.ms" => {
                self.message_timestamp_before_max_ms = number(name, value, 0, MAX)?;
            }
            "message.timestamp.type" => {
                self.message_timestamp_type = match value.trim() {
                    "CreateTime" => MessageTimestampType::CreateTime,
                    "LogAppendTime" => MessageTimestampType::LogAppendTime,
                    _ => return Err(invalid(name, value, "String must be one of: CreateTime, LogAppendTime")),
                }
            }
            "min.cleanable.dirty.ratio" => {
                self.min_cleanable_dirty_ratio = ratio(name, value)?;
            }
            "min.compaction.lag.ms" => self.min_compaction_lag_ms = number(name, value, 0, MAX)?,
            "min.insync.replicas" => self.min_insync_replicas = small(name, value, 1)?,
            "preallocate" => self.preallocate = boolean(name, value)?,
            "remote.log.copy.disable" => self.remote_log_copy_disable = boolean(name, value)?,
            "remote.log.delete.on.disable" => {
                self.remote_log_delete_on_disable = boolean(name, value)?;
            }
            "remote.storage.enable" => self.remote_storage_enable = boolean(name, value)?,
            "retention.bytes" => self.retention_bytes = number(name, value, -1, MAX)?,
            "retention.ms" => self.retention_ms = number(name, value, -1, MAX)?,
            "segment.bytes" => {
                self.segment_bytes = i64::from(small(name, value, SEGMENT_BYTES_MIN as i32)?);
            }
            "segment.index.bytes" => self.segment_index_bytes = small(name, value, 4)?,
            "segment.jitter.ms" => self.segment_jitter_ms = number(name, value, 0, MAX)?,
            "segment.ms" => self.segment_ms = number(name, value, 1, MAX)?,
            "unclean.leader.election.enable" => {
                self.unclean_leader_election_enable = boolean(name, value)?;
            }
            _ => return Err(ConfigError::UnknownName(name.to_owned())),
        }
        Ok(())
    }

    /// The value of one configuration as Kafka's DescribeConfigs prints it; `None` for an unknown name.
    pub fn get(&self, name: &str) -> Option<String> {
        Some(match name {
            "cleanup.policy" => match self.cleanup_policy {
                CleanupPolicy { delete: true, compact: true } => "compact,delete".into(),
                CleanupPolicy { delete: false, compact: true } => "compact".into(),
                CleanupPolicy { delete: true, compact: false } => "delete".into(),
                CleanupPolicy { delete: false, compact: false } => String::new(),
            },
            "compression.gzip.level" => self.compression_gzip_level.to_string(),
            "compression.lz4.level" => self.compression_lz4_level.to_string(),
            "compression.zstd.level" => self.compression_zstd_level.to_string(),
            "compression.type" => {
                let found = CompressionType::NAMES.iter().find(|(_, t)| *t == self.compression_type);
                found.map(|(name, _)| (*name).to_owned())?
            }
            "delete.retention.ms" => self.delete_retention_ms.to_string(),
            "file.delete.delay.ms" => self.file_delete_delay_ms.to_string(),
            "flush.messages" => self.flush_messages.to_string(),
            "flush.ms" => self.flush_ms.to_string(),
            "follower.replication.throttled.replicas" => self.follower_replication_throttled_replicas.clone(),
            "leader.replication.throttled.replicas" => self.leader_replication_throttled_replicas.clone(),
            "index.interval.bytes" => self.index_interval_bytes.to_string(),
            "local.retention.bytes" => self.local_retention_bytes.to_string(),
            "local.retention.ms" => self.local_retention_ms.to_string(),
            "max.compaction.lag.ms" => self.max_compaction_lag_ms.to_string(),
            "max.message.bytes" => self.max_message_bytes.to_string(),
            "message.timestamp.after.max.ms" => self.message_timestamp_after_max_ms.to_string(),
            "message.timestamp.before.max.ms" => self.message_timestamp_before_max_ms.to_string(),
            "message.timestamp.type" => match self.message_timestamp_type {
                MessageTimestampType::CreateTime => "CreateTime".into(),
                MessageTimestampType::LogAppendTime => "LogAppendTime".into(),
            },
            "min.cleanable.dirty.ratio" => format!("{:?}", self.min_cleanable_dirty_ratio),
            "min.compaction.lag.ms" => self.min_compaction_lag_ms.to_string(),
            "min.insync.replicas" => self.min_insync_replicas.to_string(),
            "preallocate" => self.preallocate.to_string(),
            "remote.log.copy.disable" => self.remote_log_copy_disable.to_string(),
            "remote.log.delete.on.disable" => self.remote_log_delete_on_disable.to_string(),
            "remote.storage.enable" => self.remote_storage_enable.to_string(),
            "retention.bytes" => self.retention_bytes.to_string(),
            "retention.ms" => self.retention_ms.to_string(),
            "segment.bytes" => self.segment_bytes.to_string(),
            "segment.index.bytes" => self.segment_index_bytes.to_string(),
            "segment.jitter.ms" => self.segment_jitter_ms.to_string(),
            "segment.ms" => self.segment_ms.to_string(),
            "unclean.leader.election.enable" => self.unclean_leader_election_enable.to_string(),
            _ => return None,
        })
    }

    /// Checks what one value alone cannot tell (Kafka's `LogConfig.validateValues` and the KIP-405 and KIP-950 rules).
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.min_compaction_lag_ms > self.max_compaction_lag_ms {
            return Err(ConfigError::Conflict(format!(
                "conflict topic config setting min.compaction.lag.ms ({}) > max.compaction.lag.ms ({})",
                self.min_compaction_lag_ms, self.max_compaction_lag_ms
            )));
        }
        if !self.remote_storage_enable {
            return Ok(());
        }
        if self.cleanup_policy.compact {
            let text = "Remote log storage only supports topics with cleanup.policy=delete or cleanup.policy being an \
                        empty list.";
            return Err(ConfigError::Conflict(text.to_owned()));
        }
        check_local("local.retention.ms", self.local_retention_ms, "retention.ms", self.retention_ms)?;
        check_local("local.retention.bytes", self.local_retention_bytes, "retention.bytes", self.retention_bytes)?;
        if self.remote_log_copy_disable {
            let pairs = [
                ("retention.ms", self.local_retention_ms, self.retention_ms),
                ("retention.bytes", self.local_retention_bytes, self.retention_bytes),
            ];
            if let Some((name, ..)) = pairs.iter().find(|(_, l, total)| *l != AS_TOTAL_RETENTION && l != total) {
                return Err(ConfigError::Conflict(format!(
                    "When `remote.log.copy.disable` is set to true, the `local.{name}` and `{name}` must be set to the \
                     identical value because there will be no more logs copied to the remote storage."
                )));
            }
        }
        Ok(())
    }

    /// `local.retention.ms` with -2 resolved; -1 = no limit (K13).
    pub fn effective_local_retention_ms(&self) -> i64 {
        if self.local_retention_ms == AS_TOTAL_RETENTION { self.retention_ms } else { self.local_retention_ms }
    }

    /// `local.retention.bytes` with -2 resolved; -1 = no limit (K13).
    pub fn effective_local_retention_bytes(&self) -> i64 {
        if self.local_retention_bytes == AS_TOTAL_RETENTION { self.retention_bytes } else { self.local_retention_bytes }
    }

    /// Largest number of offset index entries in one segment.
    pub fn offset_index_entries_max(&self) -> u64 {
        (self.segment_index_bytes / 8).max(1) as u64
    }

    /// Largest number of time index entries in one segment.
    pub fn time_index_entries_max(&self) -> u64 {
        (self.segment_index_bytes / 12).max(2) as u64
    }
}

fn check_local(local_name: &str, local: i64, name: &str, total: i64) -> Result<(), ConfigError> {
    if local == AS_TOTAL_RETENTION || total == NO_LIMIT {
        return Ok(());
    }
    if local == NO_LIMIT {
        let reason = format!("Value must not be -1 as {name} value is set as {total}.");
        return Err(invalid(local_name, "-1", reason));
    }
    if local > total {
        let reason = format!("Value must not be more than {name} property value: {total}");
        return Err(invalid(local_name, &local.to_string(), reason));
    }
    Ok(())
}

fn cleanup_policy(value: &str) -> Result<CleanupPolicy, ConfigError> {
    let mut policy = CleanupPolicy { delete: false, compact: false };
    for part in value.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match part {
            "delete" => policy.delete = true,
            "compact" => policy.compact = true,
            "none" => {}
            _ => return Err(invalid("cleanup.policy", part, "String must be one of: compact, delete")),
        }
    }
    Ok(policy)
}

/// `*`, or pairs of numbers; some may be empty, as in Kafka.
fn throttled_replicas(name: &str, value: &str) -> Result<String, ConfigError> {
    let parts: Vec<&str> = value.trim().split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let is_pair =
        |part: &&str| part.split_once(':').is_some_and(|(partition, broker)| is_number(partition) && is_number(broker));
    if parts == ["*"] || parts.iter().all(is_pair) {
        return Ok(parts.join(","));
    }
    let reason = format!(
        "{name} must be the literal '*' or a list of replicas in the following format: \
         [partitionId]:[brokerId],[partitionId]:[brokerId],..."
    );
    Err(invalid(name, &format!("[{}]", parts.join(", ")), reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_what_was_set() {
        let config = LogConfig::default();
        for name in LogConfig::NAMES {
            let value = config.get(name).unwrap();
            let mut copy = config.clone();
            copy.set(name, &value).unwrap();
            assert_eq!(copy, config, "{name}");
            assert!(copy.set(name, "no such value").is_err(), "{name}");
        }
        assert_eq!(config.get("nope"), None);
        assert!(LogConfig::NAMES.is_sorted());
    }

    #[test]
    fn local_retention_must_fit_into_total_retention() {
        let mut config = LogConfig { remote_storage_enable: true, ..LogConfig::default() };
        config.validate().unwrap();
        config.local_retention_ms = config.retention_ms + 1;
        assert!(config.validate().is_err());
        config.local_retention_ms = NO_LIMIT;
        assert!(config.validate().is_err());
        config.retention_ms = NO_LIMIT;
        config.validate().unwrap();
        config.local_retention_ms = 1;
        config.validate().unwrap();
        config.remote_log_copy_disable = true;
        assert!(config.validate().is_err());
        config.remote_log_copy_disable = false;
        config.cleanup_policy.compact = true;
        assert!(config.validate().is_err());
    }
}
