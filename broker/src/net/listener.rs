//! Listening sockets and the connections they accept.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use strandline_client::network::{self, Network, SimulatedListener};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::connection::{ConnectionContext, FrameHandler, Limits, serve};
use super::port_owner::port_owner;
use crate::shutdown::stopped;

static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(1);

/// Pending connections in the kernel, at most.
const BACKLOG: i32 = 1024;
/// Looking whether a port is in use takes at most this long.
const PORT_PROBE: Duration = Duration::from_millis(100);
/// Wait after a failed accept (usually: no file handle free).
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// Time that connections get to finish replies when the node stops.
pub const DRAIN: Duration = Duration::from_secs(2);

/// A port that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}{}", hint(.source, .owner.as_deref()))]
pub struct BindError {
    pub address: String,
    pub source: io::Error,
    /// Who has the port, if that can be found out.
    pub owner: Option<String>,
}

fn hint(source: &io::Error, owner: Option<&str>) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            let owner = owner.unwrap_or("another process");
            format!("; {owner} has this port: stop it, choose another with --port, or use --any-port")
        }
        io::ErrorKind::PermissionDenied => "; ports below 1024 need privileges".to_owned(),
        _ => String::new(),
    }
}

/// A port that this process has, and at which nobody is answered yet: connections are refused.
pub enum ReservedPort {
    Tcp {
        socket: Socket,
        address: String,
    },
    /// Opened by [`ReservedPort::listen`].
    Simulated {
        network: Network,
        port: u16,
    },
}

impl ReservedPort {
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            ReservedPort::Tcp { socket, .. } => {
                socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
            }
            ReservedPort::Simulated { port, .. } => Ok(SocketAddr::from(([127, 0, 0, 1], *port))),
        }
    }

    /// Opens the port.
    pub fn listen(self) -> Result<OpenPort, BindError> {
        match self {
            ReservedPort::Tcp { socket, address } => listen_tcp(socket, address).map(OpenPort::Tcp),
            ReservedPort::Simulated { network, port } => bind_in(&network, "", port),
        }
    }
}

fn listen_tcp(socket: Socket, address: String) -> Result<TcpListener, BindError> {
    let open = || {
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    open().map_err(|source| BindError { address, source, owner: None })
}

/// A port that takes connections.
pub enum OpenPort {
    Tcp(TcpListener),
    Simulated(Box<dyn SimulatedListener>),
}

impl OpenPort {
    /// Where it is reached; none in a simulated network, whose ports are what they were asked to be.
    pub fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        match self {
            OpenPort::Tcp(listener) => listener.local_addr().map(Some),
            OpenPort::Simulated(_) => Ok(None),
        }
    }

    async fn accept(&self) -> io::Result<(network::Socket, SocketAddr)> {
        match self {
            OpenPort::Tcp(listener) => {
                listener.accept().await.map(|(stream, peer)| (network::Socket::Tcp(stream), peer))
            }
            OpenPort::Simulated(listener) => {
                let accepted = std::future::poll_fn(|context| listener.poll_accept(context)).await;
                accepted.map(|(pipe, peer)| (network::Socket::Simulated(pipe), peer))
            }
        }
    }
}

/// Binds `host:port` and opens it.
pub fn bind(host: &str, port: u16) -> Result<TcpListener, BindError> {
    let (socket, address) = reserve_tcp(host, port)?;
    listen_tcp(socket, address)
}

/// The same in any network. A simulated one has one host for each node.
pub fn bind_in(network: &Network, host: &str, port: u16) -> Result<OpenPort, BindError> {
    match network {
        Network::Tcp => bind(host, port).map(OpenPort::Tcp),
        Network::Simulated(endpoint) => {
            let failed = |source| BindError { address: format!("port {port}"), source, owner: None };
            endpoint.listen(port).map(OpenPort::Simulated).map_err(failed)
        }
    }
}

/// Binds `host:port`; an empty host is every interface, port 0 any free port.
pub fn reserve(network: &Network, host: &str, port: u16) -> Result<ReservedPort, BindError> {
    match network {
        Network::Tcp => reserve_tcp(host, port).map(|(socket, address)| ReservedPort::Tcp { socket, address }),
        Network::Simulated(_) => Ok(ReservedPort::Simulated { network: network.clone(), port }),
    }
}

fn reserve_tcp(host: &str, port: u16) -> Result<(Socket, String), BindError> {
    let address = format!("{}:{port}", if host.is_empty() { "*" } else { host });
    let failed = |source: io::Error| {
        let owner = if source.kind() == io::ErrorKind::AddrInUse { port_owner(port) } else { None };
        BindError { address: address.clone(), source, owner }
    };
    let ip = match host {
        "" | "0.0.0.0" => "0.0.0.0".to_owned(),
        "localhost" => "127.0.0.1".to_owned(),
        other => other.to_owned(),
    };
    let target: SocketAddr = match ip.parse().map(|ip| SocketAddr::new(ip, port)) {
        Ok(target) => target,
        Err(_) => std::net::ToSocketAddrs::to_socket_addrs(&(ip.as_str(), port))
            .map_err(failed)?
            .next()
            .ok_or_else(|| failed(io::ErrorKind::AddrNotAvailable.into()))?,
    };
    let open = || -> io::Result<Socket> {
        // Address reuse would let another process that has not begun to listen have the port as well.
        let in_use = std::net::TcpStream::connect_timeout(&target, PORT_PROBE).is_ok();
        if in_use && target.port() != 0 {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let socket = Socket::new(Domain::for_address(target), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&target.into())?;
        Ok(socket)
    };
    Ok((open().map_err(failed)?, address.clone()))
}

/// Accepts on one listener until told to stop, then lets connections finish.
pub struct ListenerTask {
    pub name: Arc<str>,
    pub listener: OpenPort,
    pub handler: Arc<dyn FrameHandler>,
    pub limits: Arc<Limits>,
    pub connections_max: usize,
}

impl ListenerTask {
    /// Runs until `stop` becomes true.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut connections = JoinSet::new();
        let for_connections = stop.clone();
        loop {
            tokio::select! {
                () = stopped(&mut stop) => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok(_) if connections.len() >= self.connections_max => {
                        tracing::warn!(listener = %self.name, "max.connections reached: connection refused");
                    }
                    Ok((stream, peer)) => {
                        let principal = Arc::from("User:ANONYMOUS");
                        let id = NEXT_CONNECTION.fetch_add(1, Ordering::Relaxed);
                        let context = ConnectionContext { id, peer, listener: self.name.clone(), principal };
                        connections.spawn(serve(stream, context, self.handler.clone(), self.limits.clone(), for_connections.clone()));
                        self.handler.connections(connections.len());
                    }
                    Err(error) => {
                        tracing::warn!(listener = %self.name, %error, "accept failed");
                        tokio::time::sleep(ACCEPT_RETRY).await;
                    }
                },
            }
        }
        drop(self.listener);
        let drained = tokio::time::timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            connections.shutdown().await;
        }
    }
}
