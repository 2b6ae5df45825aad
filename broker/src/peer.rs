//! Messages between controllers, and from brokers to them: Kafka's framing on the controller listener.
//!
//! Owns the connections to other nodes' controller listeners and the handler of this node's. Does not own what a message
//! means (`strandline_controller`). A frame is Kafka's: length, API key [`API_KEY`], version, correlation id, no client
//! id, the message; the answer is length, correlation id, bytes.
//! When the connection of a broker's heartbeats breaks, the broker is looked for at once: a killed process is known in
//! milliseconds, a silent one by the controller's own clock.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use strandline_client::network::{Network, Socket};
use strandline_controller::{ControllerHandle, NodeId, Probe, RaftTransport};
use strandline_protocol::rope::Rope;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::net::{ConnectionContext, FrameHandler, Reply};

/// Not one of Kafka's; no client sends it.
pub const API_KEY: i16 = 0x7_3c;
const VERSION: i16 = 1;
/// Bytes of a request in front of its message.
const REQUEST_HEADER: usize = 2 + 2 + 4 + 2;
/// An answer longer than this is refused, in bytes.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// Idle connections kept for each address.
const IDLE_MAX: usize = 8;
/// Connecting takes at most this long.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// A node that is alive takes a connection within this time, or its silence says nothing.
const PROBE_MAX: Duration = Duration::from_millis(250);

/// Connections to other nodes.
pub struct Peers {
    network: Network,
    idle: Mutex<HashMap<String, Vec<Socket>>>,
}

impl Peers {
    pub fn new(network: Network) -> Peers {
        Peers { network, idle: Mutex::default() }
    }

    async fn connect(&self, address: &str) -> io::Result<Socket> {
        timeout(CONNECT_MAX, self.network.connect(address)).await?
    }

    async fn exchange(stream: &mut Socket, message: &[u8]) -> io::Result<Vec<u8>> {
        let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "the message is too long for a frame");
        let length = i32::try_from(REQUEST_HEADER + message.len()).map_err(|_| too_long())?;
        let mut frame = BytesMut::with_capacity(4 + REQUEST_HEADER + message.len());
        frame.put_i32(length);
        frame.put_i16(API_KEY);
        frame.put_i16(VERSION);
        frame.put_i32(0);
        frame.put_i16(-1);
        frame.put_slice(message);
        stream.write_all(&frame).await?;
        let length = stream.read_i32().await?;
        let length = usize::try_from(length).ok().filter(|l| (4..=ANSWER_BYTES_MAX).contains(l));
        let length =
            length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an answer of an impossible length"))?;
        stream.read_i32().await?;
        let mut answer = Vec::new();
        let mut limited = stream.take(length as u64 - 4);
        limited.read_to_end(&mut answer).await?;
        if answer.len() != length - 4 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(answer)
    }
}

/// Whether the other side has not closed the connection, as far as is known here. Nothing is expected on it.
fn is_open(stream: &mut Socket) -> bool {
    match stream {
        Socket::Tcp(stream) => {
            matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
        }
        // A closed pipe is found out by the next message.
        Socket::Simulated(_) => true,
    }
}

#[async_trait]
impl RaftTransport for Peers {
    async fn call(&self, _: NodeId, address: &str, message: Vec<u8>, deadline: Duration) -> io::Result<Vec<u8>> {
        let idle = self.idle.lock().get_mut(address).and_then(|kept| {
            // What was closed meanwhile is known to be: no message is lost in it.
            kept.retain_mut(is_open);
            kept.pop()
        });
        let work = async {
            // A kept connection may have been closed meanwhile: then the message has not arrived, and a new one is made.
            let (mut stream, kept) = match idle {
                Some(stream) => (stream, true),
                None => (self.connect(address).await?, false),
            };
            let answer = match Peers::exchange(&mut stream, &message).await {
                Err(error) if kept && error.kind() != io::ErrorKind::InvalidData => {
                    // If nobody is there any more, it may have arrived all the same.
                    stream = self.connect(address).await.map_err(|_| error)?;
                    Peers::exchange(&mut stream, &message).await
                }
                other => other,
            }?;
            Ok::<_, io::Error>((stream, answer))
        };
        let (stream, answer) = timeout(deadline, work).await??;
        let mut idle = self.idle.lock();
        let kept = idle.entry(address.to_owned()).or_default();
        if kept.len() < IDLE_MAX {
            kept.push(stream);
        }
        Ok(answer)
    }

    async fn probe(&self, address: &str) -> Probe {
        match timeout(PROBE_MAX, self.network.connect(address)).await {
            Ok(Ok(_)) => Probe::Alive,
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Probe::Gone,
            _ => Probe::Unknown,
        }
    }
}

/// Serves the controller listener.
pub struct ControllerListener {
    controller: ControllerHandle,
    /// Which broker sends its heartbeats over which connection.
    brokers: Mutex<HashMap<u64, (i32, i64)>>,
    runtime: tokio::runtime::Handle,
}

impl ControllerListener {
    /// `runtime` carries what follows a lost connection.
    pub fn new(controller: ControllerHandle, runtime: tokio::runtime::Handle) -> Arc<Self> {
        Arc::new(ControllerListener { controller, brokers: Mutex::default(), runtime })
    }
}

impl FrameHandler for ControllerListener {
    fn start(&self, context: &ConnectionContext, frame: Bytes) -> Reply {
        let head: Option<[u8; REQUEST_HEADER]> = frame.first_chunk().copied();
        let Some(head) = head.filter(|h| h[..2] == API_KEY.to_be_bytes() && h[2..4] == VERSION.to_be_bytes()) else {
            return Reply::Close("the controller listener takes messages of nodes only".to_owned());
        };
        let correlation = Bytes::copy_from_slice(&head[4..8]);
        let message = frame.slice(REQUEST_HEADER..);
        if let Some(broker) = self.controller.heartbeat_of(&message) {
            self.brokers.lock().insert(context.id, broker);
        }
        let controller = self.controller.clone();
        Reply::Later(Box::pin(async move {
            match controller.serve(&message).await {
                Ok(answer) => {
                    let length = i32::try_from(4 + answer.len()).ok()?;
                    let mut rope = Rope::from(Bytes::copy_from_slice(&length.to_be_bytes()));
                    rope.push_bytes(correlation);
                    rope.push_bytes(Bytes::from(answer));
                    Some(rope)
                }
                Err(error) => {
                    tracing::warn!(%error, "a message of another node was not served");
                    None
                }
            }
        }))
    }

    fn closed(&self, context: &ConnectionContext) {
        let Some((broker_id, broker_epoch)) = self.brokers.lock().remove(&context.id) else { return };
        let controller = self.controller.clone();
        self.runtime.spawn(async move { controller.suspect(broker_id, broker_epoch).await });
    }
}
