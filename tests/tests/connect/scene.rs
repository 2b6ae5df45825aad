//! A topic, lines in it, a connector that writes them to a file.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use strandline_protocol::compression::Compression;
use strandline_protocol::record_batch::RecordBatchBuilder;
use strandline_tests::broker::{Broker, Setup, Software};
use strandline_tests::wait;

/// How long records may take to arrive.
pub const ARRIVE: Duration = Duration::from_secs(60);

pub fn broker() -> Broker {
    Broker::start(Software::under_test(), Setup::default())
}

pub fn topic(broker: &Broker, name: &str, partitions: i32) {
    broker.connection().create_topic(name, partitions, &[]).expect("the topic is made");
}

/// Appends lines `<prefix> 0`, `<prefix> 1`, ... to the partitions in turn.
pub fn produce(broker: &Broker, topic: &str, partitions: i32, prefix: &str, count: usize) {
    let mut connection = broker.connection();
    // Records of long ago would be deleted at once: the default retention is a week.
    let now = wait::wall_clock_ms();
    for partition in 0..partitions {
        let mut builder = RecordBatchBuilder::new(Compression::None);
        let own = (0..count).filter(|n| i32::try_from(*n).expect("a small number") % partitions == partition);
        own.for_each(|n| builder.append(now, None, Some(format!("{prefix} {n}").as_bytes()), &[]));
        if builder.count() > 0 {
            let answer = connection.produce(topic, partition, builder.build()).expect("the broker answers");
            assert_eq!(answer.error_code, 0, "{answer:?}");
        }
    }
}

/// How often each line is in the file.
pub fn lines(file: &Path) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in std::fs::read_to_string(file).unwrap_or_default().lines() {
        *counts.entry(line.to_owned()).or_default() += 1;
    }
    counts
}

/// Waits until every line `<prefix> n` is there; returns how often each line is.
pub fn await_lines(file: &Path, prefix: &str, count: usize) -> BTreeMap<String, usize> {
    wait::until(&format!("{count} lines of {prefix} in {}", file.display()), ARRIVE, || {
        let found = lines(file);
        (0..count).all(|n| found.contains_key(&format!("{prefix} {n}"))).then_some(found)
    })
}

/// Settings of a connector that appends to a file.
pub fn file_sink(topic: &str, file: &Path, tasks: u32) -> Value {
    json!({
        "connector.class": "FileStreamSink", "tasks.max": tasks.to_string(), "topics": topic, "file": file.display().to_string(),
    })
}
