//! Shared libraries behind `connectors/include/strandline_sink.h`, and what else is loaded to answer calls.
//!
//! Owns loading, the calls over the C ABI and what they answer. Does not own processes, pipes or threads: `host` and `inside` have those.
//! One of the few places with unsafe code. Invariants: the version is asked for before anything else; what a call points to lives until
//! it returns; a library is never unloaded.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;

use arrow::array::{Array, RecordBatch, StructArray};
use arrow::ffi::{FFI_ArrowArray, FFI_ArrowSchema, to_ffi};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::abi::{self, code};
use super::frame::{self, Answer, Call, ErrorKind, PROTOCOL, Position};
use crate::sinks::adbc::hosted::Driven;

pub(super) fn fatal(message: impl Into<String>) -> Answer {
    Answer { error: Some(ErrorKind::Fatal), message: message.into(), ..Answer::default() }
}

/// What is loaded for one task.
pub(super) enum Inside {
    Library(Loaded),
    Driver(Box<Driven>),
}

impl Inside {
    fn call(&mut self, call: &Call, batches: Vec<RecordBatch>) -> Result<Answer, String> {
        match self {
            Inside::Library(library) => library.call(call, batches),
            Inside::Driver(driver) => Ok(driver.answer(call, &batches)),
        }
    }

    /// Nothing is called after this.
    pub(super) fn stop(self) {
        if let Inside::Library(library) = self {
            library.stop();
        }
    }
}

/// Answers one call; the first one loads what is to be asked.
pub(super) fn answer(
    inside: &mut Option<Inside>,
    load: impl Fn() -> Result<Inside, String>,
    call: &Call,
    batches: Vec<RecordBatch>,
) -> Answer {
    let known = match (call, &mut *inside) {
        (Call::Start { protocol, .. }, None) if *protocol == PROTOCOL => match load() {
            Ok(loaded) => inside.insert(loaded),
            Err(message) => return fatal(message),
        },
        (Call::Start { protocol, .. }, _) => {
            return fatal(format!("protocol {protocol} is not spoken, or was started"));
        }
        (_, Some(inside)) => inside,
        (_, None) => return fatal("it was not started"),
    };
    known.call(call, batches).unwrap_or_else(fatal)
}

/// A library, and what its `start` returned.
pub(super) struct Loaded {
    sink: *mut c_void,
    start: abi::StartFn,
    open: abi::PositionsFn,
    write: abi::WriteFn,
    flush: abi::FlushFn,
    close: abi::PositionsFn,
    stop: abi::StopFn,
    /// Never unloaded: a library may have threads.
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
    pub(super) fn load(file: &Path) -> Result<Loaded, String> {
        // SAFETY: what the library's initialisers do is its own doing, in a process that is its own or that was lent to it by
        // `plugin.isolation=in-process`.
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

    fn call(&mut self, call: &Call, batches: Vec<RecordBatch>) -> Result<Answer, String> {
        match call {
            Call::Start { connector, task, spool, settings, .. } => {
                self.started(&text(connector)?, *task, &text(spool)?, settings)
            }
            Call::Open { partitions } => self.positions(self.open, partitions),
            Call::Close { partitions } => self.positions(self.close, partitions),
            Call::Write { topic, partition, first_offset, next_offset, .. } => {
                let (mut schemas, mut arrays) = columns(batches)?;
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

/// Batches as structs of the C Data Interface: nothing is copied.
fn columns(batches: Vec<RecordBatch>) -> Result<(Vec<FFI_ArrowSchema>, Vec<FFI_ArrowArray>), String> {
    let (mut schemas, mut arrays) = (Vec::new(), Vec::new());
    for batch in batches {
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
