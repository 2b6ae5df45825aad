//! What a [`FaultyDisk`](crate::FaultyDisk) holds: per file a durable image and what was done since, per directory likewise.
//!
//! Owns: the rules by which a crash chooses what survives. Does not own: counting of operations, injected errors.
//! Invariants: the durable image changes only by a sync or by a crash; the choice of a crash depends on its seed alone.

use std::collections::BTreeMap;

/// Sector sizes in bytes at which a write may be torn.
const SECTORS: [usize; 2] = [512, 4096];

/// SplitMix64: small, seedable, good enough to choose subsets.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.next() & 1 == 0
    }
}

#[derive(Debug, Clone)]
pub(crate) enum FileOp {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate { len: usize },
}

impl FileOp {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            FileOp::Write { offset, bytes } => write_into(image, *offset, bytes),
            FileOp::Truncate { len } => image.resize(*len, 0),
        }
    }
}

fn write_into(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let end = offset + bytes.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[offset..end].copy_from_slice(bytes);
}

#[derive(Debug, Clone, Default)]
pub(crate) struct FileNode {
    pub(crate) current: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<FileOp>,
}

impl FileNode {
    pub(crate) fn apply(&mut self, op: FileOp) {
        op.apply(&mut self.current);
        self.pending.push(op);
    }

    /// Records an operation that was under way when the power went: it may survive, but nobody sees it before.
    pub(crate) fn apply_in_flight(&mut self, op: FileOp) {
        self.pending.push(op);
    }

    pub(crate) fn sync(&mut self) {
        for op in self.pending.drain(..) {
            op.apply(&mut self.durable);
        }
    }

    /// What Linux does when a write-back fails: the pages are clean, their content never reached the medium.
    pub(crate) fn lose_pending(&mut self) {
        self.pending.clear();
    }

    /// What was not lost, and what is still to be written.
    pub(crate) fn drop_cache(&mut self) {
        self.current.clone_from(&self.durable);
        self.pending.iter().for_each(|op| op.apply(&mut self.current));
    }

    pub(crate) fn flip_bit(&mut self, offset: usize, bit: u8) {
        for image in [&mut self.current, &mut self.durable] {
            if let Some(byte) = image.get_mut(offset) {
                *byte ^= 1 << (bit & 7);
            }
        }
    }

    /// The file after a crash.
    fn survivors(&self, random: &mut Random) -> FileNode {
        let mut image = self.durable.clone();
        match random.below(4) {
            0 => {}
            1 => self.pending.iter().for_each(|op| op.apply(&mut image)),
            2 => self.keep_prefix(random, &mut image),
            _ => self.keep_subset(random, &mut image),
        }
        FileNode { current: image.clone(), durable: image, pending: Vec::new() }
    }

    fn keep_prefix(&self, random: &mut Random, image: &mut Vec<u8>) {
        let whole = random.below(self.pending.len() + 1);
        self.pending[..whole].iter().for_each(|op| op.apply(image));
        if let Some(last) = self.pending.get(whole) {
            tear(last, random, image);
        }
    }

    fn keep_subset(&self, random: &mut Random, image: &mut Vec<u8>) {
        let grow_first = random.coin();
        for op in &self.pending {
            match op {
                FileOp::Write { offset, bytes } => {
                    if grow_first && image.len() < offset + bytes.len() {
                        image.resize(offset + bytes.len(), 0);
                    }
                    match random.below(3) {
                        0 => {}
                        1 => op.apply(image),
                        _ => tear(op, random, image),
                    }
                }
                FileOp::Truncate { .. } => {
                    if random.coin() {
                        op.apply(image);
                    }
                }
            }
        }
    }
}

/// Keeps a random subset of the sectors of one write.
fn tear(op: &FileOp, random: &mut Random, image: &mut Vec<u8>) {
    let FileOp::Write { offset, bytes } = op else {
        return;
    };
    let sector = SECTORS[random.below(SECTORS.len())];
    let (start, end) = (*offset, offset + bytes.len());
    let mut position = start;
    while position < end {
        let next = ((position / sector + 1) * sector).min(end);
        if random.coin() {
            write_into(image, position, &bytes[position - start..next - start]);
        }
        position = next;
    }
}

#[derive(Debug, Clone)]
pub(crate) enum DirOp {
    Insert { name: String, inode: u64 },
    Remove { name: String },
    Rename { from: String, to: String, inode: u64 },
}

impl DirOp {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            DirOp::Insert { name, inode } => {
                names.insert(name.clone(), *inode);
            }
            DirOp::Remove { name } => {
                names.remove(name);
            }
            DirOp::Rename { from, to, inode } => {
                names.remove(from);
                names.insert(to.clone(), *inode);
            }
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct DirNode {
    pub(crate) current: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    pending: Vec<DirOp>,
}

impl DirNode {
    pub(crate) fn apply(&mut self, op: DirOp) {
        op.apply(&mut self.current);
        self.pending.push(op);
    }

    pub(crate) fn apply_in_flight(&mut self, op: DirOp) {
        self.pending.push(op);
    }

    pub(crate) fn sync(&mut self) {
        for op in self.pending.drain(..) {
            op.apply(&mut self.durable);
        }
    }

    fn survivors(&self, random: &mut Random) -> DirNode {
        let mut names = self.durable.clone();
        for op in &self.pending {
            if random.coin() {
                op.apply(&mut names);
            }
        }
        DirNode { current: names.clone(), durable: names, pending: Vec::new() }
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Node {
    File(FileNode),
    Dir(DirNode),
}

impl Node {
    pub(crate) fn after_crash(&self, random: &mut Random) -> Node {
        match self {
            Node::File(file) => Node::File(file.survivors(random)),
            Node::Dir(dir) => Node::Dir(dir.survivors(random)),
        }
    }
}
