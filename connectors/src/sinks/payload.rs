//! Keys and values as the bytes that a destination without columns takes, and rows in the order of the log.
//!
//! Owns nothing. Bytes and text are what they are; a value that a converter has given a type is JSON text. No row is copied but that JSON.

use std::borrow::Cow;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, SchemaRef};

use super::object_store::json_value;
use crate::convert::JSON_TEXT;
use crate::rows::{Rows, column};

/// A column of keys or values.
pub struct Payloads<'a> {
    schema: SchemaRef,
    at: usize,
    array: &'a ArrayRef,
}

impl<'a> Payloads<'a> {
    /// `at` is [`column::KEY`] or [`column::VALUE`].
    pub fn new(batch: &'a RecordBatch, at: usize) -> Payloads<'a> {
        Payloads { schema: batch.schema(), at, array: batch.column(at) }
    }

    fn field(&self) -> &Field {
        self.schema.field(self.at)
    }

    /// None = null.
    pub fn get(&self, row: usize) -> Option<Cow<'a, [u8]>> {
        if self.array.is_null(row) || *self.array.data_type() == DataType::Null {
            return None;
        }
        Some(match self.array.data_type() {
            DataType::BinaryView => self.array.as_binary_view().value(row).into(),
            DataType::Binary => self.array.as_binary::<i32>().value(row).into(),
            DataType::Utf8 => self.array.as_string::<i32>().value(row).as_bytes().into(),
            DataType::Utf8View => self.array.as_string_view().value(row).as_bytes().into(),
            _ => self.json(row),
        })
    }

    /// The same, and JSON on one line: for batches whose records a line break separates.
    pub fn line(&self, row: usize) -> Option<Cow<'a, [u8]>> {
        let value = self.get(row)?;
        let is_json = self.field().metadata().contains_key(JSON_TEXT);
        Some(if is_json { self.json(row) } else { value })
    }

    fn json(&self, row: usize) -> Cow<'a, [u8]> {
        let mut text = Vec::new();
        json_value(self.field(), self.array, row, &mut text);
        text.into()
    }
}

/// A row, by its place in [`Rows::groups`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub offset: i64,
    pub group: usize,
    pub row: usize,
}

/// All rows of all groups, by ascending offset.
pub fn in_order(rows: &Rows) -> Vec<Place> {
    let mut places = Vec::with_capacity(rows.count());
    for (group, batch) in rows.groups.iter().enumerate() {
        let offsets = batch.column(column::OFFSET).as_primitive::<Int64Type>();
        places.extend(offsets.values().iter().enumerate().map(|(row, offset)| Place { offset: *offset, group, row }));
    }
    if rows.groups.len() > 1 {
        places.sort_unstable_by_key(|place| place.offset);
    }
    places
}
