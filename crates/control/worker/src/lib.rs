//! The worker: does what the controller orders and does not do itself (spec scheduler-and-deployer sections 11, 13, 14).
//!
//! [`serve`] takes jobs from the queue in the controller's database, several at a time, and answers requests for its
//! health. It changes apps, formations and releases through the controller's API, as any client would; it reads them,
//! and writes events, the end of deployments and the queue, in the database.
//!
//! **Invariant:** a job is worked on by one worker at a time, and what it does is done only under a lease that holds.
//! **Invariant:** `deploy::next` and `deploy::step` read no clock, no socket and no database.

#![forbid(unsafe_code)]

mod deletion;
pub mod deploy;
mod domain;
mod events;
mod queue;
mod serve;

use std::sync::Arc;

use flynn_controller_client::Client;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use queue::{Ended, Job, Lease, Wake};
pub use serve::{Config, Discovery, SLOTS, ServeError, serve};

/// What all jobs are worked on with.
pub(crate) struct Context {
    pool: PgPool,
    controller: Client,
    /// A client of the blob store.
    files: flynn_http::Client,
    wake: Wake,
}

impl Context {
    /// Works on a job, whatever it is.
    async fn work(&self, job: Job, lease: Arc<Lease>, stop: CancellationToken) -> Ended {
        match job.class.as_str() {
            "deployment" => deploy::run(self, &job, lease, stop).await,
            "app_deletion" => deletion::app(self, &job, &lease).await,
            "app_garbage_collection" => deletion::garbage(self, &job, &lease).await,
            "domain_migration" => domain::run(self, &job, &lease, &stop).await,
            "release_cleanup" => deletion::release(self, &job, &lease).await,
            unknown => Ended::Failed(format!("unknown job type: {unknown:?}")),
        }
    }
}
