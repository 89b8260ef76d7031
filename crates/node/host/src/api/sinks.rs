//! `/sinks`

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::{Path, State};
use flynn_http::{Failure, Json};
use flynn_logmux::SinkStatus;
use flynn_types::error::ApiError;
use flynn_types::host::{SinkInfo, SinkKind};

use super::error::failure;
use crate::host::Host;

pub(super) async fn list(State(host): State<Arc<Host>>) -> Answer<Vec<SinkStatus>> {
    Answer(host.runner().logs.sinks())
}

/// Adds a sink, or gives an existing one its changed configuration.
pub(super) async fn add(
    State(host): State<Arc<Host>>,
    Path(id): Path<String>,
    Json(mut sink): Json<SinkInfo>,
) -> Result<Answer<SinkInfo>, Failure> {
    if let SinkKind::Other(_) | SinkKind::Unset = sink.kind {
        return Err(ApiError::validation("", &format!("unknown sink kind: {:?}", sink.kind.as_str())).into());
    }
    sink.id = id;
    host.runner().logs.add_sink(sink.clone()).await.map_err(failure)?;
    Ok(Answer(sink))
}

pub(super) async fn remove(
    State(host): State<Arc<Host>>,
    Path(id): Path<String>,
) -> Result<Answer<serde_json::Value>, Failure> {
    if !host.runner().logs.remove_sink(&id).await {
        return Err(ApiError::object_not_found("sink with that id couldn't be found").into());
    }
    Ok(Answer(serde_json::json!({})))
}
