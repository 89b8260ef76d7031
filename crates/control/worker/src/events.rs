//! Events that the worker writes (spec section 3.5).

use flynn_types::controller::EventType;
use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

/// An event to be.
pub(crate) struct NewEvent {
    kind: EventType,
    object_id: String,
    app: Option<Uuid>,
    data: Box<RawValue>,
    op: Option<&'static str>,
}

impl NewEvent {
    pub(crate) fn new(kind: EventType, object_id: &str, data: &impl Serialize) -> Self {
        let data = serde_json::value::to_raw_value(data).expect("wire types have string keys only");
        Self { kind, object_id: object_id.to_owned(), app: None, data, op: None }
    }

    pub(crate) fn app(self, app: Uuid) -> Self {
        Self { app: Some(app), ..self }
    }

    /// It is about an object that was told of before.
    pub(crate) fn update(self) -> Self {
        Self { op: Some("op_update"), ..self }
    }
}

/// Writes an event as the last thing of a transaction: a lock, under which ids are drawn, is held from here on until it
/// is committed.
pub(crate) async fn insert(sql: &mut PgConnection, event: NewEvent) -> Result<(), sqlx::Error> {
    let insert =
        sqlx::query("INSERT INTO events (app_id, object_type, object_id, data, op) VALUES ($1, $2, $3, $4, $5)");
    let insert = insert.bind(event.app).bind(event.kind.as_str()).bind(event.object_id);
    insert.bind(Json(event.data)).bind(event.op).execute(sql).await.map(drop)
}
