//! What a history is made of: the operations of clients, and their JSON lines.
//!
//! One operation is two lines: `invoke`, and later `ok` (it happened), `fail` (it surely did not happen) or `info` (it may have
//! happened, or may yet). The second line repeats the first with what became known. A process does one operation after the
//! other; after an `info` its client goes on under a new process number, because the old operation may still take effect.
//! A completion without an invocation is taken as invoked when the history began: foreign clients tell only what they achieved.

use std::fmt;
use std::io::Write;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What a record holds; sent at most once for each [`Key`].
pub type Value = u64;

/// A partition of a topic; `topic-partition` as text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Key {
    pub topic: Arc<str>,
    pub partition: i32,
}

impl Key {
    pub fn new(topic: &str, partition: i32) -> Self {
        Key { topic: topic.into(), partition }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.to_string()
    }
}

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (topic, partition) = text.rsplit_once('-').ok_or_else(|| format!("{text} is not topic-partition"))?;
        Ok(Key::new(topic, partition.parse().map_err(|e| format!("{text}: {e}"))?))
    }
}

impl TryFrom<String> for Key {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// How far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    Invoke,
    /// It happened.
    Ok,
    /// It surely did not happen.
    Fail,
    /// It may have happened, or may yet.
    Info,
}

/// A record that was sent; `offset` is what the acknowledgement told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    pub value: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<i64>,
    /// ms since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<i64>,
}

/// A record that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub offset: i64,
    pub value: Value,
    /// Of the batch: the leader that wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_epoch: Option<i32>,
    /// ms since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<i64>,
}

impl Seen {
    pub fn new(offset: i64, value: Value) -> Self {
        Seen { offset, value, leader_epoch: None, timestamp: None }
    }
}

/// What one fetch answered for one partition. The ends are absent where the client does not tell them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    pub key: Key,
    pub records: Vec<Seen>,
    /// First offset of the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_start: Option<i64>,
    /// Exclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high_watermark: Option<i64>,
    /// Exclusive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_stable_offset: Option<i64>,
    /// Asked for with `isolation.level=read_committed`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub committed: bool,
}

impl Slice {
    pub fn new(key: Key, records: Vec<Seen>) -> Self {
        Slice { key, records, log_start: None, high_watermark: None, last_stable_offset: None, committed: false }
    }
}

/// A part of a send, poll or transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Micro {
    /// Records of one partition, in the order of the batch.
    Send(Key, Vec<Sent>),
    /// What came back; empty in the invocation.
    Poll(Vec<Slice>),
}

/// Which offset was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Query {
    /// The first offset of the log.
    Earliest,
    /// The first offset of the local log: what is before it is read from the tier.
    EarliestLocal,
    /// The high watermark.
    Latest,
    /// The first record at or after this time, ms since the epoch.
    Timestamp(i64),
}

/// A group's position in one partition: the next offset to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub key: Key,
    /// -1 = none is committed.
    pub offset: i64,
}

/// What a client does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "f", content = "value", rename_all = "kebab-case")]
pub enum Action {
    Send(Vec<Micro>),
    Poll(Vec<Micro>),
    /// All or nothing.
    Txn(Vec<Micro>),
    /// Reads these partitions from now on. `seek_to_beginning` = from their first offset; otherwise positions that are kept go on.
    Assign {
        keys: Vec<Key>,
        seek_to_beginning: bool,
    },
    /// Reads what a group's protocol gives it from now on.
    Subscribe {
        group: String,
        topics: Vec<String>,
    },
    /// Which partitions a generation gave to this member.
    Rebalance {
        group: String,
        generation: i32,
        keys: Vec<Key>,
    },
    /// Stores the group's positions.
    Commit {
        group: String,
        generation: i32,
        positions: Vec<Position>,
    },
    /// Asks for the group's positions.
    Committed {
        group: String,
        positions: Vec<Position>,
    },
    /// Asks for an offset; -1 = there is no such record.
    ListOffsets {
        key: Key,
        query: Query,
        offset: i64,
    },
    /// The client is gone, with its positions.
    Crash,
}

impl Action {
    /// The parts of a send, poll or transaction.
    pub fn micros(&self) -> &[Micro] {
        match self {
            Action::Send(micros) | Action::Poll(micros) | Action::Txn(micros) => micros,
            _ => &[],
        }
    }
}

/// One line of a history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Op {
    /// Its place in the history, from 0.
    pub index: u64,
    /// ms since the history began.
    pub time: u64,
    pub process: u32,
    #[serde(rename = "type")]
    pub stage: Stage,
    #[serde(flatten)]
    pub action: Action,
    /// Partitions that were given or taken while it ran.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rebalance_log: Vec<Key>,
}

/// Writes the ops' lines: a long history is no text that fits into memory beside it.
pub fn write_lines(history: &[Op], to: &mut impl Write) -> std::io::Result<()> {
    for op in history {
        serde_json::to_writer(&mut *to, op)?;
        to.write_all(b"\n")?;
    }
    Ok(())
}

/// The ops' lines as one text.
pub fn to_lines(history: &[Op]) -> String {
    let mut text = Vec::new();
    write_lines(history, &mut text).expect("an op has no map whose keys are not text");
    String::from_utf8(text).expect("JSON is UTF-8")
}

/// The history that [`to_lines`] wrote; Err = which line is wrong, and why.
pub fn from_lines(text: &str) -> Result<Vec<Op>, String> {
    let whole = text.lines().enumerate().filter(|(_, line)| !line.is_empty());
    whole.map(|(n, line)| serde_json::from_str(line).map_err(|e| format!("line {}: {e}", n + 1))).collect()
}
