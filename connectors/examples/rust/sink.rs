//! Appends "partition offset length" for each record to the file of the setting `file`. A null value has the length -1.
//! Structs and numbers are those of connectors/include/strandline_sink.h; pointers that are not followed have no type here.
use std::{ffi::*, fs::File, io::Write, slice::from_raw_parts};

type Any = *mut c_void;
type Text = *const c_char;
#[repr(C)] pub struct Setting { name: Text, value: Text }
#[repr(C)] pub struct Task { connector: Any, task: u32, spool: Any, settings: *const Setting, count: usize }
#[repr(C)] pub struct Array { length: i64, nulls: i64, offset: i64, counts: [i64; 2], buffers: *const Any, children: *const *const Array, more: [Any; 3] }
#[repr(C)] pub struct Rows { topic: Any, partition: i32, first: i64, next: i64, count: usize, schemas: Any, arrays: *const Array }
#[repr(C)] pub struct Reply { host: Any, offset: Any, reject: Any, message: extern "C" fn(*mut Reply, Text) }
const OK: c_int = 0;
const FATAL: c_int = 4;
const ALL: c_int = 5; // everything is durable

#[unsafe(no_mangle)]
extern "C" fn strandline_sink_abi() -> u32 { 1 }
#[unsafe(no_mangle)]
unsafe extern "C" fn strandline_sink_start(task: &Task, sink: &mut Any, reply: &mut Reply) -> c_int { unsafe {
    let text = |p| CStr::from_ptr(p).to_str().expect("settings are UTF-8");
    let settings = from_raw_parts(task.settings, task.count);
    let path = settings.iter().find(|s| text(s.name) == "file").map_or("", |s| text(s.value));
    match File::options().create(true).append(true).open(path) {
        Ok(file) => { *sink = Box::into_raw(Box::new(file)).cast(); OK }
        Err(e) => { (reply.message)(reply, CString::new(format!("{path}: {e}")).expect("no zero byte").as_ptr()); FATAL }
    }
}}

#[unsafe(no_mangle)]
unsafe extern "C" fn strandline_sink_write(file: &mut File, rows: &Rows, reply: &mut Reply) -> c_int { unsafe {
    let mut lines = String::new();
    for array in (0..rows.count).map(|i| &*rows.arrays.add(i)) {
        let (offsets, values) = (&**array.children.add(2), &**array.children.add(7));
        if values.counts[0] != 3 {
            (reply.message)(reply, c"values have to be bytes or text: set value.converter to ByteArrayConverter".as_ptr());
            return FATAL;
        }
        let (valid, ends) = ((*values.buffers).cast::<u8>(), (*values.buffers.add(1)).cast::<i32>());
        for row in 0..array.length {
            let offset = *(*offsets.buffers.add(1)).cast::<i64>().offset((row + offsets.offset) as isize);
            let at = (row + values.offset) as usize; // a bit of `valid` each, two of `ends`
            let (begin, end) = (*ends.add(at) as usize, *ends.add(at + 1) as usize);
            let value = (valid.is_null() || *valid.add(at / 8) >> (at % 8) & 1 == 1)
                .then(|| from_raw_parts((*values.buffers.add(2)).cast::<u8>().add(begin), end - begin));
            if value == Some(b"crash") { panic!("the record at offset {offset} says so") }
            lines += &format!("{} {offset} {}\n", rows.partition, value.map_or(-1, |v| v.len() as i64));
        }
    }
    file.write_all(lines.as_bytes()).map_or(FATAL, |()| OK)
}}

#[unsafe(no_mangle)]
extern "C" fn strandline_sink_flush(file: &mut File, _: i64, _: c_int, _: Any) -> c_int { file.sync_data().map_or(FATAL, |()| ALL) }
#[unsafe(no_mangle)]
extern "C" fn strandline_sink_open(_: Any, _: Any, _: usize, _: Any) -> c_int { OK }
#[unsafe(no_mangle)]
extern "C" fn strandline_sink_close(_: Any, _: Any, _: usize, _: Any) -> c_int { OK }
#[unsafe(no_mangle)]
unsafe extern "C" fn strandline_sink_stop(file: Any) { unsafe { drop(Box::from_raw(file.cast::<File>())) }}
