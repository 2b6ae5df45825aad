//! The sinks that come with a worker.

pub mod object_store;
