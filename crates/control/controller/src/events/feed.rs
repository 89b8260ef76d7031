//! Reads new events once for all streams of this process.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flynn_http::Backoff;
use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{Acquire as _, PgPool};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use super::{Filter, Stored};
use crate::database::SchemaChange;
use crate::store;

/// Events that wait for a slow reader (S9).
const BUFFER: usize = 1000;
/// Events read at once.
const BATCH: i64 = 500;
/// A notification that was lost is made up for after this long.
const POLL: Duration = Duration::from_secs(5);
/// How long a read may take: the server's host may be gone without a word.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Notifications that come within this after a first one are heard together.
const TOGETHER: Duration = Duration::from_millis(2);
/// Channel on which migrations are told of.
const SCHEMA: &str = "schema_migrations";
/// How long streams live on while the database cannot be read (S10): a failover is shorter, and nothing is lost by it.
const BLIND_LIMIT: Duration = Duration::from_secs(15);

/// Why a stream ended before its reader did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Ended {
    #[error("event stream buffer overflow")]
    Overflow,
    #[error("the database cannot be read")]
    Blind,
    #[error("controller: shutting down")]
    ShuttingDown,
}

struct Subscriber {
    filter: Filter,
    events: mpsc::Sender<Result<Arc<Stored>, Ended>>,
    why: Arc<Mutex<Option<Ended>>>,
}

/// The events of one reader.
pub(crate) struct Subscription {
    events: mpsc::Receiver<Result<Arc<Stored>, Ended>>,
    why: Arc<Mutex<Option<Ended>>>,
}

impl Subscription {
    /// The next event; after an error there is none.
    pub(crate) async fn next(&mut self) -> Result<Arc<Stored>, Ended> {
        match self.events.recv().await {
            Some(event) => event,
            None => Err(self.why.lock().expect("no panic while it is locked").unwrap_or(Ended::ShuttingDown)),
        }
    }
}

/// Gives every event to all who want it, in the order of ids.
pub(crate) struct Feed {
    subscribers: Arc<Mutex<Vec<Subscriber>>>,
    shutdown: CancellationToken,
    _reader: AbortOnDropHandle<()>,
}

impl Feed {
    /// Gives the events after `newest`.
    pub(crate) fn start(pool: PgPool, changes: SchemaChange, newest: i64, shutdown: CancellationToken) -> Self {
        let subscribers = Arc::<Mutex<Vec<Subscriber>>>::default();
        let reader = read(pool, changes, newest, Arc::clone(&subscribers), shutdown.clone());
        Self { subscribers, shutdown, _reader: AbortOnDropHandle::new(tokio::spawn(reader)) }
    }

    /// From now on. Events that were committed before, but not read yet, come too.
    pub(crate) fn subscribe(&self, filter: Filter) -> Subscription {
        let (sender, events) = mpsc::channel(BUFFER);
        let why = Arc::default();
        let subscriber = Subscriber { filter, events: sender, why: Arc::clone(&why) };
        if !self.shutdown.is_cancelled() {
            self.subscribers.lock().expect("no panic while it is locked").push(subscriber);
        }
        Subscription { events, why }
    }
}

async fn read(
    pool: PgPool,
    changes: SchemaChange,
    mut position: i64,
    subscribers: Arc<Mutex<Vec<Subscriber>>>,
    shutdown: CancellationToken,
) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    let mut blind_since: Option<Instant> = None;
    loop {
        let listening = follow(&pool, &changes, &subscribers, &mut position, || {
            if blind_since.take().is_some() {
                info!("events can be read again");
            }
            backoff.reset();
        });
        let Some(Err(err)) = shutdown.run_until_cancelled(listening).await else { break };
        if blind_since.is_none() {
            warn!(%err, "events cannot be read");
        }
        if blind_since.get_or_insert_with(Instant::now).elapsed() > BLIND_LIMIT {
            end_all(&subscribers, Ended::Blind);
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(backoff.pause())).await.is_none() {
            break;
        }
    }
    end_all(&subscribers, Ended::ShuttingDown);
}

/// Listens and reads until the database fails. Payloads say only that there is something: events are read by id.
async fn follow(
    pool: &PgPool,
    changes: &SchemaChange,
    subscribers: &Mutex<Vec<Subscriber>>,
    position: &mut i64,
    mut works: impl FnMut(),
) -> Result<(), sqlx::Error> {
    // One connection of its own, outside of the pool: one that is busy for ever must not be missing there.
    let options = (*pool.connect_options()).clone();
    let own = PgPoolOptions::new().max_connections(1).connect_lazy_with(options);
    let mut listener = PgListener::connect_with(&own).await?;
    listener.ignore_pool_close_event(true);
    listener.eager_reconnect(false);
    listener.listen_all(["events", SCHEMA]).await?;
    changes.happened(); // there may have been one while nobody listened
    loop {
        loop {
            // By the connection that listens, which this also asks whether its server is still there.
            let sql = (&mut listener).acquire().await?;
            let events = tokio::time::timeout(READ_TIMEOUT, store::event::after(sql, *position, BATCH)).await;
            let events = events.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
            works();
            let Some(newest) = events.last() else { break };
            *position = newest.id;
            deliver(subscribers, events);
        }
        // Many may be told of at once, and one look is enough for all.
        let mut until = Instant::now() + POLL;
        let mut alone = true;
        while let Ok(heard) = tokio::time::timeout_at(until, listener.try_recv()).await {
            let lost = || sqlx::Error::Protocol("the connection that listens is lost".into());
            if heard?.ok_or_else(lost)?.channel() == SCHEMA {
                changes.happened();
            }
            if std::mem::take(&mut alone) {
                until = Instant::now() + TOGETHER;
            }
        }
    }
}

fn deliver(subscribers: &Mutex<Vec<Subscriber>>, events: Vec<Stored>) {
    let events: VecDeque<_> = events.into_iter().map(Arc::new).collect();
    subscribers.lock().expect("no panic while it is locked").retain(|subscriber| {
        for event in events.iter().filter(|event| subscriber.filter.matches(event)) {
            match subscriber.events.try_send(Ok(Arc::clone(event))) {
                Ok(()) => {}
                Err(TrySendError::Closed(_)) => return false,
                Err(TrySendError::Full(_)) => {
                    *subscriber.why.lock().expect("no panic while it is locked") = Some(Ended::Overflow);
                    return false;
                }
            }
        }
        !subscriber.events.is_closed()
    });
}

fn end_all(subscribers: &Mutex<Vec<Subscriber>>, why: Ended) {
    for subscriber in subscribers.lock().expect("no panic while it is locked").drain(..) {
        *subscriber.why.lock().expect("no panic while it is locked") = Some(why);
    }
}
