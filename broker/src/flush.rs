//! Group commit: threads per log directory that sync what was appended and let high watermarks rise.
//!
//! Owns the queue of partitions with unsynced appends, and when they are synced: at once if their appends wait for it
//! (`flush.messages=1`), otherwise when their `flush.ms` is over. Does not own files (a [`strandline_log::Flush`] names
//! them) nor what a failure means (the directory goes offline, see `log_dir`).
//! What is appended while a partition's sync is under way is synced together by the next one; several partitions are
//! synced side by side, because one device takes many syncs at once for about the price of one.
//! Invariants: a partition is in the queue at most once and is synced by one thread at a time; a failed sync is never
//! tried again.
//! A crash leaves appends unsynced that nobody was told are safe.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use strandline_disk::{SyncTime, Workers};
use strandline_protocol::ids::TopicPartition;
use tokio::sync::Notify;

use crate::clock;
use crate::partition::Partition;

/// Syncs of one directory under way at once.
const SYNC_THREADS: usize = 8;

#[derive(Default)]
struct Queue {
    /// To be synced now, oldest first.
    due: VecDeque<Arc<Partition>>,
    /// To be synced at their time.
    later: HashMap<TopicPartition, (Instant, Arc<Partition>)>,
    stopping: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Beside `wake`, if tasks do the work.
    wake_task: Option<Notify>,
}

impl Shared {
    fn wake_one(&self) {
        match &self.wake_task {
            None => drop(self.wake.notify_one()),
            Some(notify) => notify.notify_one(),
        }
    }
}

/// The way to a directory's flusher.
pub struct Flusher {
    shared: Arc<Shared>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

impl Flusher {
    /// Starts the threads; `name` is for debuggers.
    pub fn start(name: &str, workers: &Workers) -> io::Result<Flusher> {
        if let Workers::Tasks(sync_time) = workers {
            return Ok(Flusher::start_tasks(sync_time));
        }
        let flusher = Flusher { shared: Arc::new(Shared::default()), threads: Mutex::default() };
        for number in 0..SYNC_THREADS {
            let shared = Arc::clone(&flusher.shared);
            let builder = std::thread::Builder::new().name(format!("{name}-{number}"));
            flusher.threads.lock().push(builder.spawn(move || run(&shared))?);
        }
        Ok(flusher)
    }

    fn start_tasks(sync_time: &SyncTime) -> Flusher {
        let shared = Arc::new(Shared { wake_task: Some(Notify::new()), ..Default::default() });
        for _ in 0..SYNC_THREADS {
            tokio::spawn(run_as_task(Arc::clone(&shared), Arc::clone(sync_time)));
        }
        Flusher { shared, threads: Mutex::default() }
    }

    /// A flusher without threads: whoever drives the node takes what is due ([`Flusher::take_due`]) and syncs it.
    pub fn by_hand() -> Flusher {
        Flusher { shared: Arc::default(), threads: Mutex::default() }
    }

    /// The next partition to be synced, by [`Partition::begin_flush_in_turn`] and [`Partition::finish_flush_in_turn`].
    pub fn take_due(&self) -> Option<Arc<Partition>> {
        self.shared.queue.lock().due.pop_front()
    }

    /// Syncs the partition as soon as a thread is free. The caller makes sure that it is in the queue once
    /// (`Partition::ask_for_flush`).
    pub fn now(&self, partition: Arc<Partition>) {
        let mut queue = self.shared.queue.lock();
        queue.due.push_back(partition);
        drop(queue);
        self.shared.wake_one();
    }

    /// Syncs the partition at `at`, unless an earlier time is set.
    pub fn at(&self, at: Instant, partition: Arc<Partition>) {
        let mut queue = self.shared.queue.lock();
        queue.later.entry(partition.tp).or_insert((at, partition));
        drop(queue);
        self.shared.wake_one();
    }

    /// Ends the threads after the syncs under way.
    pub fn stop(&self) {
        self.shared.queue.lock().stopping = true;
        self.shared.wake.notify_all();
        if let Some(notify) = &self.shared.wake_task {
            notify.notify_waiters();
        }
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if thread.join().is_err() {
                tracing::error!("a flusher thread panicked");
            }
        }
    }
}

/// What a worker does next.
enum Next {
    Sync(Arc<Partition>),
    /// Nothing before this time; `None` = before something is put into the queue.
    Wait(Option<Instant>),
    End,
}

fn next(queue: &mut Queue) -> Next {
    let later = take_expired(queue);
    if queue.stopping {
        return Next::End;
    }
    queue.due.pop_front().map_or(Next::Wait(later), Next::Sync)
}

fn run(shared: &Shared) {
    loop {
        let partition = {
            let mut queue = shared.queue.lock();
            loop {
                match next(&mut queue) {
                    Next::Sync(partition) => break partition,
                    Next::Wait(Some(at)) => drop(shared.wake.wait_until(&mut queue, at)),
                    Next::Wait(None) => shared.wake.wait(&mut queue),
                    Next::End => return,
                }
            }
        };
        let flush = partition.begin_flush_in_turn();
        partition.finish_flush_in_turn(flush);
    }
}

async fn run_as_task(shared: Arc<Shared>, sync_time: SyncTime) {
    let Some(wake) = &shared.wake_task else { return };
    loop {
        let woken = wake.notified();
        let next = next(&mut shared.queue.lock());
        match next {
            Next::Sync(partition) => {
                let flush = partition.begin_flush_in_turn();
                tokio::time::sleep(sync_time()).await;
                partition.finish_flush_in_turn(flush);
            }
            Next::Wait(None) => woken.await,
            Next::Wait(Some(at)) => drop(tokio::time::timeout_at(at.into(), woken).await),
            Next::End => return,
        }
    }
}

/// Moves what is due from `later`; returns the next time at which something will be.
fn take_expired(queue: &mut Queue) -> Option<Instant> {
    if queue.later.is_empty() {
        return None;
    }
    let now = clock::monotonic();
    let expired: Vec<TopicPartition> =
        queue.later.iter().filter(|(_, (at, _))| *at <= now).map(|(tp, _)| *tp).collect();
    for tp in expired {
        if let Some((_, partition)) = queue.later.remove(&tp) {
            partition.ask_for_flush_from(|partition| queue.due.push_back(partition));
        }
    }
    queue.later.values().map(|(at, _)| *at).min()
}
