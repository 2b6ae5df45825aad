//! What the forgetting file system holds: of each file and directory what is seen, and what of it is durable.
//!
//! A file is durable up to its last sync, a name up to the last sync of its directory: no more than POSIX promises. Pure: no clock, no
//! kernel. Invariant: a node is reachable by what is seen or by what is durable, or it is dropped at the next loss.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::Range;

use crate::random::Random;

const ROOT: u64 = 1;
/// What a disk writes at once, in bytes: a torn write ends at a multiple of it.
const SECTOR: u64 = 512;
const ENOENT: i32 = 2;
const EIO: i32 = 5;
const EEXIST: i32 = 17;
const ENOTDIR: i32 = 20;
const EISDIR: i32 = 21;
const ENOSPC: i32 = 28;
const ENOTEMPTY: i32 = 39;

/// What the disk refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Syncs fail with EIO.
    SyncFails,
    /// Nothing more can be written, and `statfs` says so.
    Full,
    /// Nothing more can be written, and `statfs` says that there is room: a quota.
    Quota,
}

/// What a loss of power took: files, directories and bytes of files that are not as they were seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    pub files: u64,
    pub directories: u64,
    pub bytes: u64,
}

#[derive(Debug, Default)]
pub struct File {
    seen: Vec<u8>,
    durable: Vec<u8>,
    /// Where `seen` may differ from `durable`, in the order of the writes.
    unsynced: Vec<Range<u64>>,
    resized: bool,
}

impl File {
    pub fn len(&self) -> u64 {
        self.seen.len() as u64
    }

    fn sync(&mut self) {
        self.durable.resize(self.seen.len(), 0);
        for range in std::mem::take(&mut self.unsynced) {
            let end = range.end.min(self.len());
            if range.start < end {
                let range = range.start as usize..end as usize;
                self.durable[range.clone()].copy_from_slice(&self.seen[range]);
            }
        }
        self.resized = false;
    }

    /// All is kept, or nothing, or the length and some of the writes, the last of them in part.
    fn lose(&mut self, random: &mut Random) -> u64 {
        if self.unsynced.is_empty() && !self.resized {
            return 0;
        }
        let seen = std::mem::take(&mut self.seen);
        match random.below(4) {
            0 => self.durable.clone_from(&seen),
            1 => self.keep_some(&seen, random),
            _ => {}
        }
        self.unsynced.clear();
        self.resized = false;
        let same = seen.iter().zip(&self.durable).filter(|(a, b)| a == b).count();
        self.seen.clone_from(&self.durable);
        (seen.len().max(self.durable.len()) - same) as u64
    }

    fn keep_some(&mut self, seen: &[u8], random: &mut Random) {
        self.durable.resize(seen.len(), 0);
        let kept = random.below(self.unsynced.len() as u64 + 1) as usize;
        for (at, range) in self.unsynced[..kept].iter().enumerate() {
            let mut end = range.end.min(seen.len() as u64);
            if at + 1 == kept {
                let sectors = (end / SECTOR).saturating_sub(range.start / SECTOR);
                end = end.min((range.start / SECTOR + random.below(sectors + 1)) * SECTOR);
            }
            if range.start < end {
                let range = range.start as usize..end as usize;
                self.durable[range.clone()].copy_from_slice(&seen[range]);
            }
        }
    }
}

type Names = BTreeMap<OsString, u64>;

#[derive(Debug, Default)]
pub struct Directory {
    seen: Names,
    durable: Names,
}

#[derive(Debug)]
pub enum Node {
    File(File),
    Directory(Directory),
}

impl Node {
    pub fn file() -> Self {
        Node::File(File::default())
    }

    pub fn directory() -> Self {
        Node::Directory(Directory::default())
    }
}

fn error(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// All files; numbers are never used twice.
#[derive(Debug)]
pub struct State {
    nodes: BTreeMap<u64, Node>,
    next: u64,
    pub fault: Option<Fault>,
    /// Calls that failed by `fault`.
    pub failed: u64,
}

impl State {
    pub fn new() -> Self {
        let nodes = BTreeMap::from([(ROOT, Node::directory())]);
        State { nodes, next: ROOT + 1, fault: None, failed: 0 }
    }

    pub fn node(&self, number: u64) -> io::Result<&Node> {
        self.nodes.get(&number).ok_or_else(|| error(ENOENT))
    }

    fn file(&mut self, number: u64) -> io::Result<&mut File> {
        match self.nodes.get_mut(&number) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Directory(_)) => Err(error(EISDIR)),
            None => Err(error(ENOENT)),
        }
    }

    fn names(&mut self, number: u64) -> io::Result<&mut Names> {
        match self.nodes.get_mut(&number) {
            Some(Node::Directory(directory)) => Ok(&mut directory.seen),
            Some(Node::File(_)) => Err(error(ENOTDIR)),
            None => Err(error(ENOENT)),
        }
    }

    fn refuse_if(&mut self, refused: bool, number: i32) -> io::Result<()> {
        if refused {
            self.failed += 1;
            return Err(error(number));
        }
        Ok(())
    }

    fn need_room(&mut self) -> io::Result<()> {
        self.refuse_if(matches!(self.fault, Some(Fault::Full | Fault::Quota)), ENOSPC)
    }

    /// Whether `statfs` shall say that nothing is free; counts as a failed call, because callers refuse work for it.
    pub fn is_full(&mut self) -> bool {
        let full = self.fault == Some(Fault::Full);
        self.failed += u64::from(full);
        full
    }

    pub fn lookup(&mut self, parent: u64, name: &OsStr) -> io::Result<u64> {
        self.names(parent)?.get(name).copied().ok_or_else(|| error(ENOENT))
    }

    /// A new node under a name that is free.
    pub fn make(&mut self, parent: u64, name: &OsStr, node: Node) -> io::Result<u64> {
        self.need_room()?;
        let number = self.next;
        let names = self.names(parent)?;
        if names.contains_key(name) {
            return Err(error(EEXIST));
        }
        names.insert(name.to_owned(), number);
        self.nodes.insert(number, node);
        self.next += 1;
        Ok(number)
    }

    fn is_filled(&self, number: u64) -> bool {
        matches!(self.nodes.get(&number), Some(Node::Directory(directory)) if !directory.seen.is_empty())
    }

    /// Takes a name away; the node stays for those who have it open, and because the removal is not durable yet.
    pub fn remove(&mut self, parent: u64, name: &OsStr) -> io::Result<()> {
        let number = self.lookup(parent, name)?;
        if self.is_filled(number) {
            return Err(error(ENOTEMPTY));
        }
        self.names(parent)?.remove(name);
        Ok(())
    }

    pub fn rename(&mut self, from: u64, name: &OsStr, to: u64, new_name: &OsStr) -> io::Result<()> {
        let number = self.lookup(from, name)?;
        if self.lookup(to, new_name).is_ok_and(|old| old != number && self.is_filled(old)) {
            return Err(error(ENOTEMPTY));
        }
        self.names(from)?.remove(name);
        self.names(to)?.insert(new_name.to_owned(), number);
        Ok(())
    }

    /// What is there from `offset` on, at most `size` bytes.
    pub fn read(&mut self, number: u64, offset: u64, size: u32) -> io::Result<&[u8]> {
        let seen = &self.file(number)?.seen;
        let from = seen.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
        Ok(&seen[from..seen.len().min(from + size as usize)])
    }

    pub fn write(&mut self, number: u64, offset: u64, data: &[u8]) -> io::Result<()> {
        self.need_room()?;
        let file = self.file(number)?;
        let end = offset + data.len() as u64;
        if end > file.len() {
            file.seen.resize(end as usize, 0);
            file.resized = true;
        }
        file.seen[offset as usize..end as usize].copy_from_slice(data);
        match file.unsynced.last_mut() {
            Some(last) if last.end == offset => last.end = end,
            _ => file.unsynced.push(offset..end),
        }
        Ok(())
    }

    pub fn set_len(&mut self, number: u64, len: u64) -> io::Result<()> {
        let file = self.file(number)?;
        let old = file.len();
        file.seen.resize(len as usize, 0);
        // What comes back after a cut is zeros, whatever was durable there.
        file.unsynced.push(old.min(len)..old.max(len));
        file.resized = true;
        Ok(())
    }

    /// Makes a file's bytes, or a directory's names, durable.
    pub fn sync(&mut self, number: u64) -> io::Result<()> {
        self.refuse_if(self.fault == Some(Fault::SyncFails), EIO)?;
        match self.nodes.get_mut(&number) {
            Some(Node::File(file)) => file.sync(),
            Some(Node::Directory(directory)) => directory.durable.clone_from(&directory.seen),
            None => return Err(error(ENOENT)),
        }
        Ok(())
    }

    /// Number, name and whether it is a directory, of all entries.
    pub fn entries(&mut self, number: u64) -> io::Result<Vec<(u64, OsString, bool)>> {
        let names: Vec<(OsString, u64)> = self.names(number)?.iter().map(|(name, n)| (name.clone(), *n)).collect();
        let entry = |(name, n)| (n, name, matches!(self.nodes.get(&n), Some(Node::Directory(_))));
        Ok(names.into_iter().map(entry).collect())
    }

    /// The power fails. A directory keeps its unsynced changes or none of them, a file see [`File::lose`].
    pub fn lose(&mut self, random: &mut Random) -> Lost {
        let mut lost = Lost::default();
        for node in self.nodes.values_mut() {
            match node {
                Node::Directory(directory) if directory.seen != directory.durable => {
                    if random.below(3) == 0 {
                        directory.durable.clone_from(&directory.seen);
                    } else {
                        lost.directories += 1;
                        directory.seen.clone_from(&directory.durable);
                    }
                }
                Node::Directory(_) => {}
                Node::File(file) => {
                    let bytes = file.lose(random);
                    lost.files += u64::from(bytes > 0);
                    lost.bytes += bytes;
                }
            }
        }
        self.drop_unreachable();
        lost
    }

    fn drop_unreachable(&mut self) {
        let (mut reachable, mut open) = (std::collections::BTreeSet::new(), vec![ROOT]);
        while let Some(number) = open.pop() {
            if reachable.insert(number)
                && let Some(Node::Directory(directory)) = self.nodes.get(&number)
            {
                open.extend(directory.seen.values());
            }
        }
        self.nodes.retain(|number, _| reachable.contains(number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> &OsStr {
        OsStr::new(text)
    }

    #[test]
    fn what_was_synced_stays_and_a_name_that_was_not_is_gone_or_kept() {
        let (mut kept, mut gone) = (0, 0);
        for seed in 0..50 {
            let mut state = State::new();
            let file = state.make(ROOT, name("synced"), Node::file()).unwrap();
            state.write(file, 0, b"durable").unwrap();
            state.sync(file).unwrap();
            state.sync(ROOT).unwrap();
            state.make(ROOT, name("unsynced"), Node::file()).unwrap();
            state.lose(&mut Random::new(seed));
            assert_eq!(state.read(file, 0, 100).unwrap(), b"durable");
            match state.lookup(ROOT, name("unsynced")) {
                Ok(_) => kept += 1,
                Err(_) => gone += 1,
            }
        }
        assert!(kept > 0 && gone > 0, "{kept} kept, {gone} gone");
    }

    #[test]
    fn an_unsynced_tail_is_lost_kept_or_torn() {
        let mut ends = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let mut state = State::new();
            let file = state.make(ROOT, name("log"), Node::file()).unwrap();
            state.sync(ROOT).unwrap();
            state.write(file, 0, &[1; 1_000]).unwrap();
            state.sync(file).unwrap();
            state.write(file, 1_000, &[2; 3_000]).unwrap();
            let lost = state.lose(&mut Random::new(seed));
            let bytes = state.read(file, 0, 10_000).unwrap();
            assert!(bytes[..1_000].iter().all(|b| *b == 1), "what was synced is as it was");
            let tail = bytes[1_000..].iter().take_while(|b| **b == 2).count();
            assert!(bytes[1_000 + tail..].iter().all(|b| *b == 0), "behind the torn end are zeros");
            assert_eq!(lost.bytes, 3_000 - tail as u64);
            ends.insert((bytes.len(), tail));
        }
        assert!(ends.contains(&(1_000, 0)) && ends.contains(&(4_000, 3_000)) && ends.len() > 4, "{ends:?}");
    }

    #[test]
    fn a_failing_sync_makes_nothing_durable() {
        let mut lost = 0;
        for seed in 0..20 {
            let mut state = State::new();
            let file = state.make(ROOT, name("log"), Node::file()).unwrap();
            state.sync(ROOT).unwrap();
            state.write(file, 0, b"x").unwrap();
            state.fault = Some(Fault::SyncFails);
            assert_eq!(state.sync(file).unwrap_err().raw_os_error(), Some(EIO));
            assert_eq!(state.failed, 1);
            lost += state.lose(&mut Random::new(seed)).bytes;
        }
        assert!(lost > 0, "the byte is lost by some of the dice");
    }

    #[test]
    fn a_full_disk_takes_nothing_and_a_quota_is_not_seen_before() {
        for (fault, seen) in [(Fault::Full, true), (Fault::Quota, false)] {
            let mut state = State::new();
            let file = state.make(ROOT, name("log"), Node::file()).unwrap();
            state.write(file, 0, b"x").unwrap();
            state.fault = Some(fault);
            assert_eq!(state.write(file, 1, b"y").unwrap_err().raw_os_error(), Some(ENOSPC));
            assert_eq!(state.make(ROOT, name("next"), Node::file()).unwrap_err().raw_os_error(), Some(ENOSPC));
            assert_eq!(state.read(file, 0, 10).unwrap(), b"x");
            assert_eq!(state.is_full(), seen);
            state.sync(file).unwrap();
            state.fault = None;
            state.write(file, 1, b"y").unwrap();
            assert!(!state.is_full());
        }
    }
}
