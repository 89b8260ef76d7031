//! Brings a database to the schema that this version works with (spec controller-api section 8.4).

use sqlx::{PgConnection, Row as _};

/// The last migration of the Go implementation; the baseline stands for all up to it.
const BASELINE: i64 = 49;

/// Ours, in order. Ids up to 99 belong to the Go implementation and its forks.
const MIGRATIONS: [(i64, &str); 4] = [
    (1000, include_str!("../../migrations/1000_managed_certificates.sql")),
    (1001, include_str!("../../migrations/1001_events_in_commit_order.sql")),
    (1002, include_str!("../../migrations/1002_limits.sql")),
    (1003, include_str!("../../migrations/1003_deployments.sql")),
];

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error(
        "the database is at migration {0} of the Go implementation: bring it to {BASELINE} with the last Go version first"
    )]
    TooOld(i64),
    #[error("apply migration {id}")]
    Apply {
        id: i64,
        #[source]
        err: sqlx::Error,
    },
    #[error("read which migrations the database has")]
    Read(#[from] sqlx::Error),
}

/// Applies what is missing, each migration in a transaction of its own. Others may do the same at the same time.
pub async fn migrate(connection: &mut PgConnection) -> Result<(), MigrateError> {
    flynn_database::migrate_alone(connection, async |connection| {
        let known = sqlx::query("SELECT count(*), coalesce(max(id), 0) FROM schema_migrations WHERE id <= $1");
        let known = known.bind(BASELINE).fetch_one(&mut *connection).await?;
        match (known.get::<i64, _>(0), known.get::<i64, _>(1)) {
            (BASELINE, _) => {}
            // The Go implementation's schema for an empty database.
            (0, _) => {
                let sql = include_str!("../../migrations/0049_baseline.sql");
                let applied = flynn_database::apply_migration(&mut *connection, 1..=BASELINE, sql).await;
                applied.map_err(|err| MigrateError::Apply { id: BASELINE, err })?;
            }
            (_, newest) => return Err(MigrateError::TooOld(newest)),
        }
        for (id, sql) in MIGRATIONS {
            let applied = flynn_database::apply_migration(&mut *connection, id..=id, sql).await;
            applied.map_err(|err| MigrateError::Apply { id, err })?;
        }
        Ok(())
    })
    .await
}
