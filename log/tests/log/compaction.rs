//! Compaction: what stays, what goes, and when.

use crate::harness::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use strandline_log::config::CleanupPolicy;
use strandline_log::{AppendOrigin, Log, LogConfig};
use strandline_protocol::compression::Compression;

fn compact_config() -> LogConfig {
    LogConfig {
        cleanup_policy: CleanupPolicy { delete: false, compact: true },
        delete_retention_ms: 1_000,
        ..config(600)
    }
}

fn put(log: &mut Log, key: i64, value: i64) {
    log.append_as_leader(&keyed(key, value, NOW), 0, AppendOrigin::Client, NOW).unwrap();
}

/// Flushes, moves the high watermark, rolls, and compacts from `first_dirty` on. Returns the new cleaner checkpoint.
fn compact(log: &mut Log, first_dirty: i64, now: i64, map_bytes: usize) -> i64 {
    flush(log);
    let end = log.offsets().log_end;
    log.advance_high_watermark(end);
    log.roll(NOW).unwrap();
    flush(log);
    log.note_checkpoint(end);
    let Some(plan) = log.compaction_plan(first_dirty, now).unwrap() else {
        return first_dirty;
    };
    let compacted = plan.run(map_bytes).unwrap();
    let clean_until = compacted.clean_until;
    log.compact(compacted).unwrap();
    clean_until
}

#[test]
fn the_last_value_of_each_key_stays_with_its_offset() {
    let disk = new_disk();
    let mut log = open(&disk, compact_config(), Opening::default()).unwrap();
    for number in 0..60 {
        put(&mut log, number % 5, number);
    }
    let before = log.size_bytes();
    flush(&mut log);
    log.advance_high_watermark(60);
    assert_eq!(log.log_dirty_ratio(0, NOW).unwrap(), 0.0, "a restart would still check all of it");
    log.note_checkpoint(60);
    assert_eq!(log.log_dirty_ratio(0, NOW).unwrap(), 1.0);
    let clean = compact(&mut log, 0, NOW, 1 << 20);
    assert_eq!(clean, 60);
    assert_eq!(log.log_dirty_ratio(clean, NOW).unwrap(), 0.0);
    assert!(log.size_bytes() < before / 2);
    assert!(log.segment_count() <= 4, "segments without records go: {}", log.segment_count());
    assert_eq!(last_values(&log), (0..5).map(|key| (key, 55 + key)).collect());
    assert_eq!(compact(&mut log, clean, NOW, 1 << 20), clean, "nothing is left to do");
    log.close().unwrap();
    let opening = Opening { recovery_point: 60, clean: true, ..Opening::default() };
    let log = open(&disk, compact_config(), opening).unwrap();
    assert_eq!(last_values(&log), (0..5).map(|key| (key, 55 + key)).collect());
    for offset in 0..60 {
        let read = log.prepare_read(offset, 60).unwrap().run(1, true).unwrap();
        assert!(!read.records.is_empty() && read.next_offset > offset, "a gap is never an empty answer: {offset}");
    }
}

#[test]
fn tombstones_go_after_their_time_and_not_before() {
    let disk = new_disk();
    let mut log = open(&disk, compact_config(), Opening::default()).unwrap();
    for key in 0..10 {
        put(&mut log, key, key);
    }
    put(&mut log, 3, -1);
    for key in 20..30 {
        put(&mut log, key, key);
    }
    let tombstones = |log: &Log| all_records(log).into_iter().filter(|(key, value)| *key == 3 && *value == -1).count();
    let clean = compact(&mut log, 0, NOW, 1 << 20);
    assert_eq!((tombstones(&log), last_values(&log).get(&3)), (1, None));
    put(&mut log, 40, 1);
    let clean = compact(&mut log, clean, NOW + 1_000, 1 << 20);
    // The horizon was set by the first run: NOW + 1000; at that time it has come.
    assert_eq!(tombstones(&log), 0);
    put(&mut log, 40, 2);
    compact(&mut log, clean, NOW + 1_001, 1 << 20);
    assert_eq!(tombstones(&log), 0);
    assert_eq!(last_values(&log).len(), 9 + 10 + 1);
}

#[test]
fn aborted_records_do_not_hide_older_values() {
    let disk = new_disk();
    let mut log = open(&disk, compact_config(), Opening::default()).unwrap();
    put(&mut log, 1, 10);
    let mut aborted = strandline_protocol::record_batch::RecordBatchBuilder::new(Compression::None);
    (aborted.producer_id, aborted.producer_epoch, aborted.base_sequence) = (9, 0, 0);
    aborted.transactional = true;
    aborted.append(NOW, Some(&1i64.to_be_bytes()), Some(&11i64.to_be_bytes()), &[]);
    append(&mut log, &aborted.build());
    log.append_as_leader(&marker(9, 0, true), 0, AppendOrigin::Coordinator, NOW).unwrap();
    put(&mut log, 2, 20);
    compact(&mut log, 0, NOW, 1 << 20);
    assert_eq!(last_values(&log), BTreeMap::from([(1, 10), (2, 20)]));
    let again = log.append_as_leader(&produced(9, 0, 1, 1, true), 0, AppendOrigin::Client, NOW).unwrap();
    assert!(!again.duplicate, "the producer is still known and goes on");
}

#[test]
fn a_plan_that_was_overtaken_changes_nothing() {
    let disk = new_disk();
    let mut log = open(&disk, compact_config(), Opening::default()).unwrap();
    for number in 0..40 {
        put(&mut log, number % 3, number);
    }
    flush(&mut log);
    log.advance_high_watermark(40);
    log.note_checkpoint(40);
    let compacted = log.compaction_plan(0, NOW).unwrap().unwrap().run(1 << 20).unwrap();
    log.truncate_to(39).unwrap();
    log.compact(compacted).unwrap();
    assert_eq!(all_records(&log).len(), 39);
    let names = strandline_disk::Disk::read_dir(&disk, std::path::Path::new(DIR)).unwrap();
    assert!(names.iter().all(|entry| !entry.name.ends_with(".cleaned")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_history_compacts_to_its_last_values(
        writes in proptest::collection::vec((0i64..12, -1i64..50), 1..120),
        map_keys in 1usize..30,
        every in 5usize..40,
    ) {
        let disk = new_disk();
        let mut log = open(&disk, compact_config(), Opening::default()).unwrap();
        let mut expected = BTreeMap::new();
        let mut clean = 0;
        for (number, (key, value)) in writes.iter().enumerate() {
            put(&mut log, *key, *value);
            if *value >= 0 { expected.insert(*key, *value); } else { expected.remove(key); }
            if number % every == 0 {
                let map_bytes = map_keys * strandline_log::compaction::MAP_BYTES_PER_KEY;
                clean = compact(&mut log, clean, NOW + number as i64 * 100, map_bytes);
                prop_assert_eq!(&last_values(&log), &expected);
            }
        }
        prop_assert_eq!(&last_values(&log), &expected);
    }
}
