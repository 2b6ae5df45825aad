//! `strandline tier check URL`: does this bucket do what the tier needs, and how fast.

use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};
use strandline_tiering::{Metrics, ProbeStep, Store, StoreLimits};
use uuid::Uuid;

use super::CommandResult;
use super::connect::{block_on, human_bytes, table};
use crate::tier::environment_options;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Tries everything that the tier asks of a store: credentials, put, multipart, ranged get, list, delete, latency.
    Check {
        /// s3://bucket/prefix, hdfs://namenode:port/directory or file:///directory. Credentials and endpoint of S3 come
        /// from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL and AWS_ALLOW_HTTP.
        url: String,
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
        let report = store.probe(Uuid::new_v4()).await;
        if json {
            let steps: Vec<Value> = report.steps.iter().map(step_json).collect();
            println!("{}", json!({ "url": url, "passed": report.passed(), "steps": steps }));
        } else {
            let mut rows = table(&["step", "", "took", "rate", "what to do"]);
            for step in &report.steps {
                let mark = if step.error.is_none() { "ok" } else { "FAILED" };
                rows.add_row([
                    step.name.to_owned(),
                    mark.to_owned(),
                    format!("{:.1} ms", step.took.as_secs_f64() * 1000.0),
                    rate(step),
                    step.error.clone().unwrap_or_default(),
                ]);
            }
            println!("{rows}");
            println!("\n{url} {}", if report.passed() { "can be a tier" } else { "cannot be a tier yet" });
        }
        Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

fn rate(step: &ProbeStep) -> String {
    let seconds = step.took.as_secs_f64();
    if step.bytes < 1 << 20 || seconds <= 0.0 || step.error.is_some() {
        return String::new();
    }
    format!("{}/s", human_bytes((step.bytes as f64 / seconds) as u64))
}

fn step_json(step: &ProbeStep) -> Value {
    json!({ "name": step.name, "ok": step.error.is_none(), "ms": step.took.as_secs_f64() * 1000.0,
            "bytes": step.bytes, "error": step.error })
}
