//! The sinks that come with the worker, one module each.

pub mod adbc;
pub mod file;
pub mod http;
pub mod kafka;
pub mod object_store;
mod payload;

use std::sync::Arc;

use crate::plugin::Launcher;
use crate::registry::Registry;

/// All built-in kinds.
pub fn built_in() -> Registry {
    let mut registry = Registry::default();
    registry.add(Arc::new(object_store::ObjectStoreKind));
    registry.add(Arc::new(file::FileStreamSink));
    // Without drivers: those are found with the plugins.
    registry.add(Arc::new(adbc::AdbcKind::new(&[], Launcher::this())));
    registry.add(Arc::new(http::HttpKind));
    registry.add(Arc::new(kafka::KafkaKind));
    registry
}
