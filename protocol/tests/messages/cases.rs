//! A message with its type forgotten, so that one loop can run over all of them.

use std::fmt::Debug;
use std::ops::RangeInclusive;

use bytes::Bytes;
use strandline_protocol::codec::{Reader, Writer};
use strandline_protocol::messages::Message;

use crate::random::Random;
use crate::samples;

/// A random value that `version` can carry.
pub trait Sample {
    fn sample(r: &mut Random, version: i16) -> Self;
}

pub struct Case {
    pub name: &'static str,
    pub versions: RangeInclusive<i16>,
    /// Encodes a random value; it decodes to the same.
    pub sample: fn(&mut Random, i16) -> Bytes,
    /// Whether it decodes.
    pub decode: fn(Bytes, i16) -> bool,
}

pub fn case<M: Message + Sample + PartialEq + Debug>() -> Case {
    Case {
        name: M::NAME,
        versions: M::VERSIONS,
        sample: |r, version| {
            let message = M::sample(r, version);
            let bytes = encode(&message, version);
            let mut reader = Reader::new(bytes.clone());
            let back = M::decode(&mut reader, version).expect("what was encoded decodes");
            assert_eq!((back, reader.remaining()), (message, 0), "{} version {version}", M::NAME);
            bytes
        },
        decode: |bytes, version| M::decode(&mut Reader::new(bytes), version).is_ok(),
    }
}

fn encode<M: Message + Debug>(message: &M, version: i16) -> Bytes {
    let mut w = Writer::default();
    message.encode(&mut w, version).unwrap_or_else(|e| panic!("{e}: {message:?}"));
    w.finish().to_bytes().expect("no file ranges")
}

pub use samples::cases;

/// Samples that cover every message and version, `count` of each.
pub fn for_each_sample(seed: u64, count: usize, mut visit: impl FnMut(&Case, i16, Bytes)) {
    let mut random = Random(seed);
    for case in cases() {
        for version in case.versions.clone() {
            for _ in 0..count {
                let bytes = (case.sample)(&mut random, version);
                visit(&case, version, bytes);
            }
        }
    }
}
