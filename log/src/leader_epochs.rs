//! The leader epochs of one log: at which offset each began.
//!
//! Owns: the epochs in memory and their file `leader-epoch-checkpoint` (docs/formats/leader-epoch-checkpoint.md).
//! Does not own: which epoch is current. Invariants: epochs and start offsets both strictly rise from entry to entry.
//! A crash leaves: the file as of the last completed change; entries at or past the log's end are cut at the next start.
//! Source: `org.apache.kafka.storage.internals.epoch.LeaderEpochFileCache`, KIP-101, KIP-279.

use crate::checkpoint::{read_lines, write_lines};
use crate::error::BadFile;
use std::io;
use std::path::{Path, PathBuf};
use strandline_disk::Disk;

/// No epoch is known.
pub const UNDEFINED_EPOCH: i32 = -1;
/// No offset is known.
pub const UNDEFINED_EPOCH_OFFSET: i64 = -1;

/// An epoch and the first offset written in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEntry {
    pub epoch: i32,
    /// Inclusive.
    pub start_offset: i64,
}

/// The answer to OffsetForLeaderEpoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEndOffset {
    /// The largest known epoch that is at most the requested one, or -1.
    pub epoch: i32,
    /// Exclusive end of that epoch, or -1.
    pub end_offset: i64,
}

/// The epochs of one log, oldest first, kept equal to the file.
#[derive(Debug)]
pub struct LeaderEpochs {
    path: PathBuf,
    entries: Vec<EpochEntry>,
}

impl LeaderEpochs {
    /// File name within the partition's directory.
    pub const FILE_NAME: &'static str = "leader-epoch-checkpoint";

    /// Reads the checkpoint of a partition's directory; a missing file has no entries.
    pub fn load(disk: &dyn Disk, dir: &Path) -> io::Result<Self> {
        let path = dir.join(Self::FILE_NAME);
        let mut entries: Vec<EpochEntry> = Vec::new();
        for line in read_lines(disk, &path)?.unwrap_or_default() {
            let mut parts = line.split_whitespace();
            let entry = (|| {
                let epoch = parts.next()?.parse().ok()?;
                let start_offset = parts.next()?.parse().ok()?;
                Some(EpochEntry { epoch, start_offset })
            })();
            let rising = |entry: &EpochEntry| {
                entries.last().is_none_or(|e| e.epoch < entry.epoch && e.start_offset <= entry.start_offset)
            };
            let Some(entry) = entry.filter(rising) else {
                let bad = BadFile { path, reason: format!("bad entry {line:?}") };
                return Err(io::Error::new(io::ErrorKind::InvalidData, bad));
            };
            // An epoch in which nothing was written has no offsets: the later one takes its place.
            entries.retain(|earlier| earlier.start_offset < entry.start_offset);
            entries.push(entry);
        }
        Ok(Self { path, entries })
    }

    /// All entries, oldest first.
    pub fn entries(&self) -> &[EpochEntry] {
        &self.entries
    }

    /// The newest epoch, if any.
    pub fn latest(&self) -> Option<EpochEntry> {
        self.entries.last().copied()
    }

    /// The oldest epoch, if any.
    pub fn earliest(&self) -> Option<EpochEntry> {
        self.entries.first().copied()
    }

    /// The epoch in which `offset` was (or would be) written.
    pub fn epoch_for_offset(&self, offset: i64) -> Option<i32> {
        let after = self.entries.partition_point(|entry| entry.start_offset <= offset);
        Some(self.entries[after.checked_sub(1)?].epoch)
    }

    /// Kafka's `endOffsetFor`: the largest epoch at most `requested`, and where it ends.
    pub fn end_offset_for(&self, requested: i32, log_end_offset: i64) -> EpochEndOffset {
        let undefined = EpochEndOffset { epoch: UNDEFINED_EPOCH, end_offset: UNDEFINED_EPOCH_OFFSET };
        if requested == UNDEFINED_EPOCH {
            return undefined;
        }
        if self.latest().is_some_and(|latest| latest.epoch == requested) {
            return EpochEndOffset { epoch: requested, end_offset: log_end_offset };
        }
        let higher = self.entries.partition_point(|entry| entry.epoch <= requested);
        let Some(next) = self.entries.get(higher) else {
            return undefined;
        };
        let epoch = higher.checked_sub(1).map_or(requested, |floor| self.entries[floor].epoch);
        EpochEndOffset { epoch, end_offset: next.start_offset }
    }

    fn assign_in_memory(&mut self, epoch: i32, start_offset: i64) -> bool {
        if epoch < 0 || start_offset < 0 {
            return false;
        }
        if let Some(latest) = self.latest()
            && latest.epoch == epoch
            && latest.start_offset <= start_offset
        {
            return false;
        }
        // A new leader's truth replaces whatever stands at or after it (Kafka: truncateAndAppend).
        self.entries.retain(|entry| entry.epoch < epoch && entry.start_offset < start_offset);
        self.entries.push(EpochEntry { epoch, start_offset });
        true
    }

    /// Notes that `epoch` began at `start_offset`; durable on return if anything changed.
    pub fn assign(&mut self, disk: &dyn Disk, epoch: i32, start_offset: i64) -> io::Result<()> {
        if self.assign_in_memory(epoch, start_offset) { self.flush(disk) } else { Ok(()) }
    }

    /// As [`LeaderEpochs::assign`], but only in memory; for recovery, which writes once at its end.
    pub(crate) fn assign_unwritten(&mut self, epoch: i32, start_offset: i64) -> bool {
        self.assign_in_memory(epoch, start_offset)
    }

    /// Forgets what began at or after `end_offset`. Returns true if anything changed.
    pub(crate) fn truncate_from_end_unwritten(&mut self, end_offset: i64) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.start_offset < end_offset);
        before != self.entries.len()
    }

    /// Forgets what ended at or before `start_offset`. The epoch that holds it keeps the offset at which it began, other than in Kafka,
    /// where it then begins at `start_offset`: a follower that wrote in an older epoch above that is told where to cut, although the
    /// leader has deleted its own records there. True if anything changed.
    pub(crate) fn truncate_from_start_unwritten(&mut self, start_offset: i64) -> bool {
        let after = self.entries.partition_point(|entry| entry.start_offset <= start_offset);
        let Some(holder) = after.checked_sub(1) else {
            return false;
        };
        self.entries.drain(..holder);
        holder > 0
    }

    /// Puts epochs before the first: `begun` rises, and what does not lie below the first entry is left out.
    pub(crate) fn prepend_unwritten(&mut self, mut begun: Vec<EpochEntry>) {
        if let Some(first) = self.earliest() {
            begun.retain(|entry| entry.epoch < first.epoch && entry.start_offset < first.start_offset);
        }
        begun.append(&mut self.entries);
        self.entries = begun;
    }

    /// Forgets what began at or after `end_offset`, durably.
    pub fn truncate_from_end(&mut self, disk: &dyn Disk, end_offset: i64) -> io::Result<()> {
        if self.truncate_from_end_unwritten(end_offset) { self.flush(disk) } else { Ok(()) }
    }

    /// Forgets what ended before `start_offset`, durably.
    pub fn truncate_from_start(&mut self, disk: &dyn Disk, start_offset: i64) -> io::Result<()> {
        if self.truncate_from_start_unwritten(start_offset) { self.flush(disk) } else { Ok(()) }
    }

    /// Replaces all entries, durably: a replica that starts from the tier.
    pub fn replace(&mut self, disk: &dyn Disk, entries: Vec<EpochEntry>) -> io::Result<()> {
        assert!(entries.is_sorted_by(|a, b| a.epoch < b.epoch && a.start_offset < b.start_offset));
        self.entries = entries;
        self.flush(disk)
    }

    /// Writes the file durably.
    pub(crate) fn flush(&self, disk: &dyn Disk) -> io::Result<()> {
        let entries = self.entries.iter().map(|e| format!("{} {}", e.epoch, e.start_offset));
        write_lines(disk, &self.path, self.entries.len(), entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use strandline_disk::FaultyDisk;

    fn epochs(disk: &FaultyDisk, entries: &[(i32, i64)]) -> LeaderEpochs {
        let mut epochs = LeaderEpochs::load(disk, Path::new("/")).unwrap();
        for (epoch, start) in entries {
            epochs.assign(disk, *epoch, *start).unwrap();
        }
        epochs
    }

    fn list(epochs: &LeaderEpochs) -> Vec<(i32, i64)> {
        epochs.entries().iter().map(|e| (e.epoch, e.start_offset)).collect()
    }

    #[test]
    fn the_bytes_are_kafkas() {
        let disk = FaultyDisk::new();
        let written = epochs(&disk, &[(0, 0), (3, 17)]);
        let bytes = disk.read_file(Path::new("/leader-epoch-checkpoint"), 100).unwrap();
        assert_eq!(bytes, b"0\n2\n0 0\n3 17\n");
        let read = LeaderEpochs::load(&disk, Path::new("/")).unwrap();
        assert_eq!(read.entries(), written.entries());
        disk.replace_file(Path::new("/leader-epoch-checkpoint"), b"0\n2\n3 0\n0 17\n").unwrap();
        assert!(LeaderEpochs::load(&disk, Path::new("/")).is_err());
    }

    #[test]
    fn end_offsets_are_kafkas() {
        let disk = FaultyDisk::new();
        let cache = epochs(&disk, &[(2, 10), (4, 20), (7, 30)]);
        let ask = |epoch| {
            let end = cache.end_offset_for(epoch, 40);
            (end.epoch, end.end_offset)
        };
        assert_eq!(ask(-1), (-1, -1));
        assert_eq!(ask(1), (1, 10));
        assert_eq!(ask(2), (2, 20));
        assert_eq!(ask(3), (2, 20));
        assert_eq!(ask(6), (4, 30));
        assert_eq!(ask(7), (7, 40));
        assert_eq!(ask(8), (-1, -1));
        assert_eq!(cache.epoch_for_offset(9), None);
        assert_eq!(cache.epoch_for_offset(29), Some(4));
        assert_eq!(cache.epoch_for_offset(99), Some(7));
    }

    #[test]
    fn truncation_keeps_the_epoch_that_holds_the_new_start() {
        let disk = FaultyDisk::new();
        let mut cache = epochs(&disk, &[(2, 10), (4, 20), (7, 30)]);
        cache.truncate_from_start(&disk, 5).unwrap();
        assert_eq!(list(&cache), [(2, 10), (4, 20), (7, 30)]);
        cache.truncate_from_start(&disk, 25).unwrap();
        assert_eq!(list(&cache), [(4, 20), (7, 30)], "where an epoch began stays known");
        cache.truncate_from_end(&disk, 30).unwrap();
        assert_eq!(list(&cache), [(4, 20)]);
        cache.assign(&disk, 9, 20).unwrap();
        assert_eq!(list(&cache), [(9, 20)]);
        cache.assign(&disk, 9, 33).unwrap();
        assert_eq!(list(&cache), [(9, 20)]);
    }

    #[test]
    fn what_is_put_before_the_first_lies_below_it() {
        let disk = FaultyDisk::new();
        let mut cache = epochs(&disk, &[(4, 20), (7, 30)]);
        let entry = |epoch, start_offset| EpochEntry { epoch, start_offset };
        cache.prepend_unwritten(vec![entry(1, 0), entry(2, 10), entry(4, 15), entry(5, 22)]);
        assert_eq!(list(&cache), [(1, 0), (2, 10), (4, 20), (7, 30)]);
    }

    proptest! {
        #[test]
        fn round_trip(steps in proptest::collection::vec((0i32..100, 0i64..1000), 0..30)) {
            let disk = FaultyDisk::new();
            let cache = epochs(&disk, &steps);
            prop_assert!(cache.entries().is_sorted_by(|a, b| a.epoch < b.epoch && a.start_offset < b.start_offset));
            let read = LeaderEpochs::load(&disk, Path::new("/")).unwrap();
            prop_assert_eq!(read.entries(), cache.entries());
        }
    }
}
