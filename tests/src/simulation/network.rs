//! A network in memory: connections between hosts, with latency, and everything that goes wrong with them.
//!
//! Owns bytes under way and ports. Does not own time: [`Net::deliver`] is called with it, tick by tick. Bytes of one direction
//! arrive in order and once, as TCP's do, or the connection breaks. A cut holds back what is under way; a host without power
//! takes nothing and says nothing; a process that died resets its connections.
//! Invariants: at most [`WINDOW_BYTES`] are under way in a direction; everything is a function of the seed and of the calls.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use strandline_client::network::{BoxedFuture, Pipe, SimulatedListener, SimulatedNetwork};
use tokio::io::ReadBuf;

use super::trace::Trace;
use crate::random::Random;

/// A host: node ids, and [`CLIENTS`].
pub type HostId = u8;
/// The host of all clients.
pub const CLIENTS: HostId = 0;

/// Bytes of one direction sent and not read.
const WINDOW_BYTES: usize = 256 << 10;
/// Between two hosts, ms.
const LATENCY_MS: (u64, u64) = (1, 3);

/// Whether a host answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    On,
    /// Its machine is there, the process is not: connecting is refused.
    NoProcess,
    /// Nothing answers.
    Off,
}

#[derive(Default)]
struct Direction {
    /// When each piece arrives, ms.
    under_way: VecDeque<(u64, Vec<u8>)>,
    arrived: VecDeque<u8>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// When the sender's end was closed; the stream ends behind what is under way.
    closing: Option<u64>,
    ended: bool,
}

impl Direction {
    fn held(&self) -> usize {
        self.arrived.len() + self.under_way.iter().map(|(_, bytes)| bytes.len()).sum::<usize>()
    }

    fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }
}

struct Connection {
    /// Who connected, and to whom; direction 0 goes from the first to the second.
    hosts: [HostId; 2],
    directions: [Direction; 2],
    /// Ends that know that it is broken.
    reset: [bool; 2],
    /// Ends whose process is there.
    alive: [bool; 2],
    /// Resets on their way to an end, and when they arrive, ms.
    resetting: [Option<u64>; 2],
}

enum Connecting {
    /// Arrives at this time, ms.
    Asked(u64),
    /// The answer arrives at this time, ms.
    Answered(u64, u64),
    Refused(u64),
    /// Known to who asked.
    Open(u64),
    Failed,
}

struct Attempt {
    from: HostId,
    to: HostId,
    port: u16,
    state: Connecting,
    waker: Option<Waker>,
}

#[derive(Default)]
struct Port {
    queue: VecDeque<(u64, SocketAddr)>,
    waker: Option<Waker>,
}

/// All hosts and what is between them.
pub struct Net {
    now_ms: u64,
    random: Random,
    pub trace: Trace,
    power: BTreeMap<HostId, Power>,
    ports: BTreeMap<(HostId, u16), Port>,
    attempts: BTreeMap<u64, Attempt>,
    connections: BTreeMap<u64, Connection>,
    next_id: u64,
    /// From, to: what goes this way is held back.
    cuts: BTreeSet<(HostId, HostId)>,
    /// More latency of a host's links, ms.
    slow: BTreeMap<HostId, u64>,
}

/// The network, shared by its endpoints.
#[derive(Clone)]
pub struct SharedNet(Arc<Mutex<Net>>);

impl SharedNet {
    pub fn new(seed: u64) -> Self {
        SharedNet(Arc::new(Mutex::new(Net {
            now_ms: 0,
            random: Random::new(seed),
            trace: Trace::default(),
            power: BTreeMap::new(),
            ports: BTreeMap::new(),
            attempts: BTreeMap::new(),
            connections: BTreeMap::new(),
            next_id: 1,
            cuts: BTreeSet::new(),
            slow: BTreeMap::new(),
        })))
    }

    pub fn lock(&self) -> MutexGuard<'_, Net> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The network as one host has it.
    pub fn endpoint(&self, host: HostId) -> Arc<dyn SimulatedNetwork> {
        Arc::new(Endpoint { net: self.clone(), host })
    }
}

fn broken() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl Net {
    fn arrival(&mut self, from: HostId, to: HostId) -> u64 {
        let extra: u64 = [from, to].iter().filter_map(|host| self.slow.get(host)).sum();
        self.now_ms + LATENCY_MS.0 + self.random.below(LATENCY_MS.1 - LATENCY_MS.0 + 1) + extra
    }

    fn passes(&self, from: HostId, to: HostId) -> bool {
        !self.cuts.contains(&(from, to))
    }

    fn power(&self, host: HostId) -> Power {
        self.power.get(&host).copied().unwrap_or(Power::On)
    }

    /// What is sent from one host to the other is held back until [`Net::heal`].
    pub fn cut(&mut self, from: HostId, to: HostId) {
        self.cuts.insert((from, to));
    }

    /// Ends all cuts and slowness.
    pub fn heal(&mut self) {
        self.cuts.clear();
        self.slow.clear();
    }

    /// Adds latency to all links of a host, ms.
    pub fn slow_down(&mut self, host: HostId, ms: u64) {
        self.slow.insert(host, ms);
    }

    /// The host's process is gone, and its connections with it.
    pub fn down(&mut self, host: HostId, power: Power) {
        self.power.insert(host, power);
        self.ports.retain(|(at, _), _| *at != host);
        self.attempts.retain(|_, attempt| attempt.from != host);
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        for id in ids {
            let hosts = self.connections[&id].hosts;
            for end in 0..2 {
                if hosts[end] == host {
                    // A kernel that lives says so; a machine without power does not.
                    let told = (power == Power::NoProcess).then(|| self.arrival(host, hosts[1 - end]));
                    let connection = self.connections.get_mut(&id).expect("it was listed");
                    connection.alive[end] = false;
                    connection.resetting[1 - end] = connection.resetting[1 - end].or(told);
                }
            }
        }
    }

    pub fn up(&mut self, host: HostId) {
        self.power.insert(host, Power::On);
    }

    /// Breaks about one connection in `one_in`, at both ends.
    pub fn break_connections(&mut self, one_in: u64) {
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        for id in ids {
            if self.random.below(one_in) == 0 {
                let connection = self.connections.get_mut(&id).expect("it was listed");
                connection.reset = [true, true];
                connection.directions.iter_mut().for_each(Direction::wake);
            }
        }
    }

    /// Hands over what arrives by `now_ms`.
    pub fn deliver(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        self.deliver_attempts();
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        for id in ids {
            self.deliver_bytes(id);
            self.deliver_resets(id);
        }
        self.connections.retain(|_, c| (0..2).any(|end| c.alive[end] && !c.reset[end]));
    }

    fn deliver_attempts(&mut self) {
        let ids: Vec<u64> = self.attempts.keys().copied().collect();
        for id in ids {
            let Attempt { from, to, port, .. } = self.attempts[&id];
            match self.attempts[&id].state {
                Connecting::Asked(at) if at <= self.now_ms && self.passes(from, to) => {
                    let answer = self.arrival(to, from);
                    let open = self.ports.contains_key(&(to, port));
                    let state = match self.power(to) {
                        Power::Off => continue,
                        Power::On if open => {
                            let connection = self.connect(from, to, port);
                            Connecting::Answered(answer, connection)
                        }
                        _ => Connecting::Refused(answer),
                    };
                    self.attempts.get_mut(&id).expect("it was listed").state = state;
                }
                Connecting::Answered(at, connection) if at <= self.now_ms && self.passes(to, from) => {
                    self.settle(id, Connecting::Open(connection));
                }
                Connecting::Refused(at) if at <= self.now_ms && self.passes(to, from) => {
                    self.settle(id, Connecting::Failed);
                }
                _ => {}
            }
        }
    }

    fn settle(&mut self, id: u64, state: Connecting) {
        let attempt = self.attempts.get_mut(&id).expect("it was listed");
        attempt.state = state;
        attempt.waker.take().into_iter().for_each(Waker::wake);
    }

    fn connect(&mut self, from: HostId, to: HostId, port: u16) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let connection = Connection {
            hosts: [from, to],
            directions: [Direction::default(), Direction::default()],
            reset: [false; 2],
            alive: [true; 2],
            resetting: [None; 2],
        };
        self.connections.insert(id, connection);
        let peer = SocketAddr::from(([10, 0, 0, from], u16::try_from(id % 60_000).expect("below 60,000") + 1024));
        let port = self.ports.get_mut(&(to, port)).expect("it was looked for");
        port.queue.push_back((id, peer));
        port.waker.take().into_iter().for_each(Waker::wake);
        id
    }

    fn deliver_bytes(&mut self, id: u64) {
        for way in 0..2 {
            let hosts = self.connections[&id].hosts;
            let (from, to) = (hosts[way], hosts[1 - way]);
            if !self.passes(from, to) || self.power(to) == Power::Off {
                continue;
            }
            let refusal = self.arrival(to, from);
            let now = self.now_ms;
            let connection = self.connections.get_mut(&id).expect("it was listed");
            let (receiver_lives, direction) = (connection.alive[1 - way], &mut connection.directions[way]);
            let mut moved = false;
            while direction.under_way.front().is_some_and(|(at, _)| *at <= now) {
                let (_, bytes) = direction.under_way.pop_front().expect("it was looked at");
                self.trace.message(now, id, way, &bytes);
                direction.arrived.extend(bytes);
                moved = true;
            }
            if direction.under_way.is_empty() && direction.closing.is_some_and(|at| at <= now) && !direction.ended {
                direction.ended = true;
                moved = true;
            }
            if moved && receiver_lives {
                direction.wake();
            } else if moved && connection.alive[way] && connection.resetting[way].is_none() {
                // Nobody is there any more: the kernel says so.
                connection.resetting[way] = Some(refusal);
            }
        }
    }

    fn deliver_resets(&mut self, id: u64) {
        let hosts = self.connections[&id].hosts;
        for end in 0..2 {
            let due = self.connections[&id].resetting[end].is_some_and(|at| at <= self.now_ms);
            if due && self.passes(hosts[1 - end], hosts[end]) {
                let connection = self.connections.get_mut(&id).expect("it was listed");
                connection.resetting[end] = None;
                connection.reset[end] = true;
                connection.directions.iter_mut().for_each(Direction::wake);
            }
        }
    }
}

struct Endpoint {
    net: SharedNet,
    host: HostId,
}

/// `host-N:port`.
fn parse(address: &str) -> io::Result<(HostId, u16)> {
    let (host, port) = address.rsplit_once(':').ok_or(io::ErrorKind::InvalidInput)?;
    let host = host.strip_prefix("host-").and_then(|id| id.parse().ok()).ok_or(io::ErrorKind::InvalidInput)?;
    Ok((host, port.parse().map_err(io::Error::other)?))
}

impl SimulatedNetwork for Endpoint {
    fn connect<'a>(&'a self, address: &'a str) -> BoxedFuture<'a, io::Result<Arc<dyn Pipe>>> {
        Box::pin(async move {
            let (to, port) = parse(address)?;
            let id = {
                let mut net = self.net.lock();
                let id = net.next_id;
                net.next_id += 1;
                let arrives = net.arrival(self.host, to);
                let attempt = Attempt { from: self.host, to, port, state: Connecting::Asked(arrives), waker: None };
                net.attempts.insert(id, attempt);
                id
            };
            let attempt = AttemptGuard { net: self.net.clone(), id };
            std::future::poll_fn(|context| attempt.poll(context)).await
        })
    }

    fn listen(&self, port: u16) -> io::Result<Box<dyn SimulatedListener>> {
        let mut net = self.net.lock();
        if net.ports.contains_key(&(self.host, port)) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        net.ports.insert((self.host, port), Port::default());
        Ok(Box::new(Listening { net: self.net.clone(), at: (self.host, port) }))
    }
}

/// An attempt that is given up when it is dropped.
struct AttemptGuard {
    net: SharedNet,
    id: u64,
}

impl AttemptGuard {
    fn poll(&self, context: &mut Context<'_>) -> Poll<io::Result<Arc<dyn Pipe>>> {
        let mut net = self.net.lock();
        let Some(attempt) = net.attempts.get_mut(&self.id) else { return Poll::Ready(Err(broken())) };
        match attempt.state {
            Connecting::Open(connection) => {
                net.attempts.remove(&self.id);
                Poll::Ready(Ok(Arc::new(End { net: self.net.clone(), id: connection, end: 0 })))
            }
            Connecting::Failed => Poll::Ready(Err(io::ErrorKind::ConnectionRefused.into())),
            _ => {
                attempt.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for AttemptGuard {
    fn drop(&mut self) {
        let removed = self.net.lock().attempts.remove(&self.id);
        if let Some(Attempt { state: Connecting::Answered(_, connection) | Connecting::Open(connection), .. }) = removed
        {
            drop(End { net: self.net.clone(), id: connection, end: 0 });
        }
    }
}

struct Listening {
    net: SharedNet,
    at: (HostId, u16),
}

impl SimulatedListener for Listening {
    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<(Arc<dyn Pipe>, SocketAddr)>> {
        let mut net = self.net.lock();
        let Some(port) = net.ports.get_mut(&self.at) else { return Poll::Pending };
        match port.queue.pop_front() {
            Some((id, peer)) => Poll::Ready(Ok((Arc::new(End { net: self.net.clone(), id, end: 1 }), peer))),
            None => {
                port.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let port = self.net.lock().ports.remove(&self.at);
        // Who was not accepted hears that nobody is there.
        for (id, _) in port.into_iter().flat_map(|port| port.queue) {
            drop(End { net: self.net.clone(), id, end: 1 });
        }
    }
}

/// One end of a connection; end 0 writes direction 0 and reads direction 1.
struct End {
    net: SharedNet,
    id: u64,
    end: usize,
}

impl Pipe for End {
    fn poll_read(&self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut net = self.net.lock();
        let Some(connection) = net.connections.get_mut(&self.id) else { return Poll::Ready(Err(broken())) };
        if connection.reset[self.end] {
            return Poll::Ready(Err(broken()));
        }
        let direction = &mut connection.directions[1 - self.end];
        if direction.arrived.is_empty() {
            if direction.ended {
                return Poll::Ready(Ok(()));
            }
            direction.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let (front, _) = direction.arrived.as_slices();
        let count = front.len().min(buffer.remaining());
        buffer.put_slice(&front[..count]);
        direction.arrived.drain(..count);
        direction.writer.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(()))
    }

    fn poll_write(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut net = self.net.lock();
        let Some(connection) = net.connections.get(&self.id) else { return Poll::Ready(Err(broken())) };
        if connection.reset[self.end] || connection.directions[1 - self.end].ended {
            return Poll::Ready(Err(broken()));
        }
        let hosts = connection.hosts;
        let arrives = net.arrival(hosts[self.end], hosts[1 - self.end]);
        let connection = net.connections.get_mut(&self.id).expect("it was looked at");
        let direction = &mut connection.directions[self.end];
        let room = WINDOW_BYTES.saturating_sub(direction.held()).min(bytes.len());
        if room == 0 {
            direction.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let arrives = direction.under_way.back().map_or(arrives, |(before, _)| arrives.max(*before));
        direction.under_way.push_back((arrives, bytes[..room].to_vec()));
        Poll::Ready(Ok(room))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut net = self.net.lock();
        let Some(connection) = net.connections.get(&self.id) else { return };
        // A process that was killed has told its peers already, or cannot.
        if !connection.alive[self.end] {
            return;
        }
        let hosts = connection.hosts;
        let arrives = net.arrival(hosts[self.end], hosts[1 - self.end]);
        let connection = net.connections.get_mut(&self.id).expect("it was looked at");
        connection.alive[self.end] = false;
        connection.directions[self.end].closing = Some(arrives);
    }
}
