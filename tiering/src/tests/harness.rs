//! A one-partition world: a controller that judges as replay does, a log of real batches, a store.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::ObjectStore;
use parking_lot::Mutex;
use strandline_protocol::compression::Compression;
use strandline_protocol::ids::{Offset, TopicId, TopicPartition};
use strandline_protocol::record_batch::{BatchHeader, HEADER_LEN, RecordBatchBuilder};
use strandline_protocol::remote_pointer::{Advance, AdvanceOutcome, Leadership, RemotePointer, judge};
use strandline_protocol::rope::{Part, Rope};
use uuid::Uuid;

use crate::service::{Leader, PointerService, Unknown};
use crate::source::{SegmentSource, SegmentToCopy};
use crate::store::{Store, StoreLimits};
use crate::{RemoteLog, RemoteLogConfig, RemotePartition};

pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
pub(crate) const LEADER: Leader = Leader { broker_id: 1, broker_epoch: 10, leader_epoch: 5 };

pub(crate) fn tp() -> TopicPartition {
    TopicPartition { topic_id: TopicId(Uuid::from_u128(77)), partition: 0 }
}

/// What the controller does with the answers of the next advances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Arrives,
    /// Applied, but nobody hears of it.
    Lost,
    /// Never applied.
    Dropped,
    /// Applied when the test says so; nobody hears of it.
    Delayed,
    /// Applied twice; the second answer is the one that arrives.
    Twice,
}

pub(crate) struct Controller {
    pub(crate) pointer: Mutex<RemotePointer>,
    pub(crate) leadership: Mutex<Leadership>,
    pub(crate) answers: Mutex<Vec<Answer>>,
    pub(crate) delayed: Mutex<Vec<Advance>>,
    /// Every pointer there was, the first one included.
    pub(crate) accepted: Mutex<Vec<RemotePointer>>,
}

impl Controller {
    pub(crate) fn new() -> Arc<Controller> {
        let leadership = Leadership { leader: 1, leader_epoch: 5, broker_epoch: 10, deleting: false };
        Arc::new(Controller {
            pointer: Mutex::new(RemotePointer::default()),
            leadership: Mutex::new(leadership),
            answers: Mutex::new(Vec::new()),
            delayed: Mutex::new(Vec::new()),
            accepted: Mutex::new(vec![RemotePointer::default()]),
        })
    }

    fn replay(&self, advance: &Advance) -> AdvanceOutcome {
        let mut pointer = self.pointer.lock();
        let judged = judge(&pointer, Some(&self.leadership.lock()), advance);
        if let Ok(next) = judged {
            *pointer = next;
            self.accepted.lock().push(next);
        }
        AdvanceOutcome { accepted: judged.map(drop), pointer: *pointer }
    }

    /// Applies what was delayed, in the order in which it was proposed.
    pub(crate) fn deliver(&self) {
        let delayed = std::mem::take(&mut *self.delayed.lock());
        for advance in &delayed {
            self.replay(advance);
        }
    }
}

#[async_trait]
impl PointerService for Controller {
    async fn advance(&self, advance: Advance) -> Result<AdvanceOutcome, Unknown> {
        let answer = self.answers.lock().pop().unwrap_or(Answer::Arrives);
        match answer {
            Answer::Arrives => Ok(self.replay(&advance)),
            Answer::Lost => {
                self.replay(&advance);
                Err(Unknown)
            }
            Answer::Dropped => Err(Unknown),
            Answer::Delayed => {
                self.delayed.lock().push(advance);
                Err(Unknown)
            }
            Answer::Twice => {
                self.replay(&advance);
                Ok(self.replay(&advance))
            }
        }
    }

    fn pointer(&self, _: TopicPartition) -> Option<RemotePointer> {
        Some(*self.pointer.lock())
    }

    async fn linearizable_pointer(&self, _: TopicPartition) -> Result<Option<RemotePointer>, Unknown> {
        Ok(Some(*self.pointer.lock()))
    }
}

/// A segment in memory.
#[derive(Debug)]
pub(crate) struct Segment(pub(crate) Bytes);

impl SegmentSource for Segment {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = self.0.get(offset as usize..).unwrap_or_default();
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
}

/// `records` records of `value_len` bytes in one batch; the value begins with the offset, the timestamp is `offset * 10`.
pub(crate) fn batch(base_offset: Offset, records: i64, value_len: usize, epoch: i32) -> Bytes {
    let mut builder = RecordBatchBuilder::new(Compression::None);
    for offset in base_offset..base_offset + records {
        let mut value = vec![(offset % 251) as u8; value_len.max(8)];
        value[..8].copy_from_slice(&offset.to_be_bytes());
        builder.append(offset * 10, None, Some(&value), &[]);
    }
    let built = builder.build();
    let header = BatchHeader::parse(&built).unwrap();
    let mut bytes = built.to_vec();
    bytes[..16].copy_from_slice(&header.prefix_with(base_offset, epoch));
    Bytes::from(bytes)
}

/// A segment of `batches` batches of 10 records.
pub(crate) fn segment(base_offset: Offset, batches: i64, value_len: usize, epoch: i32) -> SegmentToCopy {
    let mut bytes = Vec::new();
    for number in 0..batches {
        bytes.extend_from_slice(&batch(base_offset + number * 10, 10, value_len, epoch));
    }
    SegmentToCopy {
        base_offset,
        last_offset: base_offset + batches * 10 - 1,
        size_bytes: bytes.len() as u64,
        source: Arc::new(Segment(Bytes::from(bytes))),
        producer_state: Bytes::from_static(b"producer state"),
        leader_epochs: vec![(epoch, 0)],
        aborted: Vec::new(),
    }
}

pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) controller: Arc<Controller>,
    pub(crate) log: Arc<RemoteLog>,
    pub(crate) store: Arc<Store>,
    pub(crate) partition: RemotePartition,
}

pub(crate) fn limits() -> StoreLimits {
    StoreLimits {
        deadline: Duration::from_millis(300),
        deadline_per_mib: Duration::from_millis(200),
        tries: 4,
        backoff: Duration::from_millis(1),
        backoff_max: Duration::from_millis(4),
    }
}

pub(crate) fn config(dir: &tempfile::TempDir) -> RemoteLogConfig {
    RemoteLogConfig { store_limits: limits(), ..RemoteLogConfig::new("cluster", dir.path().join("chunks"), 1) }
}

pub(crate) fn uuids(salt: u64) -> impl Fn() -> Uuid + Send + Sync + 'static {
    let next = AtomicU64::new(1);
    move || Uuid::from_u64_pair(salt, next.fetch_add(1, Ordering::Relaxed))
}

impl World {
    /// Over a directory.
    pub(crate) fn over_files() -> World {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("file://{}", dir.path().join("bucket").display());
        let controller = Controller::new();
        let service: Arc<dyn PointerService> = controller.clone();
        let log = RemoteLog::start(config(&dir), service, uuids(1)).unwrap();
        let store = log.store(&url, &Default::default()).unwrap();
        let partition = log.partition(Arc::clone(&store), "topic", tp());
        World { dir, controller, log, store, partition }
    }

    /// Over any store, for fault injection.
    pub(crate) fn over(inner: Arc<dyn ObjectStore>) -> World {
        let dir = tempfile::tempdir().unwrap();
        let controller = Controller::new();
        let service: Arc<dyn PointerService> = controller.clone();
        let log = RemoteLog::start(config(&dir), service, uuids(1)).unwrap();
        let store = Arc::new(Store::new(inner, "", "test:", limits(), Arc::clone(log.metrics()), 1));
        let partition = log.partition(Arc::clone(&store), "topic", tp());
        World { dir, controller, log, store, partition }
    }

    pub(crate) fn pointer(&self) -> RemotePointer {
        *self.controller.pointer.lock()
    }

    /// Every object of the partition.
    pub(crate) async fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> =
            self.store.list_matching("cluster", 100_000, |_| true).await.unwrap().into_iter().map(|o| o.key).collect();
        keys.sort();
        keys
    }
}

/// The bytes of a rope, file ranges included.
pub(crate) fn bytes_of(rope: &Rope) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let mut all = Vec::new();
    for part in rope.parts() {
        match part {
            Part::Bytes(bytes) => all.extend_from_slice(bytes),
            Part::File(range) => {
                let mut buf = vec![0; range.len as usize];
                range.file.read_exact_at(&mut buf, range.position).unwrap();
                all.extend_from_slice(&buf);
            }
        }
    }
    all
}

/// Reads like a consumer, from `from` to `to` (exclusive): returns the bytes of whole batches, checks that offsets go on.
pub(crate) async fn consume(partition: &RemotePartition, from: Offset, to: Offset, max_bytes: u64) -> Vec<u8> {
    let (mut next, mut all) = (from, Vec::new());
    while next < to {
        let read = partition.read(next, max_bytes, true, DEADLINE).await.unwrap();
        let bytes = bytes_of(&read.parts);
        let mut rest = bytes.as_slice();
        let before = next;
        while rest.len() >= HEADER_LEN {
            let header = BatchHeader::parse(rest).unwrap();
            if rest.len() < header.size_in_bytes() {
                break;
            }
            let (batch, tail) = rest.split_at(header.size_in_bytes());
            header.verify_crc(batch).unwrap();
            if header.last_offset() >= next {
                assert!(header.base_offset <= next, "a hole before offset {}", header.base_offset);
                all.extend_from_slice(batch);
                next = header.last_offset() + 1;
            }
            rest = tail;
        }
        assert!(next > before, "a read at {before} gave no whole batch");
    }
    all
}
