//! Files and functions fit in a head.

use std::collections::BTreeMap;

use crate::tree::{is_test, production, sources};

const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 70;

/// Files over the limit, with their length when they were listed. May only shrink; leave the list when they fit.
const LONG_FILES: [(&str, usize); 2] = [("log/src/recovery.rs", 601), ("protocol/src/record_batch.rs", 602)];
/// Functions over the limit, as `path function`, with their length.
const LONG_FUNCTIONS: [(&str, usize); 3] = [
    ("broker/src/config/node.rs from_properties", 86),
    ("protocol/generator/src/emit.rs decode", 127),
    ("protocol/generator/src/emit.rs encode", 123),
];

#[test]
fn files_do_not_grow_past_the_limit() {
    let allowed: BTreeMap<&str, usize> = LONG_FILES.into_iter().collect();
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| !is_test(&s.path)) {
        let lines = production(&source.text).lines().count();
        let limit = allowed.get(source.path.as_str()).copied().unwrap_or(FILE_LINES);
        if lines > limit {
            wrong.push(format!("{} has {lines} lines, {limit} are allowed", source.path));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn functions_do_not_grow_past_the_limit() {
    let allowed: BTreeMap<&str, usize> = LONG_FUNCTIONS.into_iter().collect();
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| !is_test(&s.path)) {
        for (name, lines) in functions(production(&source.text)) {
            let key = format!("{} {name}", source.path);
            let limit = allowed.get(key.as_str()).copied().unwrap_or(FUNCTION_LINES);
            if lines > limit {
                wrong.push(format!("{key} has {lines} lines, {limit} are allowed"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Names and lengths of functions, by indentation, as rustfmt leaves it.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let indent = line.len() - trimmed.len();
        let Some(name) = function_name(trimmed) else { continue };
        let end = lines[start..]
            .iter()
            .position(|l| l.len() > indent && l.starts_with(&" ".repeat(indent)) && &l[indent..] == "}");
        if let Some(length) = end {
            found.push((name, length + 1));
        }
    }
    found
}

fn function_name(line: &str) -> Option<String> {
    let mut rest = line;
    for word in ["pub(crate) ", "pub(super) ", "pub ", "const ", "async ", "unsafe "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    let name = rest.strip_prefix("fn ")?;
    if line.ends_with(';') || line.ends_with('}') {
        return None;
    }
    Some(name.split(['(', '<']).next().unwrap_or(name).to_owned())
}

#[test]
fn a_function_is_measured_from_its_name_to_its_brace() {
    let text =
        "impl A {\n    pub(super) async fn b(\n        x: u8,\n    ) {\n        y();\n    }\n}\nfn c() -> u8 { 1 }\n";
    assert_eq!(functions(text), [("b".to_owned(), 5)]);
}
