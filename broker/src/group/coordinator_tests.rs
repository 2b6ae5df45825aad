//! The coordinator over a log in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::record_batch::{BatchHeader, PREFIX_LEN, batches};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::coordinator::{Commit, GroupCoordinator, JoinGroup, OffsetsLog, SyncGroup, partition_for};
use super::member::Protocol;
use super::offsets::CommitPartition;
use super::state::State;

/// A log in memory; appends wait for a permit each.
struct MemoryLog {
    exists: AtomicBool,
    leads: AtomicBool,
    fails: AtomicBool,
    permits: Semaphore,
    /// What is read ends here.
    high_watermark: AtomicI64,
    partitions: Mutex<BTreeMap<i32, Vec<Bytes>>>,
}

impl MemoryLog {
    fn new(permits: usize) -> Arc<Self> {
        Arc::new(MemoryLog {
            exists: AtomicBool::new(true),
            leads: AtomicBool::new(true),
            fails: AtomicBool::new(false),
            permits: Semaphore::new(permits),
            high_watermark: AtomicI64::new(i64::MAX),
            partitions: Mutex::default(),
        })
    }

    fn batches(&self, partition: i32) -> Vec<Bytes> {
        self.partitions.lock().get(&partition).cloned().unwrap_or_default()
    }
}

#[async_trait]
impl OffsetsLog for MemoryLog {
    fn partition_count(&self) -> Option<i32> {
        self.exists.load(Ordering::SeqCst).then_some(50)
    }

    async fn append(&self, partition: i32, batch: Bytes) -> Result<(), ErrorCode> {
        self.permits.acquire().await.expect("the semaphore is never closed").forget();
        if self.fails.load(Ordering::SeqCst) {
            return Err(ErrorCode::NotLeaderOrFollower);
        }
        let header = BatchHeader::parse(&batch).expect("the coordinator builds batches");
        header.verify_crc(&batch).expect("of the right checksum");
        assert_eq!((header.base_offset, batches(&batch).count()), (0, 1));
        let mut partitions = self.partitions.lock();
        let log = partitions.entry(partition).or_default();
        let base = log.last().map_or(0, |last| BatchHeader::parse(last).expect("appended before").next_offset());
        let mut placed = BytesMut::from(&header.prefix_with(base, 0)[..]);
        placed.extend_from_slice(&batch[PREFIX_LEN..]);
        log.push(placed.freeze());
        Ok(())
    }

    async fn read(&self, partition: i32, offset: i64) -> Result<(Bytes, i64), ErrorCode> {
        tokio::task::yield_now().await;
        let log = self.batches(partition);
        let next = |batch: &Bytes| BatchHeader::parse(batch).expect("appended before").next_offset();
        // One batch at a time, so that loading has to go on.
        let readable = self.high_watermark.load(Ordering::SeqCst);
        let found = log.iter().find(|batch| next(batch) > offset).filter(|batch| next(batch) <= readable);
        Ok(found.map_or((Bytes::new(), offset), |batch| (batch.clone(), next(batch))))
    }

    fn ends(&self, partition: i32) -> Result<(i64, i64), ErrorCode> {
        let log = self.batches(partition);
        let end = log.last().map_or(0, |batch| BatchHeader::parse(batch).expect("appended before").next_offset());
        Ok((end.min(self.high_watermark.load(Ordering::SeqCst)), end))
    }

    fn leads(&self, _partition: i32) -> bool {
        self.leads.load(Ordering::SeqCst)
    }
}

fn coordinator(log: &Arc<MemoryLog>) -> (Arc<GroupCoordinator>, Arc<AtomicI64>) {
    let now = Arc::new(AtomicI64::new(1_000_000));
    let clock = now.clone();
    let settings = super::state_tests::settings();
    let coordinator = GroupCoordinator::new(settings, log.clone(), Arc::new(move || clock.load(Ordering::SeqCst)));
    (coordinator, now)
}

fn join(member: &str) -> JoinGroup {
    JoinGroup {
        group_id: "g".to_owned(),
        member_id: member.to_owned(),
        instance_id: None,
        client_id: "client".to_owned(),
        client_host: "/127.0.0.1".to_owned(),
        rebalance_timeout_ms: 60_000,
        session_timeout_ms: 10_000,
        protocol_type: "consumer".to_owned(),
        protocols: vec![Protocol { name: "range".to_owned(), metadata: Bytes::from_static(&[0; 6]) }],
        member_id_required: false,
        skip_assignment_supported: true,
    }
}

fn sync(member: &str, generation: i32, assignments: &[(&str, &'static str)]) -> SyncGroup {
    SyncGroup {
        group_id: "g".to_owned(),
        member_id: member.to_owned(),
        instance_id: None,
        generation,
        protocol_type: Some("consumer".to_owned()),
        protocol_name: Some("range".to_owned()),
        assignments: assignments.iter().map(|(m, a)| ((*m).to_owned(), Bytes::from_static(a.as_bytes()))).collect(),
    }
}

fn commit(group: &str, member: &str, generation: i32, partition: i32, offset: i64) -> Commit {
    let partition = CommitPartition {
        topic: "t".to_owned(),
        topic_id: Uuid::from_u128(5),
        partition,
        offset,
        leader_epoch: 3,
        metadata: "note".to_owned(),
    };
    Commit {
        group_id: group.to_owned(),
        member_id: member.to_owned(),
        instance_id: None,
        generation,
        retention_ms: None,
        partitions: vec![partition],
        no_group: ErrorCode::GroupIdNotFound,
    }
}

fn committed(coordinator: &GroupCoordinator, group: &str, partition: i32) -> Option<i64> {
    let read = |offsets: &super::OffsetsByTopic| Some(offsets.get("t")?.get(&partition)?.offset);
    coordinator.fetch(group, read).expect("the partition is served")
}

/// Lets every task run until all of them wait.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// A group of one member, stable in generation 1.
async fn stable(coordinator: &Arc<GroupCoordinator>, now: &AtomicI64) -> String {
    let joining = tokio::spawn({
        let coordinator = coordinator.clone();
        async move { coordinator.join(join("")).await }
    });
    settle().await;
    assert!(!joining.is_finished(), "the initial delay is not over");
    now.fetch_add(3000, Ordering::SeqCst);
    coordinator.tick();
    let joined = joining.await.unwrap();
    assert_eq!((joined.error_code, joined.generation_id), (0, 1));
    let member = joined.member_id;
    let synced = coordinator.sync(sync(&member, 1, &[(member.as_str(), "A")])).await;
    assert_eq!((synced.error_code, synced.assignment.as_ref()), (0, &b"A"[..]));
    member
}

#[test]
fn groups_are_where_kafka_puts_them() {
    // Java: "".hashCode() = 0, "g" = 103, "group" = 98629247, "polygenelubricants" = Integer.MIN_VALUE.
    for (group, partition) in [("", 0), ("g", 3), ("group", 47), ("polygenelubricants", 0)] {
        assert_eq!(partition_for(group, 50), partition, "{group}");
    }
    // Outside of the basic plane a character is two units: U+1F600 = D83D DE00, 55357 * 31 + 56832 = 1772899.
    assert_eq!(partition_for("\u{1F600}", 50), 1_772_899 % 50);
}

#[tokio::test]
async fn a_group_survives_the_loss_of_its_coordinator() {
    let log = MemoryLog::new(100);
    let (first, now) = coordinator(&log);
    let partition = partition_for("g", 50);
    assert_eq!(first.heartbeat("g", "m", None, 1), ErrorCode::CoordinatorLoadInProgress, "led, and not loaded yet");
    first.load(partition).await.unwrap();
    let member = stable(&first, &now).await;
    assert_eq!(first.commit(commit("g", &member, 1, 0, 42)).await, Ok(vec![ErrorCode::None]));
    assert_eq!(first.commit(commit("g", &member, 0, 0, 43)).await, Err(ErrorCode::IllegalGeneration));

    let (second, _) = coordinator(&log);
    second.load(partition).await.unwrap();
    assert_eq!(committed(&second, "g", 0), Some(42));
    let described = second.describe("g").unwrap().unwrap();
    assert_eq!((described.state, described.generation, described.members.len()), (State::Stable, 1, 1));
    assert_eq!(described.offsets["t"][&0].topic_id, Uuid::from_u128(5));
    assert_eq!(second.heartbeat("g", &member, None, 1), ErrorCode::None);
    assert_eq!(second.list().unwrap(), [("g".to_owned(), State::Stable, "consumer".to_owned())]);

    // The member leaves; then the group can go, and is gone after another load.
    assert_eq!(second.delete("g").await, Err(ErrorCode::NonEmptyGroup));
    assert_eq!(second.leave("g", &[(member, None)]).await, Ok(vec![ErrorCode::None]));
    assert_eq!(second.delete("g").await, Ok(()));
    assert_eq!((second.list().unwrap().len(), second.snapshot().len()), (0, 0));
    second.load(partition).await.unwrap();
    assert_eq!(second.delete("g").await, Err(ErrorCode::GroupIdNotFound));
    assert_eq!(committed(&second, "g", 0), None);
}

#[tokio::test]
async fn a_new_leader_serves_groups_only_when_all_of_its_log_is_safe() {
    let log = MemoryLog::new(100);
    let (first, now) = coordinator(&log);
    let partition = partition_for("g", 50);
    first.load(partition).await.unwrap();
    let member = stable(&first, &now).await;
    assert_eq!(first.commit(commit("g", &member, 1, 0, 42)).await, Ok(vec![ErrorCode::None]));

    // After all replicas were killed the high watermark is an old one until followers have fetched.
    log.high_watermark.store(0, Ordering::SeqCst);
    let (second, _) = coordinator(&log);
    let loading = tokio::spawn({
        let second = second.clone();
        async move { second.load(partition).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!loading.is_finished(), "an old state is not served");
    assert_eq!(second.heartbeat("g", &member, None, 1), ErrorCode::CoordinatorLoadInProgress);
    log.high_watermark.store(i64::MAX, Ordering::SeqCst);
    loading.await.unwrap().unwrap();
    assert_eq!(committed(&second, "g", 0), Some(42));
    assert_eq!(second.heartbeat("g", &member, None, 1), ErrorCode::None);
}

#[tokio::test]
async fn answers_wait_for_the_log_and_waiting_commits_share_a_batch() {
    let log = MemoryLog::new(0);
    let (coordinator, _) = coordinator(&log);
    let partition = partition_for("simple", 50);
    coordinator.load(partition).await.unwrap();
    let mut commits = Vec::new();
    for p in 0..10 {
        let coordinator = coordinator.clone();
        commits.push(tokio::spawn(async move { coordinator.commit(commit("simple", "", -1, p, 7)).await }));
        settle().await;
    }
    assert!(commits.iter().all(|c| !c.is_finished()), "nothing is durable");
    assert_eq!(committed(&coordinator, "simple", 0), None);
    log.permits.add_permits(2);
    for commit in commits {
        assert_eq!(commit.await.unwrap(), Ok(vec![ErrorCode::None]));
    }
    assert_eq!(committed(&coordinator, "simple", 9), Some(7));
    let counts: Vec<i32> = log.batches(partition).iter().map(|b| BatchHeader::parse(b).unwrap().record_count).collect();
    assert_eq!(counts.iter().sum::<i32>(), 10);
    assert_eq!(counts.len(), 2, "the first goes alone, the others that came meanwhile together: {counts:?}");
}

#[tokio::test]
async fn a_failed_append_is_told_and_changes_nothing() {
    let log = MemoryLog::new(100);
    let (coordinator, _) = coordinator(&log);
    coordinator.load(partition_for("simple", 50)).await.unwrap();
    log.fails.store(true, Ordering::SeqCst);
    let refused = coordinator.commit(commit("simple", "", -1, 0, 7)).await;
    assert_eq!(refused, Ok(vec![ErrorCode::NotCoordinator]));
    assert_eq!(coordinator.list().unwrap(), [], "the group was made for the commit and is gone with it");
    let unknown = coordinator.commit(commit("simple", "m", 4, 0, 7)).await;
    assert_eq!(unknown, Err(ErrorCode::GroupIdNotFound));
}

#[tokio::test]
async fn whoever_waits_is_sent_on_when_leadership_goes() {
    let log = MemoryLog::new(0);
    let (coordinator, _) = coordinator(&log);
    let partition = partition_for("g", 50);
    coordinator.load(partition).await.unwrap();
    let spawned = coordinator.clone();
    let joining = tokio::spawn(async move { spawned.join(join("")).await });
    let spawned = coordinator.clone();
    let (other, same) = ("g-other", partition_for("g-other", 50));
    coordinator.load(same).await.unwrap();
    let committing = tokio::spawn(async move { spawned.commit(commit(other, "", -1, 0, 1)).await });
    settle().await;
    coordinator.unload(partition);
    coordinator.unload(same);
    assert_eq!(joining.await.unwrap().error_code, ErrorCode::NotCoordinator.code());
    assert_eq!(committing.await.unwrap(), Ok(vec![ErrorCode::NotCoordinator]));
    assert_eq!(coordinator.heartbeat("g", "m", None, 1), ErrorCode::NotCoordinator);

    // Leadership comes back while the append is still under way: loading waits for it and then sees it.
    let loading = tokio::spawn({
        let coordinator = coordinator.clone();
        async move { coordinator.load(same).await }
    });
    settle().await;
    assert!(!loading.is_finished());
    assert_eq!(coordinator.fetch(other, |_| ()), Err(ErrorCode::CoordinatorLoadInProgress));
    assert_eq!(coordinator.list(), Err(ErrorCode::CoordinatorLoadInProgress));
    log.permits.add_permits(10);
    loading.await.unwrap().unwrap();
    assert_eq!(committed(&coordinator, other, 0), Some(1));

    log.leads.store(false, Ordering::SeqCst);
    assert_eq!(coordinator.fetch(other, |_| ()), Err(ErrorCode::NotCoordinator));
    log.exists.store(false, Ordering::SeqCst);
    assert_eq!(coordinator.partition_for("g"), None);
}

#[tokio::test]
async fn one_task_carries_out_every_deadline() {
    let log = MemoryLog::new(100);
    let (coordinator, now) = coordinator(&log);
    coordinator.load(partition_for("g", 50)).await.unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let running = tokio::spawn(coordinator.clone().run(stopped));
    let spawned = coordinator.clone();
    let joining = tokio::spawn(async move { spawned.join(join("")).await });
    settle().await;
    now.fetch_add(3000, Ordering::SeqCst);
    let joined = tokio::time::timeout(Duration::from_secs(10), joining).await.expect("the task looks again").unwrap();
    assert_eq!(joined.error_code, 0);
    // Nobody sends a heartbeat: the member is out and the empty group is written; after the retention it is gone.
    now.fetch_add(10_000, Ordering::SeqCst);
    let gone = async {
        loop {
            let states: Vec<State> = coordinator.snapshot().iter().map(|g| g.state).collect();
            if states == [State::Empty] {
                now.fetch_add(2_000_000, Ordering::SeqCst);
            } else if states.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("sessions and retention end");
    let spawned = coordinator.clone();
    let parked = tokio::spawn(async move { spawned.join(join("")).await });
    settle().await;
    stop.send(true).unwrap();
    running.await.unwrap();
    assert_eq!(parked.await.unwrap().error_code, ErrorCode::NotCoordinator.code(), "nobody is left waiting");
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    let log = MemoryLog::new(100);
    let (coordinator, _) = coordinator(&log);
    coordinator.load(partition_for("g", 50)).await.unwrap();
    let code = |response: strandline_protocol::messages::join_group_response::JoinGroupResponse| response.error_code;
    let short = coordinator.join(JoinGroup { session_timeout_ms: 5999, ..join("") }).await;
    assert_eq!(code(short), ErrorCode::InvalidSessionTimeout.code());
    let nameless = coordinator.join(JoinGroup { group_id: String::new(), ..join("") }).await;
    assert_eq!(code(nameless), ErrorCode::InvalidGroupId.code());
    assert_eq!(code(coordinator.join(join("stranger")).await), ErrorCode::UnknownMemberId.code());
    let long = coordinator.join(JoinGroup { protocol_type: "x".repeat(20_000), ..join("") }).await;
    assert_eq!(code(long), ErrorCode::InvalidRequest.code());
    let no_protocol = coordinator.join(JoinGroup { protocols: Vec::new(), ..join("") }).await;
    assert_eq!(code(no_protocol), ErrorCode::InconsistentGroupProtocol.code());
    assert_eq!(coordinator.list().unwrap(), [], "no group stays behind");
    assert_eq!(coordinator.delete_offsets("g", &[]).await, Err(ErrorCode::GroupIdNotFound));
    assert_eq!(coordinator.describe("g"), Ok(None));
    let left = coordinator.leave("g", &[("m".to_owned(), None)]).await;
    assert_eq!(left, Ok(vec![ErrorCode::UnknownMemberId]));
}
