//! Deployments: the way from one release of an app to the next (spec section 11).
//!
//! [`next::next`] says what is to be done, given what runs; [`step::step`] is the course of a deployment as a pure state
//! machine; the driver does what it says. What runs is read, not remembered, so that a deployment which a worker left
//! goes on with another one where it was. Only that it goes back, and why, is kept in the deployment's row.

mod driver;
mod evidence;
pub mod next;
pub mod step;
mod store;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use flynn_types::controller::Strategy;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::Context;
use crate::queue::{Ended, Job, Lease, LeaseError};
use driver::{Driver, Paused};
use next::{Release, Rollout};
use store::Deployment;

/// Failures after which a deployment is given up: it blocks its app until then (W3).
const TRIES: i32 = 5;

/// Arguments of the job, with capital letters as existing rows have them.
#[derive(Deserialize)]
struct Arguments {
    #[serde(rename = "ID")]
    id: Uuid,
}

/// Works on a deployment until it is over, or until another worker shall.
pub(crate) async fn run(context: &Context, job: &Job, lease: Arc<Lease>, stop: CancellationToken) -> Ended {
    let Arguments { id } = match serde_json::from_str(&job.args) {
        Ok(arguments) => arguments,
        Err(err) => return Ended::Failed(format!("the job's arguments: {err}")),
    };
    let deployment = match store::unfinished(&context.pool, id).await {
        Ok(Some(deployment)) => deployment,
        Ok(None) => return Ended::Done, // it is over, or its app is gone with all that it had
        Err(err) => return Ended::Failed(err.to_string()),
    };
    match begin(context, job, deployment, lease, stop.clone()).await {
        Ok(()) => Ended::Recorded,
        Err(Paused::Lease(LeaseError::Lost)) => Ended::Lost,
        Err(_) if stop.is_cancelled() => Ended::Released,
        Err(err) => Ended::Failed(err.to_string()),
    }
}

async fn begin(
    context: &Context,
    job: &Job,
    deployment: Deployment,
    lease: Arc<Lease>,
    stop: CancellationToken,
) -> Result<(), Paused> {
    let given_up = (job.error_count >= TRIES).then(|| format!("given up after {TRIES} tries"));
    let mut failure = deployment.failure.clone();
    let rollout = match rollout(context, &deployment).await {
        Ok(rollout) => rollout,
        Err(reason) => {
            failure = failure.or(Some(reason));
            Rollout::AllAtOnce
        }
    };
    let plan = deployment.plan(rollout);
    let (pool, controller, ear) = (context.pool.clone(), context.controller.clone(), context.wake.subscribe());
    let driver = Driver { pool, controller, lease, stop, ear, deployment, plan };
    driver.run(failure.or(given_up)).await
}

/// How jobs are replaced, or why they cannot be.
async fn rollout(context: &Context, deployment: &Deployment) -> Result<Rollout, String> {
    let stepwise = |first, batch| Rollout::Stepwise { first, batch };
    match deployment.strategy() {
        Some(Strategy::AllAtOnce) => Ok(Rollout::AllAtOnce),
        Some(Strategy::OneByOne) => Ok(stepwise(Release::New, 1)),
        Some(Strategy::OneDownOneUp) => Ok(stepwise(Release::Old, 1)),
        Some(Strategy::InBatches) => match deployment.batch_size {
            Some(size) => Ok(stepwise(Release::New, i64::from(size))),
            None => {
                let hosts = context.controller.host_count().await;
                let hosts = hosts.inspect_err(|err| tracing::warn!(%err, "the hosts are not known: one job at a time"));
                Ok(stepwise(Release::New, i64::try_from(hosts.unwrap_or(1)).unwrap_or(1)))
            }
        },
        Some(Strategy::Sirenia | Strategy::DiscoverdMeta) => {
            Err(format!("this cluster cannot deploy by the strategy {:?} yet", deployment.strategy))
        }
        None => Err(format!("deployment: unknown strategy {:?}", deployment.strategy)),
    }
}
