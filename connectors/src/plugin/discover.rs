//! Finds the plugins below `plugin.path`, when a worker starts.
//!
//! A directory of the path is a plugin itself if it holds `connector.json`; otherwise each of its direct subdirectories may be one. Owns
//! nothing. A plugin that cannot be used is a warning that says what to do, never the end of a worker: directories may hold other
//! programs' plugins, of which nothing is said.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::manifest::{FILE_BYTES_MAX, FILE_NAME, Manifest};
use super::{Launcher, PluginKind};
use crate::registry::{Registry, SinkKind};
use crate::sinks::adbc::AdbcKind;

/// Directories that are looked at below one of the path.
const DIRECTORIES_MAX: usize = 4_096;

/// Adds all plugins of `paths` to a registry, in the order of the paths and of the names within, and gives the sink `adbc` the drivers that
/// are there; returns what is to be told.
pub fn add_all(registry: &mut Registry, paths: &[PathBuf], launcher: &Launcher) -> Vec<String> {
    let mut warnings = Vec::new();
    registry.add(Arc::new(AdbcKind::new(paths, launcher.clone())));
    for path in paths {
        let candidates = match candidates(path) {
            Ok(candidates) => candidates,
            Err(error) => {
                warnings.push(format!(
                    "plugin.path: {}: {error}; correct the path, or make the directory readable, and restart the worker",
                    path.display()
                ));
                continue;
            }
        };
        for directory in candidates {
            let told = match read(&directory) {
                Ok(manifest) => add(registry, PluginKind::new(manifest, launcher.clone())),
                Err(fault) => Err(fault),
            };
            if let Err(fault) = told {
                warnings.push(format!(
                    "the plugin in {} is left out: {FILE_NAME}: {fault}; correct it and restart the worker",
                    directory.display()
                ));
            }
        }
    }
    warnings
}

fn add(registry: &mut Registry, kind: PluginKind) -> Result<(), String> {
    let short = kind.class().rsplit('.').next().unwrap_or_default().to_owned();
    for name in [kind.manifest().name, kind.class(), &short] {
        if registry.find(name).is_some() {
            return Err(format!(
                "the name {name} is taken by another kind of connector: choose another name and class"
            ));
        }
    }
    registry.add(Arc::new(kind));
    Ok(())
}

/// Directories with a `connector.json`, sorted.
fn candidates(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if path.join(FILE_NAME).exists() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found: Vec<PathBuf> = std::fs::read_dir(path)?
        .take(DIRECTORIES_MAX)
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|directory| directory.join(FILE_NAME).exists())
        .collect();
    found.sort();
    Ok(found)
}

/// The plugin in a directory.
pub fn read(directory: &Path) -> Result<Manifest, String> {
    let mut text = String::new();
    let file = std::fs::File::open(directory.join(FILE_NAME)).map_err(|e| e.to_string())?;
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|e| e.to_string())?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it is longer than {FILE_BYTES_MAX} bytes"));
    }
    Manifest::parse(&text, directory)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::sinks::built_in;

    fn plugin(root: &Path, folder: &str, name: &str, class: &str) -> PathBuf {
        let directory = root.join(folder);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::File::create(directory.join("sink.so")).unwrap();
        let text = format!(
            r#"{{"name":"{name}","class":"{class}","kind":"library","file":"sink.so","version":"1","config":[]}}"#
        );
        std::fs::File::create(directory.join(FILE_NAME)).unwrap().write_all(text.as_bytes()).unwrap();
        directory
    }

    #[test]
    fn plugins_are_found_in_directories_and_below_them() {
        let root = tempfile::tempdir().unwrap();
        let one = plugin(root.path(), "one", "lines", "com.example.Lines");
        plugin(root.path(), "many/two", "rows", "com.example.Rows");
        std::fs::create_dir_all(root.path().join("many/a-java-plugin")).unwrap();
        let mut registry = built_in();
        let warnings = add_all(&mut registry, &[one, root.path().join("many")], &Launcher::this());
        assert_eq!(warnings, Vec::<String>::new());
        for name in ["lines", "com.example.Lines", "Lines", "rows"] {
            assert_eq!(registry.find(name).unwrap().version(), "1", "{name}");
        }
    }

    #[test]
    fn a_bad_plugin_is_a_warning_and_the_others_are_there() {
        let root = tempfile::tempdir().unwrap();
        let bad = plugin(root.path(), "bad", "bad", "com.example.Bad");
        std::fs::remove_file(bad.join("sink.so")).unwrap();
        plugin(root.path(), "good", "lines", "com.example.Lines");
        plugin(root.path(), "taken", "object-store", "com.example.Other");
        let mut registry = built_in();
        let missing = root.path().join("nowhere");
        let warnings = add_all(&mut registry, &[root.path().to_owned(), missing], &Launcher::this());
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(
            warnings[0].contains("bad is left out") && warnings[0].contains("build the plugin first"),
            "{warnings:?}"
        );
        assert!(warnings[1].contains("object-store is taken"), "{warnings:?}");
        assert!(warnings[2].contains("nowhere") && warnings[2].contains("correct the path"), "{warnings:?}");
        assert!(registry.find("lines").is_some() && registry.find("bad").is_none());
        assert!(registry.find("com.example.Other").is_none());
    }
}
