//! Brings a database to the schema that this version works with (spec controller-api section 8.4).

use sqlx::{Connection as _, PgConnection, Row as _, raw_sql};

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
    // A large database takes its time.
    raw_sql("SET statement_timeout = 0; SET lock_timeout = 0").execute(&mut *connection).await?;
    raw_sql("CREATE TABLE IF NOT EXISTS schema_migrations (id bigint PRIMARY KEY)").execute(&mut *connection).await?;
    baseline(connection).await?;
    for (id, sql) in MIGRATIONS {
        let applied = async {
            let mut transaction = connection.begin().await?;
            raw_sql("LOCK TABLE schema_migrations IN EXCLUSIVE MODE").execute(&mut *transaction).await?;
            let known = sqlx::query("SELECT FROM schema_migrations WHERE id = $1").bind(id);
            if known.fetch_optional(&mut *transaction).await?.is_some() {
                return transaction.rollback().await; // one that is only dropped keeps its lock for a while
            }
            raw_sql(sql).execute(&mut *transaction).await?;
            record(&mut transaction, id, id).await?;
            transaction.commit().await
        };
        applied.await.map_err(|err| MigrateError::Apply { id, err })?;
    }
    Ok(())
}

/// Makes the Go implementation's schema in an empty database, and takes over one that has it.
async fn baseline(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let mut transaction = connection.begin().await?;
    raw_sql("LOCK TABLE schema_migrations IN EXCLUSIVE MODE").execute(&mut *transaction).await?;
    let known = sqlx::query("SELECT count(*), coalesce(max(id), 0) FROM schema_migrations WHERE id <= $1");
    let known = known.bind(BASELINE).fetch_one(&mut *transaction).await?;
    match (known.get::<i64, _>(0), known.get::<i64, _>(1)) {
        (BASELINE, _) => return Ok(transaction.rollback().await?),
        (0, _) => {}
        (_, newest) => {
            transaction.rollback().await?;
            return Err(MigrateError::TooOld(newest));
        }
    }
    let applied = async {
        raw_sql(include_str!("../../migrations/0049_baseline.sql")).execute(&mut *transaction).await?;
        record(&mut transaction, 1, BASELINE).await?;
        transaction.commit().await
    };
    applied.await.map_err(|err| MigrateError::Apply { id: BASELINE, err })
}

/// Other processes open their connections anew: prepared statements may not fit any more.
async fn record(connection: &mut PgConnection, from: i64, to: i64) -> Result<(), sqlx::Error> {
    let insert = sqlx::query("INSERT INTO schema_migrations SELECT generate_series($1::bigint, $2::bigint)");
    insert.bind(from).bind(to).execute(&mut *connection).await?;
    sqlx::query("SELECT pg_notify('schema_migrations', $1::text)").bind(to.to_string()).execute(connection).await?;
    Ok(())
}
