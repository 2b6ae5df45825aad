//! `strandline produce`: lines of standard input become records.

use std::io::BufRead;
use std::process::ExitCode;

use serde_json::json;
use strandline_client::{Producer, ProducerOptions};
use strandline_protocol::compression::Compression;

use super::CommandResult;
use super::bootstrap::{Connect, block_on};
use crate::clock;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connect: Connect,
    /// The topic; made if the broker makes topics on first use.
    topic: String,
    /// Everything before the first such text in a line is the record's key.
    #[arg(long, short = 'K', value_name = "TEXT")]
    key_separator: Option<String>,
    /// Writes to this partition only. Otherwise keys choose theirs as Kafka's do, and lines without key go round.
    #[arg(long, short = 'p')]
    partition: Option<i32>,
    /// none, gzip, snappy, lz4 or zstd.
    #[arg(long, short = 'z', default_value = "none")]
    compression: String,
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> CommandResult {
    let compression = Compression::ALL.into_iter().find(|c| c.name() == args.compression);
    let compression = compression.ok_or_else(|| {
        format!("there is no compression '{}'; use none, gzip, snappy, lz4 or zstd", args.compression)
    })?;
    let cluster = args.connect.cluster();
    block_on(async {
        let options = ProducerOptions { compression, ..ProducerOptions::default() };
        let mut producer = Producer::open(&cluster, &args.topic, options).await?;
        let mut turn = 0;
        let mut line = Vec::new();
        let mut input = std::io::stdin().lock();
        while input.read_until(b'\n', &mut line)? > 0 {
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            let (key, value) = split(&line, args.key_separator.as_deref());
            let partition = match (args.partition, key) {
                (Some(partition), _) => partition,
                (None, Some(key)) => partition_for_key(key, producer.partition_count()),
                (None, None) => {
                    turn = (turn + 1) % producer.partition_count().max(1);
                    turn
                }
            };
            producer.send(partition, clock::now_ms(), key, Some(value), &[]).await?;
            line.clear();
        }
        producer.flush().await?;
        if args.json {
            println!("{}", json!({ "topic": args.topic, "records": producer.acknowledged }));
        } else {
            eprintln!("{} records acknowledged", producer.acknowledged);
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn split<'a>(line: &'a [u8], separator: Option<&str>) -> (Option<&'a [u8]>, &'a [u8]) {
    let Some(separator) = separator.map(str::as_bytes).filter(|s| !s.is_empty()) else { return (None, line) };
    match line.windows(separator.len()).position(|w| w == separator) {
        Some(at) => (Some(&line[..at]), &line[at + separator.len()..]),
        None => (None, line),
    }
}

/// Kafka's default: murmur2 of the key, its sign bit cleared, modulo the number of partitions.
fn partition_for_key(key: &[u8], partitions: i32) -> i32 {
    let hash = (murmur2(key) & 0x7fff_ffff).cast_signed();
    hash % partitions.max(1)
}

/// The 32-bit MurmurHash2 with Kafka's seed, as Java clients compute it.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    let mut h = SEED ^ u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = chunks.remainder();
    for (i, byte) in rest.iter().enumerate() {
        h ^= u32::from(*byte) << (8 * i);
    }
    if !rest.is_empty() {
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_where_kafkas_clients_put_them() {
        // Values of Kafka's own test of Utils.murmur2.
        for (text, hash) in [("21", -973_932_308), ("foobar", -790_332_482), ("a-little-bit-long-string", -985_981_536)]
        {
            assert_eq!(murmur2(text.as_bytes()).cast_signed(), hash, "{text}");
        }
    }

    #[test]
    fn a_line_is_split_at_the_first_separator() {
        assert_eq!(split(b"k:v:w", Some(":")), (Some(&b"k"[..]), &b"v:w"[..]));
        assert_eq!(split(b"kv", Some(":")), (None, &b"kv"[..]));
        assert_eq!(split(b"k:v", None), (None, &b"k:v"[..]));
    }
}
