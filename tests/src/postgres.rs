//! PostgreSQL, as Debian packages it: one server with an empty cluster, on loopback.
//!
//! The server refuses to run as root: then it runs as `nobody`, in a directory of `nobody`'s.

use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::{Program, Server, run, run_well};
use crate::{place, wait};

const START: Duration = Duration::from_secs(60);
const COMMAND: Duration = Duration::from_secs(60);
/// `nobody` and its group, on Debian.
const NOBODY: u32 = 65_534;
const USER: &str = "strandline";
pub const PASSWORD: &str = "canary-of-postgres";

/// A server; killed and started again at the same port, its data stays.
#[derive(Debug)]
pub struct Postgres {
    pub address: SocketAddr,
    directory: PathBuf,
    server: Option<Server>,
}

/// The newest server's programs.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|entry| entry.path().join("bin")).filter(|bin| bin.join("initdb").exists()).max();
    found.expect("PostgreSQL is installed: run tests/services/install")
}

fn as_somebody(program: &Path) -> Program {
    if !rustix::process::geteuid().is_root() {
        return Program::new(program);
    }
    let id = NOBODY.to_string();
    // A change of the user takes the signal away that the outer call has asked for.
    let own = ["--reuid", &id, "--regid", &id, "--clear-groups", "--pdeathsig", "KILL"];
    Program::new("setpriv").args(own).args([program.display().to_string()])
}

impl Postgres {
    pub fn start() -> Postgres {
        let directory = place::directory("postgres");
        if rustix::process::geteuid().is_root() {
            chown(&directory, Some(NOBODY), Some(NOBODY)).expect("root may");
        }
        let (data, secret) = (directory.join("data"), directory.join("password"));
        std::fs::File::create(&secret)
            .and_then(|mut f| std::io::Write::write_all(&mut f, PASSWORD.as_bytes()))
            .expect("a file");
        let init = as_somebody(&programs().join("initdb")).within(&directory).args([
            "-D",
            &data.display().to_string(),
            "-U",
            USER,
            "--pwfile",
            &secret.display().to_string(),
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--no-sync",
        ]);
        run_well(&init, b"", START);
        let address = SocketAddr::from(([127, 0, 0, 1], place::free_port()));
        let mut postgres = Postgres { address, directory, server: None };
        postgres.up();
        postgres
    }

    /// Starts it again after [`Postgres::kill`].
    pub fn up(&mut self) {
        let program = as_somebody(&programs().join("postgres")).within(&self.directory).args([
            "-D",
            &self.directory.join("data").display().to_string(),
            "-p",
            &self.address.port().to_string(),
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "unix_socket_directories=",
            "-c",
            "fsync=off",
        ]);
        let mut server = Server::start("postgres", &program, &self.directory.join("log"));
        server.await_ready(START, || run(&self.psql("postgres", "SELECT 1"), b"", COMMAND).success);
        self.server = Some(server);
    }

    /// Ends it at once, as a crash would; what was committed stays. (After SIGKILL alone its children may outlive it for a moment, and
    /// keep the next one from starting.)
    pub fn kill(&mut self) {
        let mut server = self.server.take().expect("it runs");
        let pid = i32::try_from(server.pid()).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::QUIT).expect("it is ours");
        wait::until("postgres has ended", COMMAND, || (!server.is_running()).then_some(()));
    }

    /// Of a database, without credentials.
    pub fn url(&self, database: &str) -> String {
        format!("postgresql://{}/{database}", self.address)
    }

    pub fn user(&self) -> &'static str {
        USER
    }

    fn psql(&self, database: &str, sql: &str) -> Program {
        let url = format!("postgresql://{USER}@{}/{database}", self.address);
        Program::new(programs().join("psql")).env("PGPASSWORD", PASSWORD).args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-F",
            " ",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            sql,
            &url,
        ])
    }

    /// Runs statements in the database `postgres`; returns a line for each row, its columns separated by spaces.
    pub fn query(&self, sql: &str) -> Vec<String> {
        let text = run_well(&self.psql("postgres", sql), b"", COMMAND);
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }

    /// The same of a table that may not be there yet, in any database.
    pub fn try_query(&self, database: &str, sql: &str) -> Option<Vec<String>> {
        let output = run(&self.psql(database, sql), b"", COMMAND);
        output.success.then(|| output.text().lines().map(str::to_owned).collect())
    }
}
