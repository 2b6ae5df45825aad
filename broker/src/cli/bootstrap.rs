//! What every client command needs: where the cluster is, a runtime, and Kafka's refusals as errors.

use std::time::Duration;

use strandline_client::Cluster;
use strandline_protocol::error_code::ErrorCode;

use super::CommandResult;

#[derive(Debug, clap::Args)]
pub struct Connect {
    /// A broker of the cluster; several separated by commas.
    #[arg(short = 'b', long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092", global = true)]
    bootstrap_server: String,
    /// How long one request may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, global = true)]
    timeout: u64,
}

impl Connect {
    pub fn cluster(&self) -> Cluster {
        Cluster::new(&self.bootstrap_server, "strandline-cli", Duration::from_secs(self.timeout))
    }

    pub fn timeout_ms(&self) -> i32 {
        i32::try_from(self.timeout.saturating_mul(1000)).unwrap_or(i32::MAX)
    }
}

/// Runs a command to its end on a small runtime of its own.
pub fn block_on(command: impl Future<Output = CommandResult>) -> CommandResult {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

/// A refusal in Kafka's words; the broker's message, where it sent one, says more.
#[derive(Debug, thiserror::Error)]
#[error("{subject}: {}{}", code.name(), message.as_ref().map_or_else(|| format!(": {}", code.message()), |m| format!(": {m}")))]
pub struct RefusedByBroker {
    pub subject: String,
    pub code: ErrorCode,
    pub message: Option<String>,
}

/// `Err` unless the code is 0.
pub fn check(subject: &str, code: i16, message: Option<String>) -> Result<(), RefusedByBroker> {
    let code = ErrorCode::from_code(code).unwrap_or(ErrorCode::UnknownServerError);
    match code {
        ErrorCode::None => Ok(()),
        code => Err(RefusedByBroker { subject: subject.to_owned(), code, message }),
    }
}

/// 1234567 -> "1.2 MiB".
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A table without frames, for people; the first row is the header.
pub fn table(header: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header.iter().copied());
    table
}
