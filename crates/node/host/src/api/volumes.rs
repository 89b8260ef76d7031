//! `/storage/…` (spec flynn-host section 11.5).

use std::sync::Arc;

use axum::Json as Answer;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use flynn_http::{Client, Failure, Json, path_segment};
use flynn_types::error::{ApiError, ErrorCode};
use flynn_types::host::{ProviderSpec, PullCoordinate, SNAPSHOT_STREAM_MIME, SnapshotHave, VolumeInfo};
use flynn_volume::GcPolicy;
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio_stream::wrappers::BroadcastStream;
use tokio_util::io::{ReaderStream, StreamReader};

use super::error::failure;
use crate::host::Host;

/// Buffer between a volume and the network, in bytes.
const SEND_BUFFER: usize = 256 << 10;

fn unknown(id: &str) -> Failure {
    ApiError::object_not_found(format!("no volume with id {id:?}")).into()
}

/// Providers are the daemon's choice; one that exists already is named as such.
pub(super) async fn add_provider(
    State(host): State<Arc<Host>>,
    Json(spec): Json<ProviderSpec>,
) -> Result<Answer<ProviderSpec>, Failure> {
    if spec.kind.is_empty() {
        return Err(ApiError::validation("", "kind must not be blank").into());
    }
    let providers = host.runner().volumes.providers();
    if providers.iter().any(|(id, _)| *id == spec.id) {
        let text = format!("provider {:?} already exists", spec.id);
        return Err(ApiError::new(ErrorCode::ObjectExists, text).into());
    }
    if matches!(spec.kind.as_str(), "zfs" | "dir") {
        let text = format!("kind {:?} is set up by the daemon's flags and cannot be added to a running one", spec.kind);
        return Err(ApiError::validation("", &text).into());
    }
    Err(ApiError::validation("", &format!("kind {:?} is not known", spec.kind)).into())
}

/// The body may be absent.
pub(super) async fn create(
    State(host): State<Arc<Host>>,
    Path(provider): Path<String>,
    body: Bytes,
) -> Result<Answer<VolumeInfo>, Failure> {
    let info = if body.is_empty() {
        VolumeInfo::default()
    } else {
        serde_json::from_slice(&body).map_err(|_| ApiError::syntax())?
    };
    host.runner().volumes.create(info, &provider).await.map(Answer).map_err(failure)
}

pub(super) async fn list(State(host): State<Arc<Host>>, headers: HeaderMap) -> Response {
    if flynn_http::wants_events(&headers) {
        return flynn_http::sse(
            BroadcastStream::new(host.runner().volumes.events()).map_err(|lagged| lagged.to_string()),
        );
    }
    Answer(host.runner().volumes.list()).into_response()
}

pub(super) async fn get(State(host): State<Arc<Host>>, Path(id): Path<String>) -> Result<Answer<VolumeInfo>, Failure> {
    host.runner().volumes.get(&id).map(Answer).ok_or_else(|| unknown(&id))
}

pub(super) async fn destroy(State(host): State<Arc<Host>>, Path(id): Path<String>) -> Result<(), Failure> {
    if let Some(job) = host.runner().book.user_of_volume(&id) {
        return Err(ApiError::conflict(format!("volume {id} is used by job {job}")).into());
    }
    host.runner().volumes.destroy(&id).await.map_err(failure)
}

pub(super) async fn snapshot(
    State(host): State<Arc<Host>>,
    Path(id): Path<String>,
) -> Result<Answer<VolumeInfo>, Failure> {
    host.runner().volumes.snapshot(&id).await.map(Answer).map_err(failure)
}

/// Fetches a snapshot from another host into the volume.
pub(super) async fn pull_snapshot(
    State(host): State<Arc<Host>>,
    Path(id): Path<String>,
    Json(from): Json<PullCoordinate>,
) -> Result<Answer<VolumeInfo>, Failure> {
    let volumes = &host.runner().volumes;
    let haves = volumes.haves(&id).map_err(failure)?;
    let peers = host.peers().ok_or_else(|| ApiError::unavailable("cluster client is not configured"))?;
    let url = peers.host_url(&from.host_id).await.map_err(ApiError::unavailable)?;
    let url =
        url.ok_or_else(|| ApiError::object_not_found(format!("no host with id {:?} is registered", from.host_id)))?;
    let mut client = Client::new(&url);
    if let Some(key) = host.auth_key() {
        client = client.with_basic_auth(key);
    }
    let path = format!("/storage/volumes/{}/send", path_segment(&from.snapshot_id));
    let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(SNAPSHOT_STREAM_MIME))]);
    let download = client.open_with(&path, &headers, &haves).await.map_err(|err| {
        let text = format!("fetch snapshot {} from host {}: {err}", from.snapshot_id, from.host_id);
        match err.status() {
            Some(404) => ApiError::object_not_found(text),
            Some(400..500) => ApiError::conflict(text),
            _ => ApiError::unavailable(text),
        }
    })?;
    let stream = StreamReader::new(download.bytes.map_err(std::io::Error::other));
    volumes.receive(&id, stream).await.map(Answer).map_err(failure)
}

pub(super) async fn send(
    State(host): State<Arc<Host>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if !accepts.contains(SNAPSHOT_STREAM_MIME) {
        let text = format!("must be prepared to accept a content type of {SNAPSHOT_STREAM_MIME:?}");
        return Err(ApiError::validation("", &text).into());
    }
    let haves: Vec<SnapshotHave> =
        if body.is_empty() { Vec::new() } else { serde_json::from_slice(&body).map_err(|_| ApiError::syntax())? };
    let record = host.runner().volumes.record(&id).ok_or_else(|| unknown(&id))?;
    if record.snapshot.is_none() {
        return Err(ApiError::validation("", "can only send a snapshot").into());
    }
    let (reader, writer) = tokio::io::duplex(SEND_BUFFER);
    let volumes = host.runner().volumes.clone();
    let (failure, failed) = tokio::sync::oneshot::channel();
    // Ends when the stream is complete or the receiver is gone.
    host.runner().tasks.spawn(host.runner().leaving.clone().run_until_cancelled_owned(async move {
        if let Err(err) = volumes.send(&id, &haves, writer).await {
            tracing::warn!(volume_id = id, err = &err as &dyn std::error::Error, "snapshot could not be sent");
            let _ = failure.send(std::io::Error::other(err)); // the receiver may be gone
        }
    }));
    // A stream that broke on our side must not look complete: it ends with an error.
    let end = futures_util::stream::once(failed).filter_map(|failed| std::future::ready(failed.ok().map(Err)));
    let content = ReaderStream::with_capacity(reader, SEND_BUFFER).chain(end);
    let content_type = [(header::CONTENT_TYPE, SNAPSHOT_STREAM_MIME)];
    Ok((content_type, Body::from_stream(content)).into_response())
}

/// Removes layers that no job uses and that are not kept; data volumes stay.
pub(super) async fn collect_garbage(State(host): State<Arc<Host>>) -> Answer<Vec<VolumeInfo>> {
    Answer(host.runner().volumes.collect_garbage(&GcPolicy::everything_unused()).await.removed)
}
