//! Writing a rope to a socket: bytes by `sendmsg`, file ranges by `sendfile`, so that record bytes never enter user
//! space.

use std::fs::File;
use std::io::{self, IoSlice};

use rustix::net::{SendAncillaryBuffer, SendFlags};
use strandline_client::network::{Pipe, Socket};
use strandline_protocol::rope::{FileRange, Part, Rope};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Byte parts written by one call, at most.
const SLICES_MAX: usize = 64;

/// Writes all of `rope`. Returns its bytes. An error leaves the connection unusable.
pub async fn write_rope(stream: &Socket, rope: &Rope) -> io::Result<u64> {
    let stream = match stream {
        Socket::Tcp(stream) => stream,
        Socket::Simulated(pipe) => return write_to_pipe(&**pipe, rope).await,
    };
    let parts = rope.parts();
    let mut next = 0;
    while next < parts.len() {
        match &parts[next] {
            Part::File(range) => {
                write_file(stream, range).await?;
                next += 1;
            }
            Part::Bytes(_) => {
                let end =
                    parts[next..].iter().position(|p| matches!(p, Part::File(_))).map_or(parts.len(), |n| next + n);
                let end = end.min(next + SLICES_MAX);
                write_bytes(stream, &parts[next..end], end < parts.len()).await?;
                next = end;
            }
        }
    }
    Ok(rope.len())
}

async fn write_bytes(stream: &TcpStream, parts: &[Part], more: bool) -> io::Result<()> {
    let flags = if more { SendFlags::NOSIGNAL | SendFlags::MORE } else { SendFlags::NOSIGNAL };
    let mut slices: Vec<IoSlice<'_>> = parts
        .iter()
        .filter_map(|part| match part {
            Part::Bytes(bytes) if !bytes.is_empty() => Some(IoSlice::new(bytes)),
            _ => None,
        })
        .collect();
    let mut left = slices.as_mut_slice();
    while !left.is_empty() {
        let sent = stream
            .async_io(Interest::WRITABLE, || {
                Ok(rustix::net::sendmsg(stream, left, &mut SendAncillaryBuffer::default(), flags)?)
            })
            .await?;
        IoSlice::advance_slices(&mut left, sent);
    }
    Ok(())
}

async fn write_file(stream: &TcpStream, range: &FileRange) -> io::Result<()> {
    let mut position = range.position;
    let end = range.position + range.len;
    while position < end {
        let want = usize::try_from(end - position).unwrap_or(usize::MAX);
        let sent = stream.async_io(Interest::WRITABLE, || send_once(stream, &range.file, position, want)).await?;
        if sent == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "a file ended before the range that was promised",
            ));
        }
        position += sent as u64;
    }
    Ok(())
}

fn send_once(stream: &TcpStream, file: &File, position: u64, want: usize) -> io::Result<usize> {
    let mut offset = position;
    Ok(rustix::fs::sendfile(stream, file, Some(&mut offset), want)?)
}

/// A simulated connection takes bytes only: ranges of files are read.
async fn write_to_pipe(pipe: &dyn Pipe, rope: &Rope) -> io::Result<u64> {
    for part in rope.parts() {
        let bytes = match part {
            Part::Bytes(bytes) => bytes.clone(),
            Part::File(range) => {
                let len = usize::try_from(range.len).map_err(io::Error::other)?;
                let mut bytes = vec![0; len];
                std::os::unix::fs::FileExt::read_exact_at(&*range.file, &mut bytes, range.position)?;
                bytes.into()
            }
        };
        let mut left = &bytes[..];
        while !left.is_empty() {
            let written = std::future::poll_fn(|context| pipe.poll_write(context, left)).await?;
            left = &left[written..];
        }
    }
    Ok(rope.len())
}
