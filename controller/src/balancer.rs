//! Gives leaderships back to preferred replicas from time to time, on the active controller.
//!
//! Owns the interval (`leader.imbalance.check.interval.seconds`). Does not own the rule (`decide::unbalanced`). A new active
//! controller begins with a whole interval, so that brokers which have just come back are not given leaderships at once.

use std::time::Duration;

use tokio::time::Instant;

use crate::decide::unbalanced;
use crate::handle::ControllerHandle;
use crate::request::{ElectLeaders, ElectionKind, Request};

/// Elections of one look, at most, as in Kafka.
const ELECTIONS_MAX: usize = 1_000;
/// Between looks at whether this controller is the active one.
const TICK: Duration = Duration::from_millis(200);

/// When leaderships are given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderBalance {
    pub interval: Duration,
    /// Of the leaderships a broker is preferred for, so many in a hundred may be with others.
    pub percentage: u32,
}

/// Runs until the controller stops.
pub(crate) async fn run(handle: ControllerHandle, balance: LeaderBalance) {
    let mut last: Option<Instant> = None;
    loop {
        tokio::time::sleep(TICK.min(balance.interval)).await;
        if !handle.is_leader() {
            last = None;
            continue;
        }
        if last.get_or_insert_with(Instant::now).elapsed() < balance.interval {
            continue;
        }
        last = Some(Instant::now());
        let partitions = unbalanced(&handle.image(), balance.percentage, ELECTIONS_MAX);
        if partitions.is_empty() {
            continue;
        }
        tracing::info!(partitions = partitions.len(), "leaderships go back to preferred replicas");
        let elect = ElectLeaders { kind: ElectionKind::Preferred, partitions: Some(partitions) };
        if let Err(error) = handle.request(Request::ElectLeaders(elect)).await {
            tracing::warn!(%error, "leaderships are not given back yet");
        }
    }
}
