//! Request bodies.

use std::time::Duration;

use bytes::Bytes;
use flynn_types::error::{ApiError, ErrorCode};
use http::{HeaderMap, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

/// Longest body of a client's request in bytes.
pub(super) const MAX_BODY: usize = 1 << 20;
/// Longest metadata document in bytes.
pub(super) const MAX_META: usize = 512 << 10;
/// Longest message of another node in bytes.
pub(super) const MAX_MESSAGE: usize = 64 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if content_type.is_some_and(|value| value.contains("application/json")) {
        return Ok(());
    }
    Err(ApiError::validation("", "Content-Type must be application/json"))
}

pub(super) async fn read(body: Incoming, limit: usize) -> Result<Bytes, ApiError> {
    match tokio::time::timeout(PATIENCE, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(err)) if err.is::<LengthLimitError>() => {
            let message = format!("the request body is longer than {limit} bytes");
            Err(ApiError::new(ErrorCode::BodyTooBig, message))
        }
        Ok(Err(_)) | Err(_) => Err(ApiError::syntax()), // cut off
    }
}

pub(super) async fn json<T: DeserializeOwned>(body: Incoming) -> Result<T, ApiError> {
    let bytes = read(body, MAX_BODY).await?;
    serde_json::from_slice(&bytes).map_err(|_| ApiError::syntax())
}
