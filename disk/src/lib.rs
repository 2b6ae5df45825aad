//! The disk as the rest of the system sees it: two object-safe traits, the real disk, and a faulty one for tests.
//!
//! Owns: opening, positioned reads and vectored writes, durability calls (file, directory, filesystem), advisory locks.
//! Does not own: formats, recovery, caching, any policy on errors.
//! Invariants: `write_at` is all or error; `read_at` is short only at the end of the file; directory listings are sorted.
//! A crash leaves: of a file, what the last successful sync covered, plus any subset of what was written since, torn at any
//! sector; of a directory, what the last `sync_dir` covered, plus any subset of what changed since. [`FaultyDisk`] does
//! precisely that, and worse than any real filesystem, so that code which survives it survives them.

mod faulty;
mod faulty_image;
mod real;
mod traits;
mod workers;

pub use faulty::{FaultyDisk, InjectedError};
pub use real::RealDisk;
pub use traits::{DirEntry, DirLock, Disk, DiskFile};
pub use workers::{SyncTime, Workers};

#[cfg(test)]
mod tests;
