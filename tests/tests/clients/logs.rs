//! Files: Kafka's dump tool reads ours, and we open a directory that Kafka wrote.

use std::path::{Path, PathBuf};

use strandline_tests::broker::{self, Broker, Software};
use strandline_tests::clients::{CODECS, Client};
use strandline_tests::records::{self, Blind, Content, Expected};
use strandline_tests::{place, tools, wait};

use crate::target::{Mode, in_both_modes};

in_both_modes!(kafka_dump_log_reads_our_files);

const GROUP: &str = "readers";

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

/// Copies segments and their indexes by hard links; the segments, oldest first. One that is freed meanwhile is left out; the active
/// one may have no index yet.
fn local_copy(directory: &Path, to: &Path) -> Vec<PathBuf> {
    std::fs::create_dir_all(to).expect("a directory");
    let linked = |log: &PathBuf| {
        let copy = to.join(log.file_name().expect("a name"));
        let link =
            |extension| std::fs::hard_link(log.with_extension(extension), copy.with_extension(extension)).is_ok();
        let indexed = link("index") & link("timeindex");
        (link("log") && (indexed || log.exists())).then_some(copy)
    };
    broker::segments(directory).iter().filter_map(linked).collect()
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
    // A copy, because the tier may free a segment while the tool reads it.
    let mut logs = local_copy(&broker.partition_directory(&topic, 0), &scratch.join("local"));
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

/// A log directory that Kafka wrote opens in ours with all its records.
#[test]
fn a_directory_written_by_kafka_opens() {
    taken_over_from_kafka("from-kafka", Broker::stop);
}

/// So does that of a Kafka that was killed: its last segments were not closed.
#[test]
fn a_directory_of_a_killed_kafka_opens() {
    taken_over_from_kafka("from-killed-kafka", Broker::kill);
}

fn taken_over_from_kafka(topic: &str, end: fn(&mut Broker)) {
    let mut kafka = Broker::start(Software::Kafka, Mode::Local.setup());
    kafka.connection().create_topic(topic, 2, &Mode::Local.configs(false)).expect("created");
    let mut expected = Expected::new();
    for (seed, codec) in CODECS.into_iter().enumerate() {
        let records = records::generate(30 + seed as u64, 100, Content::Binary, 64 << 10);
        Client::Franz.write(&kafka.bootstrap(), topic, codec, &records, 2, false);
        records::expect(&mut expected, &records, 2);
    }
    commit_in_group(&kafka, topic, records::total(&expected));
    end(&mut kafka);
    let copy = place::directory("from-kafka").join("logs");
    copy_directory(&kafka.log_directory, &copy);
    // The topic's own settings are in Kafka's metadata, not in its directory. The records are of 2024, older than the default
    // retention, which must not decide over them.
    let mut setup = Mode::Local.setup();
    setup.log_directory = Some(copy);
    let mut broker = Broker::start(Software::under_test(), setup);
    if broker.software == Software::Strandline {
        told_without_limit(&mut broker, topic);
    }
    let lag = committed_lags(&broker, topic);
    assert_eq!(lag, ["0", "0"], "what a group committed to Kafka is there");
    let seen = Client::Franz.read(&broker.bootstrap(), topic, 2, records::total(&expected));
    records::check("a directory written by Kafka", &expected, seen, Blind::default());
    let more = records::generate(40, 100, Content::Binary, 64 << 10);
    Client::Franz.write(&broker.bootstrap(), topic, "lz4", &more, 2, false);
    records::expect(&mut expected, &more, 2);
    let seen = Client::Confluent.read(&broker.bootstrap(), topic, 2, records::total(&expected));
    records::check("written on by us", &expected, seen, Blind::default());
}

/// A group reads the whole topic and commits.
fn commit_in_group(broker: &Broker, topic: &str, count: usize) {
    let member = Client::Confluent.join(&broker.bootstrap(), topic, GROUP);
    wait::until("a group has read all", tools::TOOL, || {
        (records::from_lines(&member.lines().join("\n")).len() == count).then_some(())
    });
    drop(member.finish(tools::TOOL));
    assert_eq!(committed_lags(broker, topic), ["0", "0"], "the group has committed all");
}

/// How far the group is behind, by partition, as Kafka's tool tells it.
fn committed_lags(broker: &Broker, topic: &str) -> Vec<String> {
    let arguments = ["--bootstrap-server", &broker.bootstrap(), "--describe", "--group", GROUP];
    let described = tools::run(tools::CONSUMER_GROUPS, &arguments);
    let of_topic = described.lines().filter(|line| line.contains(topic));
    of_topic.map(|line| line.split_whitespace().nth(5).expect("LAG").to_owned()).collect()
}

/// The topic was given no limit of retention, and a WARN says so. Kafka's metadata did not become a topic.
fn told_without_limit(broker: &mut Broker, topic: &str) {
    let bootstrap = broker.bootstrap();
    let of_topic = ["--bootstrap-server", &bootstrap, "--describe", "--entity-type", "topics", "--entity-name", topic];
    let told = tools::run(tools::CONFIGS, &of_topic);
    for setting in ["retention.ms=-1", "retention.bytes=-1"] {
        assert!(told.contains(setting), "{setting} is set on the topic:\n{told}");
    }
    let log = broker.server().log_text();
    let warned = |line: &str| line.contains("WARN") && line.contains(topic) && line.contains("retention.ms=-1");
    assert!(log.lines().any(warned), "a WARN names the topic and its settings:\n{log}");
    let topics = tools::run(tools::TOPICS, &["--bootstrap-server", &bootstrap, "--list"]);
    assert!(!topics.contains("__cluster_metadata"), "Kafka's metadata is no topic:\n{topics}");
}

fn copy_directory(from: &Path, to: &Path) {
    for file in broker::files_below(from) {
        let target = to.join(file.strip_prefix(from).expect("a file operation"));
        std::fs::create_dir_all(target.parent().expect("a file operation")).expect("a file operation");
        std::fs::copy(&file, &target).expect("a file operation");
    }
}
