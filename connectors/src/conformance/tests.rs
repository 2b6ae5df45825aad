//! The suite over the built-in sinks, and over sinks that do not conform.

use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tempfile::TempDir;

use super::*;
use crate::sinks::built_in;

struct BuiltIn {
    class: &'static str,
    settings: crate::config::Settings,
    directory: TempDir,
}

fn spool(directory: &Path) -> PathBuf {
    let spool = directory.join("spool");
    std::fs::create_dir_all(&spool).unwrap();
    spool
}

impl BuiltIn {
    fn new(class: &'static str, more: impl Fn(&Path) -> Vec<(&'static str, String)>) -> BuiltIn {
        let directory = tempfile::tempdir().unwrap();
        let settings = more(directory.path()).into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        BuiltIn { class, settings, directory }
    }

    fn lines(&self) -> Vec<Seen> {
        let bytes = std::fs::read(self.directory.path().join("out")).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let known = |line: &str| {
            let (partition, offset) = tagged(line)?;
            Some(Seen { partition, offset, length: i64::try_from(line.len()).ok() })
        };
        text.lines().filter_map(known).collect()
    }

    fn parquet(&self) -> Vec<Seen> {
        let mut seen = Vec::new();
        let mut open = vec![self.directory.path().join("topics").join(TOPIC)];
        while let Some(folder) = open.pop() {
            for path in std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()) {
                if path.is_dir() {
                    open.push(path);
                    continue;
                }
                let file = std::fs::File::open(path).unwrap();
                for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
                    let batch = batch.unwrap();
                    let column = |name: &str| batch.column_by_name(name).unwrap().clone();
                    let (partitions, offsets, values) = (column("partition"), column("offset"), column("value"));
                    let values = values.as_binary::<i32>();
                    seen.extend((0..batch.num_rows()).map(|row| Seen {
                        partition: partitions.as_primitive::<Int32Type>().value(row),
                        offset: offsets.as_primitive::<Int64Type>().value(row),
                        length: Some(if values.is_null(row) { -1 } else { i64::from(values.value_length(row)) }),
                    }));
                }
            }
        }
        seen
    }
}

#[async_trait]
impl Subject for BuiltIn {
    fn sink(&self) -> Result<Box<dyn Sink>, SinkError> {
        sink_of(built_in().find(self.class).unwrap(), &self.settings, &spool(self.directory.path()))
    }

    async fn seen(&self) -> Result<Vec<Seen>, String> {
        Ok(if self.class == "file" { self.lines() } else { self.parquet() })
    }

    fn exactly_once(&self) -> bool {
        self.class == "object-store"
    }

    fn sees_all(&self) -> bool {
        self.class == "object-store"
    }
}

fn file() -> Box<dyn Subject> {
    Box::new(BuiltIn::new("file", |dir| vec![("file", dir.join("out").display().to_string())]))
}

fn object_store() -> Box<dyn Subject> {
    Box::new(BuiltIn::new("object-store", |dir| {
        vec![
            ("store.url", format!("file://{}", dir.display())),
            ("flush.size", "20".to_owned()),
            ("format.output.fields", "key,value,headers,timestamp,offset,partition".to_owned()),
        ]
    }))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_sink_conforms() {
    assert_eq!(check(file).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_object_store_sink_conforms() {
    assert_eq!(check(object_store).await, Vec::<String>::new());
}

/// Names everything as durable that it was ever given, and puts it nowhere.
#[derive(Default)]
struct Liar(Offsets);

#[async_trait]
impl Sink for Liar {
    async fn open(&mut self, _: &[Assigned]) -> Result<Offsets, SinkError> {
        Ok(Offsets::new())
    }

    async fn write(&mut self, rows: Rows) -> Result<(), SinkError> {
        self.0.insert(rows.partition, rows.next_offset);
        Ok(())
    }

    async fn flush(&mut self, _: i64, _: bool) -> Result<Offsets, SinkError> {
        Ok(self.0.clone())
    }

    async fn close(&mut self, _: &[TopicPartition]) {}
}

struct Nowhere;

#[async_trait]
impl Subject for Nowhere {
    fn sink(&self) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(Liar::default()))
    }

    async fn seen(&self) -> Result<Vec<Seen>, String> {
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn a_sink_that_lies_does_not_conform() {
    let faults = check(|| Box::new(Nowhere)).await;
    assert!(faults.len() >= 8, "{faults:#?}");
    assert!(faults.iter().any(|f| f.contains("named as durable and are not there")), "{faults:#?}");
    assert!(faults.iter().any(|f| f.contains("given back")), "{faults:#?}");
}
