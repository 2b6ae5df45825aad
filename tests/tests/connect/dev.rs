//! A new user's first minutes: `strandline dev`, `strandline connector apply`.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use strandline_tests::broker::strandline_command;
use strandline_tests::connect::Rest;
use strandline_tests::process::{Program, Server, run_well};
use strandline_tests::{place, wire};

use crate::scene::{await_lines, lines};

const COMMAND: Duration = Duration::from_secs(60);

pub struct Dev {
    kafka: SocketAddr,
    pub rest: Rest,
    program: Program,
    directory: std::path::PathBuf,
}

impl Dev {
    /// A node with these options beside its own ports and directory.
    pub fn with(options: &[&str]) -> Dev {
        let directory = place::directory("dev");
        let local = || SocketAddr::from(([127, 0, 0, 1], place::free_port()));
        let (kafka, rest) = (local(), local());
        let program = Program::new(place::strandline()).args([
            "dev",
            "--data-dir",
            &directory.join("data").display().to_string(),
            "--port",
            &kafka.port().to_string(),
            "--connect-port",
            &rest.port().to_string(),
        ]);
        let program = program.args(options.iter().copied());
        Dev { kafka, rest: Rest(rest), program, directory }
    }

    pub fn up(&self) -> Server {
        let mut server = Server::start("dev", &self.program, &self.directory.join("log"));
        let (kafka, rest) = (self.kafka, self.rest);
        server.await_ready(COMMAND, || wire::is_serving(kafka) && rest.is_ready());
        server
    }

    pub fn connector(&self, arguments: &[&str]) -> String {
        let url = format!("http://{}", self.rest.0);
        let all = [&["connector", "--url", &url], arguments].concat();
        String::from_utf8_lossy(&strandline_command(&all, COMMAND)).into_owned()
    }

    /// A file beside the node's directory.
    pub fn file(&self, name: &str) -> std::path::PathBuf {
        self.directory.join(name)
    }

    pub fn produce(&self, text: &str) {
        let address = self.kafka.to_string();
        let program = Program::new(place::strandline()).args(["produce", "-b", &address, "greetings"]);
        run_well(&program, text.as_bytes(), COMMAND);
    }
}

#[test]
fn a_topic_is_in_a_file_after_two_commands() {
    let dev = Dev::with(&[]);
    let mut server = dev.up();
    let banner = server.log_text();
    assert!(banner.contains(&format!("connect  http://{}", dev.rest.0)), "{banner}");
    dev.produce("hello 0\nhello 1\n");
    let out = dev.directory.join("out");
    let posted = dev.directory.join("archive.json");
    let text = format!(
        r#"{{"name":"archive","config":{{"connector.class":"FileStreamSink","topics":"greetings","file":"{}"}}}}"#,
        out.display()
    );
    std::io::Write::write_all(&mut std::fs::File::create(&posted).unwrap(), text.as_bytes()).unwrap();
    let file = posted.display().to_string();
    assert!(dev.connector(&["validate", &file]).contains("nothing is wrong"));
    assert!(dev.connector(&["apply", &file]).contains("archive is made with 1 task(s)"));
    await_lines(&out, "hello", 2);
    dev.rest.await_state("archive", "RUNNING", 1);
    assert!(dev.connector(&["list"]).contains("1 RUNNING"));
    let status: Value = serde_json::from_str(&dev.connector(&["status", "archive", "--json"])).unwrap();
    assert_eq!(status["connector"]["state"], "RUNNING");
    assert!(dev.connector(&["apply", &file]).contains("archive is changed"));
    assert!(dev.connector(&["plugins"]).contains("FileStreamSink"));

    server.terminate(COMMAND);
    let _server = dev.up();
    dev.produce("again 0\n");
    await_lines(&out, "again", 1);
    assert!(lines(&out).values().all(|n| *n == 1), "{:?}", lines(&out));
    assert!(dev.connector(&["stop", "archive"]).contains("archive stops"));
    dev.rest.await_state("archive", "STOPPED", 0);
    assert!(dev.connector(&["offsets", "archive"]).contains("greetings"));
    assert!(dev.connector(&["delete", "archive"]).contains("is deleted"));
    assert!(!dev.connector(&["list"]).contains("archive"));
}
