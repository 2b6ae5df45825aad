//! Reading ahead, single flight, the chunk cache, timestamps.

use std::sync::Arc;

use super::harness::{DEADLINE, LEADER, World, consume, segment};
use crate::sidecar::CHUNK_BYTES;

async fn wait_for(what: impl Fn() -> bool) {
    for _ in 0..2000 {
        if what() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    panic!("it did not happen within 10 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequential_read_fetches_each_byte_once_and_ahead() {
    let world = World::over_files();
    world.partition.open(&LEADER, 0, 0).await.unwrap();
    // About 20 MB each: chunk borders inside batches, segment ends inside chunks.
    let segments: Vec<_> = (0..3).map(|number| segment(number * 2000, 200, 10_000, 5)).collect();
    let sent: u64 = segments.iter().map(|segment| segment.size_bytes).sum();
    world.partition.copy(&LEADER, &segments, 1).await.unwrap();
    let all = consume(&world.partition, 0, 6000, 1 << 20).await;
    assert_eq!(all.len() as u64, sent);
    let metrics = world.log.metrics();
    assert_eq!(metrics.store_chunk_bytes.get(), sent, "each byte came once");
    let chunks = metrics.store_chunk_gets.get();
    assert!(metrics.chunk_misses.get() < chunks, "some chunks were there before they were asked for");
    // Again, from the chunk files.
    wait_for(|| world.log.chunk_cache_bytes() == sent).await;
    consume(&world.partition, 0, 6000, 1 << 20).await;
    assert_eq!(metrics.store_chunk_bytes.get(), sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_readers_of_the_same_chunk_cost_one_get() {
    let world = World::over_files();
    world.partition.open(&LEADER, 0, 0).await.unwrap();
    world.partition.copy(&LEADER, &[segment(0, 100, 1000, 5)], 1).await.unwrap();
    let world = Arc::new(world);
    let readers: Vec<_> = (0..10)
        .map(|_| {
            let world = Arc::clone(&world);
            tokio::spawn(async move { consume(&world.partition, 0, 1000, 64 << 10).await.len() })
        })
        .collect();
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
    assert_eq!(world.log.metrics().store_chunk_gets.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_random_seek_costs_at_most_one_chunk() {
    let world = World::over_files();
    world.partition.open(&LEADER, 0, 0).await.unwrap();
    world.partition.copy(&LEADER, &[segment(0, 300, 10_000, 5)], 1).await.unwrap();
    world.partition.read(1500, 1000, true, DEADLINE).await.unwrap();
    assert!(world.log.metrics().store_chunk_bytes.get() <= CHUNK_BYTES);
}

#[tokio::test]
async fn a_timestamp_finds_the_first_record_that_is_not_older() {
    let world = World::over_files();
    world.partition.open(&LEADER, 0, 0).await.unwrap();
    world.partition.copy(&LEADER, &[segment(0, 20, 1000, 4), segment(200, 20, 9000, 5)], 1).await.unwrap();
    for (timestamp, offset, epoch) in [(0, 0, 4), (1234, 124, 4), (1999, 200, 5), (3990, 399, 5)] {
        let found = world.partition.offset_for_timestamp(timestamp, DEADLINE).await.unwrap().unwrap();
        assert_eq!((found.offset, found.leader_epoch, found.timestamp), (offset, epoch, offset * 10));
    }
    assert_eq!(world.partition.offset_for_timestamp(3991, DEADLINE).await.unwrap(), None);
    world.partition.trim(&LEADER, 150).await.unwrap();
    let found = world.partition.offset_for_timestamp(0, DEADLINE).await.unwrap().unwrap();
    assert_eq!(found.offset, 150, "nothing below log start is an answer");
}

#[tokio::test]
async fn aborted_transactions_come_with_the_bytes() {
    let world = World::over_files();
    world.partition.open(&LEADER, 0, 0).await.unwrap();
    let txn = |first_offset, last_offset| crate::AbortedTxn {
        producer_id: 9,
        first_offset,
        last_offset,
        last_stable_offset: last_offset,
    };
    let mut with_aborted = segment(0, 300, 2000, 5);
    with_aborted.aborted = vec![txn(5, 20), txn(2500, 2600)];
    world.partition.copy(&LEADER, &[with_aborted], 1).await.unwrap();
    let read = world.partition.read(0, 10_000, true, DEADLINE).await.unwrap();
    assert_eq!(read.aborted, [txn(5, 20)]);
    let read = world.partition.read(2600, 10_000, true, DEADLINE).await.unwrap();
    assert_eq!(read.aborted, [txn(2500, 2600)]);
}

#[tokio::test]
async fn a_missing_object_is_an_error_and_never_an_empty_answer() {
    let inner = Arc::new(object_store::memory::InMemory::new());
    let world = World::over(inner);
    world.partition.open(&LEADER, 0, 0).await.unwrap();
    world.partition.copy(&LEADER, &[segment(0, 10, 100, 5)], 1).await.unwrap();
    let keys = world.keys().await;
    let log = keys.iter().find(|key| key.ends_with(".log")).unwrap();
    world.store.delete(log).await.unwrap();
    let missing = world.partition.read(0, 1000, true, DEADLINE).await;
    assert!(matches!(missing, Err(crate::RemoteReadError::Damaged { .. })), "{missing:?}");
}
