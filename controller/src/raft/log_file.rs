//! The controller's log file: votes and entries, durable before anyone hears of them.
//!
//! Owns the file `log` (`docs/formats/controller-log.md`), its recovery and the one thread (in a simulation: task) that writes it. Does not own
//! what is in memory (`log_store`).
//!
//! Invariants: the file is a header and frames. One frame is one group of records, written by one call and synced before
//! the next is begun, so only the last frame can be torn. A record is answered after the sync of its frame. A failed
//! write or sync is never tried again: everything after it fails, until the process starts anew.
//! A crash leaves at most one torn frame at the end, which opening cuts off; a bad frame with a good one behind it is
//! corruption, and opening refuses.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strandline_disk::{Disk, DiskFile, SyncTime, Workers};
use tokio::sync::{mpsc, oneshot};

use super::types::{Entry, LogId, Vote, get_entry, get_log_id, get_vote, put_entry, put_log_id, put_vote};
use crate::encoding::{DecodeError, Get, Put};

const MAGIC: &[u8; 8] = b"SLCTRL\0\x01";
const FRAME_HEADER: usize = 8;
/// Payload of a frame, at most, in bytes.
const FRAME_BYTES_MAX: usize = 256 << 20;
/// Commands waiting for the writer, at most.
const QUEUE_MAX: usize = 1024;
/// Commands that share one sync, at most.
const GROUP_MAX: usize = 256;
/// The file is read whole at start, up to this size in bytes.
const FILE_BYTES_MAX: u64 = 4 << 30;

/// One change of the log.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum LogRecord {
    Vote(Vote),
    Entry(Entry),
    /// Entries from this index on are gone.
    Truncate {
        from: u64,
    },
    /// Entries up to and including this one are in a snapshot.
    Purge {
        upto: LogId,
    },
}

fn put_record(out: &mut Put, record: &LogRecord) {
    match record {
        LogRecord::Vote(vote) => put_vote(out.u8(1), vote),
        LogRecord::Entry(entry) => put_entry(out.u8(2), entry),
        LogRecord::Truncate { from } => {
            out.u8(3).u64(*from);
        }
        LogRecord::Purge { upto } => put_log_id(out.u8(4), upto),
    }
}

fn get_record(get: &mut Get<'_>) -> Result<LogRecord, DecodeError> {
    Ok(match get.u8("record kind")? {
        1 => LogRecord::Vote(get_vote(get)?),
        2 => LogRecord::Entry(get_entry(get)?),
        3 => LogRecord::Truncate { from: get.u64("truncate from")? },
        4 => LogRecord::Purge { upto: get_log_id(get)? },
        other => return Err(DecodeError::Unknown { field: "record kind", value: other.into() }),
    })
}

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenLogError {
    #[error("{path}: {source}")]
    Io { path: String, source: io::Error },
    #[error("{path} is not a controller log of this version")]
    NotALog { path: String },
    #[error(
        "{path} is corrupt at byte {position} with intact records behind it; \
         restore the file from another controller or a backup, it is not cut"
    )]
    Corrupt { path: String, position: u64 },
    #[error("{path}: a record at byte {position} cannot be read: {source}")]
    Record { path: String, position: u64, source: DecodeError },
}

/// What a caller waits for. Dropped without an answer only if the writer has failed.
pub(super) type Done = Box<dyn FnOnce(Result<(), io::Error>) + Send>;

enum Command {
    Append {
        records: Vec<LogRecord>,
        done: Done,
    },
    /// Replaces the whole file by these records.
    Rewrite {
        records: Vec<LogRecord>,
        done: Done,
    },
}

/// The way to the writer thread. Dropping the last one ends it.
#[derive(Clone)]
pub(super) struct LogWriter {
    queue: mpsc::Sender<Command>,
}

impl LogWriter {
    /// Queues records; `done` is called, on the writer's thread, once they are durable or have failed.
    pub(super) async fn append(&self, records: Vec<LogRecord>, done: Done) {
        if let Err(closed) = self.queue.send(Command::Append { records, done }).await
            && let Command::Append { done, .. } | Command::Rewrite { done, .. } = closed.0
        {
            done(Err(stopped()));
        }
    }

    /// Appends records and waits until they are durable.
    pub(super) async fn append_durably(&self, records: Vec<LogRecord>) -> io::Result<()> {
        let (done, wait) = answer();
        self.append(records, done).await;
        wait.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Replaces the file by `records`, atomically, and waits until that is durable.
    pub(super) async fn rewrite(&self, records: Vec<LogRecord>) -> io::Result<()> {
        let (done, wait) = answer();
        self.queue.send(Command::Rewrite { records, done }).await.map_err(|_| stopped())?;
        wait.await.unwrap_or_else(|_| Err(stopped()))
    }
}

fn answer() -> (Done, oneshot::Receiver<io::Result<()>>) {
    let (tx, rx) = oneshot::channel();
    // A caller that went away needs no answer.
    (Box::new(move |result| drop(tx.send(result))), rx)
}

fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the controller's log has stopped after an earlier error")
}

/// Opens or creates the log in `dir` and starts its writer. Returns the records in order.
pub(super) fn open(
    disk: Arc<dyn Disk>,
    dir: &Path,
    workers: &Workers,
) -> Result<(LogWriter, Vec<LogRecord>), OpenLogError> {
    let path = dir.join("log");
    let failed = |source| OpenLogError::Io { path: path.display().to_string(), source };
    if !disk.exists(&path).map_err(failed)? {
        disk.replace_file(&path, MAGIC).map_err(failed)?;
    }
    let file = disk.open(&path).map_err(failed)?;
    // What the last process wrote is made durable, or shows that it is not: after a sync that failed memory still holds what the medium has
    // not got, and frames behind such a hole would be lost with it.
    file.sync_all().and_then(|()| file.drop_cache()).map_err(failed)?;
    let bytes = disk.read_file(&path, FILE_BYTES_MAX).map_err(failed)?;
    let (records, end) = recover(&path, &bytes)?;
    if end < bytes.len() as u64 {
        tracing::warn!(path = %path.display(), from = end, to = bytes.len(), "cutting off a torn write");
        file.truncate(end).map_err(failed)?;
        file.sync_all().map_err(failed)?;
    }
    let (queue, commands) = mpsc::channel(QUEUE_MAX);
    let writer = Writer { disk, path: path.clone(), file, position: end, failed: false };
    match workers {
        Workers::Threads => {
            let builder = std::thread::Builder::new().name("controller-log".to_owned());
            builder.spawn(move || writer.run(commands)).map_err(failed)?;
        }
        Workers::Tasks(sync_time) => drop(tokio::spawn(writer.run_as_task(commands, Arc::clone(sync_time)))),
    }
    Ok((LogWriter { queue }, records))
}

/// Reads frames until the end or the first bad one. Returns the records and the end of the last good frame.
fn recover(path: &Path, bytes: &[u8]) -> Result<(Vec<LogRecord>, u64), OpenLogError> {
    let name = || path.display().to_string();
    if !bytes.starts_with(MAGIC) {
        return Err(OpenLogError::NotALog { path: name() });
    }
    let mut records = Vec::new();
    let mut position = MAGIC.len();
    while position < bytes.len() {
        let Some(payload) = frame_at(bytes, position) else { break };
        let mut get = Get::new(payload);
        while get.remaining() > 0 {
            records.push(get_record(&mut get).map_err(|source| OpenLogError::Record {
                path: name(),
                position: position as u64,
                source,
            })?);
        }
        position += FRAME_HEADER + payload.len();
    }
    let behind = position + 1..bytes.len();
    if behind.clone().any(|at| frame_at(bytes, at).is_some()) {
        return Err(OpenLogError::Corrupt { path: name(), position: position as u64 });
    }
    Ok((records, position as u64))
}

/// The payload of the frame at `at`, if a whole and correct one is there. A frame is never empty.
fn frame_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let header = bytes.get(at..at + FRAME_HEADER)?;
    let len = u32::from_be_bytes(header[..4].try_into().ok()?) as usize;
    if len == 0 || len > FRAME_BYTES_MAX {
        return None;
    }
    let payload = bytes.get(at + FRAME_HEADER..at + FRAME_HEADER + len)?;
    let crc = u32::from_be_bytes(header[4..].try_into().ok()?);
    (crc32c(payload) == crc).then_some(payload)
}

pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

fn frame(records: &[LogRecord]) -> Vec<u8> {
    let mut out = Put { bytes: vec![0; FRAME_HEADER] };
    for record in records {
        put_record(&mut out, record);
    }
    let payload_len = out.bytes.len() - FRAME_HEADER;
    assert!(payload_len <= FRAME_BYTES_MAX, "a frame is bounded");
    let crc = crc32c(&out.bytes[FRAME_HEADER..]);
    out.bytes[..4].copy_from_slice(&(payload_len as u32).to_be_bytes());
    out.bytes[4..8].copy_from_slice(&crc.to_be_bytes());
    out.bytes
}

struct Writer {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    position: u64,
    failed: bool,
}

impl Writer {
    fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut group = Vec::new();
        while commands.blocking_recv_many(&mut group, GROUP_MAX) > 0 {
            self.write_group(std::mem::take(&mut group));
        }
    }

    async fn run_as_task(mut self, mut commands: mpsc::Receiver<Command>, sync_time: SyncTime) {
        let mut group = Vec::new();
        while commands.recv_many(&mut group, GROUP_MAX).await > 0 {
            tokio::time::sleep(sync_time()).await;
            self.write_group(std::mem::take(&mut group));
        }
    }

    /// Carries out commands in order; neighbouring appends share a frame and a sync.
    fn write_group(&mut self, group: Vec<Command>) {
        let mut records = Vec::new();
        let mut waiting = Vec::new();
        for command in group {
            match command {
                Command::Append { records: more, done } => {
                    records.extend(more);
                    waiting.push(done);
                }
                Command::Rewrite { records: all, done } => {
                    self.flush(&mut records, &mut waiting);
                    let result = self.guarded(|w| w.replace(&all));
                    done(result);
                }
            }
        }
        self.flush(&mut records, &mut waiting);
    }

    fn flush(&mut self, records: &mut Vec<LogRecord>, waiting: &mut Vec<Done>) {
        let records = std::mem::take(records);
        if !records.is_empty() {
            let result = self.guarded(|w| w.append(&records));
            for done in waiting.drain(..) {
                done(result.as_ref().map(|_| ()).map_err(|e| io::Error::new(e.kind(), e.to_string())));
            }
        } else {
            waiting.drain(..).for_each(|done| done(Ok(())));
        }
    }

    fn guarded(&mut self, work: impl FnOnce(&mut Self) -> io::Result<()>) -> io::Result<()> {
        if self.failed {
            return Err(stopped());
        }
        let result = work(self);
        if let Err(error) = &result {
            self.failed = true;
            tracing::error!(path = %self.path.display(), %error, "the controller's log cannot be written; it stops");
        }
        result
    }

    fn append(&mut self, records: &[LogRecord]) -> io::Result<()> {
        let bytes = frame(records);
        self.file.write_at(&mut [IoSlice::new(&bytes)], self.position)?;
        self.file.sync_data()?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn replace(&mut self, records: &[LogRecord]) -> io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        if !records.is_empty() {
            bytes.extend(frame(records));
        }
        self.disk.replace_file(&self.path, &bytes)?;
        self.file = self.disk.open(&self.path)?;
        self.position = bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openraft::{CommittedLeaderId, EntryPayload};

    fn entry(index: u64) -> LogRecord {
        let log_id = LogId::new(CommittedLeaderId::new(3, 1), index);
        LogRecord::Entry(Entry { log_id, payload: EntryPayload::Normal(super::super::types::EntryData(vec![7; 40])) })
    }

    fn image() -> (Vec<u8>, Vec<usize>) {
        let mut bytes = MAGIC.to_vec();
        let mut ends = vec![bytes.len()];
        for i in 1..=3 {
            bytes.extend(frame(&[entry(2 * i), entry(2 * i + 1), LogRecord::Vote(Vote::new(i, 1))]));
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    #[test]
    fn every_cut_of_the_file_yields_the_whole_frames_before_it() {
        let (bytes, ends) = image();
        for cut in MAGIC.len()..=bytes.len() {
            let (records, end) = recover(Path::new("log"), &bytes[..cut]).unwrap();
            let frames = ends.iter().filter(|e| **e <= cut).count() - 1;
            assert_eq!(records.len(), frames * 3, "cut at {cut}");
            assert_eq!(end as usize, ends[frames]);
        }
    }

    #[tokio::test]
    async fn a_frame_that_a_failed_sync_lost_is_not_built_upon_by_the_next_process() {
        use strandline_disk::FaultyDisk;
        let dir = Path::new("/controller");
        let first = FaultyDisk::new();
        first.create_dir_all_durably(dir).unwrap();
        let workers = Workers::Tasks(Arc::new(|| std::time::Duration::ZERO));
        let (writer, _) = open(Arc::new(first.clone()), dir, &workers).unwrap();
        writer.append_durably(vec![entry(1)]).await.unwrap();
        first.fail_next_sync();
        writer.append_durably(vec![entry(2)]).await.unwrap_err();
        let second = first.kill();
        let (writer, records) = open(Arc::new(second.clone()), dir, &workers).unwrap();
        assert_eq!(records, [entry(1)], "the medium has no more");
        writer.append_durably(vec![entry(3)]).await.unwrap();
        for seed in 0..20 {
            let (_, records) = open(Arc::new(second.clone().crash(seed)), dir, &workers).unwrap();
            assert_eq!(records, [entry(1), entry(3)], "seed {seed}");
        }
    }

    #[test]
    fn a_flipped_bit_is_refused_unless_it_is_in_the_last_frame() {
        let (bytes, ends) = image();
        for at in MAGIC.len()..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            match recover(Path::new("log"), &bad) {
                Ok((records, _)) => assert!(at >= ends[2] && records.len() == 6, "byte {at} passed"),
                Err(OpenLogError::Corrupt { .. }) => assert!(at < ends[2]),
                Err(other) => panic!("byte {at}: {other}"),
            }
        }
    }
}
