//! Reads many partitions: one fetch per broker is under way, whatever their number.
//!
//! Owns the positions and at most one unread answer per broker ([`FetchOptions::max_bytes`] bytes each). After a passing error it asks
//! again, for as long as the cluster's deadline; a position that is gone is told, never jumped over. An answer to a question that was
//! asked at another position is thrown away.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use strandline_protocol::compression::DecompressLimit;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use strandline_protocol::messages::fetch_response::{AbortedTransaction, FetchResponse, PartitionData};
use strandline_protocol::record_batch::{BatchError, BatchHeader, ControlRecord, batches, records_in};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::connection::{CallError, Connection, check};
use crate::reader::ReadError;

/// Fetch by topic name; later versions name topics by id.
const FETCH_VERSION_MAX: i16 = 12;
/// Between questions about who leads.
const REFRESH_PAUSE: Duration = Duration::from_millis(200);
/// Of a control batch, which holds one small record.
const CONTROL_BYTES_MAX: usize = 1 << 16;

/// A partition's name.
pub type Name = (String, i32);

/// How to fetch.
#[derive(Debug, Clone)]
pub struct FetchOptions {
    /// A broker without news answers after this.
    pub max_wait: Duration,
    /// Of one answer; one batch more where the first is larger.
    pub max_bytes: i32,
    /// Of one partition in an answer.
    pub partition_max_bytes: i32,
    /// Leaves out what transactions wrote that were aborted, and waits for those that are open (`isolation.level=read_committed`).
    pub read_committed: bool,
}

impl Default for FetchOptions {
    fn default() -> Self {
        FetchOptions {
            max_wait: Duration::from_millis(500),
            max_bytes: 8 << 20,
            partition_max_bytes: 1 << 20,
            read_committed: false,
        }
    }
}

/// News of one partition.
#[derive(Debug, Clone)]
pub struct FetchedPartition {
    pub topic: String,
    pub partition: i32,
    /// The position that was asked for.
    pub from: i64,
    /// Whole batches; the first may begin below `from`.
    pub batches: Vec<(BatchHeader, Bytes)>,
    /// What was read ends here, exclusive; batches of aborted transactions may lie before it.
    pub next: i64,
    pub high_watermark: i64,
    /// Set if `from` is not in the log (any more): where it begins. Nothing is read until [`Fetcher::seek`].
    pub out_of_range: bool,
}

#[derive(Debug, Clone)]
struct Position {
    offset: i64,
    leader: Option<i32>,
    stuck: bool,
}

struct Flying {
    connection: Arc<Connection>,
    version: i16,
    answer: oneshot::Receiver<Bytes>,
    asked: HashMap<Name, i64>,
    deadline: Instant,
}

/// Positions in partitions of a cluster. Not to be dropped in the middle of [`Fetcher::poll`], unless for good.
pub struct Fetcher {
    cluster: Arc<Cluster>,
    options: FetchOptions,
    positions: BTreeMap<Name, Position>,
    flying: HashMap<i32, Flying>,
    refresh: Instant,
    /// Since when nothing but errors came.
    failing: Option<Instant>,
}

impl Fetcher {
    pub fn new(cluster: Arc<Cluster>, options: FetchOptions) -> Fetcher {
        Fetcher {
            cluster,
            options,
            positions: BTreeMap::new(),
            flying: HashMap::new(),
            refresh: Instant::now(),
            failing: None,
        }
    }

    /// Reads these from now on, and no others.
    pub fn assign(&mut self, positions: impl IntoIterator<Item = (Name, i64)>) {
        self.positions =
            positions.into_iter().map(|(n, offset)| (n, Position { offset, leader: None, stuck: false })).collect();
        self.refresh = Instant::now();
    }

    pub fn seek(&mut self, name: &Name, offset: i64) {
        if let Some(position) = self.positions.get_mut(name) {
            position.offset = offset;
            position.stuck = false;
        }
    }

    pub fn position(&self, name: &Name) -> Option<i64> {
        self.positions.get(name).map(|p| p.offset)
    }

    /// News of those that are `wanted`; waits up to `limit` for some. Moves their positions.
    pub async fn poll(
        &mut self,
        limit: Duration,
        wanted: impl Fn(&Name) -> bool,
    ) -> Result<Vec<FetchedPartition>, ReadError> {
        let end = Instant::now() + limit;
        loop {
            self.find_leaders(&wanted).await?;
            self.ask(&wanted).await?;
            let Some((node, frame)) = self.answer(end).await else { return Ok(Vec::new()) };
            let news = match self.take(node, frame) {
                Ok(news) => {
                    self.failing = None;
                    news
                }
                Err(error) => {
                    self.failed(error)?;
                    Vec::new()
                }
            };
            if !news.is_empty() {
                // The broker works on the next answer while this one is used.
                self.ask(&wanted).await?;
                return Ok(news);
            }
            if Instant::now() >= end {
                return Ok(Vec::new());
            }
        }
    }

    /// Err = it has been failing for the cluster's deadline, or for good.
    fn failed(&mut self, error: ReadError) -> Result<(), ReadError> {
        let since = *self.failing.get_or_insert_with(Instant::now);
        if !error.retryable() || since.elapsed() > self.cluster.deadline() {
            self.failing = None;
            return Err(error);
        }
        tracing::debug!(%error, "a fetch is tried again");
        Ok(())
    }

    async fn find_leaders(&mut self, wanted: &impl Fn(&Name) -> bool) -> Result<(), ReadError> {
        let lacking = |(name, p): (&Name, &Position)| (p.leader.is_none() && wanted(name)).then(|| name.0.clone());
        let mut topics: Vec<String> = self.positions.iter().filter_map(lacking).collect();
        topics.dedup();
        if topics.is_empty() {
            return Ok(());
        }
        if Instant::now() < self.refresh {
            if self.flying.is_empty() {
                tokio::time::sleep_until(self.refresh).await;
            } else {
                return Ok(());
            }
        }
        self.refresh = Instant::now() + REFRESH_PAUSE;
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        let metadata = match self.cluster.metadata(Some(&names), false).await {
            Ok(metadata) => metadata,
            Err(error) => return self.failed(error.into()),
        };
        for topic in &metadata.topics {
            let Some(name) = &topic.name else { continue };
            if let Err(code) = check(topic.error_code) {
                let topic = name.clone();
                self.failed(ReadError::Refused { topic, partition: -1, offset: -1, code })?;
            }
            for p in topic.partitions.iter().filter(|p| p.leader_id >= 0) {
                if let Some(position) = self.positions.get_mut(&(name.clone(), p.partition_index)) {
                    position.leader = Some(p.leader_id);
                }
            }
        }
        Ok(())
    }

    /// Sends a fetch to every broker that leads something wanted and has none.
    async fn ask(&mut self, wanted: &impl Fn(&Name) -> bool) -> Result<(), ReadError> {
        let mut by_node: HashMap<i32, Vec<(Name, i64)>> = HashMap::new();
        for (name, position) in &self.positions {
            if let Some(node) = position.leader.filter(|node| !self.flying.contains_key(node))
                && !position.stuck
                && wanted(name)
            {
                by_node.entry(node).or_default().push((name.clone(), position.offset));
            }
        }
        for (node, asked) in by_node {
            match self.send(node, &asked).await {
                Ok(flying) => drop(self.flying.insert(node, flying)),
                Err(error) => {
                    self.forget_leader(node);
                    self.failed(error.into())?;
                }
            }
        }
        Ok(())
    }

    async fn send(&self, node: i32, asked: &[(Name, i64)]) -> Result<Flying, CallError> {
        let mut topics: Vec<FetchTopic> = Vec::new();
        for ((topic, partition), fetch_offset) in asked {
            if topics.last().is_none_or(|t| t.topic != *topic) {
                topics.push(FetchTopic { topic: topic.clone(), ..Default::default() });
            }
            let partition = FetchPartition {
                partition: *partition,
                current_leader_epoch: -1,
                fetch_offset: *fetch_offset,
                last_fetched_epoch: -1,
                log_start_offset: -1,
                partition_max_bytes: self.options.partition_max_bytes,
                ..Default::default()
            };
            topics.last_mut().expect("pushed above").partitions.push(partition);
        }
        // Brokers answer with what stands first: those that were read last come last.
        let turn = usize::try_from(asked.iter().map(|(_, offset)| *offset).sum::<i64>()).unwrap_or(0);
        let turn = turn % topics.len().max(1);
        topics.rotate_left(turn);
        let request = FetchRequest {
            replica_id: -1,
            max_wait_ms: i32::try_from(self.options.max_wait.as_millis()).unwrap_or(i32::MAX),
            min_bytes: 1,
            max_bytes: self.options.max_bytes,
            session_epoch: -1,
            isolation_level: i8::from(self.options.read_committed),
            topics,
            ..Default::default()
        };
        let connection = self.cluster.node(node).await?;
        let version = connection.version::<FetchRequest>(FETCH_VERSION_MAX)?;
        let answer = connection.send(version, &request).await?;
        let deadline = Instant::now() + self.options.max_wait + self.cluster.deadline();
        Ok(Flying { connection, version, answer, asked: asked.iter().cloned().collect(), deadline })
    }

    /// The first answer; None = nothing until `end`.
    async fn answer(&mut self, end: Instant) -> Option<(i32, Option<Bytes>)> {
        let soonest = self.flying.values().map(|f| f.deadline).min();
        let until = soonest.map_or(end, |s| s.min(end));
        let flying = &mut self.flying;
        let first = poll_fn(|context| {
            for (node, one) in flying.iter_mut() {
                if let Poll::Ready(frame) = Pin::new(&mut one.answer).poll(context) {
                    return Poll::Ready((*node, frame.ok()));
                }
            }
            Poll::Pending
        });
        if let Ok(found) = tokio::time::timeout_at(until, first).await {
            return Some(found);
        }
        let now = Instant::now();
        self.flying.iter().find(|(_, f)| f.deadline <= now).map(|(node, _)| (*node, None))
    }

    fn forget_leader(&mut self, node: i32) {
        self.positions.values_mut().filter(|p| p.leader == Some(node)).for_each(|p| p.leader = None);
    }

    fn take(&mut self, node: i32, frame: Option<Bytes>) -> Result<Vec<FetchedPartition>, ReadError> {
        let Some(flying) = self.flying.remove(&node) else { return Ok(Vec::new()) };
        let decoded = match frame {
            Some(frame) => flying.connection.decode::<FetchRequest>(flying.version, frame),
            None => Err(flying.connection.lost()),
        };
        let response: FetchResponse = decoded.inspect_err(|_| self.forget_leader(node))?;
        if let Err(code) = check(response.error_code) {
            self.forget_leader(node);
            return Err(ReadError::Refused { topic: String::new(), partition: -1, offset: -1, code });
        }
        let mut news = Vec::new();
        let mut failure = None;
        for topic in response.responses {
            for data in topic.partitions {
                let name = (topic.topic.clone(), data.partition_index);
                let Some(from) = flying.asked.get(&name).copied() else { continue };
                match self.take_partition(&name, from, data) {
                    Ok(one) => news.extend(one),
                    Err(error) => failure = Some(error),
                }
            }
        }
        match failure {
            Some(error) if news.is_empty() || !error.retryable() => Err(error),
            _ => Ok(news),
        }
    }

    fn take_partition(
        &mut self,
        name: &Name,
        from: i64,
        data: PartitionData,
    ) -> Result<Option<FetchedPartition>, ReadError> {
        let Some(position) = self.positions.get_mut(name).filter(|p| p.offset == from) else { return Ok(None) };
        let mut news = FetchedPartition {
            topic: name.0.clone(),
            partition: name.1,
            from,
            batches: Vec::new(),
            next: from,
            high_watermark: data.high_watermark,
            out_of_range: false,
        };
        match check(data.error_code) {
            Ok(()) => {}
            Err(ErrorCode::OffsetOutOfRange) => {
                position.stuck = true;
                news.out_of_range = true;
                return Ok(Some(news));
            }
            Err(code) => {
                position.leader = None;
                let (topic, partition) = name.clone();
                return Err(ReadError::Refused { topic, partition, offset: from, code });
            }
        }
        let bytes = data.records.and_then(|r| r.to_bytes()).unwrap_or_default();
        let whole = whole_batches(&bytes, name, from)?;
        news.next = whole.last().map_or(from, |(header, _)| header.next_offset());
        position.offset = news.next;
        news.batches = match data.aborted_transactions.filter(|_| self.options.read_committed) {
            Some(aborted) => without_aborted(whole, aborted).map_err(|e| malformed(e, name, from))?,
            None => whole,
        };
        Ok((news.next > from).then_some(news))
    }
}

fn malformed(error: BatchError, name: &Name, from: i64) -> ReadError {
    ReadError::Malformed { topic: name.0.clone(), partition: name.1, offset: from, reason: error.to_string() }
}

/// Whether a control batch says that its producer's transaction is aborted.
fn is_abort(batch: &Bytes) -> Result<bool, BatchError> {
    let Some(record) = records_in(batch, DecompressLimit(CONTROL_BYTES_MAX))?.next() else { return Ok(false) };
    Ok(matches!(ControlRecord::parse(&record?)?, ControlRecord::Abort { .. }))
}

/// Leaves out the batches of aborted transactions, as Kafka's consumer does (CompletedFetch): one is under way from the first offset that the
/// answer names to its producer's abort marker.
fn without_aborted(
    batches: Vec<(BatchHeader, Bytes)>,
    mut aborted: Vec<AbortedTransaction>,
) -> Result<Vec<(BatchHeader, Bytes)>, BatchError> {
    aborted.sort_by_key(|transaction| transaction.first_offset);
    let mut ahead = aborted.into_iter().peekable();
    let mut under_way = HashSet::new();
    let mut kept = Vec::with_capacity(batches.len());
    for (header, bytes) in batches {
        while let Some(begun) = ahead.next_if(|transaction| transaction.first_offset <= header.last_offset()) {
            under_way.insert(begun.producer_id);
        }
        if header.is_control() {
            if under_way.contains(&header.producer_id) && is_abort(&bytes)? {
                under_way.remove(&header.producer_id);
            }
        } else if header.is_transactional() && under_way.contains(&header.producer_id) {
            continue;
        }
        kept.push((header, bytes));
    }
    Ok(kept)
}

/// The last batch may be cut off: it comes again. A damaged one is an error.
fn whole_batches(bytes: &Bytes, name: &Name, from: i64) -> Result<Vec<(BatchHeader, Bytes)>, ReadError> {
    let malformed = |error| malformed(error, name, from);
    let mut whole = Vec::new();
    for next in batches(bytes) {
        match next {
            Ok((header, batch)) if header.last_offset() >= from => {
                header.verify_crc(batch).map_err(malformed)?;
                whole.push((header, bytes.slice_ref(batch)));
            }
            Ok(_) => {}
            Err(BatchError::Truncated { .. }) => break,
            Err(error) => return Err(malformed(error)),
        }
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use strandline_protocol::compression::Compression;
    use strandline_protocol::record_batch::RecordBatchBuilder;

    use super::*;

    /// Producer 0 writes outside of transactions.
    fn batch(offset: i64, producer_id: i64, marker: Option<ControlRecord>) -> (BatchHeader, Bytes) {
        let mut builder = RecordBatchBuilder::new(Compression::None);
        builder.base_offset = offset;
        (builder.producer_id, builder.producer_epoch) = (producer_id, 0);
        (builder.transactional, builder.control) = (producer_id > 0, marker.is_some());
        let (key, value) = marker.map_or((b"k".to_vec(), b"v".to_vec()), ControlRecord::encode);
        builder.append(0, Some(&key), Some(&value), &[]);
        let bytes = builder.build();
        let header = BatchHeader::parse(&bytes).expect("as built");
        (header, bytes)
    }

    #[test]
    fn what_was_aborted_is_left_out_from_its_begin_to_its_marker() {
        let abort = Some(ControlRecord::Abort { coordinator_epoch: 0 });
        let commit = Some(ControlRecord::Commit { coordinator_epoch: 0 });
        let log = vec![
            batch(10, 1, None),
            batch(11, 2, None),
            batch(12, 0, None),
            batch(13, 1, commit),
            batch(14, 1, None),
            batch(15, 2, abort),
            batch(16, 2, None),
            batch(17, 1, abort),
            batch(18, 1, None),
        ];
        let aborted =
            [(14, 1), (11, 2)].map(|(first_offset, producer_id)| AbortedTransaction { producer_id, first_offset });
        let kept = without_aborted(log, aborted.to_vec()).unwrap();
        let data = kept.iter().filter(|(header, _)| !header.is_control()).map(|(header, _)| header.base_offset);
        assert_eq!(data.collect::<Vec<_>>(), [10, 12, 16, 18]);
    }
}
