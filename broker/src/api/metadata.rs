//! Metadata, DescribeCluster and DescribeTopicPartitions, from the image alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use strandline_controller::image::{MetadataImage, TopicImage};
use strandline_controller::record::BrokerRecord;
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::{TopicId, TopicPartition, validate_topic_name};
use strandline_protocol::messages::describe_cluster_request::DescribeClusterRequest;
use strandline_protocol::messages::describe_cluster_response::{DescribeClusterBroker, DescribeClusterResponse};
use strandline_protocol::messages::describe_topic_partitions_request::DescribeTopicPartitionsRequest;
use strandline_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponse, DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
};
use strandline_protocol::messages::metadata_request::MetadataRequest;
use strandline_protocol::messages::metadata_response::{
    MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};

use super::{CLUSTER_OPERATIONS, Call, OPERATIONS_OMITTED, TOPIC_OPERATIONS, operations};
use crate::auto_topics::{is_internal, may_auto_create};
use crate::broker::Broker;

pub(super) async fn handle(broker: Arc<Broker>, call: Call, request: MetadataRequest) -> MetadataResponse {
    let image = broker.image();
    // Version 0 says "all" with an empty list, later ones with null.
    let all = match &request.topics {
        None => true,
        Some(topics) => call.version == 0 && topics.is_empty(),
    };
    if let Some(refused) = refuse_ids(call.version, &request) {
        return refused;
    }
    let mut topics = Vec::new();
    if all {
        topics.extend(image.topic_ids.values().filter_map(|id| image.live_topic(*id)).map(|t| describe(&image, t)));
    } else {
        let mut seen = BTreeSet::new();
        for wanted in request.topics.iter().flatten() {
            let id = TopicId(wanted.topic_id);
            // A topic that is named twice is told once.
            if !seen.insert((&wanted.name, wanted.name.is_none().then_some(id))) {
                continue;
            }
            topics.push(match &wanted.name {
                Some(name) => by_name(&broker, &image, name, request.allow_auto_topic_creation).await,
                None => by_id(&image, id),
            });
        }
    }
    for topic in &mut topics {
        topic.topic_authorized_operations = operations(request.include_topic_authorized_operations, TOPIC_OPERATIONS);
    }
    MetadataResponse {
        brokers: alive(&image, &call.context.listener)
            .map(|(b, host, port)| MetadataResponseBroker {
                node_id: b.broker_id,
                host,
                port,
                rack: b.rack.clone(),
                ..Default::default()
            })
            .collect(),
        cluster_id: image.cluster_id.as_ref().map(ToString::to_string),
        controller_id: controller_id(&broker, &image),
        topics,
        cluster_authorized_operations: operations(request.include_cluster_authorized_operations, CLUSTER_OPERATIONS),
        ..Default::default()
    }
}

/// Versions 10 and 11 have a place for topic ids, but only later ones take them.
fn refuse_ids(version: i16, request: &MetadataRequest) -> Option<MetadataResponse> {
    let topics = request.topics.as_ref()?;
    let with_id = topics.iter().any(|t| t.name.is_none() || !t.topic_id.is_nil());
    if version >= 12 || !with_id {
        return None;
    }
    let code = ErrorCode::InvalidRequest;
    let topics = topics.iter().map(|t| failed(Some(t.name.clone().unwrap_or_default()), TopicId(t.topic_id), code));
    Some(MetadataResponse {
        topics: topics.collect(),
        controller_id: -1,
        cluster_authorized_operations: OPERATIONS_OMITTED,
        error_code: code.code(),
        ..Default::default()
    })
}

/// Unfenced brokers with their endpoint of the listener that was asked.
fn alive<'a>(
    image: &'a MetadataImage,
    listener: &'a str,
) -> impl Iterator<Item = (&'a Arc<BrokerRecord>, String, i32)> {
    registered(image, listener).filter(|(b, ..)| !b.fenced)
}

/// Brokers with their endpoint of the listener that was asked.
fn registered<'a>(
    image: &'a MetadataImage,
    listener: &'a str,
) -> impl Iterator<Item = (&'a Arc<BrokerRecord>, String, i32)> {
    image.brokers.values().filter_map(move |b| {
        let endpoint = b.endpoint(listener)?;
        Some((b, endpoint.host.clone(), i32::from(endpoint.port)))
    })
}

/// Not the active controller, which clients cannot reach: as in Kafka with KRaft, a broker that is alive. Kafka draws one; this
/// one surely is. Clients send administrative requests here, and every broker forwards them.
fn controller_id(broker: &Broker, image: &MetadataImage) -> i32 {
    if image.brokers.contains_key(&broker.config.node_id) { broker.config.node_id } else { -1 }
}

async fn by_name(broker: &Arc<Broker>, image: &MetadataImage, name: &str, create: bool) -> MetadataResponseTopic {
    if let Some(topic) = image.topic(name) {
        return describe(image, topic);
    }
    let code = match validate_topic_name(name) {
        Err(_) => ErrorCode::InvalidTopicException,
        Ok(()) if create && may_auto_create(broker, name) => match broker.auto_topics.create(broker, name).await {
            // The topic is known by the time the client asks again.
            Ok(()) => {
                let image = broker.image();
                if let Some(topic) = image.topic(name) {
                    return describe(&image, topic);
                }
                ErrorCode::LeaderNotAvailable
            }
            Err(refused) => refused.code,
        },
        Ok(()) => ErrorCode::UnknownTopicOrPartition,
    };
    failed(Some(name.to_owned()), TopicId::default(), code)
}

fn by_id(image: &MetadataImage, id: TopicId) -> MetadataResponseTopic {
    match image.live_topic(id) {
        Some(topic) => describe(image, topic),
        None => failed(None, id, ErrorCode::UnknownTopicId),
    }
}

fn failed(name: Option<String>, id: TopicId, code: ErrorCode) -> MetadataResponseTopic {
    MetadataResponseTopic {
        error_code: code.code(),
        name,
        topic_id: id.0,
        topic_authorized_operations: OPERATIONS_OMITTED,
        ..Default::default()
    }
}

fn describe(image: &MetadataImage, topic: &TopicImage) -> MetadataResponseTopic {
    let partitions = image
        .partitions_of(topic)
        .map(|p| {
            let p = &p.record;
            let tp = TopicPartition { topic_id: p.topic_id, partition: p.partition };
            let dead = |id: &&i32| image.brokers.get(*id).is_none_or(|b| b.fenced) || image.is_offline(tp, **id);
            let code = if p.leader < 0 { ErrorCode::LeaderNotAvailable } else { ErrorCode::None };
            MetadataResponsePartition {
                error_code: code.code(),
                partition_index: p.partition,
                leader_id: p.leader,
                leader_epoch: p.leader_epoch,
                replica_nodes: p.replicas.clone(),
                isr_nodes: p.isr.clone(),
                offline_replicas: p.replicas.iter().filter(dead).copied().collect(),
                ..Default::default()
            }
        })
        .collect();
    MetadataResponseTopic {
        error_code: ErrorCode::None.code(),
        name: Some(topic.name.to_string()),
        topic_id: topic.id.0,
        is_internal: is_internal(&topic.name),
        partitions,
        topic_authorized_operations: OPERATIONS_OMITTED,
        ..Default::default()
    }
}

pub(super) async fn describe_cluster(
    broker: Arc<Broker>,
    call: Call,
    request: DescribeClusterRequest,
) -> DescribeClusterResponse {
    const BROKERS: i8 = 1;
    const CONTROLLERS: i8 = 2;
    let image = broker.image();
    if request.endpoint_type != BROKERS {
        let (code, message) = if request.endpoint_type == CONTROLLERS {
            let message = "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type \
                           CONTROLLER";
            (ErrorCode::MismatchedEndpointType, message.to_owned())
        } else {
            (ErrorCode::UnsupportedEndpointType, format!("Unsupported endpoint type {}", request.endpoint_type))
        };
        return DescribeClusterResponse {
            error_code: code.code(),
            error_message: Some(message),
            endpoint_type: BROKERS,
            cluster_authorized_operations: OPERATIONS_OMITTED,
            ..Default::default()
        };
    }
    DescribeClusterResponse {
        endpoint_type: BROKERS,
        cluster_id: image.cluster_id.as_ref().map(ToString::to_string).unwrap_or_default(),
        controller_id: controller_id(&broker, &image),
        brokers: registered(&image, &call.context.listener)
            .filter(|(b, ..)| !b.fenced || request.include_fenced_brokers)
            .map(|(b, host, port)| DescribeClusterBroker {
                broker_id: b.broker_id,
                host,
                port,
                rack: b.rack.clone(),
                is_fenced: b.fenced,
                ..Default::default()
            })
            .collect(),
        cluster_authorized_operations: operations(request.include_cluster_authorized_operations, CLUSTER_OPERATIONS),
        ..Default::default()
    }
}

/// A cursor must be in what is asked for.
fn bad_cursor(request: &DescribeTopicPartitionsRequest) -> bool {
    request.cursor.as_ref().is_some_and(|cursor| {
        let named = request.topics.iter().any(|t| t.name == cursor.topic_name);
        cursor.partition_index < 0 || (!request.topics.is_empty() && !named)
    })
}

/// Topics in name order, from the cursor on, up to the limit (KIP-966).
pub(super) async fn describe_topic_partitions(
    broker: Arc<Broker>,
    _call: Call,
    request: DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    const PARTITIONS_MAX: usize = 2000;
    if bad_cursor(&request) {
        let refused = request.topics.into_iter().map(|t| DescribeTopicPartitionsResponseTopic {
            error_code: ErrorCode::InvalidRequest.code(),
            name: Some(t.name),
            topic_authorized_operations: OPERATIONS_OMITTED,
            ..Default::default()
        });
        return DescribeTopicPartitionsResponse { topics: refused.collect(), ..Default::default() };
    }
    let image = broker.image();
    let mut names: Vec<String> = if request.topics.is_empty() {
        image.topic_ids.keys().map(ToString::to_string).collect()
    } else {
        request.topics.iter().map(|t| t.name.clone()).collect()
    };
    names.sort();
    names.dedup();
    let (from_name, mut from_partition) =
        request.cursor.as_ref().map_or((String::new(), 0), |c| (c.topic_name.clone(), c.partition_index.max(0)));
    let mut room = usize::try_from(request.response_partition_limit).unwrap_or(0).clamp(1, PARTITIONS_MAX);
    let mut response = DescribeTopicPartitionsResponse::default();
    for name in names.into_iter().filter(|n| *n >= from_name) {
        if name != from_name {
            from_partition = 0;
        }
        if room == 0 {
            response.next_cursor = Some(Cursor { topic_name: name, partition_index: 0, ..Default::default() });
            break;
        }
        let Some(topic) = image.topic(&name) else {
            let code = match validate_topic_name(&name) {
                Ok(()) => ErrorCode::UnknownTopicOrPartition,
                Err(_) => ErrorCode::InvalidTopicException,
            };
            response.topics.push(DescribeTopicPartitionsResponseTopic {
                error_code: code.code(),
                name: Some(name),
                topic_authorized_operations: TOPIC_OPERATIONS,
                ..Default::default()
            });
            continue;
        };
        let described = describe(&image, topic);
        let all = described.partitions.into_iter().filter(|p| p.partition_index >= from_partition);
        let partitions: Vec<_> = all.take(room).map(topic_partition).collect();
        room -= partitions.len();
        let next = partitions.last().map_or(from_partition, |p| p.partition_index + 1);
        response.topics.push(DescribeTopicPartitionsResponseTopic {
            name: Some(name.clone()),
            topic_id: topic.id.0,
            is_internal: described.is_internal,
            partitions,
            topic_authorized_operations: TOPIC_OPERATIONS,
            ..Default::default()
        });
        if next < topic.partition_count {
            response.next_cursor = Some(Cursor { topic_name: name, partition_index: next, ..Default::default() });
            break;
        }
    }
    response
}

fn topic_partition(p: MetadataResponsePartition) -> DescribeTopicPartitionsResponsePartition {
    DescribeTopicPartitionsResponsePartition {
        error_code: p.error_code,
        partition_index: p.partition_index,
        leader_id: p.leader_id,
        leader_epoch: p.leader_epoch,
        replica_nodes: p.replica_nodes,
        isr_nodes: p.isr_nodes,
        offline_replicas: p.offline_replicas,
        // Nobody is; Kafka's admin client takes null for a fault.
        eligible_leader_replicas: Some(Vec::new()),
        last_known_elr: Some(Vec::new()),
        ..Default::default()
    }
}
