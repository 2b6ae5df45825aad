//! Dependencies go down the layers; a new edge is an event.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::{root, sources};

/// Crate folder, and the workspace crates that it may use.
const EDGES: [(&str, &[&str]); 8] = [
    ("protocol", &[]),
    ("disk", &[]),
    ("log", &["protocol", "disk"]),
    ("client", &["protocol"]),
    ("tiering", &["protocol"]),
    ("controller", &["protocol", "disk"]),
    // The store of `tiering` for the sinks that write objects (docs/rfcs/0002-connectors-see-the-store.md).
    ("connectors", &["protocol", "client", "tiering"]),
    ("broker", &["protocol", "disk", "log", "client", "tiering", "controller", "connectors"]),
];

/// External crates that only one folder may name.
const CONFINED: [(&str, &[&str]); 8] = [
    ("openraft", &["controller/"]),
    ("object_store", &["tiering/"]),
    ("axum", &["broker/", "connectors/"]),
    ("arrow", &["connectors/"]),
    ("parquet", &["connectors/"]),
    // Foreign code is loaded in one place.
    ("libloading", &["connectors/src/plugin/library.rs"]),
    ("adbc_core", &["connectors/src/sinks/adbc/"]),
    ("adbc_driver_manager", &["connectors/src/sinks/adbc/"]),
];

fn dependencies(folder: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("the tree is readable");
    let section = text.split("[dependencies]").nth(1).unwrap_or("").split("\n[").next().unwrap_or("");
    let names = section.lines().filter_map(|line| line.split(['.', ' ', '=']).next());
    names.filter_map(|name| name.strip_prefix("strandline-")).map(str::to_owned).collect()
}

#[test]
fn every_crate_sees_only_what_lies_below_it() {
    let allowed: BTreeMap<&str, BTreeSet<String>> =
        EDGES.iter().map(|(from, to)| (*from, to.iter().map(|t| (*t).to_owned()).collect())).collect();
    for (folder, allowed) in allowed {
        let actual = dependencies(folder);
        let extra: Vec<_> = actual.difference(&allowed).collect();
        assert!(extra.is_empty(), "{folder} depends on {extra:?}; change EDGES only with an RFC");
    }
}

#[test]
fn confined_crates_stay_where_they_are() {
    for source in sources() {
        for (name, homes) in CONFINED {
            let used = source.text.contains(&format!("use {name}::")) || source.text.contains(&format!(" {name}::"));
            assert!(
                !used
                    || homes.iter().any(|home| source.path.starts_with(home))
                    || source.path.starts_with("tests/")
                    || source.path.starts_with("benches/"),
                "{} names {name}, which belongs to {homes:?} alone",
                source.path
            );
        }
    }
}
