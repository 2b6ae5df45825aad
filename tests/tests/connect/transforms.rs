//! Transforms on their way to a sink, and the records that they cannot take: to the dead letter queue, and back.

use serde_json::{Value, json};
use strandline_protocol::compression::Compression;
use strandline_protocol::record_batch::RecordBatchBuilder;
use strandline_tests::broker::{Broker, files_below, strandline_command};
use strandline_tests::connect::Worker;
use strandline_tests::{place, wait};

use crate::scene::{ARRIVE, broker, topic};

fn produce_json(broker: &Broker, topic: &str, values: &[Option<&str>]) {
    let mut builder = RecordBatchBuilder::new(Compression::None);
    values.iter().for_each(|value| builder.append(wait::wall_clock_ms(), Some(b"k"), value.map(str::as_bytes), &[]));
    let answer = broker.connection().produce(topic, 0, builder.build()).expect("the broker answers");
    assert_eq!(answer.error_code, 0, "{answer:?}");
}

fn await_offset(worker: &Worker, name: &str, end: i64) {
    wait::until(&format!("{name} has committed {end}"), ARRIVE, || {
        let (_, offsets) = worker.rest.get(&format!("/connectors/{name}/offsets"));
        (offsets["offsets"][0]["offset"]["kafka_offset"] == end).then_some(())
    });
}

#[test]
fn records_are_transformed_on_their_way_to_files() {
    let broker = broker();
    topic(&broker, "orders.v1", 1);
    produce_json(
        &broker,
        "orders.v1",
        &[Some("{\"id\":1,\"card\":\"4711\",\"x\":1.50}"), None, Some("{\"id\":2,\"card\":\"0815\"}"), None],
    );
    let worker = Worker::start(&broker.bootstrap(), "g", &[]);
    let (_, plugins) = worker.rest.get("/connector-plugins?connectorsOnly=false");
    let has =
        |class: &str, kind: &str| plugins.as_array().unwrap().iter().any(|p| p["class"] == class && p["type"] == kind);
    assert!(has("org.apache.kafka.connect.transforms.InsertField$Value", "transformation"), "{plugins}");
    assert!(has("org.apache.kafka.connect.transforms.predicates.RecordIsTombstone", "predicate"), "{plugins}");
    let directory = place::directory("archive");
    let mut config = json!({
        "connector.class": "object-store", "topics": "orders.v1", "store.url": format!("file://{}", directory.display()),
        "flush.size": "100", "rotate.schedule.interval.ms": "1000", "format.class": "json", "format.output.fields": "offset,topic,value",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter", "value.converter.schemas.enable": "false",
        "transforms": "gone, hide, add, send",
        "transforms.gone.type": "org.apache.kafka.connect.transforms.Filter", "transforms.gone.predicate": "empty",
        "transforms.hide.type": "org.apache.kafka.connect.transforms.MaskField$Value", "transforms.hide.fields": "card",
        "transforms.add.type": "org.apache.kafka.connect.transforms.InsertField$Value", "transforms.add.offset.field": "at",
        "transforms.send.type": "RegexRouter", "transforms.send.regex": "(.*)\\.v\\d", "transforms.send.replacement": "$1",
        "predicates": "empty", "predicates.empty.type": "RecordIsTombstone",
    });
    let mut wrong = config.clone();
    wrong["transforms.hide.fields"] = json!("");
    wrong["name"] = json!("archive");
    let (_, told) = worker.rest.call("PUT", "/connector-plugins/object-store/config/validate", Some(&wrong));
    let of = |name: &str| told["configs"].as_array().unwrap().iter().find(|c| c["value"]["name"] == name).cloned();
    assert_eq!(told["error_count"], 1, "{told}");
    assert!(told["groups"].as_array().unwrap().contains(&json!("Transforms: hide")), "{told}");
    assert_eq!(of("transforms.hide.fields").unwrap()["value"]["errors"].as_array().unwrap().len(), 1);
    assert_eq!(of("transforms.gone.predicate").unwrap()["value"]["value"], "empty");

    let (status, made) = worker.rest.call("PUT", "/connectors/archive/config", Some(&config));
    assert_eq!(status, 201, "{made}");
    // The last record is filtered, and counts as delivered.
    await_offset(&worker, "archive", 4);
    let files: Vec<_> =
        files_below(&directory).into_iter().filter(|f| f.extension().is_some_and(|e| e == "json")).collect();
    let rows = |wanted: &str| -> Vec<Value> {
        let own = files.iter().filter(|f| f.display().to_string().contains(wanted));
        own.flat_map(|f| {
            std::fs::read_to_string(f)
                .unwrap()
                .lines()
                .map(|l| serde_json::from_str(l).unwrap())
                .collect::<Vec<Value>>()
        })
        .collect()
    };
    let expected = [
        json!({ "offset": 0, "topic": "orders", "value": { "id": 1, "card": "", "x": 1.5, "at": 0 } }),
        json!({ "offset": 2, "topic": "orders", "value": { "id": 2, "card": "", "at": 2 } }),
    ];
    assert_eq!(rows("/topics/orders/"), expected, "{files:?}");
    let named = |f: &std::path::PathBuf| f.file_name().unwrap().to_string_lossy().starts_with("orders.v1+0+");
    assert!(files.iter().filter(|f| f.display().to_string().contains("/topics/orders/")).all(named), "{files:?}");
    // Another chain goes on where the one before has ended.
    config["transforms"] = json!("hide");
    assert_eq!(worker.rest.call("PUT", "/connectors/archive/config", Some(&config)).0, 200);
    produce_json(&broker, "orders.v1", &[Some("{\"id\":3,\"card\":\"12\"}")]);
    await_offset(&worker, "archive", 5);
}

#[test]
fn what_a_transform_cannot_take_is_put_aside_and_replayed_once() {
    let broker = broker();
    topic(&broker, "orders", 1);
    produce_json(&broker, "orders", &[Some("{\"id\":1}"), Some("[\"no object\"]"), Some("{\"id\":2}"), Some("7")]);
    let worker = Worker::start(&broker.bootstrap(), "g", &[]);
    let file = place::directory("sink").join("out");
    let config = json!({
        "connector.class": "FileStreamSink", "topics": "orders", "file": file.display().to_string(),
        "value.converter": "org.apache.kafka.connect.json.JsonConverter", "value.converter.schemas.enable": "false",
        "transforms": "only", "transforms.only.type": "ExtractField$Value", "transforms.only.field": "id",
        "errors.tolerance": "all", "errors.deadletterqueue.topic.name": "bad-orders",
        "errors.deadletterqueue.topic.replication.factor": "1", "errors.deadletterqueue.context.headers.enable": "true",
    });
    let (status, made) = worker.rest.call("PUT", "/connectors/archive/config", Some(&config));
    assert_eq!(status, 201, "{made}");
    await_offset(&worker, "archive", 4);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "1\n2\n");
    let (address, url) = (broker.bootstrap(), format!("http://{}", worker.rest.0));
    let dlq = |arguments: &[&str]| {
        let all = [&["connector", "--url", &url, "dlq", "-b", &address], arguments].concat();
        String::from_utf8(strandline_command(&all, ARRIVE)).expect("text")
    };
    let listed: Value = serde_json::from_str(&dlq(&["list", "archive", "--json"])).unwrap();
    assert_eq!(listed.as_array().unwrap().iter().map(|k| k["count"].as_u64().unwrap()).sum::<u64>(), 2, "{listed}");
    assert!(
        listed.as_array().unwrap().iter().all(|k| k["stage"] == "TRANSFORMATION" && k["topic"] == "orders"),
        "{listed}"
    );
    assert!(dlq(&["list", "--topic", "bad-orders"]).contains("TRANSFORMATION"));
    let shown = dlq(&["show", "archive", "--json"]);
    let shown: Vec<Value> = shown.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(
        (shown.len(), &shown[0]["value"], &shown[0]["offset"]),
        (2, &json!("[\"no object\"]"), &json!(1)),
        "{shown:?}"
    );
    let reason = shown[1]["reason"].as_str().unwrap();
    assert!(reason.starts_with("Only Map objects supported in absence of schema for [field extraction]"), "{reason}");
    assert!(dlq(&["show", "archive", "-n", "1"]).contains("[\"no object\"]"));

    let replay = |more: &[&str]| -> Value {
        serde_json::from_str(&dlq(&[&["replay", "archive", "--json"], more].concat())).unwrap()
    };
    assert_eq!(replay(&["--dry-run"])["replayed"], 2);
    // What comes back fails again: not before the second replay has looked.
    assert_eq!(worker.rest.call("PUT", "/connectors/archive/pause", None).0, 202);
    worker.rest.await_state("archive", "PAUSED", 1);
    assert_eq!(replay(&[])["replayed"], 2);
    assert_eq!(replay(&[])["replayed"], 0, "a second replay goes on behind the first");
    let read = strandline_command(&["consume", "-b", &address, "orders", "--from-beginning", "-e", "--json"], ARRIVE);
    let read: Vec<Value> = String::from_utf8_lossy(&read).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(read.len(), 6, "{read:?}");
    assert_eq!(
        (&read[4]["value"], &read[4]["key"], &read[4]["headers"]),
        (&json!("[\"no object\"]"), &json!("k"), &json!([]))
    );
    // They fail again, and are there again to be replayed.
    assert_eq!(worker.rest.call("PUT", "/connectors/archive/resume", None).0, 202);
    await_offset(&worker, "archive", 6);
    assert_eq!(replay(&["--dry-run"])["replayed"], 2);
}
