//! The settings of groups, as far as groups need them.

use std::time::Duration;

use crate::config::NodeConfig;

/// The settings of groups. Times in ms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSettings {
    /// `group.initial.rebalance.delay.ms`.
    pub initial_rebalance_delay_ms: i64,
    /// `group.min.session.timeout.ms`, inclusive.
    pub min_session_timeout_ms: i64,
    /// `group.max.session.timeout.ms`, inclusive.
    pub max_session_timeout_ms: i64,
    /// `group.max.size`: members of one group.
    pub max_size: usize,
    /// `offsets.retention.minutes`.
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`.
    pub offsets_check_interval_ms: i64,
    /// `offset.metadata.max.bytes`, counted as Kafka does: in UTF-16 units.
    pub metadata_max_bytes: usize,
}

impl From<&NodeConfig> for GroupSettings {
    fn from(config: &NodeConfig) -> Self {
        let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        GroupSettings {
            initial_rebalance_delay_ms: ms(config.group_initial_rebalance_delay),
            min_session_timeout_ms: ms(config.group_min_session_timeout),
            max_session_timeout_ms: ms(config.group_max_session_timeout),
            max_size: config.group_max_size,
            offsets_retention_ms: ms(config.offsets.retention),
            offsets_check_interval_ms: ms(config.offsets.check_interval),
            metadata_max_bytes: config.offsets.metadata_max_bytes,
        }
    }
}
