//! The checker, checked: for each anomaly a history that must be flagged and a near miss that must pass; histories of a model
//! log, which must never be flagged; and mutants of them, which must be.

mod cases;
mod format;
mod model;
mod mutants;
mod properties;
mod story;
