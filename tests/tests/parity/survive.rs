//! What a broker must survive: cut bodies, lying lengths, half a connection, a byte a second.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use strandline_protocol::api::ApiKey;
use strandline_protocol::frame::encode_request;
use strandline_protocol::messages::Request;
use strandline_tests::wire::is_serving;
use strandline_tests::{wait, wire};

use crate::pair::{BEGIN_MS, Pair, Side, batch_at};

/// What all of this may leave in memory, bytes.
const GROWTH_MAX: u64 = 64 << 20;
const SOCKET: Duration = Duration::from_secs(10);
/// How long to look at the answer to a lie.
const LIE: Duration = Duration::from_millis(100);

/// Runs `attack` and checks that Strandline serves afterwards, has not grown, and has not panicked.
fn survives(attack: impl Fn(&Side)) {
    let side = &Pair::get().strandline;
    let before = side.broker().server().resident_bytes();
    attack(side);
    wait::until("the broker serves", SOCKET, || is_serving(side.address).then_some(()));
    let mut broker = side.broker();
    assert!(broker.server().is_running(), "the broker runs");
    let after = broker.server().resident_bytes();
    let log = broker.server().log_text();
    assert!(!log.contains("panicked"), "nothing panicked: {log}");
    assert!(!log.contains("response cannot be encoded"), "every answer can be encoded: {log}");
    assert!(after.saturating_sub(before) < GROWTH_MAX, "{before} bytes resident before, {after} after");
}

fn frame<R: Request>(version: i16, request: &R) -> Vec<u8> {
    let rope = encode_request(version, 9, Some("survive"), request).expect("it encodes");
    rope.to_bytes().expect("no files").to_vec()
}

/// A request for each served version of `R`.
fn each<R: Request>(out: &mut Vec<(ApiKey, i16, Vec<u8>)>, build: impl Fn(i16) -> R) {
    out.extend(R::API_KEY.served_versions().map(|v| (R::API_KEY, v, frame(v, &build(v)))));
}

/// A good request of every API in every version.
fn samples(side: &Side) -> Vec<(ApiKey, i16, Vec<u8>)> {
    use crate::{cluster, configs, describe, fetch, groups, offsets, produce, topics, versions};
    const TOPIC: &str = "survive-a";
    let mut all = Vec::new();
    each(&mut all, |v| produce::request(side, v, TOPIC, Some(batch_at(BEGIN_MS, 1))));
    each(&mut all, |v| fetch::request(side, v, TOPIC));
    each(&mut all, |v| offsets::list(v, TOPIC, &[(0, -1, -1)]));
    each(&mut all, |v| offsets::epochs(-2, TOPIC, &[(0, -1, if v > 0 { 0 } else { -1 })]));
    each(&mut all, |_| offsets::cut(TOPIC, &[(0, 0)]));
    each(&mut all, |v| topics::by_names(&[TOPIC], false, v));
    each(&mut all, |_| topics::create(vec![topics::assigned("survive-b", &[(0, &[1])])], true));
    each(&mut all, |v| topics::delete_names(&["survive-none"], v));
    each(&mut all, |_| topics::grow_request(vec![topics::grow(TOPIC, 2, Some(&[&[1]]))], true));
    each(&mut all, |_| configs::describe(2, TOPIC, Some(&["retention.ms"]), true));
    each(&mut all, |_| configs::replace(2, TOPIC, &[("retention.ms", Some("1"))], true));
    each(&mut all, |_| configs::change(2, TOPIC, &[("retention.ms", 0, Some("1"))], true));
    each(&mut all, |v| configs::list(if v == 0 { &[] } else { &[2] }));
    each(&mut all, |_| describe::cluster());
    each(&mut all, |_| describe::partitions(&[TOPIC], 10, Some((TOPIC, 0))));
    each(&mut all, |_| describe::log_dirs(Some(&[(TOPIC, &[0])])));
    each(&mut all, |_| cluster::reassign(TOPIC, 0, Some(&[1])));
    each(&mut all, |_| cluster::reassignments(Some(&[(TOPIC, &[0])])));
    each(&mut all, |_| cluster::elect(Some(&[(TOPIC, &[0])])));
    each(&mut all, |_| cluster::quorum());
    each(&mut all, |_| cluster::unregister());
    each(&mut all, |_| cluster::add_voter());
    each(&mut all, |_| cluster::remove_voter());
    each(&mut all, |_| produce::init(None, 1000));
    each(&mut all, |_| produce::describe(&[(TOPIC, &[0])]));
    each(&mut all, |v| if v >= 3 { versions::request("survive", "1") } else { Default::default() });
    each(&mut all, |v| groups::find(v, "survive", 0));
    each(&mut all, |v| groups::join(v, "survive", "nobody"));
    each(&mut all, |v| groups::sync(v, "survive", 1, "nobody"));
    each(&mut all, |_| groups::heartbeat("survive", 1, "nobody"));
    each(&mut all, |v| groups::leave(v, "survive", "nobody"));
    each(&mut all, |v| groups::commit(side, v, "survive", -1, "", &[(TOPIC, 0, 1)]));
    each(&mut all, |v| groups::fetch(side, v, "survive", Some(&[(TOPIC, &[0])])));
    each(&mut all, |_| groups::offset_deletion("survive", &[(TOPIC, &[0])]));
    each(&mut all, |_| groups::list(&[], &[]));
    each(&mut all, |_| groups::describe(&["survive"]));
    each(&mut all, |_| groups::deletion(&["survive-none"]));
    all
}

fn prepared() -> &'static Pair {
    static MADE: std::sync::Once = std::sync::Once::new();
    let pair = Pair::get();
    MADE.call_once(|| pair.topic("survive-a", 1, &[]));
    pair
}

/// Sends a frame's bytes and reads until the broker closes or, having answered, sees our end. True = something was answered.
fn exchange(side: &Side, bytes: &[u8]) -> bool {
    exchange_within(side, bytes, SOCKET).expect("the broker answers or closes")
}

/// [`exchange`]; `None` = neither came within `patience`.
fn exchange_within(side: &Side, bytes: &[u8], patience: Duration) -> Option<bool> {
    let mut stream = TcpStream::connect(side.address).expect("the broker takes connections");
    stream.set_read_timeout(Some(patience)).expect("a socket option");
    // The broker may close while we write: that is its right.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let read = stream.take(1 << 20).read_to_end(&mut answer);
    let waits = read.is_err_and(|e| e.kind() == ErrorKind::WouldBlock);
    (!waits).then_some(!answer.is_empty())
}

#[test]
fn samples_cover_every_api_and_are_answered() {
    let pair = prepared();
    let samples = samples(&pair.strandline);
    for api in ApiKey::ALL.iter().filter(|api| api.is_served()) {
        for version in api.served_versions() {
            let sample = samples.iter().find(|(a, v, _)| a == api && *v == version);
            let (_, _, bytes) = sample.unwrap_or_else(|| panic!("{api:?} v{version} has a sample"));
            assert!(exchange(&pair.strandline, bytes), "{api:?} v{version} is answered");
        }
    }
}

/// Every good request cut at every byte, its length told right.
#[test]
fn cut_bodies() {
    prepared();
    survives(|side| {
        for (_, _, bytes) in samples(side) {
            for end in 4..bytes.len() {
                let mut cut = bytes[..end].to_vec();
                let told = (end as i32 - 4).to_be_bytes();
                cut[..4].copy_from_slice(&told);
                exchange(side, &cut);
            }
        }
    });
}

/// Every four bytes of every good request replaced by a length that lies.
#[test]
fn lying_lengths() {
    prepared();
    survives(|side| {
        for (api, version, bytes) in samples(side) {
            // The newest and the oldest version: in compact and in plain lengths.
            if ![*api.served_versions().start(), *api.served_versions().end()].contains(&version) {
                continue;
            }
            for at in (12..bytes.len().saturating_sub(4)).step_by(2) {
                for lie in [[0xff; 4], [0x7f, 0xff, 0xff, 0xff], [0xff, 0xff, 0xff, 0x0f], [0x80, 0, 0, 0]] {
                    let mut bad = bytes.clone();
                    bad[at..at + 4].copy_from_slice(&lie);
                    // A number that is no length may be a time to wait, and then the broker is right to wait.
                    let _ = exchange_within(side, &bad, LIE);
                }
            }
        }
    });
}

/// Frames whose own length lies, and connections that stop in the middle of one.
#[test]
fn half_frames() {
    prepared();
    survives(|side| {
        let good = frame(12, &crate::topics::by_names(&["survive-a"], false, 12));
        for lie in [-1, i32::MIN, i32::MAX, 0, 1, 7, 200 << 20] {
            let mut bad = good.clone();
            bad[..4].copy_from_slice(&i32::to_be_bytes(lie));
            exchange(side, &bad);
        }
        for end in 0..good.len() {
            exchange(side, &good[..end]);
        }
        // Announced and never sent: memory is for bytes that came.
        let mut held = Vec::new();
        for _ in 0..500 {
            let mut stream = TcpStream::connect(side.address).expect("the broker takes connections");
            stream.write_all(&(50_i32 << 20).to_be_bytes()).expect("four bytes");
            held.push(stream);
        }
        assert!(is_serving(side.address), "the broker serves while {} connections hold back", held.len());
    });
}

/// A request that comes a byte at a time, slowly, is answered, and others are meanwhile.
#[test]
fn a_byte_at_a_time() {
    prepared();
    survives(|side| {
        let good = frame(12, &crate::topics::by_names(&["survive-a"], false, 12));
        let mut slow = TcpStream::connect(side.address).expect("the broker takes connections");
        slow.set_nodelay(true).expect("a socket option");
        slow.set_read_timeout(Some(SOCKET)).expect("a socket option");
        let pause = SOCKET / (2 * good.len() as u32);
        for byte in &good {
            slow.write_all(&[*byte]).expect("the broker reads on");
            assert!(is_serving(side.address), "others are served");
            wait::pause(pause);
        }
        let mut length = [0; 4];
        slow.read_exact(&mut length).expect("an answer");
        assert!(i32::from_be_bytes(length) > 0);
    });
}

/// Correlation ids are the client's: answers carry them in the order of the requests, whatever they are.
#[test]
fn any_correlation() {
    let pair = prepared();
    let mut connection = wire::Connection::open(pair.strandline.address).expect("the broker takes connections");
    let request = crate::topics::by_names(&["survive-a"], false, 12);
    let ids = [0, -1, i32::MIN, i32::MAX, 5, 5];
    for id in ids {
        let rope = encode_request(12, id, None, &request).expect("it encodes");
        connection.send_raw(&rope.to_bytes().expect("no files")).expect("sent");
    }
    for id in ids {
        let answer = connection.receive_raw().expect("an answer");
        assert_eq!(answer[..4], id.to_be_bytes(), "the answer to request {id}");
    }
}
