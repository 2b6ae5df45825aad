//! The child's side of a plugin: takes the limits, then becomes the executable, or loads the library or the database's driver and answers for it.
//!
//! Runs as `strandline plugin-host` in a process of its own, which belongs to one task. Owns the limits of that process (address space, no
//! core files, death with the worker) and, for a library, standard input and output: what the library prints goes to standard error. The
//! one place where foreign code is loaded, and therefore one of the few with unsafe code. A crash here is the plugin's, and its task's.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs::File;
use std::io::{Cursor, Read, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use arrow::array::{Array, RecordBatch, StructArray};
use arrow::ffi::{FFI_ArrowArray, FFI_ArrowSchema, to_ffi};
use arrow::ipc::reader::StreamReader;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use rustix::process::{Pid, Resource, Rlimit, Signal, getppid, set_parent_process_death_signal, setrlimit};

use super::abi::{self, code};
use super::frame::{self, Answer, Call, ErrorKind, HEAD_BYTES, PROTOCOL, Position, Request};
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
        let answer = Answer { id: request.id, ..answer(&mut inside, file, &load, &request.call, &rows) };
        let bytes = frame::encoded(&answer, 0).ok_or("an answer over the limit of its length")?;
        // The worker may have gone on without this task.
        if output.write_all(&bytes).is_err() {
            break;
        }
    }
    if let Some(Inside::Library(sink)) = inside {
        sink.stop();
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

fn fatal(message: impl Into<String>) -> Answer {
    Answer { error: Some(ErrorKind::Fatal), message: message.into(), ..Answer::default() }
}

/// What the process was started for.
enum Inside {
    Library(Loaded),
    Driver(Box<Driven>),
}

impl Inside {
    fn call(&mut self, call: &Call, rows: &[u8]) -> Result<Answer, String> {
        match self {
            Inside::Library(library) => library.call(call, rows),
            Inside::Driver(driver) => {
                let streams = if let Call::Write { streams, .. } = call { *streams } else { 0 };
                Ok(driver.answer(call, &batches(rows, streams)?))
            }
        }
    }
}

fn answer(
    inside: &mut Option<Inside>,
    file: &Path,
    load: &impl Fn(&Path) -> Result<Inside, String>,
    call: &Call,
    rows: &[u8],
) -> Answer {
    let known = match (call, &mut *inside) {
        (Call::Start { protocol, .. }, None) if *protocol == PROTOCOL => match load(file) {
            Ok(loaded) => inside.insert(loaded),
            Err(message) => return fatal(message),
        },
        (Call::Start { protocol, .. }, _) => {
            return fatal(format!("protocol {protocol} is not spoken, or was started"));
        }
        (_, Some(inside)) => inside,
        (_, None) => return fatal("it was not started"),
    };
    known.call(call, rows).unwrap_or_else(fatal)
}

/// A library, and what its `start` returned.
struct Loaded {
    sink: *mut c_void,
    start: abi::StartFn,
    open: abi::PositionsFn,
    write: abi::WriteFn,
    flush: abi::FlushFn,
    close: abi::PositionsFn,
    stop: abi::StopFn,
    /// Never unloaded: a library may have threads, and the process ends with it.
    _library: std::mem::ManuallyDrop<Library>,
}

fn text(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| format!("{text:?} has a zero byte in it"))
}

/// A function of a library.
///
/// # Safety
/// `F` is the type that the header gives to `name`.
unsafe fn function<F: Copy>(library: &Library, name: &str) -> Result<F, String> {
    // SAFETY: as the caller promises.
    let found = unsafe { library.get::<F>(name.as_bytes()) };
    found.map(|symbol| *symbol).map_err(|_| format!("it does not export {name}: see strandline_sink.h"))
}

impl Loaded {
    fn load(file: &Path) -> Result<Loaded, String> {
        // SAFETY: what the library's initialisers do is its own doing, in a process that is its own.
        let library = unsafe { Library::open(Some(file), RTLD_NOW | RTLD_LOCAL) };
        let library = std::mem::ManuallyDrop::new(library.map_err(|e| format!("it cannot be loaded: {e}"))?);
        // SAFETY: the types are those of the header, whose version is asked for first.
        unsafe {
            let version = function::<abi::AbiFn>(&library, "strandline_sink_abi")?();
            if version != abi::VERSION {
                let ours = abi::VERSION;
                return Err(format!(
                    "it was built for version {version} of strandline_sink.h, this is {ours}: build it anew"
                ));
            }
            Ok(Loaded {
                sink: std::ptr::null_mut(),
                start: function(&library, "strandline_sink_start")?,
                open: function(&library, "strandline_sink_open")?,
                write: function(&library, "strandline_sink_write")?,
                flush: function(&library, "strandline_sink_flush")?,
                close: function(&library, "strandline_sink_close")?,
                stop: function(&library, "strandline_sink_stop")?,
                _library: library,
            })
        }
    }

    fn call(&mut self, call: &Call, rows: &[u8]) -> Result<Answer, String> {
        match call {
            Call::Start { connector, task, spool, settings, .. } => {
                self.started(&text(connector)?, *task, &text(spool)?, settings)
            }
            Call::Open { partitions } => self.positions(self.open, partitions),
            Call::Close { partitions } => self.positions(self.close, partitions),
            Call::Write { topic, partition, first_offset, next_offset, streams } => {
                let (mut schemas, mut arrays) = columns(rows, *streams)?;
                let topic = text(topic)?;
                let mut rows = abi::Rows {
                    topic: topic.as_ptr(),
                    partition: *partition,
                    first_offset: *first_offset,
                    next_offset: *next_offset,
                    count: arrays.len(),
                    schemas: schemas.as_mut_ptr(),
                    arrays: arrays.as_mut_ptr(),
                };
                // SAFETY: everything that is pointed to lives until the call returns; what the library took over has no `release` any more.
                Ok(replied(|reply| unsafe { (self.write)(self.sink, &raw mut rows, reply) }))
            }
            Call::Flush { now_ms, force } => {
                // SAFETY: as the header says.
                Ok(replied(|reply| unsafe { (self.flush)(self.sink, *now_ms, c_int::from(*force), reply) }))
            }
        }
    }

    fn started(
        &mut self,
        connector: &CStr,
        task: u32,
        spool: &CStr,
        settings: &std::collections::BTreeMap<String, String>,
    ) -> Result<Answer, String> {
        let texts: Vec<(CString, CString)> =
            settings.iter().map(|(k, v)| Ok((text(k)?, text(v)?))).collect::<Result<_, String>>()?;
        let settings: Vec<abi::Setting> =
            texts.iter().map(|(k, v)| abi::Setting { name: k.as_ptr(), value: v.as_ptr() }).collect();
        let task = abi::Task {
            connector: connector.as_ptr(),
            task,
            spool: spool.as_ptr(),
            settings: settings.as_ptr(),
            settings_count: settings.len(),
        };
        // SAFETY: everything that is pointed to lives until the call returns.
        Ok(replied(|reply| unsafe { (self.start)(&raw const task, &raw mut self.sink, reply) }))
    }

    fn positions(&self, function: abi::PositionsFn, partitions: &[Position]) -> Result<Answer, String> {
        let topics: Vec<CString> = partitions.iter().map(|p| text(&p.topic)).collect::<Result<_, String>>()?;
        let positions: Vec<abi::Position> = partitions
            .iter()
            .zip(&topics)
            .map(|(p, topic)| abi::Position {
                topic: topic.as_ptr(),
                partition: p.partition,
                offset: p.offset.unwrap_or(-1),
            })
            .collect();
        // SAFETY: everything that is pointed to lives until the call returns.
        Ok(replied(|reply| unsafe { function(self.sink, positions.as_ptr(), positions.len(), reply) }))
    }

    fn stop(&self) {
        // SAFETY: the last call, as the header says.
        unsafe { (self.stop)(self.sink) }
    }
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

/// The same as structs of the C Data Interface.
fn columns(rows: &[u8], streams: usize) -> Result<(Vec<FFI_ArrowSchema>, Vec<FFI_ArrowArray>), String> {
    let (mut schemas, mut arrays) = (Vec::new(), Vec::new());
    for batch in batches(rows, streams)? {
        let (array, schema) = to_ffi(&StructArray::from(batch).to_data()).map_err(|e| e.to_string())?;
        arrays.push(array);
        schemas.push(schema);
    }
    Ok((schemas, arrays))
}

/// Runs one function of the library, and gathers what it says.
fn replied(function: impl FnOnce(*mut abi::Reply) -> c_int) -> Answer {
    let mut answer = Answer::default();
    let mut reply =
        abi::Reply { host: (&raw mut answer).cast(), offset: on_offset, reject: on_reject, message: on_message };
    let returned = function(&raw mut reply);
    answer.error = match returned {
        code::OK => None,
        code::ALL => {
            answer.all = true;
            None
        }
        code::RETRIABLE => Some(ErrorKind::Retriable),
        code::REOPEN => Some(ErrorKind::Reopen),
        code::REJECTED => Some(ErrorKind::Rejected),
        code::FATAL => Some(ErrorKind::Fatal),
        other => return fatal(format!("it returned {other}, which is no code of strandline_sink.h")),
    };
    answer
}

/// The answer that a reply belongs to.
///
/// # Safety
/// `reply` is the one that the function was given, and the function has not returned.
unsafe fn gathered<'a>(reply: *mut abi::Reply) -> &'a mut Answer {
    // SAFETY: `host` is set by `replied`, whose answer outlives the call, and nothing else refers to it meanwhile.
    unsafe { &mut *(*reply).host.cast::<Answer>() }
}

/// # Safety
/// `text` is null or ends with a zero byte.
unsafe fn copied(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

extern "C" fn on_offset(reply: *mut abi::Reply, topic: *const c_char, partition: i32, offset: i64) {
    // SAFETY: as the header demands of the library.
    let (answer, topic) = unsafe { (gathered(reply), copied(topic)) };
    answer.offsets.push(Position { topic, partition, offset: Some(offset) });
}

extern "C" fn on_reject(reply: *mut abi::Reply, offset: i64) {
    // SAFETY: as the header demands of the library.
    unsafe { gathered(reply) }.rejected.push(offset);
}

extern "C" fn on_message(reply: *mut abi::Reply, text: *const c_char) {
    // SAFETY: as the header demands of the library.
    unsafe { gathered(reply).message = frame::cut(&copied(text)) };
}
