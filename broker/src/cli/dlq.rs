//! `strandline connector dlq`: what a connector has put aside, why, and back to where it came from.
//!
//! Owns reading of a dead letter topic with Kafka Connect's `__connect.errors.*` headers, and how far it was replayed: the committed offsets of
//! a group without members. A replay commits after its records are acknowledged, at most [`REPLAY_RECORDS`] at a time: a second replay goes
//! on behind the first; one that is cut off may send the last of these again.

use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};
use strandline_client::group::offsets::{self, Committer, GroupOffsets};
use strandline_client::{Cluster, PartitionReader, Producer, ProducerOptions};
use strandline_protocol::compression::DecompressLimit;
use strandline_protocol::record_batch::{Header, Record, records};

use super::CommandResult;
use super::bootstrap::{check, table};

/// How the headers of an error begin.
const ERRORS: &str = "__connect.errors.";
/// Decompressed bytes of one batch, at most.
const BATCH_BYTES_MAX: DecompressLimit = DecompressLimit(512 << 20);
/// A fetch waits this long; everything that is read is there already.
const WAIT: Duration = Duration::from_millis(500);
/// Records of a replay that are sent before the next commit.
const REPLAY_RECORDS: usize = 500;
/// Kinds of failures that are told apart in a list.
const KINDS_MAX: usize = 1_000;
/// Topics that one replay may send to.
const TOPICS_MAX: usize = 1_000;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A broker of the cluster that the worker reads; several separated by commas.
    #[arg(short = 'b', long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092", global = true)]
    bootstrap_server: String,
    /// This dead letter topic, whoever wrote to it; no worker is asked.
    #[arg(long, global = true)]
    topic: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// How many records there are, by topic, stage and reason.
    List {
        /// The connector.
        name: Option<String>,
    },
    /// Each record, with what went wrong.
    Show {
        name: Option<String>,
        /// Ends after so many records.
        #[arg(long, short = 'n', value_name = "N", default_value_t = 20)]
        limit: u64,
    },
    /// Sends records back to the topic and partition that they came from, without the headers of the error. What was replayed before
    /// is not sent again.
    Replay {
        name: Option<String>,
        /// Sends all of them to this topic instead.
        #[arg(long, value_name = "TOPIC")]
        to: Option<String>,
        /// Sends what was replayed before, too.
        #[arg(long)]
        from_beginning: bool,
        /// Says what would be sent, and sends nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

impl Args {
    fn name(&self) -> Option<&str> {
        match &self.command {
            Command::List { name } | Command::Show { name, .. } | Command::Replay { name, .. } => name.as_deref(),
        }
    }

    pub fn topic_given(&self) -> String {
        self.topic.clone().unwrap_or_default()
    }

    /// The connector whose settings name the topic; None = the topic was given.
    pub fn connector(&self) -> Outcome<Option<&str>> {
        match (self.name(), &self.topic) {
            (_, Some(_)) => Ok(None),
            (Some(name), None) => Ok(Some(name)),
            (None, None) => Err("say which connector, or --topic".into()),
        }
    }
}

/// The topic of a connector's settings.
pub fn topic_of(name: &str, config: &Value) -> Outcome<String> {
    let topic = config["errors.deadletterqueue.topic.name"].as_str().map(str::trim).filter(|t| !t.is_empty());
    let missing =
        || format!("{name} has no dead letter queue: set errors.deadletterqueue.topic.name and errors.tolerance=all");
    Ok(topic.map(str::to_owned).ok_or_else(missing)?)
}

/// A record that was put aside.
struct Letter {
    partition: i32,
    record: Record,
}

impl Letter {
    fn told(&self, name: &str) -> Option<String> {
        let is_it = |h: &&Header| h.key.strip_prefix(ERRORS.as_bytes()) == Some(name.as_bytes());
        let value = self.record.headers.iter().find(is_it)?.value.as_ref()?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    /// Topic and partition that it came from.
    fn origin(&self) -> Option<(String, i32)> {
        Some((self.told("topic")?, self.told("partition")?.parse().ok()?))
    }

    fn is_of(&self, connector: Option<&str>) -> bool {
        match (connector, self.told("connector.name")) {
            (Some(wanted), Some(name)) => wanted == name,
            _ => true,
        }
    }

    fn json(&self, topic: &str) -> Value {
        let text =
            |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(Value::Null, |b| String::from_utf8_lossy(b).into());
        let headers = own_headers(&self.record);
        let headers =
            headers.iter().map(|h| json!({ "key": String::from_utf8_lossy(&h.key), "value": text(&h.value) }));
        json!({
            "dlq": { "topic": topic, "partition": self.partition, "offset": self.record.offset },
            "topic": self.told("topic"), "partition": self.told("partition").and_then(|p| p.parse::<i32>().ok()),
            "offset": self.told("offset").and_then(|o| o.parse::<i64>().ok()), "connector": self.told("connector.name"),
            "task": self.told("task.id"), "stage": self.told("stage"), "reason": self.told("exception.message"),
            "timestamp": self.record.timestamp, "key": text(&self.record.key), "value": text(&self.record.value),
            "headers": headers.collect::<Vec<_>>(),
        })
    }
}

/// Headers that the record had when it was read.
fn own_headers(record: &Record) -> Vec<Header> {
    record.headers.iter().filter(|h| !h.key.starts_with(ERRORS.as_bytes())).cloned().collect()
}

async fn partitions(cluster: &Cluster, topic: &str) -> Outcome<Vec<i32>> {
    let metadata = cluster.metadata(Some(&[topic]), false).await?;
    let found = metadata.topics.first().ok_or("the broker did not answer about the topic")?;
    check(topic, found.error_code, None)?;
    let mut partitions: Vec<i32> = found.partitions.iter().map(|p| p.partition_index).collect();
    partitions.sort_unstable();
    Ok(partitions)
}

/// Letters of one partition, from a position to the end that it has when this begins.
struct Letters<'a> {
    reader: PartitionReader<'a>,
    partition: i32,
    end: i64,
}

impl<'a> Letters<'a> {
    async fn open(cluster: &'a Cluster, topic: &str, partition: i32, from: Option<i64>) -> Outcome<Letters<'a>> {
        let mut reader = PartitionReader::open(cluster, topic, partition, 0).await?;
        let (start, end) = (reader.offset_for(-2).await?, reader.offset_for(-1).await?);
        reader.position = from.unwrap_or(start).max(start);
        Ok(Letters { reader, partition, end })
    }

    /// The next ones; None = that was all.
    async fn next(&mut self) -> Outcome<Option<Vec<Letter>>> {
        let from = self.reader.position;
        if from >= self.end {
            return Ok(None);
        }
        let fetched = self.reader.fetch(WAIT).await?;
        let mut letters = Vec::new();
        for (header, batch) in fetched.batches.iter().filter(|(header, _)| !header.is_control()) {
            debug_assert!(header.next_offset() > from);
            for record in records(batch, BATCH_BYTES_MAX)? {
                let record = record?;
                if (from..self.end).contains(&record.offset) {
                    letters.push(Letter { partition: self.partition, record });
                }
            }
        }
        Ok(Some(letters))
    }
}

pub async fn run(args: &Args, topic: &str, timeout: Duration, as_json: bool) -> CommandResult {
    let cluster = Cluster::new(&args.bootstrap_server, "strandline-cli", timeout);
    match &args.command {
        Command::List { name } => list(&cluster, topic, name.as_deref(), as_json).await,
        Command::Show { name, limit } => show(&cluster, topic, name.as_deref(), *limit, as_json).await,
        Command::Replay { name, to, from_beginning, dry_run } => {
            let wanted =
                Replay { topic, connector: name.as_deref(), to: to.as_deref(), again: *from_beginning, dry: *dry_run };
            let outcome = wanted.run(&cluster).await?;
            if as_json {
                println!("{}", json!({ "replayed": outcome.sent, "of_others": outcome.of_others, "dry_run": dry_run }));
            } else {
                let what = if *dry_run { "would be replayed" } else { "replayed" };
                println!("{} record(s) of {topic} {what}", outcome.sent);
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What letters have in common, and how many they are.
#[derive(Default)]
struct Kind {
    count: u64,
    first_ms: i64,
    last_ms: i64,
}

async fn list(cluster: &Cluster, topic: &str, connector: Option<&str>, as_json: bool) -> CommandResult {
    let mut kinds: BTreeMap<[String; 4], Kind> = BTreeMap::new();
    for partition in partitions(cluster, topic).await? {
        let mut letters = Letters::open(cluster, topic, partition, None).await?;
        while let Some(batch) = letters.next().await? {
            for letter in batch.iter().filter(|letter| letter.is_of(connector)) {
                let told = |name: &str| letter.told(name).unwrap_or_else(|| "?".to_owned());
                let first_line = told("exception.message").lines().next().unwrap_or_default().to_owned();
                let mut key = [told("connector.name"), told("topic"), told("stage"), first_line];
                if kinds.len() >= KINDS_MAX && !kinds.contains_key(&key) {
                    key[3] = "other reasons".to_owned();
                }
                let ms = letter.record.timestamp;
                let kind = kinds.entry(key).or_insert(Kind { count: 0, first_ms: ms, last_ms: ms });
                kind.count += 1;
                (kind.first_ms, kind.last_ms) = (kind.first_ms.min(ms), kind.last_ms.max(ms));
            }
        }
    }
    if as_json {
        let one = |([connector, topic, stage, reason], kind): (&[String; 4], &Kind)| {
            json!({
                "connector": connector, "topic": topic, "stage": stage, "reason": reason, "count": kind.count,
                "first_timestamp": kind.first_ms, "last_timestamp": kind.last_ms,
            })
        };
        println!("{}", kinds.iter().map(one).collect::<Value>());
        return Ok(ExitCode::SUCCESS);
    }
    if kinds.is_empty() {
        println!("nothing is in {topic}");
        return Ok(ExitCode::SUCCESS);
    }
    let mut shown = table(&["RECORDS", "CONNECTOR", "TOPIC", "STAGE", "REASON"]);
    for ([connector, topic, stage, reason], kind) in kinds {
        shown.add_row([kind.count.to_string(), connector, topic, stage, reason]);
    }
    println!("{shown}");
    Ok(ExitCode::SUCCESS)
}

async fn show(cluster: &Cluster, topic: &str, connector: Option<&str>, limit: u64, as_json: bool) -> CommandResult {
    let mut left = limit;
    for partition in partitions(cluster, topic).await? {
        let mut letters = Letters::open(cluster, topic, partition, None).await?;
        while let Some(batch) = letters.next().await? {
            for letter in batch.iter().filter(|letter| letter.is_of(connector)) {
                if left == 0 {
                    return Ok(ExitCode::SUCCESS);
                }
                left -= 1;
                let told = letter.json(topic);
                if as_json {
                    println!("{told}");
                    continue;
                }
                let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                println!("{topic} {partition}:{}", letter.record.offset);
                println!("  from    {} {}:{}", text(&told["topic"]), told["partition"], told["offset"]);
                println!(
                    "  failed  {} in task {} of {}",
                    text(&told["stage"]),
                    text(&told["task"]),
                    text(&told["connector"])
                );
                println!("  reason  {}", text(&told["reason"]).replace('\n', "\n          "));
                println!("  key     {}", text(&told["key"]));
                println!("  value   {}", text(&told["value"]));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What is to be replayed.
struct Replay<'a> {
    topic: &'a str,
    connector: Option<&'a str>,
    to: Option<&'a str>,
    again: bool,
    dry: bool,
}

#[derive(Default)]
struct Replayed {
    sent: u64,
    of_others: u64,
}

impl Replay<'_> {
    /// Where it is kept how far this was replayed.
    fn group(&self) -> String {
        match self.connector {
            Some(connector) => format!("strandline-dlq-replay-{}-{connector}", self.topic),
            None => format!("strandline-dlq-replay-{}", self.topic),
        }
    }

    async fn run(&self, cluster: &Cluster) -> Outcome<Replayed> {
        let group = self.group();
        let coordinator = offsets::coordinator_connection(cluster, &group).await?;
        let before =
            if self.again { GroupOffsets::new() } else { offsets::fetch(cluster, &coordinator, &group).await? };
        let mut producers: HashMap<String, Producer<&Cluster>> = HashMap::new();
        let mut replayed = Replayed::default();
        for partition in partitions(cluster, self.topic).await? {
            let place = (self.topic.to_owned(), partition);
            let mut letters = Letters::open(cluster, self.topic, partition, before.get(&place).copied()).await?;
            let mut waiting = 0;
            let mut next = None;
            while let Some(batch) = letters.next().await? {
                for letter in batch {
                    if !letter.is_of(self.connector) {
                        replayed.of_others += 1;
                    } else if let Err(error) = self.send(cluster, &mut producers, &letter).await {
                        self.settle(cluster, &coordinator, &mut producers, &place, next).await?;
                        return Err(error);
                    } else {
                        replayed.sent += 1;
                        waiting += 1;
                    }
                    next = Some(letter.record.offset + 1);
                    if waiting >= REPLAY_RECORDS {
                        waiting = 0;
                        self.settle(cluster, &coordinator, &mut producers, &place, next).await?;
                    }
                }
            }
            self.settle(cluster, &coordinator, &mut producers, &place, next).await?;
        }
        Ok(replayed)
    }

    async fn send<'c>(
        &self,
        cluster: &'c Cluster,
        producers: &mut HashMap<String, Producer<&'c Cluster>>,
        letter: &Letter,
    ) -> Outcome<()> {
        let record = &letter.record;
        let origin = letter.origin().map(|(topic, partition)| (self.to.unwrap_or(&topic).to_owned(), partition));
        let Some((topic, partition)) = origin.or_else(|| self.to.map(|to| (to.to_owned(), 0))) else {
            return Err(format!(
                "{} {}:{} does not say where it came from (errors.deadletterqueue.context.headers.enable was false): say --to TOPIC",
                self.topic, letter.partition, record.offset
            )
            .into());
        };
        if self.dry {
            return Ok(());
        }
        if !producers.contains_key(&topic) {
            if producers.len() >= TOPICS_MAX {
                return Err(format!("the records came from more than {TOPICS_MAX} topics").into());
            }
            let opened = Producer::open(cluster, &topic, ProducerOptions::default()).await?;
            producers.insert(topic.clone(), opened);
        }
        let producer = producers.get_mut(&topic).expect("put in above");
        // Another topic may have fewer partitions.
        let partition = if self.to.is_some() { partition % producer.partition_count().max(1) } else { partition };
        let headers = own_headers(record);
        producer.send(partition, record.timestamp, record.key.as_deref(), record.value.as_deref(), &headers).await?;
        Ok(())
    }

    /// Waits for the acknowledgements, then remembers.
    async fn settle(
        &self,
        cluster: &Cluster,
        coordinator: &strandline_client::Connection,
        producers: &mut HashMap<String, Producer<&Cluster>>,
        place: &(String, i32),
        next: Option<i64>,
    ) -> Outcome<()> {
        let Some(next) = next.filter(|_| !self.dry) else { return Ok(()) };
        for producer in producers.values_mut() {
            producer.flush().await?;
        }
        let reached = GroupOffsets::from([(place.clone(), next)]);
        offsets::commit(cluster, coordinator, &Committer::nobody(&self.group()), &reached).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(headers: &[(&str, &str)]) -> Letter {
        let header = |(key, value): &(&str, &str)| Header {
            key: bytes::Bytes::from((*key).to_owned()),
            value: Some(bytes::Bytes::from((*value).to_owned())),
        };
        let record = Record {
            offset: 7,
            timestamp: 5,
            key: None,
            value: Some("v".into()),
            headers: headers.iter().map(header).collect(),
        };
        Letter { partition: 0, record }
    }

    #[test]
    fn a_letter_says_where_it_came_from_and_keeps_its_own_headers() {
        let one = letter(&[
            ("own", "x"),
            ("__connect.errors.topic", "orders"),
            ("__connect.errors.partition", "3"),
            ("__connect.errors.connector.name", "archive"),
        ]);
        assert_eq!(one.origin(), Some(("orders".to_owned(), 3)));
        assert_eq!(own_headers(&one.record).len(), 1);
        assert!(one.is_of(Some("archive")) && one.is_of(None) && !one.is_of(Some("other")));
        assert_eq!(one.json("bad")["dlq"]["offset"], 7);
        assert_eq!(letter(&[]).origin(), None);
    }

    #[test]
    fn a_connector_without_a_queue_is_told_what_to_set() {
        assert_eq!(topic_of("a", &json!({ "errors.deadletterqueue.topic.name": "bad" })).unwrap(), "bad");
        assert!(topic_of("a", &json!({})).unwrap_err().to_string().contains("errors.deadletterqueue.topic.name"));
    }
}
