//! What every cluster's databases begin with (spec appliances section 5.4).

use crate::sql::{Sql, SqlError};

/// The platform's superuser, with the password of the present release.
pub(crate) async fn roles(sql: &mut Sql, password: &str) -> Result<(), SqlError> {
    if !sql.truth("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'flynn')").await? {
        sql.execute("CREATE ROLE flynn").await?;
    }
    let password = sql.literal(password).await?;
    sql.execute(format!("ALTER ROLE flynn WITH LOGIN SUPERUSER CREATEDB CREATEROLE REPLICATION PASSWORD {password}"))
        .await?;
    // Whoever has a database has that one.
    sql.execute("REVOKE CONNECT ON DATABASE postgres, template1 FROM PUBLIC").await
}

/// What new databases are copies of.
pub(crate) async fn template(sql: &mut Sql) -> Result<(), SqlError> {
    for extension in ["uuid-ossp", "pgcrypto"] {
        sql.execute(format!("CREATE EXTENSION IF NOT EXISTS \"{extension}\"")).await?;
    }
    // Since version 15 only the owner may create tables there.
    sql.execute("GRANT ALL ON SCHEMA public TO PUBLIC").await
}
