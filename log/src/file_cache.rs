//! The bounded cache of open files that all logs of one directory share.
//!
//! Owns: which files stay open between uses; the least recently used one is closed first. Does not own: files that a caller
//! still holds (an `Arc` outlives its place here), and unsynced files, which their log pins until they are synced.
//! Invariants: never more than `capacity` files are kept; a file that was renamed or removed is forgotten by its log first.
//! A crash leaves: nothing, it holds no state of its own.

use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;
use std::sync::Arc;
use strandline_disk::{Disk, DiskFile};

/// Which file of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum FileKind {
    Log,
    OffsetIndex,
    TimeIndex,
    TransactionIndex,
}

/// Identifies an open file: log, segment, kind.
pub(crate) type FileKey = (u64, i64, FileKind);

#[derive(Debug, Default)]
struct Lru {
    files: HashMap<FileKey, (Arc<dyn DiskFile>, u64)>,
    by_use: BTreeMap<u64, FileKey>,
    clock: u64,
}

/// Open files, bounded by number.
#[derive(Debug)]
pub struct FileCache {
    disk: Arc<dyn Disk>,
    capacity: usize,
    lru: Mutex<Lru>,
}

impl FileCache {
    /// Open files kept per log directory if nothing else is said.
    pub const FILES_DEFAULT: usize = 2_048;

    /// A cache of at most `capacity` open files.
    pub fn new(disk: Arc<dyn Disk>, capacity: usize) -> Self {
        Self { disk, capacity: capacity.max(1), lru: Mutex::default() }
    }

    /// The disk whose files are cached.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Files open now through this cache.
    pub fn open_files(&self) -> usize {
        self.lru.lock().files.len()
    }

    /// The open file, opening it at `path()` if need be.
    pub(crate) fn get(&self, key: FileKey, path: impl FnOnce() -> std::path::PathBuf) -> io::Result<Arc<dyn DiskFile>> {
        let mut lru = self.lru.lock();
        lru.clock += 1;
        let now = lru.clock;
        if let Some((file, used)) = lru.files.get_mut(&key) {
            let file = Arc::clone(file);
            let before = std::mem::replace(used, now);
            lru.by_use.remove(&before);
            lru.by_use.insert(now, key);
            return Ok(file);
        }
        drop(lru);
        let file = self.disk.open(&path())?;
        self.insert(key, Arc::clone(&file));
        Ok(file)
    }

    /// Keeps a file that was just created.
    pub(crate) fn insert(&self, key: FileKey, file: Arc<dyn DiskFile>) {
        let mut lru = self.lru.lock();
        lru.clock += 1;
        let now = lru.clock;
        if let Some((_, before)) = lru.files.insert(key, (file, now)) {
            lru.by_use.remove(&before);
        }
        lru.by_use.insert(now, key);
        while lru.files.len() > self.capacity {
            let Some((_, oldest)) = lru.by_use.pop_first() else {
                break;
            };
            lru.files.remove(&oldest);
        }
        assert!(lru.files.len() == lru.by_use.len());
    }

    /// Closes a file unless someone still holds it.
    pub(crate) fn forget(&self, key: FileKey) {
        let mut lru = self.lru.lock();
        if let Some((_, used)) = lru.files.remove(&key) {
            lru.by_use.remove(&used);
        }
    }

    /// Closes all files of one segment.
    pub(crate) fn forget_segment(&self, log_id: u64, base_offset: i64) {
        for kind in [FileKind::Log, FileKind::OffsetIndex, FileKind::TimeIndex, FileKind::TransactionIndex] {
            self.forget((log_id, base_offset, kind));
        }
    }

    /// Creates or truncates a file and keeps it.
    pub(crate) fn create(&self, key: FileKey, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.forget(key);
        let file = self.disk.create(path)?;
        self.insert(key, Arc::clone(&file));
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strandline_disk::FaultyDisk;

    #[test]
    fn the_least_recently_used_file_is_closed_first() {
        let disk: Arc<dyn Disk> = Arc::new(FaultyDisk::new());
        let cache = FileCache::new(Arc::clone(&disk), 2);
        let key = |base| (1, base, FileKind::Log);
        let path = |base: i64| std::path::PathBuf::from(format!("/{base}"));
        for base in 0..2 {
            cache.create(key(base), &path(base)).unwrap();
        }
        cache.get(key(0), || unreachable!("it is open")).unwrap();
        cache.create(key(2), &path(2)).unwrap();
        assert_eq!(cache.open_files(), 2);
        cache.get(key(0), || unreachable!("it was used last")).unwrap();
        let mut opened = false;
        let again = cache.get(key(1), || {
            opened = true;
            path(1)
        });
        assert!(again.is_ok() && opened);
        cache.forget_segment(1, 0);
        cache.forget_segment(1, 1);
        assert_eq!(cache.open_files(), 0);
    }
}
