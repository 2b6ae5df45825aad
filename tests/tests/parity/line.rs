//! A connection of the cases: as the harness's, but an answer that does not come is an answer, too.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use strandline_protocol::frame::{decode_response, encode_request};
use strandline_protocol::messages::Request;

/// How long an answer may take. What takes longer is told as no answer.
const ANSWER: Duration = Duration::from_secs(4);
/// The largest answer taken, bytes.
const FRAME_MAX: usize = 64 << 20;

/// One connection; requests are answered in order.
#[derive(Debug)]
pub struct Line {
    stream: TcpStream,
    correlation_id: i32,
}

impl Line {
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the broker takes connections");
        stream.set_nodelay(true).expect("a socket option");
        stream.set_read_timeout(Some(ANSWER)).expect("a socket option");
        Line { stream, correlation_id: 0 }
    }

    pub fn send<R: Request>(&mut self, version: i16, request: &R) -> Result<(), String> {
        self.correlation_id += 1;
        let rope = encode_request(version, self.correlation_id, Some("parity"), request);
        let rope = rope.unwrap_or_else(|e| panic!("{:?} v{version} of a case: {e}", R::API_KEY));
        self.send_raw(&rope.to_bytes().expect("a request has no file parts"))
    }

    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).map_err(|_| "the connection is closed".to_owned())
    }

    pub fn receive<R: Request>(&mut self, version: i16) -> Result<R::Response, String> {
        let frame = self.receive_raw()?;
        let (_, response) = decode_response::<R>(version, frame).map_err(|e| format!("an answer that is none: {e}"))?;
        Ok(response)
    }

    /// The next answer's frame, without its length.
    pub fn receive_raw(&mut self) -> Result<Bytes, String> {
        let mut length = [0; 4];
        self.read(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
        assert!(length <= FRAME_MAX, "an answer of {length} bytes");
        let mut frame = vec![0; length];
        self.read(&mut frame)?;
        Ok(Bytes::from(frame))
    }

    fn read(&mut self, into: &mut [u8]) -> Result<(), String> {
        self.stream.read_exact(into).map_err(|e| match e.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => "no answer".to_owned(),
            _ => "the connection is closed".to_owned(),
        })
    }

    pub fn call<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response, String> {
        self.send(version, request)?;
        self.receive::<R>(version)
    }
}
