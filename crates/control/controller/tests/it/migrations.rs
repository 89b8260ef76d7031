use flynn_controller::{MigrateError, migrate};
use flynn_test_postgres::Database;
use sqlx::{Executor as _, raw_sql};

use crate::fixture::Controller;

const BASELINE: &str = include_str!("../../migrations/0049_baseline.sql");

async fn ids(database: &Database) -> Vec<i64> {
    let ids = sqlx::query_scalar("SELECT id FROM schema_migrations ORDER BY id");
    ids.fetch_all(&mut database.connect().await).await.unwrap()
}

/// A database as the Go implementation, or a fork of it, leaves it.
async fn restored(newest: i64) -> Database {
    let database = Database::empty().await;
    let mut sql = database.connect().await;
    raw_sql(BASELINE).execute(&mut sql).await.unwrap();
    sql.execute("CREATE TABLE schema_migrations (id bigint PRIMARY KEY)").await.unwrap();
    let insert = sqlx::query("INSERT INTO schema_migrations SELECT generate_series(1, $1::bigint)");
    insert.bind(newest).execute(&mut sql).await.unwrap();
    sql.execute("INSERT INTO apps (name, meta) VALUES ('old', '{\"a\":\"b\"}')").await.unwrap();
    database
}

#[tokio::test]
async fn an_empty_database_gets_the_go_schema_and_ours() {
    let controller = Controller::start().await;
    controller.get("/apps").await;
    let ids = ids(&controller.database).await;
    assert_eq!((ids[0], ids[48], &ids[49..]), (1, 49, &[1000, 1001, 1002, 1003][..]));
}

#[tokio::test]
async fn databases_of_the_go_implementation_and_its_fork_are_taken_over() {
    for newest in [49, 51] {
        let database = restored(newest).await;
        if newest == 51 {
            let fork = "ALTER TABLE http_routes ADD COLUMN managed_certificate_domain varchar(255);
                INSERT INTO event_types VALUES ('managed_certificate');";
            raw_sql(fork).execute(&mut database.connect().await).await.unwrap();
        }
        // Two processes start at the same time.
        let (mut one, mut two) = (database.connect().await, database.connect().await);
        let (first, second) = tokio::join!(migrate(&mut one), migrate(&mut two));
        assert!(first.is_ok() && second.is_ok(), "{first:?} {second:?}");
        assert_eq!(ids(&database).await.last(), Some(&1003));
        let controller = Controller::start_in(database, None, |_| {}).await;
        let app: flynn_types::controller::App = controller.get("/apps/old").await.json();
        assert_eq!((app.meta["a"].as_str(), app.deploy_timeout), ("b", 30));
    }
}

#[tokio::test]
async fn older_databases_are_refused_and_left_alone() {
    let database = restored(40).await;
    let refused = migrate(&mut database.connect().await).await;
    assert!(matches!(refused, Err(MigrateError::TooOld(40))), "{refused:?}");
    assert_eq!(ids(&database).await.len(), 40);
}

#[tokio::test]
async fn a_change_of_the_schema_by_a_newer_version_does_no_harm() {
    let controller = Controller::start().await;
    controller.app("shop").await;
    for _ in 0..3 {
        controller.get("/apps/shop").await; // prepared on several connections
    }
    let mut sql = controller.database.connect().await;
    let newer = "ALTER TABLE apps ADD COLUMN newer text; SELECT pg_notify('schema_migrations', '5000');";
    let mut stream = controller.stream::<flynn_types::controller::Event>("/events").await;
    raw_sql(newer).execute(&mut sql).await.unwrap();
    // Told after the other, on the same connection.
    sql.execute("INSERT INTO events (object_type, object_id) VALUES ('key', 'x')").await.unwrap();
    assert_eq!(stream.next().await.object_id, "x");
    controller.get("/apps/shop").await.json::<flynn_types::controller::App>();
}

#[tokio::test]
async fn processes_that_start_at_once_on_an_empty_database_wait_for_each_other() {
    for _ in 0..5 {
        let database = Database::empty().await;
        let mut connections = Vec::new();
        for _ in 0..6 {
            connections.push(database.connect().await);
        }
        let migrated = futures_util::future::join_all(connections.iter_mut().map(migrate)).await;
        assert!(migrated.iter().all(Result::is_ok), "{migrated:?}");
        assert_eq!(ids(&database).await.len(), 53);
    }
    let database = Database::empty().await;
    let one = Controller::start_in(database.clone(), None, |_| {}).await;
    let two = Controller::start_in(database, None, |_| {}).await;
    one.app("shop").await;
    two.get("/apps/shop").await.json::<flynn_types::controller::App>();
}
