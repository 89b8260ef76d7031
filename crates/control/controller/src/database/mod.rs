//! The connection to PostgreSQL.

mod change;
mod migrate;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

pub(crate) use change::{Change, NewEvent, Op};
pub use migrate::{MigrateError, migrate};

/// Connections at once (spec controller-api section 1.3).
const MAX_CONNECTIONS: u32 = 20;
/// Longest wait for a free one.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// When the schema changed last, as far as this process heard of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct SchemaChange(Arc<Mutex<Option<Instant>>>);

impl SchemaChange {
    /// From now on, older connections are not used any more.
    pub(crate) fn happened(&self) {
        *self.0.lock().expect("no panic while it is locked") = Some(Instant::now());
    }

    fn is_older(&self, age: Duration) -> bool {
        self.0.lock().expect("no panic while it is locked").is_some_and(|changed| age >= changed.elapsed())
    }
}

/// A pool of connections. After a failover those to the old primary are found dead or read-only and replaced. Those that
/// are older than a change of the schema are closed: statements that they prepared may not fit any more.
pub(crate) fn pool(options: PgConnectOptions, changes: SchemaChange) -> PgPool {
    // No statement and no lock of ours takes long; a transaction whose client is gone must not hold what others need.
    let options = options.application_name("controller").options([
        ("statement_timeout", "60s"),
        ("lock_timeout", "20s"),
        ("idle_in_transaction_session_timeout", "60s"),
    ]);
    PgPoolOptions::new()
        .max_connections(MAX_CONNECTIONS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .max_lifetime(Duration::from_secs(30 * 60))
        .test_before_acquire(true)
        .before_acquire(move |_, connection| {
            let usable = !changes.is_older(connection.age);
            Box::pin(async move { Ok(usable) })
        })
        .connect_lazy_with(options)
}
