//! Where things are: installed services, this process's directory, free ports, the product's binary.

use std::net::TcpListener;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// `tests/.cache`, which `tests/services/install` fills.
pub fn cache() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.cache"))
}

/// A thing installed under [`cache`]; panics with the command that installs it.
pub fn installed(path: &str) -> PathBuf {
    let path = cache().join(path);
    assert!(path.exists(), "{} is missing: run tests/services/install", path.display());
    path
}

/// The sink `iceberg` in a directory for `plugin.path`, as `connectors/iceberg/build.sh` would make it of the build that `tests/run` makes.
pub fn iceberg_plugin() -> PathBuf {
    let this = std::env::current_exe().expect("a running program has a path");
    let mut targets = this.ancestors().map(|directory| directory.join("iceberg/debug/strandline-iceberg"));
    let built = targets.find(|path| path.is_file()).expect("the sink iceberg is built: tests/run build");
    let directory = directory("iceberg-plugin");
    // A link by name would lead out of the plugin's directory, which is refused.
    std::fs::hard_link(&built, directory.join("strandline-iceberg"))
        .or_else(|_| std::fs::copy(&built, directory.join("strandline-iceberg")).map(drop))
        .expect("a file");
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../connectors/iceberg/connector.json");
    std::fs::copy(manifest, directory.join("connector.json")).expect("a file");
    directory
}

/// A class path of all jars of `service` (`kafka`, `hadoop`, ...).
pub fn class_path(service: &str) -> String {
    format!("{}/*", installed(&format!("{service}/libs")).display())
}

/// The product: `STRANDLINE_BIN`, or `strandline` in the profile's directory of this executable (a test's or a benchmark's).
pub fn strandline() -> PathBuf {
    if let Some(path) = std::env::var_os("STRANDLINE_BIN") {
        return PathBuf::from(path);
    }
    let this = std::env::current_exe().expect("a running program has a path");
    let mut beside = this.ancestors().skip(1).take(2).map(|directory| directory.join("strandline"));
    let found = beside.find(|path| path.is_file());
    found.expect("strandline lies beside this executable: build it (cargo build -p strandline), or set STRANDLINE_BIN")
}

/// A new directory of this process, its name telling what for.
pub fn directory(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let path = run_directory().join(format!("{}-{name}", NEXT.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir_all(&path).expect("tests/.cache/run is writable");
    path
}

/// Removes what this process has made so far, but for directories of the name `kept`: a measurement leaves as many bytes as it wrote.
/// Nothing may be using them.
pub fn clear(kept: &str) {
    for entry in std::fs::read_dir(run_directory()).into_iter().flatten().flatten() {
        let is_kept = entry.file_name().to_str().is_some_and(|name| name.ends_with(&format!("-{kept}")));
        if !is_kept && let Err(error) = std::fs::remove_dir_all(entry.path()) {
            eprintln!("{} stays: {error}", entry.path().display());
        }
    }
}

/// `tests/.cache/run/<process id>`; the first call removes those of processes that are gone.
fn run_directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let all = cache().join("run");
        std::fs::create_dir_all(&all).expect("tests/.cache is writable");
        for entry in std::fs::read_dir(&all).expect("tests/.cache/run is readable").flatten() {
            let name = entry.file_name();
            if !Path::new("/proc").join(&name).exists() {
                // A mount left in it makes this fail; then it stays for a later process.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        all.join(std::process::id().to_string())
    })
}

/// Ports for servers: below those that the kernel gives to connections and to whoever asks for any (`ip_local_port_range`), so that
/// nobody takes one between its choice and its server's start.
const PORTS: Range<u32> = 20_000..32_000;

/// A port of 127.0.0.1 that is free, and that this process was not given before.
pub fn free_port() -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Processes side by side begin at different ones.
    let begin = std::process::id().wrapping_mul(97);
    for _ in PORTS {
        let number = begin.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % (PORTS.end - PORTS.start);
        let port = u16::try_from(PORTS.start + number).expect("a port");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port of {PORTS:?} is free");
}
