//! Topics that records are sent on to: by a pattern, or by their time.
//!
//! Owns Java's replacement texts and the letters of `SimpleDateFormat` that are numbers, in UTC.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use regex::Regex;

/// The longest name of a topic, characters.
const TOPIC_LENGTH_MAX: usize = 249;
/// Records without a time have this one.
const NO_TIMESTAMP: i64 = -1;

/// A name that a topic can have; Err = why it cannot.
pub fn checked(name: String) -> Result<String, String> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let well =
        !name.is_empty() && name.len() <= TOPIC_LENGTH_MAX && name != "." && name != ".." && name.bytes().all(legal);
    if well { Ok(name) } else { Err(format!("{name:?} is no name of a topic")) }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Group(usize),
    Named(String),
}

/// `Matcher.replaceFirst`'s replacement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replacement(Vec<Piece>);

impl Replacement {
    /// Err = what is wrong.
    pub fn parse(text: &str, pattern: &Regex) -> Result<Replacement, String> {
        let groups = pattern.captures_len();
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\\' => plain.push(chars.next().ok_or("character to be escaped is missing")?),
                '$' => {
                    if !plain.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut plain)));
                    }
                    if chars.next_if_eq(&'{').is_some() {
                        let name: String = chars.by_ref().take_while(|c| *c != '}').collect();
                        if !pattern.capture_names().flatten().any(|known| known == name) {
                            return Err(format!("No group with name {{{name}}}"));
                        }
                        pieces.push(Piece::Named(name));
                        continue;
                    }
                    let first = chars.next().and_then(|c| c.to_digit(10)).ok_or("Illegal group reference")?;
                    let mut group = first as usize;
                    if group >= groups {
                        return Err(format!("No group {group}"));
                    }
                    // As many digits as make a group that is there.
                    while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
                        let longer = group * 10 + digit as usize;
                        if longer >= groups {
                            break;
                        }
                        group = longer;
                        chars.next();
                    }
                    pieces.push(Piece::Group(group));
                }
                other => plain.push(other),
            }
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Ok(Replacement(pieces))
    }

    /// The topic if `whole` does not match it, otherwise with the first match of `pattern` replaced.
    pub fn route(&self, pattern: &Regex, whole: &Regex, topic: &str) -> String {
        if !whole.is_match(topic) {
            return topic.to_owned();
        }
        let Some(found) = pattern.captures(topic) else { return topic.to_owned() };
        let all = found.get(0).expect("the whole match");
        let mut routed = topic[..all.start()].to_owned();
        for piece in &self.0 {
            routed += match piece {
                Piece::Text(text) => text,
                Piece::Group(group) => found.get(*group).map_or("", |m| m.as_str()),
                Piece::Named(name) => found.name(name).map_or("", |m| m.as_str()),
            };
        }
        routed + &topic[all.end()..]
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum DatePart {
    Text(String),
    Number(char, usize),
}

/// `SimpleDateFormat`, as far as it is made of numbers and text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DateFormat(Vec<DatePart>);

impl DateFormat {
    /// Err = what is wrong.
    pub fn parse(text: &str) -> Result<DateFormat, String> {
        let mut parts = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            if c == '\'' {
                if chars.next_if_eq(&'\'').is_some() {
                    parts.push(DatePart::Text("'".to_owned()));
                    continue;
                }
                let mut quoted = String::new();
                loop {
                    match chars.next() {
                        Some('\'') if chars.next_if_eq(&'\'').is_some() => quoted.push('\''),
                        Some('\'') => break,
                        Some(c) => quoted.push(c),
                        None => return Err("Unterminated quote".to_owned()),
                    }
                }
                parts.push(DatePart::Text(quoted));
                continue;
            }
            if !c.is_ascii_alphabetic() {
                parts.push(DatePart::Text(c.to_string()));
                continue;
            }
            let mut width = 1;
            while chars.next_if_eq(&c).is_some() {
                width += 1;
            }
            if !"yMdDHmsS".contains(c) || (c == 'M' && width > 2) {
                return Err(format!(
                    "Illegal pattern character '{c}': there are y, M, MM, d, D, H, m, s, S, each as often as it has digits, and text in ''"
                ));
            }
            parts.push(DatePart::Number(c, width));
        }
        Ok(DateFormat(parts))
    }

    fn render(&self, ms: i64) -> Option<String> {
        let time = Timestamp::from_millisecond(ms).ok()?.to_zoned(TimeZone::UTC);
        let mut out = String::new();
        for part in &self.0 {
            let (number, width) = match part {
                DatePart::Text(text) => {
                    out += text;
                    continue;
                }
                DatePart::Number('y', 2) => (i32::from(time.year()).rem_euclid(100), 2),
                DatePart::Number('y', width) => (i32::from(time.year()), *width),
                DatePart::Number('M', width) => (i32::from(time.month()), *width),
                DatePart::Number('d', width) => (i32::from(time.day()), *width),
                DatePart::Number('D', width) => (i32::from(time.day_of_year()), *width),
                DatePart::Number('H', width) => (i32::from(time.hour()), *width),
                DatePart::Number('m', width) => (i32::from(time.minute()), *width),
                DatePart::Number('s', width) => (i32::from(time.second()), *width),
                DatePart::Number(_, width) => (i32::from(time.millisecond()), *width),
            };
            out += &format!("{number:0width$}");
        }
        Some(out)
    }

    /// The topic that `${topic}` and `${timestamp}` of a format make.
    pub fn route(&self, format: &str, topic: &str, ms: i64) -> Result<String, String> {
        if ms == NO_TIMESTAMP {
            return Err("Timestamp missing on record".to_owned());
        }
        let time = self.render(ms).ok_or_else(|| format!("{ms} is no time"))?;
        Ok(format.replace("${topic}", topic).replace("${timestamp}", &time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::whole;

    fn by(regex: &str, replacement: &str, topic: &str) -> String {
        let pattern = Regex::new(regex).unwrap();
        Replacement::parse(replacement, &pattern).unwrap().route(&pattern, &whole(regex).unwrap(), topic)
    }

    /// What `java.util.regex.Matcher` makes of the same.
    #[test]
    fn topics_are_replaced_as_java_does() {
        assert_eq!(by("(.*)-(.*)", "$2_$1", "a-b"), "b_a");
        assert_eq!(by("(?<env>[a-z]+)\\.(.*)", "${env}-$2", "prod.orders"), "prod-orders");
        assert_eq!(by("orders", "\\$1\\\\", "orders"), "$1\\");
        assert_eq!(by("(o)rders", "$12", "orders"), "o2", "there is no group 12");
        assert_eq!(by("orders", "x", "orders-2"), "orders-2", "the whole name has to match");
        assert_eq!(by("a|ab", "x", "ab"), "xb", "the first match is replaced");
        assert_eq!(by(".*", "fixed", "any"), "fixed");
    }

    #[test]
    fn a_wrong_replacement_is_told() {
        let pattern = Regex::new("(a)").unwrap();
        for wrong in ["$2", "$", "$x", "${b}", "\\"] {
            assert!(Replacement::parse(wrong, &pattern).is_err(), "{wrong}");
        }
    }

    /// What `java.text.SimpleDateFormat` makes of the same, in UTC.
    #[test]
    fn times_are_written_as_java_does() {
        let ms = 1_700_000_045_007; // 2023-11-14T22:14:05.007Z
        for (format, expected) in [
            ("yyyyMMdd", "20231114"),
            ("yy-M-d", "23-11-14"),
            ("yyyy'T'HHmmss.SSS", "2023T221405.007"),
            ("DDD", "318"),
            ("''yyyyy", "'02023"),
            ("'it''s' S", "it's 7"),
        ] {
            assert_eq!(DateFormat::parse(format).unwrap().render(ms).unwrap(), expected, "{format}");
        }
        assert!(
            DateFormat::parse("YYYY").is_err() && DateFormat::parse("MMM").is_err() && DateFormat::parse("'x").is_err()
        );
        let daily = DateFormat::parse("yyyyMMdd").unwrap();
        assert_eq!(daily.route("${topic}-${timestamp}", "orders", ms).unwrap(), "orders-20231114");
        assert!(daily.route("${topic}", "orders", -1).is_err());
    }

    #[test]
    fn a_name_leads_nowhere_else() {
        for wrong in ["", ".", "..", "a/b", "../x", "a b", "é"] {
            assert!(checked(wrong.to_owned()).is_err(), "{wrong}");
        }
        assert!(checked("a".repeat(250)).is_err() && checked("orders.v1-x_y".to_owned()).is_ok());
    }
}
