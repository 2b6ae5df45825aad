//! Connectors as people use them: workers as processes, their REST API, what arrives.

mod archive;
mod avro;
mod delivery;
mod dev;
mod http;
mod kafka;
mod memory;
mod parity;
mod plugins;
mod rest;
mod scene;
mod workers;
