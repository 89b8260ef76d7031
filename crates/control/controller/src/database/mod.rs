//! The connection to PostgreSQL.

mod change;
mod migrate;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;

pub(crate) use change::{Change, NewEvent, Op};
pub use migrate::{MigrateError, migrate};

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

/// A pool of connections. Those that are older than a change of the schema are closed: statements that they prepared may
/// not fit any more.
pub(crate) fn pool(options: PgConnectOptions, changes: SchemaChange) -> PgPool {
    flynn_database::pool_with(options, "controller", move |age| !changes.is_older(age))
}
