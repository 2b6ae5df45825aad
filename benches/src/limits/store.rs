//! LG0, LG1, LG2, LP: the object store, without a broker. The bucket is open to everyone, so that nothing is signed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use strandline_tests::minio::Minio;
use strandline_tests::proxy::Proxy;

use super::disk::{pair, sink};
use super::timed;
use crate::report::Values;

const BUCKET: &str = "limit-bucket";
/// A range, or a part.
const CHUNK: u64 = 8 << 20;
/// Bytes of the object that is read.
const OBJECT: u64 = 256 << 20;

fn store() -> Minio {
    let minio = Minio::start();
    minio.make_bucket(BUCKET);
    minio.mc(&["anonymous", "set", "public", &format!("store/{BUCKET}")]);
    minio
}

/// A kept-open HTTP connection.
struct Http {
    stream: BufReader<TcpStream>,
    host: SocketAddr,
}

impl Http {
    fn open(host: SocketAddr) -> Self {
        let stream = TcpStream::connect(host).expect("the store takes connections");
        stream.set_nodelay(true).expect("a TCP option");
        Http { stream: BufReader::with_capacity(1 << 20, stream), host }
    }

    /// Headers of the answer, lower case, and its body in `body`.
    fn call(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        content: &[u8],
        body: &mut Vec<u8>,
    ) -> BTreeMap<String, String> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n{headers}\r\n",
            self.host,
            content.len()
        );
        let stream = self.stream.get_mut();
        stream.write_all(head.as_bytes()).expect("the store reads");
        stream.write_all(content).expect("the store reads");
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("the store answers");
        let status = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut answered = BTreeMap::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line).expect("the store answers");
            let Some((name, value)) = line.trim().split_once(':') else { break };
            answered.insert(name.to_lowercase(), value.trim().to_owned());
        }
        let length: usize = answered.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
        body.resize(length, 0);
        self.stream.read_exact(body).expect("the store sends the whole body");
        assert!(
            status.starts_with('2'),
            "{method} {path}: {status} {}",
            String::from_utf8_lossy(&body[..length.min(400)])
        );
        answered
    }

    fn get_range(&mut self, piece: &Piece, body: &mut Vec<u8>) {
        let range = format!("Range: bytes={}-{}\r\n", piece.from, piece.from + piece.len - 1);
        self.call("GET", &piece.path, &range, b"", body);
        assert_eq!(body.len() as u64, piece.len, "the whole range");
    }
}

/// A range of an object, at most [`CHUNK`] bytes.
struct Piece {
    path: Arc<str>,
    from: u64,
    len: u64,
}

/// Puts an object into the store and gives its ranges in turn, `bytes` in all.
fn pieces(address: SocketAddr, bytes: u64) -> Vec<Piece> {
    let path: Arc<str> = format!("/{BUCKET}/object").into();
    Http::open(address).call("PUT", &path, "", &vec![7; OBJECT as usize], &mut Vec::new());
    let piece = |number| Piece { path: path.clone(), from: number * CHUNK % OBJECT, len: CHUNK };
    (0..bytes / CHUNK).map(piece).collect()
}

/// `workers` connections get one range after the other, to nothing; the bytes that came.
fn get_ranges(address: SocketAddr, pieces: &[Piece], workers: usize) -> u64 {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let mut http = Http::open(address);
                // A body of its own for each, as whoever keeps them would need.
                while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                    http.get_range(piece, &mut Vec::new());
                }
            });
        }
    });
    pieces.iter().map(|piece| piece.len).sum()
}

/// What a replay of these objects (key, bytes) is held against: all their ranges, 4 at once, to nothing. The bucket is open to everyone.
pub(crate) fn get_objects(address: SocketAddr, bucket: &str, objects: &[(String, u64)]) -> Values {
    let ranges = |(key, bytes): &(String, u64)| {
        let (path, bytes): (Arc<str>, _) = (format!("/{bucket}/{key}").into(), *bytes);
        (0..bytes.div_ceil(CHUNK)).map(move |number| {
            let from = number * CHUNK;
            Piece { path: path.clone(), from, len: CHUNK.min(bytes - from) }
        })
    };
    let pieces: Vec<Piece> = objects.iter().flat_map(ranges).collect();
    timed(|| get_ranges(address, &pieces, 4))
}

pub(super) fn get_to_null(bytes: u64, _longest: Duration) -> Values {
    let minio = store();
    let pieces = pieces(minio.address, bytes);
    timed(|| get_ranges(minio.address, &pieces, 4))
}

pub(super) fn get_from_afar(bytes: u64, _longest: Duration) -> Values {
    let minio = store();
    let pieces = pieces(minio.address, bytes);
    let proxy = Proxy::start(minio.address);
    proxy.distant();
    timed(|| get_ranges(proxy.address, &pieces, 8))
}

/// What a broker's replay is at best: ranges fetched at once, sent on in order.
pub(super) fn get_to_socket(bytes: u64, _longest: Duration) -> Values {
    const WORKERS: usize = 4;
    let minio = store();
    let pieces = pieces(minio.address, bytes);
    timed(|| {
        let (mut sender, receiver) = pair();
        std::thread::scope(|scope| {
            let reader = scope.spawn(move || sink(receiver));
            // Each worker's ranges come in order; worker n has those of number n modulo the workers.
            let mut inboxes = Vec::new();
            for worker in 0..WORKERS {
                let (outbox, inbox) = sync_channel::<Vec<u8>>(1);
                inboxes.push(inbox);
                let (address, pieces) = (minio.address, &pieces);
                scope.spawn(move || {
                    let mut http = Http::open(address);
                    for piece in pieces.iter().skip(worker).step_by(WORKERS) {
                        let mut body = Vec::new();
                        http.get_range(piece, &mut body);
                        outbox.send(body).expect("the sender takes all");
                    }
                });
            }
            for number in 0..pieces.len() {
                let body = inboxes[number % WORKERS].recv().expect("a range");
                sender.write_all(&body).expect("loopback");
            }
            drop(sender);
            reader.join().expect("the reader ends well")
        })
    })
}

pub(super) fn put_multipart(bytes: u64, _longest: Duration) -> Values {
    const WORKERS: usize = 4;
    let minio = store();
    let path = format!("/{BUCKET}/parts");
    let parts = (bytes / CHUNK).clamp(1, 10_000);
    timed(|| {
        let mut http = Http::open(minio.address);
        let mut body = Vec::new();
        http.call("POST", &format!("{path}?uploads="), "", b"", &mut body);
        let text = String::from_utf8_lossy(&body).into_owned();
        let upload =
            text.split("<UploadId>").nth(1).and_then(|t| t.split('<').next()).expect("an upload id").to_owned();
        let tags = Mutex::new(BTreeMap::new());
        let next = AtomicU64::new(1);
        std::thread::scope(|scope| {
            for _ in 0..WORKERS {
                scope.spawn(|| {
                    let mut http = Http::open(minio.address);
                    let content = vec![7; CHUNK as usize];
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number > parts {
                            return;
                        }
                        let part = format!("{path}?partNumber={number}&uploadId={upload}");
                        let answer = http.call("PUT", &part, "", &content, &mut Vec::new());
                        let tag = answer.get("etag").expect("a part has a tag").clone();
                        tags.lock().expect("no worker panicked").insert(number, tag);
                    }
                });
            }
        });
        let list: String = tags
            .into_inner()
            .expect("no worker panicked")
            .into_iter()
            .map(|(number, tag)| format!("<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>"))
            .collect();
        let complete = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
        http.call("POST", &format!("{path}?uploadId={upload}"), "", complete.as_bytes(), &mut body);
        parts * CHUNK
    })
}
