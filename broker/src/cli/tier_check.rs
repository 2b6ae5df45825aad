//! `strandline tier check URL`: does this bucket do what the tier needs, and how fast.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use strandline_tiering::{CLOCK_SKEW_MAX_MS, LATENCY_GETS, Metrics, ProbeReport, ProbeStep, Store, StoreLimits};
use uuid::Uuid;

use super::CommandResult;
use super::bootstrap::{block_on, human_bytes, table};
use crate::clock;
use crate::tier::environment_options;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Tries everything that the tier asks of a store: credentials, put, multipart, ranged get, list, delete; and tells its
    /// latency and its clock.
    Check {
        /// s3://bucket/prefix, hdfs://namenode:port/directory or file:///directory. Credentials and endpoint of S3 come
        /// from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL and AWS_ALLOW_HTTP.
        url: String,
        /// One JSON object instead of a table.
        #[arg(long)]
        json: bool,
    },
}

pub fn run(args: Args) -> CommandResult {
    let Command::Check { url, json } = args.command;
    block_on(async {
        let options = environment_options(&url, |name| std::env::var(name).ok());
        let metrics = Arc::new(Metrics::default());
        let store = Store::open(&url, &options, StoreLimits { tries: 2, ..StoreLimits::default() }, metrics, 1)?;
        let report = store.probe(Uuid::new_v4(), &clock::now_ms).await;
        if json {
            println!("{}", report_json(&url, &report));
        } else {
            print(&url, &report);
        }
        Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

fn print(url: &str, report: &ProbeReport) {
    let mut rows = table(&["step", "", "took", "rate", "what to know, what to do"]);
    for step in &report.steps {
        let words = step.error.as_ref().or(step.note.as_ref());
        rows.add_row([
            step.name.to_owned(),
            if step.error.is_none() { "ok" } else { "FAILED" }.to_owned(),
            format!("{:.1} ms", milliseconds(step.took)),
            rate(step),
            words.cloned().unwrap_or_default(),
        ]);
    }
    println!("{rows}");
    println!("\n{url} {}", if report.passed() { "can be a tier" } else { "cannot be a tier yet" });
}

fn report_json(url: &str, report: &ProbeReport) -> Value {
    let steps: Vec<Value> = report.steps.iter().map(step_json).collect();
    let latency = report.latency.map(|latency| {
        json!({ "gets": LATENCY_GETS, "median_ms": milliseconds(latency.median), "worst_ms": milliseconds(latency.worst) })
    });
    json!({ "url": url, "passed": report.passed(), "steps": steps, "latency": latency,
            "clock_skew_ms": report.clock_skew_ms, "clock_skew_max_ms": CLOCK_SKEW_MAX_MS })
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn rate(step: &ProbeStep) -> String {
    let seconds = step.took.as_secs_f64();
    if step.bytes < 1 << 20 || seconds <= 0.0 || step.error.is_some() {
        return String::new();
    }
    format!("{}/s", human_bytes((step.bytes as f64 / seconds) as u64))
}

fn step_json(step: &ProbeStep) -> Value {
    json!({ "name": step.name, "ok": step.error.is_none(), "ms": milliseconds(step.took),
            "bytes": step.bytes, "error": step.error, "note": step.note })
}
