//! `connector.json`: what a plugin says of itself.
//!
//! Owns its fields and their checks. Texts that become configuration definitions live as long as the process, as the definitions of built-in
//! kinds do: a plugin is read once, when its worker starts. Does not start anything.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::config::{Importance, Key, Rule, Settings, Type};
use crate::connector::CONNECTOR_KEYS;

/// The name of the file.
pub const FILE_NAME: &str = "connector.json";
/// Its length, bytes.
pub const FILE_BYTES_MAX: u64 = 1 << 20;
/// Definitions of one plugin.
const KEYS_MAX: usize = 256;
/// `memory.max`, bytes of address space of a plugin's process, if nothing is said.
const MEMORY_BYTES_DEFAULT: u64 = 2 << 30;
/// Less than this starts nothing.
const MEMORY_BYTES_MIN: u64 = 64 << 20;
/// `call.timeout.ms`, if nothing is said.
const CALL_TIMEOUT_MS_DEFAULT: u64 = 60_000;
/// `restarts.max`, if nothing is said.
pub const RESTARTS_MAX_DEFAULT: u32 = 3;

/// How a plugin is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A program that speaks `docs/formats/plugin-protocol.md` on its standard input and output.
    Executable,
    /// A shared library with the symbols of `connectors/include/strandline_sink.h`.
    Library,
    /// An ADBC driver, behind the sink `adbc` ([`crate::sinks::adbc::hosted`]). Not for a `connector.json`.
    #[serde(skip)]
    Adbc,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Executable => "executable",
            Kind::Library => "library",
            Kind::Adbc => "adbc",
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    class: String,
    kind: Kind,
    file: String,
    version: String,
    #[serde(default)]
    arguments: Vec<String>,
    #[serde(default)]
    config: Vec<WrittenKey>,
    #[serde(default, rename = "memory.max")]
    memory_max: Option<u64>,
    #[serde(default, rename = "call.timeout.ms")]
    call_timeout_ms: Option<u64>,
    #[serde(default, rename = "restarts.max")]
    restarts_max: Option<u32>,
    #[serde(default)]
    environment: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenKey {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    default: Option<String>,
    #[serde(default)]
    required: bool,
    documentation: String,
    #[serde(default)]
    importance: Option<String>,
    #[serde(default)]
    group: Option<String>,
    #[serde(default, rename = "one.of")]
    one_of: Vec<String>,
    #[serde(default, rename = "at.least")]
    at_least: Option<i64>,
}

/// A plugin, checked.
#[derive(Debug)]
pub struct Manifest {
    /// The short name in `connector.class`.
    pub name: &'static str,
    pub class: &'static str,
    pub version: String,
    pub kind: Kind,
    /// The program or library, absolute.
    pub file: PathBuf,
    pub arguments: Vec<String>,
    pub keys: Vec<Key>,
    /// Bytes of address space of the process.
    pub memory_max: u64,
    /// How long one call may take.
    pub call_timeout: Duration,
    /// How often a process that has died is started again by itself, in [`super::sink::RESTARTS_WINDOW`].
    pub restarts_max: u32,
    /// Variables of the worker's environment that the plugin sees too.
    pub environment: Vec<String>,
}

fn kept(text: &str) -> &'static str {
    String::leak(text.to_owned())
}

fn named<T: Copy>(what: &str, text: &str, all: &[(&str, T)]) -> Result<T, String> {
    let found = all.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
        format!("{what} is {text:?}: it has to be one of {}", names.join(", "))
    })
}

fn key(written: &WrittenKey) -> Result<Key, String> {
    const TYPES: [Type; 8] =
        [Type::Boolean, Type::String, Type::Int, Type::Long, Type::Double, Type::List, Type::Class, Type::Password];
    const IMPORTANCES: [Importance; 3] = [Importance::High, Importance::Medium, Importance::Low];
    let name = written.name.trim();
    if name.is_empty() {
        return Err("a key of \"config\" has no name".to_owned());
    }
    if CONNECTOR_KEYS.iter().any(|key| key.name == name) {
        return Err(format!("the key {name} is one of every connector: give yours another name"));
    }
    if written.required && written.default.is_some() {
        return Err(format!("the key {name} is required and has a default: leave one of them out"));
    }
    let kind = named(&format!("the type of {name}"), &written.kind, &TYPES.map(|t| (t.name(), t)))?;
    let importance = match &written.importance {
        Some(text) => named(&format!("the importance of {name}"), text, &IMPORTANCES.map(|i| (i.name(), i)))?,
        None if written.required => Importance::High,
        None => Importance::Medium,
    };
    let rule = match (&written.one_of[..], written.at_least) {
        ([], Some(least)) => Rule::AtLeast(least),
        ([], None) if written.required => Rule::NonEmpty,
        ([], None) => Rule::Any,
        (allowed, None) => Rule::OneOf(Vec::leak(allowed.iter().map(|a| kept(a)).collect())),
        (_, Some(_)) => return Err(format!("the key {name} has both one.of and at.least")),
    };
    let key = Key {
        name: kept(name),
        kind,
        default: if written.required { None } else { Some(kept(written.default.as_deref().unwrap_or(""))) },
        rule,
        importance,
        group: kept(written.group.as_deref().unwrap_or("Plugin")),
        display: kept(name),
        documentation: kept(&written.documentation),
    };
    match &written.default {
        Some(default) => {
            key.fault(Some(default)).map_or(Ok(key), |fault| Err(format!("the default is wrong: {fault}")))
        }
        None => Ok(key),
    }
}

/// The file that runs: below the plugin's own directory, whatever links say.
fn file_in(directory: &Path, written: &str) -> Result<PathBuf, String> {
    let name = Path::new(written);
    if written.is_empty() || name.is_absolute() {
        return Err(format!("file is {written:?}: it has to be a path relative to {}", directory.display()));
    }
    let directory = directory.canonicalize().map_err(|e| format!("{}: {e}", directory.display()))?;
    let path = directory.join(name);
    let file = path.canonicalize().map_err(|e| format!("file {}: {e}; build the plugin first", path.display()))?;
    if !file.starts_with(&directory) {
        return Err(format!("file {written} leads out of {}: copy it there", directory.display()));
    }
    if !file.is_file() {
        return Err(format!("file {} is no file", file.display()));
    }
    Ok(file)
}

fn executable(file: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(file).map_err(|e| format!("{}: {e}", file.display()))?.permissions().mode();
    if mode & 0o111 == 0 { Err(format!("{0} may not be executed: chmod +x {0}", file.display())) } else { Ok(()) }
}

impl Manifest {
    /// Checks the text of a `connector.json` that lies in `directory`. Err = what is wrong and what would be right.
    pub fn parse(text: &str, directory: &Path) -> Result<Manifest, String> {
        let written: Written = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let plain = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'$'))
        };
        for (field, value) in [("name", &written.name), ("class", &written.class)] {
            if !plain(value) {
                return Err(format!("{field} is {value:?}: letters, digits, dots, dashes and underscores are allowed"));
            }
        }
        if written.config.len() > KEYS_MAX {
            return Err(format!("config has {} keys, {KEYS_MAX} are allowed", written.config.len()));
        }
        let keys: Vec<Key> = written.config.iter().map(key).collect::<Result<_, _>>()?;
        let mut names: Vec<&str> = keys.iter().map(|key| key.name).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("config has the key {} twice", twice[0]));
        }
        let memory_max = written.memory_max.unwrap_or(MEMORY_BYTES_DEFAULT);
        if memory_max < MEMORY_BYTES_MIN {
            return Err(format!("memory.max is {memory_max}: bytes, at least {MEMORY_BYTES_MIN}"));
        }
        let call_timeout_ms = written.call_timeout_ms.unwrap_or(CALL_TIMEOUT_MS_DEFAULT);
        if call_timeout_ms == 0 {
            return Err("call.timeout.ms is 0: milliseconds, at least 1".to_owned());
        }
        let file = file_in(directory, &written.file)?;
        match written.kind {
            Kind::Executable => executable(&file)?,
            Kind::Library if !written.arguments.is_empty() => {
                return Err("arguments are for executables: a library takes its settings from \"config\"".to_owned());
            }
            Kind::Library | Kind::Adbc => {}
        }
        Ok(Manifest {
            name: kept(&written.name),
            class: kept(&written.class),
            version: written.version,
            kind: written.kind,
            file,
            arguments: written.arguments,
            keys,
            memory_max,
            call_timeout: Duration::from_millis(call_timeout_ms),
            restarts_max: written.restarts_max.unwrap_or(RESTARTS_MAX_DEFAULT),
            environment: written.environment,
        })
    }

    /// The plugin's own settings, defaults filled in; keys that are not given and have no default are left out.
    pub fn own_settings(&self, settings: &Settings) -> BTreeMap<String, String> {
        let one = |key: &Key| {
            let value = settings.get(key.name).map(String::as_str).or(key.default)?;
            Some((key.name.to_owned(), value.trim().to_owned())).filter(|(_, value)| !value.is_empty())
        };
        self.keys.iter().filter_map(one).collect()
    }

    /// Values that are never to be seen.
    pub fn secrets(&self, settings: &Settings) -> Vec<String> {
        let secret = self.keys.iter().filter(|key| key.kind == Type::Password);
        secret.filter_map(|key| settings.get(key.name)).filter(|value| !value.trim().is_empty()).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn directory() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::File::create(dir.path().join("sink.so")).unwrap();
        dir
    }

    fn good() -> Value {
        json!({
            "name": "lines", "class": "com.example.Lines", "kind": "library", "file": "sink.so", "version": "1.2",
            "config": [
                { "name": "file", "type": "string", "required": true, "documentation": "Where." },
                { "name": "mode", "type": "string", "default": "append", "one.of": ["append", "new"], "documentation": "How." },
                { "name": "key", "type": "password", "documentation": "A secret." },
            ],
        })
    }

    fn fault(change: impl FnOnce(&mut Value)) -> String {
        let dir = directory();
        let mut value = good();
        change(&mut value);
        Manifest::parse(&value.to_string(), dir.path()).unwrap_err()
    }

    #[test]
    fn a_plugin_is_known_by_what_it_says() {
        let dir = directory();
        let manifest = Manifest::parse(&good().to_string(), dir.path()).unwrap();
        assert_eq!((manifest.name, manifest.class, manifest.kind), ("lines", "com.example.Lines", Kind::Library));
        let settings: Settings =
            [("file", " /f "), ("key", "hunter2"), ("topics", "t")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let own = manifest.own_settings(&settings);
        let expected = [("file", "/f"), ("key", "hunter2"), ("mode", "append")];
        assert_eq!(own, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        assert_eq!(manifest.secrets(&settings), ["hunter2"]);
        assert!(manifest.keys[1].fault(Some("old")).unwrap().contains("append, new"));
    }

    #[test]
    fn a_mistake_is_told_with_what_would_be_right() {
        assert!(fault(|v| v["kind"] = json!("script")).contains("executable"));
        assert!(fault(|v| v["file"] = json!("/bin/sh")).contains("relative"));
        assert!(fault(|v| v["file"] = json!("../nowhere.so")).contains("build the plugin first"));
        assert!(fault(|v| v["config"][0]["type"] = json!("text")).contains("STRING"));
        assert!(fault(|v| v["config"][0]["name"] = json!("topics")).contains("every connector"));
        assert!(fault(|v| v["config"][1]["default"] = json!("x")).contains("append, new"));
        assert!(fault(|v| v["config"][1]["name"] = json!("file")).contains("twice"));
        assert!(fault(|v| v["memory.max"] = json!(1)).contains("at least"));
        assert!(fault(|v| v["memory"] = json!(1)).contains("memory.max"));
        assert!(fault(|v| v["name"] = json!("a b")).contains("letters"));
        assert!(fault(|v| v["kind"] = json!("executable")).contains("chmod +x"));
    }

    #[test]
    fn a_link_out_of_the_directory_is_refused() {
        let dir = directory();
        std::os::unix::fs::symlink("/bin/sh", dir.path().join("shell")).unwrap();
        let mut value = good();
        value["file"] = json!("shell");
        let fault = Manifest::parse(&value.to_string(), dir.path()).unwrap_err();
        assert!(fault.contains("leads out of"), "{fault}");
    }
}
