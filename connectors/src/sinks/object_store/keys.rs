//! What the sink can be told, under the names that the S3 and HDFS sinks of Kafka Connect's world use; and what of it decides how a file
//! looks ([`Layout`]).

use serde::{Deserialize, Serialize};

use super::encode::{Codec, Field, FieldEncoding, Format};
use super::partitioner::{Partitioner, Timestamps};
use crate::config::{Importance, Key, Rule, Settings, Type, Values};

/// Records of a file unless the operator says otherwise.
const FLUSH_SIZE: &str = "100000";

const STORE: &str = "Store";
const FILES: &str = "Files";
const LAYOUT: &str = "Layout";

/// All keys of the sink.
pub const KEYS: &[Key] = &[
    Key::new("store.url", Type::String, "", "Where files go: s3://bucket/prefix, hdfs://namenode:port/directory, file:///directory, gs://, az://. With s3.bucket.name, the endpoint of the S3 service.").group(STORE).importance(Importance::High),
    Key::new("s3.bucket.name", Type::String, "", "The S3 bucket, if store.url does not name one.").group(STORE),
    Key::new("aws.s3.bucket.name", Type::String, "", "The same, as Aiven's sink calls it.").group(STORE).importance(Importance::Low),
    Key::new("s3.region", Type::String, "", "The bucket's region; unset: AWS_REGION.").group(STORE).rule(Rule::Check(region)),
    Key::new("aws.s3.region", Type::String, "", "The same, as Aiven's sink calls it.").group(STORE).importance(Importance::Low).rule(Rule::Check(region)),
    Key::new("aws.s3.endpoint", Type::String, "", "The S3 service, if it is not Amazon's.").group(STORE),
    Key::new("aws.s3.prefix", Type::String, "", "A folder of the bucket that everything is below.").group(STORE),
    Key::new("aws.access.key.id", Type::Password, "", "Unset: the environment, or the machine's role.").group(STORE),
    Key::new("aws.secret.access.key", Type::Password, "", "Unset: the environment, or the machine's role.").group(STORE),
    Key::new("hdfs.url", Type::String, "", "hdfs://namenode:port, as the HDFS sinks call it.").group(STORE),
    Key::new("topics.dir", Type::String, "topics", "The folder of all topics.").group(STORE).rule(Rule::Check(folder)),
    Key::new("format.class", Type::Class, "", "The files' format: parquet, json, avro or raw, or the class of another sink that has it; unset: parquet.").group(FILES).importance(Importance::High).rule(Rule::Check(Format::check)),
    Key::new("format.output.type", Type::String, "", "The same, as Aiven's sink calls it.").group(FILES).rule(Rule::Check(Format::check)),
    Key::new("format.output.fields", Type::List, "", "What a row holds: key, value, offset, timestamp, headers, topic, partition. Unset: key, value, headers, timestamp, offset; with the format.class of another sink: value.").group(FILES).rule(Rule::Check(Field::check)),
    Key::new("format.output.fields.value.encoding", Type::String, "base64", "How bytes are written where the format has only text: base64, or none for text as it is.").group(FILES).rule(Rule::OneOf(&["base64", "none"])),
    Key::new("format.bytearray.separator", Type::String, "\n", "Behind each record of the format raw.").group(FILES),
    Key::new("file.compression.type", Type::String, "", "none, gzip, snappy, zstd or lz4; unset: snappy for Parquet, none for others; Avro has no lz4.").group(FILES).rule(Rule::Check(Codec::check)),
    Key::new("s3.compression.type", Type::String, "", "The same, as the S3 sink calls it.").group(FILES).rule(Rule::Check(Codec::check)),
    Key::new("parquet.codec", Type::String, "", "The same, for Parquet.").group(FILES).rule(Rule::Check(Codec::check)),
    Key::new("avro.codec", Type::String, "", "The same, for Avro: null, deflate, snappy or zstandard.").group(FILES).rule(Rule::Check(Codec::check_avro)),
    Key::new("flush.size", Type::Int, FLUSH_SIZE, "Records after which a file is complete.").group(FILES).importance(Importance::High).rule(Rule::AtLeast(1)),
    Key::new("file.max.records", Type::Int, "0", "The same, as Aiven's sink calls it; 0 = flush.size.").group(FILES).rule(Rule::AtLeast(0)),
    Key::new("file.max.bytes", Type::Long, "67108864", "Bytes of keys and values after which a file is complete.").group(FILES).rule(Rule::AtLeast(1)),
    Key::new("rotate.interval.ms", Type::Long, "-1", "A file is complete when a record is so much younger than its first one, by the records' timestamps; -1 = never.").group(FILES).rule(Rule::AtLeast(-1)),
    Key::new("rotate.schedule.interval.ms", Type::Long, "300000", "A file is complete at multiples of this time of the clock, also without a new record; -1 = never.").group(FILES).rule(Rule::AtLeast(-1)),
    Key::new("filename.offset.zero.pad.width", Type::Int, "10", "Digits of the offset in a file's name.").group(LAYOUT).rule(Rule::AtLeast(0)),
    Key::new("file.name.template", Type::String, "", "The name of a file below topics.dir, as Aiven's sink has it; needs {{topic}}, {{partition}} and {{start_offset}}.").group(LAYOUT).rule(Rule::Check(template)),
    Key::new("partitioner.class", Type::Class, "default", "Folders: default (by partition), field, timebased, daily, hourly, or the class of another sink.").group(LAYOUT).rule(Rule::Check(Partitioner::check)),
    Key::new("partition.field.name", Type::List, "", "Fields of the value whose values name folders (partitioner field).").group(LAYOUT),
    Key::new("path.format", Type::String, "", "Folders by time: 'year'=YYYY/'month'=MM/'day'=dd/'hour'=HH (partitioner timebased).").group(LAYOUT),
    Key::new("partition.duration.ms", Type::Long, "-1", "Accepted as other sinks have it; folders follow path.format.").group(LAYOUT).importance(Importance::Low),
    Key::new("locale", Type::String, "", "Accepted as other sinks have it; folders have numbers only.").group(LAYOUT).importance(Importance::Low),
    Key::new("timezone", Type::String, "UTC", "Of folders by time.").group(LAYOUT).rule(Rule::Check(Timestamps::check_zone)),
    Key::new("timestamp.extractor", Type::String, "Record", "The time of folders: Record (its timestamp) or RecordField.").group(LAYOUT).rule(Rule::OneOf(&["Record", "RecordField"])),
    Key::new("timestamp.field", Type::String, "timestamp", "The field of the value with its time in ms (timestamp.extractor RecordField).").group(LAYOUT),
    Key::new("behavior.on.null.values", Type::String, "write", "write, ignore or fail: records without a value.").group(FILES).rule(Rule::OneOf(&["write", "ignore", "fail"])),
];

/// It becomes part of a host's name.
fn region(value: &str) -> Result<(), String> {
    let well = value.trim().bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if well { Ok(()) } else { Err("write a region such as eu-central-1".to_owned()) }
}

fn folder(value: &str) -> Result<(), String> {
    let well = !value.is_empty()
        && !value.starts_with('/')
        && value.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    if well { Ok(()) } else { Err("write a folder such as topics or archive/topics".to_owned()) }
}

fn template(value: &str) -> Result<(), String> {
    super::files::Name::template(value).map(drop)
}

/// What is done with a record that has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnNull {
    Write,
    Ignore,
    Fail,
}

/// All that decides how the records of a chunk become files; part of its plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    pub topics_dir: String,
    pub format: Format,
    pub codec: Codec,
    pub fields: Vec<Field>,
    pub bytes_as: FieldEncoding,
    pub separator: String,
    pub partitioner: Partitioner,
    /// How a file is named within its folder, or with a template below `topics_dir`.
    pub name: super::files::Name,
}

/// When a chunk ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotation {
    pub records: u64,
    pub bytes: u64,
    /// By the records' timestamps.
    pub interval_ms: Option<i64>,
    /// By the clock.
    pub schedule_ms: Option<i64>,
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    pub layout: Layout,
    pub rotation: Rotation,
    pub on_null: OnNull,
    pub url: String,
    pub options: strandline_tiering::StoreOptions,
}

impl Config {
    /// Err = all that is wrong, with its key.
    pub fn parse(settings: &Settings) -> Result<Config, Vec<(String, String)>> {
        let values = Values::check(KEYS, settings).map_err(|faults| {
            faults.into_iter().map(|text| (text.split('"').nth(1).unwrap_or("").to_owned(), text)).collect::<Vec<_>>()
        })?;
        let mut faults = Vec::new();
        let (url, options) = store(&values).unwrap_or_else(|fault| {
            faults.push(fault);
            Default::default()
        });
        let (format, codec) = format_and_codec(&values);
        if !codec.fits(format) {
            let text = "Avro files have no such compression: write avro.codec=null, deflate, snappy or zstandard";
            faults.push(("avro.codec".to_owned(), text.to_owned()));
        }
        // The classes of other sinks write the value alone.
        let foreign = settings.get("format.class").is_some_and(|class| class.contains('.'));
        let fields = match (values.list("format.output.fields"), foreign) {
            (given, _) if !given.is_empty() => given.into_iter().filter_map(Field::parse).collect(),
            (_, true) => vec![Field::Value],
            (_, false) => Field::ALL_OF_A_RECORD.to_vec(),
        };
        let partitioner = Partitioner::parse(&values).unwrap_or_else(|fault| {
            faults.push(fault);
            Partitioner::Default
        });
        let name = match values.given("file.name.template") {
            Some(template) => super::files::Name::template(template).expect("checked with its key"),
            None => super::files::Name::Standard {
                pad: usize::try_from(values.number("filename.offset.zero.pad.width")).unwrap_or(10).min(20),
            },
        };
        if !faults.is_empty() {
            return Err(faults);
        }
        let positive = |key: &str| Some(values.number(key)).filter(|n| *n > 0);
        let bytes_as = if values.text("format.output.fields.value.encoding").eq_ignore_ascii_case("none") {
            FieldEncoding::Text
        } else {
            FieldEncoding::Base64
        };
        Ok(Config {
            layout: Layout {
                topics_dir: values.text("topics.dir").to_owned(),
                format,
                codec,
                fields,
                bytes_as,
                separator: settings.get("format.bytearray.separator").cloned().unwrap_or_else(|| "\n".to_owned()),
                partitioner,
                name,
            },
            rotation: Rotation {
                records: positive("file.max.records").or(positive("flush.size")).unwrap_or(1).unsigned_abs(),
                bytes: values.number("file.max.bytes").unsigned_abs(),
                interval_ms: positive("rotate.interval.ms"),
                schedule_ms: positive("rotate.schedule.interval.ms"),
            },
            on_null: match values.text("behavior.on.null.values").to_ascii_lowercase().as_str() {
                "ignore" => OnNull::Ignore,
                "fail" => OnNull::Fail,
                _ => OnNull::Write,
            },
            url,
            options,
        })
    }
}

fn format_and_codec(values: &Values<'_>) -> (Format, Codec) {
    let class = values.given("format.class").or(values.given("format.output.type"));
    let format = Format::parse(class.unwrap_or("parquet")).unwrap_or(Format::Parquet);
    let own = match format {
        Format::Parquet => Some("parquet.codec"),
        Format::Avro => Some("avro.codec"),
        Format::Json | Format::Raw => None,
    };
    let codec =
        own.into_iter().chain(["file.compression.type", "s3.compression.type"]).find_map(|key| values.given(key));
    let codec = match codec {
        Some(text) => Codec::parse(text).unwrap_or(Codec::None),
        None if format == Format::Parquet => Codec::Snappy,
        None => Codec::None,
    };
    (format, codec)
}

type Located = (String, strandline_tiering::StoreOptions);

/// The store's URL and options; Err = key and what to write.
fn store(values: &Values<'_>) -> Result<Located, (String, String)> {
    let mut options = strandline_tiering::StoreOptions::new();
    let mut set = |key: &str, value: Option<&str>| {
        if let Some(value) = value {
            options.insert(key.to_owned(), value.to_owned());
        }
    };
    let bucket = values.given("s3.bucket.name").or(values.given("aws.s3.bucket.name"));
    let given = values.given("store.url").or(values.given("hdfs.url"));
    let is_s3 = bucket.is_some() || given.is_some_and(|url| url.starts_with("s3"));
    if is_s3 {
        set("aws_region", values.given("s3.region").or(values.given("aws.s3.region")));
        set("aws_access_key_id", values.given("aws.access.key.id"));
        set("aws_secret_access_key", values.given("aws.secret.access.key"));
    }
    let url = match (bucket, given) {
        (Some(bucket), endpoint) => {
            let endpoint = values.given("aws.s3.endpoint").or(endpoint.filter(|url| url.starts_with("http")));
            if let Some(endpoint) = endpoint {
                set("aws_endpoint", Some(endpoint));
                set("aws_allow_http", Some("true").filter(|_| endpoint.starts_with("http://")));
            }
            let prefix = values.given("aws.s3.prefix").unwrap_or("").trim_matches('/');
            if prefix.is_empty() { format!("s3://{bucket}") } else { format!("s3://{bucket}/{prefix}") }
        }
        (None, Some(url)) => {
            if let Some(endpoint) = values.given("aws.s3.endpoint").filter(|_| is_s3) {
                set("aws_endpoint", Some(endpoint));
                set("aws_allow_http", Some("true").filter(|_| endpoint.starts_with("http://")));
            }
            url.to_owned()
        }
        (None, None) => {
            let text =
                "write where the files go: s3://bucket/prefix, hdfs://namenode:port/directory or file:///directory";
            return Err(("store.url".to_owned(), format!("Missing required configuration \"store.url\": {text}")));
        }
    };
    Ok((url, options))
}
