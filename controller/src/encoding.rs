//! Bytes of controller records: a bounded reader and an appending writer.
//!
//! Owns the primitive encodings (big-endian integers, length-prefixed strings and lists). Does not own any
//! layout: those are beside their types and described in `docs/formats/metadata-record.md`.
//!
//! Invariant: a length read from bytes is checked against what remains before anything is reserved.

use uuid::Uuid;

/// Longest string or byte field in a record, in bytes. Kafka's own limit for a compact string.
pub const FIELD_BYTES_MAX: usize = 1 << 20;

/// Why bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes remain than the layout asks for.
    #[error("{field} needs {needed} bytes, {remaining} remain")]
    Truncated { field: &'static str, needed: usize, remaining: usize },
    /// A value is outside of what this version knows.
    #[error("{field} is {value}, which this version does not know")]
    Unknown { field: &'static str, value: i64 },
    /// A string is not UTF-8, or a nested layout is not well formed.
    #[error("{field} is malformed: {detail}")]
    Malformed { field: &'static str, detail: String },
}

/// Appends primitives to a buffer.
#[derive(Debug, Default)]
pub struct Put {
    pub bytes: Vec<u8>,
}

impl Put {
    pub fn u8(&mut self, v: u8) -> &mut Self {
        self.bytes.push(v);
        self
    }
    pub fn u16(&mut self, v: u16) -> &mut Self {
        self.bytes.extend_from_slice(&v.to_be_bytes());
        self
    }
    pub fn u32(&mut self, v: u32) -> &mut Self {
        self.bytes.extend_from_slice(&v.to_be_bytes());
        self
    }
    pub fn i32(&mut self, v: i32) -> &mut Self {
        self.bytes.extend_from_slice(&v.to_be_bytes());
        self
    }
    pub fn u64(&mut self, v: u64) -> &mut Self {
        self.bytes.extend_from_slice(&v.to_be_bytes());
        self
    }
    pub fn i64(&mut self, v: i64) -> &mut Self {
        self.bytes.extend_from_slice(&v.to_be_bytes());
        self
    }
    pub fn uuid(&mut self, v: Uuid) -> &mut Self {
        self.bytes.extend_from_slice(v.as_bytes());
        self
    }
    /// A length-prefixed byte field of at most [`FIELD_BYTES_MAX`].
    pub fn field(&mut self, v: &[u8]) -> &mut Self {
        assert!(v.len() <= FIELD_BYTES_MAX, "a record field is bounded");
        self.u32(v.len() as u32);
        self.bytes.extend_from_slice(v);
        self
    }
    pub fn string(&mut self, v: &str) -> &mut Self {
        self.field(v.as_bytes())
    }
    pub fn option_string(&mut self, v: Option<&str>) -> &mut Self {
        match v {
            None => self.u8(0),
            Some(s) => self.u8(1).string(s),
        }
    }
    pub fn i32_list(&mut self, v: &[i32]) -> &mut Self {
        self.u32(v.len() as u32);
        for x in v {
            self.i32(*x);
        }
        self
    }
}

/// Reads primitives from a slice, never past its end.
#[derive(Debug)]
pub struct Get<'a> {
    rest: &'a [u8],
}

impl<'a> Get<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Get { rest: bytes }
    }
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }
    /// The next `len` bytes.
    pub fn take(&mut self, field: &'static str, len: usize) -> Result<&'a [u8], DecodeError> {
        if len > self.rest.len() {
            return Err(DecodeError::Truncated { field, needed: len, remaining: self.rest.len() });
        }
        let (head, tail) = self.rest.split_at(len);
        self.rest = tail;
        Ok(head)
    }
    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(field, N)?);
        Ok(out)
    }
    pub fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        Ok(self.array::<1>(field)?[0])
    }
    pub fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array(field)?))
    }
    pub fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array(field)?))
    }
    pub fn i32(&mut self, field: &'static str) -> Result<i32, DecodeError> {
        Ok(i32::from_be_bytes(self.array(field)?))
    }
    pub fn u64(&mut self, field: &'static str) -> Result<u64, DecodeError> {
        Ok(u64::from_be_bytes(self.array(field)?))
    }
    pub fn i64(&mut self, field: &'static str) -> Result<i64, DecodeError> {
        Ok(i64::from_be_bytes(self.array(field)?))
    }
    pub fn uuid(&mut self, field: &'static str) -> Result<Uuid, DecodeError> {
        Ok(Uuid::from_bytes(self.array(field)?))
    }
    pub fn field(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = self.u32(field)? as usize;
        self.take(field, len)
    }
    pub fn string(&mut self, field: &'static str) -> Result<String, DecodeError> {
        let bytes = self.field(field)?;
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|e| DecodeError::Malformed { field, detail: e.to_string() })
    }
    pub fn option_string(&mut self, field: &'static str) -> Result<Option<String>, DecodeError> {
        match self.u8(field)? {
            0 => Ok(None),
            1 => Ok(Some(self.string(field)?)),
            other => Err(DecodeError::Unknown { field, value: other.into() }),
        }
    }
    /// A list length whose elements take at least `element_bytes_min` each.
    pub fn count(&mut self, field: &'static str, element_bytes_min: usize) -> Result<usize, DecodeError> {
        let count = self.u32(field)? as usize;
        let needed = count.saturating_mul(element_bytes_min.max(1));
        if needed > self.rest.len() {
            return Err(DecodeError::Truncated { field, needed, remaining: self.rest.len() });
        }
        Ok(count)
    }
    pub fn i32_list(&mut self, field: &'static str) -> Result<Vec<i32>, DecodeError> {
        let count = self.count(field, 4)?;
        (0..count).map(|_| self.i32(field)).collect()
    }
}
