//! A full disk: produce is refused with KAFKA_STORAGE_ERROR before anything breaks, reads go on, and space makes it go on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use strandline_tests::broker::{Broker, Setup, Software};
use strandline_tests::load::{self, Pattern};
use strandline_tests::process::{Program, run_well};
use strandline_tests::{place, wait, wire};

use crate::scene::{LOAD, TOPIC, alone};

const COMMAND: Duration = Duration::from_secs(20);
/// How long the broker may take to notice that there is space again.
const NOTICED: Duration = Duration::from_secs(60);
/// More than fits: about 300 MB.
const RECORDS: i64 = 300_000;

/// A file system of its own, in memory. Dropped = unmounted.
struct Mount(PathBuf);

impl Mount {
    fn new(megabytes: u32) -> Self {
        let path = place::directory("full-disk");
        let options = format!("size={megabytes}m");
        mount(&["-t", "tmpfs", "-o", &options, "tmpfs"], &path);
        Mount(path)
    }

    fn grow(&self, megabytes: u32) {
        let options = format!("remount,size={megabytes}m");
        mount(&["-o", &options], &self.0);
    }
}

fn mount(arguments: &[&str], path: &Path) {
    let program = Program::new("mount").args(arguments.iter().copied()).args([path.display().to_string()]);
    run_well(&program, b"", COMMAND);
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a failed test may leave the broker in it for a moment.
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn full() {
    let _turn = alone();
    let mount = Mount::new(160);
    let mut setup = Setup::default().set("remote.log.storage.system.enable", "false").set("tier.url", "");
    setup.log_directory = Some(mount.0.join("logs"));
    std::fs::create_dir_all(mount.0.join("logs")).expect("a directory");
    let mut broker = Broker::start(Software::Strandline, setup);
    broker.connection().create_topic(TOPIC, 1, &[("retention.ms", "-1")]).expect("the topic is created");
    let pattern = Pattern::new(61);
    let (acknowledged, why) =
        load::produce(broker.address, TOPIC, 0, &pattern, 0..RECORDS).expect_err("the disk is too small");
    assert!(why.0.contains("error 56"), "the refusal is KAFKA_STORAGE_ERROR: {}", why.0);
    assert!(acknowledged > 1_000, "most of the disk was used: {acknowledged} records");
    assert!(broker.server().is_running(), "the broker runs on");
    // What was acknowledged is read, now and after a restart on the full disk.
    load::verify(broker.address, TOPIC, 0, &pattern, 0, acknowledged)
        .unwrap_or_else(|(at, e)| panic!("at {at}: {}", e.0));
    broker.kill();
    broker.up();
    load::verify(broker.address, TOPIC, 0, &pattern, 0, acknowledged)
        .unwrap_or_else(|(at, e)| panic!("at {at}: {}", e.0));
    mount.grow(900);
    let end = wait::until("produce goes on once there is space", NOTICED, || {
        let latest = broker.connection().list_offset(TOPIC, 0, wire::LATEST).ok()?;
        load::produce(broker.address, TOPIC, 0, &pattern, latest..latest + 1_000).ok().map(|()| latest + 1_000)
    });
    load::verify_with_retries(broker.address, TOPIC, 0, &pattern, end, LOAD);
    drop(broker);
}
