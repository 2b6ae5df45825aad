//! Rows as an Avro object container file.
//!
//! Owns the file's schema (made of the columns' types), its blocks and its sync marker, which is a function of where the rows come from: the
//! same rows give the same bytes. Block size and order are this module's; the rows' own bytes are `arrow-avro`'s.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema};
use arrow_avro::schema::{AvroSchema, SCHEMA_METADATA_KEY};
use arrow_avro::writer::WriterBuilder;
use arrow_avro::writer::format::AvroBinaryFormat;
use crc_fast::{CrcAlgorithm, checksum};
use serde_json::Value;

use super::{Codec, EncodeError};
use crate::rows::column;

/// A block ends with the row that brings it to this many bytes before compression.
const BLOCK_BYTES: usize = 64 << 10;
const MAGIC: &[u8] = b"Obj\x01";
const SYNC_BYTES: usize = 16;
/// The name of the record that a row is.
const RECORD: &str = "Record";

impl Codec {
    /// As the header of a container file names it; None = Avro has no such codec.
    pub(super) fn in_avro(self) -> Option<&'static str> {
        match self {
            Codec::None => Some("null"),
            Codec::Gzip => Some("deflate"),
            Codec::Snappy => Some("snappy"),
            Codec::Zstd => Some("zstandard"),
            Codec::Lz4 => None,
        }
    }
}

/// Where rows come from: topic, partition and first offset.
pub struct Origin(String);

impl Origin {
    /// Of an envelope's rows; there is at least one.
    pub fn of(envelope: &RecordBatch) -> Origin {
        let topic = envelope.column(column::TOPIC).as_string::<i32>().value(0);
        let partition = envelope.column(column::PARTITION).as_primitive::<Int32Type>().value(0);
        let offset = envelope.column(column::OFFSET).as_primitive::<Int64Type>().value(0);
        Origin(format!("{topic}\n{partition}\n{offset}"))
    }

    fn sync_marker(&self) -> [u8; SYNC_BYTES] {
        let half =
            |salt: &str| checksum(CrcAlgorithm::Crc64Nvme, format!("{salt}\n{}", self.0).as_bytes()).to_be_bytes();
        let mut marker = [0; SYNC_BYTES];
        marker[..8].copy_from_slice(&half("strandline"));
        marker[8..].copy_from_slice(&half("avro"));
        marker
    }
}

/// The file with these rows.
pub fn container(codec: Codec, rows: &RecordBatch, origin: &Origin) -> Result<Vec<u8>, EncodeError> {
    let codec_name = codec.in_avro().ok_or(EncodeError::NoSuchCodec("lz4", "avro"))?;
    let rows = nameable(rows)?;
    let json = schema(&rows.schema())?;
    let metadata = HashMap::from([(SCHEMA_METADATA_KEY.to_owned(), json.clone())]);
    let schema = Schema::new_with_metadata(rows.schema().fields().clone(), metadata);
    let mut encoder = WriterBuilder::new(schema.clone()).build_encoder::<AvroBinaryFormat>()?;
    encoder.encode(&rows.with_schema(Arc::new(schema))?)?;
    let encoded = encoder.flush();
    let sync = origin.sync_marker();

    let mut out = Vec::with_capacity(encoded.bytes().len() / 2 + json.len() + 128);
    out.extend_from_slice(MAGIC);
    long(2, &mut out);
    for (key, value) in [("avro.schema", json.as_str()), ("avro.codec", codec_name)] {
        bytes(key.as_bytes(), &mut out);
        bytes(value.as_bytes(), &mut out);
    }
    long(0, &mut out);
    out.extend_from_slice(&sync);
    let ends = encoded.offsets();
    let mut from = 0;
    while from < encoded.len() {
        let mut to = from + 1;
        while to < encoded.len() && ends[to] - ends[from] < BLOCK_BYTES {
            to += 1;
        }
        let block = squeezed(codec, &encoded.bytes()[ends[from]..ends[to]])?;
        long(i64::try_from(to - from).expect("a batch has fewer rows"), &mut out);
        bytes(&block, &mut out);
        out.extend_from_slice(&sync);
        from = to;
    }
    Ok(out)
}

/// Columns that have no type (a value that is always null) are Avro's null, without a choice; metadata is this process's own affair.
fn nameable(rows: &RecordBatch) -> Result<RecordBatch, EncodeError> {
    let schema = rows.schema();
    let fields = schema.fields().iter().map(|field| {
        let is_null = *field.data_type() == DataType::Null;
        Field::new(field.name(), field.data_type().clone(), field.is_nullable() && !is_null)
    });
    let schema = Schema::new(fields.collect::<Vec<_>>());
    // Not `with_schema`: it refuses to take a nullable column for one that is not, which a null column is in Avro's eyes.
    Ok(RecordBatch::try_new_with_options(
        Arc::new(schema),
        rows.columns().to_vec(),
        &arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.num_rows())),
    )?)
}

/// The columns' schema as Avro says it.
fn schema(columns: &Schema) -> Result<String, EncodeError> {
    let told = AvroSchema::try_from(columns)?;
    let mut json: Value = serde_json::from_str(&told.json_string).map_err(|e| EncodeError::Io(e.into()))?;
    json["name"] = RECORD.into();
    plain(&mut json);
    Ok(json.to_string())
}

/// Without the attributes that say which of Arrow's types a column was.
fn plain(json: &mut Value) {
    match json {
        Value::Array(all) => all.iter_mut().for_each(plain),
        Value::Object(object) => {
            object.retain(|key, _| !key.starts_with("arrow"));
            object.iter_mut().for_each(|(_, value)| plain(value));
        }
        _ => {}
    }
}

/// Avro's numbers: zigzag, seven bits a byte, the lowest first.
fn long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest >= 0x80 {
        out.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn bytes(value: &[u8], out: &mut Vec<u8>) {
    long(i64::try_from(value.len()).expect("memory is smaller"), out);
    out.extend_from_slice(value);
}

/// A block as the codec wants it.
fn squeezed(codec: Codec, block: &[u8]) -> Result<Vec<u8>, EncodeError> {
    Ok(match codec {
        Codec::None | Codec::Lz4 => block.to_vec(),
        Codec::Gzip => {
            // Without gzip's frame: that is what Avro calls deflate.
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(block)?;
            encoder.finish()?
        }
        Codec::Snappy => {
            let squeezed = snap::raw::Encoder::new().compress_vec(block);
            let mut squeezed = squeezed.map_err(|e| EncodeError::Io(std::io::Error::other(e.to_string())))?;
            let sum = u32::try_from(checksum(CrcAlgorithm::Crc32IsoHdlc, block)).expect("32 bits");
            squeezed.extend_from_slice(&sum.to_be_bytes());
            squeezed
        }
        Codec::Zstd => zstd::encode_all(block, zstd::DEFAULT_COMPRESSION_LEVEL)?,
    })
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, ArrayRef, BinaryViewArray, NullArray, StringViewArray};
    use arrow_avro::reader::ReaderBuilder;

    use super::*;

    fn rows(count: usize) -> RecordBatch {
        let texts = (0..count).map(|n| (n % 3 != 0).then(|| format!("text number {n}")));
        let bytes = (0..count).map(|n| Some(n.to_be_bytes()));
        let columns: Vec<(&str, ArrayRef, bool)> = vec![
            ("key", Arc::new(texts.collect::<StringViewArray>()), true),
            ("raw", Arc::new(bytes.collect::<BinaryViewArray>()), true),
            ("nothing", Arc::new(NullArray::new(count)), true),
        ];
        RecordBatch::try_from_iter_with_nullable(columns).unwrap()
    }

    #[test]
    fn the_same_rows_give_the_same_bytes() {
        let origin = Origin("orders\n3\n17".to_owned());
        let file = |origin: &Origin| container(Codec::None, &rows(5_000), origin).unwrap();
        assert!(file(&origin) == file(&origin));
        assert!(file(&origin) != file(&Origin("orders\n3\n18".to_owned())), "the marker is another one");
    }

    #[test]
    fn a_reader_finds_every_row_in_several_blocks() {
        let origin = Origin("orders\n0\n0".to_owned());
        let rows = rows(9_000);
        let file = container(Codec::None, &rows, &origin).unwrap();
        let head = String::from_utf8_lossy(&file[..600]).into_owned();
        assert!(head.contains("\"name\":\"Record\"") && !head.contains("arrow"), "{head}");
        assert!(file.windows(SYNC_BYTES).filter(|w| *w == origin.sync_marker()).count() > 3, "several blocks");
        let read: Vec<RecordBatch> =
            ReaderBuilder::new().with_batch_size(20_000).build(file.as_slice()).unwrap().map(Result::unwrap).collect();
        assert_eq!(read.iter().map(RecordBatch::num_rows).sum::<usize>(), 9_000);
        let keys = read[0].column(0).as_string::<i32>();
        assert_eq!((keys.is_null(0), keys.value(1)), (true, "text number 1"));
    }

    #[test]
    fn a_codec_that_avro_lacks_is_refused() {
        let refused = container(Codec::Lz4, &rows(1), &Origin(String::new())).unwrap_err();
        assert!(refused.to_string().contains("lz4"), "{refused}");
    }
}
