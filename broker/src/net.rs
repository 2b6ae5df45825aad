//! Sockets: listening, framing, ordered replies.
//!
//! Owns connections and their limits. Does not own what a request means: a frame goes to `api::Api::start`, what comes
//! back is written in order. A connection is one task; an idle one holds no buffer.

mod connection;
mod listener;
mod port_owner;
mod write;

pub use connection::{ConnectionContext, FrameHandler, Limits, Reply};
pub use listener::{BindError, ListenerTask, ReservedPort, bind, bind_in, reserve};
