//! The sinks that come with the worker, one module each.

pub mod file;
pub mod http;
pub mod kafka;
pub mod object_store;
mod payload;

use std::sync::Arc;

use crate::registry::Registry;

/// All built-in kinds.
pub fn built_in() -> Registry {
    let mut registry = Registry::default();
    registry.add(Arc::new(object_store::ObjectStoreKind));
    registry.add(Arc::new(file::FileStreamSink));
    registry.add(Arc::new(http::HttpKind));
    registry.add(Arc::new(kafka::KafkaKind));
    registry
}
