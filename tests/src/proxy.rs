//! A loopback proxy in front of an object store: the delay to the first byte, the pace of a connection and the errors of a
//! distant store. It reads HTTP/1.1 as far as it must to know where an answer begins and a request ends.
//!
//! The rate is each connection's own; the delay is before the first byte of each answer.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::wait;

/// Bytes of one read; also the grain of the pacing.
const PIECE: usize = 64 << 10;
/// The longest header of a request or an answer, bytes.
const HEAD_MAX: usize = 64 << 10;
const CONNECT: Duration = Duration::from_secs(5);

/// How the distance behaves. All may change while connections are open.
#[derive(Debug, Default)]
pub struct Weather {
    /// Before an answer's first byte, ms.
    pub first_byte_ms: AtomicU64,
    /// Of one connection, bytes per second; 0 = unbounded.
    pub bytes_per_second: AtomicU64,
    /// Every how many requests one is answered 503; 0 = none.
    pub refuse_every: AtomicU64,
    /// New and open connections are cut.
    pub cut: AtomicBool,
    /// Requests so far.
    pub requests: AtomicU64,
    /// Bytes of answers' bodies and heads passed on.
    pub answered_bytes: AtomicU64,
    /// 503 answers so far.
    pub refused: AtomicU64,
}

/// A running proxy. Dropped = no new connections; open ones end with their peers.
#[derive(Debug)]
pub struct Proxy {
    pub address: SocketAddr,
    pub weather: Arc<Weather>,
    stopping: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl Proxy {
    /// In front of `store`, on a free port of loopback.
    pub fn start(store: SocketAddr) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), store)
    }

    /// In front of `store`, at an address of this machine.
    pub fn start_at(address: SocketAddr, store: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("the address is free");
        let address = listener.local_addr().expect("bound");
        let weather = Arc::new(Weather::default());
        let stopping = Arc::new(AtomicBool::new(false));
        let (shared, stop) = (weather.clone(), stopping.clone());
        let listener = std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let weather = shared.clone();
                // An error ends the connection: the product sees a broken store, which is what a proxy is for.
                std::thread::spawn(move || serve(client, store, &weather));
            }
        });
        Proxy { address, weather, stopping, listener: Some(listener) }
    }

    /// 50 ms to the first byte and 90 MB/s for each connection: an object store in the same region.
    pub fn distant(&self) {
        self.weather.first_byte_ms.store(50, Ordering::Relaxed);
        self.weather.bytes_per_second.store(90_000_000, Ordering::Relaxed);
    }

    /// Two seconds to the first byte, 1 MB/s for each connection, and every fifth request refused: a store in trouble.
    pub fn troubled(&self) {
        self.weather.first_byte_ms.store(2_000, Ordering::Relaxed);
        self.weather.bytes_per_second.store(1_000_000, Ordering::Relaxed);
        self.weather.refuse_every.store(5, Ordering::Relaxed);
    }

    /// No delay, no bound and no refusal any more.
    pub fn fair(&self) {
        self.weather.first_byte_ms.store(0, Ordering::Relaxed);
        self.weather.bytes_per_second.store(0, Ordering::Relaxed);
        self.weather.refuse_every.store(0, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

fn serve(mut client: TcpStream, store: SocketAddr, weather: &Weather) -> io::Result<()> {
    let mut store = TcpStream::connect_timeout(&store, CONNECT)?;
    client.set_nodelay(true)?;
    store.set_nodelay(true)?;
    let (mut from_client, mut from_store) = (Buffered::new(client.try_clone()?), Buffered::new(store.try_clone()?));
    let outcome = loop {
        match exchange(&mut from_client, &mut client, &mut from_store, &mut store, weather) {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(e) => break Err(e),
        }
    };
    let _ = client.shutdown(Shutdown::Both);
    let _ = store.shutdown(Shutdown::Both);
    outcome
}

/// One request and its answer; false = the client has closed.
fn exchange(
    from_client: &mut Buffered,
    client: &mut TcpStream,
    from_store: &mut Buffered,
    store: &mut TcpStream,
    weather: &Weather,
) -> io::Result<bool> {
    let Some(head) = from_client.head()? else { return Ok(false) };
    if weather.cut.load(Ordering::Relaxed) {
        return Ok(false);
    }
    let number = weather.requests.fetch_add(1, Ordering::Relaxed) + 1;
    let method_is_head = head.starts_with(b"HEAD ");
    let refuse_every = weather.refuse_every.load(Ordering::Relaxed);
    if refuse_every > 0 && number.is_multiple_of(refuse_every) {
        from_client.body(&head, &mut io::sink(), &mut Pace::unbounded(), weather)?;
        weather.refused.fetch_add(1, Ordering::Relaxed);
        let body = "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
        let body = if method_is_head { "" } else { body };
        write!(
            client,
            "HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        return Ok(true);
    }
    let mut pace = Pace::new(weather);
    store.write_all(&head)?;
    if header(&head, "expect").is_some() {
        let interim = from_store.head()?.ok_or(io::ErrorKind::UnexpectedEof)?;
        client.write_all(&interim)?;
    }
    from_client.body(&head, store, &mut pace, weather)?;
    let answer = from_store.head()?.ok_or(io::ErrorKind::UnexpectedEof)?;
    wait::pause(Duration::from_millis(weather.first_byte_ms.load(Ordering::Relaxed)));
    let mut pace = Pace::new(weather);
    client.write_all(&answer)?;
    weather.answered_bytes.fetch_add(answer.len() as u64, Ordering::Relaxed);
    let status = answer.split(|b| *b == b' ').nth(1).unwrap_or_default();
    if !method_is_head && status != b"204" && status != b"304" {
        let sent = from_store.body(&answer, client, &mut pace, weather)?;
        weather.answered_bytes.fetch_add(sent, Ordering::Relaxed);
    }
    Ok(true)
}

/// A header's value, lower case.
fn header(head: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(head).to_lowercase();
    let mut lines = text.split("\r\n").skip(1);
    lines.find_map(|line| line.split_once(':').filter(|(n, _)| *n == name).map(|(_, v)| v.trim().to_owned()))
}

/// Holds a direction of a connection to its rate.
struct Pace {
    bytes_per_second: u64,
    begin: std::time::Instant,
    bytes: u64,
}

impl Pace {
    fn new(weather: &Weather) -> Self {
        Pace { bytes_per_second: weather.bytes_per_second.load(Ordering::Relaxed), begin: wait::now(), bytes: 0 }
    }

    fn unbounded() -> Self {
        Pace { bytes_per_second: 0, begin: wait::now(), bytes: 0 }
    }

    fn passed(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if self.bytes_per_second > 0 {
            let due = Duration::from_secs_f64(self.bytes as f64 / self.bytes_per_second as f64);
            wait::pause(due.saturating_sub(self.begin.elapsed()));
        }
    }
}

/// A stream with what was read past the end of a head.
struct Buffered {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Buffered {
    fn new(stream: TcpStream) -> Self {
        Buffered { stream, bytes: Vec::new() }
    }

    fn fill(&mut self) -> io::Result<usize> {
        let mut piece = vec![0; PIECE];
        let read = self.stream.read(&mut piece)?;
        self.bytes.extend_from_slice(&piece[..read]);
        Ok(read)
    }

    /// The next head with its empty line; `None` = closed before a byte of it.
    fn head(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                let rest = self.bytes.split_off(end + 4);
                return Ok(Some(std::mem::replace(&mut self.bytes, rest)));
            }
            if self.bytes.len() > HEAD_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if self.fill()? == 0 {
                return if self.bytes.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// Passes on the body that `head` announces; bytes in all.
    fn body(&mut self, head: &[u8], to: &mut impl Write, pace: &mut Pace, weather: &Weather) -> io::Result<u64> {
        if header(head, "transfer-encoding").is_some_and(|v| v.contains("chunked")) {
            return self.chunks(to, pace, weather);
        }
        let length: u64 = header(head, "content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
        self.pass(length, to, pace, weather)?;
        Ok(length)
    }

    fn chunks(&mut self, to: &mut impl Write, pace: &mut Pace, weather: &Weather) -> io::Result<u64> {
        let mut total = 0;
        loop {
            let end = loop {
                if let Some(end) = self.bytes.windows(2).position(|w| w == b"\r\n") {
                    break end + 2;
                }
                if self.fill()? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            };
            let line = String::from_utf8_lossy(&self.bytes[..end - 2]).into_owned();
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
            // The line, the chunk and its line end; behind the last chunk comes an empty line.
            let piece = end as u64 + size + 2;
            self.pass(piece, to, pace, weather)?;
            total += piece;
            if size == 0 {
                return Ok(total);
            }
        }
    }

    fn pass(&mut self, mut left: u64, to: &mut impl Write, pace: &mut Pace, weather: &Weather) -> io::Result<()> {
        while left > 0 {
            if weather.cut.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            if self.bytes.is_empty() && self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let now = self.bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            to.write_all(&self.bytes[..now])?;
            self.bytes.drain(..now);
            left -= now as u64;
            pace.passed(now);
        }
        Ok(())
    }
}
