//! Kafka's primitive types on the wire: a bounded reader and a writer of ropes.
//!
//! Invariants: a length from the wire reserves no more than the bytes that are there allow, and is checked before it is
//! used; bytes and records are slices of the frame, never copies. `flexible` chooses compact lengths (KIP-482).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use uuid::Uuid;

use crate::rope::{Records, Rope};

/// Elements of one array, at most. No request of Kafka's clients comes near it.
pub const ARRAY_ELEMENTS_MAX: usize = 4_000_000;
/// Elements reserved before any is read; the vector grows with what really comes.
const ARRAY_RESERVE_MAX: usize = 1024;
/// Tagged fields of one struct, at most.
const TAGGED_FIELDS_MAX: u32 = 10_000;

/// Why bytes are not the message they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("{needed} more bytes are needed, {remaining} remain")]
    Truncated { needed: usize, remaining: usize },
    #[error("a length of {0} is not possible here")]
    Length(i64),
    #[error("a string is not UTF-8")]
    Utf8,
    #[error("a null where none is allowed")]
    Null,
    #[error("a variable-length number is too long")]
    Varint,
    #[error("{message} has no version {version}")]
    Version { message: &'static str, version: i16 },
}

/// Why a message cannot be written in a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("{message} has no version {version}")]
    Version { message: &'static str, version: i16 },
    #[error("{message}.{field} is set, but version {version} cannot carry it")]
    Field { message: &'static str, field: &'static str, version: i16 },
    #[error("{field} is null, which version {version} does not allow")]
    Null { field: &'static str, version: i16 },
    #[error("a field of {0} bytes or elements is too long")]
    TooLong(u64),
}

impl EncodeError {
    pub(crate) fn field(message: &'static str, field: &'static str, version: i16) -> Self {
        EncodeError::Field { message, field, version }
    }
    pub(crate) fn null(field: &'static str, version: i16) -> Self {
        EncodeError::Null { field, version }
    }
}

/// Reads from a frame.
#[derive(Debug, Clone)]
pub struct Reader {
    bytes: Bytes,
}

macro_rules! read_fixed {
    ($($name:ident $type:ty, $get:ident, $size:literal;)*) => {
        $(pub fn $name(&mut self) -> Result<$type, DecodeError> {
            self.need($size)?;
            Ok(self.bytes.$get())
        })*
    };
}

impl Reader {
    pub fn new(bytes: Bytes) -> Self {
        Reader { bytes }
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.bytes.len()
    }

    /// What is not yet read.
    pub fn rest(self) -> Bytes {
        self.bytes
    }

    fn need(&self, needed: usize) -> Result<(), DecodeError> {
        if needed > self.bytes.len() {
            return Err(DecodeError::Truncated { needed, remaining: self.bytes.len() });
        }
        Ok(())
    }

    read_fixed! {
        i8 i8, get_i8, 1;
        i16 i16, get_i16, 2;
        u16 u16, get_u16, 2;
        i32 i32, get_i32, 4;
        u32 u32, get_u32, 4;
        i64 i64, get_i64, 8;
        f64 f64, get_f64, 8;
    }

    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        Ok(self.i8()? != 0)
    }

    pub fn uuid(&mut self) -> Result<Uuid, DecodeError> {
        self.need(16)?;
        Ok(Uuid::from_u128(self.bytes.get_u128()))
    }

    /// An unsigned number of 1 to 5 bytes, 7 bits each, lowest first.
    pub fn unsigned_varint(&mut self) -> Result<u32, DecodeError> {
        let mut value: u32 = 0;
        for shift in [0, 7, 14, 21, 28] {
            self.need(1)?;
            let byte = self.bytes.get_u8();
            let bits = u32::from(byte & 0x7f);
            if shift == 28 && bits > 0x0f {
                return Err(DecodeError::Varint);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Varint)
    }

    /// A length; `None` = null. Classic lengths are of `classic_bytes` bytes.
    fn length(&mut self, flexible: bool, classic_bytes: usize) -> Result<Option<usize>, DecodeError> {
        let length = if flexible {
            i64::from(self.unsigned_varint()?) - 1
        } else if classic_bytes == 2 {
            i64::from(self.i16()?)
        } else {
            i64::from(self.i32()?)
        };
        match length {
            -1 => Ok(None),
            _ => usize::try_from(length).map(Some).map_err(|_| DecodeError::Length(length)),
        }
    }

    fn take(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        self.need(length)?;
        Ok(self.bytes.split_to(length))
    }

    pub fn nullable_string(&mut self, flexible: bool) -> Result<Option<String>, DecodeError> {
        let Some(length) = self.length(flexible, 2)? else { return Ok(None) };
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| DecodeError::Utf8)?;
        Ok(Some(text.to_owned()))
    }

    pub fn string(&mut self, flexible: bool) -> Result<String, DecodeError> {
        self.nullable_string(flexible)?.ok_or(DecodeError::Null)
    }

    pub fn nullable_bytes(&mut self, flexible: bool) -> Result<Option<Bytes>, DecodeError> {
        match self.length(flexible, 4)? {
            None => Ok(None),
            Some(length) => self.take(length).map(Some),
        }
    }

    pub fn bytes(&mut self, flexible: bool) -> Result<Bytes, DecodeError> {
        self.nullable_bytes(flexible)?.ok_or(DecodeError::Null)
    }

    pub fn nullable_records(&mut self, flexible: bool) -> Result<Option<Records>, DecodeError> {
        Ok(self.nullable_bytes(flexible)?.map(Records::Bytes))
    }

    pub fn records(&mut self, flexible: bool) -> Result<Records, DecodeError> {
        self.bytes(flexible).map(Records::Bytes)
    }

    pub fn nullable_array<T>(
        &mut self,
        flexible: bool,
        mut element: impl FnMut(&mut Reader) -> Result<T, DecodeError>,
    ) -> Result<Option<Vec<T>>, DecodeError> {
        let Some(length) = self.length(flexible, 4)? else { return Ok(None) };
        // Every element takes at least one byte.
        self.need(length)?;
        if length > ARRAY_ELEMENTS_MAX {
            return Err(DecodeError::Length(length as i64));
        }
        let mut elements = Vec::with_capacity(length.min(ARRAY_RESERVE_MAX));
        for _ in 0..length {
            elements.push(element(self)?);
        }
        Ok(Some(elements))
    }

    pub fn array<T>(
        &mut self,
        flexible: bool,
        element: impl FnMut(&mut Reader) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        self.nullable_array(flexible, element)?.ok_or(DecodeError::Null)
    }

    pub fn nullable_struct<T>(
        &mut self,
        read: impl FnOnce(&mut Reader) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if self.i8()? < 0 { Ok(None) } else { read(self).map(Some) }
    }

    /// Reads a struct's tagged fields. `field` gets a reader of the field's bytes and its tag, and says whether it
    /// knows the tag; unknown ones are skipped.
    pub fn tagged_fields(
        &mut self,
        mut field: impl FnMut(&mut Reader, u32) -> Result<bool, DecodeError>,
    ) -> Result<(), DecodeError> {
        let count = self.unsigned_varint()?;
        if count > TAGGED_FIELDS_MAX {
            return Err(DecodeError::Length(count.into()));
        }
        for _ in 0..count {
            let tag = self.unsigned_varint()?;
            let length = self.unsigned_varint()? as usize;
            let mut bytes = Reader::new(self.take(length)?);
            field(&mut bytes, tag)?;
        }
        Ok(())
    }

    pub fn skip_tagged_fields(&mut self) -> Result<(), DecodeError> {
        self.tagged_fields(|_, _| Ok(false))
    }
}

/// Writes a message. Bytes go into one growing buffer; records are linked in, not copied.
#[derive(Debug, Default)]
pub struct Writer {
    done: Rope,
    buffer: BytesMut,
}

macro_rules! write_fixed {
    ($($name:ident $type:ty, $put:ident;)*) => {
        $(pub fn $name(&mut self, value: $type) {
            self.buffer.$put(value);
        })*
    };
}

/// Records shorter than this are copied into the buffer: a part of its own would cost more. Bytes.
const LINK_MIN_BYTES: usize = 512;

impl Writer {
    /// What was written.
    pub fn finish(mut self) -> Rope {
        self.done.push_bytes(self.buffer.freeze());
        self.done
    }

    /// Bytes written so far.
    pub fn len(&self) -> u64 {
        self.done.len() + self.buffer.len() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    write_fixed! {
        i8 i8, put_i8;
        i16 i16, put_i16;
        u16 u16, put_u16;
        i32 i32, put_i32;
        u32 u32, put_u32;
        i64 i64, put_i64;
        f64 f64, put_f64;
    }

    pub fn bool(&mut self, value: bool) {
        self.buffer.put_i8(value.into());
    }

    pub fn uuid(&mut self, value: Uuid) {
        self.buffer.put_u128(value.as_u128());
    }

    pub fn unsigned_varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.buffer.put_u8((value as u8 & 0x7f) | 0x80);
            value >>= 7;
        }
        self.buffer.put_u8(value as u8);
    }

    fn length(&mut self, length: u64, flexible: bool, classic_bytes: usize) -> Result<(), EncodeError> {
        let too_long = EncodeError::TooLong(length);
        if flexible {
            self.unsigned_varint(u32::try_from(length + 1).map_err(|_| too_long)?);
        } else if classic_bytes == 2 {
            self.i16(i16::try_from(length).map_err(|_| too_long)?);
        } else {
            self.i32(i32::try_from(length).map_err(|_| too_long)?);
        }
        Ok(())
    }

    fn null(&mut self, flexible: bool, classic_bytes: usize) {
        if flexible {
            self.unsigned_varint(0);
        } else if classic_bytes == 2 {
            self.i16(-1);
        } else {
            self.i32(-1);
        }
    }

    pub fn string(&mut self, value: &str, flexible: bool) -> Result<(), EncodeError> {
        if value.len() > usize::from(i16::MAX as u16) {
            return Err(EncodeError::TooLong(value.len() as u64));
        }
        self.length(value.len() as u64, flexible, 2)?;
        self.buffer.put_slice(value.as_bytes());
        Ok(())
    }

    pub fn nullable_string(&mut self, value: Option<&str>, flexible: bool) -> Result<(), EncodeError> {
        match value {
            None => {
                self.null(flexible, 2);
                Ok(())
            }
            Some(value) => self.string(value, flexible),
        }
    }

    pub fn bytes(&mut self, value: &Bytes, flexible: bool) -> Result<(), EncodeError> {
        self.length(value.len() as u64, flexible, 4)?;
        self.link(value);
        Ok(())
    }

    pub fn nullable_bytes(&mut self, value: Option<&Bytes>, flexible: bool) -> Result<(), EncodeError> {
        match value {
            None => {
                self.null(flexible, 4);
                Ok(())
            }
            Some(value) => self.bytes(value, flexible),
        }
    }

    pub fn records(&mut self, value: &Records, flexible: bool) -> Result<(), EncodeError> {
        self.length(value.len(), flexible, 4)?;
        match value {
            Records::Bytes(bytes) => self.link(bytes),
            Records::Parts(rope) => {
                self.cut();
                self.done.append(rope.clone());
            }
        }
        Ok(())
    }

    pub fn nullable_records(&mut self, value: Option<&Records>, flexible: bool) -> Result<(), EncodeError> {
        match value {
            None => {
                self.null(flexible, 4);
                Ok(())
            }
            Some(value) => self.records(value, flexible),
        }
    }

    fn link(&mut self, bytes: &Bytes) {
        if bytes.len() < LINK_MIN_BYTES {
            self.buffer.put_slice(bytes);
        } else {
            self.cut();
            self.done.push_bytes(bytes.clone());
        }
    }

    /// Ends the buffer's part, so that another can follow.
    fn cut(&mut self) {
        let part = self.buffer.split().freeze();
        self.done.push_bytes(part);
    }

    pub fn array<T>(
        &mut self,
        values: &[T],
        flexible: bool,
        mut element: impl FnMut(&mut Writer, &T) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        self.length(values.len() as u64, flexible, 4)?;
        values.iter().try_for_each(|value| element(self, value))
    }

    pub fn nullable_array<T>(
        &mut self,
        values: Option<&[T]>,
        flexible: bool,
        element: impl FnMut(&mut Writer, &T) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        match values {
            None => {
                self.null(flexible, 4);
                Ok(())
            }
            Some(values) => self.array(values, flexible, element),
        }
    }

    pub fn nullable_struct<T>(
        &mut self,
        value: Option<&T>,
        write: impl FnOnce(&mut Writer, &T) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        match value {
            None => {
                self.i8(-1);
                Ok(())
            }
            Some(value) => {
                self.i8(1);
                write(self, value)
            }
        }
    }

    pub fn no_tagged_fields(&mut self) {
        self.buffer.put_u8(0);
    }

    /// Writes a struct's tagged fields, which are in the order of their tags.
    pub fn tagged_fields(&mut self, fields: TaggedFields) {
        self.unsigned_varint(fields.fields.len() as u32);
        for (tag, rope) in fields.fields {
            self.unsigned_varint(tag);
            self.unsigned_varint(u32::try_from(rope.len()).unwrap_or(u32::MAX));
            self.cut();
            self.done.append(rope);
        }
    }
}

/// Tagged fields that are set, collected before their count is known.
#[derive(Debug, Default)]
pub struct TaggedFields {
    fields: Vec<(u32, Rope)>,
}

impl TaggedFields {
    /// Adds the field that `write` writes.
    pub fn field(
        &mut self,
        tag: u32,
        write: impl FnOnce(&mut Writer) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        let mut writer = Writer::default();
        write(&mut writer)?;
        let rope = writer.finish();
        if rope.len() > u64::from(u32::MAX) {
            return Err(EncodeError::TooLong(rope.len()));
        }
        self.fields.push((tag, rope));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_size_read_back() {
        for value in [0, 1, 127, 128, 300, 16_383, 16_384, 1 << 28, u32::MAX] {
            let mut w = Writer::default();
            w.unsigned_varint(value);
            let bytes = w.finish().to_bytes().unwrap();
            assert_eq!(Reader::new(bytes).unsigned_varint(), Ok(value));
        }
        let long = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
        assert_eq!(Reader::new(long).unsigned_varint(), Err(DecodeError::Varint));
    }

    #[test]
    fn a_lying_length_reserves_nothing() {
        let mut w = Writer::default();
        w.i32(i32::MAX);
        let bytes = w.finish().to_bytes().unwrap();
        assert!(matches!(Reader::new(bytes.clone()).bytes(false), Err(DecodeError::Truncated { .. })));
        assert!(Reader::new(bytes).array(false, |r| r.i8()).is_err());
        let negative = Bytes::from_static(&[0xff, 0xff, 0xff, 0xfe]);
        assert_eq!(Reader::new(negative).bytes(false), Err(DecodeError::Length(-2)));
    }
}
