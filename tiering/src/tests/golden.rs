//! The bytes of everything that is kept: they do not change, and what is read is what was written.
//!
//! The files in `testdata` are of format version 1. A change of a format adds a file, and never alters one.

use bytes::Bytes;
use proptest::prelude::*;
use strandline_protocol::remote_pointer::ManifestRef;
use uuid::Uuid;

use super::harness::tp;
use crate::encoding::DecodeError;
use crate::keys::{Key, Listing, PartitionPrefix, SegmentKey};
use crate::manifest::{
    Entry, Manifest, RunRef, SegmentFormat, Tombstone, decode_entry_run, decode_tombstone_run, encode_entry_run,
    encode_tombstone_run,
};
use crate::sidecar::{AbortedTxn, CHUNK_BYTES, IndexEntry, Sidecar};

const MANIFEST: &str = include_str!("testdata/manifest-1.hex");
const SIDECAR: &str = include_str!("testdata/sidecar-1.hex");
const ENTRY_RUN: &str = include_str!("testdata/entry-run-1.hex");
const TOMBSTONE_RUN: &str = include_str!("testdata/tombstone-run-1.hex");

fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let lines: Vec<&str> = digits.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    lines.join("\n") + "\n"
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn uuid(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn entry(base_offset: i64, last_offset: i64) -> Entry {
    Entry {
        key: SegmentKey { base_offset, leader_epoch: 3, uuid: uuid(0x0102_0304) },
        last_offset,
        size_bytes: 1000,
        sidecar_size_bytes: 200,
        min_timestamp: 1_700_000_000_000,
        max_timestamp: 1_700_000_000_999,
        content_hash: 0x1111_2222_3333_4444,
        sidecar_hash: 0x5555_6666_7777_8888,
        added: 7,
        flags: 1,
        format: SegmentFormat::RecordBatches,
        epochs: vec![(2, base_offset), (3, base_offset + 5)],
    }
}

fn tombstone(removed: u64) -> Tombstone {
    let key = Key::Manifest { version: 6, leader_epoch: 3, uuid: uuid(9) };
    Tombstone { key, added: 6, removed, time_ms: 1_700_000_001_000 }
}

fn run_ref(hash: u64, size_bytes: u64, count: u32, first: i64, last: i64) -> RunRef {
    let key = Key::Index { first, leader_epoch: 3, uuid: uuid(11) };
    RunRef { key, hash, size_bytes, count, first, last, bytes: 2000, max_timestamp: 5, added: 8, buried: 0 }
}

fn manifest() -> Manifest {
    Manifest {
        tp: tp(),
        version: 9,
        leader_epoch: 3,
        uuid: uuid(12),
        predecessor: Some(Key::Manifest { version: 8, leader_epoch: 2, uuid: uuid(13) }),
        log_start_offset: 15,
        highest_copied_offset: 59,
        highest_copied_epoch: 3,
        live_from: 1,
        leader_epochs: vec![(2, 0), (3, 25)],
        entry_runs: vec![run_ref(0xabcd, 300, 2, 0, 39)],
        entries: vec![entry(40, 59)],
        tombstone_runs: vec![run_ref(0xef01, 100, 2, 3, 5)],
        tombstones: vec![tombstone(9)],
    }
}

fn sidecar() -> Sidecar {
    Sidecar {
        base_offset: 40,
        last_offset: 59,
        size_bytes: CHUNK_BYTES + 1000,
        index: vec![
            IndexEntry { offset: 40, position: 0, max_timestamp_before: -1 },
            IndexEntry { offset: 50, position: 70_000, max_timestamp_before: 1_700_000_000_500 },
        ],
        chunk_hashes: vec![0x1234, 0x5678],
        aborted: vec![AbortedTxn { producer_id: 4, first_offset: 41, last_offset: 62, last_stable_offset: 63 }],
        producer_state: Bytes::from_static(&[0, 1, 2, 3]),
        leader_epochs: vec![(2, 0), (3, 45)],
    }
}

#[test]
fn a_manifest_has_the_bytes_of_its_format() {
    let (bytes, hash) = manifest().encode();
    assert_eq!(hex(&bytes), MANIFEST);
    let named = ManifestRef { version: 9, leader_epoch: 3, uuid: uuid(12), hash };
    assert_eq!(Manifest::decode(&unhex(MANIFEST), &tp(), &named).unwrap(), manifest());
    let other = ManifestRef { version: 10, ..named };
    assert!(Manifest::decode(&bytes, &tp(), &other).is_err(), "the manifest of another version");
}

#[test]
fn a_sidecar_has_the_bytes_of_its_format() {
    let (bytes, hash) = sidecar().encode();
    assert_eq!(hex(&bytes), SIDECAR);
    assert_eq!(Sidecar::decode(&unhex(SIDECAR), hash).unwrap(), sidecar());
}

#[test]
fn runs_have_the_bytes_of_their_format() {
    let entries = [entry(0, 19), entry(20, 39)];
    let (bytes, hash) = encode_entry_run(&entries);
    assert_eq!(hex(&bytes), ENTRY_RUN);
    let named = run_ref(hash, bytes.len() as u64, 2, 0, 39);
    assert_eq!(decode_entry_run(&unhex(ENTRY_RUN), &named).unwrap(), entries);
    assert!(decode_entry_run(&bytes, &RunRef { last: 40, ..named }).is_err());
    let tombstones = [tombstone(7), tombstone(8)];
    let (bytes, hash) = encode_tombstone_run(&tombstones);
    assert_eq!(hex(&bytes), TOMBSTONE_RUN);
    let named = run_ref(hash, bytes.len() as u64, 2, 7, 8);
    assert_eq!(decode_tombstone_run(&unhex(TOMBSTONE_RUN), &named).unwrap(), tombstones);
    assert!(decode_entry_run(&bytes, &named).is_err(), "a run of the other kind");
}

#[test]
fn keys_have_the_names_of_their_format() {
    let prefix = PartitionPrefix::new("cluster", "a.topic", &tp());
    let name = |key: Key| key.objects().iter().map(|object| prefix.full(object)).collect::<Vec<_>>().join(" ");
    let folder = "cluster/a.topic-AAAAAAAAAAAAAAAAAAAATQ/0";
    let segment = Key::Segment(SegmentKey { base_offset: 42, leader_epoch: 3, uuid: uuid(0xab) });
    assert_eq!(
        name(segment),
        format!(
            "{folder}/00000000000000000042-3-000000000000000000000000000000ab.log \
             {folder}/00000000000000000042-3-000000000000000000000000000000ab.meta"
        )
    );
    let index = Key::Index { first: 7, leader_epoch: 0, uuid: uuid(1) };
    assert_eq!(name(index), format!("{folder}/index/00000000000000000007-0-00000000000000000000000000000001"));
    let manifest = Key::Manifest { version: 9, leader_epoch: 12, uuid: uuid(2) };
    assert_eq!(name(manifest), format!("{folder}/manifest/00000000000000000009-12-00000000000000000000000000000002"));
}

fn any_entry() -> impl Strategy<Value = Entry> {
    (0..1_000_000_i64, 0..1000_i64, any::<[u64; 6]>(), any::<[i64; 2]>(), any::<u128>(), any::<u16>()).prop_map(
        |(base_offset, span, numbers, times, id, flags)| Entry {
            key: SegmentKey { base_offset, leader_epoch: flags.into(), uuid: uuid(id) },
            last_offset: base_offset + span,
            size_bytes: numbers[0],
            sidecar_size_bytes: numbers[1],
            min_timestamp: times[0],
            max_timestamp: times[1],
            content_hash: numbers[2],
            sidecar_hash: numbers[3],
            added: numbers[4],
            flags,
            format: SegmentFormat::RecordBatches,
            epochs: (0..=flags % 5).map(|n| (n.into(), base_offset + i64::from(n))).collect(),
        },
    )
}

proptest! {
    #[test]
    fn entries_and_tombstones_come_back(entry in any_entry(), removed in any::<u64>()) {
        let (bytes, hash) = encode_entry_run(std::slice::from_ref(&entry));
        let named = run_ref(hash, bytes.len() as u64, 1, entry.base_offset(), entry.last_offset);
        prop_assert_eq!(decode_entry_run(&bytes, &named).unwrap(), [entry.clone()]);
        for key in [Key::Segment(entry.key), Key::Manifest { version: removed, leader_epoch: 1, uuid: entry.key.uuid }] {
            let tombstone = Tombstone { key, added: entry.added, removed, time_ms: entry.min_timestamp };
            let (bytes, hash) = encode_tombstone_run(&[tombstone]);
            let named = run_ref(hash, bytes.len() as u64, 1, 0, 0);
            prop_assert_eq!(decode_tombstone_run(&bytes, &named).unwrap(), [tombstone]);
            for object in key.objects() {
                prop_assert_eq!(Key::parse_listed(&object), Some(Listing::Object(key)));
            }
        }
    }

    #[test]
    fn no_changed_byte_passes(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let (bytes, hash) = sidecar().encode();
        let mut changed = bytes.to_vec();
        changed[at.index(bytes.len())] ^= 1 << bit;
        prop_assert!(Sidecar::decode(&changed, hash).is_err());
        let (bytes, hash) = manifest().encode();
        let mut changed = bytes.to_vec();
        changed[at.index(bytes.len())] ^= 1 << bit;
        prop_assert!(Manifest::decode_any(&changed, Some(hash)).is_err());
        prop_assert!(Manifest::decode_any(&changed, None).is_err());
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(body in proptest::collection::vec(any::<u8>(), 0..300), kind in 0..3_usize) {
        let mut bytes = [&b"SLMF"[..], &b"SLSC"[..], &b"SLIX"[..]][kind].to_vec();
        bytes.extend_from_slice(&1_u16.to_be_bytes());
        bytes.extend_from_slice(&body);
        let hash = crate::encoding::hash(&bytes);
        bytes.extend_from_slice(&hash.to_be_bytes());
        let named = run_ref(hash, 0, 1, 0, 0);
        drop((Manifest::decode_any(&bytes, None), Sidecar::decode(&bytes, hash)));
        drop((decode_entry_run(&bytes, &named), decode_tombstone_run(&bytes, &named)));
    }
}

#[test]
fn an_unknown_format_version_is_refused() {
    let (bytes, _) = sidecar().encode();
    let mut later = bytes[..bytes.len() - 8].to_vec();
    later[5] = 2;
    let hash = crate::encoding::hash(&later);
    later.extend_from_slice(&hash.to_be_bytes());
    assert_eq!(Sidecar::decode(&later, hash), Err(DecodeError::UnknownFormat(2)));
}
