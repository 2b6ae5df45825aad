//! The tracked source files.

use std::path::{Path, PathBuf};

/// The root of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies below the root").to_owned()
}

/// A source file, its path relative to the root.
pub struct Source {
    pub path: String,
    pub text: String,
}

/// All Rust files of the workspace but generated ones, sorted.
pub fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for top in
        ["protocol", "disk", "log", "client", "tiering", "controller", "connectors", "broker", "tests", "benches"]
    {
        collect(&root().join(top), &mut found);
    }
    let mut sources: Vec<Source> = found
        .into_iter()
        .map(|path| Source {
            text: std::fs::read_to_string(&path).expect("the tree is readable"),
            path: path.strip_prefix(root()).expect("the tree is readable").to_string_lossy().into_owned(),
        })
        .filter(|s| !is_generated(&s.path))
        .collect();
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(sources.len() > 100, "the walk has lost its way");
    sources
}

fn is_generated(path: &str) -> bool {
    path.starts_with("protocol/src/messages/") || path == "protocol/tests/messages/samples.rs"
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("the tree is readable") {
        let path = entry.expect("the tree is readable").path();
        let name = path.file_name().expect("the tree is readable").to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            collect(&path, found);
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

/// True for files that hold tests only.
pub fn is_test(path: &str) -> bool {
    path.contains("/tests/") || path.starts_with("tests/") || path.ends_with("_tests.rs") || path.ends_with("/tests.rs")
}

/// The part in front of an inline test module.
pub fn production(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod ").next().unwrap_or(text)
}
