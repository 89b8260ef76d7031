//! The store against openraft's own suite.

use std::sync::Arc;

use openraft::testing::{StoreBuilder, Suite};

use super::log_store::LogStore;
use super::machine::Machine;
use super::open::{Reopening, open};
use super::{StorageError, TypeConfig};
use crate::replica::Replica;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Machine, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, Machine), StorageError> {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder.path().join("raft.redb"), Reopening::AsItIs).unwrap();
        let machine = Machine::new(Replica::new(), store.log.clone()).unwrap();
        Ok((folder, store.log, machine))
    }
}

#[test]
fn the_store_keeps_what_openraft_wants_kept() {
    Suite::test_all(Builder).unwrap();
}

#[test]
fn a_store_keeps_its_node_id_and_a_new_one_has_another() {
    let folder = tempfile::tempdir().unwrap();
    let id_of = |name: &str| {
        let store = open(&folder.path().join(name), Reopening::AsItIs).unwrap();
        let database = Arc::downgrade(&store.log.database);
        let node = store.node;
        drop(store.log);
        store.thread.join().unwrap();
        assert!(database.upgrade().is_none(), "the file is closed");
        node
    };
    let (a, b) = (id_of("a"), id_of("b"));
    assert_ne!(a, b);
    assert_eq!((a, b), (id_of("a"), id_of("b")));
}
