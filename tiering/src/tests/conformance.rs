//! What every store must do, whatever its scheme: one suite, run over each kind that is there.
//!
//! Directory, memory and S3 (a server in this process) are always there. Real servers are named by the environment:
//! `STRANDLINE_TEST_S3_URL` with `AWS_*`, `STRANDLINE_TEST_HDFS_URL`. One that is not named is said to be skipped.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use uuid::Uuid;

use super::harness::{LEADER, World, consume, limits, segment};
use crate::encoding::hash;
use crate::faulty::{Fault, FaultyStore};
use crate::metrics::Metrics;
use crate::sidecar::CHUNK_BYTES;
use crate::store::{Store, StoreError, StoreLimits, StoreOptions};

fn open(url: &str, options: &[(&str, &str)]) -> Store {
    let options: StoreOptions = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Store::open(url, &options, StoreLimits::default(), Arc::new(Metrics::default()), 1).unwrap()
}

fn pattern(bytes: usize, seed: u8) -> Bytes {
    (0..bytes).map(|i| (i.wrapping_mul(131) >> 3) as u8 ^ seed).collect()
}

/// All of it, below a folder of its own; leaves nothing behind.
async fn conform(store: &Store, folder: &str) {
    puts_and_gets(store, folder).await;
    creates(store, folder).await;
    multipart(store, folder).await;
    lists_and_deletes(store, folder).await;
    probed(store, folder).await;
}

/// What is created stays as it is, whoever comes later.
async fn creates(store: &Store, folder: &str) {
    let key = format!("{folder}/year=2026/t+0+0000000000.json");
    assert!(store.create(&key, pattern(5_000, 1)).await.unwrap());
    assert!(!store.create(&key, pattern(70, 2)).await.unwrap(), "the key is taken");
    assert_eq!(store.get(&key, 1 << 20).await.unwrap(), pattern(5_000, 1));
    store.delete(&key).await.unwrap();
    assert!(store.create(&key, pattern(70, 2)).await.unwrap(), "the key is free again");
    store.delete(&key).await.unwrap();
}

/// Clocks of this machine and of a store on it agree; one that is an hour ahead is told so.
async fn probed(store: &Store, folder: &str) {
    let report = store.probe(Uuid::from_u128(3), &wall_clock_ms).await;
    assert!(report.passed(), "{report:?}");
    let names: Vec<_> = report.steps.iter().map(|step| step.name).collect();
    let expected = [
        "credentials",
        "put",
        "create-only put",
        "overwrite",
        "multipart",
        "ranged get",
        "list",
        "latency",
        "clock skew",
        "delete",
    ];
    assert_eq!(names, expected);
    assert!(report.latency.is_some_and(|latency| latency.median <= latency.worst), "{report:?}");
    assert!(report.clock_skew_ms.is_some_and(|skew| skew.abs() <= 1_000), "{report:?}");
    let ahead = store.probe(Uuid::from_u128(4), &|| wall_clock_ms() + 3_600_000).await;
    let step = ahead.steps.iter().find(|step| step.name == "clock skew").unwrap();
    assert!(step.error.is_none() && step.note.as_ref().is_some_and(|note| note.contains("NTP")), "{step:?}");
    let left = store.list_matching("probe", 100, |_| true).await.unwrap();
    assert!(left.is_empty(), "{folder}: {left:?}");
}

#[expect(clippy::disallowed_methods, reason = "it is compared with a store's clock")]
fn wall_clock_ms() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64
}

async fn puts_and_gets(store: &Store, folder: &str) {
    let key = format!("{folder}/1/a-key");
    let missing = store.get(&key, 100).await;
    assert!(matches!(&missing, Err(StoreError::NotFound { key: named }) if *named == key), "{missing:?}");
    let missing = store.get_range(&key, 0..10).await;
    assert!(matches!(missing, Err(StoreError::NotFound { .. })), "{missing:?}");
    let missing = store.check_len(&key, 0).await;
    assert!(matches!(missing, Err(StoreError::NotFound { .. })), "{missing:?}");

    let bytes = pattern(100_000, 1);
    store.put(&key, bytes.clone()).await.unwrap();
    store.put(&key, bytes.clone()).await.expect("the same put again writes the same bytes");
    assert_eq!(store.get(&key, 100_000).await.unwrap(), bytes);
    store.check_len(&key, 100_000).await.unwrap();
    let wrong = store.check_len(&key, 99_999).await;
    assert!(matches!(wrong, Err(StoreError::WrongLength { found: 100_000, .. })), "{wrong:?}");
    let large = store.get(&key, 99_999).await;
    assert!(matches!(large, Err(StoreError::WrongLength { .. })), "{large:?}");

    let buffers = Arc::default();
    for range in [0..1, 0..100_000, 99_999..100_000, 12_345..67_890] {
        let expected = bytes.slice(range.start as usize..range.end as usize);
        assert_eq!(store.get_range(&key, range.clone()).await.unwrap(), expected, "{range:?}");
        let hashed = store.get_range_hashed(&key, range.clone(), &buffers).await.unwrap();
        assert_eq!(hashed, (expected.clone(), hash(&expected)), "{range:?}");
    }
    let beyond = store.get_range(&key, 99_000..101_000).await;
    assert!(beyond.is_err(), "a range that is not there whole is an error: {beyond:?}");
    let beyond = store.get_range_hashed(&key, 99_000..101_000, &buffers).await;
    assert!(beyond.is_err(), "nor with its hash: {beyond:?}");
    let empty = format!("{folder}/1/empty");
    store.put(&empty, Bytes::new()).await.unwrap();
    assert!(store.get(&empty, 0).await.unwrap().is_empty());
}

async fn multipart(store: &Store, folder: &str) {
    let key = format!("{folder}/2/parts");
    let sizes = [CHUNK_BYTES, CHUNK_BYTES, CHUNK_BYTES, 12_345];
    let mut upload = store.begin_multipart(&key).await.unwrap();
    let mut whole = Vec::new();
    let mut parts = Vec::new();
    for (number, size) in sizes.iter().enumerate() {
        let bytes = pattern(*size as usize, number as u8);
        whole.extend_from_slice(&bytes);
        parts.push(upload.put_part(bytes.into()));
    }
    // All at once, as a copy sends them.
    futures_util::future::try_join_all(parts).await.unwrap();
    let early = store.get(&key, u64::MAX).await;
    assert!(matches!(early, Err(StoreError::NotFound { .. })), "an object shows only when it is complete");
    upload.complete().await.unwrap();
    store.check_len(&key, whole.len() as u64).await.unwrap();
    let seam = 2 * CHUNK_BYTES - 1000..2 * CHUNK_BYTES + 1000;
    assert_eq!(store.get_range(&key, seam.clone()).await.unwrap(), whole[seam.start as usize..seam.end as usize]);
    let buffers = Arc::default();
    for number in [1, 0, 2] {
        let range = number * CHUNK_BYTES..(number + 1) * CHUNK_BYTES;
        let expected = &whole[range.start as usize..range.end as usize];
        let (bytes, hashed) = store.get_range_hashed(&key, range, &buffers).await.unwrap();
        assert!(bytes == expected && hashed == hash(expected), "chunk {number}, in the buffer of the one before");
    }
    assert_eq!(store.get(&key, u64::MAX).await.unwrap(), whole);
    store.delete(&key).await.unwrap();

    let given_up = format!("{folder}/2/given-up");
    let mut upload = store.begin_multipart(&given_up).await.unwrap();
    upload.put_part(pattern(CHUNK_BYTES as usize, 9).into()).await.unwrap();
    upload.abort().await.unwrap();
    let nothing = store.get(&given_up, u64::MAX).await;
    assert!(matches!(nothing, Err(StoreError::NotFound { .. })), "{nothing:?}");
}

async fn lists_and_deletes(store: &Store, folder: &str) {
    // More than one page of S3's, which is 1,000 keys.
    let keys: Vec<String> = (0..1050).map(|number| format!("{folder}/3/sub-{}/{number:05}", number % 7)).collect();
    let puts: Vec<_> = keys.iter().map(|key| store.put(key, Bytes::from_static(b"x"))).collect();
    futures_util::StreamExt::collect::<Vec<_>>(futures_util::StreamExt::buffer_unordered(
        futures_util::stream::iter(puts),
        8,
    ))
    .await
    .into_iter()
    .for_each(Result::unwrap);
    let beside = format!("{folder}/33/not-below");
    store.put(&beside, Bytes::from_static(b"y")).await.unwrap();
    let below = format!("{folder}/3");
    let mut listed: Vec<String> =
        store.list_matching(&below, 10_000, |_| true).await.unwrap().into_iter().map(|object| object.key).collect();
    listed.sort();
    let mut expected = keys.clone();
    expected.sort();
    assert_eq!(listed, expected, "exactly what is below the folder");
    assert_eq!(store.list_matching(&below, 10, |_| true).await.unwrap().len(), 10);
    let one = store.list_matching(&below, 10, |key| key.ends_with("/01049")).await.unwrap();
    assert_eq!((one.len(), one[0].size_bytes), (1, 1));
    assert!(store.list_matching(&format!("{folder}/no-such"), 10, |_| true).await.unwrap().is_empty());

    store.delete_each(keys.clone()).await.unwrap();
    assert!(store.list_matching(&below, 10, |_| true).await.unwrap().is_empty());
    store.delete(&keys[0]).await.expect("deleted twice");
    let all: Vec<String> =
        store.list_matching(folder, 10_000, |_| true).await.unwrap().into_iter().map(|object| object.key).collect();
    assert!(all.contains(&beside));
    store.delete_each(all).await.unwrap();
    assert!(store.list_matching(folder, 10, |_| true).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_conforms() {
    let dir = tempfile::tempdir().unwrap();
    conform(&open(&format!("file://{}/a bucket", dir.path().display()), &[]), "cluster").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_conforms() {
    conform(&open("memory:///below/this", &[]), "cluster").await;
}

/// An S3 server on a free port of this machine; it ends with its runtime.
async fn s3_server(directory: &std::path::Path) -> String {
    std::fs::create_dir_all(directory.join("bucket")).unwrap();
    let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(directory).unwrap());
    service.set_auth(SimpleAuth::from_single("key", "secret"));
    let service = service.build();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            let (builder, service) = (Builder::new(TokioExecutor::new()), service.clone());
            tokio::spawn(async move { builder.serve_connection(TokioIo::new(stream), service).await.map_err(drop) });
        }
    });
    endpoint
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = s3_server(dir.path()).await;
    let secret = |secret| {
        [
            ("aws_access_key_id", "key"),
            ("aws_secret_access_key", secret),
            ("aws_endpoint", &*endpoint),
            ("aws_allow_http", "true"),
        ]
    };
    conform(&open("s3://bucket/a/prefix", &secret("secret")), "cluster").await;
    let denied = open("s3://bucket", &secret("wrong")).put("k", Bytes::from_static(b"x")).await;
    assert!(matches!(denied, Err(StoreError::Denied { .. })), "{denied:?}");
    // The check stops at the first call, and names the key.
    let refused = open("s3://bucket", &secret("wrong")).probe(Uuid::from_u128(5), &wall_clock_ms).await;
    let words = |report: &crate::ProbeReport| report.steps.iter().filter_map(|s| s.error.clone()).collect::<String>();
    assert_eq!(refused.steps.len(), 1, "{refused:?}");
    assert!(words(&refused).contains("tier.secret.access.key"), "{refused:?}");
}

/// Says so, where whoever runs the tests sees it.
fn skipped(what: &str, variable: &str) {
    // Not by `eprintln`, which the test harness hides when a test passes.
    writeln!(std::io::stderr(), "SKIPPED: {what} is not tested, because {variable} names no server").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_s3_server_conforms() {
    let Ok(url) = std::env::var("STRANDLINE_TEST_S3_URL") else {
        return skipped("a real S3 server", "STRANDLINE_TEST_S3_URL");
    };
    conform(&open(&url, &[]), &format!("conformance-{}", Uuid::new_v4().simple())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_hdfs_conforms() {
    let Ok(url) = std::env::var("STRANDLINE_TEST_HDFS_URL") else {
        return skipped("HDFS", "STRANDLINE_TEST_HDFS_URL");
    };
    conform(&open(&url, &[]), &format!("conformance-{}", Uuid::new_v4().simple())).await;
}

#[tokio::test(start_paused = true)]
async fn every_call_to_a_store_that_hangs_ends_by_its_deadline() {
    let faulty = FaultyStore::new(Arc::new(object_store::memory::InMemory::new()), 1);
    faulty.only(Fault::Hangs, 100);
    let limits = limits();
    let store = Store::new(faulty.clone(), "", "test:", limits, Arc::new(Metrics::default()), 1);
    let began = tokio::time::Instant::now();
    let timed_out = |error: StoreError| assert!(matches!(error, StoreError::TimedOut { .. }), "{error}");
    timed_out(store.put("k", Bytes::from_static(b"x")).await.unwrap_err());
    timed_out(store.get("k", 10).await.unwrap_err());
    timed_out(store.get_range("k", 0..1).await.unwrap_err());
    timed_out(store.get_range_hashed("k", 0..1, &Arc::default()).await.unwrap_err());
    timed_out(store.check_len("k", 1).await.unwrap_err());
    timed_out(store.delete("k").await.unwrap_err());
    timed_out(store.begin_multipart("k").await.unwrap_err());
    // A list of many pages may be long, a page of it may not.
    let silent = store.list_matching("k", 10, |_| true).await.unwrap_err();
    assert!(matches!(silent, StoreError::Failed { .. }) && silent.retryable(), "{silent}");
    let small = (limits.deadline + limits.deadline_per_mib + limits.backoff_max) * limits.tries;
    assert!(began.elapsed() <= small * 8, "{:?}", began.elapsed());
}

/// A body that ends early is no answer, whatever the connection says of it.
#[tokio::test(start_paused = true)]
async fn half_of_an_object_is_not_taken_for_it() {
    let faulty = FaultyStore::new(Arc::new(object_store::memory::InMemory::new()), 1);
    let store = Store::new(faulty.clone(), "", "test:", limits(), Arc::new(Metrics::default()), 1);
    store.put("k", Bytes::from(vec![7; 1_000])).await.unwrap();
    faulty.only(Fault::Truncated, 100);
    let hashed = store.get_range_hashed("k", 0..1_000, &Arc::default()).await.map(|(bytes, _)| bytes);
    for read in [store.get("k", 2_000).await, store.get_range("k", 0..1_000).await, hashed] {
        let error = read.unwrap_err();
        assert!(matches!(error, StoreError::Failed { .. }) && error.retryable(), "{error}");
    }
    faulty.only(Fault::Truncated, 0);
    assert_eq!(store.get("k", 2_000).await.unwrap().len(), 1_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_files_of_deposed_writers_are_collected_and_a_deleted_topic_leaves_none() {
    let world = World::over_files();
    world.partition.open(&LEADER, 0, 0).await.unwrap();
    world.partition.copy(&LEADER, &[segment(0, 10, 100, 5)], 1).await.unwrap();
    let bucket = world.dir.path().join("bucket");
    let folder = bucket.join(world.keys().await[0].rsplit_once('/').unwrap().0);
    let old = folder.join(format!("00000000000000000100-4-{}.log#1", Uuid::from_u128(1).simple()));
    let own = folder.join(format!("00000000000000000100-5-{}.log#1", Uuid::from_u128(2).simple()));
    let strange = folder.join("notes#1");
    for file in [&old, &own, &strange] {
        std::fs::File::create(file).unwrap();
    }
    assert_eq!(world.partition.collect(&LEADER).await.unwrap(), 1);
    assert!(!old.exists() && own.exists() && strange.exists(), "only what a deposed leader left");
    consume(&world.partition, 0, 100, 1000).await;
    world.partition.delete_all().await.unwrap();
    assert!(world.keys().await.is_empty());
    assert!(!own.exists() && !strange.exists());
}
