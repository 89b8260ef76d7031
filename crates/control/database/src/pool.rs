//! Pools of connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flynn_http::Backoff;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{PgPool, Postgres};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Connections at once (spec controller-api section 1.3).
const MAX_CONNECTIONS: u32 = 20;
/// Longest wait for a free one, and so for the end of a failover.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may take to say that it works: the server's host may be gone without a word.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that nobody needed for so long are closed: each is a process of the server, with memory of its own. They
/// are given out in turn, so as many stay open as there are requests within this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the database may take to be there and writable at the start.
const PATIENCE: Duration = Duration::from_secs(300);

/// A pool for the component `application`, under which the server lists its connections.
pub fn pool(options: PgConnectOptions, application: &str) -> PgPool {
    pool_with(options, application, |_| true)
}

/// Like [`pool`], with a say in which connections are used on: those of an age for which `usable` is false are closed
/// instead of being given out.
pub fn pool_with(
    options: PgConnectOptions,
    application: &str,
    usable: impl Fn(Duration) -> bool + Send + Sync + 'static,
) -> PgPool {
    // No statement and no lock of ours takes long; a transaction whose client is gone must not hold what others need.
    let options = options.application_name(application).options([
        ("statement_timeout", "60s"),
        ("lock_timeout", "20s"),
        ("idle_in_transaction_session_timeout", "60s"),
        // What the server thinks of clients whose host is gone.
        ("tcp_keepalives_idle", "30"),
        ("tcp_keepalives_interval", "10"),
        ("tcp_keepalives_count", "3"),
        ("tcp_user_timeout", "60s"),
    ]);
    let told = Arc::new(Told::default());
    let told_at_begin = Arc::clone(&told);
    PgPoolOptions::new()
        .max_connections(MAX_CONNECTIONS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(IDLE_TIMEOUT)
        .max_lifetime(Duration::from_secs(30 * 60))
        // The check that it takes writes is a round trip itself.
        .test_before_acquire(false)
        .after_connect(move |connection, _| {
            let told = Arc::clone(&told_at_begin);
            Box::pin(async move {
                let checked = check(connection).await;
                told.tell(&checked);
                checked
            })
        })
        .before_acquire(move |connection, meta| {
            let (usable, told) = (usable(meta.age), Arc::clone(&told));
            // One that fails is closed and replaced, which is nothing to be told of as an error.
            Box::pin(async move {
                Ok(usable && {
                    let checked = check(connection).await;
                    told.tell(&checked);
                    checked.is_ok()
                })
            })
        })
        .connect_lazy_with(options)
}

/// Tells once that the database takes no writes, and once that it does again.
#[derive(Default)]
struct Told(AtomicBool);

impl Told {
    fn tell(&self, checked: &Result<(), sqlx::Error>) {
        let fails = checked.is_err();
        if self.0.swap(fails, Ordering::Relaxed) == fails {
            return;
        }
        match checked {
            Ok(()) => info!("the database can be used again"),
            Err(err) => warn!(%err, "the database cannot be used"),
        }
    }
}

/// Waits up to five minutes until the database takes writes.
pub async fn wait_writable(pool: &PgPool) -> Result<PoolConnection<Postgres>, sqlx::Error> {
    let cancel = CancellationToken::new(); // the caller drops this future instead
    let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
    flynn_http::retry(backoff, PATIENCE, &cancel, |_| true, || pool.acquire()).await
}

async fn check(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let read_only = sqlx::query_scalar::<_, String>("SHOW transaction_read_only").fetch_one(connection);
    match tokio::time::timeout(CHECK_TIMEOUT, read_only).await {
        Ok(Ok(answer)) if answer == "off" => Ok(()),
        Ok(Ok(_)) => Err(sqlx::Error::Protocol("it takes no writes".into())),
        Ok(Err(err)) => Err(err),
        Err(_) => Err(sqlx::Error::Protocol("it does not answer".into())),
    }
}
