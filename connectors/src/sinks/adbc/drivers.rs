//! Drivers below `plugin.path`: shared libraries under the names that they are shipped with.
//!
//! Owns the names. `libadbc_driver_NAME.so` is the driver NAME; `libduckdb.so` is DuckDB, which is its own driver.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Files that are looked at in one directory.
const FILES_MAX: usize = 4_096;

/// Drivers by name.
pub type Drivers = BTreeMap<String, PathBuf>;

/// The driver that a file is.
pub fn named(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    if name == "libduckdb.so" {
        return Some("duckdb".to_owned());
    }
    let name = name.strip_prefix("libadbc_driver_")?.strip_suffix(".so")?;
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    plain.then(|| name.to_ascii_lowercase())
}

/// The drivers in directories and in their direct subdirectories; of two with one name, the first.
pub fn below(paths: &[PathBuf]) -> Drivers {
    let mut drivers = Drivers::new();
    for path in paths {
        let mut entries = files(path);
        let inner: Vec<PathBuf> =
            entries.iter().filter(|entry| entry.is_dir()).flat_map(|entry| files(entry)).collect();
        entries.extend(inner);
        for file in entries {
            if let (Some(name), Ok(file)) = (named(&file), file.canonicalize()) {
                drivers.entry(name).or_insert(file);
            }
        }
    }
    drivers
}

/// What is in a directory, sorted. One that cannot be read is told of where plugins are looked for.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().take(FILES_MAX);
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn drivers_are_found_by_the_names_of_their_files() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("duckdb");
        std::fs::create_dir(&inner).unwrap();
        for file in
            [root.path().join("libadbc_driver_sqlite.so"), inner.join("libduckdb.so"), inner.join("libother.so")]
        {
            File::create(file).unwrap();
        }
        let found = below(&[root.path().to_owned(), root.path().join("missing")]);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["duckdb", "sqlite"]);
    }
}
