//! What the page tells of the cluster's metadata: brokers, the controllers' quorum, leaders and replicas.
//!
//! Owns nothing: all of it is read from the image when the page is asked for. Names are those of Kafka's JMX exporter and of
//! kafka_exporter.

use std::fmt;

use strandline_controller::NodeId;
use strandline_controller::record::PartitionRecord;

use super::{Family, Labels};
use crate::broker::Broker;

/// `controller_leader` is the active controller, as far as this node knows.
pub(super) fn page(broker: &Broker, controller_leader: Option<NodeId>, page: &mut Family<'_, '_>) -> fmt::Result {
    brokers(broker, page)?;
    quorum(broker, controller_leader, page)?;
    replicas(broker, page)?;
    led(broker, page)
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn brokers(broker: &Broker, page: &mut Family<'_, '_>) -> fmt::Result {
    let image = broker.image();
    let info: Vec<_> = image
        .brokers
        .values()
        .map(|b| {
            let address = b.endpoints.first().map_or_else(String::new, |e| format!("{}:{}", e.host, e.port));
            (vec![("id", b.broker_id.to_string()), ("address", address)], 1)
        })
        .collect();
    page.gauge("kafka_brokers", "Registered brokers", count(image.brokers.len()))?;
    page.gauges("kafka_broker_info", "Address of a broker", &info)
}

fn quorum(broker: &Broker, leader: Option<NodeId>, page: &mut Family<'_, '_>) -> fmt::Result {
    let prefix = "kafka_server_raftmetrics";
    let known = leader.map_or(-1, |id| i64::try_from(id).unwrap_or(i64::MAX));
    let mine = known == i64::from(broker.config.node_id);
    let state = match leader {
        Some(_) if mine => "leader",
        Some(_) if !broker.controller.is_voter() => "observer",
        Some(_) => "follower",
        None => "unattached",
    };
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let (applied, here) = (number(broker.image().index), broker.controller.quorum());
    page.gauge(&format!("{prefix}_current_epoch"), "Term of the metadata log", number(here.term))?;
    page.gauge(&format!("{prefix}_log_end_offset"), "Entries of the metadata log here", number(here.last_index) + 1)?;
    page.gauge(
        "kafka_controller_kafkacontroller_activecontrollercount",
        "1 on the active controller",
        i64::from(mine),
    )?;
    page.gauge(&format!("{prefix}_current_leader"), "Node id of the active controller, -1 = unknown", known)?;
    page.gauges(
        &format!("{prefix}_current_state"),
        "1 for what this controller is",
        &[(vec![("state", state.to_owned())], 1)],
    )?;
    page.gauge(
        &format!("{prefix}_high_watermark"),
        "Entries of the metadata log that are decided and applied",
        applied + 1,
    )
}

/// Every partition of every live topic.
fn replicas(broker: &Broker, page: &mut Family<'_, '_>) -> fmt::Result {
    let image = broker.image();
    let mut records: Vec<(&str, &PartitionRecord)> = Vec::new();
    for (name, id) in &image.topic_ids {
        if let Some(topic) = image.live_topic(*id) {
            records.extend(image.partitions_of(topic).map(|p| (&**name, &p.record)));
        }
    }
    let column = |value: fn(&PartitionRecord) -> i64| -> Vec<(Labels, i64)> {
        records.iter().map(|(topic, p)| (labels(topic, p.partition), value(p))).collect()
    };
    let prefix = "kafka_topic_partition";
    page.gauges(&format!("{prefix}_leader"), "Broker that leads, -1 = none", &column(|p| i64::from(p.leader)))?;
    page.gauges(
        &format!("{prefix}_leader_is_preferred"),
        "1 if the first replica leads",
        &column(|p| i64::from(p.replicas.first() == Some(&p.leader))),
    )?;
    page.gauges(&format!("{prefix}_replicas"), "Replicas assigned", &column(|p| count(p.replicas.len())))?;
    page.gauges(&format!("{prefix}_in_sync_replica"), "Replicas in sync", &column(|p| count(p.isr.len())))?;
    page.gauges(
        &format!("{prefix}_under_replicated_partition"),
        "1 if fewer replicas are in sync than assigned",
        &column(|p| i64::from(p.isr.len() < p.replicas.len())),
    )
}

/// The partitions that this broker leads.
fn led(broker: &Broker, page: &mut Family<'_, '_>) -> fmt::Result {
    let image = broker.image();
    let mut hosted = broker.partitions.all();
    hosted.retain(|p| p.leads());
    hosted.sort_by(|a, b| (&a.topic, a.tp.partition).cmp(&(&b.topic, b.tp.partition)));
    let mut columns: [Vec<(Labels, i64)>; 5] = Default::default();
    let (mut under_replicated, mut under_min) = (0, 0);
    for partition in hosted {
        let Some(state) = image.partition(partition.tp.topic_id, partition.tp.partition) else { continue };
        let (replicas, in_sync) = (count(state.record.replicas.len()), count(state.record.isr.len()));
        let least = i64::from(partition.config().min_insync_replicas);
        let values =
            [replicas, in_sync, i64::from(in_sync < replicas), i64::from(in_sync < least), i64::from(in_sync == least)];
        under_replicated += values[2];
        under_min += values[3];
        for (column, value) in columns.iter_mut().zip(values) {
            column.push((labels(&partition.topic, partition.tp.partition), value));
        }
    }
    let prefix = "kafka_cluster_partition";
    for (name, help, column) in [
        ("replicascount", "Replicas assigned", &columns[0]),
        ("insyncreplicascount", "Replicas in sync", &columns[1]),
        ("underreplicated", "1 if fewer replicas are in sync than assigned", &columns[2]),
        ("underminisr", "1 if fewer replicas are in sync than min.insync.replicas", &columns[3]),
        ("atminisr", "1 if as many replicas are in sync as min.insync.replicas", &columns[4]),
    ] {
        page.gauges(&format!("{prefix}_{name}"), help, column)?;
    }
    let prefix = "kafka_server_replicamanager";
    page.gauge(
        &format!("{prefix}_underreplicatedpartitions"),
        "Partitions with fewer replicas in sync than assigned",
        under_replicated,
    )?;
    page.gauge(&format!("{prefix}_underminisrpartitioncount"), "Partitions below min.insync.replicas", under_min)
}

fn labels(topic: &str, partition: i32) -> Labels {
    vec![("topic", topic.to_owned()), ("partition", partition.to_string())]
}
