//! A rope: bytes and file ranges that are sent one after the other.
//!
//! Owns the parts; a file range is never read here, it goes to the socket by `sendfile`. The file stays open for as
//! long as a rope names it, so that a segment deleted meanwhile is still served.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;

/// A range of a file.
#[derive(Debug, Clone)]
pub struct FileRange {
    pub file: Arc<File>,
    /// First byte.
    pub position: u64,
    /// Bytes.
    pub len: u64,
}

/// One piece of a rope.
#[derive(Debug, Clone)]
pub enum Part {
    Bytes(Bytes),
    File(FileRange),
}

impl Part {
    /// Bytes in this part.
    pub fn len(&self) -> u64 {
        match self {
            Part::Bytes(bytes) => bytes.len() as u64,
            Part::File(range) => range.len,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Parts in order. Empty parts are not kept.
#[derive(Debug, Clone, Default)]
pub struct Rope {
    parts: Vec<Part>,
    len: u64,
}

impl Rope {
    /// Bytes in all.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    pub fn push(&mut self, part: Part) {
        if !part.is_empty() {
            self.len += part.len();
            self.parts.push(part);
        }
    }

    pub fn push_bytes(&mut self, bytes: Bytes) {
        self.push(Part::Bytes(bytes));
    }

    pub fn push_file(&mut self, range: FileRange) {
        self.push(Part::File(range));
    }

    /// Adds the parts of `other` behind.
    pub fn append(&mut self, other: Rope) {
        self.len += other.len;
        self.parts.extend(other.parts);
    }

    /// All bytes in one piece; `None` if there is a file range in it.
    pub fn to_bytes(&self) -> Option<Bytes> {
        if let [Part::Bytes(bytes)] = self.parts.as_slice() {
            return Some(bytes.clone());
        }
        let mut all = Vec::new();
        for part in &self.parts {
            match part {
                Part::Bytes(bytes) => all.extend_from_slice(bytes),
                Part::File(_) => return None,
            }
        }
        Some(Bytes::from(all))
    }
}

impl From<Bytes> for Rope {
    fn from(bytes: Bytes) -> Self {
        let mut rope = Rope::default();
        rope.push_bytes(bytes);
        rope
    }
}

/// The records of a message: as received, or as they are to be sent.
#[derive(Debug, Clone)]
pub enum Records {
    Bytes(Bytes),
    Parts(Rope),
}

impl Records {
    /// Bytes in all.
    pub fn len(&self) -> u64 {
        match self {
            Records::Bytes(bytes) => bytes.len() as u64,
            Records::Parts(rope) => rope.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All bytes in one piece; `None` if some are in a file.
    pub fn to_bytes(&self) -> Option<Bytes> {
        match self {
            Records::Bytes(bytes) => Some(bytes.clone()),
            Records::Parts(rope) => rope.to_bytes(),
        }
    }
}

impl Default for Records {
    fn default() -> Self {
        Records::Bytes(Bytes::new())
    }
}

/// Equal if the bytes are; never equal if they are in a file.
impl PartialEq for Records {
    fn eq(&self, other: &Self) -> bool {
        match (self.to_bytes(), other.to_bytes()) {
            (Some(a), Some(b)) => a == b,
            _ => false,
        }
    }
}
