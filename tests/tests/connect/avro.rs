//! Avro from a registry to files: a stand-in gives a registry's recorded answers, a worker archives what fits the schemas, and other programs
//! read it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use strandline_protocol::compression::Compression;
use strandline_protocol::record_batch::RecordBatchBuilder;
use strandline_tests::broker::{Broker, strandline_command};
use strandline_tests::connect::Worker;
use strandline_tests::process::{Program, run_well};
use strandline_tests::{place, wait};

use crate::scene::{ARRIVE, broker, topic};

const SCRIPT: Duration = Duration::from_secs(60);
const PASSWORD: &str = "reg1stry-pass";
/// `Basic` of `reader:reg1stry-pass`.
const AUTHORIZATION: &str = "Basic cmVhZGVyOnJlZzFzdHJ5LXBhc3M=";

/// What a registry answers, as it was recorded: path, status, body.
const RECORDED: [(&str, u16, &str); 5] = [
    (
        "/schemas/ids/1",
        200,
        r#"{"schema":"{\"type\":\"record\",\"name\":\"Order\",\"namespace\":\"shop\",\"fields\":[{\"name\":\"id\",\"type\":\"long\"},{\"name\":\"note\",\"type\":[\"null\",\"string\"],\"default\":null}]}"}"#,
    ),
    (
        "/schemas/ids/2",
        200,
        r#"{"schema":"{\"type\":\"record\",\"name\":\"Sale\",\"namespace\":\"shop\",\"fields\":[{\"name\":\"id\",\"type\":\"long\"},{\"name\":\"buyer\",\"type\":\"shop.Buyer\"}]}","references":[{"name":"shop.Buyer","subject":"shop.Buyer","version":1}]}"#,
    ),
    (
        "/subjects/shop.Buyer/versions/1",
        200,
        r#"{"subject":"shop.Buyer","version":1,"id":7,"schema":"{\"type\":\"record\",\"name\":\"Buyer\",\"namespace\":\"shop\",\"fields\":[{\"name\":\"name\",\"type\":\"string\"},{\"name\":\"since\",\"type\":{\"type\":\"long\",\"logicalType\":\"timestamp-micros\"}}]}"}"#,
    ),
    ("/schemas/ids/99", 404, r#"{"error_code":40403,"message":"Schema 99 not found"}"#),
    ("", 404, r#"{"error_code":404,"message":"HTTP 404 Not Found"}"#),
];

/// A registry's answers at a port; counts the calls of each path.
struct StandIn {
    address: SocketAddr,
    calls: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl StandIn {
    /// The first calls are answered as by a registry that is starting.
    fn start(busy: usize) -> StandIn {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let calls: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
        let counted = Arc::clone(&calls);
        // Ends with the process of the tests.
        std::thread::spawn(move || {
            for (at, stream) in listener.incoming().flatten().enumerate() {
                let _ = answer(stream, at < busy, &counted);
            }
        });
        StandIn { address, calls }
    }

    fn calls(&self, path: &str) -> usize {
        self.calls.lock().expect("nobody panics with it").get(path).copied().unwrap_or(0)
    }
}

fn answer(mut stream: TcpStream, busy: bool, calls: &Mutex<BTreeMap<String, usize>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let head: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let allowed = head.iter().any(|line| line.eq_ignore_ascii_case(&format!("authorization: {AUTHORIZATION}")));
    let found = RECORDED.iter().find(|(known, ..)| *known == path).unwrap_or(&RECORDED[RECORDED.len() - 1]);
    let (status, body) = match (busy, allowed) {
        (true, _) => (503, ""),
        (false, false) => (401, r#"{"error_code":401,"message":"Unauthorized"}"#),
        (false, true) => (found.1, found.2),
    };
    if !busy {
        *calls.lock().expect("nobody panics with it").entry(path).or_default() += 1;
    }
    write!(
        stream,
        "HTTP/1.1 {status} -\r\nContent-Type: application/vnd.schemaregistry.v1+json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Avro's numbers.
fn long(value: i64) -> Vec<u8> {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    let mut out = Vec::new();
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
    out
}

fn text(value: &str) -> Vec<u8> {
    [long(i64::try_from(value.len()).expect("short")), value.as_bytes().to_vec()].concat()
}

fn framed(id: u32, body: &[Vec<u8>]) -> Vec<u8> {
    [vec![0], id.to_be_bytes().to_vec(), body.concat()].concat()
}

/// Two schemas in turn: `{id, note}` and `{id, buyer: {name, since}}`.
fn good(n: i64) -> Vec<u8> {
    match n % 2 {
        0 => framed(1, &[long(n), long(i64::from(n % 4 == 0)), if n % 4 == 0 { text("four") } else { Vec::new() }]),
        _ => framed(2, &[long(n), text("Ann"), long(1_700_000_000_000_000 + n)]),
    }
}

fn produce(broker: &Broker, values: &[Vec<u8>]) {
    let mut builder = RecordBatchBuilder::new(Compression::None);
    values.iter().for_each(|value| builder.append(wait::wall_clock_ms(), None, Some(value), &[]));
    let answer = broker.connection().produce("orders", 0, builder.build()).expect("the broker answers");
    assert_eq!(answer.error_code, 0, "{answer:?}");
}

fn archive(registry: &StandIn, directory: &Path, more: &[(&str, &str)]) -> Value {
    let mut config = json!({
        "connector.class": "io.confluent.connect.s3.S3SinkConnector", "topics": "orders",
        "store.url": format!("file://{}", directory.display()),
        "flush.size": "50", "rotate.schedule.interval.ms": "1000",
        "value.converter": "io.confluent.connect.avro.AvroConverter",
        "value.converter.schema.registry.url": format!("http://{}", registry.address),
        "value.converter.basic.auth.credentials.source": "USER_INFO",
        "value.converter.basic.auth.user.info": format!("reader:{PASSWORD}"),
    });
    more.iter().for_each(|(key, value)| config[*key] = json!(value));
    config
}

fn await_committed(worker: &Worker, name: &str, offset: usize) {
    wait::until(&format!("{name} has committed {offset}"), ARRIVE, || {
        let (_, told) = worker.rest.get(&format!("/connectors/{name}/offsets"));
        (told["offsets"][0]["offset"]["kafka_offset"] == offset).then_some(())
    });
}

fn read_avro(directory: &Path) -> Vec<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python/read_avro.py");
    let arguments = [script.display().to_string(), directory.display().to_string()];
    let printed = run_well(&Program::new(place::installed("python/bin/python")).args(arguments), b"", SCRIPT);
    let printed = String::from_utf8(printed).expect("JSON");
    printed.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[test]
fn avro_from_a_registry_is_archived_as_avro_and_what_does_not_fit_is_put_aside() {
    let broker = broker();
    topic(&broker, "orders", 1);
    let registry = StandIn::start(2);
    let worker = Worker::start(&broker.bootstrap(), "g", &[]);
    let directory = place::directory("avro");
    let mut values: Vec<Vec<u8>> = (0..60).map(good).collect();
    values.insert(10, b"no magic byte".to_vec());
    values.insert(20, framed(99, &[long(1)]));
    values.insert(30, framed(2, &[long(1), text("cut off")]));
    produce(&broker, &values);
    let config = archive(
        &registry,
        &directory,
        &[
            ("format.class", "io.confluent.connect.s3.format.avro.AvroFormat"),
            ("avro.codec", "snappy"),
            ("errors.tolerance", "all"),
            ("errors.deadletterqueue.topic.name", "bad-orders"),
            ("errors.deadletterqueue.topic.replication.factor", "1"),
            ("errors.deadletterqueue.context.headers.enable", "true"),
        ],
    );
    let (status, made) = worker.rest.call("PUT", "/connectors/archive/config", Some(&config));
    assert_eq!(status, 201, "{made}");
    assert!(!made.to_string().contains(PASSWORD), "{made}");
    await_committed(&worker, "archive", 63);
    let rows = read_avro(&directory.join("topics/orders"));
    assert!(rows.iter().all(|row| row["codec"] == "snappy"), "{:?}", rows.first());
    let mut records: Vec<&Value> = rows.iter().map(|row| &row["record"]).collect();
    records.sort_by_key(|record| record["id"].as_i64());
    assert_eq!(records.len(), 60);
    for (n, record) in (0_i64..).zip(records) {
        let expected = match n % 4 {
            0 => json!({ "id": n, "note": "four" }),
            2 => json!({ "id": n, "note": null }),
            _ => json!({ "id": n, "buyer": { "name": "Ann", "since": record["buyer"]["since"] } }),
        };
        assert_eq!(*record, expected);
        assert!(n % 2 == 0 || record["buyer"]["since"].as_str().is_some_and(|time| time.starts_with("2023-11-14")));
    }
    let arguments = ["consume", "-b", &broker.bootstrap(), "bad-orders", "--from-beginning", "-e", "--json"];
    let letters = String::from_utf8(strandline_command(&arguments, ARRIVE)).expect("JSON");
    assert_eq!(letters.lines().count(), 3, "{letters}");
    assert_eq!(letters.matches("VALUE_CONVERTER").count(), 3, "{letters}");
    for reason in ["Unknown magic byte", "Schema 99 not found (40403)", "does not fit the schema 2"] {
        assert!(letters.contains(reason), "{reason}: {letters}");
    }
    for path in ["/schemas/ids/1", "/schemas/ids/2", "/subjects/shop.Buyer/versions/1"] {
        assert_eq!(registry.calls(path), 1, "{path} is asked for once");
    }
}

#[test]
fn avro_becomes_typed_columns_of_parquet_and_a_wrong_password_ends_the_task() {
    let broker = broker();
    topic(&broker, "orders", 1);
    let registry = StandIn::start(0);
    let worker = Worker::start(&broker.bootstrap(), "g", &[]);
    let directory = place::directory("parquet");
    produce(&broker, &(0..20).map(good).collect::<Vec<_>>());
    let format = [("format.class", "parquet"), ("format.output.fields", "value")];
    let password = ("value.converter.basic.auth.user.info", "reader:wrong");
    let wrong = archive(&registry, &directory, &[format[0], format[1], password]);
    worker.rest.call("PUT", "/connectors/archive/config", Some(&wrong));
    let failed = wait::until("the task has failed", ARRIVE, || {
        let (_, status) = worker.rest.get("/connectors/archive/status");
        (status["tasks"][0]["state"] == "FAILED").then(|| status["tasks"][0]["trace"].to_string())
    });
    assert!(failed.contains("Unauthorized (401)") && failed.contains("basic.auth.user.info"), "{failed}");
    assert!(!failed.contains("wrong"), "a password is not told: {failed}");
    let right = archive(&registry, &directory, &format);
    worker.rest.call("PUT", "/connectors/archive/config", Some(&right));
    await_committed(&worker, "archive", 20);
    let query = format!(
        "select count(*), sum(id), min(typeof(buyer.since)) from read_parquet('{}/topics/orders/**/*.parquet', union_by_name=true)",
        directory.display()
    );
    let script = format!("import duckdb; print(duckdb.connect().execute(\"{query}\").fetchone())");
    let printed = run_well(&Program::new(place::installed("python/bin/python")).args(["-c", &script]), b"", SCRIPT);
    let printed = String::from_utf8_lossy(&printed).into_owned();
    assert!(printed.contains("(20, 190, 'TIMESTAMP WITH TIME ZONE')"), "{printed}");
}
