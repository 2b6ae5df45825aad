//! Chains over rows with and without schemas; and against a model that takes one record after the other.

use arrow::array::RecordBatch;
use arrow::datatypes::{Int32Type, TimestampMillisecondType};
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};
use strandline_protocol::compression::Compression;
use strandline_protocol::record_batch::{Header, RecordBatchBuilder, batches};

use super::*;
use crate::config::Settings;
use crate::convert::{Converter, Converters};
use crate::rows::decode;
use crate::sink::TopicPartition;

/// One record of a log.
#[derive(Debug, Clone)]
struct Given {
    key: Option<String>,
    value: Option<String>,
    ms: i64,
    headers: Vec<String>,
}

fn given(value: Option<&str>) -> Given {
    Given { key: None, value: value.map(str::to_owned), ms: 1_700_000_000_000, headers: Vec::new() }
}

fn rows(records: &[Given], converter: Converter) -> Rows {
    let mut builder = RecordBatchBuilder::new(Compression::None);
    for record in records {
        let header = |name: &String| Header { key: Bytes::from(name.clone().into_bytes()), value: None };
        let headers: Vec<Header> = record.headers.iter().map(header).collect();
        let bytes = |text: &Option<String>| text.clone().map(String::into_bytes);
        builder.append(record.ms, bytes(&record.key).as_deref(), bytes(&record.value).as_deref(), &headers);
    }
    let bytes: Bytes = builder.build();
    let whole: Vec<_> = batches(&bytes).map(|b| b.map(|(h, b)| (h, bytes.slice_ref(b))).unwrap()).collect();
    let (rows, unreadable) = Converters { key: converter.clone(), value: converter }
        .apply(decode(&TopicPartition::new("orders", 3), &whole, 0).unwrap());
    assert!(unreadable.is_empty(), "{unreadable:?}");
    rows
}

fn chain(pairs: &[(&str, &str)]) -> Chain {
    let settings: Settings = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Chain::of(&settings).unwrap()
}

fn offsets(batch: &RecordBatch) -> Vec<i64> {
    batch.column(column::OFFSET).as_primitive::<Int64Type>().values().to_vec()
}

fn texts(rows: &Rows, at: usize) -> Vec<Option<String>> {
    let all = rows.groups.iter().flat_map(|batch| {
        let column = batch.column(at);
        (0..batch.num_rows()).map(move |row| match column.data_type() {
            DataType::Utf8View => (!column.is_null(row)).then(|| column.as_string_view().value(row).to_owned()),
            _ => (!column.is_null(row)).then(|| column.as_string::<i32>().value(row).to_owned()),
        })
    });
    all.collect()
}

fn typed(payload: &Value) -> Given {
    let schema = json!({"type": "struct", "optional": true, "fields": [
        {"field": "id", "type": "int64"},
        {"field": "name", "type": "string", "optional": true},
        {"field": "tags", "type": "array", "items": {"type": "string"}, "optional": true},
        {"field": "at", "type": "struct", "optional": true, "fields": [{"field": "city", "type": "string"}]},
    ]});
    given(Some(&json!({"schema": schema, "payload": payload}).to_string()))
}

fn some_typed() -> Rows {
    let payloads = [
        json!({"id": 1, "name": "ann", "tags": ["x"], "at": {"city": "Kyiv"}}),
        Value::Null,
        json!({"id": 3, "name": null, "tags": null, "at": null}),
    ];
    rows(&payloads.iter().map(typed).collect::<Vec<_>>(), Converter::TypedJson)
}

fn names(rows: &Rows) -> Vec<String> {
    let DataType::Struct(fields) = rows.groups[0].column(column::VALUE).data_type().clone() else {
        panic!("no struct")
    };
    fields.iter().map(|f| format!("{}{}", f.name(), if f.is_nullable() { "?" } else { "" })).collect()
}

#[test]
fn fields_are_put_into_records_with_a_schema() {
    let chain = chain(&[
        ("transforms", "add"),
        ("transforms.add.type", "org.apache.kafka.connect.transforms.InsertField$Value"),
        ("transforms.add.topic.field", "t!"),
        ("transforms.add.offset.field", "o?"),
        ("transforms.add.partition.field", "p"),
        ("transforms.add.timestamp.field", "ms"),
        ("transforms.add.static.field", "source"),
        ("transforms.add.static.value", "a test"),
    ]);
    let (rows, failed) = chain.apply(some_typed());
    assert_eq!((failed, rows.groups.len()), (Vec::new(), 1));
    assert_eq!(names(&rows)[4..], ["t", "p?", "o?", "ms?", "source?"]);
    let record = rows.groups[0].column(column::VALUE).as_struct();
    assert!(record.is_null(1), "a null stays one");
    assert_eq!(record.column_by_name("t").unwrap().as_string::<i32>().value(2), "orders");
    assert_eq!(record.column_by_name("p").unwrap().as_primitive::<Int32Type>().value(0), 3);
    assert_eq!(record.column_by_name("o").unwrap().as_primitive::<Int64Type>().values()[2], 2);
    assert_eq!(
        record.column_by_name("ms").unwrap().as_primitive::<TimestampMillisecondType>().value(0),
        1_700_000_000_000
    );
    assert_eq!(record.column_by_name("source").unwrap().as_string::<i32>().value(0), "a test");
}

#[test]
fn a_field_that_is_there_is_not_put_in_again() {
    let add = [("transforms", "a"), ("transforms.a.type", "InsertField$Value"), ("transforms.a.topic.field", "id")];
    let (left, failed) = chain(&add).apply(some_typed());
    assert_eq!((left.count(), failed.len()), (1, 2));
    assert!(failed[0].reason.contains("field name duplication"), "{failed:?}");
}

#[test]
fn fields_are_left_out_renamed_masked_and_taken_out() {
    let (left, _) = chain(&[
        ("transforms", "pick,hide"),
        ("transforms.pick.type", "ReplaceField$Value"),
        ("transforms.pick.exclude", "at"),
        ("transforms.pick.renames", "id:number"),
        ("transforms.hide.type", "MaskField$Value"),
        ("transforms.hide.fields", "number,name,tags"),
    ])
    .apply(rows(
        &[typed(&json!({"id": 1, "name": "ann", "tags": ["x"]})), typed(&json!({"id": 2}))],
        Converter::TypedJson,
    ));
    assert_eq!(names(&left), ["number", "name?", "tags?"]);
    let record = left.groups[0].column(column::VALUE).as_struct();
    assert_eq!(record.column(0).as_primitive::<Int64Type>().values().to_vec(), [0, 0]);
    assert_eq!(record.column(1).as_string::<i32>().value(0), "");
    assert!(record.column(1).is_null(1) && record.column(2).is_null(1), "what is null is not hidden");
    assert_eq!(record.column(2).as_list::<i32>().value_length(0), 0);

    let extract = |field: &str| {
        chain(&[
            ("transforms", "e"),
            ("transforms.e.type", "ExtractField$Value"),
            ("transforms.e.field", field),
            ("transforms.e.field.syntax.version", "V2"),
        ])
        .apply(some_typed())
    };
    let (left, failed) = extract("at.city");
    assert_eq!((texts(&left, column::VALUE), failed.len()), (vec![Some("Kyiv".to_owned()), None, None], 0));
    let (left, failed) = extract("at.nowhere");
    assert_eq!((left.count(), failed.len()), (0, 3));
    assert_eq!(failed[0], Failed { offset: 0, reason: "Unknown field: at.nowhere".to_owned() });
}

#[test]
fn a_mask_of_ones_own_has_to_fit() {
    let hide = |field: &str, replacement: &str| {
        chain(&[
            ("transforms", "h"),
            ("transforms.h.type", "MaskField$Value"),
            ("transforms.h.fields", field),
            ("transforms.h.replacement", replacement),
        ])
        .apply(rows(
            &[typed(&json!({"id": 1, "name": "ann", "tags": ["x"], "at": {"city": "Kyiv"}})), typed(&json!({"id": 2}))],
            Converter::TypedJson,
        ))
    };
    let (left, failed) = hide("id", "7.9");
    assert_eq!(
        (left.groups[0].column(column::VALUE).as_struct().column(0).as_primitive::<Int64Type>().value(0), failed.len()),
        (7, 0)
    );
    for (field, replacement, offsets_left) in [("id", "x", &[][..]), ("tags", "x", &[1]), ("at", "x", &[1])] {
        let (left, failed) = hide(field, replacement);
        assert_eq!(left.groups.first().map(offsets).unwrap_or_default(), offsets_left, "{field}: {failed:?}");
        assert_eq!(failed.len(), 2 - offsets_left.len());
    }
}

#[test]
fn what_has_no_fields_is_told() {
    let add =
        chain(&[("transforms", "a"), ("transforms.a.type", "InsertField$Value"), ("transforms.a.topic.field", "t")]);
    for converter in [Converter::Bytes, Converter::String] {
        let (left, failed) = add.apply(rows(&[given(Some("text")), given(None)], converter));
        assert_eq!((left.count(), failed.len()), (1, 1), "a null passes");
        assert!(
            failed[0].reason.starts_with("Only Struct objects supported for [field insertion], found: "),
            "{failed:?}"
        );
    }
    let (left, failed) = add.apply(rows(&[given(Some("[1]")), given(Some("{}"))], Converter::Json));
    assert_eq!(texts(&left, column::VALUE), [Some("{\"t\":\"orders\"}".to_owned())]);
    assert!(
        failed[0].reason.starts_with("Only Map objects supported in absence of schema for [field insertion]"),
        "{failed:?}"
    );
}

#[test]
fn topics_change_and_the_partition_does_not() {
    let (left, failed) = chain(&[
        ("transforms", "r,t"),
        ("transforms.r.type", "RegexRouter"),
        ("transforms.r.regex", "(.*)s"),
        ("transforms.r.replacement", "$1/"),
        ("transforms.t.type", "TimestampRouter"),
    ])
    .apply(rows(&[given(None)], Converter::Bytes));
    assert_eq!((left.count(), failed[0].reason.as_str()), (0, "\"order/\" is no name of a topic"));
    let daily = chain(&[("transforms", "t"), ("transforms.t.type", "TimestampRouter")]);
    let (left, failed) = daily.apply(rows(&[given(None), Given { ms: -1, ..given(None) }], Converter::Bytes));
    assert_eq!(texts(&left, column::TOPIC), [Some("orders-20231114".to_owned())]);
    assert_eq!(failed, [Failed { offset: 1, reason: "Timestamp missing on record".to_owned() }]);
    assert_eq!((&*left.partition.topic, left.next_offset), ("orders", 2));
}

#[test]
fn predicates_choose_and_the_order_stays() {
    let with_header = |n: usize| Given { headers: vec!["h".to_owned()], ..given(Some(&format!("{{\"n\":{n}}}"))) };
    let records: Vec<Given> =
        (0..6).map(|n| if n % 2 == 0 { with_header(n) } else { given(Some(&format!("{{\"n\":{n}}}"))) }).collect();
    let base = [
        ("predicates", "p"),
        ("predicates.p.type", "HasHeaderKey"),
        ("predicates.p.name", "h"),
        ("transforms", "x"),
        ("transforms.x.predicate", "p"),
    ];
    let mask = [("transforms.x.type", "MaskField$Value"), ("transforms.x.fields", "n")];
    let (left, _) = chain(&[&base[..], &mask].concat()).apply(rows(&records, Converter::Json));
    assert_eq!(left.groups.len(), 1);
    assert_eq!(offsets(&left.groups[0]), [0, 1, 2, 3, 4, 5]);
    assert_eq!(texts(&left, column::VALUE)[2..4], [Some("{\"n\":0}".to_owned()), Some("{\"n\":3}".to_owned())]);
    let drop = [("transforms.x.type", "Filter"), ("transforms.x.negate", "true")];
    let (left, failed) = chain(&[&base[..], &drop].concat()).apply(rows(&records, Converter::Json));
    assert_eq!((offsets(&left.groups[0]), failed.len()), (vec![0, 2, 4], 0));
    assert_eq!((left.first_offset, left.next_offset), (0, 6), "what was filtered counts as read");
}

/// A record as the model has it.
#[derive(Debug, Clone, PartialEq)]
struct Modelled {
    topic: String,
    value: Value,
}

/// A stage: its settings, and what it does to one record. Ok(None) = filtered.
type Model = fn(i64, Modelled) -> Result<Option<Modelled>, ()>;

const STAGES: [(&[(&str, &str)], Model); 6] = [
    (
        &[("type", "InsertField$Value"), ("offset.field", "b"), ("static.field", "s"), ("static.value", "x")],
        |offset, mut record| {
            match &mut record.value {
                Value::Null => {}
                Value::Object(map) => {
                    map.insert("b".to_owned(), json!(offset));
                    map.insert("s".to_owned(), json!("x"));
                }
                _ => return Err(()),
            }
            Ok(Some(record))
        },
    ),
    (&[("type", "ReplaceField$Value"), ("exclude", "c"), ("renames", "a:z")], |_, mut record| {
        match &mut record.value {
            Value::Null => {}
            Value::Object(map) => {
                map.remove("c");
                if let Some(value) = map.remove("a") {
                    map.insert("z".to_owned(), value);
                }
            }
            _ => return Err(()),
        }
        Ok(Some(record))
    }),
    (&[("type", "MaskField$Value"), ("fields", "a,b")], |_, mut record| {
        let Value::Object(map) = &mut record.value else { return Err(()) };
        for name in ["a", "b"] {
            let masked = match map.get(name).unwrap_or(&Value::Null) {
                Value::Null => Value::Null,
                Value::Bool(_) => json!(false),
                Value::Number(n) if n.is_f64() => json!(0.0),
                Value::Number(_) => json!(0),
                Value::String(_) => json!(""),
                Value::Array(_) => json!([]),
                Value::Object(_) => json!({}),
            };
            map.insert(name.to_owned(), masked);
        }
        Ok(Some(record))
    }),
    (&[("type", "ExtractField$Value"), ("field", "a")], |_, mut record| {
        record.value = match record.value {
            Value::Null => Value::Null,
            Value::Object(mut map) => map.remove("a").unwrap_or(Value::Null),
            _ => return Err(()),
        };
        Ok(Some(record))
    }),
    (&[("type", "RegexRouter"), ("regex", "(o)(.*)"), ("replacement", "x-$2$1")], |_, mut record| {
        if let Some(rest) = record.topic.strip_prefix('o') {
            record.topic = format!("x-{rest}o");
        }
        Ok(Some(record))
    }),
    (&[("type", "Filter")], |_, _| Ok(None)),
];

/// Predicates, by number; the last is none.
fn holds(predicate: usize, record: &Modelled, header: bool) -> bool {
    match predicate {
        0 => record.value.is_null(),
        1 => header,
        2 => record.topic == "orders",
        _ => true,
    }
}

fn value() -> impl Strategy<Value = Option<String>> {
    let leaf = prop_oneof![
        Just(json!(null)),
        Just(json!(true)),
        Just(json!(7)),
        Just(json!(1.5)),
        Just(json!("t\"x")),
        Just(json!([1])),
        Just(json!({"a": 2, "b": 3})),
    ];
    let object = prop::collection::btree_map("[a-d]", leaf.clone(), 0..4)
        .prop_map(|map| Value::Object(map.into_iter().collect()));
    prop::option::weighted(0.9, prop_oneof![4 => object, 1 => leaf].prop_map(|value| value.to_string()))
}

proptest! {
    #[test]
    fn a_chain_does_what_its_stages_do_to_each_record(
        records in prop::collection::vec((value(), any::<bool>()), 1..30),
        stages in prop::collection::vec((0..STAGES.len(), 0..4_usize, any::<bool>()), 0..4),
    ) {
        let mut settings = Settings::new();
        let mut set = |key: String, value: &str| drop(settings.insert(key, value.to_owned()));
        let aliases: Vec<String> = (0..stages.len()).map(|n| format!("s{n}")).collect();
        set("transforms".to_owned(), &aliases.join(","));
        set("predicates".to_owned(), "p0,p1,p2");
        for (key, value) in [("p0.type", "RecordIsTombstone"), ("p1.type", "HasHeaderKey"), ("p1.name", "h"), ("p2.type", "TopicNameMatches"), ("p2.pattern", "orders")] {
            set(format!("predicates.{key}"), value);
        }
        for (alias, (stage, predicate, negate)) in aliases.iter().zip(&stages) {
            STAGES[*stage].0.iter().for_each(|(key, value)| set(format!("transforms.{alias}.{key}"), value));
            if *predicate < 3 {
                set(format!("transforms.{alias}.predicate"), &format!("p{predicate}"));
                set(format!("transforms.{alias}.negate"), &negate.to_string());
            }
        }
        let log: Vec<Given> = records.iter().map(|(value, header)| Given {
            headers: if *header { vec!["h".to_owned()] } else { Vec::new() },
            ..given(value.as_deref())
        }).collect();
        let (left, failed) = Chain::of(&settings).unwrap().apply(rows(&log, Converter::Json));
        let mut expected = Vec::new();
        let mut expected_failed = Vec::new();
        for (offset, (text, header)) in records.iter().enumerate() {
            let offset = i64::try_from(offset).unwrap();
            let value = text.as_deref().map_or(Value::Null, |t| serde_json::from_str(t).unwrap());
            let mut record = Some(Modelled { topic: "orders".to_owned(), value });
            let mut fault = false;
            for (stage, predicate, negate) in &stages {
                let Some(now) = record.take() else { break };
                let negated = *predicate < 3 && *negate;
                record = if holds(*predicate, &now, *header) == negated { Some(now) } else {
                    match STAGES[*stage].1(offset, now) {
                        Ok(next) => next,
                        Err(()) => { fault = true; break }
                    }
                };
            }
            if fault { expected_failed.push(offset) } else { expected.extend(record.map(|record| (offset, record))) }
        }
        let mut found = Vec::new();
        for batch in &left.groups {
            prop_assert!(offsets(batch).is_sorted());
            let one = Rows { groups: vec![batch.clone()], ..left.clone() };
            for ((offset, topic), value) in offsets(batch).into_iter().zip(texts(&one, column::TOPIC)).zip(texts(&one, column::VALUE)) {
                let value = value.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap());
                found.push((offset, Modelled { topic: topic.unwrap(), value }));
            }
        }
        prop_assert_eq!(found, expected);
        prop_assert_eq!(failed.into_iter().map(|f| f.offset).collect::<Vec<_>>(), expected_failed);
    }
}
