//! Memory for chunks, used again: the first touch of a fresh buffer costs a page fault for every 4 KiB of it.
//!
//! Owns: a few buffers that nobody has, and the hash of what is put into one. Does not own: how many chunks are in memory at once (the
//! budgets of `chunks`). Invariants: at most [`SPARE_MAX`] buffers lie idle; a buffer comes back with the last reader of its
//! bytes, never before; it takes no more bytes than were asked for. A crash leaves nothing.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::encoding::Hasher;
use crate::sidecar::CHUNK_BYTES;

/// Buffers that lie idle, of [`CHUNK_BYTES`] each.
const SPARE_MAX: usize = 4;

#[derive(Debug, Default)]
pub(crate) struct Buffers {
    spare: Mutex<Vec<Vec<u8>>>,
}

impl Buffers {
    /// An empty buffer for exactly `len` bytes.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Filling {
        // What is much smaller than a chunk would keep the memory of a whole one.
        let whole = len > CHUNK_BYTES as usize / 2 && len <= CHUNK_BYTES as usize;
        let spare = if whole { self.spare.lock().pop() } else { None };
        let bytes = spare.unwrap_or_else(|| Vec::with_capacity(if whole { CHUNK_BYTES as usize } else { len }));
        Filling { bytes, len, hasher: Hasher::default(), home: whole.then(|| Arc::clone(self)) }
    }

    #[cfg(test)]
    fn idle(&self) -> usize {
        self.spare.lock().len()
    }
}

/// A buffer being filled.
pub(crate) struct Filling {
    bytes: Vec<u8>,
    len: usize,
    hasher: Hasher,
    /// Where the buffer goes when it is done with.
    home: Option<Arc<Buffers>>,
}

impl Filling {
    /// Adds the next bytes. False if that would be more than was asked for: nothing was added.
    #[must_use]
    pub(crate) fn push(&mut self, piece: &[u8]) -> bool {
        let fits = piece.len() <= self.len - self.bytes.len();
        if fits {
            self.bytes.extend_from_slice(piece);
            // While they are in the processor's cache.
            self.hasher.update(piece);
        }
        fits
    }

    /// The bytes and their hash; the number of bytes instead if they are not as many as asked for.
    pub(crate) fn finish(mut self) -> Result<(Bytes, u64), usize> {
        if self.bytes.len() != self.len {
            return Err(self.bytes.len());
        }
        let hash = self.hasher.finish();
        let full = Full { bytes: std::mem::take(&mut self.bytes), home: self.home.take() };
        Ok((Bytes::from_owner(full), hash))
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        go_home(self.home.take(), std::mem::take(&mut self.bytes));
    }
}

struct Full {
    bytes: Vec<u8>,
    home: Option<Arc<Buffers>>,
}

impl AsRef<[u8]> for Full {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        go_home(self.home.take(), std::mem::take(&mut self.bytes));
    }
}

fn go_home(home: Option<Arc<Buffers>>, mut bytes: Vec<u8>) {
    let Some(home) = home else { return };
    bytes.clear();
    let mut spare = home.spare.lock();
    if spare.len() < SPARE_MAX {
        spare.push(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::hash;

    const WHOLE: usize = CHUNK_BYTES as usize;

    fn fill(buffers: &Arc<Buffers>, len: usize, byte: u8) -> (Bytes, u64) {
        let mut filling = buffers.take(len);
        let whole = vec![byte; len];
        assert!(whole.chunks(100_000).all(|piece| filling.push(piece)));
        assert!(!filling.push(&[byte]), "not one byte more");
        filling.finish().unwrap()
    }

    #[test]
    fn a_buffer_is_used_again_when_its_last_reader_is_gone() {
        let buffers = Arc::new(Buffers::default());
        let (bytes, first_hash) = fill(&buffers, WHOLE, 1);
        assert_eq!((bytes.len(), first_hash), (WHOLE, hash(&vec![1; WHOLE])));
        let (reader, place) = (bytes.slice(5..9), bytes.as_ptr());
        drop(bytes);
        assert_eq!((buffers.idle(), &reader[..]), (0, &[1; 4][..]));
        drop(reader);
        assert_eq!(buffers.idle(), 1);
        let (again, second_hash) = fill(&buffers, WHOLE - 9, 2);
        assert_eq!((again.as_ptr(), second_hash), (place, hash(&vec![2; WHOLE - 9])));
        assert!(again.iter().all(|byte| *byte == 2), "nothing of what was in it before");
    }

    #[test]
    fn what_did_not_come_whole_is_not_given() {
        let buffers = Arc::new(Buffers::default());
        let mut filling = buffers.take(WHOLE);
        assert!(filling.push(&[7; 1_000]));
        assert_eq!(filling.finish(), Err(1_000));
        assert_eq!(buffers.idle(), 1, "its buffer is not lost");
    }

    #[test]
    fn few_buffers_lie_idle_and_small_chunks_have_small_ones() {
        let buffers = Arc::new(Buffers::default());
        let held: Vec<_> = (0..SPARE_MAX + 3).map(|_| fill(&buffers, WHOLE, 3).0).collect();
        drop(held);
        assert_eq!(buffers.idle(), SPARE_MAX);
        drop(fill(&buffers, 1_000, 4));
        assert_eq!(buffers.idle(), SPARE_MAX);
        let (small, _) = fill(&buffers, 0, 5);
        assert!(small.is_empty());
    }
}
