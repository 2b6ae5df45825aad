//! LW, LF, LS: the socket and the file.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use crc_fast::{CrcAlgorithm, checksum};
use strandline_tests::{place, wait};

use super::timed;
use crate::meter::percentile;
use crate::report::Values;

/// Bytes of one produce request of the row that this bounds.
const PIECE: usize = 256 << 10;
/// Bytes of one sendfile call.
const SEND: usize = 1 << 20;
const WRITERS: usize = 16;
const WRITE: usize = 16 << 10;

/// A connected pair of loopback sockets.
pub(super) fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let one = TcpStream::connect(listener.local_addr().expect("bound")).expect("loopback");
    let (other, _) = listener.accept().expect("loopback");
    (one, other)
}

/// Reads and forgets until the other side closes.
pub(super) fn sink(mut from: TcpStream) -> u64 {
    let mut buffer = vec![0; SEND];
    let mut total = 0;
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        total += read as u64;
    }
    total
}

pub(super) fn receive_and_write(bytes: u64, _longest: Duration) -> Values {
    let file = File::create(place::directory("limit").join("log")).expect("a file");
    timed(|| {
        let (mut sender, mut receiver) = pair();
        let pieces = bytes / PIECE as u64;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let piece = vec![7; PIECE];
                for _ in 0..pieces {
                    sender.write_all(&piece).expect("loopback");
                }
            });
            let mut buffer = vec![0; PIECE];
            let mut checksums = 0_u64;
            for n in 0..pieces {
                receiver.read_exact(&mut buffer).expect("loopback");
                checksums ^= checksum(CrcAlgorithm::Crc32Iscsi, &buffer);
                file.write_all_at(&buffer, n * PIECE as u64).expect("the disk has space");
            }
            std::hint::black_box(checksums);
        });
        pieces * PIECE as u64
    })
}

pub(super) fn send_file(bytes: u64, _longest: Duration) -> Values {
    const FILE: u64 = 1 << 30;
    let path = place::directory("limit").join("log");
    let mut file = File::create(&path).expect("a file");
    let piece = vec![7; SEND];
    let size = bytes.min(FILE) / SEND as u64 * SEND as u64;
    for _ in 0..size / SEND as u64 {
        file.write_all(&piece).expect("the disk has space");
    }
    let file = File::open(path).expect("the file");
    timed(|| {
        let (sender, receiver) = pair();
        std::thread::scope(|scope| {
            let reader = scope.spawn(move || sink(receiver));
            let mut left = bytes / size * size;
            while left > 0 {
                let mut offset = 0;
                while offset < size {
                    let most = SEND.min(usize::try_from(size - offset).expect("fits"));
                    rustix::fs::sendfile(&sender, &file, Some(&mut offset), most).expect("sendfile");
                }
                left -= size;
            }
            drop(sender);
            reader.join().expect("the reader ends well")
        })
    })
}

/// Each round every writer appends once, and one fdatasync of the one file ends it: the best that one disk can do for all.
pub(super) fn group_sync(_bytes: u64, longest: Duration) -> Values {
    let file = File::create(place::directory("limit").join("log")).expect("a file");
    let piece = vec![7; WRITE];
    let mut rounds = Vec::new();
    let mut values = timed(|| {
        let begin = wait::now();
        let mut written = 0;
        while begin.elapsed() < longest {
            let round = wait::now();
            for _ in 0..WRITERS {
                file.write_all_at(&piece, written).expect("the disk has space");
                written += WRITE as u64;
            }
            file.sync_data().expect("the disk syncs");
            rounds.push(round.elapsed().as_secs_f64() * 1e3);
        }
        written
    });
    rounds.sort_by(f64::total_cmp);
    values.extend([("round_p50_ms", percentile(&rounds, 0.5)), ("round_p99_ms", percentile(&rounds, 0.99))]);
    values
}
