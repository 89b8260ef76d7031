//! The apps of the platform that know the domain (X15).

use std::time::Duration;

use flynn_controller_client::ClientError;
use flynn_http::Backoff;
use flynn_types::controller::{DeploymentEvent, Release, TlsCert};
use sqlx::types::Json;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Failure, Working};

/// How long a deployment may take that somebody else ordered.
const OTHERS: Duration = Duration::from_secs(120);
/// How long our own may take.
const OWN: Duration = Duration::from_secs(300);
/// How long the controller may be away, which is one of those apps.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(500);

/// Variables that an app is to have.
pub(super) struct Change {
    app: &'static str,
    env: [(&'static str, String); 2],
}

/// In this order: routes of new apps have the new domain before the router knows its certificate, as they had before.
pub(super) fn changes(domain: &str, certificate: &TlsCert) -> [Change; 2] {
    [
        Change {
            app: "controller",
            env: [("DEFAULT_ROUTE_DOMAIN", domain.to_owned()), ("CA_CERT", certificate.ca_cert.clone())],
        },
        Change { app: "router", env: [("TLSCERT", certificate.cert.clone()), ("TLSKEY", certificate.key.clone())] },
    ]
}

impl Change {
    /// Whether a release has all of the values (W31).
    fn is_in(&self, release: &Release) -> bool {
        self.env.iter().all(|(name, value)| release.env.get(*name) == Some(value))
    }

    /// The release that follows this one.
    fn applied(&self, release: &Release) -> Release {
        let mut next = Release { id: String::new(), created_at: None, ..release.clone() };
        next.env.extend(self.env.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        next
    }
}

impl Working<'_> {
    /// Deploys the app with the new values, unless it has them.
    pub(super) async fn change_app(&self, change: &Change) -> Result<(), Failure> {
        let controller = &self.context.controller;
        let Some(app) = self.patiently(async || controller.app(change.app).await).await? else {
            tracing::info!(app = change.app, "there is no such app, whose domain would change");
            return Ok(());
        };
        // Also one that was ordered by a worker before.
        if let Some(last) = self.unfinished_deployment(&app.id).await? {
            self.end_of(change.app, last, OTHERS).await?;
        }
        let current = match self.patiently(async || controller.current_release(&app.id).await).await {
            Ok(release) => release,
            Err(Failure::Controller(err)) if err.is_not_found() => return Ok(()), // it does not run
            Err(err) => return Err(err),
        };
        if change.is_in(&current) {
            return Ok(());
        }
        self.go_on().await?;
        let next = self.next_release(&app.id, change, &current).await?;
        self.go_on().await?;
        let ordered = self.patiently(async || controller.deploy(&app.id, &next).await).await;
        let deployment = match ordered {
            Ok(deployment) if deployment.finished_at.is_some() => return Ok(()),
            Ok(deployment) => deployment.id.parse().ok(),
            // Its answer may have been lost.
            Err(err) => match self.unfinished_deployment(&app.id).await? {
                Some(ours) => Some(ours),
                None => return Err(err),
            },
        };
        let Some(deployment) = deployment else { return Ok(()) };
        match self.end_of(change.app, deployment, OWN).await? {
            Some(reason) => Err(Failure::Deployment { app: change.app, reason }),
            None => Ok(()),
        }
    }

    /// The release to deploy: one that an interrupted try made, or a new one.
    async fn next_release(&self, app: &str, change: &Change, current: &Release) -> Result<String, Failure> {
        let controller = &self.context.controller;
        let made = self.patiently(async || controller.releases(app).await).await?;
        let expected = change.applied(current);
        let same = |made: &&Release| {
            made.env == expected.env
                && made.processes == expected.processes
                && made.artifact_ids == expected.artifact_ids
        };
        if let Some(made) = made.iter().find(same) {
            return Ok(made.id.clone());
        }
        Ok(self.patiently(async || controller.create_release(&expected).await).await?.id)
    }

    async fn unfinished_deployment(&self, app: &str) -> Result<Option<Uuid>, Failure> {
        let found = sqlx::query_scalar(
            "SELECT deployment_id FROM deployments WHERE app_id = $1::uuid AND finished_at IS NULL LIMIT 1",
        );
        Ok(found.bind(app).fetch_optional(&self.context.pool).await?)
    }

    /// Waits for the end of a deployment, and gives the reason if it failed.
    async fn end_of(&self, app: &'static str, id: Uuid, limit: Duration) -> Result<Option<String>, Failure> {
        let until = Instant::now() + limit;
        loop {
            if self.stop.is_cancelled() {
                return Err(Failure::Stopped);
            }
            let over = sqlx::query_scalar::<_, bool>(
                "SELECT finished_at IS NOT NULL FROM deployments WHERE deployment_id = $1",
            );
            match over.bind(id).fetch_optional(&self.context.pool).await {
                Ok(Some(false)) => {}
                Ok(_) => return self.failure_of(id).await,
                Err(err) if Instant::now() >= until => return Err(err.into()),
                Err(err) => tracing::debug!(%err, "a deployment cannot be read"),
            }
            if Instant::now() >= until {
                return Err(Failure::Slow { app });
            }
            let _ = self.stop.run_until_cancelled(tokio::time::sleep(POLL)).await;
        }
    }

    async fn failure_of(&self, id: Uuid) -> Result<Option<String>, Failure> {
        let last = sqlx::query_scalar::<_, Json<DeploymentEvent>>(
            "SELECT data FROM events WHERE object_type = 'deployment' AND object_id = $1 ORDER BY event_id DESC LIMIT 1",
        );
        let last = last.bind(id.to_string()).fetch_optional(&self.context.pool).await?;
        Ok(last.map(|event| event.0.error).filter(|reason| !reason.is_empty()))
    }

    /// Repeats a request while the controller is away.
    pub(super) async fn patiently<T, F>(&self, request: impl FnMut() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        Ok(flynn_http::retry(backoff, PATIENCE, self.stop, ClientError::is_retryable, request).await?)
    }
}
