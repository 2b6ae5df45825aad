//! One partition of `__consumer_offsets` that this node leads: its groups, and the writes on their way to the log.
//!
//! Owns the parked requests and the order of writes. One task at a time appends, taking the queued writes together, so
//! that commits that wait for the same sync share a batch; their groups hear of it in the order of the log.
//! Invariants: no lock is held while the log appends. A partition that was closed stays closed; leadership that comes
//! back loads a new one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use strandline_protocol::compression::Compression;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::record_batch::RecordBatchBuilder;
use tokio::sync::{Notify, oneshot};

use super::coordinator::GroupCoordinator;
use super::join::join_refused;
use super::outcomes::{Answer, Outcomes, Ticket, Write, append_failure};
use super::rebalance::sync_refused;
use super::state::{Group, Step};

/// Writes of one partition that may be queued before requests are refused. Deadlines add at most one per group.
const QUEUED_WRITES_MAX: usize = 10_000;
/// Writes are merged into one batch up to this many bytes; a single write may be larger.
const MERGED_BATCH_BYTES: usize = 256 << 10;

/// Whether requests can be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Loading,
    Active,
    Closed,
}

/// What a parked request waits on.
pub(super) type Parked = oneshot::Receiver<Answer>;

/// A partition of `__consumer_offsets`.
pub(super) struct Partition {
    number: i32,
    inner: Mutex<Inner>,
    /// Signalled when the appending task ends.
    idle: Notify,
}

struct Inner {
    status: Status,
    groups: BTreeMap<String, Group>,
    parked: BTreeMap<Ticket, oneshot::Sender<Answer>>,
    next_ticket: u64,
    queue: VecDeque<(String, Write)>,
    appending: bool,
}

/// Ends the appending state however the task ends; if it ends by a panic, the partition is closed, since what is in the
/// log is not known.
struct Appending {
    partition: Arc<Partition>,
    finished: bool,
}

impl Drop for Appending {
    fn drop(&mut self) {
        if !self.finished {
            self.partition.close();
            self.partition.inner.lock().appending = false;
        }
        self.partition.idle.notify_waiters();
    }
}

impl Partition {
    /// A partition that is being loaded.
    pub(super) fn loading(number: i32) -> Arc<Self> {
        let inner = Inner {
            status: Status::Loading,
            groups: BTreeMap::new(),
            parked: BTreeMap::new(),
            next_ticket: 0,
            queue: VecDeque::new(),
            appending: false,
        };
        Arc::new(Partition { number, inner: Mutex::new(inner), idle: Notify::new() })
    }

    pub(super) fn number(&self) -> i32 {
        self.number
    }

    /// Refuses with what Kafka says of a partition that cannot serve.
    pub(super) fn check(&self) -> Result<(), ErrorCode> {
        self.inner.lock().check()
    }

    /// Serves `groups` from now on; false if the partition was closed meanwhile.
    pub(super) fn activate(&self, groups: BTreeMap<String, Group>) -> bool {
        let mut inner = self.inner.lock();
        if inner.status != Status::Loading {
            return false;
        }
        inner.groups = groups;
        inner.status = Status::Active;
        true
    }

    /// Serves nothing any more; whoever waits is sent to the next coordinator.
    pub(super) fn close(&self) {
        let mut inner = self.inner.lock();
        inner.status = Status::Closed;
        inner.queue.clear();
        let groups = std::mem::take(&mut inner.groups);
        let mut refused = Outcomes::default();
        for (id, member) in groups.values().flat_map(|g| g.members()) {
            if let Some(ticket) = member.awaiting_join {
                refused.answer(ticket, Answer::Join(join_refused(id, ErrorCode::NotCoordinator)));
            }
            if let Some(ticket) = member.awaiting_sync {
                refused.answer(ticket, Answer::Sync(sync_refused(ErrorCode::NotCoordinator)));
            }
        }
        inner.send(refused.answers);
        for (_, sender) in std::mem::take(&mut inner.parked) {
            let _ = sender.send(Answer::Done(ErrorCode::NotCoordinator));
        }
    }

    /// Waits until no append is under way.
    pub(super) async fn until_idle(&self) {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            idle.as_mut().enable();
            if !self.inner.lock().appending {
                return;
            }
            idle.await;
        }
    }

    /// The ids of all groups.
    pub(super) fn group_ids(&self) -> Vec<String> {
        self.inner.lock().groups.keys().cloned().collect()
    }

    /// Looks at a group, if the partition serves and has it.
    pub(super) fn look<R>(&self, group: &str, look: impl FnOnce(&Group) -> R) -> Result<Option<R>, ErrorCode> {
        let inner = self.inner.lock();
        // Under the same lock: a partition that is being closed must not look as if the group had no offsets.
        inner.check()?;
        Ok(inner.groups.get(group).map(look))
    }

    /// Looks at every group, in the order of their ids.
    pub(super) fn look_at_all<R>(&self, look: impl FnMut(&Group) -> R) -> Vec<R> {
        self.inner.lock().groups.values().map(look).collect()
    }
}

/// What a request does to its group; it may park itself under the ticket.
pub(super) struct Stepped<R> {
    /// `None` = there is no such group.
    pub result: Option<R>,
    /// Present if the request waits for an answer.
    pub parked: Option<Parked>,
}

impl GroupCoordinator {
    /// Takes `group` through one step. `create` makes it if it is not there. `limited` refuses while the log cannot keep
    /// up: for everything that clients send.
    pub(super) fn step<R>(
        self: &Arc<Self>,
        partition: &Arc<Partition>,
        group: &str,
        create: bool,
        limited: bool,
        act: impl FnOnce(&mut Group, Ticket, &mut Step<'_>) -> R,
    ) -> Result<Stepped<R>, ErrorCode> {
        let now_ms = self.now_ms();
        let mut inner = partition.inner.lock();
        inner.check()?;
        if limited && inner.queue.len() >= QUEUED_WRITES_MAX {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        if create && !inner.groups.contains_key(group) {
            inner.groups.insert(group.to_owned(), Group::new(group, now_ms));
        }
        let ticket = Ticket(inner.next_ticket);
        inner.next_ticket += 1;
        let mut out = Outcomes::default();
        let Some(state) = inner.groups.get_mut(group) else { return Ok(Stepped { result: None, parked: None }) };
        let result = act(state, ticket, &mut Step { settings: self.settings(), now_ms, out: &mut out });
        let waits = |m: &super::member::Member| m.awaiting_join == Some(ticket) || m.awaiting_sync == Some(ticket);
        let is_parked = out.answers.iter().any(|(t, _)| *t == ticket)
            || out.writes.iter().any(|w| w.waiting == Some(ticket))
            || state.members().values().any(waits);
        let parked = is_parked.then(|| {
            let (sender, receiver) = oneshot::channel();
            inner.parked.insert(ticket, sender);
            receiver
        });
        self.settle(partition, &mut inner, group, out);
        if !inner.appending && !inner.queue.is_empty() {
            inner.appending = true;
            tokio::spawn(append_queued(self.clone(), partition.clone()));
        }
        Ok(Stepped { result: Some(result), parked })
    }

    fn settle(&self, partition: &Partition, inner: &mut Inner, group: &str, out: Outcomes) {
        inner.send(out.answers);
        inner.queue.extend(out.writes.into_iter().map(|write| (group.to_owned(), write)));
        let deadline = inner.groups.get(group).and_then(Group::next_deadline);
        if inner.groups.get(group).is_some_and(Group::is_vacant) {
            inner.groups.remove(group);
        }
        self.set_deadline(partition.number, group, deadline);
    }

    /// Tells the groups what became of their writes. More writes may follow from it.
    fn written(&self, partition: &Partition, writes: Vec<(String, Write)>, result: Result<(), ErrorCode>) {
        let now_ms = self.now_ms();
        let mut inner = partition.inner.lock();
        for (group, write) in writes {
            let mut out = Outcomes::default();
            if let Some(state) = inner.groups.get_mut(&group) {
                state.written(write, result, &mut Step { settings: self.settings(), now_ms, out: &mut out });
                self.settle(partition, &mut inner, &group, out);
            }
        }
    }
}

impl Inner {
    fn check(&self) -> Result<(), ErrorCode> {
        match self.status {
            Status::Active => Ok(()),
            Status::Loading => Err(ErrorCode::CoordinatorLoadInProgress),
            Status::Closed => Err(ErrorCode::NotCoordinator),
        }
    }

    fn send(&mut self, answers: Vec<(Ticket, Answer)>) {
        for (ticket, answer) in answers {
            if let Some(sender) = self.parked.remove(&ticket) {
                // The client may be gone.
                let _ = sender.send(answer);
            }
        }
    }

    /// The next writes to append together; none ends the appending.
    fn take_writes(&mut self) -> Vec<(String, Write)> {
        let mut bytes = 0;
        let mut taken = Vec::new();
        while let Some((_, write)) = self.queue.front() {
            bytes += write.records.iter().map(super::records::LogRecord::len).sum::<usize>();
            if !taken.is_empty() && bytes > MERGED_BATCH_BYTES {
                break;
            }
            taken.extend(self.queue.pop_front());
        }
        self.appending = !taken.is_empty();
        taken
    }
}

fn batch_of(writes: &[(String, Write)], now_ms: i64) -> Bytes {
    let mut batch = RecordBatchBuilder::new(Compression::None);
    for record in writes.iter().flat_map(|(_, write)| &write.records) {
        batch.append(now_ms, Some(&record.key), record.value.as_deref(), &[]);
    }
    batch.build()
}

/// Appends what is queued, and what is queued meanwhile, then ends.
async fn append_queued(coordinator: Arc<GroupCoordinator>, partition: Arc<Partition>) {
    let mut appending = Appending { partition: partition.clone(), finished: false };
    loop {
        let writes = partition.inner.lock().take_writes();
        if writes.is_empty() {
            appending.finished = true;
            return;
        }
        let batch = batch_of(&writes, coordinator.now_ms());
        let appended = coordinator.log().append(partition.number, batch).await;
        if let Err(code) = appended {
            tracing::warn!(partition = partition.number, %code, writes = writes.len(), "append to the offsets topic failed");
        }
        coordinator.written(&partition, writes, appended.map_err(append_failure));
    }
}

impl std::fmt::Debug for Partition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let inner = self.inner.lock();
        let (groups, queued) = (inner.groups.len(), inner.queue.len());
        write!(f, "Partition {{ {}, {:?}, groups: {groups}, queued: {queued} }}", self.number, inner.status)
    }
}
