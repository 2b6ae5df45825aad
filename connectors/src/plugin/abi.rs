//! `connectors/include/strandline_sink.h` in Rust: names, layouts and numbers, nothing else.
//!
//! Owns the version. What is here may only grow behind a new version: libraries that were built against it are out there.

use std::ffi::{c_char, c_int, c_void};

use arrow::ffi::{FFI_ArrowArray, FFI_ArrowSchema};

/// `STRANDLINE_SINK_ABI`.
pub const VERSION: u32 = 1;

/// What a function returns.
pub mod code {
    use std::ffi::c_int;

    pub const OK: c_int = 0;
    pub const RETRIABLE: c_int = 1;
    pub const REOPEN: c_int = 2;
    pub const REJECTED: c_int = 3;
    pub const FATAL: c_int = 4;
    pub const ALL: c_int = 5;
}

#[repr(C)]
pub struct Setting {
    pub name: *const c_char,
    pub value: *const c_char,
}

#[repr(C)]
pub struct Position {
    pub topic: *const c_char,
    pub partition: i32,
    /// The next offset; -1 = none.
    pub offset: i64,
}

#[repr(C)]
pub struct Task {
    pub connector: *const c_char,
    pub task: u32,
    pub spool: *const c_char,
    pub settings: *const Setting,
    pub settings_count: usize,
}

#[repr(C)]
pub struct Rows {
    pub topic: *const c_char,
    pub partition: i32,
    pub first_offset: i64,
    pub next_offset: i64,
    pub count: usize,
    pub schemas: *mut FFI_ArrowSchema,
    pub arrays: *mut FFI_ArrowArray,
}

#[repr(C)]
pub struct Reply {
    pub host: *mut c_void,
    pub offset: extern "C" fn(*mut Reply, *const c_char, i32, i64),
    pub reject: extern "C" fn(*mut Reply, i64),
    pub message: extern "C" fn(*mut Reply, *const c_char),
}

pub type AbiFn = unsafe extern "C" fn() -> u32;
pub type StartFn = unsafe extern "C" fn(*const Task, *mut *mut c_void, *mut Reply) -> c_int;
pub type PositionsFn = unsafe extern "C" fn(*mut c_void, *const Position, usize, *mut Reply) -> c_int;
pub type WriteFn = unsafe extern "C" fn(*mut c_void, *mut Rows, *mut Reply) -> c_int;
pub type FlushFn = unsafe extern "C" fn(*mut c_void, i64, c_int, *mut Reply) -> c_int;
pub type StopFn = unsafe extern "C" fn(*mut c_void);
