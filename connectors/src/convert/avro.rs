//! Avro as a registry's schema says it, decoded straight into columns.
//!
//! Owns the way from a registry's schema to a column's type. Every schema is wrapped into a record of one field: the bytes of a record are
//! the bytes of its fields, so a value of any type is a column. What sinks and files do not have is turned into what they have: a choice of
//! types becomes a record with a field for each, of which one is set, and an enum becomes text.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, ListArray, MapArray, StructArray, UInt32Array, new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Fields};
use arrow::error::ArrowError;
use arrow_avro::reader::{Decoder, ReaderBuilder};
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use serde_json::{Value, json};

use super::registry::PREFIX_BYTES;

/// Schemas within schemas, at most so deep.
const DEPTH_MAX: usize = 64;

/// A schema of the registry, ready for records.
#[derive(Debug)]
pub struct Schema {
    wrapped: AvroSchema,
}

impl Schema {
    /// `referred` are the schemas that it refers to by name. Err = why it cannot be used.
    pub fn parse(text: &str, referred: &[String]) -> Result<Schema, String> {
        let read = |text: &str| -> Result<Value, String> {
            serde_json::from_str(text).map_err(|e| format!("is no JSON: {e}"))
        };
        let mut definitions = BTreeMap::new();
        for text in referred {
            let definition = read(text)?;
            if let Some(name) = full_name(&definition) {
                definitions.insert(name, definition);
            }
        }
        let mut schema = read(text)?;
        with_definitions(&mut schema, &mut definitions, 0)?;
        without_durations(&mut schema);
        let wrapped = json!({ "type": "record", "name": "Wrapped", "fields": [{ "name": "value", "type": schema }] });
        let schema = Schema { wrapped: AvroSchema::new(wrapped.to_string()) };
        schema.decoder(0, 1)?;
        Ok(schema)
    }

    fn decoder(&self, id: u32, rows: usize) -> Result<Decoder, String> {
        let cannot = |e: ArrowError| format!("cannot be used: {e}");
        let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
        store.set(Fingerprint::Id(id), self.wrapped.clone()).map_err(cannot)?;
        // One row more than there is, so that a value that holds two is seen to.
        let builder = ReaderBuilder::new().with_batch_size(rows + 1).with_writer_schema_store(store);
        builder.with_active_fingerprint(Fingerprint::Id(id)).build_decoder().map_err(cannot)
    }

    /// The column of values that begin with magic byte and `id`; `fails` is told which cannot be read, and the others are in the column.
    pub fn column(
        &self,
        id: u32,
        values: &[&[u8]],
        mut fails: impl FnMut(usize, String),
    ) -> Result<ArrayRef, ArrowError> {
        if let Some(column) = self.all(id, values)? {
            return Ok(column);
        }
        // One by one, to know which; a decoder that has failed is not used again.
        let failed = ArrowError::ParseError;
        let mut decoder = self.decoder(id, 1).map_err(failed)?;
        let mut good = Vec::with_capacity(values.len());
        for (row, value) in values.iter().enumerate() {
            match one(&mut decoder, value) {
                Ok(()) => {
                    decoder.flush().map_err(|e| ArrowError::ParseError(e.to_string()))?;
                    good.push(*value);
                }
                Err(why) => {
                    fails(row, format!("it does not fit the schema {id}: {why}"));
                    decoder = self.decoder(id, 1).map_err(failed)?;
                }
            }
        }
        let column = self.all(id, &good)?;
        column.ok_or_else(|| ArrowError::ParseError("values can be read one by one and not together".to_owned()))
    }

    /// None = not all can be read.
    fn all(&self, id: u32, values: &[&[u8]]) -> Result<Option<ArrayRef>, ArrowError> {
        let mut decoder = self.decoder(id, values.len()).map_err(ArrowError::ParseError)?;
        for value in values {
            if one(&mut decoder, value).is_err() {
                return Ok(None);
            }
        }
        let decoded = match decoder.flush().map_err(|e| ArrowError::ParseError(e.to_string()))? {
            Some(batch) => Arc::clone(batch.column(0)),
            None => new_null_array(decoder.schema().field(0).data_type(), 0),
        };
        plain(&decoded).map(Some)
    }
}

/// Decodes one value, all of it.
fn one(decoder: &mut Decoder, value: &[u8]) -> Result<(), String> {
    let before = decoder.capacity();
    let consumed = decoder.decode(value).map_err(|e| e.to_string())?;
    let rows = before - decoder.capacity();
    match (rows, consumed == value.len()) {
        (1, true) => Ok(()),
        (0, _) => Err(format!("its {} bytes end too early", value.len().saturating_sub(PREFIX_BYTES))),
        _ => Err(format!("{} bytes are left over", value.len().saturating_sub(consumed))),
    }
}

/// `namespace.name` of a definition.
fn full_name(definition: &Value) -> Option<String> {
    let name = definition["name"].as_str()?;
    match definition["namespace"].as_str().filter(|space| !space.is_empty() && !name.contains('.')) {
        Some(space) => Some(format!("{space}.{name}")),
        None => Some(name.to_owned()),
    }
}

/// Puts definitions where a schema only names them, each where it is named first.
fn with_definitions(schema: &mut Value, definitions: &mut BTreeMap<String, Value>, depth: usize) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!("is deeper than {DEPTH_MAX}"));
    }
    match schema {
        Value::String(name) => {
            if let Some(mut definition) = definitions.remove(name.as_str()) {
                with_definitions(&mut definition, definitions, depth + 1)?;
                *schema = definition;
            }
        }
        Value::Array(all) => {
            for one in all {
                with_definitions(one, definitions, depth + 1)?;
            }
        }
        Value::Object(object) => {
            for key in ["type", "items", "values"] {
                if let Some(inner) = object.get_mut(key) {
                    with_definitions(inner, definitions, depth + 1)?;
                }
            }
            for field in object.get_mut("fields").and_then(Value::as_array_mut).into_iter().flatten() {
                with_definitions(&mut field["type"], definitions, depth + 1)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// A duration is its twelve bytes: files have no such type.
fn without_durations(schema: &mut Value) {
    match schema {
        Value::Array(all) => all.iter_mut().for_each(without_durations),
        Value::Object(object) => {
            if object.get("logicalType").is_some_and(|kind| kind == "duration") {
                object.remove("logicalType");
            }
            object.iter_mut().filter(|(key, _)| *key != "default").for_each(|(_, value)| without_durations(value));
        }
        _ => {}
    }
}

/// A column in types that files and sinks have, without this reader's notes on its fields.
fn plain(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let field =
        |old: &Field, array: &ArrayRef| Arc::new(Field::new(old.name(), array.data_type().clone(), old.is_nullable()));
    Ok(match column.data_type() {
        DataType::Struct(fields) => {
            let record = column.as_struct();
            let columns = record.columns().iter().map(plain).collect::<Result<Vec<_>, _>>()?;
            let fields: Fields = fields.iter().zip(&columns).map(|(old, array)| field(old, array)).collect();
            if fields.is_empty() {
                return Ok(Arc::new(StructArray::new_empty_fields(record.len(), record.nulls().cloned())));
            }
            Arc::new(StructArray::try_new(fields, columns, record.nulls().cloned())?)
        }
        DataType::List(item) => {
            let list = column.as_list::<i32>();
            let values = plain(list.values())?;
            Arc::new(ListArray::try_new(field(item, &values), list.offsets().clone(), values, list.nulls().cloned())?)
        }
        DataType::FixedSizeList(item, size) => {
            let list = column.as_fixed_size_list();
            let values = plain(list.values())?;
            Arc::new(FixedSizeListArray::try_new(field(item, &values), *size, values, list.nulls().cloned())?)
        }
        DataType::Map(entries, sorted) => {
            let map = column.as_map();
            let whole: ArrayRef = Arc::new(map.entries().clone());
            let whole = plain(&whole)?;
            let nulls = map.nulls().cloned();
            let entry = Arc::new(Field::new(entries.name(), whole.data_type().clone(), false));
            Arc::new(MapArray::try_new(entry, map.offsets().clone(), whole.as_struct().clone(), nulls, *sorted)?)
        }
        DataType::Dictionary(..) => {
            let dictionary = column.as_any_dictionary();
            plain(&take(dictionary.values(), dictionary.keys(), None)?)?
        }
        DataType::Union(..) => choice(column)?,
        _ => Arc::clone(column),
    })
}

/// A record with a field for each type of a choice; nothing chosen = null.
fn choice(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let union = column.as_union();
    let DataType::Union(branches, _) = column.data_type() else { unreachable!("asked for unions alone") };
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    let mut set = vec![false; union.len()];
    for (id, branch) in branches.iter() {
        if *branch.data_type() == DataType::Null {
            continue;
        }
        let chosen = |row: usize| union.type_id(row) == id;
        let at = |row: usize| chosen(row).then(|| u32::try_from(union.value_offset(row)).expect("an index"));
        let rows: UInt32Array = (0..union.len()).map(at).collect();
        (0..union.len()).filter(|row| chosen(*row)).for_each(|row| set[row] = true);
        let values = plain(union.child(id))?;
        columns.push(take(&values, &rows, None)?);
        fields.push(Field::new(branch.name().replace('.', "_"), values.data_type().clone(), true));
    }
    let nulls = Some(NullBuffer::from(set)).filter(|nulls| nulls.null_count() > 0);
    Ok(Arc::new(StructArray::try_new(fields.into(), columns, nulls)?))
}

#[cfg(test)]
mod tests;
