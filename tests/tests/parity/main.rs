//! The same requests to Apache Kafka and to Strandline, their answers compared.
//!
//! A case is a name, a request for each version, and what may differ. Every served API is asked in every version that it is served
//! in, so an answer that its version cannot carry shows as a closed connection. What differs on purpose is in `kept`, with its reason.

mod cluster;
mod configs;
mod describe;
mod epochs;
mod fetch;
mod groups;
mod kept;
mod line;
mod offsets;
mod pair;
mod produce;
mod survive;
mod table;
mod topics;
mod versions;
