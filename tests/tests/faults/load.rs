//! Loads through a healthy store, read back from offset 0; and a broker that is killed at any moment.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use strandline_tests::broker::{Broker, Setup, Software};
use strandline_tests::hdfs::Hdfs;
use strandline_tests::load::{self, Pattern};
use strandline_tests::random::Random;
use strandline_tests::wait;

use crate::scene::{
    FREED_WITHIN, LOAD, Scene, TOPIC, alone, await_freed, load_size, make_topic, read_all, setting, share, write,
};

/// How long a restarted broker may take to have copied and freed what it found.
const CATCH_UP: Duration = Duration::from_secs(60);
/// Writing is cut into so many slices for each kill.
const SLICES_PER_KILL: i64 = 20;
/// Between two slices.
const SLICE_PAUSE: Duration = Duration::from_millis(50);

fn load_and_read(broker: &Broker, partitions: i32, records: i64, freed_within: Duration) {
    make_topic(broker, partitions, records);
    let pattern = Pattern::new(records as u64);
    let each = share(partitions, records);
    let begin = wait::now();
    write(broker, &pattern, partitions, 0..each);
    eprintln!("wrote {records} records in {:.1} s", begin.elapsed().as_secs_f64());
    let begin = wait::now();
    await_freed(broker, partitions, freed_within);
    eprintln!("copied and freed {:.1} s after the last append", begin.elapsed().as_secs_f64());
    read_all(broker, &pattern, partitions, each);
}

#[test]
fn one_partition_on_minio() {
    let _turn = alone();
    let scene = Scene::on_minio();
    load_and_read(&scene.broker, 1, load_size(), FREED_WITHIN);
}

#[test]
fn sixteen_partitions_on_minio() {
    let _turn = alone();
    let scene = Scene::on_minio();
    load_and_read(&scene.broker, 16, load_size(), FREED_WITHIN);
}

#[test]
fn one_partition_on_hdfs() {
    let _turn = alone();
    let hdfs = Hdfs::start();
    let mut broker = Broker::start(Software::Strandline, Setup::default().set("tier.url", &hdfs.url("tier")));
    let records = load_size() / 4;
    // The ten seconds are for an S3 store; HDFS opens a pipeline for each file.
    load_and_read(&broker, 1, records, CATCH_UP);
    broker.kill();
    broker.up();
    read_all(&broker, &Pattern::new(records as u64), 1, records);
    let files = hdfs.list("/tier");
    assert!(files.iter().any(|f| f.ends_with(".log")), "segments are in HDFS: {files:?}");
}

/// A bucket that is a local directory; with Apache Kafka as the target, Kafka's own tier.
#[test]
fn two_partitions_on_a_directory() {
    let _turn = alone();
    let broker = Broker::start(Software::under_test(), Setup::default());
    load_and_read(&broker, 2, load_size() / 2, FREED_WITHIN);
}

/// SIGKILL while records are written, segments copied and freed, again and again: nothing that was acknowledged is lost, nothing
/// comes twice.
#[test]
fn killed_at_any_moment() {
    let _turn = alone();
    let mut scene = Scene::on_minio();
    let records = load_size();
    let partitions = 2;
    let each = share(partitions, records);
    make_topic(&scene.broker, partitions, records);
    let pattern = Pattern::new(17);
    let kills = setting("STRANDLINE_FAULT_KILLS", 6) as i64;
    let address = scene.broker.address;
    // In slices with pauses, so that the writing lasts as long as the killing.
    let slice = (each / (kills * SLICES_PER_KILL)).max(1);
    let written = AtomicI64::new(0);
    std::thread::scope(|scope| {
        for partition in 0..partitions {
            let (pattern, written) = (&pattern, &written);
            scope.spawn(move || {
                let mut from = 0;
                while from < each {
                    let to = (from + slice).min(each);
                    load::produce_with_retries(address, TOPIC, partition, pattern, from..to, LOAD);
                    written.fetch_add(to - from, Ordering::Relaxed);
                    from = to;
                    wait::pause(SLICE_PAUSE);
                }
            });
        }
        let mut random = Random::new(23);
        for round in 1..=kills {
            // Any moment: between 20 ms and 1.5 s after it serves again.
            wait::pause(Duration::from_millis(20 + random.below(1500)));
            eprintln!("kill {round} of {kills}, {} of {records} records acknowledged", written.load(Ordering::Relaxed));
            scene.broker.kill();
            scene.broker.up();
        }
    });
    await_freed(&scene.broker, partitions, CATCH_UP);
    read_all(&scene.broker, &pattern, partitions, each);
}
