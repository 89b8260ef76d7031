//! `managed_certificates` and `acme_config`.

use chrono::{DateTime, Utc};
use flynn_types::acme::{AcmeConfig, ManagedCertificate, ManagedCertificateStatus};
use flynn_types::time::GoTime;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{Columns as _, all};
use crate::error::{Error, Result};

/// The name in the database, and on the wire.
pub(crate) fn status_name(status: ManagedCertificateStatus) -> &'static str {
    match status {
        ManagedCertificateStatus::None => "",
        ManagedCertificateStatus::Pending => "pending",
        ManagedCertificateStatus::Issued => "issued",
        ManagedCertificateStatus::Failed => "failed",
        ManagedCertificateStatus::Renewing => "renewing",
    }
}

fn certificate(row: &PgRow) -> sqlx::Result<ManagedCertificate> {
    use ManagedCertificateStatus::{Failed, Issued, Pending, Renewing};
    let status: String = row.try_get("status")?;
    let time = |column| row.time(column).map(Option::unwrap_or_default);
    Ok(ManagedCertificate {
        id: row.id("id")?,
        domain: row.try_get("domain")?,
        route_id: row.id("route_id")?,
        status: [Pending, Issued, Failed, Renewing]
            .into_iter()
            .find(|known| status_name(*known) == status)
            .unwrap_or(Pending),
        cert: row.or_default("cert")?,
        key: row.or_default("key")?,
        expires_at: time("expires_at")?,
        last_error: row.or_default("last_error")?,
        last_error_at: time("last_error_at")?,
        created_at: time("created_at")?,
        updated_at: time("updated_at")?,
        ..ManagedCertificate::default()
    })
}

/// All, newest first.
pub(crate) async fn list(sql: &mut PgConnection) -> Result<Vec<ManagedCertificate>> {
    let rows = sqlx::query("SELECT * FROM managed_certificates WHERE deleted_at IS NULL ORDER BY created_at DESC, id");
    Ok(all(&rows.fetch_all(sql).await?, certificate)?)
}

/// Those that changed since, oldest change first.
pub(crate) async fn since(sql: &mut PgConnection, since: DateTime<Utc>) -> Result<Vec<ManagedCertificate>> {
    let rows = sqlx::query(
        "SELECT * FROM managed_certificates WHERE deleted_at IS NULL AND updated_at >= $1 ORDER BY updated_at, id",
    );
    Ok(all(&rows.bind(since).fetch_all(sql).await?, certificate)?)
}

pub(crate) async fn get(sql: &mut PgConnection, id: Uuid) -> Result<ManagedCertificate> {
    let row = sqlx::query("SELECT * FROM managed_certificates WHERE id = $1 AND deleted_at IS NULL").bind(id);
    Ok(certificate(&row.fetch_optional(sql).await?.ok_or(Error::NotFound)?)?)
}

/// The certificate of a domain for this route: a new one is pending, an issued one is kept while it is valid (H11).
pub(crate) async fn attach(sql: &mut PgConnection, route_id: Uuid, domain: &str) -> Result<ManagedCertificate> {
    let upsert = sqlx::query(
        "INSERT INTO managed_certificates AS m (domain, route_id) VALUES ($1, $2)
         ON CONFLICT (domain) WHERE deleted_at IS NULL DO UPDATE SET route_id = excluded.route_id, updated_at = now(),
            status = CASE WHEN m.status IN ('issued', 'renewing') AND m.expires_at > now() AND m.cert IS NOT NULL
                THEN m.status ELSE 'pending' END
         RETURNING *",
    );
    Ok(certificate(&upsert.bind(domain).bind(route_id).fetch_one(sql).await?)?)
}

/// Stores what became of it.
pub(crate) async fn update(sql: &mut PgConnection, id: Uuid, new: &ManagedCertificate) -> Result<ManagedCertificate> {
    let update = sqlx::query(
        "UPDATE managed_certificates SET status = $2, cert = nullif($3, ''), key = nullif($4, ''), expires_at = $5,
            last_error = nullif($6, ''), last_error_at = $7, updated_at = now()
         WHERE id = $1 AND deleted_at IS NULL RETURNING *",
    );
    let update = update.bind(id).bind(status_name(new.status)).bind(&new.cert).bind(&new.key).bind(new.expires_at.0);
    let row = update.bind(&new.last_error).bind(new.last_error_at.0).fetch_optional(sql).await?;
    Ok(certificate(&row.ok_or(Error::NotFound)?)?)
}

/// With the account's key.
pub(crate) async fn config(sql: &mut PgConnection) -> Result<AcmeConfig> {
    let row = sqlx::query("SELECT * FROM acme_config WHERE id = 1").fetch_one(sql).await?;
    let account_key: String = row.or_default("account_key")?;
    Ok(AcmeConfig {
        enabled: row.try_get("enabled")?,
        contact_email: row.or_default("contact_email")?,
        directory_url: row.or_default("directory_url")?,
        terms_of_service_agreed: row.try_get("terms_of_service_agreed")?,
        has_account_key: !account_key.is_empty(),
        account_key,
        created_at: row.time("created_at")?.unwrap_or(GoTime::UNSET),
        updated_at: row.time("updated_at")?.unwrap_or(GoTime::UNSET),
    })
}

/// A key that is not given stays.
pub(crate) async fn set_config(sql: &mut PgConnection, new: &AcmeConfig) -> Result<()> {
    let update = sqlx::query(
        "UPDATE acme_config SET enabled = $1, contact_email = $2, directory_url = $3, terms_of_service_agreed = $4,
            account_key = coalesce(nullif($5, ''), account_key), updated_at = now() WHERE id = 1",
    );
    let update = update.bind(new.enabled).bind(&new.contact_email).bind(&new.directory_url);
    update.bind(new.terms_of_service_agreed).bind(&new.account_key).execute(sql).await?;
    Ok(())
}
