//! Rows in Apache Iceberg tables, through the plugin and Apache Iceberg's own catalog; read back by pyiceberg.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use strandline_connectors::conformance::{self, Seen, Subject};
use strandline_connectors::plugin::{Launcher, PluginKind, discover};
use strandline_connectors::registry::SinkKind;
use strandline_connectors::sink::{Sink, SinkError};
use strandline_protocol::compression::Compression;
use strandline_protocol::record_batch::RecordBatchBuilder;
use strandline_tests::broker::Broker;
use strandline_tests::connect::Worker;
use strandline_tests::iceberg::Catalog;
use strandline_tests::minio::Minio;
use strandline_tests::{place, wait};

use crate::scene::{ARRIVE, broker, topic};

/// A worker that wakes after this has lost its seats (its session is 6 s).
const FROZEN: Duration = Duration::from_secs(9);
const SEEN: &str = "for r in t.scan(selected_fields=('partition', 'offset', 'value')).to_arrow().to_pylist():\n    \
                    print(r['partition'], r['offset'], -1 if r['value'] is None else len(r['value']))";

struct Table {
    kind: Arc<dyn SinkKind>,
    catalog: Arc<Catalog>,
    name: String,
    directory: PathBuf,
}

#[async_trait]
impl Subject for Table {
    fn sink(&self) -> Result<Box<dyn Sink>, SinkError> {
        let mut settings = conformance::settings(&[
            ("iceberg.tables", &self.name),
            ("iceberg.tables.auto-create-enabled", "true"),
            ("iceberg.catalog.uri", &self.catalog.uri()),
        ]);
        settings
            .extend(self.catalog.storage().into_iter().map(|(key, value)| (format!("iceberg.catalog.{key}"), value)));
        conformance::sink_of(&self.kind, &settings, &self.directory)
    }

    async fn seen(&self) -> Result<Vec<Seen>, String> {
        let one = |line: &String| {
            let numbers: Vec<i64> = line.split(' ').map(|n| n.parse().expect("a number")).collect();
            Seen {
                partition: i32::try_from(numbers[0]).expect("a partition"),
                offset: numbers[1],
                length: Some(numbers[2]),
            }
        };
        Ok(self.catalog.python(&self.name, SEEN).unwrap_or_default().iter().map(one).collect())
    }

    fn exactly_once(&self) -> bool {
        true
    }
}

#[test]
fn the_iceberg_sink_conforms_with_a_warehouse_in_a_directory() {
    conforms(Catalog::start());
}

#[test]
fn the_iceberg_sink_conforms_with_a_warehouse_in_s3() {
    let minio = Minio::start();
    conforms(Catalog::over(&minio));
}

fn conforms(catalog: Catalog) {
    let manifest = discover::read(&place::iceberg_plugin()).expect("a plugin");
    let kind: Arc<dyn SinkKind> = Arc::new(PluginKind::new(manifest, Launcher::of(place::strandline())));
    let catalog = Arc::new(catalog);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let mut number = 0;
    let fresh = || -> Box<dyn Subject> {
        number += 1;
        let name = format!("scenes.scene_{number}");
        let directory = place::directory("iceberg");
        Box::new(Table { kind: Arc::clone(&kind), catalog: Arc::clone(&catalog), name, directory })
    };
    assert_eq!(runtime.block_on(conformance::check(fresh)), Vec::<String>::new());
}

fn worker(broker: &Broker) -> Worker {
    Worker::start(&broker.bootstrap(), "g", &[("plugin.path", &place::iceberg_plugin().display().to_string())])
}

fn config(catalog: &Catalog, more: &[(&str, &str)]) -> Value {
    let mut config = json!({
        "connector.class": "org.apache.iceberg.connect.IcebergSinkConnector", "topics": "orders", "tasks.max": "1",
        "iceberg.tables": "lake.orders", "iceberg.tables.auto-create-enabled": "true",
        "iceberg.catalog.type": "rest", "iceberg.catalog.uri": catalog.uri(), "iceberg.control.commit.interval-ms": "500",
    });
    more.iter().for_each(|(key, value)| config[*key] = json!(value));
    config
}

fn produce(broker: &Broker, partition: i32, values: &[Option<Vec<u8>>]) {
    let mut builder = RecordBatchBuilder::new(Compression::None);
    values.iter().for_each(|value| builder.append(wait::wall_clock_ms(), None, value.as_deref(), &[]));
    let answer = broker.connection().produce("orders", partition, builder.build()).expect("the broker answers");
    assert_eq!(answer.error_code, 0, "{answer:?}");
}

fn await_committed(worker: &Worker, sum: i64) {
    wait::until(&format!("offsets to {sum} are committed"), ARRIVE, || {
        let (_, offsets) = worker.rest.get("/connectors/table/offsets");
        let all = offsets["offsets"].as_array().cloned().unwrap_or_default();
        let committed: i64 = all.iter().filter_map(|o| o["offset"]["kafka_offset"].as_i64()).sum();
        (committed == sum).then_some(())
    });
}

#[test]
fn rows_are_there_once_through_kills_freezes_and_outages() {
    let (broker, mut catalog) = (broker(), Catalog::start());
    topic(&broker, "orders", 4);
    let mut worker = worker(&broker);
    let config = config(&catalog, &[("tasks.max", "2")]);
    assert_eq!(worker.rest.call("PUT", "/connectors/table/config", Some(&config)).0, 201);
    let mut count = 0;
    let produce_some = |count: &mut i64| {
        for partition in 0..4 {
            let values: Vec<_> =
                (*count..*count + 250).map(|n| Some(format!("{partition}/{n}").into_bytes())).collect();
            produce(&broker, partition, &values);
        }
        *count += 250;
    };
    for round in 0..4 {
        produce_some(&mut count);
        match round {
            0 => {
                wait::pause(Duration::from_secs(1));
                worker.kill();
                worker.up();
            }
            1 => {
                worker.server().freeze();
                let mut other = self::worker(&broker);
                wait::pause(FROZEN);
                produce_some(&mut count);
                worker.server().resume();
                wait::pause(Duration::from_secs(1));
                other.stop();
            }
            2 => {
                catalog.kill();
                produce_some(&mut count);
                wait::pause(Duration::from_secs(2));
                catalog.up();
            }
            _ => {}
        }
    }
    await_committed(&worker, 4 * count);
    let script = "rows = t.scan(selected_fields=('partition', 'offset', 'value')).to_arrow().to_pylist()\n\
                  print(len(rows), len({(r['partition'], r['offset']) for r in rows}), \
                  sum(r['value'] == f\"{r['partition']}/{r['offset']}\" for r in rows))\n\
                  print(sum(int(v) for k, v in t.properties.items() if k.startswith('strandline.offsets/table/orders/')))";
    let all = 4 * count;
    assert_eq!(
        catalog.python("lake.orders", script).expect("a table"),
        [format!("{all} {all} {all}"), all.to_string()]
    );
}

/// A record with its schema, as Kafka Connect's JSON converter has it; fields are `name type value`.
fn record(fields: &[(&str, &str, Value)]) -> Option<Vec<u8>> {
    let schema: Vec<Value> =
        fields.iter().map(|(name, kind, _)| json!({ "field": name, "type": kind, "optional": true })).collect();
    let payload: serde_json::Map<String, Value> =
        fields.iter().map(|(name, _, value)| ((*name).to_owned(), value.clone())).collect();
    Some(json!({ "schema": { "type": "struct", "fields": schema }, "payload": payload }).to_string().into_bytes())
}

#[test]
fn fields_are_columns_that_come_when_they_are_needed() {
    let (broker, catalog) = (broker(), Catalog::start());
    topic(&broker, "orders", 1);
    let worker = worker(&broker);
    let more = [
        ("value.converter", "org.apache.kafka.connect.json.JsonConverter"),
        ("value.converter.schemas.enable", "true"),
        ("iceberg.tables.evolve-schema-enabled", "true"),
        ("iceberg.tables.default-partition-by", "region, bucket(id, 4)"),
    ];
    assert_eq!(worker.rest.call("PUT", "/connectors/table/config", Some(&config(&catalog, &more))).0, 201);
    let order = |id: i64, region: &str| record(&[("id", "int64", json!(id)), ("region", "string", json!(region))]);
    produce(&broker, 0, &[order(1, "north"), order(2, "south"), None, order(3, "north")]);
    await_committed(&worker, 4);
    let wider = record(&[
        ("id", "int64", json!(4)),
        ("paid", "boolean", json!(true)),
        ("amount", "double", json!(2.5)),
        ("region", "string", json!("south")),
    ]);
    produce(&broker, 0, &[wider, order(5, "west")]);
    await_committed(&worker, 6);
    let script = "for f in t.schema().fields: print(f.name, f.field_type)\n\
                  print([f.name for f in t.spec().fields])\n\
                  for r in sorted(t.scan().to_arrow().to_pylist(), key=lambda r: r['id']):\n    \
                  print(r['id'], r['region'], r['paid'], r['amount'])\n\
                  print(t.scan(row_filter=\"region == 'south'\").to_arrow().num_rows)";
    assert_eq!(
        catalog.python("lake.orders", script).expect("a table"),
        [
            "id long",
            "region string",
            "paid boolean",
            "amount double",
            "['region', 'id_bucket']",
            "1 north None None",
            "2 south None None",
            "3 north None None",
            "4 south True 2.5",
            "5 west None None",
            "2",
        ]
    );
}

#[test]
fn a_record_that_the_table_cannot_have_is_put_aside_and_a_missing_table_says_what_to_do() {
    let (broker, catalog) = (broker(), Catalog::start());
    topic(&broker, "orders", 1);
    let worker = worker(&broker);
    let json = [
        ("value.converter", "org.apache.kafka.connect.json.JsonConverter"),
        ("value.converter.schemas.enable", "false"),
    ];
    let missing: Vec<_> = json.iter().copied().chain([("iceberg.tables.auto-create-enabled", "false")]).collect();
    produce(&broker, 0, &[Some(br#"{"id": 1, "at": "north"}"#.to_vec())]);
    assert_eq!(worker.rest.call("PUT", "/connectors/table/config", Some(&config(&catalog, &missing))).0, 201);
    let failed = wait::until("the task has failed", ARRIVE, || {
        let (_, status) = worker.rest.get("/connectors/table/status");
        (status["tasks"][0]["state"] == "FAILED").then_some(status)
    });
    let trace = failed["tasks"][0]["trace"].as_str().expect("a text");
    assert!(
        trace.contains("there is no table lake.orders: create it, or set iceberg.tables.auto-create-enabled=true"),
        "{trace}"
    );
    let put_aside: Vec<_> = json
        .iter()
        .copied()
        .chain([
            ("errors.tolerance", "all"),
            ("errors.deadletterqueue.topic.name", "bad-orders"),
            ("errors.deadletterqueue.topic.replication.factor", "1"),
        ])
        .collect();
    worker.rest.call("PUT", "/connectors/table/config", Some(&config(&catalog, &put_aside)));
    await_committed(&worker, 1);
    // A field more is left out: the schema is not to be changed.
    let value = |text: &str| Some(text.as_bytes().to_vec());
    produce(
        &broker,
        0,
        &[value(r#"{"id": 2, "more": {"x": 1}}"#), value(r#"{"id": "no"}"#), value(r#"{"at": "south", "id": 3}"#)],
    );
    await_committed(&worker, 4);
    let script = "for r in sorted(t.scan().to_arrow().to_pylist(), key=lambda r: r['id']): print(r)";
    let rows = catalog.python("lake.orders", script).expect("a table");
    let by_name =
        |line: &String| line.contains("'at': 'north'") || line.contains("'at': None") || line.contains("'at': 'south'");
    assert_eq!((rows.len(), rows.iter().all(by_name)), (3, true), "{rows:?}");
    assert_eq!(broker.connection().list_offset("bad-orders", 0, -1), Ok(1));
}
