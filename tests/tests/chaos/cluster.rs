//! Three nodes, each in its own network namespace, set up alike: Strandline, or Apache Kafka to prove the run itself right.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use strandline_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use strandline_protocol::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};
use strandline_tests::amnesia::Amnesia;
use strandline_tests::broker::Software;
use strandline_tests::netns::{self, Network};
use strandline_tests::process::{Program, Server};
use strandline_tests::random::Random;
use strandline_tests::{place, tools, wait, wire};

use crate::link::Router;
use crate::store::Store;

pub const NODES: u8 = 3;
const CLIENT_PORT: u16 = 9092;
const CONTROLLER_PORT: u16 = 9093;
/// How long a start may take, a restart with recovery included, with the other nodes busy.
const START: Duration = Duration::from_secs(120);
/// How long the nodes may take to agree on a new topic.
const TOPIC: Duration = Duration::from_secs(60);
const CREATE_TOPICS: i16 = 7;
const TOPIC_EXISTS: i16 = 36;

/// What is promised to producers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// min.insync.replicas=2: what is acknowledged outlives any one node.
    Durable,
    /// min.insync.replicas=1: with acks=1, what is acknowledged may be lost. For proving that a loss is found.
    Careless,
}

/// What the nodes' log directories lie on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disks {
    /// The machine's.
    Real,
    /// A file system for each node that forgets what was not synced.
    Amnesia,
}

/// One node. Dropped = killed, and then its disk is gone.
#[derive(Debug)]
pub struct Node {
    pub id: u8,
    pub address: SocketAddr,
    directory: PathBuf,
    program: Program,
    server: Option<Server>,
    pub disk: Option<Amnesia>,
}

impl Node {
    /// Starts it, and does not wait until it serves.
    pub fn up(&mut self) {
        let name = format!("node {}", self.id);
        self.server = Some(Server::start(&name, &self.program, &self.directory.join("log")));
    }

    pub fn await_serving(&mut self) {
        let address = self.address;
        self.server().await_ready(START, || wire::is_serving(address));
    }

    /// SIGKILL, and waits for its end; whether it ran until then.
    pub fn kill(&mut self) -> bool {
        let mut server = self.server.take().expect("it was started");
        let ran = server.is_running();
        server.kill();
        ran
    }

    /// SIGKILL, and its disk loses what was not synced; whether it ran until then.
    pub fn lose_power(&mut self, random: &mut Random) -> bool {
        let ran = self.kill();
        let lost = self.disk.as_mut().expect("a disk that forgets").lose_power(random);
        eprintln!("node {}: {lost:?}", self.id);
        ran
    }

    pub fn server(&mut self) -> &mut Server {
        self.server.as_mut().expect("it was started")
    }

    /// Whether the kernel says that it is stopped by a signal.
    pub fn is_frozen(&mut self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.server().pid())).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:") && line.contains("(stopped)"))
    }
}

/// The nodes. Fields are dropped in their order: the servers before their network.
#[derive(Debug)]
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub store: Option<Store>,
    pub network: Network,
}

impl Cluster {
    /// Starts all nodes and waits until each serves. `tiered` = with remote storage.
    pub fn start(software: Software, promise: Promise, tiered: bool, disks: Disks) -> Self {
        let network = Network::build(NODES);
        let store = (software == Software::Strandline && tiered).then(Store::start);
        let bucket = place::directory("shared-bucket");
        let mut cluster = Cluster { nodes: Vec::new(), store, network };
        let cluster_id = match software {
            Software::Kafka => tools::run("kafka.tools.StorageTool", &["random-uuid"]).trim().to_owned(),
            Software::Strandline => String::new(),
        };
        for id in cluster.network.nodes() {
            let directory = place::directory(&format!("node-{id}"));
            let mut properties = shared_properties(id, &directory, promise);
            properties += &match software {
                Software::Strandline => strandline_properties(tiered),
                Software::Kafka => kafka_properties(promise, tiered.then_some(&bucket)),
            };
            let path = directory.join("server.properties");
            let file = path.display().to_string();
            let mut written = std::fs::File::create(&path).expect("a properties file");
            written.write_all(properties.as_bytes()).expect("a properties file");
            if software == Software::Kafka {
                tools::run("kafka.tools.StorageTool", &["format", "-t", &cluster_id, "-c", &file]);
            }
            let program = cluster.program(software, id, &file);
            let address = netns::socket(id, CLIENT_PORT);
            let disk = (disks == Disks::Amnesia).then(|| Amnesia::mount(&directory.join("disk")));
            cluster.nodes.push(Node { id, address, directory, program, server: None, disk });
        }
        cluster.nodes.iter_mut().for_each(Node::up);
        cluster.nodes.iter_mut().for_each(Node::await_serving);
        cluster
    }

    fn program(&self, software: Software, id: u8, file: &str) -> Program {
        match software {
            Software::Strandline => {
                let program = self.network.program(id, &place::strandline()).args(["server", "--config", file]);
                let environment = self.store.as_ref().map(Store::environment).unwrap_or_default();
                environment.into_iter().fold(program, |program, (key, value)| program.env(&key, value))
            }
            Software::Kafka => {
                let flags = ["-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];
                self.network.program(id, "java".as_ref()).args(flags).args([
                    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
                    "-cp",
                    &place::class_path("kafka"),
                    "kafka.Kafka",
                    file,
                ])
            }
        }
    }

    pub fn bootstrap(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.address).collect()
    }

    /// As Kafka's tools take it.
    pub fn bootstrap_text(&self) -> String {
        self.nodes.iter().map(|node| node.address.to_string()).collect::<Vec<_>>().join(",")
    }

    pub fn node(&mut self, id: u8) -> &mut Node {
        &mut self.nodes[usize::from(id) - 1]
    }

    /// A topic with a replica on each node; waits until every partition has a leader and all replicas in sync.
    pub fn create_topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        let config = |(key, value): &(&str, &str)| CreatableTopicConfig {
            name: (*key).to_owned(),
            value: Some((*value).to_owned()),
        };
        let topic = CreatableTopic {
            name: name.to_owned(),
            num_partitions: partitions,
            replication_factor: i16::from(NODES),
            configs: configs.iter().map(config).collect(),
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, validate_only: false };
        let mut router = Router::new(&self.bootstrap(), name, 0);
        let mut why = String::new();
        wait::until("the topic is made", TOPIC, || {
            let answer = router.ask_any(CREATE_TOPICS, &request).map(|response| response.topics[0].clone());
            why = format!("{answer:?}");
            answer.is_ok_and(|topic| [0, TOPIC_EXISTS].contains(&topic.error_code)).then_some(()).or_else(|| {
                eprintln!("the topic is not made yet: {why}");
                wait::pause(Duration::from_secs(1));
                None
            })
        });
        self.await_in_sync(name, TOPIC);
    }

    /// Waits until every replica of a topic is in sync, in every node's view.
    pub fn await_in_sync(&self, topic: &str, deadline: Duration) {
        for node in &self.nodes {
            let mut router = Router::new(&[node.address], topic, 0);
            let asked = MetadataRequestTopic { name: Some(topic.to_owned()), ..Default::default() };
            let request = MetadataRequest { topics: Some(vec![asked]), ..Default::default() };
            wait::until(&format!("node {} sees all replicas of {topic} in sync", node.id), deadline, || {
                let response = router.ask_any(12, &request).ok()?;
                let partitions = &response.topics.first()?.partitions;
                let whole = |n: usize| n == usize::from(NODES);
                let well = |p: &_| -> bool {
                    let p: &strandline_protocol::messages::metadata_response::MetadataResponsePartition = p;
                    p.leader_id > 0 && whole(p.isr_nodes.len())
                };
                (!partitions.is_empty() && partitions.iter().all(well)).then_some(())
            });
        }
    }
}

fn lines(pairs: &[(&str, String)]) -> String {
    pairs.iter().map(|(key, value)| format!("{key}={value}\n")).collect()
}

/// What both are told.
fn shared_properties(id: u8, directory: &std::path::Path, promise: Promise) -> String {
    let (client, controller) = (netns::socket(id, CLIENT_PORT), netns::socket(id, CONTROLLER_PORT));
    let voters: Vec<String> =
        (1..=NODES).map(|node| format!("{node}@{}", netns::socket(node, CONTROLLER_PORT))).collect();
    let minimum = if promise == Promise::Durable { "2" } else { "1" };
    lines(&[
        ("node.id", id.to_string()),
        ("process.roles", "broker,controller".into()),
        ("controller.quorum.voters", voters.join(",")),
        ("controller.listener.names", "CONTROLLER".into()),
        ("listeners", format!("PLAINTEXT://{client},CONTROLLER://{controller}")),
        ("advertised.listeners", format!("PLAINTEXT://{client}")),
        ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".into()),
        ("log.dirs", directory.join("disk").join("logs").display().to_string()),
        ("min.insync.replicas", minimum.into()),
        ("default.replication.factor", NODES.to_string()),
        ("offsets.topic.replication.factor", NODES.to_string()),
        ("offsets.topic.num.partitions", "4".into()),
        ("group.initial.rebalance.delay.ms", "0".into()),
        ("broker.session.timeout.ms", "6000".into()),
        ("broker.heartbeat.interval.ms", "1000".into()),
        ("replica.lag.time.max.ms", "6000".into()),
        ("log.retention.check.interval.ms", "1000".into()),
        ("remote.log.storage.system.enable", "true".into()),
        ("remote.log.manager.task.interval.ms", "1000".into()),
    ])
}

fn strandline_properties(tiered: bool) -> String {
    let (key, value) = match tiered {
        true => ("tier.url", format!("s3://{}", Store::BUCKET)),
        false => ("remote.log.storage.system.enable", "false".into()),
    };
    lines(&[(key, value)])
}

fn kafka_properties(promise: Promise, bucket: Option<&PathBuf>) -> String {
    let mut properties = lines(&[
        ("unclean.leader.election.enable", (promise == Promise::Careless).to_string()),
        ("transaction.state.log.replication.factor", NODES.to_string()),
        ("share.coordinator.state.topic.replication.factor", NODES.to_string()),
        ("log.initial.task.delay.ms", "500".into()),
    ]);
    properties += &match bucket {
        None => lines(&[("remote.log.storage.system.enable", "false".into())]),
        Some(bucket) => lines(&[
            (
                "remote.log.storage.manager.class.name",
                "org.apache.kafka.server.log.remote.storage.LocalTieredStorage".into(),
            ),
            ("rsm.config.dir", bucket.display().to_string()),
            ("rsm.config.delete.on.close", "false".into()),
            ("remote.log.metadata.manager.listener.name", "PLAINTEXT".into()),
            ("rlmm.config.remote.log.metadata.topic.replication.factor", NODES.to_string()),
            ("rlmm.config.remote.log.metadata.topic.num.partitions", "2".into()),
        ]),
    };
    properties
}
