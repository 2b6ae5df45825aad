//! Answers of the REST API: status, body, location; failures as Kafka Connect words them.

use serde_json::{Value, json};

/// What a call gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub body: Option<Value>,
    /// Instead of a body: its type, and a text that is no JSON.
    pub text: Option<(&'static str, String)>,
    pub location: Option<String>,
}

impl Answer {
    pub fn ok(body: Value) -> Self {
        Answer { status: 200, body: Some(body), ..Answer::default() }
    }

    /// A status without a body.
    pub fn empty(status: u16) -> Self {
        Answer { status, ..Answer::default() }
    }
}

/// `{"error_code", "message"}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub status: u16,
    pub message: String,
}

impl Failure {
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        Failure { status, message: message.into() }
    }

    pub fn no_such_path() -> Self {
        Failure::new(404, "HTTP 404 Not Found")
    }

    pub fn wrong_method() -> Self {
        Failure::new(405, "HTTP 405 Method Not Allowed")
    }

    pub fn no_such_connector(name: &str) -> Self {
        Failure::new(404, format!("Connector {name} not found"))
    }

    pub fn body(&self) -> Value {
        json!({ "error_code": self.status, "message": self.message })
    }
}
