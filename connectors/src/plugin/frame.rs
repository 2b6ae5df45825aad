//! What a worker and a plugin's process say to each other: frames of JSON, with rows as Arrow IPC streams behind it
//! (`docs/formats/plugin-protocol.md`).
//!
//! Owns the bytes and what they mean; does not own pipes, time or processes. A call is one frame, its answer another one; there is never more
//! than one call under way. Everything that comes from a plugin is checked here: a length beyond its limit, other bytes than a frame, an
//! answer to another call, an offset that nobody asked for.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use serde::{Deserialize, Serialize};

use crate::rows::Rows;
use crate::sink::{Assigned, Offsets, SinkError, TopicPartition};

/// The version of this protocol, told with `start`.
pub const PROTOCOL: u32 = 1;
/// How every frame begins.
pub const MAGIC: [u8; 4] = *b"SLP1";
/// Magic, length of the JSON, length of the rows.
pub const HEAD_BYTES: usize = 12;
/// JSON of one frame, bytes.
pub const JSON_BYTES_MAX: usize = 8 << 20;
/// Rows of one frame, bytes.
pub const ROWS_BYTES_MAX: usize = 1 << 30;
/// A plugin's words about an error are cut here, bytes.
pub const MESSAGE_BYTES_MAX: usize = 4_096;

/// A place in a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub topic: String,
    pub partition: i32,
    /// The next offset; null in `open` = nothing was committed.
    #[serde(default)]
    pub offset: Option<i64>,
}

impl Position {
    pub fn of(assigned: &Assigned) -> Position {
        Position::at(&assigned.partition, assigned.committed)
    }

    pub fn at(partition: &TopicPartition, offset: Option<i64>) -> Position {
        Position { topic: partition.topic.to_string(), partition: partition.partition, offset }
    }
}

/// What is asked of a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub enum Call {
    /// The first call. `settings` are those that `connector.json` defines, defaults filled in.
    Start {
        protocol: u32,
        connector: String,
        task: u32,
        spool: String,
        settings: BTreeMap<String, String>,
    },
    Open {
        partitions: Vec<Position>,
    },
    /// The rows stand behind the JSON: `streams` Arrow IPC streams, one for each schema, none if records of [first_offset, next_offset)
    /// have no rows (compaction, markers of transactions).
    Write {
        topic: String,
        partition: i32,
        first_offset: i64,
        next_offset: i64,
        streams: usize,
    },
    Flush {
        now_ms: i64,
        force: bool,
    },
    Close {
        partitions: Vec<Position>,
    },
}

impl Call {
    pub fn name(&self) -> &'static str {
        match self {
            Call::Start { .. } => "start",
            Call::Open { .. } => "open",
            Call::Write { .. } => "write",
            Call::Flush { .. } => "flush",
            Call::Close { .. } => "close",
        }
    }
}

/// A call with its number; the answer carries the same one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub id: u64,
    #[serde(flatten)]
    pub call: Call,
}

/// Kinds of errors, as the sink contract has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    Retriable,
    Reopen,
    Rejected,
    Fatal,
}

/// What a plugin says to a call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    pub id: u64,
    /// Of `open`: where reading begins. Of `flush`: ends of what is durable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offsets: Vec<Position>,
    /// Of `flush`: all that was written is durable.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorKind>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// With the error `rejected`: the offsets of the rows that can never be delivered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<i64>,
}

/// What is wrong with bytes that should be a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    #[error("it wrote {0} to standard output, where an answer has to be: what is for people belongs on standard error")]
    Magic(String),
    #[error("it announced an answer of {0} bytes, {JSON_BYTES_MAX} are allowed")]
    Length(u64),
    #[error("it answered with what is no answer: {0}")]
    Json(String),
    #[error("it answered call {1} where call {0} was asked: one answer for each call, in their order")]
    Number(u64, u64),
    #[error("{0}")]
    Meaning(String),
}

/// A frame's head: lengths of JSON and rows.
pub fn head(bytes: [u8; HEAD_BYTES]) -> Result<(usize, usize), FrameFault> {
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize;
    if bytes[..4] != MAGIC {
        return Err(FrameFault::Magic(format!("{:?}", String::from_utf8_lossy(&bytes))));
    }
    let (json, rows) = (word(4), word(8));
    if json > JSON_BYTES_MAX || rows > ROWS_BYTES_MAX {
        return Err(FrameFault::Length((json + rows) as u64));
    }
    Ok((json, rows))
}

/// The frame of a call or an answer, without the rows that follow; None = it is over a limit.
pub fn encoded(message: &impl Serialize, rows: usize) -> Option<Vec<u8>> {
    let json = serde_json::to_vec(message).ok()?;
    if json.len() > JSON_BYTES_MAX || rows > ROWS_BYTES_MAX {
        return None;
    }
    let mut bytes = Vec::with_capacity(HEAD_BYTES + json.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&u32::try_from(json.len()).ok()?.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(rows).ok()?.to_le_bytes());
    bytes.extend_from_slice(&json);
    Some(bytes)
}

/// The answer to call `id`.
pub fn answer(id: u64, json: &[u8]) -> Result<Answer, FrameFault> {
    let answer: Answer = serde_json::from_slice(json).map_err(|e| FrameFault::Json(e.to_string()))?;
    if answer.id == id { Ok(answer) } else { Err(FrameFault::Number(id, answer.id)) }
}

impl Answer {
    /// Err = the sink's error; the outer one = what is no sensible answer to `call`.
    pub fn outcome(self, call: &Call) -> Result<Result<Answer, SinkError>, FrameFault> {
        let Some(error) = self.error else { return Ok(Ok(self)) };
        let message =
            if self.message.trim().is_empty() { "no reason was given".to_owned() } else { cut(&self.message) };
        Ok(Err(match error {
            ErrorKind::Retriable => SinkError::Retriable(message),
            ErrorKind::Reopen => SinkError::Reopen(message),
            ErrorKind::Fatal => SinkError::Fatal(message),
            ErrorKind::Rejected => {
                let Call::Write { first_offset, next_offset, .. } = call else {
                    return Err(FrameFault::Meaning(format!("it rejected rows in {}, which has none", call.name())));
                };
                let span = *first_offset..*next_offset;
                if self.rejected.is_empty() || self.rejected.iter().any(|offset| !span.contains(offset)) {
                    return Err(FrameFault::Meaning(format!(
                        "it rejected offsets {:?} of a write of [{first_offset}, {next_offset})",
                        self.rejected.iter().take(8).collect::<Vec<_>>()
                    )));
                }
                SinkError::Rejected { offsets: self.rejected, reason: message }
            }
        }))
    }

    /// The offsets by partition, each checked by `allowed`: it says what an offset of a partition may be.
    pub fn offsets(
        &self,
        allowed: impl Fn(&TopicPartition) -> Option<std::ops::RangeInclusive<i64>>,
    ) -> Result<Offsets, FrameFault> {
        let mut offsets = Offsets::new();
        for one in &self.offsets {
            let partition = TopicPartition::new(&one.topic, one.partition);
            let offset =
                one.offset.ok_or_else(|| FrameFault::Meaning(format!("it named {partition} without offset")))?;
            match allowed(&partition) {
                None => return Err(FrameFault::Meaning(format!("it named {partition}, which it was not given"))),
                Some(range) if !range.contains(&offset) => {
                    return Err(FrameFault::Meaning(format!(
                        "it named offset {offset} of {partition}, where {} to {} is possible",
                        range.start(),
                        range.end()
                    )));
                }
                Some(_) => offsets.insert(partition, offset),
            };
        }
        Ok(offsets)
    }
}

/// At most [`MESSAGE_BYTES_MAX`] bytes of a text.
pub fn cut(text: &str) -> String {
    let mut end = text.len().min(MESSAGE_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// The type without views, which not every Arrow implementation reads.
fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::BinaryView => DataType::Binary,
        DataType::Utf8View => DataType::Utf8,
        other => other.clone(),
    }
}

/// The same rows with plain columns.
fn without_views(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    let mut fields = Vec::with_capacity(schema.fields().len());
    let mut columns = Vec::with_capacity(schema.fields().len());
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        let wanted = plain(field.data_type());
        let cast = if wanted == *field.data_type() { column.clone() } else { arrow::compute::cast(column, &wanted)? };
        fields.push(Field::new(field.name(), wanted, field.is_nullable()).with_metadata(field.metadata().clone()));
        columns.push(cast);
    }
    let schema = Schema::new_with_metadata(fields, schema.metadata().clone());
    RecordBatch::try_new(schema.into(), columns)
}

/// Rows as batches that every Arrow implementation reads, one for each group.
pub fn plain_batches(rows: &Rows) -> Result<Vec<RecordBatch>, ArrowError> {
    rows.groups.iter().map(without_views).collect()
}

/// Rows as Arrow IPC streams, one behind the other: as many as there are groups.
pub fn streams(rows: &Rows) -> Result<Vec<u8>, ArrowError> {
    let mut bytes = Vec::new();
    for batch in &rows.groups {
        let batch = without_views(batch)?;
        let mut writer = StreamWriter::try_new(&mut bytes, &batch.schema())?;
        writer.write(&batch)?;
        writer.finish()?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use arrow::array::AsArray;
    use arrow::ipc::reader::StreamReader;
    use proptest::prelude::*;

    use super::*;

    fn write() -> Call {
        Call::Write { topic: "t".to_owned(), partition: 1, first_offset: 4, next_offset: 9, streams: 1 }
    }

    #[test]
    fn a_call_is_read_back() {
        let request = Request { id: 7, call: write() };
        let bytes = encoded(&request, 3).unwrap();
        let (json, rows) = head(bytes[..HEAD_BYTES].try_into().unwrap()).unwrap();
        assert_eq!((json, rows), (bytes.len() - HEAD_BYTES, 3));
        let read: Request = serde_json::from_slice(&bytes[HEAD_BYTES..]).unwrap();
        assert_eq!(read, request);
        let text = String::from_utf8(bytes[HEAD_BYTES..].to_vec()).unwrap();
        assert!(text.starts_with(r#"{"id":7,"call":"write","topic":"t""#), "{text}");
    }

    #[test]
    fn the_rows_are_streams_one_behind_the_other() {
        let batch = crate::conformance::records("t", 0, 0, &[Some(b"one".to_vec()), None]);
        let rows = Rows { groups: vec![batch.groups[0].clone(), batch.groups[0].slice(1, 1)], ..batch };
        let bytes = streams(&rows).unwrap();
        let mut cursor = Cursor::new(&bytes);
        let mut counts = Vec::new();
        for _ in 0..2 {
            for batch in StreamReader::try_new(&mut cursor, None).unwrap() {
                let batch = batch.unwrap();
                assert!(batch.column_by_name("value").unwrap().as_binary_opt::<i32>().is_some());
                counts.push(batch.num_rows());
            }
        }
        assert_eq!((counts, cursor.position()), (vec![2, 1], bytes.len() as u64));
    }

    #[test]
    fn what_is_no_answer_says_what_it_was() {
        let garbage = head(*b"hello world\n").unwrap_err().to_string();
        assert!(garbage.contains("\"hello world\\n\"") && garbage.contains("standard error"), "{garbage}");
        let mut long = [0xff; HEAD_BYTES];
        long[..4].copy_from_slice(&MAGIC);
        assert!(matches!(head(long), Err(FrameFault::Length(_))));
        assert_eq!(answer(3, br#"{"id":2}"#).unwrap_err(), FrameFault::Number(3, 2));
        assert!(
            matches!(answer(3, br#"{"id":3,"ofsets":[]}"#), Err(FrameFault::Json(text)) if text.contains("ofsets"))
        );
        assert!(matches!(answer(3, b"[]"), Err(FrameFault::Json(_))));
    }

    #[test]
    fn only_offsets_that_were_asked_for_are_taken() {
        let said = |topic: &str, offset: i64| Answer {
            offsets: vec![Position { topic: topic.to_owned(), partition: 0, offset: Some(offset) }],
            ..Answer::default()
        };
        let allowed = |p: &TopicPartition| (&*p.topic == "t").then_some(3..=9);
        assert_eq!(said("t", 9).offsets(allowed).unwrap().len(), 1);
        assert!(said("t", 10).offsets(allowed).unwrap_err().to_string().contains("offset 10 of t-0"));
        assert!(said("u", 5).offsets(allowed).unwrap_err().to_string().contains("not given"));
    }

    #[test]
    fn rejected_rows_are_rows_of_the_call() {
        let said = |rejected: Vec<i64>| Answer { error: Some(ErrorKind::Rejected), rejected, ..Answer::default() };
        let good = said(vec![4, 8]).outcome(&write()).unwrap().unwrap_err();
        assert!(matches!(good, SinkError::Rejected { offsets, .. } if offsets == [4, 8]));
        assert!(said(vec![9]).outcome(&write()).is_err());
        assert!(said(vec![]).outcome(&write()).is_err());
        assert!(said(vec![4]).outcome(&Call::Flush { now_ms: 0, force: true }).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_are_more_than_an_error(bytes in proptest::collection::vec(any::<u8>(), HEAD_BYTES..64)) {
            let _ = head(bytes[..HEAD_BYTES].try_into().unwrap());
            let _ = answer(1, &bytes);
        }

        #[test]
        fn a_message_is_cut_between_characters(text in "\\PC{0,3000}") {
            prop_assert!(cut(&text).len() <= MESSAGE_BYTES_MAX);
        }
    }
}
