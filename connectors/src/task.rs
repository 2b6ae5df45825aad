//! One task of a connector: reads its partitions, hands rows to its sink, commits what the sink calls durable.
//!
//! Owns a seat in the group `connect-<connector>`, the rows between broker and sink (bounded by [`TaskSettings::memory_bytes`]), and carries
//! out what [`crate::delivery`] decides. Does not own the sink's state, nor who else runs. Ends by itself only in failure; its last word is
//! a trace whose first line says what to do. A crash leaves a seat that the group frees after the session timeout, and rows that come again.

pub mod dead_letters;
pub mod settings;
mod subscription;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use strandline_client::group::membership::Standing;
use strandline_client::group::offsets::GroupOffsets;
use strandline_client::group::{GroupError, GroupOptions, Member};
use strandline_client::{Cluster, FetchOptions, FetchedPartition, Fetcher, PartitionReader};
use strandline_protocol::error_code::ErrorCode;
use tokio::sync::{mpsc, watch};

use self::dead_letters::DeadLetters;
use self::settings::{Reset, TaskSettings};
use self::subscription::Subscription;
use crate::config::Settings;
use crate::convert::Side;
use crate::delivery::{Action, CommitFault, Delivery, Input, Letter, Span, Stage, Target};
use crate::metrics::TaskMetrics;
use crate::registry::{SinkKind, TaskContext, all_destinations};
use crate::rows::{self, Rows, column};
use crate::secrets::Discreet;
use crate::sink::{Assigned, Offsets, Sink, TopicPartition};

/// How long a task waits for records before it looks at its surroundings again.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often the metrics are told what is held, ms.
const OBSERVE_EVERY_MS: i64 = 250;
/// Pause after a group could not be joined.
const JOIN_PAUSE: Duration = Duration::from_secs(1);

/// The wall clock, ms since 1970: handed in, so that a test can be it.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// What a task says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    Running,
    Paused,
    /// Ended as it was told to.
    Stopped,
    /// Ended by itself: what to do, and why.
    Failed(String),
    /// It reads these for the first time.
    Topics(BTreeSet<String>),
}

/// What a task is made of.
pub struct TaskParts {
    pub kind: Arc<dyn SinkKind>,
    pub settings: Settings,
    pub context: TaskContext,
    pub options: TaskSettings,
    pub cluster: Arc<Cluster>,
    /// The same, for fetches: a broker answers one connection in order, and a fetch may wait for news.
    pub fetches: Arc<Cluster>,
    pub clock: Clock,
    pub metrics: Arc<TaskMetrics>,
}

struct Queued {
    rows: Rows,
    /// As they were read, for the dead letter queue.
    raw: Option<RecordBatch>,
    bytes: usize,
}

struct Task {
    parts: TaskParts,
    sink: Box<dyn Sink>,
    member: Member,
    fetcher: Fetcher,
    subscription: Subscription,
    letters: Option<DeadLetters>,
    core: Delivery,
    rows: HashMap<TopicPartition, VecDeque<Queued>>,
    held_bytes: usize,
    /// Whether there is a seat that can be lost.
    seated: bool,
    generation: i32,
    reports: mpsc::Sender<Report>,
    told_paused: Option<bool>,
    told_topics: BTreeSet<String>,
    /// When the metrics were last told, ms.
    observed_ms: i64,
}

/// Runs a task to its end; the last report is `Stopped` or `Failed`.
pub async fn run(parts: TaskParts, target: watch::Receiver<Target>, reports: mpsc::Sender<Report>) {
    let told = reports.clone();
    let secrets = parts.context.secrets.clone();
    let first = *target.borrow();
    let outcome = match Task::new(parts, first, reports).await {
        Ok(task) => task.run(target).await,
        Err(reason) => Some(reason),
    };
    let last = outcome.map_or(Report::Stopped, |reason| Report::Failed(secrets.blot(&reason)));
    // The worker may be gone already.
    let _ = told.send(last).await;
}

impl Task {
    async fn new(parts: TaskParts, target: Target, reports: mpsc::Sender<Report>) -> Result<Task, String> {
        for (key, to) in all_destinations(&*parts.kind, &parts.settings) {
            parts.context.urls.check_now(&to).await.map_err(|refused| format!("{key}: {refused}"))?;
        }
        let inner = parts.kind.create(&parts.settings, &parts.context).map_err(|e| e.to_string())?;
        let sink = Box::new(Discreet { inner, secrets: parts.context.secrets.clone() });
        let options = &parts.options;
        let letters = match &options.dead_letters {
            Some(wanted) => Some(DeadLetters::open(wanted.clone(), &parts.context, Arc::clone(&parts.cluster)).await?),
            None => None,
        };
        let member = Member::new(
            Arc::clone(&parts.cluster),
            GroupOptions {
                group: options.group.clone(),
                protocol_type: strandline_client::group::consumer::PROTOCOL_TYPE.to_owned(),
                session_timeout: options.session_timeout,
                rebalance_timeout: options.max_poll_interval,
                heartbeat_interval: options.heartbeat_interval,
                max_poll_interval: options.max_poll_interval,
            },
        );
        let fetch = FetchOptions {
            max_wait: options.fetch_max_wait,
            max_bytes: options.fetch_max_bytes,
            partition_max_bytes: options.max_partition_fetch_bytes,
            read_committed: options.read_committed,
        };
        let now = (parts.clock)();
        Ok(Task {
            sink,
            member,
            fetcher: Fetcher::new(Arc::clone(&parts.fetches), fetch),
            subscription: Subscription::new(&parts.settings, options)?,
            letters,
            core: Delivery::new(options.policy, target, now),
            rows: HashMap::new(),
            held_bytes: 0,
            seated: false,
            generation: -1,
            reports,
            told_paused: None,
            told_topics: BTreeSet::new(),
            observed_ms: i64::MIN,
            parts,
        })
    }

    fn now(&self) -> i64 {
        (self.parts.clock)()
    }

    /// None = ended as it was told to.
    async fn run(mut self, mut target: watch::Receiver<Target>) -> Option<String> {
        loop {
            // A worker that is gone wants no task of its.
            let wanted = if target.has_changed().is_err() { Target::Stopped } else { *target.borrow_and_update() };
            self.core.on(Input::Target(wanted), self.now());
            self.look_at_the_group().await;
            self.tell(wanted).await;
            self.observe();
            let action = self.core.next(self.now());
            let input = match action {
                Action::End(outcome) => {
                    self.member.leave().await;
                    return outcome;
                }
                Action::Wait { until_ms } => {
                    self.wait(until_ms, &mut target).await;
                    continue;
                }
                Action::Join => tokio::select! {
                    joined = self.join() => joined,
                    _ = target.changed() => continue,
                },
                Action::Read { until_ms } => {
                    self.read(until_ms).await;
                    continue;
                }
                other => self.carry_out(other).await,
            };
            self.member.alive();
            if let Some(input) = input {
                self.core.on(input, self.now());
            }
            if let Some(letters) = self.letters.as_mut().filter(|_| !self.core.has_letters()) {
                letters.forget();
            }
        }
    }

    async fn look_at_the_group(&mut self) {
        self.member.alive();
        if !self.seated {
            return;
        }
        let cluster = Arc::clone(&self.parts.cluster);
        let changed = self.subscription.has_changed(&cluster).await;
        let input = match self.member.standing() {
            Standing::Lost => Input::Lost,
            Standing::RebalanceDue => Input::RebalanceDue,
            Standing::Stable if changed => Input::RebalanceDue,
            Standing::Stable => return,
        };
        if input == Input::Lost {
            tracing::warn!(
                connector = self.parts.context.connector,
                task = self.parts.context.task,
                "the seat in the group is lost"
            );
            self.seated = false;
        }
        self.core.on(input, self.now());
    }

    async fn tell(&mut self, target: Target) {
        let paused = target == Target::Paused;
        if target != Target::Stopped && self.told_paused != Some(paused) {
            self.told_paused = Some(paused);
            let _ = self.reports.send(if paused { Report::Paused } else { Report::Running }).await;
        }
    }

    fn observe(&mut self) {
        let now = self.now();
        if now.saturating_sub(self.observed_ms) >= OBSERVE_EVERY_MS {
            self.observed_ms = now;
            self.parts.metrics.observe(&self.core, self.sink.held(), self.held_bytes as u64);
        }
    }

    async fn wait(&mut self, until_ms: i64, target: &mut watch::Receiver<Target>) {
        let left = u64::try_from(until_ms - self.now()).unwrap_or(0).max(1);
        let limit = Duration::from_millis(left).min(LOOK_EVERY);
        let _ = tokio::time::timeout(limit, target.changed()).await;
    }

    async fn carry_out(&mut self, action: Action) -> Option<Input> {
        Some(match action {
            Action::Open(assigned) => self.open(assigned).await,
            Action::Write(span) => self.write(&span).await,
            Action::DeadLetter(letter) => self.dead_letter(&letter).await,
            Action::Flush => Input::Flushed(self.sink.flush(self.now(), false).await),
            Action::Commit { generation, offsets } => Input::Committed(self.commit(generation, &offsets).await),
            Action::Close(partitions) => {
                self.sink.close(&partitions).await;
                self.fetcher.assign([]);
                self.forget_rows();
                self.parts.metrics.hold(std::iter::empty());
                Input::Closed
            }
            Action::Join | Action::Read { .. } | Action::Wait { .. } | Action::End(_) => return None,
        })
    }

    fn forget_rows(&mut self) {
        self.rows.clear();
        self.held_bytes = 0;
        if let Some(letters) = &mut self.letters {
            letters.forget();
        }
    }

    async fn join(&mut self) -> Option<Input> {
        // Until here there was one, also while a sink was opened again: others may have waited for this member meanwhile.
        self.seated = false;
        match self.subscription.join(&self.member, &self.parts.cluster).await {
            Ok(Some((generation, partitions))) => {
                let committed = match self.member.committed().await {
                    Ok(committed) => committed,
                    Err(error) => return self.join_failed(&error).await,
                };
                let one = |p: TopicPartition| Assigned {
                    committed: committed.get(&(p.topic.to_string(), p.partition)).copied(),
                    partition: p,
                };
                self.seated = true;
                self.generation = generation;
                Some(Input::Joined { generation, assigned: partitions.into_iter().map(one).collect() })
            }
            Ok(None) => None,
            Err(error) => self.join_failed(&error).await,
        }
    }

    async fn join_failed(&mut self, error: &GroupError) -> Option<Input> {
        match error {
            GroupError::Refused { code, .. } if !code.retriable() => Some(Input::Failed(error.to_string())),
            GroupError::Call(call) if !call.retryable() => Some(Input::Failed(error.to_string())),
            _ => {
                tracing::warn!(connector = self.parts.context.connector, %error, "the group is joined again");
                tokio::time::sleep(JOIN_PAUSE).await;
                None
            }
        }
    }

    /// Opens at the sink; the start is the sink's, else the group's, else where `auto.offset.reset` says.
    async fn open(&mut self, assigned: Vec<Assigned>) -> Input {
        self.forget_rows();
        let mut starts = match self.sink.open(&assigned).await {
            Ok(starts) => starts,
            Err(error) => return Input::Opened(Err(error)),
        };
        for one in assigned {
            let start = match (starts.get(&one.partition), one.committed) {
                (Some(known), _) => *known,
                (None, Some(committed)) => committed,
                (None, None) => match self.reset(&one.partition).await {
                    Ok(start) => start,
                    Err(reason) => return Input::Failed(reason),
                },
            };
            starts.insert(one.partition, start);
        }
        self.fetcher.assign(starts.iter().map(|(p, offset)| ((p.topic.to_string(), p.partition), *offset)));
        let known = self.core.committed();
        self.parts.metrics.hold(starts.keys().map(|p| (p.clone(), known.get(p).copied())));
        let topics: BTreeSet<String> = starts.keys().map(|p| p.topic.to_string()).collect();
        if !topics.is_subset(&self.told_topics) {
            self.told_topics.extend(topics.iter().cloned());
            let _ = self.reports.send(Report::Topics(topics)).await;
        }
        Input::Opened(Ok(starts))
    }

    async fn reset(&mut self, partition: &TopicPartition) -> Result<i64, String> {
        let timestamp = match self.parts.options.reset {
            Reset::Earliest => -2,
            Reset::Latest => -1,
            Reset::None => {
                return Err(format!(
                    "{partition} has no committed offset that is in the log, and consumer.override.auto.offset.reset is none: \
                     set the connector's offsets, or set it to earliest or latest"
                ));
            }
        };
        let found = async {
            let mut reader =
                PartitionReader::open(&self.parts.cluster, &partition.topic, partition.partition, 0).await?;
            reader.offset_for(timestamp).await
        };
        found.await.map_err(|e| {
            format!("the start of {partition} is not known: {e}; see that the brokers run, then restart the task")
        })
    }

    async fn read(&mut self, until_ms: i64) {
        let left = u64::try_from(until_ms - self.now()).unwrap_or(0).max(1);
        let limit = Duration::from_millis(left).min(LOOK_EVERY);
        let share = self.parts.options.memory_bytes / 2;
        let full = self.held_bytes >= self.parts.options.memory_bytes;
        let rows = &self.rows;
        let wanted = |name: &(String, i32)| {
            let key = TopicPartition::new(&name.0, name.1);
            let held: usize = rows.get(&key).map_or(0, |queue| queue.iter().map(|q| q.bytes).sum());
            !full && held < share
        };
        let news = match self.fetcher.poll(limit, wanted).await {
            Ok(news) => news,
            Err(error) => {
                let reason = format!(
                    "reading failed: {error}; see that the brokers run and the topic exists, then restart the task"
                );
                return self.core.on(Input::Failed(reason), self.now());
            }
        };
        for one in news {
            if let Err(reason) = self.take(one).await {
                return self.core.on(Input::Failed(reason), self.now());
            }
        }
    }

    async fn take(&mut self, news: FetchedPartition) -> Result<(), String> {
        let partition = TopicPartition::new(&news.topic, news.partition);
        if news.out_of_range {
            let start = self.reset(&partition).await?;
            tracing::warn!(%partition, lost_from = news.from, start, "the position is not in the log any more");
            // The rows that follow begin later than the last ones ended: the sink sees that from their first offset.
            let name = (news.topic, news.partition);
            self.fetcher.seek(&name, start);
            if start > news.from {
                self.queue(Rows { partition, groups: Vec::new(), first_offset: news.from, next_offset: start }, None);
            } else {
                return Err(format!(
                    "{partition} ends before offset {}, which was read or committed: the topic was made anew or cut; reset the \
                     connector's offsets (stop it, then DELETE its offsets), then resume it",
                    news.from
                ));
            }
            return Ok(());
        }
        let high_watermark = news.high_watermark;
        let mut rows = rows::decode(&partition, &news.batches, news.from)
            .map_err(|e| format!("{partition} offset {}: {e}", news.from))?;
        rows.next_offset = news.next;
        self.parts.options.converters.prepare(&rows).await?;
        let bytes: usize = news.batches.iter().map(|(_, bytes)| bytes.len()).sum();
        self.parts.metrics.read(&partition, rows.count() as u64, bytes as u64, high_watermark);
        for rows in in_portions(rows, self.parts.options.max_poll_records) {
            let raw = rows.groups.first().filter(|_| self.letters.is_some()).cloned();
            let (rows, unreadable) = self.parts.options.converters.apply(rows);
            let (rows, failed) = self.parts.options.transforms.apply(rows);
            let all_well = unreadable.is_empty() && failed.is_empty();
            if let (Some(letters), Some(raw), false) = (&mut self.letters, &raw, all_well) {
                letters.keep(&partition, raw.clone());
            }
            for one in unreadable {
                let stage = match one.side {
                    Side::Key => Stage::KeyConverter,
                    Side::Value => Stage::ValueConverter,
                };
                self.refuse(&partition, one.offset, &one.reason, stage);
            }
            for one in failed {
                self.refuse(&partition, one.offset, &one.reason, Stage::Transformation);
            }
            self.queue(rows, raw);
        }
        Ok(())
    }

    fn refuse(&mut self, partition: &TopicPartition, offset: i64, reason: &str, stage: Stage) {
        let reason = self.parts.context.secrets.blot(reason);
        let letter = Letter { partition: partition.clone(), offsets: vec![offset], reason, stage };
        self.core.on(Input::Unreadable(letter), self.now());
    }

    fn queue(&mut self, rows: Rows, raw: Option<RecordBatch>) {
        let span = Span { partition: rows.partition.clone(), first: rows.first_offset, next: rows.next_offset };
        let bytes: usize = rows.groups.iter().map(RecordBatch::get_array_memory_size).sum();
        self.held_bytes += bytes;
        self.rows.entry(rows.partition.clone()).or_default().push_back(Queued { rows, raw, bytes });
        self.core.on(Input::Read(span), self.now());
    }

    async fn write(&mut self, span: &Span) -> Input {
        let Some(queued) = self.rows.get(&span.partition).and_then(VecDeque::front) else {
            return Input::Failed(format!("{} has no rows from offset {} on in memory", span.partition, span.first));
        };
        debug_assert_eq!((queued.rows.first_offset, queued.rows.next_offset), (span.first, span.next));
        let outcome = self.sink.write(queued.rows.clone()).await;
        let taken = !matches!(&outcome, Err(error) if !matches!(error, crate::sink::SinkError::Rejected { .. }));
        if taken && let Some(queued) = self.rows.get_mut(&span.partition).and_then(VecDeque::pop_front) {
            self.held_bytes = self.held_bytes.saturating_sub(queued.bytes);
            self.parts.metrics.sent(queued.rows.count() as u64);
            if outcome.is_err()
                && let (Some(letters), Some(raw)) = (&mut self.letters, queued.raw)
            {
                letters.keep(&span.partition, raw);
            }
        }
        Input::Written(outcome)
    }

    async fn dead_letter(&mut self, letter: &Letter) -> Input {
        Input::DeadLettered(match &mut self.letters {
            Some(letters) => letters.send(letter).await,
            None => Err("it has no name".to_owned()),
        })
    }

    async fn commit(&mut self, generation: i32, offsets: &Offsets) -> Result<(), CommitFault> {
        let named: GroupOffsets =
            offsets.iter().map(|(p, offset)| ((p.topic.to_string(), p.partition), *offset)).collect();
        match self.member.commit(generation, &named).await {
            Ok(()) => {
                self.parts.metrics.committed(offsets);
                Ok(())
            }
            Err(GroupError::Lost { .. }) => Err(CommitFault::Lost),
            Err(GroupError::Refused { code: ErrorCode::IllegalGeneration | ErrorCode::UnknownMemberId, .. }) => {
                Err(CommitFault::Lost)
            }
            Err(GroupError::Refused { code, .. }) if code.retriable() || code == ErrorCode::RebalanceInProgress => {
                Err(CommitFault::Passing)
            }
            Err(error) => Err(CommitFault::Fatal(format!("offsets were not committed: {error}"))),
        }
    }
}

/// Rows cut into portions of at most `limit` records (`consumer.override.max.poll.records`).
fn in_portions(rows: Rows, limit: Option<usize>) -> Vec<Rows> {
    let (Some(limit), Some(batch)) = (limit, rows.groups.first().cloned()) else { return vec![rows] };
    if batch.num_rows() <= limit {
        return vec![rows];
    }
    let offsets = batch.column(column::OFFSET).as_primitive::<Int64Type>();
    let mut portions = Vec::new();
    let mut first_offset = rows.first_offset;
    for from in (0..batch.num_rows()).step_by(limit) {
        let count = limit.min(batch.num_rows() - from);
        let last = from + count == batch.num_rows();
        let next_offset = if last { rows.next_offset } else { offsets.value(from + count - 1) + 1 };
        let partition = rows.partition.clone();
        portions.push(Rows { partition, groups: vec![batch.slice(from, count)], first_offset, next_offset });
        first_offset = next_offset;
    }
    portions
}
