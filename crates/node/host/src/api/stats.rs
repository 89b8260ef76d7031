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

pub(super) async fn host(State(host): State<Arc<Host>>) -> Json<HostStats> {
    let mut stats = host.meter().read(&host.runner().run_root);
    stats.host_id = host.id().to_string();
    stats.timestamp = Utc::now().into();
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    stats.running_jobs_count = count(host.runner().live.all().len());
    stats.total_jobs_count = count(host.runner().book.list(false).len());
    Json(stats)
}

pub(super) async fn jobs(State(host): State<Arc<Host>>) -> Json<JobsStats> {
    let ids = host.runner().live.all().into_iter().map(|(id, _)| id);
    let jobs = ids.filter_map(|id| read(&host, &id)).collect();
    Json(JobsStats { host_id: host.id().to_string(), timestamp: Utc::now().into(), jobs })
}

pub(super) async fn job(State(host): State<Arc<Host>>, Path(id): Path<String>) -> Result<Json<JobStats>, Failure> {
    let unknown = || Failure::from(ApiError::object_not_found("no container of that job runs on this host"));
    let id: JobId = id.parse().map_err(|_| unknown())?;
    read(&host, &id).map(Json).ok_or_else(unknown)
}

fn read(host: &Host, id: &JobId) -> Option<JobStats> {
    host.runner().live.get(id)?;
    host.runner().runtime.stats(&host.runner().run_dir(id)).ok()
}
