//! One client connection: frames in, replies out, in the order of the requests.
//!
//! Owns framing, pipelining and its limits. A produce is appended as soon as its frame is complete, so that pipelined
//! requests share a sync; every other request is carried out when the replies before it are written, as in Kafka.
//! Invariant: replies leave in request order. A malformed frame closes the connection, and only it.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use strandline_client::network::{Pipe, Socket};
use strandline_protocol::rope::Rope;
use tokio::io::ReadBuf;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;

use super::write::write_rope;
use crate::clock;
use crate::shutdown::stopped;

/// Requests of one connection that may be unanswered before it is no longer read.
const PIPELINED_MAX: usize = 64;
/// A connection without traffic for this long gives its read buffer back.
const BUFFER_IDLE: Duration = Duration::from_secs(1);
/// Bytes asked for by one read when the frame's length is not yet known.
const READ_BYTES: usize = 16 << 10;
/// A frame's buffer grows with the bytes that arrive, at most this far ahead of them.
const READ_AHEAD_BYTES: usize = 1 << 20;
/// Frames up to this size do not count against the node's request memory.
const SMALL_FRAME_BYTES: usize = 64 << 10;

/// Bounds for all connections of a node.
#[derive(Debug)]
pub struct Limits {
    pub request_max_bytes: usize,
    pub idle_max: Duration,
    /// Request memory of the node, in KiB.
    pub request_memory_kib: Semaphore,
    pub request_memory_kib_max: u32,
}

/// Who is at the other end.
#[derive(Debug, Clone)]
pub struct ConnectionContext {
    /// Unlike that of any other connection of the process.
    pub id: u64,
    pub peer: SocketAddr,
    pub listener: Arc<str>,
    /// `User:ANONYMOUS` on an unauthenticated listener.
    pub principal: Arc<str>,
}

/// What a listener does with frames.
pub trait FrameHandler: Send + Sync + 'static {
    /// Begins a request; never blocks.
    fn start(&self, context: &ConnectionContext, frame: Bytes) -> Reply;

    /// A request of this API was answered to the last byte, `took` after its own last byte had come.
    fn answered(&self, _api_key: i16, _took: Duration) {}

    /// Connections of the listener, for the metric.
    fn connections(&self, _now: usize) {}

    /// The connection has ended, however it did.
    fn closed(&self, _context: &ConnectionContext) {}
}

/// What becomes of a request.
pub enum Reply {
    /// Nothing is sent (produce with acks=0).
    None,
    Now(Rope),
    /// Carried out when its turn comes; `None` sends nothing.
    Later(Pin<Box<dyn Future<Output = Option<Rope>> + Send>>),
    /// The frame cannot be answered: close.
    Close(String),
}

/// A reply in its place, and when the request had come.
struct Queued {
    reply: Reply,
    api_key: i16,
    began: Instant,
}

/// Serves a connection until the peer leaves, misbehaves, or is idle too long, or `stop` becomes true: then what was
/// accepted is still answered. Dropping the future closes it.
pub async fn serve(
    stream: Socket,
    context: ConnectionContext,
    handler: Arc<dyn FrameHandler>,
    limits: Arc<Limits>,
    stop: watch::Receiver<bool>,
) {
    let _closed = Closed { handler: Arc::clone(&handler), context: context.clone() };
    let peer = context.peer;
    if let Socket::Tcp(stream) = &stream
        && let Err(error) = stream.set_nodelay(true)
    {
        tracing::debug!(%peer, %error, "no TCP_NODELAY");
    }
    let (replies, queue) = mpsc::channel(PIPELINED_MAX);
    let result = tokio::select! {
        result = read_requests(&stream, &context, &*handler, &limits, replies, stop) => result,
        result = write_replies(&stream, &*handler, queue) => result,
    };
    match result {
        Ok(()) => tracing::trace!(%peer, "connection closed"),
        Err(error) if quiet(&error) => tracing::debug!(%peer, %error, "connection closed"),
        Err(error) => tracing::warn!(%peer, %error, "connection closed"),
    }
}

/// Says that a connection has ended, also if its task is dropped.
struct Closed {
    handler: Arc<dyn FrameHandler>,
    context: ConnectionContext,
}

impl Drop for Closed {
    fn drop(&mut self) {
        self.handler.closed(&self.context);
    }
}

fn quiet(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | TimedOut | UnexpectedEof)
}

async fn write_replies(
    stream: &Socket,
    handler: &dyn FrameHandler,
    mut queue: mpsc::Receiver<Queued>,
) -> io::Result<()> {
    while let Some(Queued { reply, api_key, began }) = queue.recv().await {
        let rope = match reply {
            Reply::None => None,
            Reply::Now(rope) => Some(rope),
            Reply::Later(work) => work.await,
            Reply::Close(reason) => return Err(io::Error::new(io::ErrorKind::InvalidData, reason)),
        };
        if let Some(rope) = rope {
            write_rope(stream, &rope).await?;
        }
        handler.answered(api_key, began.elapsed());
    }
    // The reader has ended, and all that it accepted is answered.
    Ok(())
}

async fn read_requests(
    stream: &Socket,
    context: &ConnectionContext,
    handler: &dyn FrameHandler,
    limits: &Limits,
    replies: mpsc::Sender<Queued>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        let frame = tokio::select! {
            frame = read_frame(stream, &mut buffer, limits) => frame?,
            () = stopped(&mut stop) => None,
        };
        let Some(frame) = frame else {
            // No more will be read; replies under way are still written, which ends the connection.
            drop(replies);
            return std::future::pending().await;
        };
        let began = clock::monotonic();
        // The first field of every request header.
        let api_key = frame.first_chunk::<2>().map_or(-1, |key| i16::from_be_bytes(*key));
        let reply = handler.start(context, frame);
        if replies.send(Queued { reply, api_key, began }).await.is_err() {
            return Ok(());
        }
    }
}

/// The next frame without its length; `None` at a clean end of the stream.
async fn read_frame(stream: &Socket, buffer: &mut BytesMut, limits: &Limits) -> io::Result<Option<Bytes>> {
    while buffer.len() < 4 {
        if fill(stream, buffer, READ_BYTES, limits.idle_max).await? == 0 {
            return if buffer.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
    }
    let length = i32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
    let length = usize::try_from(length).ok().filter(|l| *l <= limits.request_max_bytes).ok_or_else(|| {
        let detail = format!("a request of {length} bytes; socket.request.max.bytes is {}", limits.request_max_bytes);
        io::Error::new(io::ErrorKind::InvalidData, detail)
    })?;
    let _memory = if length > SMALL_FRAME_BYTES {
        let kib = u32::try_from(length >> 10).unwrap_or(u32::MAX).min(limits.request_memory_kib_max);
        Some(limits.request_memory_kib.acquire_many(kib).await.map_err(io::Error::other)?)
    } else {
        None
    };
    while buffer.len() < 4 + length {
        let missing = 4 + length - buffer.len();
        let ahead = missing.min(READ_AHEAD_BYTES.max(buffer.len()));
        if fill(stream, buffer, ahead, limits.idle_max).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let mut frame = buffer.split_to(4 + length);
    Ok(Some(frame.split_off(4).freeze()))
}

/// Reads once, making room for `room` bytes. Returns 0 at the end of the stream.
async fn fill(stream: &Socket, buffer: &mut BytesMut, room: usize, idle_max: Duration) -> io::Result<usize> {
    let stream = match stream {
        Socket::Tcp(stream) => stream,
        Socket::Simulated(pipe) => return fill_from_pipe(&**pipe, buffer, room, idle_max).await,
    };
    loop {
        if buffer.capacity() - buffer.len() < room {
            buffer.reserve(room);
        }
        match stream.try_read_buf(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
        if timeout(BUFFER_IDLE, stream.readable()).await.is_err() {
            if buffer.is_empty() {
                *buffer = BytesMut::new();
            }
            match timeout(idle_max, stream.readable()).await {
                Ok(ready) => ready?,
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
    }
}

async fn fill_from_pipe(pipe: &dyn Pipe, buffer: &mut BytesMut, room: usize, idle_max: Duration) -> io::Result<usize> {
    let mut bytes = vec![0; room];
    let mut read = ReadBuf::new(&mut bytes);
    timeout(idle_max, std::future::poll_fn(|context| pipe.poll_read(context, &mut read))).await??;
    buffer.extend_from_slice(read.filled());
    Ok(read.filled().len())
}
