//! Queries, one file per kind of object. SQL in plain sight; rules are with the handlers.

pub(crate) mod app;
pub(crate) mod artifact;
pub(crate) mod cluster;
pub(crate) mod deployment;
pub(crate) mod event;
pub(crate) mod formation;
pub(crate) mod job;
pub(crate) mod managed_certificate;
pub(crate) mod release;
pub(crate) mod resource;
pub(crate) mod route;
pub(crate) mod sink;
pub(crate) mod volume;

use chrono::{DateTime, Utc};
use flynn_types::time::GoTime;
use serde::de::DeserializeOwned;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{Row as _, Type};
use uuid::Uuid;

use crate::error::{Error, Result};

/// An id in a path: a malformed one names nothing (T13).
pub(crate) fn id(text: &str) -> Result<Uuid> {
    // PostgreSQL and Go know more ways to write one, none of which clients use.
    if text.len() == 36 || text.len() == 32 { text.parse().map_err(|_| Error::NotFound) } else { Err(Error::NotFound) }
}

/// Columns as the wire objects have them.
pub(crate) trait Columns {
    fn id(&self, column: &str) -> sqlx::Result<String>;
    /// Empty for NULL.
    fn optional_id(&self, column: &str) -> sqlx::Result<String>;
    fn time(&self, column: &str) -> sqlx::Result<Option<GoTime>>;
    /// The default for NULL, also for one inside the document.
    fn json<T: DeserializeOwned + Default>(&self, column: &str) -> sqlx::Result<T>;
    /// The default for NULL.
    fn or_default<'r, T>(&'r self, column: &str) -> sqlx::Result<T>
    where
        T: sqlx::Decode<'r, sqlx::Postgres> + Type<sqlx::Postgres> + Default;
}

impl Columns for PgRow {
    fn id(&self, column: &str) -> sqlx::Result<String> {
        Ok(self.try_get::<Uuid, _>(column)?.to_string())
    }

    fn optional_id(&self, column: &str) -> sqlx::Result<String> {
        Ok(self.try_get::<Option<Uuid>, _>(column)?.map(|id| id.to_string()).unwrap_or_default())
    }

    fn time(&self, column: &str) -> sqlx::Result<Option<GoTime>> {
        Ok(self.try_get::<Option<DateTime<Utc>>, _>(column)?.map(GoTime::from))
    }

    fn json<T: DeserializeOwned + Default>(&self, column: &str) -> sqlx::Result<T> {
        Ok(self.try_get::<Option<Json<Option<T>>>, _>(column)?.and_then(|json| json.0).unwrap_or_default())
    }

    fn or_default<'r, T>(&'r self, column: &str) -> sqlx::Result<T>
    where
        T: sqlx::Decode<'r, sqlx::Postgres> + Type<sqlx::Postgres> + Default,
    {
        Ok(self.try_get::<Option<T>, _>(column)?.unwrap_or_default())
    }
}

/// All rows as objects.
pub(crate) fn all<T>(rows: &[PgRow], object: impl Fn(&PgRow) -> sqlx::Result<T>) -> sqlx::Result<Vec<T>> {
    rows.iter().map(object).collect()
}
