//! A library in the worker's own process: `plugin.isolation=in-process`, for those who want no pipe between worker and plugin.
//!
//! Owns one thread for each task, on which all functions of the library are called, one after another. Does not own the library's calls
//! (`library`). Invariants: one call is under way; whoever waits for an answer may go, the thread cannot be stopped and goes on with
//! nobody to hear it. Limits of memory, and being killed, are what a process of its own is for: a crash here is the worker's.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use arrow::array::RecordBatch;
use tokio::sync::oneshot;

use super::frame::{Answer, Call};
use super::library::{self, Loaded};
use super::manifest::Manifest;
use crate::registry::TaskContext;

/// Calls that wait: the next one comes after the answer to the last.
const CALLS_MAX: usize = 1;

struct Asked {
    call: Call,
    batches: Vec<RecordBatch>,
    answer: oneshot::Sender<Answer>,
}

/// The library's thread. Ends, and stops the sink, when this is dropped.
pub struct InProcess {
    calls: SyncSender<Asked>,
}

impl InProcess {
    /// Starts the thread; the library is loaded by the call `start`.
    pub fn start(manifest: &Manifest, context: &TaskContext) -> io::Result<InProcess> {
        let (calls, asked) = sync_channel(CALLS_MAX);
        let file = manifest.file.clone();
        let load = move || Loaded::load(&file).map(library::Inside::Library);
        std::thread::Builder::new()
            .name(format!("plugin {}-{}", context.connector, context.task))
            .spawn(move || serve(&load, &asked))?;
        Ok(InProcess { calls })
    }

    /// One call. `None`: the thread has ended, or is still at an earlier call.
    pub async fn ask(&self, call: Call, batches: Vec<RecordBatch>) -> Option<Answer> {
        let (answer, answered) = oneshot::channel();
        self.calls.try_send(Asked { call, batches, answer }).ok()?;
        answered.await.ok()
    }
}

fn serve(load: &impl Fn() -> Result<library::Inside, String>, asked: &Receiver<Asked>) {
    let mut inside = None;
    while let Ok(Asked { call, batches, answer }) = asked.recv() {
        // Whoever asked may have gone on without this task.
        let _ = answer.send(library::answer(&mut inside, load, &call, batches));
    }
    if let Some(inside) = inside {
        inside.stop();
    }
}
