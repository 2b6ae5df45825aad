//! Settings of transforms and predicates: `transforms.<alias>.<key>`, `predicates.<alias>.<key>`, as Kafka Connect has them.
//!
//! Owns which classes there are, their keys, what is wrong with settings, and the chain that right ones describe. Classes are known by their
//! JVM names and without their package.

use regex::Regex;

use super::route::{DateFormat, Replacement};
use super::{Chain, Inserted, Operation, Predicate, Stage, Step};
use crate::config::{Importance, Key, Rule, Settings, Type};
use crate::connector::whole;
use crate::convert::Side;

/// What a class is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugin {
    Transformation,
    Predicate,
}

impl Plugin {
    /// The `type` of `GET /connector-plugins`.
    pub fn name(self) -> &'static str {
        match self {
            Plugin::Transformation => "transformation",
            Plugin::Predicate => "predicate",
        }
    }

    fn list(self) -> &'static str {
        match self {
            Plugin::Transformation => "transforms",
            Plugin::Predicate => "predicates",
        }
    }
}

/// A class.
pub struct Class {
    pub name: &'static str,
    pub plugin: Plugin,
    pub keys: &'static [Key],
}

const fn optional(name: &'static str, kind: Type, default: &'static str, documentation: &'static str) -> Key {
    Key::new(name, kind, default, documentation)
}

fn is_pattern(text: &str) -> Result<(), String> {
    Regex::new(text).map(drop).map_err(|e| format!("Invalid regex: {e}"))
}

fn is_rename(text: &str) -> Result<(), String> {
    renames(text).map(drop)
}

fn is_date_format(text: &str) -> Result<(), String> {
    DateFormat::parse(text).map(drop)
}

const DEFAULTS: Key = optional(
    "replace.null.with.default",
    Type::Boolean,
    "true",
    "Accepted as Kafka Connect has it: the converter has put defaults in already.",
);

const INSERT: &[Key] = &[
    optional(
        "topic.field",
        Type::String,
        "",
        "Field for the topic; ! behind its name = required, ? or nothing = optional.",
    ),
    optional("partition.field", Type::String, "", "Field for the partition; ! or ? as above."),
    optional("offset.field", Type::String, "", "Field for the offset; ! or ? as above."),
    optional("timestamp.field", Type::String, "", "Field for the record's time; ! or ? as above."),
    optional("static.field", Type::String, "", "Field for static.value; ! or ? as above."),
    optional("static.value", Type::String, "", "What static.field holds."),
    DEFAULTS,
];

const REPLACE: &[Key] = &[
    optional("exclude", Type::List, "", "Fields that are left out; wins over include."),
    optional("include", Type::List, "", "Fields that stay; empty = all."),
    optional("renames", Type::List, "", "Pairs old:new, separated by commas.").rule(Rule::Check(is_rename)),
    DEFAULTS,
];

const MASK: &[Key] = &[
    Key::required("fields", Type::List, "Fields whose values are hidden."),
    optional(
        "replacement",
        Type::String,
        "",
        "What stands there instead: of numbers and texts only; unset = 0, empty, false.",
    )
    .importance(Importance::Low),
    DEFAULTS,
];

const EXTRACT: &[Key] = &[
    Key::required("field", Type::String, "The field that becomes the whole key or value.")
        .importance(Importance::Medium),
    DEFAULTS,
    optional(
        "field.syntax.version",
        Type::String,
        "V1",
        "V1: field is a name; V2: field is a path of names with dots, those with dots in backticks.",
    )
    .rule(Rule::OneOf(&["V1", "V2"]))
    .importance(Importance::High),
];

const TIMESTAMP_ROUTER: &[Key] = &[
    optional("topic.format", Type::String, "${topic}-${timestamp}", "The topic; ${topic} and ${timestamp} are put in.")
        .importance(Importance::High),
    optional(
        "timestamp.format",
        Type::String,
        "yyyyMMdd",
        "How the time is written: numbers of java.text.SimpleDateFormat, in UTC.",
    )
    .rule(Rule::Check(is_date_format))
    .importance(Importance::High),
];

const REGEX_ROUTER: &[Key] = &[
    Key::required("regex", Type::String, "Topics whose whole name matches get another one.")
        .rule(Rule::Check(is_pattern)),
    Key::required("replacement", Type::String, "That name; $1 is the first group.").rule(Rule::Any),
];

const TOPIC_NAME_MATCHES: &[Key] = &[Key::required("pattern", Type::String, "Topics whose whole name matches.")
    .rule(Rule::Check(is_pattern))
    .importance(Importance::Medium)];

const HAS_HEADER_KEY: &[Key] =
    &[Key::required("name", Type::String, "The name of the header.").importance(Importance::Medium)];

macro_rules! class {
    ($name:literal, $plugin:ident, $keys:expr) => {
        Class { name: concat!("org.apache.kafka.connect.transforms.", $name), plugin: Plugin::$plugin, keys: $keys }
    };
}

/// All classes.
pub const CLASSES: [Class; 14] = [
    class!("ExtractField$Key", Transformation, EXTRACT),
    class!("ExtractField$Value", Transformation, EXTRACT),
    class!("Filter", Transformation, &[]),
    class!("InsertField$Key", Transformation, INSERT),
    class!("InsertField$Value", Transformation, INSERT),
    class!("MaskField$Key", Transformation, MASK),
    class!("MaskField$Value", Transformation, MASK),
    class!("RegexRouter", Transformation, REGEX_ROUTER),
    class!("ReplaceField$Key", Transformation, REPLACE),
    class!("ReplaceField$Value", Transformation, REPLACE),
    class!("TimestampRouter", Transformation, TIMESTAMP_ROUTER),
    class!("predicates.HasHeaderKey", Predicate, HAS_HEADER_KEY),
    class!("predicates.RecordIsTombstone", Predicate, &[]),
    class!("predicates.TopicNameMatches", Predicate, TOPIC_NAME_MATCHES),
];

/// By its whole name, or the part behind the package.
pub fn class(name: &str) -> Option<&'static Class> {
    let name = name.trim();
    let short = |class: &Class| class.name.rsplit('.').next() == Some(name);
    CLASSES.iter().find(|class| class.name == name || short(class))
}

const TYPE: Key = Key::required("type", Type::Class, "The class.");
const PREDICATE: Key = optional(
    "predicate",
    Type::String,
    "",
    "The predicate that says whether a record is transformed; empty = each is.",
);
const NEGATE: Key = optional("negate", Type::Boolean, "false", "Whether the predicate's answer is turned around.");

/// One key of a connector's settings.
pub struct Named {
    pub name: String,
    pub group: String,
    pub key: Key,
}

fn aliases(settings: &Settings, plugin: Plugin) -> Vec<&str> {
    let list = settings.get(plugin.list()).map_or("", String::as_str);
    list.split(',').map(str::trim).filter(|alias| !alias.is_empty()).collect()
}

/// The keys that the aliases of these settings bring with them.
pub fn definitions(settings: &Settings) -> Vec<Named> {
    let mut all = Vec::new();
    for (plugin, title) in [(Plugin::Transformation, "Transforms"), (Plugin::Predicate, "Predicates")] {
        for alias in aliases(settings, plugin) {
            let prefix = format!("{}.{alias}.", plugin.list());
            let kind =
                settings.get(&format!("{prefix}type")).and_then(|name| class(name)).filter(|c| c.plugin == plugin);
            let implicit: &[Key] = if plugin == Plugin::Transformation { &[PREDICATE, NEGATE] } else { &[] };
            let own = kind.map_or(&[][..], |kind| kind.keys);
            let keys =
                [TYPE].into_iter().chain(kind.map_or(&[][..], |_| implicit).iter().copied()).chain(own.iter().copied());
            all.extend(keys.map(|key| Named {
                name: format!("{prefix}{}", key.name),
                group: format!("{title}: {alias}"),
                key,
            }));
        }
    }
    all
}

/// What is wrong: key and text.
pub fn faults(settings: &Settings) -> Vec<(String, String)> {
    let mut faults = Vec::new();
    for named in definitions(settings) {
        let value = settings.get(&named.name).map(String::as_str);
        if let Some(text) = named.key.fault_as(&named.name, value) {
            faults.push((named.name, text));
        }
    }
    for plugin in [Plugin::Transformation, Plugin::Predicate] {
        for alias in aliases(settings, plugin) {
            let key = format!("{}.{alias}.type", plugin.list());
            if let Some(name) = settings.get(&key).filter(|name| class(name).is_none_or(|c| c.plugin != plugin)) {
                let known: Vec<&str> = CLASSES.iter().filter(|c| c.plugin == plugin).map(|c| c.name).collect();
                let text = format!(
                    "Invalid value {name} for configuration {key}: Class {name} could not be found; there are {}",
                    known.join(", ")
                );
                faults.push((key, text));
            }
        }
    }
    if faults.is_empty() {
        faults.extend(
            aliases(settings, Plugin::Transformation).into_iter().filter_map(|alias| stage(alias, settings).err()),
        );
    }
    faults
}

/// One alias's settings, as they were written.
struct Own<'a> {
    prefix: String,
    settings: &'a Settings,
}

impl<'a> Own<'a> {
    fn given(&self, key: &str) -> Option<&'a str> {
        self.settings.get(&format!("{}{key}", self.prefix)).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn list(&self, key: &str) -> Vec<String> {
        let items = self.given(key).unwrap_or("").split(',').map(str::trim);
        items.filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    fn inserted(&self, key: &str) -> Option<Inserted> {
        let text = self.given(key)?;
        let name = text.strip_suffix(['?', '!']).unwrap_or(text).to_owned();
        Some(Inserted { name, optional: !text.ends_with('!') })
    }
}

fn renames(text: &str) -> Result<Vec<(String, String)>, String> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let one = |pair: &str| match pair.split(':').collect::<Vec<_>>().as_slice() {
        [from, to] if !to.is_empty() => Ok(((*from).to_owned(), (*to).to_owned())),
        _ => Err(format!("Invalid rename mapping: {pair}")),
    };
    pairs.map(one).collect()
}

/// A path with dots, and backticks around names that have some.
fn path(text: &str) -> Result<Vec<String>, String> {
    let incomplete = |at: usize| {
        format!(
            "Incomplete backtick pair in path: [{text}], consider adding a backslash before backtick at position {at} to escape it"
        )
    };
    let chars: Vec<char> = text.chars().collect();
    let mut steps = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let mut step = String::new();
        if chars[at] != '`' {
            while at < chars.len() && chars[at] != '.' {
                step.push(chars[at]);
                at += 1;
            }
        } else {
            let begin = at;
            at += 1;
            loop {
                let c = *chars.get(at).ok_or_else(|| incomplete(begin))?;
                let closes = c == '`' && chars.get(at + 1).is_none_or(|next| *next == '.');
                if closes && chars[at - 1] == '\\' {
                    if at + 1 == chars.len() {
                        return Err(incomplete(begin));
                    }
                    step.pop();
                } else if closes {
                    at += 1;
                    break;
                }
                step.push(c);
                at += 1;
            }
        }
        steps.push(step);
        // Over the dot; one at the end names a field without a name behind it.
        at += 1;
        if at == chars.len() {
            steps.push(String::new());
        }
    }
    Ok(steps)
}

fn predicate(alias: &str, settings: &Settings) -> Option<Predicate> {
    let own = Own { prefix: format!("predicates.{alias}."), settings };
    let kind = class(own.given("type")?).filter(|c| c.plugin == Plugin::Predicate)?;
    match kind.name.rsplit('.').next()? {
        "TopicNameMatches" => whole(own.given("pattern")?).ok().map(Predicate::TopicNameMatches),
        "HasHeaderKey" => Some(Predicate::HasHeaderKey(own.given("name")?.to_owned())),
        _ => Some(Predicate::RecordIsTombstone),
    }
}

/// A transform whose keys are right alone. Err = key and what is wrong with them together.
fn stage(alias: &str, settings: &Settings) -> Result<Stage, (String, String)> {
    let own = Own { prefix: format!("transforms.{alias}."), settings };
    let wrong = |key: &str, text: String| (format!("transforms.{alias}.{key}"), text);
    let negate = own.given("negate");
    let predicate = match own.given("predicate") {
        Some(name) if aliases(settings, Plugin::Predicate).contains(&name) => predicate(name, settings),
        Some(name) => {
            return Err(wrong("predicate", format!("Predicate '{name}' is not defined: add it to predicates")));
        }
        None if negate.is_some() => {
            let text = format!(
                "Config 'transforms.{alias}.negate' was provided but there is no config 'transforms.{alias}.predicate' defining a \
                 predicate to be negated."
            );
            return Err(wrong("negate", text));
        }
        None => None,
    };
    let kind = own.given("type").and_then(class).map_or("", |class| class.name);
    let name = kind.rsplit('.').next().unwrap_or("");
    let side = if name.ends_with("$Key") { Side::Key } else { Side::Value };
    let step = match name.split('$').next().unwrap_or("") {
        "Filter" => Step::Filter,
        "TimestampRouter" => Step::TimestampRouter {
            topic_format: own.given("topic.format").unwrap_or("${topic}-${timestamp}").to_owned(),
            timestamp_format: DateFormat::parse(own.given("timestamp.format").unwrap_or("yyyyMMdd"))
                .map_err(|text| wrong("timestamp.format", text))?,
        },
        "RegexRouter" => {
            let text = own.given("regex").unwrap_or("");
            let pattern = Regex::new(text).map_err(|e| wrong("regex", e.to_string()))?;
            let replacement = Replacement::parse(own.given("replacement").unwrap_or(""), &pattern);
            Step::RegexRouter {
                whole: whole(text).map_err(|e| wrong("regex", e.to_string()))?,
                replacement: replacement.map_err(|text| wrong("replacement", text))?,
                pattern,
            }
        }
        kind => Step::Fields { side, operation: operation(kind, &own).map_err(|(key, text)| wrong(key, text))? },
    };
    Ok(Stage { step, predicate, negate: negate.is_some_and(|v| v.trim().eq_ignore_ascii_case("true")) })
}

fn operation(kind: &str, own: &Own<'_>) -> Result<Operation, (&'static str, String)> {
    Ok(match kind {
        "InsertField" => {
            let (topic, partition) = (own.inserted("topic.field"), own.inserted("partition.field"));
            let (offset, timestamp) = (own.inserted("offset.field"), own.inserted("timestamp.field"));
            let fixed = match (own.inserted("static.field"), own.given("static.value")) {
                (Some(field), Some(value)) => Some((field, value.to_owned())),
                (Some(field), None) => {
                    return Err(("static.value", format!("No value specified for static field: {}", field.name)));
                }
                (None, _) => None,
            };
            if topic.is_none() && partition.is_none() && offset.is_none() && timestamp.is_none() && fixed.is_none() {
                return Err(("type", "No field insertion configured".to_owned()));
            }
            Operation::Insert { topic, partition, offset, timestamp, fixed }
        }
        "ReplaceField" => Operation::Replace {
            exclude: own.list("exclude"),
            include: own.list("include"),
            renames: renames(own.given("renames").unwrap_or("")).map_err(|text| ("renames", text))?,
        },
        "MaskField" => {
            Operation::Mask { fields: own.list("fields"), replacement: own.given("replacement").map(str::to_owned) }
        }
        "ExtractField" => {
            let text = own.given("field").unwrap_or("").to_owned();
            let nested = own.given("field.syntax.version").is_some_and(|v| v.trim().eq_ignore_ascii_case("V2"));
            let path = if nested { path(&text).map_err(|text| ("field", text))? } else { vec![text.clone()] };
            Operation::Extract { path, text }
        }
        _ => return Err(("type", "the class is unknown".to_owned())),
    })
}

impl Chain {
    /// The chain of a connector. Err = what is wrong.
    pub fn of(settings: &Settings) -> Result<Chain, String> {
        if let Some((key, text)) = faults(settings).into_iter().next() {
            return Err(format!("{key}: {text}"));
        }
        let stages = aliases(settings, Plugin::Transformation).into_iter().map(|alias| stage(alias, settings));
        Ok(Chain { stages: stages.collect::<Result<_, _>>().map_err(|(key, text)| format!("{key}: {text}"))? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn each_alias_brings_its_keys() {
        let given = settings(&[
            ("transforms", "mask, unknown"),
            ("transforms.mask.type", "MaskField$Value"),
            ("predicates", "gone"),
            ("predicates.gone.type", "org.apache.kafka.connect.transforms.predicates.RecordIsTombstone"),
        ]);
        let names: Vec<String> = definitions(&given).into_iter().map(|n| n.name).collect();
        let mask = ["type", "predicate", "negate", "fields", "replacement", "replace.null.with.default"];
        let mut expected: Vec<String> = mask.iter().map(|k| format!("transforms.mask.{k}")).collect();
        expected.extend(["transforms.unknown.type".to_owned(), "predicates.gone.type".to_owned()]);
        assert_eq!(names, expected);
        let told = faults(&given);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].1.contains("Missing required configuration \"transforms.mask.fields\""), "{told:?}");
        assert!(told[1].1.contains("\"transforms.unknown.type\""), "{told:?}");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_key() {
        for (more, key, words) in [
            (&[("transforms.a.type", "Nothing")][..], "transforms.a.type", "Class Nothing could not be found"),
            (&[("transforms.a.type", "RecordIsTombstone")], "transforms.a.type", "could not be found"),
            (
                &[("transforms.a.type", "Filter"), ("transforms.a.negate", "true")],
                "transforms.a.negate",
                "no config 'transforms.a.predicate'",
            ),
            (
                &[("transforms.a.type", "Filter"), ("transforms.a.predicate", "p")],
                "transforms.a.predicate",
                "'p' is not defined",
            ),
            (&[("transforms.a.type", "InsertField$Value")], "transforms.a.type", "No field insertion configured"),
            (
                &[("transforms.a.type", "InsertField$Value"), ("transforms.a.static.field", "f")],
                "transforms.a.static.value",
                "No value specified",
            ),
            (
                &[("transforms.a.type", "ReplaceField$Key"), ("transforms.a.renames", "a")],
                "transforms.a.renames",
                "Invalid rename mapping: a",
            ),
            (
                &[("transforms.a.type", "RegexRouter"), ("transforms.a.regex", "("), ("transforms.a.replacement", "")],
                "transforms.a.regex",
                "Invalid regex",
            ),
            (
                &[
                    ("transforms.a.type", "RegexRouter"),
                    ("transforms.a.regex", "x"),
                    ("transforms.a.replacement", "$1"),
                ],
                "transforms.a.replacement",
                "No group 1",
            ),
            (
                &[("transforms.a.type", "TimestampRouter"), ("transforms.a.timestamp.format", "QQ")],
                "transforms.a.timestamp.format",
                "Illegal pattern character",
            ),
            (
                &[
                    ("transforms.a.type", "ExtractField$Value"),
                    ("transforms.a.field", "`a"),
                    ("transforms.a.field.syntax.version", "v2"),
                ],
                "transforms.a.field",
                "Incomplete backtick",
            ),
        ] {
            let given = settings(&[&[("transforms", "a")][..], more].concat());
            let told = faults(&given);
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(told[0].0 == key && told[0].1.contains(words), "{told:?}");
            assert!(Chain::of(&given).unwrap_err().starts_with(key));
        }
    }

    #[test]
    fn paths_are_read_as_kafka_reads_them() {
        for (text, expected) in [
            ("a", &["a"][..]),
            ("a.b", &["a", "b"]),
            ("`a.b`.c", &["a.b", "c"]),
            ("a.`b.c`", &["a", "b.c"]),
            ("`a`b`.c", &["a`b", "c"]),
            ("`a\\`.b`.c", &["a`.b", "c"]),
            ("a.", &["a", ""]),
            (".a", &["", "a"]),
        ] {
            assert_eq!(path(text).unwrap(), expected, "{text}");
        }
        assert!(path("`a").is_err() && path("`a\\`").is_err());
    }
}
