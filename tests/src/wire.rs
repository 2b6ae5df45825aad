//! A blocking connection that speaks Kafka's protocol, for what the suites ask themselves: topics, offsets, malformed bytes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use strandline_protocol::frame::{decode_response, encode_request};
use strandline_protocol::messages::Request;
use strandline_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use strandline_protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use strandline_protocol::messages::fetch_response::PartitionData;
use strandline_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use strandline_protocol::messages::metadata_request::MetadataRequest;
use strandline_protocol::messages::produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData};
use strandline_protocol::messages::produce_response::PartitionProduceResponse;
use strandline_protocol::rope::Records;

use crate::wait;

/// The largest answer taken, bytes.
const FRAME_MAX: usize = 256 << 20;
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(5);

/// ListOffsets' special timestamps.
pub const LATEST: i64 = -1;
pub const EARLIEST: i64 = -2;
pub const EARLIEST_LOCAL: i64 = -4;
pub const LATEST_TIERED: i64 = -5;

const CREATE_TOPICS: i16 = 7;
const LIST_OFFSETS: i16 = 11;
/// The newest versions that name topics by name.
pub const PRODUCE: i16 = 12;
pub const FETCH: i16 = 12;

/// One connection; requests are answered in order.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    correlation_id: i32,
}

/// Why a call has no answer.
#[derive(Debug)]
pub struct Broken(pub String);

impl Connection {
    pub fn open(address: SocketAddr) -> Result<Self, Broken> {
        let stream = TcpStream::connect_timeout(&address, CONNECT).map_err(|e| Broken(format!("{address}: {e}")))?;
        stream.set_nodelay(true).expect("a TCP option");
        stream.set_read_timeout(Some(ANSWER)).expect("a socket option");
        stream.set_write_timeout(Some(ANSWER)).expect("a socket option");
        Ok(Connection { stream, correlation_id: 0 })
    }

    /// Sends a request without waiting for its answer.
    pub fn send<R: Request>(&mut self, version: i16, request: &R) -> Result<(), Broken> {
        self.correlation_id += 1;
        let rope = encode_request(version, self.correlation_id, Some("strandline-tests"), request)
            .expect("a request that encodes");
        let bytes = rope.to_bytes().expect("a request has no file parts");
        self.send_raw(&bytes)
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        self.stream.write_all(bytes).map_err(|e| Broken(format!("write: {e}")))
    }

    /// The next answer.
    pub fn receive<R: Request>(&mut self, version: i16) -> Result<R::Response, Broken> {
        let frame = self.receive_raw()?;
        let (_, response) = decode_response::<R>(version, frame).map_err(|e| Broken(format!("answer: {e}")))?;
        Ok(response)
    }

    /// The next answer's frame, without its length.
    pub fn receive_raw(&mut self) -> Result<Bytes, Broken> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).map_err(|e| Broken(format!("read: {e}")))?;
        let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
        assert!(length <= FRAME_MAX, "an answer of {length} bytes");
        let mut frame = Vec::with_capacity(length);
        let read = Read::by_ref(&mut self.stream).take(length as u64).read_to_end(&mut frame);
        match read {
            Ok(n) if n == length => Ok(Bytes::from(frame)),
            Ok(n) => Err(Broken(format!("closed after {n} of {length} bytes"))),
            Err(e) => Err(Broken(format!("read: {e}"))),
        }
    }

    pub fn call<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response, Broken> {
        self.send(version, request)?;
        self.receive::<R>(version)
    }

    /// Another handle of the same socket, so that one thread may write while one reads.
    pub fn split(&self) -> Connection {
        Connection { stream: self.stream.try_clone().expect("a second handle"), correlation_id: 1 << 20 }
    }

    /// Offset of `timestamp` (or of a special one) in a partition; Err is the error code. Panics if the connection breaks.
    pub fn list_offset(&mut self, topic: &str, partition: i32, timestamp: i64) -> Result<i64, i16> {
        self.try_list_offset(topic, partition, timestamp).unwrap_or_else(|e| panic!("ListOffsets: {}", e.0))
    }

    /// [`Connection::list_offset`] of a broker that may go away.
    pub fn try_list_offset(&mut self, topic: &str, partition: i32, timestamp: i64) -> Result<Result<i64, i16>, Broken> {
        let asked = ListOffsetsPartition { partition_index: partition, timestamp, ..Default::default() };
        let topics = vec![ListOffsetsTopic { name: topic.to_owned(), partitions: vec![asked] }];
        let request = ListOffsetsRequest { replica_id: -1, topics, timeout_ms: 10_000, ..Default::default() };
        let response = self.call(LIST_OFFSETS, &request)?;
        let answer = &response.topics[0].partitions[0];
        Ok(if answer.error_code == 0 { Ok(answer.offset) } else { Err(answer.error_code) })
    }

    /// Creates a topic and waits until each of its partitions answers; Err = the error code and text.
    pub fn create_topic(
        &mut self,
        name: &str,
        partitions: i32,
        configs: &[(&str, &str)],
    ) -> Result<(), (i16, Option<String>)> {
        let configs = configs
            .iter()
            .map(|(k, v)| CreatableTopicConfig { name: (*k).to_owned(), value: Some((*v).to_owned()) })
            .collect();
        let topic = CreatableTopic {
            name: name.to_owned(),
            num_partitions: partitions,
            replication_factor: 1,
            configs,
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 30_000, validate_only: false };
        let response = self.call(CREATE_TOPICS, &request).unwrap_or_else(|e| panic!("CreateTopics: {}", e.0));
        let answer = &response.topics[0];
        if answer.error_code != 0 {
            return Err((answer.error_code, answer.error_message.clone()));
        }
        for partition in 0..partitions {
            let what = format!("{name}-{partition} has a leader");
            wait::until(&what, ANSWER, || self.list_offset(name, partition, LATEST).ok());
        }
        Ok(())
    }

    /// Fetches one partition once.
    pub fn fetch(&mut self, topic: &str, partition: i32, offset: i64, max_bytes: i32) -> Result<PartitionData, Broken> {
        let request = fetch_request(topic, partition, offset, max_bytes, 500);
        let mut response = self.call(FETCH, &request)?;
        if response.error_code != 0 || response.responses.is_empty() {
            return Err(Broken(format!("Fetch: error {}", response.error_code)));
        }
        Ok(response.responses.swap_remove(0).partitions.swap_remove(0))
    }

    /// Produces one partition's batches with acks=all.
    pub fn produce(&mut self, topic: &str, partition: i32, records: Bytes) -> Result<PartitionProduceResponse, Broken> {
        let mut response = self.call(PRODUCE, &produce_request(topic, partition, records, -1))?;
        Ok(response.responses.swap_remove(0).partition_responses.swap_remove(0))
    }
}

/// A produce request of one partition.
pub fn produce_request(topic: &str, partition: i32, records: Bytes, acks: i16) -> ProduceRequest {
    let data = PartitionProduceData { index: partition, records: Some(Records::Bytes(records)) };
    let topic = TopicProduceData { name: topic.to_owned(), partition_data: vec![data], ..Default::default() };
    ProduceRequest { acks, timeout_ms: 30_000, topic_data: vec![topic], ..Default::default() }
}

/// A fetch request of one partition, outside any session.
pub fn fetch_request(topic: &str, partition: i32, offset: i64, max_bytes: i32, max_wait_ms: i32) -> FetchRequest {
    let asked = FetchPartition {
        partition,
        current_leader_epoch: -1,
        fetch_offset: offset,
        last_fetched_epoch: -1,
        log_start_offset: -1,
        partition_max_bytes: max_bytes,
        ..Default::default()
    };
    FetchRequest {
        replica_id: -1,
        max_wait_ms,
        min_bytes: 1,
        max_bytes,
        session_id: 0,
        session_epoch: -1,
        topics: vec![FetchTopic { topic: topic.to_owned(), partitions: vec![asked], ..Default::default() }],
        ..Default::default()
    }
}

/// Waits until a server speaks Kafka's protocol at `address`.
pub fn is_serving(address: SocketAddr) -> bool {
    let Ok(mut connection) = Connection::open(address) else { return false };
    let request = MetadataRequest { topics: Some(Vec::new()), ..Default::default() };
    connection.call(12, &request).is_ok_and(|response| !response.brokers.is_empty())
}

/// Waits until every partition's local log begins past offset 0: what is before it can only come from the tier.
pub fn await_tiered(address: SocketAddr, topic: &str, partitions: i32, deadline: Duration) {
    for partition in 0..partitions {
        wait::until(&format!("{topic}-{partition} has freed local segments"), deadline, || {
            let mut connection = Connection::open(address).ok()?;
            connection.list_offset(topic, partition, EARLIEST_LOCAL).is_ok_and(|offset| offset > 0).then_some(())
        });
        let mut connection = Connection::open(address).expect("a running broker");
        assert_eq!(connection.list_offset(topic, partition, EARLIEST), Ok(0), "the log still begins at 0");
    }
}
