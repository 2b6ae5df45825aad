//! Whole nodes in one process, from one seed: layer L1 of the attack on the cluster.
//!
//! Owns a world of three nodes (controller, replication, groups, tier) on simulated disks, network, clock and store; faults
//! drawn from a seed; clients whose history the checker judges. What a node does between two ticks is real code.
//! A run has two phases: in the first anything may fail, in the second everything is healed and must converge in bounded time.
//! Two runs of a seed in two processes that did nothing before do the same, step by step ([`trace`]). In one process the
//! branches of `select!` differ from run to run: tokio seeds them from a counter of runtimes.

pub mod clients;
pub mod committers;
pub mod faults;
pub mod ledger;
pub mod movers;
pub mod network;
pub mod run;
pub mod seeds;
pub mod system;
pub mod trace;
pub mod world;
