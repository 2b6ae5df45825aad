//! What the checker found.

use std::collections::BTreeMap;
use std::fmt;

use super::op::Key;
use super::rules::Rules;

/// Findings kept of each kind; further ones are only counted.
pub const SHOWN_MAX: usize = 20;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// What may not be seen; `docs/CHECKER.md` defines each.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $($(#[$doc])* $kind,)* }

        impl Kind {
            pub const ALL: &[Kind] = &[$(Kind::$kind,)*];

            pub fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name,)* }
            }
        }
    };
}

kinds! {
    /// One offset, two values.
    InconsistentOffsets = "inconsistent-offsets",
    /// One value, two offsets.
    Duplicate = "duplicate",
    /// Later values were read, this one never.
    LostWrite = "lost-write",
    /// Acknowledged, and never read by anyone.
    Unseen = "unseen",
    /// A read of what surely was not written.
    G1a = "G1a",
    /// A transaction read its own write.
    PrecommittedRead = "precommitted-read",
    /// A gap inside one poll.
    IntPollSkip = "int-poll-skip",
    /// A step back inside one poll.
    IntNonmonotonicPoll = "int-nonmonotonic-poll",
    /// Others' records between those of one operation.
    IntSendSkip = "int-send-skip",
    /// The records of one operation in the wrong order.
    IntNonmonotonicSend = "int-nonmonotonic-send",
    /// A gap between two polls.
    PollSkip = "poll-skip",
    /// A step back between two polls.
    NonmonotonicPoll = "nonmonotonic-poll",
    /// A gap between two polls of a group's member.
    SubscribedPollSkip = "subscribed-poll-skip",
    /// A step back between two polls of a group's member.
    SubscribedNonmonotonicPoll = "subscribed-nonmonotonic-poll",
    /// A process's later records before its earlier ones.
    NonmonotonicSend = "nonmonotonic-send",
    G0 = "G0",
    G0Process = "G0-process",
    G0Realtime = "G0-realtime",
    G1c = "G1c",
    G1cProcess = "G1c-process",
    G1cRealtime = "G1c-realtime",
    /// A gap or step back where the tier is read.
    TierGap = "tier-gap",
    /// A read_committed poll saw past the last stable offset.
    LsoLeak = "lso-leak",
    /// A poll saw past the high watermark.
    HwLeak = "hw-leak",
    /// A log start that went back.
    StartRegression = "start-regression",
    /// A high watermark that went back.
    HwRegression = "hw-regression",
    /// A last stable offset that went back.
    LsoRegression = "lso-regression",
    /// One offset, two leader epochs; or epochs that fall along the log.
    EpochDivergence = "epoch-divergence",
    /// ListOffsets did not name the first record of that time.
    ListOffsetsLie = "listoffsets-lie",
    /// A group's position went back.
    CommitRegression = "commit-regression",
    /// Two members own a partition in one generation.
    DoubleOwner = "double-owner",
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anomaly {
    pub kind: Kind,
    /// `None` = it spans partitions.
    pub key: Option<Key>,
    /// What was seen, with the lines of the history it was seen in.
    pub detail: String,
}

/// What is told of a history without judging it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    pub operations: u64,
    /// Values whose send was acknowledged.
    pub acknowledged: u64,
    /// Values whose send has no known outcome.
    pub indefinite: u64,
    /// Different values that were read.
    pub read: u64,
    /// How stale a poll was, at least, at most; ms.
    pub realtime_lag_ms: u64,
    /// Values that a group's member consumed more than once.
    pub consumed_again: u64,
    /// Acknowledged and not yet read: ms since the history began, and how many.
    pub unseen_over_time: Vec<(u64, u64)>,
}

/// The verdict.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// At most [`SHOWN_MAX`] of each kind.
    pub anomalies: Vec<Anomaly>,
    /// How many there are in all.
    pub counts: BTreeMap<Kind, u64>,
    pub figures: Figures,
}

impl Report {
    pub(super) fn add(&mut self, kind: Kind, key: Option<&Key>, detail: impl FnOnce() -> String) {
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        if *count <= SHOWN_MAX as u64 {
            self.anomalies.push(Anomaly { kind, key: key.cloned(), detail: detail() });
        }
    }

    /// The kinds that fail a run of these rules.
    pub fn failures(&self, rules: &Rules) -> Vec<Kind> {
        self.counts.keys().copied().filter(|kind| rules.fails(*kind)).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { operations, acknowledged, indefinite, read, realtime_lag_ms, consumed_again, .. } = &self.figures;
        writeln!(
            f,
            "{operations} operations; {acknowledged} values acknowledged, {indefinite} indefinite, {read} read"
        )?;
        writeln!(
            f,
            "a poll was stale by {realtime_lag_ms} ms at most; members consumed {consumed_again} values again"
        )?;
        for (kind, count) in &self.counts {
            writeln!(f, "{kind}: {count}")?;
            for anomaly in self.anomalies.iter().filter(|anomaly| anomaly.kind == *kind) {
                let key = anomaly.key.as_ref().map_or(String::new(), |key| format!("{key}: "));
                writeln!(f, "  {key}{}", anomaly.detail)?;
            }
        }
        Ok(())
    }
}
