//! As much of an HTTP client as reading a metrics page takes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The largest answer taken, bytes.
const ANSWER_MAX: u64 = 64 << 20;
const TIMEOUT: Duration = Duration::from_secs(10);

/// An answer; the body is text.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// GET, on a connection of its own.
pub fn get(address: SocketAddr, path: &str) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let malformed = || std::io::Error::new(std::io::ErrorKind::InvalidData, "not an HTTP answer");
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(malformed)?;
    Ok(Answer { status, body: body.to_owned() })
}

/// The sum of all samples of a metric on a Prometheus page whose labels contain `label` (empty = any); `None` = no sample.
pub fn metric(page: &str, name: &str, label: &str) -> Option<f64> {
    let samples: Vec<f64> = page
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
        .filter(|line| line.contains(label))
        .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
        .collect();
    if samples.is_empty() { None } else { Some(samples.iter().sum()) }
}
