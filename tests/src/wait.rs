//! The one place of the suites that reads a clock: bounded waits on conditions.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(20);

/// A point in time that does not go back, for deadlines and durations.
#[expect(
    clippy::disallowed_methods,
    reason = "the harness is outside the product: it has no one to be handed a clock by"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since the epoch.
#[expect(
    clippy::disallowed_methods,
    reason = "the harness is outside the product: it has no one to be handed a clock by"
)]
pub fn wall_clock_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock stands after 1970");
    i64::try_from(since.as_millis()).expect("milliseconds of this age fit")
}

/// Lets `duration` pass. Not for correctness: a suite waits with [`until`].
#[expect(clippy::disallowed_methods, reason = "polling a condition of another process has no event to wait for")]
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Looks every 20 ms until `condition` gives a value; panics with `what` after `deadline`.
pub fn until<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = now() + deadline;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(now() < end, "waited {deadline:?} in vain: {what}");
        pause(PAUSE);
    }
}
