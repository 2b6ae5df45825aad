//! The sink over a directory and over a store in this process, whole and interrupted: every record in one file, whoever comes when.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;
use strandline_protocol::compression::Compression;
use strandline_protocol::record_batch::{BatchHeader, RecordBatchBuilder, batches};
use strandline_tiering::{FAULTS, FaultyStore, Metrics, Store, StoreLimits};

use super::archive::Archive;
use super::keys::Config;
use super::plan::Plan;
use crate::config::Settings;
use crate::rows::{Rows, decode};
use crate::sink::{Assigned, Sink, SinkError, TopicPartition};

fn settings(directory: &std::path::Path, more: &[(&str, &str)]) -> Settings {
    let url = format!("file://{}", directory.display());
    let base = [("store.url", url.as_str()), ("flush.size", "10"), ("rotate.schedule.interval.ms", "-1")];
    base.iter().chain(more).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn store(directory: &std::path::Path) -> Arc<Store> {
    let url = format!("file://{}", directory.display());
    Arc::new(Store::open(&url, &BTreeMap::new(), StoreLimits::default(), Arc::new(Metrics::default()), 1).unwrap())
}

fn archive(directory: &std::path::Path, more: &[(&str, &str)], memory: u64) -> Archive {
    let config = Config::parse(&settings(directory, more)).unwrap();
    let spool = directory.join("spool");
    std::fs::create_dir_all(&spool).unwrap();
    Archive::new(config, store(directory), spool, memory)
}

fn partition() -> TopicPartition {
    TopicPartition::new("orders", 3)
}

/// Records `from..to` of a log whose record n has the value `value n` and the timestamp 1000 n.
fn log(from: i64, to: i64) -> Rows {
    let mut builder = RecordBatchBuilder::new(Compression::None);
    for n in 0..to {
        builder.append(n * 1_000, Some(b"key"), Some(format!("value {n}").as_bytes()), &[]);
    }
    let bytes = builder.build();
    let whole: Vec<(BatchHeader, Bytes)> =
        batches(&bytes).map(|b| b.map(|(h, b)| (h, bytes.slice_ref(b))).unwrap()).collect();
    decode(&partition(), &whole, from).unwrap()
}

async fn open(sink: &mut Archive, committed: Option<i64>) -> i64 {
    let starts = sink.open(&[Assigned { partition: partition(), committed }]).await.unwrap();
    starts.get(&partition()).copied().or(committed).unwrap_or(0)
}

fn files(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![directory.join("topics/orders")];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() { open.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found.sort();
    found
}

/// Offsets and values in Parquet files, in the order of the offsets.
fn rows_of(files: impl IntoIterator<Item = Bytes>) -> Vec<(i64, String)> {
    let mut rows = Vec::new();
    for file in files {
        for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
            let batch: RecordBatch = batch.unwrap();
            let offsets = batch.column_by_name("offset").unwrap().as_primitive::<Int64Type>();
            let values = batch.column_by_name("value").unwrap().as_binary::<i32>();
            rows.extend(
                (0..batch.num_rows())
                    .map(|row| (offsets.value(row), String::from_utf8(values.value(row).to_vec()).unwrap())),
            );
        }
    }
    rows.sort();
    rows
}

fn archived(directory: &std::path::Path) -> Vec<(i64, String)> {
    rows_of(files(directory).into_iter().map(|file| Bytes::from(std::fs::read(file).unwrap())))
}

fn expected(count: i64) -> Vec<(i64, String)> {
    (0..count).map(|n| (n, format!("value {n}"))).collect()
}

#[tokio::test]
async fn records_are_in_files_of_the_asked_size_with_the_usual_names() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = archive(dir.path(), &[], 1 << 30);
    assert_eq!(open(&mut sink, None).await, 0);
    sink.write(log(0, 25)).await.unwrap();
    assert_eq!(sink.flush(0, false).await.unwrap()[&partition()], 20, "the last five wait for more");
    assert_eq!(archived(dir.path()), expected(20));
    let names: Vec<String> =
        files(dir.path()).iter().map(|f| f.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(names, ["orders+3+0000000000.snappy.parquet", "orders+3+0000000010.snappy.parquet"]);
    assert_eq!(sink.flush(0, true).await.unwrap()[&partition()], 25);
    assert_eq!(archived(dir.path()), expected(25));
}

#[tokio::test]
async fn the_next_task_goes_on_where_the_files_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = archive(dir.path(), &[], 1 << 30);
    open(&mut first, None).await;
    first.write(log(0, 25)).await.unwrap();
    drop(first);
    let mut next = archive(dir.path(), &[("flush.size", "4")], 1 << 30);
    // The group knows less than the store.
    assert_eq!(open(&mut next, Some(10)).await, 20);
    next.write(log(20, 29)).await.unwrap();
    next.flush(0, true).await.unwrap();
    assert_eq!(archived(dir.path()), expected(29));
    // From the beginning again: there is nothing left to do.
    let mut again = archive(dir.path(), &[], 1 << 30);
    assert_eq!(open(&mut again, Some(0)).await, 29);
}

#[tokio::test]
async fn a_zombie_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut zombie, mut owner) =
        (archive(dir.path(), &[("flush.size", "7")], 1 << 30), archive(dir.path(), &[], 1 << 30));
    open(&mut zombie, None).await;
    zombie.write(log(0, 5)).await.unwrap();
    open(&mut owner, None).await;
    owner.write(log(0, 25)).await.unwrap();
    let error = zombie.write(log(5, 25)).await.unwrap_err();
    assert!(matches!(error, SinkError::Reopen(_)), "{error}");
    assert_eq!(open(&mut zombie, None).await, 20);
    zombie.write(log(20, 27)).await.unwrap();
    let error = owner.flush(0, true).await.unwrap_err();
    assert!(matches!(error, SinkError::Reopen(_)), "now the other one is the zombie: {error}");
    assert_eq!(archived(dir.path()), expected(27));
}

#[tokio::test]
async fn a_plan_without_all_of_its_files_is_carried_out_first() {
    let dir = tempfile::tempdir().unwrap();
    let more = [("partitioner.class", "timebased"), ("path.format", "ss")];
    let mut first = archive(dir.path(), &more, 1 << 30);
    open(&mut first, None).await;
    first.write(log(0, 20)).await.unwrap();
    assert_eq!(files(dir.path()).len(), 20, "a folder for each second");
    drop(first);
    std::fs::remove_file(&files(dir.path())[13]).unwrap();
    std::fs::remove_file(&files(dir.path())[15]).unwrap();
    // With another configuration: what was planned stays as it was planned.
    let mut next = archive(dir.path(), &[("flush.size", "3")], 1 << 30);
    assert_eq!(open(&mut next, None).await, 10, "the last plan is done again");
    next.write(log(10, 23)).await.unwrap();
    assert_eq!(archived(dir.path()), expected(23));
    assert_eq!(files(dir.path()).len(), 21);
}

#[tokio::test]
async fn a_file_of_another_program_is_never_replaced() {
    for other in ["short", "longer than the file that would have this name, and so not read to its end"] {
        let dir = tempfile::tempdir().unwrap();
        let taken = dir.path().join("topics/orders/partition=3/orders+3+0000000000.bin");
        std::fs::create_dir_all(taken.parent().unwrap()).unwrap();
        std::io::Write::write_all(&mut std::fs::File::create(&taken).unwrap(), other.as_bytes()).unwrap();
        let mut sink = archive(dir.path(), &[("format.class", "raw"), ("flush.size", "2")], 1 << 30);
        open(&mut sink, None).await;
        let error = sink.write(log(0, 2)).await.unwrap_err();
        assert!(matches!(&error, SinkError::Fatal(text) if text.contains("move it away")), "{error:?}");
        assert_eq!(std::fs::read_to_string(&taken).unwrap(), other);
    }
}

#[tokio::test]
async fn rows_beyond_the_memory_wait_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = archive(dir.path(), &[("flush.size", "1000")], 2_000);
    open(&mut sink, None).await;
    for from in (0..500).step_by(20) {
        sink.write(log(from, from + 20)).await.unwrap();
        assert!(sink.held().memory_bytes <= 1_000, "{:?}", sink.held());
    }
    assert!(sink.held().spool_bytes > 0);
    sink.flush(0, true).await.unwrap();
    assert_eq!(sink.held().spool_bytes, 0);
    assert_eq!(archived(dir.path()), expected(500));
    assert_eq!(files(dir.path()).len(), 1);
}

#[tokio::test]
async fn the_clock_completes_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = archive(dir.path(), &[("rotate.schedule.interval.ms", "60000")], 1 << 30);
    open(&mut sink, None).await;
    sink.flush(30_000, false).await.unwrap();
    sink.write(log(0, 3)).await.unwrap();
    assert!(sink.flush(59_999, false).await.unwrap().is_empty(), "nothing is durable yet");
    assert_eq!(sink.flush(60_000, false).await.unwrap()[&partition()], 3);
    assert_eq!(archived(dir.path()), expected(3));
}

#[tokio::test]
async fn every_format_and_codec_is_written() {
    for format in ["parquet", "json", "raw"] {
        for codec in ["none", "gzip", "snappy", "zstd", "lz4"] {
            let dir = tempfile::tempdir().unwrap();
            let more = [("format.class", format), ("file.compression.type", codec)];
            let mut sink = archive(dir.path(), &more, 1 << 30);
            open(&mut sink, None).await;
            sink.write(log(0, 10)).await.unwrap();
            assert_eq!(files(dir.path()).len(), 1, "{format} {codec}");
            if (format, codec) == ("json", "none") {
                let text = std::fs::read_to_string(&files(dir.path())[0]).unwrap();
                let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
                assert_eq!(first["offset"], 0);
                assert_eq!(first["value"], "dmFsdWUgMA==", "bytes as base64");
                assert_eq!(text.lines().count(), 10);
            }
            if (format, codec) == ("raw", "none") {
                let text = std::fs::read_to_string(&files(dir.path())[0]).unwrap();
                assert!(text.starts_with("value 0\nvalue 1\n"), "{text}");
            }
        }
    }
}

#[test]
fn the_golden_plan_is_read_and_written_as_it_was() {
    let golden = include_bytes!("golden/plan-v1.json");
    let key = Plan::key("topics", "orders", 3, 10);
    let plan = Plan::decode(&key, golden).unwrap();
    assert_eq!((plan.start, plan.end, plan.files.len()), (10, 20, 1));
    assert_eq!(String::from_utf8(plan.encode()).unwrap(), String::from_utf8(golden.to_vec()).unwrap());
    let newer = String::from_utf8(golden.to_vec()).unwrap().replace("\"version\": 1", "\"version\": 2");
    assert!(Plan::decode(&key, newer.as_bytes()).unwrap_err().to_string().contains("newer release"));
    assert!(Plan::decode(&Plan::key("topics", "orders", 3, 11), golden).is_err(), "a plan at another's key");
}

/// What happens next in a random history of two tasks over one partition and a store with faults.
#[derive(Debug, Clone)]
enum Step {
    Write {
        task: usize,
        records: i64,
    },
    Flush {
        task: usize,
        force: bool,
    },
    Crash {
        task: usize,
    },
    /// So many of a hundred calls go wrong from now on.
    Faults {
        percent: u64,
        kind: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let task = 0..2_usize;
    let one = prop_oneof![
        6 => (task.clone(), 1..15_i64).prop_map(|(task, records)| Step::Write { task, records }),
        2 => (task.clone(), any::<bool>()).prop_map(|(task, force)| Step::Flush { task, force }),
        1 => task.prop_map(|task| Step::Crash { task }),
        2 => (0..60_u64, 0..FAULTS.len()).prop_map(|(percent, kind)| Step::Faults { percent, kind }),
    ];
    proptest::collection::vec(one, 1..40)
}

const LOG: i64 = 120;
/// Of one call.
const TRIES: usize = 3;

/// Two tasks that both believe that the partition is theirs, crashes, and a store that fails before, after, late and in the middle: in the
/// end every record is in the files once.
async fn history(steps: Vec<Step>, seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let faulty = FaultyStore::in_memory(seed);
    let limits = StoreLimits { tries: 1, deadline: std::time::Duration::from_millis(200), ..StoreLimits::default() };
    let store = Arc::new(Store::new(faulty.clone(), "", "faulty", limits, Arc::new(Metrics::default()), seed));
    let make = |flush: usize| {
        let flush = flush.to_string();
        let settings = settings(dir.path(), &[("flush.size", &flush)]);
        Archive::new(Config::parse(&settings).unwrap(), store.clone(), dir.path().join("spool"), 1 << 30)
    };
    let (mut sinks, mut positions) = ([make(10), make(7)], [None::<i64>, None]);
    for step in steps {
        match step {
            Step::Faults { percent, kind } => faulty.only(FAULTS[kind], percent),
            Step::Crash { task } => {
                sinks[task] = make(10 - 3 * task);
                positions[task] = None;
            }
            Step::Write { task, records } => {
                let at = match positions[task] {
                    Some(at) => at,
                    None => match sinks[task].open(&[Assigned { partition: partition(), committed: None }]).await {
                        Ok(starts) => starts.get(&partition()).copied().unwrap_or(0),
                        Err(_) => continue,
                    },
                };
                let to = (at + records).min(LOG);
                positions[task] = Some(at);
                if at < to {
                    let mut outcome = sinks[task].write(log(at, to)).await;
                    for _ in 0..TRIES {
                        // The same call again, as the runtime does it.
                        if matches!(outcome, Err(SinkError::Retriable(_))) {
                            outcome = sinks[task].write(log(at, to)).await;
                        }
                    }
                    match outcome {
                        Ok(()) => positions[task] = Some(to),
                        // The task begins anew, without knowing what was taken.
                        Err(SinkError::Retriable(_) | SinkError::Reopen(_)) => {
                            sinks[task] = make(10 - 3 * task);
                            positions[task] = None;
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            Step::Flush { task, force } => {
                if let Err(SinkError::Reopen(_)) = sinks[task].flush(0, force).await {
                    sinks[task] = make(10 - 3 * task);
                    positions[task] = None;
                }
            }
        }
    }
    faulty.all(0);
    // What is late has arrived by then.
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    let mut last = make(10);
    let at = last.open(&[Assigned { partition: partition(), committed: None }]).await.unwrap();
    let at = at.get(&partition()).copied().unwrap_or(0);
    if at < LOG {
        last.write(log(at, LOG)).await.unwrap();
    }
    last.flush(0, true).await.unwrap();
    let listed = store.list_matching("topics/orders", 10_000, |_| true).await.unwrap();
    let mut files = Vec::new();
    for object in listed {
        files.push(store.get(&object.key, 1 << 20).await.unwrap());
    }
    assert_eq!(rows_of(files), expected(LOG));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_every_record_is_archived_once(steps in steps(), seed in any::<u64>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(history(steps, seed));
    }
}
