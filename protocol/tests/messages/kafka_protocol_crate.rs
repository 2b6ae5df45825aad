//! Differential: the crate `kafka-protocol` reads what we write and writes the same bytes.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, Message, VersionRange};

use crate::cases::for_each_sample;

struct Oracle {
    versions: VersionRange,
    recode: fn(Bytes, i16) -> Result<Bytes, String>,
}

fn oracle<M: Message + Encodable + Decodable>() -> Oracle {
    Oracle {
        versions: M::VERSIONS,
        recode: |mut bytes, version| {
            let message = M::decode(&mut bytes, version).map_err(|e| e.to_string())?;
            if !bytes.is_empty() {
                return Err(format!("{} bytes are left", bytes.len()));
            }
            let mut out = BytesMut::new();
            message.encode(&mut out, version).map_err(|e| e.to_string())?;
            Ok(out.freeze())
        },
    }
}

macro_rules! oracles {
    ($($name:ident)*) => {
        BTreeMap::from([$((stringify!($name), oracle::<$name>()),)*])
    };
}

fn oracles() -> BTreeMap<&'static str, Oracle> {
    oracles! {
        ProduceRequest ProduceResponse FetchRequest FetchResponse ListOffsetsRequest ListOffsetsResponse
        MetadataRequest MetadataResponse OffsetCommitRequest OffsetCommitResponse OffsetFetchRequest
        OffsetFetchResponse FindCoordinatorRequest FindCoordinatorResponse JoinGroupRequest JoinGroupResponse
        HeartbeatRequest HeartbeatResponse LeaveGroupRequest LeaveGroupResponse SyncGroupRequest SyncGroupResponse
        DescribeGroupsRequest DescribeGroupsResponse ListGroupsRequest ListGroupsResponse SaslHandshakeRequest
        SaslHandshakeResponse ApiVersionsRequest ApiVersionsResponse CreateTopicsRequest CreateTopicsResponse
        DeleteTopicsRequest DeleteTopicsResponse DeleteRecordsRequest DeleteRecordsResponse InitProducerIdRequest
        InitProducerIdResponse OffsetForLeaderEpochRequest OffsetForLeaderEpochResponse DescribeConfigsRequest
        DescribeConfigsResponse AlterConfigsRequest AlterConfigsResponse DescribeLogDirsRequest
        DescribeLogDirsResponse SaslAuthenticateRequest SaslAuthenticateResponse CreatePartitionsRequest
        CreatePartitionsResponse DeleteGroupsRequest DeleteGroupsResponse IncrementalAlterConfigsRequest
        IncrementalAlterConfigsResponse OffsetDeleteRequest OffsetDeleteResponse DescribeClusterRequest
        DescribeClusterResponse DescribeProducersRequest DescribeProducersResponse ListConfigResourcesRequest
        ListConfigResourcesResponse DescribeTopicPartitionsRequest DescribeTopicPartitionsResponse RequestHeader
        ResponseHeader ConsumerProtocolSubscription ConsumerProtocolAssignment
    }
}

#[test]
fn the_crate_reads_what_we_write_and_writes_the_same() {
    let oracles = oracles();
    let mut compared = BTreeMap::new();
    let mut failures = Vec::new();
    for_each_sample(3, 40, |case, version, bytes| {
        let Some(oracle) = oracles.get(case.name) else { return };
        if version < oracle.versions.min || version > oracle.versions.max {
            return;
        }
        *compared.entry(case.name).or_insert(0) += 1;
        match (oracle.recode)(bytes.clone(), version) {
            Ok(theirs) if theirs == bytes => {}
            Ok(theirs) => failures.push(format!("{} {version}: ours {bytes:x}, theirs {theirs:x}", case.name)),
            Err(error) => failures.push(format!("{} {version}: {error}: {bytes:x}", case.name)),
        }
    });
    failures.dedup_by_key(|f| f.split(':').next().map(str::to_owned));
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
    assert_eq!(compared.len(), oracles.len(), "every message of the crate was compared");
}
