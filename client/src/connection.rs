//! One connection to one broker: requests out, responses back in order.
//!
//! Owns the socket, correlation ids and the versions that both sides know. Requests may be pipelined; responses are
//! matched by order, as brokers answer in order. A connection that failed once fails every later call.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::frame::{decode_response, encode_request};
use strandline_protocol::messages::api_versions_request::ApiVersionsRequest;
use strandline_protocol::messages::{ApiKey, Request};
use strandline_protocol::rope::{Part, Rope};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::network::{Network, ReadHalf, WriteHalf};

/// A response longer than this is refused, in bytes.
const RESPONSE_BYTES_MAX: usize = 512 << 20;
/// Connecting takes at most this long.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// ApiVersions answers at most this late.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("cannot connect to {address}: {source}; is the broker running, and is this its client port?")]
    Connect { address: String, source: io::Error },
    /// What was sent may have been carried out.
    #[error("the connection to {address} was lost: {reason}")]
    Lost { address: String, reason: String },
    /// What was sent may have been carried out.
    #[error("{address} did not answer {api:?} within {deadline:?}")]
    TimedOut { address: String, api: ApiKey, deadline: Duration },
    #[error("{address} does not serve {api:?} in a version that this client knows")]
    NoVersion { address: String, api: ApiKey },
    #[error("{address} answered {api:?} with bytes that cannot be read: {reason}")]
    Malformed { address: String, api: ApiKey, reason: String },
    #[error("{api:?} cannot be encoded: {reason}")]
    Encode { api: ApiKey, reason: String },
    #[error("no broker of {0} can be reached")]
    NoBroker(String),
}

impl CallError {
    /// Whether another connection may succeed.
    pub fn retryable(&self) -> bool {
        matches!(
            self,
            CallError::Connect { .. } | CallError::Lost { .. } | CallError::TimedOut { .. } | CallError::NoBroker(_)
        )
    }
}

type Pending = Arc<Mutex<Waiting>>;

#[derive(Default)]
struct Waiting {
    queue: VecDeque<oneshot::Sender<Bytes>>,
    /// Why the connection is of no more use.
    failed: Option<String>,
}

/// An open connection.
pub struct Connection {
    address: String,
    client_id: String,
    writer: tokio::sync::Mutex<WriteHalf>,
    pending: Pending,
    correlation: AtomicI32,
    versions: HashMap<i16, RangeInclusive<i16>>,
    reader: tokio::task::JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Connection {
    /// Connects to `host:port` and asks which versions it serves.
    pub async fn open(network: &Network, address: &str, client_id: &str) -> Result<Connection, CallError> {
        let failed = |source| CallError::Connect { address: address.to_owned(), source };
        let connected = timeout(CONNECT_MAX, network.connect(address)).await;
        let stream = connected.map_err(|_| failed(io::ErrorKind::TimedOut.into()))?.map_err(failed)?;
        let (read, write) = stream.into_split();
        let pending = Pending::default();
        let reader = tokio::spawn(read_responses(read, Arc::clone(&pending)));
        let mut connection = Connection {
            address: address.to_owned(),
            client_id: client_id.to_owned(),
            writer: tokio::sync::Mutex::new(write),
            pending,
            correlation: AtomicI32::new(0),
            versions: HashMap::new(),
            reader,
        };
        let request = ApiVersionsRequest {
            client_software_name: "strandline".to_owned(),
            client_software_version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        };
        // Version 3 is known to every broker since Kafka 2.4.
        let response = connection.call_version(3, &request, HANDSHAKE_MAX).await?;
        connection.versions = response.api_keys.iter().map(|k| (k.api_key, k.min_version..=k.max_version)).collect();
        Ok(connection)
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn has_failed(&self) -> bool {
        self.pending.lock().failed.is_some()
    }

    /// The newest version of `R` that both sides know, at most `max`.
    pub fn version<R: Request>(&self, max: i16) -> Result<i16, CallError> {
        let none = || CallError::NoVersion { address: self.address.clone(), api: R::API_KEY };
        let theirs = self.versions.get(&R::API_KEY.code()).ok_or_else(none)?;
        let newest = (*theirs.end()).min(*R::VERSIONS.end()).min(max);
        if newest < (*theirs.start()).max(*R::VERSIONS.start()) { Err(none()) } else { Ok(newest) }
    }

    /// Sends in the newest common version and waits for the answer.
    pub async fn call<R: Request>(&self, request: &R, deadline: Duration) -> Result<R::Response, CallError> {
        self.call_version(self.version::<R>(i16::MAX)?, request, deadline).await
    }

    /// Sends in this version and waits for the answer.
    pub async fn call_version<R: Request>(
        &self,
        version: i16,
        request: &R,
        deadline: Duration,
    ) -> Result<R::Response, CallError> {
        let late = || CallError::TimedOut { address: self.address.clone(), api: R::API_KEY, deadline };
        let answer = async {
            let frame = self.send(version, request).await?.await.map_err(|_| self.lost())?;
            self.decode::<R>(version, frame)
        };
        timeout(deadline, answer).await.unwrap_or_else(|_| Err(late()))
    }

    /// Sends without waiting; the receiver gives the response's frame, for [`Connection::decode`].
    pub async fn send<R: Request>(&self, version: i16, request: &R) -> Result<oneshot::Receiver<Bytes>, CallError> {
        let correlation = self.correlation.fetch_add(1, Ordering::Relaxed);
        let encoded = encode_request(version, correlation, Some(&self.client_id), request);
        let rope = encoded.map_err(|e| CallError::Encode { api: R::API_KEY, reason: e.to_string() })?;
        let (answer, wait) = oneshot::channel();
        let mut writer = self.writer.lock().await;
        {
            let mut pending = self.pending.lock();
            if pending.failed.is_some() {
                drop(pending);
                return Err(self.lost());
            }
            pending.queue.push_back(answer);
        }
        if let Err(error) = write_all(&mut writer, &rope).await {
            self.pending.lock().failed.get_or_insert_with(|| error.to_string());
            return Err(self.lost());
        }
        Ok(wait)
    }

    /// Reads a response's frame.
    pub fn decode<R: Request>(&self, version: i16, frame: Bytes) -> Result<R::Response, CallError> {
        let decoded = decode_response::<R>(version, frame);
        let malformed = |e: strandline_protocol::codec::DecodeError| CallError::Malformed {
            address: self.address.clone(),
            api: R::API_KEY,
            reason: e.to_string(),
        };
        decoded.map(|(_, response)| response).map_err(malformed)
    }

    /// The error of a call whose receiver was dropped.
    pub fn lost(&self) -> CallError {
        let reason = self.pending.lock().failed.clone().unwrap_or_else(|| "it was closed".to_owned());
        CallError::Lost { address: self.address.clone(), reason }
    }
}

async fn write_all(writer: &mut WriteHalf, rope: &Rope) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(rope.parts().len());
    for part in rope.parts() {
        match part {
            Part::Bytes(bytes) => slices.push(IoSlice::new(bytes)),
            Part::File(_) => return Err(io::Error::new(io::ErrorKind::InvalidInput, "a request has no file ranges")),
        }
    }
    let mut left = slices.as_mut_slice();
    while !left.is_empty() {
        let written = writer.write_vectored(left).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut left, written);
    }
    Ok(())
}

async fn read_responses(mut read: ReadHalf, pending: Pending) {
    let reason = loop {
        match read_frame(&mut read).await {
            Ok(frame) => {
                let next = pending.lock().queue.pop_front();
                match next {
                    // The caller may have stopped waiting.
                    Some(answer) => drop(answer.send(frame)),
                    None => break "a response came that nobody asked for".to_owned(),
                }
            }
            Err(error) => break error.to_string(),
        }
    };
    let mut pending = pending.lock();
    pending.failed.get_or_insert(reason);
    pending.queue.clear();
}

async fn read_frame(read: &mut ReadHalf) -> io::Result<Bytes> {
    let length = read.read_i32().await?;
    let length = usize::try_from(length).ok().filter(|l| *l <= RESPONSE_BYTES_MAX);
    let length =
        length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a response of an impossible length"))?;
    let mut frame = BytesMut::with_capacity(length.min(1 << 20));
    while frame.len() < length {
        let room = (length - frame.len()).min(frame.len().max(1 << 20));
        frame.reserve(room);
        let mut limited = (&mut *read).take((length - frame.len()) as u64);
        if limited.read_buf(&mut frame).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(frame.freeze())
}

/// The code of a response, as a result.
pub(crate) fn check(code: i16) -> Result<(), ErrorCode> {
    match ErrorCode::from_code(code) {
        Some(ErrorCode::None) => Ok(()),
        Some(code) => Err(code),
        None => Err(ErrorCode::UnknownServerError),
    }
}
