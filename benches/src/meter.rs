//! What a run costs: processor time of the broker and of the machine, memory.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Instant;

use strandline_tests::{place, wait};

/// Clock ticks per second of `/proc`: fixed by the kernel's ABI.
const TICKS: f64 = 100.0;

/// Processor seconds at a moment.
#[derive(Debug, Clone, Copy)]
pub struct Meter {
    pid: u32,
    at: Instant,
    broker: f64,
    machine: f64,
    steal: f64,
}

/// Between two moments, seconds.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    pub wall: f64,
    /// Processor seconds of the broker, user and system.
    pub broker: f64,
    /// Of everything on the machine, idle and I/O wait apart.
    pub machine: f64,
    /// Taken away by the hypervisor.
    pub steal: f64,
}

impl Meter {
    pub fn start(pid: u32) -> Self {
        let (machine, steal) = machine_seconds();
        Meter { pid, at: wait::now(), broker: process_seconds(pid), machine, steal }
    }

    pub fn stop(self) -> Cost {
        let end = Meter::start(self.pid);
        Cost {
            wall: end.at.duration_since(self.at).as_secs_f64(),
            broker: end.broker - self.broker,
            machine: end.machine - self.machine,
            steal: end.steal - self.steal,
        }
    }
}

/// User and system seconds of a process.
pub fn process_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a running process");
    // The command, in brackets, may hold blanks.
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a stat line").split_whitespace().collect();
    let ticks = |n: usize| fields[n].parse::<f64>().expect("ticks");
    (ticks(11) + ticks(12)) / TICKS
}

fn machine_seconds() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/stat").expect("the kernel tells");
    let line = stat.lines().next().expect("the line of all processors");
    let ticks: Vec<f64> = line.split_whitespace().skip(1).map(|t| t.parse().expect("ticks")).collect();
    // user nice system idle iowait irq softirq steal
    ((ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]) / TICKS, ticks[7] / TICKS)
}

/// Anonymous resident memory of a process, bytes: the page cache is nobody's.
pub fn anonymous_bytes(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a running process");
    let line = text.lines().find(|l| l.starts_with("Anonymous:")).expect("the kernel tells");
    line.split_whitespace().nth(1).and_then(|n| n.parse::<f64>().ok()).expect("KiB") * 1024.0
}

/// Open files and mapped areas of a process.
pub fn files_and_maps(pid: u32) -> (f64, f64) {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a running process").count();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("a running process").lines().count();
    (files as f64, maps as f64)
}

/// Name of the directory of the file that [`touch_memory`] reads.
pub const MEMORY: &str = "memory";
/// Bytes that [`touch_memory`] leaves to the programs and to what they write at first.
const LEFT_TO_PROGRAMS: u64 = 6 << 30;

/// Makes the machine own its memory before a run: fills the page cache with a file of no use.
///
/// A virtual machine gives free pages back to its host, and the first touch of each afterwards is a fault of the host's that counts as
/// the broker's time: whoever ran first paid up to six times the processor time of whoever ran second. A clean page of the cache
/// is the machine's own and taken again without that. Both sides of a pair find the same.
pub fn touch_memory() {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    let path = FILE.get_or_init(|| {
        let path = place::directory(MEMORY).join("pages");
        let mut file = File::create(&path).expect("the directory is this process's");
        let block = vec![1; 8 << 20];
        for _ in 0..memory("MemTotal:").saturating_sub(LEFT_TO_PROGRAMS) / (8 << 20) {
            file.write_all(&block).expect("the disk holds as much as the memory");
        }
        file.sync_all().expect("the disk takes it");
        path
    });
    let (mut file, mut block) = (File::open(path).expect("made above"), vec![0; 8 << 20]);
    while file.read(&mut block).expect("made above") > 0 {}
}

/// A line of `/proc/meminfo`, bytes.
fn memory(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("the kernel tells");
    let line = text.lines().find(|l| l.starts_with(name)).expect("the kernel tells");
    line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).expect("KiB") * 1024
}

/// Writes everything out, forgets the page cache, and owns the memory again; needs root.
pub fn drop_page_cache() {
    rustix::fs::sync();
    let file = std::fs::File::options().write(true).open("/proc/sys/vm/drop_caches");
    let written = file.and_then(|mut f| f.write_all(b"3"));
    written.expect("dropping the page cache needs root");
    touch_memory();
}

/// Waits until little is left to be written back, so that a run does not pay for the one before.
pub fn await_quiet_disk() {
    wait::until("the disk is quiet", std::time::Duration::from_secs(120), || {
        if memory("Dirty:") + memory("Writeback:") < 64 << 20 {
            return Some(());
        }
        rustix::fs::sync();
        None
    });
}

/// The value below which `part` of `sorted` lies.
pub fn percentile(sorted: &[f64], part: f64) -> f64 {
    assert!(!sorted.is_empty(), "a percentile of something");
    let at = (sorted.len() as f64 * part).ceil() as usize;
    sorted[at.clamp(1, sorted.len()) - 1]
}
