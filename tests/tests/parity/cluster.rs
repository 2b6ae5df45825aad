//! Requests about the cluster: reassignments, elections, the quorum, registrations.

use strandline_protocol::messages::add_raft_voter_request::AddRaftVoterRequest;
use strandline_protocol::messages::alter_partition_reassignments_request::{
    AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
};
use strandline_protocol::messages::describe_quorum_request::{DescribeQuorumRequest, PartitionData, TopicData};
use strandline_protocol::messages::elect_leaders_request::{ElectLeadersRequest, TopicPartitions};
use strandline_protocol::messages::list_partition_reassignments_request::{
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsTopics,
};
use strandline_protocol::messages::remove_raft_voter_request::RemoveRaftVoterRequest;
use strandline_protocol::messages::unregister_broker_request::UnregisterBrokerRequest;

use crate::table::Table;

const TIMEOUT_MS: i32 = 5000;
/// No node of the pair.
const NOBODY: i32 = 99;

pub fn reassign(topic: &str, partition: i32, replicas: Option<&[i32]>) -> AlterPartitionReassignmentsRequest {
    let partitions =
        vec![ReassignablePartition { partition_index: partition, replicas: replicas.map(<[i32]>::to_vec) }];
    let topics = vec![ReassignableTopic { name: topic.to_owned(), partitions }];
    AlterPartitionReassignmentsRequest { timeout_ms: TIMEOUT_MS, topics, ..Default::default() }
}

pub fn reassignments(topics: Option<&[(&str, &[i32])]>) -> ListPartitionReassignmentsRequest {
    let topic = |(name, partitions): &(&str, &[i32])| ListPartitionReassignmentsTopics {
        name: (*name).to_owned(),
        partition_indexes: partitions.to_vec(),
    };
    let topics = topics.map(|all| all.iter().map(topic).collect());
    ListPartitionReassignmentsRequest { timeout_ms: TIMEOUT_MS, topics }
}

pub fn elect(topics: Option<&[(&str, &[i32])]>) -> ElectLeadersRequest {
    let topic = |(name, partitions): &(&str, &[i32])| TopicPartitions {
        topic: (*name).to_owned(),
        partitions: partitions.to_vec(),
    };
    let topic_partitions = topics.map(|all| all.iter().map(topic).collect());
    ElectLeadersRequest { topic_partitions, timeout_ms: TIMEOUT_MS, ..Default::default() }
}

pub fn quorum() -> DescribeQuorumRequest {
    let partitions = vec![PartitionData { partition_index: 0 }];
    DescribeQuorumRequest { topics: vec![TopicData { topic_name: "__cluster_metadata".to_owned(), partitions }] }
}

pub fn unregister() -> UnregisterBrokerRequest {
    UnregisterBrokerRequest { broker_id: NOBODY }
}

/// Refused whatever becomes of its bytes: a voter needs a listener.
pub fn add_voter() -> AddRaftVoterRequest {
    AddRaftVoterRequest { cluster_id: None, voter_id: NOBODY, timeout_ms: TIMEOUT_MS, ..Default::default() }
}

pub fn remove_voter() -> RemoveRaftVoterRequest {
    RemoveRaftVoterRequest { cluster_id: None, voter_id: NOBODY, ..Default::default() }
}

#[test]
fn reassignments_of_one_node() {
    let mut table = Table::new();
    table.pair.topic("moves-a", 2, &[]);
    table.all("nothing moves", |_, _| reassignments(None));
    table.all("nothing of these moves", |_, _| reassignments(Some(&[("moves-a", &[0, 1]), ("moves-none", &[0])])));
    table.all("where it is", |_, _| reassign("moves-a", 0, Some(&[1])));
    table.all("an unknown topic", |_, _| reassign("moves-none", 0, Some(&[1])));
    table.all("an unknown partition", |_, _| reassign("moves-a", 7, Some(&[1])));
    table.all("an end without a beginning", |_, _| reassign("moves-a", 0, None));
    table.finish();
}

#[test]
fn elections_of_one_node() {
    let mut table = Table::new();
    table.pair.topic("elect-a", 2, &[]);
    table.all("the preferred one leads", |_, _| elect(Some(&[("elect-a", &[0])])));
    table.all("an unknown partition", |_, _| elect(Some(&[("elect-a", &[9])])));
    table.all("an unknown topic", |_, _| elect(Some(&[("elect-none", &[0])])));
    table.finish();
}
