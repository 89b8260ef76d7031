//! What a pool makes of a server that changes under it.

use std::time::{Duration, Instant};

use flynn_database::{pool, wait_writable};
use flynn_test_postgres::Database;
use sqlx::{Connection as _, Executor as _};

/// Lets the whole server take no writes, or takes that back, as the database peer does.
async fn read_only(database: &Database, on: bool) {
    let options = database.options().options([("default_transaction_read_only", "off")]);
    let mut connection = sqlx::PgConnection::connect_with(&options).await.expect("connect");
    let statement = if on { "SET default_transaction_read_only = on" } else { "RESET default_transaction_read_only" };
    let statement = format!("ALTER SYSTEM {statement}");
    connection.execute(sqlx::AssertSqlSafe(statement)).await.expect("alter the system");
    connection.execute("SELECT pg_reload_conf()").await.expect("reload");
    // Done when a new connection has it: the server tells those that exist before it takes another.
    let deadline = Instant::now() + flynn_patience::seconds(30);
    let seen = if on { "on" } else { "off" };
    while setting(database).await != seen {
        assert!(Instant::now() < deadline, "the server does not read its settings");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn setting(database: &Database) -> String {
    let mut connection = database.connect().await;
    let shown = sqlx::query_scalar("SHOW default_transaction_read_only").fetch_one(&mut connection).await;
    shown.expect("ask for the setting")
}

#[tokio::test]
async fn a_connection_to_a_deposed_primary_is_not_given_out() {
    let database = Database::empty().await;
    let pool = pool(database.options(), "failover-test");
    let backend = "SELECT pg_backend_pid()";
    let before: i32 = sqlx::query_scalar(backend).fetch_one(&pool).await.expect("a writable server");
    read_only(&database, true).await;
    let waiting = tokio::spawn({
        let pool = pool.clone();
        async move {
            let mut connection = wait_writable(&pool).await.expect("writable in the end");
            connection.execute("CREATE TABLE proof (n int)").await.expect("it takes writes");
            sqlx::query_scalar::<_, i32>(backend).fetch_one(&mut *connection).await.expect("it works")
        }
    });
    // The old connection is closed, which only whoever asks for one does.
    let mut watcher = database.connect().await;
    let gone = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1";
    let deadline = Instant::now() + flynn_patience::seconds(30);
    while sqlx::query_scalar::<_, i64>(gone).bind(before).fetch_one(&mut watcher).await.expect("ask") > 0 {
        assert!(Instant::now() < deadline, "the old connection is not closed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!waiting.is_finished(), "a connection that takes no writes was given out");
    read_only(&database, false).await;
    let after = waiting.await.expect("no panic");
    assert_ne!(before, after);
}

#[tokio::test]
async fn connections_that_were_cut_are_replaced_and_bear_the_name() {
    let database = Database::empty().await;
    let pool = pool(database.options(), "failover-test");
    sqlx::query("SELECT 1").execute(&pool).await.expect("a server");
    database.cut_connections().await;
    let name: String = sqlx::query_scalar("SHOW application_name").fetch_one(&pool).await.expect("a new connection");
    assert_eq!(name, "failover-test");
}
