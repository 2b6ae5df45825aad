//! Replication between nodes: fetches, their answers, in-sync sets, syncs.

use std::sync::Arc;

use strandline::fetch_session::{TopicKey, Wanted};
use strandline::partition::{Partition, Replica};
use strandline::replication::answer::{answer, failed, is_registered};
use strandline::replication::following::{Following, Next, wanted};
use strandline::replication::isr::IsrAsk;
use strandline_controller::request::Request;
use strandline_protocol::ids::BrokerId;
use strandline_protocol::messages::fetch_request::FetchPartition;
use strandline_protocol::messages::fetch_response::PartitionData;

use super::node::{Fetcher, Pending};
use super::task::Task;
use super::world::{Event, LAG_MAX_MS, Message, World, bytes_in};

const FETCH_TIMEOUT_MS: i64 = 1_000;
const BACKOFF_MS: i64 = 100;
/// Bytes of one answer: a few batches, so that catching up takes several fetches.
const ANSWER_BYTES: u32 = 600;

impl World {
    pub(super) fn fetch_tick(&mut self, id: BrokerId, life: u32, leader: BrokerId) {
        let number = self.number();
        let Some(running) = self.alive(id, life).filter(|r| r.open) else { return };
        let Some(partition) = running.partitions.all().into_iter().find(|p| p.follows(leader)) else { return };
        let epoch = running.broker_epoch;
        let Some(fetcher) = running.fetchers.get_mut(&leader).filter(|f| matches!(f, Fetcher::Idle)) else { return };
        let Some(wanted) = wanted(&partition).filter(|_| !partition.begins_in_tier()).map(Box::new) else {
            // As the product's fetcher does before it asks.
            let partitions = Arc::clone(&running.partitions);
            *fetcher = Fetcher::Taking(Task::new(async move {
                let following = Following { leader, partitions: &partitions };
                let ready = following.has_begun(&partition).await && following.is_durable(&partition).await;
                if ready { Next::Appended } else { Next::Rests }
            }));
            return;
        };
        *fetcher = Fetcher::Asked { number, epoch: wanted.current_leader_epoch };
        self.at(FETCH_TIMEOUT_MS, Event::FetchTimeout(id, life, leader, number));
        self.send(id, leader, Message::Fetch { from: id, life, leader, id: number, broker_epoch: epoch, wanted });
    }

    pub(super) fn fetch_timeout(&mut self, id: BrokerId, life: u32, leader: BrokerId, number: u64) {
        let Some(running) = self.alive(id, life) else { return };
        if let Some(fetcher) =
            running.fetchers.get_mut(&leader).filter(|f| matches!(f, Fetcher::Asked { number: n, .. } if *n == number))
        {
            *fetcher = Fetcher::Idle;
            self.at(BACKOFF_MS, Event::FetchTick(id, life, leader));
        }
    }

    /// A leader is asked.
    pub(super) fn fetched(
        &mut self,
        from: BrokerId,
        life: u32,
        leader: BrokerId,
        id: u64,
        broker_epoch: i64,
        wanted: &FetchPartition,
    ) {
        let (now, tp) = (self.now_ms, self.tp);
        let Some(running) = self.nodes.get_mut(&leader).and_then(|n| n.up.as_mut()).filter(|r| r.open) else { return };
        let mut data = None;
        if is_registered(&running.door.image(), from, broker_epoch) {
            let (answered, wants_change) = match running.partitions.leading(tp.topic_id, tp.partition) {
                Ok(partition) => {
                    let wanted = Wanted::of(TopicKey::Id(tp.topic_id), wanted);
                    answer(&partition, Replica { id: from, broker_epoch }, &wanted, ANSWER_BYTES, true, now)
                }
                Err(code) => (failed(wanted.partition, code, -1), false),
            };
            running.isr_look |= wants_change;
            data = Some(Box::new(answered));
        }
        if let Some(data) = &data {
            self.trace.note(
                now,
                format_args!(
                    "node {from} fetches {} (epoch {}, last {}) from {leader}: {} bytes, code {}, hw {}, diverging {} {}",
                    wanted.fetch_offset, wanted.current_leader_epoch, wanted.last_fetched_epoch, bytes_in(data),
                    data.error_code, data.high_watermark, data.diverging_epoch.epoch, data.diverging_epoch.end_offset
                ),
            );
        }
        self.send(leader, from, Message::FetchAnswer { to: from, life, leader, id, data });
    }

    pub(super) fn fetch_answered(
        &mut self,
        to: BrokerId,
        life: u32,
        leader: BrokerId,
        id: u64,
        data: Option<Box<PartitionData>>,
    ) {
        let tp = self.tp;
        let Some(running) = self.alive(to, life) else { return };
        let partition = running.partitions.all().into_iter().find(|p| p.tp == tp);
        let Some(fetcher) = running.fetchers.get_mut(&leader) else { return };
        let Fetcher::Asked { number, epoch } = *fetcher else { return };
        if number != id {
            return;
        }
        let (Some(data), Some(partition)) = (data, partition) else {
            *fetcher = Fetcher::Idle;
            self.at(BACKOFF_MS, Event::FetchTick(to, life, leader));
            return;
        };
        let partitions = Arc::clone(&running.partitions);
        *fetcher = Fetcher::Taking(Task::new(async move {
            let next = Following { leader, partitions: &partitions }.take(&partition, epoch, &data).await;
            if next != Next::Appended {
                return next;
            }
            partition.ask_for_due_flush();
            match partition.appended_is_durable().await {
                Ok(()) => Next::Appended,
                Err(()) => Next::Rests,
            }
        }));
    }

    /// A fetcher has taken an answer in.
    pub(super) fn fetch_taken(&mut self, id: BrokerId, life: u32, leader: BrokerId, next: Next) {
        let pause = match next {
            Next::Appended => self.around(4),
            Next::Goes => self.around(40),
            Next::Rests => BACKOFF_MS,
        };
        self.at(pause, Event::FetchTick(id, life, leader));
    }

    pub(super) fn isr_timer(&mut self, id: BrokerId, life: u32) {
        let pause = self.around(LAG_MAX_MS as u64 / 2);
        let Some(running) = self.alive(id, life) else { return };
        running.isr_look |= running.partitions.all().iter().any(|p| p.has_followers());
        self.at(pause, Event::IsrTimer(id, life));
    }

    pub(super) fn isr_retry(&mut self, id: BrokerId, life: u32) {
        let Some(running) = self.alive(id, life) else { return };
        if let Some(ask) = running.isr_rests.take() {
            drop(ask.unanswered());
            running.isr_busy = false;
            running.isr_look = true;
        }
    }

    /// Asks for the in-sync sets that this node's leaders want.
    pub(super) fn ask_isr(&mut self, id: BrokerId, life: u32) {
        let now = self.now_ms;
        let Some(running) = self.alive(id, life).filter(|r| r.isr_look && !r.isr_busy && r.open) else { return };
        running.isr_look = false;
        let Some(ask) = IsrAsk::of(running.partitions.all(), now, LAG_MAX_MS) else { return };
        running.isr_busy = true;
        let (broker_epoch, changes) = (running.broker_epoch, ask.changes.clone());
        for change in &changes {
            self.trace.note(now, format_args!("node {id} asks for the in-sync set {:?}", change.isr));
        }
        self.ask(id, Request::AlterIsr { broker_id: id, broker_epoch, changes }, Pending::Isr(ask));
    }

    pub(super) fn sync_begins(&mut self, id: BrokerId, life: u32, partition: Arc<Partition>) {
        let (number, pause) = (self.number(), self.around(6));
        let Some(running) = self.alive(id, life) else { return };
        let sync = partition.begin_flush_in_turn();
        running.syncs.insert(number, (partition, sync));
        self.at(pause, Event::SyncEnds(id, life, number));
    }

    pub(super) fn sync_ends(&mut self, id: BrokerId, life: u32, number: u64) {
        let Some(running) = self.alive(id, life) else { return };
        if let Some((partition, sync)) = running.syncs.remove(&number) {
            partition.finish_flush_in_turn(sync);
        }
    }
}
