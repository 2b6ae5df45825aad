//! MinIO: an S3 store on the machine's own disk, and its buckets.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::http;
use crate::place;
use crate::process::{Program, Server, run_well};

pub const ACCESS_KEY: &str = "strandline";
pub const SECRET_KEY: &str = "strandline-secret";
const START: Duration = Duration::from_secs(60);
/// The archive of hundreds of rounds is a hundred thousand small files.
const COMMAND: Duration = Duration::from_secs(900);

/// A store; stopped and started again on the same port, its data stays.
#[derive(Debug)]
pub struct Minio {
    pub address: SocketAddr,
    directory: PathBuf,
    server: Option<Server>,
}

impl Minio {
    /// Starts one, empty.
    pub fn start() -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], place::free_port()));
        let mut minio = Minio { address, directory: place::directory("minio"), server: None };
        minio.up();
        minio
    }

    /// Starts it again after [`Minio::down`].
    pub fn up(&mut self) {
        let data = self.directory.join("data");
        let program = Program::new(place::installed("bin/minio"))
            .args(["server", "--quiet", "--address", &self.address.to_string()])
            .args([data.display().to_string()])
            .env("MINIO_ROOT_USER", ACCESS_KEY)
            .env("MINIO_ROOT_PASSWORD", SECRET_KEY)
            .env("MINIO_BROWSER", "off")
            .env("HOME", self.directory.display().to_string());
        let mut server = Server::start("minio", &program, &self.directory.join("log"));
        let address = self.address;
        server.await_ready(START, || http::get(address, "/minio/health/live").is_ok_and(|r| r.status == 200));
        self.server = Some(server);
    }

    /// Kills it.
    pub fn down(&mut self) {
        self.server = None;
    }

    pub fn server(&self) -> Option<&Server> {
        self.server.as_ref()
    }

    /// Runs MinIO's client `mc`; `store` is this server's alias.
    pub fn mc(&self, arguments: &[&str]) -> String {
        let host = format!("http://{ACCESS_KEY}:{SECRET_KEY}@{}", self.address);
        let program = Program::new(place::installed("bin/mc"))
            .args(["--quiet", "--config-dir", &self.directory.join("mc").display().to_string()])
            .args(arguments.iter().copied())
            .env("MC_HOST_store", host)
            .env("HOME", self.directory.display().to_string());
        String::from_utf8_lossy(&run_well(&program, b"", COMMAND)).into_owned()
    }

    /// Makes a bucket.
    pub fn make_bucket(&self, name: &str) {
        self.mc(&["mb", &format!("store/{name}")]);
    }

    /// Keys of all objects below `prefix` (bucket first), relative to it.
    pub fn list(&self, prefix: &str) -> Vec<String> {
        let text = self.mc(&["ls", "--recursive", "--json", &format!("store/{prefix}")]);
        text.lines()
            .filter_map(|line| line.split_once("\"key\":\"").and_then(|(_, rest)| rest.split_once('"')))
            .map(|(key, _)| key.to_owned())
            .collect()
    }

    /// What the product's environment needs to reach it, through `endpoint` (a proxy's or its own).
    pub fn environment(endpoint: SocketAddr) -> Vec<(String, String)> {
        [
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ENDPOINT_URL", format!("http://{endpoint}")),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
        ]
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v))
        .collect()
    }
}
