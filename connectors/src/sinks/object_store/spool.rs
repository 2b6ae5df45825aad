//! Rows of open chunks: in memory, and on disk when the memory is used up.
//!
//! Owns one file for each partition that had to go to disk: Arrow IPC streams, one behind the other. A crash leaves files that nobody
//! reads; the folder is emptied when a task starts.

use std::fs::File;
use std::io::{self, BufReader, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;

/// The rows of one chunk, in the order in which they came.
#[derive(Debug, Default)]
pub struct Spool {
    memory: Vec<RecordBatch>,
    /// Bytes of `memory`, as the rotation counts them.
    pub memory_bytes: u64,
    disk: Option<PathBuf>,
    pub disk_bytes: u64,
}

impl Spool {
    pub fn push(&mut self, batches: Vec<RecordBatch>, bytes: u64) {
        self.memory.extend(batches);
        self.memory_bytes += bytes;
    }

    pub fn is_empty(&self) -> bool {
        self.memory.is_empty() && self.disk.is_none()
    }

    /// Moves what is in memory behind what is on disk.
    pub fn spill(&mut self, path: &Path) -> Result<(), ArrowError> {
        let mut file = File::options().create(true).append(true).open(path)?;
        for batch in std::mem::take(&mut self.memory) {
            let batch = compact(&batch)?;
            let mut writer = StreamWriter::try_new(&mut file, &batch.schema())?;
            writer.write(&batch)?;
            writer.finish()?;
        }
        file.flush()?;
        self.disk_bytes = file.metadata()?.len();
        self.memory_bytes = 0;
        self.disk = Some(path.to_owned());
        Ok(())
    }

    /// All rows; the file is kept until [`Spool::clear`].
    pub fn read(&self) -> Result<Vec<RecordBatch>, ArrowError> {
        let mut batches = Vec::new();
        if let Some(path) = &self.disk {
            let mut file = BufReader::new(File::open(path)?);
            while file.stream_position()? < self.disk_bytes {
                // A reader ends behind its stream's last byte, where the next one begins.
                for batch in StreamReader::try_new(&mut file, None)? {
                    batches.push(batch?);
                }
            }
        }
        batches.extend(self.memory.iter().cloned());
        Ok(batches)
    }

    pub fn clear(&mut self) {
        if let Some(path) = self.disk.take()
            && let Err(error) = std::fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "a spool file cannot be deleted");
        }
        *self = Spool::default();
    }
}

/// Without the bytes that views keep alive and do not show.
fn compact(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let compacted = batch.columns().iter().map(|column| -> ArrayRef {
        match column.data_type() {
            DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
            DataType::Utf8View => Arc::new(column.as_string_view().gc()),
            _ => Arc::clone(column),
        }
    });
    RecordBatch::try_new(batch.schema(), compacted.collect())
}
