//! Three nodes on this machine, controller and broker in one, set up alike for both.
//!
//! Owns the processes and their directories. Does not own what is measured (`rows::cluster`).

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use strandline_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use strandline_protocol::messages::describe_quorum_request::{
    DescribeQuorumRequest, PartitionData as QuorumPartition, TopicData as QuorumTopic,
};
use strandline_protocol::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};
use strandline_protocol::messages::metadata_response::MetadataResponseTopic;
use strandline_tests::broker::Software;
use strandline_tests::process::{Program, Server};
use strandline_tests::wire::{Broken, Connection};
use strandline_tests::{place, tools, wait, wire};

use crate::meter;

pub const NODES: usize = 3;
const START: Duration = Duration::from_secs(120);
/// How long the nodes may take to agree on what is waited for.
const AGREE: Duration = Duration::from_secs(120);
const CREATE_TOPICS: i16 = 7;
const METADATA: i16 = 12;
const DESCRIBE_QUORUM: i16 = 0;

/// One node. Dropped = killed.
pub struct Node {
    pub id: i32,
    pub address: SocketAddr,
    program: Program,
    log: PathBuf,
    server: Option<Server>,
}

impl Node {
    pub fn up(&mut self) {
        self.server = Some(Server::start(&format!("node {}", self.id), &self.program, &self.log));
    }

    pub fn await_serving(&mut self) {
        let address = self.address;
        self.server.as_mut().expect("it was started").await_ready(START, || wire::is_serving(address));
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.server.take().expect("it was started").kill();
    }

    fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Server::pid)
    }
}

pub struct Cluster {
    pub nodes: Vec<Node>,
}

impl Cluster {
    /// Starts three new nodes with Kafka's defaults and `settings`, and waits until each serves.
    pub fn start(software: Software, settings: &[(&str, &str)]) -> Self {
        let address = || SocketAddr::from(([127, 0, 0, 1], place::free_port()));
        let clients: Vec<SocketAddr> = (0..NODES).map(|_| address()).collect();
        let controllers: Vec<SocketAddr> = (0..NODES).map(|_| address()).collect();
        let voters: Vec<String> = (1..).zip(&controllers).map(|(id, at)| format!("{id}@{at}")).collect();
        let cluster_id = match software {
            Software::Kafka => tools::run("kafka.tools.StorageTool", &["random-uuid"]).trim().to_owned(),
            Software::Strandline => String::new(),
        };
        let mut nodes = Vec::new();
        for (id, (client, controller)) in (1..).zip(clients.iter().zip(&controllers)) {
            let directory = place::directory(&format!("node-{id}"));
            let path = directory.join("server.properties");
            let mut file = std::fs::File::create(&path).expect("a properties file");
            let text = properties(id, *client, *controller, &voters.join(","), &directory.join("logs"));
            file.write_all(text.as_bytes()).expect("a properties file");
            for (key, value) in settings {
                writeln!(file, "{key}={value}").expect("a properties file");
            }
            let path = path.display().to_string();
            let program = match software {
                Software::Strandline => Program::new(place::strandline()).args(["server", "--config", &path]),
                Software::Kafka => {
                    tools::run("kafka.tools.StorageTool", &["format", "-t", &cluster_id, "-c", &path]);
                    kafka(&path).within(&directory)
                }
            };
            nodes.push(Node { id, address: *client, program, log: directory.join("log"), server: None });
        }
        nodes.iter_mut().for_each(Node::up);
        nodes.iter_mut().for_each(Node::await_serving);
        Cluster { nodes }
    }

    /// As clients take it.
    pub fn bootstrap(&self) -> String {
        self.nodes.iter().map(|node| node.address.to_string()).collect::<Vec<_>>().join(",")
    }

    /// User and system seconds of all nodes that run.
    pub fn processor_seconds(&self) -> f64 {
        self.nodes.iter().filter_map(Node::pid).map(meter::process_seconds).sum()
    }

    fn any(&self) -> Result<Connection, Broken> {
        let running = self.nodes.iter().find(|node| node.server.is_some()).expect("a node runs");
        Connection::open(running.address)
    }

    /// Asks for a topic with a replica on each node, once; the error code, if there was an answer.
    pub fn try_create(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> Result<i16, Broken> {
        self.ask_for(name, partitions, NODES as i16, configs)
    }

    /// Asks for a topic of one partition with `replicas`, once.
    pub fn try_create_on(&self, replicas: i16, name: &str) -> Result<i16, Broken> {
        self.ask_for(name, 1, replicas, &[])
    }

    fn ask_for(&self, name: &str, partitions: i32, replicas: i16, configs: &[(&str, &str)]) -> Result<i16, Broken> {
        let config = |(key, value): &(&str, &str)| CreatableTopicConfig {
            name: (*key).to_owned(),
            value: Some((*value).to_owned()),
        };
        let topic = CreatableTopic {
            name: name.to_owned(),
            num_partitions: partitions,
            replication_factor: replicas,
            configs: configs.iter().map(config).collect(),
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 30_000, validate_only: false };
        Ok(self.any()?.call(CREATE_TOPICS, &request)?.topics[0].error_code)
    }

    /// A topic with a replica on each node, all in sync.
    pub fn create(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        let code = self.try_create(name, partitions, configs).unwrap_or_else(|e| panic!("create {name}: {}", e.0));
        assert_eq!(code, 0, "{name} is made");
        self.await_in_sync(name);
    }

    /// What a node that runs says of a topic.
    pub fn describe(&self, topic: &str) -> Option<MetadataResponseTopic> {
        let asked = MetadataRequestTopic { name: Some(topic.to_owned()), ..Default::default() };
        let request = MetadataRequest { topics: Some(vec![asked]), ..Default::default() };
        self.any().ok()?.call(METADATA, &request).ok()?.topics.into_iter().next()
    }

    pub fn await_in_sync(&self, topic: &str) {
        wait::until("all replicas are in sync", AGREE, || {
            let partitions = self.describe(topic)?.partitions;
            let well = partitions.iter().all(|p| p.leader_id > 0 && p.isr_nodes.len() == NODES);
            (well && !partitions.is_empty()).then_some(())
        });
    }

    /// Index of the node that leads a partition.
    pub fn leader(&self, topic: &str, partition: i32) -> usize {
        wait::until("the partition is led", AGREE, || {
            let partitions = self.describe(topic)?.partitions;
            let leader = partitions.iter().find(|p| p.partition_index == partition)?.leader_id;
            self.nodes.iter().position(|node| node.id == leader)
        })
    }

    /// Index of the node whose controller is the active one.
    pub fn controller(&self) -> usize {
        let topic = QuorumTopic {
            topic_name: "__cluster_metadata".to_owned(),
            partitions: vec![QuorumPartition { partition_index: 0, ..Default::default() }],
            ..Default::default()
        };
        let request = DescribeQuorumRequest { topics: vec![topic] };
        wait::until("a controller is active", AGREE, || {
            let response = self.any().ok()?.call(DESCRIBE_QUORUM, &request).ok()?;
            let leader = response.topics.first()?.partitions.first()?.leader_id;
            self.nodes.iter().position(|node| node.id == leader)
        })
    }
}

/// Kafka with the flags of its own start script, but for a heap of which three fit.
fn kafka(path: &str) -> Program {
    Program::new("java").args([
        "-Xms512m",
        "-Xmx512m",
        "-XX:+UseG1GC",
        "-XX:MaxGCPauseMillis=20",
        "-XX:InitiatingHeapOccupancyPercent=35",
        "-XX:+ExplicitGCInvokesConcurrent",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-cp",
        &place::class_path("kafka"),
        "kafka.Kafka",
        path,
    ])
}

fn properties(id: i32, client: SocketAddr, controller: SocketAddr, voters: &str, logs: &std::path::Path) -> String {
    let logs = logs.display();
    format!(
        "node.id={id}\nprocess.roles=broker,controller\ncontroller.quorum.voters={voters}\n\
         controller.listener.names=CONTROLLER\nlisteners=PLAINTEXT://{client},CONTROLLER://{controller}\n\
         advertised.listeners=PLAINTEXT://{client}\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\nlog.dirs={logs}\n\
         default.replication.factor=3\noffsets.topic.replication.factor=3\nmin.insync.replicas=2\n\
         remote.log.storage.system.enable=false\nadmin.listener=http://127.0.0.1:{}\n",
        // Strandline's metrics; nothing to Kafka.
        place::free_port()
    )
}
