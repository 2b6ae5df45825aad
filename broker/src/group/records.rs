//! The records of `__consumer_offsets` (`docs/formats/consumer-offsets.md`).
//!
//! Owns keys and values, byte for byte as Kafka 4.3.1 writes them; reads what any Kafka since 0.9 wrote.
//! A key is its type in 16 bits and the key's fields; a value is its version in 16 bits and the value's fields. No value
//! is a tombstone.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use strandline_protocol::codec::{Reader, Writer};
use strandline_protocol::messages::Message;
use strandline_protocol::messages::group_metadata_key::GroupMetadataKey;
use strandline_protocol::messages::group_metadata_value::GroupMetadataValue;
use strandline_protocol::messages::offset_commit_key::OffsetCommitKey;
use strandline_protocol::messages::offset_commit_value::OffsetCommitValue;
use uuid::Uuid;

use super::offsets::OffsetAndMetadata;

/// Key types of committed offsets; Kafka wrote 0 before 0.8.2 and writes 1.
const OFFSET_COMMIT_LEGACY: i16 = 0;
const OFFSET_COMMIT: i16 = 1;
/// Key type of a classic group.
const GROUP_METADATA: i16 = 2;
/// The only version of the keys' fields.
const KEY_FIELDS_VERSION: i16 = 0;
/// Version of an offset that has an expiry of its own, which only OffsetCommit up to version 4 asks for.
const OFFSET_WITH_EXPIRY_VERSION: i16 = 1;
const OFFSET_VERSION: i16 = 4;
const GROUP_VERSION: i16 = 3;

/// Longest group id, member id, instance id, protocol name and protocol type, in bytes: the group record has 16-bit
/// lengths, and a member id is made of another name and a UUID.
pub const NAME_MAX_BYTES: usize = 16 << 10;

/// One record to append. No value is a tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    pub key: Bytes,
    pub value: Option<Bytes>,
}

impl LogRecord {
    /// Bytes of key and value.
    pub fn len(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// A record, read.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    Offset {
        group: String,
        topic: String,
        partition: i32,
        value: Option<OffsetAndMetadata>,
    },
    Group {
        group: String,
        value: Option<GroupMetadataValue>,
    },
    /// Of another kind of group.
    Other(i16),
}

/// The record is not one of Kafka's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a record of __consumer_offsets: {0}")]
pub struct UnreadableRecord(String);

fn encode<M: Message>(prefix: i16, version: i16, message: &M) -> Bytes {
    let mut writer = Writer::default();
    message.encode(&mut writer, version).expect("names and metadata are bounded where they enter");
    let body = writer.finish().to_bytes().expect("nothing of it is in a file");
    let mut out = BytesMut::with_capacity(2 + body.len());
    out.put_i16(prefix);
    out.extend_from_slice(&body);
    out.freeze()
}

fn offset_key(group: &str, topic: &str, partition: i32) -> Bytes {
    let key = OffsetCommitKey { group: group.to_owned(), topic: topic.to_owned(), partition };
    encode(OFFSET_COMMIT, KEY_FIELDS_VERSION, &key)
}

/// A committed offset.
pub fn offset(group: &str, topic: &str, partition: i32, committed: &OffsetAndMetadata) -> LogRecord {
    let version = if committed.expire_ms.is_some() { OFFSET_WITH_EXPIRY_VERSION } else { OFFSET_VERSION };
    // Version 1 lacks the leader epoch and the topic id; the writer leaves out what a version lacks.
    let value = OffsetCommitValue {
        offset: committed.offset,
        leader_epoch: committed.leader_epoch,
        metadata: committed.metadata.clone(),
        commit_timestamp: committed.commit_ms,
        expire_timestamp: committed.expire_ms.unwrap_or(-1),
        topic_id: committed.topic_id,
    };
    LogRecord { key: offset_key(group, topic, partition), value: Some(encode(version, version, &value)) }
}

/// A deleted offset.
pub fn offset_tombstone(group: &str, topic: &str, partition: i32) -> LogRecord {
    LogRecord { key: offset_key(group, topic, partition), value: None }
}

/// A group's generation.
pub fn group(group: &str, value: &GroupMetadataValue) -> LogRecord {
    let key = encode(GROUP_METADATA, KEY_FIELDS_VERSION, &GroupMetadataKey { group: group.to_owned() });
    LogRecord { key, value: Some(encode(GROUP_VERSION, GROUP_VERSION, value)) }
}

/// A deleted group.
pub fn group_tombstone(group: &str) -> LogRecord {
    let key = encode(GROUP_METADATA, KEY_FIELDS_VERSION, &GroupMetadataKey { group: group.to_owned() });
    LogRecord { key, value: None }
}

fn decode<M: Message>(bytes: Bytes, version: i16) -> Result<M, UnreadableRecord> {
    M::decode(&mut Reader::new(bytes), version).map_err(|error| UnreadableRecord(error.to_string()))
}

fn prefixed(bytes: Option<Bytes>) -> Result<(i16, Bytes), UnreadableRecord> {
    let mut bytes = bytes.filter(|b| b.len() >= 2).ok_or_else(|| UnreadableRecord("no version".to_owned()))?;
    Ok((bytes.get_i16(), bytes))
}

/// Reads a record.
pub fn read(key: Option<Bytes>, value: Option<Bytes>) -> Result<Entry, UnreadableRecord> {
    let (kind, key) = prefixed(key)?;
    match kind {
        OFFSET_COMMIT_LEGACY | OFFSET_COMMIT => {
            let key: OffsetCommitKey = decode(key, KEY_FIELDS_VERSION)?;
            let value = value.map(read_offset).transpose()?;
            Ok(Entry::Offset { group: key.group, topic: key.topic, partition: key.partition, value })
        }
        GROUP_METADATA => {
            let key: GroupMetadataKey = decode(key, KEY_FIELDS_VERSION)?;
            let value = match value {
                None => None,
                Some(value) => {
                    let (version, bytes) = prefixed(Some(value))?;
                    Some(checked_group(decode(bytes, version)?)?)
                }
            };
            Ok(Entry::Group { group: key.group, value })
        }
        other => Ok(Entry::Other(other)),
    }
}

fn read_offset(value: Bytes) -> Result<OffsetAndMetadata, UnreadableRecord> {
    let (version, bytes) = prefixed(Some(value))?;
    let value: OffsetCommitValue = decode(bytes, version)?;
    Ok(OffsetAndMetadata {
        offset: value.offset,
        leader_epoch: value.leader_epoch,
        metadata: value.metadata,
        commit_ms: value.commit_timestamp,
        expire_ms: Some(value.expire_timestamp).filter(|at| *at != -1),
        topic_id: if version < OFFSET_VERSION { Uuid::nil() } else { value.topic_id },
    })
}

/// Refuses names that this coordinator could not write again.
fn checked_group(value: GroupMetadataValue) -> Result<GroupMetadataValue, UnreadableRecord> {
    let own = [Some(&value.protocol_type), value.protocol.as_ref(), value.leader.as_ref()];
    let members = value.members.iter();
    let of_members = members
        .flat_map(|m| [Some(&m.member_id), m.group_instance_id.as_ref(), Some(&m.client_id), Some(&m.client_host)]);
    // A member id may have another name in it.
    if own.into_iter().chain(of_members).flatten().any(|name| name.len() > NAME_MAX_BYTES + 64) {
        return Err(UnreadableRecord("a name is too long".to_owned()));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn an_offset_has_the_bytes_that_kafka_writes() {
        let committed = OffsetAndMetadata {
            offset: 100,
            leader_epoch: 10,
            metadata: "m".to_owned(),
            commit_ms: 1234,
            expire_ms: None,
            topic_id: Uuid::from_u128(1),
        };
        let record = offset("g", "t", 1, &committed);
        assert_eq!(hex(&record.key), "0001000167000174".to_owned() + "00000001");
        let value = record.value.clone().unwrap();
        let topic_id = "00000000000000000000000000000001";
        // Version 4: offset, epoch, compact metadata, timestamp, one tagged field (0) of 16 bytes.
        assert_eq!(hex(&value), format!("00040000000000000064{}026d00000000000004d2010010{topic_id}", "0000000a"));
        let read_back = read(Some(record.key), record.value).unwrap();
        let expected = Entry::Offset {
            group: "g".to_owned(),
            topic: "t".to_owned(),
            partition: 1,
            value: Some(committed.clone()),
        };
        assert_eq!(read_back, expected);

        let with_expiry = OffsetAndMetadata { expire_ms: Some(5), ..committed };
        let record = offset("g", "t", 1, &with_expiry);
        let value = record.value.clone().unwrap();
        assert_eq!(hex(&value), "0001000000000000006400016d00000000000004d20000000000000005");
    }

    #[test]
    fn a_group_has_the_bytes_that_kafka_writes() {
        let value = GroupMetadataValue {
            protocol_type: "consumer".to_owned(),
            generation: 3,
            protocol: None,
            leader: None,
            current_state_timestamp: 7,
            members: Vec::new(),
        };
        let record = group("g", &value);
        assert_eq!(hex(&record.key), "0002000167");
        let expected = "00030008636f6e73756d657200000003ffffffff000000000000000700000000";
        assert_eq!(hex(record.value.as_ref().unwrap()), expected);
        assert_eq!(
            read(Some(record.key), record.value).unwrap(),
            Entry::Group { group: "g".to_owned(), value: Some(value) }
        );
        let tombstone = group_tombstone("g");
        assert_eq!(read(Some(tombstone.key), None).unwrap(), Entry::Group { group: "g".to_owned(), value: None });
    }

    #[test]
    fn other_records_are_told_apart_from_broken_ones() {
        assert_eq!(read(Some(Bytes::from_static(&[0, 3, 1, 2])), None), Ok(Entry::Other(3)));
        assert!(read(None, None).is_err());
        assert!(read(Some(Bytes::from_static(&[0])), None).is_err());
        assert!(read(Some(Bytes::from_static(&[0, 1, 0])), None).is_err());
        let bad_value = read(Some(offset_tombstone("g", "t", 0).key), Some(Bytes::from_static(&[0, 9, 0])));
        assert!(bad_value.is_err(), "version 9 does not exist");
    }
}
