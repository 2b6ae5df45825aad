//! Three controllers in one process, their messages carried by hand: one log, whoever is asked; a lost leader is replaced.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use strandline_disk::{RealDisk, Workers};
use strandline_protocol::ids::TopicId;
use uuid::Uuid;

use crate::record::Endpoint;
use crate::request::{ElectLeaders, ElectionKind, Heartbeat, IsrChange, NewTopic, RegisterBroker, Request, Response};
use crate::service::{ControllerOptions, StartError, start};
use crate::{ControllerHandle, Formation, NodeId, Probe, RaftTransport};

#[derive(Default)]
struct Wires {
    nodes: Mutex<HashMap<NodeId, ControllerHandle>>,
    /// What a look at any broker finds.
    found: Mutex<Option<Probe>>,
}

#[async_trait]
impl RaftTransport for Wires {
    async fn call(&self, target: NodeId, address: &str, message: Vec<u8>, deadline: Duration) -> io::Result<Vec<u8>> {
        let id = if target == NodeId::MAX { address.parse().unwrap() } else { target };
        let node = self.nodes.lock().get(&id).cloned().ok_or(io::ErrorKind::NotConnected)?;
        let answer = tokio::time::timeout(deadline, node.serve(&message)).await?;
        answer.map_err(|e| io::Error::other(e.to_string()))
    }

    async fn probe(&self, _: &str) -> Probe {
        self.found.lock().unwrap_or(Probe::Unknown)
    }
}

async fn node(wires: &Arc<Wires>, dir: &Path, id: NodeId) -> ControllerHandle {
    let dir = dir.join(id.to_string());
    std::fs::create_dir_all(&dir).unwrap();
    let options = ControllerOptions {
        node_id: id,
        dir,
        disk: Arc::new(RealDisk),
        workers: Workers::Threads,
        transport: wires.clone(),
        clock: Arc::new(|| 1_000),
        defaults: Default::default(),
        session_timeout: Duration::from_secs(3600),
        leader_balance: None,
    };
    let handle = start(options).await.unwrap();
    wires.nodes.lock().insert(id, handle.clone());
    handle
}

async fn cluster(wires: &Arc<Wires>, dir: &Path, ids: &[NodeId]) -> Vec<ControllerHandle> {
    let mut handles = Vec::new();
    for id in ids {
        handles.push(node(wires, dir, *id).await);
    }
    let bootstrap: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let forming = handles.iter().zip(ids).map(|(handle, id)| {
        let (own_address, bootstrap) = (id.to_string(), bootstrap.clone());
        handle.form(Formation::Bootstrap { own_address, bootstrap })
    });
    for formed in futures_util::future::join_all(forming).await {
        formed.unwrap();
    }
    for handle in &handles {
        let mut updates = handle.subscribe();
        tokio::spawn(async move { while updates.recv().await.is_some() {} });
    }
    handles
}

async fn register(handle: &ControllerHandle, broker_id: i32, incarnation: u128) -> i64 {
    let request = Request::RegisterBroker(RegisterBroker {
        broker_id,
        cluster_id: "c".to_owned(),
        incarnation: Uuid::from_u128(incarnation),
        endpoints: vec![Endpoint { listener: "P".to_owned(), host: "h".to_owned(), port: 1 }],
        rack: None,
        clean: true,
    });
    let Ok(Response::RegisterBroker(Ok(epoch))) = handle.request(request).await else { panic!("refused") };
    beat(handle, broker_id, epoch, false).await;
    epoch
}

async fn beat(handle: &ControllerHandle, broker_id: i32, broker_epoch: i64, want_shutdown: bool) -> bool {
    let beat = Heartbeat { broker_id, broker_epoch, applied_index: u64::MAX, ready: true, want_shutdown };
    let Ok(Response::Heartbeat(Ok(answer))) = handle.request(Request::Heartbeat(beat)).await else { panic!("refused") };
    answer.may_stop
}

fn topic(id: u128) -> Request {
    let topic = NewTopic {
        name: format!("t{id}"),
        topic_id: TopicId(Uuid::from_u128(id)),
        partitions: 6,
        replication_factor: 3,
        assignments: BTreeMap::new(),
        configs: BTreeMap::new(),
    };
    Request::CreateTopics { topics: vec![topic], validate_only: false }
}

async fn settled(handles: &[ControllerHandle]) {
    let newest = handles[0].linearizable_image().await.unwrap().index;
    for handle in handles {
        for _ in 0..500 {
            if handle.image().index >= newest {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(handle.image().index >= newest);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_node_takes_requests_and_a_lost_leader_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let wires = Arc::new(Wires::default());
    let handles = cluster(&wires, dir.path(), &[1, 2, 3]).await;
    let mut epochs = BTreeMap::new();
    for id in 1..=3 {
        epochs.insert(id, register(&handles[0], id, id as u128).await);
    }
    handles[1].request(topic(10)).await.unwrap();
    settled(&handles).await;
    let images: Vec<_> = handles.iter().map(|h| h.image()).collect();
    assert_eq!(*images[0], *images[1]);
    assert_eq!(*images[0], *images[2]);

    let leader = handles.iter().position(ControllerHandle::is_leader).unwrap();
    wires.nodes.lock().remove(&(leader as NodeId + 1));
    handles[leader].shutdown().await;
    let rest: Vec<_> = (0..3).filter(|at| *at != leader).map(|at| handles[at].clone()).collect();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while rest[0].request(topic(11)).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "no new active controller");
    }
    settled(&rest).await;
    assert!(rest[1].image().topic("t11").is_some() && rest[1].image().topic("t10").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_move_with_brokers_and_come_back_on_request() {
    let dir = tempfile::tempdir().unwrap();
    let wires = Arc::new(Wires::default());
    let handles = cluster(&wires, dir.path(), &[1]).await;
    let handle = &handles[0];
    let mut epochs = BTreeMap::new();
    for id in 1..=3 {
        epochs.insert(id, register(handle, id, id as u128).await);
    }
    handle.request(topic(10)).await.unwrap();
    let partitions = |handle: &ControllerHandle| -> Vec<_> {
        let image = handle.image();
        let topic = image.topic("t10").unwrap().clone();
        image.partitions_of(&topic).map(|p| p.record.clone()).collect()
    };
    let led = |id: i32| partitions(handle).iter().filter(|p| p.leader == id).count();
    assert_eq!([led(1), led(2), led(3)], [2, 2, 2], "leaders are spread");

    // Orderly: leaderships are handed over before the broker may stop.
    assert!(!beat(handle, 1, epochs[&1], true).await);
    assert!(beat(handle, 1, epochs[&1], true).await);
    assert_eq!(led(1), 0);
    assert!(partitions(handle).iter().all(|p| !p.isr.contains(&1) && p.isr.len() == 2));

    // Lost: the last one in sync stays eligible and leads again when it is back.
    handle.request(Request::Fence { broker_id: 2, broker_epoch: epochs[&2] }).await.unwrap();
    assert_eq!(led(3), 6);
    handle.request(Request::Fence { broker_id: 3, broker_epoch: epochs[&3] }).await.unwrap();
    assert_eq!(led(-1), 6);
    let epoch = register(handle, 1, 11).await;
    assert_eq!(led(-1), 6, "it left while two were in sync: it may lack records");
    epochs.insert(3, register(handle, 3, 13).await);
    assert_eq!(led(3), 6);
    assert!(partitions(handle).iter().all(|p| p.isr == [3]));

    // The leader takes the others back into its in-sync set, and the preferred leaders lead again.
    epochs.insert(2, register(handle, 2, 12).await);
    let changes = partitions(handle)
        .iter()
        .map(|p| IsrChange {
            tp: strandline_protocol::ids::TopicPartition { topic_id: p.topic_id, partition: p.partition },
            leader_epoch: p.leader_epoch,
            partition_epoch: p.partition_epoch,
            isr: vec![1, 2, 3],
            broker_epochs: vec![epoch, epochs[&2], epochs[&3]],
        })
        .collect();
    let asked = Request::AlterIsr { broker_id: 3, broker_epoch: epochs[&3], changes };
    let Ok(Response::AlterIsr(outcomes)) = handle.request(asked).await else { panic!() };
    assert!(outcomes.iter().all(|o| o.as_ref().is_ok_and(|p| p.isr.len() == 3 && p.elr.is_empty())));
    let elect = ElectLeaders { kind: ElectionKind::Preferred, partitions: None };
    handle.request(Request::ElectLeaders(elect)).await.unwrap();
    assert_eq!([led(1), led(2), led(3)], [2, 2, 2]);
    assert!(epoch > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn voters_are_added_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let wires = Arc::new(Wires::default());
    let handles = cluster(&wires, dir.path(), &[1]).await;
    register(&handles[0], 1, 1).await;
    let second = node(&wires, dir.path(), 2).await;
    second.form(Formation::Bootstrap { own_address: "2".to_owned(), bootstrap: vec!["1".to_owned()] }).await.unwrap();
    assert!(!second.is_voter(), "who comes to a cluster follows first");
    handles[0].add_member(2, "2", true).await.unwrap();
    settled(&[handles[0].clone(), second.clone()]).await;
    assert_eq!(second.quorum().replicas.iter().filter(|r| r.voter).count(), 2);
    second.remove_member(2).await.unwrap();
    for _ in 0..500 {
        if handles[0].quorum().replicas.len() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(handles[0].quorum().replicas.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_with_an_empty_log_is_refused_and_takes_no_message() {
    let dir = tempfile::tempdir().unwrap();
    let wires = Arc::new(Wires::default());
    let handles = cluster(&wires, dir.path(), &[1, 2, 3]).await;
    for id in [1, 2, 3] {
        register(&handles[0], id, 1).await;
    }
    settled(&handles).await;
    handles[2].shutdown().await;
    std::fs::remove_dir_all(dir.path().join("3")).unwrap();
    let third = node(&wires, dir.path(), 3).await;
    let voters = [1, 2, 3].map(|id: NodeId| (id, id.to_string())).into();
    assert!(matches!(third.form(Formation::Voters(voters)).await, Err(StartError::Forgotten { node: 3 })));
    assert_eq!(third.image().index, 0, "nothing was taken from the others meanwhile");
}

/// A broker opens its listener after it has been unfenced; its controller connection may break, or the active controller
/// change, in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_about_to_listen_is_not_fenced_and_one_that_never_does_is() {
    let dir = tempfile::tempdir().unwrap();
    let wires = Arc::new(Wires::default());
    let handles = cluster(&wires, dir.path(), &[1]).await;
    let handle = &handles[0];
    let epoch = register(handle, 7, 1).await;
    let fenced = || handle.image().brokers[&7].fenced;
    assert!(!fenced());
    *wires.found.lock() = Some(Probe::Gone);
    let suspecting = tokio::spawn({
        let handle = handle.clone();
        async move { handle.suspect(7, epoch).await }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!fenced() && !suspecting.is_finished());
    *wires.found.lock() = Some(Probe::Alive);
    suspecting.await.unwrap();
    assert!(!fenced());
    *wires.found.lock() = Some(Probe::Gone);
    handle.suspect(7, epoch).await;
    assert!(fenced(), "nobody listened for as long as an opening may take");
    // Known for longer than that: the first look decides.
    beat(handle, 7, epoch, false).await;
    assert!(!fenced());
    tokio::time::sleep(crate::handle::OPENS_WITHIN + Duration::from_millis(200)).await;
    let begin = tokio::time::Instant::now();
    handle.suspect(7, epoch).await;
    assert!(fenced() && begin.elapsed() < Duration::from_millis(500), "{:?}", begin.elapsed());
}

/// The connections of a killed process are closed one after the other: its listener may still answer when the first is broken.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_whose_listener_outlives_its_connection_is_found_a_moment_later() {
    let dir = tempfile::tempdir().unwrap();
    let wires = Arc::new(Wires::default());
    let handles = cluster(&wires, dir.path(), &[1]).await;
    let handle = handles[0].clone();
    let epoch = register(&handle, 7, 1).await;
    tokio::time::sleep(crate::handle::OPENS_WITHIN + Duration::from_millis(200)).await;
    *wires.found.lock() = Some(Probe::Alive);
    let suspecting = tokio::spawn({
        let handle = handle.clone();
        async move { handle.suspect(7, epoch).await }
    });
    tokio::time::sleep(Duration::from_millis(15)).await;
    *wires.found.lock() = Some(Probe::Gone);
    suspecting.await.unwrap();
    assert!(handle.image().brokers[&7].fenced);
}
