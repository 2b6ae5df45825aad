//! An Iceberg catalog: Apache Iceberg's own REST servlet over SQLite, with a warehouse in a directory or in MinIO; and pyiceberg, which reads its
//! tables.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::minio::{ACCESS_KEY, Minio, SECRET_KEY};
use crate::process::{Program, Server, run};
use crate::{http, place};

const START: Duration = Duration::from_secs(60);
const SCRIPT: Duration = Duration::from_secs(60);
const ABSENT: &str = "there is no such table";
const BUCKET: &str = "warehouse";
const REGION: &str = "us-east-1";

/// A catalog; killed and started again at the same port, its tables stay.
#[derive(Debug)]
pub struct Catalog {
    pub address: SocketAddr,
    directory: PathBuf,
    /// Where the warehouse is, if not in the directory.
    minio: Option<SocketAddr>,
    server: Option<Server>,
}

impl Catalog {
    pub fn start() -> Catalog {
        Catalog::with(None)
    }

    /// With its warehouse in a bucket of its own.
    pub fn over(minio: &Minio) -> Catalog {
        minio.make_bucket(BUCKET);
        Catalog::with(Some(minio.address))
    }

    fn with(minio: Option<SocketAddr>) -> Catalog {
        let directory = place::directory("iceberg");
        let address = SocketAddr::from(([127, 0, 0, 1], place::free_port()));
        let mut catalog = Catalog { address, directory, minio, server: None };
        catalog.up();
        catalog
    }

    /// What a client needs to know of the storage.
    pub fn storage(&self) -> Vec<(&'static str, String)> {
        let Some(minio) = self.minio else { return Vec::new() };
        vec![
            ("s3.endpoint", format!("http://{minio}")),
            ("s3.region", REGION.to_owned()),
            ("s3.access-key-id", ACCESS_KEY.to_owned()),
            ("s3.secret-access-key", SECRET_KEY.to_owned()),
            ("s3.path-style-access", "true".to_owned()),
        ]
    }

    /// Starts it again after [`Catalog::kill`].
    pub fn up(&mut self) {
        let warehouse = match self.minio {
            Some(_) => format!("s3://{BUCKET}/lake"),
            None => format!("file://{}", self.directory.join("warehouse").display()),
        };
        let mut program = Program::new("java")
            .args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .args(["-cp", &place::class_path("iceberg-rest"), "org.apache.iceberg.rest.RESTCatalogServer"])
            // Its connections would lock each other out.
            .env("CATALOG_CLIENTS", "1")
            .env("CATALOG_REST_PORT", self.address.port().to_string())
            .env("CATALOG_WAREHOUSE", warehouse)
            .env(
                "CATALOG_URI",
                format!(
                    "jdbc:sqlite:{}?journal_mode=WAL&busy_timeout=20000",
                    self.directory.join("catalog.db").display()
                ),
            );
        if self.minio.is_some() {
            program = program
                .env("CATALOG_IO__IMPL", "org.apache.iceberg.aws.s3.S3FileIO".to_owned())
                .env("AWS_REGION", REGION.to_owned());
        }
        for (key, value) in self.storage() {
            program =
                program.env(&format!("CATALOG_{}", key.to_uppercase().replace('-', "__").replace('.', "_")), value);
        }
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
             NoSuchNamespaceError\ntry:\n    t = RestCatalog('c', uri=sys.argv[1], **dict(a.split('=', 1) for a in sys.argv[3:])).load_table(sys.argv[2])\n\
             except (NoSuchTableError, NoSuchNamespaceError):\n    print('{ABSENT}')\n    sys.exit()\n{script}"
        );
        let storage = self.storage().into_iter().map(|(key, value)| format!("{key}={value}"));
        let program = Program::new(place::installed("python/bin/python"))
            .args(["-W", "ignore", "-c", &whole, &self.uri(), table])
            .args(storage)
            .args(["s3.force-virtual-addressing=false"]);
        let output = run(&program, b"", SCRIPT);
        assert!(output.success, "pyiceberg: {}", output.stderr);
        Some(output.text().lines().map(str::to_owned).collect()).filter(|lines: &Vec<String>| lines != &[ABSENT])
    }
}
