//! A controller of one voter on a real disk: what was answered is there after a restart.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use strandline_disk::{RealDisk, Workers};
use strandline_protocol::error_code::ErrorCode;
use strandline_protocol::ids::{TopicId, TopicPartition};
use strandline_protocol::remote_pointer::{Advance, AdvanceChange, PointerState};
use uuid::Uuid;

use crate::record::{Endpoint, ResourceType};
use crate::request::{AlterConfigs, ConfigOp, NewPartitions, NewTopic, RegisterBroker, Request, Response};
use crate::service::{ControllerOptions, start};
use crate::{ControllerHandle, Formation};
use crate::{NodeId, Probe, RaftTransport};

struct NoPeers;

#[async_trait]
impl RaftTransport for NoPeers {
    async fn call(&self, _: NodeId, _: &str, _: Vec<u8>, _: Duration) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotConnected.into())
    }

    async fn probe(&self, _: &str) -> Probe {
        Probe::Unknown
    }
}

async fn controller(dir: &Path) -> ControllerHandle {
    let options = ControllerOptions {
        node_id: 1,
        dir: dir.to_owned(),
        disk: Arc::new(RealDisk),
        workers: Workers::Threads,
        transport: Arc::new(NoPeers),
        clock: Arc::new(|| 1_000),
        defaults: Default::default(),
        session_timeout: Duration::from_secs(3600),
        leader_balance: None,
    };
    let handle = start(options).await.unwrap();
    handle.form(Formation::Voters(BTreeMap::from([(1, "localhost:0".to_owned())]))).await.unwrap();
    let mut updates = handle.subscribe();
    tokio::spawn(async move { while updates.recv().await.is_some() {} });
    handle
}

fn registration(incarnation: u128) -> Request {
    Request::RegisterBroker(RegisterBroker {
        broker_id: 1,
        cluster_id: "c".to_owned(),
        incarnation: Uuid::from_u128(incarnation),
        endpoints: vec![Endpoint { listener: "PLAINTEXT".to_owned(), host: "h".to_owned(), port: 9092 }],
        rack: None,
        clean: true,
    })
}

async fn register(handle: &ControllerHandle, incarnation: u128) -> i64 {
    let Ok(Response::RegisterBroker(Ok(epoch))) = handle.request(registration(incarnation)).await else {
        panic!("refused");
    };
    handle.request(Request::Unfence { broker_id: 1, broker_epoch: epoch }).await.unwrap();
    epoch
}

fn topic(name: &str, id: u128, partitions: i32) -> NewTopic {
    NewTopic {
        name: name.to_owned(),
        topic_id: TopicId(Uuid::from_u128(id)),
        partitions,
        replication_factor: 1,
        assignments: BTreeMap::new(),
        configs: BTreeMap::from([("retention.ms".to_owned(), "5".to_owned())]),
    }
}

async fn create(handle: &ControllerHandle, topics: Vec<NewTopic>) -> Vec<Option<ErrorCode>> {
    match handle.request(Request::CreateTopics { topics, validate_only: false }).await.unwrap() {
        Response::CreateTopics(outcomes) => outcomes.into_iter().map(|o| o.err().map(|r| r.code)).collect(),
        other => panic!("{other:?}"),
    }
}

fn opening(tp: TopicPartition, leader_epoch: i32, broker_epoch: i64) -> Request {
    let change = AdvanceChange { log_start_offset: Some(7), ..AdvanceChange::default() };
    Request::Advance {
        advances: vec![Advance { tp, leader_epoch, broker_id: 1, broker_epoch, expected_version: 0, change }],
    }
}

#[tokio::test]
async fn answers_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let handle = controller(dir.path()).await;
    let epoch = register(&handle, 1).await;
    assert_eq!(register(&handle, 1).await, epoch, "the same incarnation keeps its epoch");
    let outcomes = create(&handle, vec![topic("a.b", 10, 3), topic("x", 11, 1)]).await;
    assert_eq!(outcomes, [None, None]);
    let outcomes = create(&handle, vec![topic("a_b", 12, 1), topic("x", 13, 1), topic("..", 14, 1)]).await;
    let expected = [ErrorCode::InvalidTopicException, ErrorCode::TopicAlreadyExists, ErrorCode::InvalidTopicException];
    assert_eq!(outcomes, expected.map(Some));
    let grow = NewPartitions { name: "x".to_owned(), count: 4, assignments: None };
    handle.request(Request::CreatePartitions { topics: vec![grow], validate_only: false }).await.unwrap();
    let change = AlterConfigs {
        resource: ResourceType::Topic,
        name: "x".to_owned(),
        ops: BTreeMap::from([
            ("retention.ms".to_owned(), ConfigOp::Delete),
            ("cleanup.policy".to_owned(), ConfigOp::Append("compact".to_owned())),
        ]),
        replace_all: false,
    };
    handle.request(Request::AlterConfigs { resources: vec![change], validate_only: false }).await.unwrap();
    let tp = TopicPartition { topic_id: TopicId(Uuid::from_u128(10)), partition: 2 };
    let Response::Advance(outcomes) = handle.request(opening(tp, 0, epoch)).await.unwrap() else { panic!() };
    assert_eq!((outcomes[0].accepted, outcomes[0].pointer.state), (Ok(()), PointerState::Open));
    let before = handle.linearizable_image().await.unwrap();
    handle.shutdown().await;
    drop(handle);

    let handle = controller(dir.path()).await;
    let after = handle.image();
    assert!(after.index >= before.index);
    let mut comparable = (*after).clone();
    comparable.index = before.index;
    assert_eq!(comparable, *before);
    assert_eq!(after.topic("x").unwrap().partition_count, 4);
    assert_eq!(after.configs(ResourceType::Topic, "x").unwrap()["cleanup.policy"], "compact");

    // A new incarnation begins new leader epochs, and what the old one sent late is refused.
    let new_epoch = register(&handle, 2).await;
    assert!(new_epoch > epoch);
    // Lost with the old incarnation, led again by the new one: twice a new epoch.
    assert_eq!(handle.image().partition(tp.topic_id, 2).unwrap().record.leader_epoch, 2);
    let Response::Advance(outcomes) = handle.request(opening(tp, 0, epoch)).await.unwrap() else { panic!() };
    assert!(outcomes[0].accepted.is_err());
    assert_eq!(outcomes[0].pointer.version, 1);
}

#[tokio::test]
async fn deletion_frees_the_name_and_refuses_advances() {
    let dir = tempfile::tempdir().unwrap();
    let handle = controller(dir.path()).await;
    let epoch = register(&handle, 1).await;
    create(&handle, vec![topic("t", 20, 1)]).await;
    let topic_id = TopicId(Uuid::from_u128(20));
    handle.request(Request::DeleteTopics { topic_ids: vec![topic_id] }).await.unwrap();
    assert_eq!(create(&handle, vec![topic("t", 21, 1)]).await, [None], "the name is free at once");
    let tp = TopicPartition { topic_id, partition: 0 };
    let Response::Advance(outcomes) = handle.request(opening(tp, 0, epoch)).await.unwrap() else { panic!() };
    assert!(outcomes[0].accepted.is_err());
    let image = handle.image();
    let rebuilt = crate::image::MetadataImage::from_records(&image.to_records(), image.index);
    assert_eq!(rebuilt, *image, "a snapshot with a deleting and a live topic of one name");
    let finish = || handle.request(Request::FinishTopicDeletion { topic_id });
    assert_eq!(finish().await.unwrap(), Response::FinishTopicDeletion(false), "a broker still has files");
    handle.request(Request::ConfirmTopicRemoved { topic_id, broker_id: 1 }).await.unwrap();
    assert_eq!(finish().await.unwrap(), Response::FinishTopicDeletion(true));
    let image = handle.image();
    assert!(!image.topics.contains_key(&topic_id) && image.topic("t").is_some());
    assert_eq!(image.partitions.len(), 1);
}

#[tokio::test]
async fn producer_ids_are_given_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for incarnation in 1..4 {
        let handle = controller(dir.path()).await;
        let broker_epoch = register(&handle, incarnation).await;
        for _ in 0..3 {
            let asked = Request::AllocateProducerIds { broker_id: 1, broker_epoch };
            let Ok(Response::AllocateProducerIds(Ok((first, count)))) = handle.request(asked).await else { panic!() };
            assert!((first..first + i64::from(count)).all(|id| seen.insert(id)));
        }
        let stale = Request::AllocateProducerIds { broker_id: 1, broker_epoch: broker_epoch - 1 };
        let Ok(Response::AllocateProducerIds(Err(refused))) = handle.request(stale).await else { panic!() };
        assert_eq!(refused.code, ErrorCode::StaleBrokerEpoch);
        handle.shutdown().await;
    }
}
