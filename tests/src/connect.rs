//! A connector worker under test, and its REST API.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::broker::Software;
use crate::process::{Program, Server};
use crate::{http, place, tools, wait};

/// How long a worker may take to have its seat.
const START: Duration = Duration::from_secs(60);
const STOP: Duration = Duration::from_secs(40);

/// A REST API.
#[derive(Debug, Clone, Copy)]
pub struct Rest(pub SocketAddr);

impl Rest {
    /// Status and body (null if there is none).
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let answer = self.answer(method, path, body);
        (answer.status, serde_json::from_str(&answer.body).unwrap_or(Value::Null))
    }

    pub fn answer(&self, method: &str, path: &str, body: Option<&Value>) -> http::Answer {
        let body = body.map(Value::to_string);
        let answer = http::call(self.0, method, path, body.as_deref());
        answer.unwrap_or_else(|e| panic!("{method} {path} at {}: {e}", self.0))
    }

    pub fn get(&self, path: &str) -> (u16, Value) {
        self.call("GET", path, None)
    }

    pub fn is_ready(&self) -> bool {
        http::get(self.0, "/health").is_ok_and(|answer| answer.status == 200)
    }

    /// Waits until the connector and all of its `tasks` are in `state`; returns the status.
    pub fn await_state(&self, name: &str, state: &str, tasks: usize) -> Value {
        let mut last = Value::Null;
        wait::until(&format!("{name} is {state} with {tasks} tasks"), Duration::from_secs(90), || {
            let (code, status) = self.get(&format!("/connectors/{name}/status"));
            let is = |one: &Value| one["state"] == state;
            let there = status["tasks"].as_array().map_or(0, Vec::len);
            let all = status["tasks"].as_array().is_some_and(|t| t.iter().all(is));
            let done = code == 200 && is(&status["connector"]) && there == tasks && all;
            if status != last {
                eprintln!("{name}: {status}");
                last = status.clone();
            }
            done.then_some(status)
        })
    }
}

/// Which worker a run is about: ours, unless `STRANDLINE_TEST_CONNECT=kafka`.
fn software() -> Software {
    match std::env::var("STRANDLINE_TEST_CONNECT").as_deref() {
        Ok("kafka") => Software::Kafka,
        Ok("strandline") | Err(_) => Software::Strandline,
        Ok(other) => panic!("STRANDLINE_TEST_CONNECT is kafka or strandline, not {other}"),
    }
}

/// A worker. Dropped = killed.
#[derive(Debug)]
pub struct Worker {
    pub software: Software,
    pub rest: Rest,
    pub directory: PathBuf,
    server: Option<Server>,
}

impl Worker {
    /// Starts one of `group` with these settings beside the defaults.
    pub fn start(bootstrap: &str, group: &str, settings: &[(&str, &str)]) -> Worker {
        Worker::of(software(), bootstrap, group, settings)
    }

    /// The same, of this software whatever the run is about.
    pub fn of(software: Software, bootstrap: &str, group: &str, settings: &[(&str, &str)]) -> Worker {
        let directory = place::directory("worker");
        let rest = SocketAddr::from(([127, 0, 0, 1], place::free_port()));
        let defaults = [
            ("bootstrap.servers", bootstrap.to_owned()),
            ("group.id", group.to_owned()),
            ("config.storage.topic", format!("{group}-configs")),
            ("offset.storage.topic", format!("{group}-offsets")),
            ("status.storage.topic", format!("{group}-status")),
            ("config.storage.replication.factor", "1".to_owned()),
            ("offset.storage.replication.factor", "1".to_owned()),
            ("status.storage.replication.factor", "1".to_owned()),
            ("offset.storage.partitions", "1".to_owned()),
            ("offset.flush.interval.ms", "300".to_owned()),
            ("session.timeout.ms", "6000".to_owned()),
            ("heartbeat.interval.ms", "500".to_owned()),
            ("scheduled.rebalance.max.delay.ms", "0".to_owned()),
            ("listeners", format!("http://{rest}")),
            ("key.converter", "org.apache.kafka.connect.storage.StringConverter".to_owned()),
            ("value.converter", "org.apache.kafka.connect.storage.StringConverter".to_owned()),
            ("consumer.session.timeout.ms", "6000".to_owned()),
            ("consumer.heartbeat.interval.ms", "500".to_owned()),
        ];
        let mut file = std::fs::File::create(directory.join("worker.properties")).expect("a properties file");
        let given = settings.iter().map(|(k, v)| (*k, (*v).to_owned()));
        let kept = defaults.into_iter().filter(|(k, _)| settings.iter().all(|(given, _)| given != k));
        for (key, value) in kept.chain(given) {
            writeln!(file, "{key}={value}").expect("a properties file");
        }
        if software == Software::Strandline {
            writeln!(file, "spool.dir={}", directory.join("spool").display()).expect("a properties file");
        }
        let mut worker = Worker { software, rest: Rest(rest), directory, server: None };
        worker.up();
        worker
    }

    /// Starts it again, at the same port.
    pub fn up(&mut self) {
        let file = self.directory.join("worker.properties").display().to_string();
        let program = match self.software {
            Software::Strandline => Program::new(place::strandline()).args(["connect", "--config", &file]),
            Software::Kafka => tools::java("org.apache.kafka.connect.cli.ConnectDistributed", &[&file]),
        };
        let mut server = Server::start("worker", &program, &self.directory.join("log"));
        let rest = self.rest;
        server.await_ready(START, || rest.is_ready());
        self.server = Some(server);
    }

    /// As other workers and statuses name it.
    pub fn id(&self) -> String {
        self.rest.0.to_string()
    }

    pub fn kill(&mut self) {
        self.server.take().expect("it runs").kill();
    }

    pub fn stop(&mut self) {
        self.server.take().expect("it runs").terminate(STOP);
    }

    pub fn server(&mut self) -> &mut Server {
        self.server.as_mut().expect("it runs")
    }
}
