//! Documents name what is there.

use std::collections::BTreeSet;
use std::path::Path;

use crate::tree::root;

fn documents() -> Vec<(String, String)> {
    let mut found = vec!["README.md".to_owned(), "benches/README.md".to_owned()];
    for dir in ["docs", "docs/formats", "docs/rfcs"] {
        for entry in std::fs::read_dir(root().join(dir)).expect("the tree is readable") {
            let name = entry.expect("the tree is readable").file_name().to_string_lossy().into_owned();
            if name.ends_with(".md") {
                found.push(format!("{dir}/{name}"));
            }
        }
    }
    found.sort();
    found
        .into_iter()
        .map(|path| (path.clone(), std::fs::read_to_string(root().join(&path)).unwrap_or_default()))
        .collect()
}

/// Back-quoted words that look like paths of this tree.
fn named_paths(text: &str) -> Vec<String> {
    let tops = [
        "protocol/",
        "disk/",
        "log/",
        "client/",
        "tiering/",
        "controller/",
        "broker/",
        "tests/",
        "benches/",
        "docs/",
        "deploy/",
    ];
    let quoted = text.split('`').skip(1).step_by(2);
    let plain = |word: &&str| !word.contains([' ', '<', '*', '{', '$', ':', '\n']);
    quoted.filter(plain).filter(|word| tops.iter().any(|top| word.starts_with(top))).map(str::to_owned).collect()
}

#[test]
fn paths_in_documents_exist() {
    let mut named = 0;
    for (document, text) in documents() {
        for path in named_paths(&text) {
            named += 1;
            assert!(root().join(path.trim_end_matches('/')).exists(), "{document} names {path}, which is not there");
        }
    }
    assert!(named > 30, "the search for paths has lost its way: {named}");
}

#[test]
fn links_between_documents_lead_somewhere() {
    for (document, text) in documents() {
        let base = root().join(Path::new(&document).parent().expect("the tree is readable"));
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") {
                assert!(base.join(file).exists(), "{document} links to {target}, which is not there");
            }
        }
    }
}

#[test]
fn rfc_numbers_are_used_once() {
    let mut numbers = BTreeSet::new();
    for (document, _) in documents() {
        let Some(name) = document.strip_prefix("docs/rfcs/").filter(|name| *name != "README.md") else { continue };
        let number = name.split('-').next().unwrap_or_default();
        assert!(number.len() == 4 && number.bytes().all(|b| b.is_ascii_digit()), "{document} has no number");
        assert!(numbers.insert(number.to_owned()), "{document}: the number is taken");
    }
}

#[test]
fn the_map_stays_a_map() {
    let lines =
        std::fs::read_to_string(root().join("docs/ARCHITECTURE.md")).expect("the tree is readable").lines().count();
    assert!(lines <= 500, "docs/ARCHITECTURE.md has {lines} lines");
    let lines = std::fs::read_to_string(root().join("README.md")).expect("the tree is readable").lines().count();
    assert!(lines <= 150, "README.md has {lines} lines");
}
