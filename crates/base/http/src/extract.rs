//! JSON request bodies.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::{FromRequest, Request};
use axum::http::header;
use bytes::Bytes;
use flynn_types::error::{ApiError, ErrorCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use crate::Failure;

/// Longest JSON body in bytes.
pub const MAX_BODY: usize = 10 << 20;
/// Longest time that a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// A JSON body. Whatever is wrong with it is a 400 with the texts that clients know.
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> Json<T> {
    /// Reads and parses the body.
    pub async fn read(request: Request) -> Result<Self, Failure> {
        Self::read_limited(request, MAX_BODY).await
    }

    /// Like [`Json::read`] with another limit in bytes.
    pub async fn read_limited(request: Request, limit: usize) -> Result<Self, Failure> {
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if !content_type.is_some_and(|value| value.contains("application/json")) {
            return Err(ApiError::validation("", "Content-Type must be application/json").into());
        }
        Self::read_untyped(request, limit).await
    }

    /// For the endpoints that never looked at the content type.
    pub async fn read_untyped(request: Request, limit: usize) -> Result<Self, Failure> {
        let bytes = read_body(request.into_body(), limit).await?;
        // Whatever follows the first value is left alone, as Go's decoders do.
        let first = serde_json::Deserializer::from_slice(&bytes).into_iter().next();
        match first {
            Some(Ok(value)) => Ok(Self(value)),
            Some(Err(err)) => {
                tracing::debug!(%err, "request body is not the JSON that was expected");
                Err(ApiError::syntax().into())
            }
            None => Err(ApiError::syntax().into()),
        }
    }
}

async fn read_body(body: Body, limit: usize) -> Result<Bytes, Failure> {
    let too_big = || ApiError::new(ErrorCode::BodyTooBig, format!("the request body is longer than {limit} bytes"));
    if body.size_hint().lower() > limit as u64 {
        return Err(too_big().into());
    }
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(err)) if err.is::<LengthLimitError>() => Err(too_big().into()),
        Ok(Err(_)) | Err(_) => Err(ApiError::syntax().into()), // cut off
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        Self::read(request).await
    }
}
