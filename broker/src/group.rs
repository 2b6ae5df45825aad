//! Consumer groups: Kafka's classic group protocol, and the offsets that groups commit.
//!
//! Owns who is a member of which group, the generations, the assignments and the committed offsets of the groups whose
//! partition of `__consumer_offsets` this node leads. Does not own that partition's log ([`OffsetsLog`] is the seam),
//! nor requests (`api::groups`).
//!
//! [`state`], [`join`], [`rebalance`] and [`offsets`] are pure: (group, input, now) -> [`outcomes`]. [`coordinator`] is
//! the shell: it parks requests, appends what a group decides and keeps the one queue of deadlines.
//!
//! Invariants:
//! 1. A request that changes what is kept is answered after its records are durable, in the order of the log.
//! 2. A generation has one assignment, decided by its leader; a member that is not in it is refused.
//! 3. Offsets are accepted from members of the current generation, or from anyone while the group is empty.
//! 4. Decisions follow the order of member ids and arrival, never the order of a hash map.
//!
//! A crash leaves behind a prefix of the records. Loading a partition reads them all: a group comes back with its last
//! durable assignment and its durable offsets; members that are gone time out, and requests that were parked are sent
//! again by their clients.

mod coordinator;
mod deadlines;
mod join;
mod load;
mod member;
mod offsets;
mod outcomes;
mod partition;
mod rebalance;
mod records;
mod settings;
mod snapshot;
mod state;

pub use coordinator::{Commit, GroupCoordinator, JoinGroup, OffsetsLog, SyncGroup, partition_for};
pub use member::Protocol;
pub use offsets::{CommitPartition, OffsetAndMetadata, OffsetsByTopic};
pub use settings::GroupSettings;
pub use snapshot::GroupSnapshot;
pub use state::State;

#[cfg(test)]
mod coordinator_tests;
#[cfg(test)]
mod history_tests;
#[cfg(test)]
mod state_tests;
