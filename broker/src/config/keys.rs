//! The names a node knows: its own, those that set a default for topics, and Kafka's that have no meaning here.

/// A server key that sets the default of a topic setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerSetting {
    pub server: &'static str,
    pub topic: &'static str,
    /// The server's value times this is the topic's; 1 = the same text.
    pub scale_to_ms: i64,
}

const fn same(server: &'static str, topic: &'static str) -> ServerSetting {
    ServerSetting { server, topic, scale_to_ms: 1 }
}

const fn scaled(server: &'static str, topic: &'static str, scale_to_ms: i64) -> ServerSetting {
    ServerSetting { server, topic, scale_to_ms }
}

const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 60 * MINUTE_MS;

/// Server keys of a topic setting; of several, the first that is set wins (Kafka's precedence: ms, minutes, hours).
const SYNONYMS: [ServerSetting; 35] = [
    same("log.cleanup.policy", "cleanup.policy"),
    same("compression.type", "compression.type"),
    same("compression.gzip.level", "compression.gzip.level"),
    same("compression.lz4.level", "compression.lz4.level"),
    same("compression.zstd.level", "compression.zstd.level"),
    same("log.cleaner.delete.retention.ms", "delete.retention.ms"),
    same("log.segment.delete.delay.ms", "file.delete.delay.ms"),
    same("log.flush.interval.messages", "flush.messages"),
    same("log.flush.interval.ms", "flush.ms"),
    same("log.index.interval.bytes", "index.interval.bytes"),
    same("log.local.retention.bytes", "local.retention.bytes"),
    same("log.local.retention.ms", "local.retention.ms"),
    same("log.cleaner.max.compaction.lag.ms", "max.compaction.lag.ms"),
    same("message.max.bytes", "max.message.bytes"),
    same("log.message.timestamp.after.max.ms", "message.timestamp.after.max.ms"),
    same("log.message.timestamp.before.max.ms", "message.timestamp.before.max.ms"),
    same("log.message.timestamp.type", "message.timestamp.type"),
    same("log.cleaner.min.cleanable.ratio", "min.cleanable.dirty.ratio"),
    same("log.cleaner.min.compaction.lag.ms", "min.compaction.lag.ms"),
    same("min.insync.replicas", "min.insync.replicas"),
    same("log.preallocate", "preallocate"),
    same("log.retention.bytes", "retention.bytes"),
    same("log.retention.ms", "retention.ms"),
    scaled("log.retention.minutes", "retention.ms", MINUTE_MS),
    scaled("log.retention.hours", "retention.ms", HOUR_MS),
    same("log.segment.bytes", "segment.bytes"),
    same("log.index.size.max.bytes", "segment.index.bytes"),
    same("log.roll.jitter.ms", "segment.jitter.ms"),
    scaled("log.roll.jitter.hours", "segment.jitter.ms", HOUR_MS),
    same("log.roll.ms", "segment.ms"),
    scaled("log.roll.hours", "segment.ms", HOUR_MS),
    same("unclean.leader.election.enable", "unclean.leader.election.enable"),
    // The bare topic names are taken as well: a default for all topics.
    same("flush.messages", "flush.messages"),
    same("flush.ms", "flush.ms"),
    same("remote.storage.enable", "remote.storage.enable"),
];

/// All server keys that set topic defaults.
pub fn server_synonyms() -> &'static [ServerSetting] {
    &SYNONYMS
}

/// Keys that `NodeConfig` reads.
pub(super) const OWN: &[&str] = &[
    "admin.listener",
    "advertised.listeners",
    "auto.create.topics.enable",
    "auto.leader.rebalance.enable",
    "broker.id",
    "broker.heartbeat.interval.ms",
    "broker.rack",
    "broker.session.timeout.ms",
    "cluster.id",
    "connections.max.idle.ms",
    "controller.listener.names",
    "controller.quorum.bootstrap.servers",
    "controller.quorum.voters",
    "default.replication.factor",
    "delete.topic.enable",
    "fetch.max.bytes",
    "group.initial.rebalance.delay.ms",
    "group.max.session.timeout.ms",
    "group.max.size",
    "group.min.session.timeout.ms",
    "inter.broker.listener.name",
    "leader.imbalance.check.interval.seconds",
    "leader.imbalance.per.broker.percentage",
    "listener.security.protocol.map",
    "listeners",
    "log.dir",
    "log.dirs",
    "log.initial.task.delay.ms",
    "log.retention.check.interval.ms",
    "max.connections",
    "max.incremental.fetch.session.cache.slots",
    "metadata.log.dir",
    "node.id",
    "num.partitions",
    "offset.metadata.max.bytes",
    "offsets.retention.check.interval.ms",
    "offsets.retention.minutes",
    "offsets.topic.num.partitions",
    "offsets.topic.replication.factor",
    "offsets.topic.segment.bytes",
    "process.roles",
    "producer.id.expiration.ms",
    "queued.max.request.bytes",
    "remote.fetch.max.wait.ms",
    "replica.lag.time.max.ms",
    "replica.selector.class",
    "remote.log.manager.copier.thread.pool.size",
    "remote.log.manager.task.interval.ms",
    "remote.log.storage.system.enable",
    "socket.request.max.bytes",
    "tier.access.key.id",
    "tier.allow.http",
    "tier.cache.bytes",
    "tier.cache.dir",
    "tier.endpoint",
    "tier.region",
    "tier.secret.access.key",
    "tier.undelete.ms",
    "tier.url",
];

/// Kafka's keys that a file may hold and that change nothing here: told once, at start.
pub(super) const WITHOUT_EFFECT: &[&str] = &[
    "background.threads",
    "controller.quorum.election.timeout.ms",
    "controller.quorum.fetch.timeout.ms",
    "group.coordinator.rebalance.protocols",
    "group.share.enable",
    "log.cleaner.enable",
    "log.cleaner.threads",
    "log.flush.offset.checkpoint.interval.ms",
    "log.flush.scheduler.interval.ms",
    "num.io.threads",
    "num.network.threads",
    "num.recovery.threads.per.data.dir",
    "num.replica.fetchers",
    "queued.max.requests",
    "remote.log.metadata.manager.class.name",
    "remote.log.metadata.manager.class.path",
    "remote.log.metadata.manager.listener.name",
    "remote.log.reader.threads",
    "remote.log.storage.manager.class.name",
    "remote.log.storage.manager.class.path",
    "share.coordinator.state.topic.min.isr",
    "share.coordinator.state.topic.replication.factor",
    "socket.receive.buffer.bytes",
    "socket.send.buffer.bytes",
    "transaction.state.log.min.isr",
    "transaction.state.log.num.partitions",
    "transaction.state.log.replication.factor",
    "unstable.api.versions.enable",
    "zookeeper.connect",
];

/// The known key nearest to `key`, if it is near enough to be meant.
pub(super) fn nearest(key: &str) -> Option<&'static str> {
    let synonyms = SYNONYMS.iter().map(|s| s.server);
    let known = OWN.iter().copied().chain(synonyms).chain(WITHOUT_EFFECT.iter().copied());
    known.map(|k| (distance(key, k), k)).min().filter(|(d, k)| *d <= 1 + k.len() / 5).map(|(_, k)| k)
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let change = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_its_key_and_nonsense_finds_none() {
        assert_eq!(nearest("log.retention.hour"), Some("log.retention.hours"));
        assert_eq!(nearest("tier.ulr"), Some("tier.url"));
        assert_eq!(nearest("frobnicate.the.widget"), None);
    }
}
