//! A broker under test: Strandline, or Apache Kafka to prove a test right.
//!
//! Both are a `server.properties`, a directory and a port; the same settings go to both as far as both know them.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::{Program, Server, run_well};
use crate::{http, place, tools, wire};

/// How long a start may take, a restart with recovery included.
pub const START: Duration = Duration::from_secs(90);
const STOP: Duration = Duration::from_secs(60);

/// Which software.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Software {
    Strandline,
    Kafka,
}

impl Software {
    /// Of the run: Strandline, unless `STRANDLINE_TEST_TARGET=kafka`.
    pub fn under_test() -> Self {
        match std::env::var("STRANDLINE_TEST_TARGET").as_deref() {
            Ok("kafka") => Software::Kafka,
            Ok("strandline") | Err(_) => Software::Strandline,
            Ok(other) => panic!("STRANDLINE_TEST_TARGET is kafka or strandline, not {other}"),
        }
    }
}

/// How a broker is set up. Settings given here win over the defaults.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Settings of `server.properties`.
    pub properties: Vec<(String, String)>,
    pub environment: Vec<(String, String)>,
    /// Flags of Kafka's virtual machine; empty = small and quick to start.
    pub java_flags: Vec<String>,
    /// Of the logs; `None` = a new one.
    pub log_directory: Option<PathBuf>,
}

impl Setup {
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.properties.push((key.to_owned(), value.to_owned()));
        self
    }
}

/// One node. Dropped = killed.
#[derive(Debug)]
pub struct Broker {
    pub software: Software,
    pub address: SocketAddr,
    /// Of Strandline's metrics page.
    pub admin: SocketAddr,
    /// Where the partitions' directories are.
    pub log_directory: PathBuf,
    /// The bucket, when the tier is a local directory (the default).
    pub bucket: PathBuf,
    directory: PathBuf,
    environment: Vec<(String, String)>,
    java_flags: Vec<String>,
    server: Option<Server>,
}

impl Broker {
    /// Starts a new one.
    pub fn start(software: Software, setup: Setup) -> Self {
        let directory = place::directory(match software {
            Software::Strandline => "strandline",
            Software::Kafka => "kafka",
        });
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let mut broker = Broker {
            software,
            address: local(place::free_port()),
            admin: local(place::free_port()),
            log_directory: setup.log_directory.unwrap_or_else(|| directory.join("logs")),
            bucket: directory.join("bucket"),
            directory,
            environment: setup.environment,
            java_flags: setup.java_flags,
            server: None,
        };
        std::fs::create_dir_all(&broker.bucket).expect("a bucket directory");
        let mut properties = broker.default_properties();
        for (key, value) in setup.properties {
            properties.retain(|(k, _)| *k != key);
            properties.push((key, value));
        }
        let mut file = std::fs::File::create(broker.properties_file()).expect("a properties file");
        // An empty value takes a default away.
        for (key, value) in properties.into_iter().filter(|(_, value)| !value.is_empty()) {
            writeln!(file, "{key}={value}").expect("a properties file");
        }
        if software == Software::Kafka {
            broker.format_kafka();
        }
        broker.up();
        broker
    }

    fn properties_file(&self) -> PathBuf {
        self.directory.join("server.properties")
    }

    fn default_properties(&self) -> Vec<(String, String)> {
        let text =
            |pairs: &[(&str, String)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect::<Vec<_>>();
        let mut properties = text(&[
            ("node.id", "1".into()),
            ("process.roles", "broker,controller".into()),
            ("log.dirs", self.log_directory.display().to_string()),
            ("offsets.topic.replication.factor", "1".into()),
            ("offsets.topic.num.partitions", "4".into()),
            ("group.initial.rebalance.delay.ms", "0".into()),
            ("log.retention.check.interval.ms", "500".into()),
            ("log.initial.task.delay.ms", "500".into()),
            ("remote.log.storage.system.enable", "true".into()),
            ("remote.log.manager.task.interval.ms", "500".into()),
        ]);
        let address = self.address;
        let controller = place::free_port();
        properties.extend(match self.software {
            Software::Strandline => text(&[
                ("listeners", format!("PLAINTEXT://{address}")),
                ("admin.listener", format!("http://{}", self.admin)),
                ("tier.url", format!("file://{}", self.bucket.display())),
            ]),
            Software::Kafka => text(&[
                ("listeners", format!("PLAINTEXT://{address},CONTROLLER://127.0.0.1:{controller}")),
                ("advertised.listeners", format!("PLAINTEXT://{address}")),
                ("controller.listener.names", "CONTROLLER".into()),
                ("controller.quorum.voters", format!("1@127.0.0.1:{controller}")),
                ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".into()),
                ("transaction.state.log.replication.factor", "1".into()),
                ("transaction.state.log.min.isr", "1".into()),
                ("share.coordinator.state.topic.replication.factor", "1".into()),
                ("share.coordinator.state.topic.min.isr", "1".into()),
                (
                    "remote.log.storage.manager.class.name",
                    "org.apache.kafka.server.log.remote.storage.LocalTieredStorage".into(),
                ),
                ("rsm.config.dir", self.bucket.display().to_string()),
                ("rsm.config.delete.on.close", "false".into()),
                ("remote.log.metadata.manager.listener.name", "PLAINTEXT".into()),
                ("rlmm.config.remote.log.metadata.topic.replication.factor", "1".into()),
                ("rlmm.config.remote.log.metadata.topic.num.partitions", "2".into()),
            ]),
        });
        properties
    }

    /// Formats the log directory, unless it holds a cluster already.
    fn format_kafka(&self) {
        if self.log_directory.join("meta.properties").exists() {
            return;
        }
        let id = tools::run("kafka.tools.StorageTool", &["random-uuid"]);
        let file = self.properties_file().display().to_string();
        tools::run("kafka.tools.StorageTool", &["format", "--ignore-formatted", "-t", id.trim(), "-c", &file]);
    }

    fn program(&self) -> Program {
        let file = self.properties_file().display().to_string();
        let program = match self.software {
            Software::Strandline => Program::new(place::strandline()).args(["server", "--config", &file]),
            Software::Kafka if self.java_flags.is_empty() => self.kafka(&["-Xms256m", "-Xmx1g", "-XX:+UseG1GC"], &file),
            Software::Kafka => self.kafka(&self.java_flags.iter().map(String::as_str).collect::<Vec<_>>(), &file),
        };
        self.environment.iter().fold(program, |program, (key, value)| program.env(key, value.clone()))
    }

    fn kafka(&self, flags: &[&str], file: &str) -> Program {
        // The jar of its local tier writes a log below the directory it runs in.
        Program::new("java").within(&self.directory).args(flags.iter().copied()).args([
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-cp",
            &place::class_path("kafka"),
            "kafka.Kafka",
            file,
        ])
    }

    /// Starts it again on the same directory and port.
    pub fn up(&mut self) {
        let name = format!("{:?}", self.software);
        let mut server = Server::start(&name, &self.program(), &self.directory.join("log"));
        let address = self.address;
        server.await_ready(START, || wire::is_serving(address));
        self.server = Some(server);
    }

    /// Kills it (SIGKILL).
    pub fn kill(&mut self) {
        self.server.take().expect("it runs").kill();
    }

    /// Stops it in the orderly way (SIGTERM).
    pub fn stop(&mut self) {
        self.server.take().expect("it runs").terminate(STOP);
    }

    pub fn server(&mut self) -> &mut Server {
        self.server.as_mut().expect("it runs")
    }

    pub fn bootstrap(&self) -> String {
        self.address.to_string()
    }

    pub fn connection(&self) -> wire::Connection {
        wire::Connection::open(self.address).unwrap_or_else(|e| panic!("the broker takes connections: {}", e.0))
    }

    /// A partition's directory.
    pub fn partition_directory(&self, topic: &str, partition: i32) -> PathBuf {
        self.log_directory.join(format!("{topic}-{partition}"))
    }

    /// Strandline's metrics page.
    pub fn metrics(&self) -> String {
        let answer = http::get(self.admin, "/metrics").expect("the metrics page answers");
        assert_eq!(answer.status, 200, "the metrics page: {}", answer.body);
        answer.body
    }
}

/// The `.log` files of a partition's directory, oldest first.
pub fn segments(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).map(|all| all.flatten().map(|e| e.path()).collect()).unwrap_or_default();
    let mut logs: Vec<PathBuf> = entries;
    logs.retain(|path| path.extension().is_some_and(|e| e == "log"));
    logs.sort();
    logs
}

/// All files below a directory.
pub fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// Runs the product's binary with arguments, as a user would.
pub fn strandline_command(arguments: &[&str], deadline: Duration) -> Vec<u8> {
    run_well(&Program::new(place::strandline()).args(arguments.iter().copied()), b"", deadline)
}
