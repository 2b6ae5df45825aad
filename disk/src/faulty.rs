//! [`FaultyDisk`]: a disk in memory that crashes, tears writes, fails syncs, runs full, and does so again by the same seed.
//!
//! Owns: the count of operations (every change or sync is one), injected errors, locks, capacity. Does not own: the choice of
//! what survives a crash (`faulty_image.rs`).
//! Use: run a scenario once and ask [`FaultyDisk::operations`]; then for each n run it again with [`FaultyDisk::crash_at`],
//! take [`FaultyDisk::crash`] and open what is left. Reads are not counted: a crash before a read is one before the next change.

use crate::faulty_image::{DirNode, DirOp, FileNode, FileOp, Node, Random};
use crate::traits::{DirEntry, DirLock, Disk, DiskFile};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, IoSlice};
use std::path::{Component, Path};
use std::sync::Arc;

const ROOT: u64 = 0;

/// What an injected fault answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InjectedError {
    /// An I/O error; nothing was done.
    Io,
    /// No space left; of a write, half was done.
    NoSpace,
    /// For a sync: an I/O error, the unsynced pages are dropped, and later syncs succeed (as Linux does).
    SyncLosesPages,
}

#[derive(Debug)]
struct State {
    nodes: BTreeMap<u64, Node>,
    next_inode: u64,
    operations: u64,
    crash_at: Option<u64>,
    crashed: bool,
    faults: BTreeMap<u64, InjectedError>,
    next_sync_fails: bool,
    capacity_bytes: Option<u64>,
    failing_reads: Vec<String>,
    locks: BTreeSet<u64>,
}

/// A disk in memory with faults; clones share it.
#[derive(Debug, Clone)]
pub struct FaultyDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct FaultyFile {
    disk: FaultyDisk,
    inode: u64,
    name: String,
}

#[derive(Debug)]
struct FaultyLock {
    disk: FaultyDisk,
    inode: u64,
}

impl DirLock for FaultyLock {}

impl Drop for FaultyLock {
    fn drop(&mut self) {
        self.disk.0.lock().locks.remove(&self.inode);
    }
}

fn power_lost() -> io::Error {
    io::Error::other("the power is gone")
}

fn no_space() -> io::Error {
    io::Error::from(io::ErrorKind::StorageFull)
}

/// What happens to the operation that is about to be done.
enum Fate {
    Done,
    InFlight,
    Fails(InjectedError),
}

impl State {
    fn alive(&self) -> io::Result<()> {
        if self.crashed { Err(power_lost()) } else { Ok(()) }
    }

    fn next_operation(&mut self) -> io::Result<Fate> {
        self.alive()?;
        let number = self.operations;
        self.operations += 1;
        if self.crash_at == Some(number) {
            self.crashed = true;
            return Ok(Fate::InFlight);
        }
        Ok(self.faults.remove(&number).map_or(Fate::Done, Fate::Fails))
    }

    fn dir(&self, inode: u64) -> io::Result<&DirNode> {
        match self.nodes.get(&inode) {
            Some(Node::Dir(dir)) => Ok(dir),
            Some(Node::File(_)) => Err(io::Error::from(io::ErrorKind::NotADirectory)),
            None => Err(io::Error::from(io::ErrorKind::NotFound)),
        }
    }

    fn dir_mut(&mut self, inode: u64) -> io::Result<&mut DirNode> {
        match self.nodes.get_mut(&inode) {
            Some(Node::Dir(dir)) => Ok(dir),
            Some(Node::File(_)) => Err(io::Error::from(io::ErrorKind::NotADirectory)),
            None => Err(io::Error::from(io::ErrorKind::NotFound)),
        }
    }

    fn file(&self, inode: u64) -> io::Result<&FileNode> {
        match self.nodes.get(&inode) {
            Some(Node::File(file)) => Ok(file),
            _ => Err(io::Error::from(io::ErrorKind::NotFound)),
        }
    }

    fn file_mut(&mut self, inode: u64) -> io::Result<&mut FileNode> {
        match self.nodes.get_mut(&inode) {
            Some(Node::File(file)) => Ok(file),
            _ => Err(io::Error::from(io::ErrorKind::NotFound)),
        }
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        let mut inode = ROOT;
        for component in path.components() {
            match component {
                Component::Normal(name) => {
                    let name = name.to_str().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
                    let found = self.dir(inode)?.current.get(name).copied();
                    inode = found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, path.display().to_string()))?;
                }
                Component::RootDir | Component::CurDir => {}
                _ => return Err(io::Error::from(io::ErrorKind::InvalidInput)),
            }
        }
        Ok(inode)
    }

    fn parent_and_name(&self, path: &Path) -> io::Result<(u64, String)> {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        Ok((self.find(parent)?, name.to_owned()))
    }

    fn change_dir(&mut self, parent: u64, op: DirOp) -> io::Result<()> {
        match self.next_operation()? {
            Fate::Done => self.dir_mut(parent)?.apply(op),
            Fate::InFlight => {
                self.dir_mut(parent)?.apply_in_flight(op);
                return Err(power_lost());
            }
            Fate::Fails(error) => return Err(injected(error)),
        }
        Ok(())
    }

    fn add(&mut self, parent: u64, name: String, node: Node) -> io::Result<u64> {
        let inode = self.next_inode;
        self.next_inode += 1;
        self.nodes.insert(inode, node);
        self.change_dir(parent, DirOp::Insert { name, inode })?;
        Ok(inode)
    }

    fn used_bytes(&self) -> u64 {
        let files = self.nodes.values().map(|node| match node {
            Node::File(file) => file.current.len() as u64,
            Node::Dir(_) => 0,
        });
        files.sum()
    }

    fn write(&mut self, inode: u64, bytes: Vec<u8>, offset: usize) -> io::Result<()> {
        let fate = self.next_operation()?;
        let grown = (offset + bytes.len()).saturating_sub(self.file(inode)?.current.len()) as u64;
        let full = self.capacity_bytes.is_some_and(|capacity| grown > 0 && self.used_bytes() + grown > capacity);
        let file = self.file_mut(inode)?;
        match fate {
            Fate::InFlight => {
                file.apply_in_flight(FileOp::Write { offset, bytes });
                Err(power_lost())
            }
            Fate::Fails(InjectedError::Io | InjectedError::SyncLosesPages) => Err(injected(InjectedError::Io)),
            Fate::Done if !full => {
                file.apply(FileOp::Write { offset, bytes });
                Ok(())
            }
            Fate::Done | Fate::Fails(InjectedError::NoSpace) => {
                let half = bytes.len() / 2;
                file.apply(FileOp::Write { offset, bytes: bytes[..half].to_vec() });
                Err(no_space())
            }
        }
    }

    fn sync(&mut self, inode: u64) -> io::Result<()> {
        let fate = self.next_operation()?;
        let fails_by_order = std::mem::take(&mut self.next_sync_fails);
        let file = self.file_mut(inode)?;
        match fate {
            Fate::InFlight => Err(power_lost()),
            Fate::Fails(_) => {
                file.lose_pending();
                Err(injected(InjectedError::SyncLosesPages))
            }
            Fate::Done if fails_by_order => {
                file.lose_pending();
                Err(injected(InjectedError::SyncLosesPages))
            }
            Fate::Done => {
                file.sync();
                Ok(())
            }
        }
    }
}

fn injected(error: InjectedError) -> io::Error {
    match error {
        InjectedError::Io | InjectedError::SyncLosesPages => io::Error::other("injected I/O error"),
        InjectedError::NoSpace => no_space(),
    }
}

impl Default for FaultyDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl FaultyDisk {
    /// An empty disk with a root directory.
    pub fn new() -> Self {
        Self::with_nodes(BTreeMap::from([(ROOT, Node::Dir(DirNode::default()))]), 1)
    }

    fn with_nodes(nodes: BTreeMap<u64, Node>, next_inode: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            nodes,
            next_inode,
            operations: 0,
            crash_at: None,
            crashed: false,
            faults: BTreeMap::new(),
            next_sync_fails: false,
            capacity_bytes: None,
            failing_reads: Vec::new(),
            locks: BTreeSet::new(),
        })))
    }

    /// Changes and syncs done or tried so far.
    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// Loses power during operation number `operation` (counted from 0): it and all that follow fail, and of it any part,
    /// or nothing, survives.
    pub fn crash_at(&self, operation: u64) {
        self.0.lock().crash_at = Some(operation);
    }

    /// True once the crash ordered by [`FaultyDisk::crash_at`] has come.
    pub fn crashed(&self) -> bool {
        self.0.lock().crashed
    }

    /// Fails operation number `operation` (counted from 0) once.
    pub fn fail_operation(&self, operation: u64, error: InjectedError) {
        self.0.lock().faults.insert(operation, error);
    }

    /// Takes back what [`FaultyDisk::fail_operation`] ordered and has not come.
    pub fn heal_operations(&self) {
        self.0.lock().faults.clear();
    }

    /// The next file sync fails and drops its pages; those after it succeed.
    pub fn fail_next_sync(&self) {
        self.0.lock().next_sync_fails = true;
    }

    /// Bytes of file content that fit; `None` for no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.0.lock().capacity_bytes = bytes;
    }

    /// Reads of files whose name contains `part` fail until [`FaultyDisk::heal_reads`].
    pub fn fail_reads(&self, part: &str) {
        self.0.lock().failing_reads.push(part.to_owned());
    }

    /// Ends what [`FaultyDisk::fail_reads`] began.
    pub fn heal_reads(&self) {
        self.0.lock().failing_reads.clear();
    }

    /// Flips one bit of a file, on the medium and in the cache.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        let mut state = self.0.lock();
        let inode = state.find(path)?;
        state.file_mut(inode)?.flip_bit(offset as usize, bit);
        Ok(())
    }

    /// Ends the process that uses the disk, not the machine: what was written is there, synced or not, and may still be
    /// lost by a later [`FaultyDisk::crash`]. Returns the disk of the next process; this one and its files fail from now on.
    pub fn kill(&self) -> FaultyDisk {
        let mut state = self.0.lock();
        state.crashed = true;
        let next = Self::with_nodes(state.nodes.clone(), state.next_inode);
        next.0.lock().capacity_bytes = state.capacity_bytes;
        next
    }

    /// Pulls the plug. Returns the disk as it is found afterwards; this one and its files fail from now on. What survives of
    /// the unsynced changes is chosen by `seed` alone.
    pub fn crash(&self, seed: u64) -> FaultyDisk {
        let mut state = self.0.lock();
        state.crashed = true;
        let mut random = Random::new(seed);
        let nodes = state.nodes.iter().map(|(inode, node)| (*inode, node.after_crash(&mut random))).collect();
        Self::with_nodes(nodes, state.next_inode)
    }

    fn handle(&self, inode: u64, path: &Path) -> Arc<dyn DiskFile> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        Arc::new(FaultyFile { disk: self.clone(), inode, name })
    }
}

impl DiskFile for FaultyFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.0.lock();
        state.alive()?;
        if state.failing_reads.iter().any(|part| self.name.contains(part)) {
            return Err(injected(InjectedError::Io));
        }
        let image = &state.file(self.inode)?.current;
        let start = (offset as usize).min(image.len());
        let len = buf.len().min(image.len() - start);
        buf[..len].copy_from_slice(&image[start..start + len]);
        Ok(len)
    }

    fn write_at(&self, bufs: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let bytes = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
        self.disk.0.lock().write(self.inode, bytes, offset as usize)
    }

    fn len(&self) -> io::Result<u64> {
        let state = self.disk.0.lock();
        state.alive()?;
        Ok(state.file(self.inode)?.current.len() as u64)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let op = FileOp::Truncate { len: len as usize };
        match state.next_operation()? {
            Fate::Done => state.file_mut(self.inode)?.apply(op),
            Fate::InFlight => {
                state.file_mut(self.inode)?.apply_in_flight(op);
                return Err(power_lost());
            }
            Fate::Fails(error) => return Err(injected(error)),
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.0.lock().sync(self.inode)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.disk.0.lock().sync(self.inode)
    }

    fn drop_cache(&self) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.alive()?;
        state.file_mut(self.inode)?.drop_cache();
        Ok(())
    }

    fn allocate(&self, _len: u64) -> io::Result<()> {
        self.disk.0.lock().alive()
    }

    fn as_file(&self) -> Option<&Arc<File>> {
        None
    }
}

impl Disk for FaultyDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.0.lock();
        state.alive()?;
        let inode = state.find(path)?;
        state.file(inode)?;
        drop(state);
        Ok(self.handle(inode, path))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.lock();
        state.alive()?;
        if let Ok(inode) = state.find(path) {
            match state.next_operation()? {
                Fate::Done => state.file_mut(inode)?.apply(FileOp::Truncate { len: 0 }),
                Fate::InFlight => {
                    state.file_mut(inode)?.apply_in_flight(FileOp::Truncate { len: 0 });
                    return Err(power_lost());
                }
                Fate::Fails(error) => return Err(injected(error)),
            }
            drop(state);
            return Ok(self.handle(inode, path));
        }
        let (parent, name) = state.parent_and_name(path)?;
        let inode = state.add(parent, name, Node::File(FileNode::default()))?;
        drop(state);
        Ok(self.handle(inode, path))
    }

    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.lock();
        state.alive()?;
        if state.find(path).is_ok() {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        let (parent, name) = state.parent_and_name(path)?;
        let inode = state.add(parent, name, Node::File(FileNode::default()))?;
        drop(state);
        Ok(self.handle(inode, path))
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let state = self.0.lock();
        state.alive()?;
        let dir = state.dir(state.find(path)?)?;
        let entries = dir.current.iter().map(|(name, inode)| DirEntry {
            name: name.clone(),
            is_dir: matches!(state.nodes.get(inode), Some(Node::Dir(_))),
        });
        Ok(entries.collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.alive()?;
        let inode = state.find(from)?;
        let (from_parent, from) = state.parent_and_name(from)?;
        let (to_parent, to) = state.parent_and_name(to)?;
        if from_parent != to_parent {
            return Err(io::Error::from(io::ErrorKind::CrossesDevices));
        }
        state.change_dir(from_parent, DirOp::Rename { from, to, inode })
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.alive()?;
        let inode = state.find(path)?;
        state.file(inode)?;
        let (parent, name) = state.parent_and_name(path)?;
        state.change_dir(parent, DirOp::Remove { name })
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        // Name by name, so that a crash in the middle leaves half of it.
        for entry in self.read_dir(path)? {
            let child = path.join(&entry.name);
            if entry.is_dir {
                self.remove_dir_all(&child)?;
            } else {
                self.remove_file(&child)?;
            }
        }
        let mut state = self.0.lock();
        let (parent, name) = state.parent_and_name(path)?;
        state.change_dir(parent, DirOp::Remove { name })
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        state.alive()?;
        let ancestors: Vec<_> = path.ancestors().collect();
        for ancestor in ancestors.into_iter().rev() {
            if state.find(ancestor).is_err() {
                let (parent, name) = state.parent_and_name(ancestor)?;
                state.add(parent, name, Node::Dir(DirNode::default()))?;
            }
        }
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        let inode = state.find(path)?;
        match state.next_operation()? {
            Fate::Done => state.dir_mut(inode)?.sync(),
            Fate::InFlight => return Err(power_lost()),
            Fate::Fails(error) => return Err(injected(error)),
        }
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = self.0.lock();
        state.alive()?;
        Ok(state.find(path).is_ok())
    }

    fn len(&self, path: &Path) -> io::Result<u64> {
        let state = self.0.lock();
        state.alive()?;
        Ok(state.file(state.find(path)?)?.current.len() as u64)
    }

    fn available_space(&self, _path: &Path) -> io::Result<u64> {
        let state = self.0.lock();
        state.alive()?;
        Ok(state.capacity_bytes.map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used_bytes())))
    }

    fn sync_filesystem(&self, _path: &Path) -> io::Result<()> {
        let mut state = self.0.lock();
        match state.next_operation()? {
            Fate::Done => {}
            Fate::InFlight => return Err(power_lost()),
            Fate::Fails(error) => return Err(injected(error)),
        }
        for node in state.nodes.values_mut() {
            match node {
                Node::File(file) => file.sync(),
                Node::Dir(dir) => dir.sync(),
            }
        }
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DirLock>> {
        if !self.exists(path)? {
            self.create(path)?;
        }
        let mut state = self.0.lock();
        let inode = state.find(path)?;
        if !state.locks.insert(inode) {
            return Err(io::Error::from(io::ErrorKind::WouldBlock));
        }
        Ok(Box::new(FaultyLock { disk: self.clone(), inode }))
    }
}
