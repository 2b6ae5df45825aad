//! The frame and the primitive fields of every object that we write beside the record bytes.
//!
//! Owns: magic, format version, CRC-64/NVME trailer; bounded decoding.
//! Does not own: what the fields mean (manifest, sidecar).
//!
//! An object is `magic (4) · format version u16 · fields · CRC-64/NVME of all before`. Integers are big endian. A count
//! never reserves more memory than the remaining bytes can fill.

use bytes::Bytes;
use thiserror::Error;
use uuid::Uuid;

/// CRC-64/NVME, the hash of everything in the bucket.
pub fn hash(bytes: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes)
}

/// The same, of bytes that come one piece after the other.
pub(crate) struct Hasher(crc_fast::Digest);

impl Default for Hasher {
    fn default() -> Self {
        Hasher(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme))
    }
}

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(&self) -> u64 {
        self.0.finalize()
    }
}

const HEADER: usize = 6;
const TRAILER: usize = 8;

/// Why bytes are not the object that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    #[error("it does not begin as a {0}")]
    WrongMagic(&'static str),
    #[error("format version {0} is unknown to this version of the program")]
    UnknownFormat(u16),
    #[error("its hash is {found:016x}, {expected:016x} was expected")]
    WrongHash { found: u64, expected: u64 },
    #[error("it ends inside a field")]
    Truncated,
    #[error("{0} bytes follow its last field")]
    TrailingBytes(usize),
    #[error("{0}")]
    Invalid(&'static str),
}

pub(crate) struct Encoder {
    out: Vec<u8>,
}

impl Encoder {
    pub(crate) fn new(magic: [u8; 4], format_version: u16) -> Encoder {
        let mut out = Vec::with_capacity(1024);
        out.extend_from_slice(&magic);
        out.extend_from_slice(&format_version.to_be_bytes());
        Encoder { out }
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn i32(&mut self, value: i32) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn uuid(&mut self, value: &Uuid) {
        self.out.extend_from_slice(value.as_bytes());
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.count(value.len());
        self.out.extend_from_slice(value);
    }

    pub(crate) fn count(&mut self, len: usize) {
        self.u32(u32::try_from(len).expect("lists in the bucket are far below 2^32 items"));
    }

    pub(crate) fn list<T>(&mut self, items: &[T], mut put: impl FnMut(&mut Encoder, &T)) {
        self.count(items.len());
        for item in items {
            put(self, item);
        }
    }

    /// The whole object and its hash.
    pub(crate) fn finish(mut self) -> (Bytes, u64) {
        let hash = hash(&self.out);
        self.out.extend_from_slice(&hash.to_be_bytes());
        (Bytes::from(self.out), hash)
    }
}

pub(crate) struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// Checks the frame; `expected` is the hash that the referring object or the pointer names.
    pub(crate) fn new(
        bytes: &'a [u8],
        magic: [u8; 4],
        name: &'static str,
        format_version: u16,
        expected: Option<u64>,
    ) -> Result<Decoder<'a>, DecodeError> {
        let (body, trailer) = bytes.split_last_chunk::<TRAILER>().ok_or(DecodeError::Truncated)?;
        if body.len() < HEADER {
            return Err(DecodeError::Truncated);
        }
        if body[..4] != magic {
            return Err(DecodeError::WrongMagic(name));
        }
        let found = hash(body);
        let expected = expected.unwrap_or(u64::from_be_bytes(*trailer));
        if found != expected || found != u64::from_be_bytes(*trailer) {
            return Err(DecodeError::WrongHash { found, expected });
        }
        let mut decoder = Decoder { rest: &body[4..] };
        match decoder.u16()? {
            version if version == format_version => Ok(decoder),
            version => Err(DecodeError::UnknownFormat(version)),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn i32(&mut self) -> Result<i32, DecodeError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, DecodeError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    pub(crate) fn uuid(&mut self) -> Result<Uuid, DecodeError> {
        Ok(Uuid::from_bytes(self.array()?))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.u32()? as usize;
        if len > self.rest.len() {
            return Err(DecodeError::Truncated);
        }
        let (head, rest) = self.rest.split_at(len);
        self.rest = rest;
        Ok(head)
    }

    /// A list whose items take at least `min_item` bytes each, so that a lying count reserves nothing.
    pub(crate) fn list<T>(
        &mut self,
        min_item: usize,
        mut read: impl FnMut(&mut Decoder<'a>) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = self.u32()? as usize;
        if count > self.rest.len() / min_item {
            return Err(DecodeError::Truncated);
        }
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(read(self)?);
        }
        Ok(items)
    }

    pub(crate) fn end(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes(self.rest.len())) }
    }
}
