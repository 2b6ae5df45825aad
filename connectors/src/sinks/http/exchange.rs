//! One request, and what its answer means.
//!
//! Owns the client with its limits, and the reading of status codes. An answer is read up to [`ANSWER_BYTES_MAX`]; what it says is repeated
//! to people without the secrets that the request carried. Does not try anything again.

use std::time::Duration;

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};

use super::keys::Config;
use crate::config::HIDDEN;

/// How long a connection may take to be there; part of `http.timeout`.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Of an answer that says why it refuses, bytes.
const ANSWER_BYTES_MAX: usize = 512;
/// Redirects of one request, if they are followed.
const REDIRECTS_MAX: usize = 5;
/// The longest Retry-After that is kept.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Delivered,
    /// The server will never take these records.
    Refused(String),
    /// It may take them later; not before this long, if it said so.
    Later(String, Option<Duration>),
    /// It takes no record as things are configured.
    Wrong(String),
}

/// What a status code means for records that were posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Delivered,
    Refused,
    Later,
    Wrong,
}

fn meaning(status: StatusCode) -> Meaning {
    match status.as_u16() {
        200..=299 => Meaning::Delivered,
        // Time-out, too early, too many requests.
        408 | 425 | 429 | 500.. => Meaning::Later,
        // Credentials, address and method are the same for every record: none of them is at fault.
        401 | 402 | 403 | 404 | 405 | 407 | 410 | 421 | 426 => Meaning::Wrong,
        400..=499 => Meaning::Refused,
        _ => Meaning::Wrong,
    }
}

/// The client of a task.
pub struct Exchange {
    client: Client,
    config: Config,
}

/// Redirects that keep method and body.
fn redirects(follow: bool) -> Policy {
    if !follow {
        return Policy::none();
    }
    Policy::custom(|attempt| {
        let keeps = matches!(attempt.status(), StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
        if keeps && attempt.previous().len() <= REDIRECTS_MAX { attempt.follow() } else { attempt.stop() }
    })
}

impl Exchange {
    pub fn new(config: &Config) -> Result<Exchange, String> {
        let client = Client::builder()
            .connect_timeout(CONNECT_MAX.min(config.timeout))
            .timeout(config.timeout)
            .redirect(redirects(config.follow_redirects))
            .user_agent(concat!("strandline/", env!("CARGO_PKG_VERSION")))
            .default_headers(config.headers.clone())
            .no_proxy()
            .build();
        let client = client.map_err(|e| format!("no HTTP client: {e}"))?;
        Ok(Exchange { client, config: config.clone() })
    }

    /// Where, for people: without the query, which may hold a token.
    pub fn place(&self) -> String {
        let mut url = self.config.url.clone();
        url.set_query(None);
        url.set_fragment(None);
        url.into()
    }

    /// Posts a body; `key` is the same whenever the same records are posted together.
    pub async fn post(&self, key: &str, body: Vec<u8>) -> Verdict {
        let request = self.client.post(self.config.url.clone()).header("Idempotency-Key", key).body(body);
        match request.send().await {
            Ok(response) => self.judged(response).await,
            Err(error) => {
                let error = error.without_url();
                let mut text = format!("{} cannot be reached: {error}", self.place());
                let mut source = std::error::Error::source(&error);
                while let Some(cause) = source {
                    text = format!("{text}: {cause}");
                    source = cause.source();
                }
                Verdict::Later(self.blotted(text), None)
            }
        }
    }

    async fn judged(&self, response: Response) -> Verdict {
        let (status, place) = (response.status(), self.place());
        let after = retry_after(response.headers());
        let meaning = meaning(status);
        if meaning == Meaning::Delivered {
            // Read, so that the connection serves the next request.
            let _ = beginning(response).await;
            return Verdict::Delivered;
        }
        let to = response.headers().get("location").and_then(|to| to.to_str().ok()).map(str::to_owned);
        let said = beginning(response).await;
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        let text = self.blotted(format!("{place} answered {status}{said}"));
        match meaning {
            Meaning::Later => Verdict::Later(text, after),
            Meaning::Refused => Verdict::Refused(text),
            _ if status.is_redirection() => {
                let to = to.unwrap_or_else(|| "nowhere".to_owned());
                Verdict::Wrong(format!(
                    "set http.url to where it redirects ({to}), or http.follow.redirects=true for 307 and 308, then restart the task: {text}"
                ))
            }
            _ => Verdict::Wrong(format!(
                "correct http.url, http.headers.authorization or what the server allows, then restart the task: {text}"
            )),
        }
    }

    fn blotted(&self, text: String) -> String {
        self.config.secrets.iter().fold(text, |text, secret| text.replace(secret.reveal(), HIDDEN))
    }
}

/// The begin of an answer, as text of one line.
async fn beginning(mut response: Response) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < ANSWER_BYTES_MAX {
        match response.chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk[..chunk.len().min(ANSWER_BYTES_MAX - bytes.len())]),
            _ => break,
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    text.split(|c: char| c.is_control() || c.is_whitespace())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Seconds; a date is not looked at, and `retry.backoff.ms` holds.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_mean_what_can_be_done_about_them() {
        let of = |code: u16| meaning(StatusCode::from_u16(code).unwrap());
        assert!([200, 201, 202, 204].iter().all(|c| of(*c) == Meaning::Delivered));
        assert!([408, 425, 429, 500, 502, 503, 504].iter().all(|c| of(*c) == Meaning::Later));
        assert!([400, 409, 413, 415, 422, 451].iter().all(|c| of(*c) == Meaning::Refused));
        assert!([301, 302, 304, 307, 401, 403, 404, 405].iter().all(|c| of(*c) == Meaning::Wrong));
    }
}
