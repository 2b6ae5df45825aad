//! Repeatable numbers from a seed: SplitMix64.

/// Every sequence is a function of its seed alone.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The seed of the numbers that follow.
    pub fn state(&self) -> u64 {
        self.0
    }

    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `limit`, which is at least 1.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.word() % limit
    }

    /// Fills `bytes`; the second half of each 64 bytes repeats the first, so that a codec finds something to do.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for block in bytes.chunks_mut(64) {
            let (random, repeated) = block.split_at_mut(block.len().div_ceil(2));
            for word in random.chunks_mut(8) {
                word.copy_from_slice(&self.word().to_le_bytes()[..word.len()]);
            }
            repeated.copy_from_slice(&random[..repeated.len()]);
        }
    }
}
