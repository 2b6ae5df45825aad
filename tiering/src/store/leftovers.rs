//! Temporary files of uploads in a directory: what a `file://` store never lists, and a crash leaves for ever.
//!
//! Owns: finding and removing them. Does not own: which of them are of no use any more (`delete`).
//! A file whose name ends in `#` and digits is one; the store's client never shows such a name as an object.

use std::io;
use std::path::{Path, PathBuf};

use super::{Store, StoreError};
use crate::io_pool::IoPool;

/// Folders looked into in one search.
const FOLDERS_LIMIT: usize = 100_000;

impl Store {
    /// The keys of at most `limit` temporary files below `folder`; none if the store is not a directory.
    pub(crate) async fn list_unlisted(
        &self,
        io: &IoPool,
        folder: &str,
        limit: usize,
    ) -> Result<Vec<String>, StoreError> {
        let Some(directory) = self.directory.clone() else { return Ok(Vec::new()) };
        let folder_of = folder.to_owned();
        let found = io.run(move || search(&directory, &folder_of, limit)).await;
        found.and_then(|found| found).map_err(|error| failed("list temporary files", folder, &error))
    }

    /// Removes temporary files by key; one that is gone by now is removed.
    pub(crate) async fn remove_unlisted(&self, io: &IoPool, keys: Vec<String>) -> Result<(), StoreError> {
        let Some(directory) = self.directory.clone().filter(|_| !keys.is_empty()) else { return Ok(()) };
        let first = keys.first().cloned().unwrap_or_default();
        let remove = move || keys.iter().try_for_each(|key| gone(std::fs::remove_file(directory.join(key))));
        let removed = io.run(remove).await;
        removed.and_then(|removed| removed).map_err(|error| failed("remove temporary files", &first, &error))
    }
}

fn failed(call: &'static str, key: &str, error: &io::Error) -> StoreError {
    StoreError::Failed { call, key: key.to_owned(), reason: error.to_string() }
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

fn search(directory: &Path, folder: &str, limit: usize) -> io::Result<Vec<String>> {
    let mut folders: Vec<PathBuf> = vec![directory.join(folder)];
    let (mut found, mut seen) = (Vec::new(), 0);
    while let Some(folder) = folders.pop() {
        seen += 1;
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) if seen <= FOLDERS_LIMIT => entries,
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                folders.push(path);
                continue;
            }
            let relative = path.strip_prefix(directory).ok().and_then(Path::to_str).filter(|name| is_temporary(name));
            found.extend(relative.map(str::to_owned));
            if found.len() == limit {
                return Ok(found);
            }
        }
    }
    Ok(found)
}

fn is_temporary(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(_, number)| number.bytes().all(|byte| byte.is_ascii_digit()))
}
