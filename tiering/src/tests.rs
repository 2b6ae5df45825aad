//! Tests of the crate against real files and, by environment, real stores.

mod harness;
mod moves;
mod reading;
