//! The sink contract, carried over to a plugin's process, or to its thread in the worker's own.
//!
//! Owns one child, from the first `open` on, and what was written to it. Invariants: one call is under way; a call that is not answered in
//! `call.timeout.ms`, or by anything but an answer, is the last one: the child is killed, and every later call fails with the same
//! reason, until the task is started anew; no offset is passed on as durable that was not written to this child. The reason's first
//! line says what to do. A child that dies is followed by another one, after a pause, at most `restarts.max` times in
//! [`RESTARTS_WINDOW`]: the partitions are opened again, and what was not durable comes again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::child::PluginProcess;
use super::frame::{self, Answer, Call, FrameFault, HEAD_BYTES, PROTOCOL, Position, Request};
use super::inside::InProcess;
use super::manifest::{Kind, Manifest};
use super::{ISOLATION_KEY, Isolation, Launcher};
use crate::config::Settings;
use crate::registry::TaskContext;
use crate::rows::Rows;
use crate::sink::{Assigned, Offsets, Sink, SinkError, TopicPartition};

/// Deaths that are longer ago are forgotten.
pub const RESTARTS_WINDOW: Duration = Duration::from_secs(600);
/// The pause before the first restart; it doubles with each death.
const RESTART_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause: the task does nothing else meanwhile.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(5);

enum Child {
    NotStarted,
    Running(PluginProcess),
    Inside(InProcess),
    Broken(String),
}

/// A partition that is open.
#[derive(Debug, Clone, Copy)]
struct Reach {
    /// No offset behind this one was written.
    next: i64,
    /// Whether anything was written.
    written: bool,
}

pub struct PluginSink {
    manifest: Arc<Manifest>,
    launcher: Launcher,
    settings: BTreeMap<String, String>,
    secrets: Vec<String>,
    context: TaskContext,
    child: Child,
    calls: u64,
    /// Of children that died by themselves.
    deaths: VecDeque<Instant>,
    open: BTreeMap<TopicPartition, Reach>,
}

/// Why there is no answer.
enum Silence {
    Late,
    Closed { half: bool },
    Fault(FrameFault),
}

/// Sends one call and reads its answer's JSON.
async fn exchange(child: &mut PluginProcess, head: &[u8], rows: &[u8]) -> Result<Vec<u8>, Silence> {
    child.send(&[head, rows]).await.map_err(|_| Silence::Closed { half: false })?;
    let mut begin = [0; HEAD_BYTES];
    child.receive(&mut begin[..1]).await.map_err(|_| Silence::Closed { half: false })?;
    // Words for people are told from an answer by their first bytes; there may be fewer than a head has.
    if begin[0] != frame::MAGIC[0] {
        let rest = child.some_more(&mut begin[1..]).await;
        let text = String::from_utf8_lossy(&begin[..=rest]).into_owned();
        return Err(Silence::Fault(FrameFault::Magic(format!("{text:?}"))));
    }
    child.receive(&mut begin[1..]).await.map_err(|_| Silence::Closed { half: true })?;
    let (json, rows) = frame::head(begin).map_err(Silence::Fault)?;
    if rows > 0 {
        return Err(Silence::Fault(FrameFault::Meaning(
            "it answered with rows, which an answer does not have".to_owned(),
        )));
    }
    let mut bytes = vec![0; json];
    child.receive(&mut bytes).await.map_err(|_| Silence::Closed { half: true })?;
    Ok(bytes)
}

/// What a call was about, for people.
fn described(call: &Call) -> String {
    match call {
        Call::Write { topic, partition, first_offset, next_offset, .. } => {
            format!("write of offsets {first_offset} to {} of {topic}-{partition}", next_offset - 1)
        }
        other => other.name().to_owned(),
    }
}

fn not_handed_over(error: arrow::error::ArrowError) -> SinkError {
    SinkError::Fatal(format!("rows cannot be handed over to the plugin: {error}"))
}

impl PluginSink {
    pub fn new(
        manifest: Arc<Manifest>,
        launcher: Launcher,
        settings: &Settings,
        context: &TaskContext,
    ) -> Result<PluginSink, SinkError> {
        let faults: Vec<String> =
            manifest.keys.iter().filter_map(|key| key.fault(settings.get(key.name).map(String::as_str))).collect();
        if !faults.is_empty() {
            return Err(SinkError::Fatal(faults.join("\n")));
        }
        Ok(PluginSink {
            settings: manifest.own_settings(settings),
            secrets: manifest.secrets(settings).into_iter().chain(context.secrets.values().iter().cloned()).collect(),
            manifest,
            launcher,
            context: context.clone(),
            child: Child::NotStarted,
            calls: 0,
            deaths: VecDeque::new(),
            open: BTreeMap::new(),
        })
    }

    async fn start(&mut self) -> Result<(), SinkError> {
        match &self.child {
            Child::Running(_) | Child::Inside(_) => return Ok(()),
            Child::Broken(reason) => return Err(SinkError::Fatal(reason.clone())),
            Child::NotStarted => {}
        }
        if let Some(doublings) = u32::try_from(self.deaths.len()).ok().and_then(|n| n.checked_sub(1)) {
            let pause = RESTART_PAUSE.saturating_mul(1 << doublings.min(10)).min(RESTART_PAUSE_MAX);
            tokio::time::sleep(pause).await;
        }
        match self.new_child().await {
            Ok(child) => self.child = child,
            Err(error) => {
                let reason = format!(
                    "see that the worker may start processes, then restart the task: the plugin {} was not started: {error}",
                    self.manifest.name
                );
                self.child = Child::Broken(reason.clone());
                return Err(SinkError::Fatal(reason));
            }
        }
        let call = Call::Start {
            protocol: PROTOCOL,
            connector: self.context.connector.clone(),
            task: self.context.task,
            spool: std::path::absolute(&self.context.spool).unwrap_or(self.context.spool.clone()).display().to_string(),
            settings: self.settings.clone(),
        };
        self.ask(call, None).await.map(|_| ())
    }

    async fn new_child(&self) -> std::io::Result<Child> {
        if self.launcher.isolation == Isolation::InProcess && self.manifest.kind == Kind::Library {
            return InProcess::start(&self.manifest, &self.context).map(Child::Inside);
        }
        let started = PluginProcess::start(&self.manifest, &self.launcher, &self.context, self.secrets.clone());
        Ok(Child::Running(started.await?))
    }

    /// One call to a child that runs, with the rows that go with it.
    async fn ask(&mut self, call: Call, rows: Option<&Rows>) -> Result<Answer, SinkError> {
        if matches!(self.child, Child::Inside(_)) {
            return self.ask_inside(call, rows).await;
        }
        let rows = rows.map(frame::streams).transpose().map_err(not_handed_over)?.unwrap_or_default();
        self.calls += 1;
        let request = Request { id: self.calls, call };
        let Some(head) = frame::encoded(&request, rows.len()) else {
            let what = format!("a {} of {} bytes is over the limits of a call", request.call.name(), rows.len());
            return Err(SinkError::Fatal(format!("lower consumer.override.max.partition.fetch.bytes: {what}")));
        };
        let child = match &mut self.child {
            Child::Running(child) => child,
            Child::Broken(reason) => return Err(SinkError::Fatal(reason.clone())),
            Child::NotStarted | Child::Inside(_) => {
                return Err(SinkError::Fatal("the plugin's process does not run".to_owned()));
            }
        };
        child.set_busy(true);
        let answered = tokio::time::timeout(self.manifest.call_timeout, exchange(child, &head, &rows)).await;
        let answer = match answered.unwrap_or(Err(Silence::Late)) {
            Ok(json) => frame::answer(request.id, &json).and_then(|answer| answer.outcome(&request.call)),
            Err(Silence::Fault(fault)) => Err(fault),
            Err(silence) => return Err(self.silent(silence, &request.call).await),
        };
        match answer {
            Err(fault) => Err(self.broken(&fault.to_string(), &request.call).await),
            Ok(outcome) => {
                child.set_busy(false);
                outcome.map_err(|error| self.told(error))
            }
        }
    }

    async fn ask_inside(&mut self, call: Call, rows: Option<&Rows>) -> Result<Answer, SinkError> {
        let Child::Inside(child) = &self.child else {
            return Err(SinkError::Fatal("the plugin does not run".to_owned()));
        };
        let batches = rows.map(frame::plain_batches).transpose().map_err(not_handed_over)?.unwrap_or_default();
        let answered = tokio::time::timeout(self.manifest.call_timeout, child.ask(call.clone(), batches)).await;
        let answer = match answered {
            Ok(Some(answer)) => answer,
            Ok(None) => return Err(self.broken("its thread has ended", &call).await),
            Err(_) => {
                let limit = self.manifest.call_timeout.as_millis();
                let what = format!(
                    "it did not answer within {limit} ms (call.timeout.ms of its connector.json), and stays in the worker's process until it \
                     does, or until the worker is started anew"
                );
                return Err(self.broken(&what, &call).await);
            }
        };
        match answer.outcome(&call) {
            Err(fault) => Err(self.broken(&fault.to_string(), &call).await),
            Ok(outcome) => outcome.map_err(|error| self.told(error)),
        }
    }

    /// A plugin's own error, without secrets; the task's end says what to do first.
    fn told(&mut self, error: SinkError) -> SinkError {
        let name = self.manifest.name;
        match error {
            SinkError::Retriable(text) => SinkError::Retriable(self.blotted(&text)),
            SinkError::Reopen(text) => SinkError::Reopen(self.blotted(&text)),
            SinkError::Rejected { offsets, reason } => SinkError::Rejected { offsets, reason: self.blotted(&reason) },
            SinkError::Fatal(text) => {
                let text = self.blotted(&text);
                let reason = format!("correct what the plugin {name} reports, then restart the task: {text}");
                self.child = Child::Broken(reason.clone());
                SinkError::Fatal(reason)
            }
        }
    }

    fn blotted(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), crate::config::HIDDEN))
    }

    async fn silent(&mut self, silence: Silence, call: &Call) -> SinkError {
        let Child::Running(child) = &mut self.child else { return SinkError::Fatal("it does not run".to_owned()) };
        let mut died = false;
        let what = match silence {
            Silence::Late => {
                child.kill();
                let limit = self.manifest.call_timeout.as_millis();
                format!("it did not answer within {limit} ms (call.timeout.ms of its connector.json) and was killed")
            }
            Silence::Fault(fault) => fault.to_string(),
            Silence::Closed { half } => {
                let how = match child.how_it_ended().await {
                    Some(how) => {
                        died = true;
                        how
                    }
                    None => {
                        child.kill();
                        "it closed its standard input or output while it went on running, and was killed".to_owned()
                    }
                };
                if half { format!("{how}, after half an answer") } else { how }
            }
        };
        let error = self.broken(&what, call).await;
        if died { self.after_death(error) } else { error }
    }

    /// Another child, if there were not too many.
    fn after_death(&mut self, error: SinkError) -> SinkError {
        let now = Instant::now();
        while self.deaths.front().is_some_and(|then| now.duration_since(*then) > RESTARTS_WINDOW) {
            self.deaths.pop_front();
        }
        let most = self.manifest.restarts_max as usize;
        if self.deaths.len() >= most {
            return error;
        }
        self.deaths.push_back(now);
        self.child = Child::NotStarted;
        SinkError::Reopen(format!("restart {} of {most} of the plugin's process: {error}", self.deaths.len()))
    }

    /// The end of this child.
    async fn broken(&mut self, what: &str, call: &Call) -> SinkError {
        let (name, file) = (self.manifest.name, self.manifest.file.display());
        let limits = match &self.child {
            Child::Inside(_) => format!("it runs in the worker's process, {ISOLATION_KEY} of the worker"),
            _ => format!("its process may use {} bytes, memory.max of its connector.json", self.manifest.memory_max),
        };
        let mut reason = format!(
            "correct or replace the plugin {name}, then restart the task: {} (during {}; its file is {file}; {limits})",
            self.blotted(what),
            described(call),
        );
        if let Child::Running(child) = &mut self.child {
            child.kill();
            let _ = child.how_it_ended().await;
            let words = child.last_words().await;
            if !words.is_empty() {
                reason = format!("{reason}\nits last words on standard error:\n{words}");
            }
        }
        self.child = Child::Broken(reason.clone());
        SinkError::Fatal(reason)
    }
}

#[async_trait]
impl Sink for PluginSink {
    async fn open(&mut self, partitions: &[Assigned]) -> Result<Offsets, SinkError> {
        self.start().await?;
        let call = Call::Open { partitions: partitions.iter().map(Position::of).collect() };
        let answer = self.ask(call.clone(), None).await?;
        let given = |p: &TopicPartition| partitions.iter().any(|a| a.partition == *p).then_some(0..=i64::MAX);
        let starts = match answer.offsets(given) {
            Ok(starts) => starts,
            Err(fault) => return Err(self.broken(&fault.to_string(), &call).await),
        };
        for one in partitions {
            let next = starts.get(&one.partition).copied().or(one.committed).unwrap_or(0);
            self.open.insert(one.partition.clone(), Reach { next, written: false });
        }
        Ok(starts)
    }

    async fn write(&mut self, rows: Rows) -> Result<(), SinkError> {
        let call = Call::Write {
            topic: rows.partition.topic.to_string(),
            partition: rows.partition.partition,
            first_offset: rows.first_offset,
            next_offset: rows.next_offset,
            streams: rows.groups.len(),
        };
        let outcome = self.ask(call, Some(&rows)).await;
        if matches!(outcome, Ok(_) | Err(SinkError::Rejected { .. }))
            && let Some(reach) = self.open.get_mut(&rows.partition)
        {
            *reach = Reach { next: rows.next_offset, written: true };
        }
        outcome.map(|_| ())
    }

    async fn flush(&mut self, now_ms: i64, force: bool) -> Result<Offsets, SinkError> {
        if self.open.is_empty() {
            return Ok(Offsets::new());
        }
        let call = Call::Flush { now_ms, force };
        let answer = self.ask(call.clone(), None).await?;
        let mut durable = match answer.offsets(|p| self.open.get(p).map(|reach| 0..=reach.next)) {
            Ok(durable) => durable,
            Err(fault) => return Err(self.broken(&fault.to_string(), &call).await),
        };
        if answer.all {
            let written = self.open.iter().filter(|(_, reach)| reach.written);
            durable.extend(written.map(|(p, reach)| (p.clone(), reach.next)));
        }
        Ok(durable)
    }

    async fn close(&mut self, partitions: &[TopicPartition]) {
        let mine: Vec<&TopicPartition> = partitions.iter().filter(|p| self.open.contains_key(*p)).collect();
        let call = Call::Close { partitions: mine.iter().map(|p| Position::at(p, None)).collect() };
        let is_asked = !mine.is_empty() && matches!(self.child, Child::Running(_) | Child::Inside(_));
        self.open.retain(|p, _| !partitions.contains(p));
        if is_asked && let Err(error) = self.ask(call, None).await {
            let (connector, task) = (&self.context.connector, self.context.task);
            tracing::warn!(connector, task, %error, "the plugin did not close its partitions in order");
        }
    }
}
