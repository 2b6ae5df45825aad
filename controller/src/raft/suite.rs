//! openraft's own storage suite against our log and state machine, on a real disk.

use std::sync::Arc;

use openraft::testing::{StoreBuilder, Suite};
use strandline_disk::{RealDisk, Workers};
use tempfile::TempDir;

use super::log_store::LogStore;
use super::state_machine::StateMachine;
use super::types::{StorageError, TypeConfig};

struct InTemporaryDirectory;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for InTemporaryDirectory {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(RealDisk);
        let log = LogStore::open(disk.clone(), dir.path(), &Workers::Threads).unwrap();
        let machine = StateMachine::open(disk, dir.path(), Default::default()).unwrap();
        Ok((dir, log, machine))
    }
}

#[test]
fn openraft_accepts_the_storage() {
    Suite::test_all(InTemporaryDirectory).unwrap();
}
