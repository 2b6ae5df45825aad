//! Requests and answers as bytes, for brokers that ask a controller on another node.
//!
//! Owns the layout, which both ends of one release share: the first byte is its version, and another version is refused,
//! never guessed. Does not own frames or connections. A length is checked against the bytes that are there.

use std::collections::BTreeMap;

use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::{TopicId, TopicPartition};
use strandline_protocol::remote_pointer::{Advance, AdvanceOutcome, Refusal, RemotePointer};
use uuid::Uuid;

use crate::encoding::{DecodeError, Get, Put};
use crate::handle::{QuorumView, ReplicaView};
use crate::record::{Endpoint, MetadataRecord, PartitionRecord, ResourceType};
use crate::request::{
    AlterConfigs, ConfigOp, CreatedTopic, ElectLeaders, ElectionKind, Heartbeat, HeartbeatAnswer, IsrChange, Loss,
    NewPartitions, NewTopic, Reassignment, Refused, RegisterBroker, Request, Response,
};
use crate::service::ControllerError;

/// Version of this layout.
const VERSION: u8 = 1;

type Decoded<T> = Result<T, DecodeError>;

/// A value with a layout.
trait Wire: Sized {
    fn put(&self, out: &mut Put);
    fn get(get: &mut Get<'_>) -> Decoded<Self>;
}

macro_rules! primitive {
    ($($type:ty: $method:ident),*) => {$(
        impl Wire for $type {
            fn put(&self, out: &mut Put) {
                out.$method(*self);
            }
            fn get(get: &mut Get<'_>) -> Decoded<Self> {
                get.$method(stringify!($type))
            }
        }
    )*};
}

primitive!(u8: u8, u16: u16, u32: u32, u64: u64, i32: i32, i64: i64, Uuid: uuid);

macro_rules! layout {
    ($($type:ident { $($field:ident),* })*) => {$(
        impl Wire for $type {
            fn put(&self, out: &mut Put) {
                $(self.$field.put(out);)*
            }
            fn get(get: &mut Get<'_>) -> Decoded<Self> {
                Ok($type { $($field: Wire::get(get)?),* })
            }
        }
    )*};
}

layout! {
    Endpoint { listener, host, port }
    RegisterBroker { broker_id, cluster_id, incarnation, endpoints, rack, clean }
    Heartbeat { broker_id, broker_epoch, applied_index, ready, want_shutdown }
    HeartbeatAnswer { fenced, may_stop }
    NewTopic { name, topic_id, partitions, replication_factor, assignments, configs }
    NewPartitions { name, count, assignments }
    AlterConfigs { resource, name, ops, replace_all }
    IsrChange { tp, leader_epoch, partition_epoch, isr, broker_epochs }
    Reassignment { topic, partition, replicas }
    ElectLeaders { kind, partitions }
    CreatedTopic { topic_id, partitions, replication_factor }
    Refused { code, message }
    TopicPartition { topic_id, partition }
    AdvanceOutcome { accepted, pointer }
    ReplicaView { node_id, address, voter, matched }
    QuorumView { leader, term, last_index, applied_index, replicas }
}

fn unknown<T>(field: &'static str, value: impl Into<i64>) -> Decoded<T> {
    Err(DecodeError::Unknown { field, value: value.into() })
}

impl Wire for () {
    fn put(&self, _: &mut Put) {}
    fn get(_: &mut Get<'_>) -> Decoded<Self> {
        Ok(())
    }
}

impl Wire for bool {
    fn put(&self, out: &mut Put) {
        out.u8((*self).into());
    }
    fn get(get: &mut Get<'_>) -> Decoded<Self> {
        Ok(get.u8("flag")? != 0)
    }
}

impl Wire for i16 {
    fn put(&self, out: &mut Put) {
        out.u16(self.cast_unsigned());
    }
    fn get(get: &mut Get<'_>) -> Decoded<Self> {
        Ok(get.u16("i16")?.cast_signed())
    }
}

impl Wire for String {
    fn put(&self, out: &mut Put) {
        out.string(self);
    }
    fn get(get: &mut Get<'_>) -> Decoded<Self> {
        get.string("string")
    }
}

impl Wire for TopicId {
    fn put(&self, out: &mut Put) {
        out.uuid(self.0);
    }
    fn get(get: &mut Get<'_>) -> Decoded<Self> {
        Ok(TopicId(get.uuid("topic id")?))
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, out: &mut Put) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }
    fn get(get: &mut Get<'_>) -> Decoded<Self> {
        Ok(if bool::get(get)? { Some(T::get(get)?) } else { None })
    }
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, out: &mut Put) {
        out.u32(self.len() as u32);
        self.iter().for_each(|item| item.put(out));
    }
    fn get(get: &mut Get<'_>) -> Decoded<Self> {
        let count = get.count("list", 1)?;
        (0..count).map(|_| T::get(get)).collect()
    }
}

impl<K: Wire + Ord, V: Wire> Wire for BTreeMap<K, V> {
    fn put(&self, out: &mut Put) {
        out.u32(self.len() as u32);
        for (key, value) in self {
            key.put(out);
            value.put(out);
        }
    }
    fn get(get: &mut Get<'_>) -> Decoded<Self> {
        let count = get.count("map", 2)?;
        (0..count).map(|_| Ok((K::get(get)?, V::get(get)?))).collect()
    }
}

impl<T: Wire, E: Wire> Wire for Result<T, E> {
    fn put(&self, out: &mut Put) {
        match self {
            Ok(value) => value.put(out.u8(0)),
            Err(error) => error.put(out.u8(1)),
        }
    }
    fn get(get: &mut Get<'_>) -> Decoded<Self> {
        Ok(match get.u8("outcome")? {
            0 => Ok(T::get(get)?),
            1 => Err(E::get(get)?),
            other => return unknown("outcome", other),
        })
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, out: &mut Put) {
        self.0.put(out);
        self.1.put(out);
    }
    fn get(get: &mut Get<'_>) -> Decoded<Self> {
        Ok((A::get(get)?, B::get(get)?))
    }
}

impl<A: Wire, B: Wire, C: Wire> Wire for (A, B, C) {
    fn put(&self, out: &mut Put) {
        self.0.put(out);
        self.1.put(out);
        self.2.put(out);
    }
    fn get(get: &mut Get<'_>) -> Decoded<Self> {
        Ok((A::get(get)?, B::get(get)?, C::get(get)?))
    }
}

impl Wire for ErrorCode {
    fn put(&self, out: &mut Put) {
        self.code().put(out);
    }
    fn get(get: &mut Get<'_>) -> Decoded<Self> {
        let code = i16::get(get)?;
        ErrorCode::from_code(code).ok_or(DecodeError::Unknown { field: "error code", value: code.into() })
    }
}

impl Wire for ResourceType {
    fn put(&self, out: &mut Put) {
        out.u8(self.id().cast_unsigned());
    }
    fn get(get: &mut Get<'_>) -> Decoded<Self> {
        let id = get.u8("resource type")?.cast_signed();
        ResourceType::from_id(id).ok_or(DecodeError::Unknown { field: "resource type", value: id.into() })
    }
}

impl Wire for ConfigOp {
    fn put(&self, out: &mut Put) {
        match self {
            ConfigOp::Set(value) => value.put(out.u8(0)),
            ConfigOp::Delete => {
                out.u8(1);
            }
            ConfigOp::Append(value) => value.put(out.u8(2)),
            ConfigOp::Subtract(value) => value.put(out.u8(3)),
        }
    }
    fn get(get: &mut Get<'_>) -> Decoded<Self> {
        Ok(match get.u8("operation")? {
            0 => ConfigOp::Set(Wire::get(get)?),
            1 => ConfigOp::Delete,
            2 => ConfigOp::Append(Wire::get(get)?),
            3 => ConfigOp::Subtract(Wire::get(get)?),
            other => return unknown("operation", other),
        })
    }
}

impl Wire for ElectionKind {
    fn put(&self, out: &mut Put) {
        out.u8(match self {
            ElectionKind::Preferred => 0,
            ElectionKind::Unclean => 1,
        });
    }
    fn get(get: &mut Get<'_>) -> Decoded<Self> {
        Ok(match get.u8("election")? {
            0 => ElectionKind::Preferred,
            1 => ElectionKind::Unclean,
            other => return unknown("election", other),
        })
    }
}

impl Wire for Loss {
    fn put(&self, out: &mut Put) {
        out.u8(match self {
            Loss::Offline => 0,
            Loss::Damaged => 1,
            Loss::Dropped => 2,
        });
    }
    fn get(get: &mut Get<'_>) -> Decoded<Self> {
        Ok(match get.u8("loss")? {
            0 => Loss::Offline,
            1 => Loss::Damaged,
            2 => Loss::Dropped,
            other => return unknown("loss", other),
        })
    }
}

/// As the record that it is in the log.
impl Wire for PartitionRecord {
    fn put(&self, out: &mut Put) {
        MetadataRecord::Partition(self.clone()).encode(out);
    }
    fn get(get: &mut Get<'_>) -> Decoded<Self> {
        match MetadataRecord::decode(get)? {
            MetadataRecord::Partition(record) => Ok(record),
            _ => Err(DecodeError::Malformed { field: "partition", detail: "another record".to_owned() }),
        }
    }
}

fn nested<T, E: ToString>(field: &'static str, decoded: Result<T, E>) -> Decoded<T> {
    decoded.map_err(|e| DecodeError::Malformed { field, detail: e.to_string() })
}

impl Wire for Advance {
    fn put(&self, out: &mut Put) {
        out.field(&self.encode());
    }
    fn get(get: &mut Get<'_>) -> Decoded<Self> {
        nested("advance", Advance::decode(get.field("advance")?))
    }
}

impl Wire for RemotePointer {
    fn put(&self, out: &mut Put) {
        out.field(&self.encode());
    }
    fn get(get: &mut Get<'_>) -> Decoded<Self> {
        nested("pointer", RemotePointer::decode(get.field("pointer")?))
    }
}

impl Wire for Refusal {
    fn put(&self, out: &mut Put) {
        match *self {
            Refusal::UnknownPartition => out.u8(0),
            Refusal::TopicDeleting => out.u8(1),
            Refusal::NotLeader { leader } => out.u8(2).i32(leader),
            Refusal::FencedLeaderEpoch { current } => out.u8(3).i32(current),
            Refusal::StaleBrokerEpoch { current } => out.u8(4).i64(current),
            Refusal::StaleVersion { current } => out.u8(5).u64(current),
            Refusal::Closed => out.u8(6),
            Refusal::LogStartMissing => out.u8(7),
            Refusal::ManifestMissing => out.u8(8),
            Refusal::LogStartWentBack { current } => out.u8(9).i64(current),
            Refusal::HighestCopiedWentBack { current } => out.u8(10).i64(current),
            Refusal::CompleteFromOutOfRange { current, version } => out.u8(11).u64(current).u64(version),
            Refusal::ManifestMismatch { expected_version } => out.u8(12).u64(expected_version),
            Refusal::Malformed => out.u8(13),
        };
    }
    fn get(get: &mut Get<'_>) -> Decoded<Self> {
        Ok(match get.u8("refusal")? {
            0 => Refusal::UnknownPartition,
            1 => Refusal::TopicDeleting,
            2 => Refusal::NotLeader { leader: get.i32("leader")? },
            3 => Refusal::FencedLeaderEpoch { current: get.i32("current")? },
            4 => Refusal::StaleBrokerEpoch { current: get.i64("current")? },
            5 => Refusal::StaleVersion { current: get.u64("current")? },
            6 => Refusal::Closed,
            7 => Refusal::LogStartMissing,
            8 => Refusal::ManifestMissing,
            9 => Refusal::LogStartWentBack { current: get.i64("current")? },
            10 => Refusal::HighestCopiedWentBack { current: get.i64("current")? },
            11 => Refusal::CompleteFromOutOfRange { current: get.u64("current")?, version: get.u64("version")? },
            12 => Refusal::ManifestMismatch { expected_version: get.u64("version")? },
            13 => Refusal::Malformed,
            other => return unknown("refusal", other),
        })
    }
}

impl Wire for Request {
    fn put(&self, out: &mut Put) {
        match self {
            Request::RegisterBroker(registration) => registration.put(out.u8(1)),
            Request::Unfence { broker_id, broker_epoch } => (*broker_id, *broker_epoch).put(out.u8(2)),
            Request::CreateTopics { topics, validate_only } => {
                topics.put(out.u8(3));
                validate_only.put(out);
            }
            Request::DeleteTopics { topic_ids } => topic_ids.put(out.u8(4)),
            Request::FinishTopicDeletion { topic_id } => topic_id.put(out.u8(5)),
            Request::CreatePartitions { topics, validate_only } => {
                topics.put(out.u8(6));
                validate_only.put(out);
            }
            Request::AlterConfigs { resources, validate_only } => {
                resources.put(out.u8(7));
                validate_only.put(out);
            }
            Request::AllocateProducerIds { broker_id, broker_epoch } => (*broker_id, *broker_epoch).put(out.u8(8)),
            Request::Advance { advances } => advances.put(out.u8(9)),
            Request::ConfirmTopicRemoved { topic_id, broker_id } => (*topic_id, *broker_id).put(out.u8(10)),
            Request::Heartbeat(beat) => beat.put(out.u8(11)),
            Request::Fence { broker_id, broker_epoch } => (*broker_id, *broker_epoch).put(out.u8(12)),
            Request::UnregisterBroker { broker_id } => broker_id.put(out.u8(13)),
            Request::AlterIsr { broker_id, broker_epoch, changes } => {
                (*broker_id, *broker_epoch).put(out.u8(14));
                changes.put(out);
            }
            Request::Reassign { moves } => moves.put(out.u8(15)),
            Request::ElectLeaders(request) => request.put(out.u8(16)),
            Request::NameCluster { cluster_id } => cluster_id.put(out.u8(17)),
            Request::ReplicasLost { broker_id, broker_epoch, partitions, loss } => {
                (*broker_id, *broker_epoch).put(out.u8(18));
                partitions.put(out);
                loss.put(out);
            }
        }
    }

    fn get(get: &mut Get<'_>) -> Decoded<Self> {
        let kind = get.u8("request")?;
        let broker = |get: &mut Get<'_>| <(i32, i64)>::get(get);
        Ok(match kind {
            1 => Request::RegisterBroker(Wire::get(get)?),
            2 => {
                let (broker_id, broker_epoch) = broker(get)?;
                Request::Unfence { broker_id, broker_epoch }
            }
            3 => Request::CreateTopics { topics: Wire::get(get)?, validate_only: Wire::get(get)? },
            4 => Request::DeleteTopics { topic_ids: Wire::get(get)? },
            5 => Request::FinishTopicDeletion { topic_id: Wire::get(get)? },
            6 => Request::CreatePartitions { topics: Wire::get(get)?, validate_only: Wire::get(get)? },
            7 => Request::AlterConfigs { resources: Wire::get(get)?, validate_only: Wire::get(get)? },
            8 => {
                let (broker_id, broker_epoch) = broker(get)?;
                Request::AllocateProducerIds { broker_id, broker_epoch }
            }
            9 => Request::Advance { advances: Wire::get(get)? },
            10 => Request::ConfirmTopicRemoved { topic_id: Wire::get(get)?, broker_id: Wire::get(get)? },
            11 => Request::Heartbeat(Wire::get(get)?),
            12 => {
                let (broker_id, broker_epoch) = broker(get)?;
                Request::Fence { broker_id, broker_epoch }
            }
            13 => Request::UnregisterBroker { broker_id: Wire::get(get)? },
            14 => {
                let (broker_id, broker_epoch) = broker(get)?;
                Request::AlterIsr { broker_id, broker_epoch, changes: Wire::get(get)? }
            }
            15 => Request::Reassign { moves: Wire::get(get)? },
            16 => Request::ElectLeaders(Wire::get(get)?),
            17 => Request::NameCluster { cluster_id: Wire::get(get)? },
            18 => {
                let (broker_id, broker_epoch) = broker(get)?;
                let (partitions, loss) = Wire::get(get)?;
                Request::ReplicasLost { broker_id, broker_epoch, partitions, loss }
            }
            other => return unknown("request", other),
        })
    }
}

impl Wire for Response {
    fn put(&self, out: &mut Put) {
        match self {
            Response::RegisterBroker(outcome) => outcome.put(out.u8(1)),
            Response::Unfence(outcome) => outcome.put(out.u8(2)),
            Response::CreateTopics(outcomes) => outcomes.put(out.u8(3)),
            Response::DeleteTopics(outcomes) => outcomes.put(out.u8(4)),
            Response::FinishTopicDeletion(gone) => gone.put(out.u8(5)),
            Response::CreatePartitions(outcomes) => outcomes.put(out.u8(6)),
            Response::AlterConfigs(outcomes) => outcomes.put(out.u8(7)),
            Response::AllocateProducerIds(outcome) => outcome.put(out.u8(8)),
            Response::Advance(outcomes) => outcomes.put(out.u8(9)),
            Response::ConfirmTopicRemoved => {
                out.u8(10);
            }
            Response::Heartbeat(outcome) => outcome.put(out.u8(11)),
            Response::Fence(outcome) => outcome.put(out.u8(12)),
            Response::UnregisterBroker(outcome) => outcome.put(out.u8(13)),
            Response::AlterIsr(outcomes) => outcomes.put(out.u8(14)),
            Response::Reassign(outcomes) => outcomes.put(out.u8(15)),
            Response::ElectLeaders(rows) => rows.put(out.u8(16)),
            Response::NameCluster(id) => id.put(out.u8(17)),
            Response::ReplicasLost(outcome) => outcome.put(out.u8(18)),
        }
    }

    fn get(get: &mut Get<'_>) -> Decoded<Self> {
        Ok(match get.u8("response")? {
            1 => Response::RegisterBroker(Wire::get(get)?),
            2 => Response::Unfence(Wire::get(get)?),
            3 => Response::CreateTopics(Wire::get(get)?),
            4 => Response::DeleteTopics(Wire::get(get)?),
            5 => Response::FinishTopicDeletion(Wire::get(get)?),
            6 => Response::CreatePartitions(Wire::get(get)?),
            7 => Response::AlterConfigs(Wire::get(get)?),
            8 => Response::AllocateProducerIds(Wire::get(get)?),
            9 => Response::Advance(Wire::get(get)?),
            10 => Response::ConfirmTopicRemoved,
            11 => Response::Heartbeat(Wire::get(get)?),
            12 => Response::Fence(Wire::get(get)?),
            13 => Response::UnregisterBroker(Wire::get(get)?),
            14 => Response::AlterIsr(Wire::get(get)?),
            15 => Response::Reassign(Wire::get(get)?),
            16 => Response::ElectLeaders(Wire::get(get)?),
            17 => Response::NameCluster(Wire::get(get)?),
            18 => Response::ReplicasLost(Wire::get(get)?),
            other => return unknown("response", other),
        })
    }
}

impl Wire for ControllerError {
    fn put(&self, out: &mut Put) {
        match self {
            ControllerError::NotController { leader } => leader.put(out.u8(0)),
            ControllerError::TooLarge => {
                out.u8(1);
            }
            ControllerError::Stopped(reason) => reason.put(out.u8(2)),
            ControllerError::Unreachable(reason) => reason.put(out.u8(3)),
        }
    }
    fn get(get: &mut Get<'_>) -> Decoded<Self> {
        Ok(match get.u8("controller error")? {
            0 => ControllerError::NotController { leader: Wire::get(get)? },
            1 => ControllerError::TooLarge,
            2 => ControllerError::Stopped(Wire::get(get)?),
            3 => ControllerError::Unreachable(Wire::get(get)?),
            other => return unknown("controller error", other),
        })
    }
}

fn whole<T: Wire>(bytes: &[u8]) -> Decoded<T> {
    let mut get = Get::new(bytes);
    let version = get.u8("version")?;
    if version != VERSION {
        return unknown("version of controller messages", version);
    }
    let value = T::get(&mut get)?;
    if get.remaining() > 0 {
        return Err(DecodeError::Malformed {
            field: "message",
            detail: format!("{} bytes left over", get.remaining()),
        });
    }
    Ok(value)
}

fn bytes_of<T: Wire>(value: &T) -> Vec<u8> {
    let mut out = Put::default();
    value.put(out.u8(VERSION));
    out.bytes
}

pub(crate) fn encode_request(request: &Request) -> Vec<u8> {
    bytes_of(request)
}

pub(crate) fn decode_request(bytes: &[u8]) -> Decoded<Request> {
    whole(bytes)
}

pub(crate) fn encode_answer(answer: &Result<Response, ControllerError>) -> Vec<u8> {
    bytes_of(answer)
}

pub(crate) fn decode_answer(bytes: &[u8]) -> Decoded<Result<Response, ControllerError>> {
    whole(bytes)
}

pub(crate) fn encode_quorum(view: &QuorumView) -> Vec<u8> {
    bytes_of(view)
}

pub(crate) fn decode_quorum(bytes: &[u8]) -> Decoded<QuorumView> {
    whole(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests() -> Vec<Request> {
        let topic_id = TopicId(Uuid::from_u128(5));
        let tp = TopicPartition { topic_id, partition: 1 };
        vec![
            Request::Unfence { broker_id: 1, broker_epoch: 2 },
            Request::CreateTopics {
                topics: vec![NewTopic {
                    name: "t".to_owned(),
                    topic_id,
                    partitions: 3,
                    replication_factor: -1,
                    assignments: BTreeMap::from([(0, vec![1, 2])]),
                    configs: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
                }],
                validate_only: true,
            },
            Request::Heartbeat(Heartbeat {
                broker_id: 1,
                broker_epoch: 2,
                applied_index: 3,
                ready: true,
                want_shutdown: false,
            }),
            Request::AlterIsr {
                broker_id: 1,
                broker_epoch: 2,
                changes: vec![IsrChange {
                    tp,
                    leader_epoch: 3,
                    partition_epoch: 4,
                    isr: vec![1, 2],
                    broker_epochs: vec![-1, 9],
                }],
            },
            Request::Reassign {
                moves: vec![Reassignment { topic: "t".to_owned(), partition: 0, replicas: Some(vec![3]) }],
            },
            Request::ElectLeaders(ElectLeaders { kind: ElectionKind::Unclean, partitions: None }),
            Request::NameCluster { cluster_id: "c".to_owned() },
            Request::ReplicasLost { broker_id: 1, broker_epoch: 2, partitions: vec![tp], loss: Loss::Damaged },
        ]
    }

    #[test]
    fn requests_come_back_and_truncations_are_refused() {
        for request in requests() {
            let bytes = encode_request(&request);
            assert_eq!(decode_request(&bytes).as_ref(), Ok(&request));
            for len in 0..bytes.len() {
                assert!(decode_request(&bytes[..len]).is_err(), "{request:?} cut to {len}");
            }
        }
    }

    #[test]
    fn answers_come_back() {
        let pointer = RemotePointer::default();
        let refused = Refused::new(ErrorCode::PolicyViolation, "no");
        for answer in [
            Ok(Response::RegisterBroker(Ok(7))),
            Ok(Response::CreateTopics(vec![Err(refused.clone())])),
            Ok(Response::Advance(vec![AdvanceOutcome {
                accepted: Err(Refusal::StaleVersion { current: 3 }),
                pointer,
            }])),
            Ok(Response::ElectLeaders(vec![("t".to_owned(), 1, Err(refused))])),
            Err(ControllerError::NotController { leader: Some(2) }),
        ] {
            assert_eq!(decode_answer(&encode_answer(&answer)), Ok(answer));
        }
    }
}
