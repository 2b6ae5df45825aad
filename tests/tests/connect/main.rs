//! Connectors as people use them: workers as processes, their REST API, what arrives.

mod adbc;
mod archive;
mod avro;
mod delivery;
mod dev;
mod http;
mod iceberg;
mod kafka;
mod memory;
mod parity;
mod plugins;
mod rest;
mod scene;
mod secrets;
mod transforms;
mod workers;
