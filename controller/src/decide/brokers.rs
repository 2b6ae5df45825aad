//! Registration and fencing of brokers.
//!
//! Owns the rule that a broker epoch is the index of the registration's entry, and that a registration of a new
//! incarnation begins a new leader epoch for every partition the broker leads (what the old process sent late is
//! refused by epoch).

use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::{BrokerEpoch, BrokerId};

use crate::image::MetadataImage;
use crate::record::{BrokerRecord, MetadataRecord};
use crate::request::{Refused, RegisterBroker};

/// -1 as the epoch means: the index of the entry that holds `out`; the service fills it in.
pub(super) fn register(
    image: &MetadataImage,
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
    }));
    for partition in image.partitions.values().filter(|p| p.record.leader == request.broker_id) {
        let mut record = partition.record.clone();
        record.leader_epoch += 1;
        record.partition_epoch += 1;
        out.push(MetadataRecord::Partition(record));
    }
    Ok(-1)
}

pub(super) fn unfence(
    image: &MetadataImage,
    broker_id: BrokerId,
    broker_epoch: BrokerEpoch,
    out: &mut Vec<MetadataRecord>,
) -> Result<(), Refused> {
    let broker = check_epoch(image, broker_id, broker_epoch)?;
    if broker.fenced {
        out.push(MetadataRecord::BrokerFence { broker_id, broker_epoch, fenced: false });
    }
    Ok(())
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
