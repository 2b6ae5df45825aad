//! A few threads for blocking file I/O: reads of the segment being copied, writes of chunk files.
//!
//! Owns: its threads, which end when the pool is dropped. Does not own: the files.
//! At most [`QUEUE_LIMIT`] jobs wait or run; more callers wait in order. A caller that goes away does not stop its job.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

/// Jobs accepted and not finished.
pub const QUEUE_LIMIT: usize = 64;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Debug)]
pub struct IoPool {
    /// `None` if there are no threads.
    sender: Option<Mutex<Sender<Job>>>,
    slots: Arc<Semaphore>,
}

impl IoPool {
    /// With no threads, jobs run on the caller's task and block it: for tests that stop the clock, which threads do not heed.
    pub fn start(threads: usize) -> io::Result<IoPool> {
        let (sender, receiver) = channel::<Job>();
        let receiver = Arc::new(Mutex::new(receiver));
        for number in 0..threads {
            let receiver = Arc::clone(&receiver);
            std::thread::Builder::new().name(format!("tier-io-{number}")).spawn(move || work(&receiver))?;
        }
        Ok(IoPool { sender: (threads > 0).then(|| Mutex::new(sender)), slots: Arc::new(Semaphore::new(QUEUE_LIMIT)) })
    }

    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(io::Error::other)?;
        let Some(sender) = &self.sender else { return Ok(job()) };
        let (reply, answer) = oneshot::channel();
        let job = move || {
            // The caller may be gone; its job was worth finishing all the same.
            let _ = reply.send(job());
            drop(slot);
        };
        sender.lock().send(Box::new(job)).map_err(|_| io::Error::other("the I/O threads have ended"))?;
        answer.await.map_err(|_| io::Error::other("an I/O job panicked"))
    }
}

fn work(receiver: &Mutex<Receiver<Job>>) {
    loop {
        let job = receiver.lock().recv();
        let Ok(job) = job else { return };
        // A panic in a job is answered by its dropped channel; the thread goes on.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
    }
}
