//! Rows in PostgreSQL, SQLite and DuckDB, through their own drivers; read back without them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use strandline_connectors::conformance::{self, Seen, Subject};
use strandline_connectors::plugin::Launcher;
use strandline_connectors::registry::SinkKind;
use strandline_connectors::sink::{Sink, SinkError};
use strandline_connectors::sinks::adbc::AdbcKind;
use strandline_protocol::compression::Compression;
use strandline_protocol::record_batch::RecordBatchBuilder;
use strandline_tests::broker::Broker;
use strandline_tests::connect::Worker;
use strandline_tests::postgres::{PASSWORD, Postgres};
use strandline_tests::process::{Program, run};
use strandline_tests::{place, wait};

use crate::scene::{ARRIVE, broker, topic};

const SCRIPT: Duration = Duration::from_secs(60);
/// A worker that wakes after this has lost its seats (its session is 6 s).
const FROZEN: Duration = Duration::from_secs(9);
const COUNTED: &str = "SELECT __connect_partition, __connect_offset, coalesce(length(value), -1) FROM conformance";

/// A directory for `plugin.path` with the three drivers.
fn drivers() -> PathBuf {
    let directory = place::directory("drivers");
    let site =
        std::fs::read_dir(place::installed("python/lib")).expect("installed").flatten().next().expect("one version");
    let site = site.path().join("site-packages");
    for name in ["postgresql", "sqlite"] {
        let file = format!("libadbc_driver_{name}.so");
        let from = site.join(format!("adbc_driver_{name}")).join(&file);
        std::os::unix::fs::symlink(from, directory.join(file)).expect("a link");
    }
    std::os::unix::fs::symlink(place::installed("duckdb/libduckdb.so"), directory.join("libduckdb.so"))
        .expect("a link");
    directory
}

fn python(script: &str, arguments: &[&str]) -> Option<Vec<String>> {
    let program =
        Program::new(place::installed("python/bin/python")).args(["-c", script]).args(arguments.iter().copied());
    let output = run(&program, b"", SCRIPT);
    if !output.success {
        eprintln!("{}", output.stderr);
    }
    output.success.then(|| output.text().lines().map(str::to_owned).collect())
}

/// A database, and how it is read.
enum Database {
    /// One of a server.
    Postgres(Arc<Postgres>, String),
    Sqlite(PathBuf),
    Duckdb(PathBuf),
}

impl Database {
    fn url(&self) -> String {
        match self {
            Database::Postgres(server, name) => server.url(name),
            Database::Sqlite(file) => format!("sqlite:{}", file.display()),
            Database::Duckdb(file) => format!("duckdb:{}", file.display()),
        }
    }

    /// None = the table is not there.
    fn query(&self, sql: &str) -> Option<Vec<String>> {
        match self {
            Database::Postgres(server, name) => server.try_query(name, sql),
            Database::Sqlite(file) => python(
                "import sqlite3, sys\nfor row in sqlite3.connect(sys.argv[1]).execute(sys.argv[2]): print(*row)",
                &[&file.display().to_string(), sql],
            ),
            // The sink holds the file alone, so a copy is read: what is committed is in the file or in its log.
            Database::Duckdb(file) => python(
                "import duckdb, os, shutil, sys, tempfile\n\
                 with tempfile.TemporaryDirectory() as d:\n\
                 \x20   for end in ['', '.wal']:\n\
                 \x20       if os.path.exists(sys.argv[1] + end): shutil.copy(sys.argv[1] + end, d + '/copy' + end)\n\
                 \x20   for row in duckdb.connect(d + '/copy').execute(sys.argv[2]).fetchall(): print(*row)",
                &[&file.display().to_string(), sql],
            ),
        }
    }
}

fn launcher() -> Launcher {
    Launcher::of(place::strandline())
}

struct Rows {
    kind: Arc<dyn SinkKind>,
    database: Database,
    directory: PathBuf,
}

#[async_trait]
impl Subject for Rows {
    fn sink(&self) -> Result<Box<dyn Sink>, SinkError> {
        let mut settings = conformance::settings(&[
            ("connection.url", &*self.database.url()),
            ("pk.mode", "kafka"),
            ("auto.create", "true"),
        ]);
        if let Database::Postgres(server, _) = &self.database {
            let more = [("connection.user", server.user()), ("connection.password", PASSWORD)];
            settings.extend(conformance::settings(&more));
        }
        assert_eq!(self.kind.faults(&settings), []);
        conformance::sink_of(&self.kind, &settings, &self.directory)
    }

    async fn seen(&self) -> Result<Vec<Seen>, String> {
        let length = if matches!(self.database, Database::Duckdb(_)) { "octet_length" } else { "length" };
        let lines = self.database.query(&COUNTED.replace("length", length)).unwrap_or_default();
        let one = |line: &String| {
            let numbers: Vec<i64> = line.split(' ').map(|n| n.parse().expect("a number")).collect();
            Seen {
                partition: i32::try_from(numbers[0]).expect("a partition"),
                offset: numbers[1],
                length: Some(numbers[2]),
            }
        };
        Ok(lines.iter().map(one).collect())
    }

    fn exactly_once(&self) -> bool {
        true
    }
}

fn conforms(mut database: impl FnMut(&Path) -> Database) {
    let kind: Arc<dyn SinkKind> = Arc::new(AdbcKind::new(&[drivers()], launcher()));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let fresh = || -> Box<dyn Subject> {
        let directory = place::directory("adbc");
        Box::new(Rows { kind: Arc::clone(&kind), database: database(&directory), directory })
    };
    assert_eq!(runtime.block_on(conformance::check(fresh)), Vec::<String>::new());
}

#[test]
fn the_adbc_sink_conforms_with_sqlite() {
    conforms(|directory| Database::Sqlite(directory.join("db")));
}

#[test]
fn the_adbc_sink_conforms_with_duckdb() {
    conforms(|directory| Database::Duckdb(directory.join("db")));
}

#[test]
fn the_adbc_sink_conforms_with_postgresql() {
    let server = Arc::new(Postgres::start());
    let mut number = 0;
    conforms(|_| {
        number += 1;
        let name = format!("scene_{number}");
        server.query(&format!("CREATE DATABASE {name}"));
        Database::Postgres(Arc::clone(&server), name)
    });
}

/// A record with its schema, as Kafka Connect's JSON converter has it; fields are `name type value`.
fn record(fields: &[(&str, &str, Value)]) -> Vec<u8> {
    let schema: Vec<Value> =
        fields.iter().map(|(name, kind, _)| json!({ "field": name, "type": kind, "optional": true })).collect();
    let payload: serde_json::Map<String, Value> =
        fields.iter().map(|(name, _, value)| ((*name).to_owned(), value.clone())).collect();
    json!({ "schema": { "type": "struct", "fields": schema }, "payload": payload }).to_string().into_bytes()
}

/// Of a record.
type KeyValue = (Option<Vec<u8>>, Option<Vec<u8>>);

fn produce(broker: &Broker, partition: i32, records: &[KeyValue]) {
    let mut builder = RecordBatchBuilder::new(Compression::None);
    for (key, value) in records {
        builder.append(wait::wall_clock_ms(), key.as_deref(), value.as_deref(), &[]);
    }
    let answer = broker.connection().produce("orders", partition, builder.build()).expect("the broker answers");
    assert_eq!(answer.error_code, 0, "{answer:?}");
}

fn config(postgres: &Postgres, more: &[(&str, &str)]) -> Value {
    let mut config = json!({
        "connector.class": "adbc", "topics": "orders", "tasks.max": "1",
        "connection.url": postgres.url("postgres"), "connection.user": postgres.user(), "connection.password": PASSWORD,
        "key.converter": "org.apache.kafka.connect.storage.StringConverter",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter", "value.converter.schemas.enable": "true",
        "auto.create": "true",
    });
    more.iter().for_each(|(key, value)| config[*key] = json!(value));
    config
}

fn committed(worker: &Worker) -> i64 {
    let (_, offsets) = worker.rest.get("/connectors/table/offsets");
    let all = offsets["offsets"].as_array().cloned().unwrap_or_default();
    all.iter().filter_map(|o| o["offset"]["kafka_offset"].as_i64()).sum()
}

fn await_committed(worker: &Worker, sum: i64) {
    wait::until(&format!("offsets to {sum} are committed"), ARRIVE, || (committed(worker) == sum).then_some(()));
}

fn worker(broker: &Broker) -> Worker {
    Worker::start(&broker.bootstrap(), "g", &[("plugin.path", &drivers().display().to_string())])
}

fn key(text: &str) -> Option<Vec<u8>> {
    Some(text.as_bytes().to_vec())
}

#[test]
fn the_last_record_of_a_key_is_its_row_and_columns_come_when_they_are_needed() {
    let (broker, postgres) = (broker(), Postgres::start());
    topic(&broker, "orders", 1);
    let worker = worker(&broker);
    let more = [
        ("insert.mode", "upsert"),
        ("pk.mode", "record_key"),
        ("pk.fields", "id"),
        ("delete.enabled", "true"),
        ("auto.evolve", "true"),
    ];
    let (status, made) = worker.rest.call("PUT", "/connectors/table/config", Some(&config(&postgres, &more)));
    assert_eq!(status, 201, "{made}");
    assert!(!made.to_string().contains(PASSWORD), "{made}");
    let amount = |n: i64| Some(record(&[("amount", "int64", json!(n)), ("paid", "boolean", json!(n % 2 == 0))]));
    produce(&broker, 0, &[(key("a"), amount(1)), (key("b"), amount(2)), (key("a"), amount(3)), (key("c"), amount(4))]);
    await_committed(&worker, 4);
    let rows = || postgres.query("SELECT id, amount, paid FROM orders ORDER BY id");
    assert_eq!(rows(), ["a 3 f", "b 2 t", "c 4 t"]);
    let wider = record(&[("amount", "int64", json!(5)), ("note", "string", json!("it's \"quoted\""))]);
    produce(&broker, 0, &[(key("b"), Some(wider)), (key("c"), None), (key("a"), amount(6))]);
    await_committed(&worker, 7);
    assert_eq!(rows(), ["a 6 t", "b 5 t"], "c is deleted; a column that a record lacks stays");
    assert_eq!(postgres.query("SELECT note FROM orders WHERE id = 'b'"), ["it's \"quoted\""]);
}

#[test]
fn rows_are_there_once_through_kills_freezes_and_outages() {
    let (broker, mut postgres) = (broker(), Postgres::start());
    topic(&broker, "orders", 4);
    let mut worker = worker(&broker);
    let config = config(
        &postgres,
        &[
            ("pk.mode", "none"),
            ("tasks.max", "2"),
            ("value.converter", "org.apache.kafka.connect.storage.StringConverter"),
        ],
    );
    worker.rest.call("PUT", "/connectors/table/config", Some(&config));
    let mut count = 0;
    let produce_some = |count: &mut i64| {
        for partition in 0..4 {
            let values: Vec<_> = (*count..*count + 250).map(|n| (None, key(&format!("{partition}/{n}")))).collect();
            produce(&broker, partition, &values);
        }
        *count += 250;
    };
    for round in 0..4 {
        produce_some(&mut count);
        match round {
            0 => worker.kill(),
            1 => {
                worker.server().freeze();
                let mut other =
                    Worker::start(&broker.bootstrap(), "g", &[("plugin.path", &drivers().display().to_string())]);
                wait::pause(FROZEN);
                produce_some(&mut count);
                worker.server().resume();
                wait::pause(Duration::from_secs(1));
                other.stop();
            }
            2 => {
                postgres.kill();
                produce_some(&mut count);
                wait::pause(Duration::from_millis(500));
                postgres.up();
            }
            _ => {}
        }
        if round == 0 {
            worker.up();
        }
    }
    await_committed(&worker, 4 * count);
    let rows = postgres.query("SELECT count(*), count(DISTINCT value) FROM orders");
    assert_eq!(rows, [format!("{0} {0}", 4 * count)], "each record is in exactly one row");
    let kept = postgres.query("SELECT sum(next_offset), count(*) FROM strandline_offsets WHERE connector = 'table'");
    assert_eq!(kept, [format!("{} 4", 4 * count)]);
    let log = worker.server().log_text();
    assert!(!log.contains(PASSWORD), "the log has the password");
}

#[test]
fn a_row_that_the_database_refuses_is_put_aside_alone() {
    let (broker, postgres) = (broker(), Postgres::start());
    topic(&broker, "orders", 1);
    postgres.query("CREATE TABLE orders (amount bigint CHECK (amount <> 13), name text UNIQUE)");
    let row =
        |n: i64, name: &str| (None, Some(record(&[("amount", "int64", json!(n)), ("name", "string", json!(name))])));
    // Offset 3 is refused by a check, 5 for its letter, 7 because of offset 1.
    let rows: Vec<_> = [(0, "a"), (1, "b"), (2, "c"), (13, "d"), (4, "e"), (5, "f\u{0}"), (6, "g"), (7, "b"), (8, "h")]
        .iter()
        .map(|(n, name)| row(*n, name))
        .collect();
    produce(&broker, 0, &rows);
    let worker = worker(&broker);
    let more = [
        ("errors.tolerance", "all"),
        ("errors.deadletterqueue.topic.name", "bad-orders"),
        ("errors.deadletterqueue.topic.replication.factor", "1"),
        ("errors.deadletterqueue.context.headers.enable", "true"),
    ];
    worker.rest.call("PUT", "/connectors/table/config", Some(&config(&postgres, &more)));
    await_committed(&worker, 9);
    let amounts = postgres.query("SELECT amount FROM orders ORDER BY amount");
    assert_eq!(amounts, ["0", "1", "2", "4", "6", "8"]);
    assert_eq!(broker.connection().list_offset("bad-orders", 0, -1), Ok(3));
}

#[test]
fn what_an_operator_has_to_do_is_what_the_task_says() {
    let (broker, postgres) = (broker(), Postgres::start());
    topic(&broker, "orders", 1);
    produce(&broker, 0, &[(None, Some(record(&[("n", "int32", json!(1))])))]);
    let worker = worker(&broker);
    let fails = |config: &Value| {
        worker.rest.call("PUT", "/connectors/table/config", Some(config));
        let failed = wait::until("the task has failed", ARRIVE, || {
            let (_, status) = worker.rest.get("/connectors/table/status");
            (status["tasks"][0]["state"] == "FAILED").then_some(status)
        });
        failed["tasks"][0]["trace"].as_str().unwrap().to_owned()
    };
    let trace = fails(&config(&postgres, &[("auto.create", "false")]));
    assert!(trace.contains("make the table \"orders\", or set auto.create=true"), "{trace}");
    worker.rest.call("DELETE", "/connectors/table", None);
    wait::until("it is gone", ARRIVE, || (worker.rest.get("/connectors/table/status").0 == 404).then_some(()));
    let trace = fails(&config(&postgres, &[("connection.password", "wrong")]));
    assert!(trace.contains("authentication failed") && !trace.contains(PASSWORD), "{trace}");
    let unknown = config(&postgres, &[("adbc.driver", "snowflake")]);
    let (status, refused) = worker.rest.call("PUT", "/connectors/other/config", Some(&unknown));
    assert_eq!(status, 400, "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("libadbc_driver_snowflake.so"), "{refused}");
}
