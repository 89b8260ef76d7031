//! A change: one transaction, and the events that tell of it.

use std::fmt::Display;

use flynn_types::controller::EventType;
use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use uuid::Uuid;

use crate::error::Result;

/// What a stored event says about the object, for streams that tell new ones from changed ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Create,
    Update,
}

impl Op {
    fn as_str(self) -> &'static str {
        match self {
            Self::Create => "op_create",
            Self::Update => "op_update",
        }
    }
}

/// An event to be.
pub(crate) struct NewEvent {
    kind: EventType,
    object_id: String,
    app_id: Option<Uuid>,
    data: Box<RawValue>,
    op: Option<Op>,
    unique_id: Option<String>,
}

impl NewEvent {
    /// The object after the change, without an app.
    pub(crate) fn new(kind: EventType, object_id: impl Display, data: &impl Serialize) -> Self {
        let data = serde_json::value::to_raw_value(data).expect("wire types have string keys only");
        Self { kind, object_id: object_id.to_string(), app_id: None, data, op: None, unique_id: None }
    }

    pub(crate) fn app(mut self, app_id: impl Into<Option<Uuid>>) -> Self {
        self.app_id = app_id.into();
        self
    }

    /// For ids as they travel; what is no id is no app.
    pub(crate) fn app_text(self, app_id: &str) -> Self {
        self.app(app_id.parse::<Uuid>().ok())
    }

    pub(crate) fn op(mut self, op: Op) -> Self {
        self.op = Some(op);
        self
    }

    /// Only one event has this text.
    pub(crate) fn unique(mut self, unique_id: String) -> Self {
        self.unique_id = Some(unique_id);
        self
    }
}

/// A transaction. Its events are written at its very end: their ids are drawn under a lock that is held until it is
/// committed, which makes the order of ids the order in which readers see them (migration 1001).
pub(crate) struct Change {
    transaction: Transaction<'static, Postgres>,
    events: Vec<NewEvent>,
}

impl Change {
    pub(crate) async fn begin(pool: &PgPool) -> Result<Self> {
        Ok(Self { transaction: pool.begin().await?, events: Vec::new() })
    }

    pub(crate) fn sql(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    pub(crate) fn emit(&mut self, event: NewEvent) {
        self.events.push(event);
    }

    /// Orders a job for the worker, which hears of it when the transaction is committed.
    pub(crate) async fn enqueue(&mut self, class: &str, args: &impl Serialize) -> Result<()> {
        let insert = sqlx::query("INSERT INTO que_jobs (job_class, args) VALUES ($1, $2::text::json)");
        let args = serde_json::to_string(args).expect("wire types have string keys only");
        insert.bind(class).bind(args).execute(&mut *self.transaction).await?;
        sqlx::query("SELECT pg_notify('que_jobs', $1)").bind(class).execute(&mut *self.transaction).await?;
        Ok(())
    }

    /// Lets the worker go on at once with a job about this object: one that it has, or that waits to be tried again.
    /// `false` if there is none.
    pub(crate) async fn hasten(&mut self, class: &str, id: Uuid) -> Result<bool> {
        // As text: rows from elsewhere may hold JSON that PostgreSQL does not look into.
        let update = sqlx::query(
            "UPDATE que_jobs SET run_at = least(run_at, now())
             WHERE queue = '' AND job_class = $1 AND strpos(args::text, $2) > 0",
        );
        let update = update.bind(class).bind(id.to_string()).execute(&mut *self.transaction).await?;
        sqlx::query("SELECT pg_notify('que_jobs', $1)").bind(class).execute(&mut *self.transaction).await?;
        Ok(update.rows_affected() > 0)
    }

    pub(crate) async fn commit(mut self) -> Result<()> {
        for event in self.events {
            let insert = sqlx::query(
                "INSERT INTO events (app_id, object_type, object_id, unique_id, data, op) VALUES ($1, $2, $3, $4, $5, $6)
                 ON CONFLICT (unique_id) DO NOTHING",
            );
            let insert = insert.bind(event.app_id).bind(event.kind.as_str()).bind(event.object_id);
            let insert = insert.bind(event.unique_id).bind(Json(event.data)).bind(event.op.map(Op::as_str));
            insert.execute(&mut *self.transaction).await?;
        }
        Ok(self.transaction.commit().await?)
    }
}
