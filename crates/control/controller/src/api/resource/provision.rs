//! Making and unmaking resources at their provider (C2 to C4).

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use flynn_http::{Client, ClientError};
use flynn_types::controller::{EventType, Provider, Resource, ResourceReq};
use flynn_types::error::ApiError;
use http::Method;
use serde::Deserialize;
use serde_json::json;
use tracing::{error, warn};
use uuid::Uuid;

use super::{apps, config, emit, store as store_resource};
use crate::error::{Error, Result};
use crate::input::Input;
use crate::shared::Shared;
use crate::store;

/// Longest that a provider may take: databases start in it.
const PATIENCE: Duration = Duration::from_secs(300);

/// A provider's answer.
#[derive(Deserialize)]
struct Provisioned {
    id: String,
    #[serde(default)]
    env: Option<BTreeMap<String, String>>,
}

fn client(provider: &Provider) -> Client {
    Client::new(&provider.url).with_timeout(PATIENCE)
}

/// Providers' own words are for whoever asked for the resource.
fn refused(provider: &Provider, error: &ClientError) -> Error {
    let detail = match error {
        ClientError::Status { status, error } => json!({ "status": status, "message": error.message }),
        other => json!({ "message": other.to_string() }),
    };
    ApiError::internal(format!("provider {} failed: {error}", provider.name)).with_detail(detail).into()
}

pub(super) async fn provision(
    State(shared): State<Shared>,
    Path(provider): Path<String>,
    Input(request): Input<ResourceReq>,
) -> Result<Json<Resource>> {
    let mut change = shared.change().await?;
    let provider = store::resource::get_provider(change.sql(), &provider).await?;
    // Whatever may be wrong is looked at before something is made that would have to be unmade.
    apps(&mut change, &request.apps).await?;
    drop(change);
    let work = shared.clone();
    // To the end, also when the client does not wait: what was made must be recorded or unmade.
    shared.finish(async move { make(&work, provider, request).await }).await.map(Json)
}

async fn make(shared: &Shared, provider: Provider, request: ResourceReq) -> Result<Resource> {
    let made = client(&provider).send_json::<_, Provisioned>(Method::POST, "", &config(&request)).await;
    let made = made.map_err(|err| refused(&provider, &err))?;
    let resource = Resource { external_id: made.id, env: made.env.unwrap_or_default(), ..Resource::default() };
    match record(shared, &provider, &resource, &request.apps).await {
        Ok(stored) => Ok(stored),
        Err(err) => {
            warn!(%err, provider = provider.name, "a resource was made and cannot be recorded");
            if let Err(err) = unmake(&provider, &resource.external_id).await {
                error!(%err, external_id = resource.external_id, "a resource stays that nobody knows");
            }
            Err(err)
        }
    }
}

async fn record(shared: &Shared, provider: &Provider, resource: &Resource, references: &[String]) -> Result<Resource> {
    let mut change = shared.change().await?;
    let apps = apps(&mut change, references).await?;
    let stored = store_resource(&mut change, Uuid::new_v4(), provider, resource, &apps).await?;
    change.commit().await?;
    Ok(stored)
}

/// One that is gone already is fine.
async fn unmake(provider: &Provider, external_id: &str) -> Result<(), ClientError> {
    let query: String = url::form_urlencoded::byte_serialize(external_id.as_bytes()).collect();
    match client(provider).send(Method::DELETE, &format!("?id={query}")).await {
        Err(err) if err.is_not_found() => Ok(()),
        unmade => unmade,
    }
}

pub(super) async fn deprovision(
    State(shared): State<Shared>,
    Path((provider, id)): Path<(String, String)>,
) -> Result<Json<Resource>> {
    let mut sql = shared.sql().await?;
    let provider = store::resource::get_provider(&mut sql, &provider).await?;
    let resource = store::resource::get(&mut sql, store::id(&id)?).await?;
    drop(sql);
    if resource.provider_id != provider.id {
        return Err(Error::NotFound);
    }
    let work = shared.clone();
    let removed = async move {
        unmake(&provider, &resource.external_id).await.map_err(|err| refused(&provider, &err))?;
        let mut change = work.change().await?;
        store::resource::delete(change.sql(), store::id(&resource.id)?).await?;
        emit(&mut change, EventType::ResourceDeletion, &resource, &resource.apps);
        change.commit().await?;
        Ok(resource)
    };
    shared.finish(removed).await.map(Json)
}
