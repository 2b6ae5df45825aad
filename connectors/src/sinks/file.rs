//! `FileStreamSink`: values as lines at the end of one file, as Kafka Connect's example sink does.
//!
//! Owns an open file and at most [`BUFFER_BYTES`] of lines that are not in it yet; a thread of its own does the blocking calls. Does not
//! promise that a line is there once: after a crash, what was not committed is appended again. A failed sync ends the task: what is in
//! the file then is unknown. Several tasks may append to the same file: lines of one write stay together.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use arrow::array::{Array, AsArray};
use arrow::datatypes::DataType;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use tokio::sync::oneshot;

use crate::config::{Key, Settings, Type, Values};
use crate::registry::{SinkKind, TaskContext};
use crate::rows::{Rows, column};
use crate::sink::{Assigned, Held, Offsets, Sink, SinkError, TopicPartition};
use crate::url_policy::Destination;

/// Lines that are collected before they are written, bytes.
const BUFFER_BYTES: usize = 1 << 20;

const KEYS: [Key; 1] =
    [Key::required("file", Type::String, "Where the lines are appended: the path of a file on the worker's machine.")];

/// The kind.
pub struct FileStreamSink;

impl SinkKind for FileStreamSink {
    fn class(&self) -> &'static str {
        "org.apache.kafka.connect.file.FileStreamSinkConnector"
    }

    fn aliases(&self) -> &[&str] {
        &["FileStreamSink", "file"]
    }

    fn keys(&self) -> &[Key] {
        &KEYS
    }

    fn destinations(&self, settings: &Settings) -> Vec<(String, Destination)> {
        let path = settings.get("file").map(|path| path.trim()).filter(|path| !path.is_empty());
        path.map(|path| ("file".to_owned(), Destination::File(path.into()))).into_iter().collect()
    }

    fn create(&self, settings: &Settings, context: &TaskContext) -> Result<Box<dyn Sink>, SinkError> {
        let values = Values::check(&KEYS, settings).map_err(|faults| SinkError::Fatal(faults.join("\n")))?;
        let path = values.text("file").to_owned();
        let (jobs, inbox) = sync_channel(1);
        let name = format!("file-{}-{}", context.connector, context.task);
        let thread = std::thread::Builder::new().name(name).spawn({
            let path = path.clone();
            move || append_all(&path, &inbox)
        });
        thread.map_err(|e| SinkError::Fatal(format!("no thread for writing {path}: {e}")))?;
        Ok(Box::new(FileSink { path, jobs, buffer: Vec::new(), written: BTreeMap::new() }))
    }
}

struct Job {
    lines: Vec<u8>,
    sync: bool,
    done: oneshot::Sender<std::io::Result<()>>,
}

/// The thread: appends until the sink is dropped. The file is opened by the first job, so that its error has somebody to be told to.
fn append_all(path: &str, inbox: &Receiver<Job>) {
    let mut file: Option<File> = None;
    for job in inbox {
        let outcome = (|| {
            let open = match &mut file {
                Some(open) => open,
                none => none.insert(OpenOptions::new().create(true).append(true).open(path)?),
            };
            open.write_all(&job.lines)?;
            if job.sync { open.sync_data() } else { Ok(()) }
        })();
        // The sink may be gone.
        let _ = job.done.send(outcome);
    }
}

struct FileSink {
    path: String,
    jobs: SyncSender<Job>,
    buffer: Vec<u8>,
    written: Offsets,
}

impl FileSink {
    async fn append(&mut self, sync: bool) -> Result<(), SinkError> {
        let failed = |e: std::io::Error| {
            SinkError::Fatal(format!("{}: {e}; see that the worker may write there and that there is room", self.path))
        };
        let gone = || failed(std::io::Error::other("the writing thread has ended"));
        let (done, outcome) = oneshot::channel();
        let lines = std::mem::take(&mut self.buffer);
        self.jobs.try_send(Job { lines, sync, done }).map_err(|_| gone())?;
        outcome.await.map_err(|_| gone())?.map_err(failed)
    }
}

#[async_trait]
impl Sink for FileSink {
    async fn open(&mut self, _partitions: &[Assigned]) -> Result<Offsets, SinkError> {
        self.append(false).await?;
        Ok(Offsets::new())
    }

    async fn write(&mut self, rows: Rows) -> Result<(), SinkError> {
        for batch in &rows.groups {
            push_lines(&mut self.buffer, batch.column(column::VALUE))
                .map_err(|e| SinkError::Fatal(format!("values of {} cannot be shown: {e}", rows.partition)))?;
        }
        self.written.insert(rows.partition, rows.next_offset);
        if self.buffer.len() >= BUFFER_BYTES { self.append(false).await } else { Ok(()) }
    }

    async fn flush(&mut self, _now_ms: i64, _force: bool) -> Result<Offsets, SinkError> {
        if self.written.is_empty() {
            return Ok(Offsets::new());
        }
        self.append(true).await?;
        Ok(std::mem::take(&mut self.written))
    }

    async fn close(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.written.remove(partition);
        }
        if self.written.is_empty() {
            self.buffer.clear();
        }
    }

    fn held(&self) -> Held {
        Held { memory_bytes: self.buffer.len() as u64, spool_bytes: 0, open_files: 1 }
    }
}

fn push_lines(buffer: &mut Vec<u8>, values: &dyn Array) -> Result<(), arrow::error::ArrowError> {
    let mut line = |bytes: Option<&[u8]>| {
        buffer.extend_from_slice(bytes.unwrap_or(b"null"));
        buffer.push(b'\n');
    };
    match values.data_type() {
        DataType::BinaryView => values.as_binary_view().iter().for_each(line),
        DataType::Binary => values.as_binary::<i32>().iter().for_each(line),
        DataType::Utf8 => values.as_string::<i32>().iter().for_each(|text| line(text.map(str::as_bytes))),
        DataType::Utf8View => values.as_string_view().iter().for_each(|text| line(text.map(str::as_bytes))),
        _ => {
            let formatter = ArrayFormatter::try_new(values, &FormatOptions::default())?;
            for row in 0..values.len() {
                let text = (!values.is_null(row)).then(|| formatter.value(row).to_string());
                line(text.as_deref().map(str::as_bytes));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use strandline_protocol::compression::Compression;
    use strandline_protocol::record_batch::{RecordBatchBuilder, batches};

    use super::*;

    fn rows(values: &[Option<&str>], from: i64) -> Rows {
        let mut builder = RecordBatchBuilder::new(Compression::None);
        values.iter().for_each(|v| builder.append(1, None, v.map(str::as_bytes), &[]));
        let bytes = builder.build();
        let read: Vec<_> = batches(&bytes).map(|b| b.map(|(h, b)| (h, bytes.slice_ref(b))).unwrap()).collect();
        let mut rows = crate::rows::decode(&TopicPartition::new("t", 0), &read, 0).unwrap();
        rows.first_offset += from;
        rows.next_offset += from;
        let _: &Bytes = &bytes;
        rows
    }

    fn sink(path: &std::path::Path) -> Box<dyn Sink> {
        let settings = Settings::from([("file".to_owned(), path.display().to_string())]);
        let context = TaskContext {
            connector: "c".to_owned(),
            task: 0,
            spool: path.to_owned(),
            memory_bytes_max: 1 << 20,
            urls: std::sync::Arc::default(),
            secrets: crate::secrets::Secrets::default(),
        };
        FileStreamSink.create(&settings, &context).unwrap()
    }

    #[tokio::test]
    async fn values_are_lines_once_they_are_flushed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let mut sink = sink(&path);
        sink.open(&[]).await.unwrap();
        sink.write(rows(&[Some("one"), None], 0)).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
        let durable = sink.flush(0, false).await.unwrap();
        assert_eq!(durable, Offsets::from([(TopicPartition::new("t", 0), 2)]));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\nnull\n");
    }

    #[tokio::test]
    async fn what_is_closed_unflushed_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let mut sink = sink(&path);
        sink.open(&[]).await.unwrap();
        sink.write(rows(&[Some("one")], 0)).await.unwrap();
        sink.close(&[TopicPartition::new("t", 0)]).await;
        assert_eq!(sink.flush(0, true).await.unwrap(), Offsets::new());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_opened_ends_the_task_with_its_name() {
        let mut sink = sink(std::path::Path::new("/proc/nowhere/out"));
        let error = sink.open(&[]).await.unwrap_err();
        assert!(matches!(&error, SinkError::Fatal(text) if text.contains("/proc/nowhere/out")), "{error}");
    }
}
