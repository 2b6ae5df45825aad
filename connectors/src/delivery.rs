//! What a task does next: a pure machine of what happened and what time it is.
//!
//! Owns positions, retries, dead letters, pause and the order of open, write, flush, commit and close. Does not own records, the sink, the
//! group or a clock: it names an [`Action`], its owner carries it out and hands in the outcome as an [`Input`]. One action is under way at
//! a time, so that a sink's calls follow one another.
//! Invariants: an offset is committed only after the sink's flush returned it, and only under the generation in which its partition was
//! opened; what is written to the sink has no gap, but for records that went to the dead letter queue first (or, where errors are
//! tolerated without one, were counted in [`Delivery::skipped`]); after a seat was lost nothing is flushed or committed for it.
//! A crash leaves nothing: positions are the group's and the sink's.

use std::collections::{BTreeMap, VecDeque};

use crate::sink::{Assigned, Offsets, SinkError, TopicPartition};

/// The first pause before a second try, ms; it doubles up to [`Policy::retry_delay_max_ms`].
const RETRY_DELAY_FIRST_MS: i64 = 300;

/// What a connector's settings say about errors and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// `errors.retry.timeout`: a call is tried again for so long. 0 and -1 = for as long as it takes, as Kafka Connect does with a sink's
    /// RetriableException.
    pub retry_timeout_ms: i64,
    /// `errors.retry.delay.max.ms`.
    pub retry_delay_max_ms: i64,
    /// `errors.tolerance=all`.
    pub tolerate: bool,
    /// Whether records that are not delivered go to a topic.
    pub dead_letters: bool,
    /// `offset.flush.interval.ms`.
    pub flush_interval_ms: i64,
}

/// What the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Running,
    Paused,
    /// Gives everything back and ends.
    Stopped,
}

/// Rows that were read: [first, next) of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub partition: TopicPartition,
    pub first: i64,
    pub next: i64,
}

/// Records that are not to be delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    pub partition: TopicPartition,
    pub offsets: Vec<i64>,
    pub reason: String,
    pub stage: Stage,
}

/// Where a record failed, in Kafka Connect's words (`__connect.errors.stage`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    KeyConverter,
    ValueConverter,
    Transformation,
    TaskPut,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Stage::KeyConverter => "KEY_CONVERTER",
            Stage::ValueConverter => "VALUE_CONVERTER",
            Stage::Transformation => "TRANSFORMATION",
            Stage::TaskPut => "TASK_PUT",
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Take a seat in the group; then [`Input::Joined`].
    Join,
    /// Open at the sink and find the start of each; then [`Input::Opened`]. Rows that were read before are to be thrown away.
    Open(Vec<Assigned>),
    /// The oldest rows of this partition; then [`Input::Written`].
    Write(Span),
    /// Then [`Input::DeadLettered`].
    DeadLetter(Letter),
    /// Then [`Input::Flushed`].
    Flush,
    /// Then [`Input::Committed`].
    Commit { generation: i32, offsets: Offsets },
    /// Then [`Input::Closed`].
    Close(Vec<TopicPartition>),
    /// Read, or wait for news until this time.
    Read { until_ms: i64 },
    /// Read nothing; wait for news until this time.
    Wait { until_ms: i64 },
    /// The task is over: None = as it was told to, otherwise why.
    End(Option<String>),
}

/// Why offsets were not committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitFault {
    /// The seat is gone.
    Lost,
    /// To be tried again.
    Passing,
    Fatal(String),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    Joined {
        generation: i32,
        assigned: Vec<Assigned>,
    },
    /// The start of every partition.
    Opened(Result<Offsets, SinkError>),
    Read(Span),
    /// Records of rows read, but not given to the sink.
    Unreadable(Letter),
    Written(Result<(), SinkError>),
    Flushed(Result<Offsets, SinkError>),
    Committed(Result<(), CommitFault>),
    DeadLettered(Result<(), String>),
    Closed,
    /// The others wait for this member to join again.
    RebalanceDue,
    /// The seat is gone.
    Lost,
    Target(Target),
    /// Something outside of the sink ends the task.
    Failed(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Progress {
    /// Read up to here.
    read: i64,
    /// The sink has taken up to here.
    written: i64,
    /// The sink was given up to here, by a write that is to be tried again: it may have kept any part of it.
    tried: i64,
    /// The sink has made durable up to here.
    durable: Option<i64>,
    committed: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No seat.
    Away,
    /// Assigned, not open.
    Opening,
    Running,
    /// Before giving everything back: the last flush, and the last commit.
    LastFlush,
    LastCommit,
    Closing(Next),
    Over,
}

/// What comes after a close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Away,
    Opening,
    Over,
}

/// What is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Open,
    Write,
    Flush,
    DeadLetter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Retry {
    call: Call,
    since_ms: i64,
    attempts: u32,
    due_ms: i64,
}

/// One task's state.
#[derive(Debug, Clone)]
pub struct Delivery {
    policy: Policy,
    target: Target,
    phase: Phase,
    generation: i32,
    partitions: BTreeMap<TopicPartition, Progress>,
    queue: VecDeque<Span>,
    letters: VecDeque<Letter>,
    retry: Option<Retry>,
    flush_due_ms: i64,
    commit_due: bool,
    failure: Option<String>,
    failures: u64,
    skipped: u64,
    retries: u64,
    dead_lettered: u64,
}

impl Delivery {
    pub fn new(policy: Policy, target: Target, now_ms: i64) -> Self {
        Delivery {
            policy,
            target,
            phase: Phase::Away,
            generation: -1,
            partitions: BTreeMap::new(),
            queue: VecDeque::new(),
            letters: VecDeque::new(),
            retry: None,
            flush_due_ms: now_ms + policy.flush_interval_ms,
            commit_due: false,
            failure: None,
            failures: 0,
            skipped: 0,
            retries: 0,
            dead_lettered: 0,
        }
    }

    /// Records that were given up without a trace, because `errors.tolerance=all` has no dead letter queue.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Records that could not be delivered, whatever became of them.
    pub fn failures(&self) -> u64 {
        self.failures
    }

    pub fn retries(&self) -> u64 {
        self.retries
    }

    pub fn dead_lettered(&self) -> u64 {
        self.dead_lettered
    }

    /// Spans that were read and not written.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Whether letters are still to be sent.
    pub fn has_letters(&self) -> bool {
        !self.letters.is_empty()
    }

    pub fn is_retrying(&self) -> bool {
        self.retry.is_some()
    }

    pub fn is_paused(&self) -> bool {
        self.target == Target::Paused
    }

    /// Committed offsets of the partitions that are held.
    pub fn committed(&self) -> Offsets {
        self.partitions.iter().filter_map(|(p, progress)| Some((p.clone(), progress.committed?))).collect()
    }

    pub fn next(&mut self, now_ms: i64) -> Action {
        self.turn();
        match self.phase {
            Phase::Away => Action::Join,
            Phase::Closing(_) => Action::Close(self.partitions.keys().cloned().collect()),
            Phase::Over => Action::End(self.failure.clone()),
            Phase::LastFlush => Action::Flush,
            Phase::LastCommit => Action::Commit { generation: self.generation, offsets: self.committable() },
            Phase::Opening | Phase::Running if self.retry.is_some_and(|r| now_ms < r.due_ms) => {
                Action::Wait { until_ms: self.retry.map_or(now_ms, |r| r.due_ms) }
            }
            Phase::Opening => Action::Open(self.assigned()),
            Phase::Running => self.run(now_ms),
        }
    }

    /// Leaves a phase that has nothing (more) to do.
    fn turn(&mut self) {
        let leaving = self.failure.is_some() || self.target == Target::Stopped;
        match self.phase {
            Phase::Away if leaving => self.phase = Phase::Over,
            Phase::Opening if leaving => self.phase = Phase::Closing(Next::Over),
            Phase::Running if self.failure.is_some() => self.phase = Phase::Closing(Next::Over),
            // Letters first: what the last flush covers must have been delivered or put aside.
            Phase::Running if leaving && self.letters.is_empty() => self.phase = Phase::LastFlush,
            Phase::LastCommit if self.committable().is_empty() => {
                self.phase = Phase::Closing(if leaving { Next::Over } else { Next::Away });
            }
            _ => {}
        }
    }

    fn run(&mut self, now_ms: i64) -> Action {
        if let Some(letter) = self.letters.front() {
            return Action::DeadLetter(letter.clone());
        }
        if self.commit_due {
            let offsets = self.committable();
            if !offsets.is_empty() {
                return Action::Commit { generation: self.generation, offsets };
            }
            self.commit_due = false;
        }
        if now_ms >= self.flush_due_ms {
            return Action::Flush;
        }
        match self.queue.front() {
            _ if self.target == Target::Paused => Action::Wait { until_ms: self.flush_due_ms },
            Some(span) => Action::Write(span.clone()),
            None => Action::Read { until_ms: self.flush_due_ms },
        }
    }

    fn assigned(&self) -> Vec<Assigned> {
        let one = |(p, progress): (&TopicPartition, &Progress)| Assigned {
            partition: p.clone(),
            committed: progress.committed,
        };
        self.partitions.iter().map(one).collect()
    }

    fn committable(&self) -> Offsets {
        let due = self.partitions.iter().filter(|(_, p)| p.durable.is_some() && p.durable > p.committed);
        due.filter_map(|(partition, p)| Some((partition.clone(), p.durable?))).collect()
    }

    pub fn on(&mut self, input: Input, now_ms: i64) {
        match input {
            Input::Target(target) => self.target = target,
            Input::Failed(reason) => self.fail(reason),
            Input::Joined { generation, assigned } => self.joined(generation, assigned),
            Input::Opened(outcome) => self.opened(outcome, now_ms),
            Input::Read(span) => self.read(span),
            Input::Unreadable(letter) => self.refuse(letter),
            Input::Written(outcome) => self.written(outcome, now_ms),
            Input::Flushed(outcome) => self.flushed(outcome, now_ms),
            Input::Committed(outcome) => self.commit_answered(outcome),
            Input::DeadLettered(outcome) => self.dead_letter_answered(outcome, now_ms),
            Input::Closed => self.closed(),
            // Letters under way belong to records behind the durable end: they are read again.
            Input::RebalanceDue if self.phase == Phase::Running => {
                if self.letters.is_empty() {
                    self.retry = None;
                    self.phase = Phase::LastFlush;
                }
            }
            Input::RebalanceDue if matches!(self.phase, Phase::Opening | Phase::Closing(Next::Opening)) => {
                self.phase = Phase::Closing(Next::Away);
            }
            Input::RebalanceDue => {}
            Input::Lost => self.lost(),
        }
    }

    fn fail(&mut self, reason: String) {
        self.failure.get_or_insert(reason);
    }

    fn lost(&mut self) {
        self.forget_rows();
        let held = [Phase::Opening, Phase::Running, Phase::LastFlush, Phase::LastCommit, Phase::Closing(Next::Opening)];
        if held.contains(&self.phase) {
            self.phase = Phase::Closing(Next::Away);
        }
    }

    fn forget_rows(&mut self) {
        self.queue.clear();
        self.letters.clear();
        self.retry = None;
        self.commit_due = false;
    }

    fn joined(&mut self, generation: i32, assigned: Vec<Assigned>) {
        self.generation = generation;
        self.forget_rows();
        let begin = |a: Assigned| {
            (a.partition, Progress { read: -1, written: -1, tried: -1, durable: None, committed: a.committed })
        };
        self.partitions = assigned.into_iter().map(begin).collect();
        self.phase = Phase::Opening;
    }

    fn opened(&mut self, outcome: Result<Offsets, SinkError>, now_ms: i64) {
        match outcome {
            Ok(starts) => {
                self.succeeded(Call::Open);
                for (partition, progress) in &mut self.partitions {
                    let Some(start) = starts.get(partition) else {
                        self.failure.get_or_insert(format!("{partition} has no start"));
                        continue;
                    };
                    (progress.read, progress.written, progress.durable) = (*start, *start, None);
                    progress.tried = *start;
                }
                self.phase = Phase::Running;
            }
            Err(SinkError::Retriable(reason) | SinkError::Reopen(reason)) => {
                self.retry_later(Call::Open, reason, now_ms);
            }
            Err(SinkError::Rejected { reason, .. } | SinkError::Fatal(reason)) => self.fail(reason),
        }
    }

    fn read(&mut self, span: Span) {
        let Some(progress) = self.partitions.get_mut(&span.partition) else { return };
        if span.first == progress.read && span.next > span.first {
            progress.read = span.next;
            self.queue.push_back(span);
        }
    }

    /// A record that is not delivered: put aside, skipped, or the end.
    fn refuse(&mut self, letter: Letter) {
        self.failures += letter.offsets.len() as u64;
        if !self.policy.tolerate {
            let (partition, first) = (&letter.partition, letter.offsets.first().copied().unwrap_or(-1));
            return self.fail(format!(
                "{} ({partition} offset {first}); correct the record's source or the settings, or set errors.tolerance=all \
                 and errors.deadletterqueue.topic.name to put such records aside",
                letter.reason
            ));
        }
        if self.policy.dead_letters {
            self.letters.push_back(letter);
        } else {
            self.skipped += letter.offsets.len() as u64;
        }
    }

    fn took(&mut self) {
        if let Some(span) = self.queue.pop_front()
            && let Some(progress) = self.partitions.get_mut(&span.partition)
        {
            progress.written = span.next;
        }
        self.succeeded(Call::Write);
    }

    fn written(&mut self, outcome: Result<(), SinkError>, now_ms: i64) {
        match outcome {
            Ok(()) => self.took(),
            Err(SinkError::Rejected { offsets, reason }) => {
                if let Some(span) = self.queue.front() {
                    let partition = span.partition.clone();
                    self.refuse(Letter { partition, offsets, reason, stage: Stage::TaskPut });
                }
                self.took();
            }
            Err(SinkError::Retriable(reason)) => {
                if let Some(span) = self.queue.front()
                    && let Some(progress) = self.partitions.get_mut(&span.partition)
                {
                    progress.tried = progress.tried.max(span.next);
                }
                self.retry_later(Call::Write, reason, now_ms);
            }
            Err(SinkError::Reopen(reason)) => self.reopen(reason, now_ms),
            Err(SinkError::Fatal(reason)) => self.fail(reason),
        }
    }

    fn flushed(&mut self, outcome: Result<Offsets, SinkError>, now_ms: i64) {
        let last = self.phase == Phase::LastFlush;
        match outcome {
            Ok(offsets) => {
                self.succeeded(Call::Flush);
                self.flush_due_ms = now_ms + self.policy.flush_interval_ms;
                self.commit_due = true;
                for (partition, end) in offsets {
                    let Some(progress) = self.partitions.get_mut(&partition) else { continue };
                    let given = progress.written.max(progress.tried);
                    if end > given {
                        return self.fail(format!(
                            "the sink calls {partition} durable up to {end}, but was given rows up to {given} only: nothing is \
                             committed; report this to the sink's author"
                        ));
                    }
                    progress.durable = progress.durable.max(Some(end));
                }
            }
            // Everything is given back in any case: what is not durable comes again.
            Err(SinkError::Retriable(reason) | SinkError::Reopen(reason)) if last => {
                tracing::warn!(reason, "the last flush failed");
            }
            Err(SinkError::Retriable(reason)) => self.retry_later(Call::Flush, reason, now_ms),
            Err(SinkError::Reopen(reason)) => self.reopen(reason, now_ms),
            Err(SinkError::Rejected { reason, .. } | SinkError::Fatal(reason)) => self.fail(reason),
        }
        if last {
            self.phase = Phase::LastCommit;
        }
        if self.failure.is_some() && last {
            self.phase = Phase::Closing(Next::Over);
        }
    }

    fn commit_answered(&mut self, outcome: Result<(), CommitFault>) {
        let last = self.phase == Phase::LastCommit;
        match outcome {
            Ok(()) => {
                self.partitions.values_mut().filter(|p| p.durable.is_some()).for_each(|p| {
                    p.committed = p.committed.max(p.durable);
                });
                self.commit_due = false;
            }
            Err(CommitFault::Lost) => self.lost(),
            // With the next flush.
            Err(CommitFault::Passing) => self.commit_due = false,
            Err(CommitFault::Fatal(reason)) => self.fail(reason),
        }
        if last && self.phase == Phase::LastCommit {
            let over = self.failure.is_some() || self.target == Target::Stopped;
            self.phase = Phase::Closing(if over { Next::Over } else { Next::Away });
        }
    }

    fn dead_letter_answered(&mut self, outcome: Result<(), String>, now_ms: i64) {
        match outcome {
            Ok(()) => {
                self.succeeded(Call::DeadLetter);
                let letter = self.letters.pop_front();
                self.dead_lettered += letter.map_or(0, |l| l.offsets.len() as u64);
            }
            Err(reason) => self.retry_later(Call::DeadLetter, format!("the dead letter queue: {reason}"), now_ms),
        }
    }

    fn closed(&mut self) {
        let Phase::Closing(next) = self.phase else { return };
        self.forget_rows_but_the_retry();
        self.phase = match next {
            Next::Away => Phase::Away,
            Next::Opening => Phase::Opening,
            Next::Over => Phase::Over,
        };
        if self.phase != Phase::Opening {
            self.partitions.clear();
            self.retry = None;
        }
    }

    fn forget_rows_but_the_retry(&mut self) {
        let retry = self.retry;
        self.forget_rows();
        self.retry = retry;
    }

    /// The sink knows better where it is.
    fn reopen(&mut self, reason: String, now_ms: i64) {
        self.retry_later(Call::Open, reason, now_ms);
        self.forget_rows_but_the_retry();
        self.phase = Phase::Closing(Next::Opening);
    }

    /// Only the call that failed ends its own tries: a flush says nothing of a write.
    fn succeeded(&mut self, call: Call) {
        self.retry = self.retry.filter(|retry| retry.call != call);
    }

    fn retry_later(&mut self, call: Call, reason: String, now_ms: i64) {
        let before = self.retry.filter(|retry| retry.call == call);
        let mut retry = before.unwrap_or(Retry { call, since_ms: now_ms, attempts: 0, due_ms: now_ms });
        if self.policy.retry_timeout_ms > 0 && now_ms - retry.since_ms >= self.policy.retry_timeout_ms {
            let tried = now_ms - retry.since_ms;
            return self.fail(format!(
                "{reason}; tried again for {tried} ms (errors.retry.timeout): see that the destination can be reached, then restart the task"
            ));
        }
        let delay = RETRY_DELAY_FIRST_MS.saturating_mul(1_i64 << retry.attempts.min(20));
        retry.attempts += 1;
        retry.due_ms = now_ms + delay.min(self.policy.retry_delay_max_ms.max(1));
        self.retries += 1;
        self.retry = Some(retry);
        tracing::warn!(reason, attempts = retry.attempts, "the sink is tried again");
    }
}

#[cfg(test)]
#[path = "delivery/history_tests.rs"]
mod history_tests;
