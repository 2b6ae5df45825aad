//! Values that are never to be seen, in texts that others have written: errors, traces, dead letters.
//!
//! Owns which settings are secret, by the definition of their key or by their name, and takes their values out of texts. Does not own the
//! texts. Invariants: what leaves a task (its trace, its letters' headers) has passed [`Secrets::blot`]; a line of the process's log, whoever
//! writes it, has passed [`blotted_line`], which knows the secrets of all tasks that run.

use std::borrow::Cow;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use parking_lot::RwLock;

use crate::config::{HIDDEN, Key, Settings, Type};
use crate::rows::Rows;
use crate::sink::{Assigned, Held, Offsets, Sink, SinkError, TopicPartition};

/// Values that are shorter are not looked for in texts: they would be found everywhere. A setting is hidden whatever its length.
const LENGTH_MIN: usize = 4;

/// Endings of names under which people keep secrets, for keys that no definition knows.
const NAMES: [&str; 12] = [
    "password",
    "passphrase",
    "secret",
    "secret.key",
    "secret.access.key",
    "token",
    "credential",
    "credentials",
    "user.info",
    "jaas.config",
    "api.key",
    "private.key",
];

/// Whether a key's value is secret.
pub fn is_secret(name: &str, keys: &[Key]) -> bool {
    match keys.iter().find(|key| key.name == name) {
        Some(key) => key.kind == Type::Password,
        None => {
            let name = name.to_ascii_lowercase();
            NAMES
                .iter()
                .any(|end| name == *end || name.ends_with(&format!(".{end}")) || name.ends_with(&format!("_{end}")))
        }
    }
}

/// The password in a URL's `user:password@host`, or the user if it stands alone: where it is.
fn userinfo(text: &str, from: usize) -> Option<(usize, usize)> {
    let mut at = from;
    while let Some(begin) = text.get(at..)?.find("://").map(|n| at + n + 3) {
        let end = text[begin..].find(['/', '?', '#', ' ', '"', '\n']).map_or(text.len(), |n| begin + n);
        if let Some(until) = text[begin..end].rfind('@').map(|n| begin + n) {
            let start = text[begin..until].find(':').map_or(begin, |n| begin + n + 1);
            // What is hidden already is no secret.
            if start < until && &text[start..until] != HIDDEN {
                return Some((start, until));
            }
        }
        at = end;
    }
    None
}

/// A value as it may be shown: without the password of a URL.
pub fn without_userinfo(value: &str) -> Cow<'_, str> {
    let mut shown = Cow::Borrowed(value);
    let mut from = 0;
    while let Some((start, until)) = userinfo(&shown, from) {
        shown.to_mut().replace_range(start..until, HIDDEN);
        from = start + HIDDEN.len();
    }
    shown
}

/// Secrets of all tasks of this process: libraries that log do not know whose they are.
static KNOWN: RwLock<Vec<Weak<Vec<String>>>> = RwLock::new(Vec::new());

/// Secrets of one task.
#[derive(Clone, Default)]
pub struct Secrets {
    values: Vec<String>,
    /// Values in each form in which a text may have them; the longest first: one may be part of another.
    forms: Arc<Vec<String>>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").field("count", &self.values.len()).finish()
    }
}

impl Secrets {
    /// Of a connector's settings with everything in place, and what was read for them.
    pub fn of(keys: &[Key], settings: &Settings, read: &[String]) -> Secrets {
        let by_name = settings.iter().filter(|(name, _)| is_secret(name, keys)).map(|(_, value)| value.as_str());
        let in_urls =
            settings.values().filter_map(|value| userinfo(value, 0).map(|(start, until)| &value[start..until]));
        let long = read.iter().map(String::as_str).chain(in_urls).filter(|value| value.len() >= LENGTH_MIN);
        // user:password, of which a text may have the password alone.
        let passwords = by_name.clone().filter_map(|value| Some(value.split_once(':')?.1));
        let long = long.chain(passwords.filter(|value| value.len() >= LENGTH_MIN));
        let mut values: Vec<String> =
            by_name.chain(long).map(str::trim).filter(|value| value.len() >= LENGTH_MIN).map(str::to_owned).collect();
        values.sort_unstable();
        values.dedup();
        let in_forms = |value: &String| {
            let quoted = format!("{value:?}");
            [value.clone(), escaped_in_urls(value), quoted[1..quoted.len() - 1].to_owned()]
        };
        let mut forms: Vec<String> = values.iter().flat_map(in_forms).collect();
        forms.sort_unstable_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        forms.dedup();
        let forms = Arc::new(forms);
        if !forms.is_empty() {
            let mut known = KNOWN.write();
            known.retain(|other| other.strong_count() > 0);
            known.push(Arc::downgrade(&forms));
        }
        Secrets { values, forms }
    }

    pub fn values(&self) -> &[String] {
        &self.values
    }

    /// The text without them, however they are escaped in it.
    pub fn blot(&self, text: &str) -> String {
        without_userinfo(&without(text, &self.forms)).into_owned()
    }
}

fn without<'a>(text: &'a str, forms: &[String]) -> Cow<'a, str> {
    let mut shown = Cow::Borrowed(text);
    for form in forms {
        if shown.contains(form.as_str()) {
            shown = Cow::Owned(shown.replace(form.as_str(), HIDDEN));
        }
    }
    shown
}

/// A line of the log without the secrets of any task that runs.
pub fn blotted_line(line: &str) -> Cow<'_, str> {
    let known: Vec<Arc<Vec<String>>> = KNOWN.read().iter().filter_map(Weak::upgrade).collect();
    let mut shown = Cow::Borrowed(line);
    for forms in known {
        if let Cow::Owned(clean) = without(&shown, &forms) {
            shown = Cow::Owned(clean);
        }
    }
    let clean = match without_userinfo(&shown) {
        Cow::Borrowed(_) => None,
        Cow::Owned(clean) => Some(clean),
    };
    clean.map_or(shown, Cow::Owned)
}

fn escaped_in_urls(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// A sink whose errors do not tell secrets.
pub struct Discreet {
    pub inner: Box<dyn Sink>,
    pub secrets: Secrets,
}

impl Discreet {
    fn told<T>(&self, outcome: Result<T, SinkError>) -> Result<T, SinkError> {
        outcome.map_err(|error| match error {
            SinkError::Retriable(text) => SinkError::Retriable(self.secrets.blot(&text)),
            SinkError::Reopen(text) => SinkError::Reopen(self.secrets.blot(&text)),
            SinkError::Rejected { offsets, reason } => {
                SinkError::Rejected { offsets, reason: self.secrets.blot(&reason) }
            }
            SinkError::Fatal(text) => SinkError::Fatal(self.secrets.blot(&text)),
        })
    }
}

#[async_trait]
impl Sink for Discreet {
    async fn open(&mut self, partitions: &[Assigned]) -> Result<Offsets, SinkError> {
        let outcome = self.inner.open(partitions).await;
        self.told(outcome)
    }

    async fn write(&mut self, rows: Rows) -> Result<(), SinkError> {
        let outcome = self.inner.write(rows).await;
        self.told(outcome)
    }

    async fn flush(&mut self, now_ms: i64, force: bool) -> Result<Offsets, SinkError> {
        let outcome = self.inner.flush(now_ms, force).await;
        self.told(outcome)
    }

    async fn close(&mut self, partitions: &[TopicPartition]) {
        self.inner.close(partitions).await;
    }

    fn held(&self) -> Held {
        self.inner.held()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [Key; 2] = [
        Key::new("pin", Type::Password, "", "A password."),
        Key::new("max.token", Type::String, "", "Not secret, whatever it is called."),
    ];

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn secrets_are_taken_out_of_texts_in_every_form() {
        let given = settings(&[
            ("pin", "1x4z"),
            ("max.token", "visible"),
            ("sasl.jaas.config", "pass word\"&"),
            ("url", "http://joe:hunter2@host/x"),
            ("lonely", "https://t0ken-alone@host/"),
        ]);
        let secrets = Secrets::of(&KEYS, &given, &["from a file".to_owned(), "3".to_owned()]);
        let told = secrets.blot(
            "pin 1x4z; visible; pass word\"&; pass%20word%22%26; \"pass word\\\"&\"; hunter2; t0ken-alone; from a file; 3; s3://a:other@b",
        );
        for secret in ["1x4z", "pass", "hunter2", "t0ken", "from a file", "other"] {
            assert!(!told.contains(secret), "{secret}: {told}");
        }
        assert!(told.contains("visible") && told.contains("; 3;"), "{told}");
        assert!(!format!("{secrets:?}").contains("hunter2"));
        let line = blotted_line("error sending request for url (http://x:y-pw@h/) with t0ken-alone");
        assert!(!line.contains("t0ken") && !line.contains("y-pw"), "{line}");
        drop(secrets);
        assert_eq!(blotted_line("t0ken-alone"), "t0ken-alone", "a task that has gone has no secrets");
    }

    #[test]
    fn a_url_is_shown_without_its_password() {
        assert_eq!(without_userinfo("http://joe:pw@host/a@b"), "http://joe:[hidden]@host/a@b");
        assert_eq!(without_userinfo("http://a:b@c:1,https://d:e@f"), "http://a:[hidden]@c:1,https://d:[hidden]@f");
        assert_eq!(without_userinfo("http://host/a@b"), "http://host/a@b");
        assert_eq!(without_userinfo("s3://bucket"), "s3://bucket");
    }
}
