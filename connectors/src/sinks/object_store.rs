//! `object-store`: topics as files in a bucket or a directory, each record in exactly one file.
//!
//! Owns the files below `topics.dir` and the plans below `topics.dir/_manifest`. Exactly once is the work of the plans ([`plan`],
//! docs/formats/archive-plan.md): a chunk of a partition gets a plan, created under a key that only the next chunk of the partition can
//! have, before any of its files; the files are then a function of the plan and the log, created and never replaced. Whoever comes later,
//! or woke too late, finds the plan and does the same work or none.
//! A crash leaves at most a plan whose files are missing in part: the next task that opens the partition writes them first.

mod archive;
mod chunk;
mod encode;
mod files;
mod keys;
mod kind;
mod partitioner;
mod plan;
mod spool;
#[cfg(test)]
mod tests;

pub(super) use encode::json_value;
pub use kind::ObjectStoreKind;
