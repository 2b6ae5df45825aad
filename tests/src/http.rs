//! As much of an HTTP client as metrics pages and REST APIs take.

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
    /// The header lines.
    pub head: String,
    pub body: String,
}

/// GET, on a connection of its own.
pub fn get(address: SocketAddr, path: &str) -> std::io::Result<Answer> {
    call(address, "GET", path, None)
}

/// Any call, with a JSON body or none, on a connection of its own.
pub fn call(address: SocketAddr, method: &str, path: &str, body: Option<&str>) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let sent = body.map_or_else(String::new, |body| {
        format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len())
    });
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{sent}\r\n");
    stream.write_all((head + body.unwrap_or("")).as_bytes())?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let malformed = || std::io::Error::new(std::io::ErrorKind::InvalidData, "not an HTTP answer");
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(malformed)?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunked(body).ok_or_else(malformed)? } else { body.to_owned() };
    Ok(Answer { status, head: head.to_owned(), body })
}

/// The body of an answer that came in chunks.
fn unchunked(mut text: &str) -> Option<String> {
    let mut whole = String::new();
    loop {
        let (size, rest) = text.split_once("\r\n")?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        whole.push_str(rest.get(..size)?);
        text = rest.get(size..)?.strip_prefix("\r\n")?;
    }
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
