//! The tier in the simulation: rounds, calls to the store with their faults, DeleteRecords, housekeeping.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use strandline::tier::round::{Round, free_local};
use strandline_log::retention::RetentionLimits;
use strandline_protocol::ids::BrokerId;
use strandline_protocol::remote_pointer::PointerState;
use strandline_tiering::Leader;

use super::node::Running;
use super::oracle::Held;
use super::store::{Call, carry_out, failure};
use super::task::Task;
use super::world::{Event, StoreCall, World};

/// Garbage is looked for this often, in ms.
const COLLECT_EVERY_MS: i64 = 4_000;
/// A late call takes effect so much later, at most.
const LATE_MS: u64 = 6_000;

fn right(running: &Running, id: BrokerId, leader_epoch: i32) -> Leader {
    Leader { broker_id: id, broker_epoch: running.broker_epoch, leader_epoch }
}

impl World {
    pub(super) fn tier_tick(&mut self, id: BrokerId, life: u32) {
        let (now, pause) = (self.now_ms, self.around(350));
        let clock = Arc::clone(&self.clock);
        self.at(pause, Event::TierTick(id, life));
        let Some(running) = self.alive(id, life).filter(|r| r.open) else { return };
        let Some(partition) = running.partitions.all().into_iter().next() else { return };
        let Some(remote) = partition.remote.clone() else { return };
        if !partition.leads() {
            if partition.pointer().state == PointerState::Open {
                free_local(&partition, &partition.config(), &running.reaper, now);
            }
            return;
        }
        let tiered = partition.config().remote_storage_enable || partition.pointer().state != PointerState::Unset;
        if !tiered || !partition.is_ready() || running.round.is_some() {
            return;
        }
        let leader = right(running, id, partition.leader_epoch());
        let reaper = Arc::clone(&running.reaper);
        let collect = now - running.collected_ms >= COLLECT_EVERY_MS;
        running.round = Some(Task::new(async move {
            let now_ms = move || clock.load(Ordering::Relaxed);
            let round = Round {
                partition: &partition,
                remote: &remote,
                leader,
                undelete_ms: 300,
                reaper: &reaper,
                now_ms: &now_ms,
            };
            round.run(collect).await
        }));
    }

    /// DeleteRecords, as a leader answers it.
    pub(super) fn delete_records(&mut self, id: BrokerId) {
        let share = self.streams.nemesis.below(100) as i64;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(running) = node.up.as_mut().filter(|r| r.open) else { return };
        let Some(partition) = running.partitions.all().into_iter().find(|p| p.leads() && p.is_ready()) else { return };
        let offsets = partition.offsets();
        let to = offsets.log_start + (offsets.high_watermark - offsets.log_start) * share / 100;
        self.trace.note(self.now_ms, format_args!("node {id} deletes records below {to}"));
        match (partition.pointer().state, partition.remote.clone()) {
            (PointerState::Open, Some(remote)) => {
                let leader = right(running, id, partition.leader_epoch());
                running.moves.push(Task::new(async move {
                    if let Ok(pointer) = remote.trim(&leader, to).await {
                        drop(partition.apply_pointer(pointer));
                    }
                }));
            }
            _ => {
                if partition.raise_log_start(to).is_ok() {
                    running.partitions.write_checkpoints();
                }
            }
        }
    }

    pub(super) fn housekeeping(&mut self, id: BrokerId, life: u32) {
        let (now, pause) = (self.now_ms, self.around(1_500));
        self.at(pause, Event::Housekeeping(id, life));
        let Some(running) = self.alive(id, life).filter(|r| r.open) else { return };
        running.reaper.remove_due(now);
        running.partitions.remove_doomed(now);
        for partition in running.partitions.all() {
            let config = partition.config();
            if !config.remote_storage_enable && config.retention_bytes >= 0 {
                let limits = RetentionLimits { retention_ms: -1, retention_bytes: config.retention_bytes };
                let deleted = partition.log().delete_expired(limits, now);
                running.reaper.take(&partition, deleted, config.file_delete_delay_ms, now);
            }
        }
        running.partitions.write_checkpoints();
    }

    /// Decides when a call to the store takes effect, and when, and how, it is answered.
    pub(super) fn store_called(&mut self, call: Call) {
        let number = self.number();
        let random = &mut self.streams.store;
        let (near, far) = (1 + random.below(15) as i64, random.below(LATE_MS) as i64);
        let percent = if self.healed { 0 } else { self.swarm.store_percent };
        let fault = if random.below(100) < percent { 1 + random.below(5) } else { 0 };
        let mut fails = None;
        match fault {
            // Lost before it happens; or the store is busy.
            1 => fails = Some("lost before it happened"),
            // Lost after it happened.
            2 => {
                fails = Some("lost after it happened");
                self.at(near, Event::StoreEffect(number));
            }
            // Nobody answers; it happens when its caller may be long dead.
            3 => self.at(near + far, Event::StoreEffect(number)),
            // Nobody answers, nothing happens.
            4 => {}
            _ => self.at(near, Event::StoreEffect(number)),
        }
        if fault != 3 && fault != 4 {
            self.at(near + 1, Event::StoreAnswer(number));
        }
        if fault > 0 {
            self.fire("store fault");
        }
        self.store_calls.insert(number, StoreCall { call, fails, done: None });
    }

    pub(super) fn store_effect(&mut self, number: u64) -> Held {
        let Some(waiting) = self.store_calls.get_mut(&number) else { return Ok(()) };
        let op = &waiting.call.op;
        if let (super::store::Op::Delete { path }, false) = (op, op.reads()) {
            self.oracle.deleted(path.as_ref())?;
        }
        waiting.done = Some(carry_out(&self.objects, op));
        let (name, key) = (op.name(), op.changed().map(ToString::to_string));
        if let Some(key) = key {
            self.trace.note(self.now_ms, format_args!("store: {name} {key}"));
        }
        Ok(())
    }

    pub(super) fn store_answer(&mut self, number: u64) {
        let Some(waiting) = self.store_calls.remove(&number) else { return };
        let answer = match (waiting.fails, waiting.done) {
            (Some(what), _) => Err(failure(what)),
            (None, Some(done)) => done,
            (None, None) => Err(failure("nothing was done")),
        };
        waiting.call.slot.fill(answer);
    }
}
