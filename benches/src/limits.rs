//! Loops that do only what no broker can do without: the bounds that the rows are held against.
//!
//! Each runs in this process, client and server side together in threads, and costs what the whole process costs.

mod disk;
mod network;
mod store;

use std::time::Duration;

use crate::report::Values;

pub(crate) use store::get_objects;

/// A loop of the limits.
pub struct Limit {
    pub name: &'static str,
    pub what: &'static str,
    pub run: fn(u64, Duration) -> Values,
}

/// `run` takes the bytes to move, about, and the longest it may take.
pub const LIMITS: &[Limit] = &[
    Limit { name: "LW", what: "receive, CRC32C, pwrite, in pieces of 256 KiB", run: disk::receive_and_write },
    Limit { name: "LF", what: "sendfile from the page cache, at most 1 MiB a call", run: disk::send_file },
    Limit { name: "LS", what: "16 writers of 16 KiB, one fdatasync a round for all", run: disk::group_sync },
    Limit {
        name: "LN",
        what: "a server that answers frames of 200 bytes with frames of 60, 64 connections",
        run: network::null_server,
    },
    Limit { name: "LG0", what: "GET of 8 MiB ranges from MinIO, 4 at once, to nothing", run: store::get_to_null },
    Limit { name: "LG1", what: "the same, relayed in order to a loopback socket", run: store::get_to_socket },
    Limit {
        name: "LG2",
        what: "GET of 8 MiB ranges, 8 at once, 50 ms and 90 MB/s a connection",
        run: store::get_from_afar,
    },
    Limit { name: "LP", what: "multipart PUT of 8 MiB parts to MinIO, 4 at once", run: store::put_multipart },
];

/// Seconds of this process, user and system.
fn own_seconds() -> f64 {
    crate::meter::process_seconds(std::process::id())
}

/// Runs `work`, which moves the bytes it returns, and tells rates.
fn timed(work: impl FnOnce() -> u64) -> Values {
    let (cpu, begin) = (own_seconds(), strandline_tests::wait::now());
    let bytes = work();
    let (cpu, wall) = (own_seconds() - cpu, begin.elapsed().as_secs_f64());
    let gb = bytes as f64 / 1e9;
    Values::from([("mb_per_s", gb * 1e3 / wall), ("cpu_s_per_gb_both_sides", cpu / gb)])
}
