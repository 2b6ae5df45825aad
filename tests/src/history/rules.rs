//! What a run promises, and with it which anomalies fail it.

use super::report::Kind;

/// The promises of a run. The default is the strictest that holds for idempotent producers with acks=all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Producers are idempotent: a value has one offset.
    pub idempotent: bool,
    /// Everything was read again after the last fault: an acknowledged value that nobody ever read is gone.
    pub final_reads: bool,
    /// The topics delete old records: a value below the last log start may be unread.
    pub retention: bool,
    /// The ends that fetch answers tell bound the records beside them, and never go back, across leaders too. Kafka promises
    /// this of ListOffsets alone: it takes a fetch's ends before it reads, and a new leader's high watermark begins behind.
    pub fetch_ends: bool,
    /// A group's positions never go back. Kafka keeps them, yet a coordinator that was killed together with all its followers
    /// answers OffsetFetch from an old high watermark until one of them is back, and a member then commits what it was told.
    pub group_positions: bool,
    /// How long a leader that was cut off may go on answering from what it has, ms: ends and ListOffsets are held against what was
    /// known so long before the question. 0 = they are linearizable, as with one node.
    pub stale_ms: u64,
    /// The same of the ends that fetch answers tell, if it is longer: a new leader's high watermark begins at that of its checkpoint, and
    /// stays there while too few replicas are in sync, ms.
    pub fetch_stale_ms: u64,
    /// Edges between the writers of adjacent values count as dependencies, so that G1c is no fault of its own.
    pub write_order_edges: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            idempotent: true,
            final_reads: true,
            retention: false,
            fetch_ends: true,
            group_positions: true,
            stale_ms: 0,
            fetch_stale_ms: 0,
            write_order_edges: false,
        }
    }
}

impl Rules {
    /// Whether an anomaly of this kind fails the run.
    pub fn fails(&self, kind: Kind) -> bool {
        match kind {
            Kind::Duplicate => self.idempotent,
            Kind::Unseen => self.final_reads,
            Kind::CommitRegression => self.group_positions,
            Kind::G1c | Kind::G1cProcess | Kind::G1cRealtime => !self.write_order_edges,
            // Writes are not isolated: those of two transactions may interleave.
            Kind::G0 | Kind::G0Process | Kind::G0Realtime | Kind::IntSendSkip => false,
            // After a rebalance a group goes on from what it committed.
            Kind::SubscribedPollSkip | Kind::SubscribedNonmonotonicPoll => false,
            _ => true,
        }
    }
}
