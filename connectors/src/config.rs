//! What a connector, a converter or a transform can be told: keys with types, defaults and words for people, as Kafka Connect's
//! `config/validate` tells them to user interfaces.
//!
//! Owns parsing and checking of values. A value of type [`Type::Password`] is a [`Secret`] from here on and is never printed.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

/// A connector's settings as posted.
pub type Settings = BTreeMap<String, String>;

/// Kafka's `ConfigDef.Type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    Boolean,
    String,
    Int,
    Long,
    Double,
    List,
    Class,
    Password,
}

impl Type {
    pub fn name(self) -> &'static str {
        match self {
            Type::Boolean => "BOOLEAN",
            Type::String => "STRING",
            Type::Int => "INT",
            Type::Long => "LONG",
            Type::Double => "DOUBLE",
            Type::List => "LIST",
            Type::Class => "CLASS",
            Type::Password => "PASSWORD",
        }
    }
}

/// Kafka's `ConfigDef.Importance`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Importance {
    High,
    Medium,
    Low,
}

impl Importance {
    pub fn name(self) -> &'static str {
        match self {
            Importance::High => "HIGH",
            Importance::Medium => "MEDIUM",
            Importance::Low => "LOW",
        }
    }
}

/// What a value must be beyond its type.
#[derive(Debug, Clone, Copy)]
pub enum Rule {
    Any,
    /// One of these, in any case.
    OneOf(&'static [&'static str]),
    /// A number of at least this.
    AtLeast(i64),
    /// Not empty.
    NonEmpty,
    /// A check of its own; Err = what is wrong and what would be right.
    Check(fn(&str) -> Result<(), String>),
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub name: &'static str,
    pub kind: Type,
    /// None = required; `Some("")` of a non-required key means that it is unset.
    pub default: Option<&'static str>,
    pub rule: Rule,
    pub importance: Importance,
    pub group: &'static str,
    pub display: &'static str,
    pub documentation: &'static str,
}

impl Key {
    /// A key with a default.
    pub const fn new(name: &'static str, kind: Type, default: &'static str, documentation: &'static str) -> Key {
        Key {
            name,
            kind,
            default: Some(default),
            rule: Rule::Any,
            importance: Importance::Medium,
            group: "Common",
            display: name,
            documentation,
        }
    }

    /// A key that must be given.
    pub const fn required(name: &'static str, kind: Type, documentation: &'static str) -> Key {
        Key {
            default: None,
            importance: Importance::High,
            rule: Rule::NonEmpty,
            ..Key::new(name, kind, "", documentation)
        }
    }

    pub const fn rule(self, rule: Rule) -> Key {
        Key { rule, ..self }
    }

    pub const fn group(self, group: &'static str) -> Key {
        Key { group, ..self }
    }

    pub const fn importance(self, importance: Importance) -> Key {
        Key { importance, ..self }
    }

    /// What is wrong with a value, in Kafka's words where Kafka has some.
    pub fn fault(&self, value: Option<&str>) -> Option<String> {
        let Some(value) = value.or(self.default) else {
            return Some(format!("Missing required configuration \"{}\" which has no default value.", self.name));
        };
        if value.is_empty() && self.default.is_some_and(str::is_empty) {
            return None;
        }
        let shown = if self.kind == Type::Password { HIDDEN } else { value };
        let invalid = |what: &str| Some(format!("Invalid value {shown} for configuration {}: {what}", self.name));
        let number = match self.kind {
            Type::Boolean if !["true", "false"].contains(&value.trim().to_ascii_lowercase().as_str()) => {
                return invalid("Expected value to be either true or false");
            }
            Type::Int => match value.trim().parse::<i32>() {
                Ok(number) => Some(i64::from(number)),
                Err(_) => return invalid("Not a number of type INT"),
            },
            Type::Long => match value.trim().parse::<i64>() {
                Ok(number) => Some(number),
                Err(_) => return invalid("Not a number of type LONG"),
            },
            Type::Double if value.trim().parse::<f64>().is_err() => return invalid("Not a number of type DOUBLE"),
            _ => None,
        };
        match self.rule {
            Rule::Any => None,
            Rule::OneOf(allowed) if !allowed.iter().any(|a| a.eq_ignore_ascii_case(value)) => {
                invalid(&format!("it must be one of {}", allowed.join(", ")))
            }
            Rule::AtLeast(least) if number.is_some_and(|n| n < least) => {
                invalid(&format!("Value must be at least {least}"))
            }
            Rule::NonEmpty if value.is_empty() => invalid("String must be non-empty"),
            Rule::Check(check) => check(value).err().and_then(|what| invalid(&what)),
            _ => None,
        }
    }
}

/// A value that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: &str) -> Self {
        Secret(value.to_owned())
    }

    /// The only way to it: for handing it to the server that asks for it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// How a password is shown, as Kafka shows it.
pub const HIDDEN: &str = "[hidden]";

/// Values by the definition that they were checked against.
#[derive(Debug, Clone)]
pub struct Values<'a> {
    keys: &'a [Key],
    settings: &'a Settings,
}

impl<'a> Values<'a> {
    /// Checks every key; Err = all that is wrong, in the order of the keys.
    pub fn check(keys: &'a [Key], settings: &'a Settings) -> Result<Self, Vec<String>> {
        let faults: Vec<String> =
            keys.iter().filter_map(|key| key.fault(settings.get(key.name).map(String::as_str))).collect();
        if faults.is_empty() { Ok(Values { keys, settings }) } else { Err(faults) }
    }

    fn raw(&self, name: &str) -> &'a str {
        let key = self.keys.iter().find(|key| key.name == name).expect("a key of the definition");
        self.settings.get(name).map(String::as_str).or(key.default).unwrap_or("").trim()
    }

    pub fn text(&self, name: &str) -> &'a str {
        self.raw(name)
    }

    /// None if it is unset or empty.
    pub fn given(&self, name: &str) -> Option<&'a str> {
        Some(self.raw(name)).filter(|value| !value.is_empty())
    }

    pub fn flag(&self, name: &str) -> bool {
        self.raw(name).eq_ignore_ascii_case("true")
    }

    /// A checked number; -1 if it is unset.
    pub fn number(&self, name: &str) -> i64 {
        self.raw(name).parse().unwrap_or(-1)
    }

    pub fn list(&self, name: &str) -> Vec<&'a str> {
        self.raw(name).split(',').map(str::trim).filter(|item| !item.is_empty()).collect()
    }

    pub fn secret(&self, name: &str) -> Secret {
        Secret::new(self.raw(name))
    }
}

/// One entry of the answer to `config/validate`.
pub fn validated(key: &Key, order: usize, value: Option<&str>, errors: &[String]) -> Value {
    let secret = key.kind == Type::Password;
    let shown = value.or(key.default).filter(|v| !v.is_empty() || value.is_some());
    let shown = shown.map(|v| if secret { HIDDEN } else { v });
    json!({
        "definition": {
            "name": key.name,
            "type": key.kind.name(),
            "required": key.default.is_none(),
            "default_value": key.default.filter(|d| !d.is_empty()),
            "importance": key.importance.name(),
            "documentation": key.documentation,
            "group": key.group,
            "width": "MEDIUM",
            "display_name": key.display,
            "dependents": [],
            "order_in_group": order,
        },
        "value": {
            "name": key.name,
            "value": shown,
            "recommended_values": match key.rule { Rule::OneOf(allowed) => json!(allowed), _ => json!([]) },
            "errors": errors,
            "visible": true,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [Key; 4] = [
        Key::required("s3.bucket.name", Type::String, "The bucket."),
        Key::new("flush.size", Type::Int, "1000", "Records of a file.").rule(Rule::AtLeast(1)),
        Key::new("codec", Type::String, "none", "Compression.").rule(Rule::OneOf(&["none", "zstd"])),
        Key::new("password", Type::Password, "", "A password."),
    ];

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let settings = settings(&[("flush.size", "0"), ("codec", "rar")]);
        let faults = Values::check(&KEYS, &settings).unwrap_err();
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(faults[0].contains("Missing required configuration \"s3.bucket.name\""));
    }

    #[test]
    fn defaults_hold_where_nothing_is_given() {
        let settings = settings(&[("s3.bucket.name", "archive"), ("codec", "ZSTD")]);
        let values = Values::check(&KEYS, &settings).unwrap();
        assert_eq!(values.number("flush.size"), 1000);
        assert_eq!(values.given("password"), None);
        assert_eq!(values.text("codec"), "ZSTD");
    }

    #[test]
    fn a_password_is_never_shown() {
        let shown = validated(&KEYS[3], 1, Some("hunter2"), &[]).to_string();
        assert!(!shown.contains("hunter2") && shown.contains(HIDDEN), "{shown}");
        assert!(!format!("{:?}", Secret::new("hunter2")).contains("hunter2"));
    }
}
