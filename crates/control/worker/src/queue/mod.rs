//! The queue: rows of `que_jobs`, each worked on by one worker at a time (spec section 13.1).
//!
//! A job is taken by its lease: `locked_until`, which its worker moves on and nobody else may. What was read there last is
//! the proof that the job is still one's own. Beside it, the session that takes jobs holds an advisory lock on each, as
//! workers of existing clusters do.

mod dispatch;
mod lease;
mod session;
mod wake;

use serde_json::Value;
use sqlx::PgConnection;

pub(crate) use dispatch::{Dispatch, Ended};
pub(crate) use lease::{Lease, LeaseError, QUERY_TIMEOUT};
pub(crate) use wake::{Ear, Heard, Wake};

/// Longest text of a failure, in characters.
const MAX_TEXT: usize = 16_384;

/// Orders a job; workers hear of it when the transaction is committed.
pub(crate) async fn enqueue(sql: &mut PgConnection, class: &str, args: &Value) -> Result<(), sqlx::Error> {
    let insert = sqlx::query("INSERT INTO que_jobs (job_class, args) VALUES ($1, $2::text::json)");
    insert.bind(class).bind(args.to_string()).execute(&mut *sql).await?;
    sqlx::query("SELECT pg_notify('que_jobs', $1)").bind(class).execute(sql).await.map(drop)
}

/// A text as the database takes it: bounded, and without the one character that it refuses.
pub(crate) fn storable(text: &str) -> String {
    text.chars().filter(|character| *character != '\0').take(MAX_TEXT).collect()
}

/// A job that was taken.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) id: i64,
    /// What kind of job it is; any text.
    pub(crate) class: String,
    /// JSON.
    pub(crate) args: String,
    /// How often it failed.
    pub(crate) error_count: i32,
}
