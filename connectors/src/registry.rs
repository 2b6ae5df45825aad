//! The kinds of sinks that a worker knows: by their own names, and by the names of the Java classes that people's configurations have.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::{Key, Settings};
use crate::secrets::Secrets;
use crate::sink::{Sink, SinkError};
use crate::url_policy::{Destination, UrlPolicy, urls_in};

/// What a new sink may know of the task that it works for.
#[derive(Debug, Clone)]
pub struct TaskContext {
    pub connector: String,
    pub task: u32,
    /// Where a task may keep files; emptied when it starts.
    pub spool: std::path::PathBuf,
    /// Bytes of memory that the sink may hold.
    pub memory_bytes_max: u64,
    /// Where the task may go; its destinations have passed it when the sink is made.
    pub urls: Arc<UrlPolicy>,
    /// What must not be in any text that the sink writes; its errors are cleaned by the task.
    pub secrets: Secrets,
}

/// Makes the sinks of one kind.
pub trait SinkKind: Send + Sync {
    /// The name in `connector.class`.
    fn class(&self) -> &str;

    fn version(&self) -> &str {
        env!("CARGO_PKG_VERSION")
    }

    /// Other names in `connector.class` that mean this.
    fn aliases(&self) -> &[&str] {
        &[]
    }

    /// Its own keys; those of every connector are the worker's.
    fn keys(&self) -> &[Key];

    /// What the keys together get wrong, after each alone was right: key and text.
    fn faults(&self, _settings: &Settings) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Where the settings lead, with the key that says so, beside values that are URLs anyway: the worker refuses what
    /// `connect.url.allowlist` does not allow.
    fn destinations(&self, _settings: &Settings) -> Vec<(String, Destination)> {
        Vec::new()
    }

    /// A sink for one task. Makes no call to anything yet.
    fn create(&self, settings: &Settings, context: &TaskContext) -> Result<Box<dyn Sink>, SinkError>;
}

/// Everything that a connector's settings lead to.
pub fn all_destinations(kind: &dyn SinkKind, settings: &Settings) -> Vec<(String, Destination)> {
    let found = urls_in(settings).into_iter().map(|(key, to)| (key.to_owned(), to));
    kind.destinations(settings).into_iter().chain(found).collect()
}

/// All kinds of a worker.
#[derive(Clone, Default)]
pub struct Registry {
    kinds: BTreeMap<String, Arc<dyn SinkKind>>,
    by_name: BTreeMap<String, Arc<dyn SinkKind>>,
}

impl Registry {
    /// Adds a kind; the last of a name wins.
    pub fn add(&mut self, kind: Arc<dyn SinkKind>) {
        let class = kind.class().to_owned();
        for name in kind.aliases().iter().copied().chain([class.as_str()]) {
            self.by_name.insert(name.to_owned(), Arc::clone(&kind));
            // Kafka Connect takes a class without its package too.
            if let Some((_, short)) = name.rsplit_once('.') {
                self.by_name.entry(short.to_owned()).or_insert_with(|| Arc::clone(&kind));
            }
        }
        self.kinds.insert(class, kind);
    }

    pub fn find(&self, class: &str) -> Option<&Arc<dyn SinkKind>> {
        self.by_name.get(class)
    }

    /// In the order of their names.
    pub fn kinds(&self) -> impl Iterator<Item = &Arc<dyn SinkKind>> {
        self.kinds.values()
    }
}
