//! Bad input: bytes that are no requests, batches that lie, requests for what is not there.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use strandline_protocol::compression::Compression;
use strandline_protocol::frame::encode_request;
use strandline_protocol::messages::Request;
use strandline_protocol::messages::metadata_request::MetadataRequest;
use strandline_protocol::record_batch::RecordBatchBuilder;
use strandline_tests::broker::{Broker, Setup, Software};
use strandline_tests::random::Random;
use strandline_tests::wire::{FETCH, PRODUCE, fetch_request, is_serving, produce_request};
use strandline_tests::{wait, wire};

use crate::scene::{TOPIC, alone, setting};

/// What 100,000 malformed frames may leave in memory, bytes.
const GROWTH_MAX: u64 = 64 << 20;
/// Frames sent on one connection.
const FRAMES: u64 = 20;
const SOCKET: Duration = Duration::from_secs(5);

fn broker() -> Broker {
    let setup = Setup::default().set("auto.create.topics.enable", "false");
    let broker = Broker::start(Software::under_test(), setup);
    broker.connection().create_topic(TOPIC, 1, &[]).expect("the topic is created");
    broker
}

fn batch() -> BytesMut {
    let mut builder = RecordBatchBuilder::new(Compression::None);
    for n in 0..10_i64 {
        builder.append(wait::wall_clock_ms(), Some(&n.to_be_bytes()), Some(&[7; 100]), &[]);
    }
    BytesMut::from(&builder.build()[..])
}

fn frame<R: Request>(version: i16, request: &R) -> Vec<u8> {
    encode_request(version, 1, Some("bad"), request).expect("it encodes").to_bytes().expect("no files").to_vec()
}

/// Flipped bits, cut ends, lying lengths: the broker closes the connection or answers an error, and nothing else happens.
#[test]
fn malformed_frames() {
    let _turn = alone();
    let mut broker = broker();
    let metadata = MetadataRequest { topics: None, ..Default::default() };
    let good = [
        frame(PRODUCE, &produce_request(TOPIC, 0, batch().freeze(), -1)),
        frame(FETCH, &fetch_request(TOPIC, 0, 0, 1 << 20, 10)),
        frame(12, &metadata),
    ];
    let mut random = Random::new(53);
    let count = setting("STRANDLINE_FAULT_FRAMES", 100_000);
    // What a broker needs for its first connections is not growth.
    send_malformed(&broker, &good, &mut random, 2_000);
    let before = broker.server().resident_bytes();
    send_malformed(&broker, &good, &mut random, count);
    assert!(broker.server().is_running(), "the broker runs");
    wait::until("the broker serves", SOCKET, || is_serving(broker.address).then_some(()));
    let after = broker.server().resident_bytes();
    eprintln!("{count} malformed frames: {} KiB before, {} KiB after", before >> 10, after >> 10);
    assert!(after.saturating_sub(before) < GROWTH_MAX, "{before} bytes resident before, {after} after");
    assert!(!broker.server().log_text().contains("panicked"), "nothing panicked");
    let answer = broker.connection().produce(TOPIC, 0, batch().freeze()).expect("an answer");
    assert_eq!(answer.error_code, 0, "a good batch is taken");
}

fn send_malformed(broker: &Broker, good: &[Vec<u8>], random: &mut Random, count: u64) {
    let mut left = count;
    while left > 0 {
        let mut stream = TcpStream::connect(broker.address).expect("the broker takes connections");
        stream.set_read_timeout(Some(SOCKET)).expect("a socket option");
        stream.set_write_timeout(Some(SOCKET)).expect("a socket option");
        let now = left.min(FRAMES);
        left -= now;
        let mut bytes = Vec::new();
        for _ in 0..now {
            bytes.extend(malformed(good, random));
        }
        // The broker may close while we write: that is its right.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let _ = stream.take(1 << 20).read_to_end(&mut Vec::new());
    }
}

fn malformed(good: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = good[random.below(good.len() as u64) as usize].clone();
    let length = bytes.len() as u64;
    match random.below(5) {
        // Bits anywhere behind the length.
        0 | 1 => {
            for _ in 0..=random.below(8) {
                let at = 4 + random.below(length - 4) as usize;
                bytes[at] ^= 1 << random.below(8);
            }
        }
        // A length of the body that is not the frame's.
        2 => {
            let lie = [0, 1, 7, 1 << 20, i32::MAX, -1, i32::MIN][random.below(7) as usize];
            bytes[..4].copy_from_slice(&lie.to_be_bytes());
        }
        // A cut end, its length told right.
        3 => {
            bytes.truncate(4 + random.below(length - 4) as usize);
            let told = (bytes.len() as i32 - 4).to_be_bytes();
            bytes[..4].copy_from_slice(&told);
        }
        // Large numbers where counts and lengths stand.
        _ => {
            let at = 4 + random.below(length - 8) as usize;
            bytes[at..at + 4].copy_from_slice(
                &[[0xff; 4], [0x7f, 0xff, 0xff, 0xff], [0xff, 0xff, 0xff, 0x0f]][random.below(3) as usize],
            );
        }
    }
    bytes
}

/// Each of these is refused with Kafka's error code, and leaves no record.
#[test]
fn bad_batches_are_refused() {
    let _turn = alone();
    let broker = broker();
    let refused = |what: &str, records: Bytes, codes: &[i16]| {
        let answer = broker.connection().produce(TOPIC, 0, records);
        // Kafka closes the connection on some.
        let code = answer.map_or(-999, |a| a.error_code);
        assert!(codes.contains(&code), "{what}: error {code}, wanted one of {codes:?}");
    };
    let mut bad = batch();
    bad[80] ^= 1;
    refused("a flipped bit", bad.freeze(), &[2]);
    let mut bad = batch();
    bad[16] = 7;
    refused("magic 7", bad.freeze(), &[2, 87, -999]);
    let mut bad = batch();
    let length = i32::from_be_bytes([bad[8], bad[9], bad[10], bad[11]]);
    bad[8..12].copy_from_slice(&(length + 1000).to_be_bytes());
    refused("a batch longer than the request", bad.freeze(), &[2, 42, 87, -999]);
    let mut bad = batch();
    bad[8..12].copy_from_slice(&20_i32.to_be_bytes());
    refused("a batch shorter than its header", bad.freeze(), &[2, 42, 87, -999]);
    let mut large = RecordBatchBuilder::new(Compression::None);
    large.append(wait::wall_clock_ms(), None, Some(&vec![1; 2 << 20]), &[]);
    refused("2 MiB where 1 MiB is allowed", large.build(), &[10, 18]);
    assert_eq!(broker.connection().list_offset(TOPIC, 0, wire::LATEST), Ok(0), "nothing was written");
}

/// Unknown topics and partitions, leader epochs that are not, offsets out of range.
#[test]
fn requests_for_what_is_not_there() {
    let _turn = alone();
    let broker = broker();
    let answer = broker.connection().produce("no-such-topic", 0, batch().freeze()).expect("an answer");
    assert_eq!(answer.error_code, 3, "UNKNOWN_TOPIC_OR_PARTITION");
    let answer = broker.connection().produce(TOPIC, 9, batch().freeze()).expect("an answer");
    assert_eq!(answer.error_code, 3, "UNKNOWN_TOPIC_OR_PARTITION");
    let answer = broker.connection().fetch("no-such-topic", 0, 0, 1 << 20).expect("an answer");
    assert_eq!(answer.error_code, 3, "UNKNOWN_TOPIC_OR_PARTITION");
    let answer = broker.connection().fetch(TOPIC, 0, 5, 1 << 20).expect("an answer");
    assert_eq!(answer.error_code, 1, "OFFSET_OUT_OF_RANGE");
    for (epoch, code) in [(1_000, 75), (-1, 0)] {
        let mut request = fetch_request(TOPIC, 0, 0, 1 << 20, 10);
        request.topics[0].partitions[0].current_leader_epoch = epoch;
        let mut response = broker.connection().call(FETCH, &request).expect("an answer");
        let data = response.responses.swap_remove(0).partitions.swap_remove(0);
        assert_eq!(data.error_code, code, "leader epoch {epoch}");
    }
}
