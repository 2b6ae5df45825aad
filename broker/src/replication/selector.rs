//! Which replica a consumer should read from (KIP-392): pure.
//!
//! Owns Kafka's `RackAwareReplicaSelector`: a replica in the consumer's rack, if there is one in sync that has what it asks
//! for. Does not own in-sync sets, nor where racks come from.

use strandline_protocol::ids::BrokerId;

/// `replica.selector.class` of the rule below.
pub const RACK_AWARE: &str = "org.apache.kafka.common.replica.RackAwareReplicaSelector";
/// `replica.selector.class` of Kafka's default: everybody reads from the leader.
pub const LEADER: &str = "org.apache.kafka.common.replica.LeaderSelector";

/// An in-sync replica that is not the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate<'a> {
    pub id: BrokerId,
    pub rack: Option<&'a str>,
    /// It has everything below (exclusive).
    pub end: i64,
    /// When it was last known to have everything, in ms.
    pub caught_up_ms: i64,
}

/// The replica to read from instead of the leader; none = the leader. `offset` is what the consumer asks for.
pub fn rack_aware(
    client_rack: &str,
    leader_rack: Option<&str>,
    followers: &[Candidate<'_>],
    offset: i64,
) -> Option<BrokerId> {
    if client_rack.is_empty() || leader_rack == Some(client_rack) {
        return None;
    }
    let near = followers.iter().filter(|c| c.rack == Some(client_rack) && c.end >= offset);
    near.max_by_key(|c| (c.end, c.caught_up_ms, std::cmp::Reverse(c.id))).map(|c| c.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follower(id: BrokerId, rack: &str, end: i64) -> Candidate<'_> {
        Candidate { id, rack: Some(rack), end, caught_up_ms: 0 }
    }

    #[test]
    fn the_nearest_that_has_it_is_chosen() {
        let followers = [follower(2, "b", 10), follower(3, "b", 12), follower(4, "c", 20)];
        assert_eq!(rack_aware("b", Some("a"), &followers, 0), Some(3), "the one that has most");
        assert_eq!(rack_aware("c", Some("a"), &followers, 0), Some(4));
        assert_eq!(rack_aware("b", Some("a"), &followers, 13), None, "nobody near has it yet");
        assert_eq!(rack_aware("d", Some("a"), &followers, 0), None, "nobody is near");
        assert_eq!(rack_aware("", Some("a"), &followers, 0), None, "the client does not say where it is");
    }

    #[test]
    fn a_leader_in_the_rack_is_kept() {
        assert_eq!(rack_aware("b", Some("b"), &[follower(2, "b", 10)], 0), None);
        assert_eq!(rack_aware("b", None, &[follower(2, "b", 10)], 0), Some(2));
    }
}
