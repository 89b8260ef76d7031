//! Bringing a database to a schema, by one process at a time.

use sqlx::{Connection as _, PgConnection, raw_sql};

/// Does `work` while no other process does the same in this database: whoever comes second waits for the first. The
/// connection is not used for anything else afterwards, as its limits are lifted.
///
/// Also what makes the table of migrations is work: two sessions that `CREATE TABLE IF NOT EXISTS` at the same time
/// may both try, and one fail.
pub async fn alone<E: From<sqlx::Error>>(
    connection: &mut PgConnection,
    work: impl AsyncFnOnce(&mut PgConnection) -> Result<(), E>,
) -> Result<(), E> {
    // A large database takes its time.
    raw_sql("SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0")
        .execute(&mut *connection)
        .await?;
    raw_sql("SELECT pg_advisory_lock(hashtext('flynn'), hashtext('migrations'))").execute(&mut *connection).await?;
    raw_sql("CREATE TABLE IF NOT EXISTS schema_migrations (id bigint PRIMARY KEY)").execute(&mut *connection).await?;
    let done = work(&mut *connection).await;
    let unlock = raw_sql("SELECT pg_advisory_unlock(hashtext('flynn'), hashtext('migrations'))");
    // A connection that broke has lost its locks.
    let unlocked = unlock.execute(connection).await.map(drop);
    done.and_then(|()| Ok(unlocked?))
}

/// Applies a migration that the database does not have, and tells those who listen on `schema_migrations`: they open
/// their connections anew, as prepared statements may not fit any more. It counts with all ids of `recorded`.
pub async fn apply(
    connection: &mut PgConnection,
    recorded: std::ops::RangeInclusive<i64>,
    sql: &'static str,
) -> Result<(), sqlx::Error> {
    let (from, to) = (*recorded.start(), *recorded.end());
    let mut transaction = connection.begin().await?;
    // Versions that do not know the advisory lock take this one.
    raw_sql("LOCK TABLE schema_migrations IN EXCLUSIVE MODE").execute(&mut *transaction).await?;
    let known = sqlx::query("SELECT FROM schema_migrations WHERE id = $1").bind(to);
    if known.fetch_optional(&mut *transaction).await?.is_some() {
        return transaction.rollback().await; // one that is only dropped keeps its lock for a while
    }
    raw_sql(sql).execute(&mut *transaction).await?;
    let insert = sqlx::query("INSERT INTO schema_migrations SELECT generate_series($1::bigint, $2::bigint)");
    insert.bind(from).bind(to).execute(&mut *transaction).await?;
    let notify = sqlx::query("SELECT pg_notify('schema_migrations', $1::text)").bind(to.to_string());
    notify.execute(&mut *transaction).await?;
    transaction.commit().await
}
