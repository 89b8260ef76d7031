//! Brings the database to the schema that this version works with.

use sqlx::PgConnection;

/// Those of the Go implementation; clusters that are restored have them.
const MIGRATIONS: [(i64, &str); 2] =
    [(1, include_str!("../migrations/0001_files.sql")), (2, include_str!("../migrations/0002_backends.sql"))];

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
    flynn_database::migrate_alone(connection, async |connection| {
        for (id, sql) in MIGRATIONS {
            let applied = flynn_database::apply_migration(&mut *connection, id..=id, sql).await;
            applied.map_err(|err| MigrateError::Apply { id, err })?;
        }
        Ok(())
    })
    .await
}
