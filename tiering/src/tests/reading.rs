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
    assert_eq!(metrics.chunk_files_written.get(), 0, "who goes on in order needs no file");
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

/// Clients that do not take what they were given hold half of the budget at most; the rest are sent from files.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_held_leave_memory_to_others() {
    use strandline_protocol::rope::Part;
    let world = World::over_files();
    world.partition.open(&LEADER, 0, 0).await.unwrap();
    // A chunk each; the budget of demand is a quarter of 32 chunks.
    let segments: Vec<_> = (0..24).map(|number| segment(number * 100, 10, 100, 5)).collect();
    world.partition.copy(&LEADER, &segments, 1).await.unwrap();
    let mut held = Vec::new();
    for number in (0..24).rev() {
        held.push(world.partition.read(number * 100, 1 << 20, true, DEADLINE).await.unwrap());
    }
    let in_memory = held.iter().flat_map(|read| read.parts.parts()).filter(|part| matches!(part, Part::Bytes(_)));
    let in_memory = in_memory.count();
    assert!((1..=4).contains(&in_memory), "{in_memory} answers are in memory");
    for (read, number) in held.iter().zip((0..24).rev()) {
        let mut expected = vec![0; segments[number].size_bytes as usize];
        segments[number].source.read_at(&mut expected, 0).unwrap();
        assert_eq!(super::harness::bytes_of(&read.parts), expected);
    }
    let in_use = || {
        let load = world.log.reader_load();
        load.budget - load.free
    };
    wait_for(|| in_use() == in_memory).await;
    drop(held);
    // A read ahead may hold a piece for a moment longer.
    wait_for(|| in_use() == 0).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_or_missing_chunk_file_is_fetched_again_and_never_served() {
    let world = World::over_files();
    world.partition.open(&LEADER, 0, 0).await.unwrap();
    let segments = [segment(0, 200, 10_000, 5)];
    let sent = segments[0].size_bytes;
    world.partition.copy(&LEADER, &segments, 1).await.unwrap();
    let whole = consume(&world.partition, 0, 2000, 1 << 20).await;
    world.log.chunks.write_all().await;
    let files = || {
        let entries = std::fs::read_dir(world.dir.path().join("chunks")).unwrap();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    };
    assert!(files().iter().all(|file| file.extension().is_some_and(|name| name == "chunk")));
    assert_eq!((files().len(), world.log.chunk_cache_bytes()), (3, sent));
    let metrics = world.log.metrics();
    assert_eq!(metrics.chunk_files_written.get(), 3);
    world.log.chunks.close_files();
    assert_eq!(consume(&world.partition, 0, 2000, 1 << 20).await, whole);
    assert_eq!((metrics.store_chunk_bytes.get(), metrics.chunk_files_lost.get()), (sent, 0), "checked, and good");

    let files = files();
    let file = std::fs::OpenOptions::new().write(true).open(&files[0]).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"x", 5_000_000).unwrap();
    std::fs::OpenOptions::new().write(true).open(&files[1]).unwrap().set_len(1000).unwrap();
    std::fs::remove_file(&files[2]).unwrap();
    world.log.chunks.close_files();
    assert_eq!(consume(&world.partition, 0, 2000, 1 << 20).await, whole);
    assert_eq!((metrics.store_chunk_bytes.get(), metrics.chunk_files_lost.get()), (2 * sent, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chunk_cache_stays_under_its_limit_and_begins_empty() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("chunks")).unwrap();
    for name in ["00-0.chunk", "00-0.7.part", "notes"] {
        std::fs::File::create(dir.path().join("chunks").join(name)).unwrap();
    }
    let mut world = World::over_files();
    let mut config = super::harness::config(&dir);
    config.chunk_cache_bytes = 2 * CHUNK_BYTES;
    let service: Arc<dyn crate::PointerService> = world.controller.clone();
    world.log = crate::RemoteLog::start(config, service, super::harness::uuids(1)).unwrap();
    world.partition = world.log.partition(Arc::clone(&world.store), "topic", super::harness::tp());
    let names = || std::fs::read_dir(dir.path().join("chunks")).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names().collect::<Vec<_>>(), ["notes"], "what an earlier run left is gone, what is not ours stays");
    world.partition.open(&LEADER, 0, 0).await.unwrap();
    let segments: Vec<_> = (0..3).map(|number| segment(number * 2000, 200, 10_000, 5)).collect();
    world.partition.copy(&LEADER, &segments, 1).await.unwrap();
    consume(&world.partition, 0, 6000, 1 << 20).await;
    world.log.chunks.write_all().await;
    let limit = 2 * CHUNK_BYTES;
    // Nine in all, and two fit. What was begun before is not waited for.
    let metrics = world.log.metrics();
    for _ in 0..500 {
        if metrics.chunk_files_written.get() - metrics.chunks_evicted.get() == 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(metrics.chunk_files_written.get() + metrics.chunks_released.get(), 9);
    assert_eq!(metrics.chunk_files_written.get() - metrics.chunks_evicted.get(), 2);
    assert!(world.log.chunk_cache_bytes() <= limit);
    let entries = std::fs::read_dir(dir.path().join("chunks")).unwrap();
    let sizes = entries.map(|entry| entry.unwrap().metadata().unwrap().len());
    assert!(sizes.sum::<u64>() <= limit);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_leaves_the_chunk_to_the_next() {
    let faulty = crate::faulty::FaultyStore::new(Arc::new(object_store::memory::InMemory::new()), 1);
    let world = World::over(faulty.clone());
    world.partition.open(&LEADER, 0, 0).await.unwrap();
    world.partition.copy(&LEADER, &[segment(0, 10, 100, 5)], 1).await.unwrap();
    // The sidecar first, so that only the chunk is slow.
    world.partition.tail(DEADLINE).await.unwrap();
    faulty.only(crate::faulty::Fault::Hangs, 100);
    let gone = world.partition.read(0, 1000, true, std::time::Duration::from_millis(50)).await;
    assert!(matches!(gone, Err(crate::RemoteReadError::TimedOut(_))), "{gone:?}");
    faulty.all(0);
    wait_for(|| world.log.metrics().store_chunk_gets.get() == 1).await;
    world.partition.read(0, 1000, true, DEADLINE).await.unwrap();
    assert_eq!(world.log.metrics().store_chunk_gets.get(), 1);
}

/// A store 50 ms away that gives 90 MB/s to one request; everything else takes no time.
fn distant(chunk_memory_bytes: u64) -> (Arc<crate::faulty::FaultyStore>, World) {
    let faulty = crate::faulty::FaultyStore::new(Arc::new(object_store::memory::InMemory::new()), 1);
    let mut world = World::over(faulty.clone());
    let mut config = super::harness::config(&world.dir);
    (config.io_threads, config.chunk_memory_bytes) = (0, chunk_memory_bytes);
    config.store_limits = crate::StoreLimits::default();
    let service: Arc<dyn crate::PointerService> = world.controller.clone();
    world.log = crate::RemoteLog::start(config.clone(), service, super::harness::uuids(1)).unwrap();
    let metrics = Arc::clone(world.log.metrics());
    world.store = Arc::new(crate::Store::new(faulty.clone(), "", "test:", config.store_limits, metrics, 1));
    world.partition = world.log.partition(Arc::clone(&world.store), "topic", super::harness::tp());
    {
        let mut distance = faulty.distance.lock();
        (distance.first_byte, distance.bytes_per_second) = (std::time::Duration::from_millis(50), 90_000_000);
    }
    (faulty, world)
}

#[tokio::test(start_paused = true)]
async fn a_sequential_reader_of_a_distant_store_is_kept_busy() {
    let (_, world) = distant(256 << 20);
    world.partition.open(&LEADER, 0, 0).await.unwrap();
    let segments: Vec<_> = (0..4).map(|number| segment(number * 1000, 100, 80_000, 5)).collect();
    world.partition.copy(&LEADER, &segments, 1).await.unwrap();
    let first = consume(&world.partition, 0, 1500, 1 << 20).await.len();
    let began = tokio::time::Instant::now();
    let rest = consume(&world.partition, 1500, 4000, 1 << 20).await.len();
    let rate = rest as f64 / began.elapsed().as_secs_f64();
    assert!(rate >= 450e6, "{:.0} MB/s", rate / 1e6);
    let fetched = world.log.metrics().store_chunk_bytes.get() as f64 / (first + rest) as f64;
    assert!(fetched <= 1.1, "{fetched:.2} bytes fetched for each one served");
}

#[tokio::test(start_paused = true)]
async fn fifty_cold_readers_stay_within_the_memory_budget() {
    let (faulty, world) = distant(8 * CHUNK_BYTES);
    world.partition.open(&LEADER, 0, 0).await.unwrap();
    let segments: Vec<_> = (0..50).map(|number| segment(number * 100, 10, 10_000, 5)).collect();
    world.partition.copy(&LEADER, &segments, 1).await.unwrap();
    world.partition.tail(DEADLINE).await.unwrap();
    let world = Arc::new(world);
    // Sidecars first, so that only chunks are counted.
    for number in 0..50 {
        world.partition.read(number * 100, 1, true, std::time::Duration::from_millis(60)).await.ok();
    }
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    for number in 0..50 {
        world.log.chunks.discard(crate::chunks::ChunkId { segment: uuid_of(&world, number).await, number: 0 });
    }
    faulty.distance.lock().most_under_way = 0;
    let readers: Vec<_> = (0..50)
        .map(|number| {
            let world = Arc::clone(&world);
            tokio::spawn(async move { consume(&world.partition, number * 100, number * 100 + 100, 64 << 10).await })
        })
        .collect();
    for reader in readers {
        assert!(!reader.await.unwrap().is_empty());
    }
    let most = faulty.distance.lock().most_under_way;
    assert!((2..=8).contains(&most), "{most} chunks were under way at once");
}

/// Of the segment with this number.
async fn uuid_of(world: &World, number: i64) -> uuid::Uuid {
    let keys = world.keys().await;
    let stem = format!("/{:020}-", number * 100);
    let key = keys.iter().find(|key| key.contains(&stem) && key.ends_with(".log")).unwrap();
    crate::Key::parse(key.rsplit_once('/').unwrap().1).unwrap().uuid()
}
