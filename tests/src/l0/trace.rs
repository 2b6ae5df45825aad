//! What happened, as lines on standard output (if asked for) and as one number: same seed, same number.

use std::fmt;

/// The trace of one run.
#[derive(Debug, Default)]
pub struct Trace {
    /// Every line is printed, between those that the product logs, or none.
    print: bool,
    hash: u64,
    count: u64,
    scratch: String,
}

impl Trace {
    pub fn new(print: bool) -> Self {
        Trace { print, hash: 0xcbf2_9ce4_8422_2325, ..Trace::default() }
    }

    /// Notes one line. The hash sees it whether it is kept or not.
    pub fn note(&mut self, now_ms: i64, line: fmt::Arguments<'_>) {
        use fmt::Write;
        self.scratch.clear();
        // Writing into a string does not fail.
        let _ = write!(self.scratch, "{now_ms:>7} {line}");
        for byte in self.scratch.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self.count += 1;
        if self.print {
            println!("{}", self.scratch);
        }
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn count(&self) -> u64 {
        self.count
    }
}
