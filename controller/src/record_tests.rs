//! The bytes of records: round trips of any record, golden bytes of every type, nothing read past the end.

use proptest::prelude::*;
use strandline_protocol::ids::{TopicId, TopicPartition};
use strandline_protocol::remote_pointer::{Advance, AdvanceChange, RemotePointer};
use uuid::Uuid;

use crate::encoding::{Get, Put};
use crate::record::{
    BrokerRecord, Endpoint, MetadataRecord, PartitionRecord, ResourceType, decode_records, encode_records,
};

fn topic_id() -> TopicId {
    TopicId(Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff))
}

/// One record of every type of today's layouts.
fn samples() -> Vec<MetadataRecord> {
    let mut all = first_samples();
    for record in &mut all {
        match record {
            MetadataRecord::Broker(broker) => broker.stopping = true,
            MetadataRecord::BrokerFence { stopping, .. } => *stopping = true,
            MetadataRecord::Partition(p) => (p.adding, p.removing, p.elr) = (vec![2], vec![1], vec![7, 8]),
            _ => {}
        }
    }
    all.push(MetadataRecord::TopicRemovedBy { topic_id: topic_id(), broker_id: 3 });
    all.push(MetadataRecord::BrokerRemoved { broker_id: 4 });
    let partitions = vec![TopicPartition { topic_id: topic_id(), partition: 3 }];
    all.push(MetadataRecord::ReplicasOffline { broker_id: 3, broker_epoch: 6, partitions });
    all
}

/// What the first layouts could say.
fn first_samples() -> Vec<MetadataRecord> {
    vec![
        MetadataRecord::Cluster { cluster_id: "c1".to_owned() },
        MetadataRecord::Broker(BrokerRecord {
            broker_id: 1,
            broker_epoch: -1,
            incarnation: Uuid::from_u128(7),
            endpoints: vec![Endpoint { listener: "P".to_owned(), host: "h".to_owned(), port: 9092 }],
            rack: Some("r".to_owned()),
            fenced: true,
            stopping: false,
        }),
        MetadataRecord::BrokerFence { broker_id: 1, broker_epoch: 5, fenced: false, stopping: false },
        MetadataRecord::Topic { topic_id: topic_id(), name: "t".to_owned() },
        MetadataRecord::Partition(PartitionRecord {
            topic_id: topic_id(),
            partition: 3,
            replicas: vec![1, 2],
            isr: vec![1],
            leader: 1,
            leader_epoch: 4,
            partition_epoch: 6,
            adding: Vec::new(),
            removing: Vec::new(),
            elr: Vec::new(),
        }),
        MetadataRecord::TopicDeleting { topic_id: topic_id(), at_ms: 9 },
        MetadataRecord::TopicDeleted { topic_id: topic_id() },
        MetadataRecord::Config {
            resource: ResourceType::Topic,
            name: "t".to_owned(),
            key: "k".to_owned(),
            value: Some("v".to_owned()),
        },
        MetadataRecord::ProducerIds { next_producer_id: 1000 },
        MetadataRecord::Advance(Advance {
            tp: TopicPartition { topic_id: topic_id(), partition: 3 },
            leader_epoch: 4,
            broker_id: 1,
            broker_epoch: 5,
            expected_version: 0,
            change: AdvanceChange { log_start_offset: Some(8), ..AdvanceChange::default() },
        }),
        MetadataRecord::Pointer { topic_id: topic_id(), partition: 3, pointer: RemotePointer::default() },
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn the_bytes_of_every_type_stay_what_they_are() {
    let golden = include_str!("../tests/golden/metadata-records-v1.hex");
    let written: Vec<String> = samples()
        .iter()
        .map(|record| {
            let mut out = Put::default();
            record.encode(&mut out);
            hex(&out.bytes)
        })
        .collect();
    assert_eq!(written, golden.lines().collect::<Vec<_>>(), "a layout is never changed: it gets a new version");
}

#[test]
fn what_was_written_once_is_read_for_ever() {
    let bytes = |line: &str| -> Vec<u8> {
        (0..line.len()).step_by(2).map(|at| u8::from_str_radix(&line[at..at + 2], 16).unwrap()).collect()
    };
    let read = |golden: &str| -> Vec<MetadataRecord> {
        golden.lines().map(|line| MetadataRecord::decode(&mut Get::new(&bytes(line))).unwrap()).collect()
    };
    assert_eq!(read(include_str!("../tests/golden/metadata-records-v0.hex")), first_samples());
    assert_eq!(read(include_str!("../tests/golden/metadata-records-v1.hex")), samples());
}

#[test]
fn every_truncation_is_refused() {
    let bytes = encode_records(&samples());
    assert_eq!(decode_records(&bytes).unwrap(), samples());
    for len in 0..bytes.len() {
        assert!(decode_records(&bytes[..len]).is_err(), "{len} bytes were taken for a whole entry");
    }
    let mut more = bytes;
    more.push(0);
    assert!(decode_records(&more).is_err());
}

fn any_record() -> impl Strategy<Value = MetadataRecord> {
    let id = any::<u128>().prop_map(|v| TopicId(Uuid::from_u128(v)));
    let endpoint =
        (".{0,8}", ".{0,8}", any::<u16>()).prop_map(|(listener, host, port)| Endpoint { listener, host, port });
    let broker =
        (any::<(i32, i64, u128, bool)>(), proptest::collection::vec(endpoint, 0..3), proptest::option::of(".{0,5}"))
            .prop_map(|((broker_id, broker_epoch, incarnation, fenced), endpoints, rack)| {
                let incarnation = Uuid::from_u128(incarnation);
                let stopping = !fenced;
                MetadataRecord::Broker(BrokerRecord {
                    broker_id,
                    broker_epoch,
                    incarnation,
                    endpoints,
                    rack,
                    fenced,
                    stopping,
                })
            });
    let partition = (
        id.clone(),
        any::<(i32, i32, i32, i32)>(),
        proptest::collection::vec(any::<i32>(), 0..5),
        proptest::collection::vec(any::<i32>(), 0..5),
    )
        .prop_map(|(topic_id, (partition, leader, leader_epoch, partition_epoch), replicas, isr)| {
            MetadataRecord::Partition(PartitionRecord {
                topic_id,
                partition,
                replicas,
                isr,
                leader,
                leader_epoch,
                partition_epoch,
                adding: Vec::new(),
                removing: vec![leader],
                elr: vec![partition],
            })
        });
    let config = (".{0,9}", ".{0,9}", proptest::option::of(".{0,9}"))
        .prop_map(|(name, key, value)| MetadataRecord::Config { resource: ResourceType::Broker, name, key, value });
    prop_oneof![
        ".{0,22}".prop_map(|cluster_id| MetadataRecord::Cluster { cluster_id }),
        broker,
        any::<(i32, i64, bool, bool)>().prop_map(|(broker_id, broker_epoch, fenced, stopping)| {
            MetadataRecord::BrokerFence { broker_id, broker_epoch, fenced, stopping }
        }),
        (id.clone(), ".{0,20}").prop_map(|(topic_id, name)| MetadataRecord::Topic { topic_id, name }),
        partition,
        (id.clone(), any::<i64>()).prop_map(|(topic_id, at_ms)| MetadataRecord::TopicDeleting { topic_id, at_ms }),
        id.prop_map(|topic_id| MetadataRecord::TopicDeleted { topic_id }),
        config,
        any::<i64>().prop_map(|next_producer_id| MetadataRecord::ProducerIds { next_producer_id }),
    ]
}

proptest! {
    #[test]
    fn any_records_come_back(records in proptest::collection::vec(any_record(), 0..20)) {
        prop_assert_eq!(decode_records(&encode_records(&records)).unwrap(), records);
    }

    #[test]
    fn any_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(records) = decode_records(&bytes) {
            // Written again it may be of a newer, longer layout.
            prop_assert!(encode_records(&records).len() >= bytes.len());
        }
    }
}
