//! HDFS: a NameNode and a DataNode on the machine's own disk.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::place;
use crate::process::{Program, Server, run_well};

const START: Duration = Duration::from_secs(90);
const COMMAND: Duration = Duration::from_secs(60);

/// One NameNode, one DataNode. Dropped = killed.
#[derive(Debug)]
pub struct Hdfs {
    /// The NameNode's, of `hdfs://` URLs.
    pub address: SocketAddr,
    directory: PathBuf,
    datanode: Option<Server>,
    namenode: Option<Server>,
}

impl Hdfs {
    /// Starts one, empty.
    pub fn start() -> Self {
        let local = || SocketAddr::from(([127, 0, 0, 1], place::free_port()));
        let mut hdfs = Hdfs { address: local(), directory: place::directory("hdfs"), datanode: None, namenode: None };
        let directory = hdfs.directory.display().to_string();
        hdfs.configure("core-site.xml", &[("fs.defaultFS", format!("hdfs://{}", hdfs.address))]);
        hdfs.configure(
            "hdfs-site.xml",
            &[
                ("dfs.namenode.name.dir", format!("{directory}/name")),
                ("dfs.datanode.data.dir", format!("{directory}/data")),
                ("dfs.replication", "1".into()),
                ("dfs.permissions.enabled", "false".into()),
                ("dfs.namenode.http-address", local().to_string()),
                ("dfs.datanode.address", local().to_string()),
                ("dfs.datanode.http.address", local().to_string()),
                ("dfs.datanode.ipc.address", local().to_string()),
            ],
        );
        let logging = "log4j.rootLogger=WARN,console\nlog4j.appender.console=org.apache.log4j.ConsoleAppender\n\
                       log4j.appender.console.layout=org.apache.log4j.SimpleLayout\n";
        hdfs.write("log4j.properties", logging);
        run_well(&hdfs.java("server.namenode.NameNode", &["-format", "-nonInteractive"]), b"", COMMAND);
        hdfs.up();
        hdfs
    }

    fn write(&self, name: &str, text: &str) {
        let mut file = std::fs::File::create(self.directory.join(name)).expect("a configuration file");
        file.write_all(text.as_bytes()).expect("a configuration file");
    }

    fn configure(&self, name: &str, settings: &[(&str, String)]) {
        let properties = settings.iter().fold(String::new(), |mut text, (key, value)| {
            writeln!(text, "<property><name>{key}</name><value>{value}</value></property>").expect("into memory");
            text
        });
        self.write(name, &format!("<?xml version=\"1.0\"?>\n<configuration>\n{properties}</configuration>\n"));
    }

    fn java(&self, class: &str, arguments: &[&str]) -> Program {
        let class_path = format!(
            "{}:{}:{}",
            self.directory.display(),
            place::installed("hadoop/classes").display(),
            place::class_path("hadoop")
        );
        let class =
            if class.starts_with("server.") { format!("org.apache.hadoop.hdfs.{class}") } else { class.to_owned() };
        Program::new("java")
            .args(["-Xmx512m", "-XX:+UseSerialGC", "-cp", &class_path, &class])
            .args(arguments.iter().copied())
    }

    /// Starts both again after [`Hdfs::down`].
    pub fn up(&mut self) {
        let address = self.address;
        let mut namenode = Server::start(
            "namenode",
            &self.java("server.namenode.NameNode", &[]),
            &self.directory.join("namenode.log"),
        );
        namenode.await_ready(START, || std::net::TcpStream::connect(address).is_ok());
        let mut datanode = Server::start(
            "datanode",
            &self.java("server.datanode.DataNode", &[]),
            &self.directory.join("datanode.log"),
        );
        // A file can be written only once the DataNode has reported and the NameNode has left its safe mode.
        datanode.await_ready(START, || {
            let report = crate::process::run(
                &self.java("org.apache.hadoop.fs.FsShell", &["-put", "-f", "-", "/ready"]),
                b"ready",
                COMMAND,
            );
            report.success
        });
        self.namenode = Some(namenode);
        self.datanode = Some(datanode);
    }

    /// Kills both.
    pub fn down(&mut self) {
        self.datanode = None;
        self.namenode = None;
    }

    /// `hdfs://host:port/<path>`.
    pub fn url(&self, path: &str) -> String {
        format!("hdfs://{}/{path}", self.address)
    }

    /// All files below a path, one a line.
    pub fn list(&self, path: &str) -> Vec<String> {
        let out = run_well(&self.java("org.apache.hadoop.fs.FsShell", &["-ls", "-R", "-C", path]), b"", COMMAND);
        String::from_utf8_lossy(&out).lines().map(str::to_owned).collect()
    }
}
