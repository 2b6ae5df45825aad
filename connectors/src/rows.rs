//! Kafka's record batches as Arrow columns.
//!
//! Owns the envelope's columns ([`schema`]) and their decoding. Keys and values are views of the bytes that came from the broker, or of
//! the decompressed batch: no record is copied. Control batches (markers of transactions) give no rows; offsets move past them.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, BinaryViewBuilder, Int8Array, Int32Array, Int64Array, ListBuilder,
    RecordBatch, RecordBatchOptions, StringArray, StringBuilder, StructBuilder, TimestampMillisecondArray,
};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use bytes::Bytes;
use strandline_protocol::compression::DecompressLimit;
use strandline_protocol::record_batch::{BatchError, BatchHeader, Header, Record, TimestampType, records_in};

use crate::sink::TopicPartition;

/// A batch that grows beyond this when it is decompressed is refused, bytes.
pub const DECOMPRESSED_BYTES_MAX: usize = 256 << 20;

/// Columns of the envelope, in their order.
pub mod column {
    pub const TOPIC: usize = 0;
    pub const PARTITION: usize = 1;
    pub const OFFSET: usize = 2;
    pub const TIMESTAMP: usize = 3;
    pub const TIMESTAMP_TYPE: usize = 4;
    pub const HEADERS: usize = 5;
    pub const KEY: usize = 6;
    pub const VALUE: usize = 7;
}

/// The next rows of one partition.
#[derive(Debug, Clone)]
pub struct Rows {
    pub partition: TopicPartition,
    /// One for each schema of the values; in each, offsets ascend. No offset is in two of them.
    pub groups: Vec<RecordBatch>,
    /// What was read begins here, inclusive; the rows may begin later (compaction, control batches).
    pub first_offset: i64,
    /// What was read ends here, exclusive.
    pub next_offset: i64,
}

impl Rows {
    pub fn count(&self) -> usize {
        self.groups.iter().map(RecordBatch::num_rows).sum()
    }
}

/// Why bytes give no rows.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    #[error("a record batch cannot be read: {0}")]
    Batch(#[from] BatchError),
    #[error("columns cannot be built: {0}")]
    Arrow(#[from] ArrowError),
}

/// Fields of one header in the column `headers`.
pub fn header_fields() -> Fields {
    Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Binary, true)])
}

/// The type of the column `headers`.
pub fn headers_type() -> DataType {
    DataType::List(Arc::new(Field::new("item", DataType::Struct(header_fields()), false)))
}

/// The envelope with these types of key and value.
pub fn schema(key: DataType, value: DataType) -> Schema {
    Schema::new(vec![
        Field::new("topic", DataType::Utf8, false),
        Field::new("partition", DataType::Int32, false),
        Field::new("offset", DataType::Int64, false),
        Field::new("timestamp", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), false),
        // 0 = create time, 1 = log append time.
        Field::new("timestamp_type", DataType::Int8, false),
        Field::new("headers", headers_type(), false),
        Field::new("key", key, true),
        Field::new("value", value, true),
    ])
}

/// The headers of one row.
pub fn headers_of(batch: &RecordBatch, row: usize) -> Vec<Header> {
    let list = batch.column(column::HEADERS).as_list::<i32>().value(row);
    let fields = list.as_struct();
    let (keys, values) = (fields.column(0).as_string::<i32>(), fields.column(1).as_binary::<i32>());
    let one = |n: usize| Header {
        key: Bytes::copy_from_slice(keys.value(n).as_bytes()),
        value: (!values.is_null(n)).then(|| Bytes::copy_from_slice(values.value(n))),
    };
    (0..list.len()).map(one).collect()
}

/// Views of slices of a few large buffers.
struct Views {
    builder: BinaryViewBuilder,
    block: u32,
    base: usize,
    len: usize,
}

impl Views {
    fn new() -> Self {
        Views { builder: BinaryViewBuilder::new(), block: 0, base: 0, len: 0 }
    }

    fn begin(&mut self, body: &Bytes) {
        self.base = body.as_ptr() as usize;
        self.len = body.len();
        self.block = self.builder.append_block(Buffer::from(body.clone()));
    }

    fn push(&mut self, slice: Option<&Bytes>) -> Result<(), ArrowError> {
        let Some(slice) = slice else {
            self.builder.append_null();
            return Ok(());
        };
        let offset = (slice.as_ptr() as usize).wrapping_sub(self.base);
        if slice.is_empty() || offset.saturating_add(slice.len()) > self.len {
            self.builder.append_value(slice);
            return Ok(());
        }
        let number = |n: usize| u32::try_from(n).map_err(|_| ArrowError::ComputeError("a batch over 4 GiB".to_owned()));
        self.builder.try_append_view(self.block, number(offset)?, number(slice.len())?)
    }
}

/// Builds the envelope's columns from records.
struct Columns {
    offsets: Vec<i64>,
    timestamps: Vec<i64>,
    timestamp_types: Vec<i8>,
    headers: ListBuilder<StructBuilder>,
    keys: Views,
    values: Views,
}

impl Columns {
    fn new() -> Self {
        let fields = header_fields();
        let builders: Vec<Box<dyn arrow::array::ArrayBuilder>> =
            vec![Box::new(StringBuilder::new()), Box::new(BinaryBuilder::new())];
        let item = Field::new("item", DataType::Struct(fields.clone()), false);
        Columns {
            offsets: Vec::new(),
            timestamps: Vec::new(),
            timestamp_types: Vec::new(),
            headers: ListBuilder::new(StructBuilder::new(fields, builders)).with_field(item),
            keys: Views::new(),
            values: Views::new(),
        }
    }

    fn push(&mut self, record: &Record, timestamp_type: i8) -> Result<(), ArrowError> {
        self.offsets.push(record.offset);
        self.timestamps.push(record.timestamp);
        self.timestamp_types.push(timestamp_type);
        for header in &record.headers {
            let entry = self.headers.values();
            let key = String::from_utf8_lossy(&header.key);
            entry.field_builder::<StringBuilder>(0).expect("as built").append_value(key);
            entry.field_builder::<BinaryBuilder>(1).expect("as built").append_option(header.value.as_ref());
            entry.append(true);
        }
        self.headers.append(true);
        self.keys.push(record.key.as_ref())?;
        self.values.push(record.value.as_ref())
    }

    fn finish(mut self, partition: &TopicPartition) -> Result<RecordBatch, ArrowError> {
        let rows = self.offsets.len();
        let topics = StringArray::from_iter_values(std::iter::repeat_n(&*partition.topic, rows));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(topics),
            Arc::new(Int32Array::from_value(partition.partition, rows)),
            Arc::new(Int64Array::from(self.offsets)),
            Arc::new(TimestampMillisecondArray::from(self.timestamps).with_timezone("UTC")),
            Arc::new(Int8Array::from(self.timestamp_types)),
            Arc::new(self.headers.finish()),
            Arc::new(self.keys.builder.finish()),
            Arc::new(self.values.builder.finish()),
        ];
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(raw_schema(), columns, &options)
    }
}

/// Keys and values as bytes.
pub fn raw_schema() -> SchemaRef {
    Arc::new(schema(DataType::BinaryView, DataType::BinaryView))
}

/// The rows of whole batches from `from` on (inclusive): what a fetch at `from` gave.
pub fn decode(partition: &TopicPartition, batches: &[(BatchHeader, Bytes)], from: i64) -> Result<Rows, RowsError> {
    let mut columns = Columns::new();
    let mut next_offset = from;
    for (header, bytes) in batches {
        next_offset = next_offset.max(header.next_offset());
        if header.is_control() {
            continue;
        }
        let timestamp_type = i8::from(header.timestamp_type() == TimestampType::LogAppendTime);
        let records = records_in(bytes, DecompressLimit(DECOMPRESSED_BYTES_MAX))?;
        columns.keys.begin(records.body());
        columns.values.begin(records.body());
        for record in records {
            let record = record?;
            if record.offset >= from {
                columns.push(&record, timestamp_type)?;
            }
        }
    }
    let batch = columns.finish(partition)?;
    let groups = if batch.num_rows() == 0 { Vec::new() } else { vec![batch] };
    Ok(Rows { partition: partition.clone(), groups, first_offset: from, next_offset })
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Int64Type;
    use strandline_protocol::compression::Compression;
    use strandline_protocol::record_batch::{RecordBatchBuilder, batches};

    use super::*;

    fn built(compression: Compression, count: usize) -> Vec<(BatchHeader, Bytes)> {
        let mut builder = RecordBatchBuilder::new(compression);
        for n in 0..count {
            let value = (n % 3 != 2).then(|| format!("value number {n}, longer than a view holds").into_bytes());
            let headers = match n % 2 {
                0 => vec![Header { key: Bytes::from_static(b"k"), value: None }],
                _ => Vec::new(),
            };
            builder.append(1_000 + n as i64, Some(b"key"), value.as_deref(), &headers);
        }
        let bytes = builder.build();
        batches(&bytes).map(|b| b.map(|(h, b)| (h, bytes.slice_ref(b))).unwrap()).collect()
    }

    #[test]
    fn records_become_rows_from_the_position_on() {
        for codec in [Compression::None, Compression::Zstd] {
            let rows = decode(&TopicPartition::new("t", 3), &built(codec, 10), 4).unwrap();
            assert_eq!((rows.first_offset, rows.next_offset, rows.count()), (4, 10, 6));
            let batch = &rows.groups[0];
            let offsets = batch.column(column::OFFSET).as_primitive::<Int64Type>();
            assert_eq!(offsets.values().to_vec(), (4..10).collect::<Vec<i64>>());
            let values = batch.column(column::VALUE).as_binary_view();
            assert_eq!(values.value(0), b"value number 4, longer than a view holds");
            assert!(values.is_null(1), "the value of record 5 is null");
            let headers = batch.column(column::HEADERS).as_list::<i32>();
            assert_eq!((headers.value_length(0), headers.value_length(1)), (1, 0));
        }
    }

    #[test]
    fn values_are_not_copied() {
        let source = built(Compression::None, 2);
        let rows = decode(&TopicPartition::new("t", 0), &source, 0).unwrap();
        let values = rows.groups[0].column(column::VALUE).as_binary_view();
        let inside = source[0].1.as_ptr_range();
        assert!(inside.contains(&values.value(0).as_ptr()), "the view lies in the fetched bytes");
    }
}
