//! Leader epochs that are over, and such as are to come (KIP-320), after a restart of both brokers.

use strandline_protocol::messages::fetch_request::FetchRequest;
use strandline_protocol::messages::list_offsets_request::ListOffsetsRequest;
use strandline_protocol::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};
use strandline_protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderEpochRequest;
use strandline_tests::broker::{Broker, Setup, Software};
use strandline_tests::wait;
use strandline_tests::wire::{Connection, fetch_request};

use crate::offsets;
use crate::pair::{BEGIN_MS, batch_at};

const TOPIC: &str = "epochs-a";
const METADATA: i16 = 12;
const FENCED_LEADER_EPOCH: i16 = 74;
const UNKNOWN_LEADER_EPOCH: i16 = 75;

fn epoch(connection: &mut Connection) -> i32 {
    let topic = MetadataRequestTopic { name: Some(TOPIC.to_owned()), ..Default::default() };
    let request = MetadataRequest { topics: Some(vec![topic]), ..Default::default() };
    let answer = connection.call(METADATA, &request).unwrap_or_else(|e| panic!("Metadata: {}", e.0));
    answer.topics[0].partitions[0].leader_epoch
}

/// Codes of every request and version that tells an epoch, for the epoch before, the present and the next one.
fn codes(software: Software) -> Vec<(String, i16)> {
    let mut broker = Broker::start(software, Setup::default());
    let mut connection = broker.connection();
    connection.create_topic(TOPIC, 1, &[("retention.ms", "-1")]).expect("the topic is made");
    connection.produce(TOPIC, 0, batch_at(BEGIN_MS, 3)).unwrap_or_else(|e| panic!("produce: {}", e.0));
    broker.stop();
    broker.up();
    let mut connection = broker.connection();
    let led = "the partition is led again";
    wait::until(led, strandline_tests::broker::START, || connection.list_offset(TOPIC, 0, -1).ok());
    let present = epoch(&mut connection);
    assert!(present > 0, "{software:?}: a restart begins an epoch");
    let mut codes = Vec::new();
    for (name, asked) in [("before", present - 1), ("present", present), ("next", present + 1)] {
        for version in 9..=12 {
            let mut request: FetchRequest = fetch_request(TOPIC, 0, 0, 1 << 20, 0);
            request.topics[0].partitions[0].current_leader_epoch = asked;
            let answer = connection.call(version, &request).unwrap_or_else(|e| panic!("Fetch: {}", e.0));
            codes.push((format!("Fetch v{version}, {name}"), answer.responses[0].partitions[0].error_code));
        }
        for version in 4..=10 {
            let request: ListOffsetsRequest = offsets::list(version, TOPIC, &[(0, asked, -1)]);
            let answer = connection.call(version, &request).unwrap_or_else(|e| panic!("ListOffsets: {}", e.0));
            codes.push((format!("ListOffsets v{version}, {name}"), answer.topics[0].partitions[0].error_code));
        }
        for version in 2..=4 {
            let request: OffsetForLeaderEpochRequest =
                offsets::epochs(if version >= 3 { -1 } else { -2 }, TOPIC, &[(0, asked, 0)]);
            let answer = connection.call(version, &request).unwrap_or_else(|e| panic!("epochs: {}", e.0));
            codes.push((format!("OffsetForLeaderEpoch v{version}, {name}"), answer.topics[0].partitions[0].error_code));
        }
    }
    codes
}

#[test]
fn old_and_coming_leader_epochs_are_refused_alike() {
    let strandline = codes(Software::Strandline);
    assert_eq!(codes(Software::Kafka), strandline);
    let told =
        |name: &'static str| strandline.iter().filter(move |(case, _)| case.ends_with(name)).map(|(_, code)| *code);
    assert!(told("before").all(|code| code == FENCED_LEADER_EPOCH));
    assert!(told("present").all(|code| code == 0));
    assert!(told("next").all(|code| code == UNKNOWN_LEADER_EPOCH));
}
