//! Rows of a topic as rows of a table.
//!
//! Owns which column of the rows becomes which of the table, and the types between. A value with fields gives its fields; JSON without a
//! schema gives the fields that the table has; any other value gives the envelope: topic, partition, offset, timestamp, headers, key, value.
//! A record without a value (a tombstone) has no fields and gives no row. Does not own the table.

use std::io::Cursor;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{
    Array, ArrayRef, BooleanArray, ListArray, MapArray, RecordBatch, StringArray, StructArray, new_null_array,
};
use arrow_cast::cast::{CastOptions, cast_with_options};
use arrow_ipc::reader::StreamReader;
use arrow_json::reader::{ReaderBuilder, infer_json_schema_from_iterator};
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use arrow_select::filter::{filter, filter_record_batch};

use crate::sink::Refused;

/// Metadata of a text column whose text is JSON.
const JSON_TEXT: &str = "strandline.json";
const OFFSET: usize = 2;
const TIMESTAMP_TYPE: usize = 4;
const VALUE: usize = 7;

/// What rows are made of.
#[derive(Debug)]
pub enum Source {
    /// Columns by their names; one offset for each row.
    Columns(RecordBatch),
    /// Texts of JSON.
    Json(StringArray),
}

/// Rows on their way into a table, with their offsets.
#[derive(Debug)]
pub struct Incoming {
    pub source: Source,
    pub offsets: Vec<i64>,
}

/// The rows of a call: `streams` Arrow IPC streams, one behind the other.
pub fn streams(bytes: &[u8], streams: usize) -> Result<Vec<RecordBatch>, Refused> {
    let unreadable = |e: ArrowError| Refused::fatal(format!("rows cannot be read: {e}"));
    let mut cursor = Cursor::new(bytes);
    let mut batches = Vec::new();
    for _ in 0..streams {
        for batch in StreamReader::try_new(&mut cursor, None).map_err(unreadable)? {
            batches.push(batch.map_err(unreadable)?);
        }
    }
    Ok(batches.into_iter().filter(|batch| batch.num_rows() > 0).collect())
}

fn offsets(batch: &RecordBatch) -> Result<Vec<i64>, ArrowError> {
    let column = batch.columns().get(OFFSET).and_then(|c| c.as_primitive_opt::<Int64Type>());
    let column = column.ok_or_else(|| ArrowError::SchemaError("the rows have no offsets".to_owned()))?;
    Ok(column.values().to_vec())
}

/// What a batch of the worker gives.
pub fn incoming(batch: &RecordBatch) -> Result<Incoming, ArrowError> {
    let schema = batch.schema();
    let Some(field) = schema.fields().get(VALUE) else {
        return Err(ArrowError::SchemaError("the rows have no value".to_owned()));
    };
    // Records without a schema, of a topic whose others have one: tombstones.
    if *field.data_type() == DataType::Null {
        return Ok(Incoming { offsets: Vec::new(), source: Source::Json(StringArray::new_null(0)) });
    }
    let is_json = field.metadata().contains_key(JSON_TEXT);
    if !is_json && !matches!(field.data_type(), DataType::Struct(_)) {
        let names: Vec<usize> = (0..batch.num_columns()).filter(|n| *n != TIMESTAMP_TYPE).collect();
        return Ok(Incoming { offsets: offsets(batch)?, source: Source::Columns(batch.project(&names)?) });
    }
    let kept: BooleanArray = (0..batch.num_rows()).map(|row| Some(batch.column(VALUE).is_valid(row))).collect();
    let batch = filter_record_batch(batch, &kept)?;
    let value = batch.column(VALUE);
    let source = match value.data_type() {
        DataType::Struct(fields) => {
            let columns = value.as_struct().columns().to_vec();
            let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            let schema = Arc::new(Schema::new(fields.clone()));
            Source::Columns(RecordBatch::try_new_with_options(schema, columns, &options)?)
        }
        _ => Source::Json(converted(value, &DataType::Utf8)?.as_string::<i32>().clone()),
    };
    Ok(Incoming { source, offsets: offsets(&batch)? })
}

/// The type that a table has for it.
fn plain(kind: &DataType) -> Option<DataType> {
    let field = |f: &FieldRef| Some(Arc::new(Field::new(f.name(), plain(f.data_type())?, true)));
    Some(match kind {
        DataType::Null => return None,
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::Binary | DataType::BinaryView => DataType::LargeBinary,
        DataType::Float16 => DataType::Float32,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Date64 => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Time32(_) | DataType::Time64(_) => DataType::Time64(TimeUnit::Microsecond),
        DataType::Timestamp(_, zone) => {
            DataType::Timestamp(TimeUnit::Microsecond, zone.as_ref().map(|_| "+00:00".into()))
        }
        DataType::Dictionary(_, values) => return plain(values),
        DataType::Struct(fields) => DataType::Struct(fields.iter().filter_map(field).collect::<Fields>()),
        DataType::List(f) | DataType::LargeList(f) | DataType::FixedSizeList(f, _) => DataType::List(field(f)?),
        DataType::Map(entries, sorted) => {
            let DataType::Struct(pair) = entries.data_type() else { return None };
            let [key, value] = &pair[..] else { return None };
            let key = Arc::new(Field::new("key", plain(key.data_type())?, false));
            let value = Arc::new(Field::new("value", plain(value.data_type())?, true));
            let entries = Field::new("entries", DataType::Struct(Fields::from(vec![key, value])), false);
            DataType::Map(Arc::new(entries), *sorted)
        }
        other => other.clone(),
    })
}

impl Incoming {
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Fields as a table would have them, all optional: which of them a record lacks is another matter with each batch.
    pub fn fields(&self) -> Result<Vec<Field>, ArrowError> {
        let inferred;
        let fields = match &self.source {
            Source::Columns(batch) => batch.schema_ref().fields(),
            Source::Json(texts) => {
                let values = texts.iter().flatten().map(|text| {
                    serde_json::from_str::<serde_json::Value>(text).map_err(|e| ArrowError::JsonError(e.to_string()))
                });
                inferred = infer_json_schema_from_iterator(values)?;
                inferred.fields()
            }
        };
        Ok(fields.iter().filter_map(|f| Some(Field::new(f.name(), plain(f.data_type())?, true))).collect())
    }

    /// As rows of a table with this schema; the offsets of rows that it cannot have are apart, with the reason of the first.
    pub fn into_rows(self, table: &SchemaRef) -> Result<(RecordBatch, Vec<i64>, String), ArrowError> {
        let Incoming { source, mut offsets } = self;
        let mut rejected = Vec::new();
        let mut reason = String::new();
        let batch = match source {
            Source::Columns(batch) => batch,
            Source::Json(texts) => match decoded(&texts, table) {
                Ok(batch) => batch,
                Err(_) => {
                    let (texts, bad, why) = apart(&texts, table);
                    (rejected, reason) = (bad.iter().map(|row| offsets[*row]).collect(), why);
                    offsets.retain(|offset| !rejected.contains(offset));
                    decoded(&texts, table)?
                }
            },
        };
        let mut good = vec![true; offsets.len()];
        let mut columns = Vec::new();
        for field in table.fields() {
            let found = batch.column_by_name(field.name());
            let column = match found {
                Some(column) => fitted(column, field)?,
                None => new_null_array(field.data_type(), offsets.len()),
            };
            for (row, good) in good.iter_mut().enumerate().filter(|_| column.null_count() > 0) {
                let lost = column.is_null(row) && found.is_some_and(|from| from.is_valid(row));
                let missing = column.is_null(row) && !field.is_nullable();
                if (lost || missing) && *good {
                    *good = false;
                    if reason.is_empty() {
                        let what =
                            if lost { "has a value that is none of" } else { "has no value, and the table requires" };
                        reason = format!("the column {} {what} {}", field.name(), field.data_type());
                    }
                }
            }
            columns.push(column);
        }
        rejected.extend(offsets.iter().zip(&good).filter(|(_, good)| !**good).map(|(offset, _)| *offset));
        if good.contains(&false) {
            let kept = BooleanArray::from(good);
            columns = columns.iter().map(|c| filter(c, &kept)).collect::<Result<_, _>>()?;
        }
        Ok((RecordBatch::try_new(Arc::clone(table), columns)?, rejected, reason))
    }
}

/// The texts that can be rows, the places of the others, and what is wrong with the first of these.
fn apart(texts: &StringArray, table: &SchemaRef) -> (StringArray, Vec<usize>, String) {
    let (mut good, mut bad, mut reason) = (Vec::new(), Vec::new(), String::new());
    for (row, text) in texts.iter().enumerate() {
        match decoded(&StringArray::from(vec![text]), table) {
            Ok(_) => good.push(text),
            Err(error) => {
                if bad.is_empty() {
                    reason = format!("the value is no row of the table: {error}");
                }
                bad.push(row);
            }
        }
    }
    (StringArray::from(good), bad, reason)
}

/// Objects as columns of the table; what it does not have is left out.
fn decoded(texts: &StringArray, table: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let optional = |f: &FieldRef| Arc::new(f.as_ref().clone().with_nullable(true));
    let schema = Arc::new(Schema::new(table.fields().iter().map(optional).collect::<Fields>()));
    let mut decoder = ReaderBuilder::new(schema).with_batch_size(texts.len().max(1)).build_decoder()?;
    for text in texts.iter().flatten() {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            let taken = decoder.decode(rest)?;
            if taken == 0 {
                return Err(ArrowError::JsonError("a value holds more than one JSON text".to_owned()));
            }
            rest = &rest[taken..];
        }
        decoder.decode(b"\n")?;
    }
    if texts.is_empty() {
        return Ok(RecordBatch::new_empty(Arc::clone(table)));
    }
    let batch = decoder.flush()?.ok_or_else(|| ArrowError::JsonError("no value is an object".to_owned()))?;
    if batch.num_rows() == texts.len() {
        Ok(batch)
    } else {
        Err(ArrowError::JsonError("a value is not one JSON object".to_owned()))
    }
}

fn converted(column: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    // What does not fit becomes null, and is found by that.
    cast_with_options(column, to, &CastOptions { safe: true, ..CastOptions::default() })
}

/// A column in the type of the table's field: fields of structs by name, with the table's ids.
fn fitted(column: &ArrayRef, field: &Field) -> Result<ArrayRef, ArrowError> {
    let other = || {
        let (name, from, to) = (field.name(), column.data_type(), field.data_type());
        ArrowError::CastError(format!("the column {name} is {to} in the table and {from} in the records"))
    };
    if column.data_type() == field.data_type() {
        return Ok(Arc::clone(column));
    }
    match (column.data_type(), field.data_type()) {
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let from = column.as_struct();
            let one = |f: &FieldRef| match from.column_by_name(f.name()) {
                Some(column) => fitted(column, f),
                None if f.is_nullable() => Ok(new_null_array(f.data_type(), from.len())),
                None => Err(other()),
            };
            let columns = fields.iter().map(one).collect::<Result<Vec<_>, _>>()?;
            Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), columns, from.nulls().cloned(), from.len())?))
        }
        (DataType::List(_), DataType::List(item)) => {
            let from = column.as_list::<i32>();
            let values = fitted(from.values(), item)?;
            let list = ListArray::try_new(Arc::clone(item), from.offsets().clone(), values, from.nulls().cloned())?;
            Ok(Arc::new(list))
        }
        (DataType::Map(..), DataType::Map(entries, sorted)) => {
            let from = column.as_map();
            let DataType::Struct(pair) = entries.data_type() else { return Err(other()) };
            let [key, value] = &pair[..] else { return Err(other()) };
            let columns = vec![fitted(from.keys(), key)?, fitted(from.values(), value)?];
            let inner = StructArray::try_new(pair.clone(), columns, None)?;
            let map =
                MapArray::try_new(Arc::clone(entries), from.offsets().clone(), inner, from.nulls().cloned(), *sorted)?;
            Ok(Arc::new(map))
        }
        (DataType::Struct(_) | DataType::List(_) | DataType::Map(..), _) => Err(other()),
        (_, to) => converted(column, to).map_err(|_| other()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;

    use arrow_array::{Int32Array, Int64Array};

    use super::*;

    fn envelope(value: ArrayRef, metadata: &[&str]) -> RecordBatch {
        let count = value.len();
        let metadata: HashMap<String, String> = metadata.iter().map(|m| ((*m).to_owned(), String::new())).collect();
        let text = |name: &str| (Field::new(name, DataType::Utf8, true), new_null_array(&DataType::Utf8, count));
        let offsets: ArrayRef = Arc::new(Int64Array::from_iter_values(10..10 + i64::try_from(count).unwrap()));
        let kind = value.data_type().clone();
        let columns = [
            text("topic"),
            text("partition"),
            (Field::new("offset", DataType::Int64, false), offsets),
            text("timestamp"),
            text("timestamp_type"),
            text("headers"),
            text("key"),
            (Field::new("value", kind, true).with_metadata(metadata), value),
        ];
        let (fields, columns): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
    }

    fn table(fields: Vec<Field>) -> SchemaRef {
        Arc::new(Schema::new(fields))
    }

    #[test]
    fn texts_give_the_envelope() {
        let rows = incoming(&envelope(Arc::new(StringArray::from(vec![Some("a"), None])), &[])).unwrap();
        let names: Vec<String> = rows.fields().unwrap().iter().map(|f| f.name().clone()).collect();
        assert_eq!(names, ["topic", "partition", "offset", "timestamp", "headers", "key", "value"]);
        let wanted = table(vec![Field::new("value", DataType::LargeBinary, true)]);
        let (batch, rejected, _) = rows.into_rows(&wanted).unwrap();
        assert_eq!((batch.num_rows(), rejected.len()), (2, 0), "a tombstone is a row of the envelope");
    }

    #[test]
    fn records_without_a_schema_give_no_rows() {
        let rows = incoming(&envelope(Arc::new(arrow_array::NullArray::new(3)), &[])).unwrap();
        assert!(rows.is_empty());
    }

    #[test]
    fn fields_go_by_name_and_what_does_not_fit_is_rejected_alone() {
        let fields = Fields::from(vec![Field::new("n", DataType::Int32, true), Field::new("s", DataType::Utf8, true)]);
        let n: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), Some(2), None]));
        let s: ArrayRef = Arc::new(StringArray::from(vec![Some("7"), Some("no"), Some("9")]));
        let value = Arc::new(StructArray::new(fields, vec![n, s], None));
        let wanted = table(vec![
            Field::new("s", DataType::Int64, true),
            Field::new("later", DataType::Utf8, true),
            Field::new("n", DataType::Int64, false),
        ]);
        let (batch, rejected, reason) = incoming(&envelope(value, &[])).unwrap().into_rows(&wanted).unwrap();
        assert_eq!((batch.num_rows(), rejected), (1, vec![11, 12]));
        assert!(reason.contains("the column s has a value that is none of Int64"), "{reason}");
    }

    #[test]
    fn json_gives_the_fields_that_the_table_has() {
        let texts = [Some(r#"{"n": 1, "more": {"x": [1]}}"#), None, Some("{\n\"n\": null}")];
        let rows = incoming(&envelope(Arc::new(StringArray::from(texts.to_vec())), &[JSON_TEXT])).unwrap();
        assert_eq!(rows.offsets, [10, 12], "a tombstone has no fields");
        assert_eq!(rows.fields().unwrap().len(), 2);
        let wanted = table(vec![Field::new("n", DataType::Int64, true)]);
        let (batch, rejected, _) = rows.into_rows(&wanted).unwrap();
        assert_eq!((batch.num_rows(), batch.column(0).null_count(), rejected.len()), (2, 1, 0));
        let texts = StringArray::from(vec!["[1]", r#"{"n": 1}"#, r#"{"n": "x"}"#, "7"]);
        let rows = incoming(&envelope(Arc::new(texts), &[JSON_TEXT])).unwrap();
        let (batch, rejected, reason) = rows.into_rows(&wanted).unwrap();
        assert_eq!((batch.num_rows(), rejected), (1, vec![10, 12, 13]));
        assert!(reason.starts_with("the value is no row of the table: "), "{reason}");
    }
}
