//! What happened in a simulation, as one number: two runs with the same one did the same.
//!
//! Owns the sum (FNV-1a, 64 bits) over every message that arrived and every line of the history, with their times.

/// The sum so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    sum: u64,
    /// Things summed.
    pub events: u64,
}

impl Default for Trace {
    fn default() -> Self {
        Trace { sum: 0xcbf2_9ce4_8422_2325, events: 0 }
    }
}

impl Trace {
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.sum = (self.sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// A message that arrived at `now_ms` over a connection, one way or the other.
    pub fn message(&mut self, now_ms: u64, connection: u64, way: usize, bytes: &[u8]) {
        self.add(&now_ms.to_le_bytes());
        self.add(&connection.to_le_bytes());
        self.add(&[u8::from(way == 1)]);
        self.add(bytes);
        self.events += 1;
        tracing::trace!(now_ms, connection, way, length = bytes.len(), sum = self.sum, ?bytes, "a message arrives");
    }

    pub fn sum(&self) -> u64 {
        self.sum
    }
}
