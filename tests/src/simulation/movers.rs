//! A client that moves replicas about: partitions lose a replica, and get it back, while other things go wrong.
//!
//! Owns what is asked for. Does not own whether it is over: the run looks at the image.
//! Invariant: at least two replicas stay, so that nothing acknowledged depends on one disk.

use std::sync::Arc;
use std::time::Duration;

use strandline_client::Cluster;
use strandline_protocol::messages::alter_partition_reassignments_request::{
    AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
};
use tokio::time::sleep;

use super::clients::Shared;
use super::world::NODES;
use crate::random::Random;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// Between two moves, ms.
const PAUSE_MS: (u64, u64) = (300, 2_500);
/// Between two rounds that put everything back.
const SETTLE: Duration = Duration::from_secs(2);

async fn reassign(shared: &Shared, cluster: &Cluster, partition: i32, replicas: Vec<i32>) {
    tracing::info!(partition, ?replicas, "a move is asked for");
    let wanted = ReassignablePartition { partition_index: partition, replicas: Some(replicas) };
    let topic = ReassignableTopic { name: shared.topic.clone(), partitions: vec![wanted] };
    let request = AlterPartitionReassignmentsRequest { topics: vec![topic], ..Default::default() };
    // Whether it is done is seen in the image.
    let answer = cluster.ask(&request).await.map(|answer| answer.responses);
    tracing::debug!(partition, ?answer, "the answer to a move");
}

/// Moves replicas until it is dropped.
pub async fn move_about(shared: Arc<Shared>, mut random: Random) {
    let cluster = Cluster::over(shared.network.clone(), &shared.bootstrap, "mover", ANSWER);
    loop {
        sleep(Duration::from_millis(PAUSE_MS.0 + random.below(PAUSE_MS.1 - PAUSE_MS.0))).await;
        let partition = i32::try_from(random.below(shared.partitions.unsigned_abs().into())).expect("a partition");
        let mut replicas: Vec<i32> = (1..=i32::from(NODES)).collect();
        let nodes = usize::from(NODES);
        let turn = usize::try_from(random.below(u64::from(NODES))).expect("a small number");
        replicas.rotate_left(turn);
        if random.below(3) > 0 {
            replicas.truncate(nodes - 1);
        }
        reassign(&shared, &cluster, partition, replicas).await;
    }
}

/// Gives every partition all of its replicas, again and again until it is dropped: a move that was asked for before may come late.
pub async fn put_back(shared: Arc<Shared>) {
    let cluster = Cluster::over(shared.network.clone(), &shared.bootstrap, "mover", ANSWER);
    loop {
        for partition in 0..shared.partitions {
            reassign(&shared, &cluster, partition, (1..=i32::from(NODES)).collect()).await;
        }
        sleep(SETTLE).await;
    }
}
