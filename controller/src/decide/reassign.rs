//! Moves of replicas, and elections that an operator asks for.
//!
//! Owns AlterPartitionReassignments and ElectLeaders. A move adds first and removes when what was added is in sync, so
//! that there are never fewer copies than before; a cancelled one goes back to the replicas it began with.

use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::BrokerId;

use super::Defaults;
use super::brokers::for_each;
use super::election::{Rules, finish, may_lead_of, settle};
use super::isr::end_reassignment;
use super::partitions::check_assignment;
use crate::image::{MetadataImage, PartitionImage};
use crate::record::{MetadataRecord, PartitionRecord};
use crate::request::{ElectLeaders, ElectionKind, Reassignment, Refused};

pub(super) fn reassign(
    image: &MetadataImage,
    defaults: &Defaults,
    moves: &[Reassignment],
    out: &mut Vec<MetadataRecord>,
) -> Vec<Result<(), Refused>> {
    moves
        .iter()
        .map(|wanted| {
            let (topic, partition) = find(image, &wanted.topic, wanted.partition, unknown_to_move)?;
            let rules = Rules::of(image, defaults, &topic);
            let next = match &wanted.replicas {
                Some(replicas) => begin(image, &partition.record, replicas, rules)?,
                None => cancel(image, &partition.record, rules)?,
            };
            out.extend(next.map(MetadataRecord::Partition));
            Ok(())
        })
        .collect()
}

/// The partition with its topic's name. `unknown` is Kafka's text for a topic, or for a partition of it, that is not there.
fn find<'a>(
    image: &'a MetadataImage,
    topic: &str,
    partition: i32,
    unknown: impl Fn(&str, Option<i32>) -> String,
) -> Result<(String, &'a PartitionImage), Refused> {
    let refused = |partition| Refused::new(ErrorCode::UnknownTopicOrPartition, unknown(topic, partition));
    let found = image.topic(topic).ok_or_else(|| refused(None))?;
    let state = image.partition(found.id, partition).ok_or_else(|| refused(Some(partition)))?;
    Ok((found.name.to_string(), state))
}

fn unknown_to_move(topic: &str, partition: Option<i32>) -> String {
    match partition {
        None => format!("Unable to find a topic named {topic}."),
        Some(partition) => format!("Unable to find partition {topic}:{partition}."),
    }
}

fn unknown_to_elect(topic: &str, partition: Option<i32>) -> String {
    match partition {
        None => format!("No such topic as {topic}"),
        Some(partition) => format!("No such partition as {topic}-{partition}"),
    }
}

fn begin(
    image: &MetadataImage,
    record: &PartitionRecord,
    wanted: &[BrokerId],
    rules: Rules,
) -> Result<Option<PartitionRecord>, Refused> {
    check_assignment(image, wanted)?;
    // A move that replaces another one begins from where that one began, but who has come into sync since goes only in the end.
    let counts = |id: &BrokerId| record.isr.contains(id) || record.elr.contains(id);
    let begun = |id: &BrokerId| !record.adding.contains(id) || counts(id);
    let original: Vec<BrokerId> = record.replicas.iter().copied().filter(begun).collect();
    let mut target = record.clone();
    target.adding = wanted.iter().copied().filter(|id| !original.contains(id)).collect();
    target.removing = original.iter().copied().filter(|id| !wanted.contains(id)).collect();
    target.replicas = wanted.iter().chain(&target.removing).copied().collect();
    let moving = settle(record, target.clone(), rules, may_lead_of(image, record)).unwrap_or(target);
    let ended = end_reassignment(&moving, rules, may_lead_of(image, record));
    Ok(finish(record, ended.unwrap_or(moving)))
}

fn cancel(image: &MetadataImage, record: &PartitionRecord, rules: Rules) -> Result<Option<PartitionRecord>, Refused> {
    if !record.is_reassigning() {
        let message = "No partition reassignment is in progress.";
        return Err(Refused::new(ErrorCode::NoReassignmentInProgress, message));
    }
    let mut target = record.clone();
    target.replicas.retain(|id| !record.adding.contains(id));
    target.adding.clear();
    target.removing.clear();
    if !target.isr.iter().any(|id| target.replicas.contains(id)) {
        let message = "None of the original replicas is in sync: the move cannot be cancelled now.";
        return Err(Refused::new(ErrorCode::InvalidReplicaAssignment, message));
    }
    let settled = settle(record, target.clone(), rules, may_lead_of(image, record));
    Ok(finish(record, settled.unwrap_or(target)))
}

/// Elects; the answer has a row for each partition that was named, or that changed.
pub(super) fn elect(
    image: &MetadataImage,
    defaults: &Defaults,
    request: &ElectLeaders,
    out: &mut Vec<MetadataRecord>,
) -> Vec<(String, i32, Result<(), Refused>)> {
    let Some(named) = &request.partitions else {
        let before = out.len();
        for_each(image, defaults, |_| true, out, |record, rules| elect_one(image, record, rules, request.kind).ok());
        let changed = out[before..].iter().filter_map(|record| match record {
            MetadataRecord::Partition(p) => {
                Some((image.topics.get(&p.topic_id)?.name.to_string(), p.partition, Ok(())))
            }
            _ => None,
        });
        return changed.collect();
    };
    let mut rows = Vec::new();
    for (topic, partition) in named {
        let outcome = find(image, topic, *partition, unknown_to_elect).and_then(|(name, found)| {
            let rules = Rules::of(image, defaults, &name);
            elect_one(image, &found.record, rules, request.kind)
        });
        rows.push((topic.clone(), *partition, outcome.map(|next| out.push(MetadataRecord::Partition(next)))));
    }
    rows
}

fn elect_one(
    image: &MetadataImage,
    record: &PartitionRecord,
    rules: Rules,
    kind: ElectionKind,
) -> Result<PartitionRecord, Refused> {
    let not_needed = || Refused::new(ErrorCode::ElectionNotNeeded, "Leader election not needed for topic partition.");
    match kind {
        ElectionKind::Preferred => {
            let preferred = record.replicas.first().copied().unwrap_or(-1);
            if record.leader == preferred {
                return Err(not_needed());
            }
            if !record.isr.contains(&preferred) || !may_lead_of(image, record)(preferred) {
                let message = format!("The preferred leader {preferred} is not in sync or not available.");
                return Err(Refused::new(ErrorCode::PreferredLeaderNotAvailable, message));
            }
            let target = PartitionRecord { leader: preferred, ..record.clone() };
            finish(record, target).ok_or_else(not_needed)
        }
        ElectionKind::Unclean => {
            if record.leader >= 0 {
                return Err(not_needed());
            }
            let rules = Rules { unclean: true, ..rules };
            settle(record, record.clone(), rules, may_lead_of(image, record)).ok_or_else(|| {
                let message = "No replica of the partition is available.";
                Refused::new(ErrorCode::EligibleLeadersNotAvailable, message)
            })
        }
    }
}
