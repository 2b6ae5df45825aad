//! Names that say nothing, and marks of unfinished work.

use crate::tree::{is_test, production, sources};

#[test]
fn no_module_is_a_dumping_ground() {
    for source in sources() {
        let file = source.path.rsplit('/').next().unwrap_or_default();
        let folder = source.path.rsplit('/').nth(1).unwrap_or_default();
        for banned in ["utils", "util", "common", "helpers", "helper", "misc"] {
            assert!(file != format!("{banned}.rs") && folder != banned, "{}: a name that says nothing", source.path);
        }
    }
}

#[test]
fn nothing_is_left_half_done() {
    // Put together here, so that this file does not name them.
    let marks =
        [["FIX", "ME"].concat(), ["XX", "X:"].concat(), ["todo", "!("].concat(), ["unimplemented", "!("].concat()];
    for source in sources() {
        for mark in &marks {
            assert!(!source.text.contains(mark.as_str()), "{} contains {mark}", source.path);
        }
    }
}

#[test]
fn every_module_says_what_it_owns() {
    for source in sources().iter().filter(|s| !is_test(&s.path) && !s.path.contains("/examples/")) {
        assert!(source.text.starts_with("//! "), "{} does not begin with its contract", source.path);
        assert!(!production(&source.text).is_empty(), "{} is empty", source.path);
    }
}
