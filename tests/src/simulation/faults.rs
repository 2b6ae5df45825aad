//! What goes wrong in a simulation: drawn from its seed, struck, and ended when its time is over.
//!
//! Owns the faults under way and when nodes that are down start again. Does not own how a node dies (`world`) nor how bytes are
//! held back (`network`).

use std::collections::BTreeMap;
use std::fmt;

use strandline_disk::InjectedError;

use super::network::{CLIENTS, HostId};
use super::world::{DISK_FAILED, NODES, STOPPED, World};
use crate::random::Random;

/// How much a wall clock is wrong, at most, ms.
const SKEW_MAX_MS: u64 = 90_000;
/// How long a fault lasts, or a node is down, ms.
const LASTS_MS: (u64, u64) = (50, 6_000);

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The process ends; its disk keeps what was written.
    Kill(HostId),
    /// The disk keeps what was synced, and any part of the rest.
    PowerLoss(HostId),
    /// So many changes of the disk later.
    PowerLossInWrite(HostId, u64),
    KillAll,
    PowerLossOfAll,
    StopInOrder(HostId),
    /// It does not run, and its clock goes on.
    Pause(HostId),
    /// From all nodes and clients.
    Isolate(HostId),
    /// From the other nodes; clients reach it.
    CutOff(HostId),
    /// It hears the others, and they do not hear it.
    Mute(HostId),
    /// The others hear it, and it does not hear them.
    Deaf(HostId),
    /// Two nodes do not reach each other.
    Between(HostId, HostId),
    /// More latency, ms.
    Slow(HostId, u64),
    BreakConnections,
    /// So many of a node's calls of 100 to the store go wrong.
    Store(HostId, u64),
    /// No call of any node to the store succeeds.
    NoStore,
    /// So many changes of the disk later one of them fails, with an I/O error, or as a sync that loses what it was to keep (`true`).
    DiskError(HostId, u64, bool),
    /// A node's wall clock differs by so much from the others', ms.
    Clock(HostId, i64),
}

impl Fault {
    fn draw(random: &mut Random) -> Fault {
        let node = HostId::try_from(1 + random.below(u64::from(NODES))).expect("a small id");
        let other = HostId::try_from(1 + (u64::from(node) + random.below(2)) % 3).expect("a small id");
        match random.below(23) {
            0..=2 => Fault::Kill(node),
            3 | 4 => Fault::PowerLoss(node),
            5 | 6 => Fault::PowerLossInWrite(node, random.below(40)),
            7 => Fault::KillAll,
            8 => Fault::PowerLossOfAll,
            9 | 10 => Fault::StopInOrder(node),
            11 => Fault::Pause(node),
            12 => Fault::Isolate(node),
            13 => Fault::CutOff(node),
            14 if random.below(2) == 0 => Fault::Mute(node),
            14 => Fault::Deaf(node),
            15 => Fault::Between(node, other),
            16 => Fault::Slow(node, 20 + random.below(400)),
            17 => Fault::BreakConnections,
            18 => Fault::Store(node, 10 + random.below(60)),
            19 => Fault::NoStore,
            20 | 21 => Fault::DiskError(node, random.below(60), random.below(2) == 0),
            _ => Fault::Clock(node, random.below(2 * SKEW_MAX_MS).cast_signed() - SKEW_MAX_MS.cast_signed()),
        }
    }

    /// For counting.
    pub fn kind(self) -> &'static str {
        match self {
            Fault::Kill(_) => "kill",
            Fault::PowerLoss(_) => "power loss",
            Fault::PowerLossInWrite(..) => "power loss in a write",
            Fault::KillAll => "kill of all",
            Fault::PowerLossOfAll => "power loss of all",
            Fault::StopInOrder(_) => "stop in order",
            Fault::Pause(_) => "pause",
            Fault::Isolate(_) => "isolated",
            Fault::CutOff(_) => "cut off",
            Fault::Mute(_) => "mute",
            Fault::Deaf(_) => "deaf",
            Fault::Between(..) => "between two",
            Fault::Slow(..) => "slow",
            Fault::BreakConnections => "broken connections",
            Fault::Store(..) => "store faults",
            Fault::NoStore => "no store",
            Fault::DiskError(..) => "disk error",
            Fault::Clock(..) => "clock",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// The faults of a run.
pub struct Faults {
    random: Random,
    /// Until when, ms, and what.
    lasting: Vec<(u64, Fault)>,
    /// When a node that is down starts, ms.
    starts: BTreeMap<HostId, u64>,
    /// Struck so far, and when, ms.
    pub struck: Vec<(u64, Fault)>,
}

impl Faults {
    pub fn new(seed: u64) -> Self {
        Faults { random: Random::new(seed), lasting: Vec::new(), starts: BTreeMap::new(), struck: Vec::new() }
    }

    fn lasts(&mut self) -> u64 {
        let span = LASTS_MS.1 - LASTS_MS.0;
        // Short ones are as likely as long ones.
        let scale = 1 << self.random.below(6);
        LASTS_MS.0 + self.random.below(span) / scale
    }

    /// Strikes one that is drawn.
    pub fn strike(&mut self, world: &mut World) {
        let fault = Fault::draw(&mut self.random);
        self.strike_with(world, fault);
    }

    pub fn strike_with(&mut self, world: &mut World, fault: Fault) {
        tracing::info!(at = world.now_ms, %fault, "strikes");
        self.struck.push((world.now_ms, fault));
        let until = world.now_ms + self.lasts();
        let all = 1..=NODES;
        match fault {
            Fault::Kill(id) if world.host(id).runs() => world.kill(id),
            Fault::PowerLoss(id) if world.host(id).runs() => world.cut_power(id),
            Fault::PowerLossInWrite(id, after) => {
                let disk = &world.host(id).disk;
                disk.crash_at(disk.operations() + after);
            }
            Fault::DiskError(id, after, loses) => {
                let host = world.host(id);
                let error = if loses { InjectedError::SyncLosesPages } else { InjectedError::Io };
                host.disk.fail_operation(host.disk.operations() + after, error);
                host.disk_fails = true;
            }
            Fault::Clock(id, ms) => world.host(id).skew_ms = ms,
            Fault::KillAll => {
                all.filter(|id| world.host(*id).runs()).collect::<Vec<_>>().into_iter().for_each(|id| world.kill(id))
            }
            Fault::PowerLossOfAll => all.for_each(|id| world.cut_power(id)),
            Fault::StopInOrder(id) => world.stop(id),
            Fault::Pause(id) => world.host(id).paused_until_ms = until,
            Fault::BreakConnections => world.net.lock().break_connections(2),
            _ => {
                self.lasting.push((until, fault));
                self.apply(world);
            }
        }
    }

    /// Ends what is over and starts what is due. Err = a node does not start.
    pub fn tick(&mut self, world: &mut World) -> Result<(), String> {
        let now = world.now_ms;
        let before = self.lasting.len();
        self.lasting.retain(|(until, _)| *until > now);
        if self.lasting.len() != before {
            self.apply(world);
        }
        for id in 1..=NODES {
            if let Some(why) = world.host(id).ended() {
                let expected = [STOPPED, DISK_FAILED].contains(&why.as_str());
                if !expected && !world.host(id).disk.crashed() && !world.host(id).disk_fails {
                    return Err(format!("node {id} does not start at {now} ms: {why}"));
                }
                world.kill(id);
            }
            if world.host(id).runs() {
                continue;
            }
            match self.starts.get(&id) {
                None => {
                    let at = now + self.lasts();
                    self.starts.insert(id, at);
                }
                Some(at) if *at <= now => {
                    self.starts.remove(&id);
                    tracing::info!(at = now, id, "starts");
                    world.start(id);
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Ends all faults; nodes that are down start with the next tick, and those whose disk went wrong anew: what such a node could not open
    /// it does not serve until then.
    pub fn heal(&mut self, world: &mut World) {
        tracing::info!(at = world.now_ms, "heals");
        let failing = (1..=NODES).filter(|id| world.host(*id).disk_fails && world.host(*id).runs()).collect::<Vec<_>>();
        failing.into_iter().for_each(|id| world.kill(id));
        self.lasting.clear();
        self.starts = (1..=NODES).map(|id| (id, world.now_ms)).collect();
        for host in &mut world.hosts {
            (host.paused_until_ms, host.skew_ms) = (0, 0);
            host.disk.heal_operations();
            if host.runs() {
                host.disk.crash_at(u64::MAX);
            }
        }
        self.apply(world);
    }

    /// Makes network and stores be as what lasts says.
    fn apply(&self, world: &mut World) {
        let mut percents = [0; NODES as usize + 1];
        let mut net = world.net.lock();
        net.heal();
        let others = |id: HostId| (1..=NODES).filter(move |other| *other != id);
        for (_, fault) in &self.lasting {
            match *fault {
                Fault::Isolate(id) => {
                    for other in others(id).chain([CLIENTS]) {
                        net.cut(id, other);
                        net.cut(other, id);
                    }
                }
                Fault::CutOff(id) => {
                    for other in others(id) {
                        net.cut(id, other);
                        net.cut(other, id);
                    }
                }
                Fault::Mute(id) => others(id).for_each(|other| net.cut(id, other)),
                Fault::Deaf(id) => others(id).for_each(|other| net.cut(other, id)),
                Fault::Between(a, b) => {
                    net.cut(a, b);
                    net.cut(b, a);
                }
                Fault::Slow(id, ms) => net.slow_down(id, ms),
                Fault::Store(id, percent) => percents[usize::from(id)] = percents[usize::from(id)].max(percent),
                Fault::NoStore => percents = [100; NODES as usize + 1],
                _ => {}
            }
        }
        drop(net);
        for host in &world.hosts {
            let percent = percents[usize::from(host.id)];
            if percent == 100 {
                host.store.only(strandline_tiering::Fault::BeforeEffect, 100);
            } else {
                host.store.all(percent);
            }
        }
    }
}
