//! Log and vote for openraft, on redb.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{AnyError, ErrorSubject, ErrorVerb, LogId, OptionalSend, RaftLogReader, StorageIOError, Vote};
use redb::{Database, ReadableDatabase, ReadableTable};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::writer::{Done, LOG, Write, Writer, fact, read_fact, to_io};
use super::{Entry, StorageError, TypeConfig};

/// One message of replication carries at most so many bytes of entries (and at least one entry).
const READ_LIMIT_BYTES: usize = 4 << 20;

#[derive(Clone)]
pub(super) struct LogStore {
    pub(super) database: Arc<Database>,
    pub(super) writer: Writer,
    unflushed: Unflushed,
}

/// Appended entries that are on their way to the disk; they must be readable already.
#[derive(Clone, Default)]
pub(super) struct Unflushed(Arc<Mutex<BTreeMap<u64, Entry>>>);

impl Unflushed {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn flushed(&self, indexes: &[u64]) {
        let mut entries = self.lock();
        for index in indexes {
            entries.remove(index);
        }
    }
}

impl LogStore {
    pub(super) fn new(database: Arc<Database>, writer: Writer, unflushed: Unflushed) -> Self {
        Self { database, writer, unflushed }
    }

    pub(super) fn fact<T: DeserializeOwned>(&self, name: &'static str) -> io::Result<Option<T>> {
        read_fact(&self.database, name)?.map(|bytes| decode(&bytes)).transpose()
    }

    /// Whether the store belongs to a cluster: it has seen an entry, a snapshot or a vote.
    pub(super) fn is_used(&self) -> io::Result<bool> {
        for name in [fact::VOTE, fact::SNAPSHOT_META, fact::PURGED] {
            if read_fact(&self.database, name)?.is_some() {
                return Ok(true);
            }
        }
        let transaction = self.database.begin_read().map_err(to_io)?;
        let log = transaction.open_table(LOG).map_err(to_io)?;
        Ok(log.last().map_err(to_io)?.is_some())
    }

    fn entries(&self, range: (Bound<u64>, Bound<u64>), limit_bytes: usize) -> io::Result<Vec<Entry>> {
        // First the queue, then the disk: an entry that leaves the queue in between is on disk by then.
        let queued: BTreeMap<u64, Entry> =
            self.unflushed.lock().range(range).map(|(index, entry)| (*index, entry.clone())).collect();
        let transaction = self.database.begin_read().map_err(to_io)?;
        let log = transaction.open_table(LOG).map_err(to_io)?;
        let mut found = Vec::new();
        let mut bytes = 0;
        for item in log.range(range).map_err(to_io)? {
            let (index, value) = item.map_err(to_io)?;
            if queued.contains_key(&index.value()) {
                break; // what is queued supersedes what is on disk from here on
            }
            bytes += value.value().len();
            found.push(decode(value.value())?);
            if bytes > limit_bytes {
                return Ok(found);
            }
        }
        let next = found.last().map(|e: &Entry| e.log_id.index + 1);
        found.extend(queued.into_values().filter(|e| next.is_none_or(|n| e.log_id.index >= n)));
        Ok(found)
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        self.entries((range.start_bound().cloned(), range.end_bound().cloned()), usize::MAX).map_err(read_logs)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        self.entries((Bound::Included(start), Bound::Excluded(end)), READ_LIMIT_BYTES).map_err(read_logs)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let read = || -> io::Result<_> {
            let last_purged_log_id: Option<LogId<u64>> = self.fact(fact::PURGED)?;
            let queued = self.unflushed.lock().last_key_value().map(|(_, e)| e.log_id);
            let transaction = self.database.begin_read().map_err(to_io)?;
            let log = transaction.open_table(LOG).map_err(to_io)?;
            let stored = match log.last().map_err(to_io)? {
                Some((_, value)) => Some(decode::<Entry>(value.value())?.log_id),
                None => None,
            };
            Ok(LogState { last_purged_log_id, last_log_id: queued.or(stored).or(last_purged_log_id) })
        };
        read().map_err(read_logs)
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError> {
        let bytes = encode(vote).map_err(|e| StorageIOError::write_vote(&e))?;
        self.writer.write(vec![Write::Fact(fact::VOTE, bytes)]).await.map_err(|e| StorageIOError::write_vote(&e).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError> {
        self.fact(fact::VOTE).map_err(|e| StorageIOError::read_vote(&e).into())
    }

    /// Not synced by itself: after a crash the node knows a slightly older commit, which is true as well.
    async fn save_committed(&mut self, committed: Option<LogId<u64>>) -> Result<(), StorageError> {
        let bytes = encode(&committed).map_err(write_logs)?;
        self.writer.submit(vec![Write::Fact(fact::COMMITTED, bytes)], Done::Lazy);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId<u64>>, StorageError> {
        Ok(self.fact::<Option<LogId<u64>>>(fact::COMMITTED).map_err(read_logs)?.flatten())
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut encoded = Vec::new();
        {
            let mut queue = self.unflushed.lock();
            for entry in entries {
                encoded.push((entry.log_id.index, encode(&entry).map_err(write_logs)?));
                queue.insert(entry.log_id.index, entry);
            }
        }
        self.writer.submit(vec![Write::Append(encoded)], Done::Flushed(callback));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId<u64>) -> Result<(), StorageError> {
        // Waits: entries appended earlier are flushed then, those appended later must not be removed.
        let written = self.writer.write(vec![Write::Truncate(log_id.index)]).await.map_err(write_logs);
        self.unflushed.lock().retain(|index, _| *index < log_id.index);
        written
    }

    async fn purge(&mut self, log_id: LogId<u64>) -> Result<(), StorageError> {
        let bytes = encode(&log_id).map_err(write_logs)?;
        self.writer.write(vec![Write::Fact(fact::PURGED, bytes), Write::Purge(log_id.index)]).await.map_err(write_logs)
    }
}

pub(super) fn encode(value: &impl Serialize) -> io::Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(io::Error::other)
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    serde_json::from_slice(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

fn read_logs(error: io::Error) -> StorageError {
    StorageIOError::read_logs(&error).into()
}

fn write_logs(error: io::Error) -> StorageError {
    StorageIOError::write_logs(&error).into()
}

pub(super) fn snapshot_error(verb: ErrorVerb, error: &io::Error) -> StorageError {
    StorageIOError::new(ErrorSubject::Snapshot(None), verb, AnyError::new(error)).into()
}
