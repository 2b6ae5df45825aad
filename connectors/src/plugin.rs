//! Sinks from outside of the binary: executables, and shared libraries behind a C ABI.
//!
//! Owns the boundary. `manifest` is what a plugin says of itself (`connector.json`), `discover` finds those below `plugin.path`, `sink` is
//! the contract carried over to a child process in `frame`s, `child` is that process, `host` is the child's side: it takes the
//! limits and becomes the executable, or loads the `library`; `inside` has a library in the worker's own process, for a worker that is told so.
//! Does not know what a plugin does with records.
//! Invariants: foreign code never runs in the worker's process unless `plugin.isolation` says so; a plugin's file comes from `plugin.path` alone, never from a connector's
//! settings; one child per task, which ends with its task; after the first fault of a child nothing more is asked of it. A crash of the
//! worker ends its children (the kernel kills them with their parent) and leaves what they had made durable.

pub mod abi;
mod child;
pub mod discover;
pub mod frame;
pub mod host;
mod inside;
mod library;
pub mod manifest;
mod sink;

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Key, Settings};
use crate::registry::{SinkKind, TaskContext};
use crate::sink::{Sink, SinkError};
use manifest::Manifest;

pub use sink::PluginSink;

/// Where the code of shared libraries runs: the worker's `plugin.isolation`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Isolation {
    /// In a process of its own for each task.
    #[default]
    Process,
    /// In the worker's. Executables and database drivers have a process of their own all the same.
    InProcess,
}

impl Isolation {
    /// Of one of [`ISOLATIONS`], in any case.
    pub fn of(text: &str) -> Isolation {
        if text.eq_ignore_ascii_case(ISOLATIONS[1]) { Isolation::InProcess } else { Isolation::Process }
    }
}

/// The key of a worker that says so, and its values.
pub const ISOLATION_KEY: &str = "plugin.isolation";
pub const ISOLATIONS: [&str; 2] = ["process", "in-process"];

/// How plugins are run.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The program whose hidden command `plugin-host` (see [`host`]) stands between a worker and its plugins.
    pub program: PathBuf,
    pub isolation: Isolation,
}

impl Launcher {
    pub fn of(program: PathBuf) -> Launcher {
        Launcher { program, isolation: Isolation::Process }
    }

    /// This very program, also after its file was replaced by another version.
    pub fn this() -> Launcher {
        Launcher::of(PathBuf::from("/proc/self/exe"))
    }
}

/// A plugin that was found, as a kind of sink.
#[derive(Debug)]
pub struct PluginKind {
    manifest: Arc<Manifest>,
    launcher: Launcher,
    aliases: Vec<&'static str>,
}

impl PluginKind {
    pub fn new(manifest: Manifest, launcher: Launcher) -> PluginKind {
        PluginKind { aliases: vec![manifest.name], manifest: Arc::new(manifest), launcher }
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
}

impl SinkKind for PluginKind {
    fn class(&self) -> &str {
        self.manifest.class
    }

    fn version(&self) -> &str {
        &self.manifest.version
    }

    fn aliases(&self) -> &[&str] {
        &self.aliases
    }

    fn keys(&self) -> &[Key] {
        &self.manifest.keys
    }

    /// The child starts when partitions are opened.
    fn create(&self, settings: &Settings, context: &TaskContext) -> Result<Box<dyn Sink>, SinkError> {
        let sink = sink::PluginSink::new(Arc::clone(&self.manifest), self.launcher.clone(), settings, context)?;
        Ok(Box::new(sink))
    }
}
