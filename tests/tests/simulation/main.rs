//! Whole nodes in one process, from one seed.

mod seeds;
