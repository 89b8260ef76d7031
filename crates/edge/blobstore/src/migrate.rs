//! Brings the database to the schema that this version works with.

use sqlx::{Connection as _, PgConnection, raw_sql};

/// Those of the Go implementation; clusters that are restored have them.
const MIGRATIONS: [(i64, &str); 2] =
    [(1, include_str!("../migrations/0001_files.sql")), (2, include_str!("../migrations/0002_backends.sql"))];
/// Names the lock under which one process at a time does it: `blob` in ASCII.
const LOCK: i64 = 0x62_6c_6f_62;

#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error("apply migration {id}")]
    Apply {
        id: i64,
        #[source]
        err: sqlx::Error,
    },
    #[error("read which migrations the database has")]
    Read(#[from] sqlx::Error),
}

/// Applies what is missing, each migration in a transaction of its own. The connection is not used for anything else.
pub async fn migrate(connection: &mut PgConnection) -> Result<(), MigrateError> {
    // A large database takes its time, and who comes second waits for the first.
    raw_sql("SET statement_timeout = 0; SET lock_timeout = 0").execute(&mut *connection).await?;
    sqlx::query("SELECT pg_advisory_lock($1)").bind(LOCK).execute(&mut *connection).await?;
    raw_sql("CREATE TABLE IF NOT EXISTS schema_migrations (id bigint PRIMARY KEY)").execute(&mut *connection).await?;
    for (id, sql) in MIGRATIONS {
        apply(connection, id, sql).await.map_err(|err| MigrateError::Apply { id, err })?;
    }
    sqlx::query("SELECT pg_advisory_unlock($1)").bind(LOCK).execute(connection).await?;
    Ok(())
}

async fn apply(connection: &mut PgConnection, id: i64, sql: &'static str) -> Result<(), sqlx::Error> {
    let known = sqlx::query("SELECT FROM schema_migrations WHERE id = $1").bind(id);
    if known.fetch_optional(&mut *connection).await?.is_some() {
        return Ok(());
    }
    let mut transaction = connection.begin().await?;
    raw_sql(sql).execute(&mut *transaction).await?;
    sqlx::query("INSERT INTO schema_migrations (id) VALUES ($1)").bind(id).execute(&mut *transaction).await?;
    transaction.commit().await
}
