//! `backups` and `domain_migrations`.

use flynn_types::controller::{BackupStatus, ClusterBackup, DomainMigration};
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::Columns as _;
use crate::error::{Error, Result};

fn backup(row: &PgRow) -> sqlx::Result<ClusterBackup> {
    Ok(ClusterBackup {
        id: row.id("backup_id")?,
        status: match row.try_get("status")? {
            "complete" => BackupStatus::Complete,
            "error" => BackupStatus::Error,
            _ => BackupStatus::Running,
        },
        sha512: row.or_default("sha512")?,
        size: row.or_default("size")?,
        error: row.or_default("error")?,
        created_at: row.time("created_at")?,
        updated_at: row.time("updated_at")?,
        completed_at: row.time("completed_at")?,
    })
}

/// The one that changed last (B2).
pub(crate) async fn latest_backup(sql: &mut PgConnection) -> Result<ClusterBackup> {
    let row = sqlx::query("SELECT * FROM backups WHERE deleted_at IS NULL ORDER BY updated_at DESC LIMIT 1");
    Ok(backup(&row.fetch_optional(sql).await?.ok_or(Error::NotFound)?)?)
}

pub(crate) async fn insert_migration(sql: &mut PgConnection, new: &DomainMigration) -> Result<DomainMigration> {
    let insert = sqlx::query(
        "INSERT INTO domain_migrations (migration_id, old_domain, domain, old_tls_cert, tls_cert)
         VALUES ($1, $2, $3, $4, $5) RETURNING *",
    );
    let insert = insert.bind(Uuid::new_v4()).bind(&new.old_domain).bind(&new.domain);
    let insert = insert.bind(new.old_tls_cert.as_ref().map(Json)).bind(new.tls_cert.as_ref().map(Json));
    let row = insert.fetch_one(sql).await?;
    Ok(DomainMigration {
        id: row.id("migration_id")?,
        old_tls_cert: row.json("old_tls_cert")?,
        tls_cert: row.json("tls_cert")?,
        old_domain: row.try_get("old_domain")?,
        domain: row.try_get("domain")?,
        created_at: row.time("created_at")?,
        finished_at: row.time("finished_at")?,
    })
}
