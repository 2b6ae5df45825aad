//! Names the crate of which only the C source is used.
