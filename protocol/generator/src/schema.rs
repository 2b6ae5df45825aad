//! Kafka's message schemas: JSON with `//` comments, one message per file.

use serde_json::Value;

/// Inclusive range of versions; `None` = none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    pub first: i16,
    pub last: i16,
}

impl Versions {
    pub const NONE: Versions = Versions { first: 1, last: 0 };

    /// Reads `3+`, `2-5`, `7` or `none`.
    pub fn parse(text: &str) -> Self {
        if text == "none" {
            return Versions::NONE;
        }
        let number = |t: &str| t.parse().unwrap_or_else(|_| panic!("version {text}"));
        if let Some(first) = text.strip_suffix('+') {
            Versions { first: number(first), last: i16::MAX }
        } else if let Some((first, last)) = text.split_once('-') {
            Versions { first: number(first), last: number(last) }
        } else {
            Versions { first: number(text), last: number(text) }
        }
    }

    pub fn is_none(self) -> bool {
        self.first > self.last
    }

    /// The versions in both.
    pub fn and(self, other: Versions) -> Versions {
        Versions { first: self.first.max(other.first), last: self.last.min(other.last) }
    }

    /// Whether all of `other` is in this.
    pub fn covers(self, other: Versions) -> bool {
        other.is_none() || (self.first <= other.first && self.last >= other.last)
    }

    /// The Rust condition "version is in this", given that it is in `valid`; `None` = always.
    pub fn condition(self, valid: Versions) -> Option<String> {
        if self.covers(valid) {
            return None;
        }
        let shared = self.and(valid);
        Some(if shared.is_none() {
            "false".to_owned()
        } else if shared.first == shared.last {
            format!("version == {}", shared.first)
        } else if shared.last == valid.last {
            format!("version >= {}", shared.first)
        } else if shared.first == valid.first {
            format!("version <= {}", shared.last)
        } else {
            format!("({}..={}).contains(&version)", shared.first, shared.last)
        })
    }
}

/// A field's type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// Fixed-size values: the Rust type and the codec's method are both this name.
    Plain(&'static str),
    Uuid,
    String,
    Bytes,
    Records,
    Array(Box<Type>),
    Struct(String),
}

impl Type {
    fn parse(text: &str) -> Self {
        if let Some(element) = text.strip_prefix("[]") {
            return Type::Array(Box::new(Type::parse(element)));
        }
        match text {
            "bool" => Type::Plain("bool"),
            "int8" => Type::Plain("i8"),
            "int16" => Type::Plain("i16"),
            "uint16" => Type::Plain("u16"),
            "int32" => Type::Plain("i32"),
            "uint32" => Type::Plain("u32"),
            "int64" => Type::Plain("i64"),
            "float64" => Type::Plain("f64"),
            "uuid" => Type::Uuid,
            "string" => Type::String,
            "bytes" => Type::Bytes,
            "records" => Type::Records,
            name => Type::Struct(name.to_owned()),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Field {
    /// In snake case.
    pub name: String,
    pub kind: Type,
    pub versions: Versions,
    pub nullable: Versions,
    /// Tag number and the versions in which the field is tagged.
    pub tagged: Option<(u32, Versions)>,
    pub ignorable: bool,
    /// As written in the schema.
    pub default: Option<String>,
    /// Overrides the message's.
    pub flexible: Option<Versions>,
}

#[derive(Debug, Clone)]
pub struct Struct {
    pub name: String,
    pub fields: Vec<Field>,
}

#[derive(Debug, Clone)]
pub struct Message {
    pub name: String,
    pub api_key: Option<i16>,
    pub is_request: bool,
    pub valid: Versions,
    pub flexible: Versions,
    /// Last version that a release serves; later ones are being worked on.
    pub unstable_last: bool,
    /// The message itself first.
    pub structs: Vec<Struct>,
}

/// Reads one schema.
pub fn parse(text: &str) -> Message {
    let plain: String = text
        .lines()
        .map(|line| if line.trim_start().starts_with("//") { "" } else { line })
        .collect::<Vec<_>>()
        .join("\n");
    let json: Value = serde_json::from_str(&plain).expect("a schema is JSON");
    let string = |key: &str| json[key].as_str().map(str::to_owned);
    let name = string("name").expect("a message has a name");
    let mut structs = Vec::new();
    let fields = fields(&json["fields"], &mut structs);
    structs.insert(0, Struct { name: name.clone(), fields });
    for common in json["commonStructs"].as_array().into_iter().flatten() {
        let mut nested = Vec::new();
        let fields = self::fields(&common["fields"], &mut nested);
        structs.push(Struct { name: common["name"].as_str().expect("a struct has a name").to_owned(), fields });
        structs.extend(nested);
    }
    Message {
        name,
        api_key: json["apiKey"].as_i64().map(|k| i16::try_from(k).expect("an API key fits")),
        is_request: json["type"] == "request",
        valid: Versions::parse(&string("validVersions").expect("valid versions")),
        flexible: Versions::parse(&string("flexibleVersions").unwrap_or_else(|| "none".to_owned())),
        unstable_last: json["latestVersionUnstable"].as_bool().unwrap_or(false),
        structs,
    }
}

fn fields(json: &Value, structs: &mut Vec<Struct>) -> Vec<Field> {
    json.as_array()
        .into_iter()
        .flatten()
        .map(|f| {
            let text = |key: &str| f[key].as_str();
            let kind = Type::parse(text("type").expect("a field has a type"));
            if let Some(name) = struct_name(&kind)
                && f["fields"].is_array()
            {
                let at = structs.len();
                let nested = fields(&f["fields"], structs);
                structs.insert(at, Struct { name: name.to_owned(), fields: nested });
            }
            let default = match &f["default"] {
                Value::Null => None,
                Value::String(s) => Some(s.clone()),
                other => Some(other.to_string()),
            };
            let tagged = f["tag"].as_u64().map(|tag| {
                let versions = Versions::parse(text("taggedVersions").expect("a tagged field has tagged versions"));
                (u32::try_from(tag).expect("a tag fits"), versions)
            });
            Field {
                name: snake(text("name").expect("a field has a name")),
                kind,
                versions: Versions::parse(text("versions").or(text("taggedVersions")).expect("a field has versions")),
                nullable: Versions::parse(text("nullableVersions").unwrap_or("none")),
                tagged,
                ignorable: f["ignorable"].as_bool().unwrap_or(false),
                default,
                flexible: text("flexibleVersions").map(Versions::parse),
            }
        })
        .collect()
}

fn struct_name(kind: &Type) -> Option<&str> {
    match kind {
        Type::Struct(name) => Some(name),
        Type::Array(element) => struct_name(element),
        _ => None,
    }
}

/// `ThrottleTimeMs` becomes `throttle_time_ms`; a keyword gets an underscore behind.
pub fn snake(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    let mut out = String::new();
    for (i, c) in chars.iter().enumerate() {
        let after_lower = i > 0 && !chars[i - 1].is_uppercase();
        let before_lower = i > 0 && chars.get(i + 1).is_some_and(|n| n.is_lowercase());
        if c.is_uppercase() && (after_lower || before_lower) {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    if ["type", "match", "ref", "move", "in"].contains(&out.as_str()) {
        out.push('_');
    }
    out
}
