//! Kafka's consumer protocol: what members of a consumer group tell their leader, and the assignment "range".
//!
//! Owns the bytes that travel inside JoinGroup and SyncGroup of protocol type `consumer`, so that Kafka's tools can describe a group.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use strandline_protocol::codec::{DecodeError, EncodeError, Reader, Writer};
use strandline_protocol::messages::Message;
use strandline_protocol::messages::consumer_protocol_assignment::{ConsumerProtocolAssignment, TopicPartition};
use strandline_protocol::messages::consumer_protocol_subscription::ConsumerProtocolSubscription;

pub const PROTOCOL_TYPE: &str = "consumer";
/// Kafka's RangeAssignor.
pub const RANGE: &str = "range";
/// Kafka writes version 3 since 3.4; 1 is read by every version since 2.4 and has all that "range" needs.
const VERSION: i16 = 1;

/// Partitions by topic.
pub type Partitions = BTreeMap<String, Vec<i32>>;

fn encode<M: Message>(message: &M) -> Result<Bytes, EncodeError> {
    let mut w = Writer::default();
    w.i16(VERSION);
    message.encode(&mut w, VERSION)?;
    Ok(w.finish().to_bytes().unwrap_or_default())
}

fn decode<M: Message>(bytes: Bytes) -> Result<M, DecodeError> {
    let mut r = Reader::new(bytes);
    let version = r.i16()?;
    // What a later version adds stands behind what is known.
    M::decode(&mut r, version.min(*M::VERSIONS.end()))
}

/// A member's wish.
pub fn subscription(topics: &BTreeSet<String>) -> Result<Bytes, EncodeError> {
    encode(&ConsumerProtocolSubscription { topics: topics.iter().cloned().collect(), ..Default::default() })
}

/// The topics that a member wishes for.
pub fn subscribed(bytes: Bytes) -> Result<BTreeSet<String>, DecodeError> {
    Ok(decode::<ConsumerProtocolSubscription>(bytes)?.topics.into_iter().collect())
}

pub fn assignment(partitions: &Partitions) -> Result<Bytes, EncodeError> {
    let assigned_partitions = partitions
        .iter()
        .map(|(topic, partitions)| TopicPartition { topic: topic.clone(), partitions: partitions.clone() })
        .collect();
    encode(&ConsumerProtocolAssignment { assigned_partitions, user_data: None })
}

/// What a member was given. No bytes at all = nothing.
pub fn assigned(bytes: Bytes) -> Result<Partitions, DecodeError> {
    if bytes.is_empty() {
        return Ok(Partitions::new());
    }
    let decoded: ConsumerProtocolAssignment = decode(bytes)?;
    Ok(decoded.assigned_partitions.into_iter().map(|t| (t.topic, t.partitions)).collect())
}

/// Topic by topic: the members that want it, in the order of their ids, get neighbouring partitions, the first ones one more
/// where it does not come out even.
pub fn range(
    wishes: &BTreeMap<String, BTreeSet<String>>,
    partition_counts: &BTreeMap<String, i32>,
) -> BTreeMap<String, Partitions> {
    let mut given: BTreeMap<String, Partitions> = wishes.keys().map(|id| (id.clone(), Partitions::new())).collect();
    for (topic, count) in partition_counts {
        let members: Vec<&String> = wishes.iter().filter(|(_, t)| t.contains(topic)).map(|(id, _)| id).collect();
        let Ok(shares) = i32::try_from(members.len()) else { continue };
        if shares == 0 || *count <= 0 {
            continue;
        }
        let mut next = 0;
        for (n, member) in (0..shares).zip(members) {
            let length = count / shares + i32::from(n < count % shares);
            if length > 0 {
                let partitions = (next..next + length).collect();
                given.entry(member.clone()).or_default().insert(topic.clone(), partitions);
            }
            next += length;
        }
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn wishes_and_assignments_survive_the_wire() {
        let wish = topics(&["a", "b"]);
        assert_eq!(subscribed(subscription(&wish).unwrap()).unwrap(), wish);
        let given = Partitions::from([("a".to_owned(), vec![0, 2])]);
        assert_eq!(assigned(assignment(&given).unwrap()).unwrap(), given);
        assert_eq!(assigned(Bytes::new()).unwrap(), Partitions::new());
    }

    #[test]
    fn every_partition_has_one_owner_and_shares_are_even() {
        let wishes = BTreeMap::from([
            ("m1".to_owned(), topics(&["t", "u"])),
            ("m2".to_owned(), topics(&["t"])),
            ("m3".to_owned(), topics(&["t"])),
        ]);
        let counts = BTreeMap::from([("t".to_owned(), 8), ("u".to_owned(), 2), ("nobody's".to_owned(), 4)]);
        let given = range(&wishes, &counts);
        assert_eq!(given["m1"]["t"], [0, 1, 2]);
        assert_eq!(given["m2"]["t"], [3, 4, 5]);
        assert_eq!(given["m3"]["t"], [6, 7]);
        assert_eq!(given["m1"]["u"], [0, 1]);
        assert!(!given["m2"].contains_key("u"));
    }

    #[test]
    fn members_beyond_the_partitions_get_none() {
        let wishes = (0..5).map(|n| (format!("m{n}"), topics(&["t"]))).collect();
        let given = range(&wishes, &BTreeMap::from([("t".to_owned(), 2)]));
        assert_eq!(given.values().filter(|g| g.is_empty()).count(), 3);
    }
}
