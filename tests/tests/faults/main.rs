//! Real servers in real trouble: a killed broker, a store that is down, slow or full of errors, bad bytes, a full disk.
//!
//! The measure is always the same: every acknowledged record is read once, in order, byte for byte. How much runs is set by the
//! environment: `STRANDLINE_FAULT_RECORDS` (records of one load; the long form is 10,000,000), `STRANDLINE_FAULT_KILLS`,
//! `STRANDLINE_FAULT_OUTAGE_SECONDS` (the long form is 60), `STRANDLINE_FAULT_FRAMES`.

mod bucket;
mod disk;
mod input;
mod load;
mod scene;
mod store;
