//! Records arrive, once while nothing goes wrong, at least once whatever does; offsets are the group's.

use serde_json::json;
use strandline_tests::broker::{Broker, Setup, Software, strandline_command};
use strandline_tests::connect::Worker;
use strandline_tests::process::{Program, run_well};
use strandline_tests::{place, tools, wait};

use crate::scene::{ARRIVE, await_lines, broker, file_sink, lines, produce, topic};

#[test]
fn records_arrive_once_and_the_group_says_how_far() {
    let broker = broker();
    topic(&broker, "orders", 3);
    produce(&broker, "orders", 3, "first", 300);
    let worker = Worker::start(&broker.bootstrap(), "g", &[]);
    let file = place::directory("sink").join("out");
    let body = json!({ "name": "archive", "config": file_sink("orders", &file, 1) });
    let (status, made) = worker.rest.call("POST", "/connectors", Some(&body));
    assert_eq!(status, 201, "{made}");
    worker.rest.await_state("archive", "RUNNING", 1);
    await_lines(&file, "first", 300);
    produce(&broker, "orders", 3, "second", 90);
    let found = await_lines(&file, "second", 90);
    assert!(found.values().all(|n| *n == 1), "nothing went wrong, so nothing comes twice: {found:?}");
    wait::until("all offsets are committed", ARRIVE, || {
        let (_, offsets) = worker.rest.get("/connectors/archive/offsets");
        let sum: i64 = offsets["offsets"].as_array()?.iter().filter_map(|o| o["offset"]["kafka_offset"].as_i64()).sum();
        (sum == 390).then_some(())
    });
    let described = tools::run(
        tools::CONSUMER_GROUPS,
        &["--bootstrap-server", &broker.bootstrap(), "--describe", "--group", "connect-archive"],
    );
    assert_eq!(described.lines().filter(|l| l.contains("orders") && l.contains("connect")).count(), 3, "{described}");
    let (_, topics) = worker.rest.get("/connectors/archive/topics");
    assert_eq!(topics["archive"]["topics"], json!(["orders"]));
}

#[test]
fn what_was_committed_does_not_come_again_after_a_restart() {
    let broker = broker();
    topic(&broker, "orders", 2);
    produce(&broker, "orders", 2, "first", 100);
    let mut worker = Worker::start(&broker.bootstrap(), "g", &[]);
    let file = place::directory("sink").join("out");
    worker.rest.call("PUT", "/connectors/archive/config", Some(&file_sink("orders", &file, 2)));
    await_lines(&file, "first", 100);
    worker.stop();
    produce(&broker, "orders", 2, "second", 100);
    worker.up();
    let found = await_lines(&file, "second", 100);
    assert!(found.values().all(|n| *n == 1), "an orderly stop commits what is durable: {found:?}");
    worker.kill();
    produce(&broker, "orders", 2, "third", 100);
    worker.up();
    await_lines(&file, "third", 100);
}

#[test]
fn pause_resume_stop_and_delete_do_what_they_say() {
    let broker = broker();
    topic(&broker, "orders", 1);
    let worker = Worker::start(&broker.bootstrap(), "g", &[]);
    let rest = worker.rest;
    let file = place::directory("sink").join("out");
    rest.call("PUT", "/connectors/archive/config", Some(&file_sink("orders", &file, 1)));
    rest.await_state("archive", "RUNNING", 1);
    produce(&broker, "orders", 1, "first", 10);
    await_lines(&file, "first", 10);
    assert_eq!(rest.call("PUT", "/connectors/archive/pause", None).0, 202);
    rest.await_state("archive", "PAUSED", 1);
    produce(&broker, "orders", 1, "second", 10);
    wait::pause(std::time::Duration::from_millis(800));
    assert_eq!(lines(&file).len(), 10, "a paused connector writes nothing");
    assert_eq!(rest.call("PUT", "/connectors/archive/resume", None).0, 202);
    await_lines(&file, "second", 10);
    assert_eq!(rest.call("PUT", "/connectors/archive/stop", None).0, 204);
    rest.await_state("archive", "STOPPED", 0);
    let tasks = rest.get("/connectors/archive/tasks").1;
    assert_eq!(tasks, json!([]));
    assert_eq!(rest.call("PUT", "/connectors/archive/resume", None).0, 202);
    rest.await_state("archive", "RUNNING", 1);
    produce(&broker, "orders", 1, "third", 10);
    await_lines(&file, "third", 10);
    assert_eq!(rest.call("DELETE", "/connectors/archive", None).0, 204);
    wait::until("its status is gone", ARRIVE, || (rest.get("/connectors/archive/status").0 == 404).then_some(()));
    produce(&broker, "orders", 1, "fourth", 10);
    wait::pause(std::time::Duration::from_millis(800));
    assert_eq!(lines(&file).len(), 30, "a deleted connector writes nothing");
}

#[test]
fn offsets_are_set_while_it_is_stopped_and_it_reads_from_there() {
    let broker = broker();
    topic(&broker, "orders", 1);
    produce(&broker, "orders", 1, "first", 10);
    let worker = Worker::start(&broker.bootstrap(), "g", &[]);
    let rest = worker.rest;
    let file = place::directory("sink").join("out");
    rest.call("PUT", "/connectors/archive/config", Some(&file_sink("orders", &file, 1)));
    await_lines(&file, "first", 10);
    let back = json!({ "offsets": [{
        "partition": { "kafka_topic": "orders", "kafka_partition": 0 }, "offset": { "kafka_offset": 7 },
    }]});
    let (status, refused) = rest.call("PATCH", "/connectors/archive/offsets", Some(&back));
    assert_eq!(status, 400, "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("STOPPED"), "{refused}");
    rest.call("PUT", "/connectors/archive/stop", None);
    rest.await_state("archive", "STOPPED", 0);
    let altered = wait::until("the tasks have left the group", ARRIVE, || {
        let (status, altered) = rest.call("PATCH", "/connectors/archive/offsets", Some(&back));
        (status == 200).then_some(altered)
    });
    assert!(altered["message"].as_str().unwrap().contains("altered"), "{altered}");
    rest.call("PUT", "/connectors/archive/resume", None);
    wait::until("three records come again", ARRIVE, || {
        (lines(&file).values().filter(|n| **n == 2).count() == 3).then_some(())
    });
    rest.call("PUT", "/connectors/archive/stop", None);
    rest.await_state("archive", "STOPPED", 0);
    assert_eq!(rest.call("DELETE", "/connectors/archive/offsets", None).0, 200);
    assert_eq!(rest.get("/connectors/archive/offsets").1, json!({ "offsets": [] }));
}

#[test]
fn a_task_that_fails_says_what_to_do_and_goes_on_after_a_restart() {
    let broker = broker();
    topic(&broker, "orders", 1);
    produce(&broker, "orders", 1, "first", 10);
    let worker = Worker::start(&broker.bootstrap(), "g", &[]);
    let directory = place::directory("sink").join("later");
    let file = directory.join("out");
    worker.rest.call("PUT", "/connectors/archive/config", Some(&file_sink("orders", &file, 1)));
    let failed = wait::until("the task has failed", ARRIVE, || {
        let (_, status) = worker.rest.get("/connectors/archive/status");
        (status["tasks"][0]["state"] == "FAILED").then_some(status)
    });
    let trace = failed["tasks"][0]["trace"].as_str().unwrap();
    assert!(trace.lines().next().unwrap().contains("see that the worker may write there"), "{trace}");
    assert_eq!(failed["connector"]["state"], "RUNNING");
    std::fs::create_dir(&directory).unwrap();
    let (status, planned) =
        worker.rest.call("POST", "/connectors/archive/restart?includeTasks=true&onlyFailed=true", None);
    assert_eq!((status, &planned["tasks"][0]["state"]), (202, &json!("RESTARTING")), "{planned}");
    await_lines(&file, "first", 10);
    worker.rest.await_state("archive", "RUNNING", 1);
}

#[test]
fn topics_that_match_are_read_when_they_come() {
    let broker = broker();
    topic(&broker, "orders-eu", 1);
    produce(&broker, "orders-eu", 1, "eu", 5);
    let worker = Worker::start(&broker.bootstrap(), "g", &[("consumer.metadata.max.age.ms", "500")]);
    let file = place::directory("sink").join("out");
    let mut config = file_sink("", &file, 1);
    config["topics"] = json!(null);
    config["topics.regex"] = json!("orders-.*");
    let (status, made) = worker.rest.call("PUT", "/connectors/archive/config", Some(&config));
    assert_eq!(status, 201, "{made}");
    await_lines(&file, "eu", 5);
    topic(&broker, "orders-us", 2);
    topic(&broker, "other", 1);
    produce(&broker, "other", 1, "other", 5);
    produce(&broker, "orders-us", 2, "us", 6);
    await_lines(&file, "us", 6);
    assert!(!lines(&file).contains_key("other 0"));
}

#[test]
fn what_cannot_be_read_goes_to_the_dead_letter_queue_with_the_reason() {
    let broker = broker();
    topic(&broker, "orders", 1);
    produce(&broker, "orders", 1, "this is no JSON", 3);
    let worker = Worker::start(&broker.bootstrap(), "g", &[]);
    let file = place::directory("sink").join("out");
    let mut config = file_sink("orders", &file, 1);
    for (key, value) in [
        ("value.converter", "org.apache.kafka.connect.json.JsonConverter"),
        ("value.converter.schemas.enable", "false"),
        ("errors.tolerance", "all"),
        ("errors.deadletterqueue.topic.name", "bad-orders"),
        ("errors.deadletterqueue.topic.replication.factor", "1"),
        ("errors.deadletterqueue.context.headers.enable", "true"),
    ] {
        config[key] = json!(value);
    }
    let (status, made) = worker.rest.call("PUT", "/connectors/archive/config", Some(&config));
    assert_eq!(status, 201, "{made}");
    let letters = wait::until("three letters", ARRIVE, || {
        let mut connection = broker.connection();
        (connection.list_offset("bad-orders", 0, -1).ok()? >= 3).then_some(())?;
        let arguments = ["consume", "-b", &broker.bootstrap(), "bad-orders", "--from-beginning", "-e", "--json"];
        let printed = strandline_command(&arguments, ARRIVE);
        Some(String::from_utf8_lossy(&printed).into_owned())
    });
    let letters: Vec<serde_json::Value> = letters.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(letters.len(), 3, "{letters:?}");
    assert_eq!(letters[2]["value"], "this is no JSON 2");
    let headers = letters[2]["headers"].as_array().unwrap();
    let header = |name: &str| {
        let key = format!("__connect.errors.{name}");
        headers.iter().find(|h| h["key"] == key.as_str()).unwrap_or_else(|| panic!("{key}: {headers:?}"))["value"]
            .clone()
    };
    assert_eq!((header("topic"), header("offset")), (json!("orders"), json!("2")));
    assert_eq!((header("connector.name"), header("stage")), (json!("archive"), json!("VALUE_CONVERTER")));
    assert!(header("exception.message").as_str().is_some_and(|m| !m.is_empty()));
    wait::until("they are committed", ARRIVE, || {
        let (_, offsets) = worker.rest.get("/connectors/archive/offsets");
        (offsets["offsets"][0]["offset"]["kafka_offset"] == 3).then_some(())
    });
    assert_eq!(lines(&file).len(), 0);
}

/// Three transactions of a producer, the second of them aborted.
const TRANSACTIONS: &str = "import sys\nfrom confluent_kafka import Producer\n\
    p = Producer({'bootstrap.servers': sys.argv[1], 'transactional.id': 't'})\np.init_transactions(30)\n\
    for name, commits in [('first', True), ('aborted', False), ('third', True)]:\n    p.begin_transaction()\n    \
    for n in range(50): p.produce('orders', f'{name} {n}', partition=0)\n    p.flush(30)\n    \
    (p.commit_transaction if commits else p.abort_transaction)(30)";

#[test]
fn what_was_aborted_does_not_arrive_where_only_committed_records_are_wanted() {
    // Transactions are Apache Kafka's alone, so far.
    let broker = Broker::start(Software::Kafka, Setup::default());
    topic(&broker, "orders", 1);
    let python = Program::new(place::installed("python/bin/python")).args(["-c", TRANSACTIONS, &broker.bootstrap()]);
    run_well(&python, b"", ARRIVE);
    let worker = Worker::of(Software::Strandline, &broker.bootstrap(), "g", &[]);
    let directory = place::directory("sink");
    let file = |name: &str| directory.join(name);
    for level in ["read_uncommitted", "read_committed"] {
        let mut config = file_sink("orders", &file(level), 1);
        config["consumer.override.isolation.level"] = json!(level);
        worker.rest.call("PUT", &format!("/connectors/{level}/config"), Some(&config));
    }
    let all = await_lines(&file("read_uncommitted"), "third", 50);
    let committed = await_lines(&file("read_committed"), "third", 50);
    assert_eq!((all.len(), committed.len()), (150, 100));
    assert!(committed.keys().all(|line| !line.starts_with("aborted")));
    wait::until("the end is committed, markers and all", ARRIVE, || {
        let (_, offsets) = worker.rest.get("/connectors/read_committed/offsets");
        (offsets["offsets"][0]["offset"]["kafka_offset"] == 153).then_some(())
    });
}
