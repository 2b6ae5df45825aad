//! A schema registry that speaks Confluent's API: schemas by the id that each record carries.
//!
//! Owns what it learnt, bounded by [`SCHEMAS_MAX`]: a schema is asked for once and never changes. An id that the registry does not know is
//! asked for again after [`FORGET_UNKNOWN`], so that records full of garbage do not become calls. Every call has a deadline. Does not own
//! what a schema means.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use serde::Deserialize;

use super::avro;
use crate::config::{Secret, Settings};
use crate::url_policy::UrlPolicy;

/// Schemas that are kept.
const SCHEMAS_MAX: usize = 1_000;
/// An answer of the registry, bytes.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// One call, connecting included.
const CALL: Duration = Duration::from_secs(10);
/// How long a registry that does not answer is asked again before the task fails.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long an unknown id stays unknown.
const FORGET_UNKNOWN: Duration = Duration::from_secs(60);
/// Schemas that one schema may refer to, all in all.
const REFERENCES_MAX: usize = 100;

/// The first byte of a value that carries an id.
const MAGIC: u8 = 0;
/// Magic and id.
pub const PREFIX_BYTES: usize = 5;

/// The id that a value carries; Err = it carries none.
pub fn id_of(value: &[u8]) -> Result<u32, String> {
    match value {
        [MAGIC, a, b, c, d, ..] => Ok(u32::from_be_bytes([*a, *b, *c, *d])),
        [MAGIC, ..] => Err(format!("it has {} bytes, fewer than magic byte and schema id take", value.len())),
        [] => Err("it is empty: magic byte and schema id are missing".to_owned()),
        [other, ..] => Err(format!("Unknown magic byte! It begins with {other} and carries no schema id")),
    }
}

/// A schema, or why there is none.
type Known = Result<Arc<avro::Schema>, String>;

#[derive(Default)]
struct Learnt {
    by_id: BTreeMap<u32, (Known, tokio::time::Instant)>,
    /// Oldest first.
    order: VecDeque<u32>,
}

/// A client with its memory.
pub struct Registry {
    urls: Vec<String>,
    /// The header `Authorization`.
    authorization: Option<Secret>,
    client: reqwest::Client,
    learnt: Mutex<Learnt>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("urls", &self.urls).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct SchemaAnswer {
    schema: String,
    #[serde(rename = "schemaType")]
    kind: Option<String>,
    #[serde(default)]
    references: Vec<Reference>,
}

#[derive(Deserialize)]
struct Reference {
    subject: String,
    version: i64,
}

/// What the registry says when it refuses.
#[derive(Deserialize)]
struct Refusal {
    error_code: Option<i64>,
    message: Option<String>,
}

/// Why a call gave nothing.
enum Trouble {
    /// There is no such thing, and there will not be in a moment.
    Unknown(String),
    /// Another try may help.
    Passing(String),
    /// Only the operator can help.
    Lasting(String),
}

impl Registry {
    /// By the settings below `prefix` (`value.converter.`); Err = what to write.
    pub fn configured(settings: &Settings, prefix: &str, policy: &Arc<UrlPolicy>) -> Result<Registry, String> {
        let given = |key: &str| settings.get(&format!("{prefix}{key}")).map(|v| v.trim()).filter(|v| !v.is_empty());
        let urls = given("schema.registry.url").ok_or_else(|| {
            format!("Missing required configuration \"{prefix}schema.registry.url\": write the registry's URL, such as http://registry:8081")
        })?;
        let urls: Vec<String> = urls.split(',').map(|url| url.trim().trim_end_matches('/').to_owned()).collect();
        for url in &urls {
            let parsed = reqwest::Url::parse(url).ok().filter(|url| ["http", "https"].contains(&url.scheme()));
            let parsed = parsed.ok_or_else(|| format!("{prefix}schema.registry.url is no URL of http or https"))?;
            policy.admit(url).map_err(|refused| format!("{prefix}schema.registry.url: {refused}"))?;
            if !parsed.username().is_empty() || parsed.password().is_some() {
                return Err(format!(
                    "{prefix}schema.registry.url has a user in it, which would be shown: write {prefix}basic.auth.user.info=user:password"
                ));
            }
        }
        let source = given("basic.auth.credentials.source").unwrap_or("USER_INFO").to_ascii_uppercase();
        if source == "SASL_INHERIT" {
            return Err(format!(
                "{prefix}basic.auth.credentials.source is SASL_INHERIT: write USER_INFO, and {prefix}basic.auth.user.info=user:password"
            ));
        }
        let basic = given("basic.auth.user.info").or(given("schema.registry.basic.auth.user.info"));
        let authorization = match (basic, given("bearer.auth.token")) {
            (Some(user), _) => Some(Secret::new(&format!("Basic {}", STANDARD.encode(user)))),
            (None, Some(token)) => Some(Secret::new(&format!("Bearer {token}"))),
            (None, None) => None,
        };
        // A registry that sends the client elsewhere would send its password there too.
        let client = policy.client(false).timeout(CALL).build();
        let client = client.map_err(|e| format!("{prefix}schema.registry.url: {e}"))?;
        Ok(Registry { urls, authorization, client, learnt: Mutex::default() })
    }

    /// The schema of an id that was learnt.
    pub fn known(&self, id: u32) -> Known {
        let learnt = self.learnt.lock();
        let known = learnt.by_id.get(&id).map(|(known, _)| known.clone());
        known.unwrap_or_else(|| Err(format!("the schema {id} was not asked for")))
    }

    /// Asks for the schemas that are not known yet; Err = the registry is not to be had, and what to do.
    pub async fn learn(&self, ids: &BTreeSet<u32>) -> Result<(), String> {
        for id in ids {
            let is_there = match self.learnt.lock().by_id.get(id) {
                Some((Err(_), when)) => when.elapsed() < FORGET_UNKNOWN,
                known => known.is_some(),
            };
            if !is_there {
                let known = self.ask(*id).await?;
                self.keep(*id, known, ids);
            }
        }
        Ok(())
    }

    /// What is wanted now is not dropped for something else that is wanted now.
    fn keep(&self, id: u32, known: Known, wanted: &BTreeSet<u32>) {
        let mut learnt = self.learnt.lock();
        let learnt = &mut *learnt;
        if learnt.by_id.insert(id, (known, tokio::time::Instant::now())).is_none() {
            learnt.order.push_back(id);
        }
        while learnt.by_id.len() > SCHEMAS_MAX.max(wanted.len()) {
            let Some(oldest) = learnt.order.pop_front() else { break };
            if wanted.contains(&oldest) {
                learnt.order.push_back(oldest);
            } else {
                learnt.by_id.remove(&oldest);
            }
        }
    }

    /// Tries until [`PATIENCE`] is over.
    async fn ask(&self, id: u32) -> Result<Known, String> {
        let begin = tokio::time::Instant::now();
        let mut pause = PAUSE_FIRST;
        loop {
            let trouble = match self.schema(id).await {
                Ok(schema) => return Ok(schema),
                Err(Trouble::Unknown(why)) => return Ok(Err(why)),
                Err(Trouble::Lasting(why)) => return Err(why),
                Err(Trouble::Passing(why)) => why,
            };
            if begin.elapsed() >= PATIENCE {
                let urls = self.urls.join(", ");
                return Err(format!(
                    "the schema registry {urls} was not to be had for {} s: {trouble}; see that it runs and that the worker reaches it, \
                     then restart the task",
                    PATIENCE.as_secs()
                ));
            }
            tracing::warn!(id, trouble, "the schema registry is asked again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn schema(&self, id: u32) -> Result<Known, Trouble> {
        let answer = self.get(&format!("/schemas/ids/{id}")).await.map_err(|trouble| match trouble {
            Trouble::Unknown(why) => {
                Trouble::Unknown(format!("the schema registry does not know the schema {id}: {why}"))
            }
            other => other,
        })?;
        if let Some(kind) = answer.kind.filter(|kind| kind != "AVRO") {
            return Ok(Err(format!("the schema {id} is {kind}, and the converter is Avro's")));
        }
        let mut referred = Vec::new();
        let mut open: VecDeque<Reference> = answer.references.into();
        let mut seen = BTreeSet::new();
        while let Some(Reference { subject, version }) = open.pop_front() {
            if !seen.insert((subject.clone(), version)) {
                continue;
            }
            if seen.len() > REFERENCES_MAX {
                return Ok(Err(format!("the schema {id} refers to more than {REFERENCES_MAX} others")));
            }
            let answer = self.get(&format!("/subjects/{}/versions/{version}", escaped(&subject))).await?;
            open.extend(answer.references);
            referred.push(answer.schema);
        }
        Ok(avro::Schema::parse(&answer.schema, &referred)
            .map(Arc::new)
            .map_err(|why| format!("the schema {id}: {why}")))
    }

    /// From the first of the URLs that answers.
    async fn get(&self, path: &str) -> Result<SchemaAnswer, Trouble> {
        let mut last = Trouble::Passing("no URL is known".to_owned());
        for url in &self.urls {
            match self.get_from(url, path).await {
                Err(Trouble::Passing(why)) => last = Trouble::Passing(why),
                other => return other,
            }
        }
        Err(last)
    }

    async fn get_from(&self, url: &str, path: &str) -> Result<SchemaAnswer, Trouble> {
        let mut request = self.client.get(format!("{url}{path}"));
        request = request.header("Accept", "application/vnd.schemaregistry.v1+json, application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization.reveal());
        }
        let passing = |e: reqwest::Error| Trouble::Passing(e.without_url().to_string());
        let mut response = request.send().await.map_err(passing)?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(passing)? {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER_BYTES_MAX {
                return Err(Trouble::Unknown(format!("its answer has more than {ANSWER_BYTES_MAX} bytes")));
            }
        }
        let said = || {
            let refusal = serde_json::from_slice(&body).unwrap_or(Refusal { error_code: None, message: None });
            let message = refusal.message.unwrap_or_else(|| format!("status {status}"));
            refusal.error_code.map_or_else(|| message.clone(), |code| format!("{message} ({code})"))
        };
        match status {
            200 => serde_json::from_slice(&body).map_err(|e| Trouble::Unknown(format!("its answer is none: {e}"))),
            404 => Err(Trouble::Unknown(said())),
            401 | 403 => Err(Trouble::Lasting(format!(
                "the schema registry {url} refuses: {}; correct basic.auth.user.info of the converter",
                said()
            ))),
            429 | 500.. => Err(Trouble::Passing(said())),
            _ => Err(Trouble::Lasting(format!(
                "the schema registry {url} answers {status}: {}; see schema.registry.url",
                said()
            ))),
        }
    }
}

/// A subject as a path's segment.
fn escaped(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_carries_an_id_or_is_told_what_it_lacks() {
        assert_eq!(id_of(&[0, 0, 0, 1, 2, 9]), Ok(258));
        assert!(id_of(b"text").unwrap_err().contains("Unknown magic byte"));
        assert!(id_of(&[0, 1]).unwrap_err().contains("2 bytes"));
        assert!(id_of(&[]).is_err());
    }

    #[test]
    fn a_wrong_configuration_says_what_would_be_right() {
        let wrong = |pairs: &[(&str, &str)]| {
            let settings = pairs.iter().map(|(k, v)| (format!("value.converter.{k}"), (*v).to_owned())).collect();
            Registry::configured(&settings, "value.converter.", &Arc::default()).unwrap_err()
        };
        assert!(wrong(&[]).contains("value.converter.schema.registry.url"));
        assert!(wrong(&[("schema.registry.url", "registry:8081")]).contains("no URL"));
        let inside = wrong(&[("schema.registry.url", "http://me:hunter2@registry:8081")]);
        assert!(inside.contains("basic.auth.user.info") && !inside.contains("hunter2"), "{inside}");
        let url = ("schema.registry.url", "http://a:1, http://b:2/");
        assert!(wrong(&[url, ("basic.auth.credentials.source", "SASL_INHERIT")]).contains("USER_INFO"));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let settings = Settings::from([("v.schema.registry.url".to_owned(), "http://a:1".to_owned())]);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let registry = Registry::configured(&settings, "v.", &Arc::default()).unwrap();
            let wanted = BTreeSet::from([0]);
            for id in 0..2 * u32::try_from(SCHEMAS_MAX).unwrap() {
                registry.keep(id, Err("unknown".to_owned()), &wanted);
            }
            let learnt = registry.learnt.lock();
            assert_eq!((learnt.by_id.len(), learnt.order.len()), (SCHEMAS_MAX, SCHEMAS_MAX));
            assert!(learnt.by_id.contains_key(&0), "what is wanted now is not dropped");
        });
    }
}
