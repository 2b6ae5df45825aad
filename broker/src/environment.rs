//! What a node is given by the machine it runs on, so that a simulation can give it something else.
//!
//! Owns the list. Does not own settings (`config`). Randomness and the wall clock come from the system in both cases; a
//! simulation stands in for those below the standard library.

use std::sync::Arc;

use strandline_client::network::Network;
use strandline_disk::{Disk, RealDisk, Workers};
use strandline_tiering::FaultyStore;
use tokio::runtime::{Handle, RuntimeFlavor};

/// Everything that a node reaches the world by.
#[derive(Clone)]
pub struct Environment {
    pub disk: Arc<dyn Disk>,
    pub network: Network,
    pub workers: Workers,
    /// In place of what `tier.url` names.
    pub store: Option<Arc<FaultyStore>>,
}

impl Default for Environment {
    /// The machine itself.
    fn default() -> Self {
        Environment { disk: Arc::new(RealDisk), network: Network::default(), workers: Workers::default(), store: None }
    }
}

/// Carries out work that blocks. Other tasks of the runtime go on meanwhile, unless it has one thread alone or there is none.
pub fn block_in_place<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}
