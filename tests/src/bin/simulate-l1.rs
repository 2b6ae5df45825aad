//! `simulate-l1`: seeds of whole nodes in one process, as many as asked for, from where the ledger ends.
//!
//!     simulate-l1 --seeds 10000 [--kind any|power-loss] [--from N] [--ledger tests/ledger/l1.jsonl] [--stop-after FAILURES]
//!                 [--per-line 500]
//!
//! Without a kind the families take turns, so that all of them come to equally many seeds. Each seed has a process of its own, two at a
//! time. Every `--per-line` seeds one line goes to the ledger: commit, kind, first and last seed, failures, seconds. A line `failed KIND SEED WHY`
//! for each failure; its history stays below `tests/.cache/simulation`. Ends with status 1 if a seed failed.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use strandline_tests::simulation::ledger::{self, Failed, Line};
use strandline_tests::simulation::seeds::{FAMILIES, Family, answer, ask_all};
use strandline_tests::wait;

strandline_tests::stand_in_for_the_system!();

/// Seeds of one line of the ledger, unless `--per-line` says otherwise.
const PER_LINE: u64 = 500;
/// Failures after which no more seeds are begun, unless `--stop-after` says otherwise.
const FAILURES_MAX: u64 = 20;

struct Wanted {
    seeds: u64,
    kind: Option<Family>,
    from: Option<u64>,
    ledger: Option<PathBuf>,
    stop_after: u64,
    per_line: u64,
}

fn main() -> ExitCode {
    // Another process of this binary asks for one seed.
    if let Some(passed) = answer() {
        return if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    match parse(std::env::args().skip(1)).and_then(|wanted| run(&wanted)) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("simulate-l1: {error}; see the head of tests/src/bin/simulate-l1.rs");
            ExitCode::from(2)
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Wanted, String> {
    let (seeds, per_line, stop_after) = (PER_LINE, PER_LINE, FAILURES_MAX);
    let mut wanted = Wanted { seeds, kind: None, from: None, ledger: None, stop_after, per_line };
    while let Some(word) = words.next() {
        let value = words.next().ok_or(format!("{word} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|e| format!("{word} {value}: {e}"));
        match word.as_str() {
            "--seeds" => wanted.seeds = number()?,
            "--from" => wanted.from = Some(number()?),
            "--stop-after" => wanted.stop_after = number()?.max(1),
            "--per-line" => wanted.per_line = number()?.max(1),
            "--kind" => wanted.kind = Some(Family::named(&value).ok_or(format!("no family is named {value}"))?),
            "--ledger" => wanted.ledger = Some(PathBuf::from(value)),
            _ => return Err(format!("{word} is no option")),
        }
    }
    Ok(wanted)
}

/// Runs them; returns how many failed.
fn run(wanted: &Wanted) -> Result<u64, String> {
    let commit = commit();
    // What the ledger holds, and what is run without one.
    let mut text = match &wanted.ledger {
        Some(path) => std::fs::read_to_string(path).unwrap_or_default(),
        None => String::new(),
    };
    let (mut done, mut failed) = (0, 0);
    while done < wanted.seeds && failed < wanted.stop_after {
        let family = wanted.kind.unwrap_or_else(|| least(&text));
        let begun = ledger::totals(&text).contains_key(family.name());
        let from = wanted.from.filter(|_| !begun).unwrap_or_else(|| ledger::next_seed(&text, family.name()));
        let count = wanted.per_line.min(wanted.seeds - done);
        let begun_at = wait::now();
        let (_, failures) = ask_all(family, from, count, &[]);
        let mut failures: Vec<Failed> =
            failures.into_iter().map(|(seed, text)| Failed { seed, why: ledger::reason(&text) }).collect();
        failures.sort_by_key(|f| f.seed);
        for one in &failures {
            println!("failed {} {} {}", family.name(), one.seed, one.why);
        }
        done += count;
        failed += failures.len() as u64;
        let (kind, seconds) = (family.name().to_owned(), begun_at.elapsed().as_secs_f64().round());
        let line = Line { commit: commit.clone(), kind, from, to: from + count, failures, seconds };
        println!("{done} of {} seeds, {failed} failed", wanted.seeds);
        if let Some(path) = &wanted.ledger {
            append(path, &line.text()).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        text.push_str(&line.text());
    }
    Ok(failed)
}

/// The family with the fewest seeds so far.
fn least(text: &str) -> Family {
    let totals = ledger::totals(text);
    let so_far = |family: &Family| totals.get(family.name()).copied().unwrap_or(0);
    FAMILIES.into_iter().min_by_key(so_far).expect("there are families")
}

fn append(path: &PathBuf, line: &str) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::OpenOptions::new().create(true).append(true).open(path)?.write_all(line.as_bytes())
}

/// The commit of the tree, marked if the tree differs from it.
fn commit() -> String {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let head =
        git(&["rev-parse", "--short=10", "HEAD"]).filter(|h| !h.is_empty()).unwrap_or_else(|| "unknown".to_owned());
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", ":!tests/ledger"]);
    if changed.is_some_and(|c| !c.is_empty()) { format!("{head}+") } else { head }
}
