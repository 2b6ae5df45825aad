//! Random histories of one partition with two brokers, a store that goes wrong in every way and a controller whose answers
//! get lost, late or doubled. After every step, what the pointer and its versions name is there and right.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use object_store::memory::InMemory;
use parking_lot::Mutex;
use proptest::prelude::*;
use strandline_protocol::ids::{Offset, TopicPartition};
use strandline_protocol::remote_pointer::{Advance, AdvanceOutcome, PointerState, RemotePointer};
use uuid::Uuid;

use super::harness::{Answer, Controller, DEADLINE, LEADER, batch, bytes_of, consume, limits, segment, tp, uuids};
use crate::encoding::hash;
use crate::faulty::FaultyStore;
use crate::keys::{Key, PartitionPrefix};
use crate::manifest::{Entry, Manifest, decode_entry_run, decode_tombstone_run};
use crate::plan::{self, Retention};
use crate::service::{Leader, PointerService, Unknown};
use crate::sidecar::Sidecar;
use crate::store::Store;
use crate::{RemoteLog, RemoteLogConfig, RemotePartition, RemoteReadError};

/// Records of one batch, and bytes of each value.
const BATCH: i64 = 10;
const VALUE: usize = 50;

#[derive(Debug, Clone)]
enum Op {
    Copy {
        by: usize,
        overlap: i64,
        segments: i64,
        batches: i64,
    },
    /// A copy whose caller goes away after so many milliseconds.
    CopyGivenUp {
        by: usize,
        batches: i64,
        after_ms: u64,
    },
    Trim {
        by: usize,
        offsets: i64,
    },
    Housekeep {
        by: usize,
        keep_bytes: Option<u64>,
        delay_ms: i64,
    },
    Collect {
        by: usize,
    },
    Elect {
        broker: usize,
    },
    Answers(Vec<Answer>),
    Deliver,
    /// The image of this broker stands still from now on, or catches up.
    Image {
        of: usize,
        still: bool,
    },
    Wait {
        seconds: u64,
    },
    Faults {
        percent: u64,
    },
    Read {
        by: usize,
        share: u64,
    },
    OffAndOn {
        by: usize,
        offsets: i64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let by = 0..2_usize;
    let answer = prop_oneof![
        2 => Just(Answer::Arrives), 2 => Just(Answer::Lost), 1 => Just(Answer::Dropped),
        1 => Just(Answer::Delayed), 1 => Just(Answer::Twice)
    ];
    prop_oneof![
        6 => (by.clone(), 0..3_i64, 1..4_i64, 1..4_i64)
            .prop_map(|(by, overlap, segments, batches)| Op::Copy { by, overlap, segments, batches }),
        1 => (by.clone(), 1..4_i64, 0..2000_u64)
            .prop_map(|(by, batches, after_ms)| Op::CopyGivenUp { by, batches, after_ms }),
        2 => (by.clone(), 1..70_i64).prop_map(|(by, offsets)| Op::Trim { by, offsets }),
        5 => (by.clone(), proptest::option::of(0..6000_u64), 0..3000_i64)
            .prop_map(|(by, keep_bytes, delay_ms)| Op::Housekeep { by, keep_bytes, delay_ms }),
        2 => by.clone().prop_map(|by| Op::Collect { by }),
        2 => by.clone().prop_map(|broker| Op::Elect { broker }),
        2 => proptest::collection::vec(answer, 1..8).prop_map(Op::Answers),
        1 => Just(Op::Deliver),
        1 => (by.clone(), any::<bool>()).prop_map(|(of, still)| Op::Image { of, still }),
        1 => (0..20_u64).prop_map(|seconds| Op::Wait { seconds }),
        1 => (0..40_u64).prop_map(|percent| Op::Faults { percent }),
        2 => (by.clone(), 0..100_u64).prop_map(|(by, share)| Op::Read { by, share }),
        1 => (by, 0..40_i64).prop_map(|(by, offsets)| Op::OffAndOn { by, offsets }),
    ]
}

/// A broker's door to the controller; its image may be behind.
struct View {
    controller: Arc<Controller>,
    still: Mutex<Option<RemotePointer>>,
}

#[async_trait]
impl PointerService for View {
    async fn advance(&self, advance: Advance) -> Result<AdvanceOutcome, Unknown> {
        self.controller.advance(advance).await
    }

    fn pointer(&self, tp: TopicPartition) -> Option<RemotePointer> {
        self.still.lock().or_else(|| self.controller.pointer(tp))
    }

    async fn linearizable_pointer(&self, tp: TopicPartition) -> Result<Option<RemotePointer>, Unknown> {
        self.controller.linearizable_pointer(tp).await
    }
}

struct Broker {
    view: Arc<View>,
    partition: RemotePartition,
    /// What it believes, also when it was deposed meanwhile.
    leader: Leader,
}

struct Scene {
    _dir: tempfile::TempDir,
    controller: Arc<Controller>,
    faulty: Arc<FaultyStore>,
    /// The same objects, without faults.
    store: Arc<Store>,
    brokers: Vec<Broker>,
    prefix: PartitionPrefix,
    audit: Audit,
    faults_on: bool,
    now_ms: i64,
}

impl Scene {
    fn new(seed: u64) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let inner = Arc::new(InMemory::new());
        let (controller, faulty) = (Controller::new(), FaultyStore::new(inner.clone(), seed));
        let broker = |number: u64| {
            let view = Arc::new(View { controller: Arc::clone(&controller), still: Mutex::new(None) });
            let mut config = RemoteLogConfig::new("cluster", dir.path().join(number.to_string()), number);
            (config.store_limits, config.manifest_run_len, config.io_threads) = (limits(), 2, 0);
            let log = RemoteLog::start(config, view.clone(), uuids(number + 1)).unwrap();
            let store = Store::new(faulty.clone(), "", "test:", limits(), Arc::clone(log.metrics()), seed);
            let partition = log.partition(Arc::new(store), "topic", tp());
            let broker_id = number as i32 + 1;
            Broker { view, partition, leader: Leader { broker_id, ..LEADER } }
        };
        let brokers = vec![broker(0), broker(1)];
        let metrics = Arc::default();
        let store = Arc::new(Store::new(inner, "", "test:", limits(), metrics, 1));
        let prefix = PartitionPrefix::new("cluster", "topic", &tp());
        let audit = Audit { checked: 1, ..Audit::default() };
        Scene { _dir: dir, controller, faulty, store, brokers, prefix, audit, faults_on: false, now_ms: 1000 }
    }

    fn pointer(&self) -> RemotePointer {
        *self.controller.pointer.lock()
    }

    fn elect(&mut self, broker: usize) {
        let mut leadership = self.controller.leadership.lock();
        (leadership.leader, leadership.leader_epoch) = (broker as i32 + 1, leadership.leader_epoch + 1);
        let chosen = &mut self.brokers[broker];
        chosen.leader.leader_epoch = leadership.leader_epoch;
        // Whoever acts as leader has seen the record that made it one.
        *chosen.view.still.lock() = None;
    }

    async fn step(&mut self, op: &Op) {
        self.now_ms += 500;
        let now_ms = self.now_ms;
        match *op {
            Op::Copy { by, overlap, segments, batches } => {
                let all = self.segments(by, overlap, segments, batches);
                self.opened(by).await;
                let broker = &self.brokers[by];
                drop(broker.partition.copy(&broker.leader, &all, now_ms).await);
            }
            Op::CopyGivenUp { by, batches, after_ms } => {
                let all = self.segments(by, 0, 2, batches);
                let broker = &self.brokers[by];
                let copy = broker.partition.copy(&broker.leader, &all, now_ms);
                drop(tokio::time::timeout(Duration::from_millis(after_ms), copy).await);
            }
            Op::Trim { by, offsets } => {
                let broker = &self.brokers[by];
                let to = broker.partition.pointer().unwrap().log_start_offset + offsets;
                drop(broker.partition.trim(&broker.leader, to).await);
            }
            Op::Housekeep { by, keep_bytes, delay_ms } => {
                let broker = &self.brokers[by];
                let retention = Retention { retention_bytes: keep_bytes, ..Retention::default() };
                drop(broker.partition.housekeep(&broker.leader, retention, delay_ms, now_ms).await);
            }
            Op::Collect { by } => {
                let broker = &self.brokers[by];
                drop(broker.partition.collect(&broker.leader).await);
            }
            Op::Elect { broker } => self.elect(broker),
            Op::Answers(ref answers) => self.controller.answers.lock().clone_from(answers),
            Op::Deliver => self.controller.deliver(),
            Op::Image { of, still } => *self.brokers[of].view.still.lock() = still.then(|| self.pointer()),
            Op::Wait { seconds } => tokio::time::sleep(Duration::from_secs(seconds)).await,
            Op::Faults { percent } => {
                self.faults_on |= percent > 0;
                self.faulty.all(percent);
            }
            Op::Read { by, share } => self.read(by, share).await,
            Op::OffAndOn { by, offsets } => self.off_and_on(by, offsets).await,
        }
    }

    async fn opened(&self, by: usize) {
        let broker = &self.brokers[by];
        drop(broker.partition.open(&broker.leader, 0, self.now_ms).await);
    }

    /// Segments as this broker would cut them: the log is one, so the same offsets have the same bytes everywhere.
    fn segments(&self, by: usize, overlap: i64, segments: i64, batches: i64) -> Vec<crate::SegmentToCopy> {
        let end = self.brokers[by].partition.pointer().unwrap().highest_copied_offset + 1;
        let from = (end / BATCH - overlap).max(0) * BATCH;
        (0..segments).map(|number| segment(from + number * batches * BATCH, batches, VALUE, 5)).collect()
    }

    async fn off_and_on(&self, by: usize, offsets: i64) {
        let broker = &self.brokers[by];
        let local_log_start = (self.pointer().log_start_offset + offsets).min(self.pointer().highest_copied_offset + 1);
        drop(broker.partition.close(&broker.leader, local_log_start).await);
        let mut pointer = self.controller.pointer.lock();
        if pointer.state == PointerState::Closed {
            *pointer = pointer.reopened();
            self.controller.accepted.lock().push(*pointer);
        }
    }

    async fn read(&self, by: usize, share: u64) {
        let pointer = self.pointer();
        let span = pointer.highest_copied_offset - pointer.log_start_offset + 1;
        let offset = pointer.log_start_offset + span * share as i64 / 100;
        match self.brokers[by].partition.read(offset, 700, true, DEADLINE).await {
            Ok(read) => {
                let bytes = bytes_of(&read.parts);
                let expected = expected_bytes(read.first_offset, read.first_offset + 3 * BATCH - 1);
                assert!(read.first_offset <= offset && offset < read.first_offset + BATCH);
                assert!(!bytes.is_empty() && expected.starts_with(&bytes[..bytes.len().min(expected.len())]));
            }
            Err(RemoteReadError::Damaged { reason }) => assert!(self.faults_on, "without a fault: {reason}"),
            Err(error) => {
                let still = self.brokers[by].view.still.lock().is_some();
                assert!(self.faults_on || still || !pointer.has_live() || error.retryable(), "{error}");
            }
        }
    }

    /// The faults stop, everything late lands, a new leader tidies up: then the bucket holds what is named and no more.
    async fn settle(&mut self) {
        self.faulty.all(0);
        self.controller.answers.lock().clear();
        tokio::time::sleep(Duration::from_secs(3600)).await;
        self.controller.deliver();
        self.elect(0);
        self.opened(0).await;
        let broker = &self.brokers[0];
        for _ in 0..40 {
            self.now_ms += 10_000;
            let kept = broker.partition.housekeep(&broker.leader, Retention::default(), 0, self.now_ms).await;
            let kept = kept.expect("nothing is in the way any more");
            self.audit.step(&self.controller, &self.store, &self.prefix).await;
            if kept.deleted == 0 {
                break;
            }
        }
        broker.partition.collect(&broker.leader).await.unwrap();
        let live = self.audit.step(&self.controller, &self.store, &self.prefix).await;
        let keys: BTreeSet<String> = keys_of(&self.store).await;
        assert_eq!(keys, live, "the bucket holds exactly what is named");
        let pointer = self.pointer();
        let (from, to) = (pointer.log_start_offset, pointer.highest_copied_offset + 1);
        if pointer.has_live() {
            let bytes = consume(&broker.partition, from, to, 1500).await;
            assert_eq!(bytes, expected_bytes(from, to - 1));
        }
        self.brokers[1].partition.delete_all().await.unwrap();
        assert!(keys_of(&self.store).await.is_empty(), "a deleted topic leaves no object");
    }
}

/// The batches that hold these offsets (inclusive).
fn expected_bytes(from: Offset, to: Offset) -> Vec<u8> {
    (from / BATCH..=to / BATCH).flat_map(|number| batch(number * BATCH, BATCH, VALUE, 5)).collect()
}

async fn keys_of(store: &Store) -> BTreeSet<String> {
    store.list_matching("cluster", 100_000, |_| true).await.unwrap().into_iter().map(|object| object.key).collect()
}

/// Looks at everything that was ever named, with an eye of its own.
#[derive(Default)]
struct Audit {
    /// Pointers of the history that were compared with the one before.
    checked: usize,
    manifests: BTreeMap<u64, Arc<Manifest>>,
    /// Keys whose content was right when first seen; objects are immutable.
    right: HashSet<String>,
    tombstoned: HashSet<Uuid>,
}

impl Audit {
    /// Returns every key that the newest version names as live.
    async fn step(&mut self, controller: &Controller, store: &Store, prefix: &PartitionPrefix) -> BTreeSet<String> {
        let history = controller.accepted.lock().clone();
        let current = *history.last().unwrap();
        for pair in history[self.checked - 1..].windows(2) {
            never_back(&pair[0], &pair[1]);
        }
        let keys = keys_of(store).await;
        let mut named = BTreeSet::new();
        for (number, pointer) in history.iter().enumerate() {
            if pointer.version >= current.complete_from {
                let is_new = number >= self.checked;
                named = self.version(pointer, &keys, store, prefix, is_new).await;
            }
        }
        self.checked = history.len();
        named
    }

    async fn version(
        &mut self,
        pointer: &RemotePointer,
        keys: &BTreeSet<String>,
        store: &Store,
        prefix: &PartitionPrefix,
        is_new: bool,
    ) -> BTreeSet<String> {
        let mut named = BTreeSet::new();
        let Some(reference) = &pointer.manifest else {
            assert!(!pointer.has_live(), "live offsets without a manifest: {pointer:?}");
            return named;
        };
        let key =
            Key::Manifest { version: reference.version, leader_epoch: reference.leader_epoch, uuid: reference.uuid };
        let name = prefix.full(&key.objects()[0]);
        assert!(keys.contains(&name), "version {} names {name}, which is gone", pointer.version);
        named.insert(name.clone());
        if let std::collections::btree_map::Entry::Vacant(place) = self.manifests.entry(reference.version) {
            let bytes = store.get(&name, 1 << 20).await.unwrap();
            place.insert(Arc::new(Manifest::decode(&bytes, &tp(), reference).unwrap()));
        }
        let manifest = Arc::clone(&self.manifests[&reference.version]);
        let mut entries = Vec::new();
        for run in manifest.entry_runs.iter().chain(&manifest.tombstone_runs) {
            let name = prefix.full(&run.key.objects()[0]);
            assert!(keys.contains(&name), "version {} names {name}, which is gone", pointer.version);
            let bytes = store.get(&name, 1 << 20).await.unwrap();
            match run.bytes {
                0 => self
                    .tombstoned
                    .extend(decode_tombstone_run(&bytes, run).unwrap().iter().map(|tombstone| tombstone.key.uuid())),
                _ => entries.extend(decode_entry_run(&bytes, run).unwrap().into_iter().skip(run.buried as usize)),
            }
            named.insert(name);
        }
        entries.extend(manifest.entries.iter().cloned());
        if is_new {
            self.tombstoned.extend(manifest.tombstones.iter().map(|tombstone| tombstone.key.uuid()));
            let back = entries.iter().find(|entry| self.tombstoned.contains(&entry.key.uuid));
            assert!(back.is_none() || pointer.version > reference.version, "a tombstoned key is back: {back:?}");
        }
        let live: Vec<Entry> = entries
            .iter()
            .filter(|entry| !plan::is_dead(entry.last_offset, entry.added, pointer, manifest.live_from))
            .cloned()
            .collect();
        if pointer.state == PointerState::Open {
            tile(pointer, &live);
        }
        for entry in &live {
            for object in Key::Segment(entry.key).objects() {
                let name = prefix.full(&object);
                assert!(keys.contains(&name), "version {} names {name}, which is gone", pointer.version);
                named.insert(name);
            }
            self.content(entry, store, prefix).await;
        }
        named
    }

    async fn content(&mut self, entry: &Entry, store: &Store, prefix: &PartitionPrefix) {
        let name = prefix.full(&entry.key.log());
        if !self.right.insert(name.clone()) {
            return;
        }
        let bytes = store.get(&name, 1 << 20).await.unwrap();
        assert_eq!(bytes, expected_bytes(entry.base_offset(), entry.last_offset), "{name}");
        assert_eq!(hash(&bytes), entry.content_hash);
        let sidecar = store.get(&prefix.full(&entry.key.sidecar()), 1 << 20).await.unwrap();
        let sidecar = Sidecar::decode(&sidecar, entry.sidecar_hash).unwrap();
        assert_eq!((sidecar.base_offset, sidecar.last_offset), (entry.base_offset(), entry.last_offset));
    }
}

fn never_back(before: &RemotePointer, after: &RemotePointer) {
    assert_eq!(after.version, before.version + 1);
    assert!(after.log_start_offset >= before.log_start_offset, "{before:?} {after:?}");
    assert!(after.complete_from >= before.complete_from, "{before:?} {after:?}");
    assert!(after.log_start_offset <= after.highest_copied_offset + 1, "{after:?}");
    let same_life = before.state == PointerState::Open && after.state == PointerState::Open;
    assert!(!same_life || after.highest_copied_offset >= before.highest_copied_offset, "{before:?} {after:?}");
}

fn tile(pointer: &RemotePointer, live: &[Entry]) {
    let Some(first) = live.first() else {
        assert!(!pointer.has_live(), "nothing is listed of what is live: {pointer:?}");
        return;
    };
    assert!(first.base_offset() <= pointer.log_start_offset, "{pointer:?} begins at {}", first.base_offset());
    for pair in live.windows(2) {
        assert_eq!(pair[0].last_offset + 1, pair[1].base_offset(), "{pointer:?}");
    }
    assert_eq!(live.last().map(|entry| entry.last_offset), Some(pointer.highest_copied_offset), "{pointer:?}");
}

fn run(seed: u64, ops: &[Op]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut scene = Scene::new(seed);
        scene.opened(0).await;
        for op in ops {
            scene.step(op).await;
            let Scene { audit, controller, store, prefix, .. } = &mut scene;
            audit.step(controller, store, prefix).await;
        }
        scene.settle().await;
    });
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_history_loses_or_leaks(seed in any::<u64>(), ops in proptest::collection::vec(op(), 1..60)) {
        run(seed, &ops);
    }
}
