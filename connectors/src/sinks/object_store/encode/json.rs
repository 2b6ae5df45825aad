//! Rows as lines of JSON.
//!
//! Text that a converter has marked as JSON ([`crate::convert::JSON_TEXT`]) goes in as it is, on one line; bytes go in as the layout says.

use std::fmt::Write as _;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Field, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    Time32MillisecondType, Time64MicrosecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::keys::Layout;
use super::FieldEncoding;
use crate::convert::JSON_TEXT;

/// One line for each row: an object with a member for each column; or the bare value, if the value is the only column.
pub fn lines(rows: &RecordBatch, layout: &Layout, out: &mut Vec<u8>) {
    let schema = rows.schema();
    let bare =
        layout.fields == [super::Field::Value] && schema.fields().len() == 1 && schema.field(0).name() == "value";
    let columns: Vec<Column<'_>> = schema
        .fields()
        .iter()
        .zip(rows.columns())
        .map(|(field, array)| Column { field, array, bytes_as: layout.bytes_as })
        .collect();
    for row in 0..rows.num_rows() {
        if bare {
            columns[0].write(row, out);
        } else {
            object(&columns, row, out);
        }
        out.push(b'\n');
    }
}

/// One value, bytes as base64.
pub fn value(field: &Field, array: &ArrayRef, row: usize, out: &mut Vec<u8>) {
    Column { field, array, bytes_as: FieldEncoding::Base64 }.write(row, out);
}

struct Column<'a> {
    field: &'a Field,
    array: &'a ArrayRef,
    bytes_as: FieldEncoding,
}

fn object(columns: &[Column<'_>], row: usize, out: &mut Vec<u8>) {
    out.push(b'{');
    for (at, column) in columns.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        string(column.field.name(), out);
        out.push(b':');
        column.write(row, out);
    }
    out.push(b'}');
}

impl Column<'_> {
    fn write(&self, row: usize, out: &mut Vec<u8>) {
        let array = self.array;
        if array.is_null(row) {
            out.extend_from_slice(b"null");
            return;
        }
        match array.data_type() {
            DataType::Boolean => {
                out.extend_from_slice(if array.as_boolean().value(row) { b"true" } else { b"false" });
            }
            DataType::Int8 => number(array.as_primitive::<Int8Type>().value(row), out),
            DataType::Int16 => number(array.as_primitive::<Int16Type>().value(row), out),
            DataType::Int32 => number(array.as_primitive::<Int32Type>().value(row), out),
            DataType::Int64 => number(array.as_primitive::<Int64Type>().value(row), out),
            DataType::Float32 => float(f64::from(array.as_primitive::<Float32Type>().value(row)), out),
            DataType::Float64 => float(array.as_primitive::<Float64Type>().value(row), out),
            DataType::Date32 => number(array.as_primitive::<Date32Type>().value(row), out),
            // Times are the numbers that they came as.
            DataType::Timestamp(TimeUnit::Millisecond, _) => {
                number(array.as_primitive::<TimestampMillisecondType>().value(row), out);
            }
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                number(array.as_primitive::<TimestampMicrosecondType>().value(row), out);
            }
            DataType::Time32(TimeUnit::Millisecond) => {
                number(array.as_primitive::<Time32MillisecondType>().value(row), out);
            }
            DataType::Time64(TimeUnit::Microsecond) => {
                number(array.as_primitive::<Time64MicrosecondType>().value(row), out);
            }
            DataType::Utf8 => self.text(array.as_string::<i32>().value(row), out),
            DataType::Utf8View => self.text(array.as_string_view().value(row), out),
            DataType::Binary => self.bytes(array.as_binary::<i32>().value(row), out),
            DataType::BinaryView => self.bytes(array.as_binary_view().value(row), out),
            DataType::FixedSizeBinary(_) => self.bytes(array.as_fixed_size_binary().value(row), out),
            DataType::List(item) => self.list(item, row, out),
            DataType::Struct(fields) => {
                let record = array.as_struct();
                let bytes_as = self.bytes_as;
                let columns: Vec<Column<'_>> = fields
                    .iter()
                    .zip(record.columns())
                    .map(|(field, array)| Column { field, array, bytes_as })
                    .collect();
                object(&columns, row, out);
            }
            DataType::Map(..) => self.map(row, out),
            // What no converter makes; told as text.
            _ => {
                let shown = arrow::util::display::array_value_to_string(array, row).unwrap_or_default();
                string(&shown, out);
            }
        }
    }

    fn list(&self, item: &Field, row: usize, out: &mut Vec<u8>) {
        let list = self.array.as_list::<i32>();
        let offsets = list.value_offsets();
        let items = Column { field: item, array: list.values(), bytes_as: self.bytes_as };
        out.push(b'[');
        for (at, item) in (offsets[row]..offsets[row + 1]).enumerate() {
            if at > 0 {
                out.push(b',');
            }
            items.write(usize::try_from(item).expect("an index"), out);
        }
        out.push(b']');
    }

    fn map(&self, row: usize, out: &mut Vec<u8>) {
        let map = self.array.as_map();
        let (from, to) = (map.value_offsets()[row], map.value_offsets()[row + 1]);
        let fields = map.entries().fields();
        let keys = Column { field: &fields[0], array: map.keys(), bytes_as: self.bytes_as };
        let values = Column { field: &fields[1], array: map.values(), bytes_as: self.bytes_as };
        out.push(b'{');
        for (at, entry) in (from..to).enumerate() {
            if at > 0 {
                out.push(b',');
            }
            let entry = usize::try_from(entry).expect("an index");
            keys.write(entry, out);
            out.push(b':');
            values.write(entry, out);
        }
        out.push(b'}');
    }

    fn text(&self, value: &str, out: &mut Vec<u8>) {
        if self.field.metadata().contains_key(JSON_TEXT) { one_line(value, out) } else { string(value, out) }
    }

    fn bytes(&self, value: &[u8], out: &mut Vec<u8>) {
        match self.bytes_as {
            FieldEncoding::Base64 => {
                out.push(b'"');
                let from = out.len();
                out.resize(from + value.len().div_ceil(3) * 4, 0);
                let len = STANDARD.encode_slice(value, &mut out[from..]).expect("room for four thirds");
                out.truncate(from + len);
                out.push(b'"');
            }
            FieldEncoding::Text => string(&String::from_utf8_lossy(value), out),
        }
    }
}

fn number(value: impl Into<i64>, out: &mut Vec<u8>) {
    let mut text = String::with_capacity(20);
    let _ = write!(text, "{}", value.into());
    out.extend_from_slice(text.as_bytes());
}

fn float(value: f64, out: &mut Vec<u8>) {
    // JSON has no numbers for these; Jackson writes them as text.
    if value.is_finite() {
        serde_json::to_writer(out, &value).expect("memory takes it");
    } else {
        string(&value.to_string(), out);
    }
}

fn string(value: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("memory takes it");
}

/// Valid JSON without its line breaks, which can only stand between tokens.
fn one_line(value: &str, out: &mut Vec<u8>) {
    // Two searches for a byte are quicker than one that looks at each.
    if [b'\n', b'\r'].iter().any(|end| value.as_bytes().contains(end)) {
        out.extend(value.bytes().filter(|b| *b != b'\n' && *b != b'\r'));
    } else {
        out.extend_from_slice(value.as_bytes());
    }
}
