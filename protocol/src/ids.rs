//! Names of things, as types.
//!
//! Owns the identifiers that every crate shares and the check of topic names. A topic name that passed
//! [`validate_topic_name`] is safe as a directory name; anything else never becomes a path.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// Position of a record in a partition.
pub type Offset = i64;
/// Number of a leadership of a partition; -1 = unknown.
pub type LeaderEpoch = i32;
pub type BrokerId = i32;
/// Number of a broker's registration; -1 = unknown.
pub type BrokerEpoch = i64;
/// -1 = none.
pub type ProducerId = i64;

/// Longest topic name, in characters: with `-<partition>.<uuid>-delete` it still is a file name.
pub const TOPIC_NAME_MAX: usize = 249;

/// A topic's identity, never used again once the topic is deleted. Shown as Kafka does: 22 characters of base64url.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TopicId(pub Uuid);

/// A partition of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    pub topic_id: TopicId,
    pub partition: i32,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic_id, self.partition)
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&uuid_to_base64(self.0))
    }
}

/// 22 characters of base64url without padding, as Kafka's `Uuid.toString`.
pub fn uuid_to_base64(uuid: Uuid) -> String {
    let value = uuid.as_u128();
    // 21 groups of 6 bits, then the last 2 bits followed by 4 zeros.
    (0..22)
        .map(|i| {
            let bits = if i < 21 { (value >> (122 - 6 * i)) & 63 } else { (value & 3) << 4 };
            char::from(ALPHABET[usize::try_from(bits).unwrap_or(0)])
        })
        .collect()
}

/// The text is not a UUID in Kafka's form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a UUID of 22 base64url characters")]
pub struct InvalidUuid(pub String);

/// Reads what [`uuid_to_base64`] writes.
pub fn uuid_from_base64(text: &str) -> Result<Uuid, InvalidUuid> {
    let invalid = || InvalidUuid(text.to_owned());
    let text_bytes = text.as_bytes();
    if text_bytes.len() != 22 {
        return Err(invalid());
    }
    let mut value: u128 = 0;
    for (i, c) in text_bytes.iter().enumerate() {
        let digit = ALPHABET.iter().position(|a| a == c).ok_or_else(invalid)? as u128;
        if i < 21 {
            value = (value << 6) | digit;
        } else if digit & 15 == 0 {
            value = (value << 2) | (digit >> 4);
        } else {
            return Err(invalid());
        }
    }
    Ok(Uuid::from_u128(value))
}

impl FromStr for TopicId {
    type Err = InvalidUuid;
    fn from_str(text: &str) -> Result<Self, InvalidUuid> {
        uuid_from_base64(text).map(TopicId)
    }
}

/// Why a topic cannot have a name; the texts are what Kafka's users know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTopicName {
    #[error("Topic name is invalid: the empty string is not allowed")]
    Empty,
    #[error("Topic name is invalid: '{0}' is not allowed")]
    Reserved(String),
    #[error("Topic name is invalid: the length of '{0}' is longer than the max allowed length {TOPIC_NAME_MAX}")]
    TooLong(String),
    #[error(
        "Topic name is invalid: '{0}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
    )]
    Character(String),
}

/// Kafka's rule: 1 to 249 of `[a-zA-Z0-9._-]`, neither `.` nor `..`.
pub fn validate_topic_name(name: &str) -> Result<(), InvalidTopicName> {
    if name.is_empty() {
        return Err(InvalidTopicName::Empty);
    }
    if name == "." || name == ".." {
        return Err(InvalidTopicName::Reserved(name.to_owned()));
    }
    if name.len() > TOPIC_NAME_MAX {
        return Err(InvalidTopicName::TooLong(name.chars().take(2 * TOPIC_NAME_MAX).collect()));
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        return Err(InvalidTopicName::Character(name.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_as_kafka_writes_them() {
        // Kafka's METADATA_TOPIC_ID, Uuid(0, 1).
        assert_eq!(TopicId(Uuid::from_u128(1)).to_string(), "AAAAAAAAAAAAAAAAAAAAAQ");
        for value in [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef] {
            let id = TopicId(Uuid::from_u128(value));
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for bad in ["", "AAAAAAAAAAAAAAAAAAAAAR", "AAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAA+Q"] {
            assert!(bad.parse::<TopicId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_that_would_be_paths_are_refused() {
        for bad in ["", ".", "..", "a/b", "a\\b", "a b", "ü", "a\0", &"x".repeat(250)] {
            assert!(validate_topic_name(bad).is_err(), "{bad}");
        }
        for good in ["a", "a.b", "...", "__consumer_offsets", "A-1", &"x".repeat(249)] {
            assert!(validate_topic_name(good).is_ok(), "{good}");
        }
    }
}
