//! Structured logs on standard error.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Starts logging. `RUST_LOG` chooses what is said; without it, `default`.
pub fn start(format: LogFormat, default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
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
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr);
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
