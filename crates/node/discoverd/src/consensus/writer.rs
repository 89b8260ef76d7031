//! The one thread that writes the store: it takes what has queued up, puts it into one transaction, syncs once, and then
//! tells everybody.

use std::io;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use openraft::storage::LogFlushed;
use redb::{Database, Durability, ReadableDatabase, TableDefinition};
use tokio::sync::{mpsc, oneshot};

use super::TypeConfig;

/// Log entries (JSON) by index.
pub(super) const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
/// Everything else (JSON, or a snapshot's bytes) by name.
pub(super) const FACTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("facts");

pub(super) mod fact {
    pub(in crate::consensus) const FORMAT: &str = "format";
    pub(in crate::consensus) const NODE_ID: &str = "node_id";
    pub(in crate::consensus) const VOTE: &str = "vote";
    pub(in crate::consensus) const COMMITTED: &str = "committed";
    pub(in crate::consensus) const PURGED: &str = "purged";
    pub(in crate::consensus) const SNAPSHOT_META: &str = "snapshot_meta";
    pub(in crate::consensus) const SNAPSHOT: &str = "snapshot";
    /// Addresses of other nodes.
    pub(in crate::consensus) const PEERS: &str = "peers";
}

/// Writes taken together in one transaction at most.
const BATCH: usize = 256;

/// One write.
pub(super) enum Write {
    Append(Vec<(u64, Vec<u8>)>),
    /// Removes entries from this index on.
    Truncate(u64),
    /// Removes entries up to this index.
    Purge(u64),
    Fact(&'static str, Vec<u8>),
}

/// Who hears of the outcome.
pub(super) enum Done {
    Flushed(LogFlushed<TypeConfig>),
    Reply(oneshot::Sender<io::Result<()>>),
    /// Nobody; it may wait for the next sync.
    Lazy,
}

struct Job {
    writes: Vec<Write>,
    done: Done,
}

/// Hands writes to the thread. Clones share it; it ends, after writing everything, when the last one is gone.
#[derive(Clone)]
pub(super) struct Writer {
    jobs: mpsc::UnboundedSender<Job>,
    failed: Arc<OnceLock<Failure>>,
}

/// The first error, after which nothing is written any more.
#[derive(Debug)]
struct Failure {
    kind: io::ErrorKind,
    text: String,
}

impl Failure {
    fn of(err: &io::Error) -> Self {
        Self { kind: err.kind(), text: err.to_string() }
    }

    fn error(&self) -> io::Error {
        io::Error::new(self.kind, self.text.clone())
    }
}

impl Writer {
    /// Starts the thread. `flushed` is called with the number of appended entries after each sync.
    pub(super) fn start(
        database: Arc<Database>,
        flushed: impl Fn(&[u64]) + Send + 'static,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        // Unbounded, but bounded by its users: the Raft core waits for votes, truncations and purges, and limits
        // the entries in flight; lazy writes are one per applied batch.
        let (jobs, queue) = mpsc::unbounded_channel();
        let failed = Arc::new(OnceLock::new());
        let told = Arc::clone(&failed);
        let thread = std::thread::Builder::new()
            .name("discoverd-store".to_owned())
            .spawn(move || write_all(&database, queue, &told, flushed))?;
        Ok((Self { jobs, failed }, thread))
    }

    /// The error that ended the writing, if one did.
    pub(super) fn failure(&self) -> Option<io::ErrorKind> {
        self.failed.get().map(|failure| failure.kind)
    }

    pub(super) fn submit(&self, writes: Vec<Write>, done: Done) {
        if let Err(mpsc::error::SendError(job)) = self.jobs.send(Job { writes, done }) {
            finish(job.done, Err(io::Error::other("the store's writer has ended")));
        }
    }

    /// Writes and waits until it is on disk.
    pub(super) async fn write(&self, writes: Vec<Write>) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        self.submit(writes, Done::Reply(sender));
        receiver.await.unwrap_or_else(|_| Err(io::Error::other("the store's writer has ended")))
    }
}

fn write_all(
    database: &Database,
    mut queue: mpsc::UnboundedReceiver<Job>,
    failed: &OnceLock<Failure>,
    flushed: impl Fn(&[u64]),
) {
    while let Some(first) = queue.blocking_recv() {
        let mut jobs = vec![first];
        while jobs.len() < BATCH
            && let Ok(job) = queue.try_recv()
        {
            jobs.push(job);
        }
        // After a failure nothing more may be written: a later entry without the failed one would be a hole.
        let outcome = match failed.get() {
            Some(_) => Err(()),
            None => commit(database, &jobs).map_err(|err| drop(failed.set(Failure::of(&err)))),
        };
        let appended: Vec<u64> = jobs.iter().flat_map(|j| j.appended()).collect();
        if outcome.is_ok() {
            flushed(&appended);
        }
        for job in jobs {
            finish(job.done, failed.get().map_or(Ok(()), |failure| Err(failure.error())));
        }
    }
}

fn finish(done: Done, outcome: io::Result<()>) {
    match done {
        Done::Flushed(callback) => callback.log_io_completed(outcome),
        Done::Reply(sender) => drop(sender.send(outcome)),
        Done::Lazy => {}
    }
}

impl Job {
    fn appended(&self) -> impl Iterator<Item = u64> {
        self.writes.iter().flat_map(|w| match w {
            Write::Append(entries) => entries.iter().map(|(index, _)| *index).collect::<Vec<_>>(),
            _ => Vec::new(),
        })
    }
}

fn commit(database: &Database, jobs: &[Job]) -> io::Result<()> {
    let mut transaction = database.begin_write().map_err(to_io)?;
    let lazy = jobs.iter().all(|j| matches!(j.done, Done::Lazy));
    transaction.set_durability(if lazy { Durability::None } else { Durability::Immediate }).map_err(to_io)?;
    {
        let mut log = transaction.open_table(LOG).map_err(to_io)?;
        let mut facts = transaction.open_table(FACTS).map_err(to_io)?;
        for write in jobs.iter().flat_map(|j| &j.writes) {
            match write {
                Write::Append(entries) => {
                    for (index, bytes) in entries {
                        log.insert(index, bytes.as_slice()).map_err(to_io)?;
                    }
                }
                Write::Truncate(from) => log.retain_in(*from.., |_, _| false).map_err(to_io)?,
                Write::Purge(to) => log.retain_in(..=*to, |_, _| false).map_err(to_io)?,
                Write::Fact(name, bytes) => drop(facts.insert(*name, bytes.as_slice()).map_err(to_io)?),
            }
        }
    }
    transaction.commit().map_err(to_io)
}

/// Reads one fact.
pub(super) fn read_fact(database: &Database, name: &str) -> io::Result<Option<Vec<u8>>> {
    let transaction = database.begin_read().map_err(to_io)?;
    let facts = transaction.open_table(FACTS).map_err(to_io)?;
    Ok(facts.get(name).map_err(to_io)?.map(|v| v.value().to_vec()))
}

/// An I/O error keeps its kind (a full disk must be told from a damaged file).
pub(super) fn to_io(error: impl Into<redb::Error>) -> io::Error {
    match error.into() {
        redb::Error::Io(error) => error,
        error @ redb::Error::Corrupted(_) => io::Error::new(io::ErrorKind::InvalidData, error.to_string()),
        error => io::Error::other(error.to_string()),
    }
}
