//! A store that is away, far, or answers with errors: produce and hot reads go on, copying catches up, nothing is lost.

use std::sync::atomic::Ordering;
use std::time::Duration;

use strandline_tests::load::{self, Pattern};
use strandline_tests::wait;

use crate::scene::{
    FREED_WITHIN, LOAD, Scene, TOPIC, alone, await_freed, load_size, make_topic, read_all, setting, write,
};

/// How long copying may take to catch up once the store is back: its longest back-off, and the work.
const CATCH_UP: Duration = Duration::from_secs(120);

/// The store is gone for a while in the middle of a load, connections cut.
#[test]
fn down_and_back() {
    let _turn = alone();
    let mut scene = Scene::on_minio();
    let records = load_size();
    make_topic(&scene.broker, 1, records);
    let pattern = Pattern::new(31);
    write(&scene.broker, &pattern, 1, 0..records / 3);
    scene.minio.down();
    let outage = Duration::from_secs(setting("STRANDLINE_FAULT_OUTAGE_SECONDS", 10));
    let begin = wait::now();
    // Produce goes on as if nothing were.
    load::produce(scene.broker.address, TOPIC, 0, &pattern, records / 3..records)
        .unwrap_or_else(|(at, why)| panic!("produce stopped at {at} while the store was down: {}", why.0));
    // So do reads of what is local.
    let tail = records - 100;
    load::verify(scene.broker.address, TOPIC, 0, &pattern, tail, records)
        .unwrap_or_else(|(at, why)| panic!("a hot read stopped at {at} while the store was down: {}", why.0));
    wait::pause(outage.saturating_sub(begin.elapsed()));
    scene.minio.up();
    await_freed(&scene.broker, 1, CATCH_UP);
    read_all(&scene.broker, &pattern, 1, records);
}

/// 50 ms to the first byte and 90 MB/s for each connection.
#[test]
fn distant() {
    let _turn = alone();
    let scene = Scene::on_minio();
    scene.proxy.distant();
    let records = load_size();
    make_topic(&scene.broker, 1, records);
    let pattern = Pattern::new(37);
    write(&scene.broker, &pattern, 1, 0..records);
    await_freed(&scene.broker, 1, FREED_WITHIN);
    let before = scene.proxy.weather.answered_bytes.load(Ordering::Relaxed);
    read_all(&scene.broker, &pattern, 1, records);
    let fetched = scene.proxy.weather.answered_bytes.load(Ordering::Relaxed) - before;
    eprintln!("{fetched} bytes came from the store");
    assert!(fetched > 0, "the records came from the store");
}

/// One request in a hundred is answered 503.
#[test]
fn refusing_one_in_a_hundred() {
    let _turn = alone();
    let scene = Scene::on_minio();
    scene.proxy.weather.refuse_every.store(100, Ordering::Relaxed);
    let records = load_size();
    make_topic(&scene.broker, 4, records);
    let pattern = Pattern::new(41);
    write(&scene.broker, &pattern, 4, 0..records / 4);
    await_freed(&scene.broker, 4, CATCH_UP);
    read_all(&scene.broker, &pattern, 4, records / 4);
    let refused = scene.proxy.weather.refused.load(Ordering::Relaxed);
    assert!(refused > 0, "some requests were refused");
    let went_on = wait::now();
    load::verify_with_retries(scene.broker.address, TOPIC, 0, &pattern, records / 4, LOAD);
    eprintln!("{refused} requests were refused; a second reading took {:.1} s", went_on.elapsed().as_secs_f64());
}
