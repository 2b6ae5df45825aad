//! JSON that brings its schema with each record (Kafka Connect's `JsonConverter` with `schemas.enable`): `{"schema": ..., "payload": ...}`.
//!
//! Owns Connect's schema in JSON, the Arrow type of each, and the check of a payload against it. Whoever builds columns has checked the
//! payloads before.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Float32Array, Float64Array, Int8Array, Int16Array, Int32Array,
    Int64Array, ListArray, MapArray, NullArray, StringArray, StructArray, Time32MillisecondArray,
    TimestampMillisecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

/// Schemas within schemas, at most so deep.
const DEPTH_MAX: usize = 64;

/// A record as it comes.
#[derive(Deserialize)]
struct Envelope {
    schema: Value,
    payload: Value,
}

/// A Connect schema, with the Arrow type that it becomes.
#[derive(Debug, Clone, PartialEq)]
pub struct Typed {
    kind: Kind,
    optional: bool,
    default: Option<Value>,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Int8,
    Int16,
    Int32,
    Int64,
    Float32,
    Float64,
    Boolean,
    Text,
    Bytes,
    /// Days since 1970.
    Date,
    /// ms of the day.
    Time,
    /// ms since 1970.
    Timestamp,
    List(Box<Typed>),
    Map(Box<Typed>, Box<Typed>),
    Record(Vec<(String, Typed)>),
}

/// The text of the schema, and the payload; no schema = a record of nothing.
fn split(text: &[u8]) -> Result<(Option<String>, Value), String> {
    let envelope: Envelope = serde_json::from_slice(text).map_err(|e| {
        format!("JsonConverter with schemas.enable requires \"schema\" and \"payload\" fields and may not contain additional fields ({e}); set schemas.enable=false for JSON without schemas")
    })?;
    let schema = (!envelope.schema.is_null()).then(|| envelope.schema.to_string());
    match (&schema, &envelope.payload) {
        (None, payload) if !payload.is_null() => Err("the record has a payload and no schema".to_owned()),
        _ => Ok((schema, envelope.payload)),
    }
}

/// Splits records one after the other. Most have the schema of the one before, byte by byte: it is not read again.
#[derive(Debug, Default)]
pub struct Splitter {
    /// What the last record began with, up to its payload; empty = nothing that is worth comparing.
    begin: Vec<u8>,
    schema: Option<Arc<str>>,
}

impl Splitter {
    /// As [`split`].
    pub fn split(&mut self, text: &[u8]) -> Result<(Option<Arc<str>>, Value), String> {
        let rest = text.strip_prefix(&*self.begin).filter(|_| !self.begin.is_empty());
        if let Some(payload) = rest.and_then(payload_alone) {
            return Ok((self.schema.clone(), payload));
        }
        let (schema, payload) = split(text)?;
        self.schema = schema.map(Arc::from);
        self.begin.clear();
        if self.schema.is_some()
            && let Some(length) = length_to_payload(text)
        {
            self.begin.extend_from_slice(&text[..length]);
        }
        Ok((self.schema.clone(), payload))
    }
}

/// The payload that an envelope ends with; None = there is more than that.
fn payload_alone(rest: &[u8]) -> Option<Value> {
    let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<Value>();
    let payload = values.next()?.ok()?;
    (rest[values.byte_offset()..] == *b"}").then_some(payload)
}

/// Bytes in front of the payload, in an envelope as Kafka's converter writes it.
fn length_to_payload(text: &[u8]) -> Option<usize> {
    const SCHEMA: &[u8] = b"{\"schema\":";
    const PAYLOAD: &[u8] = b",\"payload\":";
    let rest = text.strip_prefix(SCHEMA)?;
    let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<serde::de::IgnoredAny>();
    values.next()?.ok()?;
    let length = values.byte_offset();
    rest[length..].starts_with(PAYLOAD).then_some(SCHEMA.len() + length + PAYLOAD.len())
}

impl Typed {
    pub fn parse(text: &str) -> Result<Typed, String> {
        let value: Value = serde_json::from_str(text).map_err(|e| format!("its schema cannot be read: {e}"))?;
        Typed::of(&value, 0)
    }

    fn of(value: &Value, depth: usize) -> Result<Typed, String> {
        if depth > DEPTH_MAX {
            return Err(format!("its schema is deeper than {DEPTH_MAX}"));
        }
        let part = |name: &str| {
            let inner = value.get(name).ok_or_else(|| format!("its schema lacks \"{name}\""))?;
            Typed::of(inner, depth + 1)
        };
        let kind = match (value["type"].as_str(), value["name"].as_str()) {
            (Some("int32"), Some("org.apache.kafka.connect.data.Date")) => Kind::Date,
            (Some("int32"), Some("org.apache.kafka.connect.data.Time")) => Kind::Time,
            (Some("int64"), Some("org.apache.kafka.connect.data.Timestamp")) => Kind::Timestamp,
            (Some("int8"), _) => Kind::Int8,
            (Some("int16"), _) => Kind::Int16,
            (Some("int32"), _) => Kind::Int32,
            (Some("int64"), _) => Kind::Int64,
            (Some("float"), _) => Kind::Float32,
            (Some("double"), _) => Kind::Float64,
            (Some("boolean"), _) => Kind::Boolean,
            (Some("string"), _) => Kind::Text,
            (Some("bytes"), _) => Kind::Bytes,
            (Some("array"), _) => Kind::List(Box::new(part("items")?)),
            (Some("map"), _) => Kind::Map(Box::new(part("keys")?), Box::new(part("values")?)),
            (Some("struct"), _) => {
                let fields = value["fields"].as_array().ok_or("its struct has no fields")?;
                let field = |field: &Value| {
                    let name = field["field"].as_str().ok_or("a field has no name")?;
                    Ok((name.to_owned(), Typed::of(field, depth + 1)?))
                };
                Kind::Record(fields.iter().map(field).collect::<Result<_, String>>()?)
            }
            (other, _) => return Err(format!("the type {other:?} is unknown")),
        };
        let optional = value["optional"].as_bool().unwrap_or(false);
        Ok(Typed { kind, optional, default: value.get("default").filter(|d| !d.is_null()).cloned() })
    }

    pub fn data_type(&self) -> DataType {
        match &self.kind {
            Kind::Int8 => DataType::Int8,
            Kind::Int16 => DataType::Int16,
            Kind::Int32 => DataType::Int32,
            Kind::Int64 => DataType::Int64,
            Kind::Float32 => DataType::Float32,
            Kind::Float64 => DataType::Float64,
            Kind::Boolean => DataType::Boolean,
            Kind::Text => DataType::Utf8,
            Kind::Bytes => DataType::Binary,
            Kind::Date => DataType::Date32,
            Kind::Time => DataType::Time32(TimeUnit::Millisecond),
            Kind::Timestamp => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
            Kind::List(item) => DataType::List(Arc::new(item.field("item"))),
            Kind::Map(key, value) => DataType::Map(Arc::new(entries(key, value)), false),
            Kind::Record(fields) => DataType::Struct(record_fields(fields)),
        }
    }

    fn field(&self, name: &str) -> Field {
        Field::new(name, self.data_type(), self.optional)
    }

    fn effective<'a>(&'a self, value: Option<&'a Value>) -> Option<&'a Value> {
        value.filter(|v| !v.is_null()).or(self.default.as_ref())
    }

    /// Whether a payload fits; Err = where it does not.
    pub fn check(&self, value: Option<&Value>) -> Result<(), String> {
        let Some(value) = self.effective(value) else {
            return if self.optional { Ok(()) } else { Err("null used for required field".to_owned()) };
        };
        let within = |least: i64, most: i64| value.as_i64().is_some_and(|n| (least..=most).contains(&n));
        let fits = match &self.kind {
            Kind::Int8 => within(i8::MIN.into(), i8::MAX.into()),
            Kind::Int16 => within(i16::MIN.into(), i16::MAX.into()),
            Kind::Int32 | Kind::Date | Kind::Time => within(i32::MIN.into(), i32::MAX.into()),
            Kind::Int64 | Kind::Timestamp => value.is_i64(),
            Kind::Float32 | Kind::Float64 => value.is_number(),
            Kind::Boolean => value.is_boolean(),
            Kind::Text => value.is_string(),
            Kind::Bytes => value.as_str().is_some_and(|text| STANDARD.decode(text).is_ok()),
            Kind::List(item) => {
                let items = value.as_array().ok_or("it is no array")?;
                return items.iter().try_for_each(|value| item.check(Some(value)));
            }
            Kind::Map(key, inner) => {
                return pairs(value).ok_or("it is no map")?.into_iter().try_for_each(|(k, v)| {
                    key.check(Some(&k))?;
                    inner.check(Some(&v))
                });
            }
            Kind::Record(fields) => {
                let record = value.as_object().ok_or("it is no record")?;
                return fields.iter().try_for_each(|(name, typed)| {
                    typed.check(record.get(name)).map_err(|why| format!("field \"{name}\": {why}"))
                });
            }
        };
        if fits { Ok(()) } else { Err(format!("{value} is no {}", self.data_type())) }
    }

    /// A column of payloads that were checked.
    pub fn column(&self, values: &[Option<&Value>]) -> ArrayRef {
        let values: Vec<Option<&Value>> = values.iter().map(|value| self.effective(*value)).collect();
        let whole = |v: &Value| v.as_i64().expect("checked");
        let int = |v: &Value| i32::try_from(whole(v)).expect("checked");
        let real = |v: &Value| v.as_f64().expect("checked");
        macro_rules! primitive {
            ($array:ty, $get:expr) => {
                Arc::new(values.iter().map(|v| v.map($get)).collect::<$array>())
            };
        }
        match &self.kind {
            Kind::Int8 => primitive!(Int8Array, |v| i8::try_from(whole(v)).expect("checked")),
            Kind::Int16 => primitive!(Int16Array, |v| i16::try_from(whole(v)).expect("checked")),
            Kind::Int32 => primitive!(Int32Array, int),
            Kind::Int64 => primitive!(Int64Array, whole),
            #[expect(clippy::cast_possible_truncation, reason = "the schema says that it is a float")]
            Kind::Float32 => primitive!(Float32Array, |v| real(v) as f32),
            Kind::Float64 => primitive!(Float64Array, real),
            Kind::Boolean => primitive!(BooleanArray, |v| v.as_bool().expect("checked")),
            Kind::Text => primitive!(StringArray, |v| v.as_str().expect("checked")),
            Kind::Bytes => {
                primitive!(BinaryArray, |v| STANDARD.decode(v.as_str().expect("checked")).expect("checked"))
            }
            Kind::Date => primitive!(Date32Array, int),
            Kind::Time => primitive!(Time32MillisecondArray, int),
            Kind::Timestamp => {
                let times: TimestampMillisecondArray = values.iter().map(|v| v.map(whole)).collect();
                Arc::new(times.with_timezone("UTC"))
            }
            Kind::List(item) => {
                let lists = values.iter().map(|v| v.and_then(Value::as_array));
                let offsets = OffsetBuffer::from_lengths(lists.clone().map(|list| list.map_or(0, Vec::len)));
                let items: Vec<Option<&Value>> = lists.flatten().flatten().map(Some).collect();
                let items = item.column(&items);
                let field = item.field("item").with_data_type(items.data_type().clone());
                Arc::new(ListArray::new(Arc::new(field), offsets, items, nulls(&values)))
            }
            Kind::Map(key, inner) => {
                let maps: Vec<Vec<(Value, Value)>> =
                    values.iter().map(|v| v.and_then(pairs).unwrap_or_default()).collect();
                let offsets = OffsetBuffer::from_lengths(maps.iter().map(Vec::len));
                let keys: Vec<Option<&Value>> = maps.iter().flatten().map(|(k, _)| Some(k)).collect();
                let inners: Vec<Option<&Value>> = maps.iter().flatten().map(|(_, v)| Some(v)).collect();
                let field = entries(key, inner);
                let DataType::Struct(fields) = field.data_type().clone() else { unreachable!("as built") };
                let entries = StructArray::new(fields, vec![key.column(&keys), inner.column(&inners)], None);
                Arc::new(MapArray::new(Arc::new(field), offsets, entries, nulls(&values), false))
            }
            Kind::Record(fields) => {
                let columns = fields.iter().map(|(name, typed)| {
                    let inner: Vec<Option<&Value>> = values.iter().map(|v| v.and_then(|v| v.get(name))).collect();
                    typed.column(&inner)
                });
                let columns: Vec<ArrayRef> = columns.collect();
                if columns.is_empty() {
                    return Arc::new(StructArray::new_empty_fields(values.len(), nulls(&values)));
                }
                // Null fields of a record that is null are masked by it: the type is the schema's, whatever a batch holds.
                let typed = record_fields(fields);
                let typed = typed.iter().zip(&columns);
                let fields: Fields =
                    typed.map(|(f, c)| f.as_ref().clone().with_data_type(c.data_type().clone())).collect();
                Arc::new(StructArray::new(fields, columns, nulls(&values)))
            }
        }
    }
}

/// A column of `rows` nulls.
pub fn nothing(rows: usize) -> ArrayRef {
    Arc::new(NullArray::new(rows))
}

fn record_fields(fields: &[(String, Typed)]) -> Fields {
    fields.iter().map(|(name, typed)| typed.field(name)).collect()
}

fn entries(key: &Typed, value: &Typed) -> Field {
    let fields = Fields::from(vec![key.field("key").with_nullable(false), value.field("value")]);
    Field::new("entries", DataType::Struct(fields), false)
}

/// Connect writes a map with text as keys as an object, others as an array of pairs.
fn pairs(value: &Value) -> Option<Vec<(Value, Value)>> {
    match value {
        Value::Object(map) => Some(map.iter().map(|(k, v)| (Value::String(k.clone()), v.clone())).collect()),
        Value::Array(items) => items
            .iter()
            .map(|item| match item.as_array().map(Vec::as_slice) {
                Some([k, v]) => Some((k.clone(), v.clone())),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

fn nulls(values: &[Option<&Value>]) -> Option<NullBuffer> {
    values.iter().any(Option::is_none).then(|| values.iter().map(Option::is_some).collect())
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray, RecordBatch};
    use arrow::datatypes::{Int64Type, Schema};
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use serde_json::json;

    use super::*;

    fn order() -> Typed {
        let schema = json!({"type": "struct", "optional": false, "fields": [
            {"field": "id", "type": "int64", "optional": false},
            {"field": "note", "type": "string", "optional": true},
            {"field": "lines", "type": "array", "items": {"type": "int32"}, "optional": true},
            {"field": "tags", "type": "map", "keys": {"type": "string"}, "values": {"type": "double"}, "optional": true},
            {"field": "at", "type": "int64", "name": "org.apache.kafka.connect.data.Timestamp", "default": 5},
        ]});
        Typed::parse(&schema.to_string()).unwrap()
    }

    #[test]
    fn payloads_become_columns() {
        let typed = order();
        let payloads = [json!({"id": 1, "note": "x", "lines": [1, 2], "tags": {"a": 1.5}, "at": 7}), json!({"id": 2})];
        payloads.iter().for_each(|p| typed.check(Some(p)).unwrap());
        let column = typed.column(&payloads.iter().map(Some).collect::<Vec<_>>());
        let record = column.as_struct();
        assert_eq!(record.column(0).as_primitive::<Int64Type>().values().to_vec(), [1, 2]);
        assert!(record.column(1).is_null(1));
        assert_eq!(record.column(2).as_list::<i32>().value_length(0), 2);
        assert_eq!(record.column(3).as_map().value_length(0), 1);
        assert!(record.column(4).is_valid(1), "its default is there");
    }

    /// Batches of one schema have one type, so that they go into one file, also where whole records are null.
    #[test]
    fn records_that_are_null_do_not_change_the_type() {
        let schema = json!({"type": "struct", "optional": true, "fields": [
            {"field": "id", "type": "int64", "optional": false},
            {"field": "place", "type": "struct", "optional": true, "fields": [
                {"field": "x", "type": "double", "optional": false},
                {"field": "names", "type": "array", "items": {"type": "string", "optional": false}, "optional": false},
            ]},
        ]});
        let typed = Typed::parse(&schema.to_string()).unwrap();
        let whole = json!({"id": 1, "place": {"x": 0.5, "names": ["a", "b"]}});
        let half = json!({"id": 2, "place": null});
        let full = typed.column(&[Some(&whole), Some(&whole)]);
        let gaps = typed.column(&[Some(&whole), None, Some(&half)]);
        assert_eq!(full.data_type(), gaps.data_type());
        assert_eq!(*full.data_type(), typed.data_type());
        let batch = |column: &ArrayRef| {
            let field = Field::new("value", column.data_type().clone(), true);
            RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![Arc::clone(column)]).unwrap()
        };
        let mut file = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut file, batch(&full).schema(), None).unwrap();
        writer.write(&batch(&full)).unwrap();
        writer.write(&batch(&gaps)).unwrap();
        writer.close().unwrap();
        let mut reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(file)).unwrap().build().unwrap();
        let read = reader.next().unwrap().unwrap();
        let records = read.column(0).as_struct();
        assert_eq!((0..5).map(|n| records.is_null(n)).collect::<Vec<_>>(), [false, false, false, true, false]);
        let places = records.column(1).as_struct();
        assert_eq!((0..5).map(|n| places.is_null(n)).collect::<Vec<_>>(), [false, false, false, true, true]);
        assert_eq!(places.column(1).as_list::<i32>().value_length(2), 2);
    }

    #[test]
    fn a_splitter_says_what_splitting_alone_says() {
        let schema = |kind: &str| json!({"type": kind}).to_string();
        let (a, b) = (schema("int64"), schema("string"));
        let texts = [
            format!("{{\"schema\":{a},\"payload\":1}}"),
            format!("{{\"schema\":{a},\"payload\":[2]}}"),
            format!("{{\"schema\":{a},\"payload\":{{\"x\":3}}}}"),
            format!("{{\"schema\":{a},\"payload\":{{\"x\":4}},\"more\":1}}"),
            format!("{{\"schema\":{a},\"payload\":{{\"x\":5}}}} "),
            format!("{{\"schema\":{b},\"payload\":\"x\"}}"),
            format!("{{ \"payload\": \"y\", \"schema\": {b} }}"),
            format!("{{\"schema\":{b},\"payload\":\"z\"}}"),
            format!("{{\"schema\":{b},\"payload\":}}"),
            "{\"schema\":null,\"payload\":null}".to_owned(),
            "{\"schema\":null,\"payload\":7}".to_owned(),
        ];
        let mut splitter = Splitter::default();
        for text in texts.iter().chain(texts.iter().rev()) {
            let told =
                splitter.split(text.as_bytes()).map(|(schema, payload)| (schema.map(|s| s.to_string()), payload));
            assert_eq!(told, split(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_told_by_its_place() {
        let typed = order();
        let why = |payload: Value| typed.check(Some(&payload)).unwrap_err();
        assert!(why(json!({"note": "x"})).contains("field \"id\": null used for required field"));
        assert!(why(json!({"id": "1"})).contains("field \"id\""));
        assert!(why(json!({"id": 1, "lines": [1, 5_000_000_000_i64]})).contains("lines"));
        assert!(split(b"{\"id\": 1}").unwrap_err().contains("schemas.enable"));
        assert!(Typed::parse("{\"type\":\"uuid\"}").is_err());
    }
}
