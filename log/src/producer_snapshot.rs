//! The `.snapshot` files: what a log knew of its producers at an offset.
//!
//! Owns: their bytes, version 1 (docs/formats/producer-snapshot.md). Does not own: when one is taken, the rules on producers.
//! Invariants: a CRC covers all entries; a snapshot whose CRC does not match is not used. The newest batch of each producer
//! is kept, as in Kafka. A crash leaves: a torn file, which the CRC shows.
//! Source: `org.apache.kafka.storage.internals.log.ProducerStateManager`.

use crate::producer_state::{BatchMetadata, ProducerEntry, ProducerState};
use crc_fast::{CrcAlgorithm, checksum};
use std::collections::VecDeque;

const VERSION: i16 = 1;
/// Version, CRC, count.
pub(crate) const HEADER_LEN: usize = 10;
const CRC_FROM: usize = 6;
const ENTRY_LEN: usize = 46;
/// Largest snapshot that is read, in bytes: a million producers.
pub(crate) const FILE_BYTES_MAX: u64 = (HEADER_LEN + 1_000_000 * ENTRY_LEN) as u64;

fn crc32c(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// The bytes of a snapshot, producers in order of their ids.
pub fn encode(state: &ProducerState) -> Vec<u8> {
    let mut producers: Vec<_> = state.iter().collect();
    producers.sort_unstable_by_key(|(id, _)| *id);
    let mut bytes = Vec::with_capacity(HEADER_LEN + producers.len() * ENTRY_LEN);
    bytes.extend(VERSION.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend((producers.len() as u32).to_be_bytes());
    for (id, entry) in producers {
        let last = entry.batches.back();
        bytes.extend(id.to_be_bytes());
        bytes.extend(entry.producer_epoch.to_be_bytes());
        bytes.extend(last.map_or(-1, |batch| batch.last_sequence).to_be_bytes());
        bytes.extend(last.map_or(-1, |batch| batch.last_offset).to_be_bytes());
        bytes.extend(last.map_or(0, |batch| batch.offset_delta).to_be_bytes());
        bytes.extend(entry.last_timestamp.to_be_bytes());
        bytes.extend(entry.coordinator_epoch.to_be_bytes());
        bytes.extend(entry.current_txn_first_offset.unwrap_or(-1).to_be_bytes());
    }
    let crc = crc32c(&bytes[CRC_FROM..]);
    bytes[2..CRC_FROM].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// Reads a snapshot that was taken at `offset` (exclusive end of what it knows).
pub fn decode(bytes: &[u8], offset: i64) -> Result<ProducerState, String> {
    let head = bytes.first_chunk::<HEADER_LEN>().ok_or("shorter than its header")?;
    let version = i16::from_be_bytes([head[0], head[1]]);
    if version != VERSION {
        return Err(format!("unknown version {version}"));
    }
    let expected = u32::from_be_bytes([head[2], head[3], head[4], head[5]]);
    let count = u32::from_be_bytes([head[6], head[7], head[8], head[9]]) as usize;
    if crc32c(&bytes[CRC_FROM..]) != expected {
        return Err("its CRC does not match".to_owned());
    }
    let entries = &bytes[HEADER_LEN..];
    if Some(entries.len()) != count.checked_mul(ENTRY_LEN) {
        return Err(format!("{count} entries are announced in {} bytes", entries.len()));
    }
    let mut state = ProducerState::empty_at(offset);
    for entry in entries.chunks_exact(ENTRY_LEN) {
        let i64_at = |at: usize| i64::from_be_bytes(entry[at..at + 8].try_into().expect("eight bytes"));
        let i32_at = |at: usize| i32::from_be_bytes(entry[at..at + 4].try_into().expect("four bytes"));
        let (last_offset, last_timestamp, txn) = (i64_at(14), i64_at(26), i64_at(38));
        let mut batches = VecDeque::new();
        if last_offset >= 0 {
            batches.push_back(BatchMetadata {
                last_sequence: i32_at(10),
                last_offset,
                offset_delta: i32_at(22),
                timestamp: last_timestamp,
            });
        }
        let loaded = ProducerEntry {
            producer_epoch: i16::from_be_bytes([entry[8], entry[9]]),
            coordinator_epoch: i32_at(34),
            last_timestamp,
            current_txn_first_offset: (txn >= 0).then_some(txn),
            batches,
        };
        state.insert_loaded(i64_at(0), loaded);
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bytes_are_kafkas() {
        let mut state = ProducerState::empty_at(12);
        let batch = BatchMetadata { last_sequence: 4, last_offset: 11, offset_delta: 2, timestamp: 77 };
        let entry = ProducerEntry {
            producer_epoch: 3,
            coordinator_epoch: 5,
            last_timestamp: 77,
            current_txn_first_offset: Some(9),
            batches: VecDeque::from([batch]),
        };
        state.insert_loaded(1000, entry);
        let bytes = encode(&state);
        let mut golden = vec![0, 1, 0, 0, 0, 0, 0, 0, 0, 1];
        golden.extend([0, 0, 0, 0, 0, 0, 3, 0xe8, 0, 3, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 11]);
        golden.extend([0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 77, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 9]);
        golden[2..6].copy_from_slice(&bytes[2..6]);
        assert_eq!(bytes, golden);
        assert_eq!(decode(&bytes, 12).unwrap(), state);
        assert_eq!(decode(&bytes, 12).unwrap().first_unstable_offset(), Some(9));
        assert_eq!(encode(&ProducerState::empty_at(0)).len(), HEADER_LEN);
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_seen(at in 0usize..56, bit in 0u8..8) {
            let mut state = ProducerState::empty_at(1);
            let batch = BatchMetadata { last_sequence: 0, last_offset: 0, offset_delta: 0, timestamp: 1 };
            state.insert_loaded(7, ProducerEntry {
                producer_epoch: 0, coordinator_epoch: -1, last_timestamp: 1, current_txn_first_offset: None,
                batches: VecDeque::from([batch]),
            });
            let mut bytes = encode(&state);
            bytes[at] ^= 1 << bit;
            prop_assert!(decode(&bytes, 1).is_err());
        }

        #[test]
        fn junk_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode(&bytes, 0).is_err());
        }
    }
}
