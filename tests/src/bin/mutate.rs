//! `mutate`: puts each seeded bug of `tests/mutations` into a copy of the tree, builds it, and runs seeds until one of them finds it.
//!
//!     mutate --scratch DIR [--only NAME-PREFIX] [--seeds 5000] [--from 0]
//!
//! The copy lies below DIR, with a target directory of its own that is filled from this tree's once. What was found goes to
//! `tests/mutations/RESULTS.md`, one line for each mutation; a line of an earlier run is replaced. A seed counts only if the tree
//! without the bug passes it. Ends with status 1 if a bug was not caught.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use strandline_tests::mutations::{self, Mutation};

const RESULTS: &str = "tests/mutations/RESULTS.md";

struct Wanted {
    scratch: PathBuf,
    only: String,
    seeds: u64,
    from: u64,
}

/// What a run of seeds found: seed and invariant.
type Found = BTreeMap<u64, String>;

fn main() -> ExitCode {
    let done = parse(std::env::args().skip(1)).and_then(|wanted| run(&wanted));
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mutate: {error}");
            ExitCode::from(2)
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Wanted, String> {
    let mut wanted = Wanted { scratch: PathBuf::new(), only: String::new(), seeds: 5_000, from: 0 };
    while let Some(word) = words.next() {
        let value = words.next().ok_or(format!("{word} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|e| format!("{word} {value}: {e}"));
        match word.as_str() {
            "--scratch" => wanted.scratch = PathBuf::from(value),
            "--only" => wanted.only = value,
            "--seeds" => wanted.seeds = number()?,
            "--from" => wanted.from = number()?,
            _ => return Err(format!("{word} is no option; see the head of tests/src/bin/mutate.rs")),
        }
    }
    if wanted.scratch.as_os_str().is_empty() {
        Err("--scratch says where the copy goes".to_owned())
    } else {
        Ok(wanted)
    }
}

fn run(wanted: &Wanted) -> Result<bool, String> {
    let root = std::env::current_dir().map_err(|e| e.to_string())?;
    let all = mutations::all(&root, mutations::L0).map_err(|bad| format!("{}: {}", bad.path.display(), bad.detail))?;
    let tree = prepare(&root, &wanted.scratch)?;
    build(&tree)?;
    let sound: BTreeSet<u64> = seeds(&tree, wanted.from, wanted.seeds, u64::MAX)?.into_keys().collect();
    println!("the tree as it is: {} of {} seeds fail", sound.len(), wanted.seeds);
    let mut results = Results::read(&root.join(RESULTS));
    let mut missed = 0;
    for mutation in all.iter().filter(|m| m.name.starts_with(&wanted.only)) {
        let line = check(&tree, mutation, wanted, &sound)?;
        println!("{}: {line}", mutation.name);
        missed += usize::from(!line.starts_with("caught"));
        results.lines.insert(mutation.name.clone(), row(mutation, &line));
        results.write(&root.join(RESULTS))?;
    }
    Ok(missed == 0)
}

/// Copies the tracked files, and the built dependencies the first time.
fn prepare(root: &Path, scratch: &Path) -> Result<PathBuf, String> {
    let tree = scratch.join("tree");
    std::fs::create_dir_all(&tree).map_err(|e| format!("{}: {e}", tree.display()))?;
    let listed = Command::new("git").args(["ls-files", "-co", "--exclude-standard"]).current_dir(root).output();
    let listed = listed.map_err(|e| format!("git: {e}"))?;
    for name in String::from_utf8_lossy(&listed.stdout).lines() {
        let (from, to) = (root.join(name), tree.join(name));
        let (Ok(bytes), Some(parent)) = (std::fs::read(&from), to.parent()) else { continue };
        std::fs::create_dir_all(parent).map_err(|e| format!("{}: {e}", parent.display()))?;
        // A bug may leave something unused; that is not what is looked for. Flags for the compiler would build every dependency anew.
        let bytes = if name == "Cargo.toml" { allowing(&bytes) } else { bytes };
        // Only what differs, so that the build begins where the last one ended.
        if std::fs::read(&to).ok().as_deref() != Some(&bytes) {
            put(&to, &bytes)?;
        }
    }
    let target = scratch.join("target/debug");
    if !target.exists() {
        std::fs::create_dir_all(&target).map_err(|e| format!("{}: {e}", target.display()))?;
        for part in ["deps", ".fingerprint", "build"] {
            fill(&root.join("target/debug").join(part), &target.join(part))?;
        }
    }
    Ok(tree)
}

/// The manifest without lints that stop a build.
fn allowing(manifest: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(manifest).replace("\"deny\"", "\"allow\"").into_bytes()
}

/// Links what was built of the dependencies; the tree's own crates lie elsewhere now, and are built anew.
fn fill(from: &Path, to: &Path) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", from.display());
    std::fs::create_dir_all(to).map_err(failed)?;
    for entry in std::fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_file = entry.file_type().map_err(failed)?.is_file();
        let is_library = name.starts_with("lib") || name.ends_with(".d");
        if name.contains("strandline") || (is_file && !is_library) {
            continue;
        }
        command("cp", &["-al", &entry.path().to_string_lossy(), &to.to_string_lossy()])?;
    }
    Ok(())
}

fn put(path: &Path, bytes: &[u8]) -> Result<(), String> {
    use std::io::Write;
    let file = std::fs::File::create(path).and_then(|mut file| file.write_all(bytes));
    file.map_err(|e| format!("{}: {e}", path.display()))
}

fn command(program: &str, words: &[&str]) -> Result<(), String> {
    let status = Command::new(program).args(words).status().map_err(|e| format!("{program}: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program} {words:?}: {status}")) }
}

/// Builds the simulation in the copy.
fn build(tree: &Path) -> Result<(), String> {
    let target = tree.with_file_name("target");
    let output = Command::new("cargo")
        .args(["build", "--workspace", "--bin", "simulate", "--locked", "--quiet"])
        .current_dir(tree)
        .env("CARGO_TARGET_DIR", target)
        .output()
        .map_err(|e| format!("cargo: {e}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Runs seeds, and stops after some failures.
fn seeds(tree: &Path, from: u64, count: u64, stop_after: u64) -> Result<Found, String> {
    let binary = tree.with_file_name("target").join("debug/simulate");
    let (from, count, stop) = (from.to_string(), count.to_string(), stop_after.to_string());
    let words = ["--layer", "l0", "--from", &from, "--seeds", &count, "--stop-after", &stop, "--list"];
    let output = Command::new(binary).args(words).output().map_err(|e| format!("simulate: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let one = |line: &str| {
        let (seed, invariant) = line.strip_prefix("failed ")?.split_once(' ')?;
        Some((seed.parse().ok()?, invariant.to_owned()))
    };
    Ok(text.lines().filter_map(one).collect())
}

fn check(tree: &Path, mutation: &Mutation, wanted: &Wanted, sound: &BTreeSet<u64>) -> Result<String, String> {
    let path = tree.join(&mutation.file);
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let changed = mutation.apply(&text)?;
    put(&path, changed.as_bytes())?;
    let built = build(tree);
    let found = built.and_then(|()| {
        let mut tried = 0;
        // In parts, so that what is caught at once costs little.
        for part in [200, 800, u64::MAX] {
            let count = part.min(wanted.seeds - tried);
            let found = seeds(tree, wanted.from + tried, count, 3)?;
            tried += count;
            if let Some((seed, invariant)) = found.into_iter().find(|(seed, _)| !sound.contains(seed)) {
                return Ok(format!("caught by seed {seed}: {invariant}"));
            }
            if tried == wanted.seeds {
                break;
            }
        }
        Ok(format!("open: not caught by {tried} seeds"))
    });
    put(&path, text.as_bytes())?;
    // Whatever the clock's grain: what is put back is built anew.
    std::thread::park_timeout(Duration::from_millis(20));
    match found {
        Ok(line) => Ok(line),
        Err(error) => Ok(format!("open: it does not build: {}", error.lines().next().unwrap_or_default())),
    }
}

fn row(mutation: &Mutation, line: &str) -> String {
    format!("| {} | `{}` | {} | {} | {line} |", mutation.name, mutation.file, mutation.bug, mutation.expect)
}

/// The lines of the results, by mutation.
struct Results {
    lines: BTreeMap<String, String>,
}

impl Results {
    fn read(path: &Path) -> Results {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let one = |line: &str| {
            let name = line.strip_prefix("| ")?.split(" |").next()?;
            name.starts_with(|c: char| c.is_ascii_digit()).then(|| (name.to_owned(), line.to_owned()))
        };
        Results { lines: text.lines().filter_map(one).collect() }
    }

    fn write(&self, path: &Path) -> Result<(), String> {
        let caught = self.lines.values().filter(|line| line.contains("| caught by")).count();
        let mut text = format!(
            "# Mutation check of the simulation\n\nWritten by `mutate` (tests/src/bin/mutate.rs). The oracle is L0 alone: no unit test counts. Bugs by \
             the numbers of the design's list.\n\nCaught: {caught} of {}.\n\n\
             | mutation | file | bug | invariants expected | result |\n|---|---|---|---|---|\n",
            self.lines.len()
        );
        for line in self.lines.values() {
            text.push_str(line);
            text.push('\n');
        }
        put(path, text.as_bytes())
    }
}
