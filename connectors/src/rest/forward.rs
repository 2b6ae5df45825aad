//! Requests that the leader has to answer, carried to it.
//!
//! Owns one HTTP client with limits. An outcome that is unknown is told as such: the caller looks before it tries again.

use std::time::Duration;

use axum::http::Method;
use axum::response::Response;
use bytes::Bytes;

use super::answer::Failure;
use super::{BODY_BYTES_MAX, FORWARDED, response};

const CONNECT_MAX: Duration = Duration::from_secs(5);
/// As Kafka Connect's request time-out.
const ANSWER_MAX: Duration = Duration::from_secs(90);

pub struct Forwarder(reqwest::Client);

impl Forwarder {
    pub fn new() -> reqwest::Result<Forwarder> {
        let client = reqwest::Client::builder().connect_timeout(CONNECT_MAX).timeout(ANSWER_MAX).no_proxy();
        Ok(Forwarder(client.build()?))
    }

    /// `host` is what the caller called this worker: where something was made is told under that name.
    pub async fn forward(
        &self,
        leader: &str,
        method: &Method,
        path: &str,
        host: &str,
        body: Bytes,
    ) -> Result<Response, Failure> {
        let failed = |e: reqwest::Error| {
            let text = format!(
                "the leader at {leader} was asked, and it is not known whether it did it ({e}); see that \
                 rest.advertised.host.name of every worker can be reached from the others"
            );
            Failure::new(500, text)
        };
        let url = format!("{}{path}", leader.trim_end_matches('/'));
        let request = self.0.request(method.clone(), url).header(FORWARDED, "1");
        let answer = request.header("content-type", "application/json").body(body).send().await.map_err(failed)?;
        let status = answer.status().as_u16();
        let location = answer.headers().get("location").and_then(|l| l.to_str().ok());
        let location = location.map(|path| format!("http://{host}{path}"));
        if answer.content_length().is_some_and(|n| n > BODY_BYTES_MAX as u64) {
            return Err(Failure::new(
                500,
                format!("the leader at {leader} answers with more than {BODY_BYTES_MAX} bytes"),
            ));
        }
        let text = answer.text().await.map_err(failed)?;
        Ok(response(status, (!text.is_empty()).then_some(text.as_str()), location.as_deref()))
    }
}
