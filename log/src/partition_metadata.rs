//! `partition.metadata`: whose directory this is.
//!
//! Owns: its two lines (docs/formats/partition-metadata.md). Does not own: topic ids. Invariant: a directory with another
//! topic's id is never opened. A crash leaves: the file whole or missing; a missing one is written again.
//! Source: `org.apache.kafka.storage.internals.checkpoint.PartitionMetadataFile`.

use crate::error::{BadFile, OpenError};
use std::io;
use std::path::Path;
use strandline_disk::Disk;
use strandline_protocol::ids::TopicId;

/// File name within the partition's directory.
pub const FILE_NAME: &str = "partition.metadata";
/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 4096;

/// Writes the file, durably.
pub(crate) fn write(disk: &dyn Disk, dir: &Path, topic_id: TopicId) -> io::Result<()> {
    disk.replace_file(&dir.join(FILE_NAME), format!("version: 0\ntopic_id: {topic_id}\n").as_bytes())
}

/// The topic id of a partition's directory; `None` if there is no file.
pub fn read(disk: &dyn Disk, dir: &Path) -> Result<Option<TopicId>, OpenError> {
    let path = dir.join(FILE_NAME);
    let bytes = match disk.read_file(&path, FILE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(OpenError::Io { path, source }),
    };
    let bad = |reason: &str| BadFile { path: path.clone(), reason: reason.to_owned() };
    let text = std::str::from_utf8(&bytes).map_err(|_| bad("not UTF-8"))?;
    let mut lines = text.lines().filter_map(|line| line.split_once(": "));
    if lines.next() != Some(("version", "0")) {
        return Err(bad("unknown version").into());
    }
    match lines.next() {
        Some(("topic_id", id)) => Ok(Some(id.trim().parse().map_err(|_| bad("no topic id"))?)),
        _ => Err(bad("no topic id").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strandline_disk::FaultyDisk;

    #[test]
    fn the_bytes_are_kafkas() {
        let disk = FaultyDisk::new();
        let id: TopicId = "AAAAAAAAAAAAAAAAAAAAAQ".parse().unwrap();
        assert_eq!(read(&disk, Path::new("/")).unwrap(), None);
        write(&disk, Path::new("/"), id).unwrap();
        let bytes = disk.read_file(Path::new("/partition.metadata"), 100).unwrap();
        assert_eq!(bytes, b"version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAQ\n");
        assert_eq!(read(&disk, Path::new("/")).unwrap(), Some(id));
        for text in ["", "version: 1\ntopic_id: AAAAAAAAAAAAAAAAAAAAAQ\n", "version: 0\n", "version: 0\ntopic_id: x\n"]
        {
            disk.replace_file(Path::new("/partition.metadata"), text.as_bytes()).unwrap();
            assert!(read(&disk, Path::new("/")).is_err(), "{text:?}");
        }
    }
}
