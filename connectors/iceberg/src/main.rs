//! Rows of topics in Apache Iceberg tables, as an executable plugin of Strandline (docs/PLUGINS.md).
//!
//! One process is one task. [`frame`] is the pipe to the worker, [`settings`] what the connector's settings mean, [`columns`] makes rows of a
//! topic rows of a table, [`catalog`] is the table's catalog and the guard that keeps a commit exactly once, [`sink`] is what the task holds.
//! Exactly once: a table has the offsets that come next among its properties (docs/formats/iceberg-offsets.md), and they change in the
//! commit of the rows. A crash leaves files that no snapshot names.

mod catalog;
mod columns;
mod frame;
mod settings;
mod sink;
mod table;

use std::io::{stdin, stdout};

use frame::{Answer, Body, Fault};
use sink::{Refused, Sink};

/// The version that is spoken.
const PROTOCOL: u32 = 1;

fn answered(outcome: Result<Answer, Refused>) -> Answer {
    outcome.unwrap_or_else(|refused| Answer {
        error: Some(refused.fault),
        message: refused.message,
        rejected: refused.rejected,
        offsets: Vec::new(),
    })
}

async fn call(sink: &mut Option<Sink>, body: Body, rows: &[u8]) -> Result<Answer, Refused> {
    if let Body::Start { protocol, connector, settings } = body {
        if protocol != PROTOCOL {
            return Err(Refused::fatal(format!("the worker speaks protocol {protocol}, this plugin {PROTOCOL}")));
        }
        let settings = settings::Settings::parse(&settings).map_err(Refused::fatal)?;
        *sink = Some(Sink::start(connector, settings).await?);
        return Ok(Answer::default());
    }
    let Some(sink) = sink else {
        return Err(Refused { fault: Fault::Fatal, message: "nothing was started".to_owned(), rejected: Vec::new() });
    };
    match body {
        Body::Start { .. } => Ok(Answer::default()),
        Body::Open { partitions } => sink.open(&partitions).await,
        Body::Write { topic, partition, first_offset: _, next_offset, streams } => {
            sink.write((topic, partition), next_offset, columns::streams(rows, streams)?).await
        }
        Body::Flush { now_ms, force } => sink.flush(now_ms, force).await,
        Body::Close { partitions } => {
            sink.close(&partitions);
            Ok(Answer::default())
        }
    }
}

fn main() -> std::process::ExitCode {
    let served = || -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let (mut input, mut output, mut sink) = (stdin().lock(), stdout().lock(), None);
        while let Some((asked, rows)) = frame::read(&mut input)? {
            let answer = answered(runtime.block_on(call(&mut sink, asked.body, &rows)));
            frame::write(&mut output, asked.id, &answer)?;
        }
        Ok(())
    };
    match served() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the pipe to the worker: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
