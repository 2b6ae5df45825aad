//! `adbc`: rows of tables, through the driver of the database.
//!
//! Here is the worker's side: keys, drivers, and a child process per task. Drivers are foreign code, so they run as plugins do
//! ([`crate::plugin`]): a driver that crashes or hangs ends its own task. The child's side is [`hosted`].
//! Exactly once: the offset that comes next is kept in the database (docs/formats/sink-offsets.md), changed in the transaction of the rows
//! by the task that owns it, and given back when partitions are opened. A crash leaves a transaction that the database rolls back.

mod drivers;
pub mod hosted;
mod keys;
mod offsets;
mod session;
mod shape;
mod table;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use self::drivers::Drivers;
use self::keys::{Config, KEYS};
use crate::config::{Key, Settings};
use crate::plugin::manifest::{Kind, Manifest, RESTARTS_MAX_DEFAULT};
use crate::plugin::{Launcher, PluginSink};
use crate::registry::{SinkKind, TaskContext};
use crate::sink::{Sink, SinkError};
use crate::url_policy::Destination;

/// Address space of a driver's process, bytes.
const MEMORY_BYTES_MAX: u64 = 4 << 30;
/// How long one call may take: a write is one transaction.
const CALL_MAX: Duration = Duration::from_secs(300);

/// The kind, with the drivers of its worker.
#[derive(Debug)]
pub struct AdbcKind {
    drivers: Drivers,
    launcher: Launcher,
}

impl AdbcKind {
    /// With the drivers below `paths`.
    pub fn new(paths: &[PathBuf], launcher: Launcher) -> AdbcKind {
        AdbcKind { drivers: drivers::below(paths), launcher }
    }

    fn file(&self, driver: &str) -> Result<PathBuf, String> {
        self.drivers.get(driver).cloned().ok_or_else(|| {
            let known: Vec<&str> = self.drivers.keys().map(String::as_str).collect();
            let there = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let file = if driver == "duckdb" { "libduckdb.so".to_owned() } else { format!("libadbc_driver_{driver}.so") };
            format!("there is no driver {driver}: put {file} into a directory of the worker's plugin.path and restart it (there: {there})")
        })
    }
}

impl SinkKind for AdbcKind {
    fn class(&self) -> &str {
        "adbc"
    }

    fn aliases(&self) -> &[&str] {
        &["io.confluent.connect.jdbc.JdbcSinkConnector", "io.aiven.connect.jdbc.JdbcSinkConnector"]
    }

    fn keys(&self) -> &[Key] {
        KEYS
    }

    /// A server's URL is seen as it is; the file of an embedded database is one that is written.
    fn destinations(&self, settings: &Settings) -> Vec<(String, Destination)> {
        let key = "connection.url";
        let url = settings.get(key).map(|url| url.trim().trim_start_matches("jdbc:"));
        let file = url.and_then(|url| url.strip_prefix("sqlite:").or(url.strip_prefix("duckdb:")));
        // As the sink itself reads it: two slashes may stand before the path.
        let path = file.map(|file| file.strip_prefix("//").filter(|path| path.starts_with('/')).unwrap_or(file));
        path.map(|path| (key.to_owned(), Destination::File(path.into()))).into_iter().collect()
    }

    fn faults(&self, settings: &Settings) -> Vec<(String, String)> {
        match Config::parse(settings) {
            Err(faults) => faults.into_iter().filter(|(key, _)| !key.is_empty()).collect(),
            Ok(config) => {
                self.file(&config.driver).err().map(|text| ("adbc.driver".to_owned(), text)).into_iter().collect()
            }
        }
    }

    fn create(&self, settings: &Settings, context: &TaskContext) -> Result<Box<dyn Sink>, SinkError> {
        let config = Config::parse(settings).map_err(|faults| {
            SinkError::Fatal(faults.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join("; "))
        })?;
        let file = self.file(&config.driver).map_err(SinkError::Fatal)?;
        let manifest = Manifest {
            name: "adbc",
            class: "adbc",
            version: self.version().to_owned(),
            kind: Kind::Adbc,
            file,
            arguments: vec![config.driver],
            keys: KEYS.to_vec(),
            memory_max: MEMORY_BYTES_MAX,
            call_timeout: CALL_MAX,
            restarts_max: RESTARTS_MAX_DEFAULT,
            environment: Vec::new(),
        };
        Ok(Box::new(PluginSink::new(Arc::new(manifest), self.launcher.clone(), settings, context)?))
    }
}
