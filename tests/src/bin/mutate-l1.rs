//! `mutate-l1`: puts each seeded bug of `tests/mutations/l1` into a copy of the tree, builds it, and runs seeds of whole nodes until one
//! of them finds it.
//!
//!     mutate-l1 --scratch DIR [--only NAME-PREFIX] [--seeds 600] [--from 1]
//!
//! The copy lies below DIR, with a target directory of its own that is filled from this tree's once. What was found goes to
//! `tests/mutations/l1/RESULTS.md`, one line for each mutation; a line of an earlier run is replaced. Ends with status 1 if a bug was not
//! caught. A failing seed counts as a catch: the tree without the bug passes all of the suite's (`tests/run simulation`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use strandline_tests::mutations::{self, Mutation};

const RESULTS: &str = "tests/mutations/l1/RESULTS.md";
/// Seeds run before the first look at what they found.
const FIRST: u64 = 60;

struct Wanted {
    scratch: PathBuf,
    only: String,
    seeds: u64,
    from: u64,
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)).and_then(|wanted| run(&wanted)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mutate-l1: {error}");
            ExitCode::from(2)
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Wanted, String> {
    let mut wanted = Wanted { scratch: PathBuf::new(), only: String::new(), seeds: 600, from: 1 };
    while let Some(word) = words.next() {
        let value = words.next().ok_or(format!("{word} needs a value"))?;
        let number = || value.parse::<u64>().map_err(|e| format!("{word} {value}: {e}"));
        match word.as_str() {
            "--scratch" => wanted.scratch = PathBuf::from(value),
            "--only" => wanted.only = value,
            "--seeds" => wanted.seeds = number()?,
            "--from" => wanted.from = number()?,
            _ => return Err(format!("{word} is no option; see the head of tests/src/bin/mutate-l1.rs")),
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
    let all = mutations::all(&root, mutations::L1).map_err(|bad| format!("{}: {}", bad.path.display(), bad.detail))?;
    let tree = prepare(&root, &wanted.scratch)?;
    let mut results = Results::read(&root.join(RESULTS));
    let mut missed = 0;
    for mutation in all.iter().filter(|m| m.name.starts_with(&wanted.only)) {
        let line = check(&tree, mutation, wanted)?;
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
        // Only what differs, so that the build begins where the last one ended.
        if std::fs::read(&to).ok().as_deref() != Some(&bytes) {
            put(&to, &bytes)?;
        }
    }
    let target = scratch.join("target/debug");
    if !target.exists() {
        std::fs::create_dir_all(target.join("deps")).map_err(|e| format!("{}: {e}", target.display()))?;
        for part in [".fingerprint", "build"] {
            command("cp", &["-a", &root.join("target/debug").join(part).to_string_lossy(), &target.to_string_lossy()])?;
        }
        copy_libraries(&root.join("target/debug/deps"), &target.join("deps"))?;
    }
    Ok(tree)
}

/// The libraries of a target directory, without the programs, which are most of it.
fn copy_libraries(from: &Path, to: &Path) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", from.display());
    for entry in std::fs::read_dir(from).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let library = path.extension().is_some_and(|e| ["rlib", "rmeta", "d", "so"].iter().any(|known| e == *known));
        if library {
            command("cp", &["-a", &path.to_string_lossy(), &to.to_string_lossy()])?;
        }
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

/// Builds the simulation in the copy; with the suite, as its features are those that the dependencies were built with.
fn build(tree: &Path) -> Result<(), String> {
    let output = Command::new("cargo")
        .args(["test", "--workspace", "--test", "simulation", "--no-run", "--locked", "--quiet"])
        .current_dir(tree)
        .env("CARGO_TARGET_DIR", tree.with_file_name("target"))
        .output()
        .map_err(|e| format!("cargo: {e}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// Runs seeds, and stops at the first part in which one failed. Returns the first failure as it is told.
fn seeds(tree: &Path, from: u64, count: u64) -> Result<Option<String>, String> {
    let binary = tree.with_file_name("target").join("debug/simulate-l1");
    let (from, count) = (from.to_string(), count.to_string());
    let words = ["--from", &from, "--seeds", &count, "--per-line", "30", "--stop-after", "1"];
    let output = Command::new(binary).args(words).output().map_err(|e| format!("simulate-l1: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().find_map(|line| line.strip_prefix("failed ")).map(str::to_owned))
}

fn check(tree: &Path, mutation: &Mutation, wanted: &Wanted) -> Result<String, String> {
    let path = tree.join(&mutation.file);
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    put(&path, mutation.apply(&text)?.as_bytes())?;
    let found = build(tree).and_then(|()| {
        let first = seeds(tree, wanted.from, FIRST.min(wanted.seeds))?;
        if first.is_some() || wanted.seeds <= FIRST {
            return Ok(first);
        }
        seeds(tree, wanted.from + FIRST / 2, wanted.seeds - FIRST)
    });
    put(&path, text.as_bytes())?;
    Ok(match found {
        Ok(Some(failed)) => format!("caught by {failed}"),
        Ok(None) => format!("open: not caught by {} seeds", wanted.seeds),
        Err(error) => format!("open: it does not build: {}", error.lines().next().unwrap_or_default()),
    })
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
            "# Mutation check of whole nodes\n\nWritten by `mutate-l1` (tests/src/bin/mutate-l1.rs). The oracle is L1 alone: no unit test \
             counts.\n\nCaught: {caught} of {}.\n\n| mutation | file | bug | expected | result |\n|---|---|---|---|---|\n",
            self.lines.len()
        );
        for line in self.lines.values() {
            text.push_str(line);
            text.push('\n');
        }
        put(path, text.as_bytes())
    }
}
