//! What the sink can be told, under the names of Aiven's HTTP sink where it has one.

use std::time::Duration;

use reqwest::Url;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use crate::config::{Importance, Key, Rule, Secret, Settings, Type, Values};

const CONNECTION: &str = "Connection";
const BATCHING: &str = "Batching";
const DELIVERY: &str = "Delivery";

/// All keys of the sink.
pub const KEYS: &[Key] = &[
    Key::required("http.url", Type::String, "Where records are posted: http:// or https://.").group(CONNECTION).rule(Rule::Check(check_url)),
    Key::new("http.authorization.type", Type::String, "none", "none, or static: the header Authorization is http.headers.authorization.").group(CONNECTION).rule(Rule::OneOf(&["none", "static"])),
    Key::new("http.headers.authorization", Type::Password, "", "The value of the header Authorization, such as Bearer and a token.").group(CONNECTION).rule(Rule::Check(check_value)),
    Key::new("http.headers.content.type", Type::String, "", "The value of the header Content-Type; empty = none.").group(CONNECTION).rule(Rule::Check(check_value)),
    Key::new("http.headers.additional", Type::Password, "", "More headers: name:value, separated by commas. Hidden, for they may hold keys of an API.").group(CONNECTION).rule(Rule::Check(check_headers)),
    Key::new("http.timeout", Type::Int, "30", "Seconds from the beginning of a request to the end of its answer.").group(CONNECTION).rule(Rule::AtLeast(1)),
    Key::new("http.follow.redirects", Type::Boolean, "false", "Whether a redirect that keeps method and body (307, 308) is followed. Others never are.").group(CONNECTION),
    Key::new("batching.enabled", Type::Boolean, "false", "Whether a request carries several records.").group(BATCHING).importance(Importance::High),
    Key::new("batch.max.size", Type::Int, "500", "Records of a request, if batching.enabled.").group(BATCHING).rule(Rule::AtLeast(1)),
    Key::new("batch.max.bytes", Type::Long, "4194304", "Bytes of a request's body after which the next record goes into another one, if batching.enabled.").group(BATCHING).rule(Rule::AtLeast(1)),
    Key::new("batch.prefix", Type::String, "", "In front of a batch, such as [.").group(BATCHING),
    Key::new("batch.suffix", Type::String, "", "Behind a batch, such as ].").group(BATCHING),
    Key::new("batch.separator", Type::String, "\n", "Between the records of a batch, such as a comma.").group(BATCHING),
    Key::new("behavior.on.null.values", Type::String, "write", "A record without a value: write (as the word null), ignore, fail.").group(DELIVERY).rule(Rule::OneOf(&["write", "ignore", "fail"])),
    Key::new("max.retries", Type::Int, "-1", "Tries of a request after the first one that failed for a passing reason; then the task fails. -1 = for as long as errors.retry.timeout says.").group(DELIVERY).rule(Rule::AtLeast(-1)),
    Key::new("retry.backoff.ms", Type::Long, "3000", "The shortest pause before a request is tried again, ms; a longer Retry-After of the server is kept too.").group(DELIVERY).rule(Rule::AtLeast(0)),
];

fn check_url(value: &str) -> Result<(), String> {
    let url = Url::parse(value).map_err(|e| format!("{e}; write http://host:port/path or https://"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err("write http://host:port/path or https://".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a URL is shown to everybody: put credentials into http.headers.authorization".to_owned());
    }
    Ok(())
}

fn check_value(value: &str) -> Result<(), String> {
    // The value may be a secret: it is not part of the text.
    HeaderValue::from_str(value.trim())
        .map(drop)
        .map_err(|_| "a header has no line breaks or control characters".to_owned())
}

fn check_headers(value: &str) -> Result<(), String> {
    headers(value).map(drop)
}

fn headers(text: &str) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let (name, value) = entry.split_once(':').ok_or("write name:value, separated by commas")?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| "a name that no header has")?;
        if name == AUTHORIZATION || name == CONTENT_TYPE {
            return Err(format!("{name} has a key of its own: http.headers.{}", name.as_str().replace('-', ".")));
        }
        check_value(value)?;
        let mut value = HeaderValue::from_str(value.trim()).map_err(|_| "a value that no header has")?;
        value.set_sensitive(true);
        map.append(name, value);
    }
    Ok(map)
}

/// What is done with a record that has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnNull {
    Write,
    Ignore,
    Fail,
}

/// How records become a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batching {
    /// Records of a request.
    pub records_max: usize,
    /// Bytes of a body; a record that is longer goes alone.
    pub bytes_max: usize,
    pub prefix: String,
    pub suffix: String,
    pub separator: String,
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    pub url: Url,
    pub headers: HeaderMap,
    /// What must not be repeated to people.
    pub secrets: Vec<Secret>,
    pub timeout: Duration,
    pub follow_redirects: bool,
    pub batching: Batching,
    pub on_null: OnNull,
    /// None = without end.
    pub retries_max: Option<u32>,
    pub backoff: Duration,
}

impl Config {
    /// Err = all that is wrong, with its key.
    pub fn parse(settings: &Settings) -> Result<Config, Vec<(String, String)>> {
        let fault = |key: &str, text: &str| vec![(key.to_owned(), text.to_owned())];
        let values = Values::check(KEYS, settings)
            .map_err(|faults| faults.into_iter().map(|text| (String::new(), text)).collect::<Vec<_>>())?;
        let url = Url::parse(values.text("http.url")).map_err(|e| fault("http.url", &e.to_string()))?;
        let more = values.secret("http.headers.additional");
        let mut headers = headers(more.reveal()).map_err(|e| fault("http.headers.additional", &e))?;
        let authorization = values.secret("http.headers.authorization");
        let is_static = values.text("http.authorization.type").eq_ignore_ascii_case("static");
        let is_given = !authorization.reveal().is_empty();
        if is_static != is_given {
            let key = "http.headers.authorization";
            return Err(match is_given {
                true => fault(key, "it is used with http.authorization.type=static alone: set that, or leave it out"),
                false => {
                    fault(key, "http.authorization.type=static needs it: write the value of the header Authorization")
                }
            });
        }
        let header = |text: &str, key: &str| HeaderValue::from_str(text).map_err(|e| fault(key, &e.to_string()));
        if is_given {
            let mut value = header(authorization.reveal(), "http.headers.authorization")?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        if let Some(kind) = values.given("http.headers.content.type") {
            headers.insert(CONTENT_TYPE, header(kind, "http.headers.content.type")?);
        }
        let spoken = more.reveal().split(',').filter_map(|entry| entry.split_once(':')).map(|(_, value)| value.trim());
        let words = authorization.reveal().split_whitespace().chain(spoken).filter(|word| word.len() >= SECRET_LETTERS);
        Ok(Config {
            url,
            secrets: words.map(Secret::new).collect(),
            headers,
            timeout: Duration::from_secs(values.number("http.timeout").unsigned_abs()),
            follow_redirects: values.flag("http.follow.redirects"),
            batching: batching(&values, settings),
            on_null: match values.text("behavior.on.null.values").to_ascii_lowercase().as_str() {
                "ignore" => OnNull::Ignore,
                "fail" => OnNull::Fail,
                _ => OnNull::Write,
            },
            retries_max: u32::try_from(values.number("max.retries")).ok(),
            backoff: Duration::from_millis(values.number("retry.backoff.ms").unsigned_abs()),
        })
    }
}

/// Shorter words of a header are no secrets: Basic, or a name.
const SECRET_LETTERS: usize = 7;

fn batching(values: &Values<'_>, settings: &Settings) -> Batching {
    // As they are written: a separator may be nothing but a line break.
    let exact = |key: &str, default: &str| settings.get(key).map_or(default, String::as_str).to_owned();
    if !values.flag("batching.enabled") {
        let nothing = String::new;
        return Batching { records_max: 1, bytes_max: 1, prefix: nothing(), suffix: nothing(), separator: nothing() };
    }
    let number = |key: &str| usize::try_from(values.number(key)).unwrap_or(1);
    Batching {
        records_max: number("batch.max.size"),
        bytes_max: number("batch.max.bytes"),
        prefix: exact("batch.prefix", ""),
        suffix: exact("batch.suffix", ""),
        separator: exact("batch.separator", "\n"),
    }
}
