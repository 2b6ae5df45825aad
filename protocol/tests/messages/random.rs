//! A seeded source of values that leans to the edges.

use bytes::Bytes;
use strandline_protocol::rope::Records;
use uuid::Uuid;

/// Splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn flip(&mut self) -> bool {
        self.next() & 1 == 1
    }

    pub fn bool(&mut self) -> bool {
        self.flip()
    }

    pub fn i64(&mut self) -> i64 {
        match self.below(6) {
            0 => -1,
            1 => 0,
            2 => i64::MAX,
            3 => i64::MIN,
            4 => self.below(1000) as i64,
            _ => self.next() as i64,
        }
    }

    pub fn i32(&mut self) -> i32 {
        match self.below(6) {
            0 => -1,
            1 => 0,
            2 => i32::MAX,
            3 => i32::MIN,
            4 => self.below(1000) as i32,
            _ => self.next() as i32,
        }
    }

    pub fn i16(&mut self) -> i16 {
        self.i32() as i16
    }

    pub fn u16(&mut self) -> u16 {
        self.i32() as u16
    }

    pub fn i8(&mut self) -> i8 {
        self.i32() as i8
    }

    pub fn uuid(&mut self) -> Uuid {
        Uuid::from_u128((u128::from(self.next()) << 64) | u128::from(self.next()))
    }

    pub fn string(&mut self) -> String {
        let length = match self.below(4) {
            0 => 0,
            1 => self.below(200),
            _ => self.below(12),
        };
        (0..length).map(|_| ['a', 'Z', '0', '-', 'é', '潮'][self.below(6)]).collect()
    }

    pub fn bytes(&mut self) -> Bytes {
        // Some longer than what the writer copies.
        let length = if self.below(4) == 0 { self.below(1500) } else { self.below(20) };
        (0..length).map(|_| self.next() as u8).collect()
    }

    pub fn records(&mut self) -> Records {
        Records::Bytes(self.bytes())
    }

    pub fn array<T>(&mut self, mut element: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let length = self.below(4);
        (0..length).map(|_| element(self)).collect()
    }

    pub fn option<T>(&mut self, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.below(3) == 0 { None } else { Some(value(self)) }
    }
}
