//! The state machine for openraft: the replica in memory, rebuilt from the last snapshot and the log.

use std::io::{self, Cursor};
use std::sync::Arc;

use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine, Snapshot, SnapshotMeta};
use openraft::{EntryPayload, ErrorVerb, LogId, OptionalSend, StoredMembership};
use serde::{Deserialize, Serialize};

use super::log_store::{LogStore, decode, encode, snapshot_error};
use super::writer::{Write, fact, read_fact};
use super::{Entry, Member, Response, StorageError, TypeConfig};
use crate::registry::{Registry, SNAPSHOT_VERSION};
use crate::replica::{Change, Replica, Replicated};

/// What a snapshot's bytes are (JSON).
#[derive(Serialize, Deserialize)]
struct SnapshotForm<R> {
    version: u32,
    registry: R,
}

pub(super) struct Machine {
    replica: Arc<Replica>,
    store: LogStore,
}

impl Machine {
    /// Fills the replica from the stored snapshot, unless it is further already (the store was reopened while the
    /// daemon ran on; what was applied stays applied).
    pub(super) fn new(replica: Arc<Replica>, store: LogStore) -> io::Result<Self> {
        if let Some((meta, bytes)) = stored_snapshot(&store)?
            && replica.with(|s| s.last_applied < meta.last_log_id)
        {
            replica.restore(replicated(&meta, &bytes)?);
        }
        Ok(Self { replica, store })
    }
}

type Meta = SnapshotMeta<u64, Member>;

fn stored_snapshot(store: &LogStore) -> io::Result<Option<(Meta, Vec<u8>)>> {
    let Some(meta) = store.fact::<Meta>(fact::SNAPSHOT_META)? else { return Ok(None) };
    let bytes = read_fact(&store.database, fact::SNAPSHOT)?.unwrap_or_default();
    Ok(Some((meta, bytes)))
}

fn replicated(meta: &Meta, bytes: &[u8]) -> io::Result<Replicated> {
    let form: SnapshotForm<Registry> = decode(bytes)?;
    if form.version > SNAPSHOT_VERSION {
        let text = format!("snapshot has version {}, this program knows {SNAPSHOT_VERSION}", form.version);
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    Ok(Replicated { registry: form.registry, last_applied: meta.last_log_id, membership: meta.last_membership.clone() })
}

async fn save_snapshot(store: &LogStore, meta: &Meta, bytes: Vec<u8>) -> io::Result<()> {
    let meta = encode(meta)?;
    store.writer.write(vec![Write::Fact(fact::SNAPSHOT_META, meta), Write::Fact(fact::SNAPSHOT, bytes)]).await
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId<u64>>, StoredMembership<u64, Member>), StorageError> {
        Ok(self.replica.with(|s| (s.last_applied, s.membership.clone())))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Response>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        Ok(entries
            .into_iter()
            .map(|entry| {
                let change = match entry.payload {
                    EntryPayload::Blank => Change::Nothing,
                    EntryPayload::Normal(command) => Change::Command(command),
                    EntryPayload::Membership(m) => Change::Membership(StoredMembership::new(Some(entry.log_id), m)),
                };
                Response(self.replica.apply(entry.log_id, change))
            })
            .collect())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        // Serialised here, between two entries; the copy to disk happens in the builder's own task.
        let (last_log_id, last_membership, bytes) = self.replica.with(|s| {
            (
                s.last_applied,
                s.membership.clone(),
                encode(&SnapshotForm { version: SNAPSHOT_VERSION, registry: &s.registry }),
            )
        });
        let snapshot_id = match last_log_id {
            Some(id) => format!("{}-{}-{:08x}", id.leader_id.term, id.index, rand::random::<u32>()),
            None => format!("empty-{:08x}", rand::random::<u32>()),
        };
        Builder {
            store: self.store.clone(),
            meta: Meta { last_log_id, last_membership, snapshot_id },
            bytes: Some(bytes),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: Box<Cursor<Vec<u8>>>) -> Result<(), StorageError> {
        let bytes = snapshot.into_inner();
        let state = replicated(meta, &bytes).map_err(|e| snapshot_error(ErrorVerb::Read, &e))?;
        save_snapshot(&self.store, meta, bytes).await.map_err(|e| snapshot_error(ErrorVerb::Write, &e))?;
        self.replica.restore(state);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        let stored = stored_snapshot(&self.store).map_err(|e| snapshot_error(ErrorVerb::Read, &e))?;
        Ok(stored.map(|(meta, bytes)| Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) }))
    }
}

pub(super) struct Builder {
    store: LogStore,
    meta: Meta,
    bytes: Option<io::Result<Vec<u8>>>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let build = async {
            let bytes = self.bytes.take().unwrap_or_else(|| Err(io::Error::other("this snapshot was built before")))?;
            save_snapshot(&self.store, &self.meta, bytes.clone()).await?;
            Ok(bytes)
        };
        let bytes = build.await.map_err(|e: io::Error| snapshot_error(ErrorVerb::Write, &e))?;
        Ok(Snapshot { meta: self.meta.clone(), snapshot: Box::new(Cursor::new(bytes)) })
    }
}
