//! Rust for one message.

use std::fmt::Write;

use crate::schema::{Field, Message, Struct, Type, Versions};

/// Code of one message's file.
pub fn message(m: &Message) -> String {
    let mut out = format!(
        "//! {}, versions {} to {}. Generated from Kafka's schema by `protocol/generator`; not edited by hand.\n\n",
        m.name, m.valid.first, m.valid.last
    );
    out.push_str("use super::prelude::*;\n\n");
    for s in &m.structs {
        structure(&mut out, m, s);
    }
    let name = &m.name;
    let (first, last) = (m.valid.first, m.valid.last);
    let _ = write!(
        out,
        "impl Message for {name} {{
            const NAME: &'static str = \"{name}\";
            const VERSIONS: RangeInclusive<i16> = {first}..={last};
            fn decode(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {{
                check_decode_version::<Self>(version)?;
                Self::read(r, version)
            }}
            fn encode(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {{
                check_encode_version::<Self>(version)?;
                self.write(w, version)
            }}
        }}\n"
    );
    if m.is_request {
        let api = name.trim_end_matches("Request");
        let module = crate::schema::snake(&format!("{api}Response"));
        let _ = write!(
            out,
            "\nimpl Request for {name} {{
                const API_KEY: ApiKey = ApiKey::{api};
                type Response = super::{module}::{api}Response;
            }}\n"
        );
    }
    out
}

fn present<'a>(m: &'a Message, s: &'a Struct) -> impl Iterator<Item = &'a Field> {
    s.fields.iter().filter(move |f| !f.versions.and(m.valid).is_none())
}

fn structure(out: &mut String, m: &Message, s: &Struct) {
    let _ = writeln!(out, "#[derive(Debug, Clone, PartialEq)]\npub struct {} {{", s.name);
    for f in present(m, s) {
        let _ = writeln!(out, "pub {}: {},", f.name, rust_type(m, f));
    }
    let _ = writeln!(out, "}}\n\nimpl Default for {} {{ fn default() -> Self {{ Self {{", s.name);
    for f in present(m, s) {
        let _ = writeln!(out, "{}: {},", f.name, default(m, f));
    }
    let _ = writeln!(out, "}} }} }}\n\nimpl {} {{", s.name);
    reader(out, m, s);
    writer(out, m, s);
    out.push_str("}\n\n");
}

fn is_option(m: &Message, f: &Field) -> bool {
    !f.nullable.and(f.versions).and(m.valid).is_none()
}

fn rust_type(m: &Message, f: &Field) -> String {
    let plain = plain_type(&f.kind);
    if is_option(m, f) { format!("Option<{plain}>") } else { plain }
}

fn plain_type(kind: &Type) -> String {
    match kind {
        Type::Plain(name) => (*name).to_owned(),
        Type::Uuid => "Uuid".to_owned(),
        Type::String => "String".to_owned(),
        Type::Bytes => "Bytes".to_owned(),
        Type::Records => "Records".to_owned(),
        Type::Array(element) => format!("Vec<{}>", plain_type(element)),
        Type::Struct(name) => name.clone(),
    }
}

fn default(m: &Message, f: &Field) -> String {
    let option = is_option(m, f);
    let value = match (&f.kind, f.default.as_deref()) {
        (_, Some("null")) => return "None".to_owned(),
        (Type::Plain("bool"), text) => text.unwrap_or("false").to_owned(),
        (Type::Plain("f64"), text) => format!("{:?}", text.unwrap_or("0").parse::<f64>().expect("a float")),
        (Type::Plain(_), text) => match text.unwrap_or("0") {
            "" => "0".to_owned(),
            text => text.to_owned(),
        },
        (Type::Uuid, _) => "Uuid::nil()".to_owned(),
        (Type::String, Some(text)) if !text.is_empty() => format!("{text:?}.to_owned()"),
        (Type::String, _) => "String::new()".to_owned(),
        (Type::Bytes, _) => "Bytes::new()".to_owned(),
        // Kafka's default of a nullable records field is null.
        (Type::Records, _) if option => return "None".to_owned(),
        (Type::Records, _) => "Records::default()".to_owned(),
        (Type::Array(_), _) => "Vec::new()".to_owned(),
        (Type::Struct(name), _) => format!("{name}::default()"),
    };
    if option { format!("Some({value})") } else { value }
}

/// The expression "this field is in its flexible form".
fn flexible(m: &Message, f: &Field) -> String {
    let versions = f.flexible.unwrap_or(m.flexible).and(m.valid);
    flexible_in(versions, m.valid)
}

fn flexible_in(versions: Versions, valid: Versions) -> String {
    match versions.condition(valid) {
        None => "true".to_owned(),
        Some(condition) => condition,
    }
}

/// Wraps `code` in the condition that the field is in the version's plain part.
fn conditions(m: &Message, f: &Field) -> (Option<String>, Option<(u32, String)>) {
    let tagged = f.tagged.map(|(tag, versions)| {
        let condition = versions.and(f.versions).condition(m.valid);
        (tag, condition.unwrap_or_else(|| "true".to_owned()))
    });
    let plain = match f.tagged {
        None => f.versions.condition(m.valid),
        Some((_, versions)) => {
            let before = Versions { first: f.versions.first, last: f.versions.last.min(versions.first - 1) };
            Some(before.condition(m.valid).unwrap_or_else(|| "true".to_owned()))
        }
    };
    (plain, tagged)
}

fn reader(out: &mut String, m: &Message, s: &Struct) {
    out.push_str("pub(crate) fn read(r: &mut Reader, version: i16) -> Result<Self, DecodeError> {\n");
    out.push_str("let mut m = Self::default();\n");
    let mut tags = String::new();
    for f in present(m, s) {
        let (plain, tagged) = conditions(m, f);
        let read = format!("m.{} = {};", f.name, read_field(m, f));
        match plain.as_deref() {
            None => {
                let _ = writeln!(out, "{read}");
            }
            Some("false") => {}
            Some(condition) => {
                let _ = writeln!(out, "if {condition} {{ {read} }}");
            }
        }
        if let Some((tag, condition)) = tagged {
            let guard = if condition == "true" { String::new() } else { format!(" if {condition}") };
            let _ = writeln!(tags, "{tag}{guard} => {{ {read} }}");
        }
    }
    let flexible = flexible_in(m.flexible.and(m.valid), m.valid);
    if flexible != "false" {
        let body = if tags.is_empty() {
            "r.skip_tagged_fields()?;".to_owned()
        } else {
            format!("r.tagged_fields(|r, tag| {{ match tag {{ {tags} _ => return Ok(false), }} Ok(true) }})?;")
        };
        if flexible == "true" {
            let _ = writeln!(out, "{body}");
        } else {
            let _ = writeln!(out, "if {flexible} {{ {body} }}");
        }
    }
    out.push_str("let _ = version;\nOk(m)\n}\n\n");
}

fn read_field(m: &Message, f: &Field) -> String {
    let flexible = flexible(m, f);
    if !is_option(m, f) {
        return format!("{}?", read_plain(&f.kind, &flexible));
    }
    let nullable = read_nullable(&f.kind, &flexible);
    match f.nullable.condition(m.valid.and(f.versions)) {
        None => format!("{nullable}?"),
        Some(condition) => {
            format!("if {condition} {{ {nullable}? }} else {{ Some({}?) }}", read_plain(&f.kind, &flexible))
        }
    }
}

fn read_plain(kind: &Type, flexible: &str) -> String {
    match kind {
        Type::Plain(name) => format!("r.{name}()"),
        Type::Uuid => "r.uuid()".to_owned(),
        Type::String => format!("r.string({flexible})"),
        Type::Bytes => format!("r.bytes({flexible})"),
        Type::Records => format!("r.records({flexible})"),
        Type::Array(element) => format!("r.array({flexible}, |r| {})", read_plain(element, flexible)),
        Type::Struct(name) => format!("{name}::read(r, version)"),
    }
}

fn read_nullable(kind: &Type, flexible: &str) -> String {
    match kind {
        Type::String => format!("r.nullable_string({flexible})"),
        Type::Bytes => format!("r.nullable_bytes({flexible})"),
        Type::Records => format!("r.nullable_records({flexible})"),
        Type::Array(element) => format!("r.nullable_array({flexible}, |r| {})", read_plain(element, flexible)),
        Type::Struct(name) => format!("r.nullable_struct(|r| {name}::read(r, version))"),
        other => panic!("{other:?} is never null"),
    }
}

fn writer(out: &mut String, m: &Message, s: &Struct) {
    out.push_str("pub(crate) fn write(&self, w: &mut Writer, version: i16) -> Result<(), EncodeError> {\n");
    let mut tags = String::new();
    for f in present(m, s) {
        let (plain, tagged) = conditions(m, f);
        let write = write_field(m, f);
        match plain.as_deref() {
            None => {
                let _ = writeln!(out, "{write}");
            }
            Some("false") => {}
            Some(condition) => {
                let refuse = if f.ignorable || tagged.is_some() {
                    String::new()
                } else {
                    format!(
                        " else if {} {{ return Err(EncodeError::field(\"{}\", \"{}\", version)); }}",
                        not_default(m, f),
                        s.name,
                        f.name
                    )
                };
                let _ = writeln!(out, "if {condition} {{ {write} }}{refuse}");
            }
        }
        if let Some((tag, condition)) = tagged {
            let guard = if condition == "true" { String::new() } else { format!("{condition} && ") };
            let _ =
                writeln!(tags, "if {guard}{} {{ tags.field({tag}, |w| {{ {write} Ok(()) }})?; }}", not_default(m, f));
        }
    }
    let flexible = flexible_in(m.flexible.and(m.valid), m.valid);
    if flexible != "false" {
        let body = if tags.is_empty() {
            "w.no_tagged_fields();".to_owned()
        } else {
            format!("let mut tags = TaggedFields::default(); {tags} w.tagged_fields(tags);")
        };
        if flexible == "true" {
            let _ = writeln!(out, "{body}");
        } else {
            let _ = writeln!(out, "if {flexible} {{ {body} }}");
        }
    }
    out.push_str("let _ = (&w, version);\nOk(())\n}\n");
}

/// The condition "the field differs from its default".
fn not_default(m: &Message, f: &Field) -> String {
    let name = &f.name;
    match (is_option(m, f), &f.kind, f.default.as_deref()) {
        (true, _, Some("null")) => format!("self.{name}.is_some()"),
        (true, Type::Records, _) => format!("self.{name}.is_some()"),
        (true, ..) => format!("self.{name} != {}", default(m, f)),
        (false, Type::Plain("bool"), None | Some("false")) => format!("self.{name}"),
        (false, Type::Plain("bool"), _) => format!("!self.{name}"),
        (false, Type::String, None | Some("")) | (false, Type::Array(_) | Type::Bytes | Type::Records, _) => {
            format!("!self.{name}.is_empty()")
        }
        (false, Type::Uuid, _) => format!("!self.{name}.is_nil()"),
        _ => format!("self.{name} != {}", default(m, f)),
    }
}

fn write_field(m: &Message, f: &Field) -> String {
    let flexible = flexible(m, f);
    let name = &f.name;
    if !is_option(m, f) {
        return write_plain(&f.kind, &format!("self.{name}"), &flexible, true);
    }
    let nullable = write_nullable(&f.kind, name, &flexible);
    match f.nullable.condition(m.valid.and(f.versions)) {
        None => nullable,
        Some(condition) => {
            let plain = write_plain(&f.kind, "x", &flexible, false);
            format!(
                "if {condition} {{ {nullable} }} else {{ match &self.{name} {{ Some(x) => {{ {plain} }} None => return Err(EncodeError::null(\"{name}\", version)), }} }}"
            )
        }
    }
}

/// `owned`: `place` is a field; otherwise a reference.
fn write_plain(kind: &Type, place: &str, flexible: &str, owned: bool) -> String {
    let reference = if owned { format!("&{place}") } else { place.to_owned() };
    let value = if owned { place.to_owned() } else { format!("*{place}") };
    match kind {
        Type::Plain(name) => format!("w.{name}({value});"),
        Type::Uuid => format!("w.uuid({value});"),
        Type::String => format!("w.string({reference}, {flexible})?;"),
        Type::Bytes => format!("w.bytes({reference}, {flexible})?;"),
        Type::Records => format!("w.records({reference}, {flexible})?;"),
        Type::Array(element) => {
            let inner = write_plain(element, "x", flexible, false);
            format!("w.array({reference}, {flexible}, |w, x| {{ {inner} Ok(()) }})?;")
        }
        Type::Struct(_) => format!("{place}.write(w, version)?;"),
    }
}

fn write_nullable(kind: &Type, name: &str, flexible: &str) -> String {
    match kind {
        Type::String => format!("w.nullable_string(self.{name}.as_deref(), {flexible})?;"),
        Type::Bytes => format!("w.nullable_bytes(self.{name}.as_ref(), {flexible})?;"),
        Type::Records => format!("w.nullable_records(self.{name}.as_ref(), {flexible})?;"),
        Type::Array(element) => {
            let inner = write_plain(element, "x", flexible, false);
            format!("w.nullable_array(self.{name}.as_deref(), {flexible}, |w, x| {{ {inner} Ok(()) }})?;")
        }
        Type::Struct(_) => {
            format!("w.nullable_struct(self.{name}.as_ref(), |w, x| x.write(w, version))?;")
        }
        other => panic!("{other:?} is never null"),
    }
}

/// The enum of API keys with their versions.
pub fn api_keys(requests: &[Message]) -> String {
    let mut out = String::from(
        "//! API keys of the messages here, with their versions. Generated by `protocol/generator`; not edited by hand.\n\n\
         use std::ops::RangeInclusive;\n\n\
         /// A request's kind.\n#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]\n#[repr(i16)]\npub enum ApiKey {\n",
    );
    let api = |m: &Message| m.name.trim_end_matches("Request").to_owned();
    for m in requests {
        let _ = writeln!(out, "{} = {},", api(m), m.api_key.expect("a request has a key"));
    }
    out.push_str("}\n\nimpl ApiKey {\n/// Every key, in order.\npub const ALL: &[ApiKey] = &[\n");
    for m in requests {
        let _ = writeln!(out, "ApiKey::{},", api(m));
    }
    out.push_str("];\n\n/// Versions that a release of Kafka 4.3.1 answers.\npub fn versions(self) -> RangeInclusive<i16> {\nmatch self {\n");
    for m in requests {
        let last = m.valid.last - i16::from(m.unstable_last);
        let _ = writeln!(out, "ApiKey::{} => {}..={},", api(m), m.valid.first, last);
    }
    out.push_str("}\n}\n\n/// First version with compact lengths and tagged fields (and the headers that go with them).\npub fn first_flexible(self) -> i16 {\nmatch self {\n");
    for m in requests {
        let first = if m.flexible.is_none() { i16::MAX } else { m.flexible.first };
        let first = if first == i16::MAX { "i16::MAX".to_owned() } else { first.to_string() };
        let _ = writeln!(out, "ApiKey::{} => {first},", api(m));
    }
    out.push_str("}\n}\n}\n");
    out
}
