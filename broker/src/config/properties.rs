//! Java's `.properties` syntax, and where a value came from.

use std::collections::BTreeMap;

/// Longest file that is read, in bytes.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// A line that is not a property.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}:{line}: {detail}")]
pub struct PropertiesError {
    pub origin: String,
    pub line: usize,
    pub detail: String,
}

/// One value, with where it was set (for messages).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub value: String,
    pub origin: String,
}

/// Settings by key. A later source replaces an earlier one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    pub settings: BTreeMap<String, Setting>,
}

impl Properties {
    /// Adds the lines of a file; `origin` names it in messages.
    pub fn add_text(&mut self, text: &str, origin: &str) -> Result<(), PropertiesError> {
        let mut lines = text.lines().enumerate();
        while let Some((number, first)) = lines.next() {
            let mut logical = first.trim_start().to_owned();
            if logical.is_empty() || logical.starts_with(['#', '!']) {
                continue;
            }
            while continues(&logical) {
                logical.pop();
                let Some((_, next)) = lines.next() else { break };
                logical.push_str(next.trim_start());
            }
            let fail = |detail: &str| PropertiesError {
                origin: origin.to_owned(),
                line: number + 1,
                detail: detail.to_owned(),
            };
            let (key, value) = split(&logical).map_err(|e| fail(&e))?;
            if key.is_empty() {
                return Err(fail("a property needs a key before '='"));
            }
            self.set(&key, value, &format!("{origin}:{}", number + 1));
        }
        Ok(())
    }

    /// Adds `KAFKA_*` variables: `KAFKA_LOG_DIRS` is `log.dirs`; `__` stands for `_` and `___` for `-`.
    pub fn add_environment(&mut self, variables: impl Iterator<Item = (String, String)>) {
        const NOT_SETTINGS: [&str; 7] = [
            "KAFKA_HEAP_OPTS",
            "KAFKA_OPTS",
            "KAFKA_LIBS",
            "KAFKA_HOME",
            "KAFKA_VERSION",
            "KAFKA_JMX_OPTS",
            "KAFKA_GC_LOG_OPTS",
        ];
        for (name, value) in variables {
            if NOT_SETTINGS.contains(&name.as_str()) || name.starts_with("KAFKA_LOG4J") {
                continue;
            }
            if let Some(rest) = name.strip_prefix("KAFKA_") {
                let key =
                    rest.to_lowercase().replace("___", "-").replace("__", "\0").replace('_', ".").replace('\0', "_");
                self.set(&key, value, &format!("environment {name}"));
            }
        }
    }

    /// Adds one `key=value` of the command line.
    pub fn add_override(&mut self, text: &str) -> Result<(), PropertiesError> {
        match text.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                self.set(key.trim(), value.trim().to_owned(), "--override");
                Ok(())
            }
            _ => Err(PropertiesError {
                origin: "--override".to_owned(),
                line: 1,
                detail: format!("'{text}' is not of the form key=value"),
            }),
        }
    }

    pub fn set(&mut self, key: &str, value: String, origin: &str) {
        self.settings.insert(key.to_owned(), Setting { value, origin: origin.to_owned() });
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.settings.get(key).map(|s| s.value.as_str())
    }
}

/// An odd number of backslashes at the end joins the next line.
fn continues(line: &str) -> bool {
    line.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1
}

/// Splits at the first unescaped `=`, `:` or white space.
fn split(line: &str) -> Result<(String, String), String> {
    let mut escaped = false;
    let mut end = line.len();
    for (at, c) in line.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == '=' || c == ':' || c.is_whitespace() {
            end = at;
            break;
        }
    }
    let (key, rest) = line.split_at(end);
    let rest = rest.trim_start();
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest).trim();
    Ok((unescape(key)?, unescape(rest)?))
}

fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('f') => out.push('\u{c}'),
            Some('u') => {
                let hex: String = chars.by_ref().take(4).collect();
                let code = u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32);
                out.push(code.ok_or_else(|| format!("'\\u{hex}' is not a character"))?);
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn java_syntax_is_understood() {
        let mut p = Properties::default();
        let text = "# comment\n! another\n\nlog.dirs=/a,/b\nnode.id : 7\nkey value\nlong=one,\\\n   two\nuni=\\u0041\\=\nempty=\n";
        p.add_text(text, "f").unwrap();
        for (key, value) in [
            ("log.dirs", "/a,/b"),
            ("node.id", "7"),
            ("key", "value"),
            ("long", "one,two"),
            ("uni", "A="),
            ("empty", ""),
        ] {
            assert_eq!(p.get(key), Some(value), "{key}");
        }
        assert_eq!(p.settings["node.id"].origin, "f:5");
        assert_eq!(p.add_text("=x", "g").unwrap_err().to_string(), "g:1: a property needs a key before '='");
    }

    #[test]
    fn environment_names_become_keys() {
        let mut p = Properties::default();
        let vars = [("KAFKA_LOG_DIRS", "/d"), ("KAFKA_HEAP_OPTS", "x"), ("KAFKA_A__B___C", "1"), ("PATH", "no")];
        p.add_environment(vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        assert_eq!(p.get("log.dirs"), Some("/d"));
        assert_eq!(p.get("a_b-c"), Some("1"));
        assert_eq!(p.settings.len(), 2);
    }
}
