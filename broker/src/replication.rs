//! Replication between nodes: what a leader knows of its followers, and how a follower keeps up.
//!
//! Owns in-sync sets (as seen by leaders), high watermarks over them, and the fetchers of followers. Does not own who
//! leads (the controller) nor logs (`strandline_log`).
//!
//! [`leadership`] is pure; [`answer`] and [`following`] are the two sides of one fetch; `fetcher` and [`isr`] carry.
//! Invariants: the high watermark is the least durable end of the in-sync set and of what was asked to join it; a follower truncates before it takes anything in a new epoch, and says
//! by its fetch offset only what is durable in the topic's flush mode.
//! A crash leaves a follower behind; it truncates to where its history and its leader's part, and goes on.

pub mod answer;
pub(crate) mod fetcher;
pub mod following;
pub mod isr;
pub mod leadership;
pub mod losses;
pub mod selector;
mod session;
pub mod throttle;
