//! Fields of JSON that has no schema: its text is taken apart at its outermost members, and what is not touched stays as it was written.
//!
//! The text was checked by the converter. Numbers keep their digits, members their order; of two members of one name the last one counts.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringViewArray, StringViewBuilder};
use arrow::datatypes::{Field, Int32Type, Int64Type, TimestampMillisecondType};

use super::{Column, Operation, unsupported};
use crate::rows::column;

/// Records without a time have this one.
const NO_TIMESTAMP: i64 = -1;

pub fn is_null(text: &str) -> bool {
    text.trim() == "null"
}

/// The end of the JSON value or string that begins at `from`.
fn end_of(text: &[u8], from: usize) -> usize {
    let (mut depth, mut quoted, mut at) = (0_usize, false, from);
    while at < text.len() {
        match text[at] {
            b'\\' if quoted => at += 1,
            b'"' => {
                quoted = !quoted;
                if !quoted && depth == 0 {
                    return at + 1;
                }
            }
            _ if quoted => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return at,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            b',' if depth == 0 => return at,
            _ => {}
        }
        at += 1;
    }
    text.len()
}

/// Names and texts of the members of an object; None = it is none.
fn members(text: &str) -> Option<Vec<(String, &str)>> {
    let bytes = text.as_bytes();
    let skip = |mut at: usize, also: &[u8]| {
        while at < bytes.len() && (bytes[at].is_ascii_whitespace() || also.contains(&bytes[at])) {
            at += 1;
        }
        at
    };
    let mut at = skip(0, b"");
    if bytes.get(at) != Some(&b'{') {
        return None;
    }
    at = skip(at + 1, b"");
    let mut found: Vec<(String, &str)> = Vec::new();
    while bytes.get(at) == Some(&b'"') {
        let name_end = end_of(bytes, at);
        let name: String = serde_json::from_str(&text[at..name_end]).ok()?;
        let from = skip(name_end, b":");
        let end = end_of(bytes, from);
        found.retain(|(known, _)| *known != name);
        found.push((name, text[from..end].trim()));
        at = skip(end, b",");
    }
    Some(found)
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("text is JSON")
}

fn object(members: &[(String, String)]) -> String {
    let one = |(name, value): &(String, String)| format!("{}:{value}", quoted(name));
    format!("{{{}}}", members.iter().map(one).collect::<Vec<_>>().join(","))
}

fn put(members: &mut Vec<(String, String)>, name: &str, value: String) {
    match members.iter_mut().find(|(known, _)| known == name) {
        Some((_, there)) => *there = value,
        None => members.push((name.to_owned(), value)),
    }
}

/// What stands in place of a value that is masked.
fn masked(value: &str, replacement: Option<&str>) -> Result<String, String> {
    let whole = !value.contains(['.', 'e', 'E']);
    let kind = value.bytes().next().unwrap_or(b'n');
    Ok(match (kind, replacement) {
        (b'n', _) => "null".to_owned(),
        (b't' | b'f', None) => "false".to_owned(),
        (b'"', None) => "\"\"".to_owned(),
        (b'[', None) => "[]".to_owned(),
        (b'{', None) => "{}".to_owned(),
        (_, None) => if whole { "0" } else { "0.0" }.to_owned(),
        (b'"', Some(text)) => quoted(text),
        (b't' | b'f' | b'[' | b'{', Some(_)) => {
            let what = match kind {
                b'[' => "list",
                b'{' => "map",
                _ => "boolean",
            };
            return Err(format!("Cannot mask value of type {what} with custom replacement."));
        }
        (_, Some(text)) => super::record::number_in(text, whole).ok_or_else(|| super::record::no_number(text))?,
    })
}

/// What is left of one text; None = null.
fn one(operation: &Operation, batch: &RecordBatch, row: usize, text: &str) -> Result<Option<String>, String> {
    let found = members(text).ok_or_else(|| {
        let found = match text.trim().bytes().next() {
            Some(b'[') => "a list",
            Some(b'"') => "a text",
            Some(b't' | b'f') => "a boolean",
            _ => "a number",
        };
        unsupported(operation, true, found)
    })?;
    let owned = |found: Vec<(String, &str)>| found.into_iter().map(|(n, v)| (n, v.to_owned())).collect::<Vec<_>>();
    match operation {
        Operation::Insert { topic, partition, offset, timestamp, fixed } => {
            let mut members = owned(found);
            let topics = batch.column(column::TOPIC).as_string::<i32>();
            let partitions = batch.column(column::PARTITION).as_primitive::<Int32Type>();
            let offsets = batch.column(column::OFFSET).as_primitive::<Int64Type>();
            let ms = batch.column(column::TIMESTAMP).as_primitive::<TimestampMillisecondType>().value(row);
            let known = [
                (topic, Some(quoted(topics.value(row)))),
                (partition, Some(partitions.value(row).to_string())),
                (offset, Some(offsets.value(row).to_string())),
                (timestamp, (ms != NO_TIMESTAMP).then(|| ms.to_string())),
            ];
            for (field, value) in known {
                if let (Some(field), Some(value)) = (field, value) {
                    put(&mut members, &field.name, value);
                }
            }
            if let Some((field, value)) = fixed {
                put(&mut members, &field.name, quoted(value));
            }
            Ok(Some(object(&members)))
        }
        Operation::Replace { exclude, include, renames } => {
            let mut members = Vec::with_capacity(found.len());
            for (name, value) in &found {
                if let Some(name) = Operation::kept(exclude, include, renames, name) {
                    put(&mut members, name, (*value).to_owned());
                }
            }
            Ok(Some(object(&members)))
        }
        Operation::Mask { fields, replacement } => {
            let mut members = owned(found);
            for field in fields {
                let value = members.iter().find(|(name, _)| name == field).map_or("null", |(_, value)| value);
                let value = masked(value, replacement.as_deref())?;
                put(&mut members, field, value);
            }
            Ok(Some(object(&members)))
        }
        Operation::Extract { path, .. } => extracted(path, found, operation),
    }
}

fn extracted(path: &[String], found: Vec<(String, &str)>, operation: &Operation) -> Result<Option<String>, String> {
    let mut level = found;
    for (depth, step) in path.iter().enumerate() {
        let value = level.iter().find(|(name, _)| name == step).map(|(_, value)| *value);
        let Some(value) = value.filter(|value| *value != "null") else { return Ok(None) };
        if depth + 1 == path.len() {
            return Ok(Some(value.to_owned()));
        }
        level = members(value).ok_or_else(|| unsupported(operation, true, "a value without fields"))?;
    }
    Ok(None)
}

pub fn apply(operation: &Operation, batch: &RecordBatch, field: &Field, values: &ArrayRef) -> Column {
    let texts: &StringViewArray = values.as_string_view();
    let mut builder = StringViewBuilder::with_capacity(texts.len());
    let mut failed = Vec::new();
    for (row, text) in texts.iter().enumerate() {
        let made = match (text.filter(|text| !is_null(text)), operation) {
            (None, Operation::Mask { .. }) => Err(unsupported(operation, true, "null")),
            (None, _) => Ok(None),
            (Some(text), _) => one(operation, batch, row, text),
        };
        match made {
            Ok(made) => builder.append_option(made),
            Err(reason) => {
                failed.push((row, reason));
                builder.append_null();
            }
        }
    }
    Column { field: field.clone(), column: Arc::new(builder.finish()), failed }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn members_are_taken_apart_as_they_were_written() {
        let text = " { \"a\" : 1.50 , \"b\\\"}\":[1,{\"x\":\"]\"}],\"c\":{\"d\":\"\\\\\"}, \"a\":\"last\",\"e\":null} ";
        let found = members(text).unwrap();
        let names: Vec<(&str, &str)> = found.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        assert_eq!(names, [("b\"}", "[1,{\"x\":\"]\"}]"), ("c", "{\"d\":\"\\\\\"}"), ("a", "\"last\""), ("e", "null")]);
        assert_eq!(members("{}").unwrap(), []);
        assert_eq!(members("[1]"), None);
    }

    #[test]
    fn a_mask_has_the_kind_of_what_it_hides() {
        for (value, expected) in [
            ("12", "0"),
            ("1.5", "0.0"),
            ("-3e4", "0.0"),
            ("\"x\"", "\"\""),
            ("true", "false"),
            ("[1]", "[]"),
            ("{}", "{}"),
            ("null", "null"),
        ] {
            assert_eq!(masked(value, None).unwrap(), expected, "{value}");
        }
        assert_eq!(masked("12", Some("7")).unwrap(), "7");
        assert_eq!(masked("\"x\"", Some("a\"b")).unwrap(), "\"a\\\"b\"");
        assert!(masked("12", Some("x")).is_err() && masked("true", Some("1")).is_err());
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_filter("a number", |n| n.is_finite()).prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".{0,5}", inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// Taken apart and put together, an object is what it was, and each member is what a parser says it is.
        #[test]
        fn taking_apart_agrees_with_a_parser(map in prop::collection::btree_map(".{0,6}", json(), 0..6), pretty: bool) {
            let value = Value::Object(map.into_iter().collect());
            let text = if pretty { serde_json::to_string_pretty(&value).unwrap() } else { value.to_string() };
            let found = members(&text).unwrap();
            prop_assert_eq!(found.len(), value.as_object().unwrap().len());
            for (name, part) in &found {
                // Both through the parser, which does not read every fraction to its last digit.
                let whole: Value = serde_json::from_str(&value[name.as_str()].to_string()).unwrap();
                prop_assert_eq!(serde_json::from_str::<Value>(part).unwrap(), whole);
            }
            let owned: Vec<(String, String)> = found.into_iter().map(|(n, v)| (n, v.to_owned())).collect();
            let whole: Value = serde_json::from_str(&value.to_string()).unwrap();
            prop_assert_eq!(serde_json::from_str::<Value>(&object(&owned)).unwrap(), whole);
        }
    }
}
