//! A power loss at every single change of the disk, and what is found afterwards.
//!
//! What was flushed survives, what is found is a prefix of what was appended, and opening twice gives one result.

use crate::harness::*;
use bytes::Bytes;
use strandline_disk::{FaultyDisk, InjectedError};
use strandline_log::config::CleanupPolicy;
use strandline_log::{AppendError, AppendOrigin, Log, LogConfig};

/// Ways in which unsynced changes may survive a crash, tried for each crash point.
const SEEDS: u64 = 16;

/// What must be found.
#[derive(Default, Clone)]
struct Model {
    /// The batches, as (base offset, bytes).
    history: Vec<(i64, Bytes)>,
    /// Another history that is allowed while a truncation is under way.
    before_truncation: Option<Vec<(i64, Bytes)>>,
    /// Flushed: survives.
    acked: i64,
    checkpoint: i64,
    /// Freed up to here, at most.
    freed: i64,
    compacted: bool,
}

type Failure = Box<dyn std::error::Error>;

fn small() -> LogConfig {
    LogConfig { remote_storage_enable: true, ..config(800) }
}

struct Scenario {
    log: Log,
    model: Model,
}

impl Scenario {
    fn append(&mut self, records: &Bytes, epoch: i32, origin: AppendOrigin) -> Result<(), AppendError> {
        let base = self.log.offsets().log_end;
        let header = strandline_protocol::record_batch::BatchHeader::parse(records).unwrap();
        let mut bytes = header.prefix_with(base, epoch).to_vec();
        bytes.extend_from_slice(&records[16..]);
        // A failed append may be found as well, as may any that is not flushed.
        self.model.history.push((base, bytes.into()));
        self.log.append_as_leader(records, epoch, origin, NOW)?;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        if let Some(flush) = self.log.begin_flush() {
            flush.run()?;
            self.log.finish_flush(&flush);
            self.model.acked = self.log.offsets().recovery_point;
        }
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<(), Failure> {
        self.log.persist()?;
        self.model.checkpoint = self.log.offsets().recovery_point;
        Ok(())
    }

    fn truncate(&mut self, end: i64) -> Result<(), Failure> {
        self.model.acked = self.model.acked.min(end);
        self.model.before_truncation = Some(self.model.history.clone());
        self.model.history.retain(|(base, _)| *base < end);
        self.log.truncate_to(end)?;
        self.model.before_truncation = None;
        self.model.checkpoint = self.model.checkpoint.min(end);
        Ok(())
    }

    fn free(&mut self, disk: &FaultyDisk, offset: i64) -> Result<(), Failure> {
        self.model.freed = offset;
        let deleted = self.log.delete_local_before(offset)?;
        assert!(deleted.count > 0);
        deleted.remove(disk)?;
        Ok(())
    }
}

/// Batches whose sizes are multiples of eight bytes, so that a lost piece of a sector is never tiny.
fn even(mut records: usize, value_bytes: usize) -> Bytes {
    loop {
        for pad in 0..64 {
            let found = batch(records, value_bytes + pad, NOW);
            if found.len().is_multiple_of(8) {
                return found;
            }
        }
        records += 1;
    }
}

fn run(disk: &FaultyDisk, model: &mut Model) -> Result<(), Failure> {
    let log = open(disk, small(), Opening::default())?;
    let mut scenario = Scenario { log, model: model.clone() };
    let result = steps(disk, &mut scenario);
    *model = scenario.model;
    result
}

fn steps(disk: &FaultyDisk, scenario: &mut Scenario) -> Result<(), Failure> {
    for number in 0..5 {
        scenario.append(&even(2, 60 + 40 * number), 0, AppendOrigin::Client)?;
        if number % 2 == 1 {
            scenario.flush()?;
        }
    }
    scenario.checkpoint()?;
    for number in 0..4 {
        scenario.append(&even(1, 100 + 90 * number), 1, AppendOrigin::Client)?;
    }
    scenario.flush()?;
    scenario.log.roll(NOW)?;
    scenario.log.advance_high_watermark(100);
    scenario.checkpoint()?;
    let ends: Vec<i64> = scenario.log.segments().iter().map(|segment| segment.next_offset).collect();
    scenario.free(disk, ends[1])?;
    for number in 0..4 {
        scenario.append(&even(1, 200 + 30 * number), 2, AppendOrigin::Client)?;
    }
    scenario.flush()?;
    let end = scenario.log.offsets().log_end;
    scenario.truncate(end - 3)?;
    for number in 0..3 {
        scenario.append(&even(1, 150 + 50 * number), 3, AppendOrigin::Client)?;
        scenario.log.release();
    }
    scenario.flush()?;
    scenario.checkpoint()?;
    scenario.append(&even(3, 40), 3, AppendOrigin::Client)?;
    scenario.log.close()?;
    scenario.model.acked = scenario.model.history.last().map_or(0, |(base, _)| base + 3);
    Ok(())
}

/// Opens what is left, compares it with the model, and goes on with it.
fn check(disk: &FaultyDisk, model: &Model, config: &LogConfig, what: &str) {
    let opening = Opening { recovery_point: model.checkpoint, ..Opening::default() };
    let mut log = open(disk, config.clone(), opening).unwrap_or_else(|error| panic!("{what}: {error}"));
    let offsets = log.offsets();
    let start = offsets.local_log_start;
    assert!(offsets.log_end >= model.acked, "{what}: {offsets:?}, acked {}", model.acked);
    assert!(start <= model.freed, "{what}: {offsets:?}, freed {}", model.freed);
    let found: Vec<(i64, Bytes)> =
        read_all(&log, start, 500).into_iter().map(|(header, bytes)| (header.base_offset, bytes)).collect();
    if !model.compacted {
        let expected = |history: &[(i64, Bytes)]| {
            history.iter().filter(|(base, _)| *base >= start && *base < offsets.log_end).cloned().collect::<Vec<_>>()
        };
        let other = model.before_truncation.as_ref().map(|history| expected(history));
        assert!(found == expected(&model.history) || Some(&found) == other.as_ref(), "{what}: {:?}", offsets);
    }
    // The indexes lead to every batch, and the epochs are those of the batches.
    for (base, bytes) in &found {
        let read = log.prepare_read(*base, offsets.log_end).unwrap().run(1, true).unwrap();
        assert_eq!(read.first_offset, *base, "{what}");
        let epoch = strandline_protocol::record_batch::BatchHeader::parse(bytes).unwrap().partition_leader_epoch;
        assert_eq!(log.epoch_for_offset(*base), Some(epoch), "{what}");
    }
    let again = open(disk, config.clone(), opening).unwrap();
    let again_found: Vec<(i64, Bytes)> =
        read_all(&again, start, 700).into_iter().map(|(header, bytes)| (header.base_offset, bytes)).collect();
    assert_eq!((again.offsets(), &again_found), (offsets, &found), "{what}: a second recovery");
    drop(again);
    let next = log.append_as_leader(&batch(1, 10, NOW), 9, AppendOrigin::Client, NOW).unwrap();
    assert_eq!(next.first_offset, offsets.log_end, "{what}");
    flush(&mut log);
    assert_eq!(log.offsets().recovery_point, offsets.log_end + 1);
}

#[test]
fn every_crash_point_leaves_a_prefix_with_all_that_was_flushed() {
    let disk = new_disk();
    run(&disk, &mut Model::default()).unwrap();
    let operations = disk.operations();
    assert!(operations > 80, "{operations}");
    for point in 2..operations {
        let disk = new_disk();
        disk.crash_at(point);
        let mut model = Model::default();
        run(&disk, &mut model).unwrap_err();
        for seed in 0..SEEDS {
            check(&disk.crash(seed), &model, &small(), &format!("crash at {point}, seed {seed}"));
        }
    }
}

#[test]
fn every_failed_operation_loses_nothing_that_was_flushed() {
    let disk = new_disk();
    run(&disk, &mut Model::default()).unwrap();
    let operations = disk.operations();
    let mut unnoticed = 0;
    for error in [InjectedError::Io, InjectedError::NoSpace, InjectedError::SyncLosesPages] {
        for point in 2..operations {
            let disk = new_disk();
            disk.fail_operation(point, error);
            let mut model = Model::default();
            // Only what is not needed may fail unnoticed: a release that writes nothing keeps its memory.
            let failed = run(&disk, &mut model).is_err();
            unnoticed += u32::from(!failed);
            for seed in 0..4 {
                check(&disk.crash(seed), &model, &small(), &format!("{error:?} at {point}, seed {seed}"));
            }
        }
    }
    assert!(u64::from(unnoticed) < operations / 2, "{unnoticed} of {operations}");
}

#[test]
fn a_crash_during_recovery_changes_nothing() {
    for point in (5..100).step_by(3) {
        let disk = new_disk();
        disk.crash_at(point);
        let mut model = Model::default();
        if run(&disk, &mut model).is_ok() {
            continue;
        }
        for seed in 0..SEEDS {
            let first = disk.crash(seed);
            for second in 0.. {
                let disk = first.crash(seed);
                disk.crash_at(second);
                let opening = Opening { recovery_point: model.checkpoint, ..Opening::default() };
                let opened = open(&disk, small(), opening);
                let done = opened.is_ok() && !disk.crashed();
                drop(opened);
                check(&disk.crash(seed + 1), &model, &small(), &format!("crash at {point}, then at {second}, {seed}"));
                if done {
                    break;
                }
            }
        }
    }
}

fn compacted_config() -> LogConfig {
    LogConfig { cleanup_policy: CleanupPolicy { delete: false, compact: true }, ..config(700) }
}

fn compaction_steps(disk: &FaultyDisk, model: &mut Model) -> Result<(), Failure> {
    let mut log = open(disk, compacted_config(), Opening::default())?;
    for number in 0..20 {
        log.append_as_leader(&keyed(number % 4, number, NOW), 0, AppendOrigin::Client, NOW)?;
    }
    let flush = log.begin_flush().ok_or("nothing to flush")?;
    flush.run()?;
    log.finish_flush(&flush);
    model.acked = 20;
    log.persist()?;
    model.checkpoint = 20;
    model.compacted = true;
    log.note_checkpoint(20);
    log.advance_high_watermark(20);
    let plan = log.compaction_plan(0, NOW)?.ok_or("nothing to compact")?;
    let compacted = plan.run(1 << 20)?;
    assert!(compacted.bytes_after < compacted.bytes_before);
    log.compact(compacted)?;
    Ok(())
}

#[test]
fn every_crash_point_of_a_compaction_keeps_the_last_value_of_each_key() {
    let disk = new_disk();
    compaction_steps(&disk, &mut Model::default()).unwrap();
    for point in 2..disk.operations() {
        let disk = new_disk();
        disk.crash_at(point);
        let mut model = Model::default();
        compaction_steps(&disk, &mut model).unwrap_err();
        for seed in 0..SEEDS {
            let what = format!("crash at {point}, seed {seed}");
            let crashed = disk.crash(seed);
            if model.acked == 20 {
                let opening = Opening { recovery_point: model.checkpoint, ..Opening::default() };
                let log = open(&crashed, compacted_config(), opening).unwrap_or_else(|e| panic!("{what}: {e}"));
                assert_eq!(last_values(&log), (0..4).map(|key| (key, 16 + key)).collect(), "{what}");
            }
            model.compacted = true;
            check_compacted(&crashed, &model, &what);
        }
    }
}

fn check_compacted(disk: &FaultyDisk, model: &Model, what: &str) {
    let opening = Opening { recovery_point: model.checkpoint, ..Opening::default() };
    let log = open(disk, compacted_config(), opening).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(log.offsets().log_end >= model.acked, "{what}");
    let names = strandline_disk::Disk::read_dir(disk, std::path::Path::new(DIR)).unwrap_or_default();
    assert!(names.iter().all(|n| !n.name.ends_with(".swap") && !n.name.ends_with(".cleaned")), "{what}: {names:?}");
    let found = read_all(&log, 0, 300);
    assert!(found.windows(2).all(|pair| pair[0].0.last_offset() < pair[1].0.base_offset), "{what}");
}
