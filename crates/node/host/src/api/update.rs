//! `POST /host/update`

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Answer;
use axum::extract::State;
use flynn_http::{Failure, Json};
use flynn_types::error::ApiError;
use flynn_types::host::Command;
use tokio::process::Command as Process;

use crate::host::Host;

/// Replaces the daemon by a new process; answers when that one serves.
pub(super) async fn update(
    State(host): State<Arc<Host>>,
    Json(command): Json<Command>,
) -> Result<Answer<Command>, Failure> {
    if command.path.is_empty() {
        return Err(ApiError::validation("path", "must be set").into());
    }
    let replacer = host.replacer().cloned().ok_or_else(|| ApiError::unavailable("the daemon is still starting"))?;
    // In a task of its own: half a replacement must not be left when the client hangs up.
    let replacement = tokio::spawn(async move { replacer.replace(command).await });
    let replaced = replacement.await.map_err(|err| ApiError::internal(err.to_string()))?;
    replaced.map(Answer).map_err(|reason| ApiError::internal(reason).into())
}

/// How long the answer may take to reach the client before the daemon ends.
const RESTART_DELAY: Duration = Duration::from_secs(2);

/// Has systemd restart the daemon; its jobs go on.
pub(super) async fn restart(State(host): State<Arc<Host>>) -> Answer<serde_json::Value> {
    let leaving = host.runner().leaving.clone();
    let restart = async {
        tokio::time::sleep(RESTART_DELAY).await;
        // Without waiting: the command ends before systemd ends us.
        let command = Process::new("systemctl").args(["restart", "--no-block", "flynn-host"]).status().await;
        match command {
            Ok(status) if status.success() => {}
            Ok(status) => tracing::warn!(%status, "systemctl does not restart the daemon"),
            Err(err) => tracing::warn!(%err, "systemctl cannot be run"),
        }
    };
    host.runner().tasks.spawn(leaving.run_until_cancelled_owned(restart));
    Answer(serde_json::json!({ "status": "restarting" }))
}
