//! Seeds in processes of their own, so that each can be repeated step by step.
//!
//! Owns the way to the other process and back: the plan's name and the seed in [`ASKED`], one JSON line on standard output. A binary
//! that starts seeds must call [`answer`] first thing when that variable is set.
//! A crash of the other process, or silence for [`SEED_MAX`], is a failure of its seed.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::run::{Plan, Summary, run};
use crate::place;
use crate::process::{self, Program};

/// The variable that asks a process for one seed: `plan:seed`.
pub const ASKED: &str = "STRANDLINE_SIM_ASKED";
/// Wall-clock time that a seed may take; it takes a fraction of a second.
const SEED_MAX: Duration = Duration::from_secs(120);
/// In front of the line that holds the summary.
const MARK: &str = "simulated: ";
/// Seeds under way at once.
const AT_ONCE: u64 = 2;

/// A family of plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Random faults.
    Any,
    /// The power of all nodes at once, again and again.
    PowerLoss,
}

/// All families.
pub const FAMILIES: [Family; 2] = [Family::Any, Family::PowerLoss];

impl Family {
    pub fn name(self) -> &'static str {
        match self {
            Family::Any => "any",
            Family::PowerLoss => "power-loss",
        }
    }

    pub fn named(name: &str) -> Option<Family> {
        FAMILIES.into_iter().find(|family| family.name() == name)
    }

    pub fn plan(self, seed: u64) -> Plan {
        match self {
            Family::Any => Plan::of(seed),
            Family::PowerLoss => Plan::power_loss(seed),
        }
    }
}

/// In a process that was asked for a seed: runs it and tells the outcome. Says whether it was asked, and whether the seed passed.
pub fn answer() -> Option<bool> {
    let asked = std::env::var(ASKED).ok()?;
    let (family, seed) = asked.split_once(':').expect("plan:seed");
    let family = Family::named(family).expect("a known plan");
    let seed = seed.parse().expect("a number");
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "off".to_owned());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr);
    // Another log may be in place; the outcome does not depend on it.
    let _ = log.try_init();
    match run(family.plan(seed)) {
        Ok(summary) => {
            let line = serde_json::to_string(&summary).expect("a summary is JSON");
            println!("\n{MARK}{line}");
            Some(true)
        }
        Err(failure) => {
            let path = history_path(family, seed);
            let kept = std::fs::File::create(&path).and_then(|mut file| file.write_all(failure.history.as_bytes()));
            eprintln!("{failure}its history: {} ({kept:?})", path.display());
            Some(false)
        }
    }
}

/// Where the history of a failed seed is kept.
fn history_path(family: Family, seed: u64) -> PathBuf {
    let directory = place::cache().join("simulation");
    // An error shows when the file is created.
    let _ = std::fs::create_dir_all(&directory);
    directory.join(format!("{}-{seed}.jsonl", family.name()))
}

/// Runs one seed in another process of this binary. `arguments` are what makes the binary call [`answer`].
pub fn ask(family: Family, seed: u64, arguments: &[&str]) -> Result<Summary, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let program = Program::new(program).args(arguments.iter().copied()).env(ASKED, format!("{}:{seed}", family.name()));
    // The harness panics where a process does not end.
    let output = std::panic::catch_unwind(|| process::run(&program, b"", SEED_MAX));
    let Ok(output) = output else { return Err(format!("the process did not end within {SEED_MAX:?}")) };
    let text = output.text();
    let line = text.lines().find_map(|line| line.strip_prefix(MARK));
    let summary = line.and_then(|line| serde_json::from_str(line).ok());
    summary.ok_or_else(|| format!("{text}\n{}", output.stderr))
}

/// Runs `count` seeds from `first` on, a few at once. Returns the summaries, and the failures with their seeds.
pub fn ask_all(family: Family, first: u64, count: u64, arguments: &[&str]) -> (Vec<Summary>, Vec<(u64, String)>) {
    let next = AtomicU64::new(first);
    let outcomes = Mutex::new((Vec::new(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let outcome = ask(family, seed, arguments);
                    let mut outcomes = outcomes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    match outcome {
                        Ok(summary) => outcomes.0.push(summary),
                        Err(why) => outcomes.1.push((seed, why)),
                    }
                }
            });
        }
    });
    outcomes.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}
