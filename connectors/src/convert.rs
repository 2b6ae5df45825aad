//! Converters: bytes of keys and values as columns with a type.
//!
//! Owns what Kafka Connect's converters are called and what they make of bytes. A value that a converter cannot read is told with its
//! offset and taken out of the rows: the runtime decides between the dead letter queue and the end of the task.

mod avro;
pub mod registry;
mod typed_json;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringViewBuilder, UInt32Array};
use arrow::compute::{filter_record_batch, take_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};

use self::registry::{Registry, id_of};
use self::typed_json::{Splitter, Typed};
use crate::config::Settings;
use crate::rows::{Rows, column};
use crate::url_policy::UrlPolicy;

/// Metadata of a text column whose text is JSON.
pub const JSON_TEXT: &str = "strandline.json";

/// What bytes are.
#[derive(Debug, Clone)]
pub enum Converter {
    Bytes,
    /// UTF-8; what is not is replaced, as Kafka's does.
    String,
    /// JSON without schemas: kept as text, checked.
    Json,
    /// JSON that brings its schema with each record: columns with types.
    TypedJson,
    /// Avro, by the schema whose id each value carries.
    Avro(Arc<Registry>),
}

/// Whose bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Key,
    Value,
}

/// A record that a converter cannot read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    pub offset: i64,
    pub side: Side,
    pub reason: String,
}

impl Converter {
    /// What `key` (`value.converter`) and the settings below it say; bytes, if they say nothing. Err = what is wrong and what there is.
    pub fn configured(settings: &Settings, key: &str, urls: &Arc<UrlPolicy>) -> Result<Converter, String> {
        let Some(class) = settings.get(key).map(|v| v.trim()).filter(|v| !v.is_empty()) else {
            return Ok(Converter::Bytes);
        };
        let schemas = settings.get(&format!("{key}.schemas.enable"));
        let schemas = schemas.is_none_or(|v| !v.trim().eq_ignore_ascii_case("false"));
        match class.rsplit('.').next().unwrap_or(class) {
            "ByteArrayConverter" => Ok(Converter::Bytes),
            "StringConverter" => Ok(Converter::String),
            "JsonConverter" if !schemas => Ok(Converter::Json),
            "JsonConverter" => Ok(Converter::TypedJson),
            "AvroConverter" | "avro" => {
                Ok(Converter::Avro(Arc::new(Registry::configured(settings, &format!("{key}."), urls)?)))
            }
            _ => Err(format!("{key}: {class} is unknown; there are {}", CONVERTERS.join(", "))),
        }
    }

    /// The converted column, in pieces of rows with one schema each; `fails` is told of each row that cannot be read.
    fn pieces(&self, name: &str, raw: &ArrayRef, mut fails: impl FnMut(usize, String)) -> Vec<Piece> {
        let whole = |field, column| vec![Piece { rows: None, field, column }];
        match self {
            Converter::Bytes => whole(Field::new(name, DataType::BinaryView, true), Arc::clone(raw)),
            Converter::String => whole(Field::new(name, DataType::Utf8View, true), text(raw)),
            Converter::Json => {
                let text = text(raw);
                for (row, value) in text.as_string_view().iter().enumerate() {
                    if let Some(value) = value
                        && let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(value)
                    {
                        fails(row, format!("it is not JSON: {error}"));
                    }
                }
                let metadata = HashMap::from([(JSON_TEXT.to_owned(), "true".to_owned())]);
                whole(Field::new(name, DataType::Utf8View, true).with_metadata(metadata), text)
            }
            Converter::TypedJson => typed(name, raw, fails),
            Converter::Avro(registry) => by_schema_id(registry, name, raw, fails),
        }
    }
}

/// The classes that a configuration may name.
pub const CONVERTERS: [&str; 4] = [
    "io.confluent.connect.avro.AvroConverter",
    "org.apache.kafka.connect.converters.ByteArrayConverter",
    "org.apache.kafka.connect.json.JsonConverter",
    "org.apache.kafka.connect.storage.StringConverter",
];

/// Rows of a column that have one schema.
struct Piece {
    /// Which rows, ascending; None = all.
    rows: Option<Vec<u32>>,
    field: Field,
    column: ArrayRef,
}

/// The payloads of one schema, and their rows.
type Payloads = (Vec<u32>, Vec<serde_json::Value>);

fn typed(name: &str, raw: &ArrayRef, mut fails: impl FnMut(usize, String)) -> Vec<Piece> {
    let mut schemas: BTreeMap<Option<Arc<str>>, Result<Option<Typed>, String>> = BTreeMap::new();
    let mut found: BTreeMap<Option<Arc<str>>, Payloads> = BTreeMap::new();
    let mut splitter = Splitter::default();
    for (row, bytes) in raw.as_binary_view().iter().enumerate() {
        let parsed = match bytes {
            None => Ok((None, serde_json::Value::Null)),
            Some(bytes) => splitter.split(bytes),
        };
        let checked = parsed.and_then(|(text, payload)| {
            let schema = schemas.entry(text.clone()).or_insert_with(|| text.as_deref().map(Typed::parse).transpose());
            match schema {
                Ok(Some(schema)) => schema.check(Some(&payload)).map(|()| (text, payload)),
                Ok(None) => Ok((text, payload)),
                Err(why) => Err(why.clone()),
            }
        });
        match checked {
            Ok((text, payload)) => {
                let (rows, payloads) = found.entry(text).or_default();
                rows.push(u32::try_from(row).expect("a batch has fewer rows"));
                payloads.push(payload);
            }
            Err(why) => fails(row, why),
        }
    }
    let pieces = found.into_iter().map(|(text, (rows, payloads))| {
        let column = match schemas.get(&text) {
            Some(Ok(Some(schema))) => schema.column(&payloads.iter().map(Some).collect::<Vec<_>>()),
            _ => typed_json::nothing(rows.len()),
        };
        Piece { rows: Some(rows), field: Field::new(name, column.data_type().clone(), true), column }
    });
    pieces.collect()
}

/// A piece for each schema, one for values that are null; the registry has learnt the schemas before.
fn by_schema_id(registry: &Registry, name: &str, raw: &ArrayRef, mut fails: impl FnMut(usize, String)) -> Vec<Piece> {
    #[derive(Default)]
    struct Found<'a> {
        rows: Vec<u32>,
        values: Vec<&'a [u8]>,
    }
    let mut found: BTreeMap<Option<u32>, Found<'_>> = BTreeMap::new();
    for (row, value) in raw.as_binary_view().iter().enumerate() {
        match value.map(id_of).transpose() {
            Ok(id) => {
                let found = found.entry(id).or_default();
                found.rows.push(u32::try_from(row).expect("a batch has fewer rows"));
                found.values.push(value.unwrap_or_default());
            }
            Err(why) => fails(row, why),
        }
    }
    let mut pieces = Vec::new();
    for (id, Found { mut rows, values }) in found {
        let Some(id) = id else {
            let column = typed_json::nothing(rows.len());
            pieces.push(Piece { rows: Some(rows), field: Field::new(name, DataType::Null, true), column });
            continue;
        };
        let mut bad = BTreeSet::new();
        let column = registry.known(id).and_then(|schema| {
            let told = schema.column(id, &values, |at, why| {
                bad.insert(rows[at]);
                fails(rows[at] as usize, why);
            });
            told.map_err(|e| format!("values of the schema {id} cannot be read: {e}"))
        });
        match column {
            Ok(column) => {
                rows.retain(|row| !bad.contains(row));
                pieces.push(Piece {
                    rows: Some(rows),
                    field: Field::new(name, column.data_type().clone(), true),
                    column,
                });
            }
            Err(why) => rows.iter().filter(|row| !bad.contains(*row)).for_each(|row| fails(*row as usize, why.clone())),
        }
    }
    pieces
}

/// Without a copy where all of it is UTF-8.
fn text(raw: &ArrayRef) -> ArrayRef {
    let bytes = raw.as_binary_view();
    if let Ok(text) = bytes.clone().to_string_view() {
        return Arc::new(text);
    }
    let mut builder = StringViewBuilder::new();
    for value in bytes.iter() {
        builder.append_option(value.map(String::from_utf8_lossy));
    }
    Arc::new(builder.finish())
}

/// The converters of a connector.
#[derive(Debug, Clone)]
pub struct Converters {
    pub key: Converter,
    pub value: Converter,
}

impl Converters {
    /// Fetches what [`Converters::apply`] needs for these rows. Err = it is not to be had, and what to do.
    pub async fn prepare(&self, rows: &Rows) -> Result<(), String> {
        for (converter, at) in [(&self.key, column::KEY), (&self.value, column::VALUE)] {
            let Converter::Avro(registry) = converter else { continue };
            let values = rows.groups.iter().flat_map(|batch| batch.column(at).as_binary_view().iter().flatten());
            let ids: BTreeSet<u32> = values.filter_map(|value| id_of(value).ok()).collect();
            registry.learn(&ids).await?;
        }
        Ok(())
    }

    /// Converts rows with bytes; the second is what could not be read, and is not in the first.
    pub fn apply(&self, rows: Rows) -> (Rows, Vec<Unreadable>) {
        let mut unreadable = Vec::new();
        let groups = rows.groups.iter();
        let groups = groups.flat_map(|batch| convert(&self.key, Side::Key, batch, &mut unreadable)).collect::<Vec<_>>();
        let groups =
            groups.iter().flat_map(|batch| convert(&self.value, Side::Value, batch, &mut unreadable)).collect();
        (Rows { groups, ..rows }, unreadable)
    }
}

/// A batch with one side converted, in as many pieces as there are schemas, without the rows that cannot be read.
fn convert(
    converter: &Converter,
    side: Side,
    batch: &RecordBatch,
    unreadable: &mut Vec<Unreadable>,
) -> Vec<RecordBatch> {
    let (at, name) = match side {
        Side::Key => (column::KEY, "key"),
        Side::Value => (column::VALUE, "value"),
    };
    let offsets = batch.column(column::OFFSET).as_primitive::<Int64Type>();
    let mut bad = vec![false; batch.num_rows()];
    let pieces = converter.pieces(name, batch.column(at), |row, reason| {
        bad[row] = true;
        unreadable.push(Unreadable { offset: offsets.value(row), side, reason });
    });
    let converted = pieces.into_iter().map(|piece| {
        // A typed piece has left out what it cannot read; a whole column has not.
        let base = match &piece.rows {
            None => batch.clone(),
            Some(rows) => take_record_batch(batch, &UInt32Array::from(rows.clone())).expect("rows of the batch"),
        };
        let mut fields: Vec<Field> = base.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
        let mut columns = base.columns().to_vec();
        (fields[at], columns[at]) = (piece.field, piece.column);
        let made = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("columns of one length");
        if piece.rows.is_none() && bad.contains(&true) {
            let keep = BooleanArray::from(bad.iter().map(|bad| !bad).collect::<Vec<_>>());
            return filter_record_batch(&made, &keep).expect("as many as rows");
        }
        made
    });
    converted.filter(|batch| batch.num_rows() > 0).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use strandline_protocol::compression::Compression;
    use strandline_protocol::record_batch::{RecordBatchBuilder, batches};

    use super::*;
    use crate::rows::decode;
    use crate::sink::TopicPartition;

    fn rows(values: &[Option<&str>]) -> Rows {
        let mut builder = RecordBatchBuilder::new(Compression::None);
        values.iter().for_each(|value| builder.append(1, None, value.map(str::as_bytes), &[]));
        let bytes: Bytes = builder.build();
        let whole: Vec<_> = batches(&bytes).map(|b| b.map(|(h, b)| (h, bytes.slice_ref(b))).unwrap()).collect();
        decode(&TopicPartition::new("t", 0), &whole, 0).unwrap()
    }

    fn values(value: Converter) -> Converters {
        Converters { key: Converter::Bytes, value }
    }

    #[test]
    fn what_is_not_json_is_told_and_left_out() {
        let (rows, unreadable) = values(Converter::Json).apply(rows(&[Some("{\"a\":1}"), Some("{a"), None]));
        assert_eq!(rows.count(), 2);
        assert_eq!((unreadable.len(), unreadable[0].offset), (1, 1));
    }

    #[test]
    fn schemas_that_alternate_make_a_piece_each() {
        let record = |kind: &str, value: &str| format!("{{\"schema\":{{\"type\":\"{kind}\"}},\"payload\":{value}}}");
        let texts: Vec<String> = (0..9)
            .map(|n| match n % 3 {
                0 => record("int32", &n.to_string()),
                1 => record("string", &format!("\"{n}\"")),
                _ => record("int32", "\"wrong\""),
            })
            .collect();
        let all: Vec<Option<&str>> = texts.iter().map(|t| Some(t.as_str())).chain([None]).collect();
        let (rows, unreadable) = values(Converter::TypedJson).apply(rows(&all));
        assert_eq!(rows.groups.len(), 3, "numbers, text, nothing");
        assert_eq!((rows.count(), unreadable.len()), (7, 3));
        assert!(rows.groups.iter().all(|batch| batch.column(column::OFFSET).null_count() == 0));
    }
}
