//! After every event: what it has woken goes on, nodes whose disk has lost power die, the oracle looks.

use std::fmt;

use strandline::partition::{Acks, Isolation, Origin, ReadFrom, ReadRefused};
use strandline_controller::request::Request;
use strandline_log::FlushDue;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::BrokerId;

use super::clients::Attempt;
use super::node::{Asked, Fetcher, Pending, Wait};
use super::oracle::{Held, Violation};
use super::task::Task;
use super::world::{CLIENT, Event, Message, World};

/// A pause before a batch is sent again, and before a new one, in ms.
const PRODUCE_PAUSE_MS: u64 = 40;
const PRODUCE_TIMEOUT_MS: i64 = 800;

impl World {
    pub(super) fn pump(&mut self) -> Held {
        let before = (self.oracle.committed_end(), self.controller.log.len());
        for id in 1..=self.swarm.brokers {
            // What is committed, and who is a member, concerns the other nodes too.
            let changed = self.looked != (self.oracle.committed_end(), self.controller.log.len());
            let woken = || self.nodes.get(&id).and_then(|n| n.up.as_ref()).is_some_and(|up| up.is_woken());
            if changed || self.touched.contains(id) || woken() {
                self.pump_node(id)?;
                if self.nodes.get(&id).is_some_and(|n| n.up.is_some() && n.disk.crashed()) {
                    self.pump_node(id)?;
                }
            }
            self.send_metadata(id);
        }
        self.looked = before;
        Ok(())
    }

    fn pump_node(&mut self, id: BrokerId) -> Held {
        let Some(node) = self.nodes.get(&id).filter(|n| n.up.is_some()) else { return Ok(()) };
        let (life, crashed) = (node.life, node.disk.crashed());
        if crashed {
            self.fire("crash inside");
            self.trace.note(self.now_ms, format_args!("node {id} loses power in the middle"));
            self.crash(id);
            return Ok(());
        }
        if let Some(running) = self.alive(id, life).filter(|r| !r.doomed && r.is_broken()) {
            running.doomed = true;
            let pause = self.around(600);
            self.at(pause, Event::Replace(id, life));
        }
        // What it has committed is on its way to others, whatever happens to it now.
        let committed = self.oracle.committed_end();
        if self.nodes.get(&id).and_then(|n| n.partition()).is_some_and(|p| p.offsets().high_watermark > committed) {
            self.look(id)?;
        }
        // What one has done may wake another one of the same node.
        for _ in 0..2 {
            self.poll_tier(id, life);
            self.poll_fetchers(id, life);
            self.begin_syncs(id, life);
        }
        self.send_questions(id, life);
        self.ask_isr(id, life);
        if self.nodes.get(&id).is_some_and(|n| n.disk.crashed()) {
            // What it knew is gone with it.
            return Ok(());
        }
        self.look(id)?;
        self.poll_waits(id, life)
    }

    fn poll_tier(&mut self, id: BrokerId, life: u32) {
        let now = self.now_ms;
        if !self.alive(id, life).is_some_and(|r| r.moves_on()) {
            return;
        }
        self.sync_timers();
        let mut ended = Vec::new();
        let _timers = self.runtime.enter();
        if let Some(running) = self.nodes.get_mut(&id).and_then(|n| n.up.as_mut()) {
            running.takeovers.retain_mut(|task| {
                let done = task.poll().is_some();
                if done {
                    ended.push("took the remote log over".to_owned());
                }
                !done
            });
            running.moves.retain_mut(|task| task.poll().is_none());
            if let Some(outcome) = running.round.as_mut().and_then(Task::poll) {
                running.round = None;
                match outcome {
                    Ok(true) => running.collected_ms = now,
                    Ok(false) => {}
                    Err(error) => ended.push(format!("ends its round: {error}")),
                }
            }
        }
        for line in ended {
            self.trace.note(now, format_args!("node {id} {line}"));
        }
    }

    fn poll_fetchers(&mut self, id: BrokerId, life: u32) {
        if !self.alive(id, life).is_some_and(|r| r.moves_on()) {
            return;
        }
        self.sync_timers();
        let mut taken = Vec::new();
        if let Some(running) = self.nodes.get_mut(&id).and_then(|n| n.up.as_mut()) {
            let _timers = self.runtime.enter();
            for (leader, fetcher) in &mut running.fetchers {
                if let Fetcher::Taking(task) = fetcher
                    && let Some(next) = task.poll()
                {
                    *fetcher = Fetcher::Idle;
                    taken.push((*leader, next));
                }
            }
        }
        for (leader, next) in taken {
            self.fetch_taken(id, life, leader, next);
        }
    }

    fn begin_syncs(&mut self, id: BrokerId, life: u32) {
        while let Some(partition) = self.alive(id, life).and_then(|r| r.dir.flusher.take_due()) {
            let pause = self.around(2);
            self.at(pause, Event::SyncBegins(id, life, partition));
        }
    }

    /// Hands what the tier asks to the controller and to the store.
    fn send_questions(&mut self, id: BrokerId, life: u32) {
        let Some(running) = self.alive(id, life) else { return };
        let asked = std::mem::take(&mut *running.door.asked.lock());
        let calls = running.store.take_calls();
        for question in asked {
            match question {
                Asked::Advance(advance, slot) => {
                    self.ask(id, Request::Advance { advances: vec![*advance] }, Pending::Advance(slot));
                }
                Asked::Newest(tp, slot) => self.ask_newest(id, tp, Pending::Newest(slot)),
            }
        }
        for call in calls {
            self.store_called(call);
        }
    }

    fn look(&mut self, id: BrokerId) -> Held {
        let Some(partition) = self.nodes.get(&id).and_then(|n| n.partition()) else {
            // What comes back after it was moved away begins with nothing.
            self.oracle.forget(id);
            if self.controller.record(self.tp).is_some_and(|r| !r.replicas.contains(&id)) {
                self.oracle.moved_away(id);
            }
            return Ok(());
        };
        let record = self.controller.record(self.tp);
        let member = record.is_some_and(|r| r.isr.contains(&id) || r.elr.contains(&id));
        self.oracle.look(id, &partition, member)
    }

    fn poll_waits(&mut self, id: BrokerId, life: u32) -> Held {
        let Some(running) = self.alive(id, life) else { return Ok(()) };
        let mut done = Vec::new();
        running.waits.retain_mut(|wait| match wait.task.poll() {
            None => true,
            Some(outcome) => {
                done.push((wait.attempt.clone(), outcome.map(|()| wait.first_offset).map_err(|e| e.code())));
                false
            }
        });
        for (attempt, outcome) in done {
            self.answer_produce(id, attempt, outcome)?;
        }
        Ok(())
    }

    fn answer_produce(&mut self, id: BrokerId, attempt: Attempt, outcome: Result<i64, ErrorCode>) -> Held {
        self.trace.note(
            self.now_ms,
            format_args!("node {id} answers {} {}: {outcome:?}", attempt.producer_id, attempt.batch.sequence),
        );
        if let Ok(first_offset) = outcome {
            self.oracle.acknowledge(id, &attempt, first_offset)?;
        }
        self.send(id, CLIENT, Message::ProduceAnswer { attempt, outcome });
        Ok(())
    }

    // Clients.

    pub(super) fn produce(&mut self, producer: usize) {
        let now = self.now_ms;
        let number = self.number();
        let Some(batch) = self.producers[producer].batch(&mut self.streams.clients, now) else { return };
        self.producers[producer].waiting = number;
        let producer_id = self.producers[producer].id;
        self.at(PRODUCE_TIMEOUT_MS, Event::ProduceTimeout(producer, number));
        // Metadata of any node, as old as that node's.
        let up = self.up();
        if up.is_empty() {
            return;
        }
        let asked = up[self.streams.clients.below(up.len() as u64) as usize];
        let image = self.nodes.get(&asked).and_then(|n| n.up.as_ref()).map(|r| r.door.image());
        let leader = image.and_then(|i| i.partitions.get(&self.tp).map(|p| p.record.leader)).filter(|l| *l > 0);
        if let Some(to) = leader {
            let attempt = Attempt { producer, producer_id, number, batch };
            self.send(CLIENT, to, Message::Produce { to, attempt });
        }
    }

    pub(super) fn produce_timeout(&mut self, producer: usize, number: u64) {
        if self.producers[producer].waiting == number {
            self.produce(producer);
        }
    }

    /// A node is asked to append.
    pub(super) fn append(&mut self, to: BrokerId, attempt: Attempt) {
        let (now, tp) = (self.now_ms, self.tp);
        let Some(node) = self.nodes.get_mut(&to) else { return };
        let Some(running) = node.up.as_mut().filter(|r| r.open) else { return };
        let appended = running.partitions.leading(tp.topic_id, tp.partition).and_then(|p| {
            p.append(&attempt.batch.bytes, Origin::Client, Acks::All, now).map_err(|refused| refused.code)
        });
        match appended {
            Ok(appended) => {
                self.trace.note(
                    now,
                    format_args!(
                        "node {to} appends {} {} at {}",
                        attempt.producer_id, attempt.batch.sequence, appended.first_offset
                    ),
                );
                let durable = appended.durable;
                let task = Task::new(async move {
                    match durable {
                        Some(durable) => durable.wait().await,
                        None => Ok(()),
                    }
                });
                running.waits.push(Wait { task, attempt, first_offset: appended.first_offset });
            }
            Err(code) => {
                let (id, sequence) = (attempt.producer_id, attempt.batch.sequence);
                self.trace.note(now, format_args!("node {to} refuses {id} {sequence}: {code:?}"));
                self.send(to, CLIENT, Message::ProduceAnswer { attempt, outcome: Err(code) });
            }
        }
    }

    pub(super) fn produce_answered(&mut self, attempt: &Attempt, outcome: Result<i64, ErrorCode>) {
        let producer = &mut self.producers[attempt.producer];
        let current = producer.current.as_ref().is_some_and(|b| b.sequence == attempt.batch.sequence);
        if outcome.is_ok() && current {
            producer.acknowledged();
            self.acknowledged += 1;
            let pause = self.around(PRODUCE_PAUSE_MS);
            self.at(pause, Event::Produce(attempt.producer));
        } else if outcome.is_err() && producer.waiting == attempt.number {
            if self.oracle.lossy && outcome == Err(ErrorCode::OutOfOrderSequenceNumber) {
                // What it had written may be gone: it begins anew under another id.
                self.numbers += 1;
                producer.begin_anew(100_000 + self.numbers as i64);
            }
            // Not answered twice: the pause stands for the wait.
            producer.waiting = 0;
            let pause = self.around(PRODUCE_PAUSE_MS * 2);
            self.at(pause, Event::Produce(attempt.producer));
        }
    }

    /// Reads a little from a node that leads, as it believes: what comes is committed, and follows what came before.
    pub(super) fn consume(&mut self) -> Held {
        let pause = self.around(60);
        self.at(pause, Event::Consume);
        let up = self.up();
        if up.is_empty() {
            return Ok(());
        }
        let id = up[self.streams.clients.below(up.len() as u64) as usize];
        let Some(partition) = self.nodes.get(&id).and_then(|n| n.partition()).filter(|p| p.leads()) else {
            return Ok(());
        };
        match partition.read(self.consumed, 400, true, Isolation::HighWatermark, ReadFrom::Leader) {
            Ok(read) => {
                let bytes = read.records.to_bytes().unwrap_or_default();
                if let Some(next) = self.oracle.consumed(id, self.consumed, &bytes)? {
                    self.consumed = next;
                }
            }
            Err(ReadRefused::Remote { .. }) => self.consumed = partition.offsets().local_log_start,
            Err(ReadRefused::Code(ErrorCode::OffsetOutOfRange)) => {
                self.consumed = self.consumed.max(partition.offsets().log_start);
            }
            Err(_) => {}
        }
        Ok(())
    }

    // The end.

    /// Whether everything has come right.
    pub(super) fn is_settled(&self) -> bool {
        !self.unsettled(&mut |_| {})
    }

    /// Whether something is still to come right; `tell` hears what, if it wants to.
    pub(super) fn unsettled(&self, tell: &mut dyn FnMut(fmt::Arguments<'_>)) -> bool {
        let Some(record) = self.controller.record(self.tp) else {
            let fenced: Vec<_> = self.controller.image.brokers.values().map(|b| (b.broker_id, b.fenced)).collect();
            tell(format_args!("45: there is no partition; brokers that are fenced: {fenced:?}"));
            return true;
        };
        if let Some(p) = self.producers.iter().find(|p| p.left > 0) {
            tell(format_args!("41: producer {} has {} batches left", p.id, p.left));
            return true;
        }
        if record.leader < 0 || record.isr.len() != record.replicas.len() {
            tell(format_args!("42: replicas are not in sync: {record:?}"));
            return true;
        }
        if record.is_reassigning() {
            tell(format_args!("45: a reassignment is not over: {record:?}"));
            return true;
        }
        record.replicas.iter().any(|id| self.is_behind(*id, tell))
    }

    fn is_behind(&self, id: BrokerId, tell: &mut dyn FnMut(fmt::Arguments<'_>)) -> bool {
        let Some(partition) = self.nodes.get(&id).and_then(|n| n.partition()) else {
            tell(format_args!("42: node {id} has no log"));
            return true;
        };
        let offsets = partition.offsets();
        let committed = if self.oracle.lossy { 0 } else { self.oracle.committed_end() };
        if offsets.high_watermark < committed || offsets.log_end != offsets.high_watermark {
            tell(format_args!("42: node {id} lags: {offsets:?}, committed is {}", self.oracle.committed_end()));
            return true;
        }
        if partition.log().flush_due() == FlushDue::Now {
            tell(format_args!("41: what node {id} has to sync is not synced: {offsets:?}"));
            return true;
        }
        if self.swarm.tiered && partition.leads() {
            let pointer = self.controller.pointer(self.tp);
            let sealed = partition.log().sealed_segments(pointer.highest_copied_offset + 1, offsets.last_stable, 1);
            if !sealed.is_empty() {
                tell(format_args!("43: what is closed is not copied: {offsets:?} {pointer:?}"));
                return true;
            }
        }
        false
    }

    pub(super) fn finish(&mut self) -> Result<(), Violation> {
        let Some(record) = self.controller.record(self.tp).cloned() else { return Ok(()) };
        let replicas: Vec<_> = record
            .replicas
            .iter()
            .filter_map(|id| self.nodes.get(id).and_then(|n| n.partition()).map(|p| (*id, p.offsets())))
            .collect();
        self.trace.note(self.now_ms, format_args!("the end: {replicas:?}"));
        self.oracle.finish(&record, &replicas)
    }

    pub(super) fn crash(&mut self, id: BrokerId) {
        let seed = self.streams.disk.word();
        let pause = 20 + self.streams.nemesis.below(3_000) as i64;
        let member = self.controller.record(self.tp).is_some_and(|r| r.isr.contains(&id) || r.elr.contains(&id));
        if member && self.nodes.get(&id).is_some_and(|n| n.partition().is_some()) {
            self.oracle.lost_power(id);
        }
        if let Some(node) = self.nodes.get_mut(&id) {
            node.crash(seed);
        }
        self.at(if self.healed { 50 } else { pause }, Event::Start(id));
    }

    /// An operator restarts a node whose directory is offline, or the machine it runs on.
    pub(super) fn replace(&mut self, id: BrokerId, life: u32) {
        let power = self.streams.nemesis.below(2) == 0;
        match self.alive(id, life) {
            Some(_) if power => self.crash(id),
            Some(_) => self.stop(id),
            None => {}
        }
    }

    pub(super) fn stop(&mut self, id: BrokerId) {
        self.trace.note(self.now_ms, format_args!("node {id} stops in order"));
        let pause = 50 + self.streams.nemesis.below(1_500) as i64;
        if let Some(node) = self.nodes.get_mut(&id) {
            node.stop();
        }
        self.at(pause, Event::Start(id));
    }

    /// The leader by the controller's record.
    pub(super) fn leader_id(&self) -> Option<BrokerId> {
        self.controller.record(self.tp).map(|r| r.leader).filter(|l| *l > 0)
    }
}
