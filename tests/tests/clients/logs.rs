//! Files: Kafka's dump tool reads ours, and we open a directory that Kafka wrote.

use std::path::{Path, PathBuf};

use strandline_tests::broker::{self, Broker, Software};
use strandline_tests::clients::{CODECS, Client};
use strandline_tests::records::{self, Blind, Content, Expected};
use strandline_tests::{place, tools};

use crate::target::{Mode, in_both_modes};

in_both_modes!(kafka_dump_log_reads_our_files);

/// `kafka-dump-log --deep-iteration` over a file; the record count and the last offset.
fn dump(log: &Path) -> (usize, i64) {
    let text = tools::run(tools::DUMP_LOG, &["--deep-iteration", "--files", &log.display().to_string()]);
    for wrong in ["isvalid: false", "Found timestamp mismatch", "out of order", "Mismatches", "Non-consecutive"] {
        assert!(!text.contains(wrong), "{}: {wrong}", log.display());
    }
    let offsets: Vec<i64> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| offset: ")?.split_whitespace().next()?.parse().ok())
        .collect();
    assert!(offsets.windows(2).all(|pair| pair[1] == pair[0] + 1), "{}: offsets follow each other", log.display());
    (offsets.len(), offsets.last().copied().unwrap_or(-1))
}

/// A segment's base offset, from its name or its object's.
fn base_offset(path: &Path) -> i64 {
    let name = path.file_name().and_then(|n| n.to_str()).expect("a name");
    name.get(..20).and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("{name} begins with a base offset"))
}

fn kafka_dump_log_reads_our_files(mode: Mode) {
    let broker = mode.broker();
    let topic = mode.topic(broker, "dumped", 1, false);
    let mut count = 0;
    for (seed, codec) in CODECS.into_iter().enumerate() {
        let records = records::generate(20 + seed as u64, 200, Content::Binary, 64 << 10);
        Client::Franz.write(&broker.bootstrap(), &topic, codec, &records, 1, false);
        count += records.len();
    }
    mode.settle(broker, &topic, 1);
    let scratch = place::directory("dump");
    let mut logs: Vec<PathBuf> = broker::segments(&broker.partition_directory(&topic, 0));
    let local_from = logs.first().map(|log| base_offset(log));
    // The active segment's indexes are being written.
    for log in logs.iter().rev().skip(1) {
        for index in ["index", "timeindex"] {
            let index = log.with_extension(index);
            let checked = tools::run(tools::DUMP_LOG, &["--files", &index.display().to_string()]);
            assert!(
                !checked.contains("Mismatches") && !checked.contains("out of order"),
                "{}: {checked}",
                index.display()
            );
        }
    }
    if mode == Mode::Tiered && broker.software == Software::Strandline {
        let objects = broker::files_below(&broker.bucket);
        let ours = objects.iter().filter(|path| path.to_string_lossy().contains(&topic));
        for object in ours.filter(|path| path.extension().is_some_and(|e| e == "log")) {
            // The dump tool wants a segment's name.
            let segment = scratch.join(format!("{:020}.log", base_offset(object)));
            std::fs::copy(object, &segment).expect("a file operation");
            if Some(base_offset(object)) < local_from {
                logs.push(segment);
            }
        }
        assert!(logs.iter().any(|log| base_offset(log) == 0), "the first segment is in the bucket");
    }
    let dumped: Vec<(usize, i64)> = logs.iter().map(|log| dump(log)).collect();
    let read: usize = dumped.iter().map(|(records, _)| records).sum();
    let last = dumped.iter().map(|(_, last)| *last).max();
    assert_eq!(last, Some(count as i64 - 1), "the last offset");
    if mode == Mode::Local || broker.software == Software::Strandline {
        assert_eq!(read, count, "every record once, local and remote");
    }
}

/// A log directory that Kafka wrote, stopped in order or killed, opens in ours with all its records.
#[test]
fn a_directory_written_by_kafka_opens() {
    let topic = "from-kafka";
    let mut kafka = Broker::start(Software::Kafka, Mode::Local.setup());
    kafka.connection().create_topic(topic, 2, &Mode::Local.configs(false)).expect("created");
    let mut expected = Expected::new();
    for (seed, codec) in CODECS.into_iter().enumerate() {
        let records = records::generate(30 + seed as u64, 100, Content::Binary, 64 << 10);
        Client::Franz.write(&kafka.bootstrap(), topic, codec, &records, 2, false);
        records::expect(&mut expected, &records, 2);
    }
    kafka.stop();
    let copy = place::directory("from-kafka").join("logs");
    copy_directory(&kafka.log_directory, &copy);
    // The topic's own settings are in Kafka's metadata, not in its directory; the records are of 2024.
    let mut setup = Mode::Local.setup().set("log.retention.ms", "-1");
    setup.log_directory = Some(copy);
    let broker = Broker::start(Software::under_test(), setup);
    let seen = Client::Franz.read(&broker.bootstrap(), topic, 2, records::total(&expected));
    records::check("a directory written by Kafka", &expected, seen, Blind::default());
    let more = records::generate(40, 100, Content::Binary, 64 << 10);
    Client::Franz.write(&broker.bootstrap(), topic, "lz4", &more, 2, false);
    records::expect(&mut expected, &more, 2);
    let seen = Client::Confluent.read(&broker.bootstrap(), topic, 2, records::total(&expected));
    records::check("written on by us", &expected, seen, Blind::default());
}

fn copy_directory(from: &Path, to: &Path) {
    for file in broker::files_below(from) {
        let target = to.join(file.strip_prefix(from).expect("a file operation"));
        std::fs::create_dir_all(target.parent().expect("a file operation")).expect("a file operation");
        std::fs::copy(&file, &target).expect("a file operation");
    }
}
