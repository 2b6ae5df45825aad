//! Fields of records with a schema: columns of a struct are put in, left out, renamed, masked or taken out; no row is copied for it.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, ListArray, MapArray, RecordBatch, StringArray,
    StructArray, TimestampMillisecondArray, UInt32Array, new_empty_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{CastOptions, cast_with_options, take};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, TimestampMillisecondType};

use super::{Column, Inserted, Operation, unsupported};
use crate::rows::column;

/// Records without a time have this one.
const NO_TIMESTAMP: i64 = -1;

/// A number's text of a text, as Java's numbers are made of one: whole ones are cut.
pub fn number_in(text: &str, whole: bool) -> Option<String> {
    let text = text.trim();
    match (text.parse::<i64>(), text.parse::<f64>().ok().filter(|n| n.is_finite())) {
        (Ok(number), _) if whole => Some(number.to_string()),
        #[expect(clippy::cast_possible_truncation, reason = "as Java does")]
        (_, Some(number)) if whole => Some((number as i64).to_string()),
        (_, Some(number)) => Some(format!("{number:?}")),
        _ => None,
    }
}

pub fn no_number(text: &str) -> String {
    format!("Unable to convert {text} (class java.lang.String) to number")
}

pub fn apply(operation: &Operation, batch: &RecordBatch, field: &Field, values: &ArrayRef) -> Column {
    let record = values.as_struct();
    match operation {
        Operation::Extract { path, text } => extracted(path, text, field, record),
        Operation::Mask { fields, replacement } => masked(fields, replacement.as_deref(), operation, field, record),
        Operation::Insert { .. } => {
            let (fields, columns) = inserted(operation, batch, record);
            remade(field, record, fields, columns)
        }
        Operation::Replace { exclude, include, renames } => {
            let named = record.fields().iter().zip(record.columns());
            let kept = named.filter_map(|(f, c)| {
                let name = Operation::kept(exclude, include, renames, f.name())?;
                Some((Arc::new(f.as_ref().clone().with_name(name)), Arc::clone(c)))
            });
            let (fields, columns): (Vec<FieldRef>, Vec<ArrayRef>) = kept.unzip();
            remade(field, record, fields, columns)
        }
    }
}

/// The same column, of which all rows that have a value failed, or all.
fn failed(field: &Field, record: &StructArray, also_nulls: bool, reason: &str) -> Column {
    let rows = (0..record.len()).filter(|row| also_nulls || record.is_valid(*row));
    let failed = rows.map(|row| (row, reason.to_owned())).collect();
    Column { field: field.clone(), column: Arc::new(record.clone()), failed }
}

/// A struct of other columns, null where the record was.
fn remade(field: &Field, record: &StructArray, fields: Vec<FieldRef>, columns: Vec<ArrayRef>) -> Column {
    let mut names: Vec<&str> = fields.iter().map(|f| f.name().as_str()).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return failed(
            field,
            record,
            false,
            &format!("Cannot create field because of field name duplication {}", twice[0]),
        );
    }
    let nulls = record.nulls().cloned();
    let made = if fields.is_empty() {
        StructArray::new_empty_fields(record.len(), nulls)
    } else {
        StructArray::new(Fields::from(fields), columns, nulls)
    };
    Column {
        field: Field::new(field.name(), made.data_type().clone(), true),
        column: Arc::new(made),
        failed: Vec::new(),
    }
}

fn inserted(operation: &Operation, batch: &RecordBatch, record: &StructArray) -> (Vec<FieldRef>, Vec<ArrayRef>) {
    let mut fields: Vec<FieldRef> = record.fields().iter().cloned().collect();
    let mut columns: Vec<ArrayRef> = record.columns().to_vec();
    let Operation::Insert { topic, partition, offset, timestamp, fixed } = operation else { return (fields, columns) };
    let mut add = |field: &Inserted, column: ArrayRef| {
        let nullable = field.optional || column.null_count() > 0;
        fields.push(Arc::new(Field::new(&field.name, column.data_type().clone(), nullable)));
        columns.push(column);
    };
    for (field, at) in [(topic, column::TOPIC), (partition, column::PARTITION), (offset, column::OFFSET)] {
        if let Some(field) = field {
            add(field, Arc::clone(batch.column(at)));
        }
    }
    if let Some(field) = timestamp {
        let times = batch.column(column::TIMESTAMP).as_primitive::<TimestampMillisecondType>();
        let known: TimestampMillisecondArray = times.iter().map(|ms| ms.filter(|ms| *ms != NO_TIMESTAMP)).collect();
        add(field, Arc::new(known.with_timezone("UTC")));
    }
    if let Some((field, value)) = fixed {
        add(field, Arc::new(StringArray::from_iter_values(std::iter::repeat_n(value, batch.num_rows()))));
    }
    (fields, columns)
}

fn masked(
    wanted: &[String],
    replacement: Option<&str>,
    operation: &Operation,
    field: &Field,
    record: &StructArray,
) -> Column {
    let mut wrong: Vec<(usize, String)> = Vec::new();
    let mut columns = Vec::with_capacity(record.num_columns());
    for (inner, column) in record.fields().iter().zip(record.columns()) {
        if !wanted.contains(inner.name()) {
            columns.push(Arc::clone(column));
            continue;
        }
        match mask(column, replacement) {
            Ok(masked) => columns.push(masked),
            Err(reason) => {
                let has_one = |row: &usize| record.is_valid(*row) && column.is_valid(*row);
                wrong.extend((0..record.len()).filter(has_one).map(|row| (row, reason.clone())));
                columns.push(Arc::clone(column));
            }
        }
    }
    let mut made = remade(field, record, record.fields().iter().cloned().collect(), columns);
    let nulls = (0..record.len()).filter(|row| record.is_null(*row));
    wrong.extend(nulls.map(|row| (row, unsupported(operation, false, "null"))));
    wrong.sort_unstable();
    wrong.dedup_by_key(|(row, _)| *row);
    made.failed = wrong;
    made
}

/// A column of one value, with nulls where the column has some.
fn mask(column: &ArrayRef, replacement: Option<&str>) -> Result<ArrayRef, String> {
    let kind = column.data_type();
    let cast = |array: ArrayRef| {
        let strict = CastOptions { safe: false, ..CastOptions::default() };
        cast_with_options(&array, kind, &strict)
            .map_err(|_| replacement.map_or_else(|| format!("Cannot mask value of type: {kind}"), no_number))
    };
    let number = |whole: bool| match replacement {
        None => Ok("0".to_owned()),
        Some(text) => number_in(text, whole).ok_or_else(|| no_number(text)),
    };
    let no_custom = || format!("Cannot mask value of type {kind} with custom replacement.");
    let one: ArrayRef = match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            cast(Arc::new(StringArray::from(vec![replacement.unwrap_or("")])))?
        }
        kind if kind.is_integer() => {
            let value: i64 = number(true)?.parse().map_err(|_| no_number(replacement.unwrap_or("")))?;
            cast(Arc::new(Int64Array::from(vec![value])))?
        }
        DataType::Float16 | DataType::Float32 | DataType::Float64 => {
            let value: f64 = number(false)?.parse().map_err(|_| no_number(replacement.unwrap_or("")))?;
            cast(Arc::new(Float64Array::from(vec![value])))?
        }
        DataType::Decimal128(..) | DataType::Decimal256(..) => cast(Arc::new(StringArray::from(vec![number(false)?])))?,
        _ if replacement.is_some() => return Err(no_custom()),
        DataType::Boolean => Arc::new(BooleanArray::from(vec![false])),
        DataType::Date32 | DataType::Time32(_) => cast(Arc::new(arrow::array::Int32Array::from(vec![0])))?,
        DataType::Date64 | DataType::Time64(_) | DataType::Timestamp(..) => cast(Arc::new(Int64Array::from(vec![0])))?,
        DataType::List(item) => {
            let offsets = OffsetBuffer::from_lengths([0]);
            Arc::new(ListArray::new(Arc::clone(item), offsets, new_empty_array(item.data_type()), None))
        }
        DataType::Map(entries, sorted) => {
            let none = new_empty_array(entries.data_type());
            let offsets = OffsetBuffer::from_lengths([0]);
            Arc::new(MapArray::new(Arc::clone(entries), offsets, none.as_struct().clone(), None, *sorted))
        }
        _ => return Err(format!("Cannot mask value of type: {kind}")),
    };
    let rows: UInt32Array = (0..column.len()).map(|row| column.is_valid(row).then_some(0)).collect();
    take(&one, &rows, None).map_err(|e| e.to_string())
}

fn extracted(path: &[String], text: &str, field: &Field, record: &StructArray) -> Column {
    let mut level: ArrayRef = Arc::new(record.clone());
    let mut valid: Vec<bool> = vec![true; record.len()];
    for step in path {
        let inner = level.as_any().downcast_ref::<StructArray>().and_then(|r| Some((r, r.column_by_name(step)?)));
        let Some((outer, column)) = inner else {
            return failed(field, record, true, &format!("Unknown field: {text}"));
        };
        if outer.null_count() > 0 {
            valid.iter_mut().enumerate().for_each(|(row, valid)| *valid &= outer.is_valid(row));
        }
        let column = Arc::clone(column);
        level = column;
    }
    if valid.contains(&false) {
        let index = |row: usize| u32::try_from(row).expect("a batch has fewer rows");
        let rows: UInt32Array = valid.iter().enumerate().map(|(row, valid)| valid.then(|| index(row))).collect();
        level = take(&level, &rows, None).expect("rows of the column");
    }
    Column { field: Field::new(field.name(), level.data_type().clone(), true), column: level, failed: Vec::new() }
}
