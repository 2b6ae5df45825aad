//! A file system that forgets, as a disk does when the power fails: what was not synced is gone, in part or as a whole.
//!
//! Owns a FUSE mount whose files live in this process's memory ([`state`] is what they are and what of it is durable). Does not own the
//! processes that use it: they must be dead before [`Amnesia::lose_power`], which takes the mount away and puts it back, so that the
//! kernel forgets its pages too. Needs root and `/dev/fuse`. A crash of this process leaves a dead mount point, which `umount` removes.

mod state;

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use self::state::{Node, State};
use crate::random::Random;

pub use self::state::{Fault, Lost};

/// How long the kernel may keep what it was told; nobody changes a file but through it.
const KEEP: Duration = Duration::from_secs(60);
/// Blocks of the file system, of [`BLOCK`] bytes each: what `statfs` says is free.
const BLOCKS: u64 = 1 << 20;
const BLOCK: u32 = 4_096;

/// A mounted file system; dropped = unmounted and forgotten.
#[derive(Debug)]
pub struct Amnesia {
    path: PathBuf,
    state: Arc<Mutex<State>>,
    session: Option<BackgroundSession>,
}

impl Amnesia {
    /// Whether this machine can mount one.
    pub fn possible() -> bool {
        rustix::process::geteuid().is_root()
            && std::fs::File::options().read(true).write(true).open("/dev/fuse").is_ok()
    }

    /// Mounts an empty one over `path`, which is made.
    pub fn mount(path: &Path) -> Self {
        std::fs::create_dir_all(path).expect("the mount point can be made");
        let state = Arc::new(Mutex::new(State::new()));
        let mut disk = Amnesia { path: path.to_owned(), state, session: None };
        disk.attach();
        disk
    }

    fn attach(&mut self) {
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("amnesia".to_owned()), MountOption::NoAtime];
        let session = fuser::spawn_mount2(Served(Arc::clone(&self.state)), &self.path, &config);
        self.session = Some(session.expect("mounting needs root and /dev/fuse"));
    }

    fn detach(&mut self) {
        if let Some(session) = self.session.take() {
            session.umount_and_join().expect("no process uses the mount any more");
        }
    }

    /// The power fails and comes back: of what was not synced, each file and each directory keeps what the dice say. Whoever used it
    /// must be dead.
    pub fn lose_power(&mut self, random: &mut Random) -> Lost {
        self.detach();
        let lost = lock(&self.state).lose(random);
        self.attach();
        lost
    }

    /// From now on the disk refuses what `fault` says; `None` = mended.
    pub fn trouble(&self, fault: Option<Fault>) {
        lock(&self.state).fault = fault;
    }

    /// How many calls have failed because of [`Self::trouble`].
    pub fn failed(&self) -> u64 {
        lock(&self.state).failed
    }
}

impl Drop for Amnesia {
    fn drop(&mut self) {
        if let Some(session) = self.session.take()
            && let Err(error) = session.umount_and_join()
        {
            eprintln!("{} stays mounted: {error}", self.path.display());
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Served(Arc<Mutex<State>>);

fn attributes(number: u64, node: &Node) -> FileAttr {
    let (kind, size, perm) = match node {
        Node::File(file) => (FileType::RegularFile, file.len(), 0o644),
        Node::Directory(_) => (FileType::Directory, 0, 0o755),
    };
    FileAttr {
        ino: INodeNo(number),
        size,
        blocks: size.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_i32(error.raw_os_error().unwrap_or(5))
}

impl Served {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> io::Result<T>) -> Result<T, Errno> {
        work(&mut lock(&self.0)).map_err(|error| errno(&error))
    }

    fn empty(&self, reply: ReplyEmpty, work: impl FnOnce(&mut State) -> io::Result<()>) {
        match self.with(work) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn entry(&self, reply: ReplyEntry, work: impl FnOnce(&mut State) -> io::Result<u64>) {
        let found = self.with(|state| work(state).and_then(|number| Ok(attributes(number, state.node(number)?))));
        match found {
            Ok(attributes) => reply.entry(&KEEP, &attributes, Generation(0)),
            Err(error) => reply.error(error),
        }
    }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.entry(reply, |state| state.lookup(parent.0, name));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.with(|state| Ok(attributes(ino.0, state.node(ino.0)?))) {
            Ok(attributes) => reply.attr(&KEEP, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changed = self.with(|state| {
            if let Some(size) = size {
                state.set_len(ino.0, size)?;
            }
            Ok(attributes(ino.0, state.node(ino.0)?))
        });
        match changed {
            Ok(attributes) => reply.attr(&KEEP, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        self.entry(reply, |state| state.make(parent.0, name, Node::directory()));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.empty(reply, |state| state.remove(parent.0, name));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.empty(reply, |state| state.remove(parent.0, name));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.empty(reply, |state| state.rename(parent.0, name, new_parent.0, new_name));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        let made = self.with(|state| {
            let number = state.make(parent.0, name, Node::file())?;
            Ok(attributes(number, state.node(number)?))
        });
        match made {
            Ok(attributes) => {
                let flags = FopenFlags::FOPEN_KEEP_CACHE;
                reply.created(&KEEP, &attributes, Generation(0), FileHandle(0), flags);
            }
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.with(|state| state.read(ino.0, offset, size).map(<[u8]>::to_vec)) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.with(|state| state.write(ino.0, offset, data)) {
            Ok(()) => reply.written(u32::try_from(data.len()).expect("a request's size")),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.empty(reply, |state| state.sync(ino.0));
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.empty(reply, |state| state.sync(ino.0));
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let entries = self.with(|state| state.entries(ino.0));
        match entries {
            Ok(entries) => {
                let from = usize::try_from(offset).expect("an index");
                for (at, (number, name, is_directory)) in entries.into_iter().enumerate().skip(from) {
                    let kind = if is_directory { FileType::Directory } else { FileType::RegularFile };
                    if reply.add(INodeNo(number), at as u64 + 1, kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(error),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let free = if lock(&self.0).is_full() { 0 } else { BLOCKS };
        reply.statfs(BLOCKS, free, free, BLOCKS, free, BLOCK, 255, BLOCK);
    }
}
