//! Bytes that lie: no decoder panics, and none reserves more than the bytes allow.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::Bytes;

use crate::cases::cases;
use crate::random::Random;

/// Counts what the running thread holds, and the most it held.
struct Counting;

thread_local! {
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

fn count(change: isize) {
    // A thread that ends has no counter any more.
    let _ = HELD.try_with(|held| {
        let (now, peak) = held.get();
        held.set((now + change, peak.max(now + change)));
    });
}

#[expect(unsafe_code, reason = "an allocator that counts and hands on to the system's")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Mutations over all messages and versions.
const MUTATIONS: usize = 100_000;
/// Bytes in memory for a byte on the wire: an array reserves up to one struct per byte that is left.
const EXPANSION: isize = 200;
/// Beside that: errors, small vectors.
const SLACK_BYTES: isize = 4096;
/// Bytes behind some messages, so that a large lying length meets as many bytes.
const TAIL_BYTES: usize = 64 << 10;

fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        bytes.push(random.next() as u8);
        return;
    }
    let at = random.below(bytes.len());
    match random.below(6) {
        0 => bytes[at] = random.next() as u8,
        1 => bytes[at] ^= 1 << random.below(8),
        2 => bytes.truncate(at),
        3 => overwrite(bytes, at, &[[0x7f, 0xff, 0xff, 0xff], [0x80, 0, 0, 0], [0, 0xff, 0xff, 0xff]][random.below(3)]),
        4 => overwrite(bytes, at, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        _ => {
            let tail: Vec<u8> = bytes[at..].to_vec();
            bytes.extend(tail);
        }
    }
}

fn overwrite(bytes: &mut [u8], at: usize, lie: &[u8]) {
    for (byte, value) in bytes[at..].iter_mut().zip(lie) {
        *byte = *value;
    }
}

#[test]
fn malformed_messages_neither_panic_nor_reserve_beyond_their_bytes() {
    let mut random = Random(0x7ead);
    let all: Vec<_> =
        cases().into_iter().flat_map(|c| c.versions.clone().map(move |v| (c.name, c.sample, c.decode, v))).collect();
    let mut refused = 0;
    for round in 0..MUTATIONS {
        let (name, sample, decode, version) = all[round % all.len()];
        let mut bytes = sample(&mut random, version).to_vec();
        for _ in 0..=random.below(3) {
            mutate(&mut random, &mut bytes);
        }
        if random.below(8) == 0 {
            let filler = [0, 1, 2, 0xff][random.below(4)];
            bytes.resize(bytes.len() + TAIL_BYTES, filler);
        }
        let length = bytes.len() as isize;
        let frame = Bytes::from(bytes);
        let before = HELD.with(|held| {
            let (now, _) = held.get();
            held.set((now, now));
            now
        });
        refused += usize::from(!decode(frame, version));
        let peak = HELD.with(Cell::get).1 - before;
        let allowed = SLACK_BYTES + EXPANSION * length;
        assert!(peak <= allowed, "{name} {version}: {length} bytes took {peak}, round {round}");
    }
    assert!(refused > MUTATIONS / 4, "the mutations must hurt: {refused} refused");
}

#[test]
fn every_truncation_of_a_message_is_refused_or_shorter() {
    let mut random = Random(11);
    for case in cases() {
        for version in case.versions.clone() {
            let whole = (case.sample)(&mut random, version);
            for length in 0..whole.len().min(300) {
                let accepted = (case.decode)(whole.slice(..length), version);
                assert!(!accepted, "{} {version} at {length} of {}", case.name, whole.len());
            }
        }
    }
}
