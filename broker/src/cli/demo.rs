//! `strandline demo tier`: the main job, start to end, on real data in a directory that is gone afterwards.
//!
//! A topic with 1 MiB segments is filled; segments leave for the bucket and local copies go; then everything is read
//! from offset 0 and compared, record by record, with what was written.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use strandline_client::{Cluster, PartitionReader, Producer, ProducerOptions};
use strandline_protocol::compression::DecompressLimit;
use strandline_protocol::record_batch::records;

use super::logging::{self, LogFormat};
use super::{CommandResult, dev, node_runtime, topic};
use crate::clock;
use crate::node::Node;

const TOPIC: &str = "tier-demo";
const SEGMENT_BYTES: u64 = 1 << 20;
const VALUE_BYTES: usize = 1000;
/// Local copies are gone within this time, or the demonstration says that they are not.
const TIER_MAX: Duration = Duration::from_secs(120);
/// Between looks at the tiers.
const LOOK: Duration = Duration::from_millis(100);
const FETCH_WAIT: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    demo: Demo,
}

#[derive(Debug, clap::Subcommand)]
enum Demo {
    /// Fills a topic, watches its segments move to the bucket, replays it from offset 0.
    Tier {
        /// Records of 1,000 bytes.
        #[arg(long, default_value_t = 100_000)]
        records: u64,
        /// Keeps everything here; otherwise a temporary directory is used and removed.
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
}

/// Removes the directory when the demonstration is over, however it ends.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("strandline: {} is left: {error}", self.0.display());
        }
    }
}

pub fn run(args: Args) -> CommandResult {
    let Demo::Tier { records, data_dir } = args.demo;
    logging::start(LogFormat::Text, "error");
    let temporary = data_dir
        .is_none()
        .then(|| Temporary(std::env::temp_dir().join(format!("strandline-demo-{}", uuid::Uuid::new_v4().simple()))));
    let dir = data_dir.unwrap_or_else(|| temporary.as_ref().map(|t| t.0.clone()).unwrap_or_default());
    let outcome = node_runtime()?.block_on(async {
        let node = dev::start(&dir, 0, false, &[]).await?;
        let outcome = demonstrate(&node, &dir, records).await;
        node.stop().await;
        outcome
    });
    drop(temporary);
    outcome
}

async fn demonstrate(node: &Node, dir: &Path, count: u64) -> CommandResult {
    let address = node.addresses.first().ok_or("the node has no listener")?.to_string();
    let bucket = dir.join("bucket");
    println!("a node at {address}, its bucket {}", bucket.display());
    let cluster = Cluster::new(&address, "strandline-demo", Duration::from_secs(30));
    let settings = [
        "remote.storage.enable=true".to_owned(),
        format!("segment.bytes={SEGMENT_BYTES}"),
        "local.retention.ms=1000".to_owned(),
    ];
    topic::create(&cluster, TOPIC, 1, 1, &settings, 30_000).await?;
    let first = produce(&cluster, node, count).await?;
    drain(node).await?;
    let tiers = tiers(node).await?;
    let (verified, seconds, bytes) = replay(&cluster, node, first, count).await?;
    let remote = u64::try_from(tiers.remote_records).unwrap_or(0).min(count);
    let remote_share = (remote * 100 + count / 2) / count.max(1);
    let rate = bytes as f64 / 1e6 / seconds.max(1e-9);
    println!(
        "{verified} records verified · hot {} % · remote {remote_share} % · {} objects · {rate:.0} MB/s",
        100 - remote_share,
        tiers.objects
    );
    Ok(if verified == count { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn bar(length: u64, template: &str) -> Result<ProgressBar, Box<dyn std::error::Error>> {
    Ok(ProgressBar::new(length).with_style(ProgressStyle::with_template(template)?.progress_chars("█▓░")))
}

/// The value of a record: its number, then bytes that depend on it.
fn value(number: u64) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut value = number.to_be_bytes().to_vec();
    while value.len() < VALUE_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        value.extend_from_slice(&state.to_le_bytes());
    }
    value.truncate(VALUE_BYTES);
    value
}

/// What the tier holds of the demonstration's partition.
#[derive(Debug, Clone, Copy, Default)]
struct Tiers {
    remote_records: i64,
    objects: u64,
    local_segments: usize,
    waiting: usize,
}

async fn tiers(node: &Node) -> Result<Tiers, Box<dyn std::error::Error>> {
    let image = node.broker.image();
    let topic = image.topic(TOPIC).ok_or("the topic is gone")?;
    let partition = node.broker.partitions.leading(topic.id, 0).map_err(|code| code.message())?;
    let objects = match partition.remote.as_ref().filter(|_| partition.tiered_range().is_some()) {
        Some(remote) => remote.tiers(FETCH_WAIT * 20).await?.objects,
        None => 0,
    };
    let offsets = partition.offsets();
    let copied = partition.highest_copied().map_or(0, |h| h + 1);
    let segments = partition.log().segments();
    Ok(Tiers {
        // Read from the bucket: what the local log no longer has.
        remote_records: offsets.local_log_start - offsets.log_start,
        objects,
        local_segments: segments.len(),
        waiting: segments.iter().filter(|s| !s.active && s.next_offset > copied).count(),
    })
}

/// Writes the records. Returns the offset of the first.
async fn produce(cluster: &Cluster, node: &Node, count: u64) -> Result<i64, Box<dyn std::error::Error>> {
    let progress = bar(count, "produce  {bar:40} {pos}/{len} records  {msg}")?;
    let mut producer = Producer::open(cluster, TOPIC, ProducerOptions::default()).await?;
    let mut reader = PartitionReader::open(cluster, TOPIC, 0, 0).await?;
    let first = reader.offset_for(-1).await?;
    for number in 0..count {
        producer.send(0, clock::now_ms(), Some(&number.to_be_bytes()), Some(&value(number)), &[]).await?;
        if number % 5_000 == 0 {
            progress.set_position(number);
            let tiers = tiers(node).await?;
            progress.set_message(format!(
                "{} objects in the bucket, {} local segments",
                tiers.objects, tiers.local_segments
            ));
        }
    }
    producer.flush().await?;
    progress.finish_and_clear();
    println!("{count} records written");
    Ok(first)
}

/// Waits until closed segments are in the bucket and local copies are gone.
async fn drain(node: &Node) -> Result<(), Box<dyn std::error::Error>> {
    let progress = ProgressBar::new_spinner().with_style(ProgressStyle::with_template("tier     {spinner} {msg}")?);
    let deadline = tokio::time::Instant::now() + TIER_MAX;
    let last = loop {
        let now = tiers(node).await?;
        progress.set_message(format!(
            "{} objects in the bucket, {} local segments, {} waiting for upload",
            now.objects, now.local_segments, now.waiting
        ));
        progress.tick();
        if now.waiting == 0 && now.local_segments <= 2 {
            break now;
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(format!(
                "after {TIER_MAX:?} {} local segments are left and {} wait for upload",
                now.local_segments, now.waiting
            )
            .into());
        }
        tokio::time::sleep(LOOK).await;
    };
    progress.finish_and_clear();
    println!("{} objects in the bucket, {} local segments left", last.objects, last.local_segments);
    Ok(())
}

/// Reads from offset 0 and compares. Returns records that were as written, seconds, and record bytes.
async fn replay(
    cluster: &Cluster,
    node: &Node,
    first: i64,
    count: u64,
) -> Result<(u64, f64, u64), Box<dyn std::error::Error>> {
    let progress = bar(count, "replay   {bar:40} {pos}/{len} records  {msg}")?;
    let mut reader = PartitionReader::open(cluster, TOPIC, 0, first).await?;
    let began: Instant = clock::monotonic();
    let (mut verified, mut bytes, mut next) = (0u64, 0u64, first);
    while verified < count {
        let fetched = reader.fetch(FETCH_WAIT).await?;
        for (_, batch) in &fetched.batches {
            bytes += batch.len() as u64;
            for record in records(batch, DecompressLimit(64 << 20))? {
                let record = record?;
                let number = u64::try_from(record.offset - first)?;
                let same = record.offset == next
                    && record.value.as_deref() == Some(value(number).as_slice())
                    && record.key.as_deref() == Some(number.to_be_bytes().as_slice());
                if !same {
                    progress.abandon();
                    return Err(format!("the record at offset {} is not what was written there", record.offset).into());
                }
                next += 1;
                verified += 1;
            }
        }
        progress.set_position(verified);
        let chunks = node.broker.tier.as_ref().map_or(0, |tier| tier.log.metrics().store_chunk_gets.get());
        progress.set_message(format!("{chunks} reads of the bucket"));
    }
    progress.finish_and_clear();
    Ok((verified, clock::monotonic().duration_since(began).as_secs_f64(), bytes))
}
