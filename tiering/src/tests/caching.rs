//! Chunks in memory and in files: what a reader costs, who makes room for whom, disks that take nothing.

use std::sync::Arc;

use strandline_protocol::rope::Part;

use super::harness::{DEADLINE, LEADER, World, bytes_of, config, consume, segment, uuids};
use crate::sidecar::CHUNK_BYTES;

/// Segments of about 20 MB, three chunks each, read through `chunk_memory` chunks of memory.
async fn world(segments: i64, chunk_memory: u64) -> (World, u64) {
    let mut world = World::over_files();
    let mut config = config(&world.dir);
    config.chunk_memory_bytes = chunk_memory * CHUNK_BYTES;
    let service: Arc<dyn crate::PointerService> = world.controller.clone();
    world.log = crate::RemoteLog::start(config, service, uuids(1)).unwrap();
    world.partition = world.log.partition(Arc::clone(&world.store), "topic", super::harness::tp());
    world.partition.open(&LEADER, 0, 0).await.unwrap();
    let segments: Vec<_> = (0..segments).map(|number| segment(number * 2000, 200, 10_000, 5)).collect();
    let sent = segments.iter().map(|segment| segment.size_bytes).sum();
    world.partition.copy(&LEADER, &segments, 1).await.unwrap();
    (world, sent)
}

fn fetched(world: &World) -> u64 {
    world.log.metrics().store_chunk_bytes.get()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_in_order_is_served_from_memory_however_much_it_asks_for_at_once() {
    for max_bytes in [150 << 10, 1 << 20, 8 << 20, 50 << 20] {
        let (world, sent) = world(6, 32).await;
        let read = consume(&world.partition, 0, 12_000, max_bytes).await.len() as u64;
        let metrics = world.log.metrics();
        assert_eq!((read, fetched(&world)), (sent, sent), "{max_bytes} bytes a read");
        assert_eq!(metrics.chunk_files_written.get(), 0, "{max_bytes} bytes a read");
        assert!(metrics.chunks_released.get() >= 2, "18 chunks went by, a quarter of the memory keeps them");
    }
}

/// The smallest budgets: one chunk of demand, three of read-ahead.
#[tokio::test(flavor = "multi_thread")]
async fn little_memory_costs_files_and_no_second_fetch() {
    let (world, sent) = world(4, 4).await;
    consume(&world.partition, 0, 8000, 1 << 20).await;
    assert_eq!(fetched(&world), sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_a_second_time_is_worth_a_file_for_the_third() {
    let (world, sent) = world(4, 4).await;
    let first = consume(&world.partition, 0, 8000, 1 << 20).await;
    assert_eq!(consume(&world.partition, 0, 8000, 1 << 20).await, first);
    let twice = fetched(&world);
    assert!(twice <= 2 * sent);
    world.log.chunks.write_all().await;
    let metrics = world.log.metrics();
    assert!(metrics.chunk_files_written.get() >= 9, "{} files", metrics.chunk_files_written.get());
    assert_eq!(consume(&world.partition, 0, 8000, 1 << 20).await, first);
    assert_eq!(fetched(&world), twice);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_apart_share_what_the_first_of_them_fetched() {
    let (world, sent) = world(6, 8).await;
    let world = Arc::new(world);
    let readers: Vec<_> = (0..6)
        .map(|number| {
            let world = Arc::clone(&world);
            tokio::spawn(async move {
                let mut all = Vec::new();
                // They come one after the other and go on at different speeds.
                for step in 0..120 {
                    if step > 0 && number > 0 {
                        tokio::time::sleep(std::time::Duration::from_micros(300 * number)).await;
                    }
                    all.extend(consume(&world.partition, step * 100, step * 100 + 100, 1 << 20).await);
                }
                all.len() as u64
            })
        })
        .collect();
    for reader in readers {
        // The last read of each step went beyond it.
        assert!(reader.await.unwrap() >= sent);
    }
    let fetched = fetched(&world) as f64 / sent as f64;
    assert!(fetched <= 1.1, "each byte was fetched {fetched:.2} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_left_its_chunks_behind_makes_room_and_loses_none() {
    let (world, sent) = world(6, 4).await;
    // It leaves with chunks read ahead of it.
    consume(&world.partition, 0, 1000, 1 << 20).await;
    consume(&world.partition, 4000, 12_000, 1 << 20).await;
    consume(&world.partition, 1000, 4000, 1 << 20).await;
    let more = fetched(&world) - sent;
    assert!(more <= CHUNK_BYTES, "{more} bytes were fetched twice");
}

/// A client that takes nothing of its answers: memory for others is there all the same.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_takes_hold_back_no_other_reader() {
    let (world, sent) = world(4, 8).await;
    let mut held = Vec::new();
    for number in 0..12 {
        held.push(world.partition.read(number / 3 * 2000 + number % 3 * 800, 1 << 20, true, DEADLINE).await.unwrap());
    }
    let in_memory = held.iter().flat_map(|read| read.parts.parts()).filter(|part| matches!(part, Part::Bytes(_)));
    let in_memory = in_memory.count();
    assert!(in_memory < 12, "{in_memory} answers hold memory");
    assert_eq!(consume(&world.partition, 0, 8000, 1 << 20).await.len() as u64, sent);
    for read in &held {
        assert!(!bytes_of(&read.parts).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_file_can_be_written_memory_serves() {
    let (world, sent) = world(4, 4).await;
    let chunks = world.dir.path().join("chunks");
    std::fs::remove_dir_all(&chunks).unwrap();
    let read = consume(&world.partition, 0, 8000, 1 << 20).await;
    assert_eq!(read.len() as u64, sent);
    assert_eq!(world.log.metrics().chunk_files_written.get(), 0);
    assert!(!chunks.exists());
    // With memory enough nothing needs a file.
    let (world, sent) = self::world(4, 32).await;
    std::fs::remove_dir_all(world.dir.path().join("chunks")).unwrap();
    consume(&world.partition, 0, 8000, 1 << 20).await;
    assert_eq!(fetched(&world), sent);
}
