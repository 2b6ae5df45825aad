//! How long things took: counts in buckets of powers of two, and quantiles of the last minutes made from them.
//!
//! Owns the buckets and the window. Does not own what is measured. Adding is two atomic additions and allocates nothing;
//! quantiles are computed when the page is asked for, exact to the bucket (a factor of two), even within it.
//! A crash loses the counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// Bucket `n` holds times of `2^(n-1)` to `2^n` microseconds (exclusive), the first those below 1, the last all longer ones (over
/// an hour).
const BUCKETS: usize = 33;
/// Quantiles are of the last one to two of these, or since the page was asked for before, whichever is longer; milliseconds.
const WINDOW_MS: i64 = 60_000;
/// Kafka's, as its JMX exporter names them.
pub const QUANTILES: [(&str, f64); 6] =
    [("0.50", 0.50), ("0.75", 0.75), ("0.95", 0.95), ("0.98", 0.98), ("0.99", 0.99), ("0.999", 0.999)];

type Counts = [u64; BUCKETS];

/// Times of one kind of thing.
#[derive(Debug)]
pub struct Latency {
    counts: [AtomicU64; BUCKETS],
    window: Mutex<Window>,
}

/// Counts at the begin of this window and of the one before.
#[derive(Debug)]
struct Window {
    before: Counts,
    begin: Counts,
    begun_ms: i64,
}

/// What a page tells.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Since the start of the node.
    pub count: u64,
    /// In milliseconds, in the order of [`QUANTILES`]; all 0 if nothing happened lately.
    pub quantiles_ms: [f64; QUANTILES.len()],
}

impl Latency {
    pub const fn new() -> Latency {
        let window = Window { before: [0; BUCKETS], begin: [0; BUCKETS], begun_ms: 0 };
        Latency { counts: [const { AtomicU64::new(0) }; BUCKETS], window: Mutex::new(window) }
    }

    pub fn add(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - us.leading_zeros()) as usize;
        self.counts[bucket.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
    }

    pub fn summary(&self, now_ms: i64) -> Summary {
        let counts: Counts = std::array::from_fn(|at| self.counts[at].load(Ordering::Relaxed));
        let mut window = self.window.lock();
        let recent: Counts = std::array::from_fn(|at| counts[at].saturating_sub(window.before[at]));
        if now_ms.saturating_sub(window.begun_ms) >= WINDOW_MS {
            *window = Window { before: window.begin, begin: counts, begun_ms: now_ms };
        }
        drop(window);
        let quantiles_ms = QUANTILES.map(|(_, quantile)| quantile_ms(&recent, quantile));
        Summary { count: counts.iter().sum(), quantiles_ms }
    }
}

fn quantile_ms(counts: &Counts, quantile: f64) -> f64 {
    let total: u64 = counts.iter().sum();
    let rank = quantile * total as f64;
    let mut below = 0.0;
    for (bucket, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let count = *count as f64;
        if below + count >= rank {
            let end = (1_u64 << bucket) as f64;
            let begin = if bucket == 0 { 0.0 } else { end / 2.0 };
            return (begin + (end - begin) * (rank - below) / count) / 1000.0;
        }
        below += count;
    }
    0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_within_a_factor_of_two_of_the_truth() {
        let latency = Latency::new();
        assert_eq!(latency.summary(0), Summary { count: 0, quantiles_ms: [0.0; 6] });
        for us in 1..=1000 {
            latency.add(Duration::from_micros(us));
        }
        let Summary { count, quantiles_ms } = latency.summary(0);
        assert_eq!(count, 1000);
        for ((_, quantile), ms) in QUANTILES.iter().zip(quantiles_ms) {
            assert!((0.5..=2.0).contains(&(ms / quantile)), "{quantile}: {ms}");
        }
        assert!(quantiles_ms.is_sorted());
    }

    #[test]
    fn extremes_have_their_buckets() {
        let latency = Latency::new();
        latency.add(Duration::ZERO);
        latency.add(Duration::MAX);
        assert_eq!(latency.summary(0).count, 2);
    }

    #[test]
    fn what_is_long_ago_counts_but_weighs_nothing() {
        let latency = Latency::new();
        latency.add(Duration::from_secs(1));
        let median = |now| latency.summary(now).quantiles_ms[0];
        assert!(median(WINDOW_MS) > 500.0);
        latency.add(Duration::from_millis(1));
        assert!(median(2 * WINDOW_MS) > 1.0);
        latency.add(Duration::from_millis(1));
        assert!(median(3 * WINDOW_MS) < 2.0);
        assert_eq!(latency.summary(3 * WINDOW_MS).count, 3);
    }
}
