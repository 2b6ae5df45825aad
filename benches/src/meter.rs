//! What a run costs: processor time of the broker and of the machine, memory.

use std::time::Instant;

use strandline_tests::wait;

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

/// Writes everything out and forgets the page cache; needs root.
pub fn drop_page_cache() {
    rustix::fs::sync();
    let file = std::fs::File::options().write(true).open("/proc/sys/vm/drop_caches");
    let written = file.and_then(|mut f| std::io::Write::write_all(&mut f, b"3"));
    written.expect("dropping the page cache needs root");
}

/// Waits until little is left to be written back, so that a run does not pay for the one before.
pub fn await_quiet_disk() {
    wait::until("the disk is quiet", std::time::Duration::from_secs(120), || {
        let text = std::fs::read_to_string("/proc/meminfo").expect("the kernel tells");
        let kib = |name: &str| -> u64 {
            let line = text.lines().find(|l| l.starts_with(name)).expect("the kernel tells");
            line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("KiB")
        };
        if kib("Dirty:") + kib("Writeback:") < 64 << 10 {
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
