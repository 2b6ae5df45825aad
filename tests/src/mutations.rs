//! Seeded bugs: small changes of the product that the simulation must find.
//!
//! Owns the files under `tests/mutations`: which text of which file is replaced by what, the number of the bug in the design's
//! list that it repeats, and what should catch it. Does not own the run (`bin/mutate-l1.rs`).
//! Invariant, checked by a test: every mutation still applies, at exactly one place.

use std::path::{Path, PathBuf};

/// One seeded bug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutation {
    /// File name without its suffix, `NN-what`.
    pub name: String,
    /// Relative to the root of the tree.
    pub file: String,
    /// Stands in the file once.
    pub find: String,
    pub replace: String,
    /// What was broken elsewhere in this way: B1-B24, R1-R6 of the list, or in words.
    pub bug: String,
    /// What should catch it.
    pub expect: String,
}

/// Why a file is no mutation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadMutation {
    pub path: PathBuf,
    pub detail: String,
}

impl Mutation {
    /// Parses the text of one file: `key: value` lines, then the sections `--- find` and `--- replace`.
    pub fn parse(name: &str, text: &str) -> Result<Mutation, String> {
        let (head, rest) = text.split_once("--- find\n").ok_or("no section `--- find`")?;
        let (find, replace) = rest.split_once("--- replace\n").ok_or("no section `--- replace`")?;
        let value = |key: &str| {
            let found = head.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
            found.map(str::to_owned).ok_or(format!("no line `{key}: ...`"))
        };
        Ok(Mutation {
            name: name.to_owned(),
            file: value("file")?,
            find: find.trim_end_matches('\n').to_owned(),
            replace: replace.trim_end_matches('\n').to_owned(),
            bug: value("bug")?,
            expect: value("expect")?,
        })
    }

    /// The file's text with the bug in it.
    pub fn apply(&self, text: &str) -> Result<String, String> {
        match text.matches(&self.find).count() {
            1 => Ok(text.replacen(&self.find, &self.replace, 1)),
            found => Err(format!("{}: the text to replace stands {found} times in {}", self.name, self.file)),
        }
    }
}

/// Those for single cores (L0), relative to the root of the tree.
pub const L0: &str = "tests/mutations";
/// Those for whole nodes (L1).
pub const L1: &str = "tests/mutations/l1";

/// All mutations of a folder, in order of their names.
pub fn all(root: &Path, folder: &str) -> Result<Vec<Mutation>, BadMutation> {
    let dir = root.join(folder);
    let bad = |path: &Path, detail: String| BadMutation { path: path.to_owned(), detail };
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&dir)
        .map_err(|e| bad(&dir, e.to_string()))?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "mutation"))
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| {
            let text = std::fs::read_to_string(path).map_err(|e| bad(path, e.to_string()))?;
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            Mutation::parse(&name, &text).map_err(|detail| bad(path, detail))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies below the root").to_owned()
    }

    #[test]
    fn every_mutation_applies_to_the_tree() {
        let mutations: Vec<Mutation> = [L0, L1].iter().flat_map(|folder| all(&root(), folder).unwrap()).collect();
        assert!(mutations.len() >= 28, "{} mutations", mutations.len());
        for mutation in &mutations {
            let text = std::fs::read_to_string(root().join(&mutation.file)).unwrap();
            let changed = mutation.apply(&text).unwrap();
            assert_ne!(changed, text, "{} changes nothing", mutation.name);
        }
    }

    #[test]
    fn a_text_that_stands_twice_is_refused() {
        let text = "file: a.rs\nbug: B1\nexpect: 7\n--- find\nx();\n--- replace\n";
        let mutation = Mutation::parse("01-x", text).unwrap();
        assert_eq!((mutation.find.as_str(), mutation.replace.as_str()), ("x();", ""));
        assert_eq!(mutation.apply("a();\nx();\n").unwrap(), "a();\n\n");
        assert!(mutation.apply("x(); x();").is_err() && mutation.apply("y();").is_err());
        assert!(Mutation::parse("01-x", "file: a.rs\n").is_err());
    }
}
