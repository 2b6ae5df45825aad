//! Whole nodes, their clients, and what is between and below them, on one thread.
//!
//! Owns time: in each tick the network delivers, then every host runs for [`TICK_MS`] on its own paused clock, in the order of
//! their ids. Owns starting, killing and cutting the power of nodes. Does not own what is done to them and when (`faults`), nor
//! what clients do (`clients`).
//! A host is a tokio runtime: dropping it ends all of its tasks at once, as the end of a process does.
//! Invariant: everything is a function of the seed.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use strandline::config::{NodeConfig, Properties};
use strandline::environment::Environment;
use strandline::node::{self, Node};
use strandline_client::network::Network;
use strandline_disk::{FaultyDisk, Workers};
use strandline_tiering::FaultyStore;
use tokio::runtime::Runtime;

use super::network::{CLIENTS, HostId, Power, SharedNet};
use super::system;
use crate::random::Random;

/// One step of simulated time, ms.
pub const TICK_MS: u64 = 1;
pub const NODES: u8 = 3;
pub const CLIENT_PORT: u16 = 9092;
const CONTROLLER_PORT: u16 = 9093;
/// A sync takes so long, ms; one in [`SLOW_SYNC_ONE_IN`] ten times as long.
const SYNC_MS: (u64, u64) = (0, 4);
const SLOW_SYNC_ONE_IN: u64 = 50;

/// Why a node ended that was asked to.
pub const STOPPED: &str = "stopped in order";
/// Why a node ended that has nothing left to serve from.
pub const DISK_FAILED: &str = "its disk has failed";

/// What of a world a seed decides beside its faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub tiered: bool,
}

/// What is known of a node's process.
#[derive(Default)]
struct Progress {
    node: Option<Node>,
    /// It ended by itself: why.
    ended: Option<String>,
}

/// One node's machine.
pub struct Host {
    pub id: HostId,
    pub disk: FaultyDisk,
    pub store: Arc<FaultyStore>,
    runtime: Option<Runtime>,
    progress: Arc<Mutex<Progress>>,
    /// ms of simulated time that its clock has not seen.
    behind_ms: u64,
    /// Does not run until then.
    pub paused_until_ms: u64,
    /// Its wall clock minus the others', ms.
    pub skew_ms: i64,
    /// An operation of its disk fails, or is to: until the process ends, anything may come of it that is no panic.
    pub disk_fails: bool,
    random: Random,
}

/// All of it.
pub struct World {
    pub now_ms: u64,
    pub net: SharedNet,
    pub hosts: Vec<Host>,
    pub clients: Runtime,
    shape: Shape,
    /// Chunk files of the nodes' tiers; real files, removed with the world.
    scratch: PathBuf,
}

fn runtime() -> Runtime {
    let builder = &mut tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().expect("a runtime without threads")
}

impl World {
    /// A world with its machines, switched off.
    pub fn new(seed: u64, shape: Shape, scratch: PathBuf) -> Self {
        let mut random = Random::new(seed);
        let net = SharedNet::new(random.word());
        let bucket = FaultyStore::in_memory(random.word());
        let host = |id| Host {
            id,
            disk: FaultyDisk::new(),
            store: bucket.beside(random.word()),
            runtime: None,
            progress: Arc::default(),
            behind_ms: 0,
            paused_until_ms: 0,
            skew_ms: 0,
            disk_fails: false,
            random: Random::new(random.word()),
        };
        let hosts = (1..=NODES).map(host).collect();
        World { now_ms: 0, net, hosts, clients: runtime(), shape, scratch }
    }

    pub fn host(&mut self, id: HostId) -> &mut Host {
        &mut self.hosts[usize::from(id) - 1]
    }

    /// The network as the clients have it.
    pub fn client_network(&self) -> Network {
        Network::Simulated(self.net.endpoint(CLIENTS))
    }

    pub fn bootstrap(&self) -> String {
        (1..=NODES).map(|id| format!("host-{id}:{CLIENT_PORT}")).collect::<Vec<_>>().join(",")
    }

    /// Starts a node on what its disk holds.
    pub fn start(&mut self, id: HostId) {
        let config = config(id, self.shape, &self.scratch);
        let network = Network::Simulated(self.net.endpoint(id));
        self.net.lock().up(id);
        let host = self.host(id);
        let sync = Arc::new(Mutex::new(Random::new(host.random.word())));
        let environment = Environment {
            disk: Arc::new(host.disk.clone()),
            network,
            workers: Workers::Tasks(Arc::new(move || {
                sync_time(&mut sync.lock().unwrap_or_else(PoisonError::into_inner))
            })),
            store: Some(Arc::clone(&host.store)),
        };
        host.progress = Arc::default();
        (host.behind_ms, host.paused_until_ms) = (0, 0);
        let (runtime, progress) = (runtime(), Arc::clone(&host.progress));
        let watched = Arc::clone(&host.progress);
        runtime.spawn(async move {
            let started = node::start_in(config, environment).await;
            let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
            match started {
                Ok(node) => {
                    let (broker, ended) = (Arc::clone(&node.broker), Arc::clone(&watched));
                    progress.node = Some(node);
                    tokio::spawn(async move {
                        broker.partitions.losses().nothing_left().await;
                        ended.lock().unwrap_or_else(PoisonError::into_inner).ended = Some(DISK_FAILED.to_owned());
                    });
                }
                Err(error) => progress.ended = Some(error.to_string()),
            }
        });
        host.runtime = Some(runtime);
    }

    /// Ends a node's process; what it wrote stays.
    pub fn kill(&mut self, id: HostId) {
        self.net.lock().down(id, Power::NoProcess);
        let host = self.host(id);
        host.disk = host.disk.kill();
        host.disk_fails = false;
        host.end();
    }

    /// Cuts a node's power; of what it did not sync any part may be gone.
    pub fn cut_power(&mut self, id: HostId) {
        self.net.lock().down(id, Power::Off);
        let host = self.host(id);
        let seed = host.random.word();
        host.disk = host.disk.crash(seed);
        host.disk_fails = false;
        host.end();
    }

    /// Asks a node to stop in order; it ends when it has.
    pub fn stop(&mut self, id: HostId) {
        let host = self.host(id);
        let node = host.progress().node.take();
        let (Some(node), Some(runtime)) = (node, &host.runtime) else { return };
        let progress = Arc::clone(&host.progress);
        runtime.spawn(async move {
            node.stop().await;
            progress.lock().unwrap_or_else(PoisonError::into_inner).ended = Some(STOPPED.to_owned());
        });
    }

    /// One step of time.
    pub fn tick(&mut self) {
        self.now_ms += TICK_MS;
        let now = self.now_ms;
        self.net.lock().deliver(now);
        for host in &mut self.hosts {
            system::set_wall_clock((system::BEGIN_MS + now).saturating_add_signed(host.skew_ms));
            host.run(now);
        }
        system::set_wall_clock(system::BEGIN_MS + now);
        run_for(&self.clients, TICK_MS);
        // Power that fails in the middle of a write is noticed here.
        let failed: Vec<HostId> =
            self.hosts.iter().filter(|h| h.runtime.is_some() && h.disk.crashed()).map(|h| h.id).collect();
        failed.into_iter().for_each(|id| self.cut_power(id));
    }

    /// Ticks until `done`, at most for `ms`; whether it was done.
    pub fn tick_until(&mut self, ms: u64, mut done: impl FnMut(&mut World) -> bool) -> bool {
        let end = self.now_ms + ms;
        while self.now_ms < end {
            if done(self) {
                return true;
            }
            self.tick();
        }
        done(self)
    }

    /// Runs a client's work to its end, while the world goes on; `None` = it took longer than `ms`.
    pub fn block_on<T: Send + 'static>(
        &mut self,
        ms: u64,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let task = self.clients.spawn(work);
        self.tick_until(ms, |_| task.is_finished());
        if !task.is_finished() {
            task.abort();
            return None;
        }
        let mut result = None;
        self.clients.block_on(async { result = task.await.ok() });
        result
    }
}

impl Host {
    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn runs(&self) -> bool {
        self.runtime.is_some()
    }

    /// It serves clients.
    pub fn serves(&self) -> bool {
        self.runtime.is_some() && self.progress().node.is_some()
    }

    /// Why it ended by itself, if it did.
    pub fn ended(&self) -> Option<String> {
        self.progress().ended.clone()
    }

    /// Looks at the node, if it serves.
    pub fn with_node<T>(&self, look: impl FnOnce(&Node) -> T) -> Option<T> {
        self.progress().node.as_ref().map(look)
    }

    fn end(&mut self) {
        // Tasks first: they hold references that the node's parts are counted by.
        self.runtime = None;
        self.progress = Arc::default();
    }

    fn run(&mut self, now_ms: u64) {
        self.behind_ms += TICK_MS;
        if now_ms < self.paused_until_ms {
            return;
        }
        let Some(runtime) = &self.runtime else { return };
        let behind = std::mem::take(&mut self.behind_ms);
        if behind > TICK_MS {
            // Its clock went on while it did not run.
            runtime.block_on(async { tokio::time::advance(Duration::from_millis(behind - TICK_MS)).await });
        }
        run_for(runtime, TICK_MS);
    }
}

fn run_for(runtime: &Runtime, ms: u64) {
    runtime.block_on(async { tokio::time::sleep(Duration::from_millis(ms)).await });
}

fn sync_time(random: &mut Random) -> Duration {
    let ms = SYNC_MS.0 + random.below(SYNC_MS.1 - SYNC_MS.0 + 1);
    let slow = random.below(SLOW_SYNC_ONE_IN) == 0;
    Duration::from_millis(if slow { ms * 10 } else { ms })
}

fn config(id: HostId, shape: Shape, scratch: &std::path::Path) -> NodeConfig {
    let voters = (1..=NODES).map(|n| format!("{n}@host-{n}:{CONTROLLER_PORT}")).collect::<Vec<_>>().join(",");
    let mut settings = vec![
        ("node.id", id.to_string()),
        ("process.roles", "broker,controller".to_owned()),
        ("controller.quorum.voters", voters),
        ("listeners", format!("PLAINTEXT://host-{id}:{CLIENT_PORT},CONTROLLER://host-{id}:{CONTROLLER_PORT}")),
        ("advertised.listeners", format!("PLAINTEXT://host-{id}:{CLIENT_PORT}")),
        ("log.dirs", "/data".to_owned()),
        ("min.insync.replicas", "2".to_owned()),
        ("default.replication.factor", NODES.to_string()),
        ("offsets.topic.replication.factor", NODES.to_string()),
        ("offsets.topic.num.partitions", "2".to_owned()),
        ("group.initial.rebalance.delay.ms", "0".to_owned()),
        ("replica.lag.time.max.ms", "4000".to_owned()),
        ("log.retention.check.interval.ms", "1000".to_owned()),
        ("log.initial.task.delay.ms", "500".to_owned()),
        ("remote.log.manager.task.interval.ms", "1000".to_owned()),
    ];
    if shape.tiered {
        settings.push(("tier.url", "s3://simulated".to_owned()));
        settings.push(("tier.cache.dir", scratch.join(format!("cache-{id}")).display().to_string()));
    }
    let mut properties = Properties::default();
    for (key, value) in settings {
        properties.set(key, value, "simulation");
    }
    let mut config = NodeConfig::from_properties(&properties, |_| None).expect("a configuration of the simulation");
    config.admin_listener = None;
    config
}
