//! `strandline consume`: prints records, wherever they are stored.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use strandline_client::PartitionReader;
use strandline_protocol::compression::DecompressLimit;
use strandline_protocol::record_batch::{Record, records};

use super::CommandResult;
use super::bootstrap::{Connect, block_on, check};

/// Decompressed bytes of one batch, at most.
const BATCH_BYTES_MAX: DecompressLimit = DecompressLimit(512 << 20);
/// A fetch at the end waits this long for more.
const WAIT: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connect: Connect,
    topic: String,
    /// Begins with the first record there is; otherwise only new ones are shown.
    #[arg(long)]
    from_beginning: bool,
    /// Begins at this offset of every partition.
    #[arg(long, short = 'o', conflicts_with = "from_beginning")]
    offset: Option<i64>,
    /// Begins with the first record of this time (ms since 1970) or later.
    #[arg(long, value_name = "MS", conflicts_with_all = ["from_beginning", "offset"])]
    from_timestamp: Option<i64>,
    /// Reads this partition only.
    #[arg(long, short = 'p')]
    partition: Option<i32>,
    /// Ends when everything that was there is shown.
    #[arg(long, short = 'e')]
    exit_at_end: bool,
    /// Ends after so many records.
    #[arg(long, short = 'n', value_name = "N")]
    max_messages: Option<u64>,
    /// One JSON object a line, with key, timestamp, headers, partition and offset.
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> CommandResult {
    let cluster = args.connect.cluster();
    block_on(async {
        let metadata = cluster.metadata(Some(&[&args.topic]), false).await?;
        let topic = metadata.topics.first().ok_or("the broker did not answer about the topic")?;
        check(&args.topic, topic.error_code, None)?;
        let mut partitions: Vec<i32> = topic.partitions.iter().map(|p| p.partition_index).collect();
        partitions.sort_unstable();
        if let Some(only) = args.partition {
            partitions.retain(|p| *p == only);
        }
        let mut readers = Vec::new();
        for partition in partitions {
            let mut reader = PartitionReader::open(&cluster, &args.topic, partition, 0).await?;
            let latest = reader.offset_for(-1).await?;
            let position = match (args.offset, args.from_timestamp) {
                (Some(offset), _) => offset,
                (None, Some(timestamp)) => reader.offset_for(timestamp).await?,
                (None, None) => reader.offset_for(if args.from_beginning { -2 } else { -1 }).await?,
            };
            // No record of that time: only new ones.
            reader.position = if position < 0 { latest } else { position };
            readers.push((partition, reader, latest));
        }
        if readers.is_empty() {
            return Err(format!("{} has no such partition", args.topic).into());
        }
        let mut out = std::io::stdout().lock();
        let mut left = args.max_messages.unwrap_or(u64::MAX);
        loop {
            let mut at_end = true;
            let count = u32::try_from(readers.len()).unwrap_or(1);
            for (partition, reader, latest) in &mut readers {
                if left == 0 {
                    return Ok(ExitCode::SUCCESS);
                }
                if args.exit_at_end && reader.position >= *latest {
                    continue;
                }
                let from = reader.position;
                let fetched = reader.fetch(WAIT / count).await?;
                for (_, batch) in &fetched.batches {
                    for record in records(batch, BATCH_BYTES_MAX)? {
                        let record = record?;
                        if record.offset >= from && left > 0 {
                            print(&mut out, &args, *partition, &record)?;
                            left -= 1;
                        }
                    }
                }
                at_end &= reader.position >= *latest;
            }
            out.flush()?;
            if args.exit_at_end && at_end {
                return Ok(ExitCode::SUCCESS);
            }
        }
    })
}

fn print(out: &mut impl Write, args: &Args, partition: i32, record: &Record) -> std::io::Result<()> {
    if !args.json {
        if let Some(value) = &record.value {
            out.write_all(value)?;
        }
        return out.write_all(b"\n");
    }
    let text = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(Value::Null, |b| String::from_utf8_lossy(b).into());
    let headers: Vec<Value> = record
        .headers
        .iter()
        .map(|h| json!({ "key": String::from_utf8_lossy(&h.key), "value": text(&h.value) }))
        .collect();
    let line = json!({
        "topic": args.topic, "partition": partition, "offset": record.offset, "timestamp": record.timestamp,
        "key": text(&record.key), "value": text(&record.value), "headers": headers,
    });
    writeln!(out, "{line}")
}
