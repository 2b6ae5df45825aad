//! Which chunks stay in memory, and which make room: dropped, or written to a file.
//!
//! Owns: the order of the chunks in memory and of those that were dropped lately; pure. Does not own: their bytes, the
//! budgets' permits, files; whoever holds those does what [`Residence::room`] says.
//!
//! Invariants: a chunk that a reader still has before it is never dropped, only written to a file; nothing is said twice
//! of the same chunk; what an answer under way holds is left alone, as its memory would not come back; the memory of those
//! ghosts is bounded. A crash leaves nothing.

use std::collections::{BTreeMap, HashMap};

use super::ChunkId;
use crate::lru::Lru;

/// Chunks remembered after they were dropped, at most; fewer where the cache of files is smaller, as a chunk that comes
/// back later than all of that cache has turned over would leave its file before the third reader comes.
pub(crate) const GHOSTS_LIMIT: u64 = 64 << 10;

/// Of a budget, one part in so many may be chunks that were read and that nobody is known to want.
const RELEASED_SHARE: usize = 4;

/// Chunks that one more reader will want leave for their files when less than one part in so many of a budget is free or
/// can be freed at once, so that memory is there when read-ahead asks for it.
const SPARE_SHARE: usize = 4;

/// Whose memory a chunk has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Budget {
    Demand,
    ReadAhead,
}

/// In the order in which they make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// Read, fetched once, and nobody is known to want it: dropped.
    Released,
    /// Read, and wanted again: by a reader further back, or because it was fetched before.
    Wanted,
    /// Not read to its end.
    Unread,
    /// On its way to its file.
    Leaving,
}

#[derive(Debug)]
struct Resident {
    budget: Budget,
    class: Class,
    /// It was fetched and dropped before.
    again: bool,
    used: u64,
}

/// How full a budget is, in chunks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room {
    pub(crate) budget: Budget,
    /// All there are.
    pub(crate) chunks: usize,
    pub(crate) free: usize,
    /// Wanted now.
    pub(crate) asked: usize,
}

/// What makes room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It has left the books.
    Drop(ChunkId),
    /// It stays in the books until [`Residence::left`].
    Write(ChunkId),
}

#[derive(Debug)]
pub(crate) struct Residence {
    chunks: HashMap<ChunkId, Resident>,
    /// Oldest use first within a class.
    order: BTreeMap<(Budget, Class, u64), ChunkId>,
    uses: u64,
    ghosts: Lru<ChunkId, ()>,
}

impl Residence {
    /// `file_chunks`: chunks that the cache of files has room for.
    pub(crate) fn new(file_chunks: u64) -> Residence {
        Residence {
            chunks: HashMap::new(),
            order: BTreeMap::new(),
            uses: 0,
            ghosts: Lru::new(file_chunks.clamp(1, GHOSTS_LIMIT)),
        }
    }

    /// The chunk came from the store.
    pub(crate) fn came(&mut self, id: ChunkId, budget: Budget) {
        self.left(id);
        let again = self.ghosts.remove(&id).is_some();
        self.uses += 1;
        let used = self.uses;
        self.order.insert((budget, Class::Unread, used), id);
        self.chunks.insert(id, Resident { budget, class: Class::Unread, again, used });
    }

    /// A reader took something of it.
    pub(crate) fn used(&mut self, id: ChunkId) {
        if let Some(class) = self.chunks.get(&id).map(|resident| resident.class) {
            self.place(id, class);
        }
    }

    /// A reader has it behind it; `awaited` if others have it before them.
    pub(crate) fn passed(&mut self, id: ChunkId, awaited: bool) {
        match self.chunks.get(&id) {
            None => {}
            Some(resident) if resident.class == Class::Leaving => {}
            Some(resident) => {
                let class = if awaited || resident.again { Class::Wanted } else { Class::Released };
                self.place(id, class);
            }
        }
    }

    /// It goes to its file now.
    pub(crate) fn leaving(&mut self, id: ChunkId) {
        self.place(id, Class::Leaving);
    }

    /// Its memory is nothing to us any more.
    pub(crate) fn left(&mut self, id: ChunkId) {
        if let Some(Resident { budget, class, used, .. }) = self.chunks.remove(&id) {
            self.order.remove(&(budget, class, used));
        }
    }

    /// What has to go, so that `room.asked` chunks fit and some memory is spare. `held`: an answer has the chunk's bytes.
    pub(crate) fn room(&mut self, room: Room, held: impl Fn(&ChunkId) -> bool) -> Vec<Step> {
        let mut steps = Vec::new();
        let Room { budget, chunks, free, asked } = room;
        let mut missing = asked.saturating_sub(free);
        let mut released = self.choose(budget, Class::Released, usize::MAX, &held);
        let too_many = self.count(budget, Class::Released).saturating_sub(chunks.div_ceil(RELEASED_SHARE));
        for id in released.drain(..released.len().min(missing.max(too_many))) {
            self.left(id);
            // As many as it holds, so what leaves it is of no interest.
            drop(self.ghosts.insert(id, (), 1));
            steps.push(Step::Drop(id));
        }
        let dropped = steps.len();
        let leaving = self.count(budget, Class::Leaving);
        missing = missing.saturating_sub(dropped);
        let spare = (free + dropped + released.len() + leaving).saturating_sub(asked);
        let wanted = (chunks / SPARE_SHARE).saturating_sub(spare).max(missing.saturating_sub(leaving));
        let mut writes = self.choose(budget, Class::Wanted, wanted, &held);
        let still_missing = missing.saturating_sub(leaving + writes.len());
        writes.extend(self.choose(budget, Class::Unread, still_missing, &held));
        for id in writes {
            self.leaving(id);
            steps.push(Step::Write(id));
        }
        steps
    }

    /// All chunks of a budget.
    pub(crate) fn of(&self, budget: Budget) -> impl Iterator<Item = &ChunkId> {
        self.order.range((budget, Class::Released, 0)..=(budget, Class::Leaving, u64::MAX)).map(|(_, id)| id)
    }

    fn choose(&self, budget: Budget, class: Class, most: usize, held: impl Fn(&ChunkId) -> bool) -> Vec<ChunkId> {
        let all = self.order.range((budget, class, 0)..=(budget, class, u64::MAX));
        all.map(|(_, id)| *id).filter(|id| !held(id)).take(most).collect()
    }

    fn count(&self, budget: Budget, class: Class) -> usize {
        self.order.range((budget, class, 0)..=(budget, class, u64::MAX)).count()
    }

    fn place(&mut self, id: ChunkId, class: Class) {
        let Some(resident) = self.chunks.get_mut(&id) else { return };
        self.order.remove(&(resident.budget, resident.class, resident.used));
        self.uses += 1;
        (resident.class, resident.used) = (class, self.uses);
        self.order.insert((resident.budget, class, self.uses), id);
    }
}

#[cfg(test)]
#[path = "residence_tests.rs"]
mod tests;
