//! The way from a client to the leaders: connections with short deadlines, and who leads what.
//!
//! A client of its own, so that the product's client and the broker under test cannot agree on a mistake. Every error is an answer:
//! the caller asks again, and decides what the operation's outcome is.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use strandline_protocol::frame::{decode_response, encode_request};
use strandline_protocol::messages::Request;
use strandline_protocol::messages::find_coordinator_request::FindCoordinatorRequest;
use strandline_protocol::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};
use strandline_tests::random::Random;

const CONNECT: Duration = Duration::from_millis(1_500);
/// How long an answer may take: longer than a broker waits for its replicas.
const ANSWER: Duration = Duration::from_secs(12);
/// The largest answer taken, bytes.
const FRAME_MAX: usize = 64 << 20;
const METADATA: i16 = 12;
const FIND_COORDINATOR: i16 = 3;

/// One connection; it is of no use after an error.
#[derive(Debug)]
struct Link {
    stream: TcpStream,
    correlation_id: i32,
}

impl Link {
    fn open(address: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect_timeout(&address, CONNECT).map_err(|e| format!("{address}: {e}"))?;
        let limit = Some(ANSWER);
        let set = stream.set_nodelay(true).and(stream.set_read_timeout(limit)).and(stream.set_write_timeout(limit));
        set.map_err(|e| e.to_string())?;
        Ok(Link { stream, correlation_id: 0 })
    }

    fn call<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response, String> {
        self.correlation_id += 1;
        let rope = encode_request(version, self.correlation_id, Some("strandline-chaos"), request)
            .map_err(|e| e.to_string())?;
        let bytes = rope.to_bytes().expect("a request has no file parts");
        self.stream.write_all(&bytes).map_err(|e| format!("write: {e}"))?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).map_err(|e| format!("read: {e}"))?;
        let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > FRAME_MAX {
            return Err(format!("an answer of {length} bytes"));
        }
        let mut frame = vec![0; length];
        self.stream.read_exact(&mut frame).map_err(|e| format!("read: {e}"))?;
        let (correlation_id, response) =
            decode_response::<R>(version, Bytes::from(frame)).map_err(|e| format!("answer: {e}"))?;
        if correlation_id != self.correlation_id {
            return Err(format!("answer {correlation_id} to request {}", self.correlation_id));
        }
        Ok(response)
    }
}

/// A client's view of the cluster. Not shared: each client has its own.
#[derive(Debug)]
pub struct Router {
    bootstrap: Vec<SocketAddr>,
    topic: String,
    random: Random,
    /// Of each partition, as the last metadata told.
    leaders: HashMap<i32, SocketAddr>,
    links: HashMap<SocketAddr, Link>,
}

impl Router {
    pub fn new(bootstrap: &[SocketAddr], topic: &str, seed: u64) -> Self {
        Router {
            bootstrap: bootstrap.to_vec(),
            topic: topic.to_owned(),
            random: Random::new(seed),
            leaders: HashMap::new(),
            links: HashMap::new(),
        }
    }

    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Asks a given broker; the connection is kept if it answers.
    pub fn ask<R: Request>(&mut self, at: SocketAddr, version: i16, request: &R) -> Result<R::Response, String> {
        let mut link = match self.links.remove(&at) {
            Some(link) => link,
            None => Link::open(at)?,
        };
        let response = link.call(version, request)?;
        self.links.insert(at, link);
        Ok(response)
    }

    /// Asks any broker.
    pub fn ask_any<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response, String> {
        let any = usize::try_from(self.random.below(self.bootstrap.len() as u64)).expect("an index");
        self.ask(self.bootstrap[any], version, request)
    }

    /// Asks the leader of a partition, which metadata names when nobody is known.
    pub fn ask_leader<R: Request>(&mut self, partition: i32, version: i16, request: &R) -> Result<R::Response, String> {
        let leader = match self.leaders.get(&partition) {
            Some(leader) => *leader,
            None => {
                self.learn_leaders()?;
                *self.leaders.get(&partition).ok_or_else(|| format!("nobody leads partition {partition}"))?
            }
        };
        let answer = self.ask(leader, version, request);
        if answer.is_err() {
            self.forget_leader(partition);
        }
        answer
    }

    /// What metadata said of a partition's leader is not true any more.
    pub fn forget_leader(&mut self, partition: i32) {
        self.leaders.remove(&partition);
    }

    /// The number of the node that leads a partition, if one does.
    pub fn leader_node(&mut self, partition: i32) -> Result<u8, String> {
        self.learn_leaders()?;
        let leader = self.leaders.get(&partition).ok_or_else(|| format!("nobody leads partition {partition}"))?;
        match leader.ip() {
            std::net::IpAddr::V4(address) => Ok(address.octets()[3]),
            std::net::IpAddr::V6(address) => Err(format!("{address} is no node of this network")),
        }
    }

    fn learn_leaders(&mut self) -> Result<(), String> {
        let topic = MetadataRequestTopic { name: Some(self.topic.clone()), ..Default::default() };
        let request =
            MetadataRequest { topics: Some(vec![topic]), allow_auto_topic_creation: false, ..Default::default() };
        let response = self.ask_any(METADATA, &request)?;
        let address = |id: i32| {
            let broker = response.brokers.iter().find(|broker| broker.node_id == id)?;
            format!("{}:{}", broker.host, broker.port).parse().ok()
        };
        let topic = response.topics.first().ok_or("metadata without the topic")?;
        if topic.error_code != 0 {
            return Err(format!("metadata: error {}", topic.error_code));
        }
        let led = topic.partitions.iter().filter_map(|p| Some((p.partition_index, address(p.leader_id)?)));
        self.leaders = led.collect();
        Ok(())
    }

    /// Where a group's coordinator is.
    pub fn coordinator(&mut self, group: &str) -> Result<SocketAddr, String> {
        let request = FindCoordinatorRequest { key: group.to_owned(), key_type: 0, ..Default::default() };
        let response = self.ask_any(FIND_COORDINATOR, &request)?;
        if response.error_code != 0 {
            return Err(format!("FindCoordinator: error {}", response.error_code));
        }
        format!("{}:{}", response.host, response.port).parse().map_err(|e| format!("{}: {e}", response.host))
    }
}
