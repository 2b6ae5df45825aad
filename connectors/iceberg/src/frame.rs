//! The worker's side of the pipe: calls and answers of docs/formats/plugin-protocol.md, version 1.
//!
//! Owns the bytes. Invariants: no length is believed beyond its limit; the end of the input between two frames is the end of the task.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Read, Result, Write};

use serde::{Deserialize, Serialize};

const MAGIC: [u8; 4] = *b"SLP1";
const HEAD_BYTES: usize = 12;
const JSON_BYTES_MAX: usize = 8 << 20;
const ROWS_BYTES_MAX: usize = 1 << 30;

/// A partition of a call; `offset` is the next one, as the group committed it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Named {
    pub topic: String,
    pub partition: i32,
    #[serde(default)]
    pub offset: Option<i64>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "call", rename_all = "lowercase")]
pub enum Body {
    Start {
        protocol: u32,
        connector: String,
        settings: BTreeMap<String, String>,
    },
    Open {
        partitions: Vec<Named>,
    },
    /// Rows of [first_offset, next_offset), in so many Arrow IPC streams.
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
        partitions: Vec<Named>,
    },
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Call {
    pub id: u64,
    #[serde(flatten)]
    pub body: Body,
}

/// An offset of a partition: where reading begins, or the exclusive end of what is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct At {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    Retriable,
    Reopen,
    Rejected,
    Fatal,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Answer {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub offsets: Vec<At>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<i64>,
}

fn wrong(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidData, what.into())
}

fn length(bytes: &[u8], what: &str, max: usize) -> Result<usize> {
    let raw = bytes.try_into().map(u32::from_le_bytes).map_err(|_| wrong("a head that is too short"))?;
    let length = usize::try_from(raw).map_err(|_| wrong("a length beyond memory"))?;
    if length > max { Err(wrong(format!("{length} bytes of {what}, {max} are allowed"))) } else { Ok(length) }
}

/// Exactly `length` bytes; memory grows with what arrives, not with what is announced.
fn take(input: &mut impl Read, length: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(length).unwrap_or(u64::MAX);
    if input.by_ref().take(limit).read_to_end(&mut bytes)? == length {
        Ok(bytes)
    } else {
        Err(Error::from(ErrorKind::UnexpectedEof))
    }
}

/// The next call and its rows; None = the input has ended.
pub fn read(input: &mut impl Read) -> Result<Option<(Call, Vec<u8>)>> {
    let mut head = [0; HEAD_BYTES];
    if input.read(&mut head[..1])? == 0 {
        return Ok(None);
    }
    input.read_exact(&mut head[1..])?;
    if head[..4] != MAGIC {
        return Err(wrong("this is no frame of the plugin protocol, version 1"));
    }
    let json = length(&head[4..8], "JSON", JSON_BYTES_MAX)?;
    let rows = length(&head[8..], "rows", ROWS_BYTES_MAX)?;
    let call = serde_json::from_slice(&take(input, json)?).map_err(|e| wrong(e.to_string()))?;
    Ok(Some((call, take(input, rows)?)))
}

/// Answers the call `id`.
pub fn write(output: &mut impl Write, id: u64, answer: &Answer) -> Result<()> {
    #[derive(Serialize)]
    struct Numbered<'a> {
        id: u64,
        #[serde(flatten)]
        answer: &'a Answer,
    }
    let json = serde_json::to_vec(&Numbered { id, answer })?;
    let length = u32::try_from(json.len()).map_err(|_| wrong("an answer beyond its limit"))?;
    output.write_all(&MAGIC)?;
    output.write_all(&length.to_le_bytes())?;
    output.write_all(&0_u32.to_le_bytes())?;
    output.write_all(&json)?;
    output.flush()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn frame(json: &str, rows: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(u32::try_from(json.len()).unwrap().to_le_bytes());
        bytes.extend(u32::try_from(rows.len()).unwrap().to_le_bytes());
        bytes.extend(json.as_bytes());
        bytes.extend(rows);
        bytes
    }

    #[test]
    fn calls_are_read_and_fields_of_later_versions_ignored() {
        let text = r#"{"id":3,"call":"write","topic":"t","partition":1,"first_offset":5,"next_offset":9,"streams":1,"later":{}}"#;
        let bytes = frame(text, b"rows");
        let (call, rows) = read(&mut bytes.as_slice()).unwrap().unwrap();
        let body = Body::Write { topic: "t".to_owned(), partition: 1, first_offset: 5, next_offset: 9, streams: 1 };
        assert_eq!((call, &*rows), (Call { id: 3, body }, &b"rows"[..]));
        assert!(read(&mut &bytes[..0]).unwrap().is_none());
    }

    #[test]
    fn what_is_no_frame_is_refused_before_memory_is_taken() {
        let mut lying = frame("{}", b"");
        lying[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(read(&mut lying.as_slice()).unwrap_err().to_string().contains("are allowed"));
        for cut in 1..HEAD_BYTES + 2 {
            assert!(read(&mut &frame("{}", b"")[..cut]).is_err(), "{cut}");
        }
        assert!(read(&mut &b"GET / HTTP/1.1\r\n"[..]).is_err());
    }

    #[test]
    fn an_answer_has_only_what_it_says() {
        let mut bytes = Vec::new();
        write(&mut bytes, 7, &Answer::default()).unwrap();
        assert_eq!(&bytes[HEAD_BYTES..], br#"{"id":7}"#);
    }
}
