//! Records as rows of a table: which columns, which rows, which of them are deletions.
//!
//! Owns no database: rows in, pieces out, a function of rows and settings. Values with fields become a column for each; others become the one
//! column `value`. What a database has no type for (structs, lists, maps within a value) becomes JSON text.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringBuilder};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::super::object_store::json_value;
use super::keys::{Config, PkMode};
use crate::rows::column;

/// The column of a value that has no fields.
const VALUE: &str = "value";

/// Rows of one set of columns.
#[derive(Debug, Clone)]
pub struct Piece {
    pub rows: RecordBatch,
    /// Of each row, ascending.
    pub offsets: Vec<i64>,
    /// The rows are keys of rows that go.
    pub delete: bool,
}

/// What a write is made of.
#[derive(Debug, Default)]
pub struct Shaped {
    pub pieces: Vec<Piece>,
    /// Rows that no table takes, and why the first of them.
    pub rejected: Vec<i64>,
    pub reason: String,
}

impl Shaped {
    fn reject(&mut self, offset: i64, reason: &str) {
        self.rejected.push(offset);
        if self.reason.is_empty() {
            reason.clone_into(&mut self.reason);
        }
    }

    /// Offsets of all rows in all pieces, ascending.
    pub fn offsets(&self) -> Vec<i64> {
        let mut offsets: Vec<i64> = self.pieces.iter().flat_map(|piece| piece.offsets.iter().copied()).collect();
        offsets.sort_unstable();
        offsets
    }
}

type Columns = Vec<(Field, ArrayRef)>;

/// A column as databases take it.
fn plain(field: &Field, array: &ArrayRef) -> Result<(Field, ArrayRef), ArrowError> {
    let wanted = match array.data_type() {
        DataType::Utf8View | DataType::LargeUtf8 | DataType::Dictionary(..) | DataType::UInt64 | DataType::Null => {
            DataType::Utf8
        }
        DataType::BinaryView | DataType::LargeBinary | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Int8 | DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        DataType::Struct(_) | DataType::List(_) | DataType::LargeList(_) | DataType::Map(..) => {
            return Ok((Field::new(field.name(), DataType::Utf8, true), json(field, array)));
        }
        same => same.clone(),
    };
    let array = if wanted == *array.data_type() { Arc::clone(array) } else { cast(array, &wanted)? };
    Ok((Field::new(field.name(), wanted, true), array))
}

fn json(field: &Field, array: &ArrayRef) -> ArrayRef {
    let mut texts = StringBuilder::new();
    for row in 0..array.len() {
        if array.is_null(row) {
            texts.append_null();
            continue;
        }
        let mut text = Vec::new();
        json_value(field, array, row, &mut text);
        texts.append_value(String::from_utf8_lossy(&text));
    }
    Arc::new(texts.finish())
}

/// The fields of a struct; a struct that is null has null fields.
fn fields(array: &ArrayRef) -> Result<Columns, ArrowError> {
    let record = array.as_struct();
    let (fields, arrays, nulls) = record.clone().into_parts();
    let one = |(field, array): (&Arc<Field>, &ArrayRef)| {
        let (field, array) = plain(field, array)?;
        let Some(nulls) = &nulls else { return Ok((field, array)) };
        let hidden = BooleanArray::new(nulls.inner().clone(), None);
        Ok((field, arrow::compute::nullif(&array, &arrow::compute::not(&hidden)?)?))
    };
    fields.iter().zip(&arrays).map(one).collect()
}

/// The columns of the primary key; Err = what the settings should say.
fn key_columns(config: &Config, batch: &RecordBatch, value: &Columns) -> Result<Columns, String> {
    let named = |name: &str, array: ArrayRef| {
        plain(&Field::new(name, array.data_type().clone(), true), &array).map_err(|e| e.to_string())
    };
    match config.pk_mode {
        PkMode::None => Ok(Vec::new()),
        PkMode::Kafka => [column::TOPIC, column::PARTITION, column::OFFSET]
            .iter()
            .zip(&config.pk_fields)
            .map(|(at, name)| named(name, Arc::clone(batch.column(*at))))
            .collect(),
        PkMode::RecordValue => config.pk_fields.iter().map(|name| found(name, value, "value")).collect(),
        PkMode::RecordKey => {
            let key = batch.column(column::KEY);
            match (key.data_type(), &config.pk_fields[..]) {
                (DataType::Struct(_), chosen) => {
                    let all = fields(key).map_err(|e| e.to_string())?;
                    if chosen.is_empty() {
                        Ok(all)
                    } else {
                        chosen.iter().map(|name| found(name, &all, "key")).collect()
                    }
                }
                (_, [name]) => Ok(vec![named(name, Arc::clone(key))?]),
                _ => Err("set pk.fields to one name: the column of the key, which has no fields".to_owned()),
            }
        }
    }
}

fn found(name: &str, columns: &Columns, what: &str) -> Result<(Field, ArrayRef), String> {
    let column = columns.iter().find(|(field, _)| field.name() == name);
    column.cloned().ok_or_else(|| {
        format!("correct pk.fields, or set a {what}.converter that gives fields: the records have no field {name} in their {what}")
    })
}

fn kept(batch: &RecordBatch, keep: &[bool]) -> Result<RecordBatch, ArrowError> {
    filter_record_batch(batch, &BooleanArray::from(keep.to_vec()))
}

/// Rows of one schema, those from offset `from` on; the envelope comes in, a table's columns go out.
fn shape_one(config: &Config, batch: &RecordBatch, from: i64, shaped: &mut Shaped) -> Result<(), String> {
    let arrow = |e: ArrowError| format!("columns cannot be made: {e}");
    let offsets = batch.column(column::OFFSET).as_primitive::<Int64Type>().values().to_vec();
    let values = batch.column(column::VALUE);
    let is_record = matches!(values.data_type(), DataType::Struct(_));
    let is_nothing = |row: usize| *values.data_type() == DataType::Null || values.is_null(row);
    let value = match is_record {
        true => fields(values).map_err(arrow)?,
        false => vec![plain(&Field::new(VALUE, values.data_type().clone(), true), values).map_err(arrow)?],
    };
    let all_nothing = *values.data_type() == DataType::Null;
    let needs_fields = config.pk_mode == PkMode::RecordValue && all_nothing;
    let keys = if needs_fields { Vec::new() } else { key_columns(config, batch, &value)? };
    let (mut write, mut delete) = (vec![false; offsets.len()], vec![false; offsets.len()]);
    for (row, offset) in offsets.iter().enumerate().filter(|(_, offset)| **offset >= from) {
        if keys.iter().any(|(_, array)| array.is_null(row)) {
            shaped.reject(*offset, "the record has no value for the primary key (pk.mode, pk.fields)");
        } else if is_nothing(row) && config.delete {
            delete[row] = true;
        } else if is_nothing(row) && (is_record || all_nothing) {
            shaped.reject(
                *offset,
                "the record has no value; with delete.enabled=true it would delete the row of its key",
            );
        } else {
            write[row] = true;
        }
    }
    let more = value.into_iter().filter(|(field, _)| keys.iter().all(|(key, _)| key.name() != field.name()));
    let whole: Columns = keys.iter().cloned().chain(more).collect();
    for (columns, keep, is_delete) in [(whole, write, false), (keys, delete, true)] {
        if !keep.contains(&true) {
            continue;
        }
        let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns.into_iter().unzip();
        let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(arrow)?;
        let chosen = offsets.iter().zip(&keep).filter(|(_, keep)| **keep).map(|(offset, _)| *offset).collect();
        shaped.pieces.push(Piece { rows: kept(&rows, &keep).map_err(arrow)?, offsets: chosen, delete: is_delete });
    }
    Ok(())
}

/// The primary key of each row, as text.
fn key_texts(config: &Config, piece: &Piece) -> Result<Vec<String>, ArrowError> {
    let names: Vec<String> = match (config.pk_mode, config.pk_fields.is_empty()) {
        (PkMode::RecordKey, true) => Vec::new(),
        _ => config.pk_fields.clone(),
    };
    let options = FormatOptions::default();
    // Without names, the key's columns are the first ones; a deletion has no others.
    let schema = piece.rows.schema();
    let is_key = |at: usize| names.is_empty() || names.contains(schema.field(at).name());
    let formatters: Vec<ArrayFormatter<'_>> = (0..schema.fields().len())
        .filter(|at| is_key(*at))
        .map(|at| ArrayFormatter::try_new(piece.rows.column(at), &options))
        .collect::<Result<_, _>>()?;
    let text = |row: usize| formatters.iter().map(|f| f.value(row).to_string()).collect::<Vec<_>>().join("\u{1f}");
    Ok((0..piece.rows.num_rows()).map(text).collect())
}

/// The names of the primary key's columns in a table for these rows.
pub fn key_names(config: &Config, key: &DataType) -> Vec<String> {
    match (key, config.pk_mode, config.pk_fields.is_empty()) {
        (DataType::Struct(fields), PkMode::RecordKey, true) => fields.iter().map(|f| f.name().clone()).collect(),
        _ => config.pk_fields.clone(),
    }
}

/// Leaves of each primary key the last row alone: one statement cannot change a row twice.
fn last_of_each(config: &Config, shaped: &mut Shaped) -> Result<(), ArrowError> {
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    let texts: Vec<Vec<String>> = shaped.pieces.iter().map(|p| key_texts(config, p)).collect::<Result<_, _>>()?;
    for (piece, texts) in shaped.pieces.iter().zip(&texts) {
        for (offset, text) in piece.offsets.iter().zip(texts) {
            let known = last.entry(text.clone()).or_insert(*offset);
            *known = (*known).max(*offset);
        }
    }
    for (piece, texts) in shaped.pieces.iter_mut().zip(&texts) {
        let keep: Vec<bool> = piece.offsets.iter().zip(texts).map(|(offset, text)| last[text] == *offset).collect();
        *piece = only(piece, &keep)?;
    }
    shaped.pieces.retain(|piece| !piece.offsets.is_empty());
    Ok(())
}

fn only(piece: &Piece, keep: &[bool]) -> Result<Piece, ArrowError> {
    let offsets = piece.offsets.iter().zip(keep).filter(|(_, keep)| **keep).map(|(offset, _)| *offset).collect();
    Ok(Piece { rows: kept(&piece.rows, keep)?, offsets, delete: piece.delete })
}

/// The rows of a piece whose offsets are among these.
pub fn chosen(piece: &Piece, offsets: &[i64]) -> Result<Piece, ArrowError> {
    let keep: Vec<bool> = piece.offsets.iter().map(|offset| offsets.binary_search(offset).is_ok()).collect();
    only(piece, &keep)
}

/// Rows of all schemas, those from offset `from` on. Err = what the operator has to correct.
pub fn shape(config: &Config, groups: &[RecordBatch], from: i64) -> Result<Shaped, String> {
    let mut shaped = Shaped::default();
    for batch in groups {
        shape_one(config, batch, from, &mut shaped)?;
    }
    if config.upsert {
        last_of_each(config, &mut shaped).map_err(|e| format!("primary keys cannot be compared: {e}"))?;
    }
    shaped.rejected.sort_unstable();
    Ok(shaped)
}
