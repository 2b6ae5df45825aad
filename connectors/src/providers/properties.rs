//! Java's properties files, as far as values of a key are asked for.

/// The value of a key; the last one wins.
pub fn value(text: &str, wanted: &str) -> Option<String> {
    let mut found = None;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        let mut whole = line.to_owned();
        while ends_open(&whole) {
            whole.pop();
            whole.push_str(lines.next().unwrap_or("").trim_start());
        }
        let (key, rest) = split(&whole);
        if unescaped(key) == wanted {
            found = Some(unescaped(rest));
        }
    }
    found
}

/// Whether the line goes on in the next.
fn ends_open(line: &str) -> bool {
    line.bytes().rev().take_while(|b| *b == b'\\').count() % 2 == 1
}

/// Key and value, both as they are written.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.char_indices().find(|(_, c)| {
        let ends = !escaped && (['=', ':'].contains(c) || c.is_whitespace());
        escaped = *c == '\\' && !escaped;
        ends
    });
    let Some((at, _)) = end else { return (line, "") };
    let rest = line[at..].trim_start();
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (&line[..at], rest.trim_start())
}

fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        match rest.next() {
            Some('n') => plain.push('\n'),
            Some('r') => plain.push('\r'),
            Some('t') => plain.push('\t'),
            Some('f') => plain.push('\u{c}'),
            Some('u') => {
                let digits: String = rest.by_ref().take(4).collect();
                plain.push(
                    u32::from_str_radix(&digits, 16)
                        .ok()
                        .and_then(char::from_u32)
                        .unwrap_or(char::REPLACEMENT_CHARACTER),
                );
            }
            Some(other) => plain.push(other),
            None => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_read_as_java_reads_them() {
        let text = "# a=1\n! b=2\nplain=one\nspace two words \n  colon : three\nnone\nlong=a\\\n   b\nodd\\=key=x\\ty\\u00e9\nplain=last\nend\\\\=z";
        for (key, expected) in [
            ("plain", Some("last")),
            ("space", Some("two words ")),
            ("colon", Some("three")),
            ("none", Some("")),
            ("long", Some("ab")),
            ("odd=key", Some("x\tyé")),
            ("end\\", Some("z")),
            ("a", None),
        ] {
            assert_eq!(value(text, key).as_deref(), expected, "{key}");
        }
    }
}
