//! The faults: how each is made, how it is ended, and how it proves that it was felt.

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use strandline_tests::amnesia;
use strandline_tests::netns::HOST;
use strandline_tests::random::Random;
use strandline_tests::wait;

use crate::cluster::{Cluster, NODES, Node};

/// Rates of a slow link, kbit/s.
const SLOW_KILOBITS: [u32; 3] = [64, 256, 1_000];
/// How long a fault is held, ms: at least, and how much more at most.
const HOLD_MS: (u64, u64) = (1_000, 9_000);
/// How long a signal may take to stop a process.
const FREEZE: Duration = Duration::from_secs(5);
/// Kills of one restart storm.
const STORM: u64 = 4;

/// What goes wrong. Nodes are numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL; started again afterwards.
    Kill(u8),
    /// SIGKILL of every node at once.
    KillAll,
    /// SIGKILL of one node after the other, each started again at once and not waited for.
    Storm,
    /// The power of one node fails: it is killed, and its disk forgets what was not synced.
    PowerLoss(u8),
    /// The power of all nodes fails at once.
    Blackout,
    /// SIGSTOP.
    Pause(u8),
    /// Cut off from the other nodes, not from clients.
    Isolate(u8),
    /// Cut off from everything.
    Unplug(u8),
    /// The others do not hear it.
    Mute(u8),
    /// It does not hear the others.
    Deaf(u8),
    /// These two do not reach each other; the third reaches both.
    Split(u8, u8),
    /// From a node to a node, one way.
    OneWay(u8, u8),
    /// A slow link, kbit/s.
    Slow(u8, u32),
    /// The object store is gone.
    StoreDown,
    /// The object store is slow and refuses some requests.
    StoreSlow,
    /// The node's disk takes no more writes and says that it is full; afterwards the node is started anew.
    FullDisk(u8),
    /// The same, and the disk says that there is room.
    Quota(u8),
    /// The node's disk fails to sync; then its power fails.
    BrokenDisk(u8),
}

/// What a schedule can draw from.
#[derive(Debug, Clone, Copy)]
pub struct Means {
    pub store: bool,
    /// The disks are of the kind that can be filled and broken.
    pub disks: bool,
}

impl Fault {
    /// Its kind, for the ledger.
    pub fn kind(self) -> &'static str {
        match self {
            Fault::Kill(_) => "kill",
            Fault::KillAll => "kill-all",
            Fault::Storm => "restart-storm",
            Fault::PowerLoss(_) => "power-loss",
            Fault::Blackout => "blackout",
            Fault::Pause(_) => "pause",
            Fault::Isolate(_) => "isolate",
            Fault::Unplug(_) => "unplug",
            Fault::Mute(_) => "mute",
            Fault::Deaf(_) => "deaf",
            Fault::Split(..) => "split",
            Fault::OneWay(..) => "one-way",
            Fault::Slow(..) => "slow-link",
            Fault::StoreDown => "store-down",
            Fault::StoreSlow => "store-slow",
            Fault::FullDisk(_) => "full-disk",
            Fault::Quota(_) => "quota",
            Fault::BrokenDisk(_) => "broken-disk",
        }
    }

    /// Every kind, drawn with equal chance but for kills, pauses and partitions of one node, which come twice as often.
    fn draw(random: &mut Random, leader: u8, means: Means) -> Self {
        let node = |random: &mut Random| u8::try_from(1 + random.below(u64::from(NODES))).expect("a node");
        // Half of the faults go to a leader: that is where they hurt.
        let victim = if random.below(2) == 0 { leader } else { node(random) };
        let other = 1 + (victim + u8::try_from(random.below(u64::from(NODES) - 1)).expect("a node")) % NODES;
        let rate = SLOW_KILOBITS[usize::try_from(random.below(SLOW_KILOBITS.len() as u64)).expect("an index")];
        let mut kinds = vec![
            Fault::Kill(victim),
            Fault::Kill(victim),
            Fault::Pause(victim),
            Fault::Pause(victim),
            Fault::Isolate(victim),
            Fault::Isolate(victim),
            Fault::Unplug(victim),
            Fault::Unplug(victim),
            Fault::Mute(victim),
            Fault::Deaf(victim),
            Fault::Split(victim, other),
            Fault::OneWay(victim, other),
            Fault::Slow(victim, rate),
            Fault::Storm,
            Fault::KillAll,
        ];
        if means.store {
            kinds.extend([Fault::StoreDown, Fault::StoreSlow]);
        }
        if means.disks {
            kinds.extend([Fault::PowerLoss(victim), Fault::Blackout]);
            kinds.extend([Fault::FullDisk(victim), Fault::Quota(victim), Fault::BrokenDisk(victim)]);
        }
        kinds[usize::try_from(random.below(kinds.len() as u64)).expect("an index")]
    }

    /// The one-way cuts that it is made of.
    fn cuts(self) -> Vec<(u8, u8)> {
        let others = |node: u8| (1..=NODES).filter(move |other| *other != node);
        let out = |node: u8| others(node).map(move |other| (node, other));
        let both = |pairs: Vec<(u8, u8)>| pairs.into_iter().flat_map(|(a, b)| [(a, b), (b, a)]).collect();
        match self {
            Fault::Isolate(node) => both(out(node).collect()),
            Fault::Unplug(node) => both(out(node).chain([(node, HOST)]).collect()),
            Fault::Mute(node) => out(node).collect(),
            Fault::Deaf(node) => out(node).map(|(a, b)| (b, a)).collect(),
            Fault::Split(a, b) => both(vec![(a, b)]),
            Fault::OneWay(a, b) => vec![(a, b)],
            _ => Vec::new(),
        }
    }

    /// Makes it, holds it, ends it. Err = it did not fire: the run proves nothing.
    pub fn strike(self, cluster: &mut Cluster, random: &mut Random) -> Result<(), String> {
        let hold = Duration::from_millis(HOLD_MS.0 + random.below(HOLD_MS.1));
        match self {
            Fault::Kill(node) => {
                let ran = cluster.node(node).kill();
                wait::pause(hold);
                cluster.node(node).up();
                cluster.node(node).await_serving();
                fired(ran, "the node had ended before it was killed")
            }
            Fault::KillAll => {
                let ran =
                    cluster.nodes.iter_mut().map(|node| node.kill()).filter(|ran| *ran).count() == usize::from(NODES);
                cluster.nodes.iter_mut().for_each(|node| node.up());
                cluster.nodes.iter_mut().for_each(|node| node.await_serving());
                fired(ran, "a node had ended before it was killed")
            }
            Fault::PowerLoss(node) => {
                let ran = cluster.node(node).lose_power(random);
                wait::pause(hold);
                cluster.node(node).up();
                cluster.node(node).await_serving();
                fired(ran, "the node had ended before its power failed")
            }
            Fault::Blackout => {
                // All are stopped before the first is killed: none may see another go.
                cluster.nodes.iter_mut().for_each(|node| node.server().freeze());
                let ran = cluster.nodes.iter_mut().map(|node| node.lose_power(random)).filter(|ran| *ran).count();
                cluster.nodes.iter_mut().for_each(|node| node.up());
                cluster.nodes.iter_mut().for_each(|node| node.await_serving());
                fired(ran == usize::from(NODES), "a node had ended before its power failed")
            }
            Fault::Storm => self.storm(cluster, random),
            Fault::Pause(node) => {
                cluster.node(node).server().freeze();
                wait::until("the node is stopped", FREEZE, || cluster.node(node).is_frozen().then_some(()));
                wait::pause(hold);
                let frozen = cluster.node(node).is_frozen();
                cluster.node(node).server().resume();
                fired(frozen, "the node was not stopped to the end")
            }
            Fault::Slow(node, kilobits) => {
                cluster.network.slow(node, kilobits);
                wait::pause(hold);
                fired(cluster.network.speed_up(node) > 0, "no packet had to wait")
            }
            Fault::StoreDown => {
                let store = cluster.store.as_mut().expect("drawn only with a store");
                let ran = store.down();
                let gone = !store.answers();
                wait::pause(hold);
                store.up();
                fired(ran && gone, "the store was not taken away")
            }
            Fault::StoreSlow => {
                let proxy = &cluster.store.as_ref().expect("drawn only with a store").proxy;
                proxy.troubled();
                let before = proxy.weather.requests.load(Ordering::Relaxed);
                wait::pause(hold);
                let requests = proxy.weather.requests.load(Ordering::Relaxed) - before;
                proxy.fair();
                fired(requests > 0, "the store was not asked")
            }
            Fault::FullDisk(node) => fail_disk(cluster.node(node), amnesia::Fault::Full, hold, None),
            Fault::Quota(node) => fail_disk(cluster.node(node), amnesia::Fault::Quota, hold, None),
            Fault::BrokenDisk(node) => fail_disk(cluster.node(node), amnesia::Fault::SyncFails, hold, Some(random)),
            _ => {
                let cuts = self.cuts();
                cuts.iter().for_each(|(from, to)| cluster.network.cut(*from, *to));
                wait::pause(hold);
                let swallowed: u64 = cuts.iter().map(|(from, to)| cluster.network.mend(*from, *to)).sum();
                fired(swallowed > 0, "no packet was swallowed")
            }
        }
    }

    fn storm(self, cluster: &mut Cluster, random: &mut Random) -> Result<(), String> {
        let mut ran = true;
        for _ in 0..STORM {
            let node = u8::try_from(1 + random.below(u64::from(NODES))).expect("a node");
            ran &= cluster.node(node).kill();
            cluster.node(node).up();
            wait::pause(Duration::from_millis(random.below(3_000)));
        }
        cluster.nodes.iter_mut().for_each(|node| node.await_serving());
        fired(ran, "a node had ended before it was killed")
    }
}

/// A node's disk refuses for a while. The node may end or take its log directory offline; it is killed, and started on the mended disk,
/// with `power`, after that forgot what was not synced.
fn fail_disk(node: &mut Node, fault: amnesia::Fault, hold: Duration, power: Option<&mut Random>) -> Result<(), String> {
    let disk = node.disk.as_ref().expect("drawn only with such disks");
    let before = disk.failed();
    disk.trouble(Some(fault));
    wait::pause(hold);
    disk.trouble(None);
    let failed = disk.failed() - before;
    match power {
        Some(random) => node.lose_power(random),
        None => node.kill(),
    };
    node.up();
    node.await_serving();
    fired(failed > 0, "the disk was not used")
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

fn fired(did: bool, otherwise: &str) -> Result<(), String> {
    if did { Ok(()) } else { Err(otherwise.to_owned()) }
}

/// The next fault of a schedule; `leader` = a node that leads a partition at the moment.
pub fn next(random: &mut Random, leader: u8, means: Means) -> Fault {
    Fault::draw(random, leader, means)
}
