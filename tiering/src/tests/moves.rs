//! Copy, trim, retention, deletion, collect over real files.

use strandline_protocol::remote_pointer::{PointerState, Refusal};

use super::harness::{Answer, DEADLINE, LEADER, World, bytes_of, consume, segment};
use crate::plan::Retention;
use crate::service::Leader;
use crate::{MoveError, RemoteReadError};

#[tokio::test]
async fn what_is_copied_is_read_back_byte_for_byte() {
    let world = World::over_files();
    world.partition.open(&LEADER, 100, 0).await.unwrap();
    let segments = [segment(100, 30, 900, 4), segment(400, 30, 900, 5)];
    let copied = world.partition.copy(&LEADER, &segments, 1).await.unwrap();
    assert_eq!(
        (copied.segments, copied.pointer.highest_copied_offset, copied.pointer.highest_copied_epoch),
        (2, 699, 5)
    );
    assert_eq!(world.keys().await.len(), 5, "two segments of two objects, one manifest");

    let all = consume(&world.partition, 100, 700, 10_000).await;
    let sent: u64 = segments.iter().map(|segment| segment.size_bytes).sum();
    assert_eq!(all.len() as u64, sent);
    let read = world.partition.read(455, 1, true, DEADLINE).await.unwrap();
    assert_eq!(read.first_offset, 450, "a read begins with the batch that holds the offset");
    assert!(bytes_of(&world.partition.read(455, 1, false, DEADLINE).await.unwrap().parts).is_empty());

    let below = world.partition.read(99, 1, true, DEADLINE).await;
    assert!(matches!(below, Err(RemoteReadError::OffsetOutOfRange { log_start: 100, .. })), "{below:?}");
    let above = world.partition.read(700, 1, true, DEADLINE).await;
    assert!(matches!(above, Err(RemoteReadError::AboveRemote { highest_copied: 699, .. })), "{above:?}");
    let tail = world.partition.tail(DEADLINE).await.unwrap().unwrap();
    assert_eq!((tail.last_offset, &tail.producer_state[..]), (699, &b"producer state"[..]));
}

#[tokio::test]
async fn a_segment_that_is_there_in_part_is_copied_from_there_on() {
    let world = World::over_files();
    world.partition.open(&LEADER, 0, 0).await.unwrap();
    world.partition.copy(&LEADER, &[segment(0, 10, 100, 5)], 1).await.unwrap();
    // Another replica cut its segments elsewhere.
    let copied = world.partition.copy(&LEADER, &[segment(50, 20, 100, 5)], 2).await.unwrap();
    assert_eq!(copied.pointer.highest_copied_offset, 249);
    assert_eq!(consume(&world.partition, 0, 250, 1000).await, consume(&world.partition, 0, 250, 100_000).await);
    let tiers = world.partition.tiers(DEADLINE).await.unwrap();
    assert_eq!(tiers.entries.iter().map(|entry| entry.base_offset).collect::<Vec<_>>(), [0, 100]);
    let hole = world.partition.copy(&LEADER, &[segment(260, 1, 100, 5)], 3).await;
    assert!(matches!(hole, Err(MoveError::NotContiguous { expected: 250, found: 260 })), "{hole:?}");
}

/// Sixteen segments, one of them damaged: those before it are copied, in their order; of those after it nothing stays.
#[tokio::test(flavor = "multi_thread")]
async fn segments_uploaded_side_by_side_are_named_in_order_up_to_the_first_failure() {
    let world = World::over_files();
    world.partition.open(&LEADER, 0, 0).await.unwrap();
    let mut segments: Vec<_> = (0..16).map(|number| segment(number * 100, 10, 100, 5)).collect();
    let whole = std::sync::Arc::clone(&segments[6].source);
    segments[6].source = std::sync::Arc::new(super::harness::Segment(bytes::Bytes::from_static(b"no batch")));
    let copied = world.partition.copy(&LEADER, &segments, 1).await.unwrap();
    assert_eq!((copied.segments, copied.pointer.highest_copied_offset), (6, 599));
    assert!(matches!(copied.stopped, Some(MoveError::Upload(_))), "{:?}", copied.stopped);
    consume(&world.partition, 0, 600, 500).await;
    world.partition.collect(&LEADER).await.unwrap();
    let logs = |keys: Vec<String>| keys.iter().filter(|key| key.ends_with(".log")).count();
    assert_eq!(logs(world.keys().await), 6, "what can never be named is collected");
    segments[6].source = whole;
    let copied = world.partition.copy(&LEADER, &segments, 2).await.unwrap();
    assert_eq!((copied.segments, copied.pointer.highest_copied_offset), (10, 1599));
    consume(&world.partition, 0, 1600, 500).await;
    let tiers = world.partition.tiers(super::harness::DEADLINE).await.unwrap();
    assert!(tiers.entries.windows(2).all(|pair| pair[0].last_offset + 1 == pair[1].base_offset));
}

#[tokio::test]
async fn a_damaged_segment_is_not_copied() {
    let world = World::over_files();
    world.partition.open(&LEADER, 0, 0).await.unwrap();
    let mut damaged = segment(0, 10, 100, 5);
    let mut bytes = vec![0; damaged.size_bytes as usize];
    damaged.source.read_at(&mut bytes, 0).unwrap();
    bytes[900] ^= 1;
    damaged.source = std::sync::Arc::new(super::harness::Segment(bytes.into()));
    let refused = world.partition.copy(&LEADER, &[damaged], 1).await;
    assert!(matches!(&refused, Err(MoveError::Upload(error)) if !error.retryable()), "{refused:?}");
    assert_eq!(world.pointer().manifest, None);
}

#[tokio::test]
async fn retention_moves_the_log_start_first_and_deletes_after_the_delay() {
    let world = World::over_files();
    world.partition.open(&LEADER, 0, 0).await.unwrap();
    for number in 0..4 {
        world.partition.copy(&LEADER, &[segment(number * 100, 10, 100, 5)], 1000).await.unwrap();
    }
    // Timestamps are ten times the offset: at 5000, a retention of 3000 ms ends with offset 199.
    let retention = Retention { retention_ms: Some(3000), ..Retention::default() };
    let kept = world.partition.housekeep(&LEADER, retention, 500, 5000).await.unwrap();
    assert_eq!((kept.expired_to, kept.pointer.log_start_offset), (Some(200), 200));
    let objects = world.keys().await;
    assert!(objects.iter().any(|key| key.contains("/00000000000000000000-")), "deleted before the delay: {objects:?}");

    let later = world.partition.housekeep(&LEADER, retention, 500, 5500).await.unwrap();
    assert!(later.deleted >= 2 && later.pointer.complete_from > 0, "{later:?}");
    let objects = world.keys().await;
    assert_eq!(objects.iter().filter(|key| key.ends_with(".log")).count(), 2, "{objects:?}");
    let kept = world.partition.housekeep(&LEADER, Retention::default(), 500, 6100).await.unwrap();
    let version = kept.pointer.version;
    for now in 6101..6110 {
        world.partition.housekeep(&LEADER, Retention::default(), 500, now).await.unwrap();
    }
    assert!(world.pointer().version <= version + 2, "an idle partition writes no manifests for ever");
    consume(&world.partition, 200, 400, 500).await;
}

#[tokio::test]
async fn retention_by_size_keeps_at_least_its_bytes() {
    let world = World::over_files();
    world.partition.open(&LEADER, 0, 0).await.unwrap();
    let segments: Vec<_> = (0..5).map(|number| segment(number * 100, 10, 100, 5)).collect();
    let size = segments[0].size_bytes;
    world.partition.copy(&LEADER, &segments, 1).await.unwrap();
    let retention = Retention { retention_bytes: Some(size * 3), local_bytes_above: size / 2, ..Retention::default() };
    let kept = world.partition.housekeep(&LEADER, retention, 0, 1).await.unwrap();
    assert_eq!(kept.expired_to, Some(200), "5.5 segments, 3 are to stay: 2 go");
    let again = world.partition.housekeep(&LEADER, retention, 0, 1).await.unwrap();
    assert_eq!(again.expired_to, None);
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_and_changes_nothing() {
    let world = World::over_files();
    world.partition.open(&LEADER, 0, 0).await.unwrap();
    *world.controller.answers.lock() = vec![Answer::Dropped, Answer::Lost];
    let copied = world.partition.copy(&LEADER, &[segment(0, 10, 100, 5)], 1).await.unwrap();
    assert_eq!((copied.pointer.version, copied.pointer.highest_copied_offset), (2, 99));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_keeps_the_objects_until_it_is_known() {
    let world = World::over_files();
    world.partition.open(&LEADER, 0, 0).await.unwrap();
    let mut answers = vec![Answer::Dropped; 4];
    answers.push(Answer::Lost);
    *world.controller.answers.lock() = answers;
    let unknown = world.partition.copy(&LEADER, &[segment(0, 10, 100, 5)], 1).await;
    assert!(matches!(unknown, Err(MoveError::OutcomeUnknown)), "{unknown:?}");
    assert_eq!(world.partition.collect(&LEADER).await.unwrap(), 0);
    let copied = world.partition.copy(&LEADER, &[segment(0, 20, 100, 5)], 1).await.unwrap();
    assert_eq!(copied.pointer.highest_copied_offset, 199);
    consume(&world.partition, 0, 200, 1000).await;
}

#[tokio::test]
async fn a_deposed_leader_leaves_garbage_that_the_next_one_collects() {
    let world = World::over_files();
    world.partition.open(&LEADER, 0, 0).await.unwrap();
    world.partition.copy(&LEADER, &[segment(0, 10, 100, 5)], 1).await.unwrap();
    let before = world.keys().await;
    world.controller.leadership.lock().leader_epoch = 6;
    let refused = world.partition.copy(&LEADER, &[segment(100, 10, 100, 5)], 1).await;
    assert!(matches!(refused, Err(MoveError::Refused(Refusal::FencedLeaderEpoch { current: 6 }))), "{refused:?}");
    assert_eq!(world.keys().await.len(), before.len() + 3);
    let next = Leader { leader_epoch: 6, ..LEADER };
    assert_eq!(world.partition.collect(&next).await.unwrap(), 3);
    assert_eq!(world.keys().await, before);
    consume(&world.partition, 0, 100, 1000).await;
}

#[tokio::test]
async fn off_and_on_again_never_shows_the_earlier_life() {
    let world = World::over_files();
    world.partition.open(&LEADER, 0, 0).await.unwrap();
    world.partition.copy(&LEADER, &[segment(0, 10, 100, 5), segment(100, 10, 100, 5)], 1).await.unwrap();
    let closed = world.partition.close(&LEADER, 100).await.unwrap();
    assert_eq!((closed.state, closed.log_start_offset), (PointerState::Closed, 100));
    assert!(matches!(world.partition.read(100, 1, true, DEADLINE).await, Err(RemoteReadError::NotTiered)));
    {
        let mut pointer = world.controller.pointer.lock();
        *pointer = pointer.reopened();
    }
    let opened = world.partition.open(&LEADER, 100, 2).await.unwrap();
    assert_eq!((opened.log_start_offset, opened.highest_copied_offset), (100, 99));
    assert!(world.partition.tiers(DEADLINE).await.unwrap().entries.is_empty());
    world.partition.copy(&LEADER, &[segment(100, 5, 100, 5), segment(150, 5, 100, 5)], 3).await.unwrap();
    for now in [10, 20, 30] {
        world.partition.housekeep(&LEADER, Retention::default(), 1, now).await.unwrap();
    }
    let logs = world.keys().await.into_iter().filter(|key| key.ends_with(".log")).count();
    assert_eq!(logs, 2, "the earlier life's objects are gone");
    consume(&world.partition, 100, 200, 1000).await;
}

#[tokio::test]
async fn a_closed_pointer_is_buried_to_the_last_object() {
    let world = World::over_files();
    world.partition.open(&LEADER, 0, 0).await.unwrap();
    world.partition.copy(&LEADER, &[segment(0, 10, 100, 5)], 1).await.unwrap();
    world.partition.close(&LEADER, 100).await.unwrap();
    for now in [10, 20, 30, 40] {
        world.partition.housekeep(&LEADER, Retention::default(), 1, now).await.unwrap();
    }
    let keys = world.keys().await;
    assert!(keys.iter().all(|key| key.contains("/manifest/")), "{keys:?}");
}

#[tokio::test]
async fn a_deleted_topic_leaves_no_object() {
    let world = World::over_files();
    world.partition.open(&LEADER, 0, 0).await.unwrap();
    world.partition.copy(&LEADER, &[segment(0, 10, 100, 5), segment(100, 10, 100, 5)], 1).await.unwrap();
    assert_eq!(world.partition.delete_all().await.unwrap(), 5);
    assert_eq!(world.partition.delete_all().await.unwrap(), 0);
    assert!(world.keys().await.is_empty());
}

#[tokio::test]
async fn trims_need_no_store() {
    let world = World::over_files();
    world.partition.open(&LEADER, 0, 0).await.unwrap();
    world.partition.copy(&LEADER, &[segment(0, 10, 100, 5), segment(100, 10, 100, 5)], 1).await.unwrap();
    std::fs::remove_dir_all(world.dir.path().join("bucket")).unwrap();
    let trimmed = world.partition.trim(&LEADER, 150).await.unwrap();
    assert_eq!((trimmed.log_start_offset, trimmed.highest_copied_offset), (150, 199));
    let past = world.partition.trim(&LEADER, 300).await.unwrap();
    assert_eq!((past.log_start_offset, past.highest_copied_offset), (300, 299));
}

#[tokio::test]
async fn more_than_a_thousand_segments_are_sealed_into_runs_and_read_on() {
    let world = World::over_files();
    world.partition.open(&LEADER, 0, 0).await.unwrap();
    let segments: Vec<_> = (0..1100).map(|number| segment(number * 10, 1, 8, 5)).collect();
    world.partition.copy(&LEADER, &segments, 1).await.unwrap();
    assert_eq!(world.keys().await.iter().filter(|key| key.contains("/index/")).count(), 1);
    assert_eq!(world.partition.tiers(DEADLINE).await.unwrap().entries.len(), 1100);
    for offset in [0, 5119, 10_239, 10_240, 10_999] {
        let read = world.partition.read(offset, 1, true, DEADLINE).await.unwrap();
        assert_eq!(read.first_offset, offset / 10 * 10);
    }
    world.partition.trim(&LEADER, 10_500).await.unwrap();
    for now in [10, 20, 30, 40] {
        world.partition.housekeep(&LEADER, Retention::default(), 1, now).await.unwrap();
    }
    let keys = world.keys().await;
    assert_eq!(keys.iter().filter(|key| key.ends_with(".log")).count(), 50, "{}", keys.len());
    assert_eq!(world.partition.read(10_500, 1, true, DEADLINE).await.unwrap().first_offset, 10_500);
}
