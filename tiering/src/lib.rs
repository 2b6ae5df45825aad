//! The remote part of a partition: copy, read, retention and deletion in an object store.
//!
//! Owns: every object below a topic's folder in the bucket, the chunk cache on local disk, the limits on both.
//! Does not own: the pointer that says what counts (`strandline_protocol::remote_pointer`, moved by the controller through
//! [`PointerService`]), leadership, the local log. It never sees a socket, the controller or a clock: `now_ms` is an
//! argument; only deadlines and pauses are measured, by tokio's timer.
//!
//! A leader uploads immutable objects, then an immutable manifest that names them, then moves the pointer to that manifest.
//! What the pointer names is the remote log. An outcome that is not known deletes nothing.

mod buffers;
mod chunks;
mod copy;
mod delete;
mod encoding;
mod faulty;
mod housekeep;
mod io_pool;
mod keys;
mod lru;
mod manifest;
mod metrics;
mod objects;
mod partition;
mod plan;
mod read;
mod remote_log;
mod scan;
mod service;
mod sidecar;
mod source;
mod store;
mod streams;
mod upload;

pub use copy::Copied;
pub use encoding::DecodeError;
pub use faulty::{Distance, FAULTS, Fault, FaultyStore};
pub use housekeep::Housekept;
pub use keys::{Key, Listing, PartitionPrefix, SegmentKey};
pub use manifest::{Entry, Manifest};
pub use metrics::{Counter, Metrics};
pub use partition::{MoveError, RemotePartition};
pub use plan::Retention;
pub use read::{RemoteRead, RemoteReadError, RemoteTail, TierEntry, Tiers, TimestampedOffset};
pub use remote_log::{ReaderLoad, RemoteLog, RemoteLogConfig, StartError};
pub use service::{Leader, PointerService, Unknown};
pub use sidecar::{AbortedTxn, CHUNK_BYTES, Sidecar};
pub use source::{SegmentSource, SegmentToCopy};
pub use store::{
    CLOCK_SKEW_MAX_MS, LATENCY_GETS, Listed, ProbeLatency, ProbeReport, ProbeStep, Store, StoreError, StoreLimits,
    StoreOptions, StoreUrlError,
};
pub use upload::UploadError;

#[cfg(test)]
mod tests;
