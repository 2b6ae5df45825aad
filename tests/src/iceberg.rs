//! An Iceberg catalog: Apache Iceberg's own REST servlet over SQLite, with a warehouse in a directory; and pyiceberg, which reads its tables.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::process::{Program, Server, run};
use crate::{http, place};

const START: Duration = Duration::from_secs(60);
const SCRIPT: Duration = Duration::from_secs(60);
const ABSENT: &str = "there is no such table";

/// A catalog; killed and started again at the same port, its tables stay.
#[derive(Debug)]
pub struct Catalog {
    pub address: SocketAddr,
    directory: PathBuf,
    server: Option<Server>,
}

impl Catalog {
    pub fn start() -> Catalog {
        let directory = place::directory("iceberg");
        let address = SocketAddr::from(([127, 0, 0, 1], place::free_port()));
        let mut catalog = Catalog { address, directory, server: None };
        catalog.up();
        catalog
    }

    /// Starts it again after [`Catalog::kill`].
    pub fn up(&mut self) {
        let program = Program::new("java")
            .args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .args(["-cp", &place::class_path("iceberg-rest"), "org.apache.iceberg.rest.RESTCatalogServer"])
            .env("CATALOG_REST_PORT", self.address.port().to_string())
            .env("CATALOG_WAREHOUSE", format!("file://{}", self.directory.join("warehouse").display()))
            .env("CATALOG_URI", format!("jdbc:sqlite:{}", self.directory.join("catalog.db").display()));
        let mut server = Server::start("iceberg", &program, &self.directory.join("log"));
        let address = self.address;
        server.await_ready(START, || http::get(address, "/v1/config").is_ok_and(|answer| answer.status == 200));
        self.server = Some(server);
    }

    pub fn kill(&mut self) {
        self.server.take().expect("it runs").kill();
    }

    pub fn uri(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Runs Python over `table`, which is `t` in it (a pyiceberg table); returns the lines it prints. None = there is no such table.
    pub fn python(&self, table: &str, script: &str) -> Option<Vec<String>> {
        let whole = format!(
            "import sys\nfrom pyiceberg.catalog.rest import RestCatalog\nfrom pyiceberg.exceptions import NoSuchTableError, \
             NoSuchNamespaceError\ntry:\n    t = RestCatalog('c', uri=sys.argv[1]).load_table(sys.argv[2])\n\
             except (NoSuchTableError, NoSuchNamespaceError):\n    print('{ABSENT}')\n    sys.exit()\n{script}"
        );
        let program = Program::new(place::installed("python/bin/python")).args([
            "-W",
            "ignore",
            "-c",
            &whole,
            &self.uri(),
            table,
        ]);
        let output = run(&program, b"", SCRIPT);
        assert!(output.success, "pyiceberg: {}", output.stderr);
        Some(output.text().lines().map(str::to_owned).collect()).filter(|lines: &Vec<String>| lines != &[ABSENT])
    }
}
