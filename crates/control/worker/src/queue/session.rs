//! The session that takes jobs, and holds an advisory lock on each while it is worked on.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool, Row as _};

use super::Job;
use super::lease::{LEASE_SECONDS, QUERY_TIMEOUT};

/// Jobs that are looked at when one is to be taken: more than other sessions hold with a lease that has run out.
const LOOKED_AT: i64 = 100;

/// A job with its lease's end, by which the lease is known.
pub(crate) struct Taken {
    pub(crate) job: Job,
    pub(crate) locked_until: DateTime<Utc>,
}

/// A connection that is made when it is needed, and again when it broke.
pub(crate) struct Session {
    pool: PgPool,
    connection: Option<PgConnection>,
    locked: BTreeSet<i64>,
}

impl Session {
    pub(crate) fn new(pool: PgPool) -> Self {
        Self { pool, connection: None, locked: BTreeSet::new() }
    }

    /// Takes the first job that is due and free, but none of `except` (Q1).
    pub(crate) async fn take(&mut self, except: &[&str]) -> Result<Option<Taken>, sqlx::Error> {
        let taken = tokio::time::timeout(QUERY_TIMEOUT, self.try_take(except)).await;
        let taken = taken.unwrap_or(Err(sqlx::Error::PoolTimedOut));
        if taken.is_err() {
            self.connection = None;
        }
        taken
    }

    async fn try_take(&mut self, except: &[&str]) -> Result<Option<Taken>, sqlx::Error> {
        let own: Vec<i64> = self.locked.iter().copied().collect();
        let sql = self.connection().await?;
        let due = sqlx::query(
            "SELECT job_id, run_at, locked_until FROM que_jobs
             WHERE queue = '' AND run_at <= now() AND locked_until <= now() AND job_id <> ALL($1)
                AND job_class <> ALL($2)
             ORDER BY priority, run_at, job_id LIMIT $3",
        );
        let due = due.bind(own).bind(except).bind(LOOKED_AT).fetch_all(&mut *sql).await?;
        for row in due {
            let (id, run_at): (i64, DateTime<Utc>) = (row.try_get("job_id")?, row.try_get("run_at")?);
            if !sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(id).fetch_one(&mut *sql).await? {
                continue;
            }
            // It may have been worked on since it was read.
            let lease = sqlx::query(
                "UPDATE que_jobs SET locked_until = now() + make_interval(secs => $4)
                 WHERE queue = '' AND job_id = $1 AND run_at = $2 AND locked_until = $3
                 RETURNING job_class, args::text AS args, error_count, locked_until",
            );
            let lease = lease.bind(id).bind(run_at).bind(row.try_get::<DateTime<Utc>, _>("locked_until")?);
            let Some(row) = lease.bind(LEASE_SECONDS).fetch_optional(&mut *sql).await? else {
                sqlx::query("SELECT pg_advisory_unlock($1)").bind(id).execute(&mut *sql).await?;
                continue;
            };
            let (class, args, error_count) =
                (row.try_get("job_class")?, row.try_get("args")?, row.try_get("error_count")?);
            let locked_until = row.try_get("locked_until")?;
            self.locked.insert(id);
            return Ok(Some(Taken { job: Job { id, class, args, error_count }, locked_until }));
        }
        Ok(None)
    }

    /// Lets others take a job, once nobody works on it here any more. With the connection, its locks are gone anyway.
    pub(crate) async fn release(&mut self, id: i64) {
        self.locked.remove(&id);
        let Some(connection) = &mut self.connection else { return };
        let unlock = sqlx::query("SELECT pg_advisory_unlock($1)").bind(id).execute(connection);
        if !matches!(tokio::time::timeout(QUERY_TIMEOUT, unlock).await, Ok(Ok(_))) {
            self.connection = None;
        }
    }

    async fn connection(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        if self.connection.is_none() {
            let mut connection = self.pool.acquire().await?.detach();
            // Those that are worked on: their leases hold, their locks went with the connection before.
            for id in &self.locked {
                sqlx::query("SELECT pg_try_advisory_lock($1)").bind(id).execute(&mut connection).await?;
            }
            self.connection = Some(connection);
        }
        Ok(self.connection.as_mut().expect("it was just made"))
    }
}
