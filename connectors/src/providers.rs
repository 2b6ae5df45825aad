//! Values from outside: `${file:path:key}`, `${dir:path:file}`, `${env:NAME}` in a connector's settings, under Kafka's names.
//!
//! Owns which providers the worker has, what they may read, and the reading, when a task starts. Does not own settings: what is kept and
//! shown has the reference, never the value. Invariants: without `config.providers` nothing is replaced; no file is read outside of
//! `allowed.paths`, links followed, and no variable that `allowlist.pattern` does not match; a provider without its allow-list does not let
//! the worker start; what was read is a secret ([`crate::secrets::Secrets`]). Reads are bounded by [`FILE_BYTES_MAX`].

mod properties;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use regex::Regex;

use crate::config::Settings;
use crate::connector::whole;

/// The longest file with values, bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// References in one value, at most.
const REFERENCES_MAX: usize = 64;

/// One provider.
#[derive(Debug, Clone)]
enum Provider {
    /// Properties of files.
    File { allowed: Vec<PathBuf> },
    /// Files of a directory, each a value.
    Directory { allowed: Vec<PathBuf> },
    /// The worker's environment.
    Env { allowed: Regex },
}

/// The worker's providers, by the name in front of the first colon.
#[derive(Debug, Clone, Default)]
pub struct Providers {
    by_name: BTreeMap<String, Provider>,
}

/// Settings with values in place of references.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved {
    pub settings: Settings,
    /// What was read: never to be seen.
    pub secrets: Vec<String>,
}

/// A reference in a text.
struct Reference<'a> {
    /// Where it stands.
    from: usize,
    until: usize,
    provider: &'a str,
    path: &'a str,
    key: &'a str,
}

impl Providers {
    /// From the worker's settings. Err = all that is wrong.
    pub fn parse(settings: &Settings) -> Result<Providers, Vec<String>> {
        let names = settings.get("config.providers").map_or("", String::as_str);
        let mut faults = Vec::new();
        let mut by_name = BTreeMap::new();
        for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match provider(name, settings) {
                Ok(provider) => drop(by_name.insert(name.to_owned(), provider)),
                Err(fault) => faults.push(fault),
            }
        }
        if faults.is_empty() { Ok(Providers { by_name }) } else { Err(faults) }
    }

    /// Whether a value has to be resolved before it means something.
    pub fn has_reference(&self, value: &str) -> bool {
        self.next(value, 0).is_some()
    }

    /// The next reference to a provider that is there; others are text.
    fn next<'a>(&self, text: &'a str, from: usize) -> Option<Reference<'a>> {
        let mut at = from;
        while let Some(begin) = text.get(at..)?.find("${").map(|n| at + n) {
            let inner_at = begin + 2;
            let length = text[inner_at..].find('}')?;
            let inner = &text[inner_at..inner_at + length];
            if let Some((provider, rest)) = inner.split_once(':')
                && self.by_name.contains_key(provider)
            {
                let (path, key) = rest.split_once(':').unwrap_or(("", rest));
                return Some(Reference { from: begin, until: inner_at + length + 1, provider, path, key });
            }
            at = inner_at;
        }
        None
    }

    /// Reads what the settings refer to. Err = what is to be done; it names the reference, never a value.
    pub fn resolve(&self, settings: &Settings) -> Result<Resolved, String> {
        let mut resolved = Resolved::default();
        for (key, text) in settings {
            let value = self.value(text, &mut resolved.secrets).map_err(|fault| format!("{key}: {fault}"))?;
            resolved.settings.insert(key.clone(), value);
        }
        Ok(resolved)
    }

    fn value(&self, text: &str, secrets: &mut Vec<String>) -> Result<String, String> {
        let mut value = String::new();
        let mut at = 0;
        for _ in 0..REFERENCES_MAX {
            let Some(reference) = self.next(text, at) else { break };
            let told = &text[reference.from..reference.until];
            let read = self.by_name[reference.provider].read(reference.path, reference.key);
            let read = read.map_err(|fault| format!("{told} cannot be resolved: {fault}"))?;
            value.push_str(&text[at..reference.from]);
            value.push_str(&read);
            secrets.push(read);
            at = reference.until;
        }
        value.push_str(&text[at..]);
        Ok(value)
    }
}

fn provider(name: &str, settings: &Settings) -> Result<Provider, String> {
    let key = |rest: &str| format!("config.providers.{name}.{rest}");
    let given = |rest: &str| settings.get(&key(rest)).map(|v| v.trim()).filter(|v| !v.is_empty());
    let class = given("class").unwrap_or(name);
    let paths = || {
        let list = given("param.allowed.paths").ok_or_else(|| {
            format!(
                "{} is missing: name the directories or files that connectors may take values from",
                key("param.allowed.paths")
            )
        })?;
        let paths: Vec<PathBuf> = list.split(',').map(|path| PathBuf::from(path.trim())).collect();
        match paths.iter().find(|path| !path.is_absolute()) {
            Some(path) => Err(format!("{}: {} is not an absolute path", key("param.allowed.paths"), path.display())),
            None => Ok(paths),
        }
    };
    match class.rsplit('.').next().unwrap_or(class) {
        "FileConfigProvider" | "file" => Ok(Provider::File { allowed: paths()? }),
        "DirectoryConfigProvider" | "directory" | "dir" => Ok(Provider::Directory { allowed: paths()? }),
        "EnvVarConfigProvider" | "env" => {
            let pattern = given("param.allowlist.pattern").ok_or_else(|| {
                format!(
                    "{} is missing: write a pattern of the variables that connectors may see",
                    key("param.allowlist.pattern")
                )
            })?;
            let allowed = whole(pattern).map_err(|e| format!("{}: {e}", key("param.allowlist.pattern")))?;
            Ok(Provider::Env { allowed })
        }
        _ => Err(format!(
            "{}: {class} is unknown; there are org.apache.kafka.common.config.provider.FileConfigProvider, DirectoryConfigProvider and \
             EnvVarConfigProvider",
            key("class")
        )),
    }
}

impl Provider {
    fn read(&self, path: &str, key: &str) -> Result<String, String> {
        match self {
            Provider::Env { .. } if !path.is_empty() => Err("a variable has no path; write ${env:NAME}".to_owned()),
            Provider::Env { allowed } if !allowed.is_match(key) => {
                Err("allowlist.pattern of the worker's provider does not match this variable".to_owned())
            }
            Provider::Env { .. } => {
                std::env::var(key).map_err(|_| "the worker's environment has no such variable".to_owned())
            }
            Provider::File { allowed } => {
                let text = read(Path::new(path), allowed)?;
                properties::value(&text, key).ok_or_else(|| "the file has no such key".to_owned())
            }
            Provider::Directory { allowed } => {
                if key.is_empty() || key.contains('/') {
                    return Err("write ${dir:/directory:file}".to_owned());
                }
                read(&Path::new(path).join(key), allowed)
            }
        }
    }
}

/// A file's text, if it is where files may be read, links followed.
fn read(path: &Path, allowed: &[PathBuf]) -> Result<String, String> {
    if !path.is_absolute() {
        return Err("the path has to be absolute".to_owned());
    }
    let refused = || "the file is not below allowed.paths of the worker's provider, or is not there".to_owned();
    let real = path.canonicalize().map_err(|_| refused())?;
    let below = |allowed: &PathBuf| allowed.canonicalize().is_ok_and(|allowed| real.starts_with(allowed));
    if !allowed.iter().any(below) {
        return Err(refused());
    }
    let failed = |e: std::io::Error| format!("the file cannot be read: {e}");
    let mut text = String::new();
    let file = std::fs::File::open(&real).map_err(failed)?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("the file is longer than {FILE_BYTES_MAX} bytes"));
    }
    Ok(text)
}

#[cfg(test)]
#[path = "providers/tests.rs"]
mod tests;
