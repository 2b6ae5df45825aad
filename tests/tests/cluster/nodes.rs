//! Nodes on free ports of 127.0.0.1 with one bucket, and what a test asks of them.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use strandline_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use strandline_protocol::messages::metadata_request::{MetadataRequest, MetadataRequestTopic};
use strandline_protocol::messages::metadata_response::{MetadataResponse, MetadataResponsePartition};
use strandline_tests::broker::{segments, strandline_command};
use strandline_tests::process::{Program, Server};
use strandline_tests::wire::{Connection, LATEST_TIERED};
use strandline_tests::{http, place, wait, wire};

/// How long a start may take, with the other nodes and their clients busy.
pub const START: Duration = Duration::from_secs(90);
const STOP: Duration = Duration::from_secs(60);
/// How long the nodes may take to agree.
pub const AGREED: Duration = Duration::from_secs(60);
/// How long a command line may take.
pub const COMMAND: Duration = Duration::from_secs(120);
const METADATA: i16 = 12;
const CREATE_TOPICS: i16 = 7;

/// Each test has several nodes and Java clients on few cores: one at a time.
pub fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One node. Dropped = killed.
pub struct Node {
    pub id: i32,
    pub address: SocketAddr,
    pub controller: SocketAddr,
    pub admin: SocketAddr,
    pub directory: PathBuf,
    roles: &'static str,
    server: Option<Server>,
}

impl Node {
    fn new(id: i32, roles: &'static str) -> Self {
        let local = || SocketAddr::from(([127, 0, 0, 1], place::free_port()));
        let directory = place::directory(&format!("cluster-{id}"));
        Node { id, address: local(), controller: local(), admin: local(), directory, roles, server: None }
    }

    /// Starts it, and does not wait until it serves.
    pub fn up(&mut self) {
        let file = self.directory.join("server.properties").display().to_string();
        let program = Program::new(place::strandline()).args(["server", "--config", &file]);
        self.server = Some(Server::start(&format!("node {}", self.id), &program, &self.directory.join("log")));
    }

    pub fn is_broker(&self) -> bool {
        self.roles.contains("broker")
    }

    /// Waits until clients are served; of a node without clients, until its metrics are.
    pub fn await_serving(&mut self) {
        let (address, admin, broker) = (self.address, self.admin, self.is_broker());
        let serves = move || {
            if broker { wire::is_serving(address) } else { http::get(admin, "/metrics").is_ok_and(|a| a.status == 200) }
        };
        self.server().await_ready(START, serves);
    }

    pub fn server(&mut self) -> &mut Server {
        self.server.as_mut().expect("it was started")
    }

    pub fn kill(&mut self) {
        self.server().kill();
        self.server = None;
    }

    /// Waits until it has ended by itself; what it said.
    pub fn await_refusal(&mut self) -> String {
        let mut server = self.server.take().expect("it was started");
        wait::until("the node has ended", START, || (!server.is_running()).then_some(()));
        server.log_text()
    }

    /// Stops it in the orderly way.
    pub fn stop(&mut self) {
        self.server.take().expect("it was started").terminate(STOP);
    }

    pub fn metrics(&self) -> String {
        http::get(self.admin, "/metrics").map(|answer| answer.body).unwrap_or_default()
    }

    pub fn connection(&self) -> Connection {
        Connection::open(self.address).unwrap_or_else(|e| panic!("node {} takes connections: {}", self.id, e.0))
    }

    pub fn partition_directory(&self, topic: &str, partition: i32) -> PathBuf {
        self.directory.join("logs").join(format!("{topic}-{partition}"))
    }
}

/// The nodes of one cluster.
pub struct Cluster {
    pub nodes: Vec<Node>,
    bucket: PathBuf,
    voters: String,
    extra: Vec<(String, String)>,
}

impl Cluster {
    /// Nodes 1 to `count`, each broker and controller; `extra` settings go to all.
    pub fn start(count: i32, extra: &[(&str, &str)]) -> Self {
        Self::start_with((1..=count).map(|id| (id, "broker,controller")), extra, |_| Vec::new())
    }

    /// Nodes by id and roles; `own` are settings of one of them.
    pub fn start_with(
        nodes: impl Iterator<Item = (i32, &'static str)>,
        extra: &[(&str, &str)],
        own: impl Fn(i32) -> Vec<(String, String)>,
    ) -> Self {
        let nodes: Vec<Node> = nodes.map(|(id, roles)| Node::new(id, roles)).collect();
        let voters = nodes.iter().filter(|n| n.roles.contains("controller"));
        let voters: Vec<String> = voters.map(|n| format!("{}@{}", n.id, n.controller)).collect();
        let extra = extra.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let bucket = place::directory("cluster-bucket");
        let mut cluster = Cluster { nodes, bucket, voters: voters.join(","), extra };
        for at in 0..cluster.nodes.len() {
            cluster.write_properties(&cluster.nodes[at], &own(cluster.nodes[at].id));
        }
        cluster.nodes.iter_mut().for_each(Node::up);
        cluster.nodes.iter_mut().for_each(Node::await_serving);
        cluster
    }

    /// One more node, told of the voters that there were at first; it is not started.
    pub fn add(&mut self, id: i32, roles: &'static str, own: &[(String, String)]) -> &mut Node {
        let node = Node::new(id, roles);
        self.write_properties(&node, own);
        self.nodes.push(node);
        self.nodes.last_mut().expect("just added")
    }

    fn write_properties(&self, node: &Node, own: &[(String, String)]) {
        let replicas = 3.min(self.nodes.iter().filter(|n| n.is_broker()).count());
        let (broker, controller) = (node.is_broker(), node.roles.contains("controller"));
        let mut listeners = Vec::new();
        listeners.extend(broker.then(|| format!("PLAINTEXT://{}", node.address)));
        listeners.extend(controller.then(|| format!("CONTROLLER://{}", node.controller)));
        let mut properties: Vec<(String, String)> = [
            ("node.id", node.id.to_string()),
            ("process.roles", node.roles.to_owned()),
            ("listeners", listeners.join(",")),
            ("controller.listener.names", "CONTROLLER".into()),
            ("controller.quorum.voters", self.voters.clone()),
            ("log.dirs", node.directory.join("logs").display().to_string()),
            ("admin.listener", format!("http://{}", node.admin)),
            ("tier.url", format!("file://{}", self.bucket.display())),
            ("default.replication.factor", replicas.to_string()),
            ("offsets.topic.num.partitions", "4".into()),
            ("group.initial.rebalance.delay.ms", "0".into()),
            ("log.retention.check.interval.ms", "500".into()),
            ("log.initial.task.delay.ms", "500".into()),
            ("remote.log.manager.task.interval.ms", "500".into()),
            ("broker.session.timeout.ms", "6000".into()),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        for (key, value) in self.extra.iter().chain(own) {
            properties.retain(|(k, _)| k != key);
            properties.push((key.clone(), value.clone()));
        }
        let text: String = properties.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        let mut file = std::fs::File::create(node.directory.join("server.properties")).expect("a properties file");
        file.write_all(text.as_bytes()).expect("a properties file");
    }

    pub fn node(&mut self, id: i32) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.id == id).expect("a node of this cluster")
    }

    /// The brokers that run, as clients are told.
    pub fn bootstrap(&self) -> String {
        let running = self.nodes.iter().filter(|n| n.server.is_some() && n.is_broker());
        running.map(|n| n.address.to_string()).collect::<Vec<_>>().join(",")
    }

    pub fn any(&self) -> &Node {
        self.nodes.iter().find(|n| n.server.is_some() && n.is_broker()).expect("a node that runs")
    }

    /// `strandline cluster ARGUMENTS`, which must succeed.
    pub fn command(&self, arguments: &[&str]) -> String {
        let bootstrap = self.bootstrap();
        let all: Vec<&str> = ["cluster", "-b", &bootstrap].into_iter().chain(arguments.iter().copied()).collect();
        String::from_utf8_lossy(&strandline_command(&all, COMMAND)).into_owned()
    }

    /// [`Cluster::command`] with `--json`.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let text = self.command(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{arguments:?} tells JSON: {e}: {text}"))
    }

    pub fn metadata_of(&self, node: &Node, topic: &str) -> Option<MetadataResponse> {
        let asked = MetadataRequestTopic { name: Some(topic.to_owned()), ..Default::default() };
        let request = MetadataRequest { topics: Some(vec![asked]), ..Default::default() };
        Connection::open(node.address).ok()?.call(METADATA, &request).ok()
    }

    /// The partitions of a topic, as one of the nodes sees them.
    pub fn partitions(&self, topic: &str) -> Vec<MetadataResponsePartition> {
        let metadata = wait::until("metadata", AGREED, || self.metadata_of(self.any(), topic));
        let mut partitions = metadata.topics.into_iter().flat_map(|t| t.partitions).collect::<Vec<_>>();
        partitions.sort_by_key(|p| p.partition_index);
        partitions
    }

    /// Where a node takes clients.
    pub fn address(&self, id: i32) -> SocketAddr {
        self.nodes.iter().find(|n| n.id == id).expect("a node of this cluster").address
    }

    pub fn create_topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        self.create_with(name, partitions, -1, configs);
    }

    /// A topic with so many replicas (-1 = the default); waits until all are in sync in every node's view.
    pub fn create_with(&self, name: &str, partitions: i32, replicas: i16, configs: &[(&str, &str)]) {
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
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, validate_only: false };
        let answer = self.any().connection().call(CREATE_TOPICS, &request);
        let answer = answer.unwrap_or_else(|e| panic!("CreateTopics: {}", e.0));
        assert_eq!(answer.topics[0].error_code, 0, "{:?}", answer.topics[0].error_message);
        self.await_in_sync(name);
    }

    /// Waits until every replica of a topic is in sync, in every running node's view.
    pub fn await_in_sync(&self, topic: &str) {
        for node in self.nodes.iter().filter(|n| n.server.is_some() && n.is_broker()) {
            wait::until(&format!("node {} sees all replicas of {topic} in sync", node.id), AGREED, || {
                let metadata = self.metadata_of(node, topic)?;
                let partitions = &metadata.topics.first()?.partitions;
                let well =
                    |p: &MetadataResponsePartition| p.leader_id > 0 && p.isr_nodes.len() == p.replica_nodes.len();
                (!partitions.is_empty() && partitions.iter().all(well)).then_some(())
            });
        }
    }

    /// Bytes of a partition's local log that are not in the bucket yet, on its leader.
    pub fn local_tail(&self, topic: &str, partition: &MetadataResponsePartition) -> u64 {
        let leader = self.nodes.iter().find(|n| n.id == partition.leader_id).expect("a leader");
        let copied = leader.connection().list_offset(topic, partition.partition_index, LATEST_TIERED).unwrap_or(-1);
        let above = |path: &PathBuf| {
            let base = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse::<i64>().ok());
            base.is_some_and(|base| base > copied)
        };
        let files = segments(&leader.partition_directory(topic, partition.partition_index));
        files.iter().filter(|path| above(path)).filter_map(|path| Some(path.metadata().ok()?.len())).sum()
    }

    /// Bytes of a partition's whole local log on its leader.
    pub fn local_bytes(&self, topic: &str, partition: &MetadataResponsePartition) -> u64 {
        let leader = self.nodes.iter().find(|n| n.id == partition.leader_id).expect("a leader");
        let files = segments(&leader.partition_directory(topic, partition.partition_index));
        files.iter().filter_map(|path| Some(path.metadata().ok()?.len())).sum()
    }

    /// Waits until all closed segments of a topic are in the bucket.
    pub fn await_copied(&self, topic: &str) {
        for partition in self.partitions(topic) {
            let leader = self.nodes.iter().find(|n| n.id == partition.leader_id).expect("a leader");
            let directory = leader.partition_directory(topic, partition.partition_index);
            wait::until(&format!("{topic}-{} is copied", partition.partition_index), AGREED, || {
                let active = segments(&directory).last()?.file_stem()?.to_str()?.parse::<i64>().ok()?;
                let copied = leader.connection().list_offset(topic, partition.partition_index, LATEST_TIERED).ok()?;
                (active > 0 && copied + 1 == active).then_some(())
            });
        }
    }

    /// A metric of each running node, as far as it has the label.
    pub fn metric(&self, name: &str, label: &str) -> BTreeMap<i32, f64> {
        let running = self.nodes.iter().filter(|n| n.server.is_some());
        running.filter_map(|n| Some((n.id, http::metric(&n.metrics(), name, label)?))).collect()
    }
}
