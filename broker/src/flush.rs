//! Group commit: one thread per log directory that syncs what was appended and lets high watermarks rise.
//!
//! Owns the queue of partitions with unsynced appends, and when they are synced: at once if their appends wait for it
//! (`flush.messages=1`), otherwise when their `flush.ms` is over. Does not own files (a [`strandline_log::Flush`] names
//! them) nor what a failure means (the directory goes offline, see `log_dir`).
//! Invariants: a partition is in the queue at most once; a failed sync is never tried again.
//! A crash leaves appends unsynced that nobody was told are safe.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use strandline_protocol::ids::TopicPartition;

use crate::clock;
use crate::partition::Partition;

#[derive(Default)]
struct Queue {
    /// To be synced in the next round.
    due: Vec<Arc<Partition>>,
    /// To be synced at their time.
    later: HashMap<TopicPartition, (Instant, Arc<Partition>)>,
    stopping: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

/// The way to a directory's flusher.
pub struct Flusher {
    shared: Arc<Shared>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Flusher {
    /// Starts the thread; `name` is for debuggers.
    pub fn start(name: &str) -> io::Result<Flusher> {
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&for_thread))?;
        Ok(Flusher { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Syncs the partition in the next round. The caller makes sure that it is asked for once until then
    /// ([`Partition::flush_taken`]).
    pub fn now(&self, partition: Arc<Partition>) {
        let mut queue = self.shared.queue.lock();
        queue.due.push(partition);
        drop(queue);
        self.shared.wake.notify_one();
    }

    /// Syncs the partition at `at`, unless an earlier time is set.
    pub fn at(&self, at: Instant, partition: Arc<Partition>) {
        let mut queue = self.shared.queue.lock();
        queue.later.entry(partition.tp).or_insert((at, partition));
        drop(queue);
        self.shared.wake.notify_one();
    }

    /// Ends the thread after the round under way.
    pub fn stop(&self) {
        self.shared.queue.lock().stopping = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("a flusher thread panicked");
        }
    }
}

fn run(shared: &Shared) {
    loop {
        let round = {
            let mut queue = shared.queue.lock();
            loop {
                let next = take_expired(&mut queue);
                if queue.stopping {
                    return;
                }
                if !queue.due.is_empty() {
                    break std::mem::take(&mut queue.due);
                }
                match next {
                    Some(at) => {
                        shared.wake.wait_until(&mut queue, at);
                    }
                    None => shared.wake.wait(&mut queue),
                }
            }
        };
        for partition in &round {
            partition.flush();
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
            queue.due.push(partition);
        }
    }
    queue.later.values().map(|(at, _)| *at).min()
}
