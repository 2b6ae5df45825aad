//! One member of a group.

use bytes::Bytes;

use super::outcomes::Ticket;

/// An assignment protocol that a member offers, with what it says under it (for consumers: the subscription).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protocol {
    pub name: String,
    pub metadata: Bytes,
}

/// A member, and what it waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Static membership (KIP-345): the identity that outlives the member id.
    pub instance_id: Option<String>,
    pub client_id: String,
    /// As Kafka shows it, for instance `/127.0.0.1`.
    pub client_host: String,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    /// In the member's order of preference.
    pub protocols: Vec<Protocol>,
    /// Empty until the group is stable.
    pub assignment: Bytes,
    /// The parked JoinGroup; a member that has one has joined the coming generation.
    pub awaiting_join: Option<Ticket>,
    /// The parked SyncGroup.
    pub awaiting_sync: Option<Ticket>,
    /// Until its first JoinGroup is answered: only the client's own timeout shows that it is gone.
    pub is_new: bool,
}

impl Member {
    /// What the member says under `protocol`; empty if it does not offer it.
    pub fn metadata(&self, protocol: Option<&str>) -> Bytes {
        self.protocols
            .iter()
            .find(|p| Some(p.name.as_str()) == protocol)
            .map(|p| p.metadata.clone())
            .unwrap_or_default()
    }

    /// Whether the session may not end now: who waits for the group cannot send heartbeats.
    pub fn is_excused(&self) -> bool {
        !self.is_new && (self.awaiting_join.is_some() || self.awaiting_sync.is_some())
    }

    /// The first of the member's protocols that is among `candidates`.
    pub fn vote<'a>(&self, candidates: &[&'a str]) -> Option<&'a str> {
        self.protocols.iter().find_map(|p| candidates.iter().find(|c| **c == p.name).copied())
    }
}
