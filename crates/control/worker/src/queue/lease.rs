//! The right to work on a job.

use std::sync::Mutex;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use flynn_http::Backoff;

/// How long a lease lasts (Q2).
pub(crate) const LEASE_SECONDS: f64 = 10.0;
/// How often it is moved on (Q2).
const RENEWAL: Duration = Duration::from_secs(3);
/// What must be left of a lease for something to be done under it.
const MARGIN: Duration = Duration::from_secs(2);
/// Longest wait for the database within one attempt.
pub(crate) const QUERY_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest time before a job that failed is tried again, in seconds.
const LONGEST_PAUSE_SECONDS: f64 = 86_400.0;

#[derive(Debug, thiserror::Error)]
pub(crate) enum LeaseError {
    /// Another worker has the job, or it is gone.
    #[error("the job is another worker's")]
    Lost,
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// The right to work on a job, until it is lost or given up.
#[derive(Debug)]
pub(crate) struct Lease {
    pool: PgPool,
    job: i64,
    held: Mutex<Held>,
    /// Cancelled when another worker has the job.
    pub(crate) lost: CancellationToken,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    /// As the database has it.
    locked_until: DateTime<Utc>,
    /// Until when nobody else takes the job, by the clock of this process.
    valid_until: Instant,
}

impl Lease {
    /// `asked` is when the lease was asked for: it cannot end before its length after that.
    pub(crate) fn new(pool: PgPool, job: i64, locked_until: DateTime<Utc>, asked: Instant) -> Self {
        let held = Held { locked_until, valid_until: asked + Duration::from_secs_f64(LEASE_SECONDS) };
        Self { pool, job, held: Mutex::new(held), lost: CancellationToken::new() }
    }

    fn held(&self) -> Held {
        *self.held.lock().expect("no panic while it is locked")
    }

    /// Moves the lease on for as long as it is not lost.
    pub(crate) async fn keep(&self) {
        let mut backoff = Backoff::new(Duration::from_millis(100), RENEWAL);
        let mut pause = RENEWAL;
        while self.lost.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            match self.renew().await {
                Ok(()) => {
                    backoff.reset();
                    pause = RENEWAL;
                }
                Err(LeaseError::Lost) => break,
                Err(err) => {
                    debug!(job = self.job, %err, "a lease is not renewed");
                    pause = backoff.pause();
                }
            }
        }
    }

    /// Waits until the lease is good for doing something: at once, unless the database was away.
    pub(crate) async fn ensure(&self) -> Result<(), LeaseError> {
        if self.lost.is_cancelled() {
            return Err(LeaseError::Lost);
        }
        if self.held().valid_until > Instant::now() + MARGIN { Ok(()) } else { self.renew().await }
    }

    async fn renew(&self) -> Result<(), LeaseError> {
        let (asked, held) = (Instant::now(), self.held());
        let update = sqlx::query_scalar(
            "UPDATE que_jobs SET locked_until = now() + make_interval(secs => $3)
             WHERE queue = '' AND job_id = $1 AND locked_until = $2 RETURNING locked_until",
        );
        let update = update.bind(self.job).bind(held.locked_until).bind(LEASE_SECONDS).fetch_optional(&self.pool);
        let updated = tokio::time::timeout(QUERY_TIMEOUT, update).await.map_err(|_| sqlx::Error::PoolTimedOut)??;
        match updated {
            Some(locked_until) => {
                let valid_until = asked + Duration::from_secs_f64(LEASE_SECONDS);
                *self.held.lock().expect("no panic while it is locked") = Held { locked_until, valid_until };
                Ok(())
            }
            // Renewed by another task in between, perhaps.
            None if self.held().locked_until != held.locked_until => Ok(()),
            None => {
                warn!(job = self.job, "a job is another worker's now, or gone");
                self.lost.cancel();
                Err(LeaseError::Lost)
            }
        }
    }

    /// Ends the job within a transaction: that it is over is recorded with what it did, or neither is.
    pub(crate) async fn end(&self, sql: &mut PgConnection) -> Result<(), LeaseError> {
        // What the other task writes is waited for, so a second look sees it.
        for _ in 0..2 {
            let delete = sqlx::query("DELETE FROM que_jobs WHERE queue = '' AND job_id = $1 AND locked_until = $2");
            let deleted = delete.bind(self.job).bind(self.held().locked_until).execute(&mut *sql).await?;
            if deleted.rows_affected() == 1 {
                return Ok(());
            }
        }
        Err(LeaseError::Lost)
    }

    /// Ends the job.
    pub(crate) async fn finish(&self) -> Result<(), LeaseError> {
        self.end(&mut *self.pool.acquire().await?).await
    }

    /// Lets other workers take the job, at once or after a failure when its pause is over (Q3).
    pub(crate) async fn give_up(&self, failure: Option<&str>) -> Result<(), sqlx::Error> {
        let update = sqlx::query(
            "UPDATE que_jobs SET locked_until = now(), last_error = coalesce($3, last_error),
                error_count = CASE WHEN $3 IS NULL THEN error_count ELSE least(error_count, 1000000) + 1 END,
                run_at = CASE WHEN $3 IS NULL THEN run_at ELSE now() + make_interval(
                    secs => least(power(least(error_count, 1000000) + 1, 4) + 3, $4)) END
             WHERE queue = '' AND job_id = $1 AND locked_until = $2",
        );
        let update = update.bind(self.job).bind(self.held().locked_until).bind(failure.map(super::storable));
        update.bind(LONGEST_PAUSE_SECONDS).execute(&self.pool).await?;
        Ok(())
    }
}
