//! Kafka's checkpoint files: a version line, a count line, then one entry a line.
//!
//! Owns: their text form (docs/formats/log-dir-checkpoints.md, leader-epoch-checkpoint.md) and their durable replacement.
//! Does not own: what the entries mean. Invariants: a file is replaced as a whole; a count that does not match is refused;
//! a file of no bytes is one without entries, as Kafka reads it.
//! A crash leaves: the old file or the new one, perhaps a `.tmp` beside it, which the next write replaces.
//! Source: `org.apache.kafka.server.common.CheckpointFile`.

use crate::error::BadFile;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use strandline_disk::Disk;

/// Largest checkpoint file that is read, in bytes.
const CHECKPOINT_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The only version of these files.
const VERSION: &str = "0";

/// `recovery-point-offset-checkpoint`: all below is on the medium.
pub const RECOVERY_POINT_CHECKPOINT: &str = "recovery-point-offset-checkpoint";
/// `log-start-offset-checkpoint`.
pub const LOG_START_CHECKPOINT: &str = "log-start-offset-checkpoint";
/// `replication-offset-checkpoint`: high watermarks.
pub const HIGH_WATERMARK_CHECKPOINT: &str = "replication-offset-checkpoint";
/// `cleaner-offset-checkpoint`: first offset that compaction has not cleaned.
pub const CLEANER_CHECKPOINT: &str = "cleaner-offset-checkpoint";

/// Offsets by partition.
pub type OffsetCheckpoint = BTreeMap<TopicPartitionKey, i64>;

/// A topic partition that sorts, as a key of checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartitionKey {
    pub topic: String,
    pub partition: i32,
}

fn bad(path: &Path, reason: impl Into<String>) -> io::Error {
    let bad = BadFile { path: path.to_path_buf(), reason: reason.into() };
    io::Error::new(io::ErrorKind::InvalidData, bad)
}

/// The entry lines of a checkpoint file, none if it is empty; `None` if there is no such file.
pub(crate) fn read_lines(disk: &dyn Disk, path: &Path) -> io::Result<Option<Vec<String>>> {
    let bytes = match disk.read_file(path, CHECKPOINT_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    parse_lines(path, &bytes).map(Some)
}

fn parse_lines(path: &Path, bytes: &[u8]) -> io::Result<Vec<String>> {
    let text = std::str::from_utf8(bytes).map_err(|_| bad(path, "not UTF-8"))?;
    let mut lines = text.lines();
    // Kafka creates a checkpoint empty and leaves it so until there is an entry to write.
    let Some(version) = lines.next() else { return Ok(Vec::new()) };
    if version.trim() != VERSION {
        return Err(bad(path, format!("unknown version {version}")));
    }
    let count = lines.next().and_then(|line| line.trim().parse::<usize>().ok());
    let count = count.ok_or_else(|| bad(path, "no count"))?;
    let entries: Vec<String> = lines.filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
    if entries.len() != count {
        return Err(bad(path, format!("{} entries where {count} are announced", entries.len())));
    }
    Ok(entries)
}

/// Replaces a checkpoint file durably.
pub(crate) fn write_lines(
    disk: &dyn Disk,
    path: &Path,
    count: usize,
    entries: impl Iterator<Item = String>,
) -> io::Result<()> {
    let mut text = format!("{VERSION}\n{count}\n");
    for entry in entries {
        text.push_str(&entry);
        text.push('\n');
    }
    disk.replace_file(path, text.as_bytes())
}

/// Reads a checkpoint of offsets by partition. A missing file has no entries.
pub fn read_offsets(disk: &dyn Disk, path: &Path) -> io::Result<OffsetCheckpoint> {
    let mut offsets = OffsetCheckpoint::new();
    for line in read_lines(disk, path)?.unwrap_or_default() {
        let mut parts = line.split_whitespace();
        let entry = (|| {
            let topic = parts.next()?.to_owned();
            let partition = parts.next()?.parse().ok()?;
            let offset = parts.next()?.parse().ok()?;
            Some((TopicPartitionKey { topic, partition }, offset))
        })();
        let (key, offset) = entry.ok_or_else(|| bad(path, format!("bad entry {line:?}")))?;
        offsets.insert(key, offset);
    }
    Ok(offsets)
}

/// Replaces a checkpoint of offsets by partition, durably.
pub fn write_offsets(disk: &dyn Disk, path: &Path, offsets: &OffsetCheckpoint) -> io::Result<()> {
    let entries = offsets.iter().map(|(key, offset)| {
        let mut line = String::with_capacity(key.topic.len() + 24);
        // Writing to a String cannot fail.
        let _ = write!(line, "{} {} {offset}", key.topic, key.partition);
        line
    });
    write_lines(disk, path, offsets.len(), entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use strandline_disk::FaultyDisk;

    #[test]
    fn the_bytes_are_kafkas() {
        let disk = FaultyDisk::new();
        let path = Path::new("/recovery-point-offset-checkpoint");
        let key = |topic: &str, partition| TopicPartitionKey { topic: topic.into(), partition };
        let offsets = OffsetCheckpoint::from([(key("b", 2), 7), (key("a.x", 10), 123)]);
        write_offsets(&disk, path, &offsets).unwrap();
        assert_eq!(disk.read_file(path, 100).unwrap(), b"0\n2\na.x 10 123\nb 2 7\n");
        assert_eq!(read_offsets(&disk, path).unwrap(), offsets);
        assert!(read_offsets(&disk, Path::new("/missing")).unwrap().is_empty());
        disk.replace_file(path, b"").unwrap();
        assert_eq!(read_offsets(&disk, path).unwrap(), OffsetCheckpoint::new(), "an empty file has no entries");
        for text in ["\n", "1\n0\n", "0\nx\n", "0\n1\n", "0\n1\na b c\n", "0\n1\na 1\n"] {
            disk.replace_file(path, text.as_bytes()).unwrap();
            assert!(read_offsets(&disk, path).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(entries in proptest::collection::btree_map(("[a-z._-]{1,20}", 0i32..), any::<i64>(), 0..20)) {
            let disk = FaultyDisk::new();
            let offsets: OffsetCheckpoint = entries
                .into_iter()
                .map(|((topic, partition), offset)| (TopicPartitionKey { topic, partition }, offset))
                .collect();
            write_offsets(&disk, Path::new("/c"), &offsets).unwrap();
            prop_assert_eq!(read_offsets(&disk, Path::new("/c")).unwrap(), offsets);
        }
    }
}
