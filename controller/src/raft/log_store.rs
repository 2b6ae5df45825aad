//! openraft's log store over [`super::log_file`].
//!
//! Owns the live entries in memory; their number is bounded by the snapshot policy. An entry is readable when `append`
//! returns and reported when it is durable.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;

use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogId, RaftLogReader, StorageIOError};
use parking_lot::RwLock;
use strandline_disk::{Disk, Workers};

use super::log_file::{self, LogRecord, LogWriter, OpenLogError};
use super::types::{Entry, LogId, NodeId, StorageError, TypeConfig, Vote};

#[derive(Debug, Default)]
struct Live {
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, Entry>,
}

impl Live {
    fn replay(&mut self, record: LogRecord) {
        match record {
            LogRecord::Vote(vote) => self.vote = Some(vote),
            LogRecord::Entry(entry) => {
                // A second entry of an index follows a truncation that a rewrite has folded in.
                self.entries.split_off(&entry.log_id.index);
                self.entries.insert(entry.log_id.index, entry);
            }
            LogRecord::Truncate { from } => {
                self.entries.split_off(&from);
            }
            LogRecord::Purge { upto } => {
                self.entries = self.entries.split_off(&(upto.index + 1));
                self.purged = Some(upto);
            }
        }
    }

    fn to_records(&self) -> Vec<LogRecord> {
        let purged = self.purged.map(|upto| LogRecord::Purge { upto });
        let vote = self.vote.map(LogRecord::Vote);
        purged.into_iter().chain(vote).chain(self.entries.values().cloned().map(LogRecord::Entry)).collect()
    }
}

/// The log store. Clones share the log.
#[derive(Clone)]
pub struct LogStore {
    live: Arc<RwLock<Live>>,
    writer: LogWriter,
}

impl LogStore {
    /// Opens or creates the log in `dir`.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, workers: &Workers) -> Result<Self, OpenLogError> {
        let (writer, records) = log_file::open(disk, dir, workers)?;
        let mut live = Live::default();
        for record in records {
            live.replay(record);
        }
        Ok(LogStore { live: Arc::new(RwLock::new(live)), writer })
    }
}

fn owned_bounds<RB: RangeBounds<u64>>(range: &RB) -> (Bound<u64>, Bound<u64>) {
    (range.start_bound().cloned(), range.end_bound().cloned())
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let live = self.live.read();
        Ok(live.entries.range(owned_bounds(&range)).map(|(_, entry)| entry.clone()).collect())
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let live = self.live.read();
        let last = live.entries.last_key_value().map(|(_, e)| e.log_id).or(live.purged);
        Ok(LogState { last_purged_log_id: live.purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let record = LogRecord::Vote(*vote);
        self.writer.append_durably(vec![record.clone()]).await.map_err(|e| StorageIOError::write_vote(&e))?;
        self.live.write().replay(record);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.live.read().vote)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let records: Vec<LogRecord> = entries.into_iter().map(LogRecord::Entry).collect();
        {
            let mut live = self.live.write();
            for record in &records {
                live.replay(record.clone());
            }
        }
        self.writer.append(records, Box::new(move |result| callback.log_io_completed(result))).await;
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let record = LogRecord::Truncate { from: log_id.index };
        self.live.write().replay(record.clone());
        self.writer.append_durably(vec![record]).await.map_err(|e| write_error(&e))
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let records = {
            let mut live = self.live.write();
            live.replay(LogRecord::Purge { upto: *log_id.get_log_id() });
            live.to_records()
        };
        self.writer.rewrite(records).await.map_err(|e| write_error(&e))
    }
}

fn write_error(error: &io::Error) -> StorageError {
    StorageIOError::<NodeId>::write_logs(error).into()
}
