//! `POST /host/update`

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use flynn_http::{Failure, Json};
use flynn_types::error::ApiError;
use flynn_types::host::Command;

use crate::host::Host;

/// Replaces the daemon by a new process; answers when that one serves.
pub(super) async fn update(State(host): State<Arc<Host>>, Json(command): Json<Command>) -> Result<Answer<Command>, Failure> {
    if command.path.is_empty() {
        return Err(ApiError::validation("path", "must be set").into());
    }
    let replacer = host.replacer().cloned().ok_or_else(|| ApiError::unavailable("the daemon is still starting"))?;
    // In a task of its own: half a replacement must not be left when the client hangs up.
    let replacement = tokio::spawn(async move { replacer.replace(command).await });
    let replaced = replacement.await.map_err(|err| ApiError::internal(err.to_string()))?;
    replaced.map(Answer).map_err(|reason| ApiError::internal(reason).into())
}
