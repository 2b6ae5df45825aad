//! The child's side of a plugin: takes the limits, then becomes the executable, or loads the library or the database's driver and answers for it.
//!
//! Runs as `strandline plugin-host` in a process of its own, which belongs to one task. Owns the limits of that process (address space, no
//! core files, death with the worker) and, for a library, standard input and output: what the library prints goes to standard error.
//! A crash here is the plugin's, and its task's.

#![allow(unsafe_code)]

use std::fs::File;
use std::io::{Cursor, Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use arrow::array::RecordBatch;
use arrow::ipc::reader::StreamReader;
use rustix::process::{Pid, Resource, Rlimit, Signal, getppid, set_parent_process_death_signal, setrlimit};

use super::frame::{self, Answer, Call, HEAD_BYTES, Request};
use super::library::{self, Inside, Loaded};
use super::manifest::Kind;
use crate::sinks::adbc::hosted::Driven;

/// What the command line of `plugin-host` says.
#[derive(Debug)]
pub struct Hosted {
    /// The worker's process.
    pub parent: u32,
    /// Bytes of address space.
    pub memory_max: u64,
    pub kind: Kind,
    pub file: PathBuf,
    pub arguments: Vec<String>,
}

/// Runs the plugin to its end. Err = why it could not be, for standard error.
pub fn run(hosted: &Hosted) -> Result<(), String> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| format!("not tied to the worker: {e}"))?;
    let parent = i32::try_from(hosted.parent).ok().and_then(Pid::from_raw);
    if getppid() != parent {
        return Err("the worker is gone".to_owned());
    }
    for (resource, limit) in [(Resource::As, hosted.memory_max), (Resource::Core, 0)] {
        setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })
            .map_err(|e| format!("a limit of {limit} bytes was refused: {e}"))?;
    }
    match hosted.kind {
        Kind::Executable => {
            let error = Command::new(&hosted.file).args(&hosted.arguments).exec();
            Err(format!(
                "{} does not start: {error}; see that it and what its first line names are there",
                hosted.file.display()
            ))
        }
        Kind::Library => serve(&hosted.file, |file| Ok(Inside::Library(Loaded::load(file)?))),
        Kind::Adbc => {
            let name = hosted.arguments.first().ok_or("the driver has no name")?;
            serve(&hosted.file, |file| Ok(Inside::Driver(Box::new(Driven::load(file, name)?))))
        }
    }
}

/// Standard output for answers alone; file descriptor 1 becomes standard error.
fn own_output() -> std::io::Result<File> {
    let own = std::io::stdout().as_fd().try_clone_to_owned()?;
    // SAFETY: descriptor 1 is open, and stays so: it is given back to nobody when `out` is forgotten.
    let mut out = unsafe { OwnedFd::from_raw_fd(1) };
    let changed = rustix::io::dup2(std::io::stderr().as_fd(), &mut out);
    std::mem::forget(out);
    changed?;
    Ok(File::from(own))
}

fn serve(file: &Path, load: impl Fn(&Path) -> Result<Inside, String>) -> Result<(), String> {
    let mut output = own_output().map_err(|e| format!("standard output: {e}"))?;
    let mut input = std::io::stdin().lock();
    let mut inside = None;
    while let Some((request, rows)) = receive(&mut input)? {
        let streams = if let Call::Write { streams, .. } = request.call { streams } else { 0 };
        let told = match batches(&rows, streams) {
            Ok(batches) => library::answer(&mut inside, || load(file), &request.call, batches),
            Err(message) => library::fatal(message),
        };
        let answer = Answer { id: request.id, ..told };
        let bytes = frame::encoded(&answer, 0).ok_or("an answer over the limit of its length")?;
        // The worker may have gone on without this task.
        if output.write_all(&bytes).is_err() {
            break;
        }
    }
    if let Some(inside) = inside {
        inside.stop();
    }
    Ok(())
}

/// The next call; None = the worker has closed the pipe.
fn receive(input: &mut impl Read) -> Result<Option<(Request, Vec<u8>)>, String> {
    let mut head = [0; HEAD_BYTES];
    if input.read(&mut head[..1]).map_err(|e| e.to_string())? == 0 {
        return Ok(None);
    }
    input.read_exact(&mut head[1..]).map_err(|e| format!("half a call: {e}"))?;
    let (json, rows) = frame::head(head).map_err(|e| e.to_string())?;
    let mut bytes = vec![0; json + rows];
    input.read_exact(&mut bytes).map_err(|e| format!("half a call: {e}"))?;
    let request = serde_json::from_slice(&bytes[..json]).map_err(|e| format!("a call of another version: {e}"))?;
    bytes.drain(..json);
    Ok(Some((request, bytes)))
}

/// Arrow IPC streams, one behind the other.
fn batches(rows: &[u8], streams: usize) -> Result<Vec<RecordBatch>, String> {
    let unreadable = |e| format!("rows cannot be read: {e}");
    let mut batches = Vec::new();
    let mut cursor = Cursor::new(rows);
    for _ in 0..streams {
        for batch in StreamReader::try_new(&mut cursor, None).map_err(unreadable)? {
            batches.push(batch.map_err(unreadable)?);
        }
    }
    Ok(batches)
}
