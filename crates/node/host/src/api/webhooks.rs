//! `/host/webhooks`

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::{Path, State};
use chrono::Utc;
use flynn_http::{Failure, Json};
use flynn_types::error::ApiError;
use flynn_types::host::Webhook;

use super::error::failure;
use crate::host::Host;

/// Each gets every event, one after the other.
const MAX_WEBHOOKS: usize = 32;

pub(super) async fn list(State(host): State<Arc<Host>>) -> Answer<Vec<Webhook>> {
    Answer(host.settings().get().webhooks.clone())
}

/// A webhook with the id of an existing one replaces it.
pub(super) async fn add(
    State(host): State<Arc<Host>>,
    Json(mut webhook): Json<Webhook>,
) -> Result<Answer<Webhook>, Failure> {
    if webhook.url.is_empty() {
        return Err(ApiError::validation("url", "url is required").into());
    }
    if !url::Url::parse(&webhook.url).is_ok_and(|url| matches!(url.scheme(), "http" | "https")) {
        return Err(ApiError::validation("url", "must be an http or https URL").into());
    }
    if webhook.id.is_empty() {
        webhook.id = uuid::Uuid::new_v4().to_string();
    }
    if !flynn_types::id::is_path_safe(&webhook.id) {
        return Err(ApiError::validation("id", "must match [A-Za-z0-9][A-Za-z0-9_.-]{0,127}").into());
    }
    let others = host.settings().get().webhooks.iter().filter(|other| other.id != webhook.id).count();
    if others >= MAX_WEBHOOKS {
        return Err(
            ApiError::conflict(format!("this host has {MAX_WEBHOOKS} webhooks already, which is the most")).into()
        );
    }
    webhook.created_at = Utc::now().into();
    let added = webhook.clone();
    host.change_settings(|settings| {
        settings.webhooks.retain(|other| other.id != added.id);
        settings.webhooks.push(added);
    })
    .await
    .map_err(failure)?;
    Ok(Answer(webhook))
}

pub(super) async fn remove(State(host): State<Arc<Host>>, Path(id): Path<String>) -> Result<(), Failure> {
    host.change_settings(|settings| settings.webhooks.retain(|webhook| webhook.id != id)).await.map_err(failure)
}
