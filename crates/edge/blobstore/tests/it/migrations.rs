//! Databases of the Go implementation.

use flynn_test_postgres::Database;
use sqlx::raw_sql;

use crate::rig::{Blobstore, etag};

/// As the Go implementation's first schema stores a file: digest in hex, a large object, perhaps no type.
const OLD: &str = "
    CREATE TABLE schema_migrations (id bigint PRIMARY KEY);
    INSERT INTO schema_migrations VALUES (1);
    INSERT INTO files (file_id, name, size, type, digest) VALUES
        (lo_from_bytea(0, 'old content'), '/old', 11, 'text/old', encode(sha512('old content'), 'hex')),
        (lo_from_bytea(0, 'x'), '/untyped', 1, NULL, NULL);
";

#[tokio::test]
async fn b9_files_of_the_first_schema_are_served() {
    let database = Database::empty().await;
    let mut connection = database.connect().await;
    raw_sql(include_str!("../../migrations/0001_files.sql")).execute(&mut connection).await.unwrap();
    raw_sql(OLD).execute(&mut connection).await.unwrap();
    let blobstore = Blobstore::start_on(database).await;
    let answer = blobstore.get("/old").await;
    assert_eq!((answer.status, answer.text(), answer.header("content-type")), (200, "old content", "text/old"));
    assert_eq!(answer.header("etag"), etag(b"old content"));
    let answer = blobstore.get("/untyped").await;
    assert_eq!((answer.text(), answer.header("content-type"), answer.header("etag")), ("x", "", "(none)"));
    blobstore.put("/old", "!", &[("blobstore-offset", "11")]).await;
    assert_eq!(blobstore.get("/old").await.text(), "old content!");
    let ids = sqlx::query_scalar::<_, i64>("SELECT id FROM schema_migrations ORDER BY id");
    assert_eq!(ids.fetch_all(&mut connection).await.unwrap(), [1, 2]);
}
