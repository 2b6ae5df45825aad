//! MinIO on the bridge, where the nodes' namespaces reach it, with a proxy before it that can be slow.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use strandline_tests::minio::{ACCESS_KEY, Minio, SECRET_KEY};
use strandline_tests::process::{Program, Server, run_well};
use strandline_tests::proxy::Proxy;
use strandline_tests::{http, netns, place};

const PORT: u16 = 9000;
/// Where the nodes believe the store to be.
const PROXY_PORT: u16 = 9001;
const START: Duration = Duration::from_secs(60);
const COMMAND: Duration = Duration::from_secs(60);

/// The store, with one bucket. Dropped = killed.
#[derive(Debug)]
pub struct Store {
    address: SocketAddr,
    pub proxy: Proxy,
    directory: PathBuf,
    server: Option<Server>,
}

impl Store {
    pub const BUCKET: &str = "tier";

    pub fn start() -> Self {
        let address = netns::socket(netns::HOST, PORT);
        let proxy = Proxy::start_at(netns::socket(netns::HOST, PROXY_PORT), address);
        let mut store = Store { address, proxy, directory: place::directory("store"), server: None };
        store.up();
        let host = format!("http://{ACCESS_KEY}:{SECRET_KEY}@{}", store.address);
        let program = Program::new(place::installed("bin/mc"))
            .args(["--quiet", "--config-dir", &store.directory.join("mc").display().to_string()])
            .args(["mb", &format!("store/{}", Store::BUCKET)])
            .env("MC_HOST_store", host)
            .env("HOME", store.directory.display().to_string());
        run_well(&program, b"", COMMAND);
        store
    }

    /// Starts it again after [`Store::down`].
    pub fn up(&mut self) {
        let program = Program::new(place::installed("bin/minio"))
            .args(["server", "--quiet", "--address", &self.address.to_string()])
            .args([self.directory.join("data").display().to_string()])
            .env("MINIO_ROOT_USER", ACCESS_KEY)
            .env("MINIO_ROOT_PASSWORD", SECRET_KEY)
            .env("MINIO_BROWSER", "off")
            .env("HOME", self.directory.display().to_string());
        let mut server = Server::start("store", &program, &self.directory.join("log"));
        let address = self.address;
        server.await_ready(START, || http::get(address, "/minio/health/live").is_ok_and(|r| r.status == 200));
        self.server = Some(server);
    }

    /// Kills it; whether it ran until then.
    pub fn down(&mut self) -> bool {
        self.server.take().is_some_and(|mut server| server.is_running())
    }

    /// Whether it answers.
    pub fn answers(&self) -> bool {
        http::get(self.address, "/minio/health/live").is_ok()
    }

    /// What a node needs to reach it.
    pub fn environment(&self) -> Vec<(String, String)> {
        Minio::environment(self.proxy.address)
    }
}
