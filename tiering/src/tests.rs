//! Tests of the crate against real files and, by environment, real stores.

mod caching;
mod conformance;

mod golden;
mod harness;
mod histories;
mod moves;
mod reading;
mod search;
