//! Who leads a partition, who is in sync, who may be asked first after a loss: pure.
//!
//! Owns the transition of one partition's record whenever its replicas, its in-sync set or the brokers change. Does not
//! own why it changes (`brokers`, `isr`, `reassign`).
//!
//! Invariants: a leader is in the in-sync set, registered, unfenced and not stopping; without unclean election a leader was
//! in sync or eligible before; a replica that leaves an in-sync set which is then below `min.insync.replicas` becomes
//! eligible (KIP-966), because nothing above its log can have been acknowledged to a producer that asked for all; the
//! leader epoch rises with every change of leader and every end of a reassignment, the partition epoch with every change.

use strandline_protocol::ids::{BrokerId, TopicPartition};

use super::Defaults;
use crate::image::MetadataImage;
use crate::record::{PartitionRecord, ResourceType};

/// No leader.
pub const NO_LEADER: BrokerId = -1;

/// What elections of one topic go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) min_insync_replicas: usize,
    pub(super) unclean: bool,
    /// Appends are synced before they are acknowledged.
    pub(super) synced: bool,
    /// May have lost what it had: it is not eligible, unless nobody else is left.
    pub(super) distrusted: Option<BrokerId>,
}

impl Rules {
    /// The topic's setting, else the cluster's, else the node's default.
    pub(super) fn of(image: &MetadataImage, defaults: &Defaults, topic: &str) -> Rules {
        let find = |key: &str| {
            let own = image.configs(ResourceType::Topic, topic).and_then(|map| map.get(key));
            own.or_else(|| image.configs(ResourceType::Broker, "").and_then(|map| map.get(key)))
        };
        let min = find("min.insync.replicas").and_then(|v| v.parse().ok());
        let unclean = find("unclean.leader.election.enable").map(|v| v == "true");
        let synced = find("flush.messages").map(|v| v == "1");
        Rules {
            min_insync_replicas: min.unwrap_or(defaults.min_insync_replicas).max(1),
            unclean: unclean.unwrap_or(defaults.unclean_leader_election),
            synced: synced.unwrap_or(defaults.synced),
            distrusted: None,
        }
    }
}

/// Whether a broker may be given leaderships now.
fn may_lead(image: &MetadataImage, id: BrokerId) -> bool {
    image.brokers.get(&id).is_some_and(|b| !b.fenced && !b.stopping)
}

pub(super) fn tp_of(record: &PartitionRecord) -> TopicPartition {
    TopicPartition { topic_id: record.topic_id, partition: record.partition }
}

/// Whether a broker may be given the leadership of this partition now.
pub(super) fn may_lead_of<'a>(image: &'a MetadataImage, record: &PartitionRecord) -> impl Fn(BrokerId) -> bool + 'a {
    let tp = tp_of(record);
    move |id| may_lead(image, id) && !image.is_offline(tp, id)
}

/// Brings a changed record into order: eligible replicas, leader, epochs. `target` is `before` with another in-sync set,
/// other replicas or nothing changed; `may_lead` says who can be elected. `None` if nothing is to be written.
pub(super) fn settle(
    before: &PartitionRecord,
    mut target: PartitionRecord,
    rules: Rules,
    may_lead: impl Fn(BrokerId) -> bool,
) -> Option<PartitionRecord> {
    target.isr.retain(|id| target.replicas.contains(id));
    let left = before.isr.iter().chain(&before.elr).copied();
    let eligible: Vec<BrokerId> = if target.isr.len() < rules.min_insync_replicas {
        let mut eligible: Vec<BrokerId> =
            left.filter(|id| !target.isr.contains(id) && target.replicas.contains(id)).collect();
        eligible.sort_unstable();
        eligible.dedup();
        let others = target.isr.iter().chain(&eligible).any(|id| Some(*id) != rules.distrusted);
        eligible.retain(|id| !others || Some(*id) != rules.distrusted);
        eligible
    } else {
        Vec::new()
    };
    target.elr = eligible;
    // A leader that stops, and that nobody in sync can follow, leads until it is gone: who is eligible may have less.
    let followed = target.isr.iter().any(|id| may_lead(*id));
    let keeps = target.isr.contains(&before.leader) && (may_lead(before.leader) || !followed);
    target.leader = if keeps { before.leader } else { NO_LEADER };
    if !keeps {
        elect(&mut target, rules, &may_lead);
    }
    finish(before, target)
}

/// Gives the record a leader, if one can be had: in sync, then eligible, then, if that is allowed, any.
fn elect(target: &mut PartitionRecord, rules: Rules, may_lead: &impl Fn(BrokerId) -> bool) {
    let first = |of: &dyn Fn(&BrokerId) -> bool| target.replicas.iter().copied().find(|id| of(id) && may_lead(*id));
    if let Some(leader) = first(&|id| target.isr.contains(id)) {
        target.leader = leader;
    } else if let Some(leader) = first(&|id| target.elr.contains(id)) {
        target.leader = leader;
        target.isr = vec![leader];
        target.elr.retain(|id| *id != leader);
    } else if rules.unclean
        && let Some(leader) = first(&|_| true)
    {
        target.leader = leader;
        target.isr = vec![leader];
        target.elr.clear();
    }
}

/// Epochs of what changed; `None` if nothing did.
pub(super) fn finish(before: &PartitionRecord, mut target: PartitionRecord) -> Option<PartitionRecord> {
    target.leader_epoch = before.leader_epoch;
    target.partition_epoch = before.partition_epoch;
    if target == *before {
        return None;
    }
    let lost_replicas = before.replicas.iter().any(|id| !target.replicas.contains(id));
    if target.leader != before.leader || lost_replicas {
        target.leader_epoch += 1;
    }
    target.partition_epoch += 1;
    Some(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use strandline_protocol::ids::TopicId;
    use uuid::Uuid;

    const RULES: Rules = Rules { min_insync_replicas: 2, unclean: false, synced: true, distrusted: None };

    fn record(isr: &[BrokerId], elr: &[BrokerId], leader: BrokerId) -> PartitionRecord {
        PartitionRecord {
            topic_id: TopicId(Uuid::nil()),
            partition: 0,
            replicas: vec![1, 2, 3],
            isr: isr.to_vec(),
            leader,
            leader_epoch: 5,
            partition_epoch: 7,
            adding: Vec::new(),
            removing: Vec::new(),
            elr: elr.to_vec(),
        }
    }

    fn after(before: &PartitionRecord, isr: &[BrokerId], rules: Rules, alive: &[BrokerId]) -> PartitionRecord {
        let target = PartitionRecord { isr: isr.to_vec(), ..before.clone() };
        settle(before, target, rules, |id| alive.contains(&id)).unwrap_or_else(|| before.clone())
    }

    #[test]
    fn a_lost_leader_is_replaced_by_the_next_in_sync() {
        let lost = after(&record(&[1, 2, 3], &[], 1), &[2, 3], RULES, &[2, 3]);
        assert_eq!((lost.leader, lost.leader_epoch, lost.partition_epoch), (2, 6, 8));
        assert!(lost.elr.is_empty(), "two in sync are enough");
    }

    #[test]
    fn who_leaves_a_small_set_stays_eligible() {
        let one = after(&record(&[1, 2], &[], 1), &[1], RULES, &[1]);
        assert_eq!((one.elr.as_slice(), one.leader, one.leader_epoch), (&[2][..], 1, 5));
        let none = after(&one, &[], RULES, &[]);
        assert_eq!((none.isr.len(), none.elr.as_slice(), none.leader), (0, &[1, 2][..], NO_LEADER));
        let back = after(&none, &[], RULES, &[2]);
        assert_eq!((back.isr.as_slice(), back.elr.as_slice(), back.leader), (&[2][..], &[1][..], 2));
        let full = after(&back, &[2, 1], RULES, &[1, 2]);
        assert!(full.elr.is_empty());
    }

    #[test]
    fn only_unclean_election_takes_who_may_lack_records() {
        let none = record(&[], &[1], NO_LEADER);
        assert_eq!(after(&none, &[], RULES, &[3]).leader, NO_LEADER);
        let unclean = after(&none, &[], Rules { unclean: true, ..RULES }, &[3]);
        assert_eq!((unclean.leader, unclean.isr.as_slice(), unclean.elr.len()), (3, &[3][..], 0));
    }

    #[test]
    fn who_may_have_lost_what_it_had_is_not_eligible() {
        let distrusts = |id| Rules { synced: false, distrusted: Some(id), ..RULES };
        let two = record(&[], &[1, 2], NO_LEADER);
        assert_eq!(after(&two, &[], distrusts(2), &[]).elr, [1]);
        let last = record(&[1], &[], 1);
        assert_eq!(after(&last, &[], distrusts(1), &[]).elr, [1], "nobody else is left");
    }

    #[test]
    fn a_stopping_leader_that_nobody_in_sync_can_follow_goes_on() {
        let last = record(&[1], &[2], 1);
        assert_eq!(settle(&last, last.clone(), RULES, |id| id != 1), None);
        let two = record(&[1, 2], &[], 1);
        let followed = settle(&two, two.clone(), RULES, |id| id != 1).unwrap();
        assert_eq!((followed.leader, followed.leader_epoch), (2, 6));
    }

    #[test]
    fn nothing_is_written_if_nothing_changed() {
        let before = record(&[1, 2, 3], &[], 1);
        assert_eq!(settle(&before, before.clone(), RULES, |_| true), None);
    }
}
