//! Kafka's administration tools: topics, configs, groups, offsets, deleted records, log directories.

use strandline_tests::broker::{Broker, Software};
use strandline_tests::clients::Client;
use strandline_tests::records::{self, Content};
use strandline_tests::{tools, wait};

use crate::target::{Mode, in_both_modes};

in_both_modes!(topics_and_configs, offsets_by_time, delete_records, consumer_groups, log_dirs);

fn tool(broker: &Broker, class: &str, arguments: &[&str]) -> String {
    let bootstrap = broker.bootstrap();
    let mut all = vec!["--bootstrap-server", &bootstrap];
    all.extend(arguments);
    tools::run(class, &all)
}

/// Create, describe, alter, add partitions, delete; a refused setting says why.
fn topics_and_configs(mode: Mode) {
    let broker = mode.broker();
    let topic = format!("made-by-tool-{mode:?}");
    let mut create = vec!["--create", "--topic", &topic, "--partitions", "3", "--replication-factor", "1"];
    create.extend(["--config", "segment.bytes=1048576", "--config", "retention.ms=3600000"]);
    if mode == Mode::Tiered {
        create.extend(["--config", "remote.storage.enable=true", "--config", "local.retention.ms=1000"]);
    }
    let created = tool(broker, tools::TOPICS, &create);
    assert!(created.contains("Created topic"), "{created}");
    let listed = tool(broker, tools::TOPICS, &["--list"]);
    assert!(listed.lines().any(|line| line == topic), "{listed}");

    let described = tool(broker, tools::TOPICS, &["--describe", "--topic", &topic]);
    assert!(described.contains("PartitionCount: 3"), "{described}");
    assert!(described.contains("segment.bytes=1048576") && described.contains("retention.ms=3600000"), "{described}");
    assert_eq!(described.contains("remote.storage.enable=true"), mode == Mode::Tiered, "{described}");
    assert_eq!(described.lines().filter(|l| l.contains("Leader: 1")).count(), 3, "{described}");

    let entity = ["--entity-type", "topics", "--entity-name", &topic];
    let alter = [&["--alter", "--add-config", "retention.ms=7200000,max.message.bytes=2097152"], &entity[..]].concat();
    tool(broker, tools::CONFIGS, &alter);
    tool(broker, tools::CONFIGS, &[&["--alter", "--delete-config", "segment.bytes"], &entity[..]].concat());
    let configs = tool(broker, tools::CONFIGS, &[&["--describe"], &entity[..]].concat());
    assert!(configs.contains("retention.ms=7200000") && configs.contains("max.message.bytes=2097152"), "{configs}");
    assert!(!configs.contains("segment.bytes=1048576"), "{configs}");
    let all = tool(broker, tools::CONFIGS, &[&["--describe", "--all"], &entity[..]].concat());
    for name in
        ["cleanup.policy=delete", "compression.type=producer", "min.insync.replicas=1", "local.retention.bytes=-2"]
    {
        assert!(all.contains(name), "{name} is missing:\n{all}");
    }

    tool(broker, tools::TOPICS, &["--alter", "--topic", &topic, "--partitions", "5"]);
    let described = tool(broker, tools::TOPICS, &["--describe", "--topic", &topic]);
    assert!(described.contains("PartitionCount: 5"), "{described}");

    let refused = tools::try_run(
        tools::CONFIGS,
        &[&["--bootstrap-server", &broker.bootstrap(), "--alter", "--add-config", "retention.ms=soon"], &entity[..]]
            .concat(),
    );
    assert!(
        !refused.success && (refused.stderr + &refused_text(&refused.stdout)).contains("retention.ms"),
        "a bad value is refused"
    );

    tool(broker, tools::TOPICS, &["--delete", "--topic", &topic]);
    let listed = tool(broker, tools::TOPICS, &["--list"]);
    assert!(!listed.lines().any(|line| line == topic), "{listed}");
}

fn refused_text(stdout: &[u8]) -> String {
    String::from_utf8_lossy(stdout).into_owned()
}

/// The offset of partition 0; the tool prints no line where there is none.
fn offset(broker: &Broker, topic: &str, time: &str) -> Option<i64> {
    let text = tool(broker, tools::GET_OFFSETS, &["--topic-partitions", &format!("{topic}:0"), "--time", time]);
    let line = text.lines().find(|line| line.starts_with(topic))?;
    line.rsplit(':').next().expect("a last field").parse().ok()
}

/// `kafka-get-offsets --time` -1 to -6 and by timestamp, where the answer is in the tier and where it is local.
fn offsets_by_time(mode: Mode) {
    let broker = mode.broker();
    let topic = mode.topic(broker, "offsets", 1, false);
    let records = records::generate(7, 600, Content::Binary, 64 << 10);
    Client::Confluent.write(&broker.bootstrap(), &topic, "none", &records, 1, false);
    mode.settle(broker, &topic, 1);
    let count = records.len() as i64;
    assert_eq!(offset(broker, &topic, "-1"), Some(count), "latest");
    assert_eq!(offset(broker, &topic, "-2"), Some(0), "earliest");
    let times: Vec<i64> = records.iter().map(|r| r.timestamp.expect("set")).collect();
    let latest_time = *times.last().expect("records");
    let first_of_latest = times.iter().position(|t| *t == latest_time).expect("there") as i64;
    // Kafka looks for it in local segments alone, and has none when all are freed.
    let of_max = offset(broker, &topic, "-3");
    assert!(of_max == Some(first_of_latest) || mode == Mode::Tiered && of_max.is_none(), "max timestamp: {of_max:?}");
    let local = offset(broker, &topic, "-4");
    match mode {
        Mode::Local => {
            assert_eq!(local, Some(0), "earliest local");
            assert_eq!(offset(broker, &topic, "-5").unwrap_or(-1), -1, "nothing is tiered");
        }
        Mode::Tiered => {
            let local = local.expect("earliest local");
            assert!(local > 0 && local <= count, "earliest local {local}");
            let (tiered, pending) = wait::until("copying is done", tools::TOOL, || {
                let tiered = offset(broker, &topic, "-5")?;
                let pending = offset(broker, &topic, "-6");
                (offset(broker, &topic, "-5") == Some(tiered)).then_some((tiered, pending))
            });
            assert!(tiered >= local - 1 && tiered < count, "latest tiered {tiered}, earliest local {local}");
            // Kafka has no answer while everything is copied.
            let none_is_right = broker.software == Software::Kafka;
            assert!(
                pending == Some(tiered + 1) || none_is_right && pending.is_none(),
                "earliest pending upload {pending:?}"
            );
        }
    }
    // The first record not older than the time, for times in the first, a middle and the last segment.
    for probe in [0, 1, records.len() / 2, records.len() - 1] {
        for time in [times[probe], times[probe] - 1] {
            let wanted = times.iter().position(|t| *t >= time).expect("there") as i64;
            assert_eq!(offset(broker, &topic, &time.to_string()), Some(wanted), "the offset of time {time}");
        }
    }
}

/// `kafka-delete-records` moves the log start, in a tiered topic into the tier too.
fn delete_records(mode: Mode) {
    let broker = mode.broker();
    let topic = mode.topic(broker, "deleted", 1, false);
    let records = records::generate(8, 500, Content::Binary, 64 << 10);
    Client::Confluent.write(&broker.bootstrap(), &topic, "none", &records, 1, false);
    mode.settle(broker, &topic, 1);
    for start in [10, 333] {
        let asked = format!(r#"{{"partitions":[{{"topic":"{topic}","partition":0,"offset":{start}}}],"version":1}}"#);
        let file = strandline_tests::place::directory("offsets").join("offsets.json");
        std::io::Write::write_all(&mut std::fs::File::create(&file).expect("a file"), asked.as_bytes())
            .expect("written");
        let told = tool(broker, tools::DELETE_RECORDS, &["--offset-json-file", &file.display().to_string()]);
        assert!(told.contains(&format!("low_watermark: {start}")), "{told}");
        assert_eq!(offset(broker, &topic, "-2"), Some(start), "earliest");
        let fetched = broker.connection().fetch(&topic, 0, start - 1, 1 << 20).expect("an answer");
        assert_eq!(fetched.error_code, 1, "before the log start is OFFSET_OUT_OF_RANGE");
        let fetched = broker.connection().fetch(&topic, 0, start, 1 << 20).expect("an answer");
        assert_eq!((fetched.error_code, fetched.log_start_offset), (0, start));
    }
}

/// `kafka-consumer-groups`: list, describe, reset, delete.
fn consumer_groups(mode: Mode) {
    let broker = mode.broker();
    let topic = mode.topic(broker, "lag", 1, false);
    let group = format!("{topic}-group");
    let records = records::generate(9, 300, Content::Text, 64 << 10);
    Client::Confluent.write(&broker.bootstrap(), &topic, "none", &records, 1, false);
    mode.settle(broker, &topic, 1);
    tools::run(
        tools::CONSOLE_CONSUMER,
        &[
            "--bootstrap-server",
            &broker.bootstrap(),
            "--topic",
            &topic,
            "--group",
            &group,
            "--from-beginning",
            "--max-messages",
            "120",
        ],
    );
    let groups = tool(broker, tools::CONSUMER_GROUPS, &["--list"]);
    assert!(groups.lines().any(|line| line.trim() == group), "{groups}");
    let lag = |broker: &Broker| -> (String, String) {
        let text = tool(broker, tools::CONSUMER_GROUPS, &["--describe", "--group", &group]);
        let line = text.lines().find(|l| l.contains(&topic)).unwrap_or_else(|| panic!("no such line:\n{text}"));
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields[3].to_owned(), fields[5].to_owned())
    };
    assert_eq!(lag(broker), ("120".to_owned(), "180".to_owned()), "committed offset and lag");
    let state = tool(broker, tools::CONSUMER_GROUPS, &["--describe", "--group", &group, "--state"]);
    assert!(state.contains("Empty"), "{state}");
    let reset = ["--reset-offsets", "--group", &group, "--topic", &topic, "--to-offset", "30", "--execute"];
    tool(broker, tools::CONSUMER_GROUPS, &reset);
    assert_eq!(lag(broker), ("30".to_owned(), "270".to_owned()), "after the reset");
    tool(broker, tools::CONSUMER_GROUPS, &["--delete", "--group", &group]);
    let groups = tool(broker, tools::CONSUMER_GROUPS, &["--list"]);
    assert!(!groups.lines().any(|line| line.trim() == group), "{groups}");
}

/// `kafka-log-dirs` tells the local size of each partition.
fn log_dirs(mode: Mode) {
    let broker = mode.broker();
    // Not tiered in either mode: a tiered partition may have given all its bytes away.
    let topic = Mode::Local.topic(broker, &format!("sizes-{mode:?}"), 2, false);
    let records = records::generate(10, 300, Content::Binary, 64 << 10);
    Client::Confluent.write(&broker.bootstrap(), &topic, "none", &records, 2, false);
    let told = tool(broker, tools::LOG_DIRS, &["--describe", "--topic-list", &topic]);
    let json = told.lines().find(|l| l.starts_with('{')).unwrap_or_else(|| panic!("no JSON:\n{told}"));
    assert!(json.contains(&format!("\"logDir\":\"{}\"", broker.log_directory.display())), "{json}");
    for partition in 0..2 {
        let (_, rest) =
            json.split_once(&format!("\"partition\":\"{topic}-{partition}\"")).unwrap_or_else(|| panic!("{json}"));
        let size: u64 =
            rest.split("\"size\":").nth(1).and_then(|r| r.split([',', '}']).next()?.parse().ok()).expect("a size");
        assert!(size > 0, "{topic}-{partition} has a size: {json}");
    }
}
