//! Where connections come from: the machine's TCP, or one that a simulation makes up.
//!
//! Owns the choice and the two kinds of [`Socket`]. Does not own listening on TCP (the server's), framing, or what a
//! simulated network does to bytes. The choice is made once per connection; bytes of a TCP connection pass no virtual call.
//! A crash leaves nothing: connections are not kept.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A future of a simulated network.
pub type BoxedFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// How a process reaches others.
#[derive(Clone, Default)]
pub enum Network {
    #[default]
    Tcp,
    /// One endpoint of a network in this process.
    Simulated(Arc<dyn SimulatedNetwork>),
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Network::Tcp => "Tcp",
            Network::Simulated(_) => "Simulated",
        })
    }
}

impl Network {
    /// Connects to `host:port`. How long that may take is the caller's to say.
    pub async fn connect(&self, address: &str) -> io::Result<Socket> {
        match self {
            Network::Tcp => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Socket::Tcp(stream))
            }
            Network::Simulated(network) => network.connect(address).await.map(Socket::Simulated),
        }
    }
}

/// What a simulation provides for one endpoint.
pub trait SimulatedNetwork: Send + Sync {
    fn connect<'a>(&'a self, address: &'a str) -> BoxedFuture<'a, io::Result<Arc<dyn Pipe>>>;

    /// Takes connections at `port` of this endpoint from now on.
    fn listen(&self, port: u16) -> io::Result<Box<dyn SimulatedListener>>;
}

/// A port of a simulated network. Dropping it closes the port.
pub trait SimulatedListener: Send + Sync {
    /// The next connection, and who made it.
    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<(Arc<dyn Pipe>, SocketAddr)>>;
}

/// One end of a simulated connection. Dropping the last reference closes it.
pub trait Pipe: Send + Sync {
    /// Adds what has arrived to `buffer`; nothing is added at the end of the stream.
    fn poll_read(&self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>>;

    /// Takes some of `bytes`, at least one.
    fn poll_write(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;
}

/// A connection.
pub enum Socket {
    Tcp(TcpStream),
    Simulated(Arc<dyn Pipe>),
}

impl Socket {
    /// Two halves for two tasks.
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Socket::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
            Socket::Simulated(pipe) => (ReadHalf::Simulated(Arc::clone(&pipe)), WriteHalf::Simulated(pipe)),
        }
    }
}

pub enum ReadHalf {
    Tcp(tokio::net::tcp::OwnedReadHalf),
    Simulated(Arc<dyn Pipe>),
}

pub enum WriteHalf {
    Tcp(tokio::net::tcp::OwnedWriteHalf),
    Simulated(Arc<dyn Pipe>),
}

fn first_slice<'a>(slices: &'a [IoSlice<'_>]) -> &'a [u8] {
    slices.iter().find(|slice| !slice.is_empty()).map_or(&[], |slice| slice)
}

macro_rules! reads {
    ($kind:ident) => {
        impl AsyncRead for $kind {
            fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $kind::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
                    $kind::Simulated(pipe) => pipe.poll_read(cx, buffer),
                }
            }
        }
    };
}

macro_rules! writes {
    ($kind:ident) => {
        impl AsyncWrite for $kind {
            fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    $kind::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
                    $kind::Simulated(pipe) => pipe.poll_write(cx, bytes),
                }
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                slices: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    $kind::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
                    $kind::Simulated(pipe) => pipe.poll_write(cx, first_slice(slices)),
                }
            }

            fn is_write_vectored(&self) -> bool {
                true
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $kind::Tcp(stream) => Pin::new(stream).poll_flush(cx),
                    $kind::Simulated(_) => Poll::Ready(Ok(())),
                }
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $kind::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
                    $kind::Simulated(_) => Poll::Ready(Ok(())),
                }
            }
        }
    };
}

reads!(Socket);
reads!(ReadHalf);
writes!(Socket);
writes!(WriteHalf);
