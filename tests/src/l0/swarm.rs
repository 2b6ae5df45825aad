//! What one seed is made of: sizes, settings, and how much goes wrong. Drawn anew for each seed, so that no two runs stress the
//! same corner.

use crate::random::Random;

/// The shape of one run.
#[derive(Debug, Clone)]
pub struct Swarm {
    pub brokers: i32,
    pub replication_factor: i16,
    pub min_insync: i32,
    /// `flush.messages=1`: what is acknowledged was synced. Otherwise nodes lose power one at a time.
    pub synced: bool,
    pub tiered: bool,
    pub unclean: bool,
    pub producers: usize,
    /// Batches that each producer writes before it is content.
    pub batches: i32,
    pub segment_bytes: i64,
    /// Local retention in bytes; tiered only.
    pub local_retention_bytes: i64,
    /// Total retention in bytes; -1 = all.
    pub retention_bytes: i64,
    /// Length of the first phase, in ms.
    pub safety_ms: i64,
    /// Between two misfortunes, on average, in ms.
    pub nemesis_ms: u64,
    /// Messages of a thousand that are lost, and that come very late.
    pub lost_permille: u64,
    pub late_permille: u64,
    /// Calls to the store of a hundred that go wrong.
    pub store_percent: u64,
    /// Kinds of misfortune that may happen, as a bit set over [`Misfortune`].
    pub kinds: u32,
}

/// What the nemesis does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misfortune {
    Crash,
    PowerLoss,
    Shutdown,
    CutLink,
    SlowMetadata,
    ControllerAway,
    Reassign,
    PreferredElection,
    DeleteRecords,
    FalseFence,
    FailedSync,
    CrashInside,
    UncleanElection,
    LostHeartbeats,
}

impl Misfortune {
    pub const ALL: [Misfortune; 14] = [
        Misfortune::Crash,
        Misfortune::PowerLoss,
        Misfortune::Shutdown,
        Misfortune::CutLink,
        Misfortune::SlowMetadata,
        Misfortune::ControllerAway,
        Misfortune::Reassign,
        Misfortune::PreferredElection,
        Misfortune::DeleteRecords,
        Misfortune::FalseFence,
        Misfortune::FailedSync,
        Misfortune::CrashInside,
        Misfortune::UncleanElection,
        Misfortune::LostHeartbeats,
    ];
}

impl Swarm {
    pub fn draw(random: &mut Random) -> Swarm {
        let brokers = [3, 3, 3, 4, 5][random.below(5) as usize];
        let quiet = random.below(8) == 0;
        let often = |random: &mut Random, yes: u64, of: u64| random.below(of) < yes;
        let tiered = often(random, 3, 5);
        let synced = often(random, 4, 5);
        let rate =
            |random: &mut Random, most: u64| if quiet { 0 } else { [0, 0, most / 4, most][random.below(4) as usize] };
        Swarm {
            brokers,
            replication_factor: 3,
            min_insync: 2,
            synced,
            tiered,
            unclean: often(random, 1, 10),
            producers: 1 + random.below(3) as usize,
            batches: 10 + random.below(30) as i32,
            segment_bytes: 300 + random.below(900) as i64,
            local_retention_bytes: random.below(3) as i64 * 600,
            retention_bytes: if often(random, 1, 3) { 2_000 + random.below(4_000) as i64 } else { -1 },
            safety_ms: 4_000 + random.below(8_000) as i64,
            nemesis_ms: if quiet { 1_000_000 } else { 150 + random.below(900) },
            lost_permille: rate(random, 60),
            late_permille: rate(random, 60),
            store_percent: rate(random, 30),
            kinds: random.word() as u32 | random.word() as u32,
        }
    }

    pub fn allows(&self, kind: Misfortune) -> bool {
        let chosen = self.kinds & (1 << kind as u32) != 0;
        // Without a sync before the acknowledgement, losing several nodes at once loses records: that is its price.
        let bearable = match kind {
            Misfortune::PowerLoss => self.synced,
            Misfortune::UncleanElection => self.unclean,
            _ => true,
        };
        chosen && bearable
    }
}
