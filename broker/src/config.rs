//! The node's configuration: Kafka's `server.properties`, `KAFKA_*` environment variables and `--override k=v`.
//!
//! Owns reading, precedence (override > environment > file > default), types and the check of what belongs together.
//! Does not own topic settings: their names and defaults are `strandline_log::config`'s.
//! An unknown key is a warning with the nearest known name, never silent; a bad value of a known key is an error.

mod keys;
mod node;
mod properties;

pub use keys::server_synonyms;
pub use node::{Listener, NodeConfig};
pub use properties::{FILE_BYTES_MAX, Properties};
