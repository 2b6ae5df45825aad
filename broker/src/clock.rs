//! The only clock of the product. Everything below the broker gets time as an argument.

#![expect(clippy::disallowed_methods, reason = "this is where time comes from")]

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Wall-clock time in ms since the epoch; 0 if the machine's clock is before it.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Monotonic time, for durations: the runtime's, so that it stands still with a clock that a simulation has stopped.
pub fn monotonic() -> Instant {
    tokio::time::Instant::now().into_std()
}
