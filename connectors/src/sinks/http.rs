//! `http`: records posted to a URL, one or several in a request.
//!
//! Owns nothing that lasts: what `write` has returned for is delivered, so there is no buffer, and requests follow one another in the order
//! of the log. Delivery is at least once: a request whose answer was lost, or records behind the last committed offset after a crash,
//! are posted again. Each request has an `Idempotency-Key` of connector, topic, partition and its first and last offset: a server that
//! keeps these keys sees a request that is tried again as the same one; without batching, also after a crash.
//! A batch that is refused is halved until the refused records stand alone: those are the ones for the dead letter queue.

mod exchange;
mod keys;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use std::fmt::Write as _;
use std::time::Duration;
use tokio::time::Instant;

use self::exchange::{Exchange, Verdict};
use self::keys::{Config, KEYS, OnNull};
use super::payload::{Payloads, Place, in_order};
use crate::config::{Key, Settings};
use crate::registry::{SinkKind, TaskContext};
use crate::rows::{Rows, column};
use crate::sink::{Assigned, Offsets, Sink, SinkError, TopicPartition};

/// How long a call waits for the time of the next try; what is left is waited for between calls.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// What a record without a value is in a body.
const NULL: &[u8] = b"null";

/// The kind.
pub struct HttpKind;

impl SinkKind for HttpKind {
    fn class(&self) -> &str {
        "http"
    }

    fn aliases(&self) -> &[&str] {
        &["io.aiven.kafka.connect.http.HttpSinkConnector"]
    }

    fn keys(&self) -> &[Key] {
        KEYS
    }

    fn faults(&self, settings: &Settings) -> Vec<(String, String)> {
        let faults = Config::parse(settings).err().unwrap_or_default();
        faults.into_iter().filter(|(key, _)| !key.is_empty()).collect()
    }

    fn create(&self, settings: &Settings, context: &TaskContext) -> Result<Box<dyn Sink>, SinkError> {
        let config = Config::parse(settings).map_err(|faults| {
            SinkError::Fatal(faults.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join("; "))
        })?;
        let exchange = Exchange::new(&config).map_err(SinkError::Fatal)?;
        let connector = plain(&context.connector);
        Ok(Box::new(HttpSink {
            exchange,
            config,
            connector,
            ends: Offsets::new(),
            under_way: None,
            pause: Pause::default(),
        }))
    }
}

/// A name as a header may hold it.
fn plain(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => text.push(char::from(byte)),
            _ => write!(text, "%{byte:02X}").expect("memory takes it"),
        }
    }
    text
}

/// Rows of which a part is delivered: the next try goes on behind it.
struct UnderWay {
    partition: TopicPartition,
    first_offset: i64,
    /// Rows in front of this offset are delivered, refused or passed over.
    done: i64,
    refused: Vec<i64>,
    reason: String,
}

impl UnderWay {
    fn refuse(&mut self, offset: i64, reason: String) {
        self.refused.push(offset);
        self.done = offset + 1;
        if self.reason.is_empty() {
            self.reason = reason;
        }
    }
}

/// Failures in a row, and when the next try is due.
#[derive(Default)]
struct Pause {
    failures: u32,
    until: Option<Instant>,
}

struct HttpSink {
    exchange: Exchange,
    config: Config,
    connector: String,
    /// Delivered, and not named by a flush yet.
    ends: Offsets,
    under_way: Option<UnderWay>,
    pause: Pause,
}

impl HttpSink {
    /// Waits for the next try; Err = it is not due yet.
    async fn due(&self) -> Result<(), SinkError> {
        let Some(until) = self.pause.until else { return Ok(()) };
        let left = until.saturating_duration_since(Instant::now());
        tokio::time::sleep(left.min(WAIT_MAX)).await;
        if left <= WAIT_MAX {
            return Ok(());
        }
        let (place, left) = (self.exchange.place(), (left - WAIT_MAX).as_millis());
        Err(SinkError::Retriable(format!("{place} is tried again in {left} ms (retry.backoff.ms, or its Retry-After)")))
    }

    fn failed(&mut self, reason: String, after: Option<Duration>) -> SinkError {
        self.pause.failures = self.pause.failures.saturating_add(1);
        if self.config.retries_max.is_some_and(|max| self.pause.failures > max) {
            let tries = self.pause.failures;
            return SinkError::Fatal(format!(
                "see that the server takes requests, then restart the task: {reason}; {tries} tries failed (max.retries)"
            ));
        }
        self.pause.until = Some(Instant::now() + self.config.backoff.max(after.unwrap_or_default()));
        SinkError::Retriable(reason)
    }

    /// Rows that are to be posted, with their bodies; those of no value are dealt with.
    fn bodies<'a>(&self, rows: &'a Rows, under_way: &mut UnderWay) -> Vec<(i64, std::borrow::Cow<'a, [u8]>)> {
        let columns: Vec<Payloads<'a>> = rows.groups.iter().map(|batch| Payloads::new(batch, column::VALUE)).collect();
        let mut bodies = Vec::new();
        for Place { offset, group, row } in in_order(rows) {
            if offset < under_way.done {
                continue;
            }
            match (columns[group].line(row), self.config.on_null) {
                (Some(value), _) => bodies.push((offset, value)),
                (None, OnNull::Write) => bodies.push((offset, NULL.into())),
                (None, OnNull::Ignore) => {}
                (None, OnNull::Fail) if under_way.refused.contains(&offset) => {}
                (None, OnNull::Fail) => {
                    under_way.refused.push(offset);
                    if under_way.reason.is_empty() {
                        "the record has no value (behavior.on.null.values=fail)".clone_into(&mut under_way.reason);
                    }
                }
            }
        }
        bodies
    }

    /// How many of the first records go into one request.
    fn portion(&self, bodies: &[(i64, std::borrow::Cow<'_, [u8]>)]) -> usize {
        let mut bytes = 0;
        let fits = bodies.iter().take(self.config.batching.records_max).take_while(|(_, body)| {
            bytes += body.len() + self.config.batching.separator.len();
            bytes <= self.config.batching.bytes_max
        });
        fits.count().max(1)
    }

    fn joined(&self, bodies: &[(i64, std::borrow::Cow<'_, [u8]>)]) -> Vec<u8> {
        let batching = &self.config.batching;
        let mut joined = batching.prefix.clone().into_bytes();
        for (at, (_, body)) in bodies.iter().enumerate() {
            if at > 0 {
                joined.extend_from_slice(batching.separator.as_bytes());
            }
            joined.extend_from_slice(body);
        }
        joined.extend_from_slice(batching.suffix.as_bytes());
        joined
    }

    /// Posts what is left of the rows; `under_way` tells how far that came, whatever is returned.
    async fn deliver(&mut self, rows: &Rows, under_way: &mut UnderWay) -> Result<(), SinkError> {
        let bodies = self.bodies(rows, under_way);
        // Ends of requests to come, the next one last: a batch that is refused leaves its own end below that of its first half.
        let (mut from, mut ends) = (0, Vec::new());
        while from < bodies.len() {
            let to = match ends.last() {
                Some(end) => *end,
                None => from + self.portion(&bodies[from..]),
            };
            let portion = &bodies[from..to];
            let (first, last) = (portion[0].0, portion[portion.len() - 1].0);
            let TopicPartition { topic, partition } = &rows.partition;
            let key = format!("\"{}/{topic}/{partition}/{first}-{last}\"", self.connector);
            let verdict = self.exchange.post(&key, self.joined(portion)).await;
            if !matches!(verdict, Verdict::Later(..)) {
                self.pause = Pause::default();
            }
            match verdict {
                Verdict::Delivered => {
                    under_way.done = last + 1;
                    ends.pop();
                    from = to;
                }
                // The first half first: order is kept.
                Verdict::Refused(_) if portion.len() > 1 => {
                    if ends.is_empty() {
                        ends.push(to);
                    }
                    ends.push(from + portion.len() / 2);
                }
                Verdict::Refused(reason) => {
                    under_way.refuse(first, reason);
                    ends.pop();
                    from = to;
                }
                Verdict::Later(reason, after) => return Err(self.failed(reason, after)),
                Verdict::Wrong(reason) => return Err(SinkError::Fatal(reason)),
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Sink for HttpSink {
    async fn open(&mut self, _partitions: &[Assigned]) -> Result<Offsets, SinkError> {
        Ok(Offsets::new())
    }

    async fn write(&mut self, rows: Rows) -> Result<(), SinkError> {
        self.due().await?;
        let is_these = |u: &UnderWay| u.partition == rows.partition && u.first_offset == rows.first_offset;
        let mut under_way = self.under_way.take().filter(is_these).unwrap_or_else(|| UnderWay {
            partition: rows.partition.clone(),
            first_offset: rows.first_offset,
            done: rows.first_offset,
            refused: Vec::new(),
            reason: String::new(),
        });
        if let Err(error) = self.deliver(&rows, &mut under_way).await {
            self.under_way = Some(under_way);
            return Err(error);
        }
        self.ends.insert(rows.partition, rows.next_offset);
        if under_way.refused.is_empty() {
            return Ok(());
        }
        let UnderWay { refused: mut offsets, reason, .. } = under_way;
        offsets.sort_unstable();
        Err(SinkError::Rejected { offsets, reason })
    }

    async fn flush(&mut self, _now_ms: i64, _force: bool) -> Result<Offsets, SinkError> {
        Ok(std::mem::take(&mut self.ends))
    }

    async fn close(&mut self, partitions: &[TopicPartition]) {
        self.ends.retain(|partition, _| !partitions.contains(partition));
        self.under_way = self.under_way.take().filter(|u| !partitions.contains(&u.partition));
    }
}
