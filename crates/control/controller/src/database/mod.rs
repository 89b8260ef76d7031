//! The connection to PostgreSQL.

mod change;
mod migrate;

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

pub(crate) use change::{Change, NewEvent, Op};
pub use migrate::{MigrateError, migrate};

/// Connections at once (spec controller-api section 1.3).
const MAX_CONNECTIONS: u32 = 20;
/// Longest wait for a free one.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// A pool of connections. After a failover those to the old primary are found dead or read-only and replaced.
pub fn pool(options: PgConnectOptions) -> PgPool {
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
        .connect_lazy_with(options)
}
