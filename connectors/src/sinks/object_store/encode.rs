//! The bytes of one file: rows in, a function of the rows and the layout out.
//!
//! Invariant: the same rows and layout give the same bytes, in whatever pieces the rows come: pieces are joined first.

use std::io::Write as _;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StructArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field as ArrowField, Schema};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, GzipLevel, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};

use super::keys::Layout;
use crate::rows::column;

mod avro;
mod json;

pub(in crate::sinks) use json::value as json_value;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Parquet,
    /// A line of JSON for each record.
    Json,
    /// An Avro object container file.
    Avro,
    /// The values, each followed by the separator.
    Raw,
}

impl Format {
    pub fn parse(text: &str) -> Option<Format> {
        let name = text.rsplit('.').next().unwrap_or(text).to_ascii_lowercase();
        match name.as_str() {
            "parquet" | "parquetformat" => Some(Format::Parquet),
            "json" | "jsonl" | "jsonformat" => Some(Format::Json),
            "avro" | "avroformat" => Some(Format::Avro),
            "raw" | "bytearrayformat" | "stringformat" => Some(Format::Raw),
            _ => None,
        }
    }

    pub fn check(text: &str) -> Result<(), String> {
        Format::parse(text).map(drop).ok_or_else(|| "write parquet, json, avro or raw".to_owned())
    }
}

/// How a file is compressed; in Parquet, its pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    None,
    Gzip,
    Snappy,
    Zstd,
    Lz4,
}

impl Codec {
    pub fn parse(text: &str) -> Option<Codec> {
        match text.to_ascii_lowercase().as_str() {
            "none" | "uncompressed" | "null" => Some(Codec::None),
            "gzip" | "deflate" => Some(Codec::Gzip),
            "snappy" => Some(Codec::Snappy),
            "zstd" | "zstandard" => Some(Codec::Zstd),
            "lz4" => Some(Codec::Lz4),
            _ => None,
        }
    }

    pub fn check(text: &str) -> Result<(), String> {
        Codec::parse(text).map(drop).ok_or_else(|| "write none, gzip, snappy, zstd or lz4".to_owned())
    }

    /// What an Avro file may be compressed with.
    pub fn check_avro(text: &str) -> Result<(), String> {
        let there = Codec::parse(text).is_some_and(|codec| codec.in_avro().is_some());
        if there { Ok(()) } else { Err("write null, deflate, snappy or zstandard".to_owned()) }
    }

    /// Whether files of this format can have it.
    pub fn fits(self, format: Format) -> bool {
        format != Format::Avro || self.in_avro().is_some()
    }

    fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Gzip => "gz",
            Codec::Snappy => "snappy",
            Codec::Zstd => "zst",
            Codec::Lz4 => "lz4",
        }
    }
}

/// A part of a record that a row holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Field {
    Key,
    Value,
    Offset,
    Timestamp,
    Headers,
    Topic,
    Partition,
}

impl Field {
    pub const ALL_OF_A_RECORD: [Field; 5] = [Field::Key, Field::Value, Field::Headers, Field::Timestamp, Field::Offset];

    pub fn parse(text: &str) -> Option<Field> {
        let all = [Field::Topic, Field::Partition].into_iter().chain(Field::ALL_OF_A_RECORD);
        all.into_iter().find(|field| field.name().eq_ignore_ascii_case(text))
    }

    pub fn check(text: &str) -> Result<(), String> {
        let unknown = text.split(',').map(str::trim).find(|item| !item.is_empty() && Field::parse(item).is_none());
        match unknown {
            None => Ok(()),
            Some(item) => Err(format!(
                "{item} is no part of a record; write key, value, offset, timestamp, headers, topic or partition"
            )),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Field::Key => "key",
            Field::Value => "value",
            Field::Offset => "offset",
            Field::Timestamp => "timestamp",
            Field::Headers => "headers",
            Field::Topic => "topic",
            Field::Partition => "partition",
        }
    }

    fn column(self) -> usize {
        match self {
            Field::Key => column::KEY,
            Field::Value => column::VALUE,
            Field::Offset => column::OFFSET,
            Field::Timestamp => column::TIMESTAMP,
            Field::Headers => column::HEADERS,
            Field::Topic => column::TOPIC,
            Field::Partition => column::PARTITION,
        }
    }
}

/// How bytes become text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FieldEncoding {
    Base64,
    /// As they are, what is not UTF-8 replaced.
    Text,
}

/// Behind the name of a file.
pub fn extension(layout: &Layout) -> String {
    match (layout.format, layout.codec) {
        (Format::Parquet, Codec::None) => "parquet".to_owned(),
        (Format::Parquet, codec) => format!("{}.parquet", codec.name()),
        // Its codec is in its header.
        (Format::Avro, _) => "avro".to_owned(),
        (Format::Json, Codec::None) => "json".to_owned(),
        (Format::Json, codec) => format!("json.{}", codec.name()),
        (Format::Raw, Codec::None) => "bin".to_owned(),
        (Format::Raw, codec) => format!("bin.{}", codec.name()),
    }
}

/// Why rows cannot be written in this format.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    #[error("the rows do not fit together: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
    #[error("Parquet: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
    #[error("Avro: {0}")]
    Avro(#[from] arrow_avro::errors::AvroError),
    #[error("the codec {0} is none of {1}'s")]
    NoSuchCodec(&'static str, &'static str),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("the format raw needs a value.converter that gives bytes or text, and this one gives {0}")]
    NotBytes(DataType),
}

/// The columns of the file: the parts of the record; or, if only the value is asked for and it is a record itself, its fields.
fn project(layout: &Layout, batch: &RecordBatch) -> Result<RecordBatch, EncodeError> {
    if layout.fields == [Field::Value]
        && let Some(record) = batch.column(column::VALUE).as_any().downcast_ref::<StructArray>()
        && record.null_count() == 0
    {
        return Ok(RecordBatch::from(record));
    }
    let columns: Vec<ArrayRef> = layout.fields.iter().map(|field| Arc::clone(batch.column(field.column()))).collect();
    let schema = batch.schema();
    let fields: Vec<ArrowField> = layout.fields.iter().map(|field| schema.field(field.column()).clone()).collect();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

/// The bytes of a file with these rows, which all have the same schema.
pub fn encode(layout: &Layout, batches: &[RecordBatch]) -> Result<Vec<u8>, EncodeError> {
    let whole = concat_batches(&batches[0].schema(), batches)?;
    match layout.format {
        Format::Parquet => parquet(layout, &whole),
        Format::Avro => avro::container(layout.codec, &project(layout, &whole)?, &avro::Origin::of(&whole)),
        Format::Json => {
            let projected = project(layout, &whole)?;
            let mut out = Vec::with_capacity(projected.get_array_memory_size());
            json::lines(&projected, layout, &mut out);
            compress(layout.codec, out)
        }
        Format::Raw => {
            let mut out = Vec::with_capacity(whole.get_array_memory_size());
            raw(whole.column(column::VALUE), layout.separator.as_bytes(), &mut out)?;
            compress(layout.codec, out)
        }
    }
}

/// Where the ranges of offsets stand in a Parquet file's metadata.
pub const FIRST_OFFSET: &str = "strandline.first-offset";
pub const LAST_OFFSET: &str = "strandline.last-offset";

fn parquet(layout: &Layout, whole: &RecordBatch) -> Result<Vec<u8>, EncodeError> {
    let compression = match layout.codec {
        Codec::None => Compression::UNCOMPRESSED,
        Codec::Gzip => Compression::GZIP(GzipLevel::default()),
        Codec::Snappy => Compression::SNAPPY,
        Codec::Zstd => Compression::ZSTD(ZstdLevel::default()),
        Codec::Lz4 => Compression::LZ4_RAW,
    };
    let offsets = whole.column(column::OFFSET).as_primitive::<arrow::datatypes::Int64Type>();
    let offset = |row: usize| Some(offsets.value(row).to_string());
    let rows = whole.num_rows();
    let entry = |key: &str, value| KeyValue { key: key.to_owned(), value };
    let properties = WriterProperties::builder()
        .set_compression(compression)
        // Not the release: the same rows give the same bytes in the next one too, as far as that is ours.
        .set_created_by("strandline".to_owned())
        .set_key_value_metadata(Some(vec![entry(FIRST_OFFSET, offset(0)), entry(LAST_OFFSET, offset(rows - 1))]))
        .build();
    let projected = project(layout, whole)?;
    let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
    let mut out = Vec::new();
    let mut writer = ArrowWriter::try_new_with_options(&mut out, projected.schema(), options)?;
    writer.write(&projected)?;
    writer.close()?;
    Ok(out)
}

fn raw(values: &ArrayRef, separator: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let mut put = |value: &[u8]| {
        out.extend_from_slice(value);
        out.extend_from_slice(separator);
    };
    match values.data_type() {
        DataType::BinaryView => values.as_binary_view().iter().for_each(|v| put(v.unwrap_or_default())),
        DataType::Binary => values.as_binary::<i32>().iter().for_each(|v| put(v.unwrap_or_default())),
        DataType::Utf8View => values.as_string_view().iter().for_each(|v| put(v.unwrap_or_default().as_bytes())),
        DataType::Utf8 => values.as_string::<i32>().iter().for_each(|v| put(v.unwrap_or_default().as_bytes())),
        other => return Err(EncodeError::NotBytes(other.clone())),
    }
    Ok(())
}

fn compress(codec: Codec, bytes: Vec<u8>) -> Result<Vec<u8>, EncodeError> {
    match codec {
        Codec::None => Ok(bytes),
        Codec::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(&bytes)?;
            Ok(encoder.finish()?)
        }
        Codec::Snappy => {
            let mut encoder = snap::write::FrameEncoder::new(Vec::new());
            encoder.write_all(&bytes)?;
            encoder.into_inner().map_err(|e| EncodeError::Io(std::io::Error::other(e.to_string())))
        }
        Codec::Zstd => Ok(zstd::encode_all(bytes.as_slice(), zstd::DEFAULT_COMPRESSION_LEVEL)?),
        Codec::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(&bytes)?;
            encoder.finish().map_err(|e| EncodeError::Io(std::io::Error::other(e.to_string())))
        }
    }
}
