//! Replication throttles: how many bytes a second a broker gives to, and takes for, replicas that are not in sync.
//!
//! Owns Kafka's rules (KIP-73): the rates are dynamic settings of brokers, the throttled replicas are listed in their topics'
//! settings, and who is in sync is never held back. Does not own the fetches. The arithmetic is pure: time comes in.

use std::time::Instant;

use parking_lot::Mutex;
use strandline_controller::image::MetadataImage;
use strandline_controller::record::ResourceType;
use strandline_log::config::LogConfig;
use strandline_protocol::ids::BrokerId;

use crate::broker::Broker;
use crate::clock;
use crate::partition::Partition;

/// Bytes a second that a broker gives to throttled replicas.
pub const LEADER_RATE: &str = "leader.replication.throttled.rate";
/// Bytes a second that a broker takes for throttled replicas.
pub const FOLLOWER_RATE: &str = "follower.replication.throttled.rate";
/// Bytes a second of moves between the log directories of a broker; there are none of those here.
pub const ALTER_LOG_DIRS_RATE: &str = "replica.alter.log.dirs.io.max.bytes.per.second";
/// All settings of a broker that may be changed while it runs.
pub const RATES: [&str; 3] = [LEADER_RATE, FOLLOWER_RATE, ALTER_LOG_DIRS_RATE];

/// Seconds of unused rate that may be spent at once.
const BURST_SECONDS: f64 = 1.0;

/// Which end of the replication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Leader,
    Follower,
}

/// Bytes that may pass now; may be below zero, since what passes is known only afterwards.
#[derive(Debug, Default)]
struct Allowance {
    bytes: f64,
    as_of: Option<Instant>,
}

impl Allowance {
    /// Whether nothing may pass at `now`, at `rate` bytes a second.
    fn is_spent(&mut self, rate: u64, now: Instant) -> bool {
        let most = rate as f64 * BURST_SECONDS;
        self.bytes = match self.as_of {
            None => most,
            Some(before) => (self.bytes + now.saturating_duration_since(before).as_secs_f64() * rate as f64).min(most),
        };
        self.as_of = Some(now);
        self.bytes <= 0.0
    }

    fn spend(&mut self, bytes: u64) {
        self.bytes -= bytes as f64;
    }
}

/// The throttles of one broker.
#[derive(Debug, Default)]
pub struct Throttles {
    leader: Mutex<Allowance>,
    follower: Mutex<Allowance>,
}

impl Throttles {
    fn side(&self, side: Side) -> &Mutex<Allowance> {
        match side {
            Side::Leader => &self.leader,
            Side::Follower => &self.follower,
        }
    }

    /// The rate that holds for `partition` and the replica `follower`; none if it is not throttled, or in sync.
    pub fn rate(&self, broker: &Broker, partition: &Partition, side: Side, follower: BrokerId) -> Option<u64> {
        let me = broker.config.node_id;
        if !lists(throttled(&partition.config(), side), partition.tp.partition, me) {
            return None;
        }
        let image = broker.image();
        let in_sync = image.partitions.get(&partition.tp).is_some_and(|p| p.record.isr.contains(&follower));
        if in_sync { None } else { rate_of(&image, me, side) }
    }

    /// Whether a partition with this rate has to wait.
    pub fn holds_back(&self, side: Side, rate: u64) -> bool {
        self.side(side).lock().is_spent(rate, clock::monotonic())
    }

    /// Bytes of a throttled partition have passed.
    pub fn passed(&self, side: Side, bytes: u64) {
        self.side(side).lock().spend(bytes);
    }
}

fn throttled(config: &LogConfig, side: Side) -> &str {
    match side {
        Side::Leader => &config.leader_replication_throttled_replicas,
        Side::Follower => &config.follower_replication_throttled_replicas,
    }
}

/// Whether a list of `partition:broker` pairs, or `*`, names this one.
fn lists(list: &str, partition: i32, broker: BrokerId) -> bool {
    let names = |pair: &str| {
        let numbers = pair.split_once(':');
        numbers.is_some_and(|(p, b)| p.parse() == Ok(partition) && b.parse() == Ok(broker))
    };
    list == "*" || (!list.is_empty() && list.split(',').any(names))
}

/// The broker's own setting, else that of all brokers.
fn rate_of(image: &MetadataImage, broker: BrokerId, side: Side) -> Option<u64> {
    let key = match side {
        Side::Leader => LEADER_RATE,
        Side::Follower => FOLLOWER_RATE,
    };
    let find = |name: &str| image.configs(ResourceType::Broker, name).and_then(|map| map.get(key)?.trim().parse().ok());
    find(&broker.to_string()).or_else(|| find(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_rate_is_kept_over_time_whatever_passes_at_once() {
        let begin = clock::monotonic();
        let mut allowance = Allowance::default();
        let mut passed = 0;
        for step in 0..1_000 {
            let now = begin + Duration::from_millis(10 * step);
            if !allowance.is_spent(1_000, now) {
                allowance.spend(700);
                passed += 700;
            }
        }
        assert!((10_000..=12_000).contains(&passed), "10 s at 1000 bytes a second: {passed}");
    }

    #[test]
    fn unused_time_is_not_saved_for_long() {
        let begin = clock::monotonic();
        let mut allowance = Allowance::default();
        assert!(!allowance.is_spent(100, begin));
        let later = begin + Duration::from_secs(3_600);
        assert!(!allowance.is_spent(100, later));
        allowance.spend(150);
        assert!(allowance.is_spent(100, later), "one second's worth is all that may be spent at once");
        assert!(allowance.is_spent(100, later + Duration::from_millis(400)));
        assert!(!allowance.is_spent(100, later + Duration::from_millis(600)));
    }

    #[test]
    fn lists_name_partition_and_broker() {
        assert!(lists("*", 3, 1));
        assert!(lists("0:1,3:2", 3, 2));
        assert!(!lists("0:1,3:2", 3, 1));
        assert!(!lists("", 0, 0));
    }
}
