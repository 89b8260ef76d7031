//! The end of apps, releases and their files (spec section 14). Every step can be done again: what is gone already is gone.

mod app;
mod garbage;
mod release;

pub(crate) use app::run as app;
pub(crate) use garbage::run as garbage;
pub(crate) use release::run as release;

use flynn_controller_client::ClientError;

use crate::Context;
use crate::events::{self, NewEvent};
use crate::queue::{Ended, Lease, LeaseError};

/// Why something is not deleted yet.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the controller: {0}")]
    Controller(#[from] ClientError),
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
    #[error("delete {uri}: {reason}")]
    File { uri: String, reason: String },
    #[error("the job's arguments: {0}")]
    Arguments(#[from] serde_json::Error),
    #[error(transparent)]
    Lease(#[from] LeaseError),
}

impl Failure {
    /// How the job ends that failed so. Others are told each time (X2).
    async fn ended(self, context: &Context, event: impl FnOnce(String) -> NewEvent) -> Ended {
        if matches!(self, Self::Lease(LeaseError::Lost)) {
            return Ended::Lost;
        }
        let told = async { events::insert(&mut *context.pool.acquire().await?, event(self.to_string())).await };
        if let Err(err) = told.await {
            tracing::debug!(%err, "a failure is not told of");
        }
        Ended::Failed(self.to_string())
    }
}

/// Ends a job together with the event that tells of it.
async fn concluded(context: &Context, lease: &Lease, event: NewEvent) -> Result<(), LeaseError> {
    let mut transaction = context.pool.begin().await?;
    lease.end(&mut transaction).await?;
    events::insert(&mut transaction, event).await?;
    Ok(transaction.commit().await?)
}

/// Deletes a file of the blob store.
async fn delete_file(context: &Context, uri: &str) -> Result<(), Failure> {
    match context.files.send(http::Method::DELETE, uri).await {
        Ok(()) => Ok(()),
        Err(err) if err.is_not_found() => Ok(()),
        Err(err) => {
            let reason = err.status().map_or_else(|| err.to_string(), |status| format!("unexpected status {status}"));
            Err(Failure::File { uri: uri.to_owned(), reason })
        }
    }
}
