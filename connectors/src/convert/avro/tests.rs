//! Schemas and values as a registry and a producer give them.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use proptest::prelude::*;

use super::*;

/// Avro's numbers, for values of tests.
pub fn long(value: i64) -> Vec<u8> {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    let mut out = Vec::new();
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
    out
}

pub fn text(value: &str) -> Vec<u8> {
    [long(i64::try_from(value.len()).unwrap()), value.as_bytes().to_vec()].concat()
}

pub fn framed(id: u32, body: &[u8]) -> Vec<u8> {
    [&[0], id.to_be_bytes().as_slice(), body].concat()
}

const ORDER: &str = r#"{"type":"record","name":"Order","namespace":"shop","fields":[
    {"name":"id","type":"long"},
    {"name":"note","type":["null","string"],"default":null},
    {"name":"state","type":{"type":"enum","name":"State","symbols":["OPEN","PAID"]}},
    {"name":"at","type":{"type":"long","logicalType":"timestamp-micros"}},
    {"name":"lines","type":{"type":"array","items":"int"}},
    {"name":"extra","type":{"type":"map","values":"string"}},
    {"name":"either","type":["null","int","string"]},
    {"name":"span","type":{"type":"fixed","size":12,"name":"Span","logicalType":"duration"}}
]}"#;

fn order(id: i64, note: Option<&str>, either: &[u8]) -> Vec<u8> {
    let note = note.map_or_else(|| long(0), |note| [long(1), text(note)].concat());
    let lines = [long(2), long(7), long(8), long(0)].concat();
    let extra = [long(1), text("k"), text("v"), long(0)].concat();
    framed(9, &[long(id), note, long(1), long(1_000_000 * id), lines, extra, either.to_vec(), vec![0; 12]].concat())
}

fn column(schema: &Schema, values: &[Vec<u8>]) -> (ArrayRef, Vec<usize>) {
    let mut failed = Vec::new();
    let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
    (schema.column(9, &values, |row, _| failed.push(row)).unwrap(), failed)
}

#[test]
fn records_become_columns_with_types_that_files_have() {
    let schema = Schema::parse(ORDER, &[]).unwrap();
    let values = [
        order(1, None, &long(0)),
        order(2, Some("n"), &[long(1), long(5)].concat()),
        order(3, None, &[long(2), text("x")].concat()),
    ];
    let (column, failed) = column(&schema, &values);
    assert!(failed.is_empty());
    let record = column.as_struct();
    assert_eq!(record.column(0).as_primitive::<Int64Type>().values().to_vec(), [1, 2, 3]);
    assert_eq!((record.column(1).is_null(0), record.column(1).as_string::<i32>().value(1)), (true, "n"));
    assert_eq!(record.column(2).as_string::<i32>().value(0), "PAID", "an enum is text");
    assert_eq!(record.column(3).as_primitive::<TimestampMicrosecondType>().value(1), 2_000_000);
    assert_eq!(record.column(4).as_list::<i32>().value_length(2), 2);
    assert_eq!(record.column(5).as_map().value_length(0), 1);
    let either = record.column(6).as_struct();
    assert!(either.is_null(0), "none of them is chosen");
    assert_eq!((either.column(0).as_primitive::<Int32Type>().value(1), either.column(0).is_null(2)), (5, true));
    assert_eq!((either.column(1).is_null(1), either.column(1).as_string::<i32>().value(2)), (true, "x"));
    assert_eq!(*record.column(7).data_type(), DataType::FixedSizeBinary(12));
    let fields = record.fields().iter().all(|field| field.metadata().is_empty());
    assert!(fields, "no notes of the reader: {:?}", record.fields());
}

#[test]
fn a_value_need_not_be_a_record() {
    let schema = Schema::parse("\"string\"", &[]).unwrap();
    let (column, failed) = column(&schema, &[framed(9, &text("a")), framed(9, &text("b"))]);
    assert_eq!((column.as_string::<i32>().value(1), failed.len()), ("b", 0));
}

#[test]
fn a_schema_finds_what_it_refers_to() {
    let customer =
        r#"{"type":"record","name":"Customer","namespace":"shop","fields":[{"name":"name","type":"string"}]}"#;
    let order = r#"{"type":"record","name":"Order","namespace":"shop","fields":[
        {"name":"from","type":"shop.Customer"},{"name":"to","type":["null","shop.Customer"]}]}"#;
    let schema = Schema::parse(order, &[customer.to_owned()]).unwrap();
    let body = [text("a"), long(1), text("b")].concat();
    let (column, failed) = column(&schema, &[framed(9, &body)]);
    assert!(failed.is_empty());
    assert_eq!(column.as_struct().column(1).as_struct().column(0).as_string::<i32>().value(0), "b");
    assert!(Schema::parse(order, &[]).is_err(), "without it, it cannot be used");
}

#[test]
fn what_does_not_fit_is_told_and_the_rest_is_there() {
    let schema = Schema::parse(ORDER, &[]).unwrap();
    let good = |id| order(id, None, &long(0));
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() - 3].to_vec();
    let longer = |bytes: Vec<u8>| [bytes, vec![1]].concat();
    let twice = [good(8), good(8)].concat();
    let odd_union = order(9, None, &long(7));
    let values = [good(1), cut(good(2)), good(3), longer(good(4)), twice, odd_union, good(5), framed(9, &[])];
    let (column, failed) = column(&schema, &values);
    assert_eq!(failed, [1, 3, 4, 5, 7]);
    assert_eq!(column.as_struct().column(0).as_primitive::<Int64Type>().values().to_vec(), [1, 3, 5]);
}

proptest! {
    /// Whatever bytes come, they are read or told, and what is good beside them is there.
    #[test]
    fn garbage_harms_nothing_else(garbage in proptest::collection::vec(any::<u8>(), 0..40)) {
        let schema = Schema::parse(ORDER, &[]).unwrap();
        let values = [order(1, None, &long(0)), framed(9, &garbage), order(2, None, &long(0))];
        let (column, failed) = column(&schema, &values);
        prop_assert!(failed.is_empty() || failed == [1]);
        let ids = column.as_struct().column(0).as_primitive::<Int64Type>().values().to_vec();
        prop_assert_eq!((ids[0], ids[ids.len() - 1], ids.len()), (1, 2, 3 - failed.len()));
    }
}
