//! The ledger of the simulation: which seeds of which family were run on which commit, and which of them failed.
//!
//! Owns the form of a line and where a family goes on. Does not own the file (the binary's) nor the seeds.
//! A crash loses the seeds since the last line; they are run again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Characters of a reason, at most.
const REASON_MAX: usize = 160;

/// A seed that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    pub seed: u64,
    pub why: String,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    pub commit: String,
    /// The family of plans.
    pub kind: String,
    /// First seed, and the one behind the last.
    pub from: u64,
    pub to: u64,
    pub failures: Vec<Failed>,
    /// Wall-clock time.
    pub seconds: f64,
}

impl Line {
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("a line is JSON") + "\n"
    }
}

fn lines(text: &str) -> impl Iterator<Item = Line> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok())
}

/// Where `kind` goes on: behind its last seed. The first seed is 1.
pub fn next_seed(text: &str, kind: &str) -> u64 {
    lines(text).filter(|line| line.kind == kind).map(|line| line.to).max().unwrap_or(1)
}

/// Seeds run, by kind.
pub fn totals(text: &str) -> BTreeMap<String, u64> {
    let mut totals = BTreeMap::new();
    for line in lines(text) {
        *totals.entry(line.kind).or_default() += line.to - line.from;
    }
    totals
}

/// In a few words why a seed failed: the first anomaly that its report counts, else the first line behind its heading.
pub fn reason(report: &str) -> String {
    let counted = |line: &&str| {
        let Some((name, count)) = line.trim().split_once(": ") else { return false };
        !name.contains(' ') && count.parse::<u64>().is_ok()
    };
    let first = report.lines().find(counted);
    let behind = || report.lines().skip_while(|line| !line.starts_with("seed ")).nth(1);
    let any = || report.lines().find(|line| !line.trim().is_empty());
    first.or_else(behind).or_else(any).unwrap_or("no reason").trim().chars().take(REASON_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_goes_on_behind_its_own_last_seed() {
        let line = |kind: &str, from, to| {
            let (commit, kind) = ("abc".to_owned(), kind.to_owned());
            Line { commit, kind, from, to, failures: vec![Failed { seed: from, why: "w".into() }], seconds: 1.5 }.text()
        };
        let text = line("any", 1, 501) + &line("power-loss", 1, 201) + &line("any", 501, 1001) + "half a li";
        assert_eq!(next_seed(&text, "any"), 1_001);
        assert_eq!(next_seed(&text, "power-loss"), 201);
        assert_eq!(next_seed(&text, "other"), 1);
        assert_eq!(totals(&text), BTreeMap::from([("any".to_owned(), 1_000), ("power-loss".to_owned(), 200)]));
    }

    #[test]
    fn a_reason_is_the_anomaly_or_the_first_line() {
        let report = "log\nseed 40 failed:\n  446 operations; 891 values\nhw-leak: 1\n  t-0: line 596\n";
        assert_eq!(reason(report), "hw-leak: 1");
        assert_eq!(reason("seed 1 failed:\n  60000 ms after the healing: [..]\n"), "60000 ms after the healing: [..]");
        assert_eq!(reason("the process did not end\n"), "the process did not end");
    }
}
