//! Structured logs on standard error, without the secrets of connectors.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};

use strandline_connectors::secrets::blotted_line;
use tracing_subscriber::EnvFilter;

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Standard error, for whole lines: each is written at once.
struct Discreet;

impl Write for Discreet {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        std::io::stderr().write_all(blotted_line(&String::from_utf8_lossy(line)).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// Starts logging. `RUST_LOG` chooses what is said; without it, `default`.
pub fn start(format: LogFormat, default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Discreet);
    let outcome = match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    if let Err(error) = outcome {
        eprintln!("strandline: no logs: {error}");
    }
}

/// Levels by name (`root` is everything else), as Log4j calls them.
pub type SetLevels = Box<dyn Fn(&BTreeMap<String, String>) + Send + Sync>;

/// Starts logging; the levels can be set anew while the process runs.
pub fn start_changeable(format: LogFormat, default: &str) -> SetLevels {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt().with_writer(|| Discreet);
    match format {
        LogFormat::Text => {
            let builder = builder.with_ansi(std::io::stderr().is_terminal());
            let builder = builder.with_env_filter(filter).with_filter_reloading();
            let handle = builder.reload_handle();
            told(builder.try_init());
            Box::new(move |levels| told(handle.reload(filter_of(levels))))
        }
        LogFormat::Json => {
            let builder = builder.json().with_env_filter(filter).with_filter_reloading();
            let handle = builder.reload_handle();
            told(builder.try_init());
            Box::new(move |levels| told(handle.reload(filter_of(levels))))
        }
    }
}

fn told<E: std::fmt::Display>(outcome: Result<(), E>) {
    if let Err(error) = outcome {
        eprintln!("strandline: logs are not as asked for: {error}");
    }
}

/// Java's dots between names are colons here.
fn filter_of(levels: &BTreeMap<String, String>) -> EnvFilter {
    let level = |name: &str| match name {
        "OFF" => "off",
        "FATAL" | "ERROR" => "error",
        "WARN" => "warn",
        "DEBUG" => "debug",
        "TRACE" | "ALL" => "trace",
        _ => "info",
    };
    let mut filter = EnvFilter::new(levels.get("root").map_or("info", |l| level(l)));
    for (name, wanted) in levels.iter().filter(|(name, _)| *name != "root") {
        match format!("{}={}", name.replace('.', "::"), level(wanted)).parse() {
            Ok(directive) => filter = filter.add_directive(directive),
            Err(error) => tracing::warn!(name, %error, "not a logger's name"),
        }
    }
    filter
}
