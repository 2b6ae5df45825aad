//! Nodes and the controller: registration, heartbeats, questions and their late answers, metadata applied late.

use std::collections::BTreeMap;
use std::sync::Arc;
use strandline::partitions::RoleChange;
use strandline::replication::answer::is_registered;
use strandline::tier::takeover;
use strandline_controller::ImageUpdate;
use strandline_controller::record::{Endpoint, MetadataRecord};
use strandline_controller::request::{Heartbeat, NewTopic, RegisterBroker, Request, Response};
use strandline_protocol::ids::{BrokerId, TopicPartition};
use strandline_protocol::remote_pointer::RemotePointer;

use super::node::{CLUSTER, Fetcher, Pending, Running, workers};
use super::oracle::Held;
use super::task::Task;
use super::world::{CONTROLLER, Event, LAG_MAX_MS, Message, SESSION_MS, TOPIC, World};

const CALL_TIMEOUT_MS: i64 = 900;
const HEARTBEAT_MS: u64 = 250;
const RETRY_MS: i64 = 100;

impl World {
    pub(super) fn start(&mut self, id: BrokerId) {
        let incarnation = self.uuid();
        let Some(node) = self.nodes.get_mut(&id).filter(|n| n.up.is_none()) else { return };
        if let Err(error) = node.start(incarnation, &self.cache) {
            self.trace.note(self.now_ms, format_args!("node {id} does not start: {error}"));
            self.crash(id);
            return;
        }
        let life = node.life;
        self.oracle.forget(id);
        self.trace.note(self.now_ms, format_args!("node {id} starts, life {life}"));
        self.register(id);
        for (mean, event) in [
            (HEARTBEAT_MS, Event::Heartbeat(id, life)),
            (LAG_MAX_MS as u64 / 2, Event::IsrTimer(id, life)),
            (400, Event::TierTick(id, life)),
            (900, Event::Housekeeping(id, life)),
        ] {
            let pause = self.around(mean);
            self.at(pause, event);
        }
    }

    /// The node, if it is still in this life.
    pub(super) fn alive(&mut self, id: BrokerId, life: u32) -> Option<&mut Running> {
        self.nodes.get_mut(&id).filter(|n| n.life == life).and_then(|n| n.up.as_deref_mut())
    }

    fn register(&mut self, id: BrokerId) {
        let Some(running) = self.nodes.get(&id).and_then(|n| n.up.as_ref()) else { return };
        let request = Request::RegisterBroker(RegisterBroker {
            broker_id: id,
            cluster_id: CLUSTER.to_owned(),
            incarnation: running.incarnation,
            endpoints: vec![Endpoint {
                listener: "PLAINTEXT".to_owned(),
                host: "node".to_owned(),
                port: 9000 + id as u16,
            }],
            rack: None,
            clean: running.clean,
        });
        self.ask(id, request, Pending::Register);
    }

    /// Asks the controller; what waits for the answer is kept.
    pub(super) fn ask(&mut self, id: BrokerId, request: Request, waits: Pending) {
        let number = self.number();
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let life = node.life;
        let Some(running) = node.up.as_mut() else { return };
        running.calls.insert(number, waits);
        self.at(CALL_TIMEOUT_MS, Event::CallTimeout(id, life, number));
        self.send(id, CONTROLLER, Message::Ask { from: id, life, id: number, request: Box::new(request) });
    }

    pub(super) fn ask_newest(&mut self, id: BrokerId, tp: TopicPartition, waits: Pending) {
        let number = self.number();
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let life = node.life;
        let Some(running) = node.up.as_mut() else { return };
        running.calls.insert(number, waits);
        self.at(CALL_TIMEOUT_MS, Event::CallTimeout(id, life, number));
        self.send(id, CONTROLLER, Message::Newest { from: id, life, id: number, tp });
    }

    pub(super) fn controller_asked(&mut self, from: BrokerId, life: u32, id: u64, request: &Request) -> Held {
        if self.controller.away_until_ms > self.now_ms {
            return Ok(());
        }
        let response = self.decide(request)?;
        self.send(CONTROLLER, from, Message::Answer { to: from, life, id, response: Box::new(response) });
        Ok(())
    }

    /// The controller decides; the oracle sees every record and every pointer.
    pub(super) fn decide(&mut self, request: &Request) -> Result<Response, super::oracle::Violation> {
        let before = self.controller.record(self.tp).cloned();
        let response = self.controller.handle(request, self.now_ms);
        let after = self.controller.record(self.tp).cloned();
        if let (Some(before), Some(after)) = (&before, &after)
            && before != after
        {
            self.trace.note(
                self.now_ms,
                format_args!(
                    "record: leader {} epoch {} isr {:?} elr {:?} replicas {:?} of {}",
                    after.leader,
                    after.leader_epoch,
                    after.isr,
                    after.elr,
                    after.replicas,
                    name(request)
                ),
            );
            // Who joins while it is down is not the one that has lost something: that one comes later.
            let nodes = &self.nodes;
            let registered = |id: &BrokerId| {
                nodes.get(id).and_then(|n| n.up.as_ref()).is_some_and(|running| running.broker_epoch >= 0)
            };
            self.unclean.retain(|id| before.isr.contains(id) || !after.isr.contains(id) || !registered(id));
            self.oracle.elected(before, after)?;
        }
        self.oracle.pointed(self.controller.pointer(self.tp), &self.objects)?;
        Ok(response)
    }

    pub(super) fn controller_answered(&mut self, to: BrokerId, life: u32, id: u64, response: Response) {
        let now = self.now_ms;
        let Some(running) = self.alive(to, life) else { return };
        let Some(waits) = running.calls.remove(&id) else { return };
        match (waits, response) {
            (Pending::Register, Response::RegisterBroker(Ok(epoch))) => {
                running.broker_epoch = epoch;
                // From now on it knows what it has lost.
                running.clean = true;
                self.trace.note(now, format_args!("node {to} is registered in broker epoch {epoch}"));
                self.at(1, Event::ApplyMetadata(to, life));
            }
            (Pending::Beat, Response::Heartbeat(Ok(answer))) => {
                if answer.may_stop && running.wants_shutdown {
                    self.stop(to);
                }
            }
            (Pending::Beat, Response::Heartbeat(Err(_))) => self.register(to),
            (Pending::Isr(ask), Response::AlterIsr(outcomes)) => {
                ask.answered(outcomes, now);
                running.isr_busy = false;
            }
            (Pending::Advance(slot), Response::Advance(outcomes)) => {
                slot.fill(outcomes.into_iter().next().ok_or(strandline_tiering::Unknown));
            }
            (waits, _) => self.unanswered(to, life, waits),
        }
    }

    pub(super) fn newest_answered(&mut self, to: BrokerId, life: u32, id: u64, pointer: Option<RemotePointer>) {
        let Some(running) = self.alive(to, life) else { return };
        if let Some(Pending::Newest(slot)) = running.calls.remove(&id) {
            slot.fill(Ok(pointer));
        }
    }

    pub(super) fn call_timeout(&mut self, id: BrokerId, life: u32, call: u64) {
        let Some(running) = self.alive(id, life) else { return };
        if let Some(waits) = running.calls.remove(&call) {
            self.unanswered(id, life, waits);
        }
    }

    fn unanswered(&mut self, id: BrokerId, life: u32, waits: Pending) {
        let Some(running) = self.alive(id, life) else { return };
        match waits {
            Pending::Register => self.register(id),
            Pending::Beat => {}
            Pending::Isr(ask) => {
                running.isr_rests = Some(ask);
                self.at(RETRY_MS, Event::IsrRetry(id, life));
            }
            Pending::Advance(slot) => slot.fill(Err(strandline_tiering::Unknown)),
            Pending::Newest(slot) => slot.fill(Err(strandline_tiering::Unknown)),
        }
    }

    pub(super) fn heartbeat(&mut self, id: BrokerId, life: u32) {
        let (now, pause) = (self.now_ms, self.around(HEARTBEAT_MS));
        let Some(node) = self.nodes.get(&id).filter(|n| n.life == life) else { return };
        let Some(running) = node.up.as_ref() else { return };
        let beat = Heartbeat {
            broker_id: id,
            broker_epoch: running.broker_epoch,
            applied_index: running.applied as u64,
            ready: running.open,
            want_shutdown: running.wants_shutdown,
        };
        if running.broker_epoch >= 0 && node.mute_until_ms <= now {
            self.ask(id, Request::Heartbeat(beat), Pending::Beat);
        }
        self.at(pause, Event::Heartbeat(id, life));
    }

    /// Applies some more of the committed metadata; the first time once the node is registered, it opens its logs.
    pub(super) fn apply_metadata(&mut self, id: BrokerId, life: u32) -> Held {
        let log_len = self.controller.log.len();
        let most = 1 + self.streams.pace.below(4) as usize;
        let Some(running) = self.alive(id, life) else { return Ok(()) };
        let from = running.applied;
        let upto = log_len.min(from + most);
        // One that has all there is may have heard only now which registration is its own.
        let waits = !running.open && upto > 0;
        if running.broker_epoch >= 0 && (upto > from || waits) {
            running.applied = upto;
            let entries = &self.controller.log[from..upto];
            let image = Arc::clone(&self.controller.log[upto - 1].image);
            let records: Vec<MetadataRecord> = entries.iter().flat_map(|e| e.records.iter().cloned()).collect();
            let update = ImageUpdate { image, records: Arc::new(records) };
            self.follow(id, life, &update)?;
        }
        if let Some(running) = self.alive(id, life) {
            running.up_to_date = true;
        }
        Ok(())
    }

    /// A node that lacks committed metadata gets some soon.
    pub(super) fn send_metadata(&mut self, id: BrokerId) {
        let (now, log_len) = (self.now_ms, self.controller.log.len());
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let (life, slow) = (node.life, node.slow_until_ms > now);
        let lacks = |up: &&mut Box<Running>| up.up_to_date && up.broker_epoch >= 0 && up.applied < log_len;
        let Some(running) = node.up.as_mut().filter(lacks) else { return };
        running.up_to_date = false;
        let pause = if slow { 200 + self.streams.pace.below(800) as i64 } else { self.around(12) };
        self.at(pause, Event::ApplyMetadata(id, life));
    }

    fn follow(&mut self, id: BrokerId, life: u32, update: &ImageUpdate) -> Held {
        let now = self.now_ms;
        let Some(running) = self.alive(id, life) else { return Ok(()) };
        *running.door.image.lock() = Arc::clone(&update.image);
        if !running.open && !is_registered(&update.image, id, running.broker_epoch) {
            return Ok(());
        }
        let changes = if running.open {
            running.partitions.apply(update, now)
        } else {
            running.open = true;
            running.partitions.open_all(&update.image, &workers(), now);
            running.partitions.take_roles(&update.image, now)
        };
        self.take_roles(id, life, changes)
    }

    /// What a change of role starts and ends, in the order of the product's.
    fn take_roles(&mut self, id: BrokerId, life: u32, changes: Vec<RoleChange>) -> Held {
        for RoleChange { partition, began, leader } in changes {
            if began {
                let offsets = partition.offsets();
                self.trace.note(
                    self.now_ms,
                    format_args!("node {id} leads in epoch {} with {offsets:?}", partition.leader_epoch()),
                );
                if takeover::is_needed(&partition) {
                    self.fire("take-over");
                    self.trace.note(self.now_ms, format_args!("node {id} has to take over the remote log"));
                    let Some(running) = self.alive(id, life) else { return Ok(()) };
                    let (partition, partitions) = (Arc::clone(&partition), Arc::clone(&running.partitions));
                    let epoch = partition.leader_epoch();
                    let task = Task::new(async move { takeover::take_over(&partition, epoch, &partitions).await });
                    running.takeovers.push(task);
                }
                self.oracle.leads(id, &partition)?;
                if let Some(running) = self.alive(id, life) {
                    running.isr_look = true;
                }
            }
            if leader >= 0 {
                let Some(running) = self.alive(id, life) else { return Ok(()) };
                running.fetchers.entry(leader).or_insert(Fetcher::Idle);
                self.at(1, Event::FetchTick(id, life, leader));
            }
        }
        Ok(())
    }

    pub(super) fn sessions(&mut self) -> Held {
        if self.controller.away_until_ms <= self.now_ms {
            for (broker_id, broker_epoch) in self.controller.silent(self.now_ms, SESSION_MS) {
                self.trace.note(self.now_ms, format_args!("node {broker_id} was not heard of"));
                self.decide(&Request::Fence { broker_id, broker_epoch })?;
            }
        }
        self.at(100, Event::Sessions);
        Ok(())
    }

    /// Makes the topic, once enough brokers serve.
    pub(super) fn create_topic(&mut self) {
        let unfenced = self.controller.image.brokers.values().filter(|b| !b.fenced).count();
        let mut configs = BTreeMap::from([("min.insync.replicas".to_owned(), self.swarm.min_insync.to_string())]);
        if self.swarm.tiered {
            configs.insert("remote.storage.enable".to_owned(), "true".to_owned());
        }
        if self.swarm.unclean {
            configs.insert("unclean.leader.election.enable".to_owned(), "true".to_owned());
        }
        let topic = NewTopic {
            name: TOPIC.to_owned(),
            topic_id: self.tp.topic_id,
            partitions: 1,
            replication_factor: self.swarm.replication_factor,
            assignments: BTreeMap::new(),
            configs,
        };
        if unfenced >= 3 {
            let request = Request::CreateTopics { topics: vec![topic], validate_only: false };
            drop(self.controller.handle(&request, self.now_ms));
        }
        if self.controller.record(self.tp).is_none() {
            self.at(100, Event::Look);
        }
    }
}

fn name(request: &Request) -> &'static str {
    match request {
        Request::RegisterBroker(_) => "register",
        Request::Heartbeat(_) => "heartbeat",
        Request::Fence { .. } => "fence",
        Request::AlterIsr { .. } => "alter isr",
        Request::Reassign { .. } => "reassign",
        Request::ElectLeaders(_) => "elect",
        _ => "another request",
    }
}
