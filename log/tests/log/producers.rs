//! What a log knows of its producers, after it was released, opened again, cut.

use crate::harness::*;
use strandline_log::{AppendError, AppendOrigin, Log};

/// A replica is idle while its leader is not heard of; then it leads, and gets again what was not acknowledged.
#[test]
fn a_released_log_knows_the_last_batches_of_a_producer() {
    let disk = new_disk();
    let mut log = open(&disk, config(2_000), Opening::default()).unwrap();
    for number in 0..10 {
        append(&mut log, &produced(7, 0, number, 1, false));
    }
    flush(&mut log);
    log.release();
    for number in 5..10 {
        let again = log.append_as_leader(&produced(7, 0, number, 1, false), 0, AppendOrigin::Client, NOW).unwrap();
        assert_eq!((again.duplicate, again.first_offset), (true, i64::from(number)));
    }
}

/// A snapshot says the last batch of a producer alone; the four before it are in the log, in other segments and between other producers'.
#[test]
fn a_restarted_and_a_cut_log_know_the_last_batches_of_a_producer() {
    let disk = new_disk();
    let mut log = open(&disk, config(500), Opening::default()).unwrap();
    for number in 0..10 {
        append(&mut log, &produced(7, 0, number, 1, false));
        append(&mut log, &produced(8, 0, number, 1, false));
    }
    // One that has come to a new epoch: what it wrote under the old one is no duplicate.
    append(&mut log, &produced(9, 0, 0, 1, false));
    append(&mut log, &produced(9, 1, 0, 1, false));
    assert!(log.segment_count() > 3);
    log.close().unwrap();
    let opening = Opening { recovery_point: 22, clean: true, ..Opening::default() };
    let mut log = open(&disk, config(500), opening).unwrap();
    let known = |log: &mut Log, id, epoch, number| {
        let again = log.append_as_leader(&produced(id, epoch, number, 1, false), 0, AppendOrigin::Client, NOW);
        again.map(|appended| (appended.duplicate, appended.first_offset))
    };
    for number in 5..10 {
        assert_eq!(known(&mut log, 7, 0, number).unwrap(), (true, i64::from(number) * 2));
        assert_eq!(known(&mut log, 8, 0, number).unwrap(), (true, i64::from(number) * 2 + 1));
    }
    assert!(matches!(known(&mut log, 7, 0, 4), Err(AppendError::OutOfOrderSequence { .. })));
    assert!(matches!(known(&mut log, 9, 0, 0), Err(AppendError::InvalidProducerEpoch { .. })));
    assert_eq!(known(&mut log, 9, 1, 0).unwrap(), (true, 21));
    // Cut at a place that no snapshot was made for.
    log.truncate_to(13).unwrap();
    for number in 2..7 {
        assert_eq!(known(&mut log, 7, 0, number).unwrap(), (true, i64::from(number) * 2));
    }
    assert_eq!(known(&mut log, 7, 0, 7).unwrap(), (false, 13));
    assert_eq!(known(&mut log, 8, 0, 5).unwrap(), (true, 11));
    // The log before the snapshot cannot be read: what the snapshot says is enough to go on.
    log.close().unwrap();
    disk.fail_reads(".log");
    let mut log = open(&disk, config(500), Opening { recovery_point: 14, ..opening }).unwrap();
    assert!(log.producers().unwrap().iter().all(|(_, producer)| producer.batches.len() == 1));
    disk.heal_reads();
    assert_eq!(known(&mut log, 7, 0, 7).unwrap(), (true, 13));
}
