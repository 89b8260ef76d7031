//! Why a deployment failed, in words that help: the sentence that clients know, then what else is known.

use std::time::Duration;

use super::driver::Driver;
use super::step::Down;
use super::store;

/// Lines of a job's output.
const LINES: usize = 10;
/// Longest line in characters.
const LINE_LENGTH: usize = 500;
const UNREGISTERED: &str =
    "it is not registered with its service; does it listen on its port, and pass its health check?";
/// What is not known within this is left out.
const PATIENCE: Duration = Duration::from_secs(5);

/// Adds to a reason what is known of the job that went down, or of those that did not come up.
pub(super) async fn with(driver: &Driver, reason: String, culprit: Option<&Down>) -> String {
    let known = async {
        match culprit {
            Some(down) => of_job(driver, down).await,
            None if reason.starts_with("timed out") => of_missing(driver).await,
            None => Vec::new(),
        }
    };
    let known = tokio::time::timeout(PATIENCE, known).await.unwrap_or_default();
    std::iter::once(reason).chain(known).collect::<Vec<_>>().join("\n")
}

async fn of_job(driver: &Driver, down: &Down) -> Vec<String> {
    if down.job.is_empty() {
        return Vec::new(); // it never had a host
    }
    let mut known = Vec::new();
    if let Some(status) = down.exit_status {
        known.push(format!("job {} exited with status {status}", down.job));
    }
    let app = driver.deployment.app.to_string();
    match driver.controller.log_lines(&app, &down.job, LINES).await {
        Ok(lines) if lines.is_empty() => {}
        Ok(lines) => {
            known.push(format!("the last lines of job {}:", down.job));
            known.extend(lines.iter().map(|line| format!("  {}", line.chars().take(LINE_LENGTH).collect::<String>())));
        }
        Err(err) => tracing::debug!(%err, "the output of a job cannot be read"),
    }
    known
}

async fn of_missing(driver: &Driver) -> Vec<String> {
    let deployment = &driver.deployment;
    let missing = store::missing(&driver.pool, deployment.app, deployment.new_release).await.unwrap_or_default();
    let text = |job: &store::Missing| {
        // A job that its host runs is up when its service is: the only thing that it can still wait for.
        let unregistered = (job.state == "starting").then_some(UNREGISTERED);
        let reason = job.reason.as_deref().or(unregistered);
        let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        format!("a {} job is {}{reason}", job.kind, job.state)
    };
    missing.iter().map(text).collect()
}
