//! `simulate --layer l0`: seeds of the simulation, as many as asked for, from where the ledger ends.
//!
//!     simulate --layer l0 --seeds 1000000 [--from N] [--threads 2] [--ledger tests/ledger/l0.jsonl] [--seconds S [--floor SEEDS]]
//!     simulate --layer l0 --seed N [--trace]
//!
//! One seed runs on one thread. Every 500 seeds the ledger is brought up to date: commit, first and last seed, seconds, failures. What
//! follows a line of the same commit is added to it, until it covers 10,000 seeds.
//! Ends with status 1 if a seed failed, and says how to run it again.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;

use indicatif::{ProgressBar, ProgressStyle};
use strandline_tests::l0::{self, Failure, Summary};

/// Seeds between two looks at the ledger and the time.
const PER_LOOK: u64 = 500;
/// Seeds of one line of the ledger, at most.
const PER_LINE: u64 = 10_000;
/// Failures after which no more seeds are begun, unless `--stop-after` says otherwise.
const FAILURES_MAX: u64 = 20;

/// A layer of the simulation.
struct Layer {
    name: &'static str,
    run_seed: fn(u64) -> Result<Summary, Failure>,
}

/// All layers; a new one is a line here.
const LAYERS: [Layer; 1] = [Layer { name: "l0", run_seed: l0::run_seed }];

struct Wanted {
    layer: &'static Layer,
    seeds: u64,
    from: Option<u64>,
    one: Option<u64>,
    trace: bool,
    threads: u64,
    ledger: Option<PathBuf>,
    /// Ends after so many seconds, whatever is left.
    seconds: u64,
    /// Fewer seeds than this are a failure.
    floor: u64,
    stop_after: u64,
    /// One plain line for each failure, for other programs.
    list: bool,
}

fn main() -> ExitCode {
    let wanted = match parse(std::env::args().skip(1)) {
        Ok(wanted) => wanted,
        Err(error) => {
            eprintln!("simulate: {error}; see the head of tests/src/bin/simulate.rs");
            return ExitCode::from(2);
        }
    };
    // Findings are reported with their seed; a panic's own report would only be in the way.
    if wanted.one.is_none() {
        std::panic::set_hook(Box::new(|_| {}));
    }
    match wanted.one {
        Some(seed) => run_one(seed, wanted.trace),
        None => run_many(&wanted),
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Wanted, String> {
    let name = words.next().filter(|word| word != "--layer").or_else(|| words.next()).ok_or("which layer?")?;
    let layer = LAYERS.iter().find(|l| l.name == name).ok_or(format!("no layer is named {name}"))?;
    let mut wanted = Wanted {
        layer,
        seeds: 1_000,
        from: None,
        one: None,
        trace: false,
        threads: 2,
        ledger: None,
        seconds: u64::MAX,
        floor: 0,
        stop_after: FAILURES_MAX,
        list: false,
    };
    while let Some(word) = words.next() {
        if word == "--trace" || word == "--list" {
            wanted.trace |= word == "--trace";
            wanted.list |= word == "--list";
            continue;
        }
        let value = words.next().ok_or(format!("{word} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|e| format!("{word} {value}: {e}"));
        match word.as_str() {
            "--seeds" => wanted.seeds = number()?,
            "--from" => wanted.from = Some(number()?),
            "--seed" => wanted.one = Some(number()?),
            "--threads" => wanted.threads = number()?.max(1),
            "--seconds" => wanted.seconds = number()?,
            "--stop-after" => wanted.stop_after = number()?.max(1),
            "--floor" => wanted.floor = number()?,
            "--ledger" => wanted.ledger = Some(PathBuf::from(value)),
            _ => return Err(format!("{word} is no option")),
        }
    }
    Ok(wanted)
}

fn run_one(seed: u64, trace: bool) -> ExitCode {
    let outcome = if trace {
        // What the product logs stands between the lines of the trace.
        let log =
            tracing_subscriber::fmt().without_time().with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG);
        log.init();
        l0::trace_seed(seed)
    } else {
        l0::run_seed(seed)
    };
    match outcome {
        Ok(summary) => {
            println!("{summary:?}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("{failure}");
            ExitCode::FAILURE
        }
    }
}

fn run_many(wanted: &Wanted) -> ExitCode {
    let from = wanted.from.unwrap_or_else(|| wanted.ledger.as_deref().map_or(0, next_seed));
    let commit = commit();
    let bar = ProgressBar::new(wanted.seeds);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} seeds, {per_sec}, {eta} left {msg}") {
        bar.set_style(style);
    }
    println!("simulate {}: seeds {from}..{} of commit {commit}", wanted.layer.name, from + wanted.seeds);
    let mut all = Tally::default();
    let mut next = from;
    let end = from + wanted.seeds;
    while next < end && all.failed < wanted.stop_after && bar.elapsed().as_secs() < wanted.seconds {
        let upto = end.min(next + PER_LOOK);
        let before = bar.elapsed();
        let tally = run_range(wanted, next..upto, &bar);
        if wanted.list {
            tally.failures.iter().for_each(|f| println!("failed {} {}", f.seed, f.violation.invariant));
        }
        let took = (bar.elapsed() - before).as_secs_f64();
        if let Some(path) = &wanted.ledger
            && let Err(error) = note(path, tally.line(&commit, next, upto, took))
        {
            eprintln!("simulate: the ledger cannot be written: {error}");
            return ExitCode::FAILURE;
        }
        all.add(tally);
        next = upto;
    }
    bar.finish_and_clear();
    all.report(wanted.layer.name, next - from, bar.elapsed().as_secs_f64());
    let void = all.failed == 0 && next - from < wanted.floor;
    if void {
        println!("VOID: {} seeds fitted into the time, {} are the least", next - from, wanted.floor);
    }
    if all.failed == 0 && !void { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What some seeds came to.
#[derive(Default)]
struct Tally {
    failed: u64,
    failures: Vec<Failure>,
    acknowledged: u64,
    events: u64,
    fired: std::collections::BTreeMap<&'static str, u64>,
}

impl Tally {
    fn note(&mut self, outcome: Result<Summary, Failure>) {
        match outcome {
            Ok(summary) => {
                self.acknowledged += summary.acknowledged;
                self.events += summary.events;
                for (what, times) in summary.fired {
                    *self.fired.entry(what).or_default() += times;
                }
            }
            Err(failure) => {
                self.failed += 1;
                self.failures.push(failure);
            }
        }
    }

    fn add(&mut self, other: Tally) {
        self.failed += other.failed;
        self.failures.extend(other.failures);
        self.acknowledged += other.acknowledged;
        self.events += other.events;
        for (what, times) in other.fired {
            *self.fired.entry(what).or_default() += times;
        }
    }

    fn line(&self, commit: &str, from: u64, upto: u64, seconds: f64) -> serde_json::Value {
        let failures: Vec<_> = self
            .failures
            .iter()
            .map(|f| serde_json::json!({ "seed": f.seed, "invariant": f.violation.invariant }))
            .collect();
        serde_json::json!({
            "commit": commit, "from": from, "to": upto, "failures": failures, "seconds": (seconds * 10.0).round() / 10.0,
        })
    }

    fn report(&self, layer: &str, seeds: u64, seconds: f64) {
        println!(
            "{seeds} seeds in {seconds:.0} s, {} events, {} acknowledged batches, {} failed",
            self.events, self.acknowledged, self.failed
        );
        let fired: Vec<String> = self.fired.iter().map(|(what, times)| format!("{what} {times}")).collect();
        println!("misfortunes: {}", fired.join(", "));
        for failure in self.failures.iter().take(10) {
            println!("FAILED {failure}\n  again: simulate --layer {layer} --seed {} --trace", failure.seed);
        }
    }
}

/// Runs the seeds, each on one of the threads.
fn run_range(wanted: &Wanted, seeds: std::ops::Range<u64>, bar: &ProgressBar) -> Tally {
    let (next, stop) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let failed = AtomicU64::new(0);
    let (sender, outcomes) = mpsc::channel();
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        for _ in 0..wanted.threads {
            let (sender, next, stop, failed) = (sender.clone(), &next, &stop, &failed);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let outcome = (wanted.layer.run_seed)(seed);
                    if outcome.is_err() && failed.fetch_add(1, Ordering::Relaxed) + 1 >= wanted.stop_after {
                        stop.store(true, Ordering::Relaxed);
                    }
                    if sender.send(outcome).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for outcome in outcomes {
            tally.note(outcome);
            bar.inc(1);
            if tally.failed > 0 {
                bar.set_message(format!("({} FAILED)", tally.failed));
            }
        }
    });
    // In the order of their seeds, so that a line does not depend on which thread was faster.
    tally.failures.sort_by_key(|f| f.seed);
    tally
}

/// The seed behind the last one of the ledger.
fn next_seed(ledger: &Path) -> u64 {
    let text = std::fs::read_to_string(ledger).unwrap_or_default();
    let to = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?.get("to")?.as_u64();
    text.lines().filter_map(to).max().unwrap_or(0)
}

/// Brings the ledger up to date: its last line takes `line` in if it ends where that begins, on the same commit.
fn note(path: &Path, line: serde_json::Value) -> std::io::Result<()> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut lines: Vec<serde_json::Value> = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    match lines.last_mut().and_then(|last| joined(last, &line)) {
        Some(joined) => *lines.last_mut().expect("there is one to join") = joined,
        None => lines.push(line),
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let next = path.with_extension("next");
    let mut file = std::fs::File::create(&next)?;
    lines.iter().try_for_each(|line| writeln!(file, "{line}"))?;
    std::fs::rename(next, path)
}

/// One line for both, if they follow each other and cover no more than a line may.
fn joined(first: &serde_json::Value, second: &serde_json::Value) -> Option<serde_json::Value> {
    let (from, to) = (first["from"].as_u64()?, second["to"].as_u64()?);
    if first["commit"] != second["commit"] || first["to"] != second["from"] || to - from > PER_LINE {
        return None;
    }
    let failures: Vec<_> = [first, second].iter().filter_map(|l| l["failures"].as_array()).flatten().cloned().collect();
    let seconds = ((first["seconds"].as_f64()? + second["seconds"].as_f64()?) * 10.0).round() / 10.0;
    let commit = &first["commit"];
    Some(serde_json::json!({ "commit": commit, "from": from, "to": to, "failures": failures, "seconds": seconds }))
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
