//! The log through its public door: appends, reads, rolling, flushing, freeing, truncation, opening again.

use crate::harness::*;
use std::path::Path;
use std::time::Duration;
use strandline_disk::Disk;
use strandline_log::config::{CleanupPolicy, MessageTimestampType};
use strandline_log::retention::RetentionLimits;
use strandline_log::{AppendError, AppendOrigin, FlushDue, LogConfig, OpenError, ReadError};
use strandline_protocol::compression::Compression;
use strandline_protocol::record_batch::RecordBatchBuilder;

#[test]
fn nothing_is_on_disk_before_the_first_append() {
    let disk = new_disk();
    let mut log = open(&disk, config(10_000), Opening { log_start: 5, ..Opening::default() }).unwrap();
    assert_eq!(log.offsets().log_end, 5);
    log.assign_epoch(3, 5);
    let operations = disk.operations();
    log.close().unwrap();
    assert_eq!(disk.operations(), operations);
    let mut log = open(&disk, config(10_000), Opening { log_start: 5, ..Opening::default() }).unwrap();
    assert_eq!(append(&mut log, &batch(2, 10, NOW)), 5);
    let names: Vec<_> = disk.read_dir(Path::new(DIR)).unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["00000000000000000005.log", "partition.metadata"]);
}

#[test]
fn what_is_appended_is_read_in_any_portions() {
    let disk = new_disk();
    let mut log = open(&disk, config(2_000), Opening::default()).unwrap();
    let mut expected = Vec::new();
    for number in 0..60 {
        let count = 1 + number % 3;
        let first = append(&mut log, &batch(count, 10 + 37 * (number % 7), NOW + number as i64));
        expected.push((first, first + count as i64 - 1));
    }
    assert!(log.segment_count() > 3, "{}", log.segment_count());
    for max_bytes in [1, 100, 300, 1_000, 5_000, 1 << 20] {
        assert_eq!(ranges(&read_all(&log, 0, max_bytes)), expected, "{max_bytes}");
    }
    let end = log.offsets().log_end;
    for offset in 0..end {
        let at = expected.partition_point(|range| range.1 < offset);
        for upper in [offset, offset + 1, (offset + 5).min(end), end] {
            let read = log.prepare_read(offset, upper).unwrap().run(700, true).unwrap();
            let bytes = read.records.to_bytes().unwrap();
            let found: Vec<_> = strandline_protocol::record_batch::batches(&bytes)
                .map(|found| found.unwrap().0.last_offset())
                .collect();
            if upper > expected[at].1 {
                assert_eq!(read.first_offset, expected[at].0);
                assert!(found.iter().all(|last| *last < upper), "{found:?} up to {upper}");
            } else {
                assert!(found.is_empty());
            }
        }
    }
    assert!(matches!(log.prepare_read(end + 1, end), Err(ReadError::OffsetOutOfRange { .. })));
    let too_small = log.prepare_read(0, end).unwrap().run(10, false).unwrap();
    assert!(too_small.records.is_empty());
}

#[test]
fn a_clean_start_scans_nothing_and_has_everything() {
    let disk = new_disk();
    let mut log = open(&disk, config(2_000), Opening::default()).unwrap();
    for number in 0..40 {
        append(&mut log, &produced(7, 0, number, 1, false));
    }
    log.close().unwrap();
    let before = read_all(&log, 0, 1_000);
    let opening = Opening { recovery_point: 40, clean: true, ..Opening::default() };
    let operations = disk.operations();
    disk.fail_reads(".log");
    let mut log = open(&disk, config(2_000), opening).unwrap();
    assert_eq!((log.offsets().log_end, log.offsets().recovery_point), (40, 40));
    assert_eq!(disk.operations(), operations);
    disk.heal_reads();
    assert_eq!(read_all(&log, 0, 1_000), before);
    let again = log.append_as_leader(&produced(7, 0, 39, 1, false), 0, AppendOrigin::Client, NOW).unwrap();
    assert_eq!((again.duplicate, again.first_offset), (true, 39));
    assert_eq!(append(&mut log, &produced(7, 0, 40, 1, false)), 40);
    let gap = log.append_as_leader(&produced(7, 0, 42, 1, false), 0, AppendOrigin::Client, NOW);
    assert!(matches!(gap, Err(AppendError::OutOfOrderSequence { .. })));
    // The snapshot of the end is missing: the tail is walked instead.
    log.close().unwrap();
    disk.remove_file(Path::new("/data/t-0/00000000000000000041.snapshot")).unwrap();
    let log = open(&disk, config(2_000), Opening { recovery_point: 41, ..opening }).unwrap();
    assert_eq!(log.offsets().log_end, 41);
    assert_eq!(log.producers().unwrap()[0].1.batches.back().unwrap().last_sequence, 40);
}

#[test]
fn a_released_log_holds_no_file_and_goes_on() {
    let disk = new_disk();
    let mut log = open(&disk, config(2_000), Opening::default()).unwrap();
    for number in 0..30 {
        append(&mut log, &produced(7, 0, number, 1, false));
        flush(&mut log);
        if number % 4 == 0 {
            log.release();
            assert_eq!(log.offsets().last_stable, log.offsets().high_watermark);
        }
        log.advance_high_watermark(i64::from(number));
    }
    log.release();
    assert_eq!(read_all(&log, 0, 500).len(), 30);
    log.close().unwrap();
    let recovered = open(&disk, config(2_000), Opening::default()).unwrap();
    assert_eq!(read_all(&recovered, 0, 500).len(), 30);
}

#[test]
fn batches_that_must_not_be_appended_change_nothing() {
    let disk = new_disk();
    let mut log = open(&disk, LogConfig { max_message_bytes: 500, ..config(1_000) }, Opening::default()).unwrap();
    append(&mut log, &batch(1, 10, NOW));
    let good = batch(2, 10, NOW);
    let mut flipped = good.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    let two: bytes::Bytes = [good.clone(), good.clone()].concat().into();
    let refused = |log: &mut strandline_log::Log, bytes: &bytes::Bytes| {
        log.append_as_leader(bytes, 0, AppendOrigin::Client, NOW).unwrap_err()
    };
    assert!(matches!(refused(&mut log, &flipped.into()), AppendError::CorruptMessage(_)));
    assert!(matches!(refused(&mut log, &good.slice(..good.len() - 1)), AppendError::InvalidRecord(_)));
    assert!(matches!(refused(&mut log, &two), AppendError::InvalidRecord(_)));
    assert!(matches!(refused(&mut log, &bytes::Bytes::new()), AppendError::InvalidRecord(_)));
    assert!(matches!(refused(&mut log, &marker(1, 0, true)), AppendError::InvalidRecord(_)));
    assert!(matches!(refused(&mut log, &batch(1, 600, NOW)), AppendError::MessageTooLarge { .. }));
    let early = refused(&mut log, &batch(1, 1, NOW + 3_600_001));
    assert!(
        matches!(early, AppendError::InvalidTimestamp { records, .. } if records.len() == 1 && records[0].index == 0)
    );
    let late = log.append_as_follower(&good);
    assert!(matches!(late, Err(AppendError::UnexpectedOffset { base_offset: 0, log_end_offset: 1 })));
    assert_eq!(log.offsets().log_end, 1);
    assert_eq!(read_all(&log, 0, 100).len(), 1);
    log.fail();
    assert!(matches!(refused(&mut log, &good), AppendError::Failed));
}

#[test]
fn log_append_time_and_another_codec_rewrite_the_batch() {
    let disk = new_disk();
    let mut config = config(10_000);
    config.message_timestamp_type = MessageTimestampType::LogAppendTime;
    config.set("compression.type", "zstd").unwrap();
    let mut log = open(&disk, config, Opening::default()).unwrap();
    let appended = log.append_as_leader(&batch(3, 100, 5), 4, AppendOrigin::Client, NOW).unwrap();
    assert_eq!((appended.log_append_time_ms, appended.last_offset), (NOW, 2));
    let (header, bytes) = read_all(&log, 0, 1_000).remove(0);
    assert_eq!((header.max_timestamp, header.partition_leader_epoch), (NOW, 4));
    assert_eq!(header.compression(), strandline_protocol::compression::Compression::Zstd);
    let limit = strandline_protocol::compression::DecompressLimit(10_000);
    let records: Vec<_> =
        strandline_protocol::record_batch::records(&bytes, limit).unwrap().map(Result::unwrap).collect();
    assert_eq!(records.iter().map(|record| record.offset).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(records.iter().all(|record| record.timestamp == NOW));
}

#[test]
fn transactions_hold_the_last_stable_offset_back() {
    let disk = new_disk();
    let mut log = open(&disk, config(400), Opening::default()).unwrap();
    append(&mut log, &produced(1, 0, 0, 2, true));
    append(&mut log, &produced(2, 0, 0, 1, true));
    for _ in 0..6 {
        append(&mut log, &batch(1, 50, NOW));
    }
    log.advance_high_watermark(100);
    assert_eq!(log.offsets().last_stable, 0);
    let abort = log.append_as_leader(&marker(1, 0, true), 0, AppendOrigin::Coordinator, NOW).unwrap();
    assert_eq!((abort.first_offset, log.offsets().last_stable), (9, 0));
    log.advance_high_watermark(100);
    assert_eq!(log.offsets().last_stable, 2);
    log.append_as_leader(&marker(2, 0, false), 0, AppendOrigin::Coordinator, NOW).unwrap();
    log.advance_high_watermark(100);
    assert_eq!(log.offsets().last_stable, 11);
    assert!(log.segment_count() > 2);
    let aborted = log.aborted_in(0, 11).unwrap();
    assert_eq!(aborted.len(), 1);
    assert_eq!((aborted[0].producer_id, aborted[0].first_offset, aborted[0].last_offset), (1, 0, 9));
    assert_eq!(aborted[0].last_stable_offset, 2);
    assert!(log.aborted_in(10, 11).unwrap().is_empty());
    // After a crash all of it is found again.
    flush(&mut log);
    let log = open(&disk, config(400), Opening::default()).unwrap();
    assert_eq!(log.aborted_in(0, 11).unwrap(), aborted);
}

#[test]
fn searches_by_time_find_the_first_record() {
    let disk = new_disk();
    let mut log = open(&disk, config(1_000), Opening::default()).unwrap();
    let times = [100, 300, 200, 250, 400, 150, 400, 390, 500, 50, 480, 499, 500, 10];
    for time in times {
        append(&mut log, &batch(2, 60, time));
    }
    assert!(log.segment_count() > 2);
    let records: Vec<(i64, i64)> =
        times.iter().enumerate().flat_map(|(n, t)| [(2 * n as i64, *t), (2 * n as i64 + 1, t + 1)]).collect();
    let check = |log: &strandline_log::Log| {
        for upper in 0..=28 {
            for wanted in 0..510 {
                let expected = records.iter().find(|(offset, time)| *time >= wanted && *offset < upper);
                let found = log.offset_for_timestamp(wanted, upper).unwrap();
                assert_eq!(found.map(|f| (f.offset, f.timestamp)), expected.copied(), "{wanted} below {upper}");
            }
            let largest = records.iter().filter(|(offset, _)| *offset < upper).map(|(_, time)| *time).max();
            let expected = records.iter().find(|(_, time)| Some(*time) == largest).copied();
            let found = log.offset_of_max_timestamp(upper).unwrap().map(|f| (f.offset, f.timestamp));
            assert_eq!(found, expected, "below {upper}");
        }
    };
    check(&log);
    log.release();
    check(&log);
    // The active segment was rolled when its indexes were durable already: the last entry of the time index is lost with the power.
    flush(&mut log);
    log.persist().unwrap();
    log.roll(NOW).unwrap();
    for seed in 0..16 {
        let opening = Opening { recovery_point: 28, ..Opening::default() };
        let crashed = disk.crash(seed);
        let mut log = open(&crashed, config(1_000), opening).unwrap();
        check(&log);
        log.close().unwrap();
        check(
            &open(&crashed, config(1_000), Opening { recovery_point: 28, clean: true, ..Opening::default() }).unwrap(),
        );
    }
}

/// Kafka's default mode.
fn unforced(segment_bytes: i64) -> LogConfig {
    LogConfig { flush_messages: i64::MAX, ..config(segment_bytes) }
}

#[test]
fn a_closed_segment_is_synced_also_where_the_rest_is_left_to_the_operating_system() {
    let disk = new_disk();
    let mut log = open(&disk, unforced(600), Opening::default()).unwrap();
    append(&mut log, &batch(1, 300, NOW));
    assert_eq!(log.flush_due(), FlushDue::No);
    let (mut active, mut operations) = (append(&mut log, &batch(1, 300, NOW)), 0);
    for _ in 0..3 {
        assert_eq!(log.flush_due(), FlushDue::Now, "the segment before {active} is closed");
        let flush = log.begin_due_flush().unwrap();
        // What is appended meanwhile waits for nothing.
        append(&mut log, &batch(1, 10, NOW));
        flush.run().unwrap();
        log.finish_flush(&flush);
        assert_eq!((flush.end_offset(), log.offsets().recovery_point), (active, active));
        assert_eq!(log.flush_due(), FlushDue::No);
        let before = disk.operations();
        active = append(&mut log, &batch(1, 300, NOW));
        operations = disk.operations() - before;
    }
    append(&mut log, &batch(1, 10, NOW));
    let before = disk.operations();
    append(&mut log, &batch(1, 300, NOW));
    assert_eq!(
        disk.operations() - before,
        operations + 1,
        "a roll syncs the names that are not durable yet, and only those"
    );
    let recovery_point = log.offsets().recovery_point;
    for seed in 0..8 {
        let opening = Opening { recovery_point, ..Opening::default() };
        let found = open(&disk.crash(seed), unforced(600), opening).unwrap();
        assert!(found.offsets().log_end >= recovery_point, "seed {seed}");
    }
}

#[test]
fn a_sync_is_due_by_flush_messages_and_flush_ms() {
    let disk = new_disk();
    let config = LogConfig { flush_messages: 3, flush_ms: 250, ..config(10_000) };
    let mut log = open(&disk, config, Opening::default()).unwrap();
    assert_eq!(log.flush_due(), FlushDue::No);
    append(&mut log, &batch(2, 10, NOW));
    assert_eq!(log.flush_due(), FlushDue::Within(Duration::from_millis(250)));
    append(&mut log, &batch(1, 10, NOW));
    assert_eq!(log.flush_due(), FlushDue::Now);
    let flush = log.begin_due_flush().unwrap();
    flush.run().unwrap();
    log.finish_flush(&flush);
    assert_eq!((flush.end_offset(), log.flush_due()), (3, FlushDue::No));
}

#[test]
fn a_log_that_was_closed_knows_its_last_timestamps() {
    let disk = new_disk();
    let mut log = open(&disk, config(100_000), Opening::default()).unwrap();
    for time in 0..20 {
        append(&mut log, &batch(1, 600, 100 + time));
    }
    flush(&mut log);
    log.close().unwrap();
    let log = open(&disk, config(100_000), Opening { recovery_point: 20, clean: true, ..Opening::default() }).unwrap();
    for wanted in 90..120 {
        let found = log.offset_for_timestamp(wanted, 20).unwrap();
        assert_eq!(found.map(|f| f.offset), Some((wanted - 100).max(0)), "{wanted}");
    }
}

#[test]
fn freed_segments_are_gone_and_the_rest_stays() {
    let disk = new_disk();
    let mut log = open(&disk, LogConfig { remote_storage_enable: true, ..config(500) }, Opening::default()).unwrap();
    for number in 0..30 {
        append(&mut log, &produced(7, 0, number, 1, false));
    }
    flush(&mut log);
    log.advance_high_watermark(30);
    let sealed = log.sealed_segments(0, 20, 100);
    assert!(sealed.len() > 2);
    assert!(sealed.windows(2).all(|pair| pair[0].last_offset + 1 == pair[1].base_offset));
    assert_eq!(log.sealed_segments(sealed[1].base_offset, 20, 1)[0].base_offset, sealed[1].base_offset);
    let mut bytes = vec![0; sealed[0].size_bytes as usize + 1];
    assert_eq!(sealed[0].file.read_at(&mut bytes, 0).unwrap() as u64, sealed[0].size_bytes);
    let plan = log.prepare_read(0, 30).unwrap();
    let end = sealed[1].last_offset + 1;
    let deleted = log.delete_local_before(end).unwrap();
    assert_eq!(deleted.count, 2);
    assert_eq!(log.offsets().local_log_start, end);
    assert!(matches!(plan.run(100, true), Err(ReadError::MovedToTieredStorage { .. })));
    assert!(matches!(log.prepare_read(0, 30), Err(ReadError::MovedToTieredStorage { .. })));
    deleted.remove(&disk).unwrap();
    log.raise_log_start(3).unwrap();
    assert_eq!((log.offsets().log_start, log.offsets().local_log_start), (3, end));
    let opening = Opening { log_start: 3, recovery_point: 30, clean: false };
    let log = open(&disk, LogConfig { remote_storage_enable: true, ..config(500) }, opening).unwrap();
    assert_eq!((log.offsets().log_start, log.offsets().local_log_start), (3, end));
    assert_eq!(read_all(&log, end, 300).len(), 30 - end as usize);
    let names = disk.read_dir(Path::new(DIR)).unwrap();
    assert!(names.iter().all(|entry| !entry.name.ends_with(".deleted")));
}

#[test]
fn records_without_a_key_are_named() {
    let compact = CleanupPolicy { delete: false, compact: true };
    let mut log =
        open(&new_disk(), LogConfig { cleanup_policy: compact, ..config(10_000) }, Opening::default()).unwrap();
    let mut mixed = RecordBatchBuilder::new(Compression::Lz4);
    for key in [Some(&b"k"[..]), None, Some(b""), None] {
        mixed.append(NOW, key, Some(b"v"), &[]);
    }
    let error = log.append_as_leader(&mixed.build(), 0, AppendOrigin::Client, NOW).unwrap_err();
    let AppendError::NoKey { records } = error else { panic!("{error}") };
    assert_eq!(records.iter().map(|record| record.index).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(log.offsets().log_end, 0);
}

/// Kafka's rule: an active segment that is too old, or too much with all before it, is closed and goes.
#[test]
fn an_active_segment_that_has_expired_goes_too() {
    let by_time = RetentionLimits { retention_ms: 10, retention_bytes: -1 };
    let by_size = RetentionLimits { retention_ms: -1, retention_bytes: 0 };
    for (limits, now) in [(by_time, NOW + 11), (by_size, NOW)] {
        let disk = new_disk();
        let mut log = open(&disk, config(500), Opening::default()).unwrap();
        assert_eq!(log.delete_expired(limits, now).unwrap().count, 0, "there is nothing yet");
        for number in 0..5 {
            append(&mut log, &produced(7, 0, number, 1, false));
        }
        flush(&mut log);
        log.advance_high_watermark(4);
        let closed = log.segment_count() - 1;
        let deleted = log.delete_expired(limits, now).unwrap();
        assert_eq!(deleted.count, closed, "what is not below the high watermark stays");
        log.advance_high_watermark(5);
        let young = log.delete_expired(by_time, NOW + 10).unwrap();
        assert_eq!((young.count, log.segment_count()), (0, 1));
        let deleted = log.delete_expired(limits, now).unwrap();
        assert_eq!((deleted.count, log.size_bytes(), log.segment_count()), (1, 0, 1));
        let offsets = log.offsets();
        assert_eq!((offsets.log_start, offsets.local_log_start, offsets.log_end), (5, 5, 5));
        assert_eq!(log.delete_expired(limits, now).unwrap().count, 0, "an empty segment stays");
        assert_eq!(append(&mut log, &produced(7, 0, 5, 1, false)), 5, "the producer is still known");
        flush(&mut log);
        log.close().unwrap();
        let opening = Opening { log_start: 5, recovery_point: 6, clean: true };
        let log = open(&disk, config(500), opening).unwrap();
        assert_eq!(read_all(&log, 5, 1_000).len(), 1);
    }
}

/// Killed before any checkpoint: of what was freed, the snapshot and the epochs are all that is left.
#[test]
fn what_was_freed_leaves_its_epochs_and_producers_to_recovery() {
    let disk = new_disk();
    let tiered = || LogConfig { remote_storage_enable: true, ..config(500) };
    let mut log = open(&disk, tiered(), Opening::default()).unwrap();
    for number in 0..10 {
        let batch = produced(6, 0, number, 1, false);
        log.append_as_leader(&batch, 2, AppendOrigin::Client, NOW).unwrap();
    }
    for number in 0..20 {
        let batch = produced(7, 0, number, 1, false);
        log.append_as_leader(&batch, 5, AppendOrigin::Client, NOW).unwrap();
    }
    flush(&mut log);
    log.advance_high_watermark(30);
    let first_kept = log.sealed_segments(20, 30, 1)[0].base_offset;
    assert!(first_kept > 11, "{first_kept}");
    let _names = log.delete_local_before(first_kept).unwrap();
    drop(log);
    let log = open(&disk, tiered(), Opening { clean: false, ..Opening::default() }).unwrap();
    assert_eq!((log.offsets().local_log_start, log.offsets().log_end), (first_kept, 30));
    assert_eq!([9, 10, first_kept - 1].map(|offset| log.epoch_for_offset(offset)), [Some(2), Some(5), Some(5)]);
    let producers: Vec<i64> = log.producers().unwrap().into_iter().map(|(id, _)| id).collect();
    assert_eq!(producers, [6, 7], "the one whose batches are all gone too");
}

#[test]
fn truncation_takes_batches_epochs_and_producers_back() {
    let disk = new_disk();
    let mut log = open(&disk, config(500), Opening::default()).unwrap();
    for number in 0..30 {
        let batch = produced(7, 0, number, 1, false);
        log.append_as_leader(&batch, number / 10, AppendOrigin::Client, NOW).unwrap();
    }
    flush(&mut log);
    log.persist().unwrap();
    for end in [29, 21, 15, 10, 3, 0] {
        log.truncate_to(end).unwrap();
        let offsets = log.offsets();
        assert_eq!((offsets.log_end, offsets.recovery_point), (end, end));
        assert_eq!(read_all(&log, 0, 200).len(), end as usize);
        let last = log.producers().unwrap().first().map(|(_, entry)| entry.batches.back().unwrap().last_sequence);
        assert_eq!(last, (end > 0).then(|| end as i32 - 1));
        assert_eq!(log.latest_epoch(), (end > 0).then(|| (end as i32 - 1) / 10));
        let opening = Opening { recovery_point: end, ..Opening::default() };
        let again = open(&disk, config(500), opening).unwrap();
        assert_eq!((again.offsets(), again.latest_epoch()), (offsets, log.latest_epoch()));
    }
    assert_eq!(append(&mut log, &produced(7, 0, 0, 1, false)), 0);
}

#[test]
fn a_restarted_log_continues_from_the_tier() {
    let disk = new_disk();
    let mut log = open(&disk, LogConfig { remote_storage_enable: true, ..config(500) }, Opening::default()).unwrap();
    for number in 0..10 {
        append(&mut log, &produced(7, 0, number, 1, false));
    }
    let state = log.producer_snapshot_at(6).unwrap();
    let epochs = vec![strandline_log::EpochEntry { epoch: 2, start_offset: 1 }];
    log.restart_at(100, 1, epochs.clone(), &state, Some(Path::new("/data/t-0.aside"))).unwrap();
    assert_eq!((log.offsets().log_start, log.offsets().local_log_start, log.offsets().log_end), (1, 100, 100));
    let aside =
        open_on(std::sync::Arc::new(disk.clone()), Path::new("/data/t-0.aside"), config(500), Opening::default());
    assert_eq!(aside.unwrap().offsets().log_end, 10);
    let crashed = disk.crash(1);
    let opening = Opening { log_start: 1, recovery_point: 100, clean: false };
    let mut log = open(&crashed, LogConfig { remote_storage_enable: true, ..config(500) }, opening).unwrap();
    assert_eq!((log.offsets().local_log_start, log.offsets().log_end, log.latest_epoch()), (100, 100, Some(2)));
    let again = log.append_as_leader(&produced(7, 0, 5, 1, false), 3, AppendOrigin::Client, NOW).unwrap();
    assert!(again.duplicate);
    assert_eq!(append(&mut log, &produced(7, 0, 6, 1, false)), 100);
    log.restart_at(100, 100, epochs, &state, None).unwrap();
    assert_eq!(log.offsets().log_end, 100);
    assert_eq!(crashed.read_dir(Path::new("/data")).unwrap().len(), 2);
}

#[test]
fn a_restart_that_the_disk_breaks_off_leaves_offsets_that_agree_and_a_log_that_takes_nothing() {
    let mut broken_off = 0;
    for at in 0.. {
        let disk = new_disk();
        let mut log = open(&disk, config(500), Opening::default()).unwrap();
        for number in 0..10 {
            append(&mut log, &produced(7, 0, number, 1, false));
        }
        log.advance_high_watermark(6);
        disk.fail_operation(disk.operations() + at, strandline_disk::InjectedError::Io);
        let aside = Path::new("/data/t-0.aside");
        let restarted = log.restart_at(100, 1, Vec::new(), &[], Some(aside));
        let offsets = log.offsets();
        assert_eq!((offsets.local_log_start, offsets.high_watermark, offsets.log_end), (100, 100, 100), "at {at}");
        assert_eq!(log.has_failed(), restarted.is_err(), "at {at}");
        if restarted.is_ok() {
            break;
        }
        broken_off += 1;
    }
    assert!(broken_off > 3, "{broken_off}");
}

#[test]
fn another_topics_directory_is_not_opened() {
    let disk = new_disk();
    let mut log = open(&disk, config(500), Opening::default()).unwrap();
    append(&mut log, &batch(1, 1, NOW));
    let text = "version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAg\n";
    disk.replace_file(Path::new("/data/t-0/partition.metadata"), text.as_bytes()).unwrap();
    assert!(matches!(open(&disk, config(500), Opening::default()), Err(OpenError::BadFile(_))));
}

#[test]
fn segments_roll_by_the_time_of_their_first_batch() {
    let disk = new_disk();
    let mut log = open(&disk, LogConfig { segment_ms: 1_000, ..config(1 << 20) }, Opening::default()).unwrap();
    append(&mut log, &batch(1, 1, NOW));
    append(&mut log, &batch(1, 1, NOW + 1_000));
    assert_eq!(log.segment_count(), 1);
    append(&mut log, &batch(1, 1, NOW + 1_001));
    assert_eq!(log.segment_count(), 2);
    assert!(!log.roll_if_due(NOW + 2_001).unwrap());
    assert!(log.roll_if_due(NOW + 2_002).unwrap());
    assert!(!log.roll(NOW).unwrap(), "an empty segment is not closed");
    assert_eq!((log.segment_count(), log.offsets().log_end), (3, 3));
}

#[test]
fn the_files_are_kafkas_byte_for_byte() {
    let disk = new_disk();
    let mut log = open(&disk, config(1 << 20), Opening { log_start: 100, ..Opening::default() }).unwrap();
    // Batches of 91 bytes with an index entry after more than 64 bytes: one for each batch but the first.
    for number in 0..3 {
        append(&mut log, &produced(7, 0, number, 1, true));
    }
    let size = log.size_bytes() / 3;
    log.append_as_leader(&marker(7, 0, true), 0, AppendOrigin::Coordinator, NOW + 5).unwrap();
    append(&mut log, &batch(1, 1, 2_000_000));
    log.roll(NOW).unwrap();
    let read =
        |suffix: &str| disk.read_file(Path::new(&format!("{DIR}/00000000000000000100{suffix}")), 1 << 20).unwrap();
    let first = read(".log");
    assert_eq!(first[..17], [0, 0, 0, 0, 0, 0, 0, 100, 0, 0, 0, size as u8 - 12, 0, 0, 0, 0, 2]);
    let marker_size = marker(7, 0, true).len() as u64;
    let mut index = Vec::new();
    for (offset, position) in [(1, size), (2, 2 * size), (3, 3 * size), (4, 3 * size + marker_size)] {
        index.extend((offset as u32).to_be_bytes());
        index.extend((position as u32).to_be_bytes());
    }
    assert_eq!(read(".index"), index);
    let mut times = Vec::new();
    for (time, offset) in [(NOW, 0u32), (2_000_000, 4)] {
        times.extend(time.to_be_bytes());
        times.extend(offset.to_be_bytes());
    }
    assert_eq!(read(".timeindex"), times);
    let mut aborted = vec![0, 0];
    for field in [7i64, 100, 103, 104] {
        aborted.extend(field.to_be_bytes());
    }
    assert_eq!(read(".txnindex"), aborted);
    let snapshot = disk.read_file(Path::new(&format!("{DIR}/00000000000000000105.snapshot")), 1 << 20).unwrap();
    assert_eq!(snapshot.len(), 10 + 46);
    log.persist().unwrap();
    let epochs = disk.read_file(Path::new(&format!("{DIR}/leader-epoch-checkpoint")), 1 << 20).unwrap();
    assert_eq!(epochs, b"0\n1\n0 100\n");
}

#[test]
fn an_idle_log_is_small() {
    let disk = new_disk();
    let files = std::sync::Arc::new(strandline_log::FileCache::new(std::sync::Arc::new(disk.clone()), 64));
    let mut log = strandline_log::Log::open(strandline_log::LogOptions {
        dir: DIR.into(),
        topic_id: topic_id(),
        files: std::sync::Arc::clone(&files),
        config: std::sync::Arc::new(config(1_000)),
        log_start_offset: 0,
        recovery_point: 0,
        clean_shutdown: false,
        now_ms: NOW,
    })
    .unwrap();
    for number in 0..20 {
        append(&mut log, &produced(7, 0, number, 1, false));
    }
    flush(&mut log);
    log.persist().unwrap();
    assert!(files.open_files() > 0);
    log.release();
    assert_eq!(files.open_files(), 0);
    assert!(size_of::<strandline_log::Log>() <= 1_024, "{}", size_of::<strandline_log::Log>());
}

#[test]
fn a_log_that_begins_anew_without_history_takes_what_follows() {
    let disk = new_disk();
    let mut log = open(&disk, config(2_000), Opening::default()).unwrap();
    for number in 0..10 {
        append(&mut log, &batch(3, 50, NOW + number));
    }
    log.restart_at(0, 0, Vec::new(), &[], None).unwrap();
    assert_eq!((log.offsets().log_end, log.size_bytes()), (0, 0), "nothing is left, and nothing is known");
    log.restart_at(100, 40, Vec::new(), &[], None).unwrap();
    let offsets = log.offsets();
    assert_eq!((offsets.log_start, offsets.local_log_start, offsets.log_end), (40, 100, 100));
    assert_eq!(append(&mut log, &batch(2, 10, NOW)), 100);
    flush(&mut log);
    assert_eq!(ranges(&read_all(&log, 100, 1 << 20)), [(100, 101)]);
}
