//! Histories of clients, and the checker that judges them (`docs/CHECKER.md`).
//!
//! Owns the one history format of simulator, real processes and foreign clients, and the definitions of what may not be seen.
//! Does not own the clients that make a history, nor files: text goes in and out, time is an argument.
//! Invariants: checking is a function of the history and the [`rules::Rules`] alone; a report is bounded, however long the history.
//! A crash leaves nothing behind.

pub mod bounds;
pub mod check;
pub mod cycles;
pub mod groups;
pub mod op;
pub mod order;
pub mod pairs;
pub mod payload;
pub mod recorder;
pub mod report;
pub mod rules;
pub mod staleness;
pub mod values;
pub mod versions;
