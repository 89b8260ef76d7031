//! The change of the cluster's domain (spec scheduler-and-deployer section 14.4). Every step looks at what is, so that one
//! that was interrupted goes on where it was: the certificate is kept, apps that have the new values are left alone, and
//! so are routes that exist.

mod apps;
mod routes;

use flynn_certificate::CertificateError;
use flynn_controller_client::ClientError;
use flynn_types::controller::{DomainMigration, DomainMigrationEvent, EventType, TlsCert};
use sqlx::types::Json;
use sqlx::{PgPool, Row as _};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::Context;
use crate::events::{self, NewEvent};
use crate::queue::{Ended, Job, Lease, LeaseError};

/// Why the domain is not changed yet.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the controller: {0}")]
    Controller(#[from] ClientError),
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("the deployment of {app} goes on for too long")]
    Slow { app: &'static str },
    #[error("the deployment of {app} failed: {reason}")]
    Deployment { app: &'static str, reason: String },
    #[error("the worker ends")]
    Stopped,
    #[error(transparent)]
    Lease(#[from] LeaseError),
}

/// Works on a change of domain until it is done, or until another worker shall.
pub(crate) async fn run(context: &Context, job: &Job, lease: &Lease, stop: &CancellationToken) -> Ended {
    let known = match serde_json::from_str::<DomainMigration>(&job.args) {
        Ok(migration) => migration.id,
        Err(err) => return Ended::Failed(format!("the job's arguments: {err}")),
    };
    let Ok(id) = known.parse::<Uuid>() else { return Ended::Done };
    let migration = match unfinished(&context.pool, id).await {
        Ok(Some(migration)) => migration,
        Ok(None) => return Ended::Done, // X18
        Err(err) => return Ended::Failed(format!("the database: {err}")),
    };
    let working = Working { context, lease, stop };
    match working.migrate(id, migration.clone()).await {
        Ok(()) => Ended::Recorded,
        Err(Failure::Lease(LeaseError::Lost)) => Ended::Lost,
        Err(Failure::Stopped) => Ended::Released,
        Err(failure) => {
            let text = failure.to_string();
            let event = event(&migration, text.clone());
            let told = async { events::insert(&mut *context.pool.acquire().await?, event).await };
            if let Err(err) = told.await {
                tracing::debug!(%err, "a failure is not told of");
            }
            Ended::Failed(text)
        }
    }
}

fn event(migration: &DomainMigration, error: String) -> NewEvent {
    let data = DomainMigrationEvent { domain_migration: Some(migration.clone()), error };
    NewEvent::new(EventType::DomainMigration, &migration.id, &data)
}

/// What a change of domain is worked on with.
struct Working<'a> {
    context: &'a Context,
    lease: &'a Lease,
    stop: &'a CancellationToken,
}

impl Working<'_> {
    async fn migrate(&self, id: Uuid, mut migration: DomainMigration) -> Result<(), Failure> {
        let certificate = self.certificate(id, &mut migration).await?;
        for change in apps::changes(&migration.domain, &certificate) {
            self.change_app(&change).await?;
        }
        self.add_routes(&migration, &certificate).await?;
        self.finish(id, migration).await
    }

    /// May the next step be done?
    async fn go_on(&self) -> Result<(), Failure> {
        if self.stop.is_cancelled() {
            return Err(Failure::Stopped);
        }
        Ok(self.lease.ensure().await?)
    }

    /// The new domain's certificate: the one that was given, or one that is made and stored (X14).
    async fn certificate(&self, id: Uuid, migration: &mut DomainMigration) -> Result<TlsCert, Failure> {
        if let Some(known) = &migration.tls_cert {
            return Ok(known.clone());
        }
        self.go_on().await?;
        let domain = &migration.domain;
        let made = flynn_certificate::issue(&[domain.clone(), format!("*.{domain}")])?;
        let update = sqlx::query_scalar::<_, Json<TlsCert>>(
            "UPDATE domain_migrations SET tls_cert = coalesce(tls_cert, $2) WHERE migration_id = $1 RETURNING tls_cert",
        );
        let stored = update.bind(id).bind(Json(&made)).fetch_one(&self.context.pool).await?.0;
        migration.tls_cert = Some(stored.clone());
        Ok(stored)
    }

    /// That it is done, its last event and the end of the job, or none of it (X17).
    async fn finish(&self, id: Uuid, mut migration: DomainMigration) -> Result<(), Failure> {
        let mut transaction = self.context.pool.begin().await?;
        self.lease.end(&mut transaction).await?;
        let update = sqlx::query_scalar::<_, chrono::DateTime<chrono::Utc>>(
            "UPDATE domain_migrations SET finished_at = now() WHERE migration_id = $1 RETURNING finished_at",
        );
        migration.finished_at = Some(update.bind(id).fetch_one(&mut *transaction).await?.into());
        events::insert(&mut transaction, event(&migration, String::new()).update()).await?;
        Ok(transaction.commit().await?)
    }
}

/// A change of domain, if it is not done.
async fn unfinished(pool: &PgPool, id: Uuid) -> Result<Option<DomainMigration>, sqlx::Error> {
    let found = sqlx::query(
        "SELECT old_domain, domain, old_tls_cert, tls_cert, created_at FROM domain_migrations
         WHERE migration_id = $1 AND finished_at IS NULL",
    );
    let Some(row) = found.bind(id).fetch_optional(pool).await? else { return Ok(None) };
    let certificate = |column: &str| -> Result<Option<TlsCert>, sqlx::Error> {
        let stored = row.try_get::<Option<Json<Option<TlsCert>>>, _>(column)?;
        Ok(stored.and_then(|json| json.0))
    };
    let created_at: Option<chrono::DateTime<chrono::Utc>> = row.try_get("created_at")?;
    Ok(Some(DomainMigration {
        id: id.to_string(),
        old_tls_cert: certificate("old_tls_cert")?,
        tls_cert: certificate("tls_cert")?,
        old_domain: row.try_get("old_domain")?,
        domain: row.try_get("domain")?,
        created_at: created_at.map(Into::into),
        finished_at: None,
    }))
}
