//! Registration, heartbeats, fencing and orderly shutdown of brokers.
//!
//! Owns the rule that a broker epoch is the index of the registration's entry, and that a new incarnation is a loss of the
//! old one: what that led goes to others in sync, and what it sends late is refused by epoch.

use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::{BrokerEpoch, BrokerId};

use super::Defaults;
use super::election::{Rules, may_lead_of, settle, tp_of};
use crate::image::MetadataImage;
use crate::record::{BrokerRecord, MetadataRecord, PartitionRecord};
use crate::request::{Heartbeat, HeartbeatAnswer, Refused, RegisterBroker};

/// The cluster's id: what it has, else what is proposed.
pub(super) fn name_cluster(image: &MetadataImage, proposed: &str, out: &mut Vec<MetadataRecord>) -> String {
    match &image.cluster_id {
        Some(id) => id.to_string(),
        None => {
            out.push(MetadataRecord::Cluster { cluster_id: proposed.to_owned() });
            proposed.to_owned()
        }
    }
}

/// -1 as the epoch means: the index of the entry that holds `out`; the service fills it in.
pub(super) fn register(
    image: &MetadataImage,
    defaults: &Defaults,
    request: &RegisterBroker,
    out: &mut Vec<MetadataRecord>,
) -> Result<BrokerEpoch, Refused> {
    match &image.cluster_id {
        None => out.push(MetadataRecord::Cluster { cluster_id: request.cluster_id.clone() }),
        Some(id) if **id == *request.cluster_id => {}
        Some(id) => {
            return Err(Refused::new(
                ErrorCode::InconsistentClusterId,
                format!("Broker {} belongs to cluster {}, this is cluster {id}", request.broker_id, request.cluster_id),
            ));
        }
    }
    if let Some(known) = image.brokers.get(&request.broker_id)
        && known.incarnation == request.incarnation
        && known.endpoints == request.endpoints
        && known.rack == request.rack
    {
        return Ok(known.broker_epoch);
    }
    out.push(MetadataRecord::Broker(BrokerRecord {
        broker_id: request.broker_id,
        broker_epoch: -1,
        incarnation: request.incarnation,
        endpoints: request.endpoints.clone(),
        rack: request.rack.clone(),
        fenced: true,
        stopping: false,
    }));
    lose(image, defaults, request.broker_id, !request.clean, out);
    Ok(-1)
}

/// A sign of life. A fenced broker that has caught up is unfenced; one that wants to stop gives its leaderships away.
pub(super) fn heartbeat(
    image: &MetadataImage,
    defaults: &Defaults,
    beat: &Heartbeat,
    out: &mut Vec<MetadataRecord>,
) -> Result<HeartbeatAnswer, Refused> {
    let broker = check_epoch(image, beat.broker_id, beat.broker_epoch)?;
    let (broker_id, broker_epoch) = (beat.broker_id, beat.broker_epoch);
    if beat.want_shutdown {
        if !broker.stopping {
            out.push(MetadataRecord::BrokerFence { broker_id, broker_epoch, fenced: broker.fenced, stopping: true });
            hand_over(image, defaults, broker_id, out);
        }
        return Ok(HeartbeatAnswer { fenced: broker.fenced, may_stop: broker.stopping });
    }
    let caught_up = u64::try_from(broker_epoch).is_ok_and(|registered| beat.applied_index >= registered);
    let fenced = broker.fenced && !(caught_up && beat.ready);
    if broker.fenced && !fenced {
        unfence_known(image, defaults, broker_id, broker_epoch, out);
    }
    Ok(HeartbeatAnswer { fenced, may_stop: false })
}

pub(super) fn unfence(
    image: &MetadataImage,
    defaults: &Defaults,
    broker_id: BrokerId,
    broker_epoch: BrokerEpoch,
    out: &mut Vec<MetadataRecord>,
) -> Result<(), Refused> {
    if check_epoch(image, broker_id, broker_epoch)?.fenced {
        unfence_known(image, defaults, broker_id, broker_epoch, out);
    }
    Ok(())
}

/// The broker serves; partitions without a leader may have one now.
fn unfence_known(
    image: &MetadataImage,
    defaults: &Defaults,
    broker_id: BrokerId,
    broker_epoch: BrokerEpoch,
    out: &mut Vec<MetadataRecord>,
) {
    out.push(MetadataRecord::BrokerFence { broker_id, broker_epoch, fenced: false, stopping: false });
    let leaderless = |record: &PartitionRecord| record.leader < 0 && record.replicas.contains(&broker_id);
    for_each(image, defaults, leaderless, out, |record, rules| {
        settle(record, record.clone(), rules, |id| {
            (id == broker_id && !image.is_offline(tp_of(record), id)) || may_lead_of(image, record)(id)
        })
    });
}

/// The broker is not there any more: it leads nothing and is in sync with nothing.
pub(super) fn fence(
    image: &MetadataImage,
    defaults: &Defaults,
    broker_id: BrokerId,
    broker_epoch: BrokerEpoch,
    out: &mut Vec<MetadataRecord>,
) -> Result<(), Refused> {
    let broker = check_epoch(image, broker_id, broker_epoch)?;
    if !broker.fenced {
        out.push(MetadataRecord::BrokerFence { broker_id, broker_epoch, fenced: true, stopping: broker.stopping });
        lose(image, defaults, broker_id, false, out);
    }
    Ok(())
}

/// Takes a broker that is gone for good out of the cluster; it must be fenced and hold no replica.
pub(super) fn unregister(
    image: &MetadataImage,
    broker_id: BrokerId,
    out: &mut Vec<MetadataRecord>,
) -> Result<(), Refused> {
    let Some(broker) = image.brokers.get(&broker_id) else {
        let message = format!("Broker {broker_id} is not registered");
        return Err(Refused::new(ErrorCode::BrokerIdNotRegistered, message));
    };
    if !broker.fenced {
        let message = format!("Broker {broker_id} is running: stop it first");
        return Err(Refused::new(ErrorCode::InvalidRequest, message));
    }
    let held = image.partitions.values().filter(|p| p.record.replicas.contains(&broker_id)).count();
    if held > 0 {
        let message = format!("Broker {broker_id} is a replica of {held} partitions: decommission it first");
        return Err(Refused::new(ErrorCode::InvalidRequest, message));
    }
    out.push(MetadataRecord::BrokerRemoved { broker_id });
    Ok(())
}

/// Takes a lost broker out of every in-sync set, and its leaderships away. `unclean`: it was not stopped in order, so that it may
/// lack what was acknowledged without a sync, and is not eligible either.
fn lose(image: &MetadataImage, defaults: &Defaults, gone: BrokerId, unclean: bool, out: &mut Vec<MetadataRecord>) {
    let touched = |record: &PartitionRecord| {
        record.leader == gone || record.isr.contains(&gone) || (unclean && record.elr.contains(&gone))
    };
    for_each(image, defaults, touched, out, |record, rules| {
        let rules = Rules { distrusted: (unclean && !rules.synced).then_some(gone), ..rules };
        let mut target = record.clone();
        target.isr.retain(|id| *id != gone);
        settle(record, target, rules, |id| id != gone && may_lead_of(image, record)(id))
    });
}

/// Gives a stopping broker's leaderships to others in sync. What nobody else has in sync stays with it until it is gone.
fn hand_over(image: &MetadataImage, defaults: &Defaults, stopping: BrokerId, out: &mut Vec<MetadataRecord>) {
    let touched = |record: &PartitionRecord| record.isr.contains(&stopping);
    for_each(image, defaults, touched, out, |record, rules| {
        let mut target = record.clone();
        target.isr.retain(|id| *id != stopping);
        let clean = Rules { unclean: false, ..rules };
        settle(record, target, clean, |id| id != stopping && may_lead_of(image, record)(id))
            .filter(|next| next.leader >= 0)
    });
}

/// Applies `change` to the partitions that `wanted` picks, and writes what comes of it.
pub(super) fn for_each(
    image: &MetadataImage,
    defaults: &Defaults,
    wanted: impl Fn(&PartitionRecord) -> bool,
    out: &mut Vec<MetadataRecord>,
    change: impl Fn(&PartitionRecord, Rules) -> Option<PartitionRecord>,
) {
    let mut of_topic = None;
    for partition in image.partitions.values().filter(|p| wanted(&p.record)) {
        let id = partition.record.topic_id;
        let Some(topic) = image.live_topic(id) else { continue };
        // Partitions come in the order of their topics.
        let rules = match of_topic {
            Some((known, rules)) if known == id => rules,
            _ => Rules::of(image, defaults, &topic.name),
        };
        of_topic = Some((id, rules));
        out.extend(change(&partition.record, rules).map(MetadataRecord::Partition));
    }
}

/// The registration, if it is the one the caller holds.
pub(super) fn check_epoch(
    image: &MetadataImage,
    broker_id: BrokerId,
    broker_epoch: BrokerEpoch,
) -> Result<&BrokerRecord, Refused> {
    match image.brokers.get(&broker_id) {
        None => Err(Refused::new(ErrorCode::BrokerIdNotRegistered, format!("Broker {broker_id} is not registered"))),
        Some(broker) if broker.broker_epoch != broker_epoch => Err(Refused::new(
            ErrorCode::StaleBrokerEpoch,
            format!("Broker {broker_id} has epoch {}, not {broker_epoch}", broker.broker_epoch),
        )),
        Some(broker) => Ok(broker),
    }
}
