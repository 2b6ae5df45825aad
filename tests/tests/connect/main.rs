//! Connectors as people use them: workers as processes, their REST API, what arrives.

mod archive;
mod delivery;
mod dev;
mod plugins;
mod rest;
mod scene;
mod workers;
