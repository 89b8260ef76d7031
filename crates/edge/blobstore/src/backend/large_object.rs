//! Contents in the database itself. All changes are the transaction's.

use bytes::Bytes;
use sqlx::PgConnection;
use sqlx::postgres::types::Oid;

use super::PIECE;

/// A new, empty one.
pub(crate) async fn create(connection: &mut PgConnection) -> Result<Oid, sqlx::Error> {
    sqlx::query_scalar("SELECT lo_create(0)").fetch_one(connection).await
}

pub(crate) async fn write(
    connection: &mut PgConnection,
    object: Oid,
    offset: i64,
    piece: &[u8],
) -> Result<(), sqlx::Error> {
    let put = sqlx::query("SELECT lo_put($1, $2, $3)");
    put.bind(object).bind(offset).bind(piece).execute(connection).await.map(drop)
}

/// Up to `length` bytes, at most a piece.
pub(crate) async fn read(
    connection: &mut PgConnection,
    object: Oid,
    offset: i64,
    length: usize,
) -> Result<Bytes, sqlx::Error> {
    let length = i32::try_from(length.min(PIECE)).unwrap_or(i32::MAX);
    let get = sqlx::query_scalar::<_, Vec<u8>>("SELECT lo_get($1, $2, $3)");
    get.bind(object).bind(offset).bind(length).fetch_one(connection).await.map(Bytes::from)
}

/// Copies the first `size` bytes within the database.
pub(crate) async fn copy(connection: &mut PgConnection, from: Oid, size: i64) -> Result<Oid, sqlx::Error> {
    let to = create(&mut *connection).await?;
    let mut offset = 0;
    while offset < size {
        let put = sqlx::query("SELECT lo_put($1, $2, lo_get($3, $2, $4))");
        put.bind(to).bind(offset).bind(from).bind(PIECE as i32).execute(&mut *connection).await?;
        offset += PIECE as i64;
    }
    Ok(to)
}
