//! What is about the whole cluster: its domain, records of backups, its hosts (spec controller-api sections 4.11, 6 B, M).

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use flynn_http::ClientError;
use flynn_types::controller::{ClusterBackup, DomainMigration, DomainMigrationEvent, EventType, TlsCert};
use flynn_types::error::ApiError;
use flynn_types::host::{HostStats, metadata};
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::debug;

use super::job::of_host;
use crate::api::endpoints::Endpoints;
use crate::database::{Change, NewEvent};
use crate::error::{Error, Result, invalid};
use crate::hosts::{self, Host};
use crate::input::Input;
use crate::shared::Shared;
use crate::store;

pub(super) fn endpoints() -> Endpoints {
    Endpoints::new()
        .get("/backup", "Record of the latest backup", backup)
        .put("/domain", "Change the cluster's domain; the worker does it", migrate_domain)
        .taking::<DomainMigration>()
        .get("/hosts", "All hosts", list_hosts)
        .get("/hosts/{host}/stats", "Figures of a host", host_stats)
        .get("/cluster/stats", "Figures of all hosts that answer", cluster_stats)
        .get("/cluster/jobs-stats", "Figures of all jobs", jobs_stats)
        .get("/apps/{app}/jobs-stats", "Figures of an app's jobs", jobs_stats_of_app)
}

/// The latest backup's record; whoever takes JSON asks for it.
async fn backup(State(shared): State<Shared>, headers: HeaderMap) -> Result<Json<ClusterBackup>> {
    let accepts_json = |value: &header::HeaderValue| value.to_str().is_ok_and(|text| text.contains("json"));
    if !headers.get_all(header::ACCEPT).iter().any(accepts_json) {
        let text = "this API gives records of backups only (Accept: application/json): it does not make them";
        return Err(ApiError::internal(text).into());
    }
    Ok(Json(store::cluster::latest_backup(&mut *shared.sql().await?).await?))
}

/// Ordered here; the worker carries it out (M1).
async fn migrate_domain(
    State(shared): State<Shared>,
    Input(sent): Input<DomainMigration>,
) -> Result<Json<DomainMigration>> {
    let current = &shared.config.default_route_domain;
    if sent.old_domain != *current {
        let text = format!("Can't migrate from {:?} when currently using {current:?}", sent.old_domain);
        return Err(invalid("", text));
    }
    if sent.domain.is_empty() || sent.domain == *current {
        return Err(invalid("domain", "must be another domain"));
    }
    if !is_domain(&sent.domain) {
        return Err(invalid("domain", "must be a name in DNS, in ASCII and lower case"));
    }
    let mut change = shared.change().await?;
    let old_tls_cert = router_certificate(&mut change).await?;
    let stored = store::cluster::insert_migration(change.sql(), &DomainMigration { old_tls_cert, ..sent }).await?;
    let data = DomainMigrationEvent { domain_migration: Some(stored.clone()), error: String::new() };
    change.emit(NewEvent::new(EventType::DomainMigration, &stored.id, &data));
    change.enqueue("domain_migration", &stored).await?;
    change.commit().await?;
    Ok(Json(stored))
}

/// Whether certificates and names below it can be made for it.
fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        (1..=63).contains(&label.len()) && label.chars().all(fits) && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}

/// What the router's app serves by default; none before it is deployed.
async fn router_certificate(change: &mut Change) -> Result<Option<TlsCert>> {
    let release = match store::app::get(change.sql(), "router").await {
        Ok(router) => match store::id(&router.release_id) {
            Ok(id) => store::release::get(change.sql(), id).await?,
            Err(_) => return Ok(None),
        },
        Err(Error::NotFound) => return Ok(None),
        Err(err) => return Err(err),
    };
    let var = |name: &str| release.env.get(name).cloned().unwrap_or_default();
    Ok(Some(TlsCert { cert: var("TLSCERT"), key: var("TLSKEY"), ..TlsCert::default() }))
}

#[derive(Serialize)]
struct HostInfo {
    id: String,
    tags: BTreeMap<String, String>,
    addr: String,
}

async fn list_hosts(State(shared): State<Shared>) -> Result<Json<Vec<HostInfo>>> {
    let mut hosts = hosts::all(&shared).await?;
    hosts.sort_by(|one, other| one.id.cmp(&other.id));
    Ok(Json(hosts.into_iter().map(|host| HostInfo { id: host.id, tags: host.tags, addr: host.addr }).collect()))
}

async fn host_stats(State(shared): State<Shared>, Path(id): Path<String>) -> Result<Json<HostStats>> {
    let host = hosts::all(&shared).await?.into_iter().find(|host| host.id == id).ok_or(Error::NotFound)?;
    host.client.stats().await.map(Json).map_err(of_host)
}

/// What each host gives, at the same time; those that do not answer are left out.
async fn of_each<T, F>(hosts: Vec<Host>, ask: impl Fn(Host) -> F) -> Vec<T>
where
    F: Future<Output = Result<T, ClientError>>,
{
    let answers = futures_util::future::join_all(hosts.into_iter().map(ask)).await;
    let told = |answer: Result<T, ClientError>| answer.inspect_err(|err| debug!(%err, "a host gives no figures")).ok();
    answers.into_iter().filter_map(told).collect()
}

async fn cluster_stats(State(shared): State<Shared>) -> Result<Json<Vec<HostStats>>> {
    Ok(Json(of_each(hosts::all(&shared).await?, |host| async move { host.client.stats().await }).await))
}

async fn jobs_stats(State(shared): State<Shared>) -> Result<Json<Vec<Map<String, Value>>>> {
    Ok(Json(figures(&shared).await?))
}

async fn jobs_stats_of_app(
    State(shared): State<Shared>,
    Path(app): Path<String>,
) -> Result<Json<Vec<Map<String, Value>>>> {
    let app = store::app::get(&mut *shared.sql().await?, &app).await?;
    let mut figures = figures(&shared).await?;
    figures.retain(|job| job.get("app_id").is_some_and(|id| *id == app.id));
    Ok(Json(figures))
}

/// Where a job's metadata says whose it is.
const OWNER: [(&str, &str); 4] = [
    ("app_id", metadata::APP),
    ("app_name", metadata::APP_NAME),
    ("release_id", metadata::RELEASE),
    ("process_type", metadata::TYPE),
];

/// Figures of all jobs, each with whose it is.
async fn figures(shared: &Shared) -> Result<Vec<Map<String, Value>>> {
    let each = of_each(hosts::all(shared).await?, figures_of);
    Ok(each.await.concat())
}

async fn figures_of(host: Host) -> Result<Vec<Map<String, Value>>, ClientError> {
    let (stats, jobs) = tokio::try_join!(host.client.jobs_stats(), host.client.jobs(true))?;
    let jobs = stats.jobs.into_iter().filter_map(|stats| {
        let Ok(Value::Object(mut figures)) = serde_json::to_value(&stats) else { return None };
        figures.insert("host_id".into(), host.id.clone().into());
        let job = jobs.get(&stats.job_id).map(|active| &active.job);
        for (name, key) in OWNER {
            if let Some(value) = job.map(|job| job.meta(key)).filter(|value| !value.is_empty()) {
                figures.insert(name.into(), value.into());
            }
        }
        Some(figures)
    });
    Ok(jobs.collect())
}
