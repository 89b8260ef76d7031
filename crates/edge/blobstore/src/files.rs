//! The table `files`.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::postgres::types::Oid;
use sqlx::{FromRow, PgConnection, Row as _};
use uuid::Uuid;

use crate::backend::POSTGRES;

/// A file that is there.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) file_id: Uuid,
    pub(crate) name: String,
    /// Of its content.
    pub(crate) content_type: String,
    pub(crate) size: i64,
    pub(crate) sha512: Option<Vec<u8>>,
    pub(crate) updated_at: DateTime<Utc>,
    pub(crate) backend: String,
    file_oid: Option<Oid>,
    external_id: Option<Uuid>,
}

/// Where a content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    LargeObject(Oid),
    /// In the backend that the row names.
    Object(Uuid),
}

/// A content that is to get a name.
#[derive(Clone, Debug)]
pub(crate) struct New<'a> {
    pub(crate) name: &'a str,
    pub(crate) content_type: &'a str,
    pub(crate) size: i64,
    pub(crate) sha512: &'a [u8],
    pub(crate) backend: &'a str,
    pub(crate) place: Place,
}

/// A content outside of the database that no name leads to any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unnamed {
    pub(crate) backend: String,
    pub(crate) object: Uuid,
}

const COLUMNS: &str =
    "file_id, name, type, coalesce(size, 0) AS size, sha512, updated_at, backend, file_oid, external_id";

impl FromRow<'_, PgRow> for File {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            file_id: row.try_get("file_id")?,
            name: row.try_get("name")?,
            content_type: row.try_get("type")?,
            size: row.try_get("size")?,
            sha512: row.try_get("sha512")?,
            updated_at: row.try_get("updated_at")?,
            backend: row.try_get("backend")?,
            file_oid: row.try_get("file_oid")?,
            external_id: row.try_get("external_id")?,
        })
    }
}

impl File {
    /// `None` when the row tells none, as after a write that a Go process never ended.
    pub(crate) fn place(&self) -> Option<Place> {
        if self.backend == POSTGRES {
            self.file_oid.map(Place::LargeObject)
        } else {
            self.external_id.map(Place::Object)
        }
    }
}

/// The file of a name.
pub(crate) async fn find(connection: &mut PgConnection, name: &str) -> Result<Option<File>, sqlx::Error> {
    let query = format!("SELECT {COLUMNS} FROM files WHERE name = $1 AND deleted_at IS NULL");
    sqlx::query_as(sqlx::AssertSqlSafe(query)).bind(name).fetch_optional(connection).await
}

/// Makes all who change this name wait for each other until the transaction ends.
pub(crate) async fn lock_name(connection: &mut PgConnection, name: &str) -> Result<(), sqlx::Error> {
    let lock = sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))");
    lock.bind(name).execute(connection).await.map(drop)
}

/// Gives a name to a content; the caller has locked the name. Gives what has lost its name.
pub(crate) async fn name(connection: &mut PgConnection, new: &New<'_>) -> Result<Vec<Unnamed>, sqlx::Error> {
    let unnamed = sqlx::query_as(
        "UPDATE files SET deleted_at = now() WHERE name = $1 AND deleted_at IS NULL
         RETURNING backend, external_id",
    );
    let unnamed: Vec<(String, Option<Uuid>)> = unnamed.bind(new.name).fetch_all(&mut *connection).await?;
    let (oid, object) = columns(new.place);
    let insert = sqlx::query(
        "INSERT INTO files (name, type, size, sha512, backend, file_oid, external_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    );
    let insert = insert.bind(new.name).bind(new.content_type).bind(new.size).bind(new.sha512);
    insert.bind(new.backend).bind(oid).bind(object).execute(connection).await?;
    Ok(outside(unnamed))
}

/// Records that a content has grown in its place.
pub(crate) async fn grown(
    connection: &mut PgConnection,
    file: Uuid,
    size: i64,
    sha512: &[u8],
) -> Result<(), sqlx::Error> {
    // What the Go implementation recorded of its hash is of the shorter content.
    let update = sqlx::query(
        "UPDATE files SET size = $2, sha512 = $3, sha512_state = NULL, updated_at = now() WHERE file_id = $1",
    );
    update.bind(file).bind(size).bind(sha512).execute(connection).await.map(drop)
}

/// Takes the name from a file and from all below it. Gives what has lost its name.
pub(crate) async fn unname(connection: &mut PgConnection, name: &str) -> Result<Vec<Unnamed>, sqlx::Error> {
    let update = sqlx::query_as(
        "UPDATE files SET deleted_at = now()
         WHERE deleted_at IS NULL AND (name = $1 OR starts_with(name, $1 || '/'))
         RETURNING backend, external_id",
    );
    Ok(outside(update.bind(name).fetch_all(connection).await?))
}

/// What a directory holds: files, and directories with `/` at the end.
pub(crate) async fn list(connection: &mut PgConnection, directory: &str) -> Result<Vec<String>, sqlx::Error> {
    let prefix = if directory == "/" { "/".to_owned() } else { format!("{directory}/") };
    let query = sqlx::query_scalar(
        "SELECT DISTINCT (CASE strpos(rest, '/') WHEN 0 THEN $1 || rest ELSE $1 || split_part(rest, '/', 1) || '/' END)
                COLLATE \"C\" AS entry
         FROM (SELECT substr(name, length($1) + 1) AS rest FROM files
               WHERE deleted_at IS NULL AND starts_with(name, $1)) AS below
         ORDER BY entry",
    );
    query.bind(prefix).fetch_all(connection).await
}

fn columns(place: Place) -> (Option<Oid>, Option<Uuid>) {
    match place {
        Place::LargeObject(oid) => (Some(oid), None),
        Place::Object(object) => (None, Some(object)),
    }
}

/// Large objects are gone with their names (trigger `delete_file`).
fn outside(rows: Vec<(String, Option<Uuid>)>) -> Vec<Unnamed> {
    rows.into_iter().filter_map(|(backend, object)| Some(Unnamed { backend, object: object? })).collect()
}
