//! The traits [`Disk`] and [`DiskFile`].
//!
//! Owns: the contract that both implementations obey and that `tests.rs` runs against each of them.
//! Does not own: any state. Paths are absolute or relative to the process; the traits never change them.

use std::fmt::Debug;
use std::fs::File;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// File name without its directory. Names that are not UTF-8 are left out of listings.
    pub name: String,
    pub is_dir: bool,
}

/// Held while an exclusive advisory lock is held; dropping it releases the lock.
pub trait DirLock: Send + Sync + Debug {}

/// An open file. Shared freely: all methods take positions, none a cursor.
pub trait DiskFile: Send + Sync + Debug {
    /// Reads into `buf` from `offset` (bytes). Returns the bytes read; fewer than `buf.len()` only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bufs`, one after the other, from `offset` (bytes), or returns an error. After an error any part
    /// may have been written; the caller truncates. The slices are consumed (advanced) by the call.
    fn write_at(&self, bufs: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// True if the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Sets the length in bytes; growing fills with zeros.
    fn truncate(&self, len: u64) -> io::Result<()>;

    /// `fdatasync`: data and the length. An error means that the data is gone; calling again proves nothing.
    fn sync_data(&self) -> io::Result<()>;

    /// `fsync`: data and all metadata of the file; not its name, see [`Disk::sync_dir`].
    fn sync_all(&self) -> io::Result<()>;

    /// Forgets what memory holds of the file and is not to be written any more, so that reads come from the medium: after a sync
    /// that failed, memory shows what was lost.
    fn drop_cache(&self) -> io::Result<()>;

    /// Reserves space up to `len` bytes without changing the length. May do nothing.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// The descriptor, for `sendfile`; `None` if there is no real file behind this one.
    fn as_file(&self) -> Option<&Arc<File>>;
}

/// A filesystem. Object safe, synchronous.
pub trait Disk: Send + Sync + Debug {
    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a file for reading and writing, creating it or truncating it to nothing.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates a file; `AlreadyExists` if there is one.
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// The names in a directory, sorted.
    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>>;

    /// Renames within one directory, replacing a file of the new name. Durable after `sync_dir` of that directory.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Durable after `sync_dir`.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory and all in it. Durable after `sync_dir` of its parent.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Creates a directory and its missing parents. Durable after `sync_dir` of the parents.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Makes creates, renames and removals in the directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// True if a file or directory of that name exists.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// Length of a file in bytes, without opening it.
    fn len(&self, path: &Path) -> io::Result<u64>;

    /// Bytes that this process may still write on the filesystem that holds `path`.
    fn available_space(&self, path: &Path) -> io::Result<u64>;

    /// Syncs the whole filesystem that holds `path` (`syncfs`).
    fn sync_filesystem(&self, path: &Path) -> io::Result<()>;

    /// Takes an exclusive advisory lock on the file `path` (created if missing). `WouldBlock` if someone else has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DirLock>>;

    /// Reads a whole file. `InvalidData` if it is longer than `limit_bytes`.
    fn read_file(&self, path: &Path, limit_bytes: u64) -> io::Result<Vec<u8>> {
        let file = self.open(path)?;
        let len = file.len()?;
        if len > limit_bytes {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} has {len} bytes, more than the limit of {limit_bytes}", path.display()),
            ));
        }
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        let mut bytes = vec![0; len];
        let read = file.read_at(&mut bytes, 0)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// Replaces `path` by `bytes`, durably and atomically: `<path>.tmp`, fsync, rename, directory sync.
    fn replace_file(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let parent = path.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut name = path.as_os_str().to_owned();
        name.push(".tmp");
        let temporary = Path::new(&name);
        let file = self.create(temporary)?;
        file.write_at(&mut [IoSlice::new(bytes)], 0)?;
        file.sync_all()?;
        drop(file);
        self.rename(temporary, path)?;
        self.sync_dir(parent)
    }
}
