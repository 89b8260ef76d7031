//! `/host/stats`, `/host/jobs-stats`, `/host/jobs/:id/stats`

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use chrono::Utc;
use flynn_http::Failure;
use flynn_types::error::ApiError;
use flynn_types::host::{HostStats, JobStats, JobsStats};
use flynn_types::id::JobId;

use crate::host::Host;

pub(super) async fn host(State(host): State<Arc<Host>>) -> Result<Json<HostStats>, Failure> {
    let reading = Arc::clone(&host);
    let mut stats = blocking(move || reading.meter().read(&reading.runner().run_root)).await?;
    stats.host_id = host.id().to_string();
    stats.timestamp = Utc::now().into();
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let (running, listed) = host.runner().book.counts();
    (stats.running_jobs_count, stats.total_jobs_count) = (count(running), count(listed));
    Ok(Json(stats))
}

pub(super) async fn jobs(State(host): State<Arc<Host>>) -> Result<Json<JobsStats>, Failure> {
    let reading = Arc::clone(&host);
    let jobs = blocking(move || reading.runner().live.ids().iter().filter_map(|id| read(&reading, id)).collect());
    Ok(Json(JobsStats { host_id: host.id().to_string(), timestamp: Utc::now().into(), jobs: jobs.await? }))
}

pub(super) async fn job(State(host): State<Arc<Host>>, Path(id): Path<String>) -> Result<Json<JobStats>, Failure> {
    let unknown = || Failure::from(ApiError::object_not_found("no container of that job runs on this host"));
    let id: JobId = id.parse().map_err(|_| unknown())?;
    blocking(move || read(&host, &id)).await?.map(Json).ok_or_else(unknown)
}

/// Reads many small files of the kernel, off the threads that serve.
async fn blocking<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(read).await.map_err(|err| ApiError::internal(err.to_string()).into())
}

fn read(host: &Host, id: &JobId) -> Option<JobStats> {
    host.runner().live.get(id)?;
    host.runner().runtime.stats(&host.runner().run_dir(id)).ok()
}
